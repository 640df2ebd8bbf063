#include "mesh/internal.h"

/* Read as "bucket" and "listed"; the same on every node. */
#define BUCKET_KEY 0x74656b637562u
#define LISTED_KEY 0x64657473696cu
#define ALL_TIERS (TIER_BIT(TIER_UPPER) | TIER_BIT(TIER_SITE))

void rounds_init(struct mesh *mesh)
{
    mesh->rounds.at_ms = mesh->now_ms + random_below(&mesh->random, MESH_ROUND_MS);
}

/* -------------------------------------------------------- buckets and hashes */

/* The part of a record that names it, and the part that tells how new it is, in one fixed layout. */
static void put_u64(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t bucket_of(const struct mesh_entry *entry)
{
    uint8_t name[8 + 32 + 32];
    put_u64(name, entry->kind);
    memcpy(name + 8, entry->origin.bytes, 32);
    memcpy(name + 40, entry->subject.bytes, 32);
    return (uint32_t)(mesh_hash(BUCKET_KEY, 0, name, sizeof name) % MESH_BUCKETS);
}

/* Never 0, which stands for "not listed". */
static uint64_t hash_of(const struct mesh_entry *entry)
{
    uint8_t all[8 + 32 + 32 + 8 + 8];
    put_u64(all, entry->kind);
    memcpy(all + 8, entry->origin.bytes, 32);
    memcpy(all + 40, entry->subject.bytes, 32);
    put_u64(all + 72, entry->incarnation);
    put_u64(all + 80, entry->version);
    const uint64_t hash = mesh_hash(LISTED_KEY, 0, all, sizeof all);
    return hash != 0 ? hash : 1;
}

static struct mesh_entry entry_of(const struct mesh_record *record)
{
    struct mesh_entry entry = {
        .origin = record->origin,
        .kind = record->kind,
        .incarnation = record->incarnation,
        .version = record->version,
    };
    if (record->kind == MESH_RECORD_REVOCATION)
        entry.subject = record->body.revocation.subject;
    return entry;
}

static struct mesh_entry entry_of_member(const struct member *member)
{
    return (struct mesh_entry){
        .origin = member->id,
        .kind = MESH_RECORD_MEMBER,
        .incarnation = member->record.incarnation,
        .version = member->record.version,
    };
}

static bool is_listed(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    if (member->record.handle == 0)
        return false;
    return members_live(mesh, slot) ||
           (member->state == MESH_LEFT && mesh->now_ms - member->state_at_ms < MESH_LEFT_TOLD_MS);
}

/* Into the summaries of these tiers, or out of them again. */
static void count_in(struct mesh *mesh, uint8_t tiers, uint32_t bucket, uint64_t hash)
{
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        if (tiers & TIER_BIT(tier))
            mesh->rounds.bucket_hash[tier][bucket] ^= hash;
    }
}

void rounds_list(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    count_in(mesh, member->listed, member->bucket, member->listed_hash);
    member->listed_hash = 0;
    member->listed = 0;
    if (!is_listed(mesh, slot))
        return;
    const struct mesh_entry entry = entry_of_member(member);
    member->listed = tiers_of(mesh, slot);
    member->bucket = (uint8_t)bucket_of(&entry);
    member->listed_hash = hash_of(&entry);
    count_in(mesh, member->listed, member->bucket, member->listed_hash);
}

void rounds_list_revocation(struct mesh *mesh, struct revocation *revocation)
{
    const struct mesh_entry entry = entry_of(&revocation->record);
    count_in(mesh, ALL_TIERS, revocation->bucket, revocation->listed_hash);
    revocation->bucket = bucket_of(&entry);
    revocation->listed_hash = hash_of(&entry);
    count_in(mesh, ALL_TIERS, revocation->bucket, revocation->listed_hash);
}

/* All that is listed: revocations first, then members by slot. Index i < listed_end(); false where nothing is
 * listed. */
static uint32_t listed_end(const struct mesh *mesh)
{
    return mesh->gossip.revocation_count + mesh->members.used;
}

static bool listed_at(const struct mesh *mesh, uint32_t tier, uint32_t i, uint32_t *bucket)
{
    const struct gossip *const gossip = &mesh->gossip;
    if (i < gossip->revocation_count) {
        *bucket = gossip->revocation[i].bucket;
        return true;
    }
    const struct member *const member = &mesh->members.slot[i - gossip->revocation_count];
    *bucket = member->bucket;
    return member->listed & TIER_BIT(tier);
}

static uint64_t hash_at(const struct mesh *mesh, uint32_t i)
{
    const struct gossip *const gossip = &mesh->gossip;
    return i < gossip->revocation_count ? gossip->revocation[i].listed_hash
                                        : mesh->members.slot[i - gossip->revocation_count].listed_hash;
}

static struct mesh_entry entry_at(const struct mesh *mesh, uint32_t i)
{
    const struct gossip *const gossip = &mesh->gossip;
    return i < gossip->revocation_count ? entry_of(&gossip->revocation[i].record)
                                        : entry_of_member(&mesh->members.slot[i - gossip->revocation_count]);
}

/* -------------------------------------------------------------------- answering */

/* Sends a peer what it lacks. With a member goes its capacity, which was dropped while the peer did not know
 * the member. */
static void repair(struct step *step, const struct mesh_id *to, const struct mesh_record *record)
{
    out_send(step, to, MESH_PUSH)->body.push.record = *record;
    step->mesh->counters.repairs++;
    if (record->kind != MESH_RECORD_MEMBER)
        return;
    const uint32_t slot = members_find(step->mesh, &record->origin);
    if (step->mesh->members.slot[slot].capacity.handle != 0)
        out_send(step, to, MESH_PUSH)->body.push.record = members_capacity(step->mesh, slot);
}

static void repair_member(struct step *step, const struct mesh_id *to, uint32_t slot)
{
    const struct mesh_record record = members_record(&step->mesh->members.slot[slot]);
    repair(step, to, &record);
}

bool rounds_overtaken(const struct mesh *mesh, uint32_t slot, struct stamp theirs)
{
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_UP && tiers_guest(mesh, slot))
        return member->record.handle != 0 && stamp_newer(STAMP(&member->record), theirs);
    return (member->state == MESH_DOWN || member->state == MESH_LEFT) && member->listed_hash == 0 &&
           theirs.incarnation < member->record.incarnation;
}

/* After a round that moved something, the next one follows soon and with the same peer: a joiner has much to
 * learn. */
static void hasten_round(struct step *step, const struct mesh_id *peer)
{
    struct rounds *const rounds = &step->mesh->rounds;
    const uint32_t member = members_find(step->mesh, peer);
    if (member == MESH_NONE || rounds->fast)
        return;
    rounds->fast = true;
    rounds->peer = member;
    rounds->mark = step->mesh->counters.records_new;
    rounds->at_ms = step->now_ms + MESH_ROUND_FAST_MS;
}

static uint64_t bit(uint32_t bucket)
{
    return (uint64_t)1 << bucket;
}

/* Lists the records in the buckets of `mask`, from index `first` of the listed on and around, into one
 * message. */
static void send_entries(struct step *step, const struct mesh_id *to, uint32_t tier, uint64_t mask,
                         bool whole, uint32_t first)
{
    const struct mesh *const mesh = step->mesh;
    struct mesh_message *const message = out_send(step, to, MESH_ENTRIES);
    message->body.entries.buckets = whole ? mask : 0;
    const uint32_t end = listed_end(mesh);
    uint32_t count = 0;
    for (uint32_t i = 0; i < end && count < MESH_ENTRIES_MAX; i++) {
        uint32_t bucket;
        const uint32_t at = (first + i) % end;
        if (listed_at(mesh, tier, at, &bucket) && (mask & bit(bucket)) != 0)
            message->body.entries.entry[count++] = entry_at(mesh, at);
    }
    message->body.entries.count = count;
}

/* Answers with the contents of buckets that differ: several to a message where they fit, an overfull one in
 * part. */
void rounds_summary(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t tier = tiers_shared(mesh, members_find(mesh, from));
    if (tier == TIERS)
        return;
    if (memcmp(message->body.summary.bucket_hash, mesh->rounds.bucket_hash[tier],
               sizeof mesh->rounds.bucket_hash[tier]) == 0)
        return;
    uint32_t held[MESH_BUCKETS] = {0};
    const uint32_t end = listed_end(mesh);
    for (uint32_t i = 0; i < end; i++) {
        uint32_t bucket;
        if (listed_at(mesh, tier, i, &bucket))
            held[bucket]++;
    }
    const uint32_t first = random_below(&mesh->random, MESH_BUCKETS);
    uint64_t mask = 0;
    uint32_t listed = 0;
    uint32_t messages = 0;
    for (uint32_t i = 0; i < MESH_BUCKETS && messages < MESH_ENTRIES_MESSAGES_MAX; i++) {
        const uint32_t bucket = (first + i) % MESH_BUCKETS;
        if (message->body.summary.bucket_hash[bucket] == mesh->rounds.bucket_hash[tier][bucket])
            continue;
        if (held[bucket] > MESH_ENTRIES_MAX) {
            send_entries(step, from, tier, bit(bucket), false, random_below(&mesh->random, end));
            messages++;
            continue;
        }
        if (listed + held[bucket] > MESH_ENTRIES_MAX) {
            send_entries(step, from, tier, mask, true, 0);
            messages++;
            mask = 0;
            listed = 0;
        }
        mask |= bit(bucket);
        listed += held[bucket];
    }
    if (mask != 0 && messages < MESH_ENTRIES_MESSAGES_MAX)
        send_entries(step, from, tier, mask, true, 0);
}

/* Whether we would take the record that an entry names. */
static bool is_wanted(const struct mesh *mesh, const struct mesh_entry *entry)
{
    if (entry->kind == MESH_RECORD_REVOCATION) {
        const struct revocation *const known = gossip_find_revocation(mesh, &entry->origin, &entry->subject);
        return known ? stamp_newer(STAMP(entry), STAMP(&known->record))
                     : mesh->gossip.revocation_count < mesh->gossip.revocation_capacity;
    }
    if (entry->kind != MESH_RECORD_MEMBER)
        return false;
    if (id_equal(&entry->origin, &mesh->config.self))
        return entry->incarnation > mesh->incarnation;
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (slot == MESH_NONE)
        return !gossip_revoked(mesh, &entry->origin) && members_have_room(mesh);
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED)
        return false;
    if (members_live(mesh, slot))
        return stamp_newer(STAMP(entry), STAMP(&member->record));
    return entry->incarnation > member->record.incarnation;
}

/* Our listed record of that name, if there is one. */
static bool find_listed(const struct mesh *mesh, const struct mesh_entry *entry, struct mesh_record *record)
{
    if (entry->kind == MESH_RECORD_REVOCATION) {
        const struct revocation *const known = gossip_find_revocation(mesh, &entry->origin, &entry->subject);
        if (known)
            *record = known->record;
        return known;
    }
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (entry->kind != MESH_RECORD_MEMBER || slot == MESH_NONE || mesh->members.slot[slot].listed_hash == 0)
        return false;
    *record = members_record(&mesh->members.slot[slot]);
    return true;
}

static bool names(const struct mesh_message *message, const struct mesh_entry *ours)
{
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        if (entry->kind == ours->kind && id_equal(&entry->origin, &ours->origin) &&
            (ours->kind != MESH_RECORD_REVOCATION || id_equal(&entry->subject, &ours->subject)))
            return true;
    }
    return false;
}

/* Pushes what the peer lacks: records in buckets that it listed in full and did not name. */
static void push_missing(struct step *step, const struct mesh_id *peer, const struct mesh_message *message,
                         uint32_t most)
{
    const struct mesh *const mesh = step->mesh;
    const uint32_t tier = tiers_shared(mesh, members_find(mesh, peer));
    uint32_t pushed = 0;
    const uint32_t end = message->body.entries.buckets != 0 ? listed_end(mesh) : 0;
    for (uint32_t i = 0; i < end && pushed < most; i++) {
        uint32_t bucket;
        if (!listed_at(mesh, tier, i, &bucket) || (message->body.entries.buckets & bit(bucket)) == 0)
            continue;
        const struct mesh_entry ours = entry_at(mesh, i);
        if (names(message, &ours))
            continue;
        struct mesh_record record;
        if (find_listed(mesh, &ours, &record))
            repair(step, peer, &record);
        pushed++;
    }
}

/*
 * The peer lists a member that we do not list: it may believe in one that is down, or know an earlier incarnation
 * only. Returns whether our record was pushed.
 */
static bool correct(struct step *step, const struct mesh_id *peer, const struct mesh_entry *entry)
{
    const struct mesh *const mesh = step->mesh;
    const uint32_t slot = entry->kind == MESH_RECORD_MEMBER ? members_find(mesh, &entry->origin) : MESH_NONE;
    if (slot == MESH_NONE)
        return false;
    if (mesh->members.slot[slot].record.incarnation == entry->incarnation)
        detector_believed(step, slot);
    if (!rounds_overtaken(mesh, slot, STAMP(entry)))
        return false;
    repair_member(step, peer, slot);
    return true;
}

void rounds_entries(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    if (message->body.entries.count > MESH_ENTRIES_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    if (tiers_shared(mesh, members_find(mesh, from)) == TIERS)
        return;
    struct mesh_message *want = NULL;
    uint32_t pushed = 0; /* at most one for each entry: that is what MESH_REPAIRS_MAX leaves room for */
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        struct mesh_record ours;
        if (correct(step, from, entry)) {
            pushed++;
            continue;
        }
        const bool listed = find_listed(mesh, entry, &ours);
        if (is_wanted(mesh, entry)) {
            if (!want)
                want = out_send(step, from, MESH_WANT);
            want->body.entries.entry[want->body.entries.count++] = *entry;
        } else if (listed && stamp_newer(STAMP(&ours), STAMP(entry))) {
            repair(step, from, &ours);
            pushed++;
        }
    }
    push_missing(step, from, message, MESH_REPAIRS_MAX - pushed);
    if (want)
        hasten_round(step, from);
}

/* The member's capacity, if ours is newer than the one that the entry names. */
static bool find_capacity(const struct mesh *mesh, const struct mesh_entry *entry, struct mesh_record *record)
{
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (slot == MESH_NONE)
        return false;
    *record = members_capacity(mesh, slot);
    return record->handle != 0 && stamp_newer(STAMP(record), STAMP(entry));
}

static bool is_zero(const struct mesh_id *id)
{
    return id_equal(id, &(struct mesh_id){0});
}

void rounds_want(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    if (message->body.entries.count > MESH_ENTRIES_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        struct mesh_record ours;
        /* Sixty-four records and their capacities leave a third; more than that is asked for again. */
        if (!out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 3, 0)) {
            mesh->counters.bound_out++;
            return;
        }
        if (is_zero(&entry->origin))
            tiers_wanted(step, from, entry);
        else if (entry->kind == MESH_RECORD_CAPACITY ? find_capacity(mesh, entry, &ours)
                                                     : find_listed(mesh, entry, &ours))
            repair(step, from, &ours);
    }
}

struct mesh_entry rounds_capacity_held(const struct member *member)
{
    return (struct mesh_entry){
        .origin = member->id,
        .kind = MESH_RECORD_CAPACITY,
        .incarnation = member->capacity.incarnation,
        .version = member->capacity.version,
    };
}

/* Asks for the capacities of live members that we lack, or hold of an earlier life only. */
static void want_capacities(struct step *step, uint32_t of)
{
    const struct members *const members = &step->mesh->members;
    struct mesh_message *want = NULL;
    for (uint32_t slot = 0; slot < members->used; slot++) {
        const struct member *const member = &members->slot[slot];
        if (slot == members->self || !members_live(step->mesh, slot) ||
            (member->capacity.handle != 0 && member->capacity.incarnation >= member->record.incarnation) ||
            !tiers_concerns(step->mesh, of, slot))
            continue;
        if (!want)
            want = out_send(step, &members->slot[of].id, MESH_WANT);
        want->body.entries.entry[want->body.entries.count++] = rounds_capacity_held(member);
        if (want->body.entries.count == MESH_ENTRIES_MAX)
            return;
    }
}

/* ---------------------------------------------------------------------- asking */

void rounds_summarize(struct step *step, const struct mesh_id *peer)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t tier = tiers_shared(mesh, members_find(mesh, peer));
    if (tier == TIERS)
        return;
    memcpy(out_send(step, peer, MESH_SUMMARY)->body.summary.bucket_hash, mesh->rounds.bucket_hash[tier],
           sizeof mesh->rounds.bucket_hash[tier]);
    mesh->counters.summaries++;
}

/* A neighbour whose link works, at random; MESH_NONE if there is none. */
static uint32_t choose_peer(struct mesh *mesh)
{
    uint32_t working[MESH_LINKS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        if (link->up && !link->silent)
            working[count++] = link->member;
    }
    return count > 0 ? working[random_below(&mesh->random, count)] : MESH_NONE;
}

void rounds_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct rounds *const rounds = &mesh->rounds;
    if (step->now_ms >= rounds->at_ms) {
        const bool fast = rounds->fast;
        const struct link *const again = fast ? links_find(mesh, rounds->peer) : NULL;
        uint32_t peer = MESH_NONE;
        if (!fast)
            peer = choose_peer(mesh);
        else if (again && again->up && mesh->counters.records_new > rounds->mark)
            peer = again->member;
        rounds->fast = false;
        rounds->at_ms = step->now_ms + MESH_ROUND_MS * 7 / 8 + random_below(&mesh->random, MESH_ROUND_MS / 4);
        if (peer != MESH_NONE) {
            rounds_summarize(step, &mesh->members.slot[peer].id);
            want_capacities(step, peer);
        }
    }
    out_wake(step, rounds->at_ms);
}

/* What was counted in is what is there now. Hashing is dear: each check hashes every eighth anew, another eighth each time. */
static bool is_counted_right(const struct mesh *mesh, uint32_t i, uint32_t bucket, uint64_t hash)
{
    if ((i + (uint64_t)mesh->now_ms) % 8 != 0)
        return true;
    const struct mesh_entry entry = entry_at(mesh, i);
    return bucket == bucket_of(&entry) && hash == hash_of(&entry);
}

void rounds_check(const struct mesh *mesh)
{
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        uint64_t bucket_hash[MESH_BUCKETS] = {0};
        for (uint32_t i = 0; i < listed_end(mesh); i++) {
            uint32_t bucket;
            if (!listed_at(mesh, tier, i, &bucket))
                continue;
            const uint64_t hash = hash_at(mesh, i);
            assert(is_counted_right(mesh, i, bucket, hash));
            bucket_hash[bucket] ^= hash;
        }
        assert(memcmp(bucket_hash, mesh->rounds.bucket_hash[tier], sizeof bucket_hash) == 0);
    }
}
