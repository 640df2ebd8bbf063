#include "node/config.h"

#include "node/log.h"
#include "node/word.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <ini.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum type { TEXT, PORT, HTTP_PORT, SLOTS, NUMBER, SECONDS, BYTES, LEVEL, HOURS, VERIFY };

struct key {
    const char *section;
    const char *name;
    enum type type;
    size_t offset;
    size_t bytes; /* of a text */
    uint64_t least;
    uint64_t most;
    const char *standard; /* as it would be written */
    const char *help;
};

#define AT(field) offsetof(struct config, field)
#define TEXT_AT(field) .type = TEXT, .offset = AT(field), .bytes = sizeof(((struct config *)0)->field)

static const struct key keys[] = {
    {"node", "data", TEXT_AT(data), .standard = "/var/lib/weir", .help = "keys, certificates, store"},
    {"node", "region", TEXT_AT(region), .standard = "",
     .help = "sites of one region are near; empty: the site's name"},
    {"node", "stop_deadline", SECONDS, AT(stop_deadline_s), .least = 1, .most = 86400, .standard = "30s",
     .help = "a stop by SIGTERM waits so long for what runs here; an init system must wait longer"},
    {"network", "bind", TEXT_AT(bind), .standard = "0.0.0.0", .help = "address that the sockets listen on"},
    {"network", "advertise", TEXT_AT(advertise), .standard = "",
     .help = "host name or address that others dial; empty: bind, or this host's name"},
    {"network", "control_port", PORT, AT(control_port), .standard = "7700",
     .help = "messages between nodes; 0: any free port"},
    {"network", "bulk_port", PORT, AT(bulk_port), .standard = "7701", .help = "blobs between nodes"},
    {"network", "join_port", PORT, AT(join_port), .standard = "7702", .help = "where new nodes join"},
    {"api", "socket", TEXT_AT(socket), .standard = "",
     .help = "for the weir command; empty: /run/weir, else XDG_RUNTIME_DIR/weir, else the data folder"},
    {"api", "group", TEXT_AT(group), .standard = "weir", .help = "members may submit and look"},
    {"api", "admin_group", TEXT_AT(admin_group), .standard = "weir-admin", .help = "members may operate"},
    {"http", "bind", TEXT_AT(http_bind), .standard = "127.0.0.1",
     .help = "address of /metrics, /healthz, /readyz"},
    {"http", "port", HTTP_PORT, AT(http_port), .standard = "7780", .help = "0: any free port; off: none"},
    {"work", "cpu_slots", SLOTS, AT(cpu_slots), .most = 256, .standard = "auto",
     .help = "CPU cores to lend; auto: all of this process"},
    {"work", "cuda_devices", SLOTS, AT(cuda_devices), .most = 64, .standard = "auto",
     .help = "GPUs to lend; auto: all that are found"},
    {"work", "price_micro", NUMBER, AT(price_micro), .most = UINT32_MAX, .standard = "0",
     .help = "asked price, millionths of a unit per device-second"},
    {"work", "hang", SECONDS, AT(hang_s), .least = 1, .most = 86400, .standard = "30s",
     .help = "a worker without progress for so long is killed"},
    {"work", "job_output", BYTES, AT(job_output_bytes), .least = 1 << 10, .most = UINT64_C(1) << 50,
     .standard = "64GiB", .help = "what the outputs of a job that is submitted here may take, together"},
    {"work", "owner", HOURS, AT(owner), .bytes = sizeof(((struct config *)0)->owner), .standard = "",
     .help = "hours when the owner has the devices, such as mon-fri 08:00-18:00, sat 22:00-06:00"},
    {"work", "owner_ignore", TEXT_AT(owner_ignore),
     .standard = "nvidia-smi, nv-hostengine, dcgm-exporter, nvtop",
     .help = "programs whose use of a GPU claims nothing, by name"},
    {"work", "owner_grace_ms", NUMBER, AT(owner_grace_ms), .most = 60000, .standard = "50",
     .help = "milliseconds that running shards have to end once the owner claims their device"},
    {"work", "worker", TEXT_AT(worker), .standard = "", .help = "path of weir-worker; empty: beside weir"},
    {"work", "verify", VERIFY, AT(verify), .standard = "none",
     .help = "how jobs submitted here are verified where --verify doesn't say: none or spot"},
    {"store", "cache", BYTES, AT(cache_bytes), .least = 1 << 20, .most = UINT64_C(1) << 50,
     .standard = "8GiB", .help = "results and blobs that no job needs, at most"},
    {"store", "state_map", BYTES, AT(state_map_bytes), .least = 16 << 20, .most = UINT64_C(1) << 42,
     .standard = "4GiB", .help = "address space for jobs and records"},
    {"store", "blobs_map", BYTES, AT(blobs_map_bytes), .least = 16 << 20, .most = UINT64_C(1) << 44,
     .standard = "16GiB", .help = "address space for small blobs and cached results"},
    {"store", "keep_jobs", SECONDS, AT(keep_jobs_s), .most = UINT32_MAX, .standard = "7d",
     .help = "finished jobs and their outputs are kept so long"},
    {"log", "level", LEVEL, AT(log_level), .standard = "info", .help = "error, warn, info or debug"},
};
#define KEYS (sizeof keys / sizeof keys[0])

static const char *const levels[] = {"error", "warn", "info", "debug"};

/* ---- Values */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit byte_units[] = {{"", 1},          {"B", 1},         {"KiB", 1 << 10},
                                         {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", UINT64_C(1) << 40},
                                         {NULL, 0}};
static const struct unit second_units[] = {{"", 1},     {"s", 1},     {"m", 60}, {"min", 60},
                                           {"h", 3600}, {"d", 86400}, {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

static bool parse_number(const char *text, const struct unit *units, uint64_t *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    const unsigned long long number = strtoull(text, &end, 10);
    while (*end == ' ')
        end++;
    while (units->name && strcmp(units->name, end) != 0)
        units++;
    if (errno || !units->name || (number > 0 && units->factor > UINT64_MAX / number))
        return false;
    *value = number * units->factor;
    return true;
}

static const char *expected(const struct key *key)
{
    switch (key->type) {
    case TEXT:
        return "a shorter text";
    case PORT:
        return "a port, 0 to 65535";
    case HTTP_PORT:
        return "a port, 0 to 65535, or off";
    case SLOTS:
        return "auto or a number";
    case NUMBER:
        return "a number";
    case SECONDS:
        return "a duration such as 30s, 10m or 7d";
    case BYTES:
        return "a size such as 512MiB or 8GiB";
    case LEVEL:
        return "error, warn, info or debug";
    case HOURS:
        return "up to 16 times of the week in local time, such as mon-fri 08:00-18:00, sat 22:00-06:00, sun";
    case VERIFY:
        return "none or spot";
    }
    return "";
}

static bool set_value(struct config *config, const struct key *key, const char *text)
{
    char *at = (char *)config + key->offset;
    uint64_t number = 0;
    switch (key->type) {
    case TEXT:
        if (strlen(text) >= key->bytes)
            return false;
        snprintf(at, key->bytes, "%s", text);
        return true;
    case PORT:
        if (!parse_number(text, no_units, &number) || number > UINT16_MAX)
            return false;
        *(uint16_t *)(void *)at = (uint16_t)number;
        return true;
    case HTTP_PORT:
        if (strcmp(text, "off") == 0)
            number = CONFIG_HTTP_OFF;
        else if (!parse_number(text, no_units, &number) || number > UINT16_MAX)
            return false;
        *(uint32_t *)(void *)at = (uint32_t)number;
        return true;
    case SLOTS:
        if (strcmp(text, "auto") == 0) {
            *(int32_t *)(void *)at = -1;
            return true;
        }
        if (!parse_number(text, no_units, &number) || number > key->most)
            return false;
        *(int32_t *)(void *)at = (int32_t)number;
        return true;
    case NUMBER:
    case SECONDS:
        if (!parse_number(text, key->type == SECONDS ? second_units : no_units, &number) ||
            number < key->least || number > key->most)
            return false;
        *(uint32_t *)(void *)at = (uint32_t)number;
        return true;
    case BYTES:
        if (!parse_number(text, byte_units, &number) || number < key->least || number > key->most)
            return false;
        *(uint64_t *)(void *)at = number;
        return true;
    case HOURS:
        if (strlen(text) >= key->bytes || !schedule_parse(text, &config->owner_hours))
            return false;
        snprintf(at, key->bytes, "%s", text);
        return true;
    case LEVEL:
        for (int32_t l = 0; l < 4; l++)
            if (strcmp(text, levels[l]) == 0) {
                *(int32_t *)(void *)at = l;
                return true;
            }
        return false;
    case VERIFY:
        *(bool *)(void *)at = strcmp(text, "spot") == 0;
        return *(bool *)(void *)at || strcmp(text, "none") == 0;
    }
    return false;
}

static void print_scaled(FILE *out, uint64_t value, const struct unit *units)
{
    const struct unit *best = units;
    for (const struct unit *unit = units; unit->name; unit++)
        if (value > 0 && value % unit->factor == 0 && unit->factor >= best->factor)
            best = unit;
    fprintf(out, "%llu%s", (unsigned long long)(value / best->factor), best->name);
}

static void print_value(FILE *out, const struct config *config, const struct key *key)
{
    const char *at = (const char *)config + key->offset;
    switch (key->type) {
    case TEXT:
    case HOURS:
        fputs(at, out);
        break;
    case PORT:
        fprintf(out, "%u", *(const uint16_t *)(const void *)at);
        break;
    case HTTP_PORT:
        if (*(const uint32_t *)(const void *)at == CONFIG_HTTP_OFF)
            fputs("off", out);
        else
            fprintf(out, "%u", *(const uint32_t *)(const void *)at);
        break;
    case SLOTS:
        if (*(const int32_t *)(const void *)at < 0)
            fputs("auto", out);
        else
            fprintf(out, "%d", *(const int32_t *)(const void *)at);
        break;
    case NUMBER:
        fprintf(out, "%u", *(const uint32_t *)(const void *)at);
        break;
    case SECONDS:
        print_scaled(out, *(const uint32_t *)(const void *)at, second_units);
        break;
    case BYTES:
        print_scaled(out, *(const uint64_t *)(const void *)at, byte_units);
        break;
    case LEVEL:
        fputs(levels[*(const int32_t *)(const void *)at], out);
        break;
    case VERIFY:
        fputs(*(const bool *)(const void *)at ? "spot" : "none", out);
        break;
    }
}

/* ", from 1MiB to 1024TiB"; "" for types whose range goes without saying. */
static const char *range_text(const struct key *key, char *text, size_t text_bytes)
{
    const struct unit *units = key->type == BYTES     ? byte_units
                               : key->type == SECONDS ? second_units
                                                      : no_units;
    text[0] = '\0';
    FILE *out = key->most > 0 ? fmemopen(text, text_bytes, "w") : NULL;
    if (!out)
        return text;
    fputs(", from ", out);
    print_scaled(out, key->least, units);
    fputs(" to ", out);
    print_scaled(out, key->most, units);
    fclose(out);
    return text;
}

/* ---- Unknown keys */

static void say_unknown(const char *section, const char *name, char *error, size_t error_bytes)
{
    const struct key *nearest = NULL;
    size_t best = section[0] ? 4 : 3;
    bool known_section = strcmp(section, "tenants") == 0;
    for (size_t k = 0; k < KEYS; k++) {
        const bool same = strcmp(keys[k].section, section) == 0;
        known_section = known_section || same;
        const size_t far = word_distance(name, keys[k].name) + (same ? 0 : 1);
        if (far < best) {
            best = far;
            nearest = &keys[k];
        }
    }
    if (nearest)
        snprintf(error, error_bytes, "unknown key '%s' in [%s]; did you mean '%s' in [%s]?", name, section,
                 nearest->name, nearest->section);
    else if (!section[0])
        snprintf(error, error_bytes, "'%s' stands before any [section]; `weir config dump` lists them all",
                 name);
    else if (!known_section)
        snprintf(error, error_bytes, "unknown section [%s]; `weir config dump` lists them all", section);
    else
        snprintf(error, error_bytes, "unknown key '%s' in [%s]; `weir config dump` lists them all", name,
                 section);
}

static bool set_tenant(struct config *config, const char *name, const char *value, char *error,
                       size_t error_bytes)
{
    uint64_t uid;
    if (strncmp(name, "uid-", 4) != 0 || !parse_number(name + 4, no_units, &uid) || uid > UINT32_MAX) {
        snprintf(error, error_bytes, "'%s' in [tenants] is not uid-NUMBER, such as uid-1000 = research",
                 name);
        return false;
    }
    if (!value[0] || strlen(value) >= sizeof config->tenant[0].tenant) {
        snprintf(error, error_bytes, "the tenant of %s has 1 to %zu characters", name,
                 sizeof config->tenant[0].tenant - 1);
        return false;
    }
    uint32_t place = 0;
    while (place < config->tenant_count && config->tenant[place].uid != (uint32_t)uid)
        place++;
    if (place == CONFIG_TENANTS_MAX) {
        snprintf(error, error_bytes, "more than %d tenants", CONFIG_TENANTS_MAX);
        return false;
    }
    config->tenant[place].uid = (uint32_t)uid;
    snprintf(config->tenant[place].tenant, sizeof config->tenant[place].tenant, "%s", value);
    if (place == config->tenant_count)
        config->tenant_count++;
    return true;
}

static bool set(struct config *config, const char *section, const char *name, const char *value, char *error,
                size_t error_bytes)
{
    if (strcmp(section, "tenants") == 0)
        return set_tenant(config, name, value, error, error_bytes);
    for (size_t k = 0; k < KEYS; k++) {
        if (strcmp(keys[k].section, section) != 0 || strcmp(keys[k].name, name) != 0)
            continue;
        if (set_value(config, &keys[k], value))
            return true;
        char range[80];
        snprintf(error, error_bytes, "'%s' is not good for %s in [%s]; it takes %s%s", value, name, section,
                 expected(&keys[k]), range_text(&keys[k], range, sizeof range));
        return false;
    }
    say_unknown(section, name, error, error_bytes);
    return false;
}

/* ---- The public functions */

void config_defaults(struct config *config)
{
    *config = (struct config){0};
    for (size_t k = 0; k < KEYS; k++)
        set_value(config, &keys[k], keys[k].standard);
}

bool config_set(struct config *config, const char *assignment, char *error, size_t error_bytes)
{
    char text[2 * CONFIG_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", assignment);
    char *equals = strchr(text, '=');
    char *dot = strchr(text, '.');
    if (!equals || !dot || dot > equals) {
        snprintf(error, error_bytes, "'%.100s' is not SECTION.KEY=VALUE", assignment);
        return false;
    }
    *equals = *dot = '\0';
    return set(config, text, dot + 1, equals + 1, error, error_bytes);
}

struct reading {
    struct config *config;
    const char *path;
    char *error;
    size_t error_bytes;
    bool failed;
};

static int on_key(void *context, const char *section, const char *name, const char *value, int line)
{
    struct reading *reading = context;
    char error[400];
    if (reading->failed || set(reading->config, section, name, value, error, sizeof error))
        return 1;
    reading->failed = true;
    snprintf(reading->error, reading->error_bytes, "%s:%d: %s", reading->path, line, error);
    return 0;
}

/* inih's own callback has no line; this one is told by its reader. */
struct lines {
    FILE *file;
    int line;
    struct reading *reading;
};

/* Indentation is removed: inih would take an indented line for more of the value before it. A line that does not fit
 * becomes one that is refused, where inih would take its rest for a line of its own. */
static char *read_line(char *text, int capacity, void *stream)
{
    struct lines *lines = stream;
    lines->line++;
    if (!fgets(text, capacity, lines->file))
        return NULL;
    if (!strchr(text, '\n') && !feof(lines->file)) {
        for (int c = fgetc(lines->file); c != EOF && c != '\n';)
            c = fgetc(lines->file);
        snprintf(text, (size_t)capacity, "[line too long\n");
    }
    memmove(text, text + strspn(text, " \t"), strlen(text + strspn(text, " \t")) + 1);
    return text;
}

static int on_value(void *context, const char *section, const char *name, const char *value)
{
    struct lines *lines = context;
    return on_key(lines->reading, section, name, value, lines->line);
}

static bool load_file(struct config *config, const char *path, bool required, char *error, size_t error_bytes)
{
    struct reading reading = {.config = config, .path = path, .error = error, .error_bytes = error_bytes};
    struct lines lines = {.file = fopen(path, "re"), .reading = &reading};
    if (!lines.file) {
        if (!required && errno == ENOENT)
            return true;
        snprintf(error, error_bytes, "cannot read %s: %s", path, strerror(errno));
        return false;
    }
    const int bad_line = ini_parse_stream(read_line, &lines, on_value, &lines);
    const bool unreadable = ferror(lines.file); /* a folder, for one */
    const int reason = errno;
    fclose(lines.file);
    if (unreadable) {
        snprintf(error, error_bytes, "cannot read %s: %s", path, strerror(reason));
        return false;
    }
    if (!reading.failed && bad_line != 0) {
        reading.failed = true;
        snprintf(error, error_bytes,
                 "%s:%d: neither [section], nor key = value, nor a comment, or longer than %d characters",
                 path, bad_line, INI_MAX_LINE - 2);
    }
    return !reading.failed;
}

bool config_load(struct config *config, const char *path, bool required, char *error, size_t error_bytes)
{
    if (!load_file(config, path, required, error, error_bytes))
        return false;
    char pattern[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(pattern, sizeof pattern, "%.*sconf.d/*.conf", slash ? (int)(slash - path + 1) : 0, path);
    glob_t found;
    bool good = true;
    if (glob(pattern, 0, NULL, &found) == 0) { /* sorted by name */
        for (size_t i = 0; good && i < found.gl_pathc; i++)
            good = load_file(config, found.gl_pathv[i], true, error, error_bytes);
        globfree(&found);
    }
    return good;
}

void config_dump(const struct config *config, FILE *out)
{
    const char *section = "";
    for (size_t k = 0; k < KEYS; k++) {
        if (strcmp(section, keys[k].section) != 0)
            fprintf(out, "%s[%s]\n", k ? "\n" : "", keys[k].section);
        section = keys[k].section;
        fprintf(out, "# %s (%s)\n%s = ", keys[k].help, keys[k].standard[0] ? keys[k].standard : "empty",
                keys[k].name);
        print_value(out, config, &keys[k]);
        fputc('\n', out);
    }
    fputs("\n[tenants]\n# uid-NUMBER = TENANT; a uid without a row is the site's own tenant\n", out);
    for (uint32_t i = 0; i < config->tenant_count; i++)
        fprintf(out, "uid-%u = %s\n", config->tenant[i].uid, config->tenant[i].tenant);
}

/* One value, as the INI form has it. */
static json_t *value_json(const struct config *config, const struct key *key)
{
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    if (!out)
        abort();
    print_value(out, config, key);
    fclose(out);
    json_t *value = json_string(text);
    free(text);
    return value;
}

json_t *config_json(const struct config *config)
{
    json_t *all = json_object(), *tenants = json_object();
    for (size_t k = 0; k < KEYS; k++) {
        json_t *section = json_object_get(all, keys[k].section);
        if (!section) {
            section = json_object();
            json_object_set_new(all, keys[k].section, section);
        }
        json_object_set_new(section, keys[k].name, value_json(config, &keys[k]));
    }
    for (uint32_t i = 0; i < config->tenant_count; i++) {
        char uid[24];
        snprintf(uid, sizeof uid, "uid-%u", config->tenant[i].uid);
        json_object_set_new(tenants, uid, json_string(config->tenant[i].tenant));
    }
    json_object_set_new(all, "tenants", tenants);
    return all;
}
