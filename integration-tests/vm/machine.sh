#!/usr/bin/env bash
# A throw-away Linux with systemd, cgroup v2 and a kernel of choice: builds it once, runs an order in it.
#
#   machine.sh kernels                       the series that can be asked for
#   machine.sh build KERNEL [APPEND]         the image, the kernel, and a snapshot of the booted guest
#   machine.sh run KERNEL LIMIT PUSH [APPEND]
#       PUSH is a directory that appears in the guest at the repository's path; its script `order` is
#       run there by root, its output is ours, and so is its status. LIMIT is in seconds. APPEND goes
#       to the kernel's command line.
#
# Status 124: LIMIT has passed; 125: the guest or this script failed; 126: this host can have no guest.
#
# The guest runs under KVM if that boots the kernel, else by emulation (TCG), where a fork takes eight
# times as long. Its booted RAM is a file and the state of its devices another; each run maps the RAM
# copy-on-write and goes on from there at once. No mount, no loop device and no network is needed.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

# Images, kernels and snapshots: 600 MB for the first kernel, about 250 MB for each further one.
CACHE=${TOOLCELL_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/toolcell-vm}
# What the guest has beside Debian's minimum: what systemd, sessions and our tests need.
PACKAGES=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,login,passwd,procps
PACKAGES+=,iproute2,util-linux,bsdutils,busybox-static,python3,curl,openssl,git,ca-certificates
SUITE=bookworm
MEMORY=2048M
# Seconds: to boot when emulated on a busy host, and for the kernel to say a word under KVM.
BOOT_MAX=240
KVM_MAX=10
# Fixed (sparse) sizes of the two disks that are made of directories.
ROOT_SIZE=3G
PUSH_SIZE=3G
# Quiet and quick: without address randomization the emulator finds the code of a program again.
COMMAND_LINE='console=ttyS0 root=/dev/vda rw quiet panic=-1 nokaslr norandmaps mitigations=off audit=0'
COMMAND_LINE+=' net.ifnames=0 systemd.show_status=0 random.trust_cpu=on no_timer_check tsc=reliable'
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# What only drivers of real hardware need, and no guest has.
JUNK='gpu media infiniband net/ethernet net/wireless iio scsi usb'

say() { printf 'machine: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 125
}
cannot() {
    say "$*"
    exit 126
}

work=
qemu=
clean_up() {
    [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM INT

needs() {
    [ "$(uname -m)" = x86_64 ] || cannot "guests are x86_64, and this host is $(uname -m)"
    local tool
    for tool in qemu-system-x86_64 qemu-img mmdebstrap mke2fs depmod cpio xz dpkg-deb; do
        command -v "$tool" >/dev/null || cannot "\`$tool\` is not installed; \
hint: run \`integration-tests/install-dependencies.sh\` as root"
    done
}

# --- what is built once

# The mirror in this machine's own apt sources whose address ends so.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
        2>/dev/null | grep -v '^ *#' | grep -Eo 'https?://[^] ]+' | sed 's,/$,,' | grep "$1\$" | head -n 1
}

source_of() {
    local suite=$1 from
    case $suite in
    *-security) from=$(mirror /debian-security) ;;
    *) from=$(mirror /debian) ;;
    esac
    [ -n "$from" ] || cannot "no Debian mirror for \`$suite\` in the apt sources of this machine"
    echo "deb [arch=amd64 signed-by=$KEYRING] $from $suite main"
}

# An apt of its own for one suite, so that the machine's stays as it is. Prints its configuration.
apt_for() {
    local suite=$1 dir=$CACHE/apt/$1
    mkdir -p "$dir/lists/partial" "$dir/archives/partial"
    : >"$dir/status"
    source_of "$suite" >"$dir/sources.list"
    cat >"$dir/apt.conf" <<CONF
Dir::State "$dir"; Dir::State::status "$dir/status"; Dir::State::Lists "$dir/lists";
Dir::Cache "$dir"; Dir::Etc::SourceList "$dir/sources.list"; Dir::Etc::SourceParts "/dev/null";
APT::Architecture "amd64"; APT::Architectures {"amd64";}; Acquire::Languages "none";
APT::Sandbox::User "root"; Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
    if [ -z "$(find "$dir/lists" -name '*_Packages*' -mmin -600)" ]; then
        APT_CONFIG=$dir/apt.conf apt-get update -qq >&2
    fi
    echo "$dir/apt.conf"
}

root_image() {
    echo "$CACHE/root-$(cat "$here"/guest/* <(echo "$PACKAGES $SUITE") | sha256sum | cut -c 1-12).ext4"
}

build_root() {
    local image tmp
    image=$(root_image)
    [ ! -e "$image" ] || return 0
    [ "$(id -u)" = 0 ] || cannot 'the image of the guest is built by root'
    say "building the root of the guest"
    tmp=$work/root
    mkdir -p "$tmp"
    chmod 755 "$work" "$tmp"
    # Languages and manuals are left out: half of the size.
    mmdebstrap --quiet --variant=minbase --include="$PACKAGES" \
        --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="$here/guest/customize.sh \"\$1\"" \
        "$SUITE" "$tmp/tree" "$(source_of "$SUITE")" "$(source_of "$SUITE-security")" >&2 ||
        fail 'mmdebstrap failed'
    mke2fs -q -F -t ext4 -m 0 -E assume_storage_prezeroed=1 -J size=8 -d "$tmp/tree" "$tmp/image" "$ROOT_SIZE" >/dev/null
    cp "$tmp/tree/bin/busybox" "$CACHE/busybox"
    mv "$tmp/image" "$image"
    rm -rf "$tmp"
}

# The kernel with its modules as a disk, and an initrd that mounts the root.
build_kernel() {
    local series=$1 out=$CACHE/kernel/$1 suite pattern conf package tmp release module
    [ ! -e "$out/package" ] || return 0
    read -r _ suite pattern < <(grep -E "^${series//./\\.} " "$here/kernels.txt") ||
        fail "no kernel \`$series\`; hint: \`machine.sh kernels\`"
    conf=$(apt_for "$suite")
    package=$(APT_CONFIG=$conf apt-cache pkgnames | grep -Ex "$pattern" | sort -V | tail -n 1) ||
        cannot "\`$suite\` of this machine's mirror has no package \`$pattern\`"
    say "fetching $package"
    tmp=$work/kernel
    mkdir -p "$tmp/tree" "$tmp/initrd/bin" "$tmp/initrd/modules" "$tmp/out"
    local packages=("$package")
    case $package in linux-modules-*) packages+=("${package/linux-modules/linux-binary-unsigned}") ;; esac
    (cd "$tmp" && APT_CONFIG=$conf apt-get download -qq "${packages[@]}") >&2
    local deb
    for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$tmp/tree"; done
    find "$tmp/tree" -name 'vmlinuz-*' -type f -exec cp {} "$tmp/out/vmlinuz" \;
    module=$(find "$tmp/tree" -type d -path '*/lib/modules/*' -name kernel | head -n 1)
    release=$(basename "$(dirname "$module")")
    mkdir -p "$tmp/disk/lib/modules"
    mv "$(dirname "$module")" "$tmp/disk/lib/modules/"
    local tree=$tmp/disk/lib/modules/$release junk
    for junk in $JUNK; do rm -rf "$tree/kernel/drivers/$junk"; done
    rm -rf "$tree/kernel/sound"
    touch "$tree/modules.order" "$tree/modules.builtin"
    depmod -b "$tmp/disk" "$release"
    initrd "$tmp" "$tree" "$release"
    mke2fs -q -F -t ext4 -O ^has_journal -m 0 -d "$tmp/disk/lib/modules" "$tmp/out/modules.ext4" 600M >/dev/null
    echo "$package" >"$tmp/out/package"
    mkdir -p "$CACHE/kernel"
    rm -rf "$out" && mv "$tmp/out" "$out"
    rm -rf "$tmp"
}

initrd() {
    local tmp=$1 tree=$2 release=$3 wanted file name dir=$1/initrd
    mkdir -p "$dir/dev" "$dir/proc" "$dir/sys" "$dir/root"
    cp "$CACHE/busybox" "$dir/bin/busybox"
    install -m 755 "$here/guest/init" "$dir/init"
    for wanted in virtio_pci virtio_blk ext4 virtio_console virtio_rng; do
        # What is built in has no file, and some have no such module.
        modprobe -d "$tmp/disk" -S "$release" --show-depends "$wanted" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
        name=$(basename "$file")
        case $name in
        *.xz) xz -dc "$file" >"$dir/modules/${name%.xz}" ;;
        *) cp "$file" "$dir/modules/$name" ;;
        esac
        printf '%s ' "${name%.xz}" >>"$dir/modules/order"
    done
    touch "$dir/modules/order"
    (cd "$dir" && find . | cpio --quiet -o -H newc) >"$tmp/out/initrd"
}

# Whether KVM runs this kernel: a device node says little, as where we are a guest ourselves.
accelerator() {
    local series=$1 said=$CACHE/kernel/$1/accelerator
    if [ ! -s "$said" ]; then
        echo tcg >"$said"
        if [ -w /dev/kvm ]; then
            timeout --kill-after=2 "$KVM_MAX" qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 512M \
                -nodefaults -no-user-config -display none -no-reboot -serial "file:$work/trial" \
                -kernel "$CACHE/kernel/$series/vmlinuz" -initrd "$CACHE/kernel/$series/initrd" \
                -append "$COMMAND_LINE trial" >/dev/null 2>&1 </dev/null || true
            if grep -qs toolcell-trial "$work/trial"; then echo kvm >"$said"; fi
        fi
        say "$series runs under $(cat "$said")"
    fi
    cat "$said"
}

# --- a guest

# start SERIES ROOT-DISK RAM PRIVATE APPEND [OPTION…]: QEMU in the background; `$qemu` is its PID.
start() {
    local series=$1 disk=$2 ram=$3 private=$4 append=$5 kernel=$CACHE/kernel/$1 share=on throw=off how
    shift 5
    if [ "$private" = yes ]; then share=off throw=on; fi
    if [ "$(accelerator "$series")" = kvm ]; then
        how=(-accel kvm -cpu host)
    else
        how=(-accel 'tcg,thread=multi,tb-size=256' -cpu Nehalem)
    fi
    mkfifo "$work/order.in" "$work/order.out" "$work/monitor.in" "$work/monitor.out"
    : >"$work/output"
    : >"$work/status"
    TMPDIR=$work qemu-system-x86_64 \
        -M q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,memory-backend=ram "${how[@]}" \
        -nodefaults -no-user-config -display none -no-reboot -smp 2 -m "$MEMORY" \
        -object "memory-backend-file,id=ram,size=$MEMORY,mem-path=$ram,share=$share" \
        -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" -append "$COMMAND_LINE $append" \
        -serial "file:$work/console" -chardev "pipe,id=monitor,path=$work/monitor" -mon chardev=monitor \
        -drive "if=none,id=root,file=$disk,snapshot=$throw,cache=unsafe" \
        -device virtio-blk-pci,drive=root \
        -drive "if=none,id=push,file=$work/push,format=raw,cache=unsafe" \
        -device virtio-blk-pci,drive=push,serial=push \
        -drive "if=none,id=modules,file=$kernel/modules.ext4,format=raw,read-only=on" \
        -device virtio-blk-pci,drive=modules \
        -device virtio-serial-pci \
        -chardev "pipe,id=order,path=$work/order" -device virtserialport,chardev=order,name=order \
        -chardev "file,id=output,path=$work/output" -device virtserialport,chardev=output,name=output \
        -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=status \
        "$@" >"$work/qemu.log" 2>&1 </dev/null &
    qemu=$!
    # What a monitor says must be read, or it stops.
    cat "$work/monitor.out" >"$work/monitor.log" &
    exec 3>"$work/monitor.in"
}

# await WORD SECONDS: until the guest's status begins so. 1: it has ended, 2: it took too long.
await() {
    local word=$1 end=$((SECONDS + $2))
    until grep -q "^$word " "$work/status"; do
        kill -0 "$qemu" 2>/dev/null || return 1
        [ "$SECONDS" -lt "$end" ] || return 2
        sleep 0.1
    done
}

tails() {
    tail -n 5 "$work/qemu.log" >&2
    tail -n 30 "$work/console" >&2
}

snapshot() {
    local series=$1 append=$2 key
    key=$(stat -c '%Y %s' "$(root_image)" "$CACHE/kernel/$series/vmlinuz"
        echo "$MEMORY $COMMAND_LINE $append $(accelerator "$series")"
        declare -f start)
    echo "$CACHE/snapshot/$series-$(echo "$key" | sha256sum | cut -c 1-12)"
}

build() {
    local series=$1 append=$2 out disk
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/work.XXXXXX")
    exec 9>"$CACHE/lock"
    flock 9
    build_root
    build_kernel "$series"
    out=$(snapshot "$series" "$append")
    if [ ! -e "$out/state" ]; then
        disk=$work/new
        mkdir -p "$disk"
        qemu-img create -q -f qcow2 -b "$(root_image)" -F raw "$disk/disk"
        truncate -s "$MEMORY" "$disk/ram"
        truncate -s "$PUSH_SIZE" "$work/push"
        start "$series" "$disk/disk" "$disk/ram" no "$append"
        await up "$BOOT_MAX" || {
            tails
            fail "the guest with Linux $series did not come up"
        }
        printf 'migrate_set_capability x-ignore-shared on\nmigrate "exec:cat >%s"\nquit\n' \
            "$disk/state.new" >&3
        wait "$qemu" || fail 'QEMU failed while the snapshot was taken'
        qemu=
        exec 3>&-
        [ -s "$disk/state.new" ] || fail "no snapshot: $(cat "$work/monitor.log")"
        mv "$disk/state.new" "$disk/state"
        cp "$work/status" "$disk/status"
        mkdir -p "$CACHE/snapshot"
        rm -rf "$out" && mv "$disk" "$out"
        say "$(sed 's/^up //' "$out/status") booted in $SECONDS s with all that was to be built"
    fi
    flock -u 9
    rm -rf "$work"
    work=
}

run() {
    local series=$1 limit=$2 push=$3 append=$4 from state how begun
    build "$series" "$append"
    from=$(snapshot "$series" "$append")
    work=$(mktemp -d "${TMPDIR:-/tmp}/toolcell-vm.XXXXXX")
    mke2fs -q -F -t ext4 -O ^has_journal,^resize_inode -m 0 -d "$push" \
        -E assume_storage_prezeroed=1,nodiscard "$work/push" "$PUSH_SIZE" >/dev/null
    begun=$SECONDS
    start "$series" "$from/disk" "$from/ram" yes "$append" -incoming defer
    printf 'migrate_set_capability x-ignore-shared on\nmigrate_incoming "exec:cat %s"\n' \
        "$from/state" >&3
    echo "$(date +%s) $repository" >"$work/order.in"
    tail -c +1 -f --pid="$qemu" "$work/output" &
    state=0
    await 'done' "$limit" || state=$?
    if [ "$state" -eq 0 ]; then
        # The last of the output is on its way by another port.
        sleep 0.3
    fi
    kill -KILL "$qemu" 2>/dev/null || true
    wait "$qemu" 2>/dev/null || true
    qemu=
    wait
    case $state in
    0) read -r _ how _ < <(grep '^done ' "$work/status") ;;
    1) tails && fail "the guest with Linux $series died" ;;
    *) say "Linux $series: the limit of $limit s has passed" && exit 124 ;;
    esac
    say "Linux $series: status $how after $((SECONDS - begun)) s"
    exit "$how"
}

case ${1:-} in
kernels) awk '!/^#/ { print $1 }' "$here/kernels.txt" ;;
build)
    needs
    build "$2" "${3:-}"
    ;;
run)
    needs
    run "$2" "$3" "$4" "${5:-}"
    ;;
*) fail 'usage: machine.sh kernels|build|run …' ;;
esac
