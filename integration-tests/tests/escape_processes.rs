//! Processes outside of the cell: they cannot be named, signalled, slowed down or limited.
//!
//! The victim is a process of the same user as the cell's (a cell under root has a user of its own,
//! so there the victim is root's). What happened to it is read from the host. The positive control
//! is the same attempt outside, which hits.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use harness::ground::{Ground, Said};
use harness::{USER, Who, everyone};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// A process that does nothing until the test ends.
struct Victim(Child);

impl Victim {
    fn new(who: Who) -> Self {
        let mut command = Command::new("setpriv");
        if who == Who::User && nix::unistd::geteuid().is_root() {
            let user = USER.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        let child = command
            .args(["--", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn();
        let victim = Self(child.expect("setpriv is there"));
        // setpriv executes sleep in the same process: wait until it has.
        let sleeps = harness::within(std::time::Duration::from_secs(20), || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", victim.0.id()));
            name.is_ok_and(|name| name.trim() == "sleep")
        });
        assert!(sleeps, "the victim did not start");
        victim
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Niceness, I/O priority aside, and the scheduling policy.
    fn stat(&self) -> [String; 2] {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        let stat = stat.expect("it lives");
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        // Fields 19 and 41 of proc_pid_stat(5), counted after the name.
        [fields[16].to_owned(), fields[38].to_owned()]
    }

    fn status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap_or_default().trim().to_owned()
    }

    fn limits(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/limits", self.0.id())).expect("it lives")
    }

    fn io_priority(&self) -> String {
        let output = Command::new("ionice").args(["-p", &self.pid()]).output();
        String::from_utf8_lossy(&output.expect("util-linux is there").stdout).into_owned()
    }

    fn lives(&self) -> bool {
        let pid = Id::Pid(Pid::from_raw(
            i32::try_from(self.0.id()).expect("a PID is small"),
        ));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(pid, flags) == Ok(WaitStatus::StillAlive)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cannot_be_named(said: &Said) -> bool {
    // By the filter for prlimit64, ptrace and process_vm_*; by the PID namespace else.
    ["ESRCH", "EPERM"].contains(&said.answer.as_str())
}

#[test]
fn no_process_outside_is_signalled() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for attempt in ["kill", "queue_signal", "pidfd"] {
            let victim = Victim::new(who);
            let said = ground.attempt(&profile, &[attempt.to_owned(), victim.pid()]);
            assert!(cannot_be_named(&said), "{who:?} {attempt}: {said:#?}");
            assert!(victim.lives(), "{who:?} {attempt}");

            let mut victim = victim;
            let control = ground.outside(&[attempt.to_owned(), victim.pid()]);
            assert!(
                control.succeeded(),
                "the control of {who:?} {attempt}: {control:#?}"
            );
            if attempt != "pidfd" {
                let status = victim.0.wait().expect("it is our child");
                assert_eq!(
                    status.signal(),
                    Some(15),
                    "the control of {who:?} {attempt}"
                );
            }
        }
    }
}

/// `kill(-1)` reaches whom the user may signal and can name. The control would end the machine's
/// other processes, so it is who is counted.
#[test]
fn a_signal_to_everybody_stays_in_the_cell() {
    for who in everyone() {
        let ground = Ground::new(who);
        let victim = Victim::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["kill_all"]);
        assert!(
            ["ok", "ESRCH"].contains(&said.answer.as_str()),
            "{who:?}: {said:#?}"
        );
        assert!(victim.lives(), "{who:?}");
    }
}

#[test]
fn no_process_outside_is_seen() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["count"]);
        // The cell's first process, and the tool.
        assert_eq!(said.detail(), "2", "{who:?}");
        let outside: u32 = ground
            .outside(&["count"])
            .detail()
            .parse()
            .expect("a number");
        assert!(outside > 2, "the control of {who:?}");
    }
}

#[test]
fn no_process_outside_gets_another_priority() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let user = if who == Who::Root {
            "0".to_owned()
        } else {
            USER.to_string()
        };
        let victim = Victim::new(who);
        let (stat, io) = (victim.stat(), victim.io_priority());
        // By its number, and as one of the user's: the cell's user is called 1000 inside, and 0
        // stands for the caller's own.
        for attempt in [
            ["priority", "process", &victim.pid()],
            ["priority", "user", "0"],
            ["priority", "user", "1000"],
            ["priority", "user", &user],
            ["io_priority", "process", &victim.pid()],
            ["io_priority", "user", "1000"],
            ["io_priority", "user", &user],
        ] {
            let _ = ground.attempt(&profile, &attempt);
            assert_eq!(victim.stat(), stat, "{who:?} {attempt:?}");
            assert_eq!(victim.io_priority(), io, "{who:?} {attempt:?}");
        }
        for attempt in ["priority", "io_priority"] {
            let control = ground.outside(&[attempt, "process", &victim.pid()]);
            assert!(
                control.succeeded(),
                "the control of {who:?} {attempt}: {control:#?}"
            );
        }
        assert_ne!(victim.stat(), stat, "the control of {who:?}");
        assert_ne!(victim.io_priority(), io, "the control of {who:?}");
    }
}

#[test]
fn no_process_outside_is_scheduled_otherwise() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let victim = Victim::new(who);
        let (stat, allowed) = (victim.stat(), victim.status("Cpus_allowed_list:"));
        for attempt in ["affinity", "scheduler"] {
            let said = ground.attempt(&profile, &[attempt.to_owned(), victim.pid()]);
            assert!(cannot_be_named(&said), "{who:?} {attempt}: {said:#?}");
        }
        assert_eq!(victim.stat(), stat, "{who:?}");
        assert_eq!(victim.status("Cpus_allowed_list:"), allowed, "{who:?}");

        let control = ground.outside(&["scheduler".to_owned(), victim.pid()]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
        assert_ne!(victim.stat(), stat, "the control of {who:?}");
        let control = ground.outside(&["affinity".to_owned(), victim.pid()]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
        assert_eq!(
            victim.status("Cpus_allowed_list:"),
            "0",
            "the control of {who:?}"
        );
    }
}

#[test]
fn no_process_outside_gets_other_limits() {
    for who in everyone() {
        let ground = Ground::new(who);
        let victim = Victim::new(who);
        let before = victim.limits();
        let said = ground.attempt(&ground.profile("", ""), &["limit".to_owned(), victim.pid()]);
        assert!(cannot_be_named(&said), "{who:?}: {said:#?}");
        assert_eq!(victim.limits(), before, "{who:?}");

        let control = ground.outside(&["limit".to_owned(), victim.pid()]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
        assert_ne!(victim.limits(), before, "the control of {who:?}");
    }
}

/// The cell's first process has the tool's user, and must not be starved by it.
#[test]
fn the_cells_first_process_gets_no_other_limits() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        assert_eq!(
            ground.attempt(&profile, &["limit", "1"]),
            "EPERM",
            "{who:?}"
        );
        let said = ground.attempt(&profile, &["limit", "0"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
    }
}

/// Also where the profile lets debuggers work.
#[test]
fn no_process_outside_is_traced_or_read() {
    for who in everyone() {
        let ground = Ground::new(who);
        let tables = "[syscalls]\nallow = [\"ptrace\", \"process_vm_readv\"]\n";
        let profile = ground.profile("", tables);
        let victim = Victim::new(who);
        for attempt in [
            vec!["trace".to_owned()],
            vec!["own_memory".to_owned(), "read".to_owned()],
        ] {
            let with = |pid: String| [attempt.clone(), vec![pid]].concat();
            let said = ground.attempt(&profile, &with(victim.pid()));
            assert_eq!(said, "ESRCH", "{who:?} {attempt:?}");
            // Nor the cell's first process.
            let said = ground.attempt(&profile, &with("1".to_owned()));
            assert_eq!(said, "EPERM", "{who:?} {attempt:?}");
        }
        let said = ground.attempt(&profile, &["own_memory", "read"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        let control = ground.outside(&["trace".to_owned(), victim.pid()]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn the_cell_has_a_host_name_of_its_own() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["host_name_is"]);
        assert_ne!(
            said.detail(),
            ground.outside(&["host_name_is"]).detail(),
            "{who:?}"
        );
    }
}
