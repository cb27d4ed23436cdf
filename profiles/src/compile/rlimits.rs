//! Resource limits of the tool's process; see getrlimit(2).

use runner::spec::{Resource, Rlimit};

use crate::resolve::Limits;
use crate::tier::Tier;

/// Stack of one process: the usual size, fixed so that no limit of the supervisor's decides how
/// programs lay out their memory.
const STACK_BYTES: u64 = 8 << 20;
/// Locked memory: what runtimes lock for secrets and rings, no more.
const LOCKED_BYTES: u64 = 64 << 10;
/// POSIX message queues: the cell has an IPC namespace of its own, and this much kernel memory in
/// it.
const QUEUE_BYTES: u64 = 800 << 10;
/// Queued signals, which are kernel memory too.
const SIGNALS: u64 = 1024;
/// The cell's first process counts for the user, too.
const FIRST_PROCESS: u64 = 1;

/// Core dumps: none. With 0 the kernel still hands the memory of a crashed tool to the program that
/// `core_pattern` names, which runs as root on the host and keeps it there; 1 is its special value
/// for not doing that, and too small for a file (`fs/coredump.c`). No limit keeps it from a socket that
/// `core_pattern` names with `@`, since Linux 6.16.
const CORE_BYTES: u64 = 1;

pub(super) fn rlimits(limits: &Limits, prestart: bool, tier: Tier) -> Vec<Rlimit> {
    // The kernel counts from the process's start, and a call from its own: what waited may have used as
    // much before.
    let cpu_seconds = limits
        .cpu_time
        .as_secs()
        .saturating_mul(1 + u64::from(prestart));
    let mut rlimits = vec![
        (Resource::Core, CORE_BYTES),
        (Resource::FileSize, limits.file_size),
        (Resource::OpenFiles, u64::from(limits.open_files)),
        (Resource::Stack, STACK_BYTES),
        (Resource::LockedMemory, LOCKED_BYTES),
        (Resource::MessageQueue, QUEUE_BYTES),
        (Resource::PendingSignals, SIGNALS),
        // The supervisor counts the whole cell and is earlier; this holds if it cannot.
        (Resource::CpuSeconds, cpu_seconds.saturating_add(2)),
    ];
    match tier {
        // The control group caps the sum, and says so; a limit for each process would only hide it.
        Tier::Full => {}
        Tier::Rlimits => rlimits.extend([
            (Resource::Data, limits.memory),
            (Resource::Processes, u64::from(limits.pids) + FIRST_PROCESS),
        ]),
    }
    rlimits
        .into_iter()
        .map(|(resource, value)| Rlimit {
            resource,
            soft: value,
            hard: value,
        })
        .collect()
}
