/*
 * Which CURVE keys may speak to this node: the table behind the ZAP handler and behind every received
 * message.
 *
 * An entry is born when a member's certificate has been verified (admission_admit), and says until when the
 * certificate holds. It is barred for good when its node is revoked, and closed for a while when the peer
 * sent what no honest peer sends (admission_penalise). A node may have two entries while it changes its CURVE
 * key. An entry goes when the member is forgotten (admission_forget). A key that is not in the table is
 * refused: there is no default.
 *
 * ZeroMQ can't end the session of a peer that was admitted earlier, so the check at the handshake is not
 * enough, and the transport asks again for every message. All functions may be called from any thread.
 */
#ifndef NODE_ADMISSION_H
#define NODE_ADMISSION_H

#include "crypto/key.h"
#include "mesh/message.h"

#include <stdbool.h>
#include <stdint.h>

#define ADMISSION_KEYS_MAX (2 * MESH_MEMBERS_MAX) /* every member in the midst of a change of key */
#define ADMISSION_PENALTY_MS 60000 /* after garbage; long against a flood, short against a bug */

/* name, text */
#define ADMISSION_VERDICTS(X)                                                                                \
    X(ADMITTED, "admitted")                                                                                  \
    X(UNKNOWN, "unknown key")                                                                                \
    X(EXPIRED, "certificate expired")                                                                        \
    X(REVOKED, "revoked")                                                                                    \
    X(PENALTY, "shut out for a while after bad messages")

enum admission_verdict {
#define ADMISSION_VERDICT(name, text) ADMISSION_##name,
    ADMISSION_VERDICTS(ADMISSION_VERDICT)
#undef ADMISSION_VERDICT
        ADMISSION_VERDICT_COUNT
};

struct admission;

bool admission_open(struct admission **admission); /* false: out of memory */
void admission_close(struct admission *admission);

/* Admits `key` for node `id` until the certificate's end (seconds since 1970; the usual tolerance is added
 * here). Admitting again updates the end and keeps a bar or a penalty. Returns false when the table is full.
 */
bool admission_admit(struct admission *admission, const struct curve_public *key, const struct mesh_id *id,
                     int64_t not_after_s);
/* Revoked: all keys of the node are barred for as long as the table knows them. */
void admission_bar(struct admission *admission, const struct mesh_id *id);
/* The member is gone, or changed its key: `key` NULL means all keys of the node. Barred keys stay. */
void admission_forget(struct admission *admission, const struct mesh_id *id, const struct curve_public *key);
/* Shuts the key's node out, with all its keys, for `for_ms` from now on the monotonic clock. */
void admission_penalise(struct admission *admission, const struct curve_public *key, int64_t for_ms);

/* May this key speak now? `id` (NULL is allowed) gets whose key it is, for every verdict but UNKNOWN. Counts
 * a refusal. */
enum admission_verdict admission_check(struct admission *admission, const struct curve_public *key,
                                       int64_t wall_ms, struct mesh_id *id);

struct admission_counters {
    uint64_t verdict[ADMISSION_VERDICT_COUNT]; /* checks that ended so */
    uint64_t keys;                             /* in the table now */
    uint64_t penalties;                        /* given so far */
};
void admission_counters(struct admission *admission, struct admission_counters *counters);
const char *admission_verdict_text(enum admission_verdict verdict);

#endif
