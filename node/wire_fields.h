/* Fields that several kinds of frames have, and rows of journals: what wire.c, wire_journal.c and copies.c share. Nothing
 * else includes this. */
#ifndef NODE_WIRE_FIELDS_H
#define NODE_WIRE_FIELDS_H

#include "node/field.h"
#include "node/wire.h"

/* The largest number of a field that has no limit of its own. */
#define ANY_U16 UINT16_MAX
#define ANY_U32 UINT32_MAX
#define ANY_U64 UINT64_MAX

static inline void put_id(struct field_writer *w, const struct mesh_id *id)
{
    field_put_bin(w, id->bytes, sizeof id->bytes);
}

static inline void get_id(struct field_reader *r, struct mesh_id *id)
{
    field_get_fixed(r, id->bytes, sizeof id->bytes);
}

static inline void put_bundle(struct field_writer *w, const struct mesh_bundle_name *name)
{
    field_put_uint(w, name->token);
    field_put_uint(w, name->index);
}

static inline void get_bundle(struct field_reader *r, struct mesh_bundle_name *name)
{
    name->token = field_get_uint(r, ANY_U64);
    name->index = (uint32_t)field_get_uint(r, ANY_U32);
}

static inline void get_payload(struct field_reader *r, size_t min, size_t max, struct wire_bytes *payload)
{
    payload->bytes = field_get_bin(r, min, max, &payload->count);
}

static inline uint16_t get_class(struct field_reader *r)
{
    return (uint16_t)field_get_uint(r, MESH_DEVICE_CLASSES - 1);
}

/* How every message of the core begins: its kind, the version of its fields, then so many fields. */
static inline void begin_message(struct field_writer *w, enum mesh_message_kind kind, size_t fields)
{
    field_put_array(w, 2 + fields);
    field_put_uint(w, wire_kind_of(kind));
    field_put_uint(w, 1);
}

/* wire_journal.c: the messages about journals. The decoder reads what stands behind kind and version. */
void wire_encode_journal(struct field_writer *w, const struct mesh_message *m, struct wire_bytes payload);
/* An empty array where there are none. */
void wire_put_members(struct field_writer *w, const struct mesh_members *members);
void wire_get_members(struct field_reader *r, struct mesh_members *members);
void wire_decode_journal(struct field_reader *r, struct mesh_message *m, struct wire_bytes *payload);

#endif
