//! Each layer holds alone.
//!
//! There is no way to switch a layer off, so each is shown by an attempt that it alone stops: every
//! other layer lets that attempt pass, for the reason given.
//!
//! | layer | attempt | why no other layer stops it |
//! |---|---|---|
//! | minimal root | `stat` of a file that everybody may read | Landlock has no say over `stat`, the filter allows it |
//! | read-only mounts | `chmod` of the user's own file | Landlock has no say over modes, the file's owner may |
//! | noexec mounts | a written program through the loader | Landlock's execute right is asked of the loader, which has it |
//! | covers of `deny` | listing a denied directory | it lies in a tree that Landlock allows |
//! | Landlock, files | executing what may be read | its mount is not noexec, as libraries are mapped from it |
//! | Landlock, the root | reading `/.unreadable` | its mode and its owner would allow it |
//! | Landlock, TCP | a listener on the cell's own loopback | loopback is up, the filter allows TCP |
//! | filter | a virtual machine's socket, terminals, keys | none is in a namespace of the cell's |
//! | user namespace | a file that root alone may read, under root | it lies in a tree that is listed and readable |
//! | no capabilities | a port below 1024 on the cell's own loopback | the cell's user namespace owns its network |
//! | PID namespace | another priority for a process of the same user | the kernel asks for the same user only |
//! | network namespace | a datagram to the host's loopback | Landlock has no say over UDP up to ABI 9 |
//! | IPC namespace | a segment of the host's that everybody may use | its mode allows it |
//! | UTS namespace | the host's name | reading it is allowed |
//! | cgroup namespace | the names of the cell's cgroups | `/proc` is readable |
//! | closing descriptors | a descriptor that whoever starts Toolcell left open | it is already open, so nobody is asked |
//! | session of its own | the terminal of whoever starts Toolcell | `/dev/tty` is in the cell |
//!
//! Those of the last five lines that are not here are in `escape_ipc`, `escape_proc` and
//! `escape_inherited`, the filter's in `escape_syscalls`, where the outcome names it as what denied.

use std::fs::Permissions;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use harness::ground::Ground;
use harness::{Who, everyone, skip};

#[test]
fn the_minimal_root_holds_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let file = ground.file("file", "contents").display().to_string();
        assert_eq!(
            ground.attempt(&ground.profile("", ""), &["stat", &file]),
            "ENOENT",
            "{who:?}"
        );
        let listed = ground.profile(&format!("read = [\"{file}\"]"), "");
        let control = ground.attempt(&listed, &["stat", &file]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn read_only_mounts_hold_alone() {
    // An ordinary user's cells have that user, who owns the file.
    let ground = Ground::new(Who::User);
    ground.directory("listed");
    let file = ground.file("listed/file", "contents").display().to_string();
    let listed = ground.text("listed");
    let read = ground.attempt(
        &ground.profile(&format!("read = [\"{listed}\"]"), ""),
        &["chmod", &file, "600"],
    );
    assert_eq!(read, "EROFS");
    let write = ground.profile(&format!("write = [\"{listed}\"]"), "");
    let control = ground.attempt(&write, &["chmod", &file, "600"]);
    assert!(control.succeeded(), "the control: {control:#?}");
}

#[test]
fn noexec_mounts_hold_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["copy_and_load", "/tmp"]);
        assert_eq!(said, "ECHILD", "{who:?}: the loader fails");
        let outside = ground.outside(&["copy_and_load".to_owned(), ground.text("bin")]);
        assert!(outside.succeeded(), "the control of {who:?}: {outside:#?}");
    }
}

#[test]
fn covers_hold_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        ground.directory("listed/denied");
        ground.file("listed/denied/secret", "secret");
        let (listed, denied) = (ground.text("listed"), ground.text("listed/denied"));
        let open = format!("read = [\"{listed}\"]");
        let covered = ground.profile(&format!("{open}\ndeny = [\"{denied}\"]"), "");
        assert_eq!(
            ground.attempt(&covered, &["list", &denied]),
            "EACCES",
            "{who:?}"
        );
        let control = ground.attempt(&ground.profile(&open, ""), &["list", &denied]);
        assert_eq!(control.detail(), "secret", "the control of {who:?}");
    }
}

#[test]
fn landlock_holds_alone_over_execution() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        std::fs::copy("/usr/bin/true", ground.path("listed/program")).expect("it is ours");
        let (listed, program) = (ground.text("listed"), ground.text("listed/program"));
        let read = ground.profile(&format!("read = [\"{listed}\"]"), "");
        assert_eq!(
            ground.attempt(&read, &["run", &program]),
            "EACCES",
            "{who:?}"
        );
        // The mount would let it: the loader may map the program.
        let control = ground.attempt(&read, &["load", &program]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn landlock_holds_alone_over_the_root() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        assert_eq!(
            ground.attempt(&profile, &["read", "/.unreadable"]),
            "EACCES",
            "{who:?}"
        );
        let mode = ground.attempt(&profile, &["stat", "/.unreadable"]);
        assert_eq!(
            mode.detail(),
            "100444",
            "the control of {who:?}: its mode allows it"
        );
    }
}

#[test]
fn landlock_holds_alone_over_tcp() {
    for who in everyone() {
        let ground = Ground::new(who);
        let with = |loopback| ground.profile("", &format!("[network]\nloopback = {loopback}\n"));
        let said = ground.attempt(&with(false), &["own_tcp"]);
        if said.landlock_abi() < 4 {
            return skip(
                "TCP within the cell",
                "this kernel's Landlock has no say over it",
            );
        }
        assert_eq!(said, "EACCES", "{who:?}");
        // Datagrams, over which it has no say, show that the loopback is up.
        assert!(
            ground.attempt(&with(false), &["own_udp"]).succeeded(),
            "the control of {who:?}"
        );
        assert!(
            ground.attempt(&with(true), &["own_tcp"]).succeeded(),
            "the control of {who:?}"
        );
    }
}

#[test]
fn the_filter_holds_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for (attempt, error) in [
            (&["socket", "40", "1", "0"][..], "EAFNOSUPPORT"),
            (&["request", "0x5412"], "EPERM"),
            (&["call", "keyctl", "0", "-2", "1"], "EPERM"),
            (&["call", "personality", "0x400000"], "EPERM"),
        ] {
            let said = ground.attempt(&profile, attempt);
            assert_eq!(said, error, "{who:?} {attempt:?}");
            let denials = said.outcome["denials"].as_array().map_or(0, Vec::len);
            assert_eq!(denials, 1, "{who:?} {attempt:?}: {said:#?}");
        }
        let control = ground.outside(&["call", "personality", "0x400000"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

/// Under root, too, a cell's user is not root: what root alone may read, it may not.
#[test]
fn the_user_namespace_holds_alone() {
    if !everyone().contains(&Who::Root) {
        return skip("a file of root's", "the tests were not started by root");
    }
    let ground = Ground::new(Who::Root);
    ground.directory("listed");
    let file = ground.file("listed/file", "contents");
    let path = file.display().to_string();
    let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
    let control = ground.attempt(&profile, &["read", &path]);
    assert_eq!(control.detail(), "contents", "the control");
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
    assert_eq!(ground.attempt(&profile, &["read", &path]), "EACCES");
}

#[test]
fn having_no_capabilities_holds_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "[network]\nloopback = true\n");
        assert_eq!(
            ground.attempt(&profile, &["bind_tcp", "127.0.0.1:80"]),
            "EACCES",
            "{who:?}"
        );
        let control = ground.attempt(&profile, &["bind_tcp", "127.0.0.1:8080"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn the_pid_namespace_holds_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let own = std::process::id().to_string();
        assert_eq!(
            ground.attempt(&profile, &["priority", "process", &own]),
            "ESRCH",
            "{who:?}"
        );
        // Its own may have the lowest.
        let control = ground.attempt(&profile, &["priority", "process", "0"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

#[test]
fn the_network_namespace_holds_alone() {
    for who in everyone() {
        let ground = Ground::new(who);
        let listener = UdpSocket::bind("127.0.0.1:0").expect("the host has loopback");
        listener.set_nonblocking(true).expect("a socket can be");
        let to = listener.local_addr().expect("it is bound").to_string();
        let profile = ground.profile("", "[network]\nloopback = true\n");
        let _ = ground.attempt(&profile, &["udp", &to]);
        assert!(listener.recv(&mut [0; 8]).is_err(), "{who:?}");
        assert!(
            ground.outside(&["udp", &to]).succeeded(),
            "the control of {who:?}"
        );
        assert!(listener.recv(&mut [0; 8]).is_ok(), "the control of {who:?}");
    }
}

/// Without cgroups, which the operator chooses by name, all of these hold as before.
#[test]
fn the_tier_without_cgroups_lacks_no_other_layer() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents").display().to_string();
        let secret = ground.file("secret", "secret").display().to_string();
        let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
        let profile = profile.display().to_string();
        let probe = ground.probe().display().to_string();
        for (attempt, error) in [
            (&["read", &secret][..], "ENOENT"),
            (&["chmod", &file, "600"], "EROFS"),
            (&["copy_and_run", "/tmp"], "EACCES"),
            (&["call", "unshare", "0x10000000"], "EPERM"),
            (&["forged_handle", "/usr"], "EPERM"),
            (&["kill", "99999"], "ESRCH"),
            (&["capability"], "EPERM"),
        ] {
            let mut words = vec![
                "--tier",
                "rlimits",
                "run",
                "--json",
                "--profile",
                &profile,
                "--",
                &probe,
            ];
            words.extend(attempt);
            let said = harness::ground::said(&ground.world.toolcell(&words));
            assert_eq!(said, error, "{who:?} {attempt:?}");
            assert_eq!(
                said.outcome["enforced"]["tier"], "rlimits",
                "{who:?} {attempt:?}"
            );
        }
    }
}

/// The executable itself gives nobody anything: it is neither set-id nor does it have capabilities.
#[test]
fn the_executable_has_no_privileges_of_its_own() {
    let mode = std::fs::metadata(harness::toolcell())
        .expect("it is built")
        .permissions()
        .mode();
    assert_eq!(mode & 0o6000, 0);
    let ground = Ground::new(Who::User);
    let attributes = Command::new(ground.probe())
        .arg("listxattr")
        .arg(harness::toolcell())
        .stdin(Stdio::null())
        .output()
        .expect("the probe starts");
    let attributes = String::from_utf8_lossy(&attributes.stdout).into_owned();
    assert!(!attributes.contains("security.capability"), "{attributes}");
}
