//! Interface files of control groups: short texts that one call reads or writes whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Bytes read from a file in one go; those that are have a few short lines.
const SHORT_FILE_BYTES_MAX: usize = 4096;

/// Reads a file of any length.
pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Writes to a file that exists.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Opened without O_CREAT, so that a file that this kernel lacks is "not found" and not "permission
    // denied".
    let result = File::options().write(true).open(path);
    result
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| CgroupError::Write {
            path: path.to_owned(),
            value: value.to_owned(),
            source,
        })
}

/// Reads a file of a few lines in one go: two system calls less than [`read`], and a cell's limits
/// are some ten files.
pub(super) fn read_short(path: &Path) -> Result<String, CgroupError> {
    Open::new(path.to_owned())?.read()
}

/// Reads a file with one number.
pub(super) fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = read_short(path)?;
    text.trim().parse().map_err(|_| malformed(path, &text))
}

/// The number after `key` in a file of lines with a key and a number each.
pub(super) fn keyed(path: &Path, text: &str, key: &str) -> Result<u64, CgroupError> {
    let line = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
    text.lines()
        .find_map(line)
        .ok_or_else(|| malformed(path, text))
}

/// A file that is kept open, to be read again and again.
#[derive(Debug)]
pub(super) struct Open {
    /// Where it was opened, for messages.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

impl Open {
    /// Opens a file for reading.
    pub fn new(path: PathBuf) -> Result<Self, CgroupError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(CgroupError::Read { path, source }),
        }
    }

    /// Opens a file for reading that counts from now on for whoever writes to it.
    pub fn reset(path: PathBuf) -> Result<Self, CgroupError> {
        let opened = File::options().read(true).write(true).open(&path);
        let written = opened.and_then(|mut file| {
            io::Write::write_all(&mut file, b"reset")?;
            Ok(file)
        });
        match written {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(CgroupError::Write {
                path,
                value: "reset".to_owned(),
                source,
            }),
        }
    }

    /// Reads it from its beginning, which also resets what poll(2) says of it.
    pub fn read(&self) -> Result<String, CgroupError> {
        let mut buffer = [0; SHORT_FILE_BYTES_MAX];
        match self.file.read_at(&mut buffer, 0) {
            Ok(length) => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(source) => Err(CgroupError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The number after `key`.
    pub fn keyed(&self, key: &str) -> Result<u64, CgroupError> {
        keyed(&self.path, &self.read()?, key)
    }
}

fn malformed(path: &Path, text: &str) -> CgroupError {
    CgroupError::Malformed {
        path: path.to_owned(),
        text: text.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 7\noom_kill 2\noom_group_kill 1\n";
        let path = Path::new("memory.events");
        assert_eq!(keyed(path, text, "oom_kill").unwrap(), 2);
        assert_eq!(keyed(path, text, "oom").unwrap(), 7);
        assert!(keyed(path, text, "kill").is_err());
        assert!(keyed(path, "oom_kill two\n", "oom_kill").is_err());
    }
}
