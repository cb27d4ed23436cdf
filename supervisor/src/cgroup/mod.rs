//! Control groups: one for each cell, so that its limits hold for all of its processes together, and
//! so that all of them end at once; see cgroups(7).
//!
//! [`detect`] finds out once what the host allows and prepares it; [`Cgroups::create`] makes a group
//! for one call, with its limits read back; the launcher starts the cell inside by the descriptors of
//! [`CellCgroup::entry`]; [`CellCgroup::remove`] ends with the group gone. No path here is one that a
//! tool can reach, and no process but the supervisor itself, in [`detect`], is ever moved.

mod delegation;
mod detect;
mod directories;
mod events;
mod file;
mod limits;
mod processes;
mod scope;
mod site;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use runner::wire::CgroupEntry;

pub use detect::{Detection, Options, detect};
pub use limits::{CellLimits, PIDS_OF_THE_CELL};

use directories::Directories;
use events::Notice;
use limits::Wanted;

/// How long [`CellCgroup::remove`] waits for the last process to be gone. A killed process takes
/// microseconds, unless it is in a driver or on a file system that does not answer, or hundreds of
/// them share a busy machine.
pub const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts at it.
const REMOVE_STEP_MIN: Duration = Duration::from_millis(1);
const REMOVE_STEP_MAX: Duration = Duration::from_millis(50);
/// Attempts, and the pause between them, when a group is dropped without having been removed. The
/// thread waits; a sweep does the rest.
const DROP_ATTEMPTS: usize = 50;
const DROP_STEP: Duration = Duration::from_millis(5);

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The identifier of a call cannot be part of a directory's name.
    #[error("`{call}` cannot name a cgroup")]
    Name {
        /// The identifier, cut short.
        call: String,
    },
    /// There is no hierarchy to make a group in.
    #[error("no cgroup hierarchy")]
    NoParent,
    /// A limit cannot be expressed to the kernel.
    #[error("the limit `{name}` cannot be {value}")]
    Range {
        /// Which limit.
        name: &'static str,
        /// What was asked for.
        value: String,
    },
    /// A directory could not be made.
    #[error("could not make the cgroup `{}`: {source}", path.display())]
    Make {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("could not set `{file}`: {source}")]
    Limit {
        /// Which file.
        file: &'static str,
        /// What was tried, and what the system said.
        source: cgroups_rs::fs::error::Error,
    },
    /// A limit reads back as something else.
    #[error("`{file}` was set to `{asked}` but reads back as `{found}`")]
    Differs {
        /// Which file.
        file: &'static str,
        /// What was written.
        asked: String,
        /// What the kernel says.
        found: String,
    },
    /// A file could not be opened or read.
    #[error("could not read `{}`: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write `{value}` to `{}`: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not say what the kernel's documentation promises.
    #[error("could not make sense of `{}`: `{}`", path.display(), text.escape_debug())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it says, cut short.
        text: String,
    },
    /// A directory could not be removed.
    #[error("could not remove the cgroup `{}`: {source}", path.display())]
    Remove {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What waits for a call has run out of memory.
    #[error("it ran out of memory before its call came")]
    Spent,
    /// Killed processes were still there at the deadline.
    #[error("processes were left in the cgroup `{}` {REMOVE_DEADLINE:?} after they were killed", path.display())]
    NotEmpty {
        /// Its first directory.
        path: PathBuf,
    },
}

/// Which of the kernel's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// The place where cells' groups are made; clones are the same place.
#[derive(Debug, Clone)]
pub struct Cgroups {
    place: Place,
    way: Way,
}

/// How the place came to be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Below the groups that the supervisor was started in, or that root made for its user (v1).
    Own,
    /// It was delegated before: by a unit's `Delegate=`, by `systemd-run`, by a container.
    Delegated,
    /// A scope that systemd was asked for.
    Asked(scope::Scope),
    /// A directory at the root of a hierarchy that nobody manages.
    Top,
    /// The operator named it.
    Named,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("below the group that toolcell was started in"),
            Self::Delegated => {
                f.write_str("in the cgroup that toolcell was started in, which is its own")
            }
            Self::Asked(scope) => {
                write!(f, "in the scope `{}`, asked of {}", scope.unit, scope.from)
            }
            Self::Top => f.write_str("at the top of the hierarchy, which nobody manages"),
            Self::Named => f.write_str("in the cgroup that was named"),
        }
    }
}

#[derive(Debug, Clone)]
enum Place {
    V1(v1::Parents),
    V2(v2::Parent),
}

impl Cgroups {
    /// Which interface cells are limited by.
    #[must_use]
    pub fn version(&self) -> Version {
        match &self.place {
            Place::V1(_) => Version::V1,
            Place::V2(_) => Version::V2,
        }
    }

    /// How the place came to be ours, in words that follow "cells are made".
    #[must_use]
    pub fn way(&self) -> String {
        self.way.to_string()
    }

    /// What people want to know of it, a line each: the hierarchies, where in them cells are made,
    /// and what holds only in part.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("cgroup {}", self.version())];
        lines.push(format!("cells are made {}", self.way));
        match &self.place {
            Place::V1(parents) => {
                let of = |name, path: &Path| format!("{name}: cells below `{}`", path.display());
                lines.push(of("memory", &parents.memory));
                lines.push(of("pids", &parents.pids));
                lines.push(of("cpu", &parents.cpu));
                lines.push(of("cpuacct", &parents.cpuacct));
                if !parents.counts_swap {
                    lines.push("swap is not counted: cells keep out of it".into());
                }
                if let Some(cores) = parents.cores {
                    lines.push(format!("the groups above allow {cores} CPU cores"));
                }
            }
            Place::V2(parent) => {
                let path = parent.directory.display();
                lines.push(format!("memory, pids, cpu: cells below `{path}`"));
                if !parent.counts_swap {
                    lines.push("swap is not counted: cells may use it".into());
                }
            }
        }
        lines
    }

    /// Makes a group for one call and sets its limits.
    ///
    /// # Errors
    /// If the system refuses, or any limit reads back as something else than was asked (but for
    /// rounding to pages); then nothing is left behind.
    pub fn create(&self, call: &str, limits: &CellLimits) -> Result<CellCgroup, CgroupError> {
        let wanted = Wanted::new(limits)?;
        let directories = Directories::make(&self.parents(), call)?;
        let (group, notice, confirmed) = match &self.place {
            Place::V1(parents) => {
                let (group, confirmed) = v1::Cell::limit(parents, directories.paths(), &wanted)?;
                let notice = Notice::v1(group.oom_notice());
                (Group::V1(group), notice, confirmed)
            }
            Place::V2(parent) => {
                let directory = directories.paths().first().ok_or(CgroupError::NoParent)?;
                let (group, confirmed) = v2::Cell::limit(parent, directory, &wanted)?;
                let notice = Notice::v2(group.event_files()).map_err(|source| {
                    let path = directory.clone();
                    CgroupError::Read { path, source }
                })?;
                (Group::V2(group), notice, confirmed)
            }
        };
        let at_first = group.counters()?;
        Ok(CellCgroup {
            group,
            directories,
            notice,
            confirmed,
            at_first,
            used_before: Usage::default(),
            seen: Mutex::new(at_first),
            denied_before_kill: OnceLock::new(),
        })
    }

    /// Removes what supervisors that are dead have left behind, and kills what still lives in it.
    /// Returns how many groups there were. It waits, so it is for a moment when no call runs.
    #[must_use]
    pub fn sweep(&self) -> usize {
        directories::sweep(&self.parents())
    }

    /// The directories that cells' groups are made in.
    #[must_use]
    pub fn parents(&self) -> Vec<&Path> {
        match &self.place {
            Place::V1(parents) => parents.distinct(),
            Place::V2(parent) => vec![&parent.directory],
        }
    }
}

/// Counts of the kernel's, since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    oom_kills: u64,
    pids_denied: u64,
}

/// What the kernel counted since a group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Events {
    /// Processes that were killed because memory ran out; with a group that dies as a whole the
    /// kernel may count one twice.
    pub oom_kills: u64,
    /// Forks and new threads that were refused because of the limit.
    pub pids_denied: u64,
}

/// What a cell has used as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User CPU time in microseconds.
    pub user_micros: u64,
    /// System CPU time in microseconds.
    pub system_micros: u64,
    /// Most memory at once, in bytes, where the kernel says (v2: since Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Most processes and threads at once beside the cell's own, where the kernel says.
    pub pids_peak: Option<u64>,
}

/// The group of one cell.
///
/// Dropped without [`CellCgroup::remove`], it is killed and removed as far as a quarter of a second goes.
#[derive(Debug)]
pub struct CellCgroup {
    group: Group,
    directories: Directories,
    notice: Notice,
    confirmed: Vec<String>,
    at_first: Counters,
    /// What was used before the call came.
    used_before: Usage,
    /// What [`CellCgroup::event`] has told of.
    seen: Mutex<Counters>,
    /// Refused forks before ours were: a kill on v1 begins with forbidding them.
    denied_before_kill: OnceLock<u64>,
}

#[derive(Debug)]
enum Group {
    V1(v1::Cell),
    V2(v2::Cell),
}

impl Group {
    fn counters(&self) -> Result<Counters, CgroupError> {
        match self {
            Self::V1(cell) => cell.counters(),
            Self::V2(cell) => cell.counters(),
        }
    }
}

impl CellCgroup {
    /// Its directories, one for each hierarchy.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        self.directories.paths()
    }

    /// How the cell enters, for the launcher's order.
    #[must_use]
    pub fn entry(&self) -> CgroupEntry {
        match &self.group {
            Group::V1(cell) => {
                let count = cell.entry_descriptors().len();
                CgroupEntry::V1(u8::try_from(count).expect("four controllers at most"))
            }
            Group::V2(_) => CgroupEntry::V2,
        }
    }

    /// The descriptors that [`CellCgroup::entry`] speaks of.
    #[must_use]
    pub fn entry_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.group {
            Group::V1(cell) => cell.entry_descriptors(),
            Group::V2(cell) => cell.entry_descriptors(),
        }
    }

    /// The limits as read from the kernel after they were set, such as `memory.max = 536870912`.
    #[must_use]
    pub fn read_back(&self) -> Vec<String> {
        self.confirmed.clone()
    }

    /// What the kernel has counted.
    pub fn events(&self) -> Result<Events, CgroupError> {
        let now = self.counters()?;
        Ok(Events {
            oom_kills: now.oom_kills.saturating_sub(self.at_first.oom_kills),
            pids_denied: now.pids_denied.saturating_sub(self.at_first.pids_denied),
        })
    }

    /// Resolves when [`CellCgroup::events`] has changed since the last time this resolved. A wait that
    /// is given up loses nothing.
    pub async fn event(&self) {
        let changed = || {
            let now = self.counters();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // Unreadable means that the group is being removed: nobody waits for its events.
            let changed = now.as_ref().is_ok_and(|now| *now != *seen);
            *seen = now.unwrap_or(*seen);
            changed
        };
        self.notice.until(changed).await;
    }

    /// Has the account begin now: what the cell has used and met so far is not the call's.
    pub fn begin_account(&mut self) -> Result<(), CgroupError> {
        let now = self.group.counters()?;
        if now.oom_kills > self.at_first.oom_kills {
            // Something of it is missing.
            return Err(CgroupError::Spent);
        }
        self.at_first = now;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = self.at_first;
        self.used_before = match &mut self.group {
            Group::V1(cell) => {
                cell.forget_peaks();
                cell.usage()
            }
            Group::V2(cell) => {
                cell.forget_peaks();
                cell.usage()
            }
        };
        Ok(())
    }

    /// CPU time that the call has used so far, in microseconds.
    pub fn cpu_micros(&self) -> Result<u64, CgroupError> {
        let used = match &self.group {
            Group::V1(cell) => cell.cpu_micros(),
            Group::V2(cell) => cell.cpu_micros(),
        };
        let before = self.used_before.user_micros + self.used_before.system_micros;
        Ok(used?.saturating_sub(before))
    }

    /// What the call has used so far; zero where the kernel does not say.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let usage = match &self.group {
            Group::V1(cell) => cell.usage(),
            Group::V2(cell) => cell.usage(),
        };
        let own = u64::from(PIDS_OF_THE_CELL);
        let before = &self.used_before;
        Usage {
            user_micros: usage.user_micros.saturating_sub(before.user_micros),
            system_micros: usage.system_micros.saturating_sub(before.system_micros),
            pids_peak: usage.pids_peak.map(|peak| peak.saturating_sub(own)),
            ..usage
        }
    }

    /// Lifts the CPU limit, so that what is asked to end, or killed, is not held up by it: killing a
    /// throttled group took up to a quarter of a second.
    pub fn unthrottle(&self) {
        match &self.group {
            Group::V1(cell) => cell.unthrottle(),
            Group::V2(cell) => cell.unthrottle(),
        }
    }

    /// Sends SIGKILL to every process in the group, unthrottled and with forking stopped. They are
    /// gone some microseconds later; [`CellCgroup::remove`] waits for that.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Ok(now) = self.group.counters() {
            let _ = self.denied_before_kill.set(now.pids_denied);
        }
        self.unthrottle();
        match &self.group {
            Group::V1(cell) => cell.kill(),
            Group::V2(cell) => cell.kill(),
        }
    }

    /// Whether no process is left in the group. One that cannot be read is not empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.group {
            Group::V1(cell) => cell.is_empty(),
            Group::V2(cell) => cell.is_empty(),
        }
    }

    /// Waits until the group is empty, killing what is left, and removes it.
    ///
    /// # Errors
    /// If a killed process is still there after [`REMOVE_DEADLINE`], or the system refuses; a later
    /// sweep finds what is left.
    pub async fn remove(mut self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        let mut step = REMOVE_STEP_MIN;
        // The kernel removes only what is empty, so a success is the proof.
        while !self.directories.try_remove()? {
            if Instant::now() >= deadline {
                let path = self.directories.paths().first().cloned();
                return Err(CgroupError::NotEmpty {
                    path: path.unwrap_or_default(),
                });
            }
            let _ = self.kill();
            tokio::time::sleep(step).await;
            step = (step * 2).min(REMOVE_STEP_MAX);
        }
        Ok(())
    }

    fn counters(&self) -> Result<Counters, CgroupError> {
        let mut counters = self.group.counters()?;
        if let Some(denied) = self.denied_before_kill.get() {
            counters.pids_denied = *denied;
        }
        Ok(counters)
    }
}

impl Drop for CellCgroup {
    fn drop(&mut self) {
        for attempt in 0..DROP_ATTEMPTS {
            // Also the way in which `remove` ends, when there is nothing left to do.
            if !matches!(self.directories.try_remove(), Ok(false)) {
                return;
            }
            let _ = self.kill();
            if attempt + 1 < DROP_ATTEMPTS {
                std::thread::sleep(DROP_STEP);
            }
        }
        let path = self.directories.paths().first();
        tracing::warn!(
            ?path,
            "a cgroup was not empty in time and waits for the next sweep"
        );
    }
}
