#include "node/cli/table.h"

#include "node/cli/cli.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GAP 2

struct cell {
    char *text;
    enum table_colour colour;
    char mark; /* 0 = none */
};

struct table {
    const struct table_column *columns;
    int column_count;
    struct cell *cells;
    size_t count;
    size_t capacity;
};

struct table *table_open(const struct table_column *columns, int count)
{
    assert(count > 0 && count <= TABLE_COLUMNS_MAX);
    for (int c = 0; c < count - 1; c++)
        assert(!columns[c].wrap);
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        abort();
    *table = (struct table){.columns = columns, .column_count = count};
    return table;
}

void table_close(struct table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i].text);
    free(table->cells);
    free(table);
}

void table_cell(struct table *table, const char *format, ...)
{
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? 2 * table->capacity : 64;
        table->cells = realloc(table->cells, table->capacity * sizeof *table->cells);
        if (!table->cells)
            abort();
    }
    struct cell *cell = &table->cells[table->count++];
    *cell = (struct cell){0};
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&cell->text, format, arguments) < 0)
        abort();
    va_end(arguments);
    for (unsigned char *c = (unsigned char *)cell->text; *c; c++) {
        const bool second = c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0; /* U+0080 to U+009F */
        if (*c < 0x20 || *c == 0x7f || second)
            *c = '?';
        if (second)
            *++c = '?';
    }
}

void table_colour(struct table *table, enum table_colour colour)
{
    assert(table->count > 0);
    table->cells[table->count - 1].colour = colour;
}

void table_mark(struct table *table, char mark)
{
    assert(table->count > 0);
    table->cells[table->count - 1].mark = mark;
}

int table_rows(const struct table *table)
{
    return (int)(table->count / (size_t)table->column_count);
}

/* ---- Printing */

/* Characters on a terminal: bytes that do not continue a UTF-8 sequence. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static int width_of_cell(const struct cell *cell)
{
    return width_of(cell->text) + (cell->mark != 0);
}

static size_t bytes_of(const char *text, int width)
{
    size_t at = 0;
    while (text[at] && (width > 0 || ((unsigned char)text[at] & 0xc0) == 0x80)) {
        width -= ((unsigned char)text[at] & 0xc0) != 0x80;
        at++;
        if (width == 0 && ((unsigned char)text[at] & 0xc0) != 0x80)
            break;
    }
    return at;
}

static const char *code_of(enum table_colour colour)
{
    static const char *const codes[] = {"", "\033[31m", "\033[33m", "\033[32m", "\033[2m", "\033[1m"};
    return codes[colour];
}

static void print_cell(FILE *out, const struct table_column *column, const struct cell *cell, int width,
                       bool last, bool colour)
{
    const int natural = width_of_cell(cell);
    const bool cut = natural > width;
    const int room = width - 1 - (cell->mark != 0); /* beside the ellipsis */
    const size_t bytes = cut ? bytes_of(cell->text, room > 0 ? room : 0) : strlen(cell->text);
    const int pad = cut ? 0 : width - natural;
    if (column->right)
        fprintf(out, "%*s", pad, "");
    if (colour && cell->colour != TABLE_PLAIN)
        fputs(code_of(cell->colour), out);
    fwrite(cell->text, 1, bytes, out);
    if (cut)
        fputs("…", out);
    if (cell->mark)
        fputc(cell->mark, out);
    if (colour && cell->colour != TABLE_PLAIN)
        fputs("\033[0m", out);
    if (!last)
        fprintf(out, "%*s", GAP + (column->right ? 0 : pad), "");
}

/* How many bytes of `text` make a line: as many words as fit, or a piece of one that never will. */
static size_t line_of(const char *text, int width)
{
    const size_t most = bytes_of(text, width);
    size_t end = most;
    while (end > 0 && text[end] && text[end] != ' ')
        end--;
    return end > 0 ? end : most;
}

/* The last cell of a row, from where the row stands now; further lines begin `indent` blanks in. */
static void print_wrapped(FILE *out, const struct cell *cell, int width, int indent, bool colour)
{
    for (const char *at = cell->text;;) {
        const size_t bytes = line_of(at, width);
        fprintf(out, "%s%.*s%s", colour ? code_of(cell->colour) : "", (int)bytes, at,
                colour && cell->colour != TABLE_PLAIN ? "\033[0m" : "");
        at += bytes;
        while (*at == ' ')
            at++;
        if (!*at)
            return;
        fprintf(out, "\n%*s", indent, "");
    }
}

/* Takes the missing room from the columns that may be cut, always from the widest (of equals, the last). None
 * gets narrower than its title. */
static void fit(const struct table *table, int widths[TABLE_COLUMNS_MAX], int room)
{
    int all = GAP * (table->column_count - 1);
    for (int c = 0; c < table->column_count; c++)
        all += widths[c];
    for (; all > room; all--) {
        int widest = -1;
        for (int c = 0; c < table->column_count; c++)
            if ((table->columns[c].cut || table->columns[c].wrap) &&
                widths[c] > width_of(table->columns[c].title) && (widest < 0 || widths[c] >= widths[widest]))
                widest = c;
        if (widest < 0)
            return;
        widths[widest]--;
    }
}

/* Behind the last cell with text nothing is printed, not even blanks. */
static int last_of(const struct cell *cells, int count)
{
    while (count > 1 && !cells[count - 1].text[0])
        count--;
    return count - 1;
}

void table_print_as(const struct table *table, FILE *out, int width, bool colour)
{
    int widths[TABLE_COLUMNS_MAX];
    for (int c = 0; c < table->column_count; c++)
        widths[c] = width_of(table->columns[c].title);
    for (size_t i = 0; i < table->count; i++) {
        const int natural = width_of_cell(&table->cells[i]);
        int *column = &widths[i % (size_t)table->column_count];
        *column = natural > *column ? natural : *column;
    }
    if (width > 0)
        fit(table, widths, width);
    for (int row = -1; row < table_rows(table); row++) {
        const struct cell *cells = row < 0 ? NULL : &table->cells[row * table->column_count];
        const int last = row < 0 ? table->column_count - 1 : last_of(cells, table->column_count);
        for (int c = 0, indent = 0; c <= last; indent += widths[c++] + GAP) {
            const struct cell title = {.text = (char *)(uintptr_t)table->columns[c].title,
                                       .colour = TABLE_BOLD};
            const struct cell *cell = row < 0 ? &title : &cells[c];
            if (table->columns[c].wrap)
                print_wrapped(out, cell, widths[c], indent, colour);
            else
                print_cell(out, &table->columns[c], cell, widths[c], c == last, colour);
        }
        fputc('\n', out);
    }
}

static int natural_width(const struct table *table)
{
    int all = GAP * (table->column_count - 1);
    for (int c = 0; c < table->column_count; c++) {
        int widest = width_of(table->columns[c].title);
        for (size_t i = (size_t)c; i < table->count; i += (size_t)table->column_count) {
            const int natural = width_of_cell(&table->cells[i]);
            widest = natural > widest ? natural : widest;
        }
        all += widest;
    }
    return all;
}

/* One row as a block: the first cell, then pairs of title and value; further lines are indented. */
static void print_block(const struct table *table, const struct cell *cells, FILE *out, int width,
                        bool colour)
{
    const int indent = 2 * GAP;
    const char *const bold = colour ? code_of(TABLE_BOLD) : "", *const plain = colour ? "\033[0m" : "";
    print_cell(out, &(struct table_column){0}, &cells[0], width_of_cell(&cells[0]), true, colour);
    int at = width_of_cell(&cells[0]);
    for (int c = 1; c < table->column_count; c++) {
        if (!cells[c].text[0])
            continue;
        const int title = width_of(table->columns[c].title) + 1, value = width_of_cell(&cells[c]);
        if (at + GAP + title + value > width) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else {
            at += fprintf(out, "%*s", GAP, "");
        }
        fprintf(out, "%s%s%s ", bold, table->columns[c].title, plain);
        at += title + value;
        if (at <= width || width - indent - title < 1)
            print_cell(out, &(struct table_column){0}, &cells[c], value, true, colour);
        else
            print_wrapped(out, &cells[c], width - indent - title, indent + title, colour);
    }
    fputc('\n', out);
}

void table_print_wide_as(const struct table *table, FILE *out, int width, bool colour)
{
    if (width == 0 || natural_width(table) <= width) {
        table_print_as(table, out, 0, colour);
        return;
    }
    for (int row = 0; row < table_rows(table); row++)
        print_block(table, &table->cells[row * table->column_count], out, width, colour);
}

void table_print_wide(const struct table *table, FILE *out)
{
    const bool terminal = isatty(fileno(out));
    table_print_wide_as(table, out, terminal ? cli_columns(fileno(out)) : 0, cli_colour(fileno(out)));
}

void table_print(const struct table *table, FILE *out)
{
    const bool terminal = isatty(fileno(out));
    table_print_as(table, out, terminal ? cli_columns(fileno(out)) : 0, cli_colour(fileno(out)));
}

void table_write(FILE *out, enum table_colour colour, const char *text)
{
    const bool wanted = cli_colour(fileno(out)) && colour != TABLE_PLAIN;
    fprintf(out, "%s%s%s", wanted ? code_of(colour) : "", text, wanted ? "\033[0m" : "");
}
