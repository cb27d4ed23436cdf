#!/bin/sh
# Installs what `release.sh` built, or a tarball holds: the executable, manual pages, completions, and
# the units of systemd with the path of the executable. Starts and enables nothing.
#
#   PREFIX=/usr/local DESTDIR= ./install.sh [DIRECTORY]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
from=${1:-$here}
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}$prefix
[ -x "$from/toolcell" ] || { echo "install.sh: there is no \`$from/toolcell\`" >&2; exit 1; }

put() { # MODE FILE TARGET
    mkdir -p "$(dirname "$root/$3")"
    rm -f "$root/$3"
    cp "$2" "$root/$3"
    chmod "$1" "$root/$3"
}
put 755 "$from/toolcell" bin/toolcell
for page in "$from"/man/*.1.gz; do put 644 "$page" "share/man/man1/${page##*/}"; done
put 644 "$from/completions/toolcell.bash" share/bash-completion/completions/toolcell
put 644 "$from/completions/_toolcell" share/zsh/site-functions/_toolcell
put 644 "$from/completions/toolcell.fish" share/fish/vendor_completions.d/toolcell.fish
for unit in "$here"/systemd/*/toolcell.*; do
    target=lib/systemd/${unit#"$here/systemd/"}
    put 644 "$unit" "$target"
    sed -i "s#/usr/bin/toolcell#$prefix/bin/toolcell#" "$root/$target"
done
put 644 "$here/debian/toolcell.sysusers" lib/sysusers.d/toolcell.conf
put 644 "$here/apparmor/toolcell" share/toolcell/apparmor/toolcell
