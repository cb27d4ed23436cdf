#!/bin/sh
# Makes a guest of a fresh Debian root: mmdebstrap calls it with the root's directory.
set -eu
root=$1
here=$(dirname "$0")
units=$root/etc/systemd/system
install -m 0755 "$here/agent" "$root/usr/local/sbin/agent"
install -m 0644 "$here/agent.service" "$here/login.service" "$units/"
mkdir -p "$units/graphical.target.wants" "$root/lib/modules" "$root/etc/systemd/journald.conf.d"
ln -sf /etc/systemd/system/agent.service "$units/graphical.target.wants/agent.service"
# What would wake up in the middle of a test, or wait for hardware that is not there.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-tmpfiles-clean.timer; do
    ln -sf /dev/null "$units/$unit"
done
chroot "$root" useradd --create-home --uid 1000 --user-group --shell /bin/bash dev
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost guest\n::1 localhost\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 rw,noatime 0 0' >"$root/etc/fstab"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/guest.conf"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
