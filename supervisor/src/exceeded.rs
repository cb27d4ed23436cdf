//! Limits that a cell ran into: each by its key, with the line of a profile that would allow more.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use profiles::resolve::{Limits, SHM, TMP};
use runner::report::End;

use crate::cgroup;
use crate::outcome::{Denial, DenialKind, Status};
use crate::supervise::{Ending, Watched};

/// The limit that ended the cell, or that the tool failed by, if one did. The order is the order of
/// certainty: what the kernel counted as killed, then what was seen to end the cell, then what the
/// tool's own end suggests.
#[must_use]
pub fn cause(watched: &Watched, events: cgroup::Events) -> Option<Ending> {
    let failed = !matches!(watched.end, Some(End::Exited(0)));
    if events.oom_kills > 0 {
        Some(Ending::Memory)
    } else if watched.ending.is_some() {
        watched.ending
    } else if was_signalled(watched, Signal::SIGXCPU) {
        Some(Ending::CpuTime)
    } else if was_signalled(watched, Signal::SIGXFSZ) {
        Some(Ending::Disk)
    } else if failed && events.pids_denied > 0 {
        Some(Ending::Pids)
    } else if failed && !watched.full.is_empty() {
        Some(Ending::Disk)
    } else {
        None
    }
}

/// All limits that the cell ran into, whether or not one ended it, each with the ending that it
/// brings about.
#[must_use]
pub fn denials(
    limits: &Limits,
    watched: &Watched,
    events: cgroup::Events,
) -> Vec<(Ending, Denial)> {
    let cause = cause(watched, events);
    let mut found = Vec::new();
    if cause == Some(Ending::Memory) {
        let denial = by_size("memory", "memory", limits.memory);
        let count = events.oom_kills.max(1);
        found.push((Ending::Memory, Denial { count, ..denial }));
    }
    if events.pids_denied > 0 || cause == Some(Ending::Pids) {
        found.push((Ending::Pids, pids(limits.pids, events.pids_denied.max(1))));
    }
    for (what, key, size) in space(limits, watched) {
        found.push((Ending::Disk, by_size(&what, key, size)));
    }
    let by_cause = match cause {
        Some(Ending::Wall) => Some(by_time("time", "wall", limits.wall)),
        Some(Ending::Idle) => {
            let idle = limits.idle.unwrap_or_default();
            Some(by_time("time without output", "idle", idle))
        }
        Some(Ending::CpuTime) => Some(by_time("CPU time", "cpu_time", limits.cpu_time)),
        Some(Ending::Output) => Some(by_size("output", "output", limits.output)),
        _ => None,
    };
    found.extend(cause.zip(by_cause));
    found
}

/// The status for a cause, and its reason, with the line that would allow more.
#[must_use]
pub fn verdict(cause: Ending, denials: &[(Ending, Denial)]) -> (Status, String) {
    let (status, what) = match cause {
        Ending::Wall => (Status::TimedOut, "ended at its wall-clock deadline"),
        Ending::Idle => (Status::TimedOut, "ended as it wrote nothing for too long"),
        Ending::CpuTime => (Status::CpuTimeExceeded, "no CPU time was left"),
        Ending::Memory => (
            Status::OutOfMemory,
            "a process of the cell was killed for want of memory",
        ),
        Ending::Pids => (Status::PidsExceeded, "it asked for more"),
        Ending::Output => (Status::OutputExceeded, "both streams together passed it"),
        Ending::Disk => (Status::DiskExceeded, "no space was left"),
        Ending::Gateway => {
            let why = "the cell lost its network; hint: the supervisor's log says why";
            return (Status::SetupFailed, why.to_owned());
        }
        Ending::Cancelled => return (Status::Cancelled, "by the caller".to_owned()),
    };
    let hit = denials.iter().filter(|(ending, _)| *ending == cause);
    let (rules, lines): (Vec<_>, Vec<_>) = hit
        .map(|(_, denial)| {
            (
                format!("`{}`", denial.rule),
                format!("`{}`", denial.allow_with),
            )
        })
        .unzip();
    let (rules, lines) = (rules.join(", "), lines.join(" and "));
    let reason = format!("{what} ({rules}); hint: {lines} in the profile would allow more");
    (status, reason)
}

fn was_signalled(watched: &Watched, signal: Signal) -> bool {
    watched.end == Some(End::Signalled(signal as i32))
}

/// Where space ran out: what, by which key, and its size.
fn space<'a>(limits: &'a Limits, watched: &Watched) -> Vec<(String, &'a str, u64)> {
    let mut found: Vec<_> = watched
        .full
        .iter()
        .map(|path| {
            let (key, size) = if path == Path::new(TMP) {
                ("tmp", limits.tmp)
            } else if path == Path::new(SHM) {
                ("shm", limits.shm)
            } else {
                ("disk", limits.disk)
            };
            (format!("space in {}", path.display()), key, size)
        })
        .collect();
    if watched.ending == Some(Ending::Disk) && found.is_empty() {
        found.push(("space in the workspace".to_owned(), "disk", limits.disk));
    }
    if was_signalled(watched, Signal::SIGXFSZ) {
        found.push(("a larger file".to_owned(), "file_size", limits.file_size));
    }
    found
}

fn limit(what: &str, key: &str, now: &str, more: &str) -> Denial {
    Denial {
        kind: DenialKind::Limit,
        what: what.to_owned(),
        rule: format!("limits.{key} = {now}"),
        allow_with: format!("limits.{key} = {more}"),
        count: 1,
    }
}

/// A limit that is a size in bytes.
#[must_use]
pub fn by_size(what: &str, key: &str, now: u64) -> Denial {
    let quoted = |size| format!("\"{}\"", bytes(size));
    limit(what, key, &quoted(now), &quoted(now.saturating_mul(2)))
}

fn by_time(what: &str, key: &str, now: Duration) -> Denial {
    let quoted = |time| format!("\"{}\"", spoken(time));
    limit(what, key, &quoted(now), &quoted(now.saturating_mul(2)))
}

fn pids(now: u32, count: u64) -> Denial {
    let more = now.saturating_mul(2).to_string();
    let denial = limit("processes and threads", "pids", &now.to_string(), &more);
    Denial { count, ..denial }
}

/// A size as a profile would have it.
fn bytes(size: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if size >= unit && size.is_multiple_of(unit) {
            return format!("{} {name}", size / unit);
        }
    }
    format!("{size} B")
}

/// A duration as a profile would have it.
fn spoken(time: Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{millis} ms")
    }
}
