/*
 * What the commands init, join, invite and key do alike: where the data folder is, what a node is called, and
 * how to end when something is wrong.
 */
#ifndef NODE_CLI_MEMBER_H
#define NODE_CLI_MEMBER_H

#include "node/cli/cli.h"
#include "node/federation.h"

#define MEMBER_DATA                                                                                          \
    {'d', "data", "DIR", "where its keys and data live (/var/lib/weir)"},                                    \
    {                                                                                                        \
        'c', "config", "FILE", "what names the folder (/etc/weir/weir.conf)"                                 \
    }

/* The data folder: --data if given, else the one that the config file names (--config, or the default one).
 * Prints what is wrong and returns an exit code; EXIT_DONE is success. */
int member_data(const struct cli *cli, char *path, size_t path_bytes);
/* A span of time; prints what is wrong and returns false otherwise. Unset: leaves *seconds. */
bool member_span(const struct cli *cli, const char *option, int64_t *seconds);
/* This machine's host name as a node's name: lower case, up to the first dot. */
void member_name(char name[NAME_BYTES_MAX + 1]);
/* Prints "weir: ..." and returns the exit code that belongs to it. */
int member_fail(const struct federation_failure *failure);
/* "2026-03-01 12:00" in local time. */
#define MEMBER_TIME_BYTES 24
const char *member_time(int64_t seconds, char text[MEMBER_TIME_BYTES]);

#endif
