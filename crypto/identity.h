// The keys of a node, and the files that hold them.
//
// A data folder (0700, ours) holds up to three key files (0600, ours):
//
//     node.key       the node's signing key and CURVE key, and the public half of the join key
//     join.key       the CURVE key pair of the join socket and nothing else: the process that serves
//     strangers
//                    loads this file and never sees the node's keys
//     authority.key  the federation's signing key, on the machine where the federation was made, until it is
//                    taken offline
//
// Files are fixed binary layouts, each a 16-byte magic, the secrets, and a digest of both against damage. One
// is created under a temporary name, synced, renamed into place without ever replacing another, and the
// folder is synced, so that a crash leaves either no key or the whole key; a temporary file left behind is
// removed by the next create. A node's keys are complete once node.key exists, which is written last.
//
// A folder or file that somebody else owns or may read is refused with CRYPTO_KEY_EXPOSED, and the advice
// carries the command that puts it right. Symbolic links are not followed in the place of a key file.
// Every function with `advice` fills it on failure; NULL is allowed.
#ifndef WEIR_CRYPTO_IDENTITY_H
#define WEIR_CRYPTO_IDENTITY_H

#include "crypto/error.h"
#include "crypto/key.h"

// Born in identity_create, lives in the node process until it ends; identity_wipe on every way out.
struct identity {
    struct public_key node; // the node's id
    struct secret_key node_secret;
    struct curve_public curve; // control and bulk sockets
    struct curve_secret curve_secret;
    struct curve_public join_curve; // the join socket; its secret is in join.key only
};

// All that the process behind the join socket holds.
struct join_identity {
    struct curve_public curve;
    struct curve_secret curve_secret;
};

struct authority {
    struct public_key key;
    struct secret_key secret;
};

// Makes a node's keys and both files. Creates the folder (its parent must exist). CRYPTO_KEY_EXISTS when
// node.key is already there. A join.key left by a create that was cut short is taken over.
enum crypto_error identity_create(const char *folder, struct identity *out, struct crypto_advice *advice);

// CRYPTO_KEY_MISSING, CRYPTO_KEY_EXPOSED, CRYPTO_BAD_CHECKSUM, CRYPTO_WRONG_MAGIC, CRYPTO_IO.
enum crypto_error identity_load(const char *folder, struct identity *out, struct crypto_advice *advice);

// Replaces node.key atomically, for a change of the CURVE key.
enum crypto_error identity_save(const char *folder, const struct identity *identity,
                                struct crypto_advice *advice);
void identity_wipe(struct identity *identity);

enum crypto_error join_identity_load(const char *folder, struct join_identity *out,
                                     struct crypto_advice *advice);
void join_identity_wipe(struct join_identity *identity);

// The folder is created as in identity_create.
enum crypto_error authority_create(const char *folder, struct authority *out, struct crypto_advice *advice);
enum crypto_error authority_load(const char *folder, struct authority *out, struct crypto_advice *advice);
void authority_wipe(struct authority *authority);

#endif
