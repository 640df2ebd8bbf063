#!/bin/sh
# Mistakes end with code 2 and one line that says what and where.
set -u
sim=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
refuses() {
    words=$1
    shift
    said=$("$sim" "$@" 2>&1)
    code=$?
    if [ $code -ne 2 ] || ! printf '%s' "$said" | grep -q -- "$words"; then
        echo "weir sim $*: code $code, said: $said; expected 2 and: $words"
        failed=1
    fi
}
refuses '--nodes wants a number from 1' --nodes 0
refuses '--nodes wants a number' --nodes many
refuses '--nodes wants a number' --nodes
refuses 'no such fault profile' --faults storms
refuses 'no such fault profile' --faults mixed:x
refuses 'unknown option' --fast 1
refuses 'cannot write the trace' --trace "$folder/no/such/folder"
refuses 'there is no study' --study none
refuses 'no study placement that begins with a mesh at rest' --study hops,placement
refuses 'a value is missing' --study
refuses '--samples wants a number from 1' --study hops --samples 0
refuses 'cannot write' --plan "$folder/no/such/folder"
refuses 'cannot read the scenario' --scenario "$folder/none.txt"
printf 'at 0s start a\nat 1s explode a\n' >"$folder/verb.txt"
refuses 'verb.txt:2: unknown verb' --scenario "$folder/verb.txt"
printf 'at 5s start a\nat 1s start b\n' >"$folder/time.txt"
refuses 'time.txt:2: time goes back' --scenario "$folder/time.txt"
printf 'at 0s start a\nat 1s kill b\n' >"$folder/node.txt"
refuses 'node.txt:2: no such node' --scenario "$folder/node.txt"
printf 'at 0s start a\nexpect soon a sees a up\n' >"$folder/expect.txt"
refuses 'expect.txt:2: a line begins' --scenario "$folder/expect.txt"
printf 'at soon start a\n' >"$folder/clock.txt"
refuses 'clock.txt:1: not a time' --scenario "$folder/clock.txt"
refuses 'cannot read the script' --script "$folder/none.script"
script() {
    printf "$1" >"$folder/faults.script"
    refuses "$2" --script "$folder/faults.script"
}
script 'at 1s crash n0\n' "faults.script:1: the line 'run seed S nodes N' must come before"
script 'run seed 1 nodes 4\nat 9s explode n0\n' 'faults.script:2: no such kind of fault'
script 'run seed 1 nodes 4\nat 9s reset n0 size 1\nat 8s reset n0 size 1\n' 'faults.script:3: time goes back'
script 'run seed 1 nodes 4\nat 9s reset n4 size 1\n' 'faults.script:2: no such node'
script 'run seed 1 nodes 4\nat 9s pause n3 for 5m\n' 'faults.script:2: out of range'
script 'run seed 1 nodes 4\nat 9s pause n3\n' 'faults.script:2: this kind of fault lasts for longer'
script 'run seed 1 nodes 4\nat 9s reset n3\n' 'faults.script:2: this kind of fault needs a size'
script 'run seed 1 nodes 4\nat 9s reset n3 sise 1\n' 'faults.script:2: unknown word'
script 'run seed 1 nodes 4\nat 9s reset n3 size\n' 'faults.script:2: a value is missing'
script 'run seed 1\n' 'faults.script:1: it must be said how many nodes'
script 'run seed 1 nodes 4000000\n' 'faults.script:1: out of range'
script 'network slow\n' 'faults.script:1: a network is faithful or adversarial'
script 'explode\n' 'faults.script:1: a line begins with'
script '# nothing\n' "no line 'run seed S nodes N'"
printf '# nothing\n' >"$folder/empty.txt"
refuses 'no story' --scenario "$folder/empty.txt"
printf 'at 0s start a b\nexpect within 5s a sees b down\n' >"$folder/wrong.txt"
"$sim" --scenario "$folder/wrong.txt" >"$folder/said" 2>&1
if [ $? -ne 1 ] || ! grep -q "wrong.txt:2: it didn't happen" "$folder/said"; then
    echo "a story that doesn't hold must fail with its line:"
    cat "$folder/said"
    failed=1
fi
printf 'run seed 3 nodes 4 minutes 2 jobs 5\nnetwork faithful loss 3\nat 30.5s crash n1 for 2s size 9\n' >"$folder/fine.script"
if ! "$sim" --script "$folder/fine.script" >"$folder/said" 2>&1 || ! grep -q 'everything held' "$folder/said"; then
    echo "a script of one fault must run:"
    cat "$folder/said"
    failed=1
fi
# However short a run is, its calm is long enough for what is claimed of it.
holds() {
    if ! "$sim" "$@" >"$folder/said" 2>&1 || ! grep -q 'everything held' "$folder/said"; then
        echo "weir sim $* must hold:"
        cat "$folder/said"
        failed=1
    fi
}
holds --seed 1 --nodes 6 --minutes 1 --faults none
holds --seed 1 --nodes 6 --minutes 2 --faults none
holds --seed 1 --seeds 6 --nodes 12 --minutes 1
holds --seed 3 --nodes 12 --minutes 3
holds --seed 3 --nodes 12 --minutes 4 --faults wrong
# A study that is stopped states what it has seen until then.
timeout --preserve-status -s TERM 3 "$sim" --study evictions-oneway --nodes 30 --minutes 100000 --json >"$folder/said" 2>&1
if [ $? -ne 6 ] || ! grep -q '"virtual_minutes": [0-9]' "$folder/said"; then
    echo "a study that is stopped must end with 6 and say how far it came:"
    cat "$folder/said"
    failed=1
fi
exit $failed
