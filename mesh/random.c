#include "mesh/internal.h"

static uint64_t rotate_left(uint64_t x, unsigned bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static uint64_t splitmix(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void random_seed(struct mesh_random *random, const uint64_t seed[2])
{
    uint64_t low = seed[0];
    uint64_t high = seed[1];
    for (size_t i = 0; i < 2; i++) {
        random->s[2 * i] = splitmix(&low);
        random->s[2 * i + 1] = splitmix(&high);
    }
    random->s[0] |= 1; /* the generator must not start from all zeros */
}

uint64_t random_next(struct mesh_random *random)
{
    uint64_t *const s = random->s;
    const uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    const uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Multiplication by the bound: its bias, below bound / 2^32, does not matter to anything decided here. */
uint32_t random_below(struct mesh_random *random, uint32_t bound)
{
    assert(bound >= 1);
    return (uint32_t)(((random_next(random) >> 32) * bound) >> 32);
}
