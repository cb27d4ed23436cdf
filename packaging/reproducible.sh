#!/usr/bin/env bash
# Builds the release of the committed source twice, in directories of different names, and compares.
set -euo pipefail
cd "$(dirname "$0")/.."
at=$(mktemp -d)
trap 'rm -rf "$at"' EXIT
export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
for place in one another/and-deeper; do
    mkdir -p "$at/$place"
    git archive HEAD | tar -x -C "$at/$place"
    # A target directory of its own, whatever the caller's is.
    CARGO_TARGET_DIR=$at/$place/target "$at/$place/packaging/release.sh"
    (cd "$at/$place" && packaging/tarball.sh)
    if cargo deb --version >/dev/null 2>&1; then (cd "$at/$place" && packaging/deb.sh); fi
done
diff -r "$at/one/target/dist" "$at/another/and-deeper/target/dist"
echo "the same bytes twice: $(cd "$at/one/target/dist" && echo *)"
