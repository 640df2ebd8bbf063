/*
 * Shared immutable bytes, and the numbers (handles) by which the core knows them.
 *
 * A `struct bytes` is born with one reference, may be filled by its maker until it is shared, and dies with
 * its last reference. The handle table holds one reference per handle. Loop thread only.
 */
#ifndef NODE_BYTES_H
#define NODE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct bytes {
    uint32_t references;
    size_t count;
    uint8_t data[];
};

/* For memory that nobody could go on without: aborts when there is none. */
static inline void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* Aborts when out of memory: no caller could go on. `data` may be NULL: the content is then the caller's to
 * fill. */
struct bytes *bytes_make(const void *data, size_t count);
struct bytes *bytes_keep(struct bytes *bytes);
void bytes_drop(struct bytes *bytes); /* NULL is allowed */

struct handles {
    struct bytes **slot;
    uint32_t *generation;
    uint32_t *free; /* stack of free slots */
    uint32_t free_count;
    uint32_t capacity;
    uint32_t live;
};

void handles_deinit(struct handles *handles);
/* Takes over one reference. Never returns 0. */
uint64_t handles_put(struct handles *handles, struct bytes *bytes);
/* Borrowed until the handle is dropped. Asserts that the handle is live: a stale one is our own bug. */
struct bytes *handles_get(const struct handles *handles, uint64_t handle);
void handles_drop(struct handles *handles, uint64_t handle);

#endif
