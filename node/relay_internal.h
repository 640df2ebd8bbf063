/*
 * What the parts of relay.c share: it looks for jobs and passes calls on, relay_claim.c makes a key one job, relay_list.c gathers
 * the jobs of all.
 */
#ifndef NODE_RELAY_INTERNAL_H
#define NODE_RELAY_INTERNAL_H

#include "node/calls.h"
#include "node/keys.h"
#include "node/log.h"
#include "node/ops.h"

#include <stdlib.h>
#include <string.h>

#define WAVE_NODES 32        /* asked at a time: links on demand are few */
#define WAVE_TIMEOUT_MS 1000 /* then without those that have not answered */
#define FOUND_MAX 8          /* answers that are told apart */

enum phase { LOCATING, PAUSING, PASSED_ON, GATHERING, REGISTERING, ASKING_HOLDER };

struct found {
    struct mesh_id job;
    struct mesh_id node;
    uint64_t epoch;
    bool home;             /* else it keeps a copy of the journal */
    bool over;             /* of a job that is over */
    int64_t created_at_ms; /* as a home tells; 0 = not told */
};

/* Whose pages are awaited. */
struct teller {
    struct mesh_id id;
    bool waiting;
    uint32_t rows, lost; /* told so far */
};

struct relay {
    struct relay *next;
    struct api_call *call; /* whose it is; NULL: a claim */
    json_t *body;          /* what is passed on */
    char text[65];         /* the job as the client named it */
    bool claims;
    struct mesh_id job;                           /* of a claim, and what follows */
    uint64_t claim;                               /* what ours is told apart by */
    struct mesh_id registrar[KEY_REGISTRARS_MAX]; /* in this try */
    uint32_t registrars;
    uint32_t reached;       /* bits of those that have answered, or registered us */
    bool held;              /* another is registered, */
    struct key_home holder; /* that one */
    bool replaces;          /* and this one has said in this try that it has no such job */
    struct key_home instead;
    bool streams; /* its client waits, however long it takes */
    bool told;    /* that nobody is the home now */
    int64_t note_at_ms;
    enum phase phase;
    uint64_t request;
    uint32_t next_member;
    uint32_t waiting; /* for so many answers of this wave */
    int64_t until_ms;
    int64_t give_up_at_ms;
    struct found found[FOUND_MAX];
    uint32_t found_count;
    struct mesh_id target; /* PASSED_ON */
    uint64_t session;
    struct teller teller[WAVE_NODES]; /* GATHERING */
    json_t *rows;
    json_t *lost;    /* jobs whose home did not answer, by those that keep their journals */
    json_t *bar;     /* a row after which no other is wanted; NULL = not known yet */
    uint32_t limit;  /* of rows */
    uint32_t silent; /* members that did not answer, or not to the end */
    bool more;       /* some were not told, and it is not known how many */
    int64_t total, matching;
};

static inline bool relay_same(const struct mesh_id *a, const struct mesh_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- relay.c */

/* NULL: there are too many, and the call, if there is one, was answered so. */
struct relay *relay_make(struct node *node, struct api_call *call, const char *text);
void relay_free(struct node *node, struct relay *relay);
bool relay_ask(struct node *node, const struct relay *relay, const struct mesh_id *to, const json_t *body);
/* Asks the next members. False: there are none left. */
bool relay_next_wave(struct node *node, struct relay *relay);
/* Adds what one says of where the job is. */
void relay_note(struct relay *relay, const struct mesh_id *from, const json_t *row);
/* Asks everybody where the job is. */
void relay_locate(struct node *node, struct relay *relay);
/* The same, in a while. */
void relay_pause(struct relay *relay);
/* Tells whoever claims the key whether it is taken. Frees the relay. */
void relay_end_claim(struct node *node, struct relay *relay);

/* ---- relay_claim.c: while a claim looks for its job, and then */

void claim_choose_registrars(struct node *node, struct relay *relay);
void claim_note_registrar(struct relay *relay, const struct mesh_id *from);
void claim_note_holder(const struct node *node, struct relay *relay, const struct key_home *home);
/* All have been asked for the job. */
void claim_go_on(struct node *node, struct relay *relay);
/* REGISTERING: an answer, or their time is over. */
void claim_on_registrar(struct node *node, struct relay *relay, const struct mesh_id *from,
                        const json_t *answer);
void claim_registered(struct node *node, struct relay *relay);
/* ASKING_HOLDER: likewise. */
void claim_on_holder(struct node *node, struct relay *relay, const json_t *answer);
void claim_doubt(struct node *node, struct relay *relay);

/* ---- relay_list.c: GATHERING */

void gather_on_page(struct node *node, struct relay *relay, const struct mesh_id *from, const json_t *answer);
/* All have told, or have had their time. Answers the call and frees the relay. */
void gather_end(struct node *node, struct relay *relay);

#endif
