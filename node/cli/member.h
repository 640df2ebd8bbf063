/*
 * What the commands init, join, invite, revoke and key do alike: where the data folder is, what a node is
 * called, and how to end when something is wrong. They parse their own options, with getopt_long.
 */
#ifndef NODE_CLI_MEMBER_H
#define NODE_CLI_MEMBER_H

#include "node/api.h"
#include "node/federation.h"

#include <jansson.h>

int cli_init(int argc, char **argv);
int cli_join(int argc, char **argv);
int cli_invite(int argc, char **argv);
int cli_revoke(int argc, char **argv);
int cli_key(int argc, char **argv);

/* The data folder: `data` if given, else the one that the config file names (`config`, or the default one).
 * Prints what is wrong and returns an exit code; EXIT_DONE is success. */
int member_data(const char *data, const char *config, char *path, size_t path_bytes);
/* This machine's host name as a node's name: lower case, up to the first dot. */
void member_name(char name[NAME_BYTES_MAX + 1]);
/* Prints "weir: ..." and returns the exit code that belongs to it. */
int member_fail(const struct federation_failure *failure);
/* One call to the node's API; prints what is wrong. Takes `request`; `reply` is to be json_decref'd. */
int member_call(const char *node, json_t *request, json_t **reply);
/* "2026-03-01 12:00" in local time. */
#define MEMBER_TIME_BYTES 24
const char *member_time(int64_t seconds, char text[MEMBER_TIME_BYTES]);

#endif
