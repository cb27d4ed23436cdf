#!/usr/bin/env bash
# The Debian package in a guest with systemd: installed, run as a service, crashed, upgraded, purged.
#
#   packaging.sh          with a package of the debug build, made here
#   packaging.sh DEB      with this package
#
# Prints `N passed, N failed` at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

KERNEL=${TOOLCELL_VM_KERNEL:-6.12}
# Seconds for all of it, emulated.
LIMIT=1500
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
push=$target/vm-packaging
machine=integration-tests/vm/machine.sh

skip() {
    echo "SKIPPED the package in a virtual machine: $1" | tee -a "$target/skipped.txt"
    exit 0
}

ended=0
"$machine" build "$KERNEL" || ended=$?
[ "$ended" -ne 126 ] || skip 'this host can have no guest'
[ "$ended" -eq 0 ] || exit "$ended"
rm -rf "$push"
mkdir -p "$push"

# A package of the debug build: made in a copy, so that a release that waits in target/dist stays.
make_package() {
    local copy=$target/vm-packaging-source
    PATH=$PATH:$target/tools/bin
    cargo deb --version >/dev/null 2>&1 ||
        skip '`cargo deb` is not installed; hint: `cargo install --locked cargo-deb`'
    cargo build --locked --quiet -p toolcell
    rm -rf "$copy"
    mkdir -p "$copy"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$copy"
    strip --strip-debug -o "$target/vm-toolcell" "$target/debug/toolcell"
    (cd "$copy" && packaging/collect.sh "$target/vm-toolcell" target/dist &&
        SOURCE_DATE_EPOCH=1 CARGO_TARGET_DIR=$target packaging/deb.sh >/dev/null 2>&1)
    cp "$copy"/target/dist/*.deb "$push/new.deb"
}
if [ $# -gt 0 ]; then cp "$1" "$push/new.deb"; else make_package; fi

# The same once more, as a version that came before.
dpkg-deb -R "$push/new.deb" "$push/old"
sed -i 's/^Version: .*/Version: 0.0.1-1/' "$push/old/DEBIAN/control"
dpkg-deb -Znone -b "$push/old" "$push/old.deb" >/dev/null
rm -rf "$push/old"
cp integration-tests/vm/packaging/* "$push"
echo "cd '$(pwd)' && bash ./guest.sh ./old.deb ./new.deb" >"$push/order"

printf '\n== the Debian package, Linux %s\n' "$KERNEL"
"$machine" run "$KERNEL" "$LIMIT" "$push" 2>&1 | tee "$target/vm-packaging.log" || ended=$?
printf '%d passed, %d failed\n' "$(grep -c '^ok ' "$target/vm-packaging.log")" \
    "$(grep -c '^not ok ' "$target/vm-packaging.log")"
exit "$ended"
