#include "node/admission.h"

#include "crypto/record.h"
#include "node/loop.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Open addressing with linear probing, at most half full, so that a lookup of an unknown key ends soon. */
#define SLOTS (4u * ADMISSION_KEYS_MAX)
_Static_assert((SLOTS & (SLOTS - 1)) == 0, "a slot is found by masking");

struct entry {
    bool used;
    bool barred;
    struct curve_public key;
    struct mesh_id id;
    int64_t not_after_s;
    int64_t penalty_until_ms; /* monotonic; 0: none */
};

struct admission {
    pthread_mutex_t lock;
    struct admission_counters counters;
    struct entry slots[SLOTS];
};

bool admission_open(struct admission **out)
{
    struct admission *admission = calloc(1, sizeof *admission); /* untouched slots cost no memory */
    if (!admission)
        return false;
    pthread_mutex_init(&admission->lock, NULL);
    *out = admission;
    return true;
}

void admission_close(struct admission *admission)
{
    if (!admission)
        return;
    pthread_mutex_destroy(&admission->lock);
    free(admission);
}

/* Keys in the table come from verified certificates, and an unknown key costs its sender a handshake per
 * probe, so their own bits are hash enough. */
static uint32_t home_slot(const struct curve_public *key)
{
    uint32_t hash;
    memcpy(&hash, key->bytes, sizeof hash);
    return hash & (SLOTS - 1);
}

/* The slot that holds the key, or the free one where it would go. */
static struct entry *find(struct admission *admission, const struct curve_public *key)
{
    uint32_t slot = home_slot(key);
    while (admission->slots[slot].used && memcmp(&admission->slots[slot].key, key, sizeof *key) != 0)
        slot = (slot + 1) & (SLOTS - 1);
    return &admission->slots[slot];
}

/* Empties a slot and moves up those behind it that a search would no longer reach. */
static void erase(struct admission *admission, uint32_t hole)
{
    uint32_t at = hole;
    for (;;) {
        at = (at + 1) & (SLOTS - 1);
        if (!admission->slots[at].used)
            break;
        const uint32_t home = home_slot(&admission->slots[at].key);
        if (((at - home) & (SLOTS - 1)) >= ((at - hole) & (SLOTS - 1))) {
            admission->slots[hole] = admission->slots[at];
            hole = at;
        }
    }
    admission->slots[hole] = (struct entry){0};
    admission->counters.keys--;
}

bool admission_admit(struct admission *admission, const struct curve_public *key, const struct mesh_id *id,
                     int64_t not_after_s)
{
    pthread_mutex_lock(&admission->lock);
    struct entry *entry = find(admission, key);
    const bool room = entry->used || admission->counters.keys < ADMISSION_KEYS_MAX;
    if (room) {
        if (!entry->used) {
            *entry = (struct entry){.used = true, .key = *key, .id = *id};
            admission->counters.keys++;
        }
        /* A key answers for one node. Were another one to certify it for itself, the first stays. */
        if (memcmp(&entry->id, id, sizeof *id) == 0)
            entry->not_after_s = not_after_s;
    }
    pthread_mutex_unlock(&admission->lock);
    return room;
}

void admission_bar(struct admission *admission, const struct mesh_id *id)
{
    pthread_mutex_lock(&admission->lock);
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct entry *entry = &admission->slots[i];
        if (entry->used && memcmp(&entry->id, id, sizeof *id) == 0)
            entry->barred = true;
    }
    pthread_mutex_unlock(&admission->lock);
}

void admission_forget(struct admission *admission, const struct mesh_id *id, const struct curve_public *key)
{
    pthread_mutex_lock(&admission->lock);
    uint32_t i = 0;
    while (i < SLOTS) {
        const struct entry *entry = &admission->slots[i];
        const bool named = entry->used && !entry->barred && memcmp(&entry->id, id, sizeof *id) == 0 &&
                           (!key || memcmp(&entry->key, key, sizeof *key) == 0);
        if (named)
            erase(admission, i); /* another entry may stand here now: look again */
        else
            i++;
    }
    pthread_mutex_unlock(&admission->lock);
}

void admission_penalise(struct admission *admission, const struct curve_public *key, int64_t for_ms)
{
    const int64_t until_ms = clock_now_ms() + for_ms;
    pthread_mutex_lock(&admission->lock);
    const struct entry *named = find(admission, key);
    if (named->used) {
        const struct mesh_id id = named->id;
        admission->counters.penalties++;
        for (uint32_t i = 0; i < SLOTS; i++) {
            struct entry *entry = &admission->slots[i];
            if (entry->used && memcmp(&entry->id, &id, sizeof id) == 0 && entry->penalty_until_ms < until_ms)
                entry->penalty_until_ms = until_ms;
        }
    }
    pthread_mutex_unlock(&admission->lock);
}

static enum admission_verdict judge(struct entry *entry, int64_t wall_ms)
{
    if (!entry->used)
        return ADMISSION_UNKNOWN;
    if (entry->barred)
        return ADMISSION_REVOKED;
    if (wall_ms / 1000 > entry->not_after_s + RECORD_TOLERANCE_S)
        return ADMISSION_EXPIRED;
    if (entry->penalty_until_ms) {
        if (clock_now_ms() < entry->penalty_until_ms)
            return ADMISSION_PENALTY;
        entry->penalty_until_ms = 0;
    }
    return ADMISSION_ADMITTED;
}

enum admission_verdict admission_check(struct admission *admission, const struct curve_public *key,
                                       int64_t wall_ms, struct mesh_id *id)
{
    pthread_mutex_lock(&admission->lock);
    struct entry *entry = find(admission, key);
    const enum admission_verdict verdict = judge(entry, wall_ms);
    admission->counters.verdict[verdict]++;
    if (id && verdict != ADMISSION_UNKNOWN)
        *id = entry->id;
    pthread_mutex_unlock(&admission->lock);
    return verdict;
}

void admission_counters(struct admission *admission, struct admission_counters *counters)
{
    pthread_mutex_lock(&admission->lock);
    *counters = admission->counters;
    pthread_mutex_unlock(&admission->lock);
}

const char *admission_verdict_text(enum admission_verdict verdict)
{
    static const char *const TEXTS[ADMISSION_VERDICT_COUNT] = {
#define ADMISSION_VERDICT_TEXT(name, text) [ADMISSION_##name] = text,
        ADMISSION_VERDICTS(ADMISSION_VERDICT_TEXT)
#undef ADMISSION_VERDICT_TEXT
    };
    return verdict < ADMISSION_VERDICT_COUNT ? TEXTS[verdict] : "unknown";
}
