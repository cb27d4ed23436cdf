//! Cells that are built before their call comes, for tools whose profile asks for it (`[pool]`).
//!
//! Each serves one call and is like one that was built for it: it is used only if what the call would
//! add to a cell, and what the host has at every path that it shows or covers, are still the same. If
//! not, or if none is there, the call gets a cell as any other.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::lstat;
use runner::report::Report;
use runner::spec::{Call, Identity, Mount, Program, Template};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::{Begun, Cells, For, Refused, remove};
use crate::catalog::Catalog;
use crate::denials::Allowed;
use crate::outcome::StartedFrom;
use crate::service::Start;
use crate::supervise::{self, KILL_MAX, SETUP_MAX};
use crate::tool::Tool;

/// Most cells that wait, of all tools together.
const WAITING_MAX: usize = 256;
/// How long one waits at most: then another takes its place.
const AGE_MAX: Duration = Duration::from_secs(600);
/// A tool that was not called for so long has one cell that waits, and no more.
const IDLE: Duration = Duration::from_secs(600);
/// When another is tried to be prepared for a tool, after one could not be or has ended by itself.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often is looked whether all that wait are still alive.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The cells that wait.
#[derive(Default)]
pub(crate) struct Pool {
    shelves: Mutex<Shelves>,
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
}

/// What is at a path of the host.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    identity: Option<Identity>,
}

impl Seen {
    fn look(path: &Path) -> Self {
        let identity = lstat(path).ok().map(|stat| Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
        });
        Self {
            path: path.to_owned(),
            identity,
        }
    }

    fn is_so_still(&self) -> bool {
        Self::look(&self.path) == *self
    }
}

/// What the host has at the paths that a template names.
fn seen(template: &Template) -> Vec<Seen> {
    let paths = template.mounts.iter().filter_map(|mount| match mount {
        Mount::Bind { source, .. }
        | Mount::Device { source, .. }
        | Mount::Appended { source, .. } => Some(source),
        // It covers what is at the same path of the host; whoever puts another there uncovers it.
        Mount::Mask { target, .. } => Some(target),
        _ => None,
    });
    paths.map(|path| Seen::look(path)).collect()
}

impl Waiting {
    fn is_alive(&self) -> bool {
        let known = &self.begun.before.known;
        known.as_ref().is_some_and(|(first, _)| !first.has_ended())
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < AGE_MAX && self.seen.iter().all(Seen::is_so_still)
    }
}

impl Pool {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the one that has waited longest for a call of this very tool.
    fn take(&self, tool: &Arc<Tool>) -> Option<Waiting> {
        let mut shelves = self.shelves();
        shelves
            .called
            .insert(tool.name().to_owned(), Instant::now());
        let waiting = shelves.waiting.get_mut(tool.name())?.pop_front();
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
        self.shelves()
            .waiting
            .entry(name)
            .or_default()
            .push_back(waiting);
    }

    fn fail(&self, tool: &Tool) {
        let now = Instant::now();
        self.shelves().failed.insert(tool.name().to_owned(), now);
    }

    /// Takes away what no call can use any more, and what is too many.
    fn weed(&self, catalog: &Catalog) -> Vec<Waiting> {
        let snapshot = catalog.snapshot();
        let mut shelves = self.shelves();
        let mut gone = std::mem::take(&mut shelves.rejected);
        for (name, waiting) in std::mem::take(&mut shelves.waiting) {
            for one in waiting {
                let now = snapshot.tools.get(&name);
                let is_current = now.is_some_and(|tool| Arc::ptr_eq(tool, &one.tool));
                let kept = shelves.waiting.get(&name).map_or(0, VecDeque::len);
                let wanted = shelves.wanted(&one.tool);
                if !one.is_alive() {
                    tracing::warn!(tool = name, "a cell that waited for a call has ended");
                    shelves.failed.insert(name.clone(), Instant::now());
                }
                if is_current && kept < wanted && one.is_fresh() && one.is_alive() {
                    shelves
                        .waiting
                        .entry(name.clone())
                        .or_default()
                        .push_back(one);
                } else {
                    gone.push(one);
                }
            }
        }
        shelves
            .called
            .retain(|name, _| snapshot.tools.contains_key(name));
        shelves
            .failed
            .retain(|name, at| snapshot.tools.contains_key(name) && at.elapsed() < AGAIN_AFTER);
        gone
    }

    /// A tool that has fewer cells waiting than it shall.
    fn lacking(&self, catalog: &Catalog) -> Option<Arc<Tool>> {
        let snapshot = catalog.snapshot();
        let shelves = self.shelves();
        if shelves.waiting.values().map(VecDeque::len).sum::<usize>() >= WAITING_MAX {
            return None;
        }
        let lacks = |tool: &&Arc<Tool>| {
            let waiting = shelves.waiting.get(tool.name()).map_or(0, VecDeque::len);
            waiting < shelves.wanted(tool) && !shelves.failed.contains_key(tool.name())
        };
        snapshot.tools.values().find(lacks).cloned()
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
        while let Some(waiting) = self.pool.take(&start.tool) {
            if !waiting.is_alive() {
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
        if !Arc::ptr_eq(&waiting.tool, &start.tool) || !waiting.is_fresh() {
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
        begun.prepared.places = places;
        begun.prepared.call = call;
        Ok(waiting.begun)
    }

    /// Keeps as many cells waiting as the tools' profiles ask for, until it is cancelled; none waits
    /// when this returns.
    pub(crate) async fn keep_waiting(&self, catalog: &Catalog, closing: &CancellationToken) {
        loop {
            for waiting in self.pool.weed(catalog) {
                self.discard(waiting.begun).await;
            }
            if closing.is_cancelled() {
                break;
            }
            if let Some(tool) = self.pool.lacking(catalog) {
                let program = tool.compiled.prestarted(&tool.environment());
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
                () = catalog.swapped() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        for waiting in self.pool.take_all() {
            self.discard(waiting.begun).await;
        }
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
        let seen = seen(&tool.compiled.template);
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
