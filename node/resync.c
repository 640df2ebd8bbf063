/* Asking: from member to member, page to page, job to job. */
#include "node/resync.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"
#include "node/take.h"

#define MARK "resync" /* of STORE_META; since when, in wall ms */
#define MARK_BYTES (sizeof MARK - 1)
#define TAKINGS_MAX 8u /* jobs asked for at once */
#define ASK_MS 2000    /* for an answer */
#define SOON_MS 100    /* after a round that brought something: what was put together meanwhile comes next */
#define AGAIN_MS 1000  /* before those that have not told all are asked again; it doubles, */
#define AGAIN_MS_MAX 60000 /* up to this */
#define ANEW_MS 10000      /* between two times that all members are asked anew */
#define LOOK_MS 5000       /* for members that have come up since, when all have told */

/* A member that told all that we lack, or knows no such call: this process of it. */
struct teller {
    struct mesh_id id;
    uint64_t session;
};

struct resync {
    struct teller *told; /* by id */
    uint32_t told_count, told_room;
    int64_t until_wall_ms; /* nothing is kept any more of what was over when it began */
    uint32_t round;
    uint32_t next_member; /* in this round */
    uint32_t told_later;  /* in this round: jobs whose outputs are being put together */
    bool puts_together;   /* those with no more than the journal are asked, too */
    bool busy;            /* with this one: */
    struct teller teller;
    json_t *page; /* its answer, NULL while that is awaited */
    size_t next_row;
    char after[65];        /* where that page began */
    bool left;             /* it has something that can't be taken yet */
    uint32_t taking_count; /* of ours */
    bool anew;             /* more is missing than was asked for */
    int64_t anew_at_ms;    /* not before */
    uint32_t asked;        /* members, in this round */
    int64_t again_at_ms;
    int64_t pause_ms;
    uint32_t taken, taken_before; /* jobs; by the latest round */
    bool told_of;                 /* in the log: nothing more is to be had from who is up */
    uint32_t away;                /* members that could not be asked yet, then */
};

/* ---- One job */

static void go_on(struct node *node);

static void on_taken(struct node *node, void *context, enum take_result result)
{
    struct resync *resync = node->resync;
    (void)context;
    if (!resync) /* the node closes */
        return;
    resync->taking_count--;
    resync->left = resync->left || result == TAKE_LATER || result == TAKE_FAILED;
    resync->told_later += result == TAKE_LATER;
    resync->taken += result == TAKE_DONE;
    node->jobs.taken_back += result == TAKE_DONE;
    go_on(node);
}

static void take(struct node *node, const struct mesh_id *id)
{
    struct resync *resync = node->resync;
    if (take_begin(node, &resync->teller.id, id, on_taken, NULL))
        resync->taking_count++;
    else
        resync->left = true;
}

/* ---- From page to page */

/* Where the member stands in the list, or would. */
static uint32_t place_of(const struct resync *resync, const struct mesh_id *member)
{
    uint32_t low = 0, high = resync->told_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (memcmp(&resync->told[middle].id, member, sizeof *member) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void note_told(struct resync *resync)
{
    const uint32_t at = place_of(resync, &resync->teller.id);
    if (at < resync->told_count &&
        memcmp(&resync->told[at].id, &resync->teller.id, sizeof resync->told[at].id) == 0) {
        resync->told[at] = resync->teller;
        return;
    }
    if (resync->told_count == resync->told_room) {
        resync->told_room = 2 * resync->told_room + 8;
        resync->told = must(realloc(resync->told, resync->told_room * sizeof *resync->told));
    }
    memmove(&resync->told[at + 1], &resync->told[at], (resync->told_count - at) * sizeof *resync->told);
    resync->told[at] = resync->teller;
    resync->told_count++;
}

/* Its process that is there now. */
static bool has_told(const struct resync *resync, const struct mesh_member_view *view)
{
    const uint32_t at = place_of(resync, &view->id);
    return at < resync->told_count && memcmp(&resync->told[at].id, &view->id, sizeof view->id) == 0 &&
           resync->told[at].session == view->session;
}

static void leave(struct resync *resync, bool told)
{
    if (told && !resync->left)
        note_told(resync);
    json_decref(resync->page);
    resync->page = NULL;
    resync->busy = false;
}

static void on_page(struct node *node, void *context, const json_t *answer)
{
    struct resync *resync = node->resync;
    (void)context;
    const bool knows = json_integer_value(json_object_get(answer, "exit")) != EXIT_USAGE;
    if (!json_is_array(json_object_get(answer, "jobs"))) {
        leave(resync, answer && !knows);
        return;
    }
    resync->page = must(json_deep_copy(answer));
    resync->next_row = 0;
    go_on(node);
}

static void ask_page(struct node *node, const char *after)
{
    struct resync *resync = node->resync;
    snprintf(resync->after, sizeof resync->after, "%s", after ? after : "");
    json_t *question = json_pack("{s:s, s:s*}", "op", "kept", "after", after);
    const bool asked = calls_ask(node, &resync->teller.id, question, ASK_MS, on_page, NULL);
    json_decref(question);
    json_decref(resync->page);
    resync->page = NULL;
    if (!asked)
        leave(resync, false);
}

static void take_row(struct node *node, const json_t *row)
{
    struct resync *resync = node->resync;
    const int64_t kept_since_ms = clock_wall_ms() - (int64_t)node->config.keep_jobs_s * 1000;
    struct mesh_id id;
    if (!id_from_hex(json_string_value(json_object_get(row, "id")), &id) ||
        json_integer_value(json_object_get(row, "finished_at")) < kept_since_ms ||
        node->jobs.count + node->taking_count >= JOBS_KEPT_MAX)
        return; /* it would go again at once */
    const enum take_state state = take_state(node, &id);
    const bool may_be_had = json_is_true(json_object_get(row, "here")) ||
                            (resync->puts_together && resync->told_later < REVIVED_MAX);
    if (state == TAKE_LACKED && may_be_had)
        take(node, &id);
    else if (state != TAKE_KEPT)
        resync->left = true;
}

/* The next of the page, as many at once as may be, and then the next page. */
static void go_on(struct node *node)
{
    struct resync *resync = node->resync;
    if (!resync->page)
        return;
    const json_t *rows = json_object_get(resync->page, "jobs");
    while (resync->taking_count < TAKINGS_MAX && resync->next_row < json_array_size(rows))
        take_row(node, json_array_get(rows, resync->next_row++));
    if (resync->taking_count > 0 || resync->next_row < json_array_size(rows))
        return;
    const char *next = json_string_value(json_object_get(resync->page, "next"));
    if (next && strcmp(next, resync->after) > 0) /* pages come to an end, whatever is said */
        ask_page(node, next);
    else
        leave(resync, true);
}

/* ---- From member to member */

/* Whether something may be had of it, now or when it is up again. Who has left may come back with all that it kept; versions
 * that know no calls of other nodes can't be asked. */
static bool counts(const struct node *node, const struct mesh_member_view *view)
{
    return !view->self && view->state != MESH_REVOKED && !has_told(node->resync, view) &&
           calls_known(node, &view->id);
}

/* Begins with the next one that is up and has not told all; each round with another. False: that was the last of this
 * round. */
static bool ask_next(struct node *node)
{
    struct resync *resync = node->resync;
    struct mesh_member_view view;
    uint32_t count = 0;
    while (mesh_member_view(node->host.mesh, count, &view))
        count++;
    while (resync->next_member < count) {
        const uint32_t at = (resync->round + resync->next_member++) % count;
        if (!mesh_member_view(node->host.mesh, at, &view) || !counts(node, &view) ||
            view.state > MESH_SUSPECT)
            continue;
        resync->asked++;
        resync->busy = true;
        resync->left = false;
        resync->teller = (struct teller){.id = view.id, .session = view.session};
        ask_page(node, NULL);
        return true;
    }
    return false;
}

/* All that are up were asked. */
static void end_round(struct node *node, int64_t now_ms)
{
    struct resync *resync = node->resync;
    struct mesh_member_view view;
    uint32_t up = 0, away = 0;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        up += counts(node, &view) && view.state <= MESH_SUSPECT;
        away += counts(node, &view) && view.state > MESH_SUSPECT;
    }
    resync->away = away;
    const bool got_something = resync->taken > resync->taken_before;
    resync->told_of = resync->told_of && !got_something;
    if (up == 0 && (resync->told_count > 0 || away == 0) && !resync->told_of) {
        log_info("resync", "state=done jobs=%u asked=%u away=%u", resync->taken, resync->told_count, away);
        resync->told_of = true;
    }
    if (got_something)
        resync->pause_ms = SOON_MS;
    else if (up == 0 || !resync->puts_together || resync->pause_ms < AGAIN_MS)
        resync->pause_ms = AGAIN_MS;
    else if (resync->pause_ms < AGAIN_MS_MAX)
        resync->pause_ms *= 2;
    resync->puts_together = resync->puts_together || resync->asked > 0;
    resync->asked = 0;
    resync->taken_before = resync->taken;
    resync->told_later = 0;
    resync->next_member = 0;
    resync->round++;
    resync->again_at_ms = now_ms + (up == 0 ? LOOK_MS : resync->pause_ms);
}

static bool is_over(const struct node *node)
{
    return clock_wall_ms() > node->resync->until_wall_ms &&
           mesh_counters(node->host.mesh)->disks_lost == node->disks_lost;
}

static void end_resync(struct node *node)
{
    struct store_batch *batch = node_batch(node);
    store_batch_delete(batch, STORE_META, MARK, MARK_BYTES);
    node_commit(node, batch, NULL, NULL);
    resync_close(node);
}

int64_t resync_turn(struct node *node, int64_t now_ms)
{
    struct resync *resync = node->resync;
    if (!resync || resync->busy)
        return INT64_MAX;
    if (now_ms < resync->again_at_ms)
        return resync->again_at_ms;
    if (is_over(node)) {
        end_resync(node);
        return INT64_MAX;
    }
    if (resync->anew && now_ms >= resync->anew_at_ms) {
        resync->anew = resync->told_of = resync->puts_together = false;
        resync->anew_at_ms = now_ms + ANEW_MS;
        resync->told_count = resync->next_member = 0;
    }
    if (!ask_next(node))
        end_round(node, now_ms);
    return now_ms;
}

/* ---- Beginning and end */

void resync_mark(struct store_batch *batch)
{
    const int64_t now_ms = clock_wall_ms();
    store_batch_put(batch, STORE_META, MARK, MARK_BYTES, &now_ms, sizeof now_ms);
}

void resync_save(const struct node *node, struct store_batch *batch)
{
    if (mesh_counters(node->host.mesh)->disks_lost > node->disks_lost)
        resync_mark(batch);
}

static void begin(struct node *node, int64_t since_wall_ms)
{
    if (!node->resync) {
        node->resync = must(calloc(1, sizeof *node->resync));
        node->resync->pause_ms = AGAIN_MS;
    }
    node->resync->until_wall_ms = since_wall_ms + (int64_t)node->config.keep_jobs_s * 1000;
    node->resync->anew = true;
    node->resync->again_at_ms = 0;
}

void resync_begin(struct node *node)
{
    begin(node, clock_wall_ms());
}

void resync_want(struct node *node)
{
    struct store_batch *batch = node_batch(node);
    resync_mark(batch);
    node_commit(node, batch, NULL, NULL);
    resync_begin(node);
}

bool resync_goes_on(const struct node *node, uint32_t *away)
{
    *away = node->resync && node->resync->told_of ? node->resync->away : 0;
    return node->resync && (!node->resync->told_of || *away > 0);
}

void resync_restore(struct node *node)
{
    int64_t since_ms;
    size_t bytes;
    if (store_get(node->store, STORE_META, MARK, MARK_BYTES, &since_ms, sizeof since_ms, &bytes) !=
            STORE_OK ||
        bytes != sizeof since_ms)
        return;
    begin(node, since_ms);
}

/* What is under way comes back no more: the node closes, or there is nothing. */
void resync_close(struct node *node)
{
    struct resync *resync = node->resync;
    node->resync = NULL;
    if (!resync)
        return;
    json_decref(resync->page);
    free(resync->told);
    free(resync);
}
