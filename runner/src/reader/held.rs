//! Files of a process that hold memory, whether or not it is mapped: looked at through `/proc` or by a
//! copy of the descriptor (pidfd_getfd(2)). Nothing is ever read from them or set on them, and a copy
//! is closed at once.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{fstat, major, minor};

use crate::sys;
use crate::wire::{HELD_FILES_MAX, Held, HeldFile, HeldIn, HeldMemory};

/// Most descriptors that one question goes through: about 10 ms.
const LOOKS_MAX: u32 = 4096;
/// Most bytes of a list of mappings that are read: about 40,000 mappings.
const MAPS_BYTES_MAX: u64 = 4 << 20;

/// The device of nameless files in memory.
pub(super) fn device_of_memory_files() -> Result<u64, Errno> {
    let file = memfd_create(c"toolcell", MFdFlags::MFD_CLOEXEC)?;
    Ok(fstat(&file)?.st_dev)
}

/// A copy of a descriptor of a process or thread; what a tool says is one may be any number.
pub(super) fn copy(pid: i32, descriptor: RawFd) -> Result<OwnedFd, Errno> {
    sys::copy_descriptor(open(pid)?.as_fd(), descriptor)
}

/// A thread's table of descriptors may be its own; before Linux 6.9 only a process's can be had.
fn open(id: i32) -> Result<OwnedFd, Errno> {
    sys::open_pidfd(id).or_else(|error| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).map_err(|_| error)?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let process = line.and_then(|line| line.trim().parse().ok());
        sys::open_pidfd(process.filter(|process| *process != id).ok_or(error)?)
    })
}

/// Looks at descriptors or mappings of a process or thread, from this one on. What is closed
/// meanwhile is left out.
pub(super) fn look(pid: i32, place: HeldIn, from: u64, memory_files: u64) -> Held {
    let mut look = Look {
        pid,
        memory_files,
        process: None,
        found: Held::default(),
    };
    match place {
        HeldIn::Descriptors(most) => look.at_table(from, most),
        HeldIn::Mappings => look.at_mappings(from),
    }
    look.found
}

struct Look {
    pid: i32,
    memory_files: u64,
    /// The process, once a descriptor of it was copied.
    process: Option<OwnedFd>,
    found: Held,
}

impl Look {
    fn at_table(&mut self, from: u64, most: u32) {
        // A thread's own directory is here, too, although it is not listed.
        let Ok(table) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return self.at_hidden_table(from, most);
        };
        for entry in table.flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
                continue;
            };
            let place = u64::from(number.unsigned_abs());
            if place < from {
                continue;
            }
            if !self.goes_on(place) {
                return;
            }
            // Follows the link to what is open, whatever its name says.
            if let Ok(file) = fs::metadata(entry.path())
                && self.holds(&file)
            {
                self.note(number, &file);
            }
        }
    }

    /// A process that does not let itself be looked into still has its descriptors by their numbers.
    fn at_hidden_table(&mut self, from: u64, most: u32) {
        for place in from..u64::from(most) {
            if !self.goes_on(place) {
                return;
            }
            let Ok(number) = RawFd::try_from(place) else {
                return;
            };
            let Some(copy) = self.copy(number) else {
                continue;
            };
            if let Ok(file) = copy.metadata() {
                self.note_copy(&file, &copy);
            }
        }
    }

    /// Files in memory that are mapped, which may be open nowhere and have pages in no page table.
    fn at_mappings(&mut self, from: u64) {
        let device = self.memory_files;
        let device = format!("{:02x}:{:02x}", major(device), minor(device));
        let mut maps = Vec::new();
        // What is cut off is no line of ours, and a list that cannot be had has none.
        let _ = File::open(format!("/proc/{}/maps", self.pid))
            .and_then(|file| file.take(MAPS_BYTES_MAX).read_to_end(&mut maps));
        for line in maps.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut fields = line.split_whitespace();
            let (Some(range), Some(on)) = (fields.next(), fields.nth(2)) else {
                continue;
            };
            // System V segments are counted by their list.
            if on != device || fields.nth(1).is_some_and(|name| name.starts_with("/SYSV")) {
                continue;
            }
            let bounds = range.split('-').map(|end| end.trim_start_matches('0'));
            let bounds: Vec<&str> = bounds.collect();
            let start = bounds.first().map(|start| u64::from_str_radix(start, 16));
            let Some(Ok(start)) = start else { continue };
            if start < from {
                continue;
            }
            if !self.goes_on(start) {
                return;
            }
            let file = fs::metadata(format!("/proc/{}/map_files/{}", self.pid, bounds.join("-")));
            if let Ok(file) = file
                && self.is_in_memory(&file)
            {
                self.push(&file, HeldMemory::File(file.blocks() * 512));
            }
        }
    }

    /// Counts one look at this place; false if the next question has to make it.
    fn goes_on(&mut self, place: u64) -> bool {
        if self.found.looked >= LOOKS_MAX || self.found.files.len() >= HELD_FILES_MAX {
            self.found.next = Some(place);
            return false;
        }
        self.found.looked += 1;
        true
    }

    fn is_in_memory(&self, file: &fs::Metadata) -> bool {
        file.is_file() && file.dev() == self.memory_files
    }

    fn holds(&self, file: &fs::Metadata) -> bool {
        let kind = file.file_type();
        self.is_in_memory(file) || kind.is_fifo() || kind.is_socket()
    }

    fn copy(&mut self, number: RawFd) -> Option<File> {
        if self.process.is_none() {
            self.process = Some(open(self.pid).ok()?);
        }
        let process = self.process.as_ref()?;
        sys::copy_descriptor(process.as_fd(), number)
            .ok()
            .map(File::from)
    }

    /// Notes what a descriptor holds.
    fn note(&mut self, number: RawFd, file: &fs::Metadata) {
        if self.is_in_memory(file) {
            return self.push(file, HeldMemory::File(file.blocks() * 512));
        }
        if let Some(copy) = self.copy(number)
            && let Ok(file) = copy.metadata()
        {
            self.note_copy(&file, &copy);
        }
    }

    fn note_copy(&mut self, file: &fs::Metadata, copy: &File) {
        let kind = file.file_type();
        let readable = || sys::readable_bytes(copy.as_fd()).unwrap_or(0);
        if self.is_in_memory(file) {
            self.push(file, HeldMemory::File(file.blocks() * 512));
        } else if kind.is_fifo() {
            self.push(file, HeldMemory::Pipe(readable()));
        } else if kind.is_socket() {
            let memory = HeldMemory::Socket {
                readable: readable(),
                accounted: sys::socket_memory(copy.as_fd()).unwrap_or(0),
            };
            self.push(file, memory);
        }
    }

    fn push(&mut self, file: &fs::Metadata, memory: HeldMemory) {
        self.found.files.push(HeldFile {
            device: file.dev(),
            inode: file.ino(),
            memory,
        });
    }
}
