/*
 * A copy of a node's data folder, and a data folder made of one.
 *
 *     PATH/keys, PATH/federation     as they are; so the copy is as secret as the folder
 *     PATH/store                     as of one moment (store_backup)
 *
 * A node that comes back from a copy has forgotten what it said since. What it signs is put above what others hold of it
 * (mesh: a higher incarnation), and its store goes by a new storage id, so that no journal counts on what it once held.
 *
 * Both functions block, on any thread. On false `error` says what failed and nothing is left where the result should be.
 */
#ifndef NODE_BACKUP_H
#define NODE_BACKUP_H

#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>

/* Copies the folder `data`, whose store is open, to `path`, which must not exist. */
bool backup_make(const char *data, struct store *store, const char *path, char *error, size_t error_bytes);

/* Makes the copy at `path` the data folder `data`, which must not exist, be empty, or be this very node's without a store. */
bool backup_restore(const char *path, const char *data, char *error, size_t error_bytes);

#endif
