//! One call, from its plan to its verified end. READ FIRST.
//!
//! Open the call's directories → make its cgroup → connect its streams → have the launcher start a
//! cell → watch it until nothing of it runs → remove what it left → say what came of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use profiles::compile::{CallFacts, Compiled, Grant};
use profiles::resolve::WORK;
use runner::spec::{Call, Ids, Program};
use runner::wire::CgroupEntry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::artifacts;
use crate::catalog::Catalog;
use crate::cgroup::{CellCgroup, CellLimits, Cgroups};
use crate::denials::{Allowed, Recorded};
use crate::egress::opening::Opening;
use crate::egress::session::Gateways;
use crate::ids::{Assigned, HostIds};
use crate::launch::{Cell, Grounds, Launcher};
use crate::outcome::{Enforced, Outcome, StartedFrom, Tier};
use crate::pool::Pool;
use crate::secrets::Store;
use crate::service::{Alive, Asker, Keeping, Run, Running, Start, Stream};
use crate::shown::{self, Viewer};
use crate::streams::{self, Ends, Kept, Listeners, OutputLimit};
use crate::supervise::{self, Before, Watch, Watched};
use crate::tool::Tool;
use crate::verdict::{self, Evidence};
use crate::workspace::{Places, Workspaces};

/// Longest wait for output that is still in a pipe once every writer has ended.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What runs calls in cells.
pub struct Cells {
    launcher: Arc<Launcher>,
    gateways: Gateways,
    /// Absent in a tier without cgroups, which the operator has chosen by name.
    cgroups: Option<Cgroups>,
    ids: HostIds,
    workspaces: Workspaces,
    tier: Tier,
    pub(crate) pool: Pool,
    /// What every call's cell is built as in advance, if anybody wants to see that this makes no
    /// difference.
    pub(crate) always: Option<StartedFrom>,
}

/// Why a call never became a cell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl Refused {
    pub(crate) fn because(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Everything a call holds until it is over.
pub(crate) struct Prepared {
    pub(crate) places: Places,
    pub(crate) assigned: Assigned,
    pub(crate) call: Call,
    pub(crate) cgroup: Option<CellCgroup>,
    pub(crate) opening: Option<Opening>,
}

/// A cell on its way, and what it stands on.
pub(crate) struct Begun {
    pub(crate) prepared: Prepared,
    pub(crate) cell: Cell,
    pub(crate) ends: Ends,
    pub(crate) from: StartedFrom,
    pub(crate) before: Before,
    pub(crate) recorded: Arc<Mutex<Recorded>>,
}

/// Whom a cell is prepared for.
pub(crate) enum For<'a> {
    /// This call.
    Call(&'a Start),
    /// Any call that needs no other, to come.
    ///
    /// With what it executes, if its process is started before the call.
    Any(Option<Program>),
}

impl For<'_> {
    fn grants(&self) -> &[Grant] {
        match self {
            Self::Call(start) => &start.plan.grants,
            Self::Any(_) => &[],
        }
    }

    fn caller(&self) -> &str {
        match self {
            Self::Call(start) => &start.asker.caller.id,
            // What depends on the caller is never prepared.
            Self::Any(_) => "",
        }
    }
}

impl Prepared {
    fn grounds(&self) -> Grounds<'_> {
        let mut directories = self.places.temporary();
        let (cgroup, descriptors) = match &self.cgroup {
            Some(cgroup) => {
                directories.extend_from_slice(cgroup.directories());
                (cgroup.entry(), cgroup.entry_descriptors())
            }
            None => (CgroupEntry::None, vec![]),
        };
        Grounds {
            cgroup,
            descriptors,
            directories,
        }
    }
}

impl Cells {
    /// Runs calls through a launcher. Without cgroups the tier says so.
    #[must_use]
    pub fn new(launcher: Launcher, cgroups: Option<Cgroups>, ids: HostIds, state: PathBuf) -> Self {
        let tier = if cgroups.is_some() {
            Tier::Full
        } else {
            Tier::Rlimits
        };
        Self {
            launcher: Arc::new(launcher),
            gateways: Gateways::default(),
            cgroups,
            ids,
            workspaces: Workspaces::new(state),
            tier,
            pool: Pool::default(),
            always: None,
        }
    }

    /// The same, with every cell built before its call that can be.
    #[must_use]
    pub fn starting_from(self, start: Option<StartedFrom>) -> Self {
        Self {
            always: start,
            ..self
        }
    }

    /// What this host, or the operator's choice, lets cells enforce.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    pub(crate) fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    pub(crate) fn launcher(&self) -> &Arc<Launcher> {
        &self.launcher
    }

    async fn attempt(&self, start: &Start) -> Result<Outcome, Refused> {
        let compiled = Arc::clone(&start.tool.compiled);
        let time = SystemTime::now();
        let begun = match self.take_ready(start).await {
            Some(ready) => ready,
            None => self.begin(&start.tool, For::Call(start)).await?,
        };
        let from = begun.from;
        let (prepared, number, watched, [stdout, stderr], denials) =
            self.run_cell(start, &compiled, begun).await;
        let Prepared {
            places,
            assigned,
            call,
            cgroup,
            opening,
        } = prepared;
        drop(opening);

        let (files, left_out) = collect(start, &compiled, &watched, time);
        let events = cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.events().ok())
            .unwrap_or_default();
        let usage = verdict::usage(&watched, cgroup.as_ref().map(CellCgroup::usage));
        let enforced = watched
            .confirmed
            .map(|_| self.enforced(&compiled, cgroup.as_ref(), from));
        let emptied = watched.emptied & remove(cgroup).await;
        drop((places, assigned));
        if emptied && let Err(error) = self.launcher.over(number).await {
            tracing::error!(%error, "the launcher does not hear that a call is over");
        }

        let evidence = Evidence {
            watched,
            mounts: call.mounts,
            events,
            denials,
            left_out,
            emptied,
        };
        let mut outcome = verdict::outcome(start, &compiled.resolved.limits, evidence);
        for (kept, slot) in [(stdout, &mut outcome.stdout), (stderr, &mut outcome.stderr)] {
            let Some(kept) = kept else { continue };
            let (stream, lost) = kept.publish();
            *slot = stream;
            verdict::add_reason(&mut outcome.reason, lost);
        }
        Ok(Outcome {
            usage,
            enforced,
            files,
            ..outcome
        })
    }

    /// Opens, identifies and limits everything the cell will get, before anything is started, and has it
    /// started.
    pub(crate) async fn begin(&self, tool: &Tool, whom: For<'_>) -> Result<Begun, Refused> {
        let compiled = &tool.compiled;
        let assigned = self.ids.assign().map_err(Refused::because)?;
        let (places, call, opening) = self.open(compiled, &whom, &assigned)?;
        let limits = &compiled.resolved.limits;
        let limits = CellLimits {
            memory: limits.memory,
            swap: limits.swap,
            cpu: limits.cpu,
            pids: limits.pids,
        };
        let name = match whom {
            For::Call(start) => start.call.clone(),
            For::Any(_) => uuid::Uuid::now_v7().simple().to_string(),
        };
        let cgroup = self
            .cgroups
            .as_ref()
            .map(|cgroups| cgroups.create(&name, &limits));
        let prepared = Prepared {
            cgroup: cgroup.transpose().map_err(Refused::because)?,
            places,
            assigned,
            call,
            opening,
        };
        let fed = match whom {
            For::Call(start) => is_fed(start),
            For::Any(_) => true,
        };
        let (ends, theirs) = streams::open(fed).map_err(Refused::because)?;
        let cell = self
            .launcher
            .start(
                &tool.template,
                &compiled.template,
                prepared.call.clone(),
                prepared.grounds(),
                theirs,
            )
            .await
            .map_err(Refused::because)?;
        Ok(Begun {
            prepared,
            cell,
            ends,
            from: StartedFrom::Cold,
            before: Before::default(),
            recorded: Arc::default(),
        })
    }

    /// Opens and identifies what of the host the cell gets, and says what its call adds by that.
    pub(crate) fn open(
        &self,
        compiled: &Compiled,
        whom: &For<'_>,
        assigned: &Assigned,
    ) -> Result<(Places, Call, Option<Opening>), Refused> {
        let places = self
            .workspaces
            .open(
                compiled,
                whom.caller(),
                whom.grants(),
                assigned,
                self.ids.is_range(),
            )
            .map_err(Refused::because)?;
        let host = run_as(&places, assigned);
        let viewer = Viewer {
            host,
            as_root: self.ids.is_range(),
        };
        let shown = shown::look(compiled.shown(), viewer).map_err(Refused::because)?;
        let opening = Opening::of(compiled, &Store::here()).map_err(Refused::because)?;
        let facts = CallFacts {
            host,
            shown,
            workspace: places.workspace.clone(),
            grants: places.grants.clone(),
            protect: places.protect.clone(),
            sockets: places.sockets.clone(),
            authority: opening.as_ref().map(|opening| opening.authority.clone()),
        };
        let call = match whom {
            For::Call(start) => compiled.call(&start.plan, &facts),
            For::Any(program) => compiled.waiting(&facts).map(|call| Call {
                program: program.clone(),
                ..call
            }),
        };
        Ok((places, call.map_err(Refused::because)?, opening))
    }

    /// Feeds the cell, watches it to its end, and returns what it wrote.
    async fn run_cell(
        &self,
        start: &Start,
        compiled: &Arc<Compiled>,
        begun: Begun,
    ) -> (Prepared, u64, Watched, [Option<Kept>; 2], Recorded) {
        let Begun {
            prepared,
            cell,
            ends,
            before,
            recorded,
            ..
        } = begun;
        let limits = &compiled.resolved.limits;
        let input = input_of(start);
        let number = cell.number;

        let output = OutputLimit::new(limits.output);
        let inline = usize::try_from(limits.inline).unwrap_or(usize::MAX);
        let feeding = ends
            .stdin
            .zip(input)
            .map(|(stdin, from)| tokio::spawn(streams::feed(stdin, from)));
        let drains =
            [(ends.stdout, Stream::Stdout), (ends.stderr, Stream::Stderr)].map(|(end, stream)| {
                let listeners = listeners(&start.asker, stream);
                let spool = start.keep.spool(stream);
                tokio::spawn(streams::drain(
                    end,
                    stream,
                    inline,
                    Arc::clone(&output),
                    spool,
                    listeners,
                ))
            });
        let watched = supervise::watch(Watch {
            cell,
            launcher: &self.launcher,
            compiled,
            cgroup: prepared.cgroup.as_ref(),
            output: &output,
            allowed: Allowed::new(compiled, &prepared.call),
            recorded: Arc::clone(&recorded),
            gateways: &self.gateways,
            opening: prepared.opening.as_ref(),
            cancel: start.asker.cancel.clone(),
            before,
        })
        .await;
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        let [stdout, stderr] = drains;
        let patient = start.asker.terminal;
        let kept = [
            drained(stdout, patient).await,
            drained(stderr, patient).await,
        ];
        let mut watched = watched;
        if output.is_passed() {
            // A tool that writes its all and exits at once has written too much, too.
            watched.ending.get_or_insert(supervise::Ending::Output);
        }
        let denials = supervise::take(&recorded);
        (prepared, number, watched, kept, denials)
    }

    fn enforced(
        &self,
        compiled: &Compiled,
        cgroup: Option<&CellCgroup>,
        start: StartedFrom,
    ) -> Enforced {
        Enforced {
            tier: self.tier,
            landlock_abi: compiled.template.landlock.abi,
            filter: compiled.filter_digest.clone(),
            cgroup: cgroup.map(CellCgroup::read_back).unwrap_or_default(),
            cgroup_place: self.cgroups.as_ref().map(Cgroups::way).unwrap_or_default(),
            namespaces: ["user", "mount", "pid", "net", "ipc", "uts", "cgroup"]
                .map(str::to_owned)
                .to_vec(),
            start,
        }
    }
}

impl Run for Cells {
    fn keep_waiting<'a>(
        &'a self,
        catalog: &'a Catalog,
        closing: &'a CancellationToken,
    ) -> Keeping<'a> {
        Box::pin(Self::keep_waiting(self, catalog, closing))
    }

    fn run(&self, start: Start) -> Running<'_> {
        Box::pin(async move {
            match self.attempt(&start).await {
                Ok(outcome) => outcome,
                Err(Refused(reason)) => verdict::refused(&start, reason),
            }
        })
    }

    fn alive(&self) -> Alive<'_> {
        Box::pin(async {
            let answered = self.launcher.answer().await;
            answered.map_err(|error| error.to_string())
        })
    }
}

fn run_as(places: &Places, assigned: &Assigned) -> Ids {
    places.run_as.unwrap_or(assigned.ids)
}

/// Whether the tool reads anything.
fn is_fed(start: &Start) -> bool {
    start.plan.stdin.is_some() || start.asker.terminal
}

/// What the tool reads: what the profile says, or the person's own standard input.
fn input_of(start: &Start) -> Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>> {
    if let Some(text) = &start.plan.stdin {
        return Some(Box::new(std::io::Cursor::new(text.clone())));
    }
    start
        .asker
        .terminal
        .then(|| Box::new(tokio::io::stdin()) as _)
}

fn listeners(asker: &Asker, stream: Stream) -> Listeners {
    let copy = asker.terminal.then(|| match stream {
        Stream::Stdout => {
            Box::new(tokio::io::stdout()) as Box<dyn tokio::io::AsyncWrite + Send + Unpin>
        }
        Stream::Stderr => Box::new(tokio::io::stderr()) as _,
    });
    Listeners {
        progress: asker.progress.clone(),
        copy,
    }
}

/// What was kept of a stream. A person who reads our output slowly is waited for.
async fn drained(mut task: JoinHandle<Kept>, patient: bool) -> Option<Kept> {
    if patient {
        return task.await.ok();
    }
    if let Ok(kept) = tokio::time::timeout(DRAIN_MAX, &mut task).await {
        return kept.ok();
    }
    // Every writer is dead, so this can only be a bug in this program.
    task.abort();
    None
}

/// Collects the workspace's `out/`.
fn collect(
    start: &Start,
    compiled: &Compiled,
    watched: &Watched,
    begun: SystemTime,
) -> (Vec<crate::outcome::Artifact>, Vec<String>) {
    let workspace = compiled
        .template
        .handed_back
        .iter()
        .position(|path| path == Path::new(WORK))
        .and_then(|index| watched.directories.get(index));
    match workspace {
        Some(workspace) => artifacts::collect(workspace, begun, &start.keep),
        None => (vec![], vec![]),
    }
}

/// Removes the cell's cgroup; true if it is verified to be empty and gone, or there is none.
pub(crate) async fn remove(cgroup: Option<CellCgroup>) -> bool {
    let Some(cgroup) = cgroup else { return true };
    match cgroup.remove().await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "a cell's cgroup could not be removed");
            false
        }
    }
}
