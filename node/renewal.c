#include "node/renewal.h"

#include <inttypes.h>
#include <stdlib.h>

#include "node/log.h"

#define TRY_MS 60000
#define TRY_MIN_MS 1000
#define LOOK_MS 60000 /* the wall clock may be set at any time, so no longer sleep is trusted */

/* One call at a time; after a refusal the next try asks the next issuer. */
struct renewal {
    struct loop *loop;
    struct federation *federation;
    struct join_client *client;
    struct renewal_callbacks callbacks;
    int64_t try_at_ms;
    uint32_t next; /* issuer */
    bool asking;
};

static int64_t pause_ms(const struct renewal *renewal)
{
    const struct certificate *certificate = federation_certificate(renewal->federation);
    const int64_t tenth_ms = (certificate->not_after_s - certificate->not_before_s) * 100;
    if (tenth_ms > TRY_MS)
        return TRY_MS;
    return tenth_ms < TRY_MIN_MS ? TRY_MIN_MS : tenth_ms;
}

static void say_renewed(struct renewal *renewal)
{
    log_info("certificate_renewed", "until_s=%" PRId64,
             federation_certificate(renewal->federation)->not_after_s);
    renewal->next = 0;
    renewal->callbacks.renewed(renewal->callbacks.context);
}

static void on_called(void *context, const struct join_result *result)
{
    struct renewal *renewal = context;
    renewal->asking = false;
    if (result->error == JOIN_OK) {
        say_renewed(renewal);
        return;
    }
    renewal->next++;
    log_warn("certificate_renewal", "error=%s ends_s=%" PRId64,
             result->error == JOIN_REFUSED ? join_refusal_name(result->refusal) : "unreachable",
             federation_certificate(renewal->federation)->not_after_s);
}

static void renew(struct renewal *renewal, int64_t wall_s)
{
    if (federation_renew_self(renewal->federation, wall_s, NULL) == CRYPTO_OK) {
        say_renewed(renewal);
        return;
    }
    struct federation_contact contact;
    if (!renewal->callbacks.issuer(renewal->callbacks.context, renewal->next, &contact)) {
        const bool none = renewal->next == 0;
        renewal->next = 0;
        if (none || !renewal->callbacks.issuer(renewal->callbacks.context, 0, &contact)) {
            log_warn("certificate_renewal", "error=no_issuer_is_up ends_s=%" PRId64,
                     federation_certificate(renewal->federation)->not_after_s);
            return;
        }
    }
    renewal->asking = join_renew(renewal->client, &contact, on_called, renewal);
}

static int64_t on_turn(void *context, int64_t now_ms)
{
    struct renewal *renewal = context;
    const int64_t wall_s = clock_wall_ms() / 1000;
    if (now_ms < renewal->try_at_ms)
        return renewal->try_at_ms;
    if (!federation_renew_due(renewal->federation, wall_s)) {
        const int64_t left_s = certificate_renew_at_s(federation_certificate(renewal->federation)) - wall_s;
        const int64_t left_ms = left_s > LOOK_MS / 1000 ? LOOK_MS : left_s * 1000;
        renewal->try_at_ms = now_ms + (left_ms > TRY_MIN_MS ? left_ms : TRY_MIN_MS);
        return renewal->try_at_ms;
    }
    renewal->try_at_ms = now_ms + pause_ms(renewal);
    if (!renewal->asking)
        renew(renewal, wall_s);
    return renewal->try_at_ms;
}

bool renewal_open(struct loop *loop, struct federation *federation, struct join_client *client,
                  const struct renewal_callbacks *callbacks, struct renewal **out)
{
    struct renewal *renewal = calloc(1, sizeof *renewal);
    if (!renewal)
        return false;
    renewal->loop = loop;
    renewal->federation = federation;
    renewal->client = client;
    renewal->callbacks = *callbacks;
    loop_on_turn(loop, on_turn, renewal);
    *out = renewal;
    return true;
}

void renewal_close(struct renewal *renewal)
{
    free(renewal);
}
