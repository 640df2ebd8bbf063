/* Manifests and sources of users' kernels, from strangers: a text, and behind its first zero byte a source. What is
 * accepted must be whole: every name and shape that planning and the launcher will use. */
#include <stdlib.h>
#include <string.h>

#include "kernels/manifest_user.h"
#include "kernels/user_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void demand(bool condition)
{
    if (!condition)
        abort();
}

static void check_axes(const struct manifest_user *user, const struct manifest_axes *axes)
{
    demand(axes->rank >= 1 && axes->rank <= ARRAY_RANK_MAX && axes->dtype < ARRAY_DTYPES);
    for (uint32_t i = 0; i < axes->rank; i++) {
        demand(axes->axis[i].kind != MANIFEST_AXIS_ITEMS || i == 0);
        demand(axes->axis[i].kind != MANIFEST_AXIS_PARAM || axes->axis[i].value < user->manifest.param_count);
        demand(axes->axis[i].kind != MANIFEST_AXIS_WORD || axes->axis[i].value < user->word_count);
    }
}

static void check_manifest(const struct manifest_user *user)
{
    const struct manifest *manifest = &user->manifest;
    struct manifest_params params;
    char error[MANIFEST_ERROR_BYTES];
    demand(manifest->name && manifest->user == user && manifest->output_count > 0);
    demand(user->block >= 1 && user->block <= MANIFEST_BLOCK_MAX && user->cost_ns > 0);
    demand(user->shared_bytes <= MANIFEST_SHARED_BYTES_MAX && user->word_count <= MANIFEST_WORDS_MAX);
    for (uint32_t i = 0; i < manifest->input_count; i++)
        check_axes(user, &user->inputs[i]);
    for (uint32_t i = 0; i < manifest->output_count; i++)
        check_axes(user, &user->outputs[i]);
    demand(manifest_params_parse(manifest, NULL, 0, &params, error) == MANIFEST_OK);
    demand(manifest_params_check(manifest, &params, error) == MANIFEST_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct manifest_user user;
    struct user_source source;
    char error[MANIFEST_ERROR_BYTES];
    const uint8_t *zero = count ? memchr(bytes, 0, count) : NULL;
    const size_t text_bytes = zero ? (size_t)(zero - bytes) : count;
    if (!manifest_user_parse("fuzz.ini", (const char *)bytes, text_bytes, &user, error)) {
        demand(strncmp(error, "fuzz.ini:", 9) == 0);
        return 0;
    }
    check_manifest(&user);
    if (!zero)
        return 0;
    if (user_source_open(&source, &user, "fuzz.cu", (const char *)zero + 1, count - text_bytes - 1, error)) {
        demand(source.entry[0] && source.entry_line > 0);
        char *joined = user_source_join(&source, USER_CPU);
        demand(joined && strstr(joined, source.entry));
        free(joined);
    } else {
        demand(strncmp(error, "fuzz.cu:", 8) == 0);
    }
    user_source_close(&source);
    return 0;
}
