//! Attempts by the probe (`src/bin/probe`), in cells and outside, on a directory of the host that
//! both can see.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::{USER, Who, World, profile_directory};

/// A directory of the host with the probe in it. It is neither beneath `/tmp` nor `/work`, of which
/// each cell has its own, and everybody may read it.
#[derive(Debug)]
pub struct Ground {
    /// The world in which toolcell runs.
    pub world: World,
    directory: TempDir,
}

/// What one run of the probe said, and what the cell's outcome was.
#[derive(Debug)]
pub struct Said {
    /// Its answer: `ok` with a detail, or the name of an error.
    pub answer: String,
    /// The whole outcome; null outside of cells.
    pub outcome: Value,
}

impl Said {
    /// The detail of a success; panics if it was none.
    #[must_use]
    pub fn detail(&self) -> &str {
        let detail = self
            .answer
            .strip_prefix("ok")
            .unwrap_or_else(|| panic!("{self:#?}"));
        detail.trim_start()
    }

    /// The ABI of the cell's Landlock.
    #[must_use]
    pub fn landlock_abi(&self) -> u64 {
        let abi = self.outcome["enforced"]["landlock_abi"].as_u64();
        abi.expect("a cell that ran says what was enforced")
    }

    /// Whether the attempt went well.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.answer == "ok" || self.answer.starts_with("ok ")
    }
}

impl PartialEq<&str> for Said {
    fn eq(&self, other: &&str) -> bool {
        self.answer == *other
    }
}

impl Ground {
    /// A fresh one for this user.
    #[must_use]
    pub fn new(who: Who) -> Self {
        let world = World::new(who);
        let directory =
            TempDir::with_prefix_in("toolcell-test-", "/var/tmp").expect("/var/tmp is writable");
        readable(directory.path());
        world.give(directory.path());
        let ground = Self { world, directory };
        ground.directory("bin");
        std::fs::copy(profile_directory().join("probe"), ground.probe())
            .expect("the probe has been built");
        ground
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name)
            .to_str()
            .expect("temporary names are text")
            .to_owned()
    }

    /// The probe.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.path("bin/probe")
    }

    /// Makes a directory that the world's user owns and everybody may read.
    #[allow(clippy::must_use_candidate, reason = "made for what it does")]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("its parent exists");
        readable(&path);
        self.world.give(&path);
        path
    }

    /// Makes a file that the world's user owns and everybody may read; its directory exists.
    #[allow(clippy::must_use_candidate, reason = "made for what it does")]
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("its directory exists");
        self.world.give(&path);
        path
    }

    /// Makes a directory that an ordinary user owns, whoever runs toolcell, as a host workspace.
    #[allow(clippy::must_use_candidate, reason = "made for what it does")]
    pub fn workspace(&self, name: &str) -> PathBuf {
        let path = self.directory(name);
        self.ordinary(&path);
        path
    }

    /// Gives a path to the ordinary user.
    pub fn ordinary(&self, path: &Path) {
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(path, Some(USER), Some(USER)).expect("root may chown");
        }
    }

    /// Writes a profile that builds on `standard` and lets the probe run, with these entries in
    /// `[files]`, and these further tables.
    #[must_use]
    pub fn profile(&self, files: &str, tables: &str) -> PathBuf {
        self.profile_on("standard", files, tables)
    }

    /// The same on another base.
    #[must_use]
    pub fn profile_on(&self, base: &str, files: &str, tables: &str) -> PathBuf {
        let bin = self.path("bin");
        let text = format!(
            "format = 1\nname = \"probing\"\ntitle = \"Probe\"\n\
             description = \"Tries what a cell must withstand.\"\nextends = [\"{base}\"]\n\
             {tables}\n[files]\nexec = [\"{}\"]\n{files}\n",
            bin.display()
        );
        self.world.write("probing.toml", &text)
    }

    /// One attempt in a cell of `profile`.
    #[must_use]
    pub fn attempt<W: AsRef<str>>(&self, profile: &Path, words: &[W]) -> Said {
        self.attempt_with(profile, &[], words)
    }

    /// One attempt in a cell, with options for `toolcell run`.
    #[must_use]
    pub fn attempt_with<W: AsRef<str>>(
        &self,
        profile: &Path,
        options: &[&str],
        words: &[W],
    ) -> Said {
        let output = self
            .command(profile, options, words)
            .output()
            .expect("toolcell starts");
        said(&output)
    }

    /// The command line of such an attempt.
    #[must_use]
    pub fn command<W: AsRef<str>>(&self, profile: &Path, options: &[&str], words: &[W]) -> Command {
        let (profile, probe) = (
            profile.display().to_string(),
            self.probe().display().to_string(),
        );
        let mut arguments = vec!["run", "--json", "--profile", &profile];
        arguments.extend(options);
        arguments.extend(["--", &probe]);
        arguments.extend(words.iter().map(AsRef::as_ref));
        self.world.command(&arguments)
    }

    /// The positive control: the same attempt by the same user, outside of any cell.
    #[must_use]
    pub fn outside<W: AsRef<OsStr>>(&self, words: &[W]) -> Said {
        let mut command = match self.world.who {
            Who::User if nix::unistd::geteuid().is_root() => {
                let mut command = Command::new("setpriv");
                let user = USER.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
                command.arg(self.probe());
                command
            }
            _ => Command::new(self.probe()),
        };
        let output = command
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("the probe starts");
        Said {
            answer: answer(&output.stdout),
            outcome: Value::Null,
        }
    }
}

/// What the probe said through an outcome.
#[must_use]
pub fn said(output: &Output) -> Said {
    let outcome = crate::outcome(output);
    let answer = answer(
        outcome["stdout"]["text"]
            .as_str()
            .unwrap_or_default()
            .as_bytes(),
    );
    assert!(!answer.is_empty(), "the probe said nothing: {outcome:#}");
    Said { answer, outcome }
}

fn answer(stdout: &[u8]) -> String {
    String::from_utf8_lossy(stdout).trim_end().to_owned()
}

fn readable(path: &Path) {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("we made it");
}
