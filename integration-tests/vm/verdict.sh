#!/usr/bin/env bash
# Runs in a guest of the matrix: what the doctor says of it, then the tests that the tier is promised by.
set -uo pipefail
here=$(dirname "$0")
above=$(dirname "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)")
mkdir "$above/doctor"
doctor=$(
    echo "$BASHPID" >"$above/doctor/cgroup.procs"
    exec "$here/../../target/debug/toolcell" doctor --json
)
doctor=$(printf '%s' "$doctor" | tr -d '\n')
echo "@doctor $doctor"
tier=$(printf '%s' "$doctor" | sed -n 's/.*"tier": *"\([a-z]*\)".*/\1/p')
suite=$here/suite-tier-${tier:-none}.txt
if "$here/suite.sh" "$1" "$suite"; then
    echo "@result $(sed -n 's/^# result: //p' "$suite")"
else
    echo '@result tests fail'
    exit 1
fi
