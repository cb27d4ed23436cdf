//! Cells that are built before their call comes, for tools whose profile asks for it (`[pool]`).
//!
//! Each serves one call and is like one that was built for it: it is used only if what the call would
//! add to a cell, and what the host has at every path that it shows or covers, are still the same. If
//! not, or if none is there, the call gets a cell as any other.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use runner::report::Report;
use runner::spec::{Call, Mount, Network, Program, Template};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::{Begun, Cells, For, Refused, remove};
use crate::catalog::Catalog;
use crate::denials::Allowed;
use crate::outcome::StartedFrom;
use crate::service::Start;
use crate::supervise::{self, KILL_MAX, PIDS_DENIED_MAX, SETUP_MAX};
use crate::tool::Tool;

/// Most cells that wait, of all tools together.
const WAITING_MAX: usize = 256;
/// How long one waits at most: then another takes its place.
const AGE_MAX: Duration = Duration::from_mins(10);
/// A tool that was not called for so long has one cell that waits, and no more.
const IDLE: Duration = Duration::from_mins(10);
/// When another is tried to be prepared for a tool, after one could not be or has ended by itself.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often is looked whether all that wait are still alive.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Descriptors for a cell: its process and PID namespace, two sockets, three streams, its cgroups' files.
const DESCRIPTORS_EACH: usize = 18;
/// The resolver's sockets and the watchers of a cell with egress.
const RESOLVER_AND_WATCHERS: usize = 6;
/// What a cell has of its own at these paths.
const OWN: [&str; 4] = ["/proc", "/dev", "/tmp", "/work"];

/// The cells that wait.
#[derive(Default)]
pub(crate) struct Pool {
    shelves: Mutex<Shelves>,
    mounts: Mutex<Mounts>,
    /// Told when a cell was taken or given back.
    changed: Notify,
}

#[derive(Default)]
struct Shelves {
    /// By the tool's name, the oldest first.
    waiting: BTreeMap<String, VecDeque<Waiting>>,
    /// What no call can use.
    rejected: Vec<Waiting>,
    /// When a tool was last called.
    called: BTreeMap<String, Instant>,
    /// When preparing a cell for a tool last failed.
    failed: BTreeMap<String, Instant>,
}

/// A cell that waits.
struct Waiting {
    tool: Arc<Tool>,
    begun: Begun,
    /// What the host had at the paths that the cell shows or covers.
    seen: Vec<Seen>,
    since: Instant,
    /// State of the host's mounts before it was built.
    mounts: u64,
}

/// What is at a path of the host. A number of an inode is given again once nobody has it, so where
/// nothing holds it the time counts, too.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    kind: Kind,
    found: Option<[u64; 6]>,
}

/// What must stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Which file it is: the cell's mount holds it.
    Shown,
    /// Also when it was made: nothing holds what is covered, and the cover goes with it.
    Covered,
    /// Also what is in it: the cell has a copy.
    Copied,
}

impl Seen {
    fn look(path: &Path, kind: Kind) -> Self {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags).ok();
        let found = found.map(|stat| {
            let born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
            let time = match kind {
                Kind::Shown => None,
                Kind::Covered if born => Some(stat.stx_btime),
                Kind::Covered | Kind::Copied => Some(stat.stx_ctime),
            };
            let (seconds, nanos) = time.map_or((0, 0), |time| (time.tv_sec, time.tv_nsec));
            [
                (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
                stat.stx_ino,
                stat.stx_mnt_id,
                seconds.cast_unsigned(),
                u64::from(nanos),
                if kind == Kind::Copied {
                    stat.stx_size
                } else {
                    0
                },
            ]
        });
        Self {
            path: path.to_owned(),
            kind,
            found,
        }
    }

    fn is_so_still(&self) -> bool {
        self.found.is_some() && Self::look(&self.path, self.kind) == *self
    }
}

/// What the host has at the paths that a template names.
fn seen(template: &Template) -> Vec<Seen> {
    let paths = template.mounts.iter().filter_map(|mount| match mount {
        Mount::Bind { source, .. } | Mount::Device { source, .. } => Some((source, Kind::Shown)),
        Mount::Appended { source, .. } => Some((source, Kind::Copied)),
        // It is over what is at the same path of the host.
        Mount::Mask { target, .. } | Mount::Protect { target } | Mount::Pin { target } => {
            Some((target, Kind::Covered))
        }
        _ => None,
    });
    let mut seen: Vec<_> = paths.map(|(path, kind)| Seen::look(path, kind)).collect();
    // A rule is about a file, whoever has its name later. What is the cell's own is not the host's.
    let own = |path: &Path| path == Path::new("/") || OWN.iter().any(|own| path.starts_with(own));
    let rules = template.landlock.rules.iter().map(|rule| &rule.path);
    let looked = rules
        .filter(|path| !own(path))
        .map(|path| Seen::look(path, Kind::Shown));
    seen.extend(looked.filter(|seen| seen.found.is_some()));
    seen
}

/// Which state the host's mounts are in: what is mounted later is in no cell that was built before.
struct Mounts {
    table: Option<File>,
    state: u64,
}

impl Default for Mounts {
    fn default() -> Self {
        Self {
            table: File::open("/proc/self/mountinfo").ok(),
            state: 0,
        }
    }
}

impl Mounts {
    /// Their state now; none if it cannot be told.
    fn state(&mut self) -> Option<u64> {
        let table = self.table.as_ref()?;
        // The kernel says once to each who has it open that something was mounted or unmounted
        // (proc_pid_mounts(5)).
        let mut polled = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut polled, PollTimeout::ZERO).ok()? > 0 {
            self.state += 1;
        }
        Some(self.state)
    }
}

impl Waiting {
    fn is_alive(&self) -> bool {
        let known = &self.begun.before.known;
        known.as_ref().is_some_and(|(first, _)| !first.has_ended())
    }

    /// Whether the host is as it was when the cell was built. A file system may take its time to answer,
    /// so this is for a thread that may wait.
    fn is_fresh(&self, mounts: Option<u64>) -> bool {
        self.since.elapsed() < AGE_MAX
            && mounts.is_some_and(|mounts| mounts == self.mounts)
            && self.seen.iter().all(Seen::is_so_still)
    }

    /// Whether it has gone past what its call may use, while it waited.
    fn is_spent(&self) -> bool {
        let Some(cgroup) = &self.begun.prepared.cgroup else {
            return false;
        };
        let used = cgroup.cpu_micros().unwrap_or(u64::MAX);
        let events = cgroup.events().unwrap_or_default();
        u128::from(used) > self.tool.compiled.resolved.limits.cpu_time.as_micros()
            || events.oom_kills > 0
            || events.pids_denied >= PIDS_DENIED_MAX
    }
}

/// Descriptors of the supervisor's that a cell of this tool takes while it waits.
fn descriptors(tool: &Tool) -> usize {
    let template = &tool.compiled.template;
    let sockets = match &template.network {
        Network::None => 0,
        Network::Egress { sockets } => sockets.len() + RESOLVER_AND_WATCHERS,
    };
    DESCRIPTORS_EACH + template.handed_back.len() + sockets
}

/// How many descriptors all cells that wait may take: calls need the others.
fn descriptors_max() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit / 4).unwrap_or(usize::MAX)
}

impl Pool {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the host's mounts.
    fn mounts(&self) -> Option<u64> {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.state()
    }

    /// Takes the one that has waited longest for a call of this very tool.
    fn take(&self, tool: &Arc<Tool>) -> Option<Waiting> {
        let mut shelves = self.shelves();
        let name = tool.name();
        shelves.called.insert(name.to_owned(), Instant::now());
        let shelf = shelves.waiting.get_mut(name)?;
        let waiting = shelf.pop_front_if(|waiting| Arc::ptr_eq(&waiting.tool, tool));
        drop(shelves);
        self.changed.notify_one();
        waiting
    }

    fn reject(&self, waiting: Waiting) {
        self.shelves().rejected.push(waiting);
        self.changed.notify_one();
    }

    fn put(&self, waiting: Waiting) {
        let name = waiting.tool.name().to_owned();
        let mut shelves = self.shelves();
        shelves.waiting.entry(name).or_default().push_back(waiting);
    }

    fn fail(&self, tool: &Tool) {
        let now = Instant::now();
        self.shelves().failed.insert(tool.name().to_owned(), now);
    }

    /// Takes away what calls could not use.
    fn rejected(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.shelves().rejected)
    }

    /// Takes away what no call can use any more, and what is too many. Meanwhile calls find none: files
    /// are looked at without the lock, as they may be on a file system that does not answer.
    fn weed(&self, catalog: &Catalog) -> Vec<Waiting> {
        let snapshot = catalog.snapshot();
        let (waiting, mut gone) = {
            let mut shelves = self.shelves();
            let shelves = &mut *shelves;
            let known = |name: &String| snapshot.tools.contains_key(name);
            shelves.called.retain(|name, _| known(name));
            shelves
                .failed
                .retain(|name, at| known(name) && at.elapsed() < AGAIN_AFTER);
            let waiting = std::mem::take(&mut shelves.waiting);
            (waiting, std::mem::take(&mut shelves.rejected))
        };
        let mounts = self.mounts();
        for (name, waiting) in waiting {
            let (kept, other) = tokio::task::block_in_place(|| {
                waiting.into_iter().partition::<Vec<_>, _>(|one| {
                    let now = snapshot.tools.get(&name);
                    now.is_some_and(|tool| Arc::ptr_eq(tool, &one.tool))
                        && one.is_alive()
                        && !one.is_spent()
                        && one.is_fresh(mounts)
                })
            });
            if let Some(ended) = other.iter().find(|one| !one.is_alive()) {
                tracing::warn!(tool = name, "a cell that waited for a call has ended");
                self.fail(&ended.tool);
            }
            gone.extend(other);
            let mut shelves = self.shelves();
            let wanted = kept.first().map_or(0, |one| shelves.wanted(&one.tool));
            let mut kept: VecDeque<_> = kept.into();
            gone.extend(kept.drain(kept.len().min(wanted)..));
            shelves.waiting.insert(name, kept);
        }
        gone
    }

    /// A tool that has fewer cells waiting than it shall: one with the fewest.
    fn lacking(&self, catalog: &Catalog) -> Option<Arc<Tool>> {
        let snapshot = catalog.snapshot();
        let shelves = self.shelves();
        let all = || shelves.waiting.values().flatten();
        let taken: usize = all().map(|one| descriptors(&one.tool)).sum();
        if all().count() >= WAITING_MAX {
            return None;
        }
        let most = descriptors_max();
        let number = |tool: &Tool| shelves.waiting.get(tool.name()).map_or(0, VecDeque::len);
        let lacks = |tool: &&Arc<Tool>| {
            number(tool) < shelves.wanted(tool)
                && !shelves.failed.contains_key(tool.name())
                && taken + descriptors(tool) <= most
        };
        let lacking = snapshot.tools.values().filter(lacks);
        lacking.min_by_key(|tool| number(tool)).cloned()
    }

    fn take_all(&self) -> Vec<Waiting> {
        let mut shelves = self.shelves();
        let mut all = std::mem::take(&mut shelves.rejected);
        all.extend(std::mem::take(&mut shelves.waiting).into_values().flatten());
        all
    }
}

impl Shelves {
    /// How many cells of a tool shall wait.
    fn wanted(&self, tool: &Tool) -> usize {
        let ready = usize::try_from(tool.compiled.resolved.pool.ready).unwrap_or(usize::MAX);
        match self.called.get(tool.name()) {
            Some(called) if called.elapsed() > IDLE => ready.min(1),
            _ => ready,
        }
    }
}

impl Cells {
    /// A cell that has waited for a call like this one, told to begin; none, if the call needs one of
    /// its own.
    pub(crate) async fn take_ready(&self, start: &Start) -> Option<Begun> {
        if let Some(from) = self.always {
            return self.rehearse(start, from).await;
        }
        if start.tool.compiled.resolved.pool.ready == 0 {
            return None;
        }
        let prestarted = self.prestarted(&start.tool);
        if prestarted.is_some_and(|program| program != start.plan.program()) {
            // It has an argument of its own, and what waits is of use to others.
            return None;
        }
        while let Some(waiting) = self.pool.take(&start.tool) {
            if !waiting.is_alive() || waiting.is_spent() {
                self.pool.reject(waiting);
                continue;
            }
            match self.fit(waiting, start) {
                Ok(begun) => return Some(begun),
                Err(waiting) => self.pool.reject(*waiting),
            }
        }
        None
    }

    /// Builds a cell for this call as if it had not come yet, and lets it come. A process that is through
    /// before has done what the call asks for.
    async fn rehearse(&self, start: &Start, from: StartedFrom) -> Option<Begun> {
        if start.tool.compiled.resolved.differs_by_call().is_some() {
            return None;
        }
        let program = (from == StartedFrom::Prestarted).then(|| start.plan.program());
        let waiting = self.prepare_waiting(&start.tool, program).await.ok()?;
        match self.fit(waiting, start) {
            Ok(begun) => Some(begun),
            Err(waiting) => {
                self.discard(waiting.begun).await;
                None
            }
        }
    }

    /// Gives a waiting cell to a call, if it is as one that would be built now.
    fn fit(&self, mut waiting: Waiting, start: &Start) -> Result<Begun, Box<Waiting>> {
        let mounts = self.pool.mounts();
        let is_fresh = || tokio::task::block_in_place(|| waiting.is_fresh(mounts));
        if !Arc::ptr_eq(&waiting.tool, &start.tool) || !is_fresh() {
            return Err(Box::new(waiting));
        }
        let prepared = &waiting.begun.prepared;
        let opened = self.open(&start.tool.compiled, &For::Call(start), &prepared.assigned);
        let Ok((places, call, None)) = opened else {
            return Err(Box::new(waiting));
        };
        let fits = match &prepared.call.program {
            Some(_) => prepared.call == call,
            None => adds_the_same(&prepared.call, &call),
        };
        if !fits {
            return Err(Box::new(waiting));
        }
        let begun = &mut waiting.begun;
        let told = match (begun.from, &mut begun.prepared.cgroup) {
            (StartedFrom::Prestarted, Some(cgroup)) => cgroup.begin_account().is_ok(),
            (StartedFrom::Prestarted, None) => true,
            _ => match call.program.clone() {
                Some(program) => begun.cell.begin(program).is_ok(),
                None => false,
            },
        };
        if !told {
            return Err(Box::new(waiting));
        }
        // What it was denied before is not the call's.
        drop(supervise::take(&begun.recorded));
        begun.prepared.places = places;
        begun.prepared.call = call;
        Ok(waiting.begun)
    }

    /// Keeps as many cells waiting as the tools' profiles ask for, until it is cancelled; none waits
    /// when this returns.
    pub(crate) async fn keep_waiting(&self, catalog: &Catalog, closing: &CancellationToken) {
        let mut gone = Vec::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            gone.extend(self.pool.rejected());
            self.discard_all(std::mem::take(&mut gone)).await;
            if closing.is_cancelled() {
                break;
            }
            if let Some(tool) = self.pool.lacking(catalog) {
                let program = self.prestarted(&tool);
                match self.prepare_waiting(&tool, program).await {
                    Ok(waiting) => self.pool.put(waiting),
                    Err(error) => {
                        let tool_name = tool.name();
                        tracing::warn!(tool = tool_name, %error, "no cell can be prepared");
                        self.pool.fail(&tool);
                    }
                }
                continue;
            }
            tokio::select! {
                () = closing.cancelled() => {}
                () = self.pool.changed.notified() => {}
                () = catalog.swapped() => gone = self.pool.weed(catalog),
                _ = look.tick() => gone = self.pool.weed(catalog),
            }
        }
        self.discard_all(self.pool.take_all()).await;
    }

    async fn discard_all(&self, all: Vec<Waiting>) {
        // All at once, as each takes a moment to end.
        for waiting in &all {
            if let Some(cgroup) = &waiting.begun.prepared.cgroup {
                // A throttled process dies as slowly as it runs.
                cgroup.unthrottle();
            }
            if let Some((first, _)) = &waiting.begun.before.known {
                first.kill();
            }
        }
        for waiting in all {
            self.discard(waiting.begun).await;
        }
    }

    /// What is executed before the call, if anything: where no control group tells what a process uses,
    /// nothing is.
    fn prestarted(&self, tool: &Tool) -> Option<Program> {
        self.has_cgroups()
            .then(|| tool.compiled.prestarted(&tool.environment()))
            .flatten()
    }

    /// Builds a cell that waits; if it has a program, that is executed before.
    async fn prepare_waiting(
        &self,
        tool: &Arc<Tool>,
        program: Option<Program>,
    ) -> Result<Waiting, Refused> {
        let from = match program {
            Some(_) => StartedFrom::Prestarted,
            None => StartedFrom::Ready,
        };
        let mounts = self.pool.mounts();
        let mounts = mounts.ok_or_else(|| Refused::because("the host's mounts are not told"))?;
        let seen = tokio::task::block_in_place(|| seen(&tool.compiled.template));
        let mut begun = self.begin(tool, For::Any(program)).await?;
        begun.from = from;
        let heard = timeout(SETUP_MAX, self.hear_out(tool, &mut begun)).await;
        let late = || Refused::because("it is not ready in time");
        match heard.map_err(|_| late()).flatten() {
            Ok(()) => Ok(Waiting {
                tool: Arc::clone(tool),
                begun,
                seen,
                since: Instant::now(),
                mounts,
            }),
            Err(error) => {
                self.discard(begun).await;
                Err(error)
            }
        }
    }

    /// Hears what a cell reports until it waits.
    async fn hear_out(&self, tool: &Tool, begun: &mut Begun) -> Result<(), Refused> {
        let mut heard: Vec<(Report, Vec<OwnedFd>)> = Vec::new();
        loop {
            let report = begun.cell.report().await.map_err(Refused::because)?;
            let (report, descriptors) = report.ok_or_else(|| Refused::because("it has ended"))?;
            match report {
                Report::Started { pid } => {
                    let counts = begun.prepared.cgroup.is_none();
                    let launcher = self.launcher();
                    begun.before.known = supervise::started(pid, descriptors, launcher, counts);
                }
                Report::Network { .. } | Report::Built => heard.push((report, descriptors)),
                Report::Waiting => break,
                Report::Confined(confirmed) => {
                    let reader = begun.before.known.as_ref().map(|(_, reader)| reader);
                    let allowed = Allowed::new(&tool.compiled, &begun.prepared.call);
                    let recorded = &begun.recorded;
                    let listener = descriptors.into_iter().next().map(|listener| {
                        supervise::listen(listener, &tool.compiled, &allowed, recorded, reader)
                    });
                    begun.before.executed = Some((confirmed, listener));
                    break;
                }
                Report::Failed(failure) => return Err(Refused::because(failure)),
                Report::Ended { .. } => return Err(Refused::because("it has ended")),
            }
        }
        begun.cell.hear_again(heard);
        Ok(())
    }

    /// Ends a cell that no call will use, with all that it stands on.
    async fn discard(&self, begun: Begun) {
        let Begun {
            prepared,
            cell,
            before,
            ..
        } = begun;
        let number = cell.number;
        if let Some((first, _)) = &before.known {
            first.kill();
            if timeout(KILL_MAX, first.ended()).await.is_err() {
                tracing::error!("a cell that waited cannot be ended");
            }
        }
        drop(cell);
        if let Some((_, Some(listener))) = before.executed {
            let _ = timeout(KILL_MAX, listener).await;
        }
        let emptied = remove(prepared.cgroup).await;
        drop((prepared.places, prepared.assigned));
        if emptied && let Err(error) = self.launcher().over(number).await {
            tracing::error!(%error, "the launcher does not hear that a cell is gone");
        }
    }
}

/// Whether two calls build the same cell.
fn adds_the_same(waiting: &Call, call: &Call) -> bool {
    let Call {
        program: _,
        host,
        shown,
        mounts,
        rules,
    } = waiting;
    (host, shown, mounts, rules) == (&call.host, &call.shown, &call.mounts, &call.rules)
}
