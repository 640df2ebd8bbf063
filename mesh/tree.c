#include "mesh/internal.h"

static uint16_t bit(const struct link *link)
{
    return (uint16_t)(1u << link->place);
}

static bool has_trees(const struct link *link)
{
    return link->up && link->protocol >= MESH_PROTOCOL_TREES;
}

static const struct link *link_at(const struct mesh *mesh, uint32_t place)
{
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        if (mesh->links.link[i].place == place)
            return &mesh->links.link[i];
    }
    return NULL;
}

static const struct link *link_of(struct mesh *mesh, const struct mesh_id *peer)
{
    const uint32_t slot = members_find(mesh, peer);
    return slot != MESH_NONE ? links_find(mesh, slot) : NULL;
}

/* --------------------------------------------------------------------- what is owed */

static void owe(struct step *step, uint32_t slot, uint16_t *what, uint16_t links)
{
    struct mesh *const mesh = step->mesh;
    struct tree *const tree = &mesh->tree;
    struct member *const member = &mesh->members.slot[slot];
    *what |= links;
    if (links == 0 || member->owing)
        return;
    member->owing = true;
    if (tree->owing_count == 0)
        tree->flush_at_ms = step->now_ms + MESH_BATCH_MS;
    tree->owing[tree->owing_count++] = slot;
}

/* The same for word of its capacity. */
static void tell(struct step *step, uint32_t slot, uint16_t links)
{
    struct mesh *const mesh = step->mesh;
    struct tree *const tree = &mesh->tree;
    struct member *const member = &mesh->members.slot[slot];
    member->owes_capacity_word |= links;
    if (links == 0 || member->telling)
        return;
    member->telling = true;
    if (tree->telling_count == 0)
        tree->tell_at_ms = step->now_ms + MESH_TELL_MS;
    tree->telling[tree->telling_count++] = slot;
}

static void strike_off(uint32_t *list, uint32_t *count, uint32_t slot)
{
    for (uint32_t i = 0; i < *count; i++) {
        if (list[i] == slot)
            list[i--] = list[--*count];
    }
}

void tree_forget(struct mesh *mesh, uint32_t slot)
{
    struct tree *const tree = &mesh->tree;
    strike_off(tree->owing, &tree->owing_count, slot);
    strike_off(tree->telling, &tree->telling_count, slot);
    mesh->members.slot[slot].owing = mesh->members.slot[slot].telling = false;
}

void tree_unlinked(struct mesh *mesh, uint32_t place)
{
    const uint16_t others = (uint16_t) ~(1u << place);
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        struct member *const member = &mesh->members.slot[slot];
        member->lazy &= others;
        member->owes_capacity &= others;
        member->owes_word &= others;
        member->owes_capacity_word &= others;
        member->owes_prune &= others;
        if (member->comes_from == place + 1)
            member->comes_from = 0;
    }
    for (uint32_t i = 0; i < mesh->tree.missing_count; i++)
        mesh->tree.missing[i].holders &= others;
}

/* ------------------------------------------------------------------------ spreading */

static void send_copy(struct step *step, const struct mesh_id *to, const struct mesh_record *record,
                      uint8_t hops)
{
    struct mesh_message *const message = out_send(step, to, MESH_SPREAD);
    message->body.push.record = *record;
    message->body.push.hops = (uint8_t)(hops < UINT8_MAX ? hops + 1 : UINT8_MAX);
}

/* Copies come over that link first: it is where the tree reaches us. */
static void settle(struct member *member, const struct link *link, uint8_t hops)
{
    member->hops = hops;
    member->comes_from = (uint8_t)(link->place + 1);
    member->owes_prune &= (uint16_t)~bit(link);
}

/* The link that the tree reached us by until now is a detour. */
static void leave_parent(struct step *step, uint32_t slot)
{
    struct member *const member = &step->mesh->members.slot[slot];
    if (member->comes_from == 0)
        return;
    owe(step, slot, &member->owes_prune, (uint16_t)(1u << (member->comes_from - 1)));
}

static void add_word(struct mesh_message *message, const struct mesh_word *word)
{
    message->body.words.word[message->body.words.count++] = *word;
}

/* Our neighbours may have a shorter way through us now; each step of that makes others' shorter. */
static void tell_of_shorter_way(struct step *step, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[slot];
    uint16_t links = 0;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        if (has_trees(link) && link->place + 1u != member->comes_from &&
            tiers_concerns(mesh, link->member, slot))
            links |= bit(link);
    }
    owe(step, slot, &member->owes_word, links);
}

static void take_shorter_way(struct step *step, uint32_t slot, const struct link *link, uint8_t hops)
{
    struct member *const member = &step->mesh->members.slot[slot];
    if (member->comes_from != link->place + 1)
        leave_parent(step, slot);
    settle(member, link, hops);
    tell_of_shorter_way(step, slot);
}

/* It was told of, did not come along the tree in time, and so was asked for. */
static bool was_asked_for(const struct tree *tree, const struct mesh_record *record)
{
    const uint64_t origin = members_prefix(&record->origin);
    for (uint32_t i = 0; i < tree->missing_count; i++) {
        const struct missing *const missing = &tree->missing[i];
        if (missing->asked && missing->origin == origin && missing->kind == record->kind)
            return true;
    }
    return false;
}

/*
 * The copy that the tree should have brought is lost, and this one came instead over more links, perhaps fast ones. Handed
 * on it would make everybody's way as long: they are given word of it, and ask the nearest whom they have word from. Of
 * capacities word is seldom given, so they are handed on.
 */
static bool came_by_detour(const struct mesh *mesh, uint32_t slot, const struct mesh_record *record,
                           uint8_t hops)
{
    const struct member *const member = &mesh->members.slot[slot];
    if (record->kind != MESH_RECORD_MEMBER || hops == 0 || slot == mesh->members.self)
        return false;
    return was_asked_for(&mesh->tree, record) || (member->comes_from != 0 && hops > member->hops + 1u);
}

/* What was told of has come; if another neighbour had it over fewer links, the next ones are to come from there. */
static void was_missing(struct step *step, uint32_t slot, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct tree *const tree = &mesh->tree;
    const uint64_t origin = members_prefix(&record->origin);
    for (uint32_t i = 0; i < tree->missing_count; i++) {
        const struct missing missing = tree->missing[i];
        if (missing.origin != origin || missing.kind != record->kind ||
            stamp_newer(missing.stamp, STAMP(record)))
            continue;
        tree->missing[i] = tree->missing[--tree->missing_count];
        const struct link *const nearest = link_at(mesh, missing.nearest);
        if (stamp_newer(STAMP(record), missing.stamp) || !nearest || !has_trees(nearest) ||
            missing.hops + 1u >= mesh->members.slot[slot].hops)
            return;
        take_shorter_way(step, slot, nearest, (uint8_t)(missing.hops + 1));
        const struct mesh_word word = {.origin = origin,
                                       .kind = record->kind,
                                       .incarnation = record->incarnation,
                                       .version = record->version};
        add_word(out_send(step, &mesh->members.slot[nearest->member].id, MESH_GRAFT), &word);
        mesh->counters.grafts_shorter++;
        return;
    }
}

/* Word of a capacity costs nearly as much as what it is about; so it is given once a minute only. */
static bool is_worth_a_word(const struct step *step, struct member *member)
{
    const uint32_t now_ms = (uint32_t)step->now_ms;
    if (member->told && now_ms - member->word_at_ms < MESH_HAVE_CAPACITY_MS)
        return false;
    member->told = true;
    member->word_at_ms = now_ms;
    return true;
}

void tree_spread(struct step *step, const struct mesh_id *from, const struct mesh_record *record,
                 uint8_t hops, bool everywhere)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t slot = members_find(mesh, &record->origin);
    struct member *const member = &mesh->members.slot[slot];
    const struct link *const parent = link_of(mesh, from);
    const bool detour = !everywhere && came_by_detour(mesh, slot, record, hops);
    if (everywhere)
        member->lazy = 0;
    if (hops > 0 && parent)
        settle(member, parent, hops);
    else if (slot == mesh->members.self)
        member->hops = 0;
    else if (member->comes_from == 0)
        member->hops = TREE_FAR;

    uint16_t copies = 0;
    uint16_t words = 0;
    for (uint32_t i = 0; i < mesh->links.count; i++) {
        const struct link *const link = &mesh->links.link[i];
        const bool is_origin = link->member == slot;
        if (!link->up || link == parent || (is_origin && !everywhere) ||
            !tiers_concerns(mesh, link->member, slot))
            continue;
        if (!has_trees(link))
            out_send(step, &mesh->members.slot[link->member].id, MESH_PUSH)->body.push.record = *record;
        else if (detour || (member->lazy & bit(link)))
            words |= bit(link);
        else if (record->kind == MESH_RECORD_MEMBER)
            send_copy(step, &mesh->members.slot[link->member].id, record, member->hops);
        else
            copies |= bit(link);
    }
    if (record->kind == MESH_RECORD_MEMBER) {
        owe(step, slot, &member->owes_word, words);
        was_missing(step, slot, record);
        return;
    }
    owe(step, slot, &member->owes_capacity, copies);
    if (is_worth_a_word(step, member))
        tell(step, slot, words);
    was_missing(step, slot, record);
}

void tree_duplicate(struct step *step, const struct mesh_id *from, uint32_t slot, uint8_t hops)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[slot];
    const struct link *const link = link_of(mesh, from);
    if (!link || member->comes_from == link->place + 1)
        return;
    mesh->counters.copies_redundant++;
    if (slot != mesh->members.self && (member->comes_from == 0 || hops < member->hops)) {
        take_shorter_way(step, slot, link, hops);
        return;
    }
    owe(step, slot, &member->owes_prune, bit(link));
}

/* --------------------------------------------------------------------- words of peers */

/* What we hold of that kind of a member; {0, 0} is older than any record. */
static struct stamp held(const struct member *member, uint32_t kind)
{
    if (kind == MESH_RECORD_MEMBER)
        return member->record.handle != 0 ? STAMP(&member->record) : (struct stamp){0};
    return member->has_capacity ? STAMP(&member->capacity) : (struct stamp){0};
}

static bool is_missing(const struct mesh *mesh, uint32_t slot, uint32_t kind, struct stamp stamp)
{
    if (slot == MESH_NONE)
        return kind == MESH_RECORD_MEMBER && members_have_room(mesh);
    const struct member *const member = &mesh->members.slot[slot];
    if (slot == mesh->members.self || member->state == MESH_REVOKED)
        return false;
    if (!members_live(mesh, slot) && stamp.incarnation <= member->record.incarnation)
        return false;
    if (kind == MESH_RECORD_CAPACITY && stamp.incarnation < member->record.incarnation)
        return false;
    return stamp_newer(stamp, held(member, kind));
}

/* At the bound it is not noted: a later word, or anti-entropy, brings it. */
static void note_missing(struct step *step, const struct mesh_word *word, const struct link *link)
{
    struct tree *const tree = &step->mesh->tree;
    const struct stamp stamp = STAMP(word);
    struct missing *missing = NULL;
    for (uint32_t i = 0; i < tree->missing_count && !missing; i++) {
        if (tree->missing[i].origin == word->origin && tree->missing[i].kind == word->kind)
            missing = &tree->missing[i];
    }
    if (missing && !stamp_newer(stamp, missing->stamp)) {
        if (stamp_newer(missing->stamp, stamp))
            return;
        missing->holders |= bit(link);
        if (word->hops < missing->hops) {
            missing->hops = word->hops;
            missing->nearest = link->place;
        }
        return;
    }
    if (!missing) {
        if (tree->missing_count == MESH_MISSING_MAX) {
            step->mesh->counters.bound_missing++;
            return;
        }
        missing = &tree->missing[tree->missing_count++];
        *missing = (struct missing){
            .origin = word->origin, .kind = word->kind, .graft_at_ms = step->now_ms + MESH_GRAFT_MS};
    }
    missing->stamp = stamp;
    missing->holders = bit(link);
    missing->hops = word->hops;
    missing->nearest = link->place;
}

/* A neighbour got the record that we hold over fewer links than it came to us. */
static bool is_shortcut(const struct mesh *mesh, uint32_t slot, const struct mesh_word *word)
{
    const struct member *const member = &mesh->members.slot[slot];
    const struct stamp ours = held(member, word->kind);
    return slot != mesh->members.self && ours.incarnation == word->incarnation &&
           ours.version == word->version && word->hops + 1u < member->hops;
}

/* A link's end forgets it while words are still under way: those are of no use any more, nor are those of a peer that
 * agreed on a version without them: it would not get the answer. */
static bool is_usable(struct mesh *mesh, const struct link *link, const struct mesh_message *message)
{
    if (message->body.words.count > MESH_WORDS_MAX) {
        mesh->counters.bad_messages++;
        return false;
    }
    return link != NULL && link->protocol >= MESH_PROTOCOL_TREES;
}

void tree_have(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct link *const link = links_find(mesh, from);
    if (!is_usable(mesh, link, message))
        return;
    struct mesh_message *graft = NULL;
    for (uint32_t i = 0; i < message->body.words.count; i++) {
        const struct mesh_word *const word = &message->body.words.word[i];
        const uint32_t slot = members_find_prefix(mesh, word->origin);
        if (is_missing(mesh, slot, word->kind, STAMP(word))) {
            note_missing(step, word, link);
            continue;
        }
        if (slot == MESH_NONE || !is_shortcut(mesh, slot, word))
            continue;
        const bool is_parent = mesh->members.slot[slot].comes_from == link->place + 1;
        take_shorter_way(step, slot, link, (uint8_t)(word->hops + 1));
        if (is_parent)
            continue;
        if (!graft)
            graft = out_send(step, &mesh->members.slot[from].id, MESH_GRAFT);
        add_word(graft, word);
        mesh->counters.grafts_shorter++;
    }
}

/* The word names what the peer holds; it gets what is newer. */
void tree_graft(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct link *const link = links_find(mesh, from);
    for (uint32_t i = 0; is_usable(mesh, link, message) && i < message->body.words.count; i++) {
        const struct mesh_word *const word = &message->body.words.word[i];
        const uint32_t slot = members_find_prefix(mesh, word->origin);
        if (slot == MESH_NONE)
            continue;
        struct member *const member = &mesh->members.slot[slot];
        member->lazy &= (uint16_t)~bit(link);
        if (member->comes_from == link->place + 1)
            member->comes_from = 0;
        if (!stamp_newer(held(member, word->kind), STAMP(word)))
            continue;
        const struct mesh_record record =
            word->kind == MESH_RECORD_MEMBER ? members_record(member) : members_capacity(mesh, slot);
        send_copy(step, &mesh->members.slot[from].id, &record, member->hops);
        mesh->counters.repairs++;
    }
}

void tree_prune(struct step *step, uint32_t from, const struct mesh_message *message)
{
    struct mesh *const mesh = step->mesh;
    const struct link *const link = links_find(mesh, from);
    for (uint32_t i = 0; is_usable(mesh, link, message) && i < message->body.words.count; i++) {
        const uint32_t slot = members_find_prefix(mesh, message->body.words.word[i].origin);
        if (slot != MESH_NONE)
            mesh->members.slot[slot].lazy |= bit(link);
    }
}

/* ------------------------------------------------------------------------------ tick */

/* The nearest, if it has not been asked yet. */
static uint32_t next_holder(const struct missing *missing)
{
    uint32_t place = missing->nearest;
    if ((missing->holders & (1u << place)) == 0)
        place = 0;
    while ((missing->holders & (1u << place)) == 0)
        place++;
    return place;
}

/* Asks one that told of it; returns false when all have been asked. */
static bool graft_missing(struct step *step, struct missing *missing, uint32_t slot)
{
    struct mesh *const mesh = step->mesh;
    while (missing->holders != 0) {
        const uint32_t place = next_holder(missing);
        missing->holders &= (uint16_t) ~(1u << place);
        const struct link *const link = link_at(mesh, place);
        if (!link || !has_trees(link))
            continue;
        struct mesh_word word = {.origin = missing->origin, .kind = missing->kind};
        if (slot != MESH_NONE) {
            const struct stamp ours = held(&mesh->members.slot[slot], missing->kind);
            word.incarnation = ours.incarnation;
            word.version = ours.version;
        }
        add_word(out_send(step, &mesh->members.slot[link->member].id, MESH_GRAFT), &word);
        mesh->counters.grafts_missing++;
        missing->asked = true;
        missing->graft_at_ms = step->now_ms + MESH_GRAFT_MS;
        return true;
    }
    return false;
}

static void tick_missing(struct step *step)
{
    struct tree *const tree = &step->mesh->tree;
    for (uint32_t i = 0; i < tree->missing_count;) {
        struct missing *const missing = &tree->missing[i];
        const bool due = step->now_ms >= missing->graft_at_ms;
        if (due && !out_has_room(step->out, 0, MESH_OUT_SENDS_MAX / 2, 0)) {
            step->mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        const uint32_t slot = due ? members_find_prefix(step->mesh, missing->origin) : MESH_NONE;
        if (due && (!is_missing(step->mesh, slot, missing->kind, missing->stamp) ||
                    !graft_missing(step, missing, slot))) {
            *missing = tree->missing[--tree->missing_count];
            continue;
        }
        out_wake(step, missing->graft_at_ms);
        i++;
    }
}

/* The messages under way to one neighbour in this flush. */
struct parcel {
    struct mesh_message *have;
    struct mesh_message *prune;
};

static void put_word(struct step *step, struct mesh_message **message, enum mesh_message_kind kind,
                     const struct mesh_id *to, const struct mesh_word *word)
{
    if (!*message || (*message)->body.words.count == MESH_WORDS_MAX)
        *message = out_send(step, to, kind);
    add_word(*message, word);
}

static struct mesh_word word_of(const struct member *member, enum mesh_record_kind kind)
{
    const struct stamp stamp = held(member, kind);
    return (struct mesh_word){.origin = members_prefix(&member->id),
                              .kind = kind,
                              .hops = member->hops,
                              .incarnation = stamp.incarnation,
                              .version = stamp.version};
}

static void flush_member(struct step *step, uint32_t slot, const struct link *link, struct parcel *parcel)
{
    const struct member *const member = &step->mesh->members.slot[slot];
    const struct mesh_id *const peer = &step->mesh->members.slot[link->member].id;
    const struct mesh_word record = word_of(member, MESH_RECORD_MEMBER);
    if (!has_trees(link))
        return;
    if (member->owes_prune & bit(link))
        put_word(step, &parcel->prune, MESH_PRUNE, peer, &record);
    if (member->owes_word & bit(link))
        put_word(step, &parcel->have, MESH_HAVE, peer, &record);
    if ((member->owes_capacity & bit(link)) && member->has_capacity) {
        const struct mesh_record newest = members_capacity(step->mesh, slot);
        send_copy(step, peer, &newest, member->hops);
    }
}

/* What one member can put out for all links, and some room for what else a step says. */
#define FLUSH_ROOM (MESH_OUT_SENDS_MAX / 2)

static void tick_owed(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct tree *const tree = &mesh->tree;
    if (tree->owing_count == 0)
        return;
    if (step->now_ms < tree->flush_at_ms) {
        out_wake(step, tree->flush_at_ms);
        return;
    }
    struct parcel parcel[MESH_LINKS_MAX] = {0};
    while (tree->owing_count > 0) {
        if (!out_has_room(step->out, 0, FLUSH_ROOM, 0)) {
            mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        const uint32_t slot = tree->owing[--tree->owing_count];
        struct member *const member = &mesh->members.slot[slot];
        member->owing = false;
        for (uint32_t i = 0; i < mesh->links.count; i++)
            flush_member(step, slot, &mesh->links.link[i], &parcel[i]);
        member->owes_capacity = member->owes_word = member->owes_prune = 0;
    }
}

static void tell_of_capacity(struct step *step, uint32_t slot, const struct link *link, struct parcel *parcel)
{
    const struct member *const member = &step->mesh->members.slot[slot];
    if (!has_trees(link) || !member->has_capacity || (member->owes_capacity_word & bit(link)) == 0)
        return;
    const struct mesh_word word = word_of(member, MESH_RECORD_CAPACITY);
    put_word(step, &parcel->have, MESH_HAVE, &step->mesh->members.slot[link->member].id, &word);
}

static void tick_told(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct tree *const tree = &mesh->tree;
    if (tree->telling_count == 0)
        return;
    if (step->now_ms < tree->tell_at_ms) {
        out_wake(step, tree->tell_at_ms);
        return;
    }
    struct parcel parcel[MESH_LINKS_MAX] = {0};
    while (tree->telling_count > 0) {
        if (!out_has_room(step->out, 0, FLUSH_ROOM, 0)) {
            mesh->counters.bound_out++;
            out_wake(step, step->now_ms);
            return;
        }
        const uint32_t slot = tree->telling[--tree->telling_count];
        for (uint32_t i = 0; i < mesh->links.count; i++)
            tell_of_capacity(step, slot, &mesh->links.link[i], &parcel[i]);
        mesh->members.slot[slot].telling = false;
        mesh->members.slot[slot].owes_capacity_word = 0;
    }
}

void tree_tick(struct step *step)
{
    tick_missing(step);
    tick_owed(step);
    tick_told(step);
}

void tree_check(const struct mesh *mesh)
{
    const struct tree *const tree = &mesh->tree;
    uint32_t owing = 0;
    uint32_t telling = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const struct member *const member = &mesh->members.slot[slot];
        owing += member->owing;
        telling += member->telling;
        assert(member->owing || (member->owes_capacity | member->owes_word | member->owes_prune) == 0);
        assert(member->telling || member->owes_capacity_word == 0);
        assert(member->comes_from <= MESH_LINKS_MAX);
    }
    assert(owing == tree->owing_count && owing <= mesh->members.capacity);
    assert(telling == tree->telling_count && telling <= mesh->members.capacity);
    assert(tree->missing_count <= MESH_MISSING_MAX);
}
