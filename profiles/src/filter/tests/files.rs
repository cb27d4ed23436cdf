//! Files, terminals, and the inspection of paths.

use super::*;

#[test]
fn nothing_is_typed_into_a_terminal() {
    let (window_size, set_controlling, stdin, linux, cons, discipline) =
        (0x5413, 0x540e, 0x5412, 0x541c, 0x541d, 0x5423);
    assert_eq!(answer("ioctl", [0, window_size]), Action::Allow);
    assert_eq!(answer("ioctl", [0, set_controlling]), Action::Allow);
    for request in [stdin, linux, cons, discipline] {
        assert_eq!(answer("ioctl", [0, request]), DENIED);
        // The kernel ignores the high half, and so must the filter (CVE-2019-10063).
        assert_eq!(answer("ioctl", [0, request | 1 << 32]), DENIED);
    }
}

#[test]
fn no_signal_is_bound_to_an_open_file() {
    let (set_flags, set_lease, set_owner, set_signal, set_owner_ex) = (4, 1024, 8, 10, 15);
    assert_eq!(answer("fcntl", [0, set_flags]), Action::Allow);
    for command in [set_owner, set_signal, set_owner_ex, set_lease] {
        assert_eq!(answer("fcntl", [0, command]), DENIED);
    }
    assert_eq!(answer("ioctl", [0, 0x8901]), DENIED, "FIOSETOWN");
    assert_eq!(answer("ioctl", [0, 0x8902]), DENIED, "SIOCSPGRP");
}

#[test]
fn renaming_leaves_no_whiteout() {
    const AT_FDCWD: u64 = 0xffff_ff9c;
    let (no_replace, exchange, whiteout) = (1, 2, 4);
    let renamed = |flags| answer("renameat2", [AT_FDCWD, 0, AT_FDCWD, 0, flags]);
    for flags in [0, no_replace, exchange] {
        assert_eq!(renamed(flags), Action::Allow);
    }
    for flags in [whiteout, no_replace | whiteout, whiteout | 1 << 32] {
        assert_eq!(renamed(flags), Action::Deny(Errno::Invalid));
    }
}

#[test]
fn no_file_becomes_setuid_or_setgid() {
    const AT_FDCWD: u64 = 0xffff_ff9c;
    const CREATE: u64 = 0o101;
    for bits in [0o4000, 0o2000, 0o6000] {
        let (plain, set_id) = (0o755, 0o755 | bits);
        assert_eq!(answer("chmod", [0, plain]), Action::Allow);
        assert_eq!(answer("chmod", [0, set_id]), DENIED);
        assert_eq!(answer("fchmod", [0, plain]), Action::Allow);
        assert_eq!(answer("fchmod", [0, set_id]), DENIED);
        for name in ["fchmodat", "fchmodat2"] {
            assert_eq!(answer(name, [AT_FDCWD, 0, plain]), Action::Allow);
            assert_eq!(answer(name, [AT_FDCWD, 0, set_id]), DENIED);
        }
        assert_eq!(answer("creat", [0, plain]), Action::Allow);
        assert_eq!(answer("creat", [0, set_id]), DENIED);
        assert_eq!(answer("open", [0, CREATE, plain]), Action::Allow);
        assert_eq!(answer("open", [0, CREATE, set_id]), DENIED);
        assert_eq!(
            answer("openat", [AT_FDCWD, 0, CREATE, plain]),
            Action::Allow
        );
        assert_eq!(answer("openat", [AT_FDCWD, 0, CREATE, set_id]), DENIED);
        assert_eq!(answer("mknod", [0, plain]), Action::Allow);
        assert_eq!(answer("mknod", [0, set_id]), DENIED);
        assert_eq!(
            answer("mknodat", [AT_FDCWD, 0, 0o100_000 | plain]),
            Action::Allow
        );
        assert_eq!(answer("mknodat", [AT_FDCWD, 0, 0o100_000 | set_id]), DENIED);
    }
}

#[test]
fn a_nameless_file_cannot_be_setuid_either() {
    const TMPFILE_RDWR: u64 = 0o20_200_002;
    assert_eq!(answer("openat", [0, 0, TMPFILE_RDWR, 0o600]), Action::Allow);
    assert_eq!(answer("openat", [0, 0, TMPFILE_RDWR, 0o4600]), DENIED);
}

#[test]
fn the_mode_counts_only_when_a_file_is_made() {
    const GARBAGE: u64 = u64::MAX;
    let (read_only, read_write_truncate) = (0, 0o1002);
    assert_eq!(answer("openat", [0, 0, read_only, GARBAGE]), Action::Allow);
    assert_eq!(
        answer("openat", [0, 0, read_write_truncate, GARBAGE]),
        Action::Allow
    );
    assert_eq!(answer("openat", [0, 0, 0o100, GARBAGE]), DENIED);
}

#[test]
fn directories_take_any_mode_since_the_kernel_drops_these_bits_of_it() {
    assert_eq!(answer("mkdir", [0, 0o2775]), Action::Allow);
    assert_eq!(answer("mkdirat", [0, 0, 0o7777]), Action::Allow);
}

#[test]
fn no_device_node_is_made() {
    let (fifo, socket, character, block) = (0o010_644, 0o140_644, 0o020_644, 0o060_644);
    for kind in [fifo, socket] {
        assert_eq!(answer("mknod", [0, kind]), Action::Allow);
        assert_eq!(answer("mknodat", [0, 0, kind]), Action::Allow);
    }
    for kind in [character, block] {
        assert_eq!(answer("mknod", [0, kind]), DENIED);
        assert_eq!(answer("mknodat", [0, 0, kind]), DENIED);
    }
}

#[test]
fn memory_files_cannot_be_executed_unless_everything_can() {
    let (cloexec, noexec_seal) = (0x1, 0x8);
    let silent = policy(FilterFacts {
        notify: false,
        ..X86_64
    });
    let open = policy(FilterFacts {
        memfd_exec: true,
        ..X86_64
    });
    assert_eq!(
        answer("memfd_create", [0, noexec_seal | cloexec]),
        Action::Allow
    );
    assert_eq!(answer("memfd_create", [0, cloexec]), Action::SealedMemfd);
    assert_eq!(
        answer_of(&silent, "memfd_create", [0, noexec_seal]),
        Action::Allow
    );
    assert_eq!(answer_of(&silent, "memfd_create", [0, cloexec]), UNKNOWN);
    assert_eq!(
        answer_of(&open, "memfd_create", [0, cloexec]),
        Action::Allow
    );
}

#[test]
fn writes_are_inspected_and_opening_to_read_is_not() {
    let writes = policy(FilterFacts {
        explain_paths: PathNotify::Writes,
        ..X86_64
    });
    let (read_only_directory, write_only, read_write, create, truncate) =
        (0o200_000, 1, 2, 0o100, 0o1000);
    assert_eq!(
        answer_of(&writes, "openat", [0, 0, read_only_directory]),
        Action::Allow
    );
    for flags in [write_only, read_write, create, truncate, 0o20_200_002] {
        assert_eq!(
            answer_of(&writes, "openat", [0, 0, flags, 0o644]),
            Action::Inspect
        );
        assert_eq!(
            answer_of(&writes, "open", [0, flags, 0o644]),
            Action::Inspect
        );
    }
    for name in [
        "unlink",
        "renameat2",
        "mkdirat",
        "execve",
        "chown",
        "symlink",
    ] {
        assert_eq!(answer_of(&writes, name, []), Action::Inspect, "{name}");
    }
    for name in [
        "stat",
        "newfstatat",
        "access",
        "readlink",
        "chdir",
        "fstat",
        "getcwd",
    ] {
        assert_eq!(answer_of(&writes, name, []), Action::Allow, "{name}");
    }
}

#[test]
fn everything_that_names_a_path_is_inspected_when_all_is() {
    let all = policy(FilterFacts {
        explain_paths: PathNotify::All,
        ..X86_64
    });
    for name in [
        "open",
        "openat",
        "stat",
        "newfstatat",
        "readlink",
        "chdir",
        "mknod",
        "unlink",
    ] {
        assert_eq!(answer_of(&all, name, []), Action::Inspect, "{name}");
    }
    for name in ["read", "fstat", "getcwd", "mmap"] {
        assert_eq!(answer_of(&all, name, []), Action::Allow, "{name}");
    }
}

#[test]
fn inspection_lifts_no_check_and_no_denial() {
    for explain_paths in [PathNotify::Writes, PathNotify::All] {
        let policy = policy(FilterFacts {
            explain_paths,
            ..X86_64
        });
        assert_eq!(answer_of(&policy, "chmod", [0, 0o755]), Action::Inspect);
        assert_eq!(answer_of(&policy, "chmod", [0, 0o4755]), DENIED);
        assert_eq!(
            answer_of(&policy, "openat", [0, 0, 0o101, 0o644]),
            Action::Inspect
        );
        assert_eq!(answer_of(&policy, "openat", [0, 0, 0o101, 0o4755]), DENIED);
        assert_eq!(answer_of(&policy, "name_to_handle_at", []), DENIED);
    }
}

#[test]
fn paths_are_not_explained_without_a_listener() {
    let facts = FilterFacts {
        notify: false,
        explain_paths: PathNotify::All,
        ..X86_64
    };
    let error = Policy::new(&SyscallRules::default(), &facts).unwrap_err();
    assert_eq!(error, FilterError::ExplainWithoutNotify);
}

#[test]
fn every_call_of_the_paths_group_has_its_arguments_in_the_table() {
    for syscall in syscalls::all().filter(|syscall| syscall.group.name == "paths") {
        let listed = paths::by_name(&syscall.name).is_some();
        assert_eq!(listed, syscall.name != "getcwd", "{}", syscall.name);
    }
    for call in paths::PATH_CALLS {
        assert!(syscalls::by_name(call.name).is_some(), "{}", call.name);
        assert_eq!(
            paths::by_name(call.name),
            Some(call),
            "{} is listed once",
            call.name
        );
    }
}
