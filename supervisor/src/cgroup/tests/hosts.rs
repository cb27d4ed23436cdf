//! What is detected, on this host and on odd ones.

use super::*;

/// A directory of each hierarchy, below which cells are made in one test.
struct Given(Vec<PathBuf>);

impl Given {
    fn new(cgroups: &Cgroups, name: &str) -> Self {
        let paths: Vec<PathBuf> = cgroups
            .parents()
            .iter()
            .map(|path| path.join(name))
            .collect();
        for path in &paths {
            std::fs::create_dir(path).unwrap();
        }
        Self(paths)
    }

    /// The path within the hierarchy of its last directory.
    fn options(&self) -> Options {
        Options {
            parent: self.0.last().cloned(),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_dir(path);
        }
    }
}

#[tokio::test]
async fn a_named_parent_is_used_on_v2() {
    let name = "a_named_parent_is_used_on_v2";
    let cgroups = some_or_skip!(cgroups(name));
    if cgroups.version() == Version::V1 {
        return skip(name, "v2 only");
    }
    let given = Given::new(cgroups, name);
    let Detection::Usable(below) = detect(&given.options()) else {
        panic!("{:?}", detect(&given.options()));
    };
    let group = below.create(name, &LIMITS).unwrap();
    assert!(run(&group, "true").success());
    assert_eq!(
        group.directories.paths()[0].parent(),
        given.0.first().map(PathBuf::as_path)
    );
    group.remove().await.unwrap();
}

#[tokio::test]
async fn what_a_v1_parent_hands_down_is_reckoned_with() {
    let name = "what_a_v1_parent_hands_down_is_reckoned_with";
    let cgroups = some_or_skip!(cgroups(name));
    let Place::V1(own) = &cgroups.place else {
        return skip(name, "v1 only");
    };
    let given = Given::new(cgroups, name);
    // Fewer cores than a cell asks for, and no killer when memory runs out.
    file::write(&own.cpu.join(name).join("cpu.cfs_quota_us"), "30000").unwrap();
    file::write(&own.memory.join(name).join("memory.oom_control"), "1").unwrap();
    let parents = v1::Parents {
        memory: own.memory.join(name),
        pids: own.pids.join(name),
        cpu: own.cpu.join(name),
        cpuacct: own.cpuacct.join(name),
        cores: v1::cores_allowed(&own.cpu.join(name), &own.cpu),
        counts_swap: own.counts_swap,
    };
    assert_eq!(parents.cores, Some(0.3));
    let below = Cgroups {
        place: Place::V1(parents),
        way: Way::Named,
    };
    let group = below.create(name, &LIMITS).unwrap();
    let lines = group.read_back();
    assert!(
        lines.contains(&"cpu.cfs_quota_us = 30000".to_owned()),
        "{lines:?}"
    );
    assert!(!run(&group, HOG).success());
    assert!(group.events().unwrap().oom_kills >= 1);
    group.remove().await.unwrap();
    drop(given);
}

/// Not a property but a part in other tests': says what it detects.
#[test]
fn role_detective() {
    if plays("detective") {
        match detect(&Options::default()) {
            Detection::Usable(cgroups) => println!("\nusable {:?}", cgroups.describe()),
            Detection::Unusable { reason, mend } => println!("\nunusable {reason}; hint: {mend}"),
        }
    }
}

/// What is detected after `prepare` in a mount namespace of its own.
fn detected_after(prepare: &str) -> String {
    let detective = role("hosts", "detective");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-ec",
            &format!("{prepare}; exec \"$@\""),
            "sh",
        ])
        .arg(detective.get_program())
        .args(detective.get_args())
        .env("TOOLCELL_TEST_ROLE", "detective");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("usable "));
    line.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn a_host_without_a_cgroup_mount_is_told_so() {
    let name = "a_host_without_a_cgroup_mount_is_told_so";
    if !geteuid().is_root() {
        return skip(name, "only root may unmount");
    }
    let line = detected_after("umount -l -R /sys/fs/cgroup");
    assert!(
        line.starts_with("unusable no cgroup file system is mounted"),
        "{line}"
    );
    let line = detected_after("umount -l -R /sys");
    assert!(line.starts_with("unusable "), "{line}");
    let line = detected_after("umount -l -R /proc || mount -t tmpfs none /proc");
    assert!(line.starts_with("unusable "), "{line}");
}

#[test]
fn a_read_only_mount_is_told_so() {
    let name = "a_read_only_mount_is_told_so";
    if !geteuid().is_root() {
        return skip(name, "only root may remount");
    }
    if cgroups(name).is_none() {
        return;
    }
    let line = detected_after(
        "grep -o ' /sys/fs/cgroup[^ ]* ' /proc/self/mountinfo | sort -u | \
         while read -r mount; do mount -o remount,bind,ro \"$mount\"; done",
    );
    assert!(line.to_lowercase().contains("read-only"), "{line}");
    assert!(
        line.contains("hint: mount the cgroup file system writable"),
        "{line}"
    );
}

#[test]
fn an_ordinary_user_is_told_what_root_must_do_and_it_works() {
    const NOBODY: u32 = 65_534;
    let name = "an_ordinary_user_is_told_what_root_must_do_and_it_works";
    let cgroups = some_or_skip!(cgroups(name));
    if !geteuid().is_root() || cgroups.version() == Version::V2 {
        return skip(
            name,
            "needs root on v1; on v2 the suite itself runs as an ordinary user",
        );
    }
    let as_nobody = |role: &mut Command| -> String {
        let output = role.uid(NOBODY).gid(NOBODY).current_dir("/").output();
        let Ok(output) = output else {
            return String::new();
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .find(|line| line.contains("usable "))
            .unwrap_or("")
            .to_owned()
    };
    let told = as_nobody(&mut role("hosts", "detective"));
    if told.is_empty() {
        return skip(
            name,
            "the test binary lies where an ordinary user cannot run it",
        );
    }
    assert!(told.starts_with("unusable "), "{told}");
    let mend = told
        .split('`')
        .rev()
        .nth(1)
        .expect("a command in backticks");
    let done = Command::new("/bin/sh")
        .args(["-ec", mend])
        .status()
        .unwrap();
    assert!(done.success(), "{mend}");
    let told = as_nobody(&mut role("hosts", "detective"));
    assert!(told.starts_with("usable "), "{told}");

    // The other tests, as that user.
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("cgroup::tests::")
        .env_remove("CARGO")
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    for parent in cgroups.parents() {
        let _ = std::fs::remove_dir(parent.join(format!("toolcell-{NOBODY}")));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let usable = !said.contains("SKIPPED cgroup::tests::a_fork_bomb_ends");
    assert!(usable && output.status.success(), "{output:?}");
}

#[test]
fn in_a_delegated_scope_everything_holds() {
    const WITHIN: &str = "TOOLCELL_TEST_WITHIN_SCOPE";
    let name = "in_a_delegated_scope_everything_holds";
    let usable = matches!(detect(&Options::default()), Detection::Usable(_));
    if usable || std::env::var_os(WITHIN).is_some() {
        return;
    }
    let whose = if geteuid().is_root() {
        "--system"
    } else {
        "--user"
    };
    let scope = [whose, "--quiet", "--scope", "--property=Delegate=yes", "--"];
    let available = Command::new("systemd-run").args(scope).arg("true").status();
    if !available.is_ok_and(|status| status.success()) {
        return skip(name, "no systemd delegates a scope here");
    }
    let output = Command::new("systemd-run")
        .args(scope)
        .arg(std::env::current_exe().unwrap())
        .arg("cgroup::tests::")
        .env(WITHIN, "1")
        .env_remove("CARGO")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let usable = !said.contains("SKIPPED cgroup::tests::a_fork_bomb_ends");
    assert!(usable && output.status.success(), "{output:?}");
}
