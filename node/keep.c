#include "node/keep.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"
#include "node/take.h"

#define ASKED_MAX 8u        /* for one job */
#define KEEP_MS 10000       /* until one that is asked must have the job, */
#define BYTES_PER_MS 10000u /* and longer by what its outputs take at this rate */
#define TAKINGS_MAX 64u     /* at once, of jobs that others ask us to keep */

enum word { WAITS, KEEPS, REFUSES };

struct asked {
    struct keeping *keeping;
    struct mesh_id id;
    uint64_t site;
    enum word word;
};

/* At home. Not freed while a question is under way. */
struct keeping {
    struct keeping *next;
    struct mesh_id job;
    uint32_t wished; /* copies, home's included */
    int64_t wait_ms;
    struct asked asked[ASKED_MAX];
    uint32_t asked_count;
    uint32_t sent; /* the first so many were asked */
    bool changed;  /* members, since the head was written */
    bool kept;     /* by a majority: the job has ended */
};

static struct keeping *find(const struct node *node, const struct mesh_id *job)
{
    struct keeping *keeping = node->keepings;
    while (keeping && memcmp(&keeping->job, job, sizeof *job) != 0)
        keeping = keeping->next;
    return keeping;
}

static uint32_t count_of(const struct keeping *keeping, enum word word)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        count += keeping->asked[i].word == word;
    return count;
}

/* Those who refused apart. */
static uint32_t copies_of(const struct keeping *keeping)
{
    return 1 + count_of(keeping, KEEPS) + count_of(keeping, WAITS);
}

/* ---- Choosing */

static bool was_chosen(const struct keeping *keeping, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (memcmp(&keeping->asked[i].id, id, sizeof *id) == 0)
            return true;
    return false;
}

static bool may_keep(const struct keeping *keeping, const struct mesh_member_view *view)
{
    return !view->self && view->state == MESH_UP && !view->capacity.draining &&
           view->capacity.fault != MESH_FAULT_DISK && !view->quarantined && !was_chosen(keeping, &view->id);
}

static bool site_taken(const struct node *node, const struct keeping *keeping, uint64_t site)
{
    struct mesh_member_view self;
    bool taken = mesh_member_find(node->host.mesh, &node->self, &self) && self.site == site;
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        taken = taken || (keeping->asked[i].site == site && keeping->asked[i].word != REFUSES);
    return taken;
}

static void add(struct keeping *keeping, const struct mesh_member_view *view)
{
    keeping->asked[keeping->asked_count++] =
        (struct asked){.keeping = keeping, .id = view->id, .site = view->site, .word = WAITS};
}

static bool choose_one(const struct node *node, struct keeping *keeping, bool other_sites)
{
    struct mesh_member_view view, best;
    struct digest rank;
    bool found = false;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (!may_keep(keeping, &view) || (other_sites && site_taken(node, keeping, view.site)))
            continue;
        const struct digest its = job_rank("weir keeper 1", &keeping->job, &view.id);
        if (found && digest_compare(&its, &rank) <= 0)
            continue;
        found = true;
        best = view;
        rank = its;
    }
    if (found)
        add(keeping, &best);
    return found;
}

/* As many as the job wishes, in place of those that refused. False: nobody new. */
static bool choose(const struct node *node, struct keeping *keeping)
{
    while (copies_of(keeping) < keeping->wished && keeping->asked_count < ASKED_MAX &&
           (choose_one(node, keeping, true) || choose_one(node, keeping, false)))
        keeping->changed = true;
    return keeping->sent < keeping->asked_count;
}

/* Home, and those that keep it or may yet. No entry was ever theirs, so they were chosen at no incarnation. */
static struct copy head_of(const struct node *node, const struct keeping *keeping, const struct job *job)
{
    struct copy head = {
        .job = keeping->job,
        .promised = job->epoch,
        .voted = node->self,
        .members = {.number = 1, .count = 1, .id = {node->self}},
        .reign = job->epoch,
        .last_epoch = job->epoch,
        .end_state = MESH_JOB_DONE,
        .ended_at_ms = job->finished_at_ms,
        .over = true,
        .whole = true,
    };
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (keeping->asked[i].word != REFUSES)
            head.members.id[head.members.count++] = keeping->asked[i].id;
    return head;
}

/* ---- At home */

uint32_t keep_choose(struct node *node, const struct job *job, const struct mesh_id *holder,
                     struct store_batch *batch)
{
    struct mesh_member_view view;
    struct keeping *keeping = must(calloc(1, sizeof *keeping));
    keeping->job = job->spec.id;
    keeping->wished = job->copies;
    keeping->wait_ms = KEEP_MS;
    for (uint32_t o = 0; o < job->spec.output_count; o++)
        keeping->wait_ms += (int64_t)(job->output_bytes[o] / BYTES_PER_MS);
    if (holder && keeping->wished > 1 && mesh_member_find(node->host.mesh, holder, &view) &&
        may_keep(keeping, &view) && !site_taken(node, keeping, view.site))
        add(keeping, &view);
    if (!choose(node, keeping)) {
        free(keeping);
        return 1;
    }
    const struct copy head = head_of(node, keeping, job);
    copies_put_head(batch, &head);
    keeping->changed = false;
    keeping->next = node->keepings;
    node->keepings = keeping;
    return head.members.count;
}

static void end(struct node *node, struct keeping *keeping)
{
    struct keeping **link = &node->keepings;
    while (*link != keeping)
        link = &(*link)->next;
    *link = keeping->next;
    free(keeping);
}

void keep_drop(struct node *node, const struct mesh_id *job)
{
    struct keeping *keeping = find(node, job);
    if (keeping)
        end(node, keeping);
}

static void go_on(struct node *node, struct keeping *keeping);

static void refused(struct node *node, struct asked *asked, const char *why)
{
    char quoted[2 * JOB_ERROR_BYTES];
    asked->word = REFUSES;
    asked->keeping->changed = true;
    log_info("keep", "job=%s node=%s error=%s", peer_name(node, &asked->keeping->job),
             peer_name(node, &asked->id), log_quote(why, quoted, sizeof quoted));
}

static void on_answer(struct node *node, void *context, const json_t *answer)
{
    struct asked *asked = context;
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (json_is_true(json_object_get(answer, "ok")))
        asked->word = KEEPS;
    else
        refused(node, asked, error ? error : "no answer");
    go_on(node, asked->keeping);
}

static void ask(struct node *node, struct asked *asked)
{
    const struct mesh_id *job = &asked->keeping->job;
    json_t *question = json_pack("{s:s}", "op", "keep");
    json_put(question, "job", json_hex(job->bytes, sizeof job->bytes));
    if (!calls_ask(node, &asked->id, question, asked->keeping->wait_ms, on_answer, asked))
        refused(node, asked, "no way to that node");
    json_decref(question);
}

static void note_members(struct node *node, struct keeping *keeping, struct job *job)
{
    const struct copy head = head_of(node, keeping, job);
    struct store_batch *batch = node_batch(node);
    copies_adopt(node, &head);
    copies_put_head(batch, &head);
    job->copies = head.members.count;
    jobs_put_row(batch, job);
    node_commit(node, batch, NULL, NULL);
    keeping->changed = false;
}

/* The first are to be asked, or somebody has answered. The job may be forgotten meanwhile. */
static void go_on(struct node *node, struct keeping *keeping)
{
    struct job *job = jobs_find(node, &keeping->job);
    while (job && choose(node, keeping))
        ask(node, &keeping->asked[keeping->sent++]);
    if (job && keeping->changed)
        note_members(node, keeping, job);
    const uint32_t keep = 1 + count_of(keeping, KEEPS);
    if (job && !keeping->kept && keep > copies_of(keeping) / 2) {
        keeping->kept = true;
        jobs_end(node, job);
    }
    if (count_of(keeping, WAITS) == 0)
        end(node, keeping);
}

void keep_ask(struct node *node, struct job *job)
{
    struct keeping *keeping = find(node, &job->spec.id);
    if (!keeping) {
        job->copies = 1;
        jobs_end(node, job);
        return;
    }
    const struct copy head = head_of(node, keeping, job);
    copies_adopt(node, &head);
    job->copies = head.members.count;
    go_on(node, keeping);
}

bool keep_waits(const struct node *node, const struct mesh_id *job)
{
    const struct keeping *keeping = find(node, job);
    return keeping && !keeping->kept;
}

/* ---- At those that are asked */

struct kept_call {
    struct api_call *call; /* NULL: who asked is gone */
};

static void on_gone(void *context, struct api_call *call)
{
    (void)call;
    ((struct kept_call *)context)->call = NULL;
}

static void on_taken(struct node *node, void *context, enum take_result result)
{
    struct kept_call *kept = context;
    (void)node;
    if (kept->call && result == TAKE_DONE)
        api_reply(kept->call, NULL);
    else if (kept->call)
        api_error(kept->call, EXIT_FAILED,
                  result == TAKE_STRANGE ? "it makes no sense here" : "it did not come");
    free(kept);
}

void op_keep(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, job;
    if (!calls_asker(call, &asker) || !id_from_hex(body_text(call, "job"), &job)) {
        api_error(call, EXIT_USAGE, "nodes ask each other so, for a job's 64 hex digits");
        return;
    }
    const enum take_state state = take_state(node, &job);
    if (state == TAKE_KEPT) {
        api_reply(call, NULL);
        return;
    }
    if (state == TAKE_UNDER_WAY || node->draining || node->taking_count >= TAKINGS_MAX ||
        node->jobs.count + node->taking_count >= JOBS_KEPT_MAX) {
        api_error(call, EXIT_FAILED, state == TAKE_UNDER_WAY ? "the job is under way here" : "not now");
        return;
    }
    struct kept_call *kept = must(calloc(1, sizeof *kept));
    kept->call = call;
    if (take_begin(node, &asker, &job, on_taken, kept)) {
        api_on_gone(call, on_gone, kept);
    } else {
        free(kept);
        api_error(call, EXIT_FAILED, "no way back");
    }
}

/* What is under way comes back no more. */
void keep_close(struct node *node)
{
    while (node->keepings)
        end(node, node->keepings);
}
