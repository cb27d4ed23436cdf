#!/usr/bin/env bash
# Runs in the guest, as root: installs the package, and tries the service as an administrator would.
#
#   guest.sh OLD.deb NEW.deb
#
# Each `ok` and `not ok` is a test; the status is 1 if there was a `not ok`.
set -uo pipefail
old=$1
new=$2
here=$(cd "$(dirname "$0")" && pwd)
socket=/run/toolcell.sock
unit=toolcell.service
group=/sys/fs/cgroup/system.slice/$unit
# Seconds: the guest is emulated, on a machine that does much else.
PATIENCE=90
failed=0

# ok NAME COMMAND…: a test that passes if the command does.
ok() {
    local name=$1
    shift
    if "$@"; then
        echo "ok $name"
    else
        echo "not ok $name: \`$*\`"
        failed=1
    fi
}

# is NAME EXPECTED FOUND
is() {
    if [ "$2" = "$3" ]; then
        echo "ok $1"
    else
        echo "not ok $1: \`$3\`, not \`$2\`"
        failed=1
    fi
}

# Waits until a command succeeds, and says whether it did.
within() {
    local until=$((SECONDS + PATIENCE))
    until "$@"; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.1
    done
}

says() { grep -qF -- "$1" <<<"$2"; }
show() { systemctl show -P "$1" "$unit"; }
call() { timeout $PATIENCE python3 "$here/client.py" "$socket" "$@"; }
# More than once, if the machine has so much else to do that the tool uses up its processor time.
answers() { [ "$(call calculate '{"expression":"6*7"}')" = 'exited: 42' ]; }
cells() { find "$group" -mindepth 1 -maxdepth 1 -type d -name 'toolcell.*' 2>/dev/null | wc -l; }
has_cells() { [ "$(cells)" -eq "$1" ]; }
is_active() { [ "$(show ActiveState)" = active ]; }
is_down() { case $(show ActiveState) in inactive | failed) ;; *) return 1 ;; esac; }
# Another supervisor than this one serves.
is_another() { is_active && [ "$(show MainPID)" != "$1" ]; }
processes() { pgrep -u toolcell 2>/dev/null | wc -l; }
namespaces() { find /proc/[0-9]*/ns/net -printf '%l\n' 2>/dev/null | sort -u | wc -l; }
mounts() { wc -l </proc/1/mountinfo; }
# Nothing of the service is left on the host.
is_clean() {
    [ "$(processes)" -eq 0 ] && [ ! -d "$group" ] && [ "$(namespaces)" -le "$namespaces" ] &&
        [ "$(mounts)" -le "$mounts" ]
}
describe() {
    echo "# processes $(processes), cells $(cells), netns $(namespaces) of $namespaces, mounts $(mounts) of $mounts"
    pgrep -u toolcell -a
    journalctl --no-pager -q -u "$unit" -n 15 -o cat
}
# As a user who has logged in.
as_dev() { systemd-run --quiet --wait --pipe --collect -p User=dev -p PAMName=login -- "$@" </dev/null; }
# A drop-in of the administrator's.
drop_in() {
    mkdir -p "/etc/systemd/system/$unit.d"
    printf '[Service]\n%s\n' "$2" >"/etc/systemd/system/$unit.d/$1.conf"
    systemctl daemon-reload
}

profile() { # NAME COMMAND TABLES
    cat >"/etc/toolcell/profiles/$1.toml" <<TOML
format = 1
name = "$1"
description = "A test's."
extends = ["standard"]
[run]
argv = ["/bin/sh", "-c", "$2"]
$3
TOML
}

busy() { # TIMES: calls that go on, each with a daemon of its own
    python3 "$here/client.py" "$socket" dawdle '{}' "$1" >/tmp/busy 2>&1 &
    busy=$!
    within is_busy "$1"
}
# As many tools run, each with its daemon: their cells are complete.
is_busy() { has_cells "$1" && [ "$(pgrep -u toolcell -x sleep | wc -l)" -eq $(($1 * 2)) ]; }

echo '# install'
ok 'the package is installed' dpkg -i "$old" >/dev/null
is 'the service has a user of its own' toolcell "$(id -un toolcell)"
is 'nothing is enabled' 'disabled disabled' "$(systemctl is-enabled toolcell.service toolcell.socket | xargs)"
is 'nothing is started' 'inactive inactive' "$(systemctl is-active toolcell.service toolcell.socket | xargs)"
# The guest installs neither pages nor documentation: they are looked at in the package.
packed=$(mktemp -d)
dpkg-deb -x "$old" "$packed"
ok 'there are pages' test -s "$packed/usr/share/man/man1/toolcell-serve.1.gz"
ok 'there are completions' test -s /usr/share/bash-completion/completions/toolcell
# Older versions do not know a line that they can do without; the guest has no `man`.
complaints=$(systemd-analyze verify toolcell.service toolcell.socket 2>&1 |
    grep -v -e DelegateSubgroup -e 'man toolcell' -e '^$')
is 'the units are right' '' "$complaints"
complaints=$(as_dev systemd-analyze --user verify /usr/lib/systemd/user/toolcell.service 2>&1 |
    grep -v -e DelegateSubgroup -e 'man toolcell' -e '^$')
is 'the units of a user are right' '' "$complaints"
score=$(systemd-analyze security --no-pager "$unit" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
is 'the score is as documented' "$(sed -n 's/^`systemd-analyze security toolcell` says \([0-9.]*\) .*/\1/p' \
    "$packed/usr/share/doc/toolcell/systemd.md")" "$score"
rm -r "$packed"

echo '# start, by the socket'
profile dawdle 'setsid sleep 3600 & sleep 3600' '[limits]
wall = "1 h"
memory = "64 MiB"
pids = 32
cpu = 0.5
concurrency = 16'
profile greedy 'head -c 200000000 /dev/zero | tail' '[limits]
memory = "32 MiB"'
namespaces=$(namespaces)
mounts=$(mounts)
ok 'the socket starts' systemctl start toolcell.socket
is 'the service waits for its first client' inactive "$(systemctl is-active $unit)"
ok 'a call over the socket is answered' within answers
ok 'the service is active' is_active
main=$(show MainPID)
is 'it runs as its user' toolcell "$(stat -c %U "/proc/$main")"
is 'without capabilities' '0000000000000000 0000000000000000' \
    "$(awk '/^CapEff|^CapBnd/ { print $2 }' "/proc/$main/status" | xargs)"
ok 'the status says what it does' says 'serving' "$(show StatusText)"
is 'it is in a leaf of its own' "0::/system.slice/$unit/supervisor" "$(cat "/proc/$main/cgroup")"
is 'its state is private' '700 toolcell' "$(stat -c '%a %U' /var/lib/toolcell)"
is 'others cannot connect' '660 root:toolcell' "$(stat -c '%a %U:%G' $socket)"

echo '# limits'
ok 'a call runs in a group of its own' busy 1
cell=$(find "$group" -mindepth 1 -maxdepth 1 -name 'toolcell.*' | head -n 1)
is 'its memory is limited' $((64 << 20)) "$(cat "$cell/memory.max")"
is 'its processor time is' 0.5 "$(awk '{ print $1 / $2 }' "$cell/cpu.max")"
ok 'its processes are' test "$(cat "$cell/pids.max")" -lt 40
is 'what needs more is ended' 'out_of_memory:' "$(call greedy '{}' | cut -d' ' -f1)"
is 'and the service is not' "$main" "$(show MainPID)"

echo '# journal'
entry() { journalctl --no-pager -q -o json -u "$unit" "$@" 2>/dev/null | tail -n 1; }
field() { python3 -c 'import json, sys; print(json.loads(sys.argv[1] or "{}").get(sys.argv[2]))' "$1" "$2"; }
has_entry() { [ -n "$(entry "$@")" ]; }
ok 'each call has an entry' within has_entry TOOLCELL_TOOL=calculate TOOLCELL_STATUS=exited
found=$(entry TOOLCELL_TOOL=calculate TOOLCELL_STATUS=exited)
is 'with its fields' '0 5 toolcell' "$(for name in TOOLCELL_EXIT_CODE PRIORITY SYSLOG_IDENTIFIER; do
    field "$found" $name
done | xargs)"
ok 'as the receipt names it' grep -qF "\"$(field "$found" TOOLCELL_CALL)\"" /var/lib/toolcell/audit.jsonl
ok 'one that ran out of memory has one' has_entry TOOLCELL_STATUS=out_of_memory

echo '# reload, with a call under way'
profile hello 'echo hello' ''
ok 'a reload succeeds' systemctl reload "$unit"
hello() { [ "$(call hello '{}')" = 'exited: hello' ]; }
# Before systemd 253, the reload may be over before the service has said that it has begun.
ok 'and what is new can be called' within hello
echo 'format = "one"' >/etc/toolcell/profiles/wrong.toml
ok 'one with a wrong profile fails' eval "! systemctl reload $unit 2>/dev/null"
is 'and the tools are as they were' 'exited: hello' "$(call hello '{}')"
rm /etc/toolcell/profiles/wrong.toml
is 'the call goes on' 1 "$(cells)"
is 'and so does the service' "$main" "$(show MainPID)"

echo '# stop, with calls under way'
drop_in drain 'ExecStart=
ExecStart=/usr/bin/toolcell serve --drain 1s'
ok 'a restart succeeds' systemctl restart "$unit"
wait "$busy"
is 'the call under way is cancelled' 'cancelled:' "$(tr -d ' ' </tmp/busy)"
ok 'the next call is answered' within answers
ok 'many calls run' busy 8
systemctl stop toolcell.socket "$unit"
wait "$busy"
is 'a stop ends well' 'success 0' "$(show Result) $(show ExecMainStatus)"
is 'each call is answered' 8 "$(grep -c '^cancelled' /tmp/busy)"
is 'and has a receipt' 9 "$(grep -c '"status":"cancelled"' /var/lib/toolcell/audit.jsonl)"
ok 'nothing is left' within is_clean || describe
ok 'the receipts are whole' runuser -u toolcell -- env STATE_DIRECTORY=/var/lib/toolcell toolcell audit verify

echo '# a crash, with calls under way'
systemctl start toolcell.socket "$unit"
for victim in supervisor launcher; do
    ok "many calls run, before the $victim is killed" busy 8
    main=$(show MainPID)
    before=$(find "$group" -mindepth 1 -maxdepth 1 -name 'toolcell.*' | sort)
    if [ $victim = supervisor ]; then
        kill -KILL "$main"
        ok 'another takes over' within is_another "$main"
    else
        kill -KILL "$(pgrep -P "$main" | head -n 1)"
    fi
    wait "$busy"
    ok "it serves, after the $victim was killed" within answers
    gone() { for cell in $before; do [ ! -d "$cell" ] || return 1; done; }
    ok "and the cells of before are gone" within gone
    ok 'and their processes' within eval '! pgrep -u toolcell -x sleep >/dev/null'
done
systemctl stop toolcell.socket "$unit"
ok 'nothing is left' within is_clean || describe

echo '# hangs'
drop_in watchdog 'WatchdogSec=6s'
systemctl start toolcell.socket "$unit"
for victim in supervisor launcher; do
    ok "a call runs, before the $victim hangs" busy 1
    main=$(show MainPID)
    pid=$main
    [ $victim = supervisor ] || pid=$(pgrep -P "$main" | head -n 1)
    kill -STOP "$pid"
    ok "the watchdog ends a $victim that hangs, and another takes over" within is_another "$main"
    wait "$busy"
    ok 'it was the watchdog' eval "journalctl --no-pager -q -u $unit | grep -q 'Watchdog timeout'"
    ok "and it serves" within answers
    journalctl --rotate -q && journalctl --vacuum-time=1s -q
done
systemctl stop toolcell.socket "$unit"
rm "/etc/systemd/system/$unit.d/watchdog.conf"
systemctl daemon-reload
ok 'nothing is left' within is_clean || describe

echo '# no start where no call could be made'
drop_in state 'StateDirectory=
Environment=STATE_DIRECTORY=/etc/passwd'
ok 'the start fails' eval "! systemctl start $unit 2>/dev/null"
ok 'and says why' eval "journalctl --no-pager -q -u $unit | grep -q 'calls will be refused: the directory'"
systemctl stop toolcell.socket "$unit"
rm "/etc/systemd/system/$unit.d/state.conf"
systemctl daemon-reload
systemctl reset-failed "$unit" 2>/dev/null

echo '# secrets'
systemctl start toolcell.socket
lists() { says " $1 " " $(call list) "; }
ok 'a tool without its secret is not offered' eval '! lists chat'
(umask 077 && echo sk-hidden >/etc/toolcell/openai.key)
drop_in secret 'LoadCredential=openai:/etc/toolcell/openai.key'
systemctl restart "$unit"
ok 'with the credential it is' lists chat
ok 'the service cannot read where it came from' eval \
    '! runuser -u toolcell -- cat /etc/toolcell/openai.key 2>/dev/null'
rm /etc/toolcell/openai.key "/etc/systemd/system/$unit.d/secret.conf"
systemctl daemon-reload
systemctl restart "$unit"

echo '# a user'\''s own'
as_dev sh -c "systemctl --user start toolcell.socket && python3 '$here/client.py' \"\$XDG_RUNTIME_DIR/toolcell.sock\" \
    calculate '{\"expression\":\"6*7\"}' 3 && systemctl --user show -P StatusText toolcell.service && \
    systemctl --user reload toolcell.service && systemctl --user stop toolcell.socket toolcell.service && \
    systemctl --user show -P Result toolcell.service" >/tmp/dev 2>&1
ok 'it serves a call' grep -qx 'exited: 42' /tmp/dev
ok 'says how it goes' grep -q '^serving' /tmp/dev
is 'and stops' success "$(tail -n 1 /tmp/dev)"

echo '# upgrade'
call calculate '{"expression":"1"}' >/dev/null
main=$(show MainPID)
echo '# mine' >>/etc/toolcell/profiles/README
receipts=$(wc -l </var/lib/toolcell/audit.jsonl)
ok 'the new package is installed' eval "DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold '$new' >/dev/null"
ok 'the service is started anew' within is_another "$main"
ok 'and serves' within answers
ok 'receipts are kept' test "$(wc -l </var/lib/toolcell/audit.jsonl)" -gt "$receipts"
ok 'and whole' runuser -u toolcell -- env STATE_DIRECTORY=/var/lib/toolcell toolcell audit verify
ok 'what the administrator changed is kept' grep -qx '# mine' /etc/toolcell/profiles/README

echo '# remove'
ok 'with calls under way' busy 2
ok 'the package is removed' dpkg -r toolcell >/dev/null 2>&1
wait "$busy"
ok 'the service has ended' within is_down
ok 'and left nothing' within is_clean || describe
ok 'the socket is gone' eval "! test -e $socket"
ok 'receipts are kept' test -s /var/lib/toolcell/audit.jsonl
ok 'and profiles' test -s /etc/toolcell/profiles/hello.toml
rm /etc/toolcell/profiles/{hello,dawdle,greedy}.toml
ok 'the package is purged' dpkg -P toolcell >/dev/null 2>&1
ok 'state is gone' eval '! test -e /var/lib/toolcell'
ok 'and so is what it had in /etc' eval '! test -e /etc/toolcell'

exit $failed
