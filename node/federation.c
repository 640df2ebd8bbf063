#include "node/federation_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/duration.h"
#include "node/log.h"

#define FOLDER "federation"
#define PATH_BYTES (FEDERATION_PATH_BYTES_MAX + 64u)

enum federation_error federation_fail(struct federation_failure *failure, enum federation_error error,
                                      const char *format, ...)
{
    if (failure) {
        failure->error = error;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(failure->text, sizeof failure->text, format, arguments);
        va_end(arguments);
    }
    return error;
}

/* Hands on what the crypto library found wrong with key files. */
static enum federation_error fail_keys(struct federation_failure *failure, enum crypto_error error,
                                       const struct crypto_advice *advice)
{
    switch (error) {
    case CRYPTO_KEY_EXPOSED:
        return federation_fail(failure, FEDERATION_DENIED, "%s", advice->text);
    case CRYPTO_IO:
        return federation_fail(failure, FEDERATION_SYSTEM, "%s", advice->text);
    case CRYPTO_KEY_MISSING:
        return federation_fail(failure, FEDERATION_DAMAGED,
                               "the keys of this node are gone (%s); restore them from a backup, or move the "
                               "folder away and join again",
                               advice->text);
    default:
        return federation_fail(failure, FEDERATION_DAMAGED, "%s: %s", crypto_error_text(error), advice->text);
    }
}

/* ---- Files in DATA/federation/ */

static bool write_all(int fd, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        const ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes += written;
        count -= (size_t)written;
    }
    return true;
}

bool federation_file_read(const char *data, const char *name, uint8_t *bytes, size_t capacity, size_t *count)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/" FOLDER "/%s", data, name);
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t got = 0;
    ssize_t piece = 1;
    while (piece > 0 && got < capacity) {
        piece = read(fd, bytes + got, capacity - got);
        if (piece > 0)
            got += (size_t)piece;
    }
    uint8_t beyond;
    if (piece > 0 && read(fd, &beyond, 1) > 0) {
        errno = EFBIG;
        piece = -1;
    }
    const int reason = errno;
    close(fd);
    errno = reason;
    *count = got;
    return piece >= 0;
}

bool federation_file_write(const char *data, const char *name, const uint8_t *bytes, size_t count)
{
    char folder[PATH_BYTES], path[PATH_BYTES + 8];
    snprintf(folder, sizeof folder, "%s/" FOLDER, data);
    const int folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder_fd < 0)
        return false;
    snprintf(path, sizeof path, "%s.new", name);
    unlinkat(folder_fd, path, 0); /* of a write that was cut short */
    const int fd = openat(folder_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write_all(fd, bytes, count) && fsync(fd) == 0;
    ok = ok && renameat(folder_fd, path, folder_fd, name) == 0 && fsync(folder_fd) == 0;
    const int reason = errno;
    if (fd >= 0)
        close(fd);
    close(folder_fd);
    errno = reason;
    return ok;
}

static enum federation_error write_or_fail(const char *data, const char *name, const uint8_t *bytes,
                                           size_t count, struct federation_failure *failure)
{
    if (federation_file_write(data, name, bytes, count))
        return FEDERATION_OK;
    return federation_fail(failure, FEDERATION_SYSTEM, "cannot write %s/" FOLDER "/%s: %s", data, name,
                           strerror(errno));
}

static bool file_exists(const char *data, const char *name)
{
    char path[PATH_BYTES];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", data, name);
    return lstat(path, &found) == 0;
}

/* ---- The data folder */

/* `data` without trailing slashes, which would make a symbolic link look like the folder it points to. */
static enum federation_error clean_path(const char *data, char path[FEDERATION_PATH_BYTES_MAX],
                                        struct federation_failure *failure)
{
    size_t length = strlen(data);
    while (length > 1 && data[length - 1] == '/')
        length--;
    if (length == 0 || length >= FEDERATION_PATH_BYTES_MAX)
        return federation_fail(failure, FEDERATION_INVALID,
                               "the path of the data folder has %zu characters; 1 to %u are possible", length,
                               FEDERATION_PATH_BYTES_MAX - 1);
    memcpy(path, data, length);
    path[length] = '\0';
    return FEDERATION_OK;
}

static enum federation_error check_owner(const char *path, const struct stat *found,
                                         struct federation_failure *failure)
{
    if (found->st_uid != geteuid()) {
        const struct passwd *owner = getpwuid(found->st_uid);
        char name[64];
        if (owner)
            snprintf(name, sizeof name, "%s", owner->pw_name);
        else
            snprintf(name, sizeof name, "'#%u'", (unsigned)found->st_uid);
        return federation_fail(
            failure, FEDERATION_DENIED,
            "%s belongs to another user; run this command as that user: sudo -u %s weir ...", path, name);
    }
    if (found->st_mode & 077)
        return federation_fail(failure, FEDERATION_DENIED,
                               "%s is open to other users (mode %04o); run: chmod 700 '%s'", path,
                               (unsigned)found->st_mode & 07777, path);
    return FEDERATION_OK;
}

/* Opens the folder, after looking that it is ours alone. The descriptor keeps the lock of a guest. */
static enum federation_error folder_open(const char *path, bool create, int *fd,
                                         struct federation_failure *failure)
{
    if (create && mkdir(path, 0700) != 0 && errno != EEXIST)
        return federation_fail(failure, errno == EACCES ? FEDERATION_DENIED : FEDERATION_SYSTEM,
                               "cannot create folder %s: %s; choose another one with --data, or make it "
                               "first: install -d -m 700 '%s'",
                               path, strerror(errno), path);
    struct stat found;
    if (lstat(path, &found) == 0 && S_ISLNK(found.st_mode)) {
        char *target = realpath(path, NULL);
        const enum federation_error error = federation_fail(
            failure, FEDERATION_DENIED, "%s is a symbolic link; name the folder itself: --data '%s'", path,
            target ? target : "FOLDER");
        free(target);
        return error;
    }
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT)
        return federation_fail(failure, FEDERATION_MISSING,
                               "there is no data folder %s; run weir init to make a federation, or weir join "
                               "to become a member of one",
                               path);
    if (*fd < 0 && errno == EACCES) {
        if (stat(path, &found) == 0 && found.st_uid != geteuid())
            return check_owner(path, &found, failure);
    }
    if (*fd < 0)
        return federation_fail(failure, errno == EACCES ? FEDERATION_DENIED : FEDERATION_SYSTEM,
                               "cannot open data folder %s: %s", path, strerror(errno));
    enum federation_error error = FEDERATION_OK;
    if (fstat(*fd, &found) != 0)
        error = federation_fail(failure, FEDERATION_SYSTEM, "cannot look at %s: %s", path, strerror(errno));
    else
        error = check_owner(path, &found, failure);
    if (error != FEDERATION_OK) {
        close(*fd);
        *fd = -1;
    }
    return error;
}

/* Opens and locks the folder for init or join, and makes DATA/federation. */
static enum federation_error folder_take(const char *path, int *fd, struct federation_failure *failure)
{
    enum federation_error error = folder_open(path, true, fd, failure);
    if (error != FEDERATION_OK)
        return error;
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0)
        error = federation_fail(failure, FEDERATION_BUSY,
                                "another weir init or weir join is at work in %s; wait for it", path);
    else if ((mkdirat(*fd, FOLDER, 0700) != 0 && errno != EEXIST) || fsync(*fd) != 0)
        error = federation_fail(failure, FEDERATION_SYSTEM, "cannot create folder %s/" FOLDER ": %s", path,
                                strerror(errno));
    if (error != FEDERATION_OK) {
        close(*fd);
        *fd = -1;
    }
    return error;
}

/* ---- Loading */

static enum federation_error read_genesis(struct federation *federation, struct federation_failure *failure)
{
    if (!federation_file_read(federation->data, FEDERATION_GENESIS, federation->genesis_bytes,
                              sizeof federation->genesis_bytes, &federation->genesis_count))
        return federation_fail(failure, FEDERATION_DAMAGED,
                               "cannot read %s/" FOLDER "/" FEDERATION_GENESIS
                               ": %s; restore it from a backup, or copy it from another member",
                               federation->data, strerror(errno));
    const enum crypto_error error =
        genesis_decode(federation->genesis_bytes, federation->genesis_count, &federation->genesis);
    if (error != CRYPTO_OK)
        return federation_fail(failure, FEDERATION_DAMAGED,
                               "%s/" FOLDER "/" FEDERATION_GENESIS
                               " is damaged (%s); restore it from a backup, or copy it from another member",
                               federation->data, crypto_error_text(error));
    return FEDERATION_OK;
}

static enum federation_error read_chain(struct federation *federation, struct federation_failure *failure)
{
    const char *data = federation->data;
    if (!federation_file_read(data, FEDERATION_CHAIN, federation->chain, sizeof federation->chain,
                              &federation->chain_count)) {
        if (errno != ENOENT)
            return federation_fail(failure, errno == EACCES ? FEDERATION_DENIED : FEDERATION_DAMAGED,
                                   "cannot read %s/" FOLDER "/" FEDERATION_CHAIN ": %s", data,
                                   strerror(errno));
        const bool begun = file_exists(data, "keys/node.key") || file_exists(data, "keys/authority.key");
        return federation_fail(failure, FEDERATION_MISSING,
                               begun
                                   ? "setting up %s was cut short; run the same weir init or weir join again"
                                   : "%s belongs to no federation yet; run weir init to make one, or weir "
                                     "join to become a member of one",
                               data);
    }
    struct certificate certificates[CHAIN_CERTIFICATES_MAX];
    uint32_t count;
    const enum crypto_error error =
        chain_view(federation->chain, federation->chain_count, certificates, &count);
    if (error != CRYPTO_OK)
        return federation_fail(failure, FEDERATION_DAMAGED,
                               "%s/" FOLDER "/" FEDERATION_CHAIN
                               " is damaged (%s); restore it from a backup, or move the folder away and join "
                               "again",
                               data, crypto_error_text(error));
    federation->certificate = certificates[0];
    return FEDERATION_OK;
}

static bool is_zero(const struct curve_public *key)
{
    return sodium_is_zero(key->bytes, sizeof key->bytes);
}

static enum federation_error check_ours(const struct federation *federation,
                                        struct federation_failure *failure)
{
    const struct certificate *certificate = &federation->certificate;
    const struct identity *identity = &federation->identity;
    const bool join_ours = curve_public_equal(&certificate->join_curve, &identity->join_curve) ||
                           (!(certificate->rights & RIGHT_NODE) && is_zero(&certificate->join_curve));
    if (public_key_equal(&certificate->node, &identity->node) &&
        curve_public_equal(&certificate->curve, &identity->curve) && join_ours)
        return FEDERATION_OK;
    return federation_fail(failure, FEDERATION_DAMAGED,
                           "the keys and the certificate in %s do not belong together; restore both from the "
                           "same backup, or move the folder away and join again",
                           federation->data);
}

/* Everything but the judgement of time. */
static enum federation_error load_parts(const char *data, struct federation *federation,
                                        struct federation_failure *failure)
{
    enum federation_error error = clean_path(data, federation->data, failure);
    if (error != FEDERATION_OK)
        return error;
    snprintf(federation->keys, sizeof federation->keys, "%s/keys", federation->data);
    int fd;
    error = folder_open(federation->data, false, &fd, failure);
    if (error != FEDERATION_OK)
        return error;
    close(fd);
    error = read_chain(federation, failure);
    if (error == FEDERATION_OK)
        error = read_genesis(federation, failure);
    if (error != FEDERATION_OK)
        return error;
    struct crypto_advice advice = {""};
    const enum crypto_error crypto = identity_load(federation->keys, &federation->identity, &advice);
    if (crypto != CRYPTO_OK)
        return fail_keys(failure, crypto, &advice);
    return check_ours(federation, failure);
}

static enum federation_error check_time(struct federation *federation, int64_t wall_s,
                                        struct federation_failure *failure)
{
    struct certificate leaf;
    const enum crypto_error error = chain_verify(&federation->genesis, federation->chain,
                                                 federation->chain_count, wall_s, NULL, NULL, &leaf);
    if (error == CRYPTO_OK)
        return FEDERATION_OK;
    char span[DURATION_BYTES];
    /* One that begins later was made while this clock was ahead, or the clock is behind: its peers will tell. */
    if ((error == CRYPTO_EXPIRED || error == CRYPTO_NOT_YET_VALID) &&
        federation_renew_self(federation, wall_s, NULL) == CRYPTO_OK) {
        log_warn("certificate_renewed", "at=start reason=\"%s\"", crypto_error_text(error));
        return FEDERATION_OK;
    }
    if (error == CRYPTO_EXPIRED) {
        const int64_t past_s = wall_s - federation->certificate.not_after_s;
        return federation_fail(
            failure, FEDERATION_EXPIRED,
            "this node's certificate%s ended %s ago, by this machine's clock: if that is right, ask a "
            "member for a new token (weir invite --site %s) and run weir join with it: the "
            "node keeps its keys",
            past_s > 0 ? "" : " (or its issuer's)", duration_text(past_s > 0 ? past_s : 0, span),
            federation->certificate.site);
    }
    if (error == CRYPTO_NOT_YET_VALID)
        return federation_fail(failure, FEDERATION_EXPIRED,
                               "this node's certificate begins %s from now: set this machine's clock",
                               duration_text(federation->certificate.not_before_s - wall_s, span));
    return federation_fail(failure, FEDERATION_DAMAGED,
                           "the certificate in %s/" FOLDER "/" FEDERATION_CHAIN " does not verify: %s",
                           federation->data, crypto_error_text(error));
}

static enum federation_error start(struct federation **federation, struct federation_failure *failure)
{
    if (crypto_init() != CRYPTO_OK)
        return federation_fail(failure, FEDERATION_SYSTEM, "%s", crypto_error_text(CRYPTO_UNAVAILABLE));
    *federation = calloc(1, sizeof **federation);
    if (!*federation)
        return federation_fail(failure, FEDERATION_SYSTEM, "out of memory");
    return FEDERATION_OK;
}

enum federation_error federation_look(const char *data, struct federation **out,
                                      struct federation_failure *failure)
{
    struct federation *federation = NULL;
    enum federation_error error = start(&federation, failure);
    if (error == FEDERATION_OK)
        error = load_parts(data, federation, failure);
    if (error == FEDERATION_OK)
        *out = federation;
    else
        federation_close(federation);
    return error;
}

enum federation_error federation_load(const char *data, int64_t wall_s, struct federation **out,
                                      struct federation_failure *failure)
{
    struct federation *federation = NULL;
    enum federation_error error = federation_look(data, &federation, failure);
    if (error != FEDERATION_OK)
        return error;
    if (!(federation->certificate.rights & RIGHT_NODE))
        error = federation_fail(failure, FEDERATION_INVALID,
                                "%s holds a user's certificate, which can't run a node; join another folder "
                                "with a node's token",
                                federation->data);
    if (error == FEDERATION_OK)
        error = check_time(federation, wall_s, failure);
    if (error == FEDERATION_OK)
        *out = federation;
    else
        federation_close(federation);
    return error;
}

void federation_close(struct federation *federation)
{
    if (!federation)
        return;
    free(federation->revoked.entries);
    sodium_memzero(federation, sizeof *federation);
    free(federation);
}

/* ---- weir init */

static bool lifetime_valid(int64_t lifetime_s)
{
    return lifetime_s >= FEDERATION_LIFETIME_MIN_S && lifetime_s <= FEDERATION_LIFETIME_MAX_S;
}

static enum federation_error check_new(const struct federation_new *fields,
                                       struct federation_failure *failure)
{
    const struct {
        const char *what;
        const char *name;
    } names[] = {{"federation", fields->federation}, {"site", fields->site}, {"node", fields->node}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!names[i].name || !name_valid(names[i].name))
            return federation_fail(failure, FEDERATION_INVALID,
                                   "'%s' is no name for a %s: 1 to %u of a-z, 0-9 and '-', neither first nor "
                                   "last a '-'",
                                   names[i].name ? names[i].name : "", names[i].what, NAME_BYTES_MAX);
    }
    if (fields->lifetime_s && !lifetime_valid(fields->lifetime_s))
        return federation_fail(failure, FEDERATION_INVALID,
                               "a certificate can live from %d seconds to five years",
                               FEDERATION_LIFETIME_MIN_S);
    return FEDERATION_OK;
}

/* Keys that an earlier try left are used again: nobody else has seen them. */
static enum federation_error take_identity(const char *keys, struct identity *identity,
                                           struct federation_failure *failure)
{
    struct crypto_advice advice = {""};
    enum crypto_error error = identity_create(keys, identity, &advice);
    if (error == CRYPTO_KEY_EXISTS)
        error = identity_load(keys, identity, &advice);
    return error == CRYPTO_OK ? FEDERATION_OK : fail_keys(failure, error, &advice);
}

static enum federation_error take_authority(const char *keys, struct authority *authority,
                                            struct federation_failure *failure)
{
    struct crypto_advice advice = {""};
    enum crypto_error error = authority_create(keys, authority, &advice);
    if (error == CRYPTO_KEY_EXISTS)
        error = authority_load(keys, authority, &advice);
    return error == CRYPTO_OK ? FEDERATION_OK : fail_keys(failure, error, &advice);
}

static enum federation_error make(struct federation *federation, const struct authority *authority,
                                  const struct federation_new *fields, int64_t wall_s,
                                  struct federation_failure *failure)
{
    struct genesis *genesis = &federation->genesis;
    *genesis =
        (struct genesis){.created_s = wall_s, .threshold = 1, .key_count = 1, .keys = {authority->key}};
    snprintf(genesis->name, sizeof genesis->name, "%s", fields->federation);
    enum crypto_error error = genesis_encode(genesis, federation->genesis_bytes,
                                             sizeof federation->genesis_bytes, &federation->genesis_count);
    struct certificate certificate = {
        .node = federation->identity.node,
        .curve = federation->identity.curve,
        .join_curve = federation->identity.join_curve,
        .rights = RIGHTS_ALL,
        .not_before_s = wall_s,
        .not_after_s = wall_s + (fields->lifetime_s ? fields->lifetime_s : FEDERATION_LIFETIME_S),
    };
    snprintf(certificate.site, sizeof certificate.site, "%s", fields->site);
    snprintf(certificate.name, sizeof certificate.name, "%s", fields->node);
    const struct issuer issuer = {.secret = &authority->secret};
    if (error == CRYPTO_OK)
        error = certificate_issue(genesis, &issuer, &certificate, wall_s, NULL, NULL, federation->chain,
                                  sizeof federation->chain, &federation->chain_count);
    if (error != CRYPTO_OK)
        return federation_fail(failure, FEDERATION_INVALID, "cannot make the first certificate: %s",
                               crypto_error_text(error));
    enum federation_error written = write_or_fail(
        federation->data, FEDERATION_GENESIS, federation->genesis_bytes, federation->genesis_count, failure);
    if (written == FEDERATION_OK)
        written = write_or_fail(federation->data, FEDERATION_CHAIN, federation->chain,
                                federation->chain_count, failure);
    return written;
}

/* What stands in the way of init or join: a folder that is a member already. */
static enum federation_error refuse_member(const char *data, struct federation_failure *failure)
{
    struct federation *member = NULL;
    if (federation_look(data, &member, NULL) != FEDERATION_OK)
        return federation_fail(failure, FEDERATION_EXISTS,
                               "%s already holds a certificate; use another --data, or move this folder away",
                               data);
    char fingerprint[FEDERATION_FINGERPRINT_BYTES];
    federation_fingerprint(&member->genesis.federation, fingerprint);
    const enum federation_error error = federation_fail(
        failure, FEDERATION_EXISTS,
        "%s is already node %s of site %s in federation %s (%s); run weir node, or use "
        "another --data",
        data, member->certificate.name, member->certificate.site, member->genesis.name, fingerprint);
    federation_close(member);
    return error;
}

enum federation_error federation_init(const char *data, const struct federation_new *fields, int64_t wall_s,
                                      struct federation_failure *failure)
{
    enum federation_error error = check_new(fields, failure);
    struct federation *federation = NULL;
    if (error == FEDERATION_OK)
        error = start(&federation, failure);
    if (error == FEDERATION_OK)
        error = clean_path(data, federation->data, failure);
    int fd = -1;
    if (error == FEDERATION_OK)
        error = folder_take(federation->data, &fd, failure);
    if (error != FEDERATION_OK) {
        federation_close(federation);
        return error;
    }
    struct authority authority;
    snprintf(federation->keys, sizeof federation->keys, "%s/keys", federation->data);
    if (file_exists(federation->data, FOLDER "/" FEDERATION_CHAIN))
        error = refuse_member(federation->data, failure);
    if (error == FEDERATION_OK)
        error = take_authority(federation->keys, &authority, failure);
    if (error == FEDERATION_OK)
        error = take_identity(federation->keys, &federation->identity, failure);
    if (error == FEDERATION_OK)
        error = make(federation, &authority, fields, wall_s, failure);
    authority_wipe(&authority);
    federation_close(federation);
    close(fd);
    return error;
}

/* ---- weir join */

static enum federation_error check_joinable(const char *data, int64_t wall_s,
                                            struct federation_failure *failure)
{
    if (!file_exists(data, FOLDER "/" FEDERATION_CHAIN)) {
        if (file_exists(data, "keys/authority.key"))
            return federation_fail(failure, FEDERATION_DAMAGED,
                                   "a weir init was cut short in %s; run it again, or use another --data",
                                   data);
        return FEDERATION_OK;
    }
    struct federation *member = NULL;
    enum federation_error error = federation_look(data, &member, failure);
    if (error != FEDERATION_OK)
        return error;
    struct certificate leaf;
    if (chain_verify(&member->genesis, member->chain, member->chain_count, wall_s, NULL, NULL, &leaf) !=
        CRYPTO_EXPIRED)
        error = refuse_member(data, failure);
    federation_close(member);
    return error;
}

enum federation_error federation_guest_open(const char *data, int64_t wall_s, struct identity *identity,
                                            struct federation_lock *lock, struct federation_failure *failure)
{
    lock->fd = -1;
    if (crypto_init() != CRYPTO_OK)
        return federation_fail(failure, FEDERATION_SYSTEM, "%s", crypto_error_text(CRYPTO_UNAVAILABLE));
    char path[FEDERATION_PATH_BYTES_MAX], keys[FEDERATION_PATH_BYTES_MAX + 8];
    enum federation_error error = clean_path(data, path, failure);
    if (error == FEDERATION_OK)
        error = folder_take(path, &lock->fd, failure);
    if (error != FEDERATION_OK)
        return error;
    snprintf(keys, sizeof keys, "%s/keys", path);
    error = check_joinable(path, wall_s, failure);
    if (error == FEDERATION_OK)
        error = take_identity(keys, identity, failure);
    if (error != FEDERATION_OK)
        federation_guest_close(lock);
    return error;
}

enum federation_error federation_guest_finish(const char *data, const uint8_t *genesis, size_t genesis_bytes,
                                              const uint8_t *peers, size_t peers_bytes, const uint8_t *chain,
                                              size_t chain_bytes, struct federation_failure *failure)
{
    char path[FEDERATION_PATH_BYTES_MAX];
    enum federation_error error = clean_path(data, path, failure);
    if (error == FEDERATION_OK)
        error = write_or_fail(path, FEDERATION_GENESIS, genesis, genesis_bytes, failure);
    if (error == FEDERATION_OK)
        error = write_or_fail(path, FEDERATION_PEERS, peers, peers_bytes, failure);
    if (error == FEDERATION_OK)
        error = write_or_fail(path, FEDERATION_CHAIN, chain, chain_bytes, failure);
    return error;
}

void federation_guest_close(struct federation_lock *lock)
{
    if (lock->fd >= 0)
        close(lock->fd);
    lock->fd = -1;
}

/* ---- Who we are */

const char *federation_data(const struct federation *federation)
{
    return federation->data;
}

const struct genesis *federation_genesis(const struct federation *federation)
{
    return &federation->genesis;
}

const uint8_t *federation_genesis_bytes(const struct federation *federation, size_t *count)
{
    *count = federation->genesis_count;
    return federation->genesis_bytes;
}

const struct identity *federation_identity(const struct federation *federation)
{
    return &federation->identity;
}

const struct certificate *federation_certificate(const struct federation *federation)
{
    return &federation->certificate;
}

const uint8_t *federation_chain(const struct federation *federation, size_t *count)
{
    *count = federation->chain_count;
    return federation->chain;
}

bool federation_has_authority(const struct federation *federation)
{
    return file_exists(federation->data, "keys/authority.key");
}

void federation_fingerprint(const struct digest *id, char text[FEDERATION_FINGERPRINT_BYTES])
{
    char hex[DIGEST_HEX_BYTES];
    digest_to_hex(id, hex);
    snprintf(text, FEDERATION_FINGERPRINT_BYTES, "%.4s %.4s %.4s %.4s", hex, hex + 4, hex + 8, hex + 12);
}

enum crypto_error federation_sign_record(const struct federation *federation,
                                         const struct federation_record *record, uint8_t *out,
                                         size_t capacity, size_t *out_bytes)
{
    const struct record fields = {
        .federation = federation->genesis.federation,
        .kind = (uint16_t)record->kind,
        .origin = federation->identity.node,
        .incarnation = record->incarnation,
        .sequence = record->sequence,
        .not_before_s = record->not_before_s,
        .not_after_s = record->not_after_s,
        .body = record->body,
        .body_bytes = record->body_bytes,
    };
    return record_sign(&fields, &federation->identity.node_secret, out, capacity, out_bytes);
}
