/*
 * What is asked of a step's output before something is said: just so much is enough, one less is too little, and what is
 * not needed may be full. What has no room then comes in a later step, or again.
 */
#include "mesh/internal.h"

#include "mesh_journal_fixture.h"

enum { PEERS = 4 };

/* A job of a single copy at work: three bundles at two peers, and shards that wait. */
static struct fixture *open_busy(void)
{
    struct fixture *const f = open_member(PEERS, 8);
    for (uint32_t peer = 0; peer < PEERS; peer++) {
        fixture_capacity(f, peer, 2, 2, 0);
        speaks(f, peer, MESH_PROTOCOL_MAX);
    }
    fixture_devices(f, 2, 0);
    struct mesh_job_spec spec = spec_of(1, 40);
    spec.bundle_shards_max = 1;
    submit_spec(f, &spec);
    grant(f, 0, 1, 7, 2);
    grant(f, 1, 1, 8, 1);
    return f;
}

static const struct job *job_of(const struct fixture *f)
{
    return &f->mesh->home.job[0];
}

static uint32_t slot_of(const struct fixture *f, uint32_t peer)
{
    return members_find(f->mesh, &f->peer[peer]);
}

static void decides(struct fixture *f, struct step *step)
{
    home_decide(step, job_of(f), MESH_NONE, MESH_WHY_NOBODY, 0, 1);
}

static void answers_a_renewal_of_a_job_that_is_over(struct fixture *f, struct step *step)
{
    struct mesh_message renew = {.kind = MESH_RENEW};
    renew.body.renew.count = 1;
    renew.body.renew.name[0] = (struct mesh_bundle_name){.token = 7};
    f->mesh->home.job[0].state = MESH_JOB_CANCELLED;
    home_renew(step, slot_of(f, 0), &renew);
    f->mesh->home.job[0].state = MESH_JOB_RUNNING;
}

static void calls_a_cancelled_job_back(struct fixture *f, struct step *step)
{
    struct home *const home = &f->mesh->home;
    home->job[0].state = MESH_JOB_CANCELLED;
    home->job[0].ending = ++home->endings;
    bundles_call_back(step, 0);
}

static void tells_who_is_home(struct fixture *f, struct step *step)
{
    bundles_tell_home(step, 0, &f->peer[2]);
}

static void acknowledges(struct fixture *f, struct step *step)
{
    struct home *const home = &f->mesh->home;
    if (home->acks.count == 0) {
        const uint32_t slot = pool_take(&home->ack_pool, home->ack_link);
        home->ack[slot] =
            (struct ack){.name = {.token = 7}, .member = slot_of(f, 0), .due_at_ms = step->now_ms};
        list_append(&home->acks, home->ack_link, slot);
        home->member[slot_of(f, 0)].acks++;
    }
    acks_tick(step);
}

static void asks_for_places(struct fixture *f, struct step *step)
{
    while (job_of(f)->asks.count > 0)
        placement_drop(step, 0, list_first(&job_of(f)->asks));
    placement_serve(step, 0);
}

static void withdraws_what_it_asked_for(struct fixture *f, struct step *step)
{
    f->mesh->home.job[0].queued = 0;
    placement_serve(step, 0);
}

static void serves_its_jobs(struct fixture *f, struct step *step)
{
    while (job_of(f)->asks.count > 0)
        placement_drop(step, 0, list_first(&job_of(f)->asks));
    home_job_ready(&f->mesh->home, 0);
    home_tick(step);
}

static void grants_a_place(struct fixture *f, struct step *step)
{
    struct mesh_message wish = {.kind = MESH_WISH};
    wish.body.reserve.job = fixture_job(9);
    wish.body.reserve.classes = wish.body.reserve.wanted = 1;
    wish.body.reserve.patient = true;
    executor_reserve(step, slot_of(f, 0), &wish);
}

static void asks_about_its_disk(struct fixture *f, struct step *step)
{
    struct member_notes *const notes = members_edit_notes(f->mesh, slot_of(f, 3));
    notes->disk_told = notes->disk_asked = false;
    notes->disk_ask_at_ms = 0;
    disk_linked(step, slot_of(f, 3));
}

static void names_contacts(struct fixture *f, struct step *step)
{
    tiers_wanted(step, &f->peer[0], &(struct mesh_entry){.kind = MESH_RECORD_MEMBER});
}

/* An attempt of peer 0 runs; peer 1 keeps the job's journal, too. */
static uint32_t run_one(struct fixture *f)
{
    struct mesh_message reserve = {.kind = MESH_RESERVE};
    reserve.body.reserve.job = fixture_job(9);
    reserve.body.reserve.classes = reserve.body.reserve.wanted = 1;
    fixture_message(f, 0, &reserve);
    struct mesh_message message = {.kind = MESH_ASSIGN};
    const struct grant *const grant = &f->mesh->executor.grant[list_first(&f->mesh->executor.grants)];
    message.body.assign.name.token = grant->token;
    message.body.assign.job = fixture_job(9);
    message.body.assign.count = 1;
    message.body.assign.others = (struct mesh_members){.count = 1, .id = {f->peer[1]}};
    message.body.assign.handle = fixture_handle(f);
    fixture_message(f, 0, &message);
    return list_first(&f->mesh->executor.leases);
}

static void reports_an_attempt(struct fixture *f, struct step *step)
{
    const struct executor *const executor = &f->mesh->executor;
    adopt_report(step, &executor->attempt[list_first(&executor->leases)]);
}

static void stops_an_attempt(struct fixture *f, struct step *step)
{
    struct mesh_message cancel = {.kind = MESH_CANCEL};
    cancel.body.cancel.job = fixture_job(9);
    executor_cancel(step, slot_of(f, 0), &cancel);
}

static void renews_a_lease(struct fixture *f, struct step *step)
{
    struct executor *const executor = &f->mesh->executor;
    const uint32_t slot = list_first(&executor->leases);
    executor->attempt[slot].due_at_ms = step->now_ms + 1;
    executor->attempt[slot].renewed_at_ms = step->now_ms;
    executor->home[slot_of(f, 0)].renew_at_ms = step->now_ms;
    executor_tick(step);
}

static void sends_a_result_again(struct fixture *f, struct step *step)
{
    struct executor *const executor = &f->mesh->executor;
    struct attempt *const attempt = &executor->attempt[list_first(&executor->results)];
    attempt->due_at_ms = attempt->renewed_at_ms = attempt->finished_at_ms = step->now_ms;
    executor_tick(step);
}

static struct fixture *open_executor(bool finished)
{
    struct fixture *const f = open_member(PEERS, 8);
    fixture_devices(f, 2, 0);
    const uint32_t slot = run_one(f);
    struct mesh_event event = {.kind = MESH_RAN};
    event.body.ran.attempt = slot;
    event.body.ran.count = 1;
    event.body.ran.outcome[0] = MESH_DONE;
    if (finished)
        fixture_step(f, &event);
    return f;
}

static struct fixture *open_running(void)
{
    return open_executor(false);
}

static struct fixture *open_finished(void)
{
    return open_executor(true);
}

static void tends_its_journal(struct fixture *f, struct step *step)
{
    struct journals *const journals = &f->mesh->journals;
    journals->scan_at_ms = step->now_ms;
    journals->scan_next = 0;
    journals->journal[0].beat_at_ms = step->now_ms - JOURNAL_BEAT_MS;
    journals_tick(step);
}

/* The home of a job with a journal, of which the others hold the first entry. */
static struct fixture *open_home_of_journal(void)
{
    struct fixture *const f = open_member(PEERS, 8);
    struct mesh_job_spec spec = spec_of(1, 4);
    spec.copies = 3;
    struct mesh_event event = {.kind = MESH_SUBMIT};
    event.body.submit = spec;
    fixture_step(f, &event);
    return f;
}

static void sends_its_log(struct fixture *f, struct step *step)
{
    struct journal *const journal = &f->mesh->journals.journal[0];
    journal->peer[1].behind = false;
    journal->peer[1].held = journal->peer[1].sent = 0;
    struct mesh_message message = {.kind = MESH_APPENDED};
    message.body.appended.job = journal->job;
    message.body.appended.epoch = 1;
    journal_on_appended(step, members_find(f->mesh, &journal->members.id[1]), &message);
}

/* Whether it is said, beside what was said before, in an output with just so much room. */
static bool said_in(struct fixture *f, void (*say)(struct fixture *f, struct step *step), uint32_t saves,
                    uint32_t sends, uint32_t effects)
{
    struct mesh_out *const out = f->out;
    struct step step = {
        .mesh = f->mesh, .out = out, .now_ms = f->now_ms, .wall_ms = FIXTURE_WALL_MS + f->now_ms};
    out->save_count = MESH_OUT_SAVES_MAX - saves;
    out->send_count = MESH_OUT_SENDS_MAX - sends;
    out->effect_count = MESH_OUT_EFFECTS_MAX - effects;
    say(f, &step);
    return out->save_count + out->send_count + out->effect_count + saves + sends + effects >
           MESH_OUT_SAVES_MAX + MESH_OUT_SENDS_MAX + MESH_OUT_EFFECTS_MAX;
}

static void so_much_room_is_needed_and_no_more(void **state)
{
    (void)state;
    static const struct {
        struct fixture *(*open)(void);
        void (*say)(struct fixture *f, struct step *step);
        uint32_t saves, sends, effects;
    } cases[] = {
        {open_busy, decides, 0, 0, 64},
        {open_busy, answers_a_renewal_of_a_job_that_is_over, 0, 24, 0},
        {open_busy, calls_a_cancelled_job_back, 0, 1, 0},
        {open_busy, tells_who_is_home, 0, 48, 0},
        {open_busy, acknowledges, 0, 1, 0},
        {open_busy, asks_for_places, 0, 1, 0},
        {open_busy, withdraws_what_it_asked_for, 0, 1, 0},
        {open_busy, serves_its_jobs, 0, 64, 32},
        {open_busy, grants_a_place, 0, 1, 0},
        {open_busy, asks_about_its_disk, 2, 24, 0},
        {open_busy, names_contacts, 0, 16, 0},
        {open_running, reports_an_attempt, 0, 48, 0},
        {open_running, stops_an_attempt, 0, 0, 64},
        {open_running, renews_a_lease, 0, 1, 0},
        {open_finished, sends_a_result_again, 0, 1, 0},
        {open_home_of_journal, tends_its_journal, 4, 24, 128},
        {open_home_of_journal, sends_its_log, 0, 0, 64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t needed[3] = {cases[i].saves, cases[i].sends, cases[i].effects};
        for (uint32_t lacks = 0; lacks < 4; lacks++) { /* the last time nothing */
            if (lacks < 3 && needed[lacks] == 0)
                continue;
            struct fixture *const f = cases[i].open();
            const bool said = said_in(f, cases[i].say, needed[0] - (lacks == 0), needed[1] - (lacks == 1),
                                      needed[2] - (lacks == 2));
            if (said != (lacks == 3))
                fail_msg("case %zu, lacking %u", i, lacks);
            fixture_close(f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(so_much_room_is_needed_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
