//! A cell's limits: as asked for, as the kernel takes them, and as it says they are.

use std::fmt::Display;
use std::path::Path;

use super::{CgroupError, file};

/// Length of the period in which CPU time is granted, in microseconds: the kernel's default.
pub(super) const CPU_PERIOD_MICROS: u64 = 100_000;
/// Least CPU time in one period, in microseconds (the kernel's `min_cfs_quota_period`).
const QUOTA_MICROS_MIN: f64 = 1000.0;
/// Most CPU cores that can be asked for: beyond any machine, and within what the kernel can count.
const CORES_MAX: f64 = 65_536.0;

/// Processes and threads in a cell beside the tool's: the cell's first process, which reaps.
pub const PIDS_OF_THE_CELL: u32 = 1;

/// What a cell may use as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellLimits {
    /// Memory in bytes, page cache, tmpfs and kernel memory included.
    pub memory: u64,
    /// Swap in bytes, beyond the memory.
    pub swap: u64,
    /// CPU time in cores.
    pub cpu: f64,
    /// Processes and threads of the tool; [`PIDS_OF_THE_CELL`] come on top.
    pub pids: u32,
}

/// The limits in the kernel's units and types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub memory: i64,
    pub swap: i64,
    pub quota_micros: i64,
    pub pids: i64,
}

impl Wanted {
    /// Checks and converts.
    pub fn new(limits: &CellLimits) -> Result<Self, CgroupError> {
        let bytes = |name: &'static str, value: u64| {
            i64::try_from(value).map_err(|_| CgroupError::Range {
                name,
                value: value.to_string(),
            })
        };
        #[allow(clippy::cast_precision_loss)] // 100,000 is exact
        let quota = (limits.cpu * CPU_PERIOD_MICROS as f64).round();
        if !(quota >= QUOTA_MICROS_MIN && limits.cpu <= CORES_MAX) {
            return Err(CgroupError::Range {
                name: "cpu",
                value: limits.cpu.to_string(),
            });
        }
        #[allow(clippy::cast_possible_truncation)] // whole, and within the bounds just checked
        let quota_micros = quota as i64;
        Ok(Self {
            memory: bytes("memory", limits.memory)?,
            swap: bytes("swap", limits.swap)?,
            quota_micros,
            pids: i64::from(limits.pids) + i64::from(PIDS_OF_THE_CELL),
        })
    }
}

/// A quota that asks for no more cores than these.
pub(super) fn at_most(quota_micros: i64, cores: Option<f64>) -> i64 {
    #[allow(clippy::cast_precision_loss)] // 100,000 is exact
    let allowed = cores.map(|cores| (cores * CPU_PERIOD_MICROS as f64).floor());
    #[allow(clippy::cast_possible_truncation)]
    // a float that is too large becomes the largest integer
    let allowed = allowed.map_or(i64::MAX, |micros| micros.max(QUOTA_MICROS_MIN) as i64);
    quota_micros.min(allowed)
}

/// Names the file in what cgroups-rs says of a failed write.
pub(super) fn set(
    file: &'static str,
    result: cgroups_rs::fs::error::Result<()>,
) -> Result<(), CgroupError> {
    result.map_err(|source| CgroupError::Limit { file, source })
}

/// What a file must say once its limit is set.
#[derive(Debug)]
pub(super) struct Expected {
    file: &'static str,
    value: String,
    bytes: Option<u64>,
}

impl Expected {
    /// Exactly this.
    pub fn exactly(file: &'static str, value: impl Display) -> Self {
        Self {
            file,
            value: value.to_string(),
            bytes: None,
        }
    }

    /// This many bytes, rounded down to whole pages.
    pub fn bytes(file: &'static str, value: i64) -> Self {
        Self {
            bytes: u64::try_from(value).ok(),
            ..Self::exactly(file, value)
        }
    }

    /// Reads the file and compares; the line is what the outcome shows.
    pub fn check(&self, group: &Path) -> Result<String, CgroupError> {
        let found = file::read_short(&group.join(self.file))?;
        let found = found.trim();
        let rounded = |asked: u64| {
            let found: Option<u64> = found.parse().ok();
            found.is_some_and(|found| found <= asked && asked - found < page_bytes())
        };
        if self.bytes.map_or(found == self.value, rounded) {
            return Ok(format!("{} = {found}", self.file));
        }
        Err(CgroupError::Differs {
            file: self.file,
            asked: self.value.clone(),
            found: found.to_owned(),
        })
    }
}

/// The kernel rounds a limit down to whole pages of this size.
fn page_bytes() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    // Never absent on Linux; 1 makes the comparison exact.
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CellLimits = CellLimits {
        memory: 1 << 29,
        swap: 0,
        cpu: 0.5,
        pids: 64,
    };

    #[test]
    fn the_cells_own_process_has_room() {
        let wanted = Wanted::new(&LIMITS).unwrap();
        assert_eq!(wanted.pids, 65);
        assert_eq!(wanted.quota_micros, 50_000);
    }

    #[test]
    fn what_the_kernel_cannot_count_is_refused() {
        for cpu in [0.0, -1.0, 0.001, f64::NAN, f64::INFINITY, 1e9] {
            let refused = Wanted::new(&CellLimits { cpu, ..LIMITS });
            assert!(
                matches!(refused, Err(CgroupError::Range { name: "cpu", .. })),
                "{cpu}"
            );
        }
        let memory = u64::MAX;
        assert!(Wanted::new(&CellLimits { memory, ..LIMITS }).is_err());
    }

    #[test]
    fn a_parents_share_of_the_cpu_is_not_exceeded() {
        assert_eq!(at_most(100_000, None), 100_000);
        assert_eq!(at_most(100_000, Some(0.5)), 50_000);
        assert_eq!(at_most(20_000, Some(0.5)), 20_000);
        assert_eq!(at_most(100_000, Some(1e300)), 100_000);
    }

    #[test]
    fn a_value_that_differs_from_what_was_asked_is_an_error() {
        let group = tempfile::tempdir().unwrap();
        let says = |text: &str| std::fs::write(group.path().join("memory.max"), text).unwrap();
        let page = i64::try_from(page_bytes()).unwrap();
        let expected = Expected::bytes("memory.max", 2 * page + 1);
        says(&format!("{}\n", 2 * page));
        let line = format!("memory.max = {}", 2 * page);
        assert_eq!(expected.check(group.path()).unwrap(), line);
        for wrong in [0, page, 2 * page + 2].map(|bytes| format!("{bytes}\n")) {
            says(&wrong);
            assert!(expected.check(group.path()).is_err(), "{wrong}");
        }
        says("max\n");
        assert!(expected.check(group.path()).is_err());
        let expected = Expected::exactly("memory.max", 8193);
        says("8192\n");
        assert!(expected.check(group.path()).is_err());
    }
}
