//! Memory is limited whatever it is used for: every bomb here passes the limit by far if nothing
//! holds it, and the kernel's own count says that none did.

use harness::{Host, World, assert_nothing_left, everyone};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// `limits.memory` of the bombs' cells. What can be written in memory is larger.
const MEMORY: u64 = 64 * MIB;
const TABLES: &str = "
[limits]
memory = \"64 MiB\"
disk = \"1 GiB\"
tmp = \"1 GiB\"
shm = \"1 GiB\"
file_size = \"1 GiB\"
open_files = 4096
pids = 100
wall = \"1 min\"
";

/// Sets a bomb off for everyone: the call is out of memory, the cell never had more than it may,
/// and nothing is left. A bomb does `size` MiB at most: a small one is no bomb.
#[track_caller]
fn bomb(script: &str) {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let outcome = world.python(TABLES, &format!("size = 400\n{script}"));
        assert_eq!(outcome["status"], "out_of_memory", "{who:?}: {outcome:#}");
        assert!(peak(&outcome) <= MEMORY, "{who:?}: {outcome:#}");
        let small = world.python(TABLES, &format!("size = 4\n{script}"));
        assert_eq!(
            small["exit_code"], 0,
            "{who:?}: a small one goes off unnoticed: {small:#}"
        );
        assert_nothing_left(&world, &before);
    }
}

fn peak(outcome: &Value) -> u64 {
    outcome["usage"]["memory_peak_bytes"]
        .as_u64()
        .expect("the kernel counts it")
}

#[test]
fn anonymous_memory_is_limited() {
    bomb("bytearray(size << 20)");
}

#[test]
fn private_mappings_are_limited() {
    bomb(
        "
import mmap
memory = mmap.mmap(-1, size << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size << 20, 4096): memory[page] = 1
",
    );
}

#[test]
fn shared_mappings_are_limited() {
    bomb(
        "
import mmap
memory = mmap.mmap(-1, size << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for page in range(0, size << 20, 4096): memory[page] = 1
",
    );
}

#[test]
fn memory_files_are_limited() {
    bomb(
        "
import os
file = os.memfd_create('bomb')
for _ in range(size): os.write(file, bytes(1 << 20))
",
    );
}

#[test]
fn files_in_memory_are_limited_wherever_they_are() {
    for directory in ["/work", "/tmp", "/dev/shm"] {
        bomb(&format!(
            "
with open('{directory}/bomb', 'wb') as file:
    for _ in range(size): file.write(bytes(1 << 20))
"
        ));
    }
}

#[test]
fn files_that_have_no_name_any_more_are_limited() {
    bomb(
        "
import tempfile
files = []
for _ in range(size):
    file = tempfile.TemporaryFile(dir='/tmp')
    file.write(bytes(1 << 20))
    file.flush()
    files.append(file)
",
    );
}

#[test]
fn system_v_shared_memory_is_limited() {
    bomb(
        "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, ctypes.c_size_t(size << 20), 0o1600)
assert segment >= 0, ctypes.get_errno()
address = libc.shmat(segment, None, 0)
ctypes.memset(address, 1, size << 20)
",
    );
}

#[test]
fn memory_that_is_spread_over_processes_is_limited() {
    bomb(
        "
import os, signal
children = []
for _ in range(40):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        memory = bytearray((size << 20) // 40)
        for page in range(0, len(memory), 4096): memory[page] = 1
        os.write(tell, b'.')
        signal.pause()
    os.close(tell)
    assert os.read(ready, 1) == b'.'
    children.append(child)
for child in children: os.kill(child, 9)
",
    );
}

#[test]
fn memory_of_page_tables_is_limited() {
    // One page touched in every 2 MiB costs a page table each.
    bomb("
import mmap, os
count = 4000 * size
memory = mmap.mmap(-1, count << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
total = 0
for page in range(0, min(count, size * 256)): total += memory[page << 21]
");
}

#[test]
fn what_waits_in_pipes_is_limited() {
    // Each holds 64 KiB. (By user the kernel makes further ones smaller: pipe-user-pages-soft.)
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python(
            TABLES,
            "
import os
for _ in range(2000):
    ready, tell = os.pipe()
    os.set_blocking(tell, False)
    try:
        while True: os.write(tell, bytes(65536))
    except BlockingIOError: pass
",
        );
        assert!(peak(&outcome) <= MEMORY, "{who:?}: {outcome:#}");
    }
}

#[test]
fn what_waits_in_sockets_is_limited() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python(
            TABLES,
            "
import socket
pairs = []
for _ in range(2000):
    pair = socket.socketpair()
    pair[0].setblocking(False)
    try:
        while True: pair[0].send(bytes(65536))
    except BlockingIOError: pass
    pairs.append(pair)
",
        );
        assert_eq!(outcome["status"], "out_of_memory", "{who:?}: {outcome:#}");
        assert!(peak(&outcome) <= MEMORY, "{who:?}: {outcome:#}");
    }
}

#[test]
fn names_in_memory_are_limited() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python(
            TABLES,
            "
import os
for n in range(10_000_000): os.symlink('x' * 200, f'/tmp/{n}')
",
        );
        let status = outcome["status"].as_str().expect("there is one");
        assert!(
            ["out_of_memory", "disk_exceeded"].contains(&status),
            "{who:?}: {outcome:#}"
        );
        assert!(peak(&outcome) <= MEMORY, "{who:?}: {outcome:#}");
    }
}

#[test]
fn a_cell_may_not_swap() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.run("standard", &["/bin/true"]);
        let limits = outcome["enforced"]["cgroup"]
            .as_array()
            .expect("limits are read back");
        let named = |line: &&Value| {
            line.as_str().is_some_and(|line| {
                line == "memory.memsw.limit_in_bytes = 536870912"
                    || line == "memory.swap.max = 0"
                    || line == "memory.swappiness = 0"
            })
        };
        assert!(
            limits.iter().any(|line| named(&line)),
            "{who:?}: {limits:?}"
        );
    }
}
