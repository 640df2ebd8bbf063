/*
 * Whose clock is off. Members tell each other no time; but each signs a record of its capacity every half minute, with the
 * time, and a record of another time is refused (RECORD_TOLERANCE_S). What a member sends of itself and is refused for its time
 * alone tells how far its clock is from ours. Where most of the others are off to the same side, it is ours.
 */
#include "node/node.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/limits.h"
#include "node/log.h"

#define FRESH_MS 90000          /* three times as long as a capacity record may let wait for itself */
#define JUMP_MS 600000          /* the wall clock was set, or the machine slept */
#define SETTLED_AFTER_MS 300000 /* after a start or a jump: by then the others were heard */

const char *skew_text(int64_t ahead_s, char text[SKEW_TEXT_BYTES])
{
    char span[DURATION_BYTES];
    snprintf(text, SKEW_TEXT_BYTES, "clock %s %s", duration_text(ahead_s < 0 ? -ahead_s : ahead_s, span),
             ahead_s < 0 ? "slow" : "fast");
    return text;
}

static void say(struct node *node, const struct peer *peer, int64_t ahead_s)
{
    if (ahead_s == 0) {
        log_info("clock", "peer=%s state=good", peer_name(node, &peer->id));
        return;
    }
    char text[SKEW_TEXT_BYTES];
    log_warn("clock",
             "peer=%s ahead_s=%" PRId64
             " says=\"%s, by ours: neither takes the other's records; set the one that is wrong\"",
             peer_name(node, &peer->id), ahead_s, skew_text(ahead_s, text));
}

void skew_told(struct node *node, const struct mesh_id *from, const struct record *record)
{
    struct peer *peer = peers_find(node, from);
    if (!peer || record->kind != RECORD_CAPACITY ||
        memcmp(record->origin.bytes, from->bytes, sizeof from->bytes) != 0)
        return;
    const int64_t wall_s = clock_wall_ms() / 1000;
    const bool good = record_time_check(record->not_before_s, record->not_after_s, wall_s) == CRYPTO_OK;
    const int64_t ahead_s = good ? 0 : record->not_before_s - wall_s;
    if ((ahead_s == 0) != (peer->clock_ahead_s == 0))
        say(node, peer, ahead_s);
    peer->clock_ahead_s = ahead_s;
    peer->clock_told_at_ms = clock_now_ms();
}

int64_t skew_of(const struct peer *peer)
{
    return clock_now_ms() - peer->clock_told_at_ms < FRESH_MS ? peer->clock_ahead_s : 0;
}

int64_t skew_own(const struct node *node)
{
    const int64_t now_ms = clock_now_ms();
    uint32_t slow = 0, fast = 0, others = 0;
    int64_t least_s = INT64_MAX;
    for (uint32_t i = 0; i < node->peers.count; i++) {
        const struct peer *peer = &node->peers.peer[i];
        if (!peer->clock_told_at_ms || now_ms - peer->clock_told_at_ms >= FRESH_MS)
            continue;
        others++;
        fast += peer->clock_ahead_s > 0;
        slow += peer->clock_ahead_s < 0;
        const int64_t off_s = llabs(peer->clock_ahead_s);
        if (off_s > 0 && off_s < least_s)
            least_s = off_s;
    }
    if (slow > 1 && slow > others / 2)
        return least_s;
    return fast > 1 && fast > others / 2 ? -least_s : 0;
}

bool skew_settled(struct node *node, int64_t now_ms)
{
    const int64_t offset_ms = clock_wall_ms() - now_ms;
    if (llabs(offset_ms - node->clock_offset_ms) > JUMP_MS)
        node->clock_even_since_ms = now_ms;
    node->clock_offset_ms = offset_ms;
    return now_ms - node->clock_even_since_ms >= SETTLED_AFTER_MS && skew_own(node) == 0;
}
