//! Programs: which run, with whose rights, and that none comes out of nowhere.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use harness::ground::Ground;
use harness::{Who, everyone, skip};

fn refused(answer: &str) -> bool {
    // By the mount (noexec), by Landlock, by the seal on a memory file that asked for the opposite,
    // by there being no memory files at all where the kernel has no such seal (before 6.3), or by
    // the loader that the mount told.
    ["EACCES", "EPERM", "EINVAL", "ENOSYS", "ECHILD"].contains(&answer)
}

#[test]
fn nothing_is_executed_from_memory() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        // Plain, and with MFD_EXEC, which asks for it by name.
        for flags in ["0", "0x10"] {
            for attempt in ["memfd", "memfd_script"] {
                let said = ground.attempt(&profile, &[attempt, flags]);
                assert!(
                    refused(&said.answer),
                    "{who:?} {attempt} {flags}: {said:#?}"
                );
                let control = ground.outside(&[attempt, flags]);
                if control == "EINVAL" {
                    skip("the control of MFD_EXEC", "this kernel does not know it");
                    continue;
                }
                assert!(
                    control.succeeded(),
                    "the control of {who:?} {attempt}: {control:#?}"
                );
            }
        }
    }
}

#[test]
fn what_the_tool_wrote_is_not_executed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for directory in ["/tmp", "/work", "/dev/shm"] {
            for attempt in ["copy_and_run", "nameless"] {
                let said = ground.attempt(&profile, &[attempt, directory]);
                assert_eq!(said, "EACCES", "{who:?} {attempt} {directory}");
            }
        }
        let may = ground.profile("", "").with_file_name("may.toml");
        let text = std::fs::read_to_string(ground.profile("", "")).expect("just written");
        let text = text.replace("exec = [", "exec = [\"/tmp\", \"/work\", ");
        std::fs::write(&may, text).expect("the world is writable");
        ground.world.give(&may);
        for directory in ["/tmp", "/work"] {
            for attempt in ["copy_and_run", "nameless", "copy_and_load"] {
                let said = ground.attempt(&may, &[attempt, directory]);
                assert!(
                    said.succeeded(),
                    "the control of {who:?} {attempt}: {said:#?}"
                );
            }
        }
    }
}

/// The dynamic loader needs no execute right on what it loads: the mount stops it.
#[test]
fn what_the_tool_wrote_is_not_executed_through_the_loader() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for directory in ["/tmp", "/work", "/dev/shm"] {
            let said = ground.attempt(&profile, &["copy_and_load", directory]);
            assert!(refused(&said.answer), "{who:?} {directory}: {said:#?}");
        }
    }
}

#[test]
fn what_may_only_be_read_is_not_executed() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let program = ground.path("listed/program");
        std::fs::copy("/usr/bin/true", &program).expect("the ground is writable");
        let path = ground.text("listed/program");
        for (key, runs) in [("read", false), ("write", false)] {
            let profile = ground.profile(&format!("{key} = [\"{}\"]", ground.text("listed")), "");
            let said = ground.attempt(&profile, &["run", &path]);
            assert_eq!(said.succeeded(), runs, "{who:?} {key}: {said:#?}");
            assert_eq!(said, "EACCES", "{who:?} {key}");
        }
        let text = std::fs::read_to_string(ground.profile("", "")).expect("just written");
        let text = text.replace(
            "exec = [",
            &format!("exec = [\"{}\", ", ground.text("listed")),
        );
        let may = ground.world.write("may.toml", &text);
        let said = ground.attempt(&may, &["run", &path]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
    }
}

/// A copy of the probe that belongs to root, or another user than the cell's, with the set-id bits.
fn with_set_id(ground: &Ground) -> String {
    let path = ground.path("bin/privileged");
    std::fs::copy(ground.probe(), &path).expect("the ground is writable");
    std::fs::set_permissions(&path, Permissions::from_mode(0o6755)).expect("it is ours");
    path.display().to_string()
}

#[test]
fn programs_with_set_id_bits_give_no_privileges() {
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "a program that belongs to root",
            "the tests were not started by root",
        );
    }
    for who in everyone() {
        let ground = Ground::new(who);
        let program = with_set_id(&ground);
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["run", &program, "who"]);
        assert!(
            said.detail().contains("uid=1000,1000,1000,1000 "),
            "{who:?}: {said:#?}"
        );
        assert!(
            said.detail().contains("gid=1000,1000,1000,1000 "),
            "{who:?}: {said:#?}"
        );
        if who == Who::User {
            let control = ground.outside(&["run", &program, "who"]);
            assert!(
                control.detail().contains(",0,0,0 "),
                "the control of {who:?}: {control:#?}"
            );
        }
    }
}

#[test]
fn the_tool_has_no_privileges_and_gets_none() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["who"]);
        assert_eq!(
            said.detail(),
            "uid=1000,1000,1000,1000 gid=1000,1000,1000,1000 caps=0000000000000000 \
             bound=0000000000000000 nnp=1 seccomp=2",
            "{who:?}"
        );
        for attempt in [
            &["user", "0"][..],
            &["user", "65534"],
            &["groups"],
            &["capability"],
        ] {
            let said = ground.attempt(&profile, attempt);
            assert!(
                ["EPERM", "EINVAL"].contains(&said.answer.as_str()),
                "{who:?} {attempt:?}: {said:#?}"
            );
            if who == Who::Root {
                let control = ground.outside(attempt);
                assert!(
                    control.succeeded(),
                    "the control of {who:?} {attempt:?}: {control:#?}"
                );
            }
        }
    }
}

#[test]
fn no_device_node_beyond_the_harmless_ones_exists() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["list", "/dev"]);
        let names = "fd,full,mqueue,null,ptmx,pts,random,shm,stderr,stdin,stdout,tty,urandom,zero";
        assert_eq!(said.detail(), names, "{who:?}");
        assert!(ground.outside(&["list", "/dev"]).detail().len() > names.len());
    }
}

#[test]
fn no_device_node_is_made_in_the_cells_own_directories() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for directory in ["/tmp", "/work", "/dev/shm", "/dev"] {
            let node = format!("{directory}/node");
            for attempt in [
                ["node", &node, "c", "1", "1"],
                ["node", &node, "b", "7", "0"],
            ] {
                let said = ground.attempt(&profile, &attempt);
                assert_eq!(said, "EPERM", "{who:?} {attempt:?}");
            }
        }
        if who == Who::Root {
            let node = ground.text("node");
            let control = ground.outside(&["node", &node, "c", "1", "3"]);
            assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
        }
    }
}
