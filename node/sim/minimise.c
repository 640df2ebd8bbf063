/*
 * Makes a failing run small. Each try runs in a child, which says by its exit code how the run ended; a try is the same
 * failure if the same claim breaks, or if the core stops as before: on an assertion, a signal or a sanitizer's word.
 */
#include "node/sim/faults.h"
#include "node/sim/world.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDED_WELL 0
#define ENDED_CLAIM 100 /* and the claim; what stops a process ends it with less, or by a signal */
#define ENDED_BADLY 1

struct search {
    struct sim_options options;
    int failure; /* how the whole run ends */
    uint32_t tries;
    FILE *progress;
};

static int try(struct search *search, const struct sim_plan *plan)
{
    search->tries++;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        struct sim_result *const result = sim_alloc(1, sizeof *result);
        struct sim_options options = search->options;
        options.plan = plan;
        options.trace = NULL;
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(ENDED_BADLY);
        }
        _exit(sim_run(&options, result) ? ENDED_WELL : ENDED_CLAIM + (int)result->claim);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        fprintf(stderr, "weir: sim: cannot start a process for a try\n");
        exit(1);
    }
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : ENDED_BADLY;
    return code == ENDED_WELL || (code > ENDED_CLAIM && code < ENDED_CLAIM + SIM_CLAIMS) ? code : ENDED_BADLY;
}

/* Whether the run still fails in the same way without faults [from, from + count). If so they are taken out. */
static bool without(struct search *search, struct sim_plan *plan, uint32_t from, uint32_t count)
{
    struct sim_plan *const less = sim_plan_copy(plan);
    memmove(&less->fault[from], &less->fault[from + count],
            (less->count - from - count) * sizeof *less->fault);
    less->count -= count;
    const bool same = try(search, less) == search->failure;
    if (same) {
        memcpy(plan->fault, less->fault, less->count * sizeof *less->fault);
        plan->count = less->count;
        fprintf(search->progress, "%u faults are enough, after %u runs\n", plan->count, search->tries);
    }
    sim_plan_free(less);
    return same;
}

/* Takes out halves, then quarters, down to single faults, until no single one can go. */
static void shrink_faults(struct search *search, struct sim_plan *plan)
{
    uint32_t piece = plan->count;
    while (piece != 0 && plan->count != 0) {
        bool any = false;
        for (uint32_t from = 0; from < plan->count;) {
            const uint32_t count = piece < plan->count - from ? piece : plan->count - from;
            if (without(search, plan, from, count)) {
                any = true;
            } else {
                from += count;
            }
        }
        if (!any || piece > plan->count) {
            piece = piece > plan->count ? plan->count : piece / 2;
        }
    }
}

static void shrink_network(struct search *search, struct sim_plan *plan)
{
    struct sim_plan *const calm = sim_plan_copy(plan);
    calm->adversarial = false;
    calm->loss_permille = calm->double_permille = calm->reorder_permille = calm->corrupt_permille = 0;
    if (try(search, calm) == search->failure) {
        struct sim_fault *const fault = plan->fault;
        *plan = *calm;
        plan->fault = fault;
    }
    sim_plan_free(calm);
}

static void shrink_jobs(struct search *search, const struct sim_plan *plan)
{
    const uint32_t jobs = search->options.jobs;
    for (uint32_t fewer = 0; fewer < jobs; fewer = fewer * 2 + 1) {
        search->options.jobs = fewer;
        if (try(search, plan) == search->failure) {
            return;
        }
    }
    search->options.jobs = jobs;
}

struct sim_plan *sim_minimise(struct sim_options *options, const struct sim_plan *plan, FILE *progress)
{
    struct search search = {.options = *options, .progress = progress};
    search.failure = try(&search, plan);
    if (search.failure == ENDED_WELL) {
        return NULL;
    }
    struct sim_plan *const small = sim_plan_copy(plan);
    fprintf(progress, "%u faults: %s\n", plan->count,
            search.failure == ENDED_BADLY ? "the core stops"
                                          : sim_check_claim((enum sim_claim)(search.failure - ENDED_CLAIM)));
    shrink_faults(&search, small);
    shrink_network(&search, small);
    shrink_jobs(&search, small);
    shrink_faults(&search, small);
    options->jobs = search.options.jobs;
    return small;
}
