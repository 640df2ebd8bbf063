/*
 * What the files of node/federation*.c share: federation.c makes and loads the folder, federation_trust.c
 * judges and issues certificates, federation_peers.c keeps the list of peers.
 */
#ifndef NODE_FEDERATION_INTERNAL_H
#define NODE_FEDERATION_INTERNAL_H

#include "node/federation.h"

/* Keys and serials that are revoked: open addressing, at most half full, entries are only added; those that
 * need not be kept any more go when the table is rebuilt. */
struct revoked_entry {
    uint8_t type; /* enum revocation_type; 0 = empty */
    uint8_t bytes[32];
    int64_t kept_until_s;
};

struct revoked_set {
    struct revoked_entry *entries;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
};

struct federation {
    char data[FEDERATION_PATH_BYTES_MAX];
    char keys[FEDERATION_PATH_BYTES_MAX + 8];
    struct genesis genesis;
    uint8_t genesis_bytes[GENESIS_BYTES_MAX];
    size_t genesis_count;
    uint8_t chain[CHAIN_BYTES_MAX];
    size_t chain_count;
    struct certificate certificate; /* the chain's first */
    struct identity identity;
    struct revoked_set revoked;
};

/* Files in DATA/federation/. Reading gives false with errno set (EFBIG: over `capacity`); writing replaces
 * the file atomically and durably. */
bool federation_file_read(const char *data, const char *name, uint8_t *bytes, size_t capacity, size_t *count);
bool federation_file_write(const char *data, const char *name, const uint8_t *bytes, size_t count);

#define FEDERATION_GENESIS "genesis"
#define FEDERATION_CHAIN "chain"
#define FEDERATION_PEERS "peers"

/* Fills `failure` (NULL allowed) and returns `error`. */
__attribute__((format(printf, 3, 4))) enum federation_error
federation_fail(struct federation_failure *failure, enum federation_error error, const char *format, ...);

#endif
