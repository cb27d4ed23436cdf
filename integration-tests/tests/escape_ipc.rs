//! System V and POSIX IPC: the host's objects cannot be found, and none is left behind.

use harness::everyone;
use harness::ground::Ground;

/// Each test has keys of its own, and so has each process that runs the tests.
fn key(offset: u32) -> String {
    (0x7000_0000_u32 | std::process::id() << 4 | offset).to_string()
}

const KINDS: [[&str; 2]; 3] = [
    ["segment", "remove_segment"],
    ["semaphores", "remove_semaphores"],
    ["queue", "remove_queue"],
];

#[test]
fn the_hosts_objects_are_not_found() {
    for (offset, who) in everyone().into_iter().enumerate() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let key = key(u32::try_from(offset).expect("there are two"));
        for [make, remove] in KINDS {
            assert!(
                ground.outside(&[make, &key, "create"]).succeeded(),
                "{who:?} {make}"
            );
            let said = ground.attempt(&profile, &[make, &key, "find"]);
            let control = ground.outside(&[make, &key, "find"]);
            assert!(
                ground.outside(&[remove, &key]).succeeded(),
                "{who:?} {make}"
            );
            assert_eq!(said, "ENOENT", "{who:?} {make}");
            assert!(control.succeeded(), "the control of {who:?} {make}");
        }
        let name = format!("toolcell-{key}");
        assert!(
            ground
                .outside(&["named_queue", &name, "create"])
                .succeeded(),
            "{who:?}"
        );
        let said = ground.attempt(&profile, &["named_queue", &name, "find"]);
        assert!(
            ground.outside(&["remove_named_queue", &name]).succeeded(),
            "{who:?}"
        );
        assert_eq!(said, "ENOENT", "{who:?}");
    }
}

#[test]
fn what_a_tool_leaves_behind_is_gone() {
    for (offset, who) in everyone().into_iter().enumerate() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let key = key(8 | u32::try_from(offset).expect("there are two"));
        for [make, _] in KINDS {
            let said = ground.attempt(&profile, &[make, &key, "create"]);
            assert!(said.succeeded(), "the control of {who:?} {make}: {said:#?}");
            assert_eq!(
                ground.outside(&[make, &key, "find"]),
                "ENOENT",
                "{who:?} {make}"
            );
            // Nor does the next call find it.
            let said = ground.attempt(&profile, &[make, &key, "find"]);
            assert_eq!(said, "ENOENT", "{who:?} {make}");
        }
        let name = format!("toolcell-{key}");
        // Landlock may refuse it, because no rule can name where such a queue is.
        let _ = ground.attempt(&profile, &["named_queue", &name, "create"]);
        assert_eq!(
            ground.outside(&["named_queue", &name, "find"]),
            "ENOENT",
            "{who:?}"
        );
    }
}

#[test]
fn shared_memory_files_of_the_host_are_not_seen_and_none_is_left() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let name = format!("/dev/shm/toolcell-{}", key(15));
        assert!(
            ground.outside(&["create", &name, "x"]).succeeded(),
            "{who:?}"
        );
        let said = ground.attempt(&profile, &["stat", &name]);
        assert!(
            ground.outside(&["unlink", &name]).succeeded(),
            "the control of {who:?}"
        );
        assert_eq!(said, "ENOENT", "{who:?}");
        let said = ground.attempt(&profile, &["create", &name, "x"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        assert_eq!(ground.outside(&["stat", &name]), "ENOENT", "{who:?}");
    }
}
