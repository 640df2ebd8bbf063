/*
 * Calls about jobs whose home is another node. A client may ask any node about any job:
 *
 *     client -> node it can reach -- ASK {"op": "where"} --> all members that are up
 *                                 -- ASK {"op": "watch"} --> the job's home -- ANSWER, ANSWER, ... --> and back
 *
 * Where a job lives is asked of everybody, WAVE_NODES at a time, and not looked up: who is its home says so, who
 * keeps a copy of its journal says that, and a home that is lost is found again once another has taken over. A call that
 * waits for news (watch, logs -f) goes on there by itself. When the home of a finished job is lost, one of those that
 * keep its journal puts the outputs together anew.
 *
 * A node believes another what its client's tenant is only as far as its own site's jobs go: see may_cancel.
 */
#include "node/relay_internal.h"

#define PAUSE_MS 500    /* between two searches while nobody is the home */
#define GIVE_UP_MS 8000 /* of a call that wants one answer: a cut-off side says so within 10 s */
#define GIVE_UP_STREAM_MS (10 * 60 * 1000)
#define ANSWER_TIMEOUT_MS 10000
#define LOOK_EVERY_MS 500
#define RELAYS_MAX 256

/* ---- Asking */

bool relay_ask(struct node *node, const struct relay *relay, const struct mesh_id *to, const json_t *body)
{
    return calls_send(node, to, relay->request, body);
}

void relay_free(struct node *node, struct relay *relay)
{
    struct relay **link = &node->relays;
    while (*link != relay)
        link = &(*link)->next;
    *link = relay->next;
    node->relay_count--;
    json_decref(relay->body);
    json_decref(relay->rows);
    json_decref(relay->lost);
    json_decref(relay->bar);
    free(relay);
}

static void fail(struct node *node, struct relay *relay, enum exit_code code, const char *text)
{
    struct api_call *call = relay->call;
    relay_free(node, relay);
    if (call)
        api_error(call, code, "%s", text);
}

/* Asks the next members. False: there are none left. */
bool relay_next_wave(struct node *node, struct relay *relay)
{
    json_t *question = relay->phase == GATHERING ? json_incref(relay->body)
                                                 : json_pack("{s:s, s:s, s:b}", "op", "where", "job",
                                                             relay->text, "claim", relay->claims);
    relay->request = calls_request(node);
    relay->waiting = 0;
    memset(relay->teller, 0, sizeof relay->teller);
    relay->until_ms = clock_now_ms() + WAVE_TIMEOUT_MS;
    const bool late = relay->phase == GATHERING && clock_now_ms() >= relay->give_up_at_ms;
    struct mesh_member_view view;
    for (; relay->waiting < WAVE_NODES && mesh_member_view(node->host.mesh, relay->next_member, &view);
         relay->next_member++)
        if (!view.self && view.state <= MESH_SUSPECT && !late && relay_ask(node, relay, &view.id, question))
            relay->teller[relay->waiting++] = (struct teller){.id = view.id, .waiting = true};
        else if (!view.self && view.state <= MESH_DOWN)
            relay->silent++;
    json_decref(question);
    return relay->waiting > 0;
}

/* ---- Where a job is */

void relay_note(struct relay *relay, const struct mesh_id *from, const json_t *row)
{
    struct mesh_id job;
    if (relay->found_count == FOUND_MAX || !id_from_hex(json_string_value(json_object_get(row, "id")), &job))
        return;
    struct found *found = &relay->found[relay->found_count++];
    *found = (struct found){.job = job,
                            .node = *from,
                            .epoch = (uint64_t)json_integer_value(json_object_get(row, "epoch")),
                            .home = json_is_true(json_object_get(row, "home")),
                            .over = json_is_true(json_object_get(row, "over")),
                            .created_at_ms = json_integer_value(json_object_get(row, "created_at"))};
}

static bool begins_so(const struct mesh_id *id, const char *text)
{
    char hex[65];
    hex_encode(id->bytes, sizeof id->bytes, hex);
    return strncmp(hex, text, strlen(text)) == 0;
}

/*
 * What this node says to the question. A job that is being submitted here, and whose own claim is not answered yet, gives
 * way to a claim from a lower id.
 */
static json_t *where_json(struct node *node, const char *text, const struct mesh_id *claimant)
{
    json_t *rows = json_array();
    struct mesh_id whole = {0};
    const bool exact = id_from_hex(text, &whole); /* as programs name it: there are many jobs */
    struct job *first = exact ? jobs_find(node, &whole) : node->jobs.head;
    for (struct job *job = first; job && json_array_size(rows) < FOUND_MAX; job = exact ? NULL : job->next) {
        if (!exact && !begins_so(&job->spec.id, text))
            continue;
        if (claimant && job->undecided && memcmp(claimant, &node->self, sizeof *claimant) < 0) {
            job->yields = true;
            continue;
        }
        json_t *row = json_pack("{s:b, s:b, s:I, s:I}", "home", 1, "over", 0, "epoch", (json_int_t)job->epoch,
                                "created_at", (json_int_t)job->spec.created_at_ms);
        json_put(row, "id", json_hex(job->spec.id.bytes, 32));
        json_array_append_new(rows, row);
    }
    for (uint32_t b = 0; b < (exact ? 1 : JOBS_BUCKETS); b++)
        for (const struct copy *copy = exact ? copies_find(node, &whole) : node->copies.bucket[b];
             copy && json_array_size(rows) < FOUND_MAX; copy = exact ? NULL : copy->chain) {
            if ((!exact && !begins_so(&copy->job, text)) || jobs_find(node, &copy->job))
                continue;
            if (copy->last == 0) /* it promised a vote, and nothing came */
                continue;
            if (!claimant && copy->over && !jobs_tell(node, copy))
                continue;
            json_t *row = json_pack("{s:b, s:b, s:I}", "home", 0, "over", copy->over, "epoch",
                                    (json_int_t)copy->last_epoch);
            json_put(row, "id", json_hex(copy->job.bytes, 32));
            json_array_append_new(rows, row);
        }
    return rows;
}

void op_where(void *context, struct api_call *call)
{
    struct node *node = context;
    const char *text = body_text(call, "job");
    struct mesh_id claimant;
    const bool claims =
        json_is_true(json_object_get(api_body(call), "claim")) && calls_asker(call, &claimant);
    if (!text || !text[0]) {
        api_error(call, EXIT_USAGE, "a job is named by its 64 hex digits, or the first of them");
        return;
    }
    json_t *const reply = json_pack("{s:o}", "jobs", where_json(node, text, claims ? &claimant : NULL));
    struct key_home home;
    struct mesh_id job;
    if (claims && id_from_hex(text, &job) && keys_find(node, &job, &home))
        keys_put(reply, "registered", &home);
    api_reply(call, reply);
}

/* ---- Passing on */

void relay_pause(struct relay *relay)
{
    relay->phase = PAUSING;
    relay->until_ms = clock_now_ms() + PAUSE_MS;
}

/* The client's call is ours to answer after all. */
static void answer_here(struct node *node, struct relay *relay)
{
    struct api_call *call = relay->call;
    relay_free(node, relay);
    api_again(call);
}

static void pass_on(struct node *node, struct relay *relay, const struct found *found)
{
    if (relay_same(&found->node, &node->self)) {
        if (!found->home)
            jobs_revive(node, &found->job);
        answer_here(node, relay);
        return;
    }
    struct mesh_member_view view;
    char hex[65];
    hex_encode(found->job.bytes, sizeof found->job.bytes, hex);
    json_put(relay->body, "job", json_string(hex));
    if (!found->home)
        json_put(relay->body, "revive", json_true());
    relay->phase = PASSED_ON;
    relay->request = calls_request(node);
    relay->target = found->node;
    relay->session = mesh_member_find(node->host.mesh, &found->node, &view) ? view.session : 0;
    relay->until_ms = clock_now_ms() + (relay->streams ? LOOK_EVERY_MS : ANSWER_TIMEOUT_MS);
    if (!relay_ask(node, relay, &found->node, relay->body))
        relay_pause(relay);
}

/*
 * The home with the latest epoch; else whoever keeps a job that is over. NULL: a job whose home is lost, or none. Of two
 * jobs of one key the one at the lower id, so that all nodes tell of the same.
 */
static const struct found *best_of(const struct relay *relay)
{
    const struct found *best = NULL;
    for (uint32_t i = 0; i < relay->found_count; i++) {
        const struct found *found = &relay->found[i];
        if (!found->home && !found->over)
            continue;
        if (!best || found->home > best->home ||
            (found->home == best->home &&
             (found->epoch > best->epoch ||
              (found->epoch == best->epoch && memcmp(&found->node, &best->node, sizeof best->node) < 0))))
            best = found;
    }
    return best;
}

/* Who brought the outputs of a finished job back is a home of it, too. */
static bool is_same_job(const struct found *one, const struct found *other)
{
    return one->created_at_ms != 0 && one->created_at_ms == other->created_at_ms;
}

/* Two homes that reign in the same epoch: a registrar of their key forgot it (keys.h), or never knew. */
static void tell_of_twins(struct node *node, const struct relay *relay, const struct found *best)
{
    for (uint32_t i = 0; i < relay->found_count; i++) {
        const struct found *found = &relay->found[i];
        if (found != best && found->home && best->home && found->epoch == best->epoch &&
            !is_same_job(found, best))
            log_warn(
                "job",
                "job=%s home=%s also_at=%s reason=\"two jobs of one key: each has its own home and journal, "
                "and the first of these is told of\"",
                peer_name(node, &best->job), peer_name(node, &best->node), peer_name(node, &found->node));
    }
}

void relay_end_claim(struct node *node, struct relay *relay)
{
    const struct mesh_id job = relay->job;
    const bool taken = relay->found_count > 0;
    relay_free(node, relay);
    jobs_claimed(node, &job, taken);
}

static void located(struct node *node, struct relay *relay)
{
    if (relay->claims) {
        claim_go_on(node, relay);
        return;
    }
    json_t *own = where_json(node, relay->text, NULL);
    size_t i;
    const json_t *row;
    json_array_foreach(own, i, row) relay_note(relay, &node->self, row);
    json_decref(own);
    char text[400];
    for (uint32_t f = 1; f < relay->found_count; f++)
        if (!relay_same(&relay->found[f].job, &relay->found[0].job)) {
            snprintf(text, sizeof text, "'%.64s' fits several jobs; give more of the id", relay->text);
            fail(node, relay, EXIT_USAGE, text);
            return;
        }
    const struct found *best = best_of(relay);
    const bool late = clock_now_ms() >= relay->give_up_at_ms;
    if (best) {
        tell_of_twins(node, relay, best);
        pass_on(node, relay, best);
    } else if (relay->found_count == 0 && (!relay->streams || !relay->session || late)) {
        char away[AWAY_TEXT_BYTES];
        const bool may_be = away_may_have_it(node, away);
        snprintf(text, sizeof text,
                 "no job '%.64s' at %s or any node that it reaches%s; `weir jobs --mesh` lists all jobs",
                 relay->text, peer_name(node, &node->self), away);
        fail(node, relay, may_be ? EXIT_PARTIAL : EXIT_NONE, text);
    } else {
        snprintf(text, sizeof text,
                 "job %.8s is stalled: its home is out of reach of %s, where %u of those that keep its "
                 "journal are; "
                 "it goes on by itself once a majority of them meet",
                 relay->text, peer_name(node, &node->self), relay->found_count);
        if (late) {
            fail(node, relay, EXIT_PARTIAL, text);
            return;
        }
        if (!relay->told && clock_now_ms() >= relay->note_at_ms) {
            relay->told = true;
            api_more(relay->call, json_pack("{s:s}", "note", text));
        }
        relay_pause(relay);
    }
}

void relay_locate(struct node *node, struct relay *relay)
{
    relay->phase = LOCATING;
    relay->found_count = 0;
    relay->next_member = 0;
    if (relay->claims)
        claim_choose_registrars(node, relay);
    if (!relay_next_wave(node, relay))
        located(node, relay);
}

static void wave_done(struct node *node, struct relay *relay)
{
    relay->silent += relay->waiting;
    if (relay_next_wave(node, relay))
        return;
    if (relay->phase == GATHERING)
        gather_end(node, relay);
    else
        located(node, relay);
}

/* The home is lost, or is the home no more. */
static void lose(struct node *node, struct relay *relay)
{
    relay->give_up_at_ms = clock_now_ms() + (relay->streams ? GIVE_UP_STREAM_MS : GIVE_UP_MS);
    relay->note_at_ms = clock_now_ms() + GIVE_UP_MS;
    relay->told = false;
    relay_locate(node, relay);
}

/* ---- Answers */

static void on_found(struct node *node, struct relay *relay, const struct mesh_id *from, const json_t *answer)
{
    size_t i;
    const json_t *row;
    struct key_home home;
    if (relay->phase == GATHERING) {
        gather_on_page(node, relay, from, answer);
    } else {
        relay->waiting--;
        if (relay->claims && json_is_true(json_object_get(answer, "ok")))
            claim_note_registrar(relay, from);
        if (relay->claims && keys_get(answer, "registered", &home))
            claim_note_holder(node, relay, &home);
        json_array_foreach(json_object_get(answer, "jobs"), i, row) relay_note(relay, from, row);
    }
    if (relay->waiting == 0)
        wave_done(node, relay);
}

static void on_passed_back(struct node *node, struct relay *relay, json_t *answer, bool final)
{
    struct api_call *call = relay->call;
    if (!final) {
        api_more(call, json_incref(answer));
        return;
    }
    if (json_is_true(json_object_get(answer, "ok"))) {
        relay_free(node, relay);
        api_reply(call, json_incref(answer));
        return;
    }
    const int code = (int)json_integer_value(json_object_get(answer, "exit"));
    if (code == EXIT_UNREACHABLE || code == EXIT_NONE) { /* it is not the home any more */
        if (relay->streams || clock_now_ms() < relay->give_up_at_ms) {
            relay_pause(relay);
            return;
        }
    }
    const char *text = json_string_value(json_object_get(answer, "error"));
    char copy[500];
    snprintf(copy, sizeof copy, "%s", text ? text : "the job's home refused");
    fail(node, relay, code > 0 && code <= EXIT_PARTIAL ? (enum exit_code)code : EXIT_FAILED, copy);
}

void relay_on_answer(struct node *node, const struct mesh_id *from, uint64_t request, json_t *answer,
                     bool final)
{
    struct relay *relay = node->relays;
    while (relay && relay->request != request)
        relay = relay->next;
    if (!relay || relay->phase == PAUSING)
        return;
    if (relay->phase == PASSED_ON) {
        if (relay_same(from, &relay->target))
            on_passed_back(node, relay, answer, final);
    } else if (relay->waiting > 0) {
        if (relay->phase == REGISTERING)
            claim_on_registrar(node, relay, from, answer);
        else if (relay->phase == ASKING_HOLDER)
            claim_on_holder(node, relay, answer);
        else
            on_found(node, relay, from, answer);
    }
}

/* ---- Beginning */

static void relay_gone(void *context, struct api_call *call)
{
    struct node *node = context;
    for (struct relay *relay = node->relays; relay; relay = relay->next)
        if (relay->call == call) {
            if (relay->phase == PASSED_ON) {
                static struct wire_frame frame;
                frame.kind = WIRE_UNASK;
                frame.body.ask.request = relay->request;
                transport_send(node->transport, &relay->target, &frame);
            }
            relay_free(node, relay);
            return;
        }
}

struct relay *relay_make(struct node *node, struct api_call *call, const char *text)
{
    if (node->relay_count >= RELAYS_MAX) {
        if (call)
            api_error(call, EXIT_FAILED, "too many calls about jobs of other nodes at once; try again");
        return NULL;
    }
    struct relay *relay = calloc(1, sizeof *relay);
    must(relay);
    *relay = (struct relay){.next = node->relays, .call = call, .give_up_at_ms = clock_now_ms() + GIVE_UP_MS};
    snprintf(relay->text, sizeof relay->text, "%s", text);
    node->relays = relay;
    node->relay_count++;
    if (!call)
        return relay;
    relay->body = json_deep_copy(api_body(call));
    must(relay->body);
    json_put(relay->body, "tenant", json_string(api_tenant(call)));
    json_put(relay->body, "operate", json_boolean(api_may(call, API_OPERATE)));
    const char *op = body_text(call, "op");
    relay->streams = strcmp(op, "watch") == 0 || json_is_true(json_object_get(relay->body, "wait")) ||
                     (strcmp(op, "logs") == 0 && json_is_true(json_object_get(relay->body, "follow")));
    relay->note_at_ms = relay->give_up_at_ms;
    if (relay->streams)
        relay->give_up_at_ms = clock_now_ms() + GIVE_UP_STREAM_MS;
    api_on_gone(call, relay_gone, node);
    return relay;
}

void relay_job(struct node *node, struct api_call *call, const char *text)
{
    struct relay *relay = relay_make(node, call, text);
    if (relay)
        relay_locate(node, relay);
}

void relay_moved(struct node *node, struct api_call *call, const struct mesh_id *job)
{
    char hex[65];
    hex_encode(job->bytes, sizeof job->bytes, hex);
    struct relay *relay = relay_make(node, call, hex);
    if (!relay)
        return;
    relay->session = 1; /* it is known to be there */
    lose(node, relay);
}

void relay_accept(struct node *node, struct api_call *call, const struct job *job)
{
    const struct digest request = job_request(job), rows = job_rows(job);
    char hex[65];
    hex_encode(job->spec.id.bytes, sizeof job->spec.id.bytes, hex);
    struct relay *relay = relay_make(node, call, hex);
    if (!relay)
        return;
    json_decref(relay->body);
    relay->body = json_pack("{s:s, s:I}", "op", "accepted", "items", (json_int_t)job->spec.items);
    json_put(relay->body, "request", json_hex(request.bytes, sizeof request.bytes));
    json_put(relay->body, "rows", json_hex(rows.bytes, sizeof rows.bytes));
    relay_locate(node, relay);
}

/* ---- Time */

/* Whether the process that we asked is still there, as far as we can tell. */
static bool is_there(struct node *node, const struct mesh_id *id, uint64_t session)
{
    struct mesh_member_view view;
    return mesh_member_find(node->host.mesh, id, &view) && view.state <= MESH_SUSPECT &&
           view.session == session;
}

static void relay_tick(struct node *node, struct relay *relay, int64_t now_ms)
{
    if (relay->phase == PAUSING) {
        relay_locate(node, relay);
    } else if (relay->phase == REGISTERING) {
        claim_registered(node, relay);
    } else if (relay->phase == ASKING_HOLDER) {
        claim_doubt(node, relay);
    } else if (relay->phase != PASSED_ON) {
        wave_done(node, relay);
    } else if (relay->streams && is_there(node, &relay->target, relay->session)) {
        relay->until_ms = now_ms + LOOK_EVERY_MS;
    } else if (relay->streams || now_ms < relay->give_up_at_ms) {
        lose(node, relay);
    } else {
        fail(node, relay, EXIT_UNREACHABLE, "the job's home does not answer");
    }
}

int64_t relays_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct relay *relay = node->relays, *next; relay; relay = next) {
        next = relay->next;
        if (now_ms >= relay->until_ms) {
            relay_tick(node, relay, now_ms);
            return now_ms; /* the list may be another now */
        }
        wake_at_ms = relay->until_ms < wake_at_ms ? relay->until_ms : wake_at_ms;
    }
    return wake_at_ms;
}

/* The clients' calls are closed before. */
void relays_close(struct node *node)
{
    while (node->relays)
        relay_free(node, node->relays);
}
