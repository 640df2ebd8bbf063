#include "node/cli/target.h"

#include "node/cli/picture.h"
#include "node/cli/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* A file of this name would not hold what its name says. */
static bool named_otherwise(const char *path)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".csv", ".txt", ".json"};
    const size_t bytes = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t ending = strlen(endings[i]);
        if (bytes > ending && strcasecmp(path + bytes - ending, endings[i]) == 0)
            return true;
    }
    return false;
}

int target_parse(struct target *target, const struct cli *cli, const char *given)
{
    *target = (struct target){.fd = -1};
    const char *equals = strchr(given, '=');
    if (!*given || (equals && (equals == given || !equals[1])))
        return cli_usage(cli, "--output %s: write NAME=FILE, or NAME=- for standard output", given);
    if (!equals) {
        target->given = given;
        target->standard = strcmp(given, "-") == 0;
        target->picture = picture_named(given);
        return EXIT_DONE;
    }
    if ((size_t)(equals - given) >= sizeof target->name)
        return cli_usage(cli, "--output %s: the name is too long", given);
    memcpy(target->name, given, (size_t)(equals - given));
    target->given = equals + 1;
    target->standard = strcmp(target->given, "-") == 0;
    target->picture = picture_named(target->given);
    return EXIT_DONE;
}

/* Splits "folder/file" without changing it; the folder of a bare name is ".". */
static void folder_of(const char *path, char folder[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(folder, PATH_MAX, ".");
    else if (slash == path)
        snprintf(folder, PATH_MAX, "/");
    else
        snprintf(folder, PATH_MAX, "%.*s", (int)(slash - path), path);
}

static int refuse(const struct target *target, const char *why)
{
    return cli_fail(EXIT_USAGE, "output %s: cannot write '%s': %s", target->name, target->given, why);
}

/* What stands at the path now may be replaced: sets `direct` for what must be written as it is. */
static int check_existing(struct target *target, const struct source *sources, int source_count)
{
    struct stat status;
    if (stat(target->path, &status) != 0)
        return EXIT_DONE; /* none; the folder decides */
    if (S_ISDIR(status.st_mode))
        return refuse(target, "it is a folder; name a file in it");
    for (int i = 0; i < source_count; i++)
        if (sources[i].kind == SOURCE_FILE && sources[i].status.st_dev == status.st_dev &&
            sources[i].status.st_ino == status.st_ino)
            return refuse(target, "it is an input of this job; name another file");
    if (access(target->path, W_OK) != 0)
        return refuse(target, strerror(errno));
    target->direct = !S_ISREG(status.st_mode);
    return EXIT_DONE;
}

int target_open(struct target *target, const struct target *others, int other_count,
                const struct source *sources, int source_count)
{
    if (strlen(target->given) >= PATH_MAX - 32)
        return refuse(target, "the path is too long");
    if (!target->standard && !realpath(target->given, target->path))
        snprintf(target->path, sizeof target->path, "%s", target->given);
    for (int i = 0; i < other_count; i++) {
        if (strcmp(others[i].name, target->name) == 0)
            return cli_fail(EXIT_USAGE, "output %s is given twice", target->name);
        if (others[i].standard == target->standard && strcmp(others[i].path, target->path) == 0)
            return refuse(target, "another output goes there");
    }
    if (target->standard) {
        target->fd = STDOUT_FILENO;
        if (isatty(target->fd))
            return refuse(target, "standard output is a terminal; redirect it, or name a file");
        return EXIT_DONE;
    }
    const int code = check_existing(target, sources, source_count);
    if (code != EXIT_DONE)
        return code;
    if (named_otherwise(target->given))
        return refuse(target, "an output is written as .npy, a picture as .png; name it so");
    if (target->direct) {
        target->fd = open(target->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    } else {
        char folder[PATH_MAX];
        folder_of(target->path, folder);
        if (snprintf(target->temporary, sizeof target->temporary, "%s/.weir-%s-%d", folder, target->name,
                     (int)getpid()) >= (int)sizeof target->temporary) {
            target->temporary[0] = '\0';
            return refuse(target, "the path is too long");
        }
        target->fd = open(target->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (target->fd >= 0)
        return EXIT_DONE;
    const int error = errno;
    target->temporary[0] = '\0';
    return refuse(target, strerror(error));
}

struct writer {
    int fd;
    int error;
};

static bool write_piece(void *context, const void *bytes, size_t count)
{
    struct writer *writer = context;
    for (const char *at = bytes; count > 0;) {
        const ssize_t written = write(writer->fd, at, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            writer->error = errno;
            return false;
        }
        at += written;
        count -= (size_t)written;
    }
    return true;
}

/* What came becomes a picture under another temporary name, which takes the place of the first. */
static bool make_picture(struct target *target, char why[PICTURE_WHY_BYTES])
{
    char name[PATH_MAX];
    if (snprintf(name, sizeof name, "%s.png", target->temporary) >= (int)sizeof name) {
        snprintf(why, PICTURE_WHY_BYTES, "the path is too long");
        return false;
    }
    const int png = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (png < 0) {
        snprintf(why, PICTURE_WHY_BYTES, "%s", strerror(errno));
        return false;
    }
    const bool good = picture_write(target->fd, png, why);
    close(target->fd);
    unlink(target->temporary);
    target->fd = png;
    memcpy(target->temporary, name, sizeof name);
    return good;
}

int target_fetch(struct target *target, struct cli *cli, const char *blob)
{
    struct writer writer = {.fd = target->fd};
    struct client_failure failure;
    const struct client_receiver receiver = {.data = write_piece, .context = &writer};
    const int code = (int)client_get(cli->client, json_pack("{s:s, s:s}", "op", "blob.get", "blob", blob),
                                     &receiver, NULL, &failure);
    const char *const where = target->standard ? "standard output" : target->given;
    if (writer.error)
        return cli_fail(EXIT_FAILED, "output %s: writing '%s' failed: %s; the result is still blob:%s",
                        target->name, where, strerror(writer.error), blob);
    if (code != EXIT_DONE)
        return cli_fail((enum exit_code)code, "output %s: %s; the result is still blob:%s", target->name,
                        failure.text, blob);
    if (target->standard || target->direct)
        return EXIT_DONE;
    char why[PICTURE_WHY_BYTES];
    if (target->picture && !make_picture(target, why))
        return cli_fail(EXIT_FAILED, "output %s: '%s': %s; the result is still blob:%s", target->name, where,
                        why, blob);
    if (fsync(target->fd) != 0 || rename(target->temporary, target->path) != 0)
        return cli_fail(EXIT_FAILED, "output %s: writing '%s' failed: %s; the result is still blob:%s",
                        target->name, where, strerror(errno), blob);
    target->temporary[0] = '\0';
    return EXIT_DONE;
}

void target_close(struct target *target)
{
    if (target->fd >= 0 && !target->standard)
        close(target->fd);
    target->fd = -1;
    if (target->temporary[0])
        unlink(target->temporary);
    target->temporary[0] = '\0';
}
