/*
 * Other processes of this machine: what the kernel tells of one, and ending a child.
 */
#ifndef NODE_PROCESS_H
#define NODE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define PROCESS_STAT_BYTES 1024

/*
 * Reads /proc/PID/stat into `text` and returns what follows the name, which may hold anything: " S 1 ...", field 3 of
 * proc(5) and on. NULL if there is no such process.
 */
const char *process_stat(pid_t pid, char text[PROCESS_STAT_BYTES]);
/* Kills a child and takes it in. One that hangs in a driver for longer than 0.2 s is left to init. */
void process_end(pid_t pid);

/* Gives up power over the machine (CAP_SYS_ADMIN) that was lent to a process which is not root's, for itself and all that it will
 * start. On the one thread of a process that has no other yet. */
void process_give_up_power(void);

#endif
