#!/usr/bin/env bash
# Builds what is released, into DIST (target/dist): one static executable, its manual pages and
# completions. The same source, compiler and C compiler give the same bytes, wherever it is built.
#
# Static, against glibc, so that it runs on any Linux of its architecture, however old or new its C
# library: it asks the C library for no name of a user or a host (checked below), which would need the
# libraries of the host.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$(pwd -P)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
dist=${DIST:-$source/target/dist}
cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
host=$(rustc -vV | sed -n 's/^host: //p')

# The date of what is built, not of the building.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# `--target` keeps these from build scripts and macros, which cannot be static. The longest match
# wins, and the last of equals: the target directory may lie within the source.
remap="--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$source=/toolcell"
remap+=" --remap-path-prefix=$target=/toolcell/target"
export RUSTFLAGS="-Ctarget-feature=+crt-static -Cstrip=symbols $remap"
# The C and assembly of dependencies name their files, too.
map="-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$source=/toolcell"
map+=" -ffile-prefix-map=$target=/toolcell/target"
export CFLAGS="$map"
export CARGO_INCREMENTAL=0
${CARGO:-cargo} build --release --locked -p toolcell --target "$host" --target-dir "$target"

executable=$target/$host/release/toolcell
if readelf --dynamic "$executable" | grep -q NEEDED; then
    echo "release.sh: \`$executable\` is not static" >&2
    exit 1
fi
# What glibc can only do with the libraries of the host, it tells of by these words.
for call in getaddrinfo getpwnam getpwuid getgrnam gethostbyname; do
    if strings -a "$executable" | grep -qxE "_?_?(nss_)?$call(_r)?"; then
        echo "release.sh: \`$call\` came into the static executable" >&2
        exit 1
    fi
done

packaging/collect.sh "$executable" "$dist"
echo "$dist/toolcell: $(sha256sum <"$dist/toolcell" | cut -d' ' -f1)"
