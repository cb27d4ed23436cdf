#!/usr/bin/env bash
# Packs what `release.sh` built into one tarball, with the same bytes for the same content.
set -euo pipefail
cd "$(dirname "$0")/.."
dist=${DIST:-target/dist}
version=$("$dist/toolcell" --version | cut -d' ' -f2)
name=toolcell-$version-$(uname -m)-linux
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/$name/debian"
cp -r "$dist/toolcell" "$dist/man" "$dist/completions" packaging/install.sh packaging/systemd packaging/apparmor \
    README.md CHANGELOG.md LICENSE-* docs profiles/profile.schema.json "$tree/$name"
cp packaging/debian/toolcell.sysusers "$tree/$name/debian"
chmod -R u=rwX,go=rX "$tree"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu \
    -C "$tree" -c "$name" | gzip -9n >"$dist/$name.tar.gz"
echo "$dist/$name.tar.gz"
