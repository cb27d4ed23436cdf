//! What the processes of a cell use, summed from `/proc`: for the tier without cgroups.

use std::fs;

/// Most processes and threads that are looked at; a cell's own limit is far below.
const LOOK_MAX: usize = 65_536;

/// A sample of a cell's use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// CPU time of the living processes, and of the dead ones that they have waited for.
    pub cpu_micros: u64,
    /// Resident memory that is not backed by files.
    pub anonymous_bytes: u64,
}

/// Sums over a cell's first process and everything below it. A process that ends meanwhile is
/// left out.
#[must_use]
pub fn sum(first: i32) -> Sum {
    let mut total = Sum::default();
    let mut todo = vec![first];
    let mut seen = 0;
    while let Some(pid) = todo.pop() {
        seen += 1;
        if seen > LOOK_MAX {
            break;
        }
        total.cpu_micros += cpu_micros(pid).unwrap_or(0);
        total.anonymous_bytes += anonymous_bytes(pid).unwrap_or(0);
        todo.extend(children(pid));
    }
    total
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

/// Resident minus file-backed and shared pages (proc_pid_statm(5)).
fn anonymous_bytes(pid: i32) -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut fields = statm
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse::<u64>().ok());
    let (resident, shared) = (fields.next()?, fields.next()?);
    Some(resident.saturating_sub(shared) * PAGE)
}
