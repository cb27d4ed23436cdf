//! A process enters a cell's group the way a cell does: on cgroup v2 it is cloned straight into the
//! directory, on v1 it writes itself to each hierarchy's file.
//!
//! Without a test harness, because only a process with a single thread may clone.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use runner::sys::{Forked, SingleThreaded, clone3, exit_now};
use runner::wire::CgroupEntry;
use supervisor::cgroup::{CellCgroup, CellLimits, Cgroups, Detection, Options, detect};

const NAME: &str = "a_process_is_in_the_group_from_its_first_instruction";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // As cargo-nextest asks every test binary.
        if !has("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    match detect(&Options::default()) {
        Detection::Usable(cgroups) => enters(&cgroups),
        Detection::Unusable { reason, .. } => skip(&reason),
    }
    println!("test {NAME} ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored");
}

/// Says loudly that nothing was tested, where `make test` counts it.
fn skip(why: &str) {
    let line = format!("SKIPPED {NAME}: {why}\n");
    eprint!("{line}");
    let list = std::env::current_exe()
        .ok()
        .filter(|_| std::env::var_os("CARGO").is_some())
        .and_then(|path| Some(path.ancestors().nth(3)?.join("skipped.txt")));
    if let Some(list) = list {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the list of skips");
    }
}

fn enters(cgroups: &Cgroups) {
    let limits = CellLimits {
        memory: 64 << 20,
        swap: 0,
        cpu: 1.0,
        pids: 1,
    };
    let group = cgroups.create(NAME, &limits).expect("a group");
    let within = clone_into(&group);
    let of_ours = |line: &&str| line.contains(NAME);
    let expected = group.entry_descriptors().len();
    assert_eq!(within.lines().filter(of_ours).count(), expected, "{within}");
    assert_eq!(group.events().expect("counters").pids_denied, 0);
    assert!(group.is_empty(), "the child has been waited for");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("a runtime")
        .block_on(group.remove())
        .expect("removed");
}

/// What `/proc/self/cgroup` says in a process that was started in the group.
fn clone_into(group: &CellCgroup) -> String {
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let descriptors: Vec<OwnedFd> = group
        .entry_descriptors()
        .iter()
        .map(|descriptor| descriptor.try_clone_to_owned().expect("a duplicate"))
        .collect();
    let into = match group.entry() {
        CgroupEntry::V2 => descriptors.first().map(AsFd::as_fd),
        CgroupEntry::V1(_) | CgroupEntry::None => None,
    };
    let proof = SingleThreaded::check().expect("a single thread");
    match clone3(proof, 0, into).expect("a child") {
        Forked::Child => {
            for file in descriptors.iter().filter(|_| into.is_none()) {
                if nix::unistd::write(file, b"0").is_err() {
                    exit_now(1);
                }
            }
            let says = std::fs::read("/proc/self/cgroup").unwrap_or_default();
            let _ = std::fs::File::from(write).write_all(&says);
            exit_now(0)
        }
        Forked::Parent(child) => {
            drop(write);
            let mut says = String::new();
            std::fs::File::from(read)
                .read_to_string(&mut says)
                .expect("what it says");
            let pid = nix::unistd::Pid::from_raw(child.pid);
            nix::sys::wait::waitpid(pid, None).expect("its end");
            says
        }
    }
}
