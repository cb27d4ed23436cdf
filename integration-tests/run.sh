#!/usr/bin/env bash
# Checks and tests everything, then says how many passed, failed and were skipped.
#
#   run.sh check   format, lints, licences
#   run.sh all     what the tests need is installed, then the same and every test
#
# Every stage runs, also after one that failed. The last line is `N passed, N failed, N skipped`; the
# names of what failed and what was skipped, with the reason, stand above it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Longest time for all tests together, so that one that hangs cannot hold up CI for ever.
TESTS_MINUTES_MAX=30
# Longest time to build what checks the licences: minutes, on two cores.
TOOLS_MINUTES_MAX=20
# The version of `cargo deny` that CI installs; another that is installed already will do.
CARGO_DENY=0.20.2

what=${1:-all}
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
skips=$target/skipped.txt
log=$target/test.log
rm -f "$skips" "$log"
passed=0
failed=()

title() { printf '\n== %s\n' "$*"; }

# stage NAME COMMAND…: runs one check, and counts it.
stage() {
    local name=$1
    shift
    title "$name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed+=("$name")
    fi
}

skip() { printf 'SKIPPED %s: %s\n' "$1" "$2" | tee -a "$skips"; }

checks() {
    stage 'format' cargo fmt --all --check
    stage 'lints' cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
    # Where CI keeps it; a cargo-deny elsewhere on the path comes first.
    PATH=$PATH:$(realpath "$target")/tools/bin
    if ! cargo deny --version >/dev/null 2>&1 && [ "${CI:-}" = true ]; then
        stage 'cargo-deny, for the licences' install_cargo_deny
    fi
    if cargo deny --version >/dev/null 2>&1; then
        # Advisories need a database that is fetched, so they are not looked up here.
        stage 'licences and sources' cargo deny --locked check bans licenses sources
    elif [ "${CI:-}" = true ]; then
        # CI must not pass without; that it could not be installed has been counted above.
        failed+=('licences and sources (no `cargo deny`)')
    else
        skip 'licences and sources' \
            '`cargo deny` is not installed; hint: `cargo install --locked cargo-deny`, or `CI=true`'
    fi
}

# Into the target directory, which CI keeps between its runs, and with a build directory that goes.
install_cargo_deny() {
    local tools=$target/tools status
    timeout --kill-after=10 $((TOOLS_MINUTES_MAX * 60)) \
        cargo install --locked --quiet --version "$CARGO_DENY" --root "$tools" \
        --target-dir "$tools/build" cargo-deny
    status=$?
    rm -rf "$tools/build"
    return $status
}

# The counts of `cargo nextest` or `cargo test` in the log, added to ours.
count() {
    local name=$1 status=$2 from=$3 counts
    counts=$(tail -n "+$((from + 1))" "$log" | sed 's/\x1b\[[0-9;]*m//g' | awk '
        /^ *Summary \[/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^(failed|timed)/) failed += $(i - 1)
            }
        }
        /^test result: / { passed += $4; failed += $6 }
        END { print passed + 0, failed + 0 }')
    passed=$((passed + ${counts% *}))
    local broken=${counts#* }
    if [ "$broken" -gt 0 ]; then
        while IFS= read -r test; do
            failed+=("$test")
        done < <(tail -n "+$((from + 1))" "$log" | sed 's/\x1b\[[0-9;]*m//g' | awk '
            # What nextest lists, and what `cargo test` says.
            $1 ~ /^(FAIL|TIMEOUT|SIG[A-Z]+|ABORT)$/ && /\[/ { sub(/^[^\]]*\] *(\([^)]*\) *)?/, ""); print }
            /^test .* \.\.\. FAILED$/ { print $2 }' | sort -u)
    fi
    # It can also fail without a test that did: a build, a crash, the time for all of them.
    if [ "$status" -ne 0 ] && [ "$broken" -eq 0 ]; then
        failed+=("$name (status $status)")
    fi
}

# tests NAME COMMAND…: runs tests, and counts them one by one.
tests() {
    local name=$1 from=0 status
    shift
    title "$name"
    [ -e "$log" ] && from=$(wc -l <"$log")
    timeout --kill-after=10 $((TESTS_MINUTES_MAX * 60)) "$@" 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
    [ "$status" -eq 124 ] && echo "the tests took longer than $TESTS_MINUTES_MAX minutes"
    count "$name" "$status" "$from"
}

everything() {
    stage 'what the tests need' integration-tests/install-dependencies.sh
    checks
    # The tests start the built executable and its probes.
    stage 'build' cargo build --workspace --all-targets --locked --quiet
    if cargo nextest --version >/dev/null 2>&1; then
        tests 'tests' cargo nextest run --workspace --locked
    else
        tests 'tests' cargo test --workspace --locked --no-fail-fast --all-targets
    fi
    # A guest with systemd and cgroup v2, emulated if need be; skipped by name where there can be none.
    tests 'tests in a virtual machine' integration-tests/vm/test.sh ci
    tests 'examples in the documentation' cargo test --workspace --locked --no-fail-fast --doc
    # A cell that was built before its call is no other cell.
    if cargo nextest --version >/dev/null 2>&1; then
        tests 'escapes from cells that waited' env TOOLCELL_START=ready \
            cargo nextest run --locked -p toolcell-integration-tests -E 'binary(/^escape_/)'
    fi
}

case $what in
check) checks ;;
all) everything ;;
*)
    echo "usage: run.sh check|all" >&2
    exit 2
    ;;
esac

skipped=0
if [ -s "$skips" ]; then
    sort -u -o "$skips" "$skips"
    skipped=$(wc -l <"$skips")
    title 'skipped'
    sed 's/^SKIPPED //' "$skips"
fi
if [ ${#failed[@]} -gt 0 ]; then
    title 'failed'
    printf '%s\n' "${failed[@]}"
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "${#failed[@]}" "$skipped"
[ ${#failed[@]} -eq 0 ]
