/*
 * What the journals on a stopped node's disk say as a whole, for `weir store check`: rows that are each sound and that
 * no history of a node leaves behind together.
 *
 * Rows are shown in the order of their keys, first all of STORE_ENTRIES or all of STORE_JOURNAL, then the end. Legal, and
 * never reported: a journal whose beginning is gone because it is over and being removed; a head row that tells less than
 * the entries, for it is not written with each of them; and one that tells more while the journal is not over, for a
 * new home's entries replaced those of the one before.
 */
#ifndef NODE_JOURNAL_CHECK_H
#define NODE_JOURNAL_CHECK_H

#include "node/node.h"
#include "node/payload.h"

typedef void journal_check_report(void *context, const struct mesh_id *job, const char *what);

struct journal_check;

/* The store is borrowed; freed by journal_check_close. */
struct journal_check *journal_check_open(struct store *store, journal_check_report *report, void *context);
/* An entry of a journal of several copies. */
void journal_check_entry(struct journal_check *check, const struct mesh_id *job,
                         const struct copies_entry_view *entry);
/* A row of the journal that a job of a single copy has; `order` is what follows the job's id in its key. */
void journal_check_row(struct journal_check *check, const struct mesh_id *job, uint32_t order,
                       const struct journal_row *row);
/* All rows of that table were shown. */
void journal_check_end(struct journal_check *check);
/* A head row alone: whether the entries that it tells of are there at all. */
void journal_check_head(struct journal_check *check, const struct mesh_id *job, const struct copy *head);
void journal_check_close(struct journal_check *check);

#endif
