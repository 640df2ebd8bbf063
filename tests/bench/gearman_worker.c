/*
 * A Gearman worker that does what Weir's kernel `noop` does: 64-bit FNV-1a of the bytes it is given.
 *
 *     gearman_worker PORT        runs until it is killed
 */
#include <libgearman/gearman.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gearman_return_t noop(gearman_job_st *job, void *context)
{
    (void)context;
    const uint8_t *bytes = gearman_job_workload(job);
    const size_t count = gearman_job_workload_size(job);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return gearman_job_send_complete(job, &hash, sizeof hash);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: gearman_worker PORT\n");
        return 2;
    }
    gearman_worker_st *worker = gearman_worker_create(NULL);
    if (!worker || gearman_failed(gearman_worker_add_server(worker, "127.0.0.1", (in_port_t)atoi(argv[1]))) ||
        gearman_failed(gearman_worker_define_function(worker, "noop", strlen("noop"),
                                                      gearman_function_create(noop), 0, NULL))) {
        fprintf(stderr, "gearman_worker: cannot be set up\n");
        return 1;
    }
    while (!gearman_failed(gearman_worker_work(worker)))
        ;
    fprintf(stderr, "gearman_worker: %s\n", gearman_worker_error(worker));
    return 1;
}
