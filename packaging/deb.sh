#!/usr/bin/env bash
# Makes the Debian package of what `release.sh` built; `[package.metadata.deb]` says what is in it.
set -euo pipefail
cd "$(dirname "$0")/.."
dist=target/dist # where the metadata looks
# Another that is installed comes first.
PATH=$PATH:$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/bin
if ! cargo deb --version >/dev/null 2>&1; then
    echo 'deb.sh: `cargo deb` is not installed; hint: `cargo install --locked cargo-deb`' >&2
    exit 1
fi
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
rm -f "$dist"/*.deb
cargo deb --package toolcell --no-build --no-strip --locked --output "$dist/"
