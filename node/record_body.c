#include "node/record_body.h"

#include "crypto/token.h"
#include "node/field.h"

#include <string.h>

#define MEMBER_VERSION 1u
#define CAPACITY_VERSION 1u
#define ALERT_VERSION 1u
/* What only a node of a large site says needs the next version; all others go on in the words that every node knows. */
#define MEMBER_VERSION_INTERIOR 2u
#define CAPACITY_VERSION_SITE 2u
#define CAPACITY_VERSION_FAULT 3u   /* two fields more: the site's, which may be empty, and the fault */
#define CAPACITY_VERSION_DEVICES 4u /* and the devices; the fault may be none */
#define CAPACITY_VERSION_LACKS 5u   /* and what they lack for users' kernels, and what they hold */

#define MEMBER_FIELDS 11u
#define CAPACITY_FIELDS 5u
#define DEVICE_FIELDS 12u
#define ALERT_FIELDS 4u

/*
 * The opening `[version, ...]` that all bodies share: reads it and says what is wrong with it. Versions from `first` to
 * `last` are known; `fields` are those of the first one, and each later one has one more.
 */
static enum wire_error open_body(struct field_reader *reader, uint32_t fields, uint32_t first, uint32_t last,
                                 uint32_t *version)
{
    const uint32_t items = field_get_array(reader, 1, 32);
    const uint64_t got = field_get_uint(reader, UINT32_MAX);
    *version = first;
    if (!reader->error && (got < first || got > last))
        return WIRE_UNKNOWN_VERSION;
    if (!reader->error)
        *version = (uint32_t)got;
    if (!reader->error && items != fields + (*version - first))
        field_fail(reader, FIELD_RANGE);
    return WIRE_OK;
}

static enum wire_error close_body(struct field_reader *reader)
{
    field_get_end(reader);
    switch (reader->error) {
    case FIELD_OK:
        return WIRE_OK;
    case FIELD_TRUNCATED:
        return WIRE_TRUNCATED;
    case FIELD_TRAILING:
        return WIRE_TRAILING;
    case FIELD_TYPE:
        return WIRE_TYPE;
    case FIELD_RANGE:
        break;
    }
    return WIRE_RANGE;
}

static size_t finish(const struct field_writer *writer)
{
    return writer->full ? 0 : writer->count;
}

/* ---- MEMBER ------------------------------------------------------------------------------------------- */

size_t member_body_encode(const struct member_body *body, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, MEMBER_FIELDS + body->interior);
    field_put_uint(&writer, body->interior ? MEMBER_VERSION_INTERIOR : MEMBER_VERSION);
    field_put_uint(&writer, body->session);
    field_put_text(&writer, body->site);
    field_put_text(&writer, body->region);
    field_put_text(&writer, body->name);
    field_put_text(&writer, body->control);
    field_put_text(&writer, body->bulk);
    field_put_text(&writer, body->join);
    field_put_text(&writer, body->software);
    field_put_bool(&writer, body->leaving);
    field_put_bin(&writer, body->chain.bytes, body->chain.count);
    if (body->interior)
        field_put_bool(&writer, true);
    return finish(&writer);
}

static void check_name(struct field_reader *reader, const char *name, bool may_be_empty)
{
    if (!(may_be_empty && name[0] == 0) && !name_valid(name))
        field_fail(reader, FIELD_RANGE);
}

static void check_address(struct field_reader *reader, const char *address)
{
    if (address[0] != 0 && !token_address_valid(address))
        field_fail(reader, FIELD_RANGE);
}

enum wire_error member_body_decode(const uint8_t *bytes, size_t count, struct member_body *body)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    uint32_t version;
    const enum wire_error error =
        open_body(&reader, MEMBER_FIELDS, MEMBER_VERSION, MEMBER_VERSION_INTERIOR, &version);
    if (error)
        return error;
    body->interior = version == MEMBER_VERSION_INTERIOR;
    body->session = field_get_uint(&reader, UINT64_MAX);
    field_get_text(&reader, body->site, sizeof body->site);
    field_get_text(&reader, body->region, sizeof body->region);
    field_get_text(&reader, body->name, sizeof body->name);
    field_get_text(&reader, body->control, sizeof body->control);
    field_get_text(&reader, body->bulk, sizeof body->bulk);
    field_get_text(&reader, body->join, sizeof body->join);
    field_get_text(&reader, body->software, sizeof body->software);
    body->leaving = field_get_bool(&reader);
    body->chain.bytes = field_get_bin(&reader, 1, CHAIN_BYTES_MAX, &body->chain.count);
    if (body->interior && !field_get_bool(&reader))
        field_fail(&reader, FIELD_RANGE);
    if (!reader.error) {
        check_name(&reader, body->site, false);
        check_name(&reader, body->region, true);
        check_name(&reader, body->name, false);
        check_address(&reader, body->control);
        check_address(&reader, body->bulk);
        check_address(&reader, body->join);
        if (body->session == 0)
            field_fail(&reader, FIELD_RANGE);
    }
    return close_body(&reader);
}

/* ---- CAPACITY ----------------------------------------------------------------------------------------- */

static void put_site(struct field_writer *writer, const struct mesh_capacity *body)
{
    const bool site = body->site.members > 0;
    field_put_array(writer, site ? 1 + 2 * MESH_DEVICE_CLASSES : 0);
    if (!site)
        return;
    field_put_uint(writer, body->site.members);
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++) {
        field_put_uint(writer, body->site.slots[i]);
        field_put_uint(writer, body->site.free[i]);
    }
}

static void get_site(struct field_reader *reader, bool may_be_empty, struct mesh_capacity *body)
{
    const uint32_t items = field_get_array(reader, 0, 1 + 2 * MESH_DEVICE_CLASSES);
    if (items == 0 && may_be_empty)
        return;
    if (items != 1 + 2 * MESH_DEVICE_CLASSES)
        field_fail(reader, FIELD_RANGE);
    body->site.members = (uint32_t)field_get_uint(reader, UINT32_MAX);
    if (body->site.members == 0)
        field_fail(reader, FIELD_RANGE);
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++) {
        body->site.slots[i] = (uint32_t)field_get_uint(reader, UINT32_MAX);
        body->site.free[i] = (uint32_t)field_get_uint(reader, body->site.slots[i]);
    }
}

/* Each version has the fields of the one before and one more; the lowest that says it all is written. */
static uint32_t capacity_version(const struct mesh_capacity *body)
{
    if (body->fault)
        return CAPACITY_VERSION_FAULT;
    return body->site.members > 0 ? CAPACITY_VERSION_SITE : CAPACITY_VERSION;
}

static void put_devices(struct field_writer *writer, const struct capacity_devices *devices)
{
    field_put_array(writer, 1 + devices->count);
    field_put_uint(writer, devices->reclaim_p99_ms);
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct capacity_device *row = &devices->row[i];
        const uint64_t numbers[] = {row->class,  row->compute,     row->count,    row->spare,
                                    row->owned,  row->cooling,     row->fault,    row->memory_mib,
                                    row->mflops, row->memory_mbps, row->link_mbps};
        field_put_array(writer, DEVICE_FIELDS);
        for (size_t n = 0; n < sizeof numbers / sizeof numbers[0]; n++)
            field_put_uint(writer, numbers[n]);
        field_put_int(writer, row->measured_at_s);
    }
}

static void get_device(struct field_reader *reader, struct capacity_device *row)
{
    field_get_array(reader, DEVICE_FIELDS, DEVICE_FIELDS);
    row->class = (uint8_t)field_get_uint(reader, MESH_DEVICE_CLASSES - 1);
    row->compute = (uint16_t)field_get_uint(reader, UINT16_MAX);
    row->count = (uint16_t)field_get_uint(reader, UINT16_MAX);
    row->spare = (uint16_t)field_get_uint(reader, row->count);
    row->owned = (uint16_t)field_get_uint(reader, row->count);
    row->cooling = (uint16_t)field_get_uint(reader, row->count);
    row->fault = (uint16_t)field_get_uint(reader, row->count);
    row->memory_mib = (uint32_t)field_get_uint(reader, UINT32_MAX);
    row->mflops = (uint32_t)field_get_uint(reader, UINT32_MAX);
    row->memory_mbps = (uint32_t)field_get_uint(reader, UINT32_MAX);
    row->link_mbps = (uint32_t)field_get_uint(reader, UINT32_MAX);
    row->measured_at_s = field_get_int(reader, 0, INT64_MAX / 1000);
    if (row->spare + row->owned + row->cooling + row->fault != row->count || row->count == 0)
        field_fail(reader, FIELD_RANGE);
}

static void get_devices(struct field_reader *reader, struct capacity_devices *devices)
{
    const uint32_t items = field_get_array(reader, 1, 1 + CAPACITY_DEVICES_MAX);
    devices->reclaim_p99_ms = (uint32_t)field_get_uint(reader, UINT32_MAX);
    for (uint32_t i = 0; !reader->error && i + 1 < items; i++)
        get_device(reader, &devices->row[devices->count++]);
}

uint32_t capacity_resident_name(const uint8_t blob[32])
{
    return (uint32_t)blob[0] << 24 | (uint32_t)blob[1] << 16 | (uint32_t)blob[2] << 8 | blob[3];
}

/* Most nodes lack nothing and hold nothing: that is said in one byte. */
static void put_lacks(struct field_writer *writer, const struct capacity_devices *devices)
{
    bool some = devices->resident_count > 0;
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++)
        some = some || devices->lacks[i] != 0;
    field_put_array(writer, some ? MESH_DEVICE_CLASSES + devices->resident_count : 0);
    for (int i = 0; i < MESH_DEVICE_CLASSES && some; i++)
        field_put_uint(writer, devices->lacks[i]);
    for (uint32_t i = 0; i < devices->resident_count; i++)
        field_put_uint(writer, devices->resident[i]);
}

static void get_lacks(struct field_reader *reader, struct capacity_devices *devices)
{
    const uint32_t items = field_get_array(reader, 0, MESH_DEVICE_CLASSES + MESH_RESIDENTS_MAX);
    devices->lacks_told = true;
    if (items == 0)
        return;
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++)
        devices->lacks[i] = (uint16_t)field_get_uint(reader, UINT16_MAX);
    for (uint32_t i = MESH_DEVICE_CLASSES; !reader->error && i < items; i++)
        devices->resident[devices->resident_count++] = (uint32_t)field_get_uint(reader, UINT32_MAX);
}

/* What placement goes by. */
static void tell_placement(const struct capacity_devices *devices, struct mesh_capacity *body)
{
    body->no_users = 0;
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++)
        body->no_users |= (uint16_t)((devices->lacks[i] != 0) << i);
    body->resident_count = (uint8_t)devices->resident_count;
    memcpy(body->resident, devices->resident, sizeof body->resident);
}

size_t capacity_record_encode(const struct mesh_capacity *body, const struct capacity_devices *devices,
                              uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    const uint32_t version = devices ? CAPACITY_VERSION_LACKS : capacity_version(body);
    field_put_array(&writer, CAPACITY_FIELDS + version - CAPACITY_VERSION);
    field_put_uint(&writer, version);
    field_put_array(&writer, MESH_DEVICE_CLASSES);
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++) {
        field_put_array(&writer, 3);
        field_put_uint(&writer, body->class[i].slots);
        field_put_uint(&writer, body->class[i].free);
        field_put_uint(&writer, body->class[i].waiting);
    }
    field_put_uint(&writer, body->price_micro);
    field_put_int(&writer, body->available_until_ms);
    field_put_bool(&writer, body->draining);
    if (version >= CAPACITY_VERSION_SITE)
        put_site(&writer, body);
    if (version >= CAPACITY_VERSION_FAULT)
        field_put_uint(&writer, body->fault);
    if (version >= CAPACITY_VERSION_DEVICES)
        put_devices(&writer, devices);
    if (version >= CAPACITY_VERSION_LACKS)
        put_lacks(&writer, devices);
    return finish(&writer);
}

size_t capacity_body_encode(const struct mesh_capacity *body, uint8_t *out, size_t capacity)
{
    return capacity_record_encode(body, NULL, out, capacity);
}

enum wire_error capacity_record_decode(const uint8_t *bytes, size_t count, struct mesh_capacity *body,
                                       struct capacity_devices *devices)
{
    struct field_reader reader;
    struct capacity_devices unwanted;
    uint32_t version;
    field_reader_init(&reader, bytes, count);
    const enum wire_error error =
        open_body(&reader, CAPACITY_FIELDS, CAPACITY_VERSION, CAPACITY_VERSION_LACKS, &version);
    if (error)
        return error;
    field_get_array(&reader, MESH_DEVICE_CLASSES, MESH_DEVICE_CLASSES);
    for (int i = 0; i < MESH_DEVICE_CLASSES; i++) {
        field_get_array(&reader, 3, 3);
        body->class[i].slots = (uint16_t)field_get_uint(&reader, UINT16_MAX);
        body->class[i].free = (uint16_t)field_get_uint(&reader, body->class[i].slots);
        body->class[i].waiting = (uint16_t)field_get_uint(&reader, UINT16_MAX);
    }
    body->price_micro = (uint32_t)field_get_uint(&reader, UINT32_MAX);
    body->available_until_ms = field_get_int(&reader, 0, INT64_MAX);
    body->draining = field_get_bool(&reader);
    body->details = 0;
    memset(&body->site, 0, sizeof body->site);
    if (version >= CAPACITY_VERSION_SITE)
        get_site(&reader, version >= CAPACITY_VERSION_FAULT, body);
    body->fault = MESH_FAULT_NONE;
    if (version >= CAPACITY_VERSION_FAULT) {
        body->fault = (uint8_t)field_get_uint(&reader, MESH_FAULT_DISK);
        if (body->fault == MESH_FAULT_NONE && version == CAPACITY_VERSION_FAULT)
            field_fail(&reader, FIELD_RANGE);
    }
    devices = devices ? devices : &unwanted;
    *devices = (struct capacity_devices){0};
    if (version >= CAPACITY_VERSION_DEVICES)
        get_devices(&reader, devices);
    if (version >= CAPACITY_VERSION_LACKS)
        get_lacks(&reader, devices);
    tell_placement(devices, body);
    return close_body(&reader);
}

enum wire_error capacity_body_decode(const uint8_t *bytes, size_t count, struct mesh_capacity *body)
{
    return capacity_record_decode(bytes, count, body, NULL);
}

/* ---- ALERT -------------------------------------------------------------------------------------------- */

size_t alert_body_encode(const struct alert_body *body, uint8_t *out, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, out, capacity);
    field_put_array(&writer, ALERT_FIELDS);
    field_put_uint(&writer, ALERT_VERSION);
    field_put_bin(&writer, body->subject.bytes, sizeof body->subject.bytes);
    field_put_uint(&writer, body->subject_incarnation);
    field_put_bool(&writer, body->accuses);
    return finish(&writer);
}

enum wire_error alert_body_decode(const uint8_t *bytes, size_t count, struct alert_body *body)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    uint32_t version;
    const enum wire_error error = open_body(&reader, ALERT_FIELDS, ALERT_VERSION, ALERT_VERSION, &version);
    if (error)
        return error;
    field_get_fixed(&reader, body->subject.bytes, sizeof body->subject.bytes);
    body->subject_incarnation = field_get_uint(&reader, UINT64_MAX);
    body->accuses = field_get_bool(&reader);
    return close_body(&reader);
}
