//! Limits: defaults, least and largest values.

use std::time::Duration;

use crate::diagnostics::{Diagnostic, Origin, Problems};
use crate::schema::{self, At};
use crate::units;

use super::{Chain, Limits, Rate};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Memory of a cell that names none: enough for an interpreter and a small job.
pub const MEMORY_DEFAULT: u64 = 256 * MIB;
/// Least memory: below it not even the cell's own two processes fit.
pub const MEMORY_MIN: u64 = 4 * MIB;
/// Cores of a cell that names none.
pub const CPU_DEFAULT: f64 = 1.0;
/// Least share of a core: the kernel's smallest quota is 1 ms in a period of 100 ms.
pub const CPU_MIN: f64 = 0.01;
/// Most cores.
pub const CPU_MAX: f64 = 1024.0;
/// Processes and threads of a cell that names none.
pub const PIDS_DEFAULT: u32 = 64;
/// Most processes and threads (half the kernel's `PID_MAX_LIMIT` on small machines).
pub const PIDS_MAX: u32 = 16_384;
/// Time on the clock of a call that names none.
pub const WALL_DEFAULT: Duration = Duration::from_secs(30);
/// Time between SIGTERM and SIGKILL.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(2);
/// Longest such time: a cancelled call must come to an end.
pub const GRACE_MAX: Duration = Duration::from_mins(1);
/// Shortest deadline that means anything: building a cell takes a few milliseconds.
pub const DEADLINE_MIN: Duration = Duration::from_millis(10);
/// Output of a call that names none.
pub const OUTPUT_DEFAULT: u64 = MIB;
/// Most output: it is kept for whoever reads it.
pub const OUTPUT_MAX: u64 = 1024 * MIB;
/// How much of a stream is shown in the answer: about 8,000 tokens, a third of what clients take.
pub const INLINE_DEFAULT: u64 = 32 * KIB;
/// Most of a stream that is shown in the answer.
pub const INLINE_MAX: u64 = MIB;
/// Size of a workspace, of `/tmp` and of `/dev/shm` where none is named.
pub const DISK_DEFAULT: u64 = 64 * MIB;
/// Least size of a file system in memory: a few pages.
pub const DISK_MIN: u64 = 64 * KIB;
/// Descriptors of one process where none are named.
pub const OPEN_FILES_DEFAULT: u32 = 256;
/// Fewest descriptors: three streams, the loader's, and a few of the program's own.
pub const OPEN_FILES_MIN: u32 = 8;
/// Most descriptors (the kernel's usual `fs.nr_open`).
pub const OPEN_FILES_MAX: u32 = 1_048_576;
/// Bytes to and from hosts, both ways together, where none are named.
pub const EGRESS_DEFAULT: u64 = 1024 * MIB;
/// Connections to hosts at once where none are named: more than a browser opens.
pub const CONNECTIONS_DEFAULT: u32 = 256;
/// Most connections at once: each takes the supervisor two descriptors and two buffers.
pub const CONNECTIONS_MAX: u32 = 4096;
/// Calls of one tool at once where none are named.
pub const CONCURRENCY_DEFAULT: u32 = 4;
/// Most calls of one tool at once.
pub const CONCURRENCY_MAX: u32 = 1024;

/// Reads the limits of a chain.
pub(super) fn resolve(chain: &Chain<'_>, problems: &mut Problems) -> Limits {
    let mut reader = Reader { chain, problems };
    let wall = reader.duration(
        "wall",
        |l| l.wall.as_ref(),
        DEADLINE_MIN,
        units::DURATION_MAX,
    );
    let wall = wall.unwrap_or(WALL_DEFAULT);
    let cpu_time = reader.duration(
        "cpu_time",
        |l| l.cpu_time.as_ref(),
        DEADLINE_MIN,
        units::DURATION_MAX,
    );
    let idle = reader.duration(
        "idle",
        |l| l.idle.as_ref(),
        DEADLINE_MIN,
        units::DURATION_MAX,
    );
    let grace = reader.duration("grace", |l| l.grace.as_ref(), Duration::ZERO, GRACE_MAX);
    let size_max = units::SIZE_BYTES_MAX;
    let memory = reader.size("memory", |l| l.memory.as_ref(), MEMORY_MIN, size_max);
    let swap = reader.size("swap", |l| l.swap.as_ref(), 0, size_max);
    let output = reader.size("output", |l| l.output.as_ref(), 0, OUTPUT_MAX);
    let inline = reader.size("inline", |l| l.inline.as_ref(), 0, INLINE_MAX);
    let disk = reader.size("disk", |l| l.disk.as_ref(), DISK_MIN, size_max);
    let tmp = reader.size("tmp", |l| l.tmp.as_ref(), DISK_MIN, size_max);
    let shm = reader.size("shm", |l| l.shm.as_ref(), DISK_MIN, size_max);
    let file_size = reader.size("file_size", |l| l.file_size.as_ref(), 0, size_max);
    let egress = reader.size("egress", |l| l.egress.as_ref(), 0, size_max);
    let connections = reader.count(
        "connections",
        |l| l.connections.as_ref(),
        1,
        CONNECTIONS_MAX,
    );
    let pids = reader.count("pids", |l| l.pids.as_ref(), 1, PIDS_MAX);
    let open_files = reader.count(
        "open_files",
        |l| l.open_files.as_ref(),
        OPEN_FILES_MIN,
        OPEN_FILES_MAX,
    );
    let concurrency = reader.count(
        "concurrency",
        |l| l.concurrency.as_ref(),
        1,
        CONCURRENCY_MAX,
    );
    let cpu = reader.cores();
    let rate = reader.rate();
    let require = reader.written(|limits| limits.require.as_ref());
    let require = require.map(|(tier, _)| *tier);
    let (disk, tmp, shm) = (
        disk.unwrap_or(DISK_DEFAULT),
        tmp.unwrap_or(DISK_DEFAULT),
        shm.unwrap_or(DISK_DEFAULT),
    );
    Limits {
        memory: memory.unwrap_or(MEMORY_DEFAULT),
        swap: swap.unwrap_or(0),
        cpu: cpu.unwrap_or(CPU_DEFAULT),
        pids: pids.unwrap_or(PIDS_DEFAULT),
        wall,
        cpu_time: cpu_time.unwrap_or(wall),
        idle,
        grace: grace.unwrap_or(GRACE_DEFAULT),
        output: output.unwrap_or(OUTPUT_DEFAULT),
        inline: inline.unwrap_or(INLINE_DEFAULT),
        disk,
        tmp,
        shm,
        open_files: open_files.unwrap_or(OPEN_FILES_DEFAULT),
        // A file larger than every file system it could be in would only show a hole in the limits.
        file_size: file_size.unwrap_or_else(|| disk.max(tmp).max(shm)),
        egress: egress.unwrap_or(EGRESS_DEFAULT),
        connections: connections.unwrap_or(CONNECTIONS_DEFAULT),
        concurrency: concurrency.unwrap_or(CONCURRENCY_DEFAULT),
        rate,
        require,
    }
}

struct Reader<'a, 'b> {
    chain: &'a Chain<'b>,
    problems: &'a mut Problems,
}

impl<'b> Reader<'_, 'b> {
    fn written<T>(
        &self,
        get: impl Fn(&'b schema::Limits) -> Option<&'b At<T>>,
    ) -> Option<(&'b T, Origin)> {
        self.chain.last(|profile| get(profile.limits.as_ref()?))
    }

    fn out_of_range(&mut self, key: &str, found: &str, min: &str, max: &str, origin: &Origin) {
        self.problems.push(
            Diagnostic::at(origin, format!("`limits.{key}` is `{found}`"))
                .with_expected(format!("expected from {min} to {max}")),
        );
    }

    fn size(
        &mut self,
        key: &str,
        get: impl Fn(&'b schema::Limits) -> Option<&'b At<schema::Size>>,
        min: u64,
        max: u64,
    ) -> Option<u64> {
        let (schema::Size(bytes), origin) = self.written(get)?;
        if !(min..=max).contains(bytes) {
            let show = |bytes| units::Size(bytes).to_string();
            self.out_of_range(key, &show(*bytes), &show(min), &show(max), &origin);
        }
        Some(*bytes)
    }

    fn duration(
        &mut self,
        key: &str,
        get: impl Fn(&'b schema::Limits) -> Option<&'b At<schema::HumanDuration>>,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let (schema::HumanDuration(duration), origin) = self.written(get)?;
        if !(min..=max).contains(duration) {
            let show = |duration| units::Span(duration).to_string();
            self.out_of_range(key, &show(*duration), &show(min), &show(max), &origin);
        }
        Some(*duration)
    }

    fn count(
        &mut self,
        key: &str,
        get: impl Fn(&'b schema::Limits) -> Option<&'b At<schema::Count>>,
        min: u32,
        max: u32,
    ) -> Option<u32> {
        let (schema::Count(count), origin) = self.written(get)?;
        if !(min..=max).contains(count) {
            let (found, min, max) = (count.to_string(), min.to_string(), max.to_string());
            self.out_of_range(key, &found, &min, &max, &origin);
        }
        Some(*count)
    }

    fn cores(&mut self) -> Option<f64> {
        let (cores, origin) = self.written(|limits| limits.cpu.as_ref())?;
        // Also false for NaN, which TOML can write.
        if !(CPU_MIN..=CPU_MAX).contains(cores) {
            let (found, min, max) = (cores.to_string(), CPU_MIN.to_string(), CPU_MAX.to_string());
            self.out_of_range("cpu", &found, &min, &max, &origin);
            return None;
        }
        Some(*cores)
    }

    fn rate(&mut self) -> Option<Rate> {
        let (schema::Rate((calls, per)), origin) = self.written(|limits| limits.rate.as_ref())?;
        if *calls == 0 {
            let diagnostic = Diagnostic::at(&origin, "`limits.rate` lets nobody call")
                .with_expected("expected at least one call");
            self.problems.push(diagnostic);
        }
        Some(Rate {
            calls: *calls,
            per: *per,
        })
    }
}
