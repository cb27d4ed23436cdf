//! What the processes of a cell use, summed from `/proc`: for the tier without cgroups.

use std::fs;

use runner::wire::{Answer, Question};

use crate::reader::Reader;

/// Most processes and threads that are looked at; a cell's own limit is far below.
const LOOK_MAX: usize = 65_536;

/// A sample of a cell's use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// CPU time of the living processes, and of the dead ones that they have waited for.
    pub cpu_micros: u64,
    /// Resident private memory that is not backed by files.
    pub anonymous_bytes: u64,
    /// Resident shared memory, counted once for each process that has it mapped.
    pub shared_bytes: u64,
}

/// Sums over a cell's first process and everything below it. A process that ends meanwhile is
/// left out.
#[must_use]
pub fn sum(first: i32) -> Sum {
    let mut total = Sum::default();
    each(first, |pid| {
        total.cpu_micros += cpu_micros(pid).unwrap_or(0);
        let resident = resident(pid).unwrap_or_default();
        total.anonymous_bytes += resident.anonymous_bytes;
        total.shared_bytes += resident.shared_bytes;
    });
    total
}

/// Visits a process and everything below it, up to [`LOOK_MAX`].
pub(crate) fn each(first: i32, mut visit: impl FnMut(i32)) {
    let mut todo = vec![first];
    let mut seen = 0;
    while let Some(pid) = todo.pop() {
        seen += 1;
        if seen > LOOK_MAX {
            return;
        }
        visit(pid);
        todo.extend(children(pid));
    }
}

/// Children of every thread (`children` in proc_pid_task(5)).
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return vec![];
    };
    threads
        .flatten()
        .take(LOOK_MAX)
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Fields 14 to 17 of proc_pid_stat(5): user and system time, own and waited-for.
fn cpu_micros(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can hold anything, so counting begins after the last one.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 on every architecture that this program is built for.
    Some(ticks * 10_000)
}

/// What a process has in memory, but for what is backed by files (proc_pid_status(5)).
fn resident(pid: i32) -> Option<Sum> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Sum {
        cpu_micros: 0,
        anonymous_bytes: kibibytes(&status, "RssAnon:")?,
        shared_bytes: kibibytes(&status, "RssShmem:")?,
    })
}

/// Shared memory of a cell, each page counted once however many processes have it mapped
/// (proc_pid_smaps_rollup(5)). It walks page tables, so it is for when the plain sum says too much.
/// A process that does not let itself be looked into counts with what it has mapped.
pub async fn shared_bytes_once(first: i32, reader: &Reader) -> u64 {
    let mut pids = Vec::new();
    each(first, |pid| pids.push(pid));
    let mut total = 0;
    for pid in pids {
        let mapped = || resident(pid).map(|resident| resident.shared_bytes);
        total += share(pid, reader).await.or_else(mapped).unwrap_or(0);
    }
    total
}

/// A process's share of the memory that it shares.
async fn share(pid: i32, reader: &Reader) -> Option<u64> {
    let question = Question::SharedMemory { pid };
    match reader.ask(&question).await? {
        (Answer::SharedMemory(rollup), _) => kibibytes(&rollup, "Pss_Shmem:"),
        _ => None,
    }
}

/// A field such as `RssAnon:  120 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.trim().strip_suffix("kB")?.trim_end();
    number.parse::<u64>().ok()?.checked_mul(1024)
}
