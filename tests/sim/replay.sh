#!/bin/sh
# A seed run twice, traced or not, gives the same hash. `--seeds 5 --hash-only` is also what compares two compilers.
set -eu
once=$("$1" --seed 11 --seeds 5 --hash-only)
twice=$("$1" --seed 11 --seeds 5 --trace /dev/null --hash-only)
if [ "$once" != "$twice" ]; then
    printf 'the same seeds gave\n%s\nand then\n%s\n' "$once" "$twice"
    exit 1
fi
