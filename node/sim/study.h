/*
 * Studies: named measurements over the production core, behind `weir sim --study NAME`.
 *
 *     weir sim --study hops --nodes 1000 --seed 7 --json
 *
 * A study builds a world of its own, lets it run, and states figures; it judges nothing. What the figures ought to
 * be stands in tests/sim/report.py, which runs studies and sets aims beside what was measured; a test says what they
 * must not be above (--at-most). Each study is a file
 * study_*.c with one struct sim_study, listed once in study.c. The same options give the same figures, but for
 * those that time the simulator itself.
 */
#ifndef NODE_SIM_STUDY_H
#define NODE_SIM_STUDY_H

#include <stdbool.h>
#include <stdint.h>

struct mesh_id;
struct world;
struct host;
struct flight;
struct mesh_effect;
struct sim_options;

#define STUDY_FIGURES_MAX 96
#define STUDY_BOUNDS_MAX 32

struct study_figure {
    const char *name; /* static; a word of [a-z0-9_], the key in JSON */
    const char *unit; /* static; "" for counts and ratios */
    int64_t value;    /* in units of 10^-decimals: 273 with 3 decimals is 0.273 */
    uint32_t decimals;
};

struct study_report {
    uint32_t count;
    struct study_figure figure[STUDY_FIGURES_MAX];
    int64_t virtual_us; /* simulated in all; study_close() adds up */
    char failure[512];  /* why there are no figures, one line */
};

#define STUDY_VALUE_BYTES 32
void study_value_text(const struct study_figure *figure, char text[STUDY_VALUE_BYTES]);

/* What the user says a figure must not be above, or below. */
struct study_bound {
    char figure[48];
    char limit[24];     /* as it was written, */
    int64_t millionths; /* and what it is */
    bool least;
    bool stated; /* a study that ran has such a figure */
};

struct study_bounds {
    uint32_t count;
    struct study_bound bound[STUDY_BOUNDS_MAX];
};

/* Adds what `hops=6,redundancy=0.3` says. Returns false if it is not so written, or is too much. */
bool study_bounds_read(struct study_bounds *bounds, const char *text, bool least);
/* Whether the report keeps to the bounds on its figures; says on stderr where not, and notes which it states. */
bool study_bounds_hold(struct study_bounds *bounds, const char *study, const struct study_report *report);
/* Whether each bound was on a figure that some study stated; says on stderr which was not. */
bool study_bounds_stated(const struct study_bounds *bounds);

struct study_options {
    uint32_t nodes;      /* never 0: the study's own number unless the user chose one */
    uint32_t site_nodes; /* nodes per site, as `nodes` */
    uint64_t seed;       /* 1 unless chosen */
    uint32_t minutes;    /* of virtual time, as `nodes`; 0 for a study that knows none */
    uint32_t samples;    /* origins, deaths: as many as the study likes, or fewer if chosen; 0 = not chosen */
    bool json;
    struct study_bounds *bounds; /* shared with the processes of studies that run apart; borrowed */
    const char *source;          /* the options as they were said, for who plays it again; borrowed */
    bool from_disks;       /* study_open() starts all nodes from their disks instead of laying the mesh out */
    struct world *rested;  /* a mesh that study_open() gives instead of a new one, or NULL */
    int64_t rested_cpu_ms; /* what it took to get there, */
    long rested_rss_mb;    /* and the most memory */
};

struct sim_study {
    const char *name;
    const char *meaning; /* one line for --study list, whatever the number of nodes */
    uint32_t nodes;      /* when the user says nothing */
    uint32_t nodes_least;
    uint32_t site_nodes; /* 0: as many as suit the number of nodes */
    uint32_t minutes;    /* 0: it takes as long as it takes */
    bool samples;        /* --samples means something */
    bool
        from_rest; /* begins with study_open(), so that it may go on from a mesh that others begin from, too */
    const char *const *columns; /* figures COLUMN_NAME are shown as a table, or NULL; ends with NULL */
    /* Fills the report; returns false with report->failure set if it could not measure. */
    bool (*run)(const struct study_options *options, struct study_report *report);
};

void study_add(struct study_report *report, const char *name, const char *unit, int64_t value,
               uint32_t decimals);
/* part / whole in thousandths; nothing is added where whole is 0. */
void study_add_ratio(struct study_report *report, const char *name, uint64_t part, uint64_t whole);
/* The value below which `permille` of the samples lie (nearest rank); sorts them. Needs at least one. */
int64_t study_quantile(int64_t *sample, uint32_t count, uint32_t permille);

/*
 * What a study sees of a world while it runs, beside what it reads from the cores by their views. Any pointer may be
 * NULL. `context` is the study's own.
 */
struct study_watch {
    void *context;
    /* A message leaves a host, or reaches one that has admitted its sender, before the core has seen it. */
    void (*sent)(void *context, const struct world *world, const struct flight *flight);
    void (*received)(void *context, const struct world *world, const struct flight *flight);
    /* The host's core told of a member's state (MESH_MEMBER). */
    void (*member)(void *context, const struct world *world, const struct host *host,
                   const struct mesh_effect *effect);
};

/*
 * A world of `nodes` nodes, all of whom know all whom they ought to, with no job and no fault: laid out with links and trees
 * (layout.c) or, if the options ask for it, as after a power cut of everything: they start within `spread_us` from their disks. `watch` is borrowed until study_close(). Returns NULL when a claim of
 * the checker breaks meanwhile (the report then says which).
 */
struct world *study_open(const struct study_options *options, int64_t spread_us,
                         const struct study_watch *watch, struct study_report *report);
/* From now on each message is lost with that chance, whatever its link: none is sent again, unlike over TCP. */
void study_lose(struct world *world, uint32_t permille);
/* Runs on for that long. Returns false, with the failure in the report, if a claim broke. */
bool study_run(struct world *world, int64_t for_us, struct study_report *report);
/* Whether the origin's records are for the other host: in a mesh with large sites not everybody's are (mesh/tiers.h). */
bool study_concerns(const struct host *origin, const struct host *other);
/* Runs until every node shows all others up whose records are for it, `most_us` at most. Returns false with a failure if that is not so. */
bool study_settle(struct world *world, int64_t most_us, struct study_report *report);
/* Whether SIGTERM came: study_run() has returned false then, and a study that has samples states figures of those. */
bool study_stopped(void);
/* Ends the world, and counts its time. NULL is fine. */
void study_close(struct world *world, struct study_report *report);

/*
 * `weir sim --study NAME`: prints the figures as a table or as one JSON object. Returns the exit code.
 *
 * Of several names (`hops,heal`) the mesh is made once, with as many nodes as the first one likes, and left at rest for
 * two minutes; each study then goes on from there in a process of its own. SIGTERM ends a study: it states figures of what it
 * has seen, if that is something, and the exit code is 6.
 */
int study_main(const char *name, struct study_options options);

#endif
