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
refuses 'a value is missing' --study
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
printf '# nothing\n' >"$folder/empty.txt"
refuses 'no story' --scenario "$folder/empty.txt"
printf 'at 0s start a b\nexpect within 5s a sees b down\n' >"$folder/wrong.txt"
"$sim" --scenario "$folder/wrong.txt" >"$folder/said" 2>&1
if [ $? -ne 1 ] || ! grep -q "wrong.txt:2: it didn't happen" "$folder/said"; then
    echo "a story that doesn't hold must fail with its line:"
    cat "$folder/said"
    failed=1
fi
exit $failed
