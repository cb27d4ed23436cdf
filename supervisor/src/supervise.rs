//! A running cell: fed, watched, ended when it must be, and emptied.
//!
//! Who ends a cell, and why, is decided here once: the first cause stands, and what follows from
//! ending it is not taken for another.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use profiles::compile::Compiled;
use profiles::resolve::{Limits, WORK, Workspace};
use runner::report::{Confirmed, End, Report, SetupFailure, Step, Usage};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cgroup::CellCgroup;
use crate::denials::{self, Allowed, Looker, Recorded};
use crate::egress::opening::Opening;
use crate::egress::session::{Gateways, Session};
use crate::egress::wire::{Account, Service};
use crate::held::{self, SystemV};
use crate::launch::{Cell, FirstProcess, Launcher};
use crate::reader::Reader;
use crate::streams::OutputLimit;
use crate::{disk, processes};

/// Longest a cell may take from its launch to its exec.
pub const SETUP_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a killed cell: only a process in an uninterruptible sleep takes so long.
pub const KILL_MAX: Duration = Duration::from_secs(10);
/// How often what the kernel does not announce is looked at: CPU time, disk, idle time.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A cell that is refused this many processes is a fork bomb and is ended.
pub const PIDS_DENIED_MAX: u64 = 256;

/// Why a cell was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The wall-clock deadline.
    Wall,
    /// No output for as long as the profile allows.
    Idle,
    /// CPU time.
    CpuTime,
    /// Memory: the kernel killed in the cell, or (tier rlimits) the sampled sum passed the limit.
    Memory,
    /// Processes.
    Pids,
    /// Output.
    Output,
    /// A workspace on the host's disk grew past its limit.
    Disk,
    /// The gateway went away, and with it the cell's network.
    Gateway,
    /// The caller's wish.
    Cancelled,
}

/// What came of a cell.
#[derive(Debug)]
pub struct Watched {
    /// How the tool's own process ended; absent if the cell was killed first.
    pub end: Option<End>,
    /// Why the cell could not be built.
    pub failure: Option<SetupFailure>,
    /// Why it was ended from outside.
    pub ending: Option<Ending>,
    /// What the cell read back before the exec.
    pub confirmed: Option<Confirmed>,
    /// `getrusage` of the cell.
    pub rusage: Usage,
    /// From the exec to the end.
    pub wall: Duration,
    /// Directories of the cell, in the order of the template's `handed_back`.
    pub directories: Vec<OwnedFd>,
    /// Size-capped directories that were full at the end, by their paths in the cell.
    pub full: Vec<PathBuf>,
    /// Everything in the cell has ended.
    pub emptied: bool,
    /// What the cell did over the network, if it had one.
    pub account: Account,
    /// Why it has no network although it should.
    pub cut_off: Option<String>,
}

/// What is needed to watch a cell.
pub struct Watch<'a> {
    /// The cell.
    pub cell: Cell,
    /// Who has made it, and makes what else it needs.
    pub launcher: &'a Arc<Launcher>,
    /// Its profile.
    pub compiled: &'a Arc<Compiled>,
    /// Its cgroup, in tiers that have one.
    pub cgroup: Option<&'a CellCgroup>,
    /// Both output streams' limit.
    pub output: &'a OutputLimit,
    /// What the paths it tries are compared with.
    pub allowed: Allowed,
    /// Where denials are recorded.
    pub recorded: Arc<Mutex<Recorded>>,
    /// What serves the cell's network, if its template has one.
    pub gateways: &'a Gateways,
    /// What is needed to open TLS, if the profile injects headers.
    pub opening: Option<&'a Opening>,
    /// The caller's wish.
    pub cancel: CancellationToken,
    /// What came of it before the call did, if it waited.
    pub before: Before,
}

/// What is known of a cell that waited before its call came.
#[derive(Debug, Default)]
pub struct Before {
    /// Its first process, and what looks into its processes.
    pub known: Option<(FirstProcess, Arc<Reader>)>,
    /// What it read back from the kernel, and what hears of its denials, if it has executed its program.
    pub executed: Option<(Confirmed, Option<JoinHandle<()>>)>,
}

/// The course of one cell.
struct Course<'a> {
    watch: Watch<'a>,
    limits: &'a Limits,
    first: Option<FirstProcess>,
    /// Looks into the cell's processes.
    reader: Option<Arc<Reader>>,
    result: Watched,
    launched: Instant,
    /// Since the exec.
    running: Option<Instant>,
    /// When a cell that was asked to end is killed.
    kill_at: Option<Instant>,
    killed_at: Option<Instant>,
    listener: Option<JoinHandle<()>>,
    /// Told when a workspace on the host's disk has grown past the limit.
    grown: Arc<Notify>,
    measuring: Option<AbortOnDropHandle<()>>,
    /// In the tier without cgroups.
    system_v: SystemV,
    reports_end: bool,
    session: Option<Session>,
}

/// Watches a cell until nothing of it runs.
pub async fn watch(mut watch: Watch<'_>) -> Watched {
    let compiled = Arc::clone(watch.compiled);
    let Before { known, executed } = std::mem::take(&mut watch.before);
    let (first, reader) = known.unzip();
    let (confirmed, listener) = executed.unzip();
    let mut course = Course {
        limits: &compiled.resolved.limits,
        watch,
        first,
        reader,
        result: Watched {
            end: None,
            failure: None,
            ending: None,
            confirmed,
            rusage: Usage::default(),
            wall: Duration::ZERO,
            directories: Vec::new(),
            full: Vec::new(),
            emptied: false,
            account: Account::default(),
            cut_off: None,
        },
        launched: Instant::now(),
        running: confirmed.map(|_| Instant::now()),
        kill_at: None,
        killed_at: None,
        listener: listener.flatten(),
        grown: Arc::default(),
        measuring: None,
        system_v: SystemV::default(),
        reports_end: false,
        session: None,
    };
    course.run().await;
    course.finish().await
}

impl Course<'_> {
    async fn run(&mut self) {
        let mut look = interval_at((self.launched + LOOK_EVERY).into(), LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.watch.cancel.clone();
        let grown = Arc::clone(&self.grown);
        loop {
            let first = self.first.clone();
            let session = self.session.clone();
            let next = self.next_deadline();
            tokio::select! {
                biased;
                report = self.watch.cell.report(), if !self.reports_end => self.hear(report).await,
                () = ended(first.as_ref()), if first.is_some() => {
                    self.result.emptied = true;
                    return;
                }
                () = cancel.cancelled(), if self.may_be_ended() => self.end(Ending::Cancelled),
                () = self.watch.output.passed.notified() => self.end(Ending::Output),
                () = event(self.watch.cgroup), if self.watch.cgroup.is_some() => self.look_at_events(),
                () = grown.notified() => self.end(Ending::Disk),
                () = gone(session.as_ref()), if session.is_some() && self.may_be_ended() => {
                    self.cut_off("the gateway that serves it has ended".to_owned());
                }
                _ = look.tick() => self.look().await,
                () = sleep_until(next.into()) => {
                    if self.pass_deadline() {
                        return;
                    }
                }
            }
            if self.first.is_none() && self.reports_end {
                // The launcher could not make it, and has said why, or has gone.
                self.result.emptied = true;
                return;
            }
        }
    }

    async fn hear(&mut self, report: std::io::Result<Option<(Report, Vec<OwnedFd>)>>) {
        let Ok(Some((report, descriptors))) = report else {
            self.reports_end = true;
            return;
        };
        match report {
            Report::Started { pid } => {
                let counts = self.watch.cgroup.is_none();
                let known = started(pid, descriptors, self.watch.launcher, counts);
                (self.first, self.reader) = known.unzip();
                if self.first.is_none() {
                    self.fail(SetupFailure {
                        step: Step::Clone,
                        errno: 0,
                        index: 0,
                    });
                } else if self.killed_at.is_some() {
                    self.kill();
                }
            }
            Report::Network { watchers } => self.connect(watchers, &descriptors).await,
            Report::Built => {
                let mut descriptors = descriptors;
                let directories = self.watch.compiled.template.handed_back.len();
                if descriptors.len() > directories {
                    self.system_v = SystemV::new(descriptors.split_off(directories));
                }
                self.result.directories = descriptors;
                self.measuring = self.watch_disk();
            }
            // It was told to begin before it was watched.
            Report::Waiting => {}
            Report::Confined(confirmed) => {
                self.result.confirmed = Some(confirmed);
                self.running = Some(Instant::now());
                self.listener = descriptors.into_iter().next().map(|fd| self.listen(fd));
            }
            Report::Failed(failure) => self.fail(failure),
            Report::Ended { end, usage } => {
                self.result.end = Some(end);
                self.result.rusage = usage;
            }
        }
    }

    /// Has the gateway serve the cell's sockets.
    async fn connect(&mut self, watchers: u8, sockets: &[OwnedFd]) {
        let Some(plan) = &self.watch.compiled.egress else {
            return self.cut_off("its profile has none".to_owned());
        };
        let Watch {
            gateways,
            launcher,
            opening,
            ..
        } = &self.watch;
        let service = Service {
            plan: Arc::clone(plan),
            watchers,
            bytes: self.limits.egress,
            connections: self.limits.connections,
            opened: opening.map(|opening| opening.opened.clone()),
        };
        let bundle = opening.map(|opening| &opening.bundle);
        match gateways.serve(launcher, service, bundle, sockets).await {
            Ok(session) => self.session = Some(session),
            Err(error) => self.cut_off(error.to_string()),
        }
    }

    /// A cell without the network that its profile gives it is ended: the tool would take refusals
    /// for answers.
    fn cut_off(&mut self, why: String) {
        self.result.cut_off.get_or_insert(why);
        self.session = None;
        self.end(Ending::Gateway);
    }

    /// Watches the workspace, which is the first directory that is handed back, if it is on a disk.
    fn watch_disk(&self) -> Option<AbortOnDropHandle<()>> {
        let kind = &self.watch.compiled.resolved.workspace;
        if !matches!(kind, Workspace::Host { .. } | Workspace::Named { .. }) {
            return None;
        }
        let workspace = self.result.directories.first()?.try_clone().ok()?;
        let most = self.limits.disk;
        let grown = Arc::clone(&self.grown);
        let begun = SystemTime::now();
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            disk::grown_past(workspace, begun, most).await;
            grown.notify_one();
        })))
    }

    fn listen(&self, listener: OwnedFd) -> JoinHandle<()> {
        let Watch {
            compiled,
            allowed,
            recorded,
            ..
        } = &self.watch;
        listen(listener, compiled, allowed, recorded, self.reader.as_ref())
    }

    fn fail(&mut self, failure: SetupFailure) {
        // A cell that is ended while it is being built cannot be finished; that is no cause.
        if self.result.ending.is_none() {
            self.result.failure.get_or_insert(failure);
        }
        self.kill();
    }

    /// Ends the cell for this cause, unless it is being ended already.
    fn end(&mut self, cause: Ending) {
        if !self.may_be_ended() {
            return;
        }
        self.result.ending = Some(cause);
        match cause {
            // Time to clean up is worth giving where the tool is merely late.
            Ending::Wall | Ending::Idle | Ending::CpuTime | Ending::Cancelled
                if self.running.is_some() && !self.limits.grace.is_zero() =>
            {
                self.watch.cell.terminate();
                self.kill_at = Some(Instant::now() + self.limits.grace);
            }
            _ => self.kill(),
        }
    }

    fn may_be_ended(&self) -> bool {
        self.result.ending.is_none() && self.result.end.is_none() && self.result.failure.is_none()
    }

    fn kill(&mut self) {
        self.killed_at.get_or_insert_with(Instant::now);
        self.kill_at = None;
        if let Some(cgroup) = self.watch.cgroup {
            // A throttled process dies as slowly as it runs.
            cgroup.unthrottle();
        }
        if let Some(first) = &self.first {
            first.kill();
        }
    }

    fn next_deadline(&self) -> Instant {
        if let Some(killed) = self.killed_at {
            return killed + KILL_MAX;
        }
        if let Some(at) = self.kill_at {
            return at;
        }
        match self.running {
            None => self.launched + SETUP_MAX,
            Some(running) => running + self.limits.wall,
        }
    }

    /// Acts on the deadline that has passed; true if the cell cannot be ended at all.
    fn pass_deadline(&mut self) -> bool {
        if self.killed_at.is_some() {
            return true;
        }
        if self.kill_at.is_some() || self.result.end.is_some() {
            self.kill();
        } else if self.running.is_none() {
            let timeout = nix::errno::Errno::ETIMEDOUT as i32;
            self.fail(SetupFailure {
                step: Step::Clone,
                errno: timeout,
                index: 0,
            });
        } else {
            self.end(Ending::Wall);
        }
        false
    }

    fn look_at_events(&mut self) {
        let Some(Ok(events)) = self.watch.cgroup.map(CellCgroup::events) else {
            return;
        };
        if events.oom_kills > 0 {
            self.end(Ending::Memory);
        } else if events.pids_denied >= PIDS_DENIED_MAX {
            self.end(Ending::Pids);
        }
    }

    async fn look(&mut self) {
        self.look_at_events();
        let Some(running) = self.running else { return };
        if let Some(idle) = self.limits.idle
            && self.watch.output.last_output().max(running).elapsed() > idle
        {
            self.end(Ending::Idle);
        }
        let (cpu_micros, memory) = self.measure().await;
        if u128::from(cpu_micros) > self.limits.cpu_time.as_micros() {
            self.end(Ending::CpuTime);
        }
        if memory > self.limits.memory {
            self.end(Ending::Memory);
        }
    }

    /// CPU time in microseconds, and memory where no cgroup caps it.
    async fn measure(&self) -> (u64, u64) {
        if let Some(cgroup) = self.watch.cgroup {
            return (cgroup.cpu_micros().unwrap_or(0), 0);
        }
        let (Some(first), Some(reader)) = (&self.first, &self.reader) else {
            return (0, 0);
        };
        let sum = processes::sum(first.pid);
        let directories = self.in_memory();
        let Some(held) = held::look(first.pid, self.limits.open_files, reader).await else {
            if reader.is_over() {
                return (sum.cpu_micros, 0);
            }
            tracing::error!("what a cell holds cannot be counted: it is taken for too much");
            return (sum.cpu_micros, u64::MAX);
        };
        let in_memory = held.files
            + self.system_v.shared_bytes()
            + directories
                .filter_map(|(_, directory)| disk::used_in_memory(directory))
                .sum::<u64>();
        let kernels = held.buffers + self.system_v.kernel_bytes();
        // What is mapped of a file in memory is shared memory, too, and is not counted twice: a cell
        // may so have up to twice the limit, but is never ended too early.
        let memory = |shared: u64| sum.anonymous_bytes + shared.max(in_memory) + kernels;
        let mut sampled = memory(sum.shared_bytes);
        if sampled > self.limits.memory {
            sampled = memory(processes::shared_bytes_once(first.pid, reader).await);
        }
        (sum.cpu_micros, sampled)
    }

    /// The cell's own directories in memory, by their paths in the cell. A workspace of the host's
    /// is none, also if the host keeps it in memory.
    fn in_memory(&self) -> impl Iterator<Item = (&Path, &OwnedFd)> {
        let compiled = self.watch.compiled;
        let of_the_host = matches!(
            compiled.resolved.workspace,
            Workspace::Host { .. } | Workspace::Named { .. }
        );
        let paths = compiled.template.handed_back.iter().map(PathBuf::as_path);
        let all = paths.zip(&self.result.directories);
        all.filter(move |(path, _)| !(of_the_host && *path == Path::new(WORK)))
    }

    async fn finish(mut self) -> Watched {
        // What was still on its way when the last process ended.
        while !self.reports_end {
            match tokio::time::timeout(KILL_MAX, self.watch.cell.report()).await {
                Ok(report) => self.hear(report).await,
                Err(_) => break,
            }
        }
        if let Some(session) = self.session.take() {
            match session.finish().await {
                Ok(account) => self.result.account = account,
                Err(error) => {
                    let why = format!("the gateway does not account for it: {error}");
                    self.result.cut_off.get_or_insert(why);
                    // The tool may have seen it go and ended before it could be ended.
                    self.result.ending.get_or_insert(Ending::Gateway);
                }
            }
        }
        if let Some(listener) = self.listener.take() {
            // It ends by itself with the last process that the filter is on.
            if !self.result.emptied || tokio::time::timeout(KILL_MAX, listener).await.is_err() {
                tracing::error!("a cell's seccomp listener outlives it");
            }
        }
        self.result.wall = self
            .running
            .map_or(Duration::ZERO, |running| running.elapsed());
        let own = self.in_memory();
        let full = own.filter(|(_, directory)| disk::is_full(directory));
        self.result.full = full.map(|(path, _)| path.to_owned()).collect();
        self.result
    }
}

/// Of what came with [`Report::Started`]: the cell's first process, and what looks into the others.
#[must_use]
pub fn started(
    pid: i32,
    descriptors: Vec<OwnedFd>,
    launcher: &Arc<Launcher>,
    counts: bool,
) -> Option<(FirstProcess, Arc<Reader>)> {
    let mut descriptors = descriptors.into_iter();
    let first = FirstProcess::new(pid, descriptors.next()?).ok()?;
    let reader = Reader::new(
        Arc::clone(launcher),
        first.clone(),
        descriptors.next()?,
        counts,
    );
    Some((first, Arc::new(reader)))
}

/// Hears of a cell's denials until its last process has ended.
pub fn listen(
    listener: OwnedFd,
    compiled: &Arc<Compiled>,
    allowed: &Allowed,
    recorded: &Arc<Mutex<Recorded>>,
    reader: Option<&Arc<Reader>>,
) -> JoinHandle<()> {
    let compiled = Arc::clone(compiled);
    let allowed = allowed.clone();
    let recorded = Arc::clone(recorded);
    let reader = reader.cloned();
    tokio::spawn(async move {
        let looker = Looker {
            policy: &compiled.policy,
            allowed: &allowed,
            reader: reader.as_deref(),
        };
        let heard = denials::listen(listener, looker, &recorded).await;
        if let Err(error) = heard {
            tracing::error!(%error, "a cell's denials can no longer be answered");
        }
    })
}

async fn ended(first: Option<&FirstProcess>) {
    match first {
        Some(first) => first.ended().await,
        None => std::future::pending().await,
    }
}

async fn gone(session: Option<&Session>) {
    match session {
        Some(session) => session.gone().await,
        None => std::future::pending().await,
    }
}

async fn event(cgroup: Option<&CellCgroup>) {
    match cgroup {
        Some(cgroup) => cgroup.event().await,
        None => std::future::pending().await,
    }
}

/// The denials of a call, once nobody records any more.
#[must_use]
pub fn take(recorded: &Mutex<Recorded>) -> Recorded {
    std::mem::take(&mut recorded.lock().unwrap_or_else(PoisonError::into_inner))
}
