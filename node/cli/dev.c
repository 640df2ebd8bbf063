/* weir dev: a whole federation on this machine, to try things out. Every site is a real node in a process of its own. */
#include "crypto/key.h"
#include "node/cli/cli.h"
#include "node/cli/table.h"
#include "node/federation.h"
#include "node/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SITES_MAX 16
#define PATH_BYTES 512
#define READY_MS 20000
#define CONVERGED_MS 30000
#define STOP_MS 5000
#define SETTINGS_MAX 32
#define FOLDER_BYTES_MAX 90 /* a socket's path has 107, and "/nairobi/api.sock" follows */

static const char *const names[SITES_MAX] = {"ashburn", "dublin", "osaka",  "paris", "sydney",  "mumbai",
                                             "quebec",  "oslo",   "madrid", "seoul", "nairobi", "lima",
                                             "hanoi",   "tunis",  "austin", "zurich"};

struct site {
    const char *name;
    char data[PATH_BYTES];
    char socket[PATH_BYTES + 16];
    pid_t pid; /* 0 = not running */
    int ready_fd;
    json_t *ready; /* the line that the node wrote when it served */
};

struct mesh {
    char folder[PATH_BYTES];
    bool temporary;
    const struct cli *cli;
    int count;
    struct site sites[SITES_MAX];
};

/* ---- Processes */

static void child_dies_with_us(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0); /* Ctrl-C reaches us alone; we end the sites in order */
}

static int open_log(const struct site *site)
{
    char path[PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/node.log", site->data);
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/*
 * The ports that a site had when it last served are kept in its data folder: members find each other after a restart by
 * the addresses that they knew, so at least some must be where they were.
 */
struct ports {
    unsigned control;
    unsigned bulk;
    unsigned join;
};

static void ports_path(const struct site *site, char path[PATH_BYTES + 16])
{
    snprintf(path, PATH_BYTES + 16, "%s/dev-ports", site->data);
}

static bool read_ports(const struct site *site, struct ports *ports)
{
    char path[PATH_BYTES + 16];
    ports_path(site, path);
    FILE *file = fopen(path, "re");
    *ports = (struct ports){0};
    if (!file)
        return false;
    const bool read = fscanf(file, "%u %u %u", &ports->control, &ports->bulk, &ports->join) == 3;
    fclose(file);
    if (!read || ports->control > UINT16_MAX || ports->bulk > UINT16_MAX || ports->join > UINT16_MAX)
        *ports = (struct ports){0};
    return ports->control != 0;
}

static unsigned port_of(const json_t *ready, const char *socket)
{
    const char *colon = strrchr(client_text(ready, socket), ':');
    return colon ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
}

/* Best effort: without the file, the next start takes other ports. */
static void keep_ports(const struct site *site)
{
    char path[PATH_BYTES + 16];
    ports_path(site, path);
    FILE *file = fopen(path, "we");
    if (!file)
        return;
    fprintf(file, "%u %u %u\n", port_of(site->ready, "control"), port_of(site->ready, "bulk"),
            port_of(site->ready, "join"));
    fclose(file);
}

static int start_node(struct mesh *mesh, struct site *site, const struct ports *ports)
{
    char api[PATH_BYTES + 32], fd_text[16], control[48], bulk[48], join_port[48], slots[48];
    cpu_set_t cores;
    int pipe_fds[2];
    if (pipe(pipe_fds) != 0)
        return cli_fail(EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
    fcntl(pipe_fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(api, sizeof api, "api.socket=%s", site->socket);
    snprintf(fd_text, sizeof fd_text, "%d", pipe_fds[1]);
    snprintf(control, sizeof control, "network.control_port=%u", ports->control);
    snprintf(bulk, sizeof bulk, "network.bulk_port=%u", ports->bulk);
    snprintf(join_port, sizeof join_port, "network.join_port=%u", ports->join);
    /* Said outright: each site of this mesh would take the work of the others for that of the machine's owner. */
    snprintf(slots, sizeof slots, "work.cpu_slots=%d",
             sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1);
    const char *arguments[24 + 2 * SETTINGS_MAX] = {
        "weir",    "node",  "--data",      site->data, "--ready-fd",
        fd_text,   "--set", api,           "--set",    "network.bind=127.0.0.1",
        "--set",   control, "--set",       bulk,       "--set",
        join_port, "--set", "http.port=0", "--set",    slots};
    int count = 20;
    const char *setting;
    for (int i = 0; i < SETTINGS_MAX && (setting = cli_value_at(mesh->cli, "set", i)); i++) {
        arguments[count++] = "--set";
        arguments[count++] = setting;
    }
    const pid_t parent = getpid();
    site->pid = fork();
    if (site->pid == 0) {
        child_dies_with_us(parent);
        const int log = open_log(site);
        dup2(log, STDERR_FILENO);
        dup2(log, STDOUT_FILENO);
        execv("/proc/self/exe", (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    close(pipe_fds[1]);
    site->ready_fd = pipe_fds[0];
    return site->pid > 0 ? EXIT_DONE : cli_fail(EXIT_FAILED, "cannot start a process: %s", strerror(errno));
}

/* A log that is removed with the rest is not named. */
static int say_why(const struct mesh *mesh, const struct site *site)
{
    char path[PATH_BYTES + 16], line[600], last[600] = "it said nothing";
    snprintf(path, sizeof path, "%s/node.log", site->data);
    FILE *log = fopen(path, "re");
    while (log && fgets(line, sizeof line, log))
        snprintf(last, sizeof last, "%s", line);
    if (log)
        fclose(log);
    last[strcspn(last, "\n")] = '\0';
    return cli_fail(EXIT_FAILED, "site %s did not start: %s%s%s%s", site->name, last,
                    mesh->temporary ? "" : " (see ", mesh->temporary ? "" : path, mesh->temporary ? "" : ")");
}

/* Afterwards site->ready is NULL if the node did not come to serve. */
static int wait_ready(struct site *site)
{
    char line[2048];
    size_t count = 0;
    const int64_t until_ms = clock_now_ms() + READY_MS;
    fcntl(site->ready_fd, F_SETFL, O_NONBLOCK);
    while (clock_now_ms() < until_ms && count < sizeof line - 1) {
        const ssize_t got = read(site->ready_fd, line + count, sizeof line - 1 - count);
        if (got > 0)
            count += (size_t)got;
        else if (got == 0)
            break;
        else if (cli_sleep_ms(10))
            return EXIT_INTERRUPTED;
        if (count > 0 && line[count - 1] == '\n')
            break;
    }
    close(site->ready_fd);
    line[count] = '\0';
    site->ready = json_loads(line, 0, NULL);
    return EXIT_DONE;
}

static int start_and_wait(struct mesh *mesh, struct site *site, const struct ports *ports)
{
    const int code = start_node(mesh, site, ports);
    return code == EXIT_DONE ? wait_ready(site) : code;
}

static int serve(struct mesh *mesh, struct site *site)
{
    struct ports ports;
    const bool kept = read_ports(site, &ports);
    int code = start_and_wait(mesh, site, &ports);
    if (code == EXIT_DONE && !site->ready && kept) { /* somebody else may have them by now */
        kill(site->pid, SIGKILL);
        waitpid(site->pid, NULL, 0);
        code = start_and_wait(mesh, site, &(const struct ports){0});
    }
    if (code == EXIT_DONE && !site->ready)
        code = say_why(mesh, site);
    if (code == EXIT_DONE)
        keep_ports(site);
    return code;
}

/* ---- Membership */

static bool is_member(const struct site *site)
{
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/federation/chain", site->data);
    return access(path, F_OK) == 0;
}

static int found(const struct site *site)
{
    const struct federation_new fields = {.federation = "dev", .site = site->name, .node = site->name};
    struct federation_failure failure;
    if (federation_init(site->data, &fields, clock_wall_ms() / 1000, &failure) == FEDERATION_OK)
        return EXIT_DONE;
    return cli_fail(EXIT_FAILED, "%s", failure.text);
}

static int invite(const struct mesh *mesh, const char *site, json_t **reply)
{
    struct client *client;
    struct client_failure failure;
    enum exit_code code = client_open(&client, mesh->sites[0].socket, &failure);
    if (code == EXIT_DONE) {
        code = client_call(client, json_pack("{s:s, s:s}", "op", "invite.create", "site", site), reply,
                           &failure);
        client_close(client);
    }
    return code == EXIT_DONE ? EXIT_DONE : cli_fail(code, "%s", failure.text);
}

/* Runs `weir join` as an operator would, with the token on its standard input. */
static int join(const struct mesh *mesh, const struct site *site)
{
    json_t *reply = NULL;
    const int invited = invite(mesh, site->name, &reply);
    if (invited != EXIT_DONE)
        return invited;
    int pipe_fds[2];
    if (pipe(pipe_fds) != 0)
        return cli_fail(EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
        child_dies_with_us(parent);
        dup2(pipe_fds[0], STDIN_FILENO);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        const int nothing = open("/dev/null", O_WRONLY);
        dup2(nothing, STDOUT_FILENO);
        if (!cli_has(mesh->cli, "verbose"))
            dup2(nothing, STDERR_FILENO);
        execl("/proc/self/exe", "weir", "join", "--token-file", "-", "--data", site->data, "--name",
              site->name, NULL);
        _exit(127);
    }
    close(pipe_fds[0]);
    const char *token = client_text(reply, "token");
    const bool written = write(pipe_fds[1], token, strlen(token)) == (ssize_t)strlen(token);
    close(pipe_fds[1]);
    json_decref(reply);
    int status = 0;
    waitpid(pid, &status, 0);
    if (written && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return EXIT_DONE;
    return cli_fail(EXIT_FAILED, "site %s could not join; run again with --verbose to see why", site->name);
}

static int start_all(struct mesh *mesh)
{
    for (int i = 0; i < mesh->count; i++) {
        struct site *site = &mesh->sites[i];
        int code = EXIT_DONE;
        if (!is_member(site))
            code = i == 0 ? found(site) : join(mesh, site);
        if (code == EXIT_DONE)
            code = serve(mesh, site);
        if (code != EXIT_DONE)
            return code;
    }
    return EXIT_DONE;
}

/* Whether the node of this site sees every site up and knows what each can run. */
static bool sees_all(const struct mesh *mesh, const struct site *site)
{
    struct client *client;
    struct client_failure failure;
    json_t *reply = NULL;
    if (client_open(&client, site->socket, &failure) != EXIT_DONE)
        return false;
    const bool answered =
        client_call(client, json_pack("{s:s}", "op", "nodes"), &reply, &failure) == EXIT_DONE;
    client_close(client);
    int up = 0;
    size_t i;
    const json_t *node;
    json_array_foreach(client_member(reply, "nodes"), i, node)
    {
        up += strcmp(client_text(node, "state"), "up") == 0 &&
              !json_is_null(json_object_get(node, "capacity_age_ms"));
    }
    json_decref(reply);
    return answered && up >= mesh->count;
}

static int wait_converged(const struct mesh *mesh)
{
    const int64_t until_ms = clock_now_ms() + CONVERGED_MS;
    for (int i = 0; i < mesh->count;) {
        if (sees_all(mesh, &mesh->sites[i])) {
            i++;
            continue;
        }
        if (clock_now_ms() > until_ms)
            return cli_fail(EXIT_PARTIAL, "site %s does not see all the others after %d s; see %s/node.log",
                            mesh->sites[i].name, CONVERGED_MS / 1000, mesh->sites[i].data);
        if (cli_sleep_ms(50))
            return EXIT_INTERRUPTED;
    }
    return EXIT_DONE;
}

/* ---- The end */

static void stop_all(struct mesh *mesh)
{
    for (int i = 0; i < mesh->count; i++)
        if (mesh->sites[i].pid > 0)
            kill(mesh->sites[i].pid, SIGTERM);
    const int64_t kill_at_ms = clock_now_ms() + STOP_MS;
    for (int i = 0; i < mesh->count; i++) {
        struct site *site = &mesh->sites[i];
        while (site->pid > 0 && waitpid(site->pid, NULL, WNOHANG) == 0) {
            if (clock_now_ms() >= kill_at_ms)
                kill(site->pid, SIGKILL);
            usleep(10000);
        }
        json_decref(site->ready);
    }
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

/* ---- What the user sees */

static void show_json(const struct mesh *mesh)
{
    json_t *sites = json_array();
    for (int i = 0; i < mesh->count; i++) {
        const struct site *site = &mesh->sites[i];
        json_array_append_new(
            sites, json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i}", "name", site->name, "site", site->name,
                             "id", client_text(site->ready, "id"), "socket", site->socket, "data", site->data,
                             "pid", (int)site->pid, "http", (int)client_number(site->ready, "http")));
    }
    json_t *all = json_pack("{s:o, s:s}", "sites", sites, "folder", mesh->folder);
    cli_print_json(all);
    fflush(stdout);
    json_decref(all);
}

static void show_table(const struct mesh *mesh)
{
    static const struct table_column columns[] = {{.title = "SITE"},
                                                  {.title = "NODE"},
                                                  {.title = "PID", .right = true},
                                                  {.title = "METRICS"},
                                                  {.title = "SOCKET"}};
    struct table *table = table_open(columns, 5);
    for (int i = 0; i < mesh->count; i++) {
        const struct site *site = &mesh->sites[i];
        table_cell(table, "%s", site->name);
        table_cell(table, "%.8s", client_text(site->ready, "id"));
        table_cell(table, "%d", (int)site->pid);
        table_cell(table, "127.0.0.1:%d", (int)client_number(site->ready, "http"));
        table_cell(table, "%s", site->socket);
    }
    table_print(table, stdout);
    table_close(table);
    printf("\n%d sites are up. In another terminal:\n\n    export WEIR_NODE=%s\n    weir nodes\n\n"
           "Ctrl-C here stops them%s.\n",
           mesh->count, mesh->sites[0].socket, mesh->temporary ? " and removes their data" : "");
    fflush(stdout);
}

static int running(struct mesh *mesh)
{
    while (!cli_sleep_ms(200)) {
        int alive = 0;
        for (int i = 0; i < mesh->count; i++) {
            struct site *site = &mesh->sites[i];
            int status;
            if (site->pid > 0 && waitpid(site->pid, &status, WNOHANG) == site->pid) {
                site->pid = 0;
                if (WIFSIGNALED(status))
                    fprintf(stderr, "weir: site %s was killed by signal %d and stays down\n", site->name,
                            WTERMSIG(status));
                else
                    fprintf(stderr, "weir: site %s ended with status %d; see %s/node.log\n", site->name,
                            WEXITSTATUS(status), site->data);
            }
            alive += site->pid > 0;
        }
        if (alive == 0)
            return cli_fail(EXIT_FAILED, "no site is left");
    }
    return EXIT_DONE;
}

static int choose_folder(struct mesh *mesh)
{
    const char *data = cli_value(mesh->cli, "data", NULL);
    if (data) {
        if (mkdir(data, 0700) != 0 && errno != EEXIST)
            return cli_fail(EXIT_FAILED, "cannot make %s: %s", data, strerror(errno));
        char resolved[4096];
        if (!realpath(data, resolved) || strlen(resolved) >= sizeof mesh->folder - 32)
            return cli_fail(EXIT_USAGE, "%s is no usable folder", data);
        snprintf(mesh->folder, sizeof mesh->folder, "%.470s", resolved);
        return EXIT_DONE;
    }
    const char *temporary = getenv("TMPDIR");
    snprintf(mesh->folder, sizeof mesh->folder, "%.400s/weir-dev-XXXXXX", temporary ? temporary : "/tmp");
    mesh->temporary = true;
    return mkdtemp(mesh->folder) ? EXIT_DONE
                                 : cli_fail(EXIT_FAILED, "cannot make %s: %s; name a folder with --data",
                                            mesh->folder, strerror(errno));
}

static int dev(struct cli *cli)
{
    struct mesh mesh = {.cli = cli};
    int64_t count = 3;
    if (!cli_number(cli, "sites", 1, SITES_MAX, &count))
        return EXIT_USAGE;
    if (crypto_init() != CRYPTO_OK)
        return cli_fail(EXIT_FAILED, "the system gives no random numbers");
    int code = choose_folder(&mesh);
    if (code != EXIT_DONE)
        return code;
    if (strlen(mesh.folder) > FOLDER_BYTES_MAX)
        return cli_fail(EXIT_USAGE,
                        "%s has %zu bytes, sockets in it allow %d; name a shorter one with --data",
                        mesh.folder, strlen(mesh.folder), FOLDER_BYTES_MAX);
    mesh.count = (int)count;
    for (int i = 0; i < mesh.count; i++) {
        struct site *site = &mesh.sites[i];
        site->name = names[i];
        snprintf(site->data, sizeof site->data, "%.490s/%s", mesh.folder, names[i]);
        snprintf(site->socket, sizeof site->socket, "%s/api.sock", site->data);
    }
    cli_catch_interrupts();
    code = start_all(&mesh);
    if (code == EXIT_DONE)
        code = wait_converged(&mesh);
    if (code == EXIT_DONE) {
        if (cli->json)
            show_json(&mesh);
        else
            show_table(&mesh);
        code = running(&mesh);
    }
    stop_all(&mesh);
    if (mesh.temporary)
        nftw(mesh.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return code;
}

static const struct cli_option options[] = {
    {'s', "sites", "N", "how many sites, 1 to 16 (3)"},
    {'d', "data", "DIR", "keep their data here (a folder in /tmp, removed)"},
    {0, "set", "SECTION.KEY=VALUE", "a setting for every node; may be repeated"},
    {'v', "verbose", NULL, "show what joining says"},
    CLI_JSON,
    {0},
};

const struct cli_command cli_dev = {
    .name = "dev",
    .arguments = "",
    .summary = "run a whole mesh on this machine, to try things out",
    .notes = "Real nodes, real keys, free ports on 127.0.0.1. A site that dies stays down.\n"
             "With --data an existing mesh is started again.\n",
    .example = "weir dev --sites 3 --set work.cpu_slots=1",
    .options = options,
    .run = dev,
};
