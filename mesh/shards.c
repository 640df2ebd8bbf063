/* The pool of shards: ranges for jobs, and the queue of each job. */
#include "mesh/internal.h"

void shards_init(struct shards *shards)
{
    shards->free[0] = (struct range){.first = 0, .count = shards->capacity};
    shards->free_count = shards->capacity > 0 ? 1 : 0;
}

uint32_t shards_take(struct shards *shards, uint32_t count)
{
    for (uint32_t i = 0; i < shards->free_count; i++) {
        struct range *const range = &shards->free[i];
        if (range->count < count)
            continue;
        const uint32_t first = range->first;
        range->first += count;
        range->count -= count;
        if (range->count == 0) {
            shards->free_count--;
            memmove(range, range + 1, (shards->free_count - i) * sizeof *range);
        }
        return first;
    }
    return MESH_NONE;
}

void shards_give(struct shards *shards, uint32_t first, uint32_t count)
{
    uint32_t at = 0; /* the first free range behind the one given back */
    for (uint32_t end = shards->free_count; at < end;) {
        const uint32_t middle = at + (end - at) / 2;
        if (shards->free[middle].first < first)
            at = middle + 1;
        else
            end = middle;
    }
    struct range *const after = &shards->free[at];
    const bool joins_before = at > 0 && after[-1].first + after[-1].count == first;
    const bool joins_after = at < shards->free_count && first + count == after->first;
    if (joins_before && joins_after) {
        after[-1].count += count + after->count;
        shards->free_count--;
        memmove(after, after + 1, (shards->free_count - at) * sizeof *after);
    } else if (joins_before) {
        after[-1].count += count;
    } else if (joins_after) {
        after->first = first;
        after->count += count;
    } else {
        memmove(after + 1, after, (shards->free_count - at) * sizeof *after);
        *after = (struct range){.first = first, .count = count};
        shards->free_count++;
    }
}

struct shard *shards_of(const struct home *home, const struct job *job)
{
    return &home->shards.shard[job->first];
}

void shards_push_back(struct shard *shard, struct job *job, uint32_t index)
{
    shard[index].state = SHARD_QUEUED;
    shard[index].next = 0;
    shard[index].at = job->queue_tail;
    if (job->queue_tail != 0)
        shard[job->queue_tail - 1].next = index + 1;
    else
        job->queue_head = index + 1;
    job->queue_tail = index + 1;
    job->queued++;
}

void shards_push_front(struct shard *shard, struct job *job, uint32_t index)
{
    shard[index].state = SHARD_QUEUED;
    shard[index].next = job->queue_head;
    shard[index].at = 0;
    if (job->queue_head != 0)
        shard[job->queue_head - 1].at = index + 1;
    else
        job->queue_tail = index + 1;
    job->queue_head = index + 1;
    job->queued++;
}

void shards_unlink(struct shard *shard, struct job *job, uint32_t index)
{
    const uint32_t next = shard[index].next;
    const uint32_t before = shard[index].at;
    if (before != 0)
        shard[before - 1].next = next;
    else
        job->queue_head = next;
    if (next != 0)
        shard[next - 1].at = before;
    else
        job->queue_tail = before;
    job->queued--;
}

uint32_t shards_pop(struct shard *shard, struct job *job)
{
    if (job->queue_head == 0)
        return MESH_NONE;
    const uint32_t index = job->queue_head - 1;
    shards_unlink(shard, job, index);
    return index;
}

void shards_check(const struct home *home, const struct job *job)
{
    const struct shard *const shard = shards_of(home, job);
    uint32_t count[SHARD_COMMITTED + 1] = {0};
    for (uint32_t i = 0; i < job->spec.shard_count; i++) {
        assert(shard[i].state >= SHARD_LOOKING_UP && shard[i].state <= SHARD_COMMITTED);
        assert(shard[i].attempts < MESH_ATTEMPTS_PER_SHARD);
        count[shard[i].state]++;
        if (shard[i].state == SHARD_ASSIGNED) {
            const struct bundle *const bundle = &home->bundle[shard[i].at];
            assert(shard[i].at < home->bundle_pool.fresh && bundle->count > 0 && !bundle->orphan);
            assert(&home->job[bundle->job] == job);
        }
    }
    assert(count[SHARD_LOOKING_UP] == job->looking_up && count[SHARD_QUEUED] == job->queued);
    assert(count[SHARD_ASSIGNED] == job->assigned && count[SHARD_HELD] == job->held);
    assert(count[SHARD_COMMITTED] == job->committed);
    uint32_t queued = 0;
    uint32_t before = 0;
    for (uint32_t at = job->queue_head; at != 0; at = shard[at - 1].next) {
        assert(at <= job->spec.shard_count && queued < job->queued);
        assert(shard[at - 1].state == SHARD_QUEUED && shard[at - 1].at == before);
        before = at;
        queued++;
    }
    assert(queued == job->queued && before == job->queue_tail);
}

void shards_check_ranges(const struct shards *shards)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < shards->free_count; i++) {
        assert(shards->free[i].count > 0);
        assert(i == 0 ? shards->free[i].first >= end : shards->free[i].first > end);
        end = shards->free[i].first + shards->free[i].count;
        assert(end <= shards->capacity);
    }
}
