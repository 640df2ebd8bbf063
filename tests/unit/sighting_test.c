/* What a watcher saw on a GPU, and whether that is its owner: scripts of sightings, four a second. */
#include "node/sighting.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define IGNORE "nvidia-smi, nv-hostengine,dcgm-exporter"
#define LOOK_MS 250
#define MIB (UINT64_C(1) << 20)

struct script {
    struct witness witness;
    int64_t now_ms;
};

static const struct sighting quiet = {.memory_total = 80000 * MIB, .memory_used = 4 * MIB};

static struct sighting with(const char *name, bool ours, bool known, uint64_t memory_bytes)
{
    struct sighting sighting = quiet;
    sighting.process_count = 1;
    sighting.process[0] =
        (struct sighting_process){.pid = 4711, .memory_bytes = memory_bytes, .ours = ours, .known = known};
    strcpy(sighting.process[0].name, name);
    sighting.memory_used += memory_bytes == UINT64_MAX ? 2000 * MIB : memory_bytes;
    return sighting;
}

static enum owner_cause see(struct script *script, struct sighting sighting, bool present, bool working)
{
    script->now_ms += LOOK_MS;
    witness_see(&script->witness, &sighting, present, working, IGNORE, script->now_ms);
    return script->witness.cause;
}

static void a_foreign_program_claims_at_once_and_ours_never(void **state)
{
    (void)state;
    struct script s = {0};
    assert_int_equal(see(&s, quiet, false, false), OWNER_NONE);
    assert_int_equal(see(&s, with("weir-worker", true, true, 900 * MIB), true, true), OWNER_NONE);
    assert_int_equal(see(&s, with("python3", false, true, 900 * MIB), true, true), OWNER_PROCESS);
    assert_string_equal(s.witness.who, "python3 (4711)");
    assert_int_equal(see(&s, quiet, false, false), OWNER_NONE);
}

/* Somebody looks once a second for ten minutes: a process that comes and goes, and what it reads is no work. */
static void monitoring_claims_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"nvidia-smi", "nv-hostengine", "dcgm-exporter"};
    struct script s = {0};
    for (int i = 0; i < 10 * 60 * 4; i++) {
        struct sighting sighting = i % 4 == 0 ? with(names[i / 4 % 3], false, true, 20 * MIB) : quiet;
        sighting.utilisation_percent = i % 4 == 0 ? 2 : 0;
        assert_int_equal(see(&s, sighting, i % 2 == 0, i % 2 == 0), OWNER_NONE);
    }
}

static void only_whole_names_are_ignored(void **state)
{
    (void)state;
    struct script s = {0};
    assert_int_equal(see(&s, with("nvidia", false, true, 0), false, false), OWNER_PROCESS);
    assert_int_equal(see(&s, with("nvidia-smi2", false, true, 0), false, false), OWNER_PROCESS);
    assert_int_equal(see(&s, with("", false, true, 0), false, false), OWNER_PROCESS);
    /* The system keeps fifteen characters. */
    struct sighting cut = with("a-long-monitor-", false, true, 0);
    s.now_ms += LOOK_MS;
    witness_see(&s.witness, &cut, false, false, "a-long-monitor-program", s.now_ms);
    assert_int_equal(s.witness.cause, OWNER_NONE);
}

static void memory_of_nobody_claims_when_seen_twice(void **state)
{
    (void)state;
    struct script s = {0};
    struct sighting used = quiet;
    used.memory_used = SIGHTING_MEMORY_BYTES + 1;
    assert_int_equal(see(&s, used, false, false), OWNER_NONE);
    assert_int_equal(see(&s, quiet, false, false), OWNER_NONE);
    assert_int_equal(see(&s, used, false, false), OWNER_NONE);
    assert_int_equal(see(&s, used, false, false), OWNER_MEMORY);
    assert_int_equal(see(&s, used, false, false), OWNER_MEMORY);
    used.memory_used = SIGHTING_MEMORY_BYTES;
    assert_int_equal(see(&s, used, false, false), OWNER_NONE);
    used.memory_used = 70000 * MIB; /* ours, while our worker is there */
    for (int i = 0; i < 10; i++)
        assert_int_equal(see(&s, used, true, true), OWNER_NONE);
}

static void computing_claims_when_ours_has_rested(void **state)
{
    (void)state;
    struct script s = {0};
    struct sighting busy = quiet;
    busy.utilisation_percent = SIGHTING_BUSY_PERCENT;
    for (int i = 0; i < 8; i++)
        assert_int_equal(see(&s, busy, true, true), OWNER_NONE);
    for (int64_t rested_ms = LOOK_MS; rested_ms < SIGHTING_REST_MS; rested_ms += LOOK_MS)
        assert_int_equal(see(&s, busy, true, false), OWNER_NONE); /* what is told lags behind */
    assert_int_equal(see(&s, busy, true, false), OWNER_NONE);
    assert_int_equal(see(&s, busy, true, false), OWNER_UTILISATION);
    busy.utilisation_percent = SIGHTING_BUSY_PERCENT - 1;
    assert_int_equal(see(&s, busy, true, false), OWNER_NONE);
    busy.utilisation_percent = -1;
    assert_int_equal(see(&s, busy, true, false), OWNER_NONE);
}

/* In a container the driver shows numbers that mean nothing here. */
static void a_process_nobody_knows_is_ours_while_our_worker_is_there(void **state)
{
    (void)state;
    struct script s = {0};
    assert_int_equal(see(&s, with("", false, false, 900 * MIB), true, true), OWNER_NONE);
    assert_int_equal(see(&s, with("", false, false, 900 * MIB), false, false), OWNER_PROCESS);
    assert_string_equal(s.witness.who, "a process (4711)");
}

static void memory_is_free_when_ours_is_out_of_it(void **state)
{
    (void)state;
    struct script s = {0};
    see(&s, with("weir-worker", true, true, 10 * MIB), true, false);
    assert_false(s.witness.memory_free);
    see(&s, with("", false, false, 10 * MIB), true,
        false); /* it has ended, and the driver doesn't know yet */
    assert_false(s.witness.memory_free);
    struct sighting left = quiet; /* the process is gone, its memory isn't yet */
    left.memory_used = 9000 * MIB;
    see(&s, left, false, false);
    assert_false(s.witness.memory_free);
    see(&s, with("python3", false, true, 9000 * MIB), false, false); /* the owner's own */
    assert_true(s.witness.memory_free);
    see(&s, with("python3", false, true, UINT64_MAX), false, false);
    assert_true(s.witness.memory_free);
    see(&s, quiet, false, false);
    assert_true(s.witness.memory_free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_foreign_program_claims_at_once_and_ours_never),
        cmocka_unit_test(monitoring_claims_nothing),
        cmocka_unit_test(only_whole_names_are_ignored),
        cmocka_unit_test(memory_of_nobody_claims_when_seen_twice),
        cmocka_unit_test(computing_claims_when_ours_has_rested),
        cmocka_unit_test(a_process_nobody_knows_is_ours_while_our_worker_is_there),
        cmocka_unit_test(memory_is_free_when_ours_is_out_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
