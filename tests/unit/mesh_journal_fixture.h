/* A node that keeps journals of several copies, among members that the test plays. */
#ifndef TESTS_UNIT_MESH_JOURNAL_FIXTURE_H
#define TESTS_UNIT_MESH_JOURNAL_FIXTURE_H

#include "mesh_home_fixture.h"

static inline struct mesh_limits limits_of_journals(uint32_t journals)
{
    return (struct mesh_limits){.members = 16,
                                .jobs = 8,
                                .shards = 256,
                                .bundles = 16,
                                .attempts = 16,
                                .demands = 8,
                                .journals = journals,
                                .waiters = 32};
}

static inline struct fixture *open_member(uint32_t peers, uint32_t journals)
{
    const struct mesh_limits limits = limits_of_journals(journals);
    struct fixture *const f = fixture_open_limits(peers, &limits, NULL);
    for (uint32_t i = 0; i < peers; i++) { /* each says how far it has seen our disk: not at all */
        struct mesh_message disk = {.kind = MESH_DISK};
        disk.body.disk.sequence = 1;
        fixture_message(f, i, &disk);
    }
    fixture_clear(f);
    return f;
}

#endif
