#!/bin/sh
# A run that a signal ends, as an assertion of the core or bad memory would, says which it was and how it is played again.
set -u
sim=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
wrong() {
    echo "$1:"
    cat "$folder/said" "$folder/stdout"
    failed=1
}
# It runs when it has traced something; a study, which traces nothing, when it has a handler for SIGABRT.
runs() {
    kill -0 "$1" 2>/dev/null || return 0
    [ -s "$folder/trace" ] || [ "$2" = --study ] && [ $((0x$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status") & 0x20)) -ne 0 ]
}
stops() {
    signal=$1
    expected=$2
    shift 2
    rm -f "$folder/trace"
    "$sim" "$@" >"$folder/stdout" 2>"$folder/said" &
    until runs $! "$1"; do :; done
    kill -s "$signal" $!
    wait $!
    code=$?
    if [ $code -ne 1 ] || [ "$(grep -cxF "replay: weir sim $expected" "$folder/said")" -ne 1 ] || ! grep -q '^seed [0-9]*: the core stopped on' "$folder/said"; then
        wrong "weir sim $*, stopped by SIG$signal: code $code; expected 1, its seed and, once, replay: weir sim $expected"
    fi
}
long="--nodes 5 --minutes 90000"
trace="--trace sim.trace"
for signal in ABRT SEGV FPE BUS ILL; do
    stops $signal "--seed 5 $long --jobs 100 --faults mixed:20 --check-every 9 $trace" --seed 5 $long --seeds 3 --check-every 9 --trace "$folder/trace"
done
stops SEGV "--seed 5 $long --jobs 100 --faults mixed:20 $trace" --seed 5 $long --json --trace "$folder/trace"
if ! python3 -c 'import json, sys; failed = json.load(open(sys.argv[1]))["failed"]; sys.exit(failed["seed"] != 5 or not failed["claim"] or failed["replay"] not in open(sys.argv[2]).read())' "$folder/stdout" "$folder/said"; then
    wrong 'a stop must be in the JSON, too'
fi
printf 'run seed 8 nodes 4 minutes 90000 jobs 5\nat 30s crash n1 for 2s\n' >"$folder/it's a list"
stops FPE "--script '$folder/it'\\''s a list' --check-every 3 $trace" --script "$folder/it's a list" --check-every 3 --trace "$folder/trace"
printf 'at 0s start a b c d\nexpect within 900000s a sees b down\n' >"$folder/story.txt"
stops ABRT "--scenario $folder/story.txt --seed 6 $trace" --scenario "$folder/story.txt" --seed 6 --trace "$folder/trace"
stops ABRT "--study evictions-oneway --nodes 30 --minutes 90000" --study evictions-oneway --nodes 30 --minutes 90000
exit $failed
