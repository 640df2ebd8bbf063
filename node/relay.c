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
 * The same question, with a *claim*, makes a key that is submitted at two nodes at once one job: each of them asks the
 * other before it begins, and the one with the lower id goes on. Who hears of no such job registers with those that remember
 * where keys were submitted (keys.h), so that nodes that can't reach each other don't both take it: who is not registered by
 * a majority asks the one that was, and takes its place if that one says that it has no such job; otherwise it refuses.
 *
 * A listing of all jobs takes them from each node page by page (node/ops_list.c): until it has told all, or as many as are
 * wanted, or of the rest none would be among the first. What is kept meanwhile is the first rows of all, and some more.
 *
 * A node believes another what its client's tenant is only as far as its own site's jobs go: see may_cancel.
 */
#include "node/calls.h"
#include "node/keys.h"
#include "node/log.h"
#include "node/ops.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define WAVE_NODES 32        /* asked at a time: links on demand are few */
#define WAVE_TIMEOUT_MS 1000 /* then without those that have not answered */
#define FOUND_MAX 8          /* answers that are told apart */
#define PAUSE_MS 500         /* between two searches while nobody is the home */
#define GIVE_UP_MS 8000      /* of a call that wants one answer: a cut-off side says so within 10 s */
#define GIVE_UP_STREAM_MS (10 * 60 * 1000)
#define ANSWER_TIMEOUT_MS 10000
#define LOOK_EVERY_MS 500
#define RELAYS_MAX 256
#define PAGE_ROWS 200         /* jobs that one member tells at once */
#define OLD_LOST_MAX 64       /* and lost ones that one tells in all that knows no pages */
#define GATHERINGS_MAX 8      /* listings of all jobs at once: each may hold some 40 MiB */
#define GATHER_MS 20000       /* then without those that are still telling: a client waits 30 s */
#define GATHER_MORE_ROWS 4096 /* beyond those that are wanted, before they are put in order and cut */

enum phase { LOCATING, PAUSING, PASSED_ON, GATHERING, REGISTERING, ASKING_HOLDER };

struct found {
    struct mesh_id job;
    struct mesh_id node;
    uint64_t epoch;
    bool home;             /* else it keeps a copy of the journal */
    bool over;             /* of a job that is over */
    int64_t created_at_ms; /* as a home tells; 0 = not told */
};

/* Whose pages are awaited. */
struct teller {
    struct mesh_id id;
    bool waiting;
    uint32_t rows, lost; /* told so far */
};

struct relay {
    struct relay *next;
    struct api_call *call; /* whose it is; NULL: a claim */
    json_t *body;          /* what is passed on */
    char text[65];         /* the job as the client named it */
    bool claims;
    struct mesh_id job;                           /* of a claim, and what follows */
    uint64_t claim;                               /* what ours is told apart by */
    struct mesh_id registrar[KEY_REGISTRARS_MAX]; /* in this try */
    uint32_t registrars;
    uint32_t reached;       /* bits of those that have answered, or registered us */
    bool held;              /* another is registered, */
    struct key_home holder; /* that one */
    bool replaces;          /* and this one has said in this try that it has no such job */
    struct key_home instead;
    bool streams; /* its client waits, however long it takes */
    bool told;    /* that nobody is the home now */
    int64_t note_at_ms;
    enum phase phase;
    uint64_t request;
    uint32_t next_member;
    uint32_t waiting; /* for so many answers of this wave */
    int64_t until_ms;
    int64_t give_up_at_ms;
    struct found found[FOUND_MAX];
    uint32_t found_count;
    struct mesh_id target; /* PASSED_ON */
    uint64_t session;
    struct teller teller[WAVE_NODES]; /* GATHERING */
    json_t *rows;
    json_t *lost;    /* jobs whose home did not answer, by those that keep their journals */
    json_t *bar;     /* a row after which no other is wanted; NULL = not known yet */
    uint32_t limit;  /* of rows */
    uint32_t silent; /* members that did not answer, or not to the end */
    bool more;       /* some were not told, and it is not known how many */
    int64_t total, matching;
};

static bool same(const struct mesh_id *a, const struct mesh_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- Asking */

static bool ask(struct node *node, const struct relay *relay, const struct mesh_id *to, const json_t *body)
{
    return calls_send(node, to, relay->request, body);
}

static void relay_free(struct node *node, struct relay *relay)
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
static bool next_wave(struct node *node, struct relay *relay)
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
        if (!view.self && view.state <= MESH_SUSPECT && !late && ask(node, relay, &view.id, question))
            relay->teller[relay->waiting++] = (struct teller){.id = view.id, .waiting = true};
        else if (!view.self && view.state <= MESH_DOWN)
            relay->silent++;
    json_decref(question);
    return relay->waiting > 0;
}

/* ---- Where a job is */

static void note(struct relay *relay, const struct mesh_id *from, const json_t *row)
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

static void pause_relay(struct relay *relay)
{
    relay->phase = PAUSING;
    relay->until_ms = clock_now_ms() + PAUSE_MS;
}

static void locate(struct node *node, struct relay *relay);

/* The client's call is ours to answer after all. */
static void answer_here(struct node *node, struct relay *relay)
{
    struct api_call *call = relay->call;
    relay_free(node, relay);
    api_again(call);
}

static void pass_on(struct node *node, struct relay *relay, const struct found *found)
{
    if (same(&found->node, &node->self)) {
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
    if (!ask(node, relay, &found->node, relay->body))
        pause_relay(relay);
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

static void end_claim(struct node *node, struct relay *relay)
{
    const struct mesh_id job = relay->job;
    const bool taken = relay->found_count > 0;
    relay_free(node, relay);
    jobs_claimed(node, &job, taken);
}

/* ---- Registering a key */

static void note_registrar(struct relay *relay, const struct mesh_id *from)
{
    for (uint32_t i = 0; i < relay->registrars; i++)
        if (same(&relay->registrar[i], from))
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
static void note_holder(const struct node *node, struct relay *relay, const struct key_home *home)
{
    if (same(&home->node, &node->self) ||
        (relay->replaces && same(&home->node, &relay->instead.node) && home->claim == relay->instead.claim))
        return;
    relay->held = true;
    relay->holder = *home;
}

/* They are among those that are asked where the job is. Unless a majority answers nothing is registered: who is cut off would
 * hold up the others with it. */
static void choose_registrars(struct node *node, struct relay *relay)
{
    struct key_home home;
    relay->registrars = keys_registrars(node, &relay->job, relay->registrar);
    relay->reached = 0;
    relay->held = relay->replaces = false;
    note_registrar(relay, &node->self);
    note_older_registrars(node, relay);
    if (keys_find(node, &relay->job, &home))
        note_holder(node, relay, &home);
}

/* Nobody has the job, as far as can be told, and it can't be told. */
static void doubt_claim(struct node *node, struct relay *relay)
{
    char text[300];
    if (clock_now_ms() < relay->give_up_at_ms) {
        pause_relay(relay);
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
static void registered(struct node *node, struct relay *relay)
{
    if (has_majority(relay))
        end_claim(node, relay);
    else if (relay->held)
        ask_holder(node, relay);
    else
        doubt_claim(node, relay);
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
        if (!same(&relay->registrar[i], &node->self)) {
            relay->waiting += ask(node, relay, &relay->registrar[i], question);
            continue;
        }
        const struct key_home home =
            keys_register(node, &relay->job, &own, relay->replaces ? &relay->instead : NULL);
        note_holder(node, relay, &home);
        relay->reached |= same(&home.node, &node->self) ? 1u << i : 0;
    }
    json_decref(question);
    if (relay->waiting == 0)
        registered(node, relay);
}

/* Two nodes that gave up may be registered at different registrars: each is asked in its turn. */
static void replace_holder(struct node *node, struct relay *relay)
{
    relay->replaces = true;
    relay->instead = relay->holder;
    register_key(node, relay);
}

/* A registrar of an earlier version knows no such call, and remembers nothing: it has said before that it knows of no job. */
static void on_registrar(struct node *node, struct relay *relay, const struct mesh_id *from,
                         const json_t *answer)
{
    struct key_home home;
    const bool named = keys_get(answer, "home", &home);
    const bool consents = named ? same(&home.node, &node->self)
                                : json_integer_value(json_object_get(answer, "exit")) == EXIT_USAGE;
    relay->waiting--;
    if (consents)
        note_registrar(relay, from);
    else if (named)
        note_holder(node, relay, &home);
    if (relay->waiting == 0)
        registered(node, relay);
}

/* Who is registered tells whether it has the job, or is about to. If it has none its place is free. */
static void on_holder(struct node *node, struct relay *relay, const json_t *answer)
{
    size_t i;
    const json_t *row;
    relay->waiting = 0;
    json_array_foreach(json_object_get(answer, "jobs"), i, row) note(relay, &relay->holder.node, row);
    if (relay->found_count > 0) {
        end_claim(node, relay);
    } else if (json_is_true(json_object_get(answer, "ok"))) {
        replace_holder(node, relay);
    } else {
        doubt_claim(node, relay);
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
    relay->waiting = ask(node, relay, &relay->holder.node, question);
    json_decref(question);
    if (relay->waiting == 0)
        doubt_claim(node, relay);
}

static void go_on_claiming(struct node *node, struct relay *relay)
{
    if (relay->found_count > 0)
        end_claim(node, relay);
    else if (!has_majority(relay))
        doubt_claim(node, relay);
    else if (relay->held)
        ask_holder(node, relay);
    else
        register_key(node, relay);
}

static void located(struct node *node, struct relay *relay)
{
    if (relay->claims) {
        go_on_claiming(node, relay);
        return;
    }
    json_t *own = where_json(node, relay->text, NULL);
    size_t i;
    const json_t *row;
    json_array_foreach(own, i, row) note(relay, &node->self, row);
    json_decref(own);
    char text[400];
    for (uint32_t f = 1; f < relay->found_count; f++)
        if (!same(&relay->found[f].job, &relay->found[0].job)) {
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
        snprintf(text, sizeof text,
                 "no job '%.64s' at %s or any node that it reaches; `weir jobs --mesh` lists all jobs",
                 relay->text, peer_name(node, &node->self));
        fail(node, relay, EXIT_NONE, text);
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
        pause_relay(relay);
    }
}

static void locate(struct node *node, struct relay *relay)
{
    relay->phase = LOCATING;
    relay->found_count = 0;
    relay->next_member = 0;
    if (relay->claims)
        choose_registrars(node, relay);
    if (!next_wave(node, relay))
        located(node, relay);
}

static const char *row_id(const json_t *row)
{
    return json_string_value(json_object_get(row, "id"));
}

/* ---- All jobs */

/* The unfinished first, then the newest, as one node lists its own. */
static int compare_rows(const void *a, const void *b)
{
    const json_t *const one = *(json_t *const *)a, *const other = *(json_t *const *)b;
    const int over = json_is_integer(json_object_get(one, "finished_at")),
              other_over = json_is_integer(json_object_get(other, "finished_at"));
    if (over != other_over)
        return over - other_over;
    const json_int_t at = json_integer_value(json_object_get(one, "created_at")),
                     other_at = json_integer_value(json_object_get(other, "created_at"));
    return at != other_at ? (at < other_at) - (at > other_at) : strcmp(row_id(one), row_id(other));
}

/* The first `limit` of the rows, in order. */
static void put_in_order(json_t **rows, uint32_t limit)
{
    const size_t count = json_array_size(*rows);
    const json_t **const ordered = must(calloc(count + 1, sizeof *ordered));
    for (size_t i = 0; i < count; i++)
        ordered[i] = json_array_get(*rows, i);
    qsort(ordered, count, sizeof *ordered, compare_rows);
    json_t *const first = json_array();
    for (size_t i = 0; i < count && i < limit; i++)
        json_array_append(first, (json_t *)ordered[i]);
    free(ordered);
    json_decref(*rows);
    *rows = first;
}

/*
 * What was told of before. Two homes tell of one job where another node put its outputs together anew and its home has come
 * back: it is one row, of the first, and counts once. One home tells of a job twice if it ended between two pages. Jobs
 * that were submitted twice under one key were made at different times, and stay two.
 */
static bool is_double(struct relay *relay, const json_t *row, const json_t *before)
{
    if (!before || json_integer_value(json_object_get(before, "created_at")) !=
                       json_integer_value(json_object_get(row, "created_at")))
        return false;
    if (!json_equal(json_object_get(before, "home"), json_object_get(row, "home"))) {
        relay->matching--;
        relay->total--;
    }
    return true;
}

/* Returns the rows by their ids; the caller's. */
static json_t *drop_doubles(struct relay *relay)
{
    json_t *const told = json_object(), *const once = json_array();
    size_t i;
    json_t *row;
    json_array_foreach(relay->rows, i, row)
    {
        if (is_double(relay, row, json_object_get(told, row_id(row))))
            continue;
        json_object_set(told, row_id(row), row);
        json_array_append(once, row);
    }
    json_decref(relay->rows);
    relay->rows = once;
    return told;
}

/* Those that keep a journal tell of it, each of them. */
static void drop_lost_doubles(struct relay *relay, json_t *told)
{
    json_t *const once = json_array();
    size_t i;
    json_t *row;
    json_array_foreach(relay->lost, i, row)
    {
        if (json_object_get(told, row_id(row)))
            continue;
        json_object_set(told, row_id(row), row);
        json_array_append(once, row);
    }
    json_decref(relay->lost);
    relay->lost = once;
}

/* Of a job that its home told of nothing else is said, and of others once. */
static void add_lost(struct relay *relay)
{
    json_t *const told = drop_doubles(relay);
    drop_lost_doubles(relay, told);
    json_decref(told);
    relay->matching += (int64_t)json_array_size(relay->lost);
    relay->total += (int64_t)json_array_size(relay->lost);
    json_array_extend(relay->rows, relay->lost);
}

/* So that no more is held than is wanted, and some: whatever is cut comes after what is. */
static void cut_rows(struct relay *relay)
{
    if (json_array_size(relay->rows) > relay->limit + GATHER_MORE_ROWS) {
        json_decref(drop_doubles(relay));
        put_in_order(&relay->rows, relay->limit);
        json_decref(relay->bar);
        relay->bar = json_incref(json_array_get(relay->rows, relay->limit - 1)); /* NULL: fewer are left */
    }
    if (json_array_size(relay->lost) > relay->limit + GATHER_MORE_ROWS) {
        json_t *const told = json_object();
        drop_lost_doubles(relay, told);
        json_decref(told);
        relay->more = relay->more || json_array_size(relay->lost) > relay->limit;
        put_in_order(&relay->lost, relay->limit);
    }
}

/* `left_out` is how many are known to match and not listed: at least one if some node was not asked for all it has. */
static void gathered(struct node *node, struct relay *relay)
{
    struct api_call *call = relay->call;
    add_lost(relay);
    put_in_order(&relay->rows, relay->limit);
    const json_int_t left_out = (json_int_t)relay->matching - (json_int_t)json_array_size(relay->rows);
    json_t *reply = json_pack("{s:O, s:I, s:I, s:I, s:I}", "jobs", relay->rows, "matching",
                              (json_int_t)relay->matching, "total", (json_int_t)relay->total, "left_out",
                              left_out > 0  ? left_out
                              : relay->more ? (json_int_t)1
                                            : (json_int_t)0,
                              "silent", (json_int_t)relay->silent);
    relay_free(node, relay);
    api_reply(call, reply);
}

/* Appends those that have an id; returns how many. */
static uint32_t append_rows(json_t *to, const json_t *rows)
{
    size_t i;
    json_t *row;
    uint32_t count = 0;
    json_array_foreach(rows, i, row)
    {
        if (row_id(row)) {
            json_array_append(to, row);
            count++;
        }
    }
    return count;
}

static void take_rows(struct relay *relay, const json_t *answer, struct teller *teller)
{
    if (teller->rows == 0 && teller->lost == 0) { /* later pages say it again */
        relay->total += json_integer_value(json_object_get(answer, "total"));
        relay->matching += json_integer_value(json_object_get(answer, "matching"));
    }
    teller->rows += append_rows(relay->rows, json_object_get(answer, "jobs"));
    teller->lost += append_rows(relay->lost, json_object_get(answer, "lost"));
    cut_rows(relay);
}

/* The place from which a member is to tell on; NULL: it has told enough. The caller's. */
static json_t *next_page(struct relay *relay, const struct teller *teller, const json_t *answer)
{
    const json_t *const rows = json_object_get(answer, "jobs"), *const lost = json_object_get(answer, "lost");
    const json_t *const last = json_array_get(rows, json_array_size(rows) - 1);
    json_t *const next = json_copy(json_object_get(answer, "next"));
    if (!json_object_get(answer, "next") && json_array_size(lost) >= OLD_LOST_MAX)
        relay->more = true;
    if (!json_is_object(next) || (json_array_size(rows) == 0 && json_array_size(lost) == 0)) {
        json_decref(next);
        return NULL;
    }
    const bool too_late = relay->bar && last && compare_rows(&last, &relay->bar) >= 0;
    if (teller->rows >= relay->limit || too_late)
        json_put(next, "jobs", json_true());
    if (teller->lost >= relay->limit && !json_is_true(json_object_get(next, "lost"))) {
        relay->more = true;
        json_put(next, "lost", json_true());
    }
    if (!json_is_true(json_object_get(next, "jobs")) || !json_is_true(json_object_get(next, "lost")))
        return next;
    json_decref(next);
    return NULL;
}

/* Asks for the next page, as long as there is time. Returns whether another answer is awaited. */
static bool ask_on(struct node *node, struct relay *relay, const struct teller *teller, const json_t *answer)
{
    json_t *const next = next_page(relay, teller, answer);
    const int64_t now_ms = clock_now_ms();
    if (!next)
        return false;
    json_put(relay->body, "after", next);
    const bool asked = now_ms < relay->give_up_at_ms && ask(node, relay, &teller->id, relay->body);
    json_object_del(relay->body, "after");
    relay->silent += !asked;
    relay->until_ms = now_ms + WAVE_TIMEOUT_MS;
    return asked;
}

static void on_page(struct node *node, struct relay *relay, const struct mesh_id *from, const json_t *answer)
{
    uint32_t t = 0;
    while (t < WAVE_NODES && !(relay->teller[t].waiting && same(&relay->teller[t].id, from)))
        t++;
    if (t == WAVE_NODES)
        return;
    struct teller *const teller = &relay->teller[t];
    const bool told = json_is_true(json_object_get(answer, "ok"));
    if (told)
        take_rows(relay, answer, teller);
    else
        relay->silent++;
    if (told && ask_on(node, relay, teller, answer))
        return;
    teller->waiting = false;
    relay->waiting--;
}

static void wave_done(struct node *node, struct relay *relay)
{
    relay->silent += relay->waiting;
    if (next_wave(node, relay))
        return;
    if (relay->phase == GATHERING)
        gathered(node, relay);
    else
        located(node, relay);
}

/* The home is lost, or is the home no more. */
static void lose(struct node *node, struct relay *relay)
{
    relay->give_up_at_ms = clock_now_ms() + (relay->streams ? GIVE_UP_STREAM_MS : GIVE_UP_MS);
    relay->note_at_ms = clock_now_ms() + GIVE_UP_MS;
    relay->told = false;
    locate(node, relay);
}

/* ---- Answers */

static void on_found(struct node *node, struct relay *relay, const struct mesh_id *from, const json_t *answer)
{
    size_t i;
    const json_t *row;
    struct key_home home;
    if (relay->phase == GATHERING) {
        on_page(node, relay, from, answer);
    } else {
        relay->waiting--;
        if (relay->claims && json_is_true(json_object_get(answer, "ok")))
            note_registrar(relay, from);
        if (relay->claims && keys_get(answer, "registered", &home))
            note_holder(node, relay, &home);
        json_array_foreach(json_object_get(answer, "jobs"), i, row) note(relay, from, row);
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
            pause_relay(relay);
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
        if (same(from, &relay->target))
            on_passed_back(node, relay, answer, final);
    } else if (relay->waiting > 0) {
        if (relay->phase == REGISTERING)
            on_registrar(node, relay, from, answer);
        else if (relay->phase == ASKING_HOLDER)
            on_holder(node, relay, answer);
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

static struct relay *relay_make(struct node *node, struct api_call *call, const char *text)
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
        locate(node, relay);
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
    locate(node, relay);
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
    locate(node, relay);
    return true;
}

void relay_jobs(struct node *node, struct api_call *call, json_t *own, uint32_t limit)
{
    uint32_t gatherings = 0;
    for (const struct relay *relay = node->relays; relay; relay = relay->next)
        gatherings += relay->phase == GATHERING;
    struct relay *relay = gatherings < GATHERINGS_MAX ? relay_make(node, call, "") : NULL;
    if (!relay) {
        json_decref(own);
        if (gatherings >= GATHERINGS_MAX)
            api_error(call, EXIT_FAILED, "too many listings of all jobs at once; try again");
        return;
    }
    relay->phase = GATHERING;
    relay->give_up_at_ms = clock_now_ms() + GATHER_MS;
    relay->rows = json_array();
    relay->lost = json_array();
    relay->limit = limit;
    struct teller self = {.id = node->self};
    take_rows(relay, own, &self);
    json_decref(next_page(relay, &self, own)); /* what of ours is left out */
    json_decref(own);
    json_object_del(relay->body, "mesh");
    json_put(relay->body, "limit", json_integer(PAGE_ROWS));
    if (!next_wave(node, relay))
        gathered(node, relay);
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
        locate(node, relay);
    } else if (relay->phase == REGISTERING) {
        registered(node, relay);
    } else if (relay->phase == ASKING_HOLDER) {
        doubt_claim(node, relay);
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
