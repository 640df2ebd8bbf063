/*
 * The ZAP handler: the thread that libzmq asks whether a CURVE key may connect.
 * https://rfc.zeromq.org/spec/27/
 *
 * libzmq lets everyone in while no handler is bound, which is why opening a transport or a bulk server takes
 * a `struct zap` as proof that this one runs, and why every server socket sets ZMQ_ZAP_ENFORCE_DOMAIN. Only
 * mechanism CURVE and the domains below are answered with 200; the User-Id of an admitted connection is its
 * CURVE key in hex.
 */
#ifndef NODE_ZAP_H
#define NODE_ZAP_H

#include "node/admission.h"

#define ZAP_DOMAIN_CONTROL "control"
#define ZAP_DOMAIN_BULK "bulk"
#define ZAP_USER_ID_BYTES 64 /* hex digits */

struct zap;

struct zap_counters {
    uint64_t admitted;
    uint64_t refused[ADMISSION_VERDICT_COUNT]; /* by verdict */
    uint64_t malformed;                        /* another version, domain or mechanism, or a bad length */
};

/* Binds the handler in this context and starts its thread. One per context; before any bind. `zmq` and
 * `admission` are borrowed until zap_close. Returns false with errno set. */
bool zap_open(void *zmq, struct admission *admission, struct zap **zap);
void zap_close(struct zap *zap);
void zap_counters(struct zap *zap, struct zap_counters *counters);

/* The CURVE key behind a User-Id, as zmq_msg_gets gives it (NULL is allowed). False if it is none. */
bool zap_user_key(const char *user_id, struct curve_public *key);

#endif
