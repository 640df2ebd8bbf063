#include "crypto/error.h"

struct row {
    enum crypto_class class;
    const char *name;
    const char *text;
};

static const struct row rows[CRYPTO_ERROR_COUNT] = {
    [CRYPTO_OK] = {CRYPTO_CLASS_NONE, "ok", "no error"},
    [CRYPTO_TRUNCATED] = {CRYPTO_CLASS_PEER, "truncated", "it is cut short"},
    [CRYPTO_TRAILING] = {CRYPTO_CLASS_PEER, "trailing", "bytes follow its end"},
    [CRYPTO_WRONG_MAGIC] = {CRYPTO_CLASS_PEER, "wrong_magic", "it is of another format or version"},
    [CRYPTO_MALFORMED] = {CRYPTO_CLASS_PEER, "malformed", "a field holds a value that is not allowed"},
    [CRYPTO_TOO_LARGE] = {CRYPTO_CLASS_PEER, "too_large", "a part is larger than its limit"},
    [CRYPTO_WRONG_KIND] = {CRYPTO_CLASS_PEER, "wrong_kind", "it is a record of another kind"},
    [CRYPTO_BAD_CHECKSUM] = {CRYPTO_CLASS_LOCAL, "bad_checksum", "it was mistyped or damaged"},
    [CRYPTO_DIGEST_DIFFER] = {CRYPTO_CLASS_PEER, "digest_differs", "the content does not match its digest"},
    [CRYPTO_WRONG_FEDERATION] = {CRYPTO_CLASS_PEER, "wrong_federation", "it belongs to another federation"},
    [CRYPTO_BAD_SIGNATURE] = {CRYPTO_CLASS_PEER, "bad_signature", "its signature does not verify"},
    [CRYPTO_NOT_YET_VALID] = {CRYPTO_CLASS_PEER, "not_yet_valid", "it is not valid yet; compare the clocks"},
    [CRYPTO_EXPIRED] = {CRYPTO_CLASS_GONE, "expired", "it has expired"},
    [CRYPTO_CHAIN_TOO_LONG] = {CRYPTO_CLASS_PEER, "chain_too_long",
                               "its chain has more than three certificates; ask an inviter closer to the "
                               "authority"},
    [CRYPTO_CHAIN_BROKEN] = {CRYPTO_CLASS_PEER, "chain_broken",
                             "a certificate of its chain was not issued by the next one's key"},
    [CRYPTO_UNKNOWN_AUTHORITY] = {CRYPTO_CLASS_PEER, "unknown_authority",
                                  "its chain does not end at an authority of this federation"},
    [CRYPTO_ISSUER_RIGHT_LACKS] = {CRYPTO_CLASS_PEER, "issuer_right_lacks",
                                   "its issuer lacks the right to do this"},
    [CRYPTO_RIGHTS_WIDER] = {CRYPTO_CLASS_PEER, "rights_wider",
                             "it holds rights that its issuer can't hand on"},
    [CRYPTO_VALIDITY_WIDER] = {CRYPTO_CLASS_PEER, "validity_wider",
                               "its validity reaches outside its issuer's"},
    [CRYPTO_REVOKED] = {CRYPTO_CLASS_GONE, "revoked", "it, or one of its issuers, is revoked"},
    [CRYPTO_THRESHOLD_UNHANDLED] =
        {CRYPTO_CLASS_LOCAL, "threshold_unhandled",
         "the federation asks for several authority signatures, which this version "
         "can't check"},
    [CRYPTO_NOT_OURS] = {CRYPTO_CLASS_PEER, "not_ours", "it is not what the token promised"},
    [CRYPTO_KEY_MISSING] = {CRYPTO_CLASS_LOCAL, "key_missing", "there is no key file"},
    [CRYPTO_KEY_EXISTS] = {CRYPTO_CLASS_LOCAL, "key_exists", "a key file is there already"},
    [CRYPTO_KEY_EXPOSED] = {CRYPTO_CLASS_LOCAL, "key_exposed", "others can reach the keys"},
    [CRYPTO_IO] = {CRYPTO_CLASS_LOCAL, "io", "the system refused a file operation"},
    [CRYPTO_NO_SPACE] = {CRYPTO_CLASS_LOCAL, "no_space", "the buffer given is too small"},
    [CRYPTO_UNAVAILABLE] = {CRYPTO_CLASS_LOCAL, "unavailable", "libsodium could not start"},
};

static const struct row *row_of(enum crypto_error error)
{
    static const struct row unknown = {CRYPTO_CLASS_LOCAL, "unknown", "an unknown error"};
    return (unsigned)error < CRYPTO_ERROR_COUNT ? &rows[error] : &unknown;
}

enum crypto_class crypto_error_class(enum crypto_error error)
{
    return row_of(error)->class;
}

const char *crypto_error_name(enum crypto_error error)
{
    return row_of(error)->name;
}

const char *crypto_error_text(enum crypto_error error)
{
    return row_of(error)->text;
}
