/*
 * What a message about links and gossip costs on the wire, computed rather than encoded, since the simulator links the core alone; a unit test
 * holds it against node/wire.c. Records have the size of their signed envelope and body; a MEMBER record, whose body the
 * core doesn't know, counts as one with a chain of two certificates.
 */
#ifndef NODE_SIM_BYTES_H
#define NODE_SIM_BYTES_H

#include "mesh/message.h"

/* A signed record beside its body (crypto/record.h), and a MEMBER record's body as a node in a site writes it. */
#define SIM_RECORD_OVERHEAD_BYTES 182
#define SIM_MEMBER_BODY_BYTES 720
/*
 * Around each message on a TCP connection: the CURVE command's name, nonce, box and flags (33 bytes, RFC 26/CurveZMQ) and
 * the ZMTP frame header (9; 2 where the whole fits 255 bytes). Each frame of a batch has 5 of its own, the batch 6.
 */
#define SIM_MESSAGE_OVERHEAD_BYTES 42
#define SIM_BATCH_BYTES 6
#define SIM_BATCH_FRAME_BYTES 5

/* Of the body of such a record. */
size_t sim_record_body_bytes(const struct mesh_record *record);
/* Of the frame, its record included, as wire_encode() writes it; of messages about work about what the core needs. */
size_t sim_frame_bytes(const struct mesh_message *message);

#endif
