/*
 * Who asked for a device by `weir reclaim`, each until when: its owner has it while one of these stands. The operator is "", others
 * have names (a job of Slurm: "slurm-17"), so that what one claims no other ends. node/devices.c keeps them on disk.
 */
#ifndef NODE_CLAIMS_H
#define NODE_CLAIMS_H

#include <stdbool.h>
#include <stdint.h>

#define CLAIMS_MAX 1024 /* of a device: jobs that run on one machine at a time */
#define CLAIM_BY_BYTES_MAX 40

struct claim {
    char by[CLAIM_BY_BYTES_MAX + 1];
    int64_t until_ms; /* wall; INT64_MAX = until it is released */
};

struct claims {
    struct claim *claim; /* [count], no two by the same; owned */
    uint32_t count;
};

void claims_free(struct claims *claims);
/* Letters, digits, '-', '_' and '.'; "" too. */
bool claims_name_is_good(const char *by);
/* Whether one by that name can be set: it stands already, or there is room. */
bool claims_have_room(const struct claims *claims, const char *by);
/* A later claim takes the place of an earlier one by the same. There must be room. */
void claims_set(struct claims *claims, const char *by, int64_t until_ms);
void claims_end(struct claims *claims, const char *by);
/* One that is over at `wall_ms`, or NULL; until the next change. */
const struct claim *claims_over(const struct claims *claims, int64_t wall_ms);
/* Of those that stand the one that ends last, or NULL; until the next change. */
const struct claim *claims_last(const struct claims *claims, int64_t wall_ms);
/* When the first of them ends; INT64_MAX = none does. */
int64_t claims_next_end_ms(const struct claims *claims);

#endif
