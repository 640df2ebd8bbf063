/*
 * Submits no-op jobs to a Gearman server, checks every result, and prints how long that took.
 *
 *     gearman_client PORT COUNT BYTES BATCH
 *
 * BATCH jobs at a time are handed over in one call of gearman_client_run_tasks, which is libgearman's fast
 * path, but takes time by the square of the batch; 1 waits for each job with gearman_client_do. Prints one
 * JSON object:
 * {"jobs": N, "seconds": S}.
 */
#include <libgearman/gearman.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static size_t job_bytes;
static uint8_t *workloads; /* COUNT rows of job_bytes */
static size_t done_count;
static size_t wrong_count;

static uint64_t noop(const uint8_t *bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < job_bytes; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static void check(const void *result, size_t count, const uint8_t *workload)
{
    const uint64_t expected = noop(workload);
    done_count++;
    wrong_count += count != sizeof expected || memcmp(result, &expected, sizeof expected) != 0;
}

static gearman_return_t on_complete(gearman_task_st *task)
{
    check(gearman_task_data(task), gearman_task_data_size(task), gearman_task_context(task));
    return GEARMAN_SUCCESS;
}

static bool run_batch(gearman_client_st *client, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        gearman_return_t result;
        uint8_t *workload = workloads + i * job_bytes;
        gearman_client_add_task(client, NULL, workload, "noop", NULL, workload, job_bytes, &result);
        if (gearman_failed(result))
            return false;
    }
    const bool good = !gearman_failed(gearman_client_run_tasks(client));
    gearman_client_task_free_all(client);
    return good;
}

static bool run_one(gearman_client_st *client, size_t i)
{
    gearman_return_t result;
    size_t result_bytes;
    const uint8_t *workload = workloads + i * job_bytes;
    void *answer = gearman_client_do(client, "noop", NULL, workload, job_bytes, &result_bytes, &result);
    if (gearman_failed(result))
        return false;
    check(answer, result_bytes, workload);
    free(answer);
    return true;
}

static bool run(gearman_client_st *client, size_t count, size_t batch)
{
    bool good = true;
    for (size_t first = 0; first < count && good; first += batch)
        good = batch == 1 ? run_one(client, first)
                          : run_batch(client, first, count - first < batch ? count - first : batch);
    return good;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    const size_t count = argc == 5 ? strtoul(argv[2], NULL, 10) : 0;
    const size_t batch = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;
    if (count == 0 || batch == 0) {
        fprintf(stderr, "usage: gearman_client PORT COUNT BYTES BATCH\n");
        return 2;
    }
    job_bytes = strtoul(argv[3], NULL, 10);
    workloads = malloc(count * job_bytes);
    gearman_client_st *client = gearman_client_create(NULL);
    if (!workloads || !client ||
        gearman_failed(gearman_client_add_server(client, "127.0.0.1", (in_port_t)atoi(argv[1])))) {
        fprintf(stderr, "gearman_client: cannot be set up\n");
        return 1;
    }
    gearman_client_set_complete_fn(client, on_complete);
    uint64_t state = 1; /* any distinct bytes do */
    for (size_t i = 0; i < count * job_bytes; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        workloads[i] = (uint8_t)(state >> 56);
    }
    const double begin = seconds_now();
    const bool good = run(client, count, batch);
    const double seconds = seconds_now() - begin;
    if (!good || done_count != count || wrong_count > 0) {
        fprintf(stderr, "gearman_client: %zu of %zu jobs done, %zu wrong: %s\n", done_count, count,
                wrong_count, gearman_client_error(client));
        return 1;
    }
    printf("{\"jobs\": %zu, \"seconds\": %.6f}\n", count, seconds);
    gearman_client_free(client);
    free(workloads);
    return 0;
}
