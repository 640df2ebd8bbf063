/*
 * Shows that every claim of the simulator can be found broken: for each plant, a host or a checker's input
 * misbehaves on purpose, and within a few seeds the run must end with exactly the claim that guards against
 * it.
 */
#include "node/sim/faults.h"
#include "node/sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEDS 12
#define WORDS_MAX 24
#define SAID_BYTES (1 << 16)

static const struct plant_case {
    const char *name;
    enum sim_plant plant;
    const char *profile;
    enum sim_claim claims[2]; /* either may notice first */
} cases[] = {
    {"a job's save is reported durable and isn't", SIM_PLANT_LOST_SAVE, "none", {SIM_ACKED_IS_DURABLE}},
    {"a commit is applied twice", SIM_PLANT_SECOND_COMMIT, "none", {SIM_COMMIT_IS_FINAL}},
    {"a device returns wrong bytes", SIM_PLANT_WRONG_RESULT, "none", {SIM_COMMIT_IS_FINAL}},
    {"results that agree are told to differ", SIM_PLANT_FALSE_DIGEST, "none", {SIM_WRONG_IS_CAUGHT}},
    {"a restart forgets to raise the epoch", SIM_PLANT_OLD_EPOCH, "crash", {SIM_EPOCHS_GROW}},
    {"an incarnation is used before it is durable",
     SIM_PLANT_LOST_INCARNATION,
     "partition",
     {SIM_ORIGIN_ADVANCES}},
    {"a relay changes a record", SIM_PLANT_FORGED_RECORD, "none", {SIM_ORIGIN_ADVANCES}},
    {"more runs than there are slots", SIM_PLANT_CROWDED_SLOTS, "none", {SIM_SLOTS_HOLD}},
    {"a shard is missing", SIM_PLANT_LOST_SHARD, "none", {SIM_SHARDS_ADD_UP}},
    {"a dead member comes up by itself", SIM_PLANT_UNDEAD, "crash", {SIM_DOWN_STAYS_DOWN}},
    {"a dropped handle stays", SIM_PLANT_LEAK, "none", {SIM_HANDLES_RETURN}},
    {"a handle is dropped twice", SIM_PLANT_DOUBLE_DROP, "none", {SIM_HANDLES_RETURN}},
    {"a run carries another bundle's payload", SIM_PLANT_WILD_ATTEMPT, "none", {SIM_ANSWERS_FIT}},
    {"a step puts out too much", SIM_PLANT_OVERFLOW, "none", {SIM_BOUNDS_HOLD}},
    {"a partition stays", SIM_PLANT_NO_HEAL, "none", {SIM_NOBODY_FALSELY_DOWN, SIM_VIEWS_AGREE}},
    {"a live member is shown down", SIM_PLANT_LATE_ACCUSER, "none", {SIM_VIEWS_AGREE}},
    {"one who is gone is shown up", SIM_PLANT_GHOST, "crash", {SIM_VIEWS_AGREE}},
    {"devices swallow their attempts", SIM_PLANT_STUCK_RUN, "none", {SIM_JOBS_FINISH}},
    {"no RESERVE arrives any more", SIM_PLANT_DEAF_EXECUTOR, "none", {SIM_NO_IDLE_DEVICE}},
    {"a word is repeated for ever", SIM_PLANT_CHATTER, "none", {SIM_QUIET_AGAIN}},
    {"an owner's claim is kept secret", SIM_PLANT_SECRET_CLAIM, "none", {SIM_NEWS_SPREADS}},
    {"a counter counts down", SIM_PLANT_COUNTS_DOWN, "none", {SIM_COUNTERS_GROW}},
};

static bool caught(const struct plant_case *one, struct sim_result *result)
{
    struct sim_options options = sim_options_default();
    options.plant = one->plant;
    options.profile = one->profile;
    options.nodes = 4;
    if (one->plant == SIM_PLANT_NO_HEAL) {
        options.jobs = 0; /* shards that wait beyond a cut would be noticed first */
    }
    for (options.seed = 1; options.seed <= SEEDS; options.seed++) {
        if (!sim_run(&options, result)) {
            return result->claim == one->claims[0] || result->claim == one->claims[1];
        }
    }
    return false;
}

/* A restart that forgets to raise the epoch takes one crash to show: of forty faults that one is left. */
static bool minimises(struct sim_result *result)
{
    struct sim_options options = sim_options_default();
    options.plant = SIM_PLANT_OLD_EPOCH;
    options.profile = "crash";
    options.nodes = 4;
    options.faults = 40;
    options.minutes = 4;
    FILE *const script = tmpfile();
    struct sim_plan *const plan = sim_plan_draw(&options, INT64_C(160000000));
    struct sim_plan *const small = sim_minimise(&options, plan, script);
    bool fine = small != NULL && small->count == 1;
    options.plan = small;
    fine = fine && !sim_run(&options, result) && result->claim == SIM_EPOCHS_GROW;
    sim_plan_free(plan);
    sim_plan_free(small);
    fclose(script);
    return fine;
}

/* What `weir sim` says where a shard is missing, given words with a space between any two. */
static int play(const char *words, char said[SAID_BYTES])
{
    FILE *const out = tmpfile();
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        char *const copy = strdup(words);
        char *argv[WORDS_MAX] = {(char[]){"sim"}};
        int argc = 1;
        for (char *word = strtok(copy, " "); word != NULL && argc < WORDS_MAX; word = strtok(NULL, " ")) {
            argv[argc++] = word;
        }
        dup2(fileno(out), STDOUT_FILENO);
        dup2(fileno(out), STDERR_FILENO);
        struct sim_options options = sim_options_default();
        options.plant = SIM_PLANT_LOST_SHARD;
        const int code = sim_main_with(&options, argc, argv);
        fflush(NULL);
        free(copy);
        _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    rewind(out);
    said[fread(said, 1, SAID_BYTES - 1, out)] = 0;
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The line that begins with `first`, without that. */
static bool find_line(const char *said, const char *first, const char *last, char line[SAID_BYTES])
{
    const char *const at = strstr(said, first);
    const char *const end = at != NULL ? strstr(at + strlen(first), last) : NULL;
    if (end == NULL) {
        return false;
    }
    const size_t bytes = (size_t)(end - at) - strlen(first);
    memcpy(line, at + strlen(first), bytes);
    line[bytes] = 0;
    return true;
}

/* A run fails at the same instant when what it says is played, and says that once more. */
static bool plays_again(const char *words)
{
    static char said[SAID_BYTES], again[SAID_BYTES], command[SAID_BYTES], broke[SAID_BYTES];
    bool fine =
        play(words, said) == 1 && find_line(said, "replay: weir sim ", " --trace sim.trace\n", command) &&
        find_line(said, "seed ", "\n", broke) && play(command, again) == 1 && strstr(again, broke) != NULL;
    fine = fine && strstr(again, command) != NULL;
    if (!fine) {
        printf("%s\n%s\nand then\n%s\n", words, said, again);
    }
    return fine;
}

static bool replays(void)
{
    static char said[SAID_BYTES], failed[SAID_BYTES];
    char folder[] = "/tmp/weir-selftest-XXXXXX";
    char list[64], words[256];
    if (mkdtemp(folder) == NULL) {
        return false;
    }
    snprintf(list, sizeof list, "%s/list", folder);
    snprintf(words, sizeof words, "--seed 3 --nodes 4 --faults crash:5 --plan %s", list);
    bool fine =
        plays_again(
            "--seed 3 --seeds 9 --nodes 4 --site-nodes 2 --jobs 30 --check-every 7 --faults none:0") &&
        plays_again(words);
    snprintf(words, sizeof words, "--script %s --check-every 5", list);
    fine = fine && plays_again(words);
    fine =
        fine &&
        play("--seed 3 --nodes 4 --jobs 30 --check-every 7 --faults none:0 --seeds 9 --json", said) == 1 &&
        find_line(said, "\"failed\": {", "}", failed) &&
        strcmp(
            failed,
            "\"seed\": 3, \"claim\": \"every shard is looked up, queued, assigned, held or committed; none "
            "vanishes\", \"replay\": \"weir sim --seed 3 --nodes 4 --minutes 10 --jobs 30 --faults none:0 "
            "--check-every 7 --trace sim.trace\"") == 0;
    unlink(list);
    rmdir(folder);
    return fine;
}

int main(void)
{
    struct sim_result *const result = malloc(sizeof *result);
    int missed = 0;
    if (result == NULL) {
        return 1;
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bool found = caught(&cases[i], result);
        printf("%s  %s\n", found ? "caught" : "MISSED", cases[i].name);
        if (!found) {
            missed++;
            printf("%.*s\n", 2000, result->ok ? "  no claim was broken" : result->failure);
        }
    }
    const bool all_planted = sizeof cases / sizeof cases[0] == SIM_PLANTS - 1;
    if (!all_planted) {
        printf("a plant has no case here\n");
    }
    if (!minimises(result)) {
        printf("MISSED  forty faults are cut down to the one that matters\n");
        missed++;
    }
    if (!replays()) {
        printf("MISSED  what a failing run says plays it again\n");
        missed++;
    }
    free(result);
    return missed != 0 || !all_planted;
}
