/*
 * What an operator sets, as one struct, and the INI file it is read from: /etc/weir/weir.conf and
 * the files *.conf in conf.d beside it.
 *
 * Every key is a row of one table (config.c) with its section, type, range, default and help; `weir config
 * dump` prints that table with the values in force, and an unknown key is an error with file:line and the
 * nearest known one.
 */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#include "node/schedule.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_TEXT_BYTES 256
#define CONFIG_TENANTS_MAX 64

struct config_tenant {
    uint32_t uid;
    char tenant[64];
};

struct config {
    /* [node] */
    char data[CONFIG_TEXT_BYTES]; /* /var/lib/weir */
    char region[64];              /* "" = the site's name */
    uint32_t stop_deadline_s;     /* a stop by SIGTERM waits so long for what runs here */
    /* [network] */
    char bind[CONFIG_TEXT_BYTES];      /* 0.0.0.0; an address, without port */
    char advertise[CONFIG_TEXT_BYTES]; /* host name or address that peers dial; "" = bind, or the host name if
                                          that is a wildcard */
    uint16_t control_port;             /* 7700; 0 = any free port */
    uint16_t bulk_port;                /* 7701 */
    uint16_t join_port;                /* 7702 */
    /* [api] */
    char socket[CONFIG_TEXT_BYTES]; /* "" = /run/weir/api.sock if that folder is writable, else
                                       XDG_RUNTIME_DIR/weir/api.sock, else DATA/api.sock */
    char group[64];                 /* weir: may submit */
    char admin_group[64];           /* weir-admin: may operate */
    /* [http] */
    char http_bind[CONFIG_TEXT_BYTES]; /* 127.0.0.1 */
    uint32_t http_port;                /* 7780; 0 = any free port; 65536 = off */
    /* [work] */
    int32_t cpu_slots;                    /* -1 = one per core this process may use */
    int32_t cuda_devices;                 /* -1 = all that are found */
    uint32_t price_micro;                 /* millionths per device-second */
    uint64_t job_output_bytes;            /* of a job that is submitted here */
    uint32_t hang_s;                      /* a worker without progress for so long is killed */
    char owner[CONFIG_TEXT_BYTES];        /* the owner's hours, as they were written, */
    struct schedule owner_hours;          /* and as they are */
    char owner_ignore[CONFIG_TEXT_BYTES]; /* programs that claim no device, by name, comma-separated */
    uint32_t owner_grace_ms;              /* what runs has so long to end once the owner claims its device */
    bool verify;                    /* jobs submitted here are checked by chance unless they say otherwise */
    char worker[CONFIG_TEXT_BYTES]; /* path of weir-worker; "" = beside the weir binary */
    /* [store] */
    uint64_t cache_bytes;
    uint64_t state_map_bytes;
    uint64_t blobs_map_bytes;
    uint32_t keep_jobs_s; /* finished jobs are kept so long; 7 days */
    /* [tenants]: uid-NNN = name; a uid without a row is the site's own tenant */
    struct config_tenant tenant[CONFIG_TENANTS_MAX];
    uint32_t tenant_count;
    /* [log] */
    int32_t log_level; /* error, warn, info, debug */
};

#define CONFIG_HTTP_OFF 65536u

/* Fills the defaults. */
void config_defaults(struct config *config);

/*
 * Reads `path` and the *.conf files of the folder conf.d beside it, in order of name, over what `config`
 * holds. A missing main file is an error only if `required`. On failure returns false and `error` is one
 * line: FILE:LINE, what, what to do.
 */
bool config_load(struct config *config, const char *path, bool required, char *error, size_t error_bytes);

/* Sets one key from "section.key=value" (as `--set`, for dev and tests); the same checks and errors. */
bool config_set(struct config *config, const char *assignment, char *error, size_t error_bytes);

/* Writes every key with its value, help and default in INI form to a stdio stream. */
struct _IO_FILE;
void config_dump(const struct config *config, struct _IO_FILE *out);
/* The same as an object of sections, each value the text of the INI form. The caller owns it. */
struct json_t *config_json(const struct config *config);

#endif
