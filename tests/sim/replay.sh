#!/bin/sh
# A seed run twice, traced or not, gives the same hash. `--seeds 5 --hash-only` is also what compares two compilers.
set -eu
once=$("$1" --seed 11 --seeds 5 --hash-only)
twice=$("$1" --seed 11 --seeds 5 --trace /dev/null --hash-only)
if [ "$once" != "$twice" ]; then
    printf 'the same seeds gave\n%s\nand then\n%s\n' "$once" "$twice"
    exit 1
fi

# A run as its seed draws it, the same with the number of nodes named, as in the command that a failure prints, and the
# same from its list of faults, as --minimise begins with it, take the same path.
list=$(mktemp)
trap 'rm -f "$list"' EXIT
drawn=$("$1" --seed 12 --plan "$list" --hash-only)
nodes=$(printf '%s' "$drawn" | sed 's/.*nodes \([0-9]*\).*/\1/')
if [ "$drawn" != "$("$1" --seed 12 --nodes "$nodes" --hash-only)" ] || [ "$drawn" != "$("$1" --script "$list" --hash-only)" ]; then
    echo 'seed 12 takes another path when its nodes are named, or from its list of faults'
    exit 1
fi

# So does one with larger sites, by its list of faults.
drawn=$("$1" --seed 12 --site-nodes 9 --plan "$list" --hash-only)
if [ "$drawn" != "$("$1" --script "$list" --hash-only)" ]; then
    echo 'seed 12 with sites of nine takes another path from its list of faults'
    exit 1
fi
