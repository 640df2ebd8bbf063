/* The rows that `weir explain` and `weir logs` tell of a job: see struct job_decision. */
#include "node/job.h"

#include <stdlib.h>
#include <string.h>

/* What came back for one reason isn't put together with what did for another: an owner's claim is told as such. */
static bool alike(const struct job_decision *a, const struct job_decision *b)
{
    if (a->why == MESH_WHY_RETURNED && a->reason && b->reason && strcmp(a->reason, b->reason) != 0)
        return false;
    return a->why == b->why && memcmp(&a->node, &b->node, sizeof a->node) == 0;
}

/* `one` is later; what it owns goes over. */
static void put_together(struct job_decision *row, const struct job_decision *one)
{
    row->count += one->count;
    row->times += one->times;
    if (one->reason) {
        free(row->reason);
        row->reason = one->reason;
    }
}

/* The latest row of the first `count` that `one` may join, or NULL. */
static struct job_decision *row_of(const struct job *job, uint32_t count, const struct job_decision *one,
                                   int64_t span_ms)
{
    for (uint32_t i = count; i > 0; i--) {
        struct job_decision *row = &job->decision[i - 1];
        if (alike(row, one))
            return one->at_ms - row->at_ms < span_ms ? row : NULL;
    }
    return NULL;
}

/* Doubles the span until half of the rows are free; where there are more nodes than rows, the oldest row goes. */
static void make_room(struct job *job)
{
    for (int doublings = 0; job->decision_count > JOB_DECISIONS_MAX / 2 && doublings < 8; doublings++) {
        job->decision_span_ms = 2 * (job->decision_span_ms ? job->decision_span_ms : JOB_DECISION_GROUP_MS);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < job->decision_count; i++) {
            struct job_decision *row = row_of(job, kept, &job->decision[i], job->decision_span_ms);
            if (row)
                put_together(row, &job->decision[i]);
            else
                job->decision[kept++] = job->decision[i];
        }
        job->decision_count = kept;
    }
    if (job->decision_count < JOB_DECISIONS_MAX)
        return;
    free(job->decision[0].reason);
    memmove(&job->decision[0], &job->decision[1], (JOB_DECISIONS_MAX - 1) * sizeof *job->decision);
    job->decision_count--;
    job->decisions_dropped++;
}

void job_decide(struct job *job, const struct job_decision *one)
{
    struct job_decision *row = row_of(job, job->decision_count, one, JOB_DECISION_GROUP_MS);
    if (row) {
        put_together(row, one);
        return;
    }
    if (job->decision_count == JOB_DECISIONS_MAX)
        make_room(job);
    if (job->decision_count == job->decision_room) {
        job->decision_room = job->decision_room ? 2 * job->decision_room : 8; /* up to the power of two MAX */
        job->decision = realloc(job->decision, job->decision_room * sizeof *job->decision);
        if (!job->decision)
            abort();
    }
    job->decision[job->decision_count] = *one;
    job->decision[job->decision_count++].number = job->decisions_ever++;
}
