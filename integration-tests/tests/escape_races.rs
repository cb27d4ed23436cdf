//! Races: what is looked at must be what is done, or what is looked at must not matter.

use harness::everyone;
use harness::ground::Ground;

/// With `[explain] paths` the supervisor reads each path from the tool's memory before the kernel
/// does. A tool that changes it in between must win nothing: it is the kernel that decides.
#[test]
fn a_path_that_changes_while_it_is_explained_opens_nothing_denied() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        ground.file("listed/plain", "plain");
        ground.file("listed/other", "secret");
        ground.file("other", "secret");
        let (listed, plain) = (ground.text("listed"), ground.text("listed/plain"));
        let other = ground.text("listed/other");
        let open = format!("read = [\"{listed}\"]");
        let explain = "[explain]\npaths = true\n[limits]\nwall = \"2 min\"\n";
        let denied = format!("{open}\ndeny = [\"{other}\"]");
        let words = ["swap_path", &plain, &other, "3000"];
        let said = ground.attempt(&ground.profile(&denied, explain), &words);
        assert_eq!(said.detail(), "opened", "{who:?}");
        let control = ground.attempt(&ground.profile(&open, explain), &words);
        assert_eq!(control.detail(), "opened secret", "the control of {who:?}");
    }
}

/// Paths are explained for people; what is denied stays so.
#[test]
fn nothing_more_is_allowed_where_paths_are_explained() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents").display().to_string();
        let secret = ground.file("secret", "secret").display().to_string();
        let files = format!("read = [\"{}\"]", ground.text("listed"));
        let profile = ground.profile(&files, "[explain]\npaths = true\n");
        let new = ground.text("listed/new");
        for (attempt, errors) in [
            (&["read", &secret][..], &["ENOENT"][..]),
            (&["create", &new, "x"], &["EACCES", "EROFS"]),
            (&["append", &file, "x"], &["EACCES", "EROFS"]),
            (&["rename", &file, &new], &["EACCES", "EROFS"]),
            (&["unlink", &file], &["EACCES", "EROFS"]),
            (&["link", &file, "/work/file"], &["EXDEV", "EACCES"]),
            (&["chmod", &file, "777"], &["EROFS"]),
            (&["copy_and_run", "/tmp"], &["EACCES"]),
            (&["memfd", "0"], &["EACCES", "ENOSYS"]),
            (&["whiteout", "/tmp/a", "/tmp/b"], &["EINVAL"]),
            (&["call", "unshare", "0x10000000"], &["EPERM"]),
        ] {
            let said = ground.attempt(&profile, attempt);
            assert!(
                errors.contains(&said.answer.as_str()),
                "{who:?} {attempt:?}: {said:#?}"
            );
        }
        let control = ground.attempt(&profile, &["read", &file]);
        assert_eq!(control.detail(), "contents", "the control of {who:?}");
    }
}

/// A profile that lets debuggers work must not let them steer another process past the filter, which
/// kernels ask only after the debugger.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_debugger_does_not_steer_a_process_past_the_filter() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "[syscalls]\nallow = [\"ptrace\"]\n");
        // unshare(CLONE_NEWUSER), chroot(NULL), io_uring_setup(0), the x32 twin of unshare.
        for (call, first, error) in [
            ("272", "0x10000000", "EPERM"),
            ("161", "0", "EPERM"),
            ("425", "0", "ENOSYS"),
            ("0x40000110", "0x10000000", "ENOSYS"),
        ] {
            let said = ground.attempt(&profile, &["steer", call, first]);
            assert_eq!(said, error, "{who:?} {call}");
        }
        // getpid instead: that is allowed, so steering works.
        let control = ground.attempt(&profile, &["steer", "39", "0"]);
        assert!(
            !["EPERM", "ENOSYS"].contains(&control.answer.as_str()),
            "{who:?}: {control:#?}"
        );
        let control = ground.outside(&["steer", "161", "0"]);
        assert_ne!(control, "ENOSYS", "the control of {who:?}");
        let control = ground.outside(&["steer", "272", "0x10000000"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}

/// A filter of the tool's own, with a listener of its own, does not answer for Toolcell's.
#[test]
fn a_tool_gets_no_listener_of_its_own() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["listen_to_calls"]);
        assert_eq!(said, "EBUSY", "{who:?}");
        let control = ground.outside(&["listen_to_calls"]);
        assert!(control.succeeded(), "the control of {who:?}: {control:#?}");
    }
}
