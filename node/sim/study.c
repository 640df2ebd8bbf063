/* The table of studies, and what they have in common: figures, and a world that starts warm. */
#include "node/sim/study.h"

#include "node/sim/world.h"

#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern const struct sim_study study_hops;
extern const struct sim_study study_hops_loss10;
extern const struct sim_study study_traffic_idle;
extern const struct sim_study study_traffic_busy;
extern const struct sim_study study_detect_reset;
extern const struct sim_study study_detect_silent;
extern const struct sim_study study_detect_silent_loss10;
extern const struct sim_study study_evictions_loss10;
extern const struct sim_study study_evictions_oneway;
extern const struct sim_study study_heal;
extern const struct sim_study study_owner;
extern const struct sim_study study_placement;
extern const struct sim_study study_speculation;
extern const struct sim_study study_speed;
extern const struct sim_study study_tiers;
extern const struct sim_study study_verify;

static const struct sim_study *const studies[] = {
    &study_hops,
    &study_hops_loss10,
    &study_traffic_idle,
    &study_traffic_busy,
    &study_detect_reset,
    &study_detect_silent,
    &study_detect_silent_loss10,
    &study_evictions_loss10,
    &study_evictions_oneway,
    &study_heal,
    &study_owner,
    &study_placement,
    &study_speculation,
    &study_speed,
    &study_tiers,
    &study_verify,
};
/* A mesh from which several studies go on has started within the first and been at rest for the second. */
#define SPREAD_US (5 * SECOND_US)
#define REST_US (120 * SECOND_US)
#define NAMES_MAX 32
#define STOPPED_CODE 6 /* in part */

#define STUDIES (sizeof studies / sizeof studies[0])

/* ---- Figures. */

void study_add(struct study_report *report, const char *name, const char *unit, int64_t value,
               uint32_t decimals)
{
    if (report->count == STUDY_FIGURES_MAX) {
        return;
    }
    report->figure[report->count++] =
        (struct study_figure){.name = name, .unit = unit, .value = value, .decimals = decimals};
}

void study_add_ratio(struct study_report *report, const char *name, uint64_t part, uint64_t whole)
{
    if (whole != 0) {
        study_add(report, name, "", (int64_t)(part * 1000 / whole), 3);
    }
}

static int compare_samples(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left;
    const int64_t b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

int64_t study_quantile(int64_t *sample, uint32_t count, uint32_t permille)
{
    qsort(sample, count, sizeof *sample, compare_samples);
    const uint64_t rank = ((uint64_t)count * permille + 999) / 1000;
    return sample[rank > 0 ? rank - 1 : 0];
}

void study_value_text(const struct study_figure *figure, char text[STUDY_VALUE_BYTES])
{
    int64_t one = 1;
    for (uint32_t i = 0; i < figure->decimals; i++) {
        one *= 10;
    }
    const uint64_t size = figure->value < 0 ? (uint64_t)-figure->value : (uint64_t)figure->value;
    const int length =
        snprintf(text, STUDY_VALUE_BYTES, "%s%" PRIu64, figure->value < 0 ? "-" : "", size / (uint64_t)one);
    if (figure->decimals != 0) {
        snprintf(text + length, STUDY_VALUE_BYTES - (size_t)length, ".%0*" PRIu64, (int)figure->decimals,
                 size % (uint64_t)one);
    }
}

/* ---- A warm world. */

/* SIGTERM ends the loop of the world that runs, as a broken claim would. */
static struct world *running;
static volatile sig_atomic_t stop_asked;

static void on_stop(int signal)
{
    (void)signal;
    stop_asked = 1;
    if (running != NULL) {
        running->failed = true;
    }
}

bool study_stopped(void)
{
    return stop_asked != 0;
}

static bool failed(const struct world *world, struct study_report *report)
{
    if (stop_asked) {
        snprintf(report->failure, sizeof report->failure, "stopped after %lld virtual s",
                 (long long)(world->now_us / SECOND_US));
        return true;
    }
    if (world->failed) {
        snprintf(report->failure, sizeof report->failure, "%.*s", (int)strcspn(world->result->failure, "\n"),
                 world->result->failure);
    }
    return world->failed;
}

struct world *study_open(const struct study_options *options, int64_t spread_us,
                         const struct study_watch *watch, struct study_report *report)
{
    if (options->rested != NULL) {
        options->rested->watch = watch;
        return options->rested;
    }
    struct world *const world = sim_alloc(1, sizeof *world);
    struct sim_result *const result = sim_alloc(1, sizeof *result);
    struct sim_options sim = sim_options_default();
    sim.seed = options->seed;
    sim.nodes = options->nodes;
    sim.site_nodes = options->site_nodes;
    sim.jobs = 0;
    sim.faults = 0;
    sim.profile = "none";
    sim.check_every = 1000000000;
    sim.source = options->source;
    sim_world_init(world, &sim, result);
    running = world;
    world->watch = watch;
    world->end_us = 0;
    for (uint32_t i = 0; i < options->nodes; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        /* No check at its first step either: it would look at all of each core's tables. */
        sim_world_add_host(world, name, i)->steps_to_check = sim.check_every;
    }
    if (options->from_disks) {
        sim_layout_disks(world, spread_us);
    } else {
        sim_layout(world);
    }
    if (failed(world, report) || (options->from_disks && !study_run(world, spread_us, report))) {
        study_close(world, report);
        return NULL;
    }
    return world;
}

void study_lose(struct world *world, uint32_t permille)
{
    world->network.adversarial = permille != 0;
    world->network.loss_permille = permille;
}

bool study_run(struct world *world, int64_t for_us, struct study_report *report)
{
    world->end_us = world->now_us + for_us;
    sim_world_loop(world);
    return !failed(world, report);
}

bool study_concerns(const struct host *origin, const struct host *other)
{
    return origin->site == other->site || (!origin->interior && !other->interior);
}

static uint32_t count_upper(const struct world *world, uint32_t first, uint32_t end)
{
    uint32_t count = 0;
    for (uint32_t i = first; i < end; i++) {
        count += !world->host[i].interior;
    }
    return count;
}

static uint32_t count_up(const struct host *host)
{
    uint32_t up = 0;
    struct mesh_member_view view;
    for (uint32_t index = 0; mesh_member_view(host->mesh, index, &view); index++) {
        up += view.state == MESH_UP && !view.guest;
    }
    return up;
}

/* Hosts of one site stand side by side. */
static bool all_up(const struct world *world)
{
    const uint32_t upper = count_upper(world, 0, world->host_count);
    for (uint32_t first = 0, end; first < world->host_count; first = end) {
        for (end = first; end < world->host_count && world->host[end].site == world->host[first].site;
             end++) {
        }
        const uint32_t elsewhere = upper - count_upper(world, first, end);
        for (uint32_t i = first; i < end; i++) {
            const struct host *const host = &world->host[i];
            if (!host->alive || count_up(host) != end - first + (host->interior ? 0 : elsewhere)) {
                return false;
            }
        }
    }
    return true;
}

bool study_settle(struct world *world, int64_t most_us, struct study_report *report)
{
    for (int64_t waited_us = 0; waited_us < most_us; waited_us += SECOND_US) {
        if (all_up(world)) {
            return true;
        }
        if (!study_run(world, SECOND_US, report)) {
            return false;
        }
    }
    if (all_up(world)) {
        return true;
    }
    snprintf(report->failure, sizeof report->failure, "after %lld s not every node shows all others up",
             (long long)(most_us / SECOND_US));
    return all_up(world);
}

void study_close(struct world *world, struct study_report *report)
{
    if (world == NULL) {
        return;
    }
    running = NULL;
    struct sim_result *const result = world->result;
    report->virtual_us += world->now_us;
    sim_world_finish(world);
    free(result);
    free(world);
}

/* ---- The command. */

static const char *beginning(const struct sim_study *study, const struct study_options *options)
{
    return !study->from_rest ? "anew" : options->from_disks ? "from disks" : "laid out";
}

static void print_json(const struct sim_study *study, const struct study_options *options,
                       const struct study_report *report, int64_t cpu_ms, long rss_mb)
{
    printf("{\"study\": \"%s\", \"nodes\": %u, \"seed\": %" PRIu64, study->name, options->nodes,
           options->seed);
    if (study->minutes != 0) {
        printf(", \"minutes\": %u", options->minutes);
    }
    printf(", \"begins\": \"%s\", \"virtual_s\": %" PRId64 ", \"cpu_ms\": %" PRId64
           ", \"rss_mb\": %ld, \"figures\": {",
           beginning(study, options), report->virtual_us / SECOND_US, cpu_ms, rss_mb);
    for (uint32_t i = 0; i < report->count; i++) {
        char value[STUDY_VALUE_BYTES];
        study_value_text(&report->figure[i], value);
        printf("%s\"%s\": %s", i != 0 ? ", " : "", report->figure[i].name, value);
    }
    printf("}}\n");
}

/* What the figure is called within the column, or NULL if it stands in none, or in another. */
static const char *in_column(const struct study_figure *figure, const char *column)
{
    const size_t length = strlen(column);
    return strncmp(figure->name, column, length) == 0 && figure->name[length] == '_'
               ? figure->name + length + 1
               : NULL;
}

static bool in_columns(const struct study_figure *figure, const char *const *columns)
{
    for (; columns != NULL && *columns != NULL; columns++) {
        if (in_column(figure, *columns) != NULL) {
            return true;
        }
    }
    return false;
}

static void print_cell(const struct study_report *report, const char *column, const char *row)
{
    char text[STUDY_VALUE_BYTES] = "";
    for (uint32_t i = 0; i < report->count; i++) {
        const char *const name = in_column(&report->figure[i], column);
        if (name != NULL && strcmp(name, row) == 0) {
            study_value_text(&report->figure[i], text);
        }
    }
    printf("  %*s", (int)strlen(column) > 7 ? (int)strlen(column) : 7, text);
}

/* The rows are the figures of the first column. */
static void print_columns(const struct study_report *report, const char *const *columns)
{
    printf("  %-22s", "");
    for (uint32_t i = 0; columns[i] != NULL; i++) {
        printf("  %7s", columns[i]);
    }
    printf("\n");
    for (uint32_t i = 0; i < report->count; i++) {
        const char *const row = in_column(&report->figure[i], columns[0]);
        if (row == NULL) {
            continue;
        }
        printf("  %-22s", row);
        for (uint32_t j = 0; columns[j] != NULL; j++) {
            print_cell(report, columns[j], row);
        }
        printf("\n");
    }
}

static void print_table(const struct sim_study *study, const struct study_options *options,
                        const struct study_report *report, int64_t cpu_ms, long rss_mb)
{
    printf("%s: %s\n%u nodes, seed %" PRIu64 ", begins %s\n", study->name, study->meaning, options->nodes,
           options->seed, beginning(study, options));
    if (study->columns != NULL) {
        print_columns(report, study->columns);
    }
    for (uint32_t i = 0; i < report->count; i++) {
        if (!in_columns(&report->figure[i], study->columns)) {
            char value[STUDY_VALUE_BYTES];
            study_value_text(&report->figure[i], value);
            printf("  %-32s %s%s%s\n", report->figure[i].name, value, *report->figure[i].unit != 0 ? " " : "",
                   report->figure[i].unit);
        }
    }
    printf("%" PRId64 " virtual s in %" PRId64 ".%01" PRId64 " s of processor time, %ld MB\n",
           report->virtual_us / SECOND_US, cpu_ms / 1000, cpu_ms % 1000 / 100, rss_mb);
}

static int list_studies(bool json)
{
    if (json) {
        printf("{\"studies\": [");
        for (size_t i = 0; i < STUDIES; i++) {
            printf("%s\"%s\"", i != 0 ? ", " : "", studies[i]->name);
        }
        printf("]}\n");
        return 0;
    }
    for (size_t i = 0; i < STUDIES; i++) {
        printf("%-20s %s\n", studies[i]->name, studies[i]->meaning);
    }
    return 0;
}

static int64_t cpu_ms_used(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/*
 * A core's memory is large and mostly never used: it costs nothing as long as it comes straight from the system, zeroed. By
 * itself malloc would take it from what was freed, and clear it, once it has seen such pieces come and go.
 */
static void keep_untouched_memory_untouched(void)
{
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
    mallopt(M_MMAP_MAX, INT32_MAX);
}

static const struct sim_study *find_study(const char *name, size_t length)
{
    for (size_t i = 0; i < STUDIES; i++) {
        if (strlen(studies[i]->name) == length && memcmp(studies[i]->name, name, length) == 0) {
            return studies[i];
        }
    }
    return NULL;
}

static long peak_rss_mb(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss / 1024;
}

/* What the user left to the studies; several that begin with one mesh begin with the first one's. */
static void fill_options(const struct sim_study *study, struct study_options *options)
{
    options->nodes = options->nodes != 0 ? options->nodes : study->nodes;
    if (options->site_nodes == 0) {
        options->site_nodes = study->site_nodes != 0 ? study->site_nodes : sim_site_nodes(options->nodes);
    }
}

static int run_study(const struct sim_study *study, struct study_options options)
{
    options.minutes = options.minutes != 0 ? options.minutes : study->minutes;
    struct study_report report = {0};
    const int64_t began_ms = cpu_ms_used();
    if (!study->run(&options, &report)) {
        fprintf(stderr, "weir: sim: study %s, seed %" PRIu64 ": %s\n", study->name, options.seed,
                report.failure);
        return study_stopped() ? STOPPED_CODE : 1;
    }
    (options.json ? print_json : print_table)(study, &options, &report, cpu_ms_used() - began_ms,
                                              peak_rss_mb());
    fflush(stdout);
    if (!study_bounds_hold(options.bounds, study->name, &report)) {
        return 1;
    }
    return study_stopped() ? STOPPED_CODE : 0;
}

/* A study in a process of its own: it may do with the mesh what it likes, and a claim that breaks ends it alone. */
static int run_apart(const struct sim_study *study, const struct study_options *options)
{
    const pid_t child = fork();
    if (child == 0) {
        _exit(run_study(study, *options));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("weir: sim");
        return 1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int run_from_rest(const struct sim_study *const *chosen, uint32_t count, struct study_options options)
{
    struct study_report report = {0};
    struct world *const world = study_open(&options, SPREAD_US, NULL, &report);
    if (world == NULL || !study_run(world, REST_US, &report)) {
        fprintf(stderr, "weir: sim: the start of the mesh, seed %" PRIu64 ": %s\n", options.seed,
                report.failure);
        return 1;
    }
    options.rested = world;
    options.rested_cpu_ms = cpu_ms_used();
    options.rested_rss_mb = peak_rss_mb();
    fprintf(stderr,
            "%u nodes have started and rested: %" PRId64 " virtual s in %" PRId64
            " s of processor time, %ld MB\n",
            options.nodes, world->now_us / SECOND_US, options.rested_cpu_ms / 1000, options.rested_rss_mb);
    int worst = 0;
    for (uint32_t i = 0; i < count; i++) {
        const int code = run_apart(chosen[i], &options);
        worst = code > worst ? code : worst;
    }
    study_close(world, &report);
    return worst;
}

static int refuse(const char *study, const char *what)
{
    fprintf(stderr, "weir: sim: study %s: %s\n", study, what);
    return 2;
}

/* What the user chose must mean something to the studies: minutes and samples to one of them at least. */
static int refuse_options(const struct sim_study *const *chosen, uint32_t count,
                          const struct study_options *said, const struct study_options *filled)
{
    bool minutes = false;
    bool samples = false;
    for (uint32_t i = 0; i < count; i++) {
        if (filled->nodes < chosen[i]->nodes_least) {
            char text[64];
            snprintf(text, sizeof text, "it takes %u nodes or more", chosen[i]->nodes_least);
            return refuse(chosen[i]->name, text);
        }
        if (!chosen[i]->from_rest && (said->from_disks || said->site_nodes != 0)) {
            return refuse(chosen[i]->name, "it begins anew, with sites of its own: neither --from-disks nor "
                                           "--site-nodes goes with it");
        }
        minutes = minutes || chosen[i]->minutes != 0;
        samples = samples || chosen[i]->samples;
    }
    if (said->minutes != 0 && !minutes) {
        return refuse(chosen[0]->name, "it takes as long as it takes: --minutes does not go with it");
    }
    if (said->samples != 0 && !samples) {
        return refuse(chosen[0]->name, "--samples does not go with it");
    }
    if (chosen[0]->from_rest && !sim_sites_fit(filled->nodes, filled->site_nodes)) {
        return refuse(chosen[0]->name, SIM_UNFIT_TEXT);
    }
    return 0;
}

static int choose_studies(const char *names, const struct sim_study **chosen, uint32_t *count)
{
    for (const char *name = names; name != NULL && *count < NAMES_MAX;) {
        const size_t length = strcspn(name, ",");
        const struct sim_study *const study = find_study(name, length);
        if (study == NULL || (!study->from_rest && strlen(names) != length)) {
            fprintf(stderr, "weir: sim: there is no study %.*s%s; see weir sim --study list\n", (int)length,
                    name, study != NULL ? " that begins with a mesh at rest" : "");
            return 2;
        }
        chosen[(*count)++] = study;
        name = name[length] == ',' ? name + length + 1 : NULL;
    }
    return 0;
}

int study_main(const char *names, struct study_options options)
{
    if (strcmp(names, "list") == 0) {
        return list_studies(options.json);
    }
    const struct sim_study *chosen[NAMES_MAX];
    uint32_t count = 0;
    const struct study_options said = options;
    int code = choose_studies(names, chosen, &count);
    if (code != 0) {
        return code;
    }
    fill_options(chosen[0], &options);
    code = refuse_options(chosen, count, &said, &options);
    if (code != 0) {
        return code;
    }
    keep_untouched_memory_untouched();
    signal(SIGTERM, on_stop);
    options.bounds =
        mmap(NULL, sizeof *options.bounds, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (options.bounds == MAP_FAILED) {
        perror("weir: sim");
        return 1;
    }
    *options.bounds = *said.bounds;
    code = count == 1 ? run_study(chosen[0], options) : run_from_rest(chosen, count, options);
    return code == 0 && !study_bounds_stated(options.bounds) ? 2 : code;
}
