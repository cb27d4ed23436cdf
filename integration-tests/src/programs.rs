//! Real programs for tests: what this machine has of them, what comes from a registry, and how they
//! are run in a cell.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::{World, outcome, skip};

/// The compiler of Go, of Debian's `golang-go`.
const GO: &str = "/usr/bin/go";

/// Tables of a profile for programs that take more than `standard` gives.
pub const ROOMY: &str = "
[limits]
memory = \"2 GiB\"
cpu = 2.0
pids = 256
wall = \"5 min\"
cpu_time = \"5 min\"
output = \"4 MiB\"
inline = \"1 MiB\"
disk = \"512 MiB\"
open_files = 1024
";

/// The same, and what is written in the workspace can be executed.
#[must_use]
pub fn roomy_with_exec() -> String {
    format!("[files]\nexec = [\"/work\"]\n{ROOMY}")
}

/// Whether this machine has all these files; what is missing is skipped by name.
#[must_use]
pub fn installed(files: &[&str]) -> bool {
    let missing: Vec<_> = files
        .iter()
        .filter(|file| !Path::new(file).exists())
        .collect();
    if !missing.is_empty() {
        skip(
            &format!("{missing:?}"),
            "not installed; run integration-tests/install-dependencies.sh as root",
        );
    }
    missing.is_empty()
}

/// The text of a script in `integration-tests/programs`.
#[must_use]
pub fn script(name: &str) -> String {
    let path = programs().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// A virtual environment with NumPy, pandas and Matplotlib in a cache of this machine, made once; if
/// the registry cannot be reached, that is skipped.
#[must_use]
pub fn numeric_python() -> Option<&'static Path> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| virtual_environment(&programs().join("requirements.txt")));
    match made {
        Ok(path) => Some(path),
        Err(why) => {
            skip("numpy, pandas and matplotlib", why);
            None
        }
    }
}

/// A virtual environment with these requirements in a cache of this machine, made once.
pub(crate) fn virtual_environment(requirements: &Path) -> Result<PathBuf, String> {
    let python = Path::new("/usr/bin/python3");
    let text = std::fs::read_to_string(requirements).map_err(|error| error.to_string())?;
    let version = told(Command::new(python).arg("--version"))?;
    let mut hasher = DefaultHasher::new();
    (&text, &version).hash(&mut hasher);
    let cache = cache();
    let ready = cache.join(format!("python-{:016x}", hasher.finish()));
    if ready.exists() {
        return Ok(ready);
    }
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    // One at a time: two that install at once take longer than one after the other.
    let _lock = lock(&cache)?;
    if ready.exists() {
        return Ok(ready);
    }
    // Made aside and renamed, so that a half of one is never taken for a whole.
    let aside = tempfile::Builder::new()
        .prefix("python-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(&cache)
        .map_err(|error| error.to_string())?;
    told(Command::new(python).args(["-m", "venv"]).arg(aside.path()))?;
    told(
        Command::new(aside.path().join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args([
                "--retries",
                "1",
                "--timeout",
                "20",
                "--only-binary",
                ":all:",
                "-r",
            ])
            .arg(requirements),
    )?;
    std::fs::rename(aside.path(), &ready).map_err(|error| error.to_string())?;
    // It has another name now.
    let _ = aside.keep();
    Ok(ready)
}

/// A program in Go of `integration-tests/programs`, built without the C library in a cache of this
/// machine, made once; without a compiler, that is skipped.
#[must_use]
pub fn static_go(name: &str) -> Option<PathBuf> {
    if !installed(&[GO]) {
        return None;
    }
    match build_go(name) {
        Ok(built) => Some(built),
        Err(why) => {
            skip(name, &why);
            None
        }
    }
}

fn build_go(name: &str) -> Result<PathBuf, String> {
    let version = told(Command::new(GO).arg("version"))?;
    let mut hasher = DefaultHasher::new();
    (script(name), version).hash(&mut hasher);
    let cache = cache();
    let built = cache.join(format!("go-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let _lock = lock(&cache)?;
    if built.exists() {
        return Ok(built);
    }
    let aside = tempfile::tempdir_in(&cache).map_err(|error| error.to_string())?;
    let output = aside.path().join("program");
    // The standard library only: nothing is asked of a registry.
    told(
        Command::new(GO)
            .args(["build", "-o"])
            .args([&output, &programs().join(name)])
            .current_dir(aside.path())
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", aside.path().join("cache"))
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off"),
    )?;
    std::fs::rename(&output, &built).map_err(|error| error.to_string())?;
    Ok(built)
}

/// The lock of the cache, for as long as something is put in.
pub(crate) fn lock(cache: &Path) -> Result<Flock<File>, String> {
    let file = File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())
}

/// A directory that outlasts the tests and that every user can read, for root.
pub(crate) fn cache() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/cache/toolcell-tests");
    }
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    named
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("toolcell-tests")
}

/// What a command of the host prints, or the last line of what went wrong.
pub fn told(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty());
    Err(last.unwrap_or("it failed without a word").to_owned())
}

/// What a command of the host prints; it must succeed.
#[track_caller]
#[must_use]
pub fn host(program: &str, arguments: &[&str]) -> String {
    told(Command::new(program).args(arguments))
        .unwrap_or_else(|error| panic!("`{program}` on the host: {error}"))
}

impl World {
    /// A directory in this world that serves as a workspace.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        let path = self.path("workspace");
        if !path.exists() {
            std::fs::create_dir(&path).expect("the scratch directory is writable");
            self.give(&path);
        }
        path
    }

    /// Runs a command in a cell with [`World::workspace`] at `/work`.
    #[must_use]
    pub fn run_in_workspace(&self, tables: &str, command: &[&str]) -> Value {
        let (profile, workspace) = (self.profile(tables), self.workspace());
        let workspace = workspace.to_str().expect("its name is plain");
        let mut arguments = vec![
            "run",
            "--json",
            "--profile",
            &profile,
            "--workspace",
            workspace,
            "--",
        ];
        arguments.extend(command);
        outcome(&self.toolcell(&arguments))
    }

    /// Asserts that a program ran as it would anywhere: it succeeded, and nothing was denied but
    /// what begins with one of these words.
    #[track_caller]
    pub fn assert_unbroken(&self, outcome: &Value, tolerated: &[&str]) {
        assert_eq!(outcome["status"], "exited", "{:?}: {outcome:#}", self.who);
        assert_eq!(outcome["exit_code"], 0, "{:?}: {outcome:#}", self.who);
        let denials = outcome["denials"]
            .as_array()
            .expect("an outcome lists denials");
        for denial in denials {
            let what = denial["what"].as_str().unwrap_or_default();
            let fine = tolerated.iter().any(|word| what.starts_with(word));
            assert!(fine, "{:?}: denied `{what}`: {outcome:#}", self.who);
        }
    }
}
