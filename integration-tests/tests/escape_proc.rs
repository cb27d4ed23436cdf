//! `/proc`, `/sys` and the other doors to the kernel's own state.
//!
//! Where the control is to open a switch of the machine, it is opened by root outside and nothing is
//! written.

use harness::ground::Ground;
use harness::{Who, everyone, skip};

const WRITE: &str = "1";

/// Switches that change the machine, or what starts programs on it.
const SWITCHES: [&str; 12] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/file-max",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/self/oom_score_adj",
    "/proc/self/uid_map",
];

#[test]
fn no_switch_of_the_kernel_is_opened_for_writing() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let attempts: Vec<String> = SWITCHES
            .iter()
            .map(|path| format!("open {path} {WRITE}"))
            .collect();
        let mut words = vec!["each".to_owned()];
        words.extend(attempts);
        let said = ground.attempt(&profile, &words);
        for line in said.answer.lines() {
            let (attempt, answer) = line.split_once('\t').expect("the probe's form");
            let refused = ["EROFS", "EACCES", "ENOENT", "EPERM"].contains(&answer);
            assert!(refused, "{who:?} {attempt}: {answer}");
        }
        assert_eq!(said.answer.lines().count(), SWITCHES.len());
        if who == Who::Root {
            let control = ground.outside(&words);
            let opened = control
                .answer
                .lines()
                .filter(|line| line.ends_with("\tok"))
                .count();
            assert!(opened * 2 > SWITCHES.len(), "the control: {control:#?}");
        }
    }
}

/// The first process of a cell is Toolcell's own, with the tool's user: it must not be looked into.
#[test]
fn the_cells_first_process_is_not_looked_into() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for name in ["environ", "maps", "mem", "auxv", "io", "stack", "syscall"] {
            let said = ground.attempt(&profile, &["read".to_owned(), format!("/proc/1/{name}")]);
            let refused = ["EACCES", "EPERM", "ENOENT"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {name}: {said:#?}");
        }
        for name in ["root", "cwd", "exe", "ns/net", "ns/user"] {
            let said = ground.attempt(
                &profile,
                &["readlink".to_owned(), format!("/proc/1/{name}")],
            );
            assert_eq!(said, "EACCES", "{who:?} {name}");
        }
        for name in ["fd", "fdinfo", "map_files"] {
            let said = ground.attempt(&profile, &["list".to_owned(), format!("/proc/1/{name}")]);
            assert!(
                ["EACCES", "EPERM"].contains(&said.answer.as_str()),
                "{who:?} {name}: {said:#?}"
            );
        }
        for name in ["environ", "maps", "auxv"] {
            let said = ground.attempt(&profile, &["read".to_owned(), format!("/proc/self/{name}")]);
            assert!(said.succeeded(), "the control of {who:?} {name}: {said:#?}");
        }
    }
}

/// Magic links lead into the cell's own root, and so do as many `..` as anyone likes.
#[test]
fn no_link_and_no_parent_leads_to_the_hosts_root() {
    for who in everyone() {
        let ground = Ground::new(who);
        let secret = ground.file("secret", "secret");
        let profile = ground.profile("", "");
        let path = secret.display();
        for prefix in [
            "",
            "/proc/self/root",
            "/proc/self/cwd/../../../../../../..",
            "/proc/thread-self/root/proc/self/root",
            "/proc/self/fd/../../../../..",
            "/proc/1/root",
            "/proc/1/cwd",
            "/../../../../../..",
            "/dev/fd/0/..",
            "/proc/self/ns/..",
        ] {
            let said = ground.attempt(&profile, &["read".to_owned(), format!("{prefix}{path}")]);
            let refused = ["ENOENT", "EACCES", "ENOTDIR"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} `{prefix}`: {said:#?}");
        }
        let control = ground.outside(&["read".to_owned(), format!("/proc/self/root{path}")]);
        assert_eq!(control.detail(), "secret", "the control of {who:?}");
    }
}

#[test]
fn the_working_directory_of_a_cell_is_in_it() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["readlink", "/proc/self/cwd"]);
        assert_eq!(said.detail(), "/work", "{who:?}");
        let said = ground.attempt(&profile, &["readlink", "/proc/self/root"]);
        assert_eq!(said.detail(), "/", "{who:?}");
        let said = ground.attempt(&profile, &["list", "/proc/self/cwd/.."]);
        for name in ["boot", "home", "mnt", "opt", "root", "run", "srv", "sys"] {
            let there = said.detail().split(',').any(|there| there == name);
            assert!(!there, "{who:?} {name}: {said:#?}");
        }
        assert!(
            said.detail().split(',').any(|name| name == "work"),
            "{who:?}: {said:#?}"
        );
    }
}

#[test]
fn sysfs_and_cgroupfs_do_not_exist() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for path in [
            "/sys",
            "/sys/fs/cgroup",
            "/sys/kernel",
            "/sys/fs/bpf",
            "/boot",
            "/root",
        ] {
            let said = ground.attempt(&profile, &["stat", path]);
            assert_eq!(said, "ENOENT", "{who:?} {path}");
        }
        assert!(
            ground.outside(&["stat", "/sys/kernel"]).succeeded(),
            "the control of {who:?}"
        );
    }
}

/// The tool sees itself at the root of its cgroups, so it learns nothing of the host's, and the
/// paths that it knows are worth nothing.
#[test]
fn the_cells_cgroup_has_no_name() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(
            &ground.profile("", ""),
            &["run", "/usr/bin/cat", "/proc/self/cgroup"],
        );
        let named: Vec<&str> = said
            .detail()
            .lines()
            .filter(|line| ["memory", "pids"].iter().any(|name| line.contains(name)))
            .filter(|line| !line.ends_with(":/"))
            .collect();
        assert!(named.is_empty(), "{who:?}: {named:?}");
    }
}

#[test]
fn no_kernel_memory_and_no_log_is_read() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for path in [
            "/proc/kcore",
            "/proc/kmsg",
            "/proc/kpagecount",
            "/dev/mem",
            "/dev/kmsg",
        ] {
            let said = ground.attempt(&profile, &["read", path]);
            let refused = ["ENOENT", "EACCES", "EPERM"].contains(&said.answer.as_str());
            assert!(refused, "{who:?} {path}: {said:#?}");
        }
        if who == Who::Root {
            let control = ground.outside(&["open", "/proc/kmsg", "0x800"]);
            assert!(control.succeeded(), "the control: {control:#?}");
        }
        let said = ground.attempt(&profile, &["run", "/usr/bin/head", "-n1", "/proc/kallsyms"]);
        assert!(
            !said.succeeded() || said.detail().starts_with("0000000000000000"),
            "{who:?}: {said:#?}"
        );
    }
}

/// A process may write its own memory, as debuggers of itself do, but no other's.
#[test]
fn nobodys_memory_is_written() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["open", "/proc/1/mem", "2"]);
        assert!(
            ["EACCES", "EPERM"].contains(&said.answer.as_str()),
            "{who:?}: {said:#?}"
        );
    }
}

/// The kernel lists a user's keys to all of the user's processes, and an ordinary user's cells have
/// that user.
#[test]
fn the_keys_of_the_hosts_user_are_not_listed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let control = ground.outside(&["read", "/proc/keys"]);
        if !control.succeeded() {
            return skip(
                "the list of keys",
                &format!("the kernel answers {}", control.answer),
            );
        }
        assert_eq!(
            ground.attempt(&profile, &["read", "/proc/keys"]),
            "EACCES",
            "{who:?}"
        );
        let said = ground.attempt(&profile, &["chmod", "/proc/keys", "444"]);
        assert!(!said.succeeded(), "{who:?}: {said:#?}");
    }
}
