/*
 * Lists and pools over tables, by index. Links live in arrays of their own beside the table, so that one
 * entry may be on several lists. Stored numbers are index + 1: a zeroed list is empty and a zeroed table
 * needs no preparation, so what is never used is never touched. Nothing here checks that an entry is on at
 * most one list of a link array; callers do.
 */
#ifndef MESH_LIST_H
#define MESH_LIST_H

#include <assert.h>
#include <stdint.h>

struct list_link {
    uint32_t next, prev; /* index + 1; 0 at the ends */
};

struct list {
    uint32_t head, tail; /* index + 1; 0 = empty */
    uint32_t count;
};

/* Each returns UINT32_MAX (MESH_NONE) where there is none. */
static inline uint32_t list_first(const struct list *list)
{
    return list->head - 1;
}

static inline uint32_t list_last(const struct list *list)
{
    return list->tail - 1;
}

static inline uint32_t list_next(const struct list_link *links, uint32_t index)
{
    return links[index].next - 1;
}

static inline void list_append(struct list *list, struct list_link *links, uint32_t index)
{
    links[index] = (struct list_link){.next = 0, .prev = list->tail};
    if (list->tail != 0)
        links[list->tail - 1].next = index + 1;
    else
        list->head = index + 1;
    list->tail = index + 1;
    list->count++;
}

static inline void list_remove(struct list *list, struct list_link *links, uint32_t index)
{
    const struct list_link link = links[index];
    assert(list->count > 0);
    if (link.prev != 0)
        links[link.prev - 1].next = link.next;
    else
        list->head = link.next;
    if (link.next != 0)
        links[link.next - 1].prev = link.prev;
    else
        list->tail = link.prev;
    list->count--;
}

/* Moves an entry to the end: lists of equal waiting times stay in the order of their deadlines that way. */
static inline void list_refresh(struct list *list, struct list_link *links, uint32_t index)
{
    list_remove(list, links, index);
    list_append(list, links, index);
}

/* Slots of a table: those given back are used again first, fresh ones in order. */
struct pool {
    uint32_t capacity;
    uint32_t fresh; /* slots from here on were never used */
    struct list free;
};

static inline uint32_t pool_in_use(const struct pool *pool)
{
    return pool->fresh - pool->free.count;
}

/* Returns UINT32_MAX when the table is full. */
static inline uint32_t pool_take(struct pool *pool, struct list_link *links)
{
    const uint32_t freed = list_first(&pool->free);
    if (freed != UINT32_MAX) {
        list_remove(&pool->free, links, freed);
        return freed;
    }
    return pool->fresh < pool->capacity ? pool->fresh++ : UINT32_MAX;
}

static inline void pool_give(struct pool *pool, struct list_link *links, uint32_t index)
{
    list_append(&pool->free, links, index);
}

#endif
