/* The escape suite: what a stranger's code tries, from inside the sandbox.
 *
 * Each case is an attack and the set of layers that stand against it. It must fail with every layer on, fail with
 * each of its layers alone, and succeed when all of them are left out: else it would prove nothing. The test
 * program is its own inmate: started again by sandbox_spawn, it enters the profile and attacks. */
#ifndef TESTS_ESCAPE_H
#define TESTS_ESCAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/sandbox.h"

#define ESCAPE_MEMORY_BYTES (96u << 20) /* the inmates' limit */
#define ESCAPE_PROCESSES 16
#define ESCAPE_SECRET "the-secret-of-the-host"

/* What the outside lays out for the attacks. Handed to the inmate as it is, at an address it may know. */
struct escape_world {
    int32_t outside_pid;
    uint32_t tcp_port;         /* somebody listens there, on 127.0.0.1 */
    char unix_name[32];        /* and there, an abstract name */
    int32_t shared_key;        /* a System V segment with the secret */
    uint64_t secret_address;   /* in the outside's memory */
    char secret_path[200];     /* a file with the secret, readable by all */
    char writable_folder[200]; /* where all may write */
};

/* An attack returns true if it got out. It may be killed instead. */
typedef bool escape_attack(const struct escape_world *world);

struct escape_case {
    const char *name;
    enum sandbox_kind kind;
    escape_attack *attack;
    const char *source;   /* instead of an attack: is compiled, under SANDBOX_COMPILE */
    uint32_t layers;      /* that hold it, each alone */
    uint32_t besides;     /* left out in all runs but the first: they would hold it too, on some machines */
    int landlock_abi;     /* below this, landlock is none of its layers */
    bool cgroup;          /* without a cgroup, memory is none of its layers */
    bool by_chance;       /* the kernel may refuse it by a setting of its own: then there is no proof */
    uint32_t cpu_seconds; /* held by this limit instead of a layer */
    uint64_t file_bytes;  /* or by this one */
};

extern const struct escape_case escape_run_cases[], escape_compile_cases[];
extern const unsigned escape_run_count, escape_compile_count;

#endif
