//! What a profile may change, and what is said of a denial.

use super::*;

#[test]
fn a_profile_allows_what_is_denied_by_default() {
    let rules = rules(&["ptrace", "io_setup"], &[]);
    let debugger = Policy::new(&rules, &X86_64).unwrap();
    assert_eq!(answer_of(&debugger, "ptrace", []), Action::Allow);
    assert_eq!(answer_of(&debugger, "io_setup", []), Action::Allow);
    assert_eq!(answer_of(&debugger, "process_vm_readv", []), DENIED);
}

#[test]
fn a_profile_denies_what_is_allowed_by_default() {
    let strict = Policy::new(&rules(&[], &["socket", "fork"]), &X86_64).unwrap();
    assert_eq!(answer_of(&strict, "socket", [2, 1, 0]), DENIED);
    assert_eq!(answer_of(&strict, "fork", []), DENIED);
    assert_eq!(answer_of(&strict, "vfork", []), Action::Allow);
}

#[test]
fn deny_wins_over_allow() {
    let both = Policy::new(&rules(&["ptrace"], &["ptrace"]), &X86_64).unwrap();
    assert_eq!(answer_of(&both, "ptrace", []), DENIED);
}

#[test]
fn a_name_of_the_other_architecture_is_checked_and_has_no_effect() {
    let arm = FilterFacts {
        arch: Arch::Aarch64,
        ..X86_64
    };
    let with = Policy::new(&rules(&["modify_ldt"], &["rename"]), &arm).unwrap();
    assert_eq!(with.decisions, policy(arm).decisions);
}

#[test]
fn what_takes_the_cell_apart_is_never_allowed() {
    let never = [
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "move_mount",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
        "clone3",
        "openat2",
        "init_module",
        "finit_module",
        "kexec_load",
        "open_by_handle_at",
        "keyctl",
        "reboot",
        "iopl",
    ];
    for name in never {
        let error = check_allow(name).unwrap_err();
        assert!(
            matches!(error, FilterError::NeverAllowed { .. }),
            "{name}: {error}"
        );
    }
    assert!(check_allow("ptrace").is_ok());
}

#[test]
fn what_everything_needs_is_never_denied() {
    for name in [
        "execve",
        "exit_group",
        "read",
        "mmap",
        "prctl",
        "sendmsg",
        "openat",
    ] {
        let error = check_deny(name).unwrap_err();
        assert!(
            matches!(error, FilterError::Vital { .. }),
            "{name}: {error}"
        );
    }
    assert!(check_deny("socket").is_ok());
}

#[test]
fn errors_say_what_is_wrong_with_a_name() {
    let errors = [
        check_allow("ptrce").unwrap_err(),
        check_allow("zzzz").unwrap_err(),
        check_allow("bpf").unwrap_err(),
        check_allow("socket").unwrap_err(),
        check_deny("execve").unwrap_err(),
        FilterError::ExplainWithoutNotify,
        FilterError::TooLong(5000),
    ];
    let errors: Vec<String> = errors
        .into_iter()
        .map(|error| format!("{error}\n  hint: {:?}", error.hint()))
        .collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn a_notification_says_what_was_tried_and_what_would_allow_it() {
    let number = |name: &str| {
        syscalls::by_name(name)
            .unwrap()
            .number(Arch::X86_64)
            .unwrap()
    };
    let facts = FilterFacts {
        explain_paths: PathNotify::All,
        ..X86_64
    };
    let policy = Policy::new(&rules(&[], &["fork"]), &facts).unwrap();
    let tried: &[(&str, [u64; 6])] = &[
        ("ptrace", [0; 6]),
        ("mount", [0; 6]),
        ("fork", [0; 6]),
        ("socket", [40, 0o2_000_001, 0, 0, 0, 0]),
        ("socket", [99, 3, 0, 0, 0, 0]),
        ("socketpair", [2, 1, 0, 0, 0, 0]),
        ("setsockopt", [3, 6, 31, 0, 0, 0]),
        ("sendto", [3, 0, 0, 0x2000_0000, 0, 0]),
        ("clone", [0x1002_0011, 0, 0, 0, 0, 0]),
        ("ioctl", [0, 0x5412, 0, 0, 0, 0]),
        ("fcntl", [0, 8, 0, 0, 0, 0]),
        ("prctl", [47, 2, 0, 0, 0, 0]),
        ("prctl", [62, 0, 0, 0, 0, 0]),
        ("personality", [8, 0, 0, 0, 0, 0]),
        ("prlimit64", [1, 7, 1, 0, 0, 0]),
        ("prlimit64", [0, 4, 1, 1, 0, 0]),
        ("madvise", [0, 0, 12, 0, 0, 0]),
        ("openat", [0, 0, 0o101, 0o4755, 0, 0]),
        ("openat", [0, 0, 0o101, 0o755, 0, 0]),
        ("mknod", [0, 0o20_644, 0, 0, 0, 0]),
        ("renameat2", [0, 0, 0, 0, 4, 0]),
        ("memfd_create", [0; 6]),
        ("memfd_create", [0, 4, 0, 0, 0, 0]),
        ("mmap", [0, 4096, 3, 0x4_0022, 0, 0]),
    ];
    let told: Vec<String> = tried
        .iter()
        .map(|(name, arguments)| {
            format!(
                "{name} {arguments:x?}\n  {:?}",
                policy.classify(number(name), arguments)
            )
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_tcp_socket_that_is_denied_names_the_line_that_allows_it() {
    let facts = FilterFacts {
        tcp_sockets: false,
        ..X86_64
    };
    let policy = Policy::new(&rules(&[], &[]), &facts).unwrap();
    let number = syscalls::by_name("socket").unwrap().number(Arch::X86_64);
    match policy.classify(number.unwrap(), &[2, 1, 0, 0, 0, 0]) {
        Notification::Denied { allow, rule, .. } => {
            assert_eq!(allow.unwrap(), "network.loopback = true");
            assert!(rule.contains("before Landlock ABI 4"), "{rule}");
        }
        other => panic!("it is not denied: {other:?}"),
    }
}

#[test]
fn a_unix_socket_that_is_denied_names_the_line_that_allows_it() {
    let facts = FilterFacts {
        unix_sockets: false,
        ..X86_64
    };
    let policy = Policy::new(&rules(&[], &[]), &facts).unwrap();
    let line = |name: &str, arguments: [u64; 6]| {
        let number = syscalls::by_name(name).unwrap().number(Arch::X86_64);
        match policy.classify(number.unwrap(), &arguments) {
            Notification::Denied { allow, .. } => allow,
            other => panic!("{name} is not denied: {other:?}"),
        }
    };
    let unix = Some("network.unix = true".to_owned());
    assert_eq!(line("socket", [1, 1, 0, 0, 0, 0]), unix);
    assert_eq!(
        line("socketpair", [0xffff_ffff_0000_0001, 2, 0, 0, 0, 0]),
        unix
    );
    assert_eq!(line("socket", [40, 1, 0, 0, 0, 0]), None);
}

#[test]
fn a_notification_that_the_filter_does_not_send_is_a_denial() {
    let policy = policy(X86_64);
    for number in [0, 2, 435, 1000] {
        let notification = policy.classify(number, &[0; 6]);
        assert!(
            matches!(notification, Notification::Denied { allow: None, .. }),
            "{number}"
        );
    }
}
