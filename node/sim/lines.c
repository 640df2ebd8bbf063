/* Files of lines, and what is said of mistakes in them: scenarios and scripts. */
#include "node/sim/world.h"

#include <errno.h>
#include <stdio.h>

void sim_make_printable(char *text)
{
    for (; *text != 0; text++) {
        *text = *text >= ' ' && *text <= '~' ? *text : '?';
    }
}

bool sim_mistake(struct sim_result *failure, const char *path, uint32_t line, const char *what,
                 const char *word)
{
    char copy[SIM_LINE_BYTES];
    snprintf(copy, sizeof copy, "%s", word);
    sim_make_printable(copy);
    snprintf(failure->failure, sizeof failure->failure, "weir: sim: %s:%u: %s '%s'\n", path, line, what,
             copy);
    return false;
}

static bool unreadable(const char *path, const char *what, struct sim_result *failure)
{
    snprintf(failure->failure, sizeof failure->failure, "weir: sim: cannot read the %s %s: %s\n", what, path,
             strerror(errno));
    return false;
}

bool sim_read_lines(const char *path, const char *what, struct sim_result *failure,
                    bool (*read_line)(void *context, char *text, uint32_t number), void *context)
{
    FILE *const file = fopen(path, "r");
    if (file == NULL) {
        return unreadable(path, what, failure);
    }
    char text[SIM_LINE_BYTES];
    bool fine = true;
    for (uint32_t number = 1; fine && fgets(text, sizeof text, file) != NULL; number++) {
        if (strlen(text) + 1 == sizeof text && text[sizeof text - 2] != '\n') {
            text[20] = 0;
            fine = sim_mistake(failure, path, number, "too long a line, at", text);
        } else {
            fine = read_line(context, text, number);
        }
    }
    if (fine && ferror(file)) {
        fine = unreadable(path, what, failure);
    }
    fclose(file);
    return fine;
}
