/*
 * store/pages.c - holds the pages of a data file to each other before LMDB sees them.
 *
 * LMDB keeps no sums and believes its file: a link, a length or a number in the list of free pages that a disk has changed leads to a
 * wrong answer, to a crash, or has a page in use written over. So its trees are walked here once, with every number checked before it
 * is followed. Found are pages that are not what leads to them, that are used twice, or free and in use; nodes that don't fit their
 * page; keys out of order; counts that are wrong. What stands in the rows is not looked at: their sums tell.
 *
 * The layout is that of LMDB 0.9, data version 1, on a little-endian machine of 64 bits (mdb.c: MDB_meta, MDB_db, MDB_page, MDB_node).
 */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEADER_BYTES = 16, /* of a page: number, pad, kind, lower and upper bound of its free room */
    NODE_BYTES = 8,    /* of a node, before its key */
    TREE_BYTES = 48,   /* MDB_db */
    META_BYTES = 136,  /* MDB_meta */
    LEVELS_MAX = 32,   /* of one tree; LMDB's own limit */
    KIND_BRANCH = 1,   /* of a page */
    KIND_LEAF = 2,
    KIND_OVERFLOW = 4,
    NODE_FAR = 1,        /* of a node: its value lies in pages of its own */
    NODE_TREE = 2,       /* its value is a tree: the row of a table in the main tree */
    FREE_TREE_FLAGS = 8, /* its keys are numbers */
};
#define MAGIC 0xBEEFC0DEu
#define NO_PAGE UINT64_MAX

struct tree {
    char name[32]; /* of its table */
    bool free, main;
    uint16_t flags, depth;
    uint64_t branches, leaves, overflows, entries, root;
};

struct span {
    const uint8_t *bytes; /* NULL: none */
    size_t count;
};

struct node {
    uint16_t flags;
    struct span key;
    uint64_t child;       /* of a branch */
    uint64_t value_size;  /* of a leaf */
    const uint8_t *value; /* there, or the number of its first page */
};

struct walk {
    int fd;
    bool leaves; /* they are read too, and what lies behind them */
    uint64_t page_bytes, file_pages, last_page, txn;
    uint64_t free_beyond;    /* free pages behind the end of the file: given back before they were written */
    uint8_t *seen;           /* a bit for each page of the file */
    uint8_t *levels;         /* a page for each level of the main tree and of one table's */
    const struct tree *tree; /* that is walked; NULL: none yet */
    char *finding;
    size_t room;
};

static bool tree_walk(struct walk *walk, const struct tree *tree, unsigned level);

static uint64_t number_at(const uint8_t *at, size_t bytes)
{
    return store_number_decode(at, bytes);
}

static bool leaves_are_read(const struct walk *walk, const struct tree *tree)
{
    return walk->leaves || tree->free || tree->main;
}

__attribute__((format(printf, 3, 4))) static bool wrong(struct walk *walk, uint64_t page, const char *format,
                                                        ...)
{
    char text[120];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(walk->finding, walk->room, "page %" PRIu64 " (%s) %s", page,
             walk->tree != NULL ? walk->tree->name : "head", text);
    return false;
}

/* ---- Pages ------------------------------------------------------------------------------------------------ */

/* Each page serves once. */
static bool pages_take(struct walk *walk, uint64_t first, uint64_t count)
{
    if (first < 2 || first >= walk->file_pages || count > walk->file_pages - first)
        return wrong(walk, first, "lies outside of the file");
    for (uint64_t page = first; page < first + count; page++) {
        uint8_t *const byte = &walk->seen[page / 8], bit = (uint8_t)(1u << page % 8);
        if (*byte & bit)
            return wrong(walk, page, "serves twice, or is listed as free and in use");
        *byte |= bit;
    }
    return true;
}

static bool bytes_read(struct walk *walk, uint64_t page, uint8_t *bytes, size_t count)
{
    size_t got = 0;
    while (got < count) {
        const ssize_t part =
            pread(walk->fd, bytes + got, count - got, (off_t)(page * walk->page_bytes + got));
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return wrong(walk, page, "cannot be read: %s", part < 0 ? strerror(errno) : "the file ends");
        got += (size_t)part;
    }
    return true;
}

/* Reads a page of a tree, to which a link has led. */
static bool page_read(struct walk *walk, uint64_t number, unsigned kind, uint8_t *page, size_t *nodes)
{
    if (!bytes_read(walk, number, page, walk->page_bytes))
        return false;
    const uint64_t lower = number_at(page + 12, 2), upper = number_at(page + 14, 2);
    if (number_at(page, 8) != number || number_at(page + 10, 2) != kind)
        return wrong(walk, number, "is not the page that is linked there");
    if (lower < HEADER_BYTES + 2 || lower % 2 != 0 || lower > upper || upper > walk->page_bytes)
        return wrong(walk, number, "has wrong bounds");
    *nodes = (lower - HEADER_BYTES) / 2;
    return true;
}

static bool node_read(struct walk *walk, const uint8_t *page, bool branch, size_t index, struct node *node)
{
    const uint64_t number = number_at(page, 8), at = number_at(page + HEADER_BYTES + 2 * index, 2);
    if (at < number_at(page + 14, 2) || at > walk->page_bytes - NODE_BYTES)
        return wrong(walk, number, "has a node outside of itself");
    const uint8_t *const bytes = page + at;
    const uint64_t low = number_at(bytes, 4), flags = number_at(bytes + 4, 2),
                   key_bytes = number_at(bytes + 6, 2);
    const uint64_t left = walk->page_bytes - at - NODE_BYTES;
    *node = (struct node){.flags = branch ? 0 : (uint16_t)flags,
                          .key = {.bytes = bytes + NODE_BYTES, .count = key_bytes},
                          .child = branch ? low | flags << 32 : 0,
                          .value_size = branch ? 0 : low,
                          .value = bytes + NODE_BYTES + key_bytes};
    const uint64_t value_bytes = node->flags & NODE_FAR ? 8 : node->value_size;
    if (key_bytes > left || value_bytes > left - key_bytes)
        return wrong(walk, number, "has a node that does not fit");
    return true;
}

/* What a node takes of its page; LMDB keeps them even, and without gaps. */
static uint64_t node_room(const struct node *node)
{
    const uint64_t bytes = NODE_BYTES + node->key.count + (node->flags & NODE_FAR ? 8 : node->value_size);
    return bytes + bytes % 2;
}

static int compare(const struct tree *tree, struct span a, struct span b)
{
    if (tree->free && a.count == 8 && b.count == 8) {
        const uint64_t x = number_at(a.bytes, 8), y = number_at(b.bytes, 8);
        return (x > y) - (x < y);
    }
    const int order = memcmp(a.bytes, b.bytes, a.count < b.count ? a.count : b.count);
    return order != 0 ? order : (a.count > b.count) - (a.count < b.count);
}

/* ---- Values ----------------------------------------------------------------------------------------------- */

/* The numbers of free pages, of one transaction: their count, then they, falling. */
static bool free_list_check(struct walk *walk, uint64_t page, const struct node *node, const uint8_t *list)
{
    const uint64_t room = node->value_size / 8;
    const uint64_t count = room > 0 ? number_at(list, 8) : 0;
    if (node->key.count != 8 || number_at(node->key.bytes, 8) > walk->txn)
        return wrong(walk, page, "lists free pages of a time to come");
    if (room == 0 || node->value_size % 8 != 0 || count > room - 1)
        return wrong(walk, page, "has a wrong list of free pages");
    uint64_t before = walk->last_page + 1;
    for (uint64_t i = 1; i <= count; i++) {
        const uint64_t free_page = number_at(list + 8 * i, 8);
        if (free_page >= before)
            return wrong(walk, page, "has a wrong list of free pages");
        before = free_page;
        if (free_page >= walk->file_pages)
            walk->free_beyond++;
        else if (!pages_take(walk, free_page, 1))
            return false;
    }
    return true;
}

/* Names of tables are words of small letters; what isn't is not shown. */
static void tree_decode(const uint8_t *bytes, struct span name, struct tree *tree)
{
    *tree = (struct tree){.name = "a table",
                          .flags = (uint16_t)number_at(bytes + 4, 2),
                          .depth = (uint16_t)number_at(bytes + 6, 2),
                          .branches = number_at(bytes + 8, 8),
                          .leaves = number_at(bytes + 16, 8),
                          .overflows = number_at(bytes + 24, 8),
                          .entries = number_at(bytes + 32, 8),
                          .root = number_at(bytes + 40, 8)};
    for (size_t i = 0; i < name.count; i++)
        if (name.bytes[i] < 'a' || name.bytes[i] > 'z')
            return;
    if (name.count < sizeof tree->name)
        snprintf(tree->name, sizeof tree->name, "%.*s", (int)name.count, (const char *)name.bytes);
}

static bool table_walk(struct walk *walk, uint64_t page, const struct node *node, unsigned level)
{
    struct tree tree;
    if (node->value_size != TREE_BYTES)
        return wrong(walk, page, "has a wrong row of a table");
    tree_decode(node->value, node->key, &tree);
    if (tree.flags != 0)
        return wrong(walk, page, "has a table of another kind");
    return tree_walk(walk, &tree, level);
}

/* Behind the head of its first page it lies as it is. Its pages may be more than it needs: they stay when it shrinks. */
static bool far_value_check(struct walk *walk, const struct tree *tree, const struct node *node,
                            struct tree *found)
{
    uint8_t head[HEADER_BYTES];
    const uint64_t first = number_at(node->value, 8);
    if (first >= walk->file_pages)
        return wrong(walk, first, "lies outside of the file");
    if (!bytes_read(walk, first, head, sizeof head))
        return false;
    const uint64_t pages = number_at(head + 12, 4);
    if (number_at(head, 8) != first || number_at(head + 10, 2) != KIND_OVERFLOW ||
        pages < (HEADER_BYTES - 1 + node->value_size) / walk->page_bytes + 1)
        return wrong(walk, first, "does not hold the value that is linked there");
    found->overflows += pages;
    if (!pages_take(walk, first, pages))
        return false;
    if (!tree->free)
        return true;
    uint8_t *const list = malloc(HEADER_BYTES + node->value_size);
    const bool good = list == NULL ? wrong(walk, first, "cannot be read: out of memory")
                                   : bytes_read(walk, first, list, HEADER_BYTES + node->value_size) &&
                                         free_list_check(walk, first, node, list + HEADER_BYTES);
    free(list);
    return good;
}

static bool value_check(struct walk *walk, const struct tree *tree, uint64_t page, const struct node *node,
                        unsigned level, struct tree *found)
{
    if (node->flags != (tree->main ? NODE_TREE : node->flags & NODE_FAR))
        return wrong(walk, page, "has a node of another kind");
    if (tree->main)
        return table_walk(walk, page, node, level);
    if (node->flags & NODE_FAR)
        return far_value_check(walk, tree, node, found);
    return !tree->free || free_list_check(walk, page, node, node->value);
}

/* ---- Trees ------------------------------------------------------------------------------------------------ */

/* Keys rise, are not below `from` and are below `to`. The first of a branch stands for all that is below the second. */
static bool keys_check(struct walk *walk, const struct tree *tree, const uint8_t *page, bool branch,
                       size_t nodes, struct span from, struct span to)
{
    struct span before = from;
    for (size_t i = branch; i < nodes; i++) {
        struct node node;
        node_read(walk, page, branch, i, &node);
        const int order = before.bytes == NULL ? 1 : compare(tree, node.key, before);
        const bool rises = i == branch ? order >= 0 : order > 0;
        if (!rises || (to.bytes != NULL && compare(tree, node.key, to) >= 0))
            return wrong(walk, number_at(page, 8), "has keys out of order");
        before = node.key;
    }
    return true;
}

static bool nodes_check(struct walk *walk, const uint8_t *page, bool branch, size_t nodes)
{
    uint64_t room = 0;
    for (size_t i = 0; i < nodes; i++) {
        struct node node;
        if (!node_read(walk, page, branch, i, &node))
            return false;
        room += node_room(&node);
    }
    return room == walk->page_bytes - number_at(page + 14, 2) ||
           wrong(walk, number_at(page, 8), "has nodes that overlap");
}

/* The page at `depth` below the root, with keys from `from` on and below `to`. `level`: of its buffer. `found` counts. */
static bool subtree_walk(struct walk *walk, const struct tree *tree, uint64_t number, unsigned depth,
                         unsigned level, struct span from, struct span to, struct tree *found)
{
    const bool branch = depth + 1 < tree->depth;
    uint8_t *const page = walk->levels + level * walk->page_bytes;
    size_t nodes = 0;
    *(branch ? &found->branches : &found->leaves) += 1;
    if (!pages_take(walk, number, 1))
        return false;
    if (!branch && !leaves_are_read(walk, tree))
        return true;
    if (!page_read(walk, number, branch ? KIND_BRANCH : KIND_LEAF, page, &nodes) ||
        !nodes_check(walk, page, branch, nodes) || !keys_check(walk, tree, page, branch, nodes, from, to))
        return false;
    bool good = true;
    for (size_t i = 0; i < nodes && good; i++) {
        struct node node, next;
        node_read(walk, page, branch, i, &node);
        if (i + 1 < nodes)
            node_read(walk, page, branch, i + 1, &next);
        good = branch ? subtree_walk(walk, tree, node.child, depth + 1, level + 1, i == 0 ? from : node.key,
                                     i + 1 < nodes ? next.key : to, found)
                      : value_check(walk, tree, number, &node, level + 1, found);
    }
    found->entries += branch ? 0 : nodes;
    return good;
}

static bool tree_is_as_told(struct walk *walk, const struct tree *tree, unsigned level)
{
    struct tree found = {0};
    if (tree->root == NO_PAGE)
        return (tree->entries == 0 && tree->depth == 0) || wrong(walk, 0, "does not lead to its rows");
    if (tree->depth == 0 || tree->depth > LEVELS_MAX)
        return wrong(walk, tree->root, "is the root of %u levels", tree->depth);
    if (!subtree_walk(walk, tree, tree->root, 0, level, (struct span){0}, (struct span){0}, &found))
        return false;
    const bool rows = leaves_are_read(walk, tree);
    return (found.branches == tree->branches && found.leaves == tree->leaves &&
            (!rows || (found.overflows == tree->overflows && found.entries == tree->entries))) ||
           wrong(walk, tree->root, "is the root of other pages or rows than are counted");
}

static bool tree_walk(struct walk *walk, const struct tree *tree, unsigned level)
{
    const struct tree *const outer = walk->tree;
    walk->tree = tree;
    const bool good = tree_is_as_told(walk, tree, level);
    walk->tree = outer;
    return good;
}

/* ---- Where it begins -------------------------------------------------------------------------------------- */

/* The two first pages are written in turn, by the number of the transaction; the higher one counts. Both are 0 in a new file. */
static bool metas_check(struct walk *walk, uint8_t metas[2][META_BYTES], const uint8_t **meta)
{
    const uint64_t txn[2] = {number_at(metas[0] + 128, 8), number_at(metas[1] + 128, 8)};
    const unsigned later = txn[1] > txn[0];
    if ((txn[0] != 0 || txn[1] != 0) && (txn[later] - txn[!later] != 1 || txn[later] % 2 != later))
        return wrong(walk, later, "does not follow on the other first page");
    *meta = metas[later];
    walk->txn = txn[later];
    walk->last_page = number_at(*meta + 120, 8);
    return true;
}

static bool file_walk(struct walk *walk)
{
    uint8_t metas[2][META_BYTES];
    const uint8_t *meta = metas[0];
    struct tree free_tree, main_tree;
    for (unsigned i = 0; i < 2; i++) {
        if (!bytes_read(walk, i, walk->levels, walk->page_bytes))
            return false;
        memcpy(metas[i], walk->levels + HEADER_BYTES, META_BYTES);
    }
    if (!metas_check(walk, metas, &meta))
        return false;
    tree_decode(meta + 24, (struct span){.bytes = (const uint8_t *)"free", .count = 4}, &free_tree);
    tree_decode(meta + 72, (struct span){.bytes = (const uint8_t *)"tables", .count = 6}, &main_tree);
    free_tree.free = true;
    main_tree.main = true;
    if (number_at(meta + 24, 4) != walk->page_bytes || free_tree.flags != FREE_TREE_FLAGS ||
        main_tree.flags != 0)
        return wrong(walk, walk->txn % 2, "has other settings than ours");
    if (!tree_walk(walk, &free_tree, 0) || !tree_walk(walk, &main_tree, 0))
        return false;
    return walk->last_page < walk->file_pages + walk->free_beyond ||
           wrong(walk, walk->last_page, "is said to be the last one, behind the end of the file");
}

/* The size of a page, from the head of the first; 0: this is no file of LMDB's. */
static uint64_t page_size(int fd)
{
    uint8_t head[HEADER_BYTES + META_BYTES];
    if (pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head || number_at(head + HEADER_BYTES, 4) != MAGIC)
        return 0;
    const uint64_t bytes = number_at(head + HEADER_BYTES + 24, 4);
    return bytes >= 512 && bytes <= 65536 && (bytes & (bytes - 1)) == 0 ? bytes : 0;
}

enum store_error store_pages_check(const struct store *store, enum side side, bool leaves, char *finding,
                                   size_t room)
{
    char name[32];
    struct stat file;
    snprintf(name, sizeof name, "%s/data.mdb", store->environments[side].name);
    struct walk walk = {.leaves = leaves, .finding = finding, .room = room};
    walk.fd = openat(store->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    walk.page_bytes = walk.fd >= 0 ? page_size(walk.fd) : 0;
    enum store_error error = STORE_OK;
    if (walk.page_bytes != 0 && fstat(walk.fd, &file) == 0) {
        walk.file_pages = (uint64_t)file.st_size / walk.page_bytes;
        walk.seen = calloc(walk.file_pages / 8 + 1, 1);
        walk.levels = calloc(2 * LEVELS_MAX, walk.page_bytes);
        error = walk.seen == NULL || walk.levels == NULL ? STORE_MEMORY
                : file_walk(&walk)                       ? STORE_OK
                                                         : STORE_CORRUPT;
    }
    free(walk.seen);
    free(walk.levels);
    if (walk.fd >= 0)
        close(walk.fd);
    return error;
}
