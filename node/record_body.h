/*
 * The bodies of the signed records that members exchange: MEMBER, CAPACITY and ALERT. (REVOCATION has its own
 * layout in crypto/revocation.h.) Each is one msgpack array `[version, fields...]`; docs/protocol.md lists
 * the fields.
 *
 * The bytes come from an origin whose signature was verified, which says who wrote them and not that they
 * make sense, so the decoders are as strict as those of node/wire.h. Encoders return the length, or 0 if it
 * does not fit.
 */
#ifndef NODE_RECORD_BODY_H
#define NODE_RECORD_BODY_H

#include "crypto/certificate.h"
#include "crypto/token.h"
#include "mesh/message.h"
#include "node/wire.h"

#define RECORD_BODY_ADDRESS_BYTES_MAX TOKEN_ADDRESS_BYTES_MAX
#define MEMBER_BODY_BYTES_MAX 3072u /* three names, three addresses, a certificate chain */
#define CAPACITY_BODY_BYTES_MAX 640u
#define CAPACITY_DEVICES_MAX 8u /* kinds of devices of one node; more are told together */
#define ALERT_BODY_BYTES_MAX 64u

/* What a node says of itself. Names follow name_valid (region may be empty); an address is host:port as other
 * nodes dial it, or empty where there is none: a node without a control address can't be dialled and dials
 * out only. */
struct member_body {
    uint64_t session; /* as struct mesh_record; never 0 */
    char site[NAME_BYTES_MAX + 1];
    char region[NAME_BYTES_MAX + 1];
    char name[NAME_BYTES_MAX + 1];
    char control[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char bulk[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char join[RECORD_BODY_ADDRESS_BYTES_MAX + 1];
    char software[WIRE_SOFTWARE_BYTES_MAX + 1];
    bool leaving;
    bool interior; /* its site keeps it to itself (mesh/tiers.h); said in version 2 of the body only */
    struct wire_bytes chain; /* the node's certificate chain; decoded: borrowed from the body's bytes */
};

struct alert_body {
    struct mesh_id subject;
    uint64_t subject_incarnation;
    bool accuses;
};

size_t member_body_encode(const struct member_body *body, uint8_t *out, size_t capacity);
enum wire_error member_body_decode(const uint8_t *bytes, size_t count, struct member_body *body);

/* What a node says of its devices beside the slots: one row for those that are alike, who has how many of them, and what
 * one of them does by its canary. Numbers that are not known are 0. */
struct capacity_device {
    uint8_t class;    /* as in struct mesh_capacity */
    uint16_t compute; /* ten times the compute capability */
    uint16_t count;   /* of which, by who has them (node/owner.h): */
    uint16_t spare, owned, cooling, fault;
    uint32_t memory_mib;
    uint32_t mflops, memory_mbps, link_mbps;
    int64_t measured_at_s; /* wall */
};

/* Why users' kernels don't run on a class of devices, in bits. Layers are those of kernels/sandbox.h, whose order is this. */
#define CAPACITY_NO_COMPILER 1u
#define CAPACITY_NO_LAYER(layer) (2u << (layer))

struct capacity_devices {
    bool lacks_told; /* false: a version of the record that says nothing of it, or of residents */
    uint16_t lacks[MESH_DEVICE_CLASSES]; /* 0: users' kernels run there */
    uint32_t resident_count;
    uint32_t
        resident[MESH_RESIDENTS_MAX]; /* blobs that workers hold, the largest first: capacity_resident_name */
    uint32_t count;
    uint32_t reclaim_p99_ms;
    struct capacity_device row[CAPACITY_DEVICES_MAX];
};

uint32_t capacity_resident_name(const uint8_t blob[32]);

/* `devices` may be NULL, where members that don't know them are to read it: then the lowest version that says the rest is written. */
size_t capacity_record_encode(const struct mesh_capacity *body, const struct capacity_devices *devices,
                              uint8_t *out, size_t capacity);
/* `devices` may be NULL; of a record that doesn't have them it has no rows. What placement needs of them is in `body` too. */
enum wire_error capacity_record_decode(const uint8_t *bytes, size_t count, struct mesh_capacity *body,
                                       struct capacity_devices *devices);
/* The same without devices. */
size_t capacity_body_encode(const struct mesh_capacity *body, uint8_t *out, size_t capacity);
enum wire_error capacity_body_decode(const uint8_t *bytes, size_t count, struct mesh_capacity *body);

size_t alert_body_encode(const struct alert_body *body, uint8_t *out, size_t capacity);
enum wire_error alert_body_decode(const uint8_t *bytes, size_t count, struct alert_body *body);

#endif
