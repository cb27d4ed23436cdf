//! Toolcell from outside: starts the built executable as root and as an ordinary user, and looks
//! from the host's side at what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub mod builtin;
pub mod cgroup;
pub mod clients;
pub mod ground;
pub mod http;
pub mod injected;
pub mod internet;
pub mod left;
pub mod programs;
pub mod running;
pub mod search;
pub mod sites;
pub mod stdio;
pub mod track;
pub mod websites;

pub use left::{Host, assert_nothing_left};
pub use running::Running;
use track::Track;

/// The ordinary user that tests run as when they are started by root: nobody.
pub const USER: u32 = 65_534;

/// Who runs toolcell in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root.
    Root,
    /// An ordinary user with a cgroup of their own.
    User,
}

/// Everyone who can be had here. Tests loop over it, so that each holds for all.
#[must_use]
pub fn everyone() -> Vec<Who> {
    if nix::unistd::geteuid().is_root() {
        vec![Who::Root, Who::User]
    } else {
        skip("the same as root", "the tests were not started by root");
        vec![Who::User]
    }
}

/// Says loudly that something is not tested, and why. `make test` counts these.
pub fn skip(what: &str, why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED {test}: {what}: {why}\n");
    eprint!("{line}");
    let list = target_directory().join("skipped.txt");
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(list);
    file.expect("the target directory is writable")
        .write_all(line.as_bytes())
        .expect("the list of skipped tests is writable");
}

/// The built `toolcell`.
#[must_use]
pub fn toolcell() -> PathBuf {
    let path = profile_directory().join("toolcell");
    assert!(
        path.exists(),
        "{} is missing; run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// The directory of this build profile's executables, with the probes among them.
#[must_use]
pub fn profile_directory() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has an executable");
    let deps = exe.parent().expect("it lies in a directory");
    deps.parent()
        .expect("which lies in the profile's")
        .to_owned()
}

fn target_directory() -> PathBuf {
    profile_directory()
        .parent()
        .expect("the profile's lies in target")
        .to_owned()
}

/// One test's own world: a state directory, a scratch directory, and who it is for.
#[derive(Debug)]
pub struct World {
    /// Who runs toolcell.
    pub who: Who,
    /// Scratch directory that `who` owns; it is removed at the end.
    pub directory: TempDir,
    /// Variables of toolcell's environment.
    pub env: BTreeMap<String, String>,
    /// The processes that it starts.
    pub track: Track,
    /// A process in whose network and mount namespaces its programs run, if not in the test's own.
    pub namespaces_of: Option<u32>,
}

impl World {
    /// A fresh world for this user.
    #[must_use]
    pub fn new(who: Who) -> Self {
        let directory = TempDir::with_prefix("toolcell-test-").expect("/tmp is writable");
        if who == Who::User && nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(USER), Some(USER))
                .expect("root may chown");
        }
        let state = directory.path().join("state");
        let env = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME", directory.path().display().to_string()),
            ("XDG_STATE_HOME", state.display().to_string()),
            ("STATE_DIRECTORY", state.display().to_string()),
            (
                "XDG_CONFIG_HOME",
                directory.path().join("config").display().to_string(),
            ),
            ("TMPDIR", directory.path().join("tmp").display().to_string()),
        ];
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let world = Self {
            who,
            directory,
            env,
            track: Track::new(),
            namespaces_of: None,
        };
        let temporary = world.path("tmp");
        std::fs::create_dir(&temporary).expect("the scratch directory is writable");
        world.give(&temporary);
        world
    }

    /// A path in the scratch directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that `who` owns, with its parents.
    pub fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        let mut parent = self.directory.path().to_owned();
        for part in Path::new(name)
            .parent()
            .into_iter()
            .flat_map(Path::components)
        {
            parent.push(part);
            if !parent.exists() {
                std::fs::create_dir(&parent).expect("the scratch directory is writable");
                self.give(&parent);
            }
        }
        std::fs::write(&path, contents).expect("the scratch directory is writable");
        self.give(&path);
        path
    }

    /// Gives a path to the user that toolcell runs as.
    pub fn give(&self, path: &Path) {
        if self.who == Who::User && nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("root may chown");
        }
    }

    /// A command line that starts toolcell as this world's user, in a cgroup of the user's own.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.program(&toolcell(), arguments)
    }

    /// The same for any program.
    #[must_use]
    pub fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let ordinary = self.who == Who::User && nix::unistd::geteuid().is_root();
        let mut script = self.track.enter(ordinary.then_some(USER));
        if ordinary {
            for procs in delegated(USER) {
                write!(script, "echo $$ > {} && ", procs.display()).expect("a string takes it");
            }
        }
        script.push_str("exec ");
        if let Some(pid) = self.namespaces_of {
            // Their files are the same but for a few of `/etc`, so that the directory is, too.
            write!(
                script,
                "nsenter --target {pid} --net --mount --ipc --wdns=\"$PWD\" -- "
            )
            .expect("a string takes it");
        }
        if ordinary {
            write!(
                script,
                "setpriv --reuid {USER} --regid {USER} --clear-groups -- "
            )
            .expect("a string takes it");
        }
        script.push_str("\"$0\" \"$@\"");
        // Every step is an exec, so the child's PID is the supervisor's.
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null());
        command.current_dir(self.directory.path());
        command
    }

    /// Runs toolcell to its end.
    #[must_use]
    pub fn toolcell(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("toolcell starts")
    }

    /// Runs a command in a cell (`toolcell run --json`) and returns the outcome.
    #[must_use]
    pub fn run(&self, profile: &str, command: &[&str]) -> Value {
        let mut arguments = vec!["run", "--json", "--profile", profile, "--"];
        arguments.extend(command);
        outcome(&self.toolcell(&arguments))
    }

    /// Writes a profile that extends `standard` by these tables; returns its path for `--profile`.
    #[must_use]
    pub fn profile(&self, tables: &str) -> String {
        let text = format!(
            "format = 1\nname = \"test\"\ntitle = \"Test\"\ndescription = \"A test's.\"\n\
             extends = [\"standard\"]\n{tables}\n"
        );
        self.write("test.toml", &text).display().to_string()
    }

    /// Runs a Python script in a cell of a profile that extends `standard` by these tables.
    #[must_use]
    pub fn python(&self, tables: &str, script: &str) -> Value {
        self.run(
            &self.profile(tables),
            &["/usr/bin/python3", "-I", "-c", script],
        )
    }

    /// The receipts in the world's log, in order.
    #[must_use]
    pub fn receipts(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.path("state/audit.jsonl")).unwrap_or_default();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("each line of the log is JSON"));
        lines.filter(|line| line.get("status").is_some()).collect()
    }

    /// Calls a tool (`toolcell call --json`) and returns the outcome.
    #[must_use]
    pub fn call(&self, tool: &str, arguments: &Value) -> Value {
        outcome(&self.toolcell(&["call", "--json", tool, &arguments.to_string()]))
    }
}

/// How many times longer things take here than on a machine of its own, by the variable
/// `TOOLCELL_TEST_SLOWNESS`: an emulated processor forks eight times as slowly. What tests wait for at
/// most is multiplied by it, and nothing else.
#[must_use]
pub fn slowness() -> u32 {
    std::env::var("TOOLCELL_TEST_SLOWNESS").map_or(1, |times| {
        times.parse().expect("TOOLCELL_TEST_SLOWNESS is a number")
    })
}

/// Waits until something holds, and says whether it did within the time, which is [`slowness`] times
/// longer where things are slow. For what the kernel or another process brings about in its own time.
pub fn within(at_most: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + at_most * slowness();
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The outcome that `--json` prints.
#[must_use]
pub fn outcome(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no outcome ({error}): status {:?}\nstdout: {}\nstderr: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// `cgroup.procs` of a group of the user's own in each hierarchy that cells need: made by root, once.
fn delegated(uid: u32) -> Vec<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("proc is mounted");
    let mut procs = Vec::new();
    for controller in ["memory", "pids", "cpu", "cpuacct"] {
        let Some(path) = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let named = fields.nth(1)?.split(',').any(|name| name == controller);
            named.then(|| fields.next()).flatten()
        }) else {
            continue;
        };
        let directory = PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}"))
            .join(format!("toolcell-test-{uid}"));
        if !directory.exists() {
            // Another test may have been first.
            let _ = std::fs::create_dir(&directory);
        }
        for entry in [
            directory.clone(),
            directory.join("cgroup.procs"),
            directory.join("tasks"),
        ] {
            std::os::unix::fs::chown(&entry, Some(uid), Some(uid)).expect("root may chown");
        }
        procs.push(directory.join("cgroup.procs"));
    }
    procs
}
