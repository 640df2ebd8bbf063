/* The events to come, in a binary heap, and the generator that all chance comes from. */
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

uint64_t sim_mix(uint64_t a, uint64_t b)
{
    uint64_t z =
        (a ^ (b + UINT64_C(0x9e3779b97f4a7c15) + (a << 6) + (a >> 2))) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static bool event_before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

void sim_heap_push(struct heap *heap, struct event event)
{
    if (heap->count == heap->room) {
        heap->room = heap->room != 0 ? heap->room * 2 : 1024;
        heap->event = sim_grow(heap->event, heap->room, sizeof *heap->event);
    }
    event.number = heap->numbered++;
    uint32_t at = heap->count++;
    while (at > 0) {
        const uint32_t parent = (at - 1) / 2;
        if (!event_before(&event, &heap->event[parent])) {
            break;
        }
        heap->event[at] = heap->event[parent];
        at = parent;
    }
    heap->event[at] = event;
}

struct event sim_heap_pop(struct heap *heap)
{
    const struct event top = heap->event[0];
    const struct event last = heap->event[--heap->count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= heap->count) {
            break;
        }
        if (child + 1 < heap->count && event_before(&heap->event[child + 1], &heap->event[child])) {
            child++;
        }
        if (!event_before(&heap->event[child], &last)) {
            break;
        }
        heap->event[at] = heap->event[child];
        at = child;
    }
    heap->event[at] = last;
    return top;
}
