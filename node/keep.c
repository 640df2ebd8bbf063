#include "node/keep.h"

#include "node/calls.h"
#include "node/jobs_internal.h"
#include "node/ops.h"

#define ASKED_MAX 32u     /* for one job */
#define ASK_MS 5000       /* for an answer */
#define AGAIN_MS 300      /* before who has no room, or is still taking it, is asked again */
#define ERROR_MS 1000     /* before who could not take it is; longer after each error, */
#define ERRORS_MAX 3u     /* up to so many of them */
#define PATIENCE_MS 30000 /* with who is said to be up and doesn't answer */

enum word { WAITS, KEEPS, REFUSES };

struct asked {
    struct keeping *keeping;
    struct mesh_id id;
    uint64_t site;
    enum word word;
    uint32_t errors;
    int64_t heard_at_ms; /* or chosen */
    int64_t again_at_ms; /* WAITS: to be asked then; INT64_MAX: a question is under way */
};

/* Not freed while a question is under way. */
struct keeping {
    struct keeping *next;
    struct mesh_id job;
    int64_t created_at_ms;
    uint32_t wished;            /* copies, ours included */
    uint32_t noted;             /* as its row says there are */
    struct mesh_members before; /* those of its head; none: it had none */
    bool kept; /* by a majority of those that don't refuse: its end was told, or is once that is written */
    uint32_t asked_count;
    struct asked asked[ASKED_MAX];
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

static uint32_t copies_now(const struct keeping *keeping)
{
    return 1 + count_of(keeping, KEEPS);
}

/* With those that have yet to say. */
static uint32_t copies_hoped_for(const struct keeping *keeping)
{
    return copies_now(keeping) + count_of(keeping, WAITS);
}

/* ---- Choosing */

static bool was_chosen(const struct keeping *keeping, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (memcmp(&keeping->asked[i].id, id, sizeof *id) == 0)
            return true;
    return false;
}

/* Whether this process of it said that it knows no such question, of those that said so of late. */
static bool knows_not(const struct node *node, const struct mesh_member_view *view)
{
    for (uint32_t i = 0; i < KEEP_REFUSERS_MAX; i++)
        if (memcmp(&node->keep_refuser[i].id, &view->id, sizeof view->id) == 0 &&
            node->keep_refuser[i].session == view->session)
            return true;
    return false;
}

static bool may_keep(const struct node *node, const struct keeping *keeping,
                     const struct mesh_member_view *view)
{
    return !view->self && !view->guest && view->state == MESH_UP && !view->capacity.draining &&
           view->capacity.fault != MESH_FAULT_DISK && !view->quarantined && calls_known(node, &view->id) &&
           !knows_not(node, view) && !was_chosen(keeping, &view->id);
}

static bool site_taken(const struct node *node, const struct keeping *keeping, uint64_t site)
{
    struct mesh_member_view self;
    bool taken = mesh_member_find(node->host.mesh, &node->self, &self) && self.site == site;
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        taken = taken || (keeping->asked[i].site == site && keeping->asked[i].word != REFUSES);
    return taken;
}

static void add(struct keeping *keeping, const struct mesh_member_view *view, enum word word)
{
    keeping->asked[keeping->asked_count++] = (struct asked){
        .keeping = keeping, .id = view->id, .site = view->site, .word = word, .heard_at_ms = clock_now_ms()};
}

static bool choose_one(const struct node *node, struct keeping *keeping, bool other_sites)
{
    struct mesh_member_view view, best;
    struct digest rank;
    bool found = false;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++) {
        if (!may_keep(node, keeping, &view) || (other_sites && site_taken(node, keeping, view.site)))
            continue;
        const struct digest its = job_rank("weir keeper 1", &keeping->job, &view.id);
        if (found && digest_compare(&its, &rank) <= 0)
            continue;
        found = true;
        best = view;
        rank = its;
    }
    if (found)
        add(keeping, &best, WAITS);
    return found;
}

/* As many as are wished, in place of those that refused. */
static void choose(const struct node *node, struct keeping *keeping)
{
    while (copies_hoped_for(keeping) < keeping->wished && keeping->asked_count < ASKED_MAX &&
           (choose_one(node, keeping, true) || choose_one(node, keeping, false)))
        ;
}

/* ---- Heads */

static enum mesh_job_state end_of(const struct job *job)
{
    return job->state == JOB_FAILED      ? MESH_JOB_FAILED
           : job->state == JOB_CANCELLED ? MESH_JOB_CANCELLED
                                         : MESH_JOB_DONE;
}

/* Names us and those that keep it, and if `all` those that may yet. No entry of a journal was ever theirs, so they were chosen at
 * no incarnation. */
static struct copy head_of(struct node *node, const struct keeping *keeping, const struct job *job, bool all)
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
        if (keeping->asked[i].word == KEEPS || (all && keeping->asked[i].word == WAITS))
            head.members.id[head.members.count++] = keeping->asked[i].id;
    return head;
}

/* In memory, where those that come for the job find themselves. */
static void name_members(struct node *node, const struct keeping *keeping, const struct job *job, bool all)
{
    const struct copy head = head_of(node, keeping, job, all);
    copies_adopt(node, &head);
}

/* ---- Asking */

static void end(struct node *node, struct keeping *keeping)
{
    struct keeping **link = &node->keepings;
    while (*link != keeping)
        link = &(*link)->next;
    *link = keeping->next;
    free(keeping);
}

static void go_on(struct node *node, struct keeping *keeping);

static void refuses(struct node *node, struct asked *asked, const char *why)
{
    char quoted[2 * JOB_ERROR_BYTES];
    asked->word = REFUSES;
    log_info("keep", "job=%s node=%s error=%s", peer_name(node, &asked->keeping->job),
             peer_name(node, &asked->id), log_quote(why, quoted, sizeof quoted));
}

static void note_refuser(struct node *node, const struct mesh_id *id)
{
    struct mesh_member_view view;
    if (mesh_member_find(node->host.mesh, id, &view))
        node->keep_refuser[node->keep_refuser_next++ % KEEP_REFUSERS_MAX] =
            (struct keep_refuser){.id = *id, .session = view.session};
}

/* What may pass is tried again; else it refuses for good. An earlier version says that it knows no such call. */
static void on_error(struct node *node, struct asked *asked, const json_t *answer)
{
    const char *error = json_string_value(json_object_get(answer, "error"));
    const json_int_t code = json_integer_value(json_object_get(answer, "exit"));
    if (code == EXIT_USAGE)
        note_refuser(node, &asked->id);
    if (code != EXIT_FAILED || ++asked->errors == ERRORS_MAX)
        refuses(node, asked, error ? error : "");
    else
        asked->again_at_ms = clock_now_ms() + ERROR_MS * asked->errors;
}

/* Who is still taking it may need long for that, and says so. */
static void on_answer(struct node *node, void *context, const json_t *answer)
{
    struct asked *asked = context;
    const int64_t now_ms = clock_now_ms();
    asked->again_at_ms = now_ms + AGAIN_MS;
    if (answer)
        asked->heard_at_ms = now_ms;
    if (answer && !json_is_true(json_object_get(answer, "ok")))
        on_error(node, asked, answer);
    else if (answer && !json_is_true(json_object_get(answer, "later")))
        asked->word = KEEPS;
    go_on(node, asked->keeping);
}

static void ask(struct node *node, struct asked *asked, int64_t finished_at_ms, int64_t now_ms)
{
    struct mesh_member_view view;
    if (!mesh_member_find(node->host.mesh, &asked->id, &view) || view.state > MESH_SUSPECT) {
        refuses(node, asked, "it is down, or has left");
        return;
    }
    if (now_ms >= asked->heard_at_ms + PATIENCE_MS) {
        refuses(node, asked, "no answer");
        return;
    }
    const struct mesh_id *job = &asked->keeping->job;
    json_t *question = json_pack("{s:s}", "op", "keep");
    json_put(question, "job", json_hex(job->bytes, sizeof job->bytes));
    json_put(question, "finished_at", json_integer(finished_at_ms));
    const bool sent = calls_ask(node, &asked->id, question, ASK_MS, on_answer, asked);
    json_decref(question);
    asked->again_at_ms = sent ? INT64_MAX : now_ms + AGAIN_MS;
}

/* Those who are to be asked now. */
static void ask_all(struct node *node, struct keeping *keeping, const struct job *job)
{
    const int64_t now_ms = clock_now_ms();
    for (uint32_t i = 0; i < keeping->asked_count; i++)
        if (keeping->asked[i].word == WAITS && now_ms >= keeping->asked[i].again_at_ms)
            ask(node, &keeping->asked[i], job->finished_at_ms, now_ms);
}

/* ---- What became of it */

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
    if (job && job->is_handed_out && error != STORE_OK)
        job->copies = 1; /* as its row says after a restart */
    if (job)
        acknowledge(node, job);
    free(id);
}

static void note(struct node *node, struct keeping *keeping, struct job *job)
{
    struct mesh_id *id = must(malloc(sizeof *id));
    struct store_batch *batch = node_batch(node);
    const struct copy head = head_of(node, keeping, job, false);
    *id = keeping->job;
    job->copies = keeping->noted = copies_now(keeping);
    copies_put_head(batch, &head);
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

/* All have answered. If nobody has it beside us, those are named still who were before: it is to be handed on another time. */
static void conclude(struct node *node, const struct keeping *keeping, const struct job *job)
{
    struct copy *copy = copies_find(node, &keeping->job);
    if (copies_now(keeping) > 1 || keeping->before.count == 0)
        name_members(node, keeping, job, false);
    else if (copy)
        copy->members = keeping->before;
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
        name_members(node, keeping, job, true);
        ask_all(node, keeping, job);
    } while (count_of(keeping, REFUSES) > refusals);
    if (copies_now(keeping) > copies_hoped_for(keeping) / 2) {
        const bool handed_in_vain = copies_now(keeping) == 1 && keeping->before.count > 0;
        if (copies_now(keeping) != keeping->noted && !handed_in_vain)
            note(node, keeping, job);
        else if (!keeping->kept)
            acknowledge(node, job);
        keeping->kept = true;
    }
    if (count_of(keeping, WAITS) == 0) {
        conclude(node, keeping, job);
        end(node, keeping);
    }
}

/* ---- Who keeps a job */

/* Whether it keeps what it has for us, or may be back with it soon; of whom nothing is known here any more that is believed. Who
 * leaves for good doesn't wait for anybody, and counts on none that does too. */
static bool is_other_keeper(const struct node *node, const struct mesh_id *id)
{
    struct mesh_member_view view;
    if (memcmp(id, &node->self, sizeof *id) == 0)
        return false;
    if (!mesh_member_find(node->host.mesh, id, &view))
        return true;
    if (view.state == MESH_REVOKED || (node->draining && (view.state == MESH_LEFT || view.capacity.draining)))
        return false;
    return view.state <= MESH_SUSPECT || clock_now_ms() < view.state_at_ms + MESH_REPLACE_MS;
}

uint32_t keep_others(struct node *node, struct copy *copy)
{
    const struct mesh_members *members = copies_members(node, copy);
    uint32_t count = 0;
    for (uint32_t i = 0; i < members->count; i++)
        count += is_other_keeper(node, &members->id[i]);
    return count;
}

const struct mesh_id *keep_home(struct node *node, const struct job *job)
{
    struct mesh_member_view view;
    struct copy *copy = job->state >= JOB_DONE ? copies_find(node, &job->spec.id) : NULL;
    const bool for_another = copy && copy->over && copy->last == 0 &&
                             copy->reign == 0 && /* no journal, no reign */
                             copies_member(&copy->members, &copy->voted) &&
                             memcmp(&copy->voted, &node->self, sizeof node->self) != 0;
    return for_another && mesh_member_find(node->host.mesh, &copy->voted, &view) && view.state <= MESH_SUSPECT
               ? &copy->voted
               : NULL;
}

uint32_t keep_place(struct node *node, struct copy *copy)
{
    const struct mesh_members *members = copies_members(node, copy);
    uint32_t place = 0;
    for (uint32_t i = 0; i < members->count && memcmp(&members->id[i], &node->self, sizeof node->self) != 0;
         i++)
        place += is_other_keeper(node, &members->id[i]);
    return place;
}

bool keep_may_have_more(struct node *node, struct copy *copy)
{
    const struct keeping nobody = {0};
    const struct mesh_members *members = copies_members(node, copy);
    struct mesh_member_view view;
    for (uint32_t i = 0; mesh_member_view(node->host.mesh, i, &view); i++)
        if (may_keep(node, &nobody, &view) && !copies_member(members, &view.id))
            return true;
    return false;
}

/* Those that keep the job already by our head. Who is there is asked too: it says so at once, or takes what it doesn't have. */
static void add_keepers(struct node *node, struct keeping *keeping)
{
    struct copy *copy = copies_find(node, &keeping->job);
    const struct mesh_members *members = copy ? copies_members(node, copy) : NULL;
    for (uint32_t i = 0; copy && i < members->count; i++) {
        struct mesh_member_view view = {.id = members->id[i], .state = MESH_DOWN};
        mesh_member_find(node->host.mesh, &members->id[i], &view);
        if (copies_hoped_for(keeping) < MESH_COPIES_MAX && is_other_keeper(node, &members->id[i]))
            add(keeping, &view, may_keep(node, keeping, &view) ? WAITS : KEEPS);
    }
    if (copy)
        keeping->before = *members;
}

void keep_begin(struct node *node, struct job *job, uint32_t wished, const struct mesh_id *holder)
{
    struct mesh_member_view view;
    struct keeping *keeping = must(calloc(1, sizeof *keeping));
    keeping->job = job->spec.id;
    keeping->created_at_ms = job->spec.created_at_ms;
    keeping->wished = wished;
    keeping->noted = job->copies;
    add_keepers(node, keeping);
    if (copies_hoped_for(keeping) < wished && holder && mesh_member_find(node->host.mesh, holder, &view) &&
        may_keep(node, keeping, &view) && !site_taken(node, keeping, view.site))
        add(keeping, &view, WAITS);
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

static const struct keeping *find(const struct node *node, const struct mesh_id *job)
{
    const struct keeping *keeping = node->keepings;
    while (keeping && memcmp(&keeping->job, job, sizeof *job) != 0)
        keeping = keeping->next;
    return keeping;
}

bool keep_goes_on(const struct node *node, const struct mesh_id *job)
{
    return find(node, job) != NULL;
}

bool keep_holds_up(struct node *node)
{
    for (const struct keeping *keeping = node->keepings; keeping; keeping = keeping->next) {
        const struct job *job = jobs_find(node, &keeping->job);
        if (job && job->is_handed_out)
            return true;
    }
    return false;
}

void keep_names(struct node *node, const struct mesh_id *job, char *out, size_t out_bytes)
{
    const struct keeping *keeping = find(node, job);
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; keeping && i < keeping->asked_count && used < out_bytes; i++)
        if (keeping->asked[i].word == WAITS)
            used += (size_t)snprintf(out + used, out_bytes - used, "%s%s", used ? ", " : "",
                                     peer_name(node, &keeping->asked[i].id));
}

/* ---- Time */

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

/* What is under way comes back no more. */
void keep_close(struct node *node)
{
    while (node->keepings)
        end(node, node->keepings);
}
