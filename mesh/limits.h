/*
 * Every bound of the protocol core, in one place, with its unit and the reason for its size.
 *
 * Limits that size memory are defaults: a host may choose smaller ones in struct mesh_limits. What happens at each
 * bound is said beside it and tested.
 */
#ifndef MESH_LIMITS_H
#define MESH_LIMITS_H

/*
 * The versions of the protocol that this core speaks; the host agrees on one per link, the highest that both ends speak,
 * and says so with MESH_LINK_UP. At least the version before the latest is spoken too, so that a mesh is upgraded one
 * node at a time: a message that a version lacks is not sent on such a link.
 */
#define MESH_PROTOCOL_MIN 1
#define MESH_PROTOCOL_MAX 2
/* From this version on records travel along trees (tree.h); a peer of an earlier one is sent every record. */
#define MESH_PROTOCOL_TREES 2

/* Members known to one node. Beyond this, a record of a new member is dropped and counted (records_full). */
#define MESH_MEMBERS_MAX 8192

/* Rings of the overlay, and so at most two neighbours per ring. Up to MESH_FULL_MESH members everyone is a neighbour. */
#define MESH_RINGS 4
#define MESH_NEIGHBOURS_MAX (2 * MESH_RINGS)
#define MESH_FULL_MESH 9

/*
 * Blobs named in a capacity as held by a member's workers: the largest ones, by the first four bytes of their ids, which is
 * 40 bytes at most, in the records of those alone that hold some. A name that two blobs share costs a detour. Smaller blobs
 * than that are fetched in less time than asking for a place takes.
 */
#define MESH_RESIDENTS_MAX 8
#define MESH_RESIDENT_BYTES_MIN (16u << 20)

/*
 * Accusations of one member that are remembered: those of all its observers, and some room for observers by a slightly
 * different view of the rings. At the bound those of non-observers give way to observers', others are dropped.
 */
#define MESH_ACCUSATIONS_MAX 12
/* Revocations remembered: as many as members. A revocation beyond it still acts on a known member but is not kept. */
#define MESH_REVOCATIONS_MAX MESH_MEMBERS_MAX

/*
 * Tiers. A site with more live nodes than the first has an interior, one with fewer than the second no longer; the gap
 * keeps a site at the border from going to and fro. Three reporters, so that two may be lost at once.
 */
#define MESH_SITE_SPLIT 64
#define MESH_SITE_MERGE 48
#define MESH_REPORTERS 3
/* A reporter has neighbours in two tiers. */
#define MESH_LINKS_MAX (2 * MESH_NEIGHBOURS_MAX)
/* Guests known at a time; beyond it the one of whom nothing was heard for longest, and that holds no work, gives way. */
#define MESH_GUESTS_MAX 256
/* Members named in one answer to a question for places, and contacts in one to a question for contacts. */
#define MESH_REFERRED_MAX 8

/* Jobs for which one node is home at a time; a submit beyond it is refused as busy. */
#define MESH_JOBS_MAX 4096
/* Shards of all live jobs of one home, and of one job. A submit beyond it is refused as busy or too large. */
#define MESH_SHARDS_MAX (1u << 20)
/*
 * Copies of a job's journal at most, its home's included, and one more while one is replaced; and journals that one node keeps, as home or for others. At
 * the bound an entry of a new journal is not taken: its home goes on with the other members, or refuses the job.
 */
#define MESH_COPIES_MAX 5
#define MESH_JOURNALS_MAX (3 * MESH_JOBS_MAX)
/* Entries of journals that wait to be held by a majority. Room for the ends of all jobs is kept, and half of the rest from
   journals that are stalled; results beyond that are not taken, and come again. */
#define MESH_WAITERS_MAX (3 * MESH_JOBS_MAX)
/* Changes of epoch in one journal that are remembered: those before are known to be settled. */
#define MESH_RUNS_MAX 8
/* Journals named in one BEAT. */
#define MESH_BEATS_MAX 64

/* Bundles a home has out at executors. At the bound nothing more is bound until a result comes. */
#define MESH_BUNDLES_MAX 2048
/* Bundles an executor holds, running, waiting, or finished and not yet acknowledged by their home. At the bound the oldest
   result whose home is lost makes room; without one nothing more is granted. */
#define MESH_ATTEMPTS_MAX 1024
/* Standing demands an executor remembers. A RESERVE beyond it is granted what is free at once, answered with WAIT and forgotten; the
 * home asks again. */
#define MESH_DEMANDS_MAX 512
/* Grants an executor has open. They also count against its slots, so this bound is never the first to be reached. */
#define MESH_GRANTS_MAX 1024

/* Shards in one bundle: 256 x 4 bytes of indices; with 200 B inline input each it fits a 256 KiB control message. */
#define MESH_BUNDLE_SHARDS_MAX 256
/* Inline bytes (inputs, and separately results) in one bundle: leaves room for keys and framing under 256 KiB. */
#define MESH_BUNDLE_BYTES_MAX (160u * 1024u)
/* Attempts of one shard that may end in a crash before its job fails. Returns and lost executors do not count. */
#define MESH_ATTEMPTS_PER_SHARD 3

/*
 * Copies of slow bundles (mesh/speculation.c). Their device time is at most this share of what a home was delivered,
 * beyond an allowance with which it begins; a copy is made while anything is left, so that the longest shards get one
 * too, and what was saved up in quiet times is bounded.
 */
#define MESH_COPIES_PERCENT 2
#define MESH_COPIES_ALLOWANCE_US (10ll * 1000 * 1000)
#define MESH_COPIES_CREDIT_MAX_US (3600ll * 1000 * 1000)
/* Kernels whose usual times a home remembers; the one used longest ago gives way. */
#define MESH_USUAL_KERNELS 32
/* Results after which a kernel's times are known: of so few the longest is the 95th percentile. */
#define MESH_USUAL_SAMPLES_MIN 5
/* After so many their weight is halved, so that a kernel that became slower is not taken for many slow devices. */
#define MESH_USUAL_SAMPLES_MAX 1024
/* Bundles are looked at so often. */
#define MESH_SLOW_LOOK_MS 500
/* What a bundle may take beside its device time: messages, and a slot that was promised ahead of time. */
#define MESH_SLOW_GRACE_MS 1000

/*
 * Verification (mesh/verify.c). Until so many results of a member were confirmed in a row each of them is checked; then
 * one in as many as were confirmed, and so many in a thousand at least.
 */
#define MESH_TRUSTED_RESULTS 10
#define MESH_VERIFY_PERMILLE 20
/* Checks that one home has open: a quarter of its bundles. At the bound results are not sampled, and those that a quorum
 * is asked for come again (bound_checks). */
#define MESH_CHECKS_PART 4
/* A check of what is committed is given up when no other site had a place for so long, since a job waits for its checks. */
#define MESH_CHECK_PATIENCE_MS 30000
/* Second opinions that may fail to come (a crash, a return) before a check is given up. */
#define MESH_CHECK_TRIES 3
/* Members in quarantine. At the bound the one that was caught first gives way. */
#define MESH_QUARANTINED_MAX 256
/* Pairs of a member and a user's kernel of which it gets no more. */
#define MESH_DOUBTS_MAX 256
/* Committed shards looked through in one step for those of a member that was caught. */
#define MESH_RECHECK_SHARDS 4096

/* Shards in one LOOKUP effect: a bitmap of 128 bytes comes back. */
#define MESH_LOOKUP_SHARDS_MAX 1024
/* LOOKUP effects in flight per job. */
#define MESH_LOOKUPS_IN_FLIGHT 4

/* Anti-entropy: buckets in a summary, and entries in one answer. */
#define MESH_BUCKETS 64
#define MESH_ENTRIES_MAX 64
/* Names in one HAVE, GRAFT or PRUNE; more go in a second message. */
#define MESH_WORDS_MAX 64
/* Records told of by neighbours that have not come. Beyond it a word is dropped and counted (bound_missing). */
#define MESH_MISSING_MAX 64
/* Attempts named in one RENEW message; an executor sends several when it holds more for one home. */
#define MESH_RENEW_MAX 64

/*
 * Answers to one SUMMARY, in ENTRIES messages, and records pushed in answer to one ENTRIES: with the capacities that go
 * along they take two thirds of a step's sends. More follows in the next round.
 */
#define MESH_ENTRIES_MESSAGES_MAX 4
#define MESH_REPAIRS_MAX 64

/* Attempts that one DEVICES event may name as lost with their device, which has at most two in hand. */
#define MESH_DEVICE_STOPS_MAX 2

/* One step's output. When a step has more to do it sets wake_at_ms to now and goes on in the next step. */
#define MESH_OUT_SAVES_MAX 64
#define MESH_OUT_SENDS_MAX 192
#define MESH_OUT_EFFECTS_MAX 256

/*
 * Timers, in milliseconds of the monotonic clock.
 */

/* A link without traffic is pinged so often, and a busy one so often for its round trip alone. */
#define MESH_PING_MS 1000
#define MESH_PING_BUSY_MS 10000
/* Silence after which one re-dial is asked for, and after which a link is suspect: several pings lost, or a long pause. */
#define MESH_LINK_REDIAL_MS 4500
#define MESH_LINK_SILENT_MS 6000
/* The same for a link that has never been up: the peer may still have to learn of our admission. */
#define MESH_LINK_FIRST_MS 10000
/* We were not called for so long although we asked to be (a stopped process): links get their silence afresh. */
#define MESH_PAUSE_MS 3000

/* A node doubts itself when more than half of its links fell silent within the window, and for so long at most. */
#define MESH_DOUBT_WINDOW_MS 2000
#define MESH_DOUBT_MS 15000
/* An accuser repeats itself so often; others forget what it said after so long (three repetitions may be lost). */
#define MESH_ALERT_REPEAT_MS 5000
#define MESH_ALERT_TTL_MS 20000
/* After a refutation the accuser waits this long, doubled for each further one, before it accuses alone again. */
#define MESH_ACCUSE_AGAIN_MS 5000
#define MESH_ACCUSE_AGAIN_MAX_MS 60000
/*
 * From SUSPECT to DOWN at the earliest: time for a refutation to come around; less where the case is plain, after our own
 * link was reset or where all of its observers accuse it.
 */
#define MESH_SUSPECT_MS 1500
#define MESH_SUSPECT_PLAIN_MS 800
/*
 * A member that is down here and that a peer believes in is accused again after so long, if it has not refuted its death by
 * then: the halves of a mesh that was split believe in all of each other at once, and alive they say so in a second. Members
 * that wait for that; of one more a later round tells again.
 */
#define MESH_BELIEVED_MS 2000
#define MESH_BELIEVED_MAX 8
/* Under so many live members one accuser makes a member suspect. */
#define MESH_SMALL 5
/* Share of a member's observers who must accuse it for it to be down. */
#define MESH_DOWN_PERCENT 60
/* Refutations are at least so far apart, so that no accuser can make a node churn its incarnations. */
#define MESH_REFUTE_MS 1000
/*
 * Meetings with another process of our identity, each after we announced ourselves above it, that prove it alive: the
 * younger one stops. What an earlier life left behind is met once, or twice where peers disagree about it.
 */
#define MESH_CLONE_MEETINGS 3

/* Two random DOWN members are tried so often, and that is also how often tombstones are looked through. */
#define MESH_SWEEP_MS 30000
#define MESH_RETRIES 2
/* Tombstones live so long; members that left are told to others for the first hour of it. */
#define MESH_TOMBSTONE_MS (24ll * 3600 * 1000)
#define MESH_LEFT_TOLD_MS (3600ll * 1000)
/* A member that has been up for so long is stable enough to own cache pointers, if there are so many of them. */
#define MESH_STABLE_MS (10ll * 60 * 1000)
#define MESH_STABLE_MEMBERS_MIN 3

/* A member of a journal that has been down for so long is replaced; sooner one that drains, left or was revoked. */
#define MESH_REPLACE_MS (10ll * 60 * 1000)

/* A node is content to be interior for so long before it says so: a reporter that restarts finds its place again. */
#define MESH_SETTLE_MS 5000
/* Contacts are asked for, places are asked for, a reporter sums up its site, at most so often. */
#define MESH_CONTACT_MS 2000
#define MESH_SEEK_MS 250
#define MESH_DIGEST_MS 5000
/* What was asked for may come for so long. */
#define MESH_SOUGHT_MS 10000
/* A reporter tells its site of one more contact so often. */
#define MESH_INTRODUCE_MS 300000
/* A guest that holds no work is forgotten after so long in which nothing was heard of it. */
#define MESH_GUEST_MS 600000

/* Anti-entropy: a round so often, with a quarter of it as jitter; sooner after a round that brought something. */
#define MESH_ROUND_MS 5000
#define MESH_ROUND_FAST_MS 200
/*
 * What is owed to neighbours is sent so long after the first of it: a few records and names to a message. A record that
 * was told of is asked for after so long: longer than the way of six hops takes, each of them a batch and half a world.
 */
#define MESH_BATCH_MS 50
#define MESH_GRAFT_MS 600
/*
 * How long our news take is measured at most so often; an echo that has not come by then is lost. Questions of others that
 * are remembered; one more is dropped and counted (bound_awaited).
 */
#define MESH_ECHO_MS 10000
#define MESH_ECHO_LOST_MS 30000
#define MESH_AWAITED_MAX 64
/*
 * Word of a member's capacity is given so often, however often it changes; and so long after the first of it, since a word
 * costs a fraction in a message with others: a mesh of a thousand at rest would send more of these than anything else.
 */
#define MESH_HAVE_CAPACITY_MS 60000
#define MESH_TELL_MS 5000
/*
 * Our capacity is announced at most, and at least, so often; in a large mesh more seldom, by so much for each member,
 * so that what a node hears of all others stays within bounds: at 1,000 members 125 capacities a second when all of them
 * change all the time, and 2 a second at rest, where only what the trees and their words both lost is mended by it.
 */
#define MESH_CAPACITY_MIN_MS 1000
#define MESH_CAPACITY_MAX_MS 30000
#define MESH_CAPACITY_MIN_MS_EACH 8
#define MESH_CAPACITY_MAX_MS_EACH 500
/* More than a process ever announces: one a second for 34 years. In a session's bits it is a second, see gossip_of_process(). */
#define MESH_CAPACITIES_MAX ((uint64_t)1 << 30)

/* Device classes that slots are counted by. */
#define MESH_DEVICE_CLASSES 2

#endif
