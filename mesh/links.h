/*
 * Links to our neighbours: pings, round trips and silence. A link is born when a member becomes our neighbour
 * and ends when it no longer is one. It is up once anything came over it, silent after MESH_LINK_SILENT_MS
 * without a word or when it was reset and could not be dialled again, and no longer silent as soon as the
 * member is heard. Silence alone does nothing here: detector.c decides what it means.
 *
 * Who comes up is asked for the capacities that are newer than those that we hold, one neighbour at a time: what the first
 * one sends, the next ones need not. Our own and the members' records go first, see gossip_linked().
 */
#ifndef MESH_LINKS_H
#define MESH_LINKS_H

#include "mesh/members.h"

struct link {
    uint32_t member;
    uint32_t protocol; /* the version agreed on at its latest session; 0 before one */
    uint8_t place;     /* 0 to MESH_LINKS_MAX - 1, its own for as long as it lives */
    bool up;           /* it has a session: records are pushed over it */
    bool greeted;      /* the member has been heard since it became our neighbour */
    bool silent;
    bool reset;          /* silent because it was reset, which is quicker evidence than mere silence */
    bool redialed;       /* the host was asked to dial again in this silence */
    int64_t heard_at_ms; /* before it was ever heard: when it became our neighbour */
    int64_t pinged_at_ms;
    int64_t silent_at_ms;
    int64_t accuse_after_ms; /* no accusation of a member that has just refuted one of ours, unless others
                                join in */
    uint32_t refuted;        /* how often in a row it refuted us while the link stayed silent */
    uint32_t
        capacity_next; /* it is asked for capacities from this slot on; MESH_NONE = for all it has been */
};

struct links {
    uint32_t count;
    bool stale; /* membership changed: the neighbours must be chosen again */
    int64_t ticked_at_ms;
    int64_t ask_at_ms; /* when a peer may be asked for more capacities */
    struct link link[MESH_LINKS_MAX];
};

void links_init(struct mesh *mesh);
void links_check(const struct mesh *mesh);

/* Returns the link to a neighbour, or NULL. */
struct link *links_find(struct mesh *mesh, uint32_t member);
const struct link *links_view(const struct mesh *mesh, uint32_t member);

void links_heard(struct step *step, uint32_t member); /* anything came from it */
void links_ping(struct step *step, const struct mesh_id *from, const struct mesh_message *message);
void links_pong(struct step *step, uint32_t member, uint32_t rtt_us);
void links_up(struct step *step, const struct mesh_event *event);
void links_down(struct step *step, const struct mesh_event *event);
void links_tick(struct step *step);

#endif
