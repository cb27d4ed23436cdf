#!/bin/sh
# in-own-cgroup.sh COMMAND…: on cgroup v2, runs a command in a leaf of this process's own cgroup, which
# hands its controllers on, so that tests make cgroups beside the leaf (`src/cgroup.rs`). Nothing else
# may run in that cgroup: `systemd-run --scope -p Delegate=yes` makes one, with `--user` as a user.
set -eu
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "$own/toolcell-tests"
echo $$ >"$own/toolcell-tests/cgroup.procs"
for controller in memory pids cpu; do
    # A kernel may lack one; what is refused then is what tests look at.
    if grep -qw "$controller" "$own/cgroup.controllers"; then
        echo "+$controller" >"$own/cgroup.subtree_control"
    fi
done
exec "$@"
