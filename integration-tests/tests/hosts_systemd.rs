//! Hosts with systemd and cgroup v2: a supervisor gets a delegated scope by itself, of whatever it was
//! started from, and what is left of it goes with it.
//!
//! Each runs where there is such a host, and is skipped by name elsewhere. What changes the host's
//! settings runs only if `TOOLCELL_TEST_THROWAWAY_HOST` says that nobody needs them any more.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::{skip, toolcell, within};
use serde_json::Value;
use tempfile::TempDir;

/// For what systemd does in its own time.
const SOON: Duration = Duration::from_secs(20);

const RUN: [&str; 6] = ["run", "--json", "--profile", "standard", "--", "/bin/true"];

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this is a host of the kind that is tested here.
fn here() -> bool {
    let systemd = Path::new("/run/systemd/system").is_dir();
    if systemd && Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return true;
    }
    skip(
        "a scope of one's own",
        "no systemd with cgroup v2 manages this host",
    );
    false
}

/// Whether settings of this host may be changed.
fn throwaway() -> bool {
    if std::env::var_os("TOOLCELL_TEST_THROWAWAY_HOST").is_some() && is_root() {
        return true;
    }
    skip(
        "a setting of the host's",
        "root has not said that this host is thrown away",
    );
    false
}

struct State(TempDir);

impl State {
    fn new() -> Self {
        Self(TempDir::with_prefix("toolcell-test-").expect("/tmp is writable"))
    }

    fn path(&self) -> String {
        self.0.path().join("state").display().to_string()
    }

    /// Toolcell as a child of `sh`, which itself is started by what `by` says: so it is nobody's main
    /// process.
    fn command(&self, by: &[&str], arguments: &[&str]) -> Command {
        let shell = ["/bin/sh", "-c", "\"$@\"; exit $?", "sh"];
        let words = [by, &shell[..]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(toolcell()).args(arguments);
        command
            .env("STATE_DIRECTORY", self.path())
            // Whoever it becomes may look for profiles there.
            .env("HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn toolcell(&self, arguments: &[&str]) -> Output {
        self.command(&[], arguments).output().expect("it starts")
    }
}

#[track_caller]
fn outcome(output: &Output) -> Value {
    harness::outcome(output)
}

#[track_caller]
fn place(outcome: &Value) -> String {
    assert_eq!(outcome["enforced"]["tier"], "full", "{outcome:#}");
    outcome["enforced"]["cgroup_place"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn is_scope(unit: &Path) -> bool {
    unit.extension().is_some_and(|kind| kind == "scope")
}

/// The scope that a place names.
#[track_caller]
fn scope(place: &str) -> String {
    let named = place.split('`').nth(1).unwrap_or_default();
    assert!(
        named.starts_with("toolcell-") && is_scope(Path::new(named)),
        "{place}"
    );
    named.to_owned()
}

/// Directories of this name in the hierarchy.
fn directories(name: &str) -> Vec<PathBuf> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", name])
        .output()
        .expect("find is installed");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    text.lines().map(PathBuf::from).collect()
}

#[test]
fn a_call_gets_a_scope_by_itself_and_the_scope_goes_with_it() {
    if !here() {
        return;
    }
    let state = State::new();
    let called = outcome(&state.toolcell(&RUN));
    assert_eq!(called["status"], "exited", "{called:#}");
    let place = place(&called);
    let whose = if is_root() {
        "the host's systemd"
    } else {
        "the user's systemd"
    };
    assert!(place.ends_with(&format!("asked of {whose}")), "{place}");
    let confirmed = called["enforced"]["cgroup"].to_string();
    for limit in ["memory.max = ", "pids.max = ", "cpu.max = "] {
        assert!(confirmed.contains(limit), "{confirmed}");
    }
    let scope = scope(&place);
    assert!(
        within(SOON, || directories(&scope).is_empty()),
        "{:?}",
        directories(&scope)
    );
}

#[test]
fn the_caps_are_real_and_the_supervisor_outlives_them() {
    if !here() {
        return;
    }
    let state = State::new();
    let profile = state.0.path().join("test.toml");
    let text = "format = 1\nname = \"test\"\ntitle = \"Test\"\ndescription = \"A test's.\"\n\
                extends = [\"standard\"]\n[limits]\nmemory = \"64 MiB\"\npids = 16\n";
    std::fs::write(&profile, text).expect("the scratch directory is writable");
    let profile = profile.display().to_string();
    let run = |script: &str| {
        let tool = [
            "run",
            "--json",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            script,
        ];
        outcome(&state.toolcell(&tool))
    };
    let hog = run("memory = bytearray(200 << 20)");
    assert_eq!(hog["status"], "out_of_memory", "{hog:#}");
    let bomb = run("import os\nwhile True: os.fork()");
    assert_eq!(bomb["status"], "pids_exceeded", "{bomb:#}");
    let control = run("memory = bytearray(10 << 20)");
    assert_eq!(control["exit_code"], 0, "{control:#}");
}

#[test]
fn the_supervisor_sits_in_a_leaf_and_cells_beside_it() {
    if !here() {
        return;
    }
    let state = State::new();
    let sleep = [
        "run",
        "--json",
        "--profile",
        "standard",
        "--",
        "/bin/sleep",
        "600",
    ];
    let mut running = state.command(&[], &sleep).spawn().expect("it starts");
    let cells = || directories("toolcell.*.*");
    assert!(within(SOON, || !cells().is_empty()), "no cell came");
    let cell = cells().remove(0);
    let parent = cell
        .parent()
        .expect("a cell lies below its scope")
        .to_owned();
    assert!(is_scope(&parent), "{}", parent.display());
    let inside =
        |path: &Path| std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    assert_eq!(
        inside(&parent),
        "",
        "a group that hands controllers down holds no process"
    );
    assert!(!inside(&parent.join("supervisor")).is_empty());
    assert!(
        within(SOON, || !inside(&cell).is_empty()),
        "nothing runs in the cell"
    );
    // The shell dies by it and its child is orphaned: as a terminal that is closed does.
    let supervisor = inside(&parent.join("supervisor"));
    let first = supervisor
        .lines()
        .next()
        .expect("the supervisor is there")
        .to_owned();
    assert!(
        Command::new("kill")
            .args(["-KILL", &first])
            .status()
            .expect("kill runs")
            .success()
    );
    assert!(
        within(SOON, || !parent.exists()),
        "the scope is left behind"
    );
    running.wait().expect("it ends");
}

#[test]
fn what_is_delegated_already_is_used_as_it_is() {
    if !here() {
        return;
    }
    let state = State::new();
    let whose = if is_root() { "--system" } else { "--user" };
    let by = [
        "systemd-run",
        whose,
        "--quiet",
        "--scope",
        "--property=Delegate=yes",
        "--",
    ];
    // Alone in it: the shell of the other tests would be another process there.
    let mut command = Command::new(by[0]);
    command.args(&by[1..]).arg(toolcell()).args(RUN);
    command
        .env("STATE_DIRECTORY", state.path())
        .stdin(Stdio::null());
    let called = outcome(&command.output().expect("systemd-run is installed"));
    assert_eq!(
        place(&called),
        "in the cgroup that toolcell was started in, which is its own"
    );
}

#[test]
fn no_variable_is_needed_to_find_the_manager() {
    if !here() {
        return;
    }
    let state = State::new();
    // What cron, `su` and `docker exec` leave of an environment.
    let state_directory = format!("STATE_DIRECTORY={}", state.path());
    let mut command = state.command(&["env", "-i", "PATH=/usr/bin:/bin", &state_directory], &RUN);
    let called = outcome(&command.output().expect("it starts"));
    scope(&place(&called));
}

#[test]
fn a_units_main_process_is_not_moved_out_of_it() {
    if !here() {
        return;
    }
    let state = State::new();
    let whose = if is_root() { "--system" } else { "--user" };
    let directory = format!("--setenv=STATE_DIRECTORY={}", state.path());
    let run = |property: &str| {
        let mut command = Command::new("systemd-run");
        command.args([
            whose,
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            &directory,
            property,
            "--",
        ]);
        command.arg(toolcell()).args(RUN).stdin(Stdio::null());
        outcome(&command.output().expect("systemd-run is installed"))
    };
    let refused = run("--property=Delegate=no");
    assert_eq!(refused["status"], "refused", "{refused:#}");
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the main one of a unit"), "{reason}");
    assert!(
        reason.contains("hint: put `Delegate=yes` into the unit"),
        "{reason}"
    );
    let control = run("--property=Delegate=yes");
    assert_eq!(control["status"], "exited", "{control:#}");
}

/// A user that nobody is logged in as, and so without a manager.
const STRANGER: &str = "nobody";

#[test]
fn without_a_manager_both_mends_and_the_tier_are_named() {
    if !here() {
        return;
    }
    if !is_root() {
        return skip(
            "a user without a manager",
            "only root may become another user",
        );
    }
    let state = State::new();
    std::fs::set_permissions(
        state.0.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("it is ours");
    let by = [
        "setpriv",
        "--reuid",
        STRANGER,
        "--regid",
        "65534",
        "--clear-groups",
    ];
    let refused = outcome(
        &state
            .command(&by, &RUN)
            .output()
            .expect("setpriv is installed"),
    );
    assert_eq!(refused["status"], "refused", "{refused:#}");
    let reason = refused["reason"].as_str().unwrap_or_default();
    for part in [
        "the user's systemd cannot be asked for a scope, as it does not run",
        "`loginctl enable-linger 65534`",
        "systemd-run --user --scope -p Delegate=yes",
        "--tier rlimits",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let chosen = [&["--tier", "rlimits"][..], &RUN].concat();
    let control = outcome(
        &state
            .command(&by, &chosen)
            .output()
            .expect("setpriv is installed"),
    );
    assert_eq!(control["enforced"]["tier"], "rlimits", "{control:#}");
}

/// A setting of the kernel's, put back at the end.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn set(path: &'static str, value: &str) -> Option<Self> {
        let Ok(before) = std::fs::read_to_string(path) else {
            skip(
                "a setting of the host's",
                &format!("this kernel has no {path}"),
            );
            return None;
        };
        std::fs::write(path, value).expect("root may write it");
        Some(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::write(self.path, &self.before);
    }
}

/// Runs as an ordinary user without a manager, in the tier that needs none.
fn as_stranger(state: &State, arguments: &[&str]) -> Output {
    std::fs::set_permissions(
        state.0.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("it is ours");
    let by = [
        "setpriv",
        "--reuid",
        STRANGER,
        "--regid",
        "65534",
        "--clear-groups",
    ];
    let command = [&["--tier", "rlimits"][..], arguments].concat();
    state
        .command(&by, &command)
        .output()
        .expect("setpriv is installed")
}

#[track_caller]
fn a_setting_is_named(path: &'static str, value: &str, why: &str, mend: &str) {
    if !here() || !throwaway() {
        return;
    }
    let state = State::new();
    let control = outcome(&as_stranger(&state, &RUN));
    assert_eq!(control["status"], "exited", "{control:#}");
    let Some(_setting) = Setting::set(path, value) else {
        return;
    };
    let refused = outcome(&as_stranger(&state, &RUN));
    assert_eq!(refused["status"], "setup_failed", "{refused:#}");
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(why), "{reason}");
    assert!(reason.contains(mend), "{reason}");
    let examined = as_stranger(&state, &["doctor"]);
    let said = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(!examined.status.success(), "{said}");
    assert!(said.contains(why) && said.contains(mend), "{said}");
    assert!(said.contains("tier: none"), "{said}");
}

#[test]
fn user_namespaces_forbidden_to_ordinary_users_are_named() {
    let path = "/proc/sys/kernel/unprivileged_userns_clone";
    a_setting_is_named(
        path,
        "0",
        "`kernel.unprivileged_userns_clone = 0`",
        "`sysctl -w kernel.unprivileged_userns_clone=1`",
    );
}

#[test]
fn no_user_namespaces_at_all_are_named() {
    let path = "/proc/sys/user/max_user_namespaces";
    a_setting_is_named(
        path,
        "0",
        "`user.max_user_namespaces = 0`",
        "`sysctl -w user.max_user_namespaces=15000`",
    );
}

#[test]
fn the_restriction_of_apparmor_is_named() {
    let path = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    a_setting_is_named(
        path,
        "1",
        "`kernel.apparmor_restrict_unprivileged_userns = 1`",
        "apparmor_parser -r /etc/apparmor.d/toolcell",
    );
}
