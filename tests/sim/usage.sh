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
refuses 'the faults after the profile are a number from 0 to 100000' --faults mixed:x
refuses 'the faults after the profile are a number from 0 to 100000' --faults mixed:100001
refuses 'unknown option' --fast 1
refuses 'cannot write the trace' --trace "$folder/no/such/folder"
refuses 'there is no study' --study none
refuses 'no study placement that begins with a mesh at rest' --study hops,placement
refuses 'a value is missing' --study
refuses '--samples wants a number from 1' --study hops --samples 0
refuses 'cannot write' --plan "$folder/no/such/folder"
refuses 'cannot write /nonexist/x' --minimise /nonexist/x --seeds 100
# What an option means nothing to.
refuses '--trace does not go with --study' --study hops --trace "$folder/trace"
refuses '--faults does not go with --study' --study hops --faults mixed:5
refuses '--json does not go with --scenario' --scenario "$folder/none.txt" --json
refuses '--seed does not go with --script' --script "$folder/none.script" --seed 99
refuses '--nodes does not go with --script' --nodes 30 --script "$folder/none.script"
refuses '--plan does not go with --script' --script "$folder/none.script" --plan "$folder/plan"
refuses '--study does not go with --scenario' --study hops --scenario "$folder/none.txt"
refuses '--trace does not go with --minimise' --minimise "$folder/small" --trace "$folder/trace"
refuses 'only for a --study: --samples' --samples 3
refuses 'only for a --study: --at-most' --at-most hops=3
refuses '--json does not go with --hash-only' --json --hash-only
refuses '--plan writes the faults of one seed' --seeds 2 --plan "$folder/plan"
refuses 'choose sites of more than 64 nodes' --nodes 10000 --site-nodes 3
refuses 'choose sites of more than 64 nodes' --study hops --nodes 10000 --site-nodes 3
if [ -e "$folder/plan" ] || [ -e "$folder/trace" ] || [ -e "$folder/small" ]; then
    echo 'what is refused must write nothing'
    failed=1
fi
# Studies: how many nodes they take, and what they know nothing of.
for study in hops hops-loss10 traffic-idle traffic-busy detect-reset detect-silent detect-silent-loss10 evictions-loss10 \
    evictions-oneway heal owner placement speculation tiers verify; do
    refuses "study $study: it takes [0-9]* nodes or more" --study $study --nodes 1
done
refuses 'study detect-reset: it takes 4 nodes' --study hops,detect-reset --nodes 3
refuses 'study heal: --samples does not go with it' --study heal --samples 3
refuses 'study hops: .*--minutes does not go with it' --study hops --minutes 3
refuses 'study placement: .*neither --from-disks nor --site-nodes' --study placement --from-disks
if "$sim" --study list | grep -q ' the same'; then
    echo 'what a study is must be told without the one before it'
    failed=1
fi
# Where few are left, detection ends: the last three tell of the last death.
for nodes in 4 5; do
    if ! timeout 20 "$sim" --study detect-reset --nodes $nodes --at-least samples=$((nodes - 3)) >"$folder/said" 2>&1; then
        echo "detection among $nodes nodes must end:"
        cat "$folder/said"
        failed=1
    fi
done
# Bounds on figures.
bounded() {
    expected=$1
    words=$2
    shift 2
    said=$("$sim" --nodes 20 "$@" 2>&1)
    code=$?
    if [ $code -ne $expected ] || ! printf '%s' "$said" | grep -q -- "$words"; then
        echo "weir sim $*: code $code, said: $said; expected $expected and: $words"
        failed=1
    fi
}
bounded 0 'hops_mean' --study hops --at-most hops=20,hops_mean=20.5 --at-least hops=1,samples=20
bounded 1 'study hops: hops_mean is [0-9.]*, and must be at most 0.9$' --study hops --at-most hops=20,hops_mean=0.9
bounded 1 'study hops: samples is 20, and must be at least 21$' --study hops --at-least samples=21
bounded 1 'study hops: samples is 20, and must be at most 19.999999$' --study heal,hops --at-most samples=19.999999,one_view_ms=600000
bounded 0 'one_view_ms' --study heal,hops --at-most samples=20,one_view_ms=600000
bounded 2 'no study that ran states a figure hop$' --study heal,hops --at-most hops=20,hop=20
bounded 2 'a bound is FIGURE=NUMBER' --study hops --at-most hops
bounded 2 'a bound is FIGURE=NUMBER' --study hops --at-most hops=3x
bounded 2 'a bound is FIGURE=NUMBER' --study hops --at-most =3
# Policies side by side, and a short run's time in minutes.
bounded 0 '^  messages_per_shard_90  *[0-9.]*  *[0-9.]*  *[0-9.]*  *[0-9.]*  *[0-9.]*  *[0-9.]*$' --study placement --minutes 1
bounded 0 '1 seed, 10.0 virtual minutes' --faults none:0 --jobs 1
refuses 'cannot read the scenario' --scenario "$folder/none.txt"
printf 'at 0s start a\nat 1s explode a\n' >"$folder/verb.txt"
refuses 'verb.txt:2: unknown verb' --scenario "$folder/verb.txt"
printf 'at 5s start a\nat 1s start b\n' >"$folder/time.txt"
refuses 'time.txt:2: time goes back' --scenario "$folder/time.txt"
printf 'at 0s start a\nat 1s kill b\n' >"$folder/node.txt"
refuses 'node.txt:2: no such node' --scenario "$folder/node.txt"
# Each kind of word has its own mistake, told at its line.
story() {
    printf "at 0s start a b\\nat 1s submit J at a shards 4 of 1s\\n$1\\n" >"$folder/story.txt"
    refuses "story.txt:3: $2" --scenario "$folder/story.txt"
}
story 'at 2s kill c' "no such node: 'c'"
story 'at 2s kill a a a' "wrong words: it is 'kill NODE'"
story 'at 2s explode a' "unknown verb 'explode'"
story 'at 2s cancel K' "no such job: 'K'"
story 'at 2s submit J at a shards 4 of 1s' "the name is taken already: 'J'"
story 'at 2s submit K at a shards 0 of 1s' "not a number from 1 to 100000: '0'"
story 'at 2s submit K at a shards 4x of 1s' "not a number from 1 to 100000: '4x'"
story 'at 2s submit K at a shards 4 of soon' "not a time: 'soon'"
story 'at 2s start a' "it was started before ('restart' starts it again): 'a'"
story 'at 2s start c c' "it was started before ('restart' starts it again): 'c'"
story 'at 2s clone a as b' "the name is taken already: 'b'"
story 'at 2s clone a as abcdefghijklmnop' "a name is 1 to 15 letters"
story 'at 2s clone a as \033[31m' "a name is 1 to 15 letters, digits, - and _, not '?.31m'"
story 'at 2s kill \033[31m\302\233' "no such node: '?.31m??'"
story 'expect within 5s a sees b dead' "no such state of a node: 'dead'"
story 'expect within 5s job J dead' "no such state of a job: 'dead'"
story 'expect within 5s message pong_ a -> b' "no such kind of message: 'pong_'"
story 'expect within 5s nothing at a reaches 5' "no such counter: 'nothing'"
story "$(printf '%0500d' 0)" 'too long a line'
refuses 'cannot read the scenario .*: Is a directory' --scenario "$folder"
refuses 'cannot read the script .*: Is a directory' --script "$folder"
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
script 'expl\033[31mode\n' "with 'expl?.31mode'"
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
