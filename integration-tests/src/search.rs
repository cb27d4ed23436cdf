//! Looking for bytes where they must not be: in processes, and in a world's files.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::World;
use crate::internet::status;

impl World {
    /// Puts a secret into the credential store of the world's user, with these permissions.
    pub fn secret(&self, name: &str, value: &str, mode: u32) {
        let path = self.write(
            &format!("config/toolcell/secrets/{name}"),
            &format!("{value}\n"),
        );
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
}

/// The processes of the machine.
pub fn processes() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").expect("proc is mounted").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What a process started, and what that did.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut looked = 0;
    while let Some(parent) = found.get(looked).copied() {
        let is_child = |pid: &u32| status(*pid, "PPid") == Some(parent.to_string());
        found.extend(processes().filter(is_child));
        looked += 1;
    }
    found.split_off(1)
}

/// Whether a process has some bytes in this part of `/proc/PID`; in its memory, in any of it.
#[must_use]
pub fn holds(pid: u32, part: &str, text: &str) -> bool {
    let path = format!("/proc/{pid}/{part}");
    let within = |bytes: &[u8]| {
        let mut windows = bytes.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    };
    if part != "mem" {
        return within(&fs::read(&path).expect("root may read it"));
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may read it");
    let mut memory = fs::File::open(path).expect("root may read it");
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').expect("it has a range");
        let (from, to) = range.split_once('-').expect("a range has two ends");
        let read = |text: &str| u64::from_str_radix(text, 16).expect("it is an address");
        let (from, to) = (read(from), read(to));
        if !rest.starts_with("rw") || memory.seek(SeekFrom::Start(from)).is_err() {
            return false;
        }
        let mut bytes = vec![0; usize::try_from(to - from).expect("it is mapped")];
        memory.read_exact(&mut bytes).is_ok() && within(&bytes)
    })
}

/// The files of a world in which some text is.
#[must_use]
pub fn files_with(world: &World, text: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut directories = vec![world.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it is ours").flatten() {
            let kind = entry.file_type().expect("it is there");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).expect("it is ours");
                let mut windows = bytes.windows(text.len());
                if windows.any(|window| window == text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}
