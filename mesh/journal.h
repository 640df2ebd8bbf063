/*
 * Journals: what makes a job outlive its home.
 *
 * A *journal* is the log of one job: that it was submitted, which results are committed, how it ended. Its
 * *members* are the job's home and up to four more nodes, chosen at the submit. The home appends. An entry is
 * *held* by a member once it is durable there, and *settled* once a majority holds it; only then is a submit
 * acknowledged, a result acknowledged to its executor, an end told. A job of a single copy has no journal here:
 * what its home has saved is settled.
 *
 * An *epoch* is one reign of one home. A member votes for at most one candidate per epoch, durably, and for none
 * whose log is behind its own; so whoever has a majority of votes has every settled entry, and there is one home
 * per epoch at most. It then appends an entry of its own epoch, and when that is settled so is everything before
 * it. From then on no member takes an entry of an older epoch: the home before is fenced, wherever it is.
 * (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014, with one log per job.)
 *
 * A journal at one node, by role:
 *
 *     FOLLOWER   takes entries from the home of its epoch. Born of the first entry, of a candidate's question, or read
 *                back from the disk.
 *     CANDIDATE  asks for votes: the home is down or has been silent for JOURNAL_QUIET_MS, or this node was the
 *                home before it restarted.
 *     LEADER     this node is the job's home, or about to be: it has the votes and its first entry isn't settled.
 *
 * Who would stand asks first whether it would be voted for, so that one that was cut off doesn't end its home's reign
 * when it comes back (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 9.6). A home that drains asks the
 * member that has everything to stand at once (section 3.10). Members are replaced one at a time: see change.c. And who
 * can't be sure of its own disk has no voice: see disk.h.
 *
 * A member of which the home was lost before the first entry came there hears of the journal by a candidate's VOTE, which
 * names the members. It has a vote like others, for an empty log is behind no other, if it is one of them by its storage and
 * nothing of the journal was ever on its disk. It never stands itself. If its disk is another one by now it says that its copy
 * is lost.
 *
 * A higher epoch makes a follower of anybody. Once all members hold the job's end the followers are told and forget the journal,
 * and the leader when all have; or each when its host forgets the job, the leader also when the table needs room: its host is
 * told, and answers members that ask later.
 */
#ifndef MESH_JOURNAL_H
#define MESH_JOURNAL_H

#include "mesh/list.h"
#include "mesh/mesh.h"

enum {
    JOURNAL_BEAT_MS = 3000, /* a home lets its followers hear of a journal at least so often */
    JOURNAL_QUIET_MS =
        30000, /* a follower that hears nothing for so long stands for election, whatever the home */
    JOURNAL_FRESH_MS = 8000, /* who has heard the home within so long votes for nobody else */
    JOURNAL_STAND_MS =
        1000, /* after the home is down: times the rank among the members, plus as much again drawn */
    JOURNAL_VOTE_MS = 3000,   /* votes that did not come in: stand again */
    JOURNAL_RESEND_MS = 2000, /* an entry not held after so long is sent again, from the disk */
    JOURNAL_STALL_MS =
        8000, /* not settled, or no majority heard, for so long: the job is said to be stalled */
    JOURNAL_HAND_MS =
        2000, /* a home asked to stand, or the wait for one that has everything: then another is tried */
    /* A job for which its new home, or a newcomer to its journal, has no room for so long is given to another. */
    JOURNAL_ROOM_MS = 30000,
    JOURNAL_OUT_MS = 10 * 60 * 1000, /* who is told that it is no member any more asks again after so long */
    JOURNAL_CHANGES = 8,             /* members chosen anew in one scan: each looks at all nodes */
    JOURNAL_SCAN_MS = 500, /* timers are looked at so often: there are thousands, and none is in a hurry */
    JOURNAL_SENDS =
        4 * (MESH_COPIES_MAX + 1), /* one journal's timers at most: a beat, an entry, a question to each */
    JOURNAL_WINDOW = 64, /* entries sent from the disk at a time; the host sends fewer where they are large */
};

enum journal_role { JOURNAL_FREE = 0, JOURNAL_FOLLOWER, JOURNAL_CANDIDATE, JOURNAL_LEADER };

/* What a leader knows of one member. */
struct journal_peer {
    bool lost;          /* its disk has forgotten something since it was chosen: nothing it says counts */
    uint32_t held;      /* entries up to here are durable there */
    uint32_t sent;      /* and up to here on their way */
    bool told;          /* it has forgotten the journal: its end is settled */
    bool behind;        /* it lacks entries: they are sent from the disk until it has caught up */
    int64_t sent_at_ms; /* when the oldest of those on their way went, or any was held */
};

struct journal {
    struct mesh_id job;
    enum journal_role role;
    uint64_t
        promised;  /* the highest epoch of which we voted or took an entry; no older one is heard any more */
    uint64_t seen; /* the highest that anybody named */
    struct mesh_id voted; /* whom for, in the epoch promised; zero: nobody */
    struct mesh_id home;  /* of the epoch promised; zero: not known yet */
    uint32_t last;        /* the log's entries are 1 to last */
    uint32_t settled;     /* up to here a majority is known to hold them */
    uint32_t run_count;
    struct {
        uint64_t epoch;
        uint32_t first;
    } run[MESH_RUNS_MAX];        /* entries from `first` on are of `epoch`, up to the next run */
    struct mesh_members members; /* the latest in the log, be it settled or not */
    uint32_t members_at;         /* the entry that has them */
    struct mesh_members
        before; /* what they were before that entry, for when it is replaced; count 0: nothing */
    uint32_t before_at;
    bool proven;         /* our disk holds what the others saw on it */
    uint32_t end;        /* the entry that holds the job's end; 0 = none yet */
    int64_t heard_at_ms; /* FOLLOWER: from the home */
    int64_t stand_at_ms; /* FOLLOWER, CANDIDATE: when it stands, or stands again */
    uint32_t votes;      /* CANDIDATE, or asking: bit per member */
    uint32_t lost;       /* of them, those that said that their copy is lost */
    uint64_t asking;     /* FOLLOWER: whether it would be voted for in that epoch; 0 = it doesn't ask */

    /* LEADER. */
    bool reigns;         /* its first entry is settled: the job is its own to go on with */
    bool stalled;        /* something has waited for JOURNAL_STALL_MS */
    bool due;            /* waiters that are settled could not all be served: the output was full */
    uint32_t first;      /* the first entry of its epoch */
    int64_t moved_at_ms; /* when `settled` last moved, or something began to wait */
    int64_t beat_at_ms;
    uint32_t beat_settled; /* what was settled then */
    int64_t led_at_ms;
    struct list waiters;                           /* in the order of their entries */
    struct journal_peer peer[MESH_COPIES_MAX + 1]; /* as members.id; our own `held` is what is durable here */
    /* A newcomer that is brought up before it counts: its peer is the one behind the members'. */
    bool learning;
    struct mesh_id learner;
    uint64_t learner_storage;
    int64_t learning_at_ms; /* since when */
    /* We don't want to be the home any more: no results are taken until another is. */
    bool handing;
    int64_t handed_at_ms; /* when one was asked to stand, or it began to be waited for */
};

/* What is to be done once an entry is settled. */
struct journal_waiter {
    uint32_t index;
    enum mesh_entry_kind kind;
    struct mesh_id executor;      /* COMMIT: who is waiting to hear that */
    struct mesh_bundle_name name; /* this bundle is committed */
    enum mesh_job_state state;    /* END */
};

struct journals {
    struct journal *journal;
    struct pool pool;
    struct list_link *link; /* free slots only */
    uint32_t *bucket;       /* by job: index + 1, chained by `chain` */
    uint32_t *chain;
    uint32_t bucket_count;

    struct journal_waiter *waiter;
    struct pool waiter_pool;
    struct list_link *waiter_link; /* free, or journal.waiters */

    uint32_t changes_left; /* in this scan: see JOURNAL_CHANGES */
    int64_t scan_at_ms;    /* when the timers are looked at next */
    uint32_t scan_next;    /* where that goes on: it may take several steps */
};

struct step;
struct mesh;

void journals_layout(struct journals *journals, const struct mesh_limits *limits, struct carve *from);
void journals_check(const struct mesh *mesh);

/* For home.c. */

/*
 * Chooses the members for a new job and makes its journal, with us as the home of epoch 1. MESH_NONE if that can't
 * be, for the reason in *refusal; or, with MESH_ACCEPTED there, if the job has a single copy and needs none.
 */
uint32_t journal_open(struct step *step, const struct mesh_job_spec *spec, enum mesh_refusal *refusal);
/* The journal that we lead of that job, or MESH_NONE. */
uint32_t journal_led(const struct mesh *mesh, const struct mesh_id *job);
/*
 * Whether results of that journal may be taken now: there must be room for what waits to be settled. What is stalled leaves
 * half of it to others.
 */
bool journal_has_room(const struct mesh *mesh, uint32_t slot);
/* Whether that journal, which we lead, is on its way to another home: nothing new is begun. */
bool journal_hands_over(const struct mesh *mesh, uint32_t slot);
/*
 * Appends to a journal that we lead: gives the entry its place, and sends it to the members. `waiter` says what to do
 * once it is settled; its index is filled in. NULL: nothing. The caller adds the save to the same step.
 */
struct mesh_place journal_append(struct step *step, uint32_t slot, enum mesh_entry_kind kind,
                                 const struct mesh_members *members, /* CHANGE; otherwise NULL */
                                 const struct journal_waiter *waiter);
/* A save that belongs to a journal. */
struct mesh_save *journal_save(struct step *step, enum mesh_save_kind kind);
/*
 * What waits for all that was appended so far, in a journal that we lead; journal_has_room. False if all of it is settled
 * already. One of that bundle that waits is enough.
 */
bool journal_await(struct step *step, uint32_t slot, const struct journal_waiter *waiter);
/* Whether a result that the executor brought under that token waits to be settled, in a journal that we lead. */
bool journal_owes(const struct mesh *mesh, const struct mesh_id *job, const struct mesh_id *executor,
                  uint64_t token);
/*
 * A cancel, once the end is appended: nobody need hold it if nobody was told of the job, whose first entry is not settled, and
 * nobody can be its home without our vote, which is so of two members. The host is told that it is over, and answers the member
 * when it asks: it may have the first entry, or never come back. Otherwise the end is settled as any other.
 */
void journal_cancel(struct step *step, const struct mesh_id *job);
/* Whether the job's submit or its end is not settled yet. */
bool journal_waits(const struct mesh *mesh, const struct mesh_id *job);
/* Whether a job read back may be ours: it has a single copy, or the majority of the others has made us its home in
 * that very epoch. */
bool journal_permits(const struct mesh *mesh, const struct mesh_job_spec *spec);
/* Its members, or those beside us. */
const struct mesh_members *journal_members(const struct mesh *mesh, uint32_t slot);
void journal_others(const struct mesh *mesh, uint32_t slot, struct mesh_members *others);
/* The host forgets the job, and so do we. */
void journal_forget(struct step *step, const struct mesh_id *job);

/* For the dispatch in mesh.c, and members.c. `from` is a member's slot. */
void journal_begin(struct step *step, const struct mesh_event *event);
void journal_log_sent(struct step *step, const struct mesh_event *event);
void journal_restore(struct step *step, const struct mesh_event *event);
void journal_told_over(struct step *step, const struct mesh_event *event);
void journal_on_append(struct step *step, uint32_t from, const struct mesh_message *message);
void journal_on_appended(struct step *step, uint32_t from, const struct mesh_message *message);
void journal_on_vote(struct step *step, uint32_t from, const struct mesh_message *message);
void journal_on_voted(struct step *step, uint32_t from, const struct mesh_message *message);
void journal_on_beat(struct step *step, uint32_t from, const struct mesh_message *message);
void journal_on_hand_over(struct step *step, uint32_t from, const struct mesh_message *message);
/* Something that journals wait for has happened: their timers are looked at now. */
void journals_hurry(struct step *step);
void journal_member_down(struct step *step, uint32_t member);
/* Another process of a home leads nothing until it is elected. It may stand first; but its disk may not let it. */
void journal_member_restarted(struct step *step, uint32_t member);
void journals_tick(struct step *step);

/* Between journal.c, leader.c, follower.c, election.c and change.c. */
/* A follower's journal with an empty log; one that is over makes room. MESH_NONE at the bound. */
uint32_t journal_make(struct step *step, const struct mesh_id *job, const struct mesh_members *members);
void journal_free(struct journals *journals, uint32_t slot);
void journal_waiters_free(struct journals *journals, struct journal *journal);
/* The log: cut back to `last`, and one more entry. */
void journal_cut(struct journal *journal, uint32_t last);
void journal_add(struct journal *journal, uint64_t epoch, enum mesh_entry_kind kind,
                 const struct mesh_members *members);
/* Whether our copy counts: it has something, is in the set, and of a disk that has lost nothing since it was chosen. */
bool journal_counts(const struct mesh *mesh, const struct journal *journal);
/* The incarnation at which a copy of ours must have been chosen, or later, for our word to count. */
uint64_t journal_storage(const struct mesh *mesh, const struct journal *journal);
/* Whether what we promised and hold is surely what we ever promised and held. Asks those who could know otherwise. */
bool journal_proven(struct step *step, struct journal *journal);
/* The job's end is settled: what is left is to tell those who don't know yet. */
bool journal_is_over(const struct journal *journal);
/* Tells the host that it is over, and forgets it. */
void journal_end(struct step *step, uint32_t slot, bool whole);
struct mesh_message *journal_send_appended(struct step *step, const struct journal *journal,
                                           const struct mesh_id *to, uint32_t last, bool held);
void journal_tick_leader(struct step *step, uint32_t slot);
uint32_t journal_find(const struct mesh *mesh, const struct mesh_id *job);
uint32_t members_place(const struct mesh_members *members,
                       const struct mesh_id *id); /* its place, or MESH_NONE */
uint64_t journal_epoch_of(const struct journal *journal,
                          uint32_t index); /* 0 for index 0, or one long settled */
/* Makes us the leader of the epoch promised; the caller appends its first entry. */
void journal_lead(struct step *step, uint32_t slot);
/* Makes a follower of us that knows no home; if we led, the job is not ours any more. */
void journal_unlead(struct step *step, uint32_t slot);
/* Somebody named an epoch: if it is higher than all before, we can't lead in an older one. */
void journal_seen(struct step *step, uint32_t slot, uint64_t epoch);
/* The home of that epoch, not older than promised, spoke. False if that can't be: we are it. */
bool journal_follow(struct step *step, uint32_t slot, const struct mesh_id *home, uint64_t epoch);
void journal_tick_election(struct step *step, uint32_t slot);
/* Saves what was promised, once more if need be: nothing of this step goes before all that was saved until now. */
void journal_save_promise(struct step *step, const struct journal *journal);

/* change.c */
/* Members for a new job: ourselves and whoever is chosen. */
void change_choose(const struct mesh *mesh, const struct mesh_job_spec *spec, struct mesh_members *chosen);
/*
 * Whether those whose bits are set are a majority of the set before and of the set after the change under way. `lost`
 * has the bits of those whose copies are lost: they never speak again.
 */
bool change_majority(const struct mesh_members *members, uint32_t bits, uint32_t lost);
/* The copies of that node which are lost if its disk is of that storage: while one is replaced by a new one of the same node there
 * are two. */
uint32_t change_lost(const struct mesh_members *members, const struct mesh_id *id, uint64_t storage);
/* Whether members as they came make sense. */
bool change_makes_sense(const struct mesh_members *members);
/* Whether that member is lost, and not only for a while. */
bool change_is_gone(const struct step *step, const struct journal *journal, uint32_t which);
/* Takes the next step of replacing or adding a member, if there is one to take now. */
void change_tick(struct step *step, uint32_t slot);

#endif
