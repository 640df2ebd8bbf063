/*
 * How soon our news reach the others, by no clock but our own. When a capacity of ours is announced, one other member,
 * each in its turn, is asked to answer once it holds that very record or a newer one (AWAIT); what passes until its ECHO,
 * less half a round trip where that is known, is how long the record was on its way. The question itself travels too, so
 * the figure is never less than one way there: it is an upper bound.
 *
 * Nothing else depends on this: a question that can't be remembered is dropped and counted, and one that is not answered
 * within MESH_ECHO_LOST_MS is counted by who asked. Neighbours that speak a version without it are not asked.
 */
#ifndef MESH_ECHO_H
#define MESH_ECHO_H

#include "mesh/members.h"

/* A member asked for an ECHO, and its record has not come yet. */
struct awaited {
    uint32_t origin; /* slot of the member: its capacity it is about, and it is answered */
    struct stamp stamp;
    int64_t until_ms;
};

struct echo {
    /* Our own question, one at a time. */
    bool asked;
    struct mesh_id who;
    struct stamp stamp;
    int64_t asked_at_ms;
    uint32_t turn; /* by the order of ids */
    /* Others' questions, in no particular order; one per origin. */
    struct awaited awaited[MESH_AWAITED_MAX];
    uint32_t awaited_count;
};

void echo_check(const struct mesh *mesh);

/* Our own capacity was just announced. */
void echo_announced(struct step *step, struct stamp stamp);
/* A member's capacity record came: who awaits that is answered. */
void echo_arrived(struct step *step, uint32_t member);
/* The slot is about to be given up. */
void echo_forget(struct mesh *mesh, uint32_t member);

void echo_await(struct step *step, uint32_t from, const struct mesh_message *message);
void echo_heard(struct step *step, uint32_t from, const struct mesh_message *message);
void echo_tick(struct step *step);

#endif
