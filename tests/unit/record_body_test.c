/* Bodies of MEMBER, CAPACITY and ALERT records: there and back, every truncation, and what they must not say.
 */
#include "node/record_body.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t chain[CHAIN_BYTES_MAX] = {1, 2, 3};

static struct member_body example(void)
{
    return (struct member_body){.session = 5,
                                .site = "ashburn",
                                .region = "us-east",
                                .name = "node-1",
                                .control = "node-1.example.org:7700",
                                .bulk = "[2001:db8::1]:7701",
                                .join = "",
                                .software = "0.1.0",
                                .leaving = true,
                                .chain = {chain, sizeof chain}};
}

static enum wire_error decode_member(const struct member_body *body)
{
    uint8_t bytes[MEMBER_BODY_BYTES_MAX];
    struct member_body back;
    const size_t count = member_body_encode(body, bytes, sizeof bytes);
    assert_true(count > 0);
    return member_body_decode(bytes, count, &back);
}

static void a_member_comes_back_as_it_went(void **state)
{
    (void)state;
    uint8_t bytes[MEMBER_BODY_BYTES_MAX];
    struct member_body body = example();
    const size_t count = member_body_encode(&body, bytes, sizeof bytes);
    assert_true(count > 0);
    assert_int_equal(member_body_encode(&body, bytes, count - 1), 0);
    assert_int_equal(member_body_encode(&body, bytes, count), count);
    struct member_body back;
    assert_int_equal(member_body_decode(bytes, count, &back), WIRE_OK);
    assert_true(back.session == 5 && back.leaving);
    assert_string_equal(back.site, body.site);
    assert_string_equal(back.region, body.region);
    assert_string_equal(back.name, body.name);
    assert_string_equal(back.control, body.control);
    assert_string_equal(back.bulk, body.bulk);
    assert_string_equal(back.join, "");
    assert_string_equal(back.software, body.software);
    assert_int_equal(back.chain.count, sizeof chain);
    assert_memory_equal(back.chain.bytes, chain, sizeof chain);
    for (size_t cut = 0; cut < count; cut++)
        assert_int_not_equal(member_body_decode(bytes, cut, &back), WIRE_OK);
}

static void the_longest_member_fits(void **state)
{
    (void)state;
    struct member_body body = example();
    memset(body.site, 'a', NAME_BYTES_MAX);
    memset(body.region, 'a', NAME_BYTES_MAX);
    memset(body.name, 'a', NAME_BYTES_MAX);
    assert_int_equal(decode_member(&body), WIRE_OK);
}

static void a_member_that_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct member_body body = example();
    body.session = 0;
    assert_int_equal(decode_member(&body), WIRE_RANGE);
    body = example();
    body.site[0] = 0;
    assert_int_equal(decode_member(&body), WIRE_RANGE);
    body = example();
    strcpy(body.name, "UPPER");
    assert_int_equal(decode_member(&body), WIRE_RANGE);
    body = example();
    strcpy(body.control, "no-port");
    assert_int_equal(decode_member(&body), WIRE_RANGE);
    body = example();
    strcpy(body.software, "0.1\n");
    assert_int_equal(decode_member(&body), WIRE_RANGE);
    body = example();
    body.chain.count = 0;
    assert_int_equal(decode_member(&body), WIRE_RANGE);
}

static void a_capacity_comes_back_as_it_went(void **state)
{
    (void)state;
    struct mesh_capacity body = {.class = {{8, 3, 2}, {UINT16_MAX, UINT16_MAX, UINT16_MAX}},
                                 .price_micro = UINT32_MAX,
                                 .available_until_ms = INT64_MAX,
                                 .draining = true};
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    struct mesh_capacity back;
    const size_t count = capacity_body_encode(&body, bytes, sizeof bytes);
    assert_int_equal(capacity_body_decode(bytes, count, &back), WIRE_OK);
    assert_int_equal(back.class[0].slots, 8);
    assert_int_equal(back.class[0].free, 3);
    assert_int_equal(back.class[1].waiting, UINT16_MAX);
    assert_true(back.price_micro == UINT32_MAX && back.available_until_ms == INT64_MAX && back.draining);
    for (size_t cut = 0; cut < count; cut++)
        assert_int_not_equal(capacity_body_decode(bytes, cut, &back), WIRE_OK);
    body.class[0].free = 9; /* more than there are */
    assert_int_equal(capacity_body_decode(bytes, capacity_body_encode(&body, bytes, sizeof bytes), &back),
                     WIRE_RANGE);
    body.class[0].free = 0;
    body.available_until_ms = -1;
    assert_int_equal(capacity_body_decode(bytes, capacity_body_encode(&body, bytes, sizeof bytes), &back),
                     WIRE_RANGE);
}

/* Said in version 3 only: a node without a fault goes on in words that every node knows. */
static void a_fault_comes_back_with_a_site_and_without(void **state)
{
    (void)state;
    struct mesh_capacity body = {.class = {{8, 3, 2}}, .fault = MESH_FAULT_DISK};
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    for (uint32_t members = 0; members < 2; members++) {
        body.site.members = members;
        body.site.slots[0] = body.site.free[0] = 3 * members;
        struct mesh_capacity back;
        memset(&back, 0xff, sizeof back);
        const size_t count = capacity_body_encode(&body, bytes, sizeof bytes);
        assert_int_equal(bytes[1], 3);
        assert_int_equal(capacity_body_decode(bytes, count, &back), WIRE_OK);
        assert_int_equal(back.fault, MESH_FAULT_DISK);
        assert_int_equal(back.site.members, members);
        assert_int_equal(back.site.free[0], 3 * members);
        for (size_t cut = 0; cut < count; cut++)
            assert_int_not_equal(capacity_body_decode(bytes, cut, &back), WIRE_OK);
        bytes[count - 1] = MESH_FAULT_DISK + 1;
        assert_int_equal(capacity_body_decode(bytes, count, &back), WIRE_RANGE);
        bytes[count - 1] = MESH_FAULT_NONE; /* has a shorter spelling */
        assert_int_equal(capacity_body_decode(bytes, count, &back), WIRE_RANGE);
    }
    body.fault = MESH_FAULT_NONE;
    body.site.members = 0;
    capacity_body_encode(&body, bytes, sizeof bytes);
    assert_int_equal(bytes[1], 1);
}

/* Version 4 says everything; who asks for no devices reads it all the same, and older versions have none. */
static void devices_come_back_as_they_went(void **state)
{
    (void)state;
    const struct mesh_capacity body = {.class = {{8, 3, 2}}, .fault = MESH_FAULT_DEVICE};
    struct capacity_devices devices = {.lacks_told = true,
                                       .lacks = {UINT16_MAX, CAPACITY_NO_COMPILER},
                                       .resident_count = MESH_RESIDENTS_MAX,
                                       .count = CAPACITY_DEVICES_MAX,
                                       .reclaim_p99_ms = UINT32_MAX},
                            back;
    for (uint32_t i = 0; i < MESH_RESIDENTS_MAX; i++)
        devices.resident[i] = UINT32_MAX - i;
    for (uint32_t i = 0; i < CAPACITY_DEVICES_MAX; i++)
        devices.row[i] = (struct capacity_device){.class = 1,
                                                  .compute = UINT16_MAX,
                                                  .count = UINT16_MAX,
                                                  .spare = UINT16_MAX,
                                                  .memory_mib = UINT32_MAX,
                                                  .mflops = UINT32_MAX,
                                                  .memory_mbps = UINT32_MAX,
                                                  .link_mbps = i,
                                                  .measured_at_s = INT64_MAX / 1000};
    devices.row[0] = (struct capacity_device){.count = 10, .spare = 1, .owned = 2, .cooling = 3, .fault = 4};
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    struct mesh_capacity back_body;
    const size_t count = capacity_record_encode(&body, &devices, bytes, sizeof bytes);
    assert_in_range(count, 1, CAPACITY_BODY_BYTES_MAX);
    assert_int_equal(bytes[1], 5);
    assert_int_equal(capacity_record_decode(bytes, count, &back_body, &back), WIRE_OK);
    assert_int_equal(back_body.fault, MESH_FAULT_DEVICE);
    assert_memory_equal(&back, &devices, sizeof back);
    assert_int_equal(capacity_body_decode(bytes, count, &back_body), WIRE_OK);
    for (size_t cut = 0; cut < count; cut++)
        assert_int_not_equal(capacity_record_decode(bytes, cut, &back_body, &back), WIRE_OK);

    const struct mesh_capacity good = {.class = {{1, 1, 0}}};
    devices.count = 0;
    assert_int_equal(capacity_record_decode(bytes,
                                            capacity_record_encode(&good, &devices, bytes, sizeof bytes),
                                            &back_body, &back),
                     WIRE_OK);
    assert_int_equal(back_body.fault, MESH_FAULT_NONE);
    assert_int_equal(
        capacity_record_decode(bytes, capacity_body_encode(&good, bytes, sizeof bytes), &back_body, &back),
        WIRE_OK);
    assert_int_equal(back.count, 0);
}

/* Version 5 is one byte longer where nothing is lacking and nothing held; version 4 without it is read as before. */
static void what_users_kernels_lack_is_told_and_was_not_before(void **state)
{
    (void)state;
    const struct mesh_capacity body = {.class = {{8, 3, 2}, {4, 4, 0}}};
    struct capacity_devices devices = {.lacks_told = true,
                                       .count = 1,
                                       .row = {{.count = 8, .spare = 8, .memory_mib = 1000}}},
                            back;
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    struct mesh_capacity back_body;
    const size_t whole = capacity_record_encode(&body, &devices, bytes, sizeof bytes);
    assert_int_equal(bytes[whole - 1], 0x90); /* an empty array */
    assert_int_equal(capacity_record_decode(bytes, whole, &back_body, &back), WIRE_OK);
    assert_memory_equal(&back, &devices, sizeof back);
    assert_int_equal(back_body.no_users, 0);
    bytes[0]--;
    bytes[1] = 4;
    assert_int_equal(capacity_record_decode(bytes, whole - 1, &back_body, &back), WIRE_OK);
    assert_false(back.lacks_told);
    assert_int_equal(back.row[0].memory_mib, 1000);

    devices.lacks[1] = CAPACITY_NO_LAYER(3);
    devices.resident_count = 2;
    devices.resident[0] = 0xdeadbeef;
    devices.resident[1] = 7;
    const size_t count = capacity_record_encode(&body, &devices, bytes, sizeof bytes);
    assert_int_equal(count, whole + 1 + 1 + 5 + 1);
    assert_int_equal(capacity_body_decode(bytes, count, &back_body), WIRE_OK);
    assert_int_equal(back_body.no_users, 2);
    assert_int_equal(back_body.resident_count, 2);
    assert_int_equal(back_body.resident[0], 0xdeadbeef);
    assert_int_equal(back_body.resident[1], 7);
    bytes[whole - 1] = 0x90 + MESH_DEVICE_CLASSES + MESH_RESIDENTS_MAX + 1; /* one more than there may be */
    assert_int_equal(capacity_body_decode(bytes, count, &back_body), WIRE_RANGE);
    bytes[whole - 1] = 0x91; /* of one class only */
    assert_int_not_equal(capacity_body_decode(bytes, whole + 1, &back_body), WIRE_OK);
    const uint8_t blob[32] = {0xde, 0xad, 0xbe, 0xef, 1};
    assert_int_equal(capacity_resident_name(blob), 0xdeadbeef);
}

static void devices_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    const struct mesh_capacity body = {.class = {{8, 3, 2}}};
    const struct capacity_device bad[] = {
        {.class = MESH_DEVICE_CLASSES, .count = 1, .spare = 1}, /* no such class */
        {.count = 2, .spare = 1},                               /* one is nobody's */
        {.count = 2, .spare = 1, .owned = 2},                   /* one is two people's */
        {.count = 0},                                           /* a row of nothing */
        {.count = 1, .spare = 1, .measured_at_s = -1},
        {.count = 1, .spare = 1, .measured_at_s = INT64_MAX / 1000 + 1},
    };
    uint8_t bytes[CAPACITY_BODY_BYTES_MAX];
    struct mesh_capacity back_body;
    struct capacity_devices back;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const struct capacity_devices devices = {.count = 1, .row = {bad[i]}};
        const size_t count = capacity_record_encode(&body, &devices, bytes, sizeof bytes);
        assert_int_equal(capacity_record_decode(bytes, count, &back_body, &back), WIRE_RANGE);
    }
}

static void only_a_large_site_needs_the_second_version(void **state)
{
    (void)state;
    uint8_t bytes[MEMBER_BODY_BYTES_MAX];
    struct member_body member = example();
    struct member_body member_back;
    const size_t flat = member_body_encode(&member, bytes, sizeof bytes);
    assert_int_equal(bytes[1], 1);
    member.interior = true;
    const size_t count = member_body_encode(&member, bytes, sizeof bytes);
    assert_int_equal(count, flat + 1);
    assert_int_equal(bytes[1], 2);
    assert_int_equal(member_body_decode(bytes, count, &member_back), WIRE_OK);
    assert_true(member_back.interior && member_back.session == member.session);
    for (size_t cut = 0; cut < count; cut++)
        assert_int_not_equal(member_body_decode(bytes, cut, &member_back), WIRE_OK);
    bytes[count - 1] = 0xc2; /* version 2 that says what version 1 says */
    assert_int_equal(member_body_decode(bytes, count, &member_back), WIRE_RANGE);

    struct mesh_capacity body = {
        .class = {{8, 3, 2}, {0, 0, 0}},
        .site = {.members = UINT32_MAX, .slots = {UINT32_MAX, 7}, .free = {UINT32_MAX, 7}}};
    struct mesh_capacity back;
    const size_t capacity = capacity_body_encode(&body, bytes, CAPACITY_BODY_BYTES_MAX);
    assert_true(capacity > 0);
    assert_int_equal(capacity_body_decode(bytes, capacity, &back), WIRE_OK);
    assert_memory_equal(&back.site, &body.site, sizeof body.site);
    for (size_t cut = 0; cut < capacity; cut++)
        assert_int_not_equal(capacity_body_decode(bytes, cut, &back), WIRE_OK);
    body.site.free[1] = 8; /* more than there are */
    assert_int_equal(
        capacity_body_decode(bytes, capacity_body_encode(&body, bytes, CAPACITY_BODY_BYTES_MAX), &back),
        WIRE_RANGE);
}

static void an_alert_comes_back_as_it_went(void **state)
{
    (void)state;
    const struct alert_body body = {
        .subject = {{1, 2, 3}}, .subject_incarnation = UINT64_MAX, .accuses = true};
    uint8_t bytes[ALERT_BODY_BYTES_MAX];
    struct alert_body back;
    const size_t count = alert_body_encode(&body, bytes, sizeof bytes);
    assert_int_equal(alert_body_decode(bytes, count, &back), WIRE_OK);
    assert_memory_equal(&back.subject, &body.subject, sizeof body.subject);
    assert_true(back.subject_incarnation == UINT64_MAX && back.accuses);
    for (size_t cut = 0; cut < count; cut++)
        assert_int_not_equal(alert_body_decode(bytes, cut, &back), WIRE_OK);
    bytes[1] = 2;
    assert_int_equal(alert_body_decode(bytes, count, &back), WIRE_UNKNOWN_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_member_comes_back_as_it_went),
        cmocka_unit_test(the_longest_member_fits),
        cmocka_unit_test(a_member_that_makes_no_sense_is_refused),
        cmocka_unit_test(a_capacity_comes_back_as_it_went),
        cmocka_unit_test(only_a_large_site_needs_the_second_version),
        cmocka_unit_test(a_fault_comes_back_with_a_site_and_without),
        cmocka_unit_test(devices_come_back_as_they_went),
        cmocka_unit_test(what_users_kernels_lack_is_told_and_was_not_before),
        cmocka_unit_test(devices_that_make_no_sense_are_refused),
        cmocka_unit_test(an_alert_comes_back_as_it_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
