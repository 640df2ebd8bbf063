#include "mesh/internal.h"

/* Read as "bucket" and "listed"; the same on every node. */
#define BUCKET_KEY 0x74656b637562u
#define LISTED_KEY 0x64657473696cu

void gossip_layout(struct gossip *gossip, const struct mesh_limits *limits, struct carve *from)
{
    gossip->revocation_capacity = limits->members;
    gossip->revocation = carve(from, limits->members, sizeof *gossip->revocation);
}

void gossip_init(struct mesh *mesh)
{
    struct gossip *const gossip = &mesh->gossip;
    gossip->capacity_at_ms = mesh->now_ms - MESH_CAPACITY_MIN_MS;
    gossip->round_at_ms = mesh->now_ms + random_below(&mesh->random, MESH_ROUND_MS);
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

static bool is_listed(const struct mesh *mesh, uint32_t slot)
{
    const struct member *const member = &mesh->members.slot[slot];
    if (member->record.handle == 0)
        return false;
    return members_live(mesh, slot) ||
           (member->state == MESH_LEFT && mesh->now_ms - member->state_at_ms < MESH_LEFT_TOLD_MS);
}

void gossip_list(struct mesh *mesh, uint32_t slot)
{
    struct member *const member = &mesh->members.slot[slot];
    uint64_t *const bucket_hash = mesh->gossip.bucket_hash;
    bucket_hash[member->bucket] ^= member->listed_hash;
    member->listed_hash = 0;
    if (!is_listed(mesh, slot))
        return;
    const struct mesh_entry entry = entry_of(&member->record);
    member->bucket = bucket_of(&entry);
    member->listed_hash = hash_of(&entry);
    bucket_hash[member->bucket] ^= member->listed_hash;
}

static void list_revocation(struct mesh *mesh, struct revocation *revocation)
{
    uint64_t *const bucket_hash = mesh->gossip.bucket_hash;
    const struct mesh_entry entry = entry_of(&revocation->record);
    bucket_hash[revocation->bucket] ^= revocation->listed_hash;
    revocation->bucket = bucket_of(&entry);
    revocation->listed_hash = hash_of(&entry);
    bucket_hash[revocation->bucket] ^= revocation->listed_hash;
}

/* All that is listed: revocations first, then members by slot. Index i < listed_end(); NULL where nothing is
 * listed. */
static uint32_t listed_end(const struct mesh *mesh)
{
    return mesh->gossip.revocation_count + mesh->members.used;
}

static const struct mesh_record *listed_at(const struct mesh *mesh, uint32_t i, uint32_t *bucket)
{
    const struct gossip *const gossip = &mesh->gossip;
    if (i < gossip->revocation_count) {
        *bucket = gossip->revocation[i].bucket;
        return &gossip->revocation[i].record;
    }
    const struct member *const member = &mesh->members.slot[i - gossip->revocation_count];
    *bucket = member->bucket;
    return member->listed_hash != 0 ? &member->record : NULL;
}

/* ------------------------------------------------------------------- records */

static bool is_newer(uint64_t incarnation, uint64_t version, const struct mesh_record *than)
{
    return incarnation > than->incarnation || (incarnation == than->incarnation && version > than->version);
}

static void push(struct step *step, const struct mesh_id *to, const struct mesh_record *record)
{
    out_send(step, to, MESH_PUSH)->body.push.record = *record;
}

/* Sends a peer what it lacks. With a member goes its capacity, which was dropped while the peer did not know
 * the member. */
static void repair(struct step *step, const struct mesh_id *to, const struct mesh_record *record)
{
    push(step, to, record);
    step->mesh->counters.repairs++;
    if (record->kind != MESH_RECORD_MEMBER)
        return;
    const struct member *const member = &step->mesh->members.slot[members_find(step->mesh, &record->origin)];
    if (member->capacity.handle != 0)
        push(step, to, &member->capacity);
}

/*
 * Sends a record on to every neighbour whose link is up, but not back to where it came from. Its origin is
 * spared its own capacities and alerts; its MEMBER record it gets, because that is how two processes with one
 * identity meet.
 */
static void flood(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    const struct mesh *const mesh = step->mesh;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        const struct mesh_id *const peer = &mesh->members.slot[link->member].id;
        if (!link->up || id_equal(peer, from) ||
            (record->kind != MESH_RECORD_MEMBER && id_equal(peer, &record->origin)))
            continue;
        push(step, peer, record);
    }
}

static bool is_self(const struct mesh *mesh, const struct mesh_id *id)
{
    return id_equal(id, &mesh->config.self);
}

static void save_record(struct step *step, const struct mesh_record *record)
{
    struct mesh_save *const save = out_save(step, MESH_SAVE_RECORD);
    save->body.record.kind = record->kind;
    save->body.record.origin = record->origin;
    save->body.record.handle = record->handle;
}

static void admit(struct step *step, const struct mesh_record *record)
{
    save_record(step, record);
    struct mesh_effect *const effect = out_effect(step, MESH_ADMIT);
    effect->body.admit.id = record->origin;
    effect->body.admit.handle = record->handle;
}

/* Who accuses us may not be our neighbour any more, and no flood would bring it our refutation. */
static void answer_accusers(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    const struct member *const self = &mesh->members.slot[mesh->members.self];
    for (uint32_t i = 0; i < self->accusation_count; i++) {
        const uint32_t accuser = self->accusation[i].accuser;
        const struct link *const link = links_find(mesh, accuser);
        if (!link || !link->up)
            push(step, &mesh->members.slot[accuser].id, &self->record);
    }
}

/* Our own record: as we asked for it, from an earlier life, or from another process with our identity. */
static bool accept_own_member(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct member *const self = &mesh->members.slot[mesh->members.self];
    if (record->body.member.session != mesh->config.session) {
        if (record->incarnation >= mesh->incarnation)
            detector_foreign(step, record);
        return false;
    }
    if (!is_self(mesh, from) || record->incarnation != mesh->incarnation ||
        (self->record.handle != 0 && !is_newer(record->incarnation, record->version, &self->record)))
        return false;
    const bool risen = record->incarnation > self->record.incarnation;
    out_drop(step, self->record.handle);
    overlay_remove(mesh, mesh->members.self);
    self->record = *record;
    overlay_insert(mesh, mesh->members.self);
    gossip_list(mesh, mesh->members.self);
    answer_accusers(step);
    detector_clear(mesh, mesh->members.self);
    mesh->links.stale = true;
    save_record(step, record);
    if (risen)
        gossip_capacity_changed(step);
    return true;
}

static bool accept_new_member(struct step *step, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (gossip_revoked(mesh, &record->origin))
        return false;
    const uint32_t slot = members_add(step, record);
    if (slot == MESH_NONE) {
        mesh->counters.records_full++;
        return false;
    }
    admit(step, record);
    members_set_state(step, slot, record->body.member.leaving ? MESH_LEFT : MESH_UP);
    return true;
}

/* The process behind the member is another one: what the earlier one could run is no longer known. */
static void forget_capacity(struct step *step, struct member *member)
{
    out_drop(step, member->capacity.handle);
    member->capacity = (struct mesh_record){0};
    member->capacity_at_ms = 0;
}

static void accept_known_member(struct step *step, uint32_t slot, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[slot];
    const bool risen = record->incarnation > member->record.incarnation;
    const bool restarted = record->body.member.session != member->record.body.member.session;
    const bool live = members_live(mesh, slot);

    out_drop(step, member->record.handle);
    if (live)
        overlay_remove(mesh, slot);
    member->record = *record;
    if (live) {
        overlay_insert(mesh, slot);
        mesh->links.stale = true;
    }
    gossip_list(mesh, slot);
    admit(step, record);

    if (restarted) {
        forget_capacity(step, member);
        home_member_restarted(step, slot);
    }
    if (record->body.member.leaving) {
        if (member->state != MESH_LEFT)
            members_set_state(step, slot, MESH_LEFT);
    } else if (risen) {
        detector_refuted(step, slot, restarted);
    }
}

/* Whether a peer holds an earlier incarnation of a member that we no longer list, so that no round would tell it. */
static bool is_overtaken(const struct mesh *mesh, uint32_t slot, uint64_t theirs)
{
    const struct member *const member = &mesh->members.slot[slot];
    return (member->state == MESH_DOWN || member->state == MESH_LEFT) && member->listed_hash == 0 &&
           theirs < member->record.incarnation;
}

static bool accept_member(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (is_self(mesh, &record->origin))
        return accept_own_member(step, from, record);
    const uint32_t slot = members_find(mesh, &record->origin);
    if (slot == MESH_NONE)
        return accept_new_member(step, record);
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED)
        return false;
    if (!is_newer(record->incarnation, record->version, &member->record)) {
        /* A node that has lost count of its incarnations learns from us where it was. */
        const bool lost_count = id_equal(from, &record->origin) &&
                                record->body.member.session != member->record.body.member.session;
        if (lost_count || is_overtaken(mesh, slot, record->incarnation))
            push(step, from, &member->record);
        else if (record->incarnation == member->record.incarnation)
            detector_believed(step, slot);
        return false;
    }
    /* Who has left or changed its process does so in a new incarnation. */
    if (record->incarnation == member->record.incarnation &&
        (member->state == MESH_LEFT || record->body.member.session != member->record.body.member.session))
        return false;
    accept_known_member(step, slot, record);
    return true;
}

static bool accept_capacity(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = members_find(mesh, &record->origin);
    if (slot == MESH_NONE || (slot == mesh->members.self && !is_self(mesh, from)))
        return false;
    struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED || record->incarnation < member->record.incarnation)
        return false;
    if (member->capacity.kind == MESH_RECORD_CAPACITY &&
        !is_newer(record->incarnation, record->version, &member->capacity))
        return false;
    out_drop(step, member->capacity.handle);
    member->capacity = *record;
    member->capacity_at_ms = step->now_ms;
    if (members_live(mesh, slot))
        home_member_capacity(step, slot);
    return true;
}

static bool accept_alert(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t origin = members_find(mesh, &record->origin);
    if (origin == MESH_NONE || (origin == mesh->members.self && !is_self(mesh, from)))
        return false;
    if (!detector_alert(step, origin, record))
        return false;
    /* The accused hears it from the accuser, whoever its neighbours are; what is flooded may not reach it. */
    const struct mesh_id *const subject = &record->body.alert.subject;
    if (origin == mesh->members.self) {
        const struct link *const link = links_find(mesh, members_find(mesh, subject));
        if (!link || !link->up)
            push(step, subject, record);
    }
    return true;
}

static struct revocation *find_revocation(const struct mesh *mesh, const struct mesh_id *origin,
                                          const struct mesh_id *subject)
{
    for (uint32_t i = 0; i < mesh->gossip.revocation_count; i++) {
        struct revocation *const known = &mesh->gossip.revocation[i];
        if (id_equal(&known->record.body.revocation.subject, subject) &&
            id_equal(&known->record.origin, origin))
            return known;
    }
    return NULL;
}

bool gossip_revoked(const struct mesh *mesh, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < mesh->gossip.revocation_count; i++) {
        if (id_equal(&mesh->gossip.revocation[i].record.body.revocation.subject, id))
            return true;
    }
    return false;
}

/* Ourselves we can't bar; the host is told and decides. */
static void revoke(struct step *step, const struct mesh_id *subject)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = members_find(mesh, subject);
    if (is_self(mesh, subject)) {
        struct mesh_effect *const effect = out_effect(step, MESH_MEMBER);
        effect->body.member.id = *subject;
        effect->body.member.state = MESH_REVOKED;
        effect->body.member.incarnation = mesh->incarnation;
        return;
    }
    out_effect(step, MESH_BAR)->body.peer = *subject;
    if (slot != MESH_NONE && mesh->members.slot[slot].state != MESH_REVOKED)
        members_set_state(step, slot, MESH_REVOKED);
}

/* Returns whether the record was kept, and so is to be flooded. At the bound it acts, but only on whom we
 * know. */
static bool accept_revocation(struct step *step, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct gossip *const gossip = &mesh->gossip;
    const struct mesh_id *const subject = &record->body.revocation.subject;
    struct revocation *known = find_revocation(mesh, &record->origin, subject);
    if (known && !is_newer(record->incarnation, record->version, &known->record))
        return false;
    if (!known && gossip->revocation_count == gossip->revocation_capacity) {
        mesh->counters.records_full++;
        revoke(step, subject);
        return false;
    }
    if (!known)
        known = &gossip->revocation[gossip->revocation_count++];
    out_drop(step, known->record.handle);
    known->record = *record;
    list_revocation(mesh, known);
    save_record(step, record);
    return true;
}

void gossip_record(struct step *step, const struct mesh_id *from, const struct mesh_record *record)
{
    struct mesh_counters *const counters = &step->mesh->counters;
    bool accepted = false;
    bool keeps = true; /* the table holds the handle of an accepted record */
    switch (record->kind) {
    case MESH_RECORD_MEMBER:
        accepted = accept_member(step, from, record);
        break;
    case MESH_RECORD_CAPACITY:
        accepted = accept_capacity(step, from, record);
        break;
    case MESH_RECORD_ALERT:
        accepted = accept_alert(step, from, record);
        keeps = false;
        break;
    case MESH_RECORD_REVOCATION:
        accepted = accept_revocation(step, record);
        break;
    default:
        counters->bad_messages++;
        out_drop(step, record->handle);
        return;
    }
    if (accepted) {
        counters->records_new++;
        flood(step, from, record);
        /* A revoked neighbour is told of it too; only then is it barred. */
        if (record->kind == MESH_RECORD_REVOCATION)
            revoke(step, &record->body.revocation.subject);
    } else {
        counters->records_old++;
    }
    if (!accepted || !keeps)
        out_drop(step, record->handle);
}

/* ------------------------------------------------------------- our own records */

uint64_t gossip_incarnation(const struct mesh *mesh)
{
    return mesh->members.slot[mesh->members.self].record.incarnation;
}

void gossip_announce(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    /* A step waits for its own saves only, so each one that uses an incarnation not known to be durable saves
     * it. */
    if (mesh->incarnation != gossip_incarnation(mesh))
        out_save(step, MESH_SAVE_INCARNATION)->body.incarnation = mesh->incarnation;
    struct mesh_record *const record = &out_effect(step, MESH_SIGN)->body.record;
    record->kind = MESH_RECORD_MEMBER;
    record->origin = mesh->config.self;
    record->incarnation = mesh->incarnation;
    record->version = ++mesh->record_version;
    record->body.member.session = mesh->config.session;
    record->body.member.site = mesh->config.site;
    record->body.member.region = mesh->config.region;
    record->body.member.leaving = mesh->leaving;
}

void gossip_capacity_changed(struct step *step)
{
    step->mesh->gossip.capacity_changed = true;
}

static void tick_capacity(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct gossip *const gossip = &mesh->gossip;
    const int64_t due_ms =
        gossip->capacity_at_ms + (gossip->capacity_changed ? MESH_CAPACITY_MIN_MS : MESH_CAPACITY_MAX_MS);
    if (step->now_ms < due_ms) {
        out_wake(step, due_ms);
        return;
    }
    gossip->capacity_changed = false;
    gossip->capacity_at_ms = step->now_ms;
    struct mesh_record *const record = &out_effect(step, MESH_SIGN)->body.record;
    record->kind = MESH_RECORD_CAPACITY;
    record->origin = mesh->config.self;
    record->incarnation = gossip_incarnation(mesh);
    record->version = ++gossip->capacity_version;
    executor_capacity(mesh, &record->body.capacity);
    out_wake(step, step->now_ms + MESH_CAPACITY_MAX_MS);
}

void gossip_linked(struct step *step, const struct mesh_id *peer)
{
    struct mesh *const mesh = step->mesh;
    const struct member *const self = &mesh->members.slot[mesh->members.self];
    if (self->record.handle != 0)
        push(step, peer, &self->record);
    if (self->capacity.handle != 0)
        push(step, peer, &self->capacity);
    memcpy(out_send(step, peer, MESH_SUMMARY)->body.summary.bucket_hash, mesh->gossip.bucket_hash,
           sizeof mesh->gossip.bucket_hash);
    mesh->counters.summaries++;
}

/* ----------------------------------------------------------------- anti-entropy */

/* After a round that moved something, the next one follows soon and with the same peer: a joiner has much to
 * learn. */
static void hasten_round(struct step *step, const struct mesh_id *peer)
{
    struct gossip *const gossip = &step->mesh->gossip;
    const uint32_t member = members_find(step->mesh, peer);
    if (member == MESH_NONE || gossip->round_fast)
        return;
    gossip->round_fast = true;
    gossip->round_peer = member;
    gossip->round_mark = step->mesh->counters.records_new;
    gossip->round_at_ms = step->now_ms + MESH_ROUND_FAST_MS;
}

static uint64_t bit(uint32_t bucket)
{
    return (uint64_t)1 << bucket;
}

/* Lists the records in the buckets of `mask`, from index `first` of the listed on and around, into one
 * message. */
static void send_entries(struct step *step, const struct mesh_id *to, uint64_t mask, bool whole,
                         uint32_t first)
{
    const struct mesh *const mesh = step->mesh;
    struct mesh_message *const message = out_send(step, to, MESH_ENTRIES);
    message->body.entries.buckets = whole ? mask : 0;
    const uint32_t end = listed_end(mesh);
    uint32_t count = 0;
    for (uint32_t i = 0; i < end && count < MESH_ENTRIES_MAX; i++) {
        uint32_t bucket;
        const struct mesh_record *const record = listed_at(mesh, (first + i) % end, &bucket);
        if (record && (mask & bit(bucket)) != 0)
            message->body.entries.entry[count++] = entry_of(record);
    }
    message->body.entries.count = count;
}

/* Answers with the contents of buckets that differ: several to a message where they fit, an overfull one in
 * part. */
void gossip_summary(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    uint32_t held[MESH_BUCKETS] = {0};
    const uint32_t end = listed_end(mesh);
    for (uint32_t i = 0; i < end; i++) {
        uint32_t bucket;
        if (listed_at(mesh, i, &bucket))
            held[bucket]++;
    }
    const uint32_t first = random_below(&mesh->random, MESH_BUCKETS);
    uint64_t mask = 0;
    uint32_t listed = 0;
    uint32_t messages = 0;
    for (uint32_t i = 0; i < MESH_BUCKETS && messages < MESH_ENTRIES_MESSAGES_MAX; i++) {
        const uint32_t bucket = (first + i) % MESH_BUCKETS;
        if (message->body.summary.bucket_hash[bucket] == mesh->gossip.bucket_hash[bucket])
            continue;
        if (held[bucket] > MESH_ENTRIES_MAX) {
            send_entries(step, from, bit(bucket), false, random_below(&mesh->random, end));
            messages++;
            continue;
        }
        if (listed + held[bucket] > MESH_ENTRIES_MAX) {
            send_entries(step, from, mask, true, 0);
            messages++;
            mask = 0;
            listed = 0;
        }
        mask |= bit(bucket);
        listed += held[bucket];
    }
    if (mask != 0 && messages < MESH_ENTRIES_MESSAGES_MAX)
        send_entries(step, from, mask, true, 0);
}

/* Whether we would take the record that an entry names. */
static bool is_wanted(const struct mesh *mesh, const struct mesh_entry *entry)
{
    if (entry->kind == MESH_RECORD_REVOCATION) {
        const struct revocation *const known = find_revocation(mesh, &entry->origin, &entry->subject);
        return known ? is_newer(entry->incarnation, entry->version, &known->record)
                     : mesh->gossip.revocation_count < mesh->gossip.revocation_capacity;
    }
    if (entry->kind != MESH_RECORD_MEMBER)
        return false;
    if (is_self(mesh, &entry->origin))
        return entry->incarnation > mesh->incarnation;
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (slot == MESH_NONE)
        return !gossip_revoked(mesh, &entry->origin) && members_have_room(mesh);
    const struct member *const member = &mesh->members.slot[slot];
    if (member->state == MESH_REVOKED)
        return false;
    if (members_live(mesh, slot))
        return is_newer(entry->incarnation, entry->version, &member->record);
    return entry->incarnation > member->record.incarnation;
}

/* Our listed record of that name, or NULL. */
static const struct mesh_record *find_listed(const struct mesh *mesh, const struct mesh_entry *entry)
{
    if (entry->kind == MESH_RECORD_REVOCATION) {
        const struct revocation *const known = find_revocation(mesh, &entry->origin, &entry->subject);
        return known ? &known->record : NULL;
    }
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (entry->kind != MESH_RECORD_MEMBER || slot == MESH_NONE || mesh->members.slot[slot].listed_hash == 0)
        return NULL;
    return &mesh->members.slot[slot].record;
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
    uint32_t pushed = 0;
    const uint32_t end = message->body.entries.buckets != 0 ? listed_end(mesh) : 0;
    for (uint32_t i = 0; i < end && pushed < most; i++) {
        uint32_t bucket;
        const struct mesh_record *const record = listed_at(mesh, i, &bucket);
        if (!record || (message->body.entries.buckets & bit(bucket)) == 0)
            continue;
        const struct mesh_entry ours = entry_of(record);
        if (!names(message, &ours)) {
            repair(step, peer, record);
            pushed++;
        }
    }
}

/*
 * The peer lists a member that we do not list: it may believe in one that is down, or know an earlier incarnation
 * only. Returns how many records were pushed.
 */
static uint32_t correct(struct step *step, const struct mesh_id *peer, const struct mesh_entry *entry)
{
    const struct mesh *const mesh = step->mesh;
    const uint32_t slot = entry->kind == MESH_RECORD_MEMBER ? members_find(mesh, &entry->origin) : MESH_NONE;
    if (slot == MESH_NONE)
        return 0;
    const struct mesh_record *const ours = &mesh->members.slot[slot].record;
    if (ours->incarnation == entry->incarnation)
        detector_believed(step, slot);
    if (!is_overtaken(mesh, slot, entry->incarnation))
        return 0;
    repair(step, peer, ours);
    return 1;
}

void gossip_entries(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    if (message->body.entries.count > MESH_ENTRIES_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    struct mesh_message *want = NULL;
    uint32_t pushed = 0;
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        pushed += correct(step, from, entry);
        const struct mesh_record *const ours = find_listed(mesh, entry);
        if (is_wanted(mesh, entry)) {
            if (!want)
                want = out_send(step, from, MESH_WANT);
            want->body.entries.entry[want->body.entries.count++] = *entry;
        } else if (ours && is_newer(ours->incarnation, ours->version,
                                    &(struct mesh_record){.incarnation = entry->incarnation,
                                                          .version = entry->version})) {
            repair(step, from, ours);
            pushed++;
        }
    }
    push_missing(step, from, message, MESH_REPAIRS_MAX - pushed);
    if (want)
        hasten_round(step, from);
}

/* The member's capacity, if ours is newer than the one that the entry names. */
static const struct mesh_record *find_capacity(const struct mesh *mesh, const struct mesh_entry *entry)
{
    const uint32_t slot = members_find(mesh, &entry->origin);
    if (slot == MESH_NONE)
        return NULL;
    const struct mesh_record *const capacity = &mesh->members.slot[slot].capacity;
    const struct mesh_record theirs = {.incarnation = entry->incarnation, .version = entry->version};
    return capacity->handle != 0 && is_newer(capacity->incarnation, capacity->version, &theirs) ? capacity
                                                                                                : NULL;
}

void gossip_want(struct step *step, const struct mesh_id *from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    if (message->body.entries.count > MESH_ENTRIES_MAX) {
        mesh->counters.bad_messages++;
        return;
    }
    for (uint32_t i = 0; i < message->body.entries.count; i++) {
        const struct mesh_entry *const entry = &message->body.entries.entry[i];
        const struct mesh_record *const ours =
            entry->kind == MESH_RECORD_CAPACITY ? find_capacity(mesh, entry) : find_listed(mesh, entry);
        if (ours)
            repair(step, from, ours);
    }
}

/* Asks for the capacities of live members that we lack, or hold of an earlier life only. */
static void want_capacities(struct step *step, const struct mesh_id *peer)
{
    const struct members *const members = &step->mesh->members;
    struct mesh_message *want = NULL;
    for (uint32_t slot = 0; slot < members->used; slot++) {
        const struct member *const member = &members->slot[slot];
        if (slot == members->self || !members_live(step->mesh, slot) ||
            (member->capacity.handle != 0 && member->capacity.incarnation >= member->record.incarnation))
            continue;
        if (!want)
            want = out_send(step, peer, MESH_WANT);
        want->body.entries.entry[want->body.entries.count++] = (struct mesh_entry){
            .origin = member->id,
            .kind = MESH_RECORD_CAPACITY,
            .incarnation = member->capacity.incarnation,
            .version = member->capacity.version,
        };
        if (want->body.entries.count == MESH_ENTRIES_MAX)
            return;
    }
}

/* A neighbour whose link works, at random; MESH_NONE if there is none. */
static uint32_t choose_peer(struct mesh *mesh)
{
    uint32_t working[MESH_NEIGHBOURS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        if (link->up && !link->silent)
            working[count++] = link->member;
    }
    return count > 0 ? working[random_below(&mesh->random, count)] : MESH_NONE;
}

static void tick_round(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct gossip *const gossip = &mesh->gossip;
    if (step->now_ms >= gossip->round_at_ms) {
        const bool fast = gossip->round_fast;
        const struct link *const again = fast ? links_find(mesh, gossip->round_peer) : NULL;
        uint32_t peer = MESH_NONE;
        if (!fast)
            peer = choose_peer(mesh);
        else if (again && again->up && mesh->counters.records_new > gossip->round_mark)
            peer = again->member;
        gossip->round_fast = false;
        gossip->round_at_ms =
            step->now_ms + MESH_ROUND_MS * 7 / 8 + random_below(&mesh->random, MESH_ROUND_MS / 4);
        if (peer != MESH_NONE) {
            memcpy(out_send(step, &mesh->members.slot[peer].id, MESH_SUMMARY)->body.summary.bucket_hash,
                   gossip->bucket_hash, sizeof gossip->bucket_hash);
            mesh->counters.summaries++;
            want_capacities(step, &mesh->members.slot[peer].id);
        }
    }
    out_wake(step, gossip->round_at_ms);
}

void gossip_tick(struct step *step)
{
    tick_capacity(step);
    tick_round(step);
}

void gossip_check(const struct mesh *mesh)
{
    const struct gossip *const gossip = &mesh->gossip;
    uint64_t bucket_hash[MESH_BUCKETS] = {0};
    for (uint32_t i = 0; i < listed_end(mesh); i++) {
        uint32_t bucket;
        const struct mesh_record *const record = listed_at(mesh, i, &bucket);
        if (!record)
            continue;
        const struct mesh_entry entry = entry_of(record);
        assert(bucket == bucket_of(&entry));
        bucket_hash[bucket] ^= hash_of(&entry);
    }
    assert(memcmp(bucket_hash, gossip->bucket_hash, sizeof bucket_hash) == 0);
    assert(gossip->revocation_count <= gossip->revocation_capacity);
}
