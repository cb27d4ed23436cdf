//! From what was seen of a cell to what is said of the call.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use profiles::resolve::Limits;
use runner::report::{End, SetupFailure, Step};
use runner::spec::Mount;

use crate::cgroup;
use crate::denials::Recorded;
use crate::exceeded;
use crate::outcome::{Denial, DenialKind, Outcome, Status, Stream, Usage};
use crate::service::Start;
use crate::supervise::{Ending, Watched};
use crate::surroundings;

/// All that is known of a call that had a cell.
pub struct Evidence {
    /// What the watch saw.
    pub watched: Watched,
    /// What the call mounted beyond its profile.
    pub mounts: Vec<Mount>,
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
        mut watched,
        mounts,
        events,
        mut denials,
        left_out,
        emptied,
    } = evidence;
    let limits_hit = exceeded::denials(limits, &watched, events);
    let (status, reason) = judge(
        start,
        &watched,
        &mounts,
        exceeded::cause(&watched, events),
        &limits_hit,
    );
    for denial in std::mem::take(&mut watched.account.denials) {
        denials.add(denial);
    }
    for (_, denial) in limits_hit {
        denials.add(denial);
    }
    if let Some(failure) = watched.failure
        && failure.step == Step::Exec
        && failure.errno == Errno::EACCES as i32
    {
        denials.add(exec_denial(start));
    }
    let mut outcome = Outcome {
        reason,
        denials: denials.into_list(),
        ..blank(start, status)
    };
    match watched.end {
        Some(End::Exited(code)) if watched.failure.is_none() => {
            outcome.exit_code = Some(code);
            outcome.succeeded = status == Status::Exited && is_success(start, code);
        }
        Some(End::Signalled(number)) => outcome.signal = Some(signal_name(number)),
        _ => {}
    }
    let cut_off = watched.cut_off.map(|why| format!("its network: {why}"));
    add_reason(&mut outcome.reason, cut_off);
    outcome.egress = watched.account.reached;
    add_reason(&mut outcome.reason, left_out);
    if !emptied {
        let what = "the cell could not be emptied in time; see the supervisor's log";
        add_reason(&mut outcome.reason, [what.to_owned()]);
    }
    outcome
}

/// Whether an exit status is a success: by the profile for its own program, and 0 for any other.
fn is_success(start: &Start, code: i32) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let own = start.tool.compiled.resolved.run.as_ref().filter(|run| {
        let program = run.program.as_os_str().as_bytes();
        start
            .plan
            .argv
            .first()
            .is_some_and(|word| word.as_bytes() == program)
    });
    match own {
        Some(run) => u8::try_from(code).is_ok_and(|code| run.success.contains(&code)),
        None => code == 0,
    }
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
    let moved = watched.account.reached.iter();
    let egress_bytes = moved
        .map(|host| host.sent_bytes + host.received_bytes)
        .sum();
    let wall_ms = u64::try_from(watched.wall.as_millis()).unwrap_or(u64::MAX);
    let Some(counted) = cgroup else {
        return Usage {
            wall_ms,
            cpu_user_ms: own.user_micros / 1000,
            cpu_system_ms: own.system_micros / 1000,
            memory_peak_bytes: own.max_rss_bytes,
            pids_peak: None,
            egress_bytes,
        };
    };
    Usage {
        wall_ms,
        cpu_user_ms: counted.user_micros / 1000,
        cpu_system_ms: counted.system_micros / 1000,
        memory_peak_bytes: counted.memory_peak_bytes.unwrap_or(own.max_rss_bytes),
        pids_peak: counted.pids_peak,
        egress_bytes,
    }
}

fn blank(start: &Start, status: Status) -> Outcome {
    Outcome {
        call: start.call.clone(),
        tool: start.tool.name().to_owned(),
        status,
        succeeded: false,
        exit_code: None,
        signal: None,
        reason: String::new(),
        stdout: Stream::default(),
        stderr: Stream::default(),
        denials: vec![],
        usage: Usage::default(),
        egress: vec![],
        enforced: None,
        files: vec![],
    }
}

/// The status and its reason.
fn judge(
    start: &Start,
    watched: &Watched,
    mounts: &[Mount],
    cause: Option<Ending>,
    limits_hit: &[(Ending, Denial)],
) -> (Status, String) {
    if let Some(failure) = watched.failure {
        return setup(start, failure, mounts);
    }
    if let Some(cause) = cause {
        return exceeded::verdict(cause, limits_hit);
    }
    match watched.end {
        Some(End::Signalled(_)) => (Status::Signalled, "Toolcell did not send it".to_owned()),
        Some(End::Exited(_)) => (Status::Exited, String::new()),
        None => (
            Status::SetupFailed,
            "the cell ended without a word; hint: was it, or the launcher, killed from outside?"
                .to_owned(),
        ),
    }
}

/// A cell that was never finished, or a program that could not be executed in it.
fn setup(start: &Start, failure: SetupFailure, added: &[Mount]) -> (Status, String) {
    let compiled = &start.tool.compiled;
    let errno = Errno::from_raw(failure.errno);
    if failure.step == Step::Exec {
        return not_executed(start, errno);
    }
    let index = failure.index as usize;
    let mut mounts = compiled.template.mounts.iter().chain(added);
    if let Some((what, hint)) = mounts.nth(index).and_then(|mount| unshown(mount, failure)) {
        let reason = format!("the cell could not {what}; hint: {hint}");
        return (Status::SetupFailed, reason);
    }
    let item = match failure.step {
        Step::Mount => {
            let mount = compiled.template.mounts.iter().chain(added).nth(index);
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
    let failed = match failure.step {
        Step::Mount => compiled.template.mounts.iter().chain(added).nth(index),
        _ => None,
    };
    let found = surroundings::at_start().explain(failure.step, errno, failed);
    let why = match (&found, failure.step, errno) {
        // `No space left on device` would lead astray.
        (Some(found), Step::Clone, Errno::ENOSPC | Errno::EUSERS) => found.why.clone(),
        (Some(found), _, _) => format!("{}: {}", errno.desc(), found.why),
        (_, _, Errno::UnknownErrno) if failure.errno == 0 => {
            "the kernel does not confirm it".into()
        }
        (_, Step::Clone, Errno::EPERM) => "this host does not let us make user namespaces".into(),
        _ => errno.to_string(),
    };
    let hint = found.map_or_else(
        || "`toolcell doctor` says what this host lacks".to_owned(),
        |found| found.mend,
    );
    (
        Status::SetupFailed,
        format!("the cell could not {what}{item}: {why}; hint: {hint}"),
    )
}

/// What is wrong with a path of the host that could not be shown, and what mends it.
fn unshown(mount: &Mount, failure: SetupFailure) -> Option<(String, &'static str)> {
    if let Mount::Guarded { source, .. } = mount
        && failure.step == Step::Mount
        && failure.errno == Errno::EINVAL as i32
    {
        return Some((
            format!(
                "keep names in `{}` from being made (`files.protect`): it lies on a file system that \
                 another overlay cannot be put over, such as a container's own overlay, or NFS",
                source.display()
            ),
            "keep it on ext4, xfs, btrfs or tmpfs (in a container: a volume), or leave what does not \
             exist out of `files.protect`",
        ));
    }
    let (Mount::Bind { source, .. } | Mount::Appended { source, .. }) = mount else {
        return None;
    };
    let path = source.display();
    if matches!(mount, Mount::Appended { .. }) {
        let why = Errno::from_raw(failure.errno).desc();
        return Some((
            format!("copy the host's certificate authorities `{path}`: {why}"),
            "let everybody read it, or start toolcell with `SSL_CERT_FILE` naming another",
        ));
    }
    match (failure.step, Errno::from_raw(failure.errno)) {
        (Step::ShowOwner, Errno::EINVAL) => Some((
            format!(
                "show `{path}` as its own user's: its file system, or one that is mounted beneath \
                 it, has no idmapped mounts"
            ),
            "keep it on ext4, xfs, btrfs or tmpfs, or run toolcell as the user who owns it",
        )),
        (Step::ShowOwner, Errno::EPERM) if !surroundings::at_start().sys_admin => Some((
            format!("show `{path}` as its own user's, which takes CAP_SYS_ADMIN"),
            "run toolcell as the user who owns it, or as root with that capability",
        )),
        (Step::ShowOwner, errno) => Some((
            format!("show `{path}` as its own user's: {}", errno.desc()),
            "run toolcell as the user who owns it",
        )),
        (Step::Mount, Errno::EACCES) => Some((
            format!("mount `{path}`: its user may not get there"),
            "what a profile lists by its path keeps the kernel's permissions; give the directory as \
             a root, or open the way to it",
        )),
        (Step::Mount, Errno::ESTALE) => Some((
            format!("mount `{path}`: another file has taken its place meanwhile"),
            "call again",
        )),
        _ => None,
    }
}

/// A program that could not be executed in a cell that was built.
fn not_executed(start: &Start, errno: Errno) -> (Status, String) {
    let program = program(start);
    match errno {
        Errno::EACCES | Errno::EPERM => {
            let denial = exec_denial(start);
            let hint = match denial.allow_with.as_str() {
                "" => String::new(),
                line => format!("; hint: `{line}` in the profile would allow it"),
            };
            let reason = format!("`{program}` may not be executed: {}{hint}", denial.rule);
            (Status::Denied, reason)
        }
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
    }
}

fn program(start: &Start) -> String {
    let first = start.plan.argv.first();
    first.map_or_else(String::new, |word| word.to_string_lossy().into_owned())
}

/// Why a program that is in the cell may not be executed.
fn exec_denial(start: &Start) -> Denial {
    let program = program(start);
    // Links within the cell are those of the host.
    let canonical = Path::new(&program).canonicalize();
    let (rule, allow_with) = match canonical {
        Ok(path) if !is_executable(&path) => ("nobody may execute it: its mode", String::new()),
        Ok(path) if start.tool.compiled.may_execute(&path) => (
            "its mode, or an interpreter that is not in `files.exec`",
            String::new(),
        ),
        _ => (
            "no entry of `files.exec` covers it",
            format!("files.exec = [{program:?}]"),
        ),
    };
    Denial {
        kind: DenialKind::Path,
        what: format!("execute {program}"),
        rule: rule.to_owned(),
        allow_with,
        count: 1,
    }
}

/// Whether a file has any execute permission, without which no profile makes it a program.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
}
