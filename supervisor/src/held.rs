//! Memory that a cell holds without having it mapped, for the tier without cgroups: files in memory,
//! what waits in pipes and sockets, and System V objects.
//!
//! A descriptor of a tool's is looked at through `/proc` or by a copy (pidfd_getfd(2)), and nothing
//! is ever read from it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::LazyLock;

use runner::sys;
use rustix::fs::{major, minor};

use crate::descriptor::Other;
use crate::processes;

/// Most descriptors of a cell that one look goes through: about 10 ms.
const LOOK_MAX: usize = 4096;
/// Most bytes of one list of System V objects that are read: the kernel's own most of 32,000 queues.
const LIST_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a list of mappings that are read: about 40,000 mappings.
const MAPS_BYTES_MAX: u64 = 4 << 20;
/// What the kernel keeps for each message beside its text, at least (`struct msg_msg`).
const MESSAGE_BYTES: u64 = 64;
/// What it keeps for each semaphore (`struct sem`, a line of the cache).
const SEMAPHORE_BYTES: u64 = 64;
/// What it keeps for each set or queue.
const OBJECT_BYTES: u64 = 256;

/// What the descriptors of a cell's processes hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Nameless files in memory (memfd_create(2)), each once.
    pub files: u64,
    /// What waits in pipes and sockets, each once.
    pub buffers: u64,
}

/// The device of nameless files in memory; they are all in one file system of the kernel's.
static MEMORY_FILES: LazyLock<Option<u64>> = LazyLock::new(|| {
    let file = rustix::fs::memfd_create("toolcell", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    rustix::fs::fstat(file).ok().map(|stat| stat.st_dev)
});

/// Sums over the descriptors of everything below a cell's first process, which has none: first those
/// of processes, then those that threads may have of their own. `most` is how many a process may
/// have. A descriptor that is closed meanwhile is left out.
#[must_use]
pub fn descriptors(first: i32, most: u32) -> Held {
    let mut look = Look::default();
    let mut ids = Vec::new();
    processes::each(first, |pid| ids.push(pid));
    ids.retain(|pid| *pid != first);
    let threads = ids.iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let tasks = tasks.into_iter().flatten().flatten().take(LOOK_MAX);
        let ids = tasks.filter_map(|task| number(&task.file_name()));
        ids.filter(move |thread| thread != pid)
    });
    let threads: Vec<i32> = threads.take(LOOK_MAX).collect();
    for id in ids.iter().chain(&threads) {
        look.at_table(*id, most);
    }
    for id in ids {
        look.at_mappings(id);
    }
    Held {
        files: look.files,
        // What is sent over a Unix socket is the sender's until it is taken, and known to the
        // receiver alone once the sender has closed.
        buffers: look.pipes + look.sockets.max(look.readable),
    }
}

fn number(name: &std::ffi::OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

#[derive(Default)]
struct Look {
    /// Device and inode of what has been counted.
    seen: HashSet<(u64, u64)>,
    /// How many descriptors have been looked at.
    looked: usize,
    files: u64,
    pipes: u64,
    sockets: u64,
    readable: u64,
}

impl Look {
    /// Looks at the descriptors of one process or thread.
    fn at_table(&mut self, id: i32, most: u32) {
        let mut process = None;
        // A thread's own directory is here, too, although it is not listed.
        let Ok(table) = fs::read_dir(format!("/proc/{id}/fd")) else {
            return self.at_hidden_table(id, most);
        };
        for entry in table.flatten() {
            if !self.goes_on() {
                return;
            }
            // Follows the link to what is open, whatever its name says.
            let (Ok(file), Some(descriptor)) =
                (fs::metadata(entry.path()), number(&entry.file_name()))
            else {
                continue;
            };
            let copy = || {
                process
                    .get_or_insert_with(|| Other::open(id))
                    .as_ref()?
                    .copy(descriptor)
            };
            self.at(&file, copy);
        }
    }

    /// A process that does not let itself be looked into still has its descriptors by their numbers.
    fn at_hidden_table(&mut self, id: i32, most: u32) {
        let Some(process) = Other::open(id) else {
            return;
        };
        for descriptor in 0..RawFd::try_from(most).unwrap_or(RawFd::MAX) {
            if !self.goes_on() {
                return;
            }
            let Some(copy) = process.copy(descriptor).map(File::from) else {
                continue;
            };
            if let Ok(file) = copy.metadata() {
                self.at(&file, || Some(copy.into()));
            }
        }
    }

    /// Files in memory that are mapped, which may be open nowhere and have pages in no page table.
    /// The kernel shows them to root alone (`map_files` in proc(5)).
    fn at_mappings(&mut self, id: i32) {
        let Some(device) = *MEMORY_FILES else { return };
        let device = format!("{:02x}:{:02x}", major(device), minor(device));
        let Ok(maps) = File::open(format!("/proc/{id}/maps")) else {
            return;
        };
        let mut text = String::new();
        // What is cut off is no line of ours.
        let _ = maps.take(MAPS_BYTES_MAX).read_to_string(&mut text);
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(on)) = (fields.next(), fields.nth(2)) else {
                continue;
            };
            // System V segments are counted by their list.
            if on != device || fields.nth(1).is_some_and(|name| name.starts_with("/SYSV")) {
                continue;
            }
            let bounds: Vec<&str> = range
                .split('-')
                .map(|end| end.trim_start_matches('0'))
                .collect();
            if !self.goes_on() {
                return;
            }
            if let Ok(file) = fs::metadata(format!("/proc/{id}/map_files/{}", bounds.join("-"))) {
                self.at(&file, || None);
            }
        }
    }

    fn goes_on(&mut self) -> bool {
        self.looked += 1;
        self.looked <= LOOK_MAX
    }

    fn at(&mut self, file: &fs::Metadata, copy: impl FnOnce() -> Option<OwnedFd>) {
        let kind = file.file_type();
        let in_memory = kind.is_file() && Some(file.dev()) == *MEMORY_FILES;
        let waits = kind.is_fifo() || kind.is_socket();
        if !(in_memory || waits) || !self.seen.insert((file.dev(), file.ino())) {
            return;
        }
        if in_memory {
            self.files += file.blocks() * 512;
            return;
        }
        let Some(copy) = copy() else { return };
        let readable = rustix::io::ioctl_fionread(&copy).unwrap_or(0);
        if kind.is_fifo() {
            self.pipes += readable;
        } else {
            self.readable += readable;
            self.sockets += sys::socket_memory(copy.as_fd()).unwrap_or(0);
        }
    }
}

/// The cell's lists of System V objects, opened by its first process.
#[derive(Debug, Default)]
pub struct SystemV {
    /// Shared memory, message queues, semaphores; none on a kernel without.
    lists: Option<[File; 3]>,
}

impl SystemV {
    /// Takes the descriptors, in the order of [`runner::spec::SYSTEM_V_LISTS`].
    #[must_use]
    pub fn new(lists: Vec<OwnedFd>) -> Self {
        let lists: Vec<File> = lists.into_iter().map(File::from).collect();
        Self {
            lists: lists.try_into().ok(),
        }
    }

    /// Pages of shared memory, attached or not.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        self.sum(0, |fields| Some(fields.get(14)? + fields.get(15)?))
    }

    /// What queues and semaphores hold in the kernel.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        let queues = self.sum(1, |fields| {
            Some(OBJECT_BYTES + fields.get(3)? + fields.get(4)? * MESSAGE_BYTES)
        });
        let sets = self.sum(2, |fields| {
            Some(OBJECT_BYTES + fields.get(3)? * SEMAPHORE_BYTES)
        });
        queues + sets
    }

    fn sum(&self, list: usize, of: impl Fn(&[u64]) -> Option<u64>) -> u64 {
        let text = self.lists.as_ref().map(|lists| read(&lists[list]));
        sum(&text.unwrap_or_default(), of)
    }
}

/// Sums over the lines of a list but its head, each as numbers; a key can be negative, and is not
/// looked at.
fn sum(list: &str, of: impl Fn(&[u64]) -> Option<u64>) -> u64 {
    let lines = list.lines().skip(1);
    let sums = lines.filter_map(|line| {
        let fields: Vec<u64> = line
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        of(&fields)
    });
    sums.fold(0, u64::saturating_add)
}

fn read(list: &File) -> String {
    const CHUNK: usize = 64 * 1024;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    while bytes.len() < LIST_BYTES_MAX {
        match list.read_at(&mut chunk, bytes.len() as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_summed_by_their_columns() {
        let shm = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
                   -559038737          0   600              10485760     2     2      0  1000  1000  1000  1000          0          0 1795789832              10485760                  4096\n";
        let pages = |fields: &[u64]| Some(fields.get(14)? + fields.get(15)?);
        assert_eq!(sum(shm, pages), 10_485_760 + 4096);
        assert_eq!(sum("", pages), 0);
        assert_eq!(sum("head\nshort line\n", pages), 0);
    }
}
