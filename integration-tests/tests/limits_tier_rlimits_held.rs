//! The tier without cgroups: memory that a tool holds without having it mapped is sampled, too.
//!
//! Each bomb keeps a few MiB in its own memory, and far more elsewhere; each control holds a part of
//! that by the same way, and ends well.

use harness::{Host, Who, World, assert_nothing_left, everyone, outcome, skip};
use serde_json::Value;

fn python(world: &World, tables: &str, script: &str) -> Value {
    let profile = world.profile(tables);
    let command = ["--tier", "rlimits", "run", "--json", "--profile", &profile];
    let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
    outcome(&world.toolcell(&[&command[..], &tool[..]].concat()))
}

/// Runs a script with much and with little of what it holds, under a limit of 64 MiB.
#[track_caller]
fn is_counted(script: &str, much: u32, little: u32) {
    is_counted_for(&everyone(), script, much, little);
}

#[track_caller]
fn is_counted_for(who: &[Who], script: &str, much: u32, little: u32) {
    let tables = "[limits]\nmemory = \"64 MiB\"\nopen_files = 2048\nwall = \"1 min\"\n";
    for &who in who {
        let world = World::new(who);
        let before = Host::look();
        let bomb = format!("amount = {much}\n{script}\nimport time; time.sleep(600)");
        let outcome = python(&world, tables, &bomb);
        assert_eq!(outcome["status"], "out_of_memory", "{who:?}: {outcome:#}");
        let denial = &outcome["denials"][0];
        assert_eq!(denial["rule"], "limits.memory = \"64 MiB\"", "{who:?}");
        assert_nothing_left(&world, &before);

        let control = format!("amount = {little}\n{script}\nimport time; time.sleep(0.5)");
        let outcome = python(&world, tables, &control);
        assert_eq!(outcome["status"], "exited", "{who:?}: {outcome:#}");
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        assert_nothing_left(&world, &before);
    }
}

const MEMFD: &str = "
import os
file = os.memfd_create('bomb')
for _ in range(amount): os.write(file, bytes(1 << 20))
";

#[test]
fn a_nameless_file_in_memory_is_counted() {
    is_counted(MEMFD, 150, 20);
}

#[test]
fn a_nameless_file_is_counted_once_however_many_have_it_open() {
    let script = format!(
        "{MEMFD}
import signal
copies = [os.dup(file) for _ in range(20)]
children = []
for _ in range(4):
    child = os.fork()
    if child == 0: signal.pause()
    children.append(child)
import time; time.sleep(0.5)
for child in children: os.kill(child, 9)
"
    );
    is_counted(&script, 150, 20);
}

/// As an ordinary user, the supervisor cannot list the descriptors of such a process.
#[test]
fn a_nameless_file_of_a_process_that_hides_is_counted() {
    let script = format!("import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n{MEMFD}");
    is_counted(&script, 150, 20);
}

#[test]
fn a_nameless_file_of_one_thread_alone_is_counted() {
    if !cfg!(target_arch = "x86_64") {
        return skip("a thread's own descriptors", "the number is that of x86_64");
    }
    let script = format!(
        "
import ctypes, threading
ready = threading.Event()
def hide():
    # CLOSE_RANGE_UNSHARE: from here on the thread has a table of its own.
    if ctypes.CDLL(None).syscall(436, 1000, 1001, 2) != 0: raise SystemExit(9)
{}
    ready.set()
    import time; time.sleep(600)
threading.Thread(target=hide, daemon=True).start()
if not ready.wait(30): raise SystemExit(8)
",
        MEMFD.replace('\n', "\n    ")
    );
    is_counted(&script, 150, 20);
}

const SYSTEM_V: &str = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
def done(result):
    if result == -1: raise OSError(ctypes.get_errno(), 'System V')
    return result
";

#[test]
fn a_segment_that_nobody_has_attached_is_counted() {
    let script = format!(
        "{SYSTEM_V}
segment = done(libc.shmget(0, ctypes.c_size_t(amount << 20), 0o1600))
address = libc.shmat(segment, None, 0)
ctypes.memset(address, 1, amount << 20)
done(libc.shmdt(ctypes.c_void_p(address)))
"
    );
    is_counted(&script, 150, 20);
}

#[test]
fn messages_in_queues_are_counted() {
    let script = format!(
        "{SYSTEM_V}
message = ctypes.create_string_buffer(b'\\1' + bytes(8 + 8000))
for _ in range(amount * 64):
    queue = done(libc.msgget(0, 0o1600))
    for _ in range(2): done(libc.msgsnd(queue, message, ctypes.c_size_t(8000), 0))
"
    );
    is_counted(&script, 120, 20);
}

#[test]
fn small_messages_are_counted_with_what_the_kernel_adds() {
    let script = format!(
        "{SYSTEM_V}
message = ctypes.create_string_buffer(b'\\1' + bytes(16))
for _ in range(amount):
    queue = done(libc.msgget(0, 0o1600))
    for _ in range(16000): done(libc.msgsnd(queue, message, ctypes.c_size_t(1), 0))
"
    );
    is_counted(&script, 90, 5);
}

#[test]
fn semaphores_are_counted() {
    let script = format!(
        "{SYSTEM_V}
for _ in range(amount): done(libc.semget(0, 32000, 0o1600))
"
    );
    is_counted(&script, 60, 8);
}

#[test]
fn what_waits_in_sockets_is_counted() {
    let script = "
import socket
pairs = []
for _ in range(amount):
    one, other = socket.socketpair()
    pairs.append((one, other))
    one.setblocking(False)
    try:
        while True: one.send(bytes(4096))
    except BlockingIOError: pass
";
    is_counted(script, 900, 60);
    // The sender is gone, and what it sent is still there.
    is_counted(&format!("{script}\n    one.close()"), 900, 60);
}

/// The kernel lets the pipes of one user have 64 MiB, and then two pages each.
#[test]
fn what_waits_in_pipes_is_counted() {
    let script = "
import os
ends = []
for _ in range(amount):
    read, write = os.pipe()
    ends.append((read, write))
    os.set_blocking(write, False)
    try:
        while True: os.write(write, bytes(4096))
    except BlockingIOError: pass
";
    is_counted(script, 1000, 100);
}

/// What `docs/tiers.md` says is left over: an ordinary user is not shown such files.
#[test]
fn pages_that_are_mapped_and_in_no_page_table_are_counted_under_root() {
    let mapped = "
import mmap, os
file = os.memfd_create('bomb')
for _ in range(amount): os.write(file, bytes(1 << 20))
view = mmap.mmap(file, amount << 20)
os.close(file)
";
    let dropped = "
import mmap
memory = mmap.mmap(-1, amount << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for start in range(0, amount << 20, 1 << 20):
    for page in range(start, start + (1 << 20), 4096): memory[page] = 1
    memory.madvise(mmap.MADV_DONTNEED, start, 1 << 20)
";
    if !everyone().contains(&Who::Root) {
        return skip("mapped files in memory", "only root is shown them");
    }
    for script in [mapped, dropped] {
        is_counted_for(&[Who::Root], script, 150, 20);
    }
}
