#!/bin/sh
# The planted race is reported under our suppressions, by name; the same program without it is not complained about.
set -u
planted=$1
TSAN_OPTIONS="exitcode=66 suppressions=$(dirname "$0")/suppressions"
export TSAN_OPTIONS
said=$("$planted" 2>&1)
code=$?
if [ $code -ne 66 ] || ! printf '%s' "$said" | grep -q 'data race.*count_one'; then
    printf 'the planted race was not reported (code %d):\n%s\n' $code "$said"
    exit 1
fi
said=$("$planted" clean 2>&1)
code=$?
if [ $code -ne 0 ]; then
    printf 'without a race there was a report (code %d):\n%s\n' $code "$said"
    exit 1
fi
