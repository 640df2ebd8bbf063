/* The digests under which this node's store keeps blobs and cache entries: BLAKE2b-256, see crypto/digest.h. */
#ifndef NODE_STORE_DIGESTS_H
#define NODE_STORE_DIGESTS_H

#include "store/store.h"

const struct store_digest *store_digests(void);

#endif
