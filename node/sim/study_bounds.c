/* Bounds on figures, from the command line: with them a study can fail a test. */
#include "node/sim/study.h"

#include <stdio.h>
#include <string.h>

#define DECIMALS_MAX 6
#define WHOLE_MAX INT64_C(1000000000000)

/* Reads a number such as 12 or 0.25, in millionths. */
static bool read_limit(const char *text, int64_t *millionths)
{
    int64_t value = 0;
    uint32_t digits = 0;
    for (; *text >= '0' && *text <= '9' && value < WHOLE_MAX; text++, digits++) {
        value = value * 10 + (*text - '0');
    }
    const bool point = *text == '.';
    text += point;
    uint32_t decimals = 0;
    for (; decimals < DECIMALS_MAX; decimals++) {
        const bool digit = point && *text >= '0' && *text <= '9';
        value = value * 10 + (digit ? *text - '0' : 0);
        digits += digit;
        text += digit;
    }
    *millionths = value;
    return *text == 0 && digits > 0;
}

static bool read_bound(struct study_bound *bound, const char *text, size_t length)
{
    const char *const equals = memchr(text, '=', length);
    const size_t name = equals != NULL ? (size_t)(equals - text) : 0;
    if (name == 0 || name >= sizeof bound->figure || length - name - 1 >= sizeof bound->limit) {
        return false;
    }
    memcpy(bound->figure, text, name);
    bound->figure[name] = 0;
    memcpy(bound->limit, equals + 1, length - name - 1);
    bound->limit[length - name - 1] = 0;
    return read_limit(bound->limit, &bound->millionths);
}

bool study_bounds_read(struct study_bounds *bounds, const char *text, bool least)
{
    for (;; text++) {
        const size_t length = strcspn(text, ",");
        if (bounds->count == STUDY_BOUNDS_MAX) {
            return false;
        }
        struct study_bound *const bound = &bounds->bound[bounds->count++];
        *bound = (struct study_bound){.least = least};
        if (!read_bound(bound, text, length)) {
            return false;
        }
        text += length;
        if (*text == 0) {
            return true;
        }
    }
}

static int64_t in_millionths(const struct study_figure *figure)
{
    int64_t value = figure->value;
    for (uint32_t i = figure->decimals; i < DECIMALS_MAX; i++) {
        value *= 10;
    }
    return value;
}

bool study_bounds_hold(struct study_bounds *bounds, const char *study, const struct study_report *report)
{
    bool hold = true;
    for (uint32_t i = 0; i < bounds->count; i++) {
        struct study_bound *const bound = &bounds->bound[i];
        for (uint32_t j = 0; j < report->count; j++) {
            if (strcmp(report->figure[j].name, bound->figure) != 0) {
                continue;
            }
            const int64_t value = in_millionths(&report->figure[j]);
            bound->stated = true;
            if (bound->least ? value < bound->millionths : value > bound->millionths) {
                char text[STUDY_VALUE_BYTES];
                study_value_text(&report->figure[j], text);
                fprintf(stderr, "weir: sim: study %s: %s is %s, and must be at %s %s\n", study, bound->figure,
                        text, bound->least ? "least" : "most", bound->limit);
                hold = false;
            }
        }
    }
    return hold;
}

bool study_bounds_stated(const struct study_bounds *bounds)
{
    bool all = true;
    for (uint32_t i = 0; i < bounds->count; i++) {
        if (!bounds->bound[i].stated) {
            fprintf(stderr, "weir: sim: no study that ran states a figure %s\n", bounds->bound[i].figure);
            all = false;
        }
    }
    return all;
}
