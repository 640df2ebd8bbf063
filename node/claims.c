#include "node/claims.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void claims_free(struct claims *claims)
{
    free(claims->claim);
    *claims = (struct claims){0};
}

bool claims_name_is_good(const char *by)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    return strlen(by) <= CLAIM_BY_BYTES_MAX && by[strspn(by, letters)] == '\0';
}

static struct claim *find(const struct claims *claims, const char *by)
{
    for (uint32_t i = 0; i < claims->count; i++)
        if (strcmp(claims->claim[i].by, by) == 0)
            return &claims->claim[i];
    return NULL;
}

bool claims_have_room(const struct claims *claims, const char *by)
{
    return claims->count < CLAIMS_MAX || find(claims, by);
}

void claims_set(struct claims *claims, const char *by, int64_t until_ms)
{
    assert(claims_have_room(claims, by));
    struct claim *claim = find(claims, by);
    if (!claim) {
        claims->claim = realloc(claims->claim, (claims->count + 1) * sizeof *claims->claim);
        if (!claims->claim)
            abort();
        claim = &claims->claim[claims->count++];
    }
    snprintf(claim->by, sizeof claim->by, "%s", by);
    claim->until_ms = until_ms;
}

void claims_end(struct claims *claims, const char *by)
{
    struct claim *const claim = find(claims, by);
    if (claim)
        *claim = claims->claim[--claims->count];
}

const struct claim *claims_over(const struct claims *claims, int64_t wall_ms)
{
    for (uint32_t i = 0; i < claims->count; i++)
        if (claims->claim[i].until_ms <= wall_ms)
            return &claims->claim[i];
    return NULL;
}

const struct claim *claims_last(const struct claims *claims, int64_t wall_ms)
{
    const struct claim *last = NULL;
    for (uint32_t i = 0; i < claims->count; i++) {
        const struct claim *const claim = &claims->claim[i];
        if (claim->until_ms > wall_ms && (!last || claim->until_ms > last->until_ms))
            last = claim;
    }
    return last;
}

int64_t claims_next_end_ms(const struct claims *claims)
{
    int64_t next_ms = INT64_MAX;
    for (uint32_t i = 0; i < claims->count; i++)
        if (claims->claim[i].until_ms < next_ms)
            next_ms = claims->claim[i].until_ms;
    return next_ms;
}
