// What can go wrong in the crypto library: one code for each cause that a caller or an operator would treat
// differently, and one table with its class, its short name and its text.
//
// Every function of the library that can fail returns `enum crypto_error`; 0 is success. Results come through
// the last pointers and are untouched on failure unless a function says otherwise.
#ifndef WEIR_CRYPTO_ERROR_H
#define WEIR_CRYPTO_ERROR_H

#include <stddef.h>

enum crypto_error {
    CRYPTO_OK = 0,

    // The shape of received bytes.
    CRYPTO_TRUNCATED,     // the bytes end before the format does
    CRYPTO_TRAILING,      // bytes are left over after the format's end
    CRYPTO_WRONG_MAGIC,   // not this format, or another version of it
    CRYPTO_MALFORMED,     // a field holds a value that the format does not allow
    CRYPTO_TOO_LARGE,     // a field is longer than its limit in limits.h
    CRYPTO_WRONG_KIND,    // a valid record, of another kind than the one asked for
    CRYPTO_BAD_CHECKSUM,  // a token or a key file was mistyped or damaged
    CRYPTO_DIGEST_DIFFER, // content does not match the digest that names it

    // What was signed, by whom, for whom, and when.
    CRYPTO_WRONG_FEDERATION,
    CRYPTO_BAD_SIGNATURE,
    CRYPTO_NOT_YET_VALID,
    CRYPTO_EXPIRED,

    // Chains of certificates.
    CRYPTO_CHAIN_TOO_LONG,      // more than CHAIN_CERTIFICATES_MAX
    CRYPTO_CHAIN_BROKEN,        // a certificate was not issued by the next one's key, or a key occurs twice
    CRYPTO_UNKNOWN_AUTHORITY,   // the last certificate was not issued by an authority key of the genesis
    CRYPTO_ISSUER_RIGHT_LACKS,  // an issuer lacks the right that this act needs
    CRYPTO_RIGHTS_WIDER,        // a certificate holds rights that its issuer could not hand on
    CRYPTO_VALIDITY_WIDER,      // a certificate's validity reaches outside its issuer's
    CRYPTO_REVOKED,             // a certificate of the chain is revoked
    CRYPTO_THRESHOLD_UNHANDLED, // the genesis asks for more than one signature, which this version can't
                                // check

    // Joining.
    CRYPTO_NOT_OURS, // an answer that is valid, but for other keys, another site or from another inviter

    // This machine.
    CRYPTO_KEY_MISSING, // no key file there
    CRYPTO_KEY_EXISTS,  // a key file is already there; it is never overwritten by a create
    CRYPTO_KEY_EXPOSED, // the folder or a key file belongs to, or is open to, somebody else; see the advice
    CRYPTO_IO,          // the system refused a file operation; see the advice
    CRYPTO_NO_SPACE,    // the caller's buffer is too small
    CRYPTO_UNAVAILABLE, // libsodium could not start
    CRYPTO_ERROR_COUNT, // not an error: how many there are
};

// What the receiver of an error does about it.
enum crypto_class {
    CRYPTO_CLASS_NONE,  // success
    CRYPTO_CLASS_PEER,  // a peer sent it: drop and count
    CRYPTO_CLASS_LOCAL, // this machine or this caller: report to the operator
    CRYPTO_CLASS_GONE,  // it was good once: forget it
};

// A sentence for the operator that names the path and, where there is one, the exact command that puts it
// right. Filled by the functions that touch files, on failure only; never holds a secret.
struct crypto_advice {
    char text[2048];
};

enum crypto_class crypto_error_class(enum crypto_error error);

// A short stable word such as "bad_signature", for counters and log fields. Static.
const char *crypto_error_name(enum crypto_error error);

// What is wrong, in words that continue "cannot verify the certificate: ...". Static.
const char *crypto_error_text(enum crypto_error error);

#endif
