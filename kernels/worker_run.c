#include "kernels/worker_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RAW_ROW_SUFFIX ":row="

/* A file given as input. Split text has its line index, so that a shard's lines are one range of bytes. */
struct file_input {
    char name[64];
    void *pages;
    size_t page_bytes;
    const uint8_t *data;
    struct manifest_given given;
    uint64_t *lines;
    struct kernel_keep keep;
};

struct job {
    const struct manifest *manifest;
    struct manifest_params params;
    struct manifest_plan plan;
    struct file_input files[RUN_ARGUMENTS_MAX];
    size_t file_count;
    uint8_t *outputs[MANIFEST_OUTPUTS_MAX];
};

static bool open_input(const struct manifest *manifest, const char *argument, struct file_input *file);
static bool check_values(const struct job *job);
static bool run_shards(struct job *job, struct gpu *gpu);
static bool write_output(const struct job *job, uint32_t output, const char *path);

static bool complain(const char *text)
{
    fprintf(stderr, "weir-worker: %s\n", text);
    return false;
}

/* The output of that name: "y=out.npy" or, where a kernel gives one output only, "out.npy". */
static const char *output_path(const struct job *job, const struct worker_run *run, uint32_t output)
{
    const char *name = job->manifest->outputs[output].name;
    for (size_t i = 0; i < run->output_count; i++) {
        if (strncmp(run->outputs[i], name, strlen(name)) == 0 && run->outputs[i][strlen(name)] == '=')
            return run->outputs[i] + strlen(name) + 1;
    }
    return NULL;
}

static bool gives_combined(const struct job *job)
{
    for (uint32_t i = 0; i < job->plan.output_count; i++)
        if (job->manifest->outputs[i].combine != MANIFEST_CONCAT)
            return true;
    return false;
}

int worker_run(const struct worker_run *run, struct gpu *gpu)
{
    char error[MANIFEST_ERROR_BYTES];
    struct manifest_given given[RUN_ARGUMENTS_MAX];
    int status = 2;
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return 1;
    job->manifest = manifest_find(run->kernel);
    if (!job->manifest) {
        manifest_unknown_text(run->kernel, error);
        complain(error);
        goto done;
    }
    if (manifest_params_parse(job->manifest, run->params, run->param_count, &job->params, error)) {
        complain(error);
        goto done;
    }
    for (size_t i = 0; i < run->input_count; i++) {
        job->file_count++;
        if (!open_input(job->manifest, run->inputs[i], &job->files[i]))
            goto done;
        given[i] = job->files[i].given;
    }
    const struct manifest_wish wish = {.items = run->items};
    if (manifest_check(job->manifest, &job->params, given, job->file_count, &wish, &job->plan, error)) {
        complain(error);
        goto done;
    }
    if (!check_values(job))
        goto done;
    if (gives_combined(job)) { /* a node puts shards' arrays together; here all items are one shard */
        job->plan.shard_items = job->plan.items;
        job->plan.shard_count = 1;
    }
    for (uint32_t i = 0; i < job->plan.output_count; i++) {
        uint64_t bytes;
        array_bytes(&job->plan.outputs[i], &bytes);
        job->outputs[i] = malloc(bytes);
        if (!job->outputs[i]) {
            complain("out of memory for the outputs");
            status = 1;
            goto done;
        }
        memset(job->outputs[i], 0, bytes); /* the pages are there, as in a worker, when time is taken */
    }
    status = 1;
    if (!run_shards(job, gpu))
        goto done;
    for (uint32_t i = 0; i < job->plan.output_count; i++) {
        const char *path = output_path(job, run, i);
        if (path && !write_output(job, i, path))
            goto done;
    }
    status = 0;

done:
    for (size_t i = 0; i < job->file_count; i++) {
        kernel_keep_release(&job->files[i].keep);
        free(job->files[i].lines);
        if (job->files[i].pages)
            munmap(job->files[i].pages, job->files[i].page_bytes);
    }
    for (uint32_t i = 0; i < MANIFEST_OUTPUTS_MAX; i++)
        free(job->outputs[i]);
    free(job);
    return status;
}

static bool map_file(const char *path, struct file_input *file)
{
    struct stat status;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        fprintf(stderr, "weir-worker: %s: %s\n", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    file->page_bytes = (size_t)status.st_size;
    file->pages = status.st_size > 0
                      ? mmap(NULL, file->page_bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0)
                      : MAP_FAILED;
    close(fd);
    if (file->pages == MAP_FAILED) {
        file->pages = NULL;
        fprintf(stderr, "weir-worker: %s: %s\n", path,
                file->page_bytes ? strerror(errno) : "the file is empty");
        return false;
    }
    return true;
}

/* NAME=FILE, with `:split` or `:broadcast` where the kernel allows both, and `:row=BYTES` for raw rows. The
 * manifest says whether the file is text, raw or .npy. */
static bool open_input(const struct manifest *manifest, const char *argument, struct file_input *file)
{
    char path[4096];
    const char *equals = strchr(argument, '=');
    if (!equals || (size_t)(equals - argument) >= sizeof file->name || strlen(equals + 1) >= sizeof path)
        return complain("write --input NAME=FILE[:split]");
    memcpy(file->name, argument, (size_t)(equals - argument));
    file->name[equals - argument] = '\0';
    strcpy(path, equals + 1);
    file->given.name = file->name;

    const struct manifest_input *input = NULL;
    for (uint32_t i = 0; i < manifest->input_count; i++)
        if (strcmp(manifest->inputs[i].name, file->name) == 0)
            input = &manifest->inputs[i];
    uint64_t row_bytes = 0;
    char *suffix = strrchr(path, ':');
    if (suffix && strncmp(suffix, RAW_ROW_SUFFIX, strlen(RAW_ROW_SUFFIX)) == 0) {
        row_bytes = strtoull(suffix + strlen(RAW_ROW_SUFFIX), NULL, 10);
        *suffix = '\0';
        suffix = strrchr(path, ':');
    }
    file->given.role = input && !(input->roles & MANIFEST_BROADCAST) ? MANIFEST_SPLIT : MANIFEST_BROADCAST;
    if (input && input->roles == MANIFEST_SPLIT)
        file->given.role = MANIFEST_SPLIT;
    if (suffix && strcmp(suffix, ":split") == 0) {
        file->given.role = MANIFEST_SPLIT;
        *suffix = '\0';
    } else if (suffix && strcmp(suffix, ":broadcast") == 0) {
        file->given.role = MANIFEST_BROADCAST;
        *suffix = '\0';
    }
    if (!map_file(path, file))
        return false;

    uint64_t offset = 0;
    enum array_error error = ARRAY_OK;
    const bool magic = file->page_bytes >= 6 && memcmp(file->pages, "\x93NUMPY", 6) == 0;
    if (input && input->dtypes & 1u << ARRAY_TEXT) {
        file->given.type = (struct array_type){
            .dtype = ARRAY_TEXT, .rank = 1, .shape = {array_line_count(file->pages, file->page_bytes)}};
        const uint64_t capacity = file->given.type.shape[0] + 1;
        uint64_t count;
        file->lines = malloc(capacity * sizeof *file->lines);
        error = file->lines ? array_line_index(file->pages, file->page_bytes, file->lines, capacity, &count)
                            : ARRAY_NO_SPACE;
    } else if (input && input->dtypes & 1u << ARRAY_RAW && !magic) {
        error = array_raw_type(file->page_bytes, row_bytes, &file->given.type);
    } else {
        error = array_npy_decode(file->pages, file->page_bytes, file->page_bytes, &file->given.type, &offset);
    }
    if (error) {
        fprintf(stderr, "weir-worker: %s: %s\n", path, array_error_text(error));
        return false;
    }
    file->data = (const uint8_t *)file->pages + offset;
    file->given.bytes = file->page_bytes - offset;
    return true;
}

static bool check_values(const struct job *job)
{
    char error[MANIFEST_ERROR_BYTES];
    for (uint32_t i = 0; i < job->manifest->input_count; i++) {
        if (job->plan.given_index[i] < 0)
            continue;
        const struct file_input *file = &job->files[job->plan.given_index[i]];
        if (manifest_check_values(job->manifest, i, &file->given.type, file->data, file->given.bytes,
                                  file->given.type.shape[0], 0, error))
            return complain(error);
    }
    return true;
}

static double seconds_between(struct timespec begin, struct timespec end)
{
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9;
}

static bool run_shards(struct job *job, struct gpu *gpu)
{
    struct timespec begin, end, cpu_begin, cpu_end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu_begin);
    for (uint64_t first = 0; first < job->plan.items; first += job->plan.shard_items) {
        const uint64_t left = job->plan.items - first;
        struct kernel_call call = {
            .manifest = job->manifest,
            .params = &job->params,
            .first_item = first,
            .items = left < job->plan.shard_items ? left : job->plan.shard_items,
            .output_count = job->plan.output_count,
        };
        for (uint32_t i = 0; i < job->manifest->input_count; i++) {
            if (job->plan.given_index[i] < 0)
                continue;
            struct file_input *file = &job->files[job->plan.given_index[i]];
            struct kernel_input *input = &call.inputs[i];
            *input = (struct kernel_input){
                .data = file->data, .bytes = file->given.bytes, .type = file->given.type};
            if (file->given.role == MANIFEST_BROADCAST) {
                input->broadcast = true;
                input->keep = &file->keep;
                continue;
            }
            input->type.shape[0] = call.items;
            uint64_t row_bytes = 0;
            array_row_bytes(&file->given.type, &row_bytes);
            const uint64_t from = file->lines ? file->lines[first] : first * row_bytes;
            const uint64_t to =
                file->lines ? file->lines[first + call.items] : (first + call.items) * row_bytes;
            input->data = file->data + from;
            input->bytes = to - from;
        }
        for (uint32_t i = 0; i < call.output_count; i++) {
            const uint64_t item_bytes = job->plan.output_item_bytes[i];
            if (job->manifest->outputs[i].combine != MANIFEST_CONCAT) {
                call.outputs[i] = (struct kernel_output){
                    .data = job->outputs[i], .bytes = item_bytes, .type = job->plan.outputs[i]};
                continue;
            }
            call.outputs[i] = (struct kernel_output){.data = job->outputs[i] + first * item_bytes,
                                                     .bytes = call.items * item_bytes,
                                                     .type = job->plan.outputs[i]};
            call.outputs[i].type.shape[0] = call.items;
        }
        if (kernel_run(&call, gpu)) {
            fprintf(stderr, "weir-worker: items %llu to %llu: %s\n", (unsigned long long)first,
                    (unsigned long long)(first + call.items - 1), call.message);
            return false;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu_end);
    const double seconds = seconds_between(begin, end);
    printf("{\"kernel\":\"%s\",\"items\":%llu,\"shards\":%llu,\"ms\":%.3f,\"cpu_ms\":%.3f,\"gops\":%.2f}\n",
           job->manifest->name, (unsigned long long)job->plan.items,
           (unsigned long long)job->plan.shard_count, seconds * 1e3,
           seconds_between(cpu_begin, cpu_end) * 1e3,
           job->plan.item_cost.operations * (double)job->plan.items / seconds * 1e-9);
    return true;
}

static bool write_output(const struct job *job, uint32_t output, const char *path)
{
    uint8_t header[ARRAY_NPY_WRITTEN_BYTES_MAX];
    size_t header_bytes;
    uint64_t bytes;
    array_bytes(&job->plan.outputs[output], &bytes);
    if (array_npy_encode(&job->plan.outputs[output], header, &header_bytes))
        return complain("the output has no .npy type");
    FILE *file = fopen(path, "we");
    const bool good = file && fwrite(header, 1, header_bytes, file) == header_bytes &&
                      fwrite(job->outputs[output], 1, bytes, file) == bytes;
    if ((file && fclose(file) != 0) || !good) {
        fprintf(stderr, "weir-worker: %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}
