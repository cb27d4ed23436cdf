//! Memory that a cell holds without having it mapped, for the tier without cgroups: files in memory,
//! what waits in pipes and sockets, and System V objects.
//!
//! The cell's reader looks at descriptors and mappings; here they are counted, each file once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use runner::wire::{self, Answer, HeldFile, HeldIn, HeldMemory, Question};

use crate::processes;
use crate::reader::Reader;

/// Most descriptors of a cell that one look goes through: about 10 ms.
const LOOK_MAX: u32 = 4096;
/// Most threads whose tables of descriptors one look goes through.
const THREADS_MAX: usize = 4096;
/// Most bytes of one list of System V objects that are read: the kernel's own most of 32,000 queues.
const LIST_BYTES_MAX: usize = 4 << 20;
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

/// Sums over the descriptors of everything below a cell's first process, which has none: first those
/// of processes, then those that threads may have of their own, then what is mapped. `most` is how
/// many a process may have. A descriptor that is closed meanwhile is left out. Nothing if the reader
/// does not answer.
pub async fn look(first: i32, most: u32, reader: &Reader) -> Option<Held> {
    let mut ids = Vec::new();
    processes::each(first, |pid| ids.push(pid));
    ids.retain(|pid| *pid != first);
    let threads = ids.iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let tasks = tasks.into_iter().flatten().flatten().take(THREADS_MAX);
        let ids = tasks.filter_map(|task| number(&task.file_name()));
        ids.filter(move |thread| thread != pid)
    });
    let threads: Vec<i32> = threads.take(THREADS_MAX).collect();
    let tables = ids.iter().chain(&threads);
    let tables = tables.map(|id| (*id, HeldIn::Descriptors(most)));
    let mappings = ids.iter().map(|id| (*id, HeldIn::Mappings));
    let mut sum = Sum::default();
    for (pid, place) in tables.chain(mappings) {
        if !sum.ask(pid, place, reader).await? {
            break;
        }
    }
    Some(sum.held())
}

fn number(name: &std::ffi::OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

#[derive(Default)]
struct Sum {
    /// Device and inode of what has been counted.
    seen: HashSet<(u64, u64)>,
    /// How many descriptors have been looked at.
    looked: u32,
    files: u64,
    pipes: u64,
    sockets: u64,
    readable: u64,
}

impl Sum {
    /// Counts what one process or thread holds; false if enough has been looked at.
    async fn ask(&mut self, pid: i32, place: HeldIn, reader: &Reader) -> Option<bool> {
        let mut from = 0;
        loop {
            let question = Question::Held { pid, place, from };
            let (answer, _) = reader.ask(&question).await?;
            // One that has ended meanwhile holds nothing.
            let Answer::Held(wire::Held {
                files,
                looked,
                next,
            }) = answer
            else {
                return Some(true);
            };
            for file in files {
                self.add(file);
            }
            self.looked = self.looked.saturating_add(looked);
            if self.looked >= LOOK_MAX {
                return Some(false);
            }
            match next.filter(|next| *next > from) {
                Some(next) => from = next,
                None => return Some(true),
            }
        }
    }

    fn add(&mut self, file: HeldFile) {
        if !self.seen.insert((file.device, file.inode)) {
            return;
        }
        match file.memory {
            HeldMemory::File(bytes) => self.files += bytes,
            HeldMemory::Pipe(bytes) => self.pipes += bytes,
            HeldMemory::Socket {
                readable,
                accounted,
            } => {
                self.readable += readable;
                self.sockets += accounted;
            }
        }
    }

    fn held(&self) -> Held {
        Held {
            files: self.files,
            // What is sent over a Unix socket is the sender's until it is taken, and known to the
            // receiver alone once the sender has closed.
            buffers: self.pipes + self.sockets.max(self.readable),
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
    fn each_file_is_counted_once() {
        let file = |inode, memory| HeldFile {
            device: 1,
            inode,
            memory,
        };
        let mut sum = Sum::default();
        for inode in [1, 1, 2] {
            sum.add(file(inode, HeldMemory::File(10)));
        }
        sum.add(file(3, HeldMemory::Pipe(5)));
        for (inode, readable, accounted) in [(4, 0, 7), (5, 3, 0)] {
            let memory = HeldMemory::Socket {
                readable,
                accounted,
            };
            sum.add(file(inode, memory));
        }
        let held = sum.held();
        assert_eq!((held.files, held.buffers), (20, 12));
    }

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
