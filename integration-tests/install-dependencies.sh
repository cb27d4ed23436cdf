#!/bin/sh
# Installs what the tests need of Debian (12 or 13). As root it runs apt once, and only if something
# is missing; as an ordinary user it says what is missing, and the tests that need it are skipped by
# name. `git` and the like must be those in /usr/bin: a cell shows the system's programs.
set -eu

# One line for each package: its name, and a file that is there once it is installed.
packages() {
  cat <<'LIST'
bsdutils /usr/bin/script
chromium-headless-shell /usr/bin/chromium-headless-shell
cpio /usr/bin/cpio
curl /usr/bin/curl
default-jdk-headless /usr/bin/javac
e2fsprogs /usr/sbin/mke2fs
ffmpeg /usr/bin/ffmpeg
fonts-dejavu-core /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
gcc /usr/bin/gcc
git /usr/bin/git
golang-go /usr/bin/go
hey /usr/bin/hey
iproute2 /bin/ip
jq /usr/bin/jq
kmod /usr/sbin/depmod
libc6-dev /usr/include/stdio.h
make /usr/bin/make
mmdebstrap /usr/bin/mmdebstrap
mount /usr/bin/mount
musl-tools /usr/bin/musl-gcc
nodejs /usr/bin/node
npm /usr/bin/npm
openssl /usr/bin/openssl
perl /usr/bin/perl
postgresql /usr/lib/postgresql/*/bin/postgres
python3 /usr/bin/python3
python3-pip /usr/lib/python3/dist-packages/pip
python3-venv /usr/lib/python3*/ensurepip
qemu-system-x86 /usr/bin/qemu-system-x86_64
qemu-utils /usr/bin/qemu-img
redis-server /usr/bin/redis-server
redis-tools /usr/bin/redis-cli
ripgrep /usr/bin/rg
sqlite3 /usr/bin/sqlite3
tar /bin/tar
tmux /usr/bin/tmux
util-linux /usr/bin/setpriv
xz-utils /usr/bin/xz
LIST
}

missing=$(packages | while read -r package file; do
  # Some paths have a version in them, so the first that matches will do.
  for found in $file; do
    [ -e "$found" ] || printf ' %s' "$package"
    break
  done
done)

if [ -z "$missing" ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "install-dependencies: missing:$missing" >&2
  echo "hint: run \`apt-get install --no-install-recommends$missing\` as root" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
case $missing in
*qemu-*)
  # Of one version, or installing the one removes the other.
  version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')
  missing="$missing qemu-system-x86=$version qemu-utils=$version"
  ;;
esac
# shellcheck disable=SC2086  # each word is a package
apt-get install -y --no-install-recommends --allow-downgrades $missing
