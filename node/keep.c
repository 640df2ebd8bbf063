#include "node/keep.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"
#include "node/take.h"

#define ASKED_MAX 8u         /* for one job */
#define ASK_MS 5000          /* for an answer */
#define AGAIN_MS 300         /* before who has no room, or is still taking it, is asked again */
#define KEPT_TAKINGS_MAX 16u /* at once, of jobs that others ask us to keep */
#define KEPT_INPUTS_MAX 16u  /* no more of these, while so many inputs are on their way */

enum word { WAITS, KEEPS, REFUSES };

struct asked {
    struct keeping *keeping;
    struct mesh_id id;
    uint64_t site;
    enum word word;
    int64_t again_at_ms; /* WAITS: to be asked then; INT64_MAX: a question is under way */
};

/* At home. Not freed while a question is under way. */
struct keeping {
    struct keeping *next;
    struct mesh_id job;
    int64_t created_at_ms;
    uint32_t wished; /* copies, home's included */
    struct asked asked[ASKED_MAX];
    uint32_t asked_count;
    bool changed; /* members, since the head was written */
    bool kept;    /* by a majority: that is being written, or is */
};

/* NULL: it was forgotten, and perhaps submitted anew. */
static struct job *job_of(struct node *node, const struct keeping *keeping)
{
    struct job *job = jobs_find(node, &keeping->job);
    return job && job->spec.created_at_ms == keeping->created_at_ms ? job : NULL;
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
    keeping->changed = true;
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

/* As many as the job wishes, in place of those that refused. */
static void choose(const struct node *node, struct keeping *keeping)
{
    while (copies_of(keeping) < keeping->wished && keeping->asked_count < ASKED_MAX &&
           (choose_one(node, keeping, true) || choose_one(node, keeping, false)))
        ;
}

static enum mesh_job_state end_of(const struct job *job)
{
    return job->state == JOB_FAILED      ? MESH_JOB_FAILED
           : job->state == JOB_CANCELLED ? MESH_JOB_CANCELLED
                                         : MESH_JOB_DONE;
}

/* Ours, and those that keep it or may yet. No entry of a journal was ever theirs, so they were chosen at no incarnation. */
static struct copy head_of(struct node *node, const struct keeping *keeping, const struct job *job)
{
    const struct copy *ours = copies_find(node, &keeping->job);
    struct copy head = ours ? *ours
                            : (struct copy){
                                  .job = keeping->job,
                                  .promised = job->epoch,
                                  .voted = node->self,
                                  .reign = job->epoch,
                                  .last_epoch = job->epoch,
                                  .end_state = end_of(job),
                                  .ended_at_ms = job->finished_at_ms,
                                  .over = true,
                                  .whole = true,
                              };
    head.members = (struct mesh_members){.number = 1, .count = 1, .id = {node->self}};
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (keeping->asked[i].word != REFUSES)
            head.members.id[head.members.count++] = keeping->asked[i].id;
    return head;
}

/* ---- At home */

static void end(struct node *node, struct keeping *keeping)
{
    struct keeping **link = &node->keepings;
    while (*link != keeping)
        link = &(*link)->next;
    *link = keeping->next;
    free(keeping);
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

/* Who doesn't answer may be taking it all the same, for as long as that takes. */
static void on_answer(struct node *node, void *context, const json_t *answer)
{
    struct asked *asked = context;
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (!answer || json_is_true(json_object_get(answer, "later")))
        asked->again_at_ms = clock_now_ms() + AGAIN_MS;
    else if (json_is_true(json_object_get(answer, "ok")))
        asked->word = KEEPS;
    else
        refused(node, asked, error ? error : "");
    go_on(node, asked->keeping);
}

static void ask(struct node *node, struct asked *asked, int64_t now_ms)
{
    struct mesh_member_view view;
    if (!mesh_member_find(node->host.mesh, &asked->id, &view) || view.state > MESH_SUSPECT) {
        refused(node, asked, "it is out of reach");
        return;
    }
    const struct mesh_id *job = &asked->keeping->job;
    json_t *question = json_pack("{s:s}", "op", "keep");
    json_put(question, "job", json_hex(job->bytes, sizeof job->bytes));
    const bool sent = calls_ask(node, &asked->id, question, ASK_MS, on_answer, asked);
    json_decref(question);
    asked->again_at_ms = sent ? INT64_MAX : now_ms + AGAIN_MS;
}

/* Those who are to be asked now. */
static void ask_all(struct node *node, struct keeping *keeping, int64_t now_ms)
{
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (keeping->asked[i].word == WAITS && now_ms >= keeping->asked[i].again_at_ms)
            ask(node, &keeping->asked[i], now_ms);
}

/* Unless it was long ago. */
static void acknowledge(struct node *node, struct job *job)
{
    if (!job->is_handed_out)
        return;
    job->is_handed_out = false;
    jobs_end(node, job);
}

/* How many copies there are is durable here, too. */
static void on_noted(struct node *node, void *context, enum store_error error)
{
    struct mesh_id *id = context;
    struct job *job = jobs_find(node, id);
    (void)error; /* on a full disk: its row says that there is one copy, and the others are where they are */
    if (job)
        acknowledge(node, job);
    free(id);
}

static void note_members(struct node *node, struct keeping *keeping, struct job *job)
{
    struct mesh_id *id = must(malloc(sizeof *id));
    struct store_batch *batch = node_batch(node);
    const struct copy head = head_of(node, keeping, job);
    *id = keeping->job;
    keeping->changed = false;
    copies_adopt(node, &head);
    copies_put_head(batch, &head);
    job->copies = head.members.count;
    jobs_put_row(batch, job);
    node_commit(node, batch, on_noted, id);
}

/* The job was forgotten. */
static void drop(struct node *node, struct keeping *keeping)
{
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (keeping->asked[i].word == WAITS && keeping->asked[i].again_at_ms != INT64_MAX)
            keeping->asked[i].word = REFUSES;
    if (count_of(keeping, WAITS) == 0)
        end(node, keeping);
}

/* The first are to be asked, or some once more, or somebody has answered. */
static void go_on(struct node *node, struct keeping *keeping)
{
    struct job *job = job_of(node, keeping);
    if (!job) {
        drop(node, keeping);
        return;
    }
    uint32_t refusals;
    do {
        refusals = count_of(keeping, REFUSES);
        choose(node, keeping);
        const struct copy head = head_of(node, keeping, job);
        copies_adopt(node, &head); /* which they are told when they come for the job */
        ask_all(node, keeping, clock_now_ms());
    } while (count_of(keeping, REFUSES) > refusals);
    const bool most = 1 + count_of(keeping, KEEPS) > copies_of(keeping) / 2;
    if (most && (keeping->changed || !keeping->kept)) {
        keeping->kept = true;
        note_members(node, keeping, job);
    }
    if (count_of(keeping, WAITS) == 0)
        end(node, keeping);
}

/* Whether it keeps what it has for us, or may be back with it. */
static bool is_other_keeper(const struct node *node, const struct mesh_id *id, struct mesh_member_view *view)
{
    return mesh_member_find(node->host.mesh, id, view) && !view->self && view->state <= MESH_DOWN;
}

uint32_t keep_others(struct node *node, struct copy *copy)
{
    struct mesh_member_view view;
    const struct mesh_members *members = copies_members(node, copy);
    uint32_t count = 0;
    for (uint32_t i = 0; i < members->count; i++)
        count += is_other_keeper(node, &members->id[i], &view);
    return count;
}

/* Those that keep the job already. */
static void add_keepers(struct node *node, struct keeping *keeping)
{
    struct mesh_member_view view;
    struct copy *copy = copies_find(node, &keeping->job);
    const struct mesh_members *members = copy ? copies_members(node, copy) : NULL;
    for (uint32_t i = 0; copy && i < members->count && keeping->asked_count < MESH_COPIES_MAX - 1; i++)
        if (is_other_keeper(node, &members->id[i], &view)) {
            add(keeping, &view);
            keeping->asked[keeping->asked_count - 1].word = KEEPS;
        }
}

void keep_begin(struct node *node, struct job *job, uint32_t wished, const struct mesh_id *holder)
{
    struct mesh_member_view view;
    struct keeping *keeping = must(calloc(1, sizeof *keeping));
    keeping->job = job->spec.id;
    keeping->created_at_ms = job->spec.created_at_ms;
    keeping->wished = wished;
    add_keepers(node, keeping);
    if (copies_of(keeping) < wished && holder && mesh_member_find(node->host.mesh, holder, &view) &&
        may_keep(keeping, &view) && !site_taken(node, keeping, view.site))
        add(keeping, &view);
    choose(node, keeping);
    if (count_of(keeping, WAITS) == 0) {
        free(keeping);
        acknowledge(node, job);
        return;
    }
    keeping->next = node->keepings;
    node->keepings = keeping;
    go_on(node, keeping);
}

bool keep_goes_on(const struct node *node, const struct mesh_id *job)
{
    const struct keeping *keeping = node->keepings;
    while (keeping && memcmp(&keeping->job, job, sizeof *job) != 0)
        keeping = keeping->next;
    return keeping != NULL;
}

int64_t keep_turn(struct node *node, int64_t now_ms)
{
    int64_t wake_at_ms = INT64_MAX;
    for (struct keeping *keeping = node->keepings, *next; keeping; keeping = next) {
        int64_t at_ms = INT64_MAX;
        next = keeping->next;
        for (uint32_t i = 0; i < keeping->asked_count; i++)
            if (keeping->asked[i].word == WAITS && keeping->asked[i].again_at_ms < at_ms)
                at_ms = keeping->asked[i].again_at_ms;
        if (now_ms >= at_ms) {
            go_on(node, keeping);
            wake_at_ms = now_ms; /* to look when it is to go on next */
        } else if (at_ms < wake_at_ms) {
            wake_at_ms = at_ms;
        }
    }
    return wake_at_ms;
}

/* ---- At those that are asked */

struct kept_call {
    struct api_call *call; /* NULL: who asked is gone, or waits no more */
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
        api_error(kept->call, EXIT_FAILED, "%s",
                  result == TAKE_STRANGE ? "the job makes no sense here" : "the job did not come");
    free(kept);
}

static void later(struct api_call *call)
{
    api_reply(call, json_pack("{s:b}", "later", 1));
}

void op_keep(void *context, struct api_call *call)
{
    struct node *node = context;
    struct mesh_id asker, job;
    if (!calls_asker(call, &asker) || !id_from_hex(body_text(call, "job"), &job)) {
        api_error(call, EXIT_USAGE, "nodes ask each other so, for a job's 64 hex digits");
        return;
    }
    switch (take_state(node, &job)) {
    case TAKE_KEPT:
        api_reply(call, NULL);
        return;
    case TAKE_UNDER_WAY:
        later(call);
        return;
    case TAKE_LACKED:
        break;
    }
    if (node->draining || !jobs_make_room(node)) {
        api_error(call, EXIT_FAILED,
                  node->draining ? "this node is draining" : "this node drives too many jobs");
        return;
    }
    if (node->taking_count >= KEPT_TAKINGS_MAX || node->jobs.inputs_coming >= KEPT_INPUTS_MAX) {
        later(call);
        return;
    }
    struct kept_call *kept = must(calloc(1, sizeof *kept));
    kept->call = call;
    if (take_begin(node, &asker, &job, on_taken, kept)) {
        api_on_gone(call, on_gone, kept);
    } else {
        free(kept);
        later(call);
    }
}

/* What is under way comes back no more. */
void keep_close(struct node *node)
{
    while (node->keepings)
        end(node, node->keepings);
}
