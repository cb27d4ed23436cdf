//! `--out DIR`: where `call` and `run` write the files that a tool left in `out/`, as their links end
//! with the command.
//!
//! The names are the tool's choice and the directory is the user's, so nothing in it is followed,
//! replaced, hidden or made executable.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::tell;
use crate::outcome::{Artifact, Outcome};
use crate::render;
use crate::results::Results;

/// What stays as it is in the path of a `file:` URI.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// What new files and directories may be, less the umask: no file can be executed.
const FILE_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o777;

/// The directory, opened before the supervisor confined itself.
#[derive(Debug)]
pub struct Out {
    /// Its absolute path.
    pub path: PathBuf,
    directory: OwnedFd,
}

impl Out {
    /// Opens the directory, and makes it if it is not there.
    ///
    /// # Errors
    /// If it is none, or cannot be made.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("`--out {}`: {error}", path.display());
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let path = path.canonicalize().map_err(failed)?;
        let directory = nix::fcntl::open(
            &path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed(errno.into()))?;
        Ok(Self { path, directory })
    }

    /// Writes a call's files, and says in the outcome where they are; false if one could not be written.
    pub fn write(&self, results: &Results, caller: &str, outcome: &mut Outcome) -> bool {
        let mut all = true;
        for file in &mut outcome.files {
            match self.write_one(results, caller, file) {
                Ok(path) => {
                    let shown = path.display().to_string();
                    file.resource = format!("file://{}", utf8_percent_encode(&shown, PATH));
                }
                Err(error) => {
                    all = false;
                    file.resource.clear();
                    let what = format!("`out/{}` was not written: {error}", file.name);
                    tell(&format!("toolcell: {}", render::one_line(&what)));
                }
            }
        }
        all
    }

    fn write_one(
        &self,
        results: &Results,
        caller: &str,
        artifact: &Artifact,
    ) -> Result<PathBuf, String> {
        let name = plain(&artifact.name).ok_or("its name leads elsewhere")?;
        let mut file = self.create(&name)?;
        let mut next = Some(artifact.resource.clone());
        while let Some(uri) = next {
            let part = results
                .read(caller, &uri)
                .map_err(|error| format!("only a part of it is there: {error}"))?;
            file.write_all(&part.contents)
                .map_err(|error| format!("only a part of it is there: {error}"))?;
            next = part.next;
        }
        Ok(self.path.join(name))
    }

    /// Makes a file that is not there yet, and the directories above it that are not.
    fn create(&self, name: &Path) -> Result<File, String> {
        let mut directory = None;
        let parents = name.parent().map(Path::components).into_iter().flatten();
        for parent in parents {
            let above = directory.as_ref().unwrap_or(&self.directory);
            let parent = parent.as_os_str();
            match mkdirat(above, parent, Mode::from_bits_truncate(DIRECTORY_MODE)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.desc().to_owned()),
            }
            let opened = open(
                above,
                parent.as_ref(),
                OFlag::O_PATH | OFlag::O_DIRECTORY,
                0,
            );
            directory = Some(opened.map_err(|errno| match errno {
                Errno::ELOOP | Errno::ENOTDIR => {
                    let parent = Path::new(parent).display();
                    format!("`{parent}` is there, and no directory")
                }
                errno => errno.desc().to_owned(),
            })?);
        }
        let above = directory.as_ref().unwrap_or(&self.directory);
        let last = name.file_name().ok_or("it has no name")?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let opened = open(above, last.as_ref(), flags, FILE_MODE);
        opened.map(File::from).map_err(|errno| match errno {
            Errno::EEXIST => "there is one of that name, which is left as it is; hint: name an \
                              empty directory"
                .to_owned(),
            errno => errno.desc().to_owned(),
        })
    }
}

fn open(above: &OwnedFd, name: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(resolve);
    openat2(above, name, how)
}

/// A name in which each part is a plain one: what acts on a terminal is replaced, and so is a dot at
/// the beginning, as files that are not seen are what programs are set up by. None if it leads upwards
/// or has no parts.
fn plain(name: &str) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in Path::new(name).components() {
        let Component::Normal(part) = part else {
            return None;
        };
        let mut text: String = part
            .to_str()?
            .chars()
            .map(|character| {
                if render::acts_on_terminals(character) {
                    '_'
                } else {
                    character
                }
            })
            .collect();
        if text.starts_with('.') {
            text.replace_range(..1, "_");
        }
        found.push(text);
    }
    (!found.as_os_str().is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out() -> (tempfile::TempDir, Out) {
        let directory = tempfile::tempdir().unwrap();
        let out = Out::open(&directory.path().join("new")).unwrap();
        (directory, out)
    }

    /// Keeps a file by this name, as a call would, and writes it.
    fn write(out: &Out, name: &str) -> (bool, Outcome) {
        let kept = tempfile::tempdir().unwrap();
        let results = Results::new(kept.path().to_owned());
        let keep = results.keep("me", "tool");
        let artifact = keep.artifact(name, "text/plain", &b"theirs"[..], 100);
        let status = crate::outcome::Status::Exited;
        let mut outcome = crate::service::ended("call", "tool", status, String::new());
        outcome.files.push(artifact.unwrap());
        (out.write(&results, "me", &mut outcome), outcome)
    }

    #[test]
    fn files_are_written_with_their_directories_and_not_executable() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, out) = out();
        for name in ["a b.txt", "deep/deeper/b", "deep/deeper/c"] {
            let (written, outcome) = write(&out, name);
            assert!(written, "{name}");
            assert_eq!(fs::read(out.path.join(name)).unwrap(), b"theirs");
            let mode = fs::metadata(out.path.join(name)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o111, 0, "{name}");
            let uri = format!("file://{}/{name}", out.path.display()).replace(' ', "%20");
            assert_eq!(outcome.files[0].resource, uri);
        }
    }

    #[test]
    fn what_is_there_is_neither_replaced_nor_followed() {
        let (directory, out) = out();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "mine").unwrap();
        fs::write(out.path.join("file"), "mine").unwrap();
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, out.path.join(name)).unwrap();
        };
        link("../outside/file", "link");
        link("../outside/new", "dangling");
        link("../outside", "directory");
        fs::create_dir(out.path.join("taken")).unwrap();
        for name in [
            "file",
            "link",
            "dangling",
            "directory",
            "directory/file",
            "directory/new",
            "file/beneath",
            "taken",
        ] {
            let (written, outcome) = write(&out, name);
            assert!(!written, "{name}");
            assert_eq!(outcome.files[0].resource, "", "{name}");
        }
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read(out.path.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        // The control.
        assert!(write(&out, "taken/file").0);
    }

    #[test]
    fn names_are_plain() {
        for (name, found) in [
            ("a/b", Some("a/b")),
            (".bashrc", Some("_bashrc")),
            (".ssh/authorized_keys", Some("_ssh/authorized_keys")),
            ("a\nb\u{202e}c\u{1b}", Some("a_b_c_")),
            ("../up", None),
            ("a/../../up", None),
            ("/etc/passwd", None),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(plain(name), found.map(PathBuf::from), "{name:?}");
        }
    }
}
