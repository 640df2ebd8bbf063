#include "mesh/internal.h"

void detector_layout(struct detector *detector, const struct mesh_limits *limits, struct carve *from)
{
    detector->accused = carve(from, limits->members, sizeof *detector->accused);
    detector->due_at_ms = carve(from, limits->members, sizeof *detector->due_at_ms);
}

void detector_init(struct mesh *mesh)
{
    struct detector *const detector = &mesh->detector;
    detector->next_at_ms = INT64_MAX;
    detector->swept_at_ms = mesh->now_ms;
    detector->announce_at_ms = mesh->now_ms;
    detector->alert_version = mesh->config.session;
}

/* ------------------------------------------------- what was said about whom */

struct accused *detector_said(const struct mesh *mesh, uint32_t slot)
{
    const uint32_t number = mesh->members.slot[slot].accused;
    return number != 0 ? &mesh->detector.accused[number - 1] : NULL;
}

static struct accusation *find_accusation(struct accused *said, uint32_t accuser)
{
    for (uint32_t i = 0; said && i < said->count; i++) {
        if (said->accusation[i].accuser == accuser)
            return &said->accusation[i];
    }
    return NULL;
}

static bool is_accused_by(struct accused *said, uint32_t accuser)
{
    const struct accusation *const accusation = find_accusation(said, accuser);
    return accusation && accusation->accuses;
}

uint32_t detector_accusers(const struct mesh *mesh, uint32_t slot)
{
    const struct accused *const said = detector_said(mesh, slot);
    return said ? said->accusers : 0;
}

static void recount(struct accused *said)
{
    said->accusers = 0;
    for (uint32_t i = 0; i < said->count; i++)
        said->accusers += said->accusation[i].accuses;
}

static void remove_accusation(struct accused *said, uint32_t index)
{
    said->accusation[index] = said->accusation[--said->count];
    recount(said);
}

static bool contains(const uint32_t *list, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == slot)
            return true;
    }
    return false;
}

/* The observers of whom something was said; valid until the overlay changes. */
static const uint32_t *observers_of(const struct mesh *mesh, struct accused *said, uint32_t *count)
{
    const uint32_t tier = tiers_watched_in(mesh, said->member);
    if (said->changes != mesh->overlay.changes || said->tier != tier) {
        said->observers = overlay_neighbours(mesh, said->member, said->observer);
        said->changes = mesh->overlay.changes;
        said->tier = tier;
    }
    *count = said->observers;
    return said->observer;
}

/*
 * Makes room for what `accuser` says. At the bound an observer displaces one who is none, never the other way round:
 * if two could displace each other, each copy of their alerts would be news again and be flooded for ever.
 */
static bool make_room(struct mesh *mesh, struct accused *said, uint32_t accuser)
{
    if (said->count < MESH_ACCUSATIONS_MAX)
        return true;
    uint32_t observers;
    const uint32_t *const observer = observers_of(mesh, said, &observers);
    if (!contains(observer, observers, accuser))
        return false;
    for (uint32_t i = 0; i < said->count; i++) {
        if (!contains(observer, observers, said->accusation[i].accuser)) {
            remove_accusation(said, i);
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------ whose verdict may have changed */

static void judge_at(struct mesh *mesh, const struct accused *said, int64_t at_ms)
{
    struct detector *const detector = &mesh->detector;
    int64_t *const due_at_ms = &detector->due_at_ms[said - detector->accused];
    if (at_ms < *due_at_ms)
        *due_at_ms = at_ms;
    if (at_ms < detector->next_at_ms)
        detector->next_at_ms = at_ms;
}

void detector_judge(struct mesh *mesh, uint32_t slot)
{
    struct accused *const said = detector_said(mesh, slot);
    if (said)
        judge_at(mesh, said, mesh->now_ms);
}

void detector_judge_around(struct mesh *mesh, uint32_t slot)
{
    if (mesh->detector.accused_count == 0)
        return;
    uint32_t observed[MESH_LINKS_MAX];
    const uint32_t count = overlay_links(mesh, slot, observed);
    detector_judge(mesh, slot);
    for (uint32_t i = 0; i < count; i++)
        detector_judge(mesh, observed[i]);
}

void detector_judge_all(struct mesh *mesh)
{
    for (uint32_t i = 0; i < mesh->detector.accused_count; i++)
        judge_at(mesh, &mesh->detector.accused[i], mesh->now_ms);
}

/* ---------------------------------------------------------- the table's rows */

/* The table has a row for every member, so there is always one. */
static struct accused *take_row(struct mesh *mesh, uint32_t subject)
{
    struct detector *const detector = &mesh->detector;
    struct member *const member = &mesh->members.slot[subject];
    if (member->accused == 0) {
        struct accused *const row = &detector->accused[detector->accused_count++];
        row->member = subject;
        row->count = row->accusers = 0;
        row->changes = 0;
        detector->due_at_ms[detector->accused_count - 1] = INT64_MAX;
        member->accused = (uint16_t)detector->accused_count;
    }
    return &detector->accused[member->accused - 1];
}

/* The last row takes its place. */
static void give_row(struct mesh *mesh, uint32_t index)
{
    struct detector *const detector = &mesh->detector;
    mesh->members.slot[detector->accused[index].member].accused = 0;
    if (index != --detector->accused_count) {
        detector->accused[index] = detector->accused[detector->accused_count];
        detector->due_at_ms[index] = detector->due_at_ms[detector->accused_count];
        mesh->members.slot[detector->accused[index].member].accused = (uint16_t)(index + 1);
    }
}

/* Returns whether it is newer than what that accuser said before. */
static bool remember(struct step *step, uint32_t subject, uint32_t accuser, const struct mesh_record *record)
{
    struct accusation *said = find_accusation(detector_said(step->mesh, subject), accuser);
    if (said && !stamp_newer(STAMP(record), STAMP(said)))
        return false;
    struct accused *const row = take_row(step->mesh, subject);
    if (!said) {
        if (!make_room(step->mesh, row, accuser))
            return false;
        said = &row->accusation[row->count++];
    }
    *said = (struct accusation){
        .accuser = accuser,
        .accuses = record->body.alert.accuses,
        .incarnation = record->incarnation,
        .version = record->version,
        .at_ms = step->now_ms,
    };
    recount(row);
    judge_at(step->mesh, row, step->now_ms);
    return true;
}

/* Whom we accuse does not count as an observer. */
static void set_alerted(struct mesh *mesh, uint32_t slot, bool alerted)
{
    struct member *const member = &mesh->members.slot[slot];
    if (member->alerted == alerted)
        return;
    member->alerted = alerted;
    detector_judge_around(mesh, slot);
}

void detector_clear(struct mesh *mesh, uint32_t slot)
{
    struct accused *const said = detector_said(mesh, slot);
    if (said) {
        said->count = said->accusers = 0;
        judge_at(mesh, said, mesh->now_ms);
    }
    set_alerted(mesh, slot, false);
}

static void remove_believed(struct detector *detector, uint32_t index)
{
    detector->believed_count--;
    for (uint32_t i = index; i < detector->believed_count; i++)
        detector->believed[i] = detector->believed[i + 1];
}

void detector_forget(struct mesh *mesh, uint32_t slot)
{
    struct detector *const detector = &mesh->detector;
    detector_clear(mesh, slot);
    for (uint32_t i = 0; i < detector->accused_count; i++) {
        struct accused *const said = &detector->accused[i];
        for (uint32_t j = 0; j < said->count; j++) {
            if (said->accusation[j].accuser != slot)
                continue;
            remove_accusation(said, j--);
            judge_at(mesh, said, mesh->now_ms);
        }
    }
    if (mesh->members.slot[slot].accused != 0)
        give_row(mesh, mesh->members.slot[slot].accused - 1);
    for (uint32_t i = 0; i < detector->believed_count; i++) {
        if (detector->believed[i].member == slot)
            remove_believed(detector, i--);
    }
}

uint32_t detector_accuses(const struct mesh *mesh, uint32_t slot)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < mesh->detector.accused_count; i++)
        count += is_accused_by(&mesh->detector.accused[i], slot);
    return count;
}

/* --------------------------------------------------------- our own accusations */

static void sign_alert(struct step *step, uint32_t subject, bool accuses)
{
    struct mesh *const mesh = step->mesh;
    struct member *const member = &mesh->members.slot[subject];
    struct mesh_record *const record = &out_effect(step, MESH_SIGN)->body.record;
    record->kind = MESH_RECORD_ALERT;
    record->origin = mesh->config.self;
    record->incarnation = gossip_incarnation(mesh);
    record->version = ++mesh->detector.alert_version;
    record->body.alert.subject = member->id;
    record->body.alert.subject_incarnation = member->record.incarnation;
    record->body.alert.accuses = accuses;
    set_alerted(mesh, subject, accuses);
    struct member_notes *const notes = members_edit_notes(mesh, subject);
    notes->alerted_at_ms = step->now_ms;
    notes->told_alone = false;
    if (accuses)
        mesh->counters.alerts_sent++;
}

static void withdraw(struct step *step, uint32_t subject)
{
    const struct member *const member = &step->mesh->members.slot[subject];
    if (member->alerted && members_live(step->mesh, subject))
        sign_alert(step, subject, false);
}

void detector_unlinked(struct step *step, uint32_t subject)
{
    withdraw(step, subject);
}

/* Tells a member that is down here, and may not know it, or others who ask about it; not again at once. */
static bool accuse_the_dead(struct step *step, uint32_t subject)
{
    const struct members *const members = &step->mesh->members;
    const int64_t alerted_at_ms = members_notes(members, subject)->alerted_at_ms;
    if (members->slot[subject].state != MESH_DOWN ||
        (alerted_at_ms != 0 && step->now_ms - alerted_at_ms < MESH_ALERT_REPEAT_MS))
        return false;
    sign_alert(step, subject, true);
    return true;
}

bool detector_tells_alone(const struct mesh *mesh, uint32_t subject)
{
    return mesh->members.slot[subject].state == MESH_DOWN &&
           members_notes(&mesh->members, subject)->told_alone;
}

void detector_believed(struct step *step, uint32_t subject)
{
    struct detector *const detector = &step->mesh->detector;
    bool known = step->mesh->members.slot[subject].state != MESH_DOWN;
    for (uint32_t i = 0; i < detector->believed_count && !known; i++)
        known = detector->believed[i].member == subject;
    if (known || detector->believed_count == MESH_BELIEVED_MAX)
        return;
    detector->believed[detector->believed_count++] =
        (struct believed){.member = subject, .accuse_at_ms = step->now_ms + MESH_BELIEVED_MS};
}

static void tick_believed(struct step *step)
{
    struct detector *const detector = &step->mesh->detector;
    while (detector->believed_count > 0 && step->now_ms >= detector->believed[0].accuse_at_ms) {
        accuse_the_dead(step, detector->believed[0].member);
        remove_believed(detector, 0);
    }
    if (detector->believed_count > 0)
        out_wake(step, detector->believed[0].accuse_at_ms);
}

void detector_heard(struct step *step, uint32_t subject)
{
    struct members *const members = &step->mesh->members;
    withdraw(step, subject);
    if (members->slot[subject].state != MESH_DOWN)
        return;
    const bool first = members_notes(members, subject)->alerted_at_ms < members->slot[subject].state_at_ms;
    if (accuse_the_dead(step, subject))
        members_edit_notes(step->mesh, subject)->told_alone = first;
}

/* Silent, or soon to be if it says nothing: it has missed more than one ping. */
static bool fails(const struct step *step, const struct link *link)
{
    return link->silent ||
           (link->greeted && step->now_ms - link->heard_at_ms >= MESH_LINK_SILENT_MS - MESH_DOUBT_WINDOW_MS);
}

/* Fails, and has not done so for long. */
static bool fails_lately(const struct step *step, const struct link *link)
{
    return fails(step, link) && (!link->silent || step->now_ms - link->silent_at_ms <= MESH_DOUBT_WINDOW_MS);
}

void detector_silent(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct detector *const detector = &mesh->detector;
    const struct links *const links = &mesh->links;
    uint32_t recent = 0;
    for (uint32_t i = 0; i < links->count; i++)
        recent += fails_lately(step, &links->link[i]);
    if (detector->doubting || links->count < 2 || 2 * recent <= links->count)
        return;
    detector->doubting = true;
    detector->doubt_until_ms = step->now_ms + MESH_DOUBT_MS;
    /* What was said before the doubt arose is taken back. */
    for (uint32_t i = 0; i < links->count; i++) {
        const struct link *const link = &links->link[i];
        if (!link->silent)
            continue;
        mesh->counters.alerts_withheld++;
        if (step->now_ms - link->silent_at_ms <= MESH_DOUBT_WINDOW_MS)
            withdraw(step, link->member);
    }
}

static void tick_doubt(struct step *step)
{
    struct detector *const detector = &step->mesh->detector;
    const struct links *const links = &step->mesh->links;
    if (!detector->doubting)
        return;
    uint32_t failing = 0;
    for (uint32_t i = 0; i < links->count; i++)
        failing += fails(step, &links->link[i]);
    if (step->now_ms >= detector->doubt_until_ms || 2 * failing <= links->count)
        detector->doubting = false;
    else
        out_wake(step, detector->doubt_until_ms);
}

static void tick_own_accusation(struct step *step, const struct link *link)
{
    const struct member *const member = &step->mesh->members.slot[link->member];
    if (!link->silent || step->mesh->detector.doubting || !members_live(step->mesh, link->member))
        return;
    if (member->alerted) {
        const int64_t *const alerted_at_ms =
            &members_notes(&step->mesh->members, link->member)->alerted_at_ms;
        if (step->now_ms >= *alerted_at_ms + MESH_ALERT_REPEAT_MS)
            sign_alert(step, link->member, true);
        out_wake(step, *alerted_at_ms + MESH_ALERT_REPEAT_MS);
        return;
    }
    if (step->now_ms >= link->accuse_after_ms || detector_accusers(step->mesh, link->member) > 0)
        sign_alert(step, link->member, true);
    else
        out_wake(step, link->accuse_after_ms);
}

/* ----------------------------------------------------------------- verdicts */

struct tally {
    uint32_t observers; /* that count */
    uint32_t accusers;  /* of those */
};

/*
 * Observers that we accuse ourselves do not count: their silence may be the very split that silences the subject.
 * For a death those that are suspect do not count either. What other accusers say about observers is left out on
 * purpose, since one deaf node that accuses everybody would otherwise be the only observer that counts.
 */
static struct tally take_tally(const struct mesh *mesh, struct accused *said, bool count_suspects)
{
    uint32_t count;
    const uint32_t *const observer = observers_of(mesh, said, &count);
    struct tally tally = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct member *const other = &mesh->members.slot[observer[i]];
        if (other->alerted || (other->state == MESH_SUSPECT && !count_suspects))
            continue;
        tally.observers++;
        tally.accusers += is_accused_by(said, observer[i]);
    }
    return tally;
}

/* Two accusers, or one where there are no more to be had. */
static bool is_accused_enough(const struct mesh *mesh, uint32_t subject, struct tally tally)
{
    const bool one_will_do = overlay_count(mesh, subject) < MESH_SMALL || tally.observers == 1;
    return tally.accusers >= (one_will_do ? 1 : 2);
}

static bool own_link_was_reset(const struct mesh *mesh, uint32_t subject)
{
    const struct link *const link = links_view(mesh, subject);
    return link && link->reset;
}

/* What its state should be, and when it will have to be asked again though nothing else changes. */
struct verdict {
    enum mesh_member_state state;
    int64_t again_at_ms;
};

/*
 * A verdict rests on what was said about its subject, on who observes it, and on which of those are suspect or accused by us;
 * whoever changes one of these has it given again.
 */
static struct verdict decide(const struct mesh *mesh, struct accused *said)
{
    const uint32_t subject = said->member;
    const struct member *const member = &mesh->members.slot[subject];
    struct verdict verdict = {.state = member->state, .again_at_ms = INT64_MAX};
    if (subject == mesh->members.self || !members_live(mesh, subject))
        return verdict;
    /* Suspicion does not depend on who else is suspect: two such verdicts could otherwise turn each other over for
     * ever. Death may, since it is not taken back here. */
    const bool suspect =
        !tiers_guest(mesh, subject) && is_accused_enough(mesh, subject, take_tally(mesh, said, true));
    verdict.state = suspect ? MESH_SUSPECT : MESH_UP;
    if (!suspect || member->state == MESH_UP)
        return verdict;
    const struct tally sure = take_tally(mesh, said, false);
    if (!is_accused_enough(mesh, subject, sure) || 100 * sure.accusers < MESH_DOWN_PERCENT * sure.observers)
        return verdict;
    const bool plain = own_link_was_reset(mesh, subject) || sure.accusers == sure.observers;
    const int64_t down_at_ms = member->state_at_ms + (plain ? MESH_SUSPECT_PLAIN_MS : MESH_SUSPECT_MS);
    if (mesh->now_ms >= down_at_ms)
        verdict.state = MESH_DOWN;
    else
        verdict.again_at_ms = down_at_ms;
    return verdict;
}

/* A changed state has this verdict, and those that rest on it, given again: in this walk or in the next step. */
static void judge(struct step *step, struct accused *said)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t subject = said->member;
    const struct verdict verdict = decide(mesh, said);
    judge_at(mesh, said, verdict.again_at_ms);
    if (verdict.state != mesh->members.slot[subject].state)
        members_set_state(step, subject, verdict.state);
}

static int64_t ends_at_ms(const struct accusation *accusation)
{
    return accusation->at_ms + MESH_ALERT_TTL_MS;
}

static void expire_accusations(struct step *step, struct accused *said)
{
    for (uint32_t i = 0; i < said->count;) {
        if (step->now_ms >= ends_at_ms(&said->accusation[i]))
            remove_accusation(said, i);
        else
            judge_at(step->mesh, said, ends_at_ms(&said->accusation[i++]));
    }
}

static void tick_verdicts(struct step *step)
{
    struct detector *const detector = &step->mesh->detector;
    if (step->now_ms < detector->next_at_ms)
        return;
    detector->next_at_ms = INT64_MAX;
    for (uint32_t i = 0; i < detector->accused_count;) {
        struct accused *const said = &detector->accused[i];
        if (step->now_ms < detector->due_at_ms[i]) {
            judge_at(step->mesh, said, detector->due_at_ms[i++]);
            continue;
        }
        if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 2)) {
            step->mesh->counters.bound_out++;
            detector->next_at_ms = step->now_ms;
            return;
        }
        detector->due_at_ms[i] = INT64_MAX;
        expire_accusations(step, said);
        judge(step, said);
        if (said->count == 0)
            give_row(step->mesh, i);
        else
            i++;
    }
}

void detector_refuted(struct step *step, uint32_t slot, bool restarted)
{
    struct mesh *const mesh = step->mesh;
    struct link *const link = links_find(mesh, slot);
    if (link && restarted) {
        /* A new process: its link has all the time of a first one. */
        link->greeted = link->silent = link->reset = link->redialed = false;
        link->heard_at_ms = step->now_ms;
    } else if (link && link->silent) {
        /* It lives, but not for us. Accusing it again at once would only make it refute again. */
        int64_t wait_ms = (int64_t)MESH_ACCUSE_AGAIN_MS << link->refuted;
        if (wait_ms >= MESH_ACCUSE_AGAIN_MAX_MS)
            wait_ms = MESH_ACCUSE_AGAIN_MAX_MS;
        else
            link->refuted++;
        link->accuse_after_ms = step->now_ms + wait_ms;
    }
    detector_clear(mesh, slot);
    if (mesh->members.slot[slot].state != MESH_UP)
        members_set_state(step, slot, MESH_UP);
}

/* ------------------------------------------------------- accusations of ourselves */

/* Nothing bears the new incarnation before it is announced, and gossip_announce() saves it with that. */
static void raise_incarnation(struct step *step, uint64_t above)
{
    struct mesh *const mesh = step->mesh;
    assert(above < UINT64_MAX);
    mesh->incarnation = above + 1;
    mesh->detector.announce = true;
    mesh->counters.refutations++;
}

static void cloned(struct step *step, bool fatal)
{
    struct mesh_effect *const effect = out_effect(step, MESH_CLONED);
    effect->body.cloned.fatal = fatal;
    effect->body.cloned.meetings = step->mesh->detector.meetings;
}

static void tick_announce(struct step *step)
{
    struct detector *const detector = &step->mesh->detector;
    if (!detector->announce)
        return;
    if (step->now_ms < detector->announce_at_ms) {
        out_wake(step, detector->announce_at_ms);
        return;
    }
    detector->announce = false;
    detector->announce_at_ms = step->now_ms + MESH_REFUTE_MS;
    gossip_announce(step);
    if (detector->met)
        cloned(step, false);
    detector->met = false;
}

void detector_raise(struct step *step)
{
    raise_incarnation(step, step->mesh->incarnation);
}

void detector_foreign(struct step *step, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    struct detector *const detector = &mesh->detector;
    if (record->incarnation == UINT64_MAX || mesh->leaving)
        return;
    if (!detector->announce) { /* otherwise it may not have heard of us yet */
        detector->meetings++;
        detector->elders += record->body.member.session < mesh->config.session;
    }
    if (detector->elders >= MESH_CLONE_MEETINGS) {
        cloned(step, true);
        return;
    }
    detector->met = true;
    raise_incarnation(step, record->incarnation);
    if (mesh->config.limits.journals > 0)
        disk_forgot(step);
}

/* Only the present incarnation can be accused: a peer can't make us skip incarnations by naming others. */
static void accused(struct step *step, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    if (record->body.alert.accuses && record->body.alert.subject_incarnation == mesh->incarnation &&
        !mesh->leaving && mesh->incarnation < UINT64_MAX - 1)
        raise_incarnation(step, mesh->incarnation);
}

bool detector_alert(struct step *step, uint32_t origin, const struct mesh_record *record)
{
    struct mesh *const mesh = step->mesh;
    const uint32_t subject = members_find(mesh, &record->body.alert.subject);
    if (subject == MESH_NONE || subject == origin)
        return false;
    const struct member *const member = &mesh->members.slot[subject];
    const bool self = subject == mesh->members.self;
    /* Those who are down for us may still tell us that we are down for them: that is how a split heals. */
    if (!self && !members_live(mesh, origin))
        return false;
    const uint64_t present = self ? mesh->incarnation : member->record.incarnation;
    if (record->body.alert.subject_incarnation != present)
        return false;
    if (!members_live(mesh, subject) && member->state != MESH_DOWN)
        return false;
    if (tiers_guest(mesh, subject) || tiers_guest(mesh, origin))
        return false;
    if (!remember(step, subject, origin, record))
        return false;
    if (self) {
        accused(step, record);
    } else if (member->state == MESH_DOWN && record->body.alert.accuses && origin != mesh->members.self) {
        /* Somebody still believes in it: as its observers we say what we know, so that it can conclude too.
         */
        uint32_t observer[MESH_NEIGHBOURS_MAX];
        if (contains(observer, overlay_neighbours(mesh, subject, observer), mesh->members.self))
            accuse_the_dead(step, subject);
    }
    return true;
}

/* -------------------------------------------------- retries and tombstones */

/* A link that has outlived the silence needs no dialling, only a word: a ping, for which it will find us down
 * or up. */
static void retry_down(struct step *step, const uint32_t *chosen, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct mesh_id *const peer = &step->mesh->members.slot[chosen[i]].id;
        out_effect(step, MESH_LINK_REDIAL)->body.peer = *peer;
        out_send(step, peer, MESH_PING);
        step->mesh->counters.retries_down++;
    }
}

/* Walks all members, so it is done only every MESH_SWEEP_MS; reservoir sampling chooses whom to retry. */
static void sweep(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    uint32_t chosen[MESH_RETRIES];
    uint32_t down = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        struct member *const member = &mesh->members.slot[slot];
        if (member->state != MESH_DOWN && member->state != MESH_LEFT)
            continue;
        const int64_t age_ms = step->now_ms - member->state_at_ms;
        if (age_ms >= MESH_TOMBSTONE_MS) {
            if (!out_has_room(step->out, 0, 0, MESH_OUT_EFFECTS_MAX / 2)) {
                mesh->counters.bound_out++;
                out_wake(step, step->now_ms);
                return;
            }
            members_remove(step, slot);
            mesh->counters.tombstones_dropped++;
            continue;
        }
        if (member->state == MESH_LEFT) {
            rounds_list(mesh, slot);
            continue;
        }
        down++;
        if (down <= MESH_RETRIES) {
            chosen[down - 1] = slot;
        } else {
            const uint32_t place = random_below(&mesh->random, down);
            if (place < MESH_RETRIES)
                chosen[place] = slot;
        }
    }
    mesh->detector.swept_at_ms = step->now_ms;
    retry_down(step, chosen, down < MESH_RETRIES ? down : MESH_RETRIES);
    tiers_sweep(step);
}

/* --------------------------------------------------------------------- tick */

void detector_tick(struct step *step)
{
    struct mesh *const mesh = step->mesh;
    struct detector *const detector = &mesh->detector;
    tick_doubt(step);
    for (uint32_t i = 0; i < mesh->links.count; i++)
        tick_own_accusation(step, &mesh->links.link[i]);
    tick_believed(step);
    tick_verdicts(step);
    tick_announce(step);
    if (step->now_ms >= detector->swept_at_ms + MESH_SWEEP_MS)
        sweep(step);
    out_wake(step, detector->swept_at_ms + MESH_SWEEP_MS);
    out_wake(step, mesh->links.stale ? step->now_ms : detector->next_at_ms);
}

/* Whoever is not due would be judged as before. */
static void check_verdict(const struct mesh *mesh, uint32_t index)
{
    struct accused *const said = &mesh->detector.accused[index];
    const int64_t due_at_ms = mesh->detector.due_at_ms[index];
    assert(mesh->detector.next_at_ms <= due_at_ms);
    if (due_at_ms <= mesh->now_ms)
        return;
    const struct verdict verdict = decide(mesh, said);
    assert(verdict.state == mesh->members.slot[said->member].state && due_at_ms <= verdict.again_at_ms);
    assert(said->count > 0);
    for (uint32_t i = 0; i < said->count; i++)
        assert(due_at_ms <= ends_at_ms(&said->accusation[i]));
}

void detector_check(const struct mesh *mesh)
{
    const struct detector *const detector = &mesh->detector;
    uint32_t accused = 0;
    for (uint32_t slot = 0; slot < mesh->members.used; slot++) {
        const struct member *const member = &mesh->members.slot[slot];
        accused += member->accused != 0;
        assert(member->accused <= detector->accused_count);
        assert(member->state != MESH_SUSPECT || member->accused != 0);
    }
    assert(accused == detector->accused_count);
    for (uint32_t i = 0; i < accused; i++) {
        const struct accused *const said = &detector->accused[i];
        assert(mesh->members.slot[said->member].accused == i + 1);
        assert(said->count <= MESH_ACCUSATIONS_MAX);
        uint32_t accusers = 0;
        for (uint32_t j = 0; j < said->count; j++) {
            accusers += said->accusation[j].accuses;
            assert(mesh->members.slot[said->accusation[j].accuser].state != 0);
        }
        assert(accusers == said->accusers);
        check_verdict(mesh, i);
    }
    assert(detector->believed_count <= MESH_BELIEVED_MAX);
    for (uint32_t i = 0; i < detector->believed_count; i++)
        assert(mesh->members.slot[detector->believed[i].member].state != 0);
    assert(mesh->incarnation >= mesh->config.incarnation);
}
