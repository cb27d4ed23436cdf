//! From what was seen of a cell to what is said of the call.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use profiles::resolve::Limits;
use runner::report::{End, SetupFailure, Step};

use crate::cgroup;
use crate::denials::Recorded;
use crate::outcome::{Denial, DenialKind, Outcome, Status, Stream, Usage};
use crate::service::Start;
use crate::supervise::{Ending, Watched};

/// All that is known of a call that had a cell.
pub struct Evidence {
    /// What the watch saw.
    pub watched: Watched,
    /// What the cgroup counted.
    pub events: cgroup::Events,
    /// What was denied.
    pub denials: Recorded,
    /// Which artifacts were not collected.
    pub left_out: Vec<String>,
    /// Nothing of the cell is left.
    pub emptied: bool,
}

/// A call that never had a cell.
#[must_use]
pub fn refused(start: &Start, reason: String) -> Outcome {
    Outcome {
        reason,
        ..blank(start, Status::Refused)
    }
}

/// What came of a call, but for its streams, usage, files and what was enforced.
#[must_use]
pub fn outcome(start: &Start, limits: &Limits, evidence: Evidence) -> Outcome {
    let Evidence {
        watched,
        events,
        mut denials,
        left_out,
        emptied,
    } = evidence;
    let failed = !matches!(watched.end, Some(End::Exited(0)));
    let (status, reason) = judge(start, limits, &watched, events, failed);
    for denial in limit_denials(limits, &watched, events) {
        denials.add(denial);
    }
    if let Some(failure) = watched.failure
        && let Some(denial) = exec_denial(start, failure)
    {
        denials.add(denial);
    }
    let mut outcome = Outcome {
        reason,
        denials: denials.into_list(),
        ..blank(start, status)
    };
    match watched.end {
        Some(End::Exited(code)) if watched.failure.is_none() => outcome.exit_code = Some(code),
        Some(End::Signalled(number)) => outcome.signal = Some(signal_name(number)),
        _ => {}
    }
    add_reason(&mut outcome.reason, left_out);
    if !emptied {
        let what = "the cell could not be emptied in time; see the supervisor's log";
        add_reason(&mut outcome.reason, [what.to_owned()]);
    }
    outcome
}

/// Appends sentences to a reason.
pub fn add_reason(reason: &mut String, more: impl IntoIterator<Item = String>) {
    for sentence in more {
        if !reason.is_empty() {
            reason.push_str("; ");
        }
        reason.push_str(&sentence);
    }
}

/// What the call used: by the cgroup's account where there is one.
#[must_use]
pub fn usage(watched: &Watched, cgroup: Option<cgroup::Usage>) -> Usage {
    let own = &watched.rusage;
    let wall_ms = u64::try_from(watched.wall.as_millis()).unwrap_or(u64::MAX);
    let Some(counted) = cgroup else {
        return Usage {
            wall_ms,
            cpu_user_ms: own.user_micros / 1000,
            cpu_system_ms: own.system_micros / 1000,
            memory_peak_bytes: own.max_rss_bytes,
            pids_peak: None,
            egress_bytes: 0,
        };
    };
    Usage {
        wall_ms,
        cpu_user_ms: counted.user_micros / 1000,
        cpu_system_ms: counted.system_micros / 1000,
        memory_peak_bytes: counted.memory_peak_bytes.unwrap_or(own.max_rss_bytes),
        pids_peak: counted.pids_peak,
        egress_bytes: 0,
    }
}

fn blank(start: &Start, status: Status) -> Outcome {
    Outcome {
        call: start.call.clone(),
        tool: start.tool.name().to_owned(),
        status,
        exit_code: None,
        signal: None,
        reason: String::new(),
        stdout: Stream::default(),
        stderr: Stream::default(),
        denials: vec![],
        usage: Usage::default(),
        enforced: None,
        files: vec![],
    }
}

/// The status and its reason. The order is the order of certainty: what was seen to end the cell,
/// then what the kernel counted, then what the tool's own end suggests.
fn judge(
    start: &Start,
    limits: &Limits,
    watched: &Watched,
    events: cgroup::Events,
    failed: bool,
) -> (Status, String) {
    if let Some(failure) = watched.failure {
        return setup(start, failure);
    }
    if events.oom_kills > 0 {
        return by_ending(limits, Ending::Memory);
    }
    if let Some(ending) = watched.ending {
        return by_ending(limits, ending);
    }
    if failed && events.pids_denied > 0 {
        return by_ending(limits, Ending::Pids);
    }
    if failed && watched.disk_full {
        return by_ending(limits, Ending::Disk);
    }
    match watched.end {
        Some(End::Signalled(number)) if number == Signal::SIGXCPU as i32 => {
            by_ending(limits, Ending::CpuTime)
        }
        Some(End::Signalled(number)) if number == Signal::SIGXFSZ as i32 => {
            let most = bytes(limits.file_size);
            (
                Status::DiskExceeded,
                format!("it wrote a file larger than `limits.file_size = \"{most}\"`"),
            )
        }
        Some(End::Signalled(number)) => (
            Status::Signalled,
            format!(
                "ended by {}, which Toolcell did not send",
                signal_name(number)
            ),
        ),
        Some(End::Exited(_)) => (Status::Exited, String::new()),
        None => (
            Status::SetupFailed,
            "the cell ended without a word; hint: was it, or the launcher, killed from outside?"
                .to_owned(),
        ),
    }
}

fn by_ending(limits: &Limits, ending: Ending) -> (Status, String) {
    let limit = |what: &str, key: &str, now: String| {
        format!("{what}; hint: raise `limits.{key}`, which is \"{now}\"")
    };
    match ending {
        Ending::Wall => (
            Status::TimedOut,
            limit("ended at its wall-clock deadline", "wall", spoken(limits.wall)),
        ),
        Ending::Idle => (
            Status::TimedOut,
            limit(
                "ended because it wrote nothing for too long",
                "idle",
                limits.idle.map(spoken).unwrap_or_default(),
            ),
        ),
        Ending::CpuTime => (
            Status::CpuTimeExceeded,
            limit("ended because its CPU time was used up", "cpu_time", spoken(limits.cpu_time)),
        ),
        Ending::Memory => (
            Status::OutOfMemory,
            limit("a process in the cell was killed for want of memory", "memory", bytes(limits.memory)),
        ),
        Ending::Pids => (
            Status::PidsExceeded,
            limit(
                "the cell had as many processes and threads as it may",
                "pids",
                limits.pids.to_string(),
            ),
        ),
        Ending::Output => (
            Status::OutputExceeded,
            limit("ended because it wrote too much", "output", bytes(limits.output)),
        ),
        Ending::Disk => (
            Status::DiskExceeded,
            "a size-capped directory is full; hint: raise `limits.disk`, `limits.tmp` or `limits.shm`"
                .to_owned(),
        ),
        Ending::Cancelled => (Status::Cancelled, "cancelled by the caller".to_owned()),
    }
}

/// A cell that was never finished, or a program that could not be executed in it.
fn setup(start: &Start, failure: SetupFailure) -> (Status, String) {
    let compiled = &start.tool.compiled;
    let errno = Errno::from_raw(failure.errno);
    if failure.step == Step::Exec {
        let program = start
            .plan
            .argv
            .first()
            .map(|word| word.to_string_lossy().into_owned());
        let program = program.unwrap_or_default();
        return match errno {
            Errno::EACCES | Errno::EPERM => (
                Status::Denied,
                format!(
                    "`{program}` may not be executed: no entry of `files.exec` covers it or its \
                     interpreter, or it has no execute permission"
                ),
            ),
            Errno::ENOENT => (
                Status::SetupFailed,
                format!(
                    "`{program}` or the interpreter that its first line names is not in the cell; \
                     hint: is it installed, and does `files.exec` list it?"
                ),
            ),
            Errno::ENOEXEC => (
                Status::SetupFailed,
                format!("`{program}` is not a program that this kernel runs"),
            ),
            _ => (
                Status::SetupFailed,
                format!("`{program}` could not be executed: {}", errno.desc()),
            ),
        };
    }
    let index = failure.index as usize;
    let item = match failure.step {
        Step::Mount => {
            let mount = compiled.template.mounts.get(index);
            mount
                .map(|mount| format!(" ({mount:?})"))
                .unwrap_or_default()
        }
        Step::Landlock => {
            let rule = compiled.template.landlock.rules.get(index);
            rule.map(|rule| format!(" (rule on `{}`)", rule.path.display()))
                .unwrap_or_default()
        }
        Step::Rlimit => {
            let limit = compiled.template.rlimits.get(index);
            limit
                .map(|limit| format!(" ({limit:?})"))
                .unwrap_or_default()
        }
        _ => String::new(),
    };
    let what = failure.step.what();
    let why = match failure.errno {
        0 => "the kernel does not confirm it".to_owned(),
        _ => format!("{} ({errno})", errno.desc()),
    };
    (
        Status::SetupFailed,
        format!(
            "the cell could not {what}{item}: {why}; hint: `toolcell doctor` says what this host lacks"
        ),
    )
}

fn exec_denial(start: &Start, failure: SetupFailure) -> Option<Denial> {
    if failure.step != Step::Exec || failure.errno != Errno::EACCES as i32 {
        return None;
    }
    let program = start.plan.argv.first()?.to_string_lossy().into_owned();
    Some(Denial {
        kind: DenialKind::Path,
        what: format!("execute {program}"),
        rule: "no entry of `files.exec` covers it".to_owned(),
        allow_with: format!("files.exec = [{program:?}]"),
        count: 1,
    })
}

/// Limits that the cell ran into, whether or not that ended it.
fn limit_denials(limits: &Limits, watched: &Watched, events: cgroup::Events) -> Vec<Denial> {
    let denial = |what: &str, key: &str, now: String, twice: String, count: u64| Denial {
        kind: DenialKind::Limit,
        what: what.to_owned(),
        rule: format!("limits.{key} = \"{now}\""),
        allow_with: format!("limits.{key} = \"{twice}\""),
        count,
    };
    let double = |time: std::time::Duration| spoken(time * 2);
    let mut found = Vec::new();
    if events.oom_kills > 0 || watched.ending == Some(Ending::Memory) {
        let count = events.oom_kills.max(1);
        found.push(denial(
            "memory",
            "memory",
            bytes(limits.memory),
            bytes(limits.memory * 2),
            count,
        ));
    }
    if events.pids_denied > 0 {
        let (now, twice) = (
            limits.pids.to_string(),
            limits.pids.saturating_mul(2).to_string(),
        );
        found.push(Denial {
            rule: format!("limits.pids = {now}"),
            allow_with: format!("limits.pids = {twice}"),
            ..denial(
                "processes and threads",
                "pids",
                now,
                twice,
                events.pids_denied,
            )
        });
    }
    if watched.disk_full || watched.ending == Some(Ending::Disk) {
        found.push(denial(
            "space",
            "disk",
            bytes(limits.disk),
            bytes(limits.disk * 2),
            1,
        ));
    }
    match watched.ending {
        Some(Ending::Wall) => {
            found.push(denial(
                "time",
                "wall",
                spoken(limits.wall),
                double(limits.wall),
                1,
            ));
        }
        Some(Ending::Idle) => {
            let idle = limits.idle.unwrap_or_default();
            found.push(denial(
                "time without output",
                "idle",
                spoken(idle),
                double(idle),
                1,
            ));
        }
        Some(Ending::CpuTime) => {
            let (now, twice) = (spoken(limits.cpu_time), double(limits.cpu_time));
            found.push(denial("CPU time", "cpu_time", now, twice, 1));
        }
        Some(Ending::Output) => {
            found.push(denial(
                "output",
                "output",
                bytes(limits.output),
                bytes(limits.output * 2),
                1,
            ));
        }
        _ => {}
    }
    found
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
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
fn spoken(time: std::time::Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{millis} ms")
    }
}
