#!/usr/bin/env bash
# The integration tests in guests with systemd, cgroup v2 and kernels of choice.
#
#   test.sh ci         the telling ones on one modern kernel, as root and as a user who logged in
#   test.sh all        all that matter there, the same way
#   test.sh matrix     on every guest of `matrix.txt` (or those that are named): the doctor's verdict, the
#                      layers, escapes and ends; then the table in docs/hosts.md is compared with it
#
# Where no guest can run, that is said as a skipped test. The output is that of the tests, and their
# skips go to the list that `run.sh` counts, each with the guest that it was in.
set -euo pipefail
cd "$(dirname "$0")/../.."

KERNEL=${TOOLCELL_VM_KERNEL:-6.12}
# Seconds for one suite as one user, before the guest is taken away: emulated, and on a busy host.
CI_MAX=1200
ALL_MAX=10800
MATRIX_MAX=3600
# What an emulated processor needs of patience; see `harness::slowness`.
SLOWNESS=6
THREADS=2
# Of the executables, the product's is optimised: the emulator is slow enough. See Cargo.toml.
PROFILE=vm
TABLE=docs/hosts.md

target=${CARGO_TARGET_DIR:-target}
push=$target/vm-push
log=$target/vm.log
vm=integration-tests/vm
what=${1:-ci}
status=0

# What the guest gets, at the paths where it lies here: programs are known by them.
stage() {
    local name path
    rm -rf "$push"
    mkdir -p "$push/target/debug/deps" "$push/integration-tests/tests"
    cargo build --locked --quiet -p toolcell --profile "$PROFILE"
    strip -o "$push/target/debug/toolcell" "$target/$PROFILE/toolcell"
    cargo test --locked --quiet --no-run -p toolcell-integration-tests --bins --tests \
        --message-format json |
        jq -r 'select(.executable != null and .profile.test and .target.kind == ["test"])
            | "\(.target.name) \(.executable)"' |
        while read -r name path; do
            strip --strip-debug -o "$push/target/debug/deps/$name" "$path"
        done
    for name in probe container_filter; do
        strip --strip-debug -o "$push/target/debug/$name" "$target/debug/$name"
    done
    cp -r packaging "$push/"
    cp -r "$vm" integration-tests/programs integration-tests/in-own-cgroup.sh "$push/integration-tests/"
    cp -r integration-tests/tests/snapshots "$push/integration-tests/tests/"
    chmod 1777 "$push/target"
}

# order USER COMMAND…: the script that the guest runs as root, so that COMMAND runs as USER.
order() {
    local user=$1 run here
    shift
    here=$(pwd)
    run="systemd-run --quiet --wait --collect --pipe --unit=toolcell-tests -p WorkingDirectory=$here"
    # The guest is thrown away, so that tests may change its settings.
    run+=" -E PATH=\"\$PATH\" -E TOOLCELL_TEST_SLOWNESS=$SLOWNESS -E TOOLCELL_TEST_THROWAWAY_HOST=yes"
    run+=" -E INSTA_UPDATE=no -E INSTA_WORKSPACE_ROOT=$here"
    case $user in
    # As a unit of the system's.
    root) run+=" -p Delegate=yes -E HOME=/root" ;;
    # As from a login shell: PAM opens a session, and the user's own systemd gives the cgroup.
    user) run+=" -p User=dev -p PAMName=login -E XDG_SESSION_TYPE=tty -E XDG_SESSION_CLASS=user \
systemd-run --quiet --user --scope -p Delegate=yes --" ;;
    esac
    cat <<ORDER
cd $here || exit 125
# An address that is not of the loopback, which some tests need.
{ ip link add dummy0 type dummy && ip address add 192.0.2.1/24 dev dummy0 && ip link set dummy0 up; } >/dev/null 2>&1
$run integration-tests/in-own-cgroup.sh $*
status=\$?
sed 's/^/@/' target/skipped.txt 2>/dev/null
exit \$status
ORDER
}

# in_guest USER LIMIT KERNEL APPEND COMMAND…: its output without what is for this script, which is in
# `$log`; its status.
in_guest() {
    local user=$1 limit=$2 kernel=$3 append=$4 ended where
    shift 4
    where="Linux $kernel${append:+ $append}, $user"
    printf '\n== %s\n' "$where"
    order "$user" "$@" >"$push/order"
    set +e
    "$vm/machine.sh" run "$kernel" "$limit" "$push" "$append" | tee "$log" | grep -v '^@'
    ended=${PIPESTATUS[0]}
    set -e
    sed -n "s/^@SKIPPED /SKIPPED in a guest: $where: /p" "$log" >>"$target/skipped.txt"
    return "$ended"
}

# Builds a guest; 1 if there can be none here, which is said.
guest() {
    local ended=0
    "$vm/machine.sh" build "$1" "${2:-}" || ended=$?
    [ "$ended" -ne 0 ] || return 0
    [ "$ended" -eq 126 ] || exit "$ended"
    echo "SKIPPED tests in a virtual machine: Linux $1: this host can have no such guest" |
        tee -a "$target/skipped.txt"
    return 1
}

# suite FILE LIMIT: on the one kernel, as both.
suite() {
    local file=$1 limit=$2 user ended
    guest "$KERNEL" || exit 0
    stage
    for user in root user; do
        ended=0
        in_guest "$user" "$limit" "$KERNEL" '' "$vm/suite.sh" "$THREADS" "$vm/$file" || ended=$?
        [ "$ended" -eq 0 ] || status=$ended
    done
}

# One row of the table from what two guests said, or the reason that it cannot be made.
row() {
    local kernel=$1 append=$2 root=$3 user=$4
    python3 -I - "$kernel" "$append" "$root" "$user" <<'PYTHON'
import json, sys
kernel, append, *logs = sys.argv[1:]
tiers, facts, lacking, results = [], {}, set(), set()
for log in logs:
    lines = open(log, errors="replace").read().splitlines()
    doctor = next(line for line in lines if line.startswith("@doctor "))
    found = json.loads(doctor.removeprefix("@doctor "))
    tiers.append(found["tier"] or "none")
    facts = {fact["what"]: fact for fact in found["facts"]}
    if any(line.startswith("@SKIPPED landlock_holds_alone_over_tcp") for line in lines):
        lacking.add("Landlock over TCP")
    results.add(next(line for line in lines if line.startswith("@result ")).removeprefix("@result "))
landlock = facts["Landlock"]["found"].split(" (")[0] if facts["Landlock"]["fine"] else "none"
layers = {"full": "all", "rlimits": "all but the cgroup"}.get(tiers[0], "no cell is made")
if lacking:
    layers += f"{' and' if 'but' in layers else ' but'} {', '.join(sorted(lacking))}"
cells = [kernel, f"`{append}`" if append else "", landlock, *tiers, layers, ", ".join(sorted(results))]
print("| " + " | ".join(cells).replace("|  |", "| |") + " |")
PYTHON
}

matrix() {
    local only=" $* " kernel append user ended rows=$target/vm-matrix.txt
    : >"$rows"
    local staged=no
    while read -r -u 4 kernel append; do
        case $kernel in '' | '#'*) continue ;; esac
        if [ "$only" != '  ' ] && [[ $only != *" $kernel${append:+:$append} "* ]]; then continue; fi
        guest "$kernel" "$append" || continue
        [ "$staged" = yes ] || stage
        staged=yes
        for user in root user; do
            ended=0
            in_guest "$user" "$MATRIX_MAX" "$kernel" "$append" "$vm/verdict.sh" "$THREADS" || ended=$?
            [ "$ended" -eq 0 ] || status=$ended
            cp "$log" "$target/vm-$user.log"
        done
        row "$kernel" "$append" "$target/vm-root.log" "$target/vm-user.log" | tee -a "$rows"
    done 4<"$vm/matrix.txt"
    printf '\n== what was found, and whether %s says so\n' "$TABLE"
    while read -r line; do
        if grep -qxF -- "$line" "$TABLE"; then
            echo "as written: $line"
        else
            echo "NOT WRITTEN: $line"
            status=1
        fi
    done <"$rows"
}

# What is missing after that is named by `machine.sh`, and the tests are skipped.
integration-tests/install-dependencies.sh vm || echo 'not all that guests are made with can be installed'
case $what in
ci) suite suite-ci.txt "$CI_MAX" ;;
all) suite suite-all.txt "$ALL_MAX" ;;
matrix) matrix "${@:2}" ;;
*)
    echo 'usage: test.sh ci|all|matrix [KERNEL[:APPEND]…]' >&2
    exit 2
    ;;
esac
exit "$status"
