/* The events to come, and the generator that all chance comes from. */
#include "node/sim/world.h"

#include <stdio.h>

void *sim_alloc(size_t count, size_t bytes)
{
    void *const memory = calloc(count != 0 ? count : 1, bytes);
    if (memory == NULL) {
        fprintf(stderr, "weir: sim: out of memory; try fewer --nodes\n");
        exit(1);
    }
    return memory;
}

void *sim_grow(void *memory, size_t count, size_t bytes)
{
    void *const grown = realloc(memory, count * bytes);
    if (grown == NULL) {
        fprintf(stderr, "weir: sim: out of memory; try fewer --nodes\n");
        exit(1);
    }
    return grown;
}

uint64_t sim_random_next(struct sim_random *random)
{
    random->state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random->state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t sim_below(struct sim_random *random, uint32_t bound)
{
    return (uint32_t)(((sim_random_next(random) >> 32) * bound) >> 32);
}

int64_t sim_between(struct sim_random *random, int64_t least, int64_t most)
{
    const uint64_t span = (uint64_t)(most - least) + 1;
    return least + (int64_t)(sim_random_next(random) % span);
}

bool sim_chance(struct sim_random *random, uint32_t permille)
{
    return sim_below(random, 1000) < permille;
}

/*
 * A radix heap (Ahuja, Mehlhorn, Orlin and Tarjan 1990): time only goes on, so an event need only be told from the latest
 * one taken by the highest bit in which they differ. Bucket 0 is what is due at that very time; when it is empty, the
 * lowest bucket with anything in it is dealt out anew. Events move in order and at most once per bit, and those of one
 * time are always in one bucket, in the order in which they were pushed.
 */
static uint32_t bucket_of(const struct heap *heap, int64_t at_us)
{
    const uint64_t differs = (uint64_t)at_us ^ (uint64_t)heap->taken_us;
    return differs == 0 ? 0 : 64 - (uint32_t)__builtin_clzll(differs);
}

static void bucket_append(struct heap_bucket *bucket, const struct event *event)
{
    if (bucket->count == bucket->room) {
        bucket->room = bucket->room != 0 ? bucket->room * 2 : 64;
        bucket->event = sim_grow(bucket->event, bucket->room, sizeof *bucket->event);
    }
    bucket->event[bucket->count++] = *event;
}

void sim_heap_push(struct heap *heap, struct event event)
{
    if (event.at_us < heap->taken_us) {
        event.at_us = heap->taken_us;
    }
    if (heap->count++ == 0 || event.at_us < heap->next_us) {
        heap->next_us = event.at_us;
    }
    bucket_append(&heap->bucket[bucket_of(heap, event.at_us)], &event);
}

static void deal_out(struct heap *heap)
{
    uint32_t lowest = 1;
    while (heap->bucket[lowest].count == 0) {
        lowest++;
    }
    struct heap_bucket *const from = &heap->bucket[lowest];
    heap->taken_us = heap->next_us;
    for (uint32_t i = 0; i < from->count; i++) {
        bucket_append(&heap->bucket[bucket_of(heap, from->event[i].at_us)], &from->event[i]);
    }
    from->count = 0;
}

static int64_t find_next(const struct heap *heap)
{
    uint32_t lowest = 1;
    while (heap->bucket[lowest].count == 0) {
        lowest++;
    }
    const struct heap_bucket *const bucket = &heap->bucket[lowest];
    int64_t least_us = bucket->event[0].at_us;
    for (uint32_t i = 1; i < bucket->count; i++) {
        if (bucket->event[i].at_us < least_us) {
            least_us = bucket->event[i].at_us;
        }
    }
    return least_us;
}

struct event sim_heap_pop(struct heap *heap)
{
    struct heap_bucket *const due = &heap->bucket[0];
    if (due->count == 0) {
        deal_out(heap);
    }
    const struct event event = due->event[heap->due_taken++];
    if (heap->due_taken == due->count) {
        due->count = heap->due_taken = 0;
        heap->next_us = heap->count > 1 ? find_next(heap) : INT64_MAX;
    }
    heap->count--;
    return event;
}

void sim_heap_free(struct heap *heap)
{
    for (uint32_t i = 0; i < HEAP_BUCKETS; i++) {
        free(heap->bucket[i].event);
    }
    *heap = (struct heap){0};
}
