/*
 * Journals of several copies (mesh/journal.h), as this node keeps them: their entries, what was promised, and the
 * blobs that entries name.
 *
 * An *entry* is durable at a node when its row is, and every blob that it names is in that node's store, pinned: the
 * job's inputs for the first entry, large outputs for a commit. Small ones ride in the entry itself; of inputs that do,
 * a new home makes blobs before it goes on (jobs_take_over). So an entry of another home waits here until what
 * it names was fetched, from that home or another member, and only then does the core see it. Entries of one job
 * pass in the order in which they came. Whoever is voted the job's home therefore has all that it needs.
 *
 * Rows. STORE_ENTRIES: key job's id and index, big-endian; value [version, epoch, settled, kind, members, bytes].
 * STORE_COPIES: key job's id; value [version, promised, candidate, reign, over, whole, last, last's epoch, end's state,
 * end's time, chosen at, members]. The head is written when one of these changes, not with each entry.
 *
 * Of a job that failed or was cancelled nothing is kept of this but the head; what it was and how it ended is in a row that
 * jobs_restore.c keeps.
 *
 * Whether this node ever had anything of a journal decides whether it may vote about it with empty hands. A row that is
 * pruned takes that knowledge along; what stays is the highest incarnation at which such a copy was chosen (the counter
 * "forgotten"), and of copies chosen until then nothing is claimed any more.
 */
#include "node/copies_internal.h"
#include "node/field.h"
#include "node/log.h"
#include "node/node.h"
#include "node/payload.h"
#include "node/resync.h"
#include "node/user_kernels.h"
#include "node/wire_fields.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define COPY_VERSION 1
#define HEAD_VERSION                                                                                         \
    2 /* of rows of STORE_COPIES; the first has neither when the copy was chosen nor members */
#define ENTRY_ROW_BYTES_MAX (WIRE_ENTRY_BYTES_MAX + 1024u)
/* Rows of a tail that is replaced, deleted in one batch. */
#define CUT_ROWS_MAX 2048u
/* Sent in one go to a member that lacks entries, as their bytes and the last entry's: its queue takes twice that, for what
 * else it is sent. The core is told where that ended, and asks for the rest when this has come. */
#define SEND_LOG_BYTES_MAX (TRANSPORT_QUEUE_BYTES_MAX / 2)

/* ---- The table */

static struct copy **bucket_of(struct node *node, const struct mesh_id *job)
{
    return &node->copies.bucket[jobs_bucket(job)];
}

struct copy *copies_find(struct node *node, const struct mesh_id *job)
{
    struct copy *copy = *bucket_of(node, job);
    while (copy && memcmp(&copy->job, job, sizeof *job) != 0)
        copy = copy->chain;
    return copy;
}

struct copy *copies_make(struct node *node, const struct mesh_id *job)
{
    struct copy *copy = calloc(1, sizeof *copy);
    must(copy);
    copy->job = *job;
    struct copy **bucket = bucket_of(node, job);
    copy->chain = *bucket;
    *bucket = copy;
    node->copies.count++;
    return copy;
}

void copies_take_out(struct node *node, struct copy *copy)
{
    struct copy **link = bucket_of(node, &copy->job);
    while (*link != copy)
        link = &(*link)->chain;
    *link = copy->chain;
    node->copies.count--;
    free(copy);
}

/* ---- Rows */

size_t copies_head_encode(const struct copy *copy, uint8_t *row, size_t capacity)
{
    struct field_writer writer;
    field_writer_init(&writer, row, capacity);
    field_put_array(&writer, 12);
    field_put_uint(&writer, HEAD_VERSION);
    field_put_uint(&writer, copy->promised);
    field_put_bin(&writer, copy->voted.bytes, sizeof copy->voted.bytes);
    field_put_uint(&writer, copy->reign);
    field_put_bool(&writer, copy->over);
    field_put_bool(&writer, copy->whole);
    field_put_uint(&writer, copy->last);
    field_put_uint(&writer, copy->last_epoch);
    field_put_uint(&writer, copy->end_state);
    field_put_int(&writer, copy->ended_at_ms);
    field_put_uint(&writer, copy->chosen);
    wire_put_members(&writer, &copy->members);
    assert(!writer.full); /* COPIES_HEAD_BYTES_MAX */
    return writer.count;
}

void copies_put_head(struct store_batch *batch, const struct copy *copy)
{
    uint8_t row[COPIES_HEAD_BYTES_MAX];
    const size_t count = copies_head_encode(copy, row, sizeof row);
    store_batch_put(batch, STORE_COPIES, copy->job.bytes, sizeof copy->job.bytes, row, count);
}

bool copies_head_decode(const void *bytes, size_t count, struct copy *copy)
{
    struct field_reader reader;
    field_reader_init(&reader, bytes, count);
    const uint32_t fields = field_get_array(&reader, 10, 12);
    const uint64_t version = field_get_uint(&reader, UINT32_MAX);
    if (version != HEAD_VERSION && version != COPY_VERSION)
        return false;
    copy->promised = field_get_uint(&reader, UINT64_MAX);
    field_get_fixed(&reader, copy->voted.bytes, sizeof copy->voted.bytes);
    copy->reign = field_get_uint(&reader, UINT64_MAX);
    copy->over = field_get_bool(&reader);
    copy->whole = field_get_bool(&reader);
    copy->last = (uint32_t)field_get_uint(&reader, UINT32_MAX);
    copy->last_epoch = field_get_uint(&reader, UINT64_MAX);
    copy->end_state = (enum mesh_job_state)field_get_uint(&reader, MESH_JOB_MOVED);
    copy->ended_at_ms = field_get_int(&reader, INT64_MIN, INT64_MAX);
    copy->chosen = UINT64_MAX; /* not known */
    if (version == HEAD_VERSION && fields == 12) {
        copy->chosen = field_get_uint(&reader, UINT64_MAX);
        wire_get_members(&reader, &copy->members);
    }
    return field_get_end(&reader);
}

struct copies_key copies_key_of(const struct mesh_id *job, uint32_t index)
{
    struct copies_key key;
    memcpy(key.bytes, job->bytes, sizeof job->bytes);
    for (int i = 0; i < 4; i++)
        key.bytes[32 + i] = (uint8_t)(index >> (24 - 8 * i));
    return key;
}

static void put_entry(struct store_batch *batch, const struct mesh_id *job, const struct mesh_place *place,
                      enum mesh_entry_kind kind, const struct mesh_members *members,
                      const struct bytes *bytes)
{
    static uint8_t row[ENTRY_ROW_BYTES_MAX];
    struct field_writer writer;
    field_writer_init(&writer, row, sizeof row);
    field_put_array(&writer, 6);
    field_put_uint(&writer, COPY_VERSION);
    field_put_uint(&writer, place->entry_epoch);
    field_put_uint(&writer, place->settled);
    field_put_uint(&writer, kind);
    wire_put_members(&writer, members);
    field_put_bin(&writer, bytes ? bytes->data : NULL, bytes ? bytes->count : 0);
    assert(!writer.full); /* WIRE_ENTRY_BYTES_MAX */
    const struct copies_key key = copies_key_of(job, place->index);
    store_batch_put(batch, STORE_ENTRIES, key.bytes, sizeof key.bytes, row, writer.count);
}

bool copies_entry_decode(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                         struct copies_entry_view *row)
{
    const uint8_t *index = (const uint8_t *)key + 32;
    if (key_bytes != sizeof(struct copies_key))
        return false;
    row->index = (uint32_t)index[0] << 24 | (uint32_t)index[1] << 16 | (uint32_t)index[2] << 8 | index[3];
    struct field_reader reader;
    field_reader_init(&reader, value, value_bytes);
    field_get_array(&reader, 6, 6);
    if (field_get_uint(&reader, UINT32_MAX) != COPY_VERSION)
        return false;
    row->epoch = field_get_uint(&reader, UINT64_MAX);
    row->settled = (uint32_t)field_get_uint(&reader, UINT32_MAX);
    row->kind = (enum mesh_entry_kind)field_get_uint(&reader, MESH_ENTRY_DISPUTE);
    wire_get_members(&reader, &row->members);
    row->bytes = field_get_bin(&reader, 0, WIRE_ENTRY_BYTES_MAX, &row->count);
    return field_get_end(&reader);
}

/* ---- What entries say */

bool copies_each_blob(const struct mesh_id *job, enum mesh_entry_kind kind, const uint8_t *bytes,
                      size_t count, copies_blob_fn *found, void *context)
{
    static struct journal_row row;
    struct digest pin;
    struct entry entry;
    struct journal_end end;
    memcpy(pin.bytes, job->bytes, sizeof pin.bytes);
    switch (kind) {
    case MESH_ENTRY_SUBMIT: {
        struct first_entry first;
        struct job *described = first_entry_decode(bytes, count, &first);
        if (!described)
            return false;
        const struct mesh_id named = job_id(described->spec.tenant, described->spec.key);
        const bool good =
            memcmp(&named, job, sizeof named) == 0 && memcmp(&described->spec.id, job, sizeof *job) == 0;
        const struct user_kernel *user = user_kernel_of(described->spec.manifest);
        if (good && user)
            found(context, user->source.bytes, &pin);
        for (uint32_t i = 0; good && i < described->spec.manifest->input_count; i++)
            if (described->spec.inputs[i].role && !first.input[i].bytes)
                found(context, described->spec.inputs[i].blob.bytes, &pin);
        job_free(described);
        return good;
    }
    case MESH_ENTRY_COMMIT:
        pin = job_results_owner(job);
        if (!journal_row_decode(bytes, count, &row) || row.disputes)
            return false;
        for (uint32_t i = 0; i < row.count; i++) {
            if (!entry_decode(row.item[i].entry.bytes, row.item[i].entry.count, &entry))
                return false;
            for (uint32_t o = 0; o < entry.output_count; o++)
                if (!entry.output[o].bytes)
                    found(context, entry.output[o].blob.bytes, &pin);
        }
        return true;
    case MESH_ENTRY_DISPUTE:
        return journal_row_decode(bytes, count, &row) && row.disputes;
    case MESH_ENTRY_END:
        return journal_end_decode(bytes, count, &end);
    case MESH_ENTRY_TAKEOVER:
    case MESH_ENTRY_CHANGE:
        return count == 0;
    }
    return false;
}

/* The results of a commit that the core commits, of all that its payload holds. */
static struct bytes *commit_bytes(const struct mesh_save *save, const struct bytes *payload)
{
    static uint8_t buffer[WIRE_ENTRY_BYTES_MAX];
    static struct result_item items[MESH_LOOKUP_SHARDS_MAX];
    static struct journal_row row;
    const int count = result_decode(payload, items, MESH_LOOKUP_SHARDS_MAX);
    assert(count >= 0); /* checked when it came */
    row = (struct journal_row){.epoch = save->body.commit.epoch,
                               .executor = save->body.commit.executor,
                               .device_us = save->body.commit.device_us,
                               .cached = save->body.commit.cached};
    for (uint32_t i = 0; i < save->body.commit.count; i++) {
        const uint32_t place = save->body.commit.shard[i].place;
        assert(place < (uint32_t)count);
        row.item[row.count].shard = save->body.commit.shard[i].shard;
        row.item[row.count++].entry = items[place];
    }
    const size_t bytes = journal_row_encode(&row, buffer, sizeof buffer);
    assert(bytes > 0); /* a RESULT's payload, or a look-up of as many shards as fit: job_lookup_shards */
    return bytes_make(buffer, bytes);
}

static struct bytes *dispute_bytes(const struct mesh_save *save)
{
    static struct journal_row row;
    uint8_t buffer[64 + 5 * MESH_BUNDLE_SHARDS_MAX];
    row = (struct journal_row){.disputes = true, .count = save->body.dispute.count};
    for (uint32_t i = 0; i < row.count; i++)
        row.item[i].shard = save->body.dispute.shard[i];
    const size_t bytes = journal_row_encode(&row, buffer, sizeof buffer);
    assert(bytes > 0);
    return bytes_make(buffer, bytes);
}

static struct bytes *end_bytes(struct node *node, const struct mesh_save *save)
{
    uint8_t buffer[JOB_ERROR_BYTES + 64];
    struct journal_end end = {.state = save->body.job.state, .at_ms = clock_wall_ms()};
    const struct job *job = jobs_find(node, &save->body.job.id);
    if (job && end.state == MESH_JOB_FAILED)
        memcpy(end.error, job->last_error, sizeof end.error);
    const size_t bytes = journal_end_encode(&end, buffer, sizeof buffer);
    assert(bytes > 0);
    return bytes_make(buffer, bytes);
}

struct bytes *copies_entry(struct node *node, const struct mesh_save *save, const struct bytes *bytes)
{
    switch (save->kind) {
    case MESH_SAVE_JOB:
        return save->body.job.place.index ? jobs_describe(node, save) : NULL;
    case MESH_SAVE_COMMIT:
        return save->body.commit.place.index ? commit_bytes(save, bytes) : NULL;
    case MESH_SAVE_JOB_STATE:
        return save->body.job.place.index ? end_bytes(node, save) : NULL;
    case MESH_SAVE_DISPUTE:
        return save->body.dispute.place.index ? dispute_bytes(save) : NULL;
    case MESH_SAVE_ENTRY:
        return bytes ? bytes_keep((struct bytes *)(uintptr_t)bytes) : NULL;
    default:
        return NULL;
    }
}

/* ---- Saving */

void copies_note_end(struct copy *copy, uint32_t index, const uint8_t *bytes, size_t count)
{
    struct journal_end end;
    if (!journal_end_decode(bytes, count, &end))
        return; /* checked when it came */
    copy->end = index;
    copy->end_state = end.state;
    copy->ended_at_ms = end.at_ms;
}

/* What stands from `first` on is another home's and gives way, the last first. Batches take effect in order, so those
 * before ours may go ahead: a log that was cut and not yet continued is a log that a crash cut. */
static void cut(struct node *node, struct store_batch *batch, struct copy *copy, uint32_t first)
{
    uint32_t rows = 0;
    struct store_batch *own = NULL;
    for (uint32_t index = copy->last; index >= first && index > 0; index--) {
        if (index - first >= CUT_ROWS_MAX && !own)
            own = node_batch(node);
        const struct copies_key key = copies_key_of(&copy->job, index);
        store_batch_delete(own ? own : batch, STORE_ENTRIES, key.bytes, sizeof key.bytes);
        if (own && (++rows == CUT_ROWS_MAX || index - first == CUT_ROWS_MAX)) {
            node_commit(node, own, NULL, NULL);
            own = NULL;
            rows = 0;
        }
    }
    copy->last = first - 1;
    if (copy->end >= first)
        copy->end = 0;
    copy->members.count = 0; /* one of those may have named them */
}

/* When we were chosen as one of them. */
void copies_note_chosen(const struct node *node, struct copy *copy, const struct mesh_members *members)
{
    for (uint32_t i = 0; i < members->count; i++)
        if (memcmp(&members->id[i], &node->self, sizeof node->self) == 0 &&
            members->storage[i] > copy->chosen)
            copy->chosen = members->storage[i];
}

static void save_entry(struct node *node, struct store_batch *batch, const struct mesh_save *save,
                       const struct bytes *bytes)
{
    const bool theirs = save->kind == MESH_SAVE_ENTRY;
    const struct mesh_id *job = &save->body.job.id;
    const struct mesh_place *place = &save->body.job.place;
    enum mesh_entry_kind kind = save->kind == MESH_SAVE_JOB ? MESH_ENTRY_SUBMIT : MESH_ENTRY_END;
    if (theirs) {
        job = &save->body.entry.job;
        place = &save->body.entry.place;
        kind = save->body.entry.kind;
    } else if (save->kind == MESH_SAVE_COMMIT) {
        job = &save->body.commit.job;
        place = &save->body.commit.place;
        kind = MESH_ENTRY_COMMIT;
    } else if (save->kind == MESH_SAVE_DISPUTE) {
        job = &save->body.dispute.job;
        place = &save->body.dispute.place;
        kind = MESH_ENTRY_DISPUTE;
    }
    struct copy *copy = copies_find(node, job);
    bool head = place->index == 1;
    if (!copy && !head)
        return; /* forgotten meanwhile */
    if (!copy)
        copy = copies_make(node, job);
    const struct mesh_members none = {0};
    const struct mesh_members *members = theirs ? &save->body.entry.members
                                         : head ? &save->body.job.members
                                                : &none;
    copies_note_chosen(node, copy, members);
    head = head || members->count > 0;
    if (theirs ? save->body.entry.own : place->index == 1) {
        copy->reign = place->entry_epoch;
        head = true;
    }
    if (theirs && save->body.entry.cut) {
        cut(node, batch, copy, place->index);
        head = true;
    }
    if (members->count > 0)
        copy->members = *members;
    if (place->index >= copy->last) {
        copy->last = place->index;
        copy->last_epoch = place->entry_epoch;
    }
    if (kind == MESH_ENTRY_END && bytes) {
        struct mesh_journal_view view;
        copies_note_end(copy, place->index, bytes->data, bytes->count);
        if (mesh_journal_find(node->host.mesh, job, &view))
            copy->home = view.home;
    }
    put_entry(batch, job, place, kind, members, bytes);
    if (head)
        copies_put_head(batch, copy);
}

void copies_save(struct node *node, struct store_batch *batch, const struct mesh_save *save,
                 const struct bytes *bytes)
{
    if (save->kind != MESH_SAVE_PROMISE) {
        save_entry(node, batch, save, bytes);
        return;
    }
    const struct mesh_members *members = &save->body.promise.members;
    struct copy *copy = copies_find(node, &save->body.promise.job);
    if (!copy && members->count == 0)
        return;
    if (!copy)
        copy = copies_make(node, &save->body.promise.job);
    if (copy->last == 0)
        copy->members = *members;
    copies_note_chosen(node, copy, members);
    if (save->body.promise.epoch >= copy->promised) {
        copy->promised = save->body.promise.epoch;
        copy->voted = save->body.promise.candidate;
    }
    copies_put_head(batch, copy);
}

/* ---- Reading */

struct reading {
    copies_entry_fn *entry;
    void *context;
    uint32_t next; /* a log ends where an index is missing */
};

static bool read_row(void *context, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    struct reading *reading = context;
    struct copies_entry_view row;
    if (!copies_entry_decode(key, key_bytes, value, value_bytes, &row) || row.index != reading->next)
        return false;
    reading->next++;
    return reading->entry(reading->context, &row);
}

void copies_read(struct node *node, const struct mesh_id *job, uint32_t first, copies_entry_fn *entry,
                 void *context)
{
    assert(first >= 1);
    struct reading reading = {.entry = entry, .context = context, .next = first};
    const struct copies_key after = copies_key_of(job, first - 1);
    const struct store_range range = {.prefix = job->bytes,
                                      .prefix_bytes = sizeof job->bytes,
                                      .after = after.bytes,
                                      .after_bytes = sizeof after.bytes};
    store_each(node->store, STORE_ENTRIES, &range, read_row, &reading);
}

static bool latest_members(void *context, const struct copies_entry_view *view)
{
    if (view->members.count > 0)
        *(struct mesh_members *)context = view->members;
    return true;
}

bool copies_member(const struct mesh_members *members, const struct mesh_id *id)
{
    for (uint32_t i = 0; i < members->count; i++)
        if (memcmp(&members->id[i], id, sizeof *id) == 0)
            return true;
    return false;
}

const struct mesh_members *copies_members(struct node *node, struct copy *copy)
{
    if (copy->members.count == 0)
        copies_read(node, &copy->job, 1, latest_members, &copy->members);
    return &copy->members;
}

/* ---- Sending what a member lacks */

struct sending {
    struct node *node;
    const struct mesh_effect *effect;
    uint64_t before_epoch;
    uint32_t last; /* sent */
    size_t bytes;
};

static bool send_entry(void *context, const struct copies_entry_view *view)
{
    struct sending *sending = context;
    const uint32_t first = sending->effect->body.send_log.first;
    if (view->index >= first) {
        static struct wire_frame frame;
        struct mesh_message message = {.kind = MESH_APPEND};
        message.body.append.job = sending->effect->body.send_log.job;
        message.body.append.epoch = sending->effect->body.send_log.epoch;
        message.body.append.settled = sending->effect->body.send_log.settled;
        message.body.append.entry_epoch = view->epoch;
        message.body.append.before_epoch = sending->before_epoch;
        message.body.append.index = view->index;
        message.body.append.kind = view->kind;
        message.body.append.members = view->members;
        wire_message(&frame, &message, (struct wire_bytes){.bytes = view->bytes, .count = view->count});
        if (!transport_send(sending->node->transport, &sending->effect->body.send_log.to, &frame))
            return false;
        sending->last = view->index;
        sending->bytes += view->count;
    }
    sending->before_epoch = view->epoch;
    return view->index - first + 1 < sending->effect->body.send_log.count &&
           sending->bytes < SEND_LOG_BYTES_MAX;
}

void copies_send_log(struct node *node, const struct mesh_effect *effect)
{
    const uint32_t first = effect->body.send_log.first;
    struct sending sending = {.node = node, .effect = effect, .last = first - 1};
    copies_read(node, &effect->body.send_log.job, first > 1 ? first - 1 : 1, send_entry, &sending);
    if (sending.last - first + 1 < effect->body.send_log.count)
        host_post(node, &(struct mesh_event){.kind = MESH_LOG_SENT,
                                             .body.log_sent = {.job = effect->body.send_log.job,
                                                               .to = effect->body.send_log.to,
                                                               .epoch = effect->body.send_log.epoch,
                                                               .last = sending.last}});
}

/* ---- The end */

/* Rows and pins go in as many steps as it takes. */
struct sweeping {
    struct mesh_id job;
    bool inputs; /* and outputs: the job's own pins */
    bool marked; /* the copy is being swept */
};

static void on_swept(struct node *node, void *context, enum store_error error);

/* The next step, with what else is in the batch. */
static void sweep(struct node *node, struct store_batch *batch, struct sweeping *sweeping)
{
    const struct digest owner = job_results_owner(&sweeping->job);
    store_batch_delete_prefix(batch, STORE_JOURNAL, sweeping->job.bytes, sizeof sweeping->job.bytes);
    store_batch_delete_prefix(batch, STORE_ENTRIES, sweeping->job.bytes, sizeof sweeping->job.bytes);
    store_batch_unpin_all(batch, owner.bytes);
    if (sweeping->inputs)
        store_batch_unpin_all(batch, sweeping->job.bytes);
    node_commit(node, batch, on_swept, sweeping);
}

static void on_swept(struct node *node, void *context, enum store_error error)
{
    struct sweeping *sweeping = context;
    if (error == STORE_MORE) {
        sweep(node, node_batch(node), sweeping);
        return;
    }
    struct copy *copy = sweeping->marked ? copies_find(node, &sweeping->job) : NULL;
    if (copy && copy->sweeps > 0)
        copy->sweeps--;
    free(sweeping);
}

static struct sweeping *sweeping_of(const struct mesh_id *job, bool inputs)
{
    struct sweeping *sweeping = malloc(sizeof *sweeping);
    must(sweeping);
    *sweeping = (struct sweeping){.job = *job, .inputs = inputs};
    return sweeping;
}

void copies_sweep(struct node *node, const struct mesh_id *job, bool inputs)
{
    struct sweeping *const sweeping = sweeping_of(job, inputs);
    struct copy *copy = copies_find(node, job);
    if (copy) {
        copy->sweeps++;
        sweeping->marked = true;
    }
    sweep(node, node_batch(node), sweeping);
}

static void note_forgotten(struct node *node, struct store_batch *batch, uint64_t chosen)
{
    if (chosen <= node->copies.forgotten)
        return;
    node->copies.forgotten = chosen;
    store_batch_put(batch, STORE_COUNTERS, "forgotten", 9, &chosen, sizeof chosen);
    host_post(node, &(struct mesh_event){.kind = MESH_FORGOT, .body.forgot = chosen});
}

/* The head goes with the first entries: no copy that is kept lacks its beginning. */
void copies_forget(struct node *node, const struct mesh_id *job)
{
    struct sweeping *const sweeping = sweeping_of(job, true);
    struct store_batch *batch = node_batch(node);
    struct copy *copy = copies_find(node, job);
    if (copy) {
        jobs_drop_ended(batch, job);
        store_batch_delete(batch, STORE_COPIES, job->bytes, sizeof job->bytes);
        note_forgotten(node, batch, copy->chosen);
        copies_take_out(node, copy);
    }
    sweep(node, batch, sweeping);
}

static bool first_home(void *context, const struct copies_entry_view *view)
{
    *(struct mesh_id *)context = view->members.id[0];
    return false;
}

/* Nobody is voted for any more. What its head says of promises tells from now on whose job it was: where that home is
 * lost, we tell of it in its place. */
static void note_home(struct node *node, struct copy *copy)
{
    const struct mesh_id nobody = {0};
    if (memcmp(&copy->home, &nobody, sizeof nobody) == 0 &&
        copy->last_epoch == 1) /* of the END before a restart */
        copies_read(node, &copy->job, 1, first_home, &copy->home);
    if (memcmp(&copy->home, &nobody, sizeof nobody) == 0 || copy->promised > copy->last_epoch)
        return;
    copy->promised = copy->last_epoch;
    copy->voted = copy->home;
}

void copies_on_over(struct node *node, const struct mesh_id *job, bool whole)
{
    struct copy *copy = copies_find(node, job);
    if (!copy)
        return;
    copy->over = true;
    copy->whole = whole;
    log_debug("journal", "job=%s journal=over whole=%s", peer_name(node, job), whole ? "yes" : "no");
    if (!copy->ended_at_ms)
        copy->ended_at_ms = clock_wall_ms();
    note_home(node, copy);
    copies_members(node, copy); /* before the entries go */
    struct store_batch *batch = node_batch(node);
    copies_put_head(batch, copy);
    const struct job *held = jobs_find(node, job);
    const bool ours = held && held->state != JOB_PREPARING;
    if (whole && copy->end && copy->end_state != MESH_JOB_DONE && !ours)
        jobs_put_ended(node, batch, copy);
    node_commit(node, batch, NULL, NULL);
    /* As its home we have the outputs. As a member we keep what they are made of, in case the home is lost. */
    if (!jobs_on_over(node, job) && (!whole || copy->end_state != MESH_JOB_DONE))
        copies_sweep(node, job, true);
    if (!whole && !ours)
        resync_want(node);
}

void copies_adopt(struct node *node, const struct copy *told)
{
    struct copy *copy = copies_find(node, &told->job);
    if (!copy)
        copy = copies_make(node, &told->job);
    struct copy *const chain = copy->chain;
    const uint32_t sweeps = copy->sweeps;
    const int64_t hand_at_ms = copy->hand_at_ms;
    *copy = *told;
    copy->chain = chain;
    copy->sweeps = sweeps;
    copy->hand_at_ms = hand_at_ms;
}

/* Copies of jobs whose home is another node go after the same time as its own row of them. */
void copies_prune(struct node *node, int64_t before_ms)
{
    uint32_t removed = 0;
    for (uint32_t b = 0; b < JOBS_BUCKETS && removed < 256; b++) {
        for (struct copy *copy = node->copies.bucket[b], *next; copy; copy = next) {
            next = copy->chain;
            if (!copy->over || copy->ended_at_ms >= before_ms || jobs_find(node, &copy->job))
                continue;
            const struct mesh_id job = copy->job;
            copies_forget(node, &job);
            removed++;
        }
    }
}

void copies_close(struct node *node)
{
    copies_append_close(node);
    for (uint32_t b = 0; b < JOBS_BUCKETS; b++)
        while (node->copies.bucket[b])
            copies_take_out(node, node->copies.bucket[b]);
}

/* ---- Checking a stopped node's disk */

struct present {
    struct store *store;
    bool all;
};

static void look_for(void *context, const uint8_t blob[32], const struct digest *pin)
{
    (void)pin;
    struct present *const present = context;
    struct store_blob_info info;
    present->all = present->all && store_blob_stat(present->store, blob, &info) == STORE_OK;
}

const char *copies_entry_fault(struct store *store, const struct mesh_id *job,
                               const struct copies_entry_view *entry)
{
    struct present present = {.store = store, .all = true};
    if (!copies_each_blob(job, entry->kind, entry->bytes, entry->count, look_for, &present))
        return "an entry makes no sense, or names a kernel that this build lacks";
    return present.all ? NULL
                       : "a blob that an entry names is missing; its node fetches it from the other members";
}
