#!/usr/bin/env bash
# Lays an executable and what it says of itself (manual pages, completions) into a directory, as
# `install.sh`, `tarball.sh` and the Debian package take it.
#
#   collect.sh EXECUTABLE DIRECTORY
set -euo pipefail
dist=$2
rm -rf "$dist"
mkdir -p "$dist/man" "$dist/completions"
install -m 0755 "$1" "$dist/toolcell"
"$dist/toolcell" man "$dist/man"
for page in "$dist"/man/*.1; do gzip -9n "$page"; done
"$dist/toolcell" completions bash >"$dist/completions/toolcell.bash"
"$dist/toolcell" completions zsh >"$dist/completions/_toolcell"
"$dist/toolcell" completions fish >"$dist/completions/toolcell.fish"
