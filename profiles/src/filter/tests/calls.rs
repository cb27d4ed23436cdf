//! Calls that are allowed, denied or unknown, and arguments of processes.

use super::*;
use crate::filter::proofs::every_facts;

#[test]
fn everyday_calls_are_allowed() {
    const EVERYDAY: &[&str] = &[
        "read",
        "write",
        "close",
        "mmap",
        "mprotect",
        "brk",
        "execve",
        "execveat",
        "fork",
        "vfork",
        "wait4",
        "exit_group",
        "futex",
        "getrandom",
        "openat",
        "newfstatat",
        "statx",
        "unlinkat",
        "renameat2",
        "linkat",
        "symlinkat",
        "mkdirat",
        "pipe2",
        "epoll_pwait",
        "inotify_add_watch",
        "kill",
        "setsid",
        "shmget",
        "semop",
        "mq_open",
        "sched_setaffinity",
        "clock_gettime",
        "timer_create",
        "connect",
        "bind",
        "accept4",
        "seccomp",
        "landlock_restrict_self",
        "rseq",
        "copy_file_range",
        "close_range",
        "pidfd_open",
        "setxattr",
        "uretprobe",
    ];
    for name in EVERYDAY {
        assert_eq!(answer(name, []), Action::Allow, "{name}");
    }
}

#[test]
fn dangerous_calls_are_denied_by_name() {
    const DANGEROUS: &[&str] = &[
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
        "open_tree_attr",
        "open_by_handle_at",
        "name_to_handle_at",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "kcmp",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "fanotify_init",
        "fanotify_mark",
        "quotactl",
        "quotactl_fd",
        "modify_ldt",
        "vmsplice",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "swapon",
        "swapoff",
        "reboot",
        "sethostname",
        "setdomainname",
        "settimeofday",
        "clock_settime",
        "adjtimex",
        "clock_adjtime",
        "iopl",
        "ioperm",
        "acct",
        "syslog",
        "move_pages",
        "migrate_pages",
    ];
    for name in DANGEROUS {
        assert_eq!(answer(name, []), DENIED, "{name}");
    }
    assert_eq!(answer("read", []), Action::Allow);
}

#[test]
fn what_hides_its_arguments_does_not_exist() {
    for name in [
        "clone3",
        "openat2",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
    ] {
        assert_eq!(answer(name, []), UNKNOWN, "{name}");
    }
    assert_eq!(answer("clone", []), Action::Allow);
    assert_eq!(answer("openat", []), Action::Allow);
}

#[test]
fn a_number_without_a_group_does_not_exist() {
    let policy = policy(X86_64);
    assert_eq!(policy.decide(400, &[0; 6]), UNKNOWN);
    assert_eq!(policy.decide(u32::MAX, &[0; 6]), UNKNOWN);
    assert_eq!(policy.decide(0, &[0; 6]), Action::Allow);
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespace() {
    const SIGCHLD: u64 = 17;
    /// What the C library passes to start a thread.
    const THREAD: u64 = 0x003d_0f00;
    assert_eq!(answer("clone", [SIGCHLD]), Action::Allow);
    assert_eq!(answer("clone", [THREAD]), Action::Allow);
    let namespaces = [
        0x2_0000,
        0x200_0000,
        0x400_0000,
        0x800_0000,
        0x1000_0000,
        0x2000_0000,
    ];
    for namespace in namespaces.into_iter().chain([0x4000_0000]) {
        assert_eq!(
            answer("clone", [SIGCHLD | namespace]),
            DENIED,
            "{namespace:x}"
        );
        assert_eq!(
            answer("clone", [THREAD | namespace | 1 << 40]),
            DENIED,
            "{namespace:x}"
        );
    }
}

#[test]
fn the_personality_only_loses_address_randomisation() {
    for persona in [0, 0x4_0000, 0xffff_ffff, u64::MAX] {
        assert_eq!(
            answer("personality", [persona]),
            Action::Allow,
            "{persona:x}"
        );
    }
    // PER_LINUX32, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, UNAME26, and one of them with the allowed one.
    for persona in [0x8, 0x40_0000, 0x10_0000, 0x2_0000, 0x44_0000] {
        assert_eq!(answer("personality", [persona]), DENIED, "{persona:x}");
    }
}

#[test]
fn limits_of_others_can_only_be_read() {
    const POINTER: u64 = 0x7fff_0000_0000;
    assert_eq!(answer("prlimit64", [0, 7, POINTER, POINTER]), Action::Allow);
    assert_eq!(answer("prlimit64", [1, 7, 0, POINTER]), Action::Allow);
    // The low half of this pointer is null, and the pointer is not.
    assert_eq!(answer("prlimit64", [1, 7, POINTER, 0]), DENIED);
    assert_eq!(answer("prlimit64", [1, 7, 0x1000, 0]), DENIED);
}

#[test]
fn the_limit_on_core_dumps_stays_while_programs_hear_that_it_is_set() {
    const POINTER: u64 = 0x7fff_0000_0000;
    const CORE: u64 = 4;
    assert_eq!(answer("setrlimit", [CORE, POINTER]), Action::Pretend);
    // The kernel reads the number of a limit as 32 bits.
    assert_eq!(
        answer("setrlimit", [CORE | 1 << 32, POINTER]),
        Action::Pretend
    );
    assert_eq!(answer("setrlimit", [7, POINTER]), Action::Allow);
    assert_eq!(answer("prlimit64", [0, CORE, POINTER, 0]), Action::Pretend);
    assert_eq!(
        answer("prlimit64", [1 << 32, CORE | 1 << 32, POINTER, 0]),
        Action::Pretend
    );
    assert_eq!(answer("prlimit64", [0, CORE, 0, POINTER]), Action::Allow);
    assert_eq!(answer("prlimit64", [0, 7, POINTER, 0]), Action::Allow);
    // It would find no old limit where it asks for one.
    assert_eq!(answer("prlimit64", [0, CORE, POINTER, POINTER]), DENIED);
    assert_eq!(answer("prlimit64", [1, CORE, POINTER, 0]), DENIED);
}

#[test]
fn prctl_serves_the_process_and_nothing_beyond() {
    // PDEATHSIG, DUMPABLE, NAME, SECCOMP, TIMERSLACK, NO_NEW_PRIVS, SET_PTRACER, SET_VMA.
    for option in [1, 4, 15, 21, 22, 29, 38, 0x5961_6d61, 0x5356_4d41] {
        assert_eq!(answer("prctl", [option]), Action::Allow, "{option}");
    }
    for option in [28, 35, 57, 62, 67] {
        assert_eq!(answer("prctl", [option]), DENIED, "{option}");
    }
    let (ambient, is_set, raise, clear) = (47, 1, 2, 4);
    assert_eq!(answer("prctl", [ambient, is_set]), Action::Allow);
    assert_eq!(answer("prctl", [ambient, clear]), Action::Allow);
    assert_eq!(answer("prctl", [ambient, raise]), DENIED);
}

#[test]
fn memory_is_not_deduplicated_with_other_processes() {
    let (dont_need, mergeable) = (4, 12);
    assert_eq!(answer("madvise", [0, 4096, dont_need]), Action::Allow);
    assert_eq!(
        answer("madvise", [0, 4096, mergeable]),
        Action::Deny(Errno::Invalid)
    );
}

#[test]
fn what_the_runner_calls_after_the_filter_is_never_held_up() {
    const PR_GET_SECCOMP: u64 = 21;
    const MSG_NOSIGNAL: u64 = 0x4000;
    for facts in every_facts() {
        let policy = policy(facts);
        assert_eq!(
            answer_of(&policy, "sendmsg", [3, 0, MSG_NOSIGNAL]),
            Action::Allow
        );
        assert_eq!(answer_of(&policy, "close", [3]), Action::Allow);
        assert_eq!(answer_of(&policy, "prctl", [PR_GET_SECCOMP]), Action::Allow);
        let explained = facts.explain_paths != PathNotify::Off;
        let execve = if explained {
            Action::Inspect
        } else {
            Action::Allow
        };
        assert_eq!(answer_of(&policy, "execve", [1, 2, 3]), execve);
    }
}

#[test]
fn huge_pages_of_the_host_are_not_given_out() {
    let denied = Action::Deny(Errno::NoMemory);
    let (private_anonymous, map_hugetlb) = (0x22, 0x4_0000);
    assert_eq!(
        answer("mmap", [0, 4096, 3, private_anonymous]),
        Action::Allow
    );
    assert_eq!(
        answer("mmap", [0, 4096, 3, private_anonymous | map_hugetlb]),
        denied
    );
    let (create, shm_hugetlb) = (0o1600, 0o4000);
    assert_eq!(answer("shmget", [0, 4096, create]), Action::Allow);
    assert_eq!(answer("shmget", [0, 4096, create | shm_hugetlb]), denied);
    let (noexec_seal, mfd_hugetlb) = (0x8, 0x4);
    assert_eq!(answer("memfd_create", [0, noexec_seal]), Action::Allow);
    // As of a kernel that does not know the flag; the last is how programs ask what there is.
    let unknown = Action::Deny(Errno::Invalid);
    for flags in [mfd_hugetlb, mfd_hugetlb | noexec_seal, u64::from(u32::MAX)] {
        assert_eq!(answer("memfd_create", [0, flags]), unknown);
        let open = policy(FilterFacts {
            memfd_exec: true,
            ..X86_64
        });
        assert_eq!(answer_of(&open, "memfd_create", [0, flags]), unknown);
    }
}
