/* What copies.c (the table, rows, what the core saves, the end), copies_append.c and copies_restore.c share. */
#ifndef NODE_COPIES_INTERNAL_H
#define NODE_COPIES_INTERNAL_H

#include "node/node.h"

/* Adds one to the table, empty but for the job's id; and takes it out again, freeing it. */
struct copy *copies_make(struct node *node, const struct mesh_id *job);
void copies_take_out(struct node *node, struct copy *copy);

/* Of a row of STORE_ENTRIES: the job's id, and the index, big-endian. */
struct copies_key {
    uint8_t bytes[36];
};
struct copies_key copies_key_of(const struct mesh_id *job, uint32_t index);

/* Calls back for each blob that the entry names, with who pins it. False if the entry makes no sense. */
typedef void copies_blob_fn(void *context, const uint8_t blob[32], const struct digest *pin);
bool copies_each_blob(const struct mesh_id *job, enum mesh_entry_kind kind, const uint8_t *bytes,
                      size_t count, copies_blob_fn *found, void *context);

/* What an END says, into the copy. */
void copies_note_end(struct copy *copy, uint32_t index, const uint8_t *bytes, size_t count);
/* At which incarnation this node was chosen, if it is a member. */
void copies_note_chosen(const struct node *node, struct copy *copy, const struct mesh_members *members);

void copies_append_close(struct node *node);

#endif
