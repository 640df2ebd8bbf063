/*
 * Aligned tables for people: cells are collected row by row, then printed with two spaces between columns,
 * at most `width` wide. What does not fit is cut in the columns that allow it, always in the widest, and
 * marked with an ellipsis; a last column of prose goes on below itself instead. Widths count characters as a
 * terminal shows them, not bytes.
 *
 *     static const struct table_column columns[] = {{"NAME"}, {"FREE", .right = true}};
 *     struct table *table = table_open(columns, 2);
 *     table_cell(table, "%s", name);
 *     table_colour(table, TABLE_RED); // of the cell before
 *     table_cell(table, "%d", free);  // the row is full: the next cell begins the next row
 *     table_print(table, stdout);
 *     table_close(table);
 */
#ifndef NODE_CLI_TABLE_H
#define NODE_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 24

struct table_column {
    const char *title;
    bool right; /* numbers */
    bool cut;   /* may be shortened, down to its title's width */
    bool wrap;  /* the last column only: goes on in lines of its own, broken between words */
};

enum table_colour { TABLE_PLAIN, TABLE_RED, TABLE_YELLOW, TABLE_GREEN, TABLE_DIM, TABLE_BOLD };

struct table;

/* Columns are borrowed until table_close. Aborts when out of memory, as does table_cell. */
struct table *table_open(const struct table_column *columns, int count);
void table_close(struct table *table);

/* Control characters become '?'. */
__attribute__((format(printf, 2, 3))) void table_cell(struct table *table, const char *format, ...);
/* Both are of the cell before. The mark stands right behind the text, also where that is cut. */
void table_colour(struct table *table, enum table_colour colour);
void table_mark(struct table *table, char mark);

int table_rows(const struct table *table);
/* To a terminal: cut to its width, in colour unless NO_COLOR is set. To anything else: neither. */
void table_print(const struct table *table, FILE *out);
/* For listings of many columns (-o wide): rows that the terminal is too narrow for become blocks of TITLE and
 * value instead, filled up to its width and never broken inside a value that fits a line. */
void table_print_wide(const struct table *table, FILE *out);
void table_print_wide_as(const struct table *table, FILE *out, int width, bool colour);
/* table_print with a given width (0 = unbounded) and colour; for tests. */
void table_print_as(const struct table *table, FILE *out, int width, bool colour);

/* Writes `text` in this colour if `out` is a terminal that wants colour. */
void table_write(FILE *out, enum table_colour colour, const char *text);

#endif
