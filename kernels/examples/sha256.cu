// SHA-256 of each row (FIPS 180-4).
#include "weir_kernel.h"

__constant__ uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__device__ uint32_t rotate(uint32_t x, uint32_t by)
{
    return x >> by | x << (32 - by);
}

// Byte `at` of the padded message: the row, 0x80, zeros, and the length in bits.
__device__ uint32_t padded(const uint8_t *row, uint64_t bytes, uint64_t total, uint64_t at)
{
    if (at < bytes)
        return row[at];
    if (at == bytes)
        return 0x80;
    return at >= total - 8 ? (uint32_t)(bytes * 8 >> (8 * (total - 1 - at))) & 0xff : 0;
}

extern "C" __global__ void sha256(weir_items items, const uint8_t *rows, uint8_t *digests, uint64_t bytes)
{
    const uint64_t i = weir_item();
    if (i >= items.count)
        return;
    const uint8_t *row = rows + i * bytes;
    const uint64_t total = (bytes + 9 + 63) / 64 * 64;
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (uint64_t block = 0; block < total; block += 64) {
        uint32_t w[64], s[8];
        for (int t = 0; t < 16; t++) {
            w[t] = 0;
            for (int k = 0; k < 4; k++)
                w[t] = w[t] << 8 | padded(row, bytes, total, block + 4 * t + k);
        }
        for (int t = 16; t < 64; t++) {
            const uint32_t a = w[t - 15], b = w[t - 2];
            w[t] = w[t - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[t - 7] +
                   (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        for (int k = 0; k < 8; k++)
            s[k] = h[k];
        for (int t = 0; t < 64; t++) {
            const uint32_t one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                                 ((s[4] & s[5]) ^ (~s[4] & s[6])) + round_constants[t] + w[t];
            const uint32_t two = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                                 ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            for (int k = 7; k > 0; k--)
                s[k] = s[k - 1];
            s[4] += one;
            s[0] = one + two;
        }
        for (int k = 0; k < 8; k++)
            h[k] += s[k];
    }
    for (int k = 0; k < 32; k++)
        digests[32 * i + k] = (uint8_t)(h[k / 4] >> (24 - 8 * (k % 4)));
}
