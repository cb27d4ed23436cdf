#!/usr/bin/env bash
# Runs in the guest: `suite.sh THREADS SUITE`, in a cgroup that is delegated to who runs it. SUITE is
# lines of a test executable's name, what tests of it to run (all if nothing is said), and options.
set -uo pipefail
threads=$1
suite=$(realpath "$2") || exit 125
cd "$(dirname "$0")/.." || exit 125
failed=0
# Debug builds that were linked for this directory, as they are on the machine that built them.
deps=../target/debug/deps
while read -r name filters; do
    case $name in '' | '#'*) continue ;; esac
    printf '\n-- %s %s\n' "$name" "$filters"
    begun=$SECONDS
    # shellcheck disable=SC2086  # each word is a filter
    "$deps/$name" --test-threads "$threads" $filters </dev/null || failed=1
    printf -- '-- %s took %d s\n' "$name" $((SECONDS - begun))
done <"$suite"
exit $failed
