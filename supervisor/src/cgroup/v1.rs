//! A cell's groups on cgroup v1: one in each hierarchy; see cgroups(7) and the kernel's
//! admin-guide/cgroup-v1.
//!
//! cgroups-rs writes the limits. Beside it, through the same paths: the read-back, as
//! `MemController::apply` drops errors and most setters never look; the events, as its notification
//! takes a thread for each group; and the kill, which it has for v2 only.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use rustix::event::{EventfdFlags, eventfd};

use super::file::{self, Open};
use super::limits::{CPU_PERIOD_MICROS, Expected, Wanted, at_most, set};
use super::{CgroupError, Counters, Usage, processes};

/// Nanoseconds in a microsecond: `cpuacct` counts in nanoseconds.
const NANOS_PER_MICRO: u64 = 1000;

/// The supervisor's own group in each hierarchy, below which cells are made: so every limit that the
/// supervisor is under holds for its cells together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parents {
    pub memory: PathBuf,
    pub pids: PathBuf,
    pub cpu: PathBuf,
    pub cpuacct: PathBuf,
    /// Whether the kernel counts swap (`memory.memsw.*`).
    pub counts_swap: bool,
    /// CPU cores that the groups above allow; a group below may not ask for more (EINVAL).
    pub cores: Option<f64>,
}

impl Parents {
    /// The hierarchies, the memory one first, each once: `cpu` and `cpuacct` are often one.
    pub fn distinct(&self) -> Vec<&Path> {
        let mut distinct: Vec<&Path> = Vec::new();
        for path in [&self.memory, &self.pids, &self.cpu, &self.cpuacct] {
            if !distinct.contains(&path.as_path()) {
                distinct.push(path);
            }
        }
        distinct
    }
}

/// A cell's groups.
#[derive(Debug)]
pub(super) struct Cell {
    directories: Vec<PathBuf>,
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
    cpuacct: PathBuf,
    /// `cgroup.procs` of each hierarchy, open for writing.
    procs: Vec<File>,
    oom_control: Open,
    pids_events: Open,
}

impl Cell {
    /// Sets the limits on directories just made, in the order of [`Parents::distinct`].
    pub fn limit(
        parents: &Parents,
        directories: &[PathBuf],
        wanted: &Wanted,
    ) -> Result<(Self, Vec<String>), CgroupError> {
        let distinct = parents.distinct();
        let of = |parent: &PathBuf| -> Result<PathBuf, CgroupError> {
            let index = distinct.iter().position(|path| *path == parent.as_path());
            let found = index.and_then(|index| directories.get(index));
            found.cloned().ok_or(CgroupError::NoParent)
        };
        let (memory, pids) = (of(&parents.memory)?, of(&parents.pids)?);
        let (cpu, cpuacct) = (of(&parents.cpu)?, of(&parents.cpuacct)?);
        let mut confirmed = limit_memory(&memory, wanted, parents.counts_swap)?;
        confirmed.extend(limit_pids(&pids, wanted)?);
        confirmed.extend(limit_cpu(&cpu, wanted, parents.cores)?);
        let procs = directories.iter().map(|directory| {
            let path = directory.join("cgroup.procs");
            let opened = File::options().write(true).open(&path);
            opened.map_err(|source| CgroupError::Read { path, source })
        });
        let cell = Self {
            procs: procs.collect::<Result<_, _>>()?,
            oom_control: Open::new(memory.join("memory.oom_control"))?,
            pids_events: Open::new(pids.join("pids.events"))?,
            directories: directories.to_vec(),
            memory,
            pids,
            cpu,
            cpuacct,
        };
        Ok((cell, confirmed))
    }

    /// The files that a process enters by.
    pub fn entry_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.procs.iter().map(AsFd::as_fd).collect()
    }

    /// Counts so far.
    pub fn counters(&self) -> Result<Counters, CgroupError> {
        Ok(Counters {
            oom_kills: self.oom_control.keyed("oom_kill")?,
            pids_denied: self.pids_events.keyed("max")?,
        })
    }

    /// A descriptor that becomes readable when the group runs out of memory, right before something
    /// in it is killed. None where the kernel lacks it; then the counters are looked at now and then.
    pub fn oom_notice(&self) -> Option<OwnedFd> {
        use std::os::fd::AsRawFd;
        let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
        let of = self.oom_control.file.as_raw_fd();
        let line = format!("{} {of}", notice.as_raw_fd());
        file::write(&self.memory.join("cgroup.event_control"), &line).ok()?;
        Some(notice)
    }

    /// CPU time so far, in microseconds.
    pub fn cpu_micros(&self) -> Result<u64, CgroupError> {
        Ok(file::number(&self.cpuacct.join("cpuacct.usage"))? / NANOS_PER_MICRO)
    }

    /// What has been used so far.
    pub fn usage(&self) -> Usage {
        let of = |name: &str| file::number(&self.cpuacct.join(name)).unwrap_or(0);
        let total = of("cpuacct.usage") / NANOS_PER_MICRO;
        // The total is exact; user and system are sampled at ticks, so they only divide it.
        let (user, system) = (of("cpuacct.usage_user"), of("cpuacct.usage_sys"));
        let system =
            u128::from(total) * u128::from(system) / (u128::from(user) + u128::from(system)).max(1);
        let system = u64::try_from(system).unwrap_or(total);
        Usage {
            user_micros: total.saturating_sub(system),
            system_micros: system,
            memory_peak_bytes: file::number(&self.memory.join("memory.max_usage_in_bytes")).ok(),
            pids_peak: file::number(&self.pids.join("pids.peak")).ok(),
        }
    }

    /// Has the most memory at once count from now on.
    pub fn forget_peaks(&mut self) {
        let _ = file::write(&self.memory.join("memory.max_usage_in_bytes"), "0");
    }

    /// Lifts the CPU limit.
    pub fn unthrottle(&self) {
        let _ = file::write(&self.cpu.join("cpu.cfs_quota_us"), "-1");
    }

    /// Stops forking, then sends SIGKILL to every process.
    pub fn kill(&self) -> Result<(), CgroupError> {
        // A cell cannot fork faster than it is killed if it cannot fork at all.
        let stopped = file::write(&self.pids.join("pids.max"), "0");
        processes::kill_each(&self.directories);
        stopped
    }

    /// Whether no process is left in any hierarchy.
    pub fn is_empty(&self) -> bool {
        self.directories
            .iter()
            .all(|path| processes::is_empty(path))
    }
}

fn limit_memory(
    group: &Path,
    wanted: &Wanted,
    counts_swap: bool,
) -> Result<Vec<String>, CgroupError> {
    let controller = MemController::new(group.to_owned(), PathBuf::new(), false);
    set("memory.limit_in_bytes", controller.set_limit(wanted.memory))?;
    let mut expected = vec![Expected::bytes("memory.limit_in_bytes", wanted.memory)];
    if counts_swap {
        // Memory and swap together; it may not be less than the limit of memory alone.
        let both = wanted.memory.saturating_add(wanted.swap);
        set(
            "memory.memsw.limit_in_bytes",
            controller.set_memswap_limit(both),
        )?;
        expected.push(Expected::bytes("memory.memsw.limit_in_bytes", both));
    } else {
        // What cannot be counted is not used: reclaim within the group leaves its memory in place.
        set("memory.swappiness", controller.set_swappiness(0))?;
        expected.push(Expected::exactly("memory.swappiness", 0));
    }
    let confirmed = expected.iter().map(|value| value.check(group)).collect();
    let oom_control = group.join("memory.oom_control");
    if file::keyed(
        &oom_control,
        &file::read_short(&oom_control)?,
        "oom_kill_disable",
    )? != 0
    {
        // Inherited from the parent: without the killer a cell out of memory would hang for ever.
        file::write(&oom_control, "0")?;
        let text = file::read_short(&oom_control)?;
        if file::keyed(&oom_control, &text, "oom_kill_disable")? != 0 {
            return Err(CgroupError::Differs {
                file: "memory.oom_control",
                asked: "oom_kill_disable 0".into(),
                found: text,
            });
        }
    }
    confirmed
}

fn limit_pids(group: &Path, wanted: &Wanted) -> Result<Vec<String>, CgroupError> {
    let controller = PidController::new(group.to_owned(), PathBuf::new(), false);
    set(
        "pids.max",
        controller.set_pid_max(MaxValue::Value(wanted.pids)),
    )?;
    Ok(vec![
        Expected::exactly("pids.max", wanted.pids).check(group)?,
    ])
}

fn limit_cpu(
    group: &Path,
    wanted: &Wanted,
    cores: Option<f64>,
) -> Result<Vec<String>, CgroupError> {
    let quota = at_most(wanted.quota_micros, cores);
    let controller = CpuController::new(group.to_owned(), PathBuf::new(), false);
    set(
        "cpu.cfs_period_us",
        controller.set_cfs_period(CPU_PERIOD_MICROS),
    )?;
    set("cpu.cfs_quota_us", controller.set_cfs_quota(quota))?;
    let expected = [
        Expected::exactly("cpu.cfs_quota_us", quota),
        Expected::exactly("cpu.cfs_period_us", CPU_PERIOD_MICROS),
    ];
    expected.iter().map(|value| value.check(group)).collect()
}

/// CPU cores that the groups from this one up to the mount allow, if any limits them.
pub(super) fn cores_allowed(group: &Path, mount: &Path) -> Option<f64> {
    let within = group.ancestors().take_while(|path| path.starts_with(mount));
    within
        .filter_map(|path| {
            // A group without a limit says -1, which is no `u32`; the topmost has no such file.
            let read = |name: &str| -> Option<u32> {
                file::read_short(&path.join(name)).ok()?.trim().parse().ok()
            };
            let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
            Some(f64::from(quota) / f64::from(period.max(1)))
        })
        .reduce(f64::min)
}
