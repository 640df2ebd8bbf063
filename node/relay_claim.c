/*
 * The question where a job is (relay.c), with a *claim*, makes a key that is submitted at two nodes at once one job: each of them asks the
 * other before it begins, and the one with the lower id goes on. Who hears of no such job registers with those that remember
 * where keys were submitted (keys.h), so that nodes that can't reach each other don't both take it: who is not registered by
 * a majority asks the one that was, and takes its place if that one says that it has no such job; otherwise it refuses.
 */
#include "node/relay_internal.h"

#include <sodium.h>
#include <stdio.h>

void claim_note_registrar(struct relay *relay, const struct mesh_id *from)
{
    for (uint32_t i = 0; i < relay->registrars; i++)
        if (relay_same(&relay->registrar[i], from))
            relay->reached |= 1u << i;
}

/* Versions that know no calls of other nodes can't be asked, and remember nothing. */
static void note_older_registrars(const struct node *node, struct relay *relay)
{
    struct mesh_member_view view;
    struct transport_protocol protocol;
    for (uint32_t i = 0; i < relay->registrars; i++) {
        transport_protocol(node->transport, &relay->registrar[i], &protocol);
        if (protocol.max != 0 && protocol.max < wire_kind_since(WIRE_ASK) &&
            mesh_member_find(node->host.mesh, &relay->registrar[i], &view) && view.state <= MESH_SUSPECT)
            relay->reached |= 1u << i;
    }
}

static bool has_majority(const struct relay *relay)
{
    return 2 * (uint32_t)__builtin_popcount(relay->reached) > relay->registrars;
}

/* Who has registered before us, and is not the one that said that it has no such job. */
void claim_note_holder(const struct node *node, struct relay *relay, const struct key_home *home)
{
    if (relay_same(&home->node, &node->self) ||
        (relay->replaces && relay_same(&home->node, &relay->instead.node) &&
         home->claim == relay->instead.claim))
        return;
    relay->held = true;
    relay->holder = *home;
}

/* They are among those that are asked where the job is. Unless a majority answers nothing is registered: who is cut off would
 * hold up the others with it. */
void claim_choose_registrars(struct node *node, struct relay *relay)
{
    struct key_home home;
    relay->registrars = keys_registrars(node, &relay->job, relay->registrar);
    relay->reached = 0;
    relay->held = relay->replaces = false;
    claim_note_registrar(relay, &node->self);
    note_older_registrars(node, relay);
    if (keys_find(node, &relay->job, &home))
        claim_note_holder(node, relay, &home);
}

/* Nobody has the job, as far as can be told, and it can't be told. */
void claim_doubt(struct node *node, struct relay *relay)
{
    char text[300];
    if (clock_now_ms() < relay->give_up_at_ms) {
        relay_pause(relay);
        return;
    }
    if (relay->held)
        snprintf(text, sizeof text,
                 "the job of this key may be at %s, which does not answer: submit it again when it does, or "
                 "under another key; if it is gone for good, revoke it",
                 peer_name(node, &relay->holder.node));
    else
        snprintf(
            text, sizeof text,
            "%d of the %u nodes that remember where this key was submitted answer and can write, which is no "
            "majority: submit it again when more do",
            __builtin_popcount(relay->reached), relay->registrars);
    const struct mesh_id job = relay->job;
    relay_free(node, relay);
    jobs_doubted(node, &job, text);
}

static void begin_question(struct node *node, struct relay *relay, enum phase phase)
{
    relay->phase = phase;
    relay->request = calls_request(node);
    relay->waiting = 0;
    relay->until_ms = clock_now_ms() + WAVE_TIMEOUT_MS;
}

static void ask_holder(struct node *node, struct relay *relay);

/* All registrars have answered, or have had their time. */
void claim_registered(struct node *node, struct relay *relay)
{
    if (has_majority(relay))
        relay_end_claim(node, relay);
    else if (relay->held)
        ask_holder(node, relay);
    else
        claim_doubt(node, relay);
}

static void register_key(struct node *node, struct relay *relay)
{
    const struct key_home own = {.node = node->self, .claim = relay->claim};
    json_t *const question = json_pack("{s:s, s:s}", "op", "register", "job", relay->text);
    keys_put(question, "home", &own);
    if (relay->replaces)
        keys_put(question, "instead", &relay->instead);
    begin_question(node, relay, REGISTERING);
    relay->reached = 0;
    relay->held = false;
    note_older_registrars(node, relay);
    for (uint32_t i = 0; i < relay->registrars; i++) {
        if (relay->reached >> i & 1)
            continue;
        if (!relay_same(&relay->registrar[i], &node->self)) {
            relay->waiting += relay_ask(node, relay, &relay->registrar[i], question);
            continue;
        }
        const struct key_home home =
            keys_register(node, &relay->job, &own, relay->replaces ? &relay->instead : NULL);
        claim_note_holder(node, relay, &home);
        relay->reached |= relay_same(&home.node, &node->self) ? 1u << i : 0;
    }
    json_decref(question);
    if (relay->waiting == 0)
        claim_registered(node, relay);
}

/* Two nodes that gave up may be registered at different registrars: each is asked in its turn. */
static void replace_holder(struct node *node, struct relay *relay)
{
    relay->replaces = true;
    relay->instead = relay->holder;
    register_key(node, relay);
}

/* A registrar of an earlier version knows no such call, and remembers nothing: it has said before that it knows of no job. */
void claim_on_registrar(struct node *node, struct relay *relay, const struct mesh_id *from,
                        const json_t *answer)
{
    struct key_home home;
    const bool named = keys_get(answer, "home", &home);
    const bool consents = named ? relay_same(&home.node, &node->self)
                                : json_integer_value(json_object_get(answer, "exit")) == EXIT_USAGE;
    relay->waiting--;
    if (consents)
        claim_note_registrar(relay, from);
    else if (named)
        claim_note_holder(node, relay, &home);
    if (relay->waiting == 0)
        claim_registered(node, relay);
}

/* Who is registered tells whether it has the job, or is about to. If it has none its place is free. */
void claim_on_holder(struct node *node, struct relay *relay, const json_t *answer)
{
    size_t i;
    const json_t *row;
    relay->waiting = 0;
    json_array_foreach(json_object_get(answer, "jobs"), i, row) relay_note(relay, &relay->holder.node, row);
    if (relay->found_count > 0) {
        relay_end_claim(node, relay);
    } else if (json_is_true(json_object_get(answer, "ok"))) {
        replace_holder(node, relay);
    } else {
        claim_doubt(node, relay);
    }
}

/* One that was revoked is not asked: its jobs are lost, or another's. Who has left may come back with them. */
static void ask_holder(struct node *node, struct relay *relay)
{
    struct mesh_member_view view;
    begin_question(node, relay, ASKING_HOLDER);
    if (mesh_member_find(node->host.mesh, &relay->holder.node, &view) && view.state == MESH_REVOKED) {
        replace_holder(node, relay);
        return;
    }
    json_t *const question = json_pack("{s:s, s:s, s:b}", "op", "where", "job", relay->text, "claim", 1);
    relay->waiting = relay_ask(node, relay, &relay->holder.node, question);
    json_decref(question);
    if (relay->waiting == 0)
        claim_doubt(node, relay);
}

void claim_go_on(struct node *node, struct relay *relay)
{
    if (relay->found_count > 0)
        relay_end_claim(node, relay);
    else if (!has_majority(relay))
        claim_doubt(node, relay);
    else if (relay->held)
        ask_holder(node, relay);
    else
        register_key(node, relay);
}

bool relay_claim(struct node *node, const struct mesh_id *job)
{
    char hex[65];
    hex_encode(job->bytes, sizeof job->bytes, hex);
    struct relay *relay = relay_make(node, NULL, hex);
    if (!relay)
        return false;
    relay->claims = true;
    relay->job = *job;
    randombytes_buf(&relay->claim, sizeof relay->claim);
    relay_locate(node, relay);
    return true;
}
