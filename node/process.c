#include "node/process.h"

#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const char *process_stat(pid_t pid, char text[PROCESS_STAT_BYTES])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return NULL;
    const size_t bytes = fread(text, 1, PROCESS_STAT_BYTES - 1, file);
    fclose(file);
    text[bytes] = '\0';
    const char *const behind_name = strrchr(text, ')');
    return behind_name ? behind_name + 1 : NULL;
}

void process_end(pid_t pid)
{
    kill(pid, SIGKILL);
    for (int i = 0; i < 200 && waitpid(pid, NULL, WNOHANG) == 0; i++)
        usleep(1000);
}

void process_give_up_power(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (geteuid() == 0 || syscall(SYS_capget, &head, data) != 0)
        return;
    const uint32_t kept = ~(1u << CAP_SYS_ADMIN);
    data[0].effective &= kept;
    data[0].permitted &= kept;
    data[0].inheritable &= kept; /* and with it the ambient one */
    syscall(SYS_capset, &head, data);
}
