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
        let said = ground.attempt(&profile, &["named_queue", &name, "create"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        assert_eq!(
            ground.outside(&["named_queue", &name, "find"]),
            "ENOENT",
            "{who:?}"
        );
        let said = ground.attempt(&profile, &["named_queue", &name, "find"]);
        assert_eq!(said, "ENOENT", "{who:?}");
    }
}

#[test]
fn processes_of_a_cell_talk_by_posix_queues() {
    const SCRIPT: &str = "
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
def check(value):
    assert value >= 0, os.strerror(ctypes.get_errno())
    return value
name = b'/toolcell'
queue = check(c.mq_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, None))
if os.fork() == 0:
    queue = check(c.mq_open(name, os.O_WRONLY))
    check(c.mq_send(queue, b'hello', 5, 0))
    os._exit(0)
buffer = ctypes.create_string_buffer(8192)
print(buffer[:check(c.mq_receive(queue, buffer, 8192, None))], os.listdir('/dev/mqueue'))
assert os.wait()[1] == 0
check(c.mq_unlink(name))
print(c.mq_open(name, os.O_RDONLY), ctypes.get_errno(), os.listdir('/dev/mqueue'))
";
    for who in everyone() {
        let world = harness::World::new(who);
        for base in ["standard", "readonly"] {
            let outcome = world.run(base, &["/usr/bin/python3", "-I", "-c", SCRIPT]);
            assert_eq!(
                outcome["stdout"]["text"], "b'hello' ['toolcell']\n-1 2 []\n",
                "{who:?}: {base}: {outcome:#}"
            );
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {base}: {outcome:#}");
        }
    }
}

#[test]
fn posix_queues_take_no_more_memory_than_a_tool_may_have() {
    // Each takes 10 messages of 8 KiB, and all together may take 800 KiB.
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["many_named_queues", "few", "8"]);
        assert_eq!(said.detail(), "8", "the control of {who:?}");
        let said = ground.attempt(&profile, &["many_named_queues", "many", "64"]);
        assert_eq!(said.detail(), "9 EMFILE", "{who:?}");
    }
}

#[test]
fn nothing_is_made_or_removed_by_way_of_the_list_of_queues() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let queue = "/dev/mqueue/queue";
        assert_eq!(
            ground.attempt(&profile, &["create", queue, "x"]),
            "EROFS",
            "{who:?}"
        );
        let made = ground.attempt(&profile, &["named_queue", "queue", "create"]);
        assert!(made.succeeded(), "the control of {who:?}: {made:#?}");
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
