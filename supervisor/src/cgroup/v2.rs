//! A cell's group on cgroup v2; see cgroups(7) and the kernel's admin-guide/cgroup-v2.
//!
//! cgroups-rs writes the limits. Beside it, through the same paths, is what it has no words for:
//! `memory.oom.group`, `memory.events`, the read-back, and the directory's own descriptor, which
//! `CLONE_INTO_CGROUP` takes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use super::file::{self, Open};
use super::limits::{CPU_PERIOD_MICROS, Expected, Wanted, set};
use super::{CgroupError, Counters, Usage, processes};

/// The directory below which cells are made; it holds no process itself, and the controllers are
/// enabled for what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub directory: PathBuf,
    /// Whether the kernel counts swap (`memory.swap.max`).
    pub counts_swap: bool,
}

/// A cell's group.
#[derive(Debug)]
pub(super) struct Cell {
    directory: PathBuf,
    handle: File,
    memory_events: Open,
    pids_events: Open,
    /// `memory.peak` as it counts since it was opened here and written to (Linux 6.12).
    memory_peak: Option<Open>,
}

impl Cell {
    /// Sets the limits on a directory just made.
    pub fn limit(
        parent: &Parent,
        directory: &Path,
        wanted: &Wanted,
    ) -> Result<(Self, Vec<String>), CgroupError> {
        let mut confirmed = limit_memory(directory, wanted, parent.counts_swap)?;
        let controller = PidController::new(directory.to_owned(), PathBuf::new(), true);
        set(
            "pids.max",
            controller.set_pid_max(MaxValue::Value(wanted.pids)),
        )?;
        confirmed.push(Expected::exactly("pids.max", wanted.pids).check(directory)?);
        let controller = CpuController::new(directory.to_owned(), PathBuf::new(), true);
        let (quota, period) = (wanted.quota_micros, CPU_PERIOD_MICROS);
        let result = controller.set_cfs_quota_and_period(Some(quota), Some(period));
        set("cpu.max", result)?;
        let value = format!("{quota} {period}");
        confirmed.push(Expected::exactly("cpu.max", value).check(directory)?);
        let handle = File::open(directory).map_err(|source| CgroupError::Read {
            path: directory.to_owned(),
            source,
        })?;
        let cell = Self {
            handle,
            memory_events: Open::new(directory.join("memory.events"))?,
            pids_events: Open::new(directory.join("pids.events"))?,
            memory_peak: None,
            directory: directory.to_owned(),
        };
        Ok((cell, confirmed))
    }

    /// The directory, for `CLONE_INTO_CGROUP`.
    pub fn entry_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.handle.as_fd()]
    }

    /// Counts so far.
    pub fn counters(&self) -> Result<Counters, CgroupError> {
        Ok(Counters {
            oom_kills: self.memory_events.keyed("oom_kill")?,
            pids_denied: self.pids_events.keyed("max")?,
        })
    }

    /// The files that poll(2) calls urgent when a counter in them has changed.
    pub fn event_files(&self) -> [&File; 2] {
        [&self.memory_events.file, &self.pids_events.file]
    }

    /// CPU time so far, in microseconds.
    pub fn cpu_micros(&self) -> Result<u64, CgroupError> {
        let path = self.directory.join("cpu.stat");
        file::keyed(&path, &file::read_short(&path)?, "usage_usec")
    }

    /// What has been used so far.
    pub fn usage(&self) -> Usage {
        let path = self.directory.join("cpu.stat");
        let stat = file::read_short(&path).unwrap_or_default();
        let of = |key: &str| file::keyed(&path, &stat, key).unwrap_or(0);
        Usage {
            user_micros: of("user_usec"),
            system_micros: of("system_usec"),
            memory_peak_bytes: match &self.memory_peak {
                Some(since) => since.read().ok().and_then(|text| text.trim().parse().ok()),
                None => file::number(&self.directory.join("memory.peak")).ok(),
            },
            pids_peak: file::number(&self.directory.join("pids.peak")).ok(),
        }
    }

    /// Has the most memory at once count from now on, where the kernel can.
    pub fn forget_peaks(&mut self) {
        self.memory_peak = Open::reset(self.directory.join("memory.peak")).ok();
    }

    /// Lifts the CPU limit.
    pub fn unthrottle(&self) {
        let _ = file::write(&self.directory.join("cpu.max"), "max");
    }

    /// Kills every process, those that are just being forked included.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let result = file::write(&self.directory.join("cgroup.kill"), "1");
        if result.is_err() {
            // Before Linux 5.14.
            let _ = file::write(&self.directory.join("pids.max"), "0");
            processes::kill_each(&[&self.directory]);
        }
        match result {
            Err(CgroupError::Write { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Whether no process is left in it or below it.
    pub fn is_empty(&self) -> bool {
        let path = self.directory.join("cgroup.events");
        match file::read_short(&path).and_then(|text| file::keyed(&path, &text, "populated")) {
            Ok(populated) => populated == 0,
            Err(_) => !self.directory.exists(),
        }
    }
}

fn limit_memory(
    group: &Path,
    wanted: &Wanted,
    counts_swap: bool,
) -> Result<Vec<String>, CgroupError> {
    let controller = MemController::new(group.to_owned(), PathBuf::new(), true);
    set("memory.max", controller.set_limit(wanted.memory))?;
    let mut expected = vec![Expected::bytes("memory.max", wanted.memory)];
    if counts_swap {
        set("memory.swap.max", controller.set_memswap_limit(wanted.swap))?;
        expected.push(Expected::bytes("memory.swap.max", wanted.swap));
    }
    // Out of memory, the whole cell goes: what is left of one that lost a process is of no use.
    file::write(&group.join("memory.oom.group"), "1")?;
    expected.push(Expected::exactly("memory.oom.group", 1));
    let mut confirmed: Vec<String> = expected
        .iter()
        .map(|value| value.check(group))
        .collect::<Result<_, _>>()?;
    if !counts_swap {
        confirmed.push("memory.swap.max is absent: this kernel does not count swap".into());
    }
    Ok(confirmed)
}
