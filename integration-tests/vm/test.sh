#!/usr/bin/env bash
# The integration tests in guests with systemd, cgroup v2 and kernels of choice.
#
#   test.sh ci         the telling ones on one modern kernel, as root and as a user who logged in
#   test.sh all        all that matter there, the same way
#
# Where no guest can run, that is said as a skipped test. The output is that of the tests, and their
# skips go to the list that `run.sh` counts, each with the guest that it was in.
set -euo pipefail
cd "$(dirname "$0")/../.."

KERNEL=${TOOLCELL_VM_KERNEL:-6.12}
# Seconds for one suite as one user, before the guest is taken away.
CI_MAX=600
ALL_MAX=3600
# What an emulated processor needs of patience; see `harness::slowness`.
SLOWNESS=6
THREADS=2

target=${CARGO_TARGET_DIR:-target}
push=$target/vm-push
machine=integration-tests/vm/machine.sh
what=${1:-ci}
status=0

# What the guest gets, at the paths where it lies here: programs are known by them.
stage() {
    local name path
    rm -rf "$push"
    mkdir -p "$push/target/debug/deps" "$push/integration-tests"
    cargo build --locked --quiet -p toolcell
    cargo test --locked --quiet --no-run -p toolcell-integration-tests --bins --tests \
        --message-format json |
        jq -r 'select(.executable != null and .profile.test and .target.kind == ["test"])
            | "\(.target.name) \(.executable)"' |
        while read -r name path; do
            strip --strip-debug -o "$push/target/debug/deps/$name" "$path"
        done
    for name in toolcell probe container_filter; do
        strip --strip-debug -o "$push/target/debug/$name" "$target/debug/$name"
    done
    cp -r packaging "$push/"
    cp -r integration-tests/vm integration-tests/programs integration-tests/in-own-cgroup.sh \
        "$push/integration-tests/"
    mkdir "$push/integration-tests/tests"
    cp -r integration-tests/tests/snapshots "$push/integration-tests/tests/"
    chmod 1777 "$push/target"
}

# order USER COMMAND…: the script that the guest runs as root, so that COMMAND runs as USER.
order() {
    local user=$1 env
    shift
    # The guest is thrown away, so that tests may change its settings.
    env="TOOLCELL_TEST_SLOWNESS=$SLOWNESS -E TOOLCELL_TEST_THROWAWAY_HOST=yes -E INSTA_UPDATE=no -E INSTA_WORKSPACE_ROOT=$(pwd)"
    echo "cd $(pwd) || exit 125"
    case $user in
    root)
        # As a unit of the system's.
        echo "systemd-run --quiet --wait --collect --pipe --unit=toolcell-tests -p Delegate=yes \
-p WorkingDirectory=$(pwd) -E $env -E PATH=\"\$PATH\" integration-tests/in-own-cgroup.sh $*"
        ;;
    user)
        # As from a login shell: PAM opens a session, and the user's own systemd gives the cgroup.
        echo "systemd-run --quiet --wait --collect --pipe --unit=toolcell-tests -p User=dev \
-p PAMName=login -p WorkingDirectory=$(pwd) -E XDG_SESSION_TYPE=tty -E XDG_SESSION_CLASS=user \
-E $env -E PATH=\"\$PATH\" systemd-run --quiet --user --scope -p Delegate=yes -- \
integration-tests/in-own-cgroup.sh $*"
        ;;
    esac
    echo 'status=$?; sed "s/^/@/" target/skipped.txt 2>/dev/null; exit $status'
}

# suite FILE LIMIT USER KERNEL
suite() {
    local file=$1 limit=$2 user=$3 kernel=$4 ended=0
    printf '\n== Linux %s, %s\n' "$kernel" "$user"
    order "$user" "integration-tests/vm/suite.sh $THREADS $file" >"$push/order"
    "$machine" run "$kernel" "$limit" "$push" | tee "$target/vm.log" | grep -v '^@SKIPPED' || true
    ended=${PIPESTATUS[0]}
    sed -n "s/^@SKIPPED /SKIPPED Linux $kernel, $user: /p" "$target/vm.log" >>"$target/skipped.txt"
    [ "$ended" -eq 0 ] || status=$ended
    return 0
}

ended=0
"$machine" build "$KERNEL" || ended=$?
if [ "$ended" -eq 126 ]; then
    echo 'SKIPPED tests in a virtual machine: this host can have no guest' | tee -a "$target/skipped.txt"
    exit 0
fi
[ "$ended" -eq 0 ] || exit "$ended"
stage
for user in root user; do
    case $what in
    ci) suite integration-tests/vm/suite-ci.txt "$CI_MAX" "$user" "$KERNEL" ;;
    all) suite integration-tests/vm/suite-all.txt "$ALL_MAX" "$user" "$KERNEL" ;;
    *)
        echo 'usage: test.sh ci|all' >&2
        exit 2
        ;;
    esac
done
exit "$status"
