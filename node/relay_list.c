/*
 * A listing of all jobs takes them from each node page by page (node/ops_list.c): until it has told all, or as many as are
 * wanted, or of the rest none would be among the first. What is kept meanwhile is the first rows of all, and some more.
 */
#include "node/relay_internal.h"

#define PAGE_ROWS 200         /* jobs that one member tells at once */
#define OLD_LOST_MAX 64       /* and lost ones that one tells in all that knows no pages */
#define GATHERINGS_MAX 8      /* listings of all jobs at once: each may hold some 40 MiB */
#define GATHER_MS 20000       /* then without those that are still telling: a client waits 30 s */
#define GATHER_MORE_ROWS 4096 /* beyond those that are wanted, before they are put in order and cut */

static const char *row_id(const json_t *row)
{
    return json_string_value(json_object_get(row, "id"));
}

/* The unfinished first, then the newest, as one node lists its own. */
static int compare_rows(const void *a, const void *b)
{
    const json_t *const one = *(json_t *const *)a, *const other = *(json_t *const *)b;
    const int over = json_is_integer(json_object_get(one, "finished_at")),
              other_over = json_is_integer(json_object_get(other, "finished_at"));
    if (over != other_over)
        return over - other_over;
    const json_int_t at = json_integer_value(json_object_get(one, "created_at")),
                     other_at = json_integer_value(json_object_get(other, "created_at"));
    return at != other_at ? (at < other_at) - (at > other_at) : strcmp(row_id(one), row_id(other));
}

/* The first `limit` of the rows, in order. */
static void put_in_order(json_t **rows, uint32_t limit)
{
    const size_t count = json_array_size(*rows);
    const json_t **const ordered = must(calloc(count + 1, sizeof *ordered));
    for (size_t i = 0; i < count; i++)
        ordered[i] = json_array_get(*rows, i);
    qsort(ordered, count, sizeof *ordered, compare_rows);
    json_t *const first = json_array();
    for (size_t i = 0; i < count && i < limit; i++)
        json_array_append(first, (json_t *)ordered[i]);
    free(ordered);
    json_decref(*rows);
    *rows = first;
}

/*
 * What was told of before. Two homes tell of one job where another node put its outputs together anew and its home has come
 * back: it is one row, of the first, and counts once. One home tells of a job twice if it ended between two pages. Jobs
 * that were submitted twice under one key were made at different times, and stay two.
 */
static bool is_double(struct relay *relay, const json_t *row, const json_t *before)
{
    if (!before || json_integer_value(json_object_get(before, "created_at")) !=
                       json_integer_value(json_object_get(row, "created_at")))
        return false;
    if (!json_equal(json_object_get(before, "home"), json_object_get(row, "home"))) {
        relay->matching--;
        relay->total--;
    }
    return true;
}

/* Returns the rows by their ids; the caller's. */
static json_t *drop_doubles(struct relay *relay)
{
    json_t *const told = json_object(), *const once = json_array();
    size_t i;
    json_t *row;
    json_array_foreach(relay->rows, i, row)
    {
        if (is_double(relay, row, json_object_get(told, row_id(row))))
            continue;
        json_object_set(told, row_id(row), row);
        json_array_append(once, row);
    }
    json_decref(relay->rows);
    relay->rows = once;
    return told;
}

/* Those that keep a journal tell of it, each of them. */
static void drop_lost_doubles(struct relay *relay, json_t *told)
{
    json_t *const once = json_array();
    size_t i;
    json_t *row;
    json_array_foreach(relay->lost, i, row)
    {
        if (json_object_get(told, row_id(row)))
            continue;
        json_object_set(told, row_id(row), row);
        json_array_append(once, row);
    }
    json_decref(relay->lost);
    relay->lost = once;
}

/* Of a job that its home told of nothing else is said, and of others once. */
static void add_lost(struct relay *relay)
{
    json_t *const told = drop_doubles(relay);
    drop_lost_doubles(relay, told);
    json_decref(told);
    relay->matching += (int64_t)json_array_size(relay->lost);
    relay->total += (int64_t)json_array_size(relay->lost);
    json_array_extend(relay->rows, relay->lost);
}

/* So that no more is held than is wanted, and some: whatever is cut comes after what is. */
static void cut_rows(struct relay *relay)
{
    if (json_array_size(relay->rows) > relay->limit + GATHER_MORE_ROWS) {
        json_decref(drop_doubles(relay));
        put_in_order(&relay->rows, relay->limit);
        json_decref(relay->bar);
        relay->bar = json_incref(json_array_get(relay->rows, relay->limit - 1)); /* NULL: fewer are left */
    }
    if (json_array_size(relay->lost) > relay->limit + GATHER_MORE_ROWS) {
        json_t *const told = json_object();
        drop_lost_doubles(relay, told);
        json_decref(told);
        relay->more = relay->more || json_array_size(relay->lost) > relay->limit;
        put_in_order(&relay->lost, relay->limit);
    }
}

/* `left_out` is how many are known to match and not listed: at least one if some node was not asked for all it has. */
void gather_end(struct node *node, struct relay *relay)
{
    struct api_call *call = relay->call;
    add_lost(relay);
    put_in_order(&relay->rows, relay->limit);
    const json_int_t left_out = (json_int_t)relay->matching - (json_int_t)json_array_size(relay->rows);
    json_t *reply = json_pack("{s:O, s:I, s:I, s:I, s:I}", "jobs", relay->rows, "matching",
                              (json_int_t)relay->matching, "total", (json_int_t)relay->total, "left_out",
                              left_out > 0  ? left_out
                              : relay->more ? (json_int_t)1
                                            : (json_int_t)0,
                              "silent", (json_int_t)relay->silent);
    relay_free(node, relay);
    api_reply(call, reply);
}

/* Appends those that have an id; returns how many. */
static uint32_t append_rows(json_t *to, const json_t *rows)
{
    size_t i;
    json_t *row;
    uint32_t count = 0;
    json_array_foreach(rows, i, row)
    {
        if (row_id(row)) {
            json_array_append(to, row);
            count++;
        }
    }
    return count;
}

static void take_rows(struct relay *relay, const json_t *answer, struct teller *teller)
{
    if (teller->rows == 0 && teller->lost == 0) { /* later pages say it again */
        relay->total += json_integer_value(json_object_get(answer, "total"));
        relay->matching += json_integer_value(json_object_get(answer, "matching"));
    }
    teller->rows += append_rows(relay->rows, json_object_get(answer, "jobs"));
    teller->lost += append_rows(relay->lost, json_object_get(answer, "lost"));
    cut_rows(relay);
}

/* The place from which a member is to tell on; NULL: it has told enough. The caller's. */
static json_t *next_page(struct relay *relay, const struct teller *teller, const json_t *answer)
{
    const json_t *const rows = json_object_get(answer, "jobs"), *const lost = json_object_get(answer, "lost");
    const json_t *const last = json_array_get(rows, json_array_size(rows) - 1);
    json_t *const next = json_copy(json_object_get(answer, "next"));
    if (!json_object_get(answer, "next") && json_array_size(lost) >= OLD_LOST_MAX)
        relay->more = true;
    if (!json_is_object(next) || (json_array_size(rows) == 0 && json_array_size(lost) == 0)) {
        json_decref(next);
        return NULL;
    }
    const bool too_late = relay->bar && last && compare_rows(&last, &relay->bar) >= 0;
    if (teller->rows >= relay->limit || too_late)
        json_put(next, "jobs", json_true());
    if (teller->lost >= relay->limit && !json_is_true(json_object_get(next, "lost"))) {
        relay->more = true;
        json_put(next, "lost", json_true());
    }
    if (!json_is_true(json_object_get(next, "jobs")) || !json_is_true(json_object_get(next, "lost")))
        return next;
    json_decref(next);
    return NULL;
}

/* Asks for the next page, as long as there is time. Returns whether another answer is awaited. */
static bool ask_on(struct node *node, struct relay *relay, const struct teller *teller, const json_t *answer)
{
    json_t *const next = next_page(relay, teller, answer);
    const int64_t now_ms = clock_now_ms();
    if (!next)
        return false;
    json_put(relay->body, "after", next);
    const bool asked = now_ms < relay->give_up_at_ms && relay_ask(node, relay, &teller->id, relay->body);
    json_object_del(relay->body, "after");
    relay->silent += !asked;
    relay->until_ms = now_ms + WAVE_TIMEOUT_MS;
    return asked;
}

void gather_on_page(struct node *node, struct relay *relay, const struct mesh_id *from, const json_t *answer)
{
    uint32_t t = 0;
    while (t < WAVE_NODES && !(relay->teller[t].waiting && relay_same(&relay->teller[t].id, from)))
        t++;
    if (t == WAVE_NODES)
        return;
    struct teller *const teller = &relay->teller[t];
    const bool told = json_is_true(json_object_get(answer, "ok"));
    if (told)
        take_rows(relay, answer, teller);
    else
        relay->silent++;
    if (told && ask_on(node, relay, teller, answer))
        return;
    teller->waiting = false;
    relay->waiting--;
}

void relay_jobs(struct node *node, struct api_call *call, json_t *own, uint32_t limit)
{
    uint32_t gatherings = 0;
    for (const struct relay *relay = node->relays; relay; relay = relay->next)
        gatherings += relay->phase == GATHERING;
    struct relay *relay = gatherings < GATHERINGS_MAX ? relay_make(node, call, "") : NULL;
    if (!relay) {
        json_decref(own);
        if (gatherings >= GATHERINGS_MAX)
            api_error(call, EXIT_FAILED, "too many listings of all jobs at once; try again");
        return;
    }
    relay->phase = GATHERING;
    relay->give_up_at_ms = clock_now_ms() + GATHER_MS;
    relay->rows = json_array();
    relay->lost = json_array();
    relay->limit = limit;
    struct teller self = {.id = node->self};
    take_rows(relay, own, &self);
    json_decref(next_page(relay, &self, own)); /* what of ours is left out */
    json_decref(own);
    json_object_del(relay->body, "mesh");
    json_put(relay->body, "limit", json_integer(PAGE_ROWS));
    if (!relay_next_wave(node, relay))
        gather_end(node, relay);
}
