//! Decisions, and the argument checks of the calls that are allowed only in part.
//!
//! Only values in registers are ever checked. The kernel reads all of them but pointers as 32-bit
//! numbers, so only the low half is compared: were the high half compared too, garbage in it would
//! pass by a rule that denies.

use super::{Action, Errno, FilterFacts, UNKNOWN};

/// What is decided for a call: the action of the first case that fits, or else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// The action if no case fits.
    pub otherwise: Action,
}

/// Conditions that must all hold, and the action if they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// The conditions; there is at least one.
    pub conditions: Vec<Condition>,
    /// The action.
    pub action: Action,
}

/// Holds if an argument, under the mask, has the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Index of the argument.
    pub argument: u8,
    /// How much of it is compared.
    pub width: Width,
    /// The bits that are compared.
    pub mask: u64,
    /// What they must be; no bit outside the mask is set.
    pub value: u64,
}

/// How much of an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// The low 32 bits: for numbers.
    Low,
    /// All 64 bits: for pointers.
    Whole,
}

impl Decision {
    pub(super) fn always(action: Action) -> Self {
        Self {
            cases: Vec::new(),
            otherwise: action,
        }
    }

    /// Allows what one of the lists of conditions fits, and else takes the action.
    fn only<const N: usize>(allowed: [Case; N], otherwise: Action) -> Self {
        Self {
            cases: allowed.into(),
            otherwise,
        }
    }

    /// Reads the rules directly, as a filter must.
    pub(super) fn decide(&self, arguments: &[u64; 6]) -> Action {
        self.cases
            .iter()
            .find(|case| {
                case.conditions
                    .iter()
                    .all(|condition| condition.holds(arguments))
            })
            .map_or(self.otherwise, |case| case.action)
    }

    /// The same decision with one action in place of another.
    pub(super) fn replaced(mut self, from: Action, to: Action) -> Self {
        let actions = self.cases.iter_mut().map(|case| &mut case.action);
        for action in actions.chain([&mut self.otherwise]) {
            if *action == from {
                *action = to;
            }
        }
        self
    }
}

impl Case {
    pub(super) fn new<const N: usize>(conditions: [Condition; N], action: Action) -> Self {
        Self {
            conditions: conditions.into(),
            action,
        }
    }

    /// A case that allows.
    fn allow<const N: usize>(conditions: [Condition; N]) -> Self {
        Self::new(conditions, Action::Allow)
    }

    /// A case that denies.
    fn deny<const N: usize>(conditions: [Condition; N], errno: Errno) -> Self {
        Self::new(conditions, Action::Deny(errno))
    }
}

impl Condition {
    pub(super) fn holds(&self, arguments: &[u64; 6]) -> bool {
        arguments[usize::from(self.argument)] & self.mask == self.value
    }
}

/// The low half equals this.
const fn is(argument: u8, value: u32) -> Condition {
    masked(argument, u32::MAX, value)
}

/// These bits of the low half equal this.
const fn masked(argument: u8, mask: u32, value: u32) -> Condition {
    Condition {
        argument,
        width: Width::Low,
        mask: mask as u64,
        value: (value & mask) as u64,
    }
}

/// None of these bits of the low half is set.
pub(super) const fn none_of(argument: u8, bits: u32) -> Condition {
    masked(argument, bits, 0)
}

/// None of the first bits of the low half is set, and all of the others are.
const fn none_but(argument: u8, none: u32, all: u32) -> Condition {
    masked(argument, none | all, all)
}

/// The argument is the null pointer.
pub(super) const fn is_null(argument: u8) -> Condition {
    Condition {
        argument,
        width: Width::Whole,
        mask: u64::MAX,
        value: 0,
    }
}

/// The argument check of a call, if it has one.
///
/// What such a check refused, [`super::describe`] says for people.
pub(super) fn check(name: &str, facts: FilterFacts) -> Option<Decision> {
    Some(match name {
        "clone" => clone(),
        "personality" => personality(),
        "prctl" => prctl(),
        "setrlimit" => setrlimit(),
        "prlimit64" => prlimit(),
        "madvise" => madvise(),
        "mmap" => huge_pages(3, MAP_HUGETLB),
        "shmget" => huge_pages(2, SHM_HUGETLB),
        "memfd_create" => memfd_create(facts),
        "ioctl" => refused_values(1, IOCTLS, Errno::NotPermitted),
        "fcntl" => refused_values(1, FCNTLS, Errno::NotPermitted),
        "open" => create(1, 2),
        "openat" => create(2, 3),
        "creat" | "chmod" | "fchmod" => mode(1),
        "fchmodat" | "fchmodat2" => mode(2),
        "mknod" => node(1),
        "mknodat" => node(2),
        "renameat2" => whiteout(),
        "socket" => socket(facts),
        "socketpair" => socketpair(facts),
        "sendmsg" => fast_open(2),
        "sendto" | "sendmmsg" => fast_open(3),
        "setsockopt" => setsockopt(),
        _ => return None,
    })
}

const DENY: Action = Action::Deny(Errno::NotPermitted);

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`. `NEWTIME` lies
/// in the byte that `clone` takes the exit signal from, so only `clone3` and `unshare` have it.
const CLONE_NEW: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

fn clone() -> Decision {
    Decision::only([Case::allow([none_of(0, CLONE_NEW)])], DENY)
}

/// `clone` in a process that makes threads only.
pub(super) fn threads_only() -> Decision {
    const CLONE_THREAD: u32 = 0x0001_0000;
    Decision::only([Case::allow([none_but(0, CLONE_NEW, CLONE_THREAD)])], DENY)
}

/// An `open` that can neither write nor make anything.
pub(super) fn open_to_read(flags: u8) -> Decision {
    /// `O_ACCMODE`, `O_CREAT`, `O_TRUNC`, and the bit by which `O_TMPFILE` differs from
    /// `O_DIRECTORY`.
    const WRITES: u32 = 0o3 | 0o100 | 0o1000 | 0o20_000_000;
    Decision::only([Case::allow([none_of(flags, WRITES)])], DENY)
}

/// An `ioctl` that asks how many bytes can be read.
pub(super) fn bytes_to_read(request: u8) -> Decision {
    const FIONREAD: u32 = 0x541b;
    Decision::only([Case::allow([is(request, FIONREAD)])], DENY)
}

/// A `socket` of TCP or UDP over IP.
pub(super) fn internet_only() -> Decision {
    let kinds = [SOCK_STREAM, SOCK_DGRAM];
    let cases = kinds.map(|kind| Case::allow([internet(), masked(1, SOCK_TYPE, kind), is(2, 0)]));
    Decision::only(cases, DENY)
}

/// `AF_INET` or `AF_INET6`: they differ in one bit, so that one comparison covers both.
fn internet() -> Condition {
    const { assert!(AF_INET | (AF_INET ^ AF_INET6) == AF_INET6 && (AF_INET ^ AF_INET6) == 8) };
    masked(0, !(AF_INET ^ AF_INET6), AF_INET)
}

/// The decision for a process that never makes memory executable.
pub(super) fn without_execution(name: &str, mut decision: Decision) -> Decision {
    const PROT_EXEC: u32 = 4;
    if matches!(name, "mmap" | "mprotect" | "pkey_mprotect") {
        let executable = masked(2, PROT_EXEC, PROT_EXEC);
        let denied = Case::deny([executable], Errno::NotPermitted);
        decision.cases.insert(0, denied);
    }
    decision
}

/// The query, `PER_LINUX` and `ADDR_NO_RANDOMIZE`: others change what the kernel checks (executable
/// heaps, pages at address 0) or which calls it answers.
fn personality() -> Decision {
    const QUERY: u32 = 0xffff_ffff;
    const PER_LINUX: u32 = 0;
    const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
    let allowed =
        [QUERY, PER_LINUX, ADDR_NO_RANDOMIZE].map(|persona| Case::allow([is(0, persona)]));
    Decision::only(allowed, DENY)
}

/// Options of `prctl` that reach past the process or ask for privileges. New options are allowed,
/// since the C libraries and language runtimes take them up for the process's own good.
pub(super) const PRCTLS: &[(u32, &str)] = &[
    // Keeps capabilities over a change of user.
    (28, "PR_SET_SECUREBITS"),
    // Moves the areas that /proc shows as code, arguments and environment.
    (35, "PR_SET_MM"),
    // Marks the process as one that the pager must not make wait.
    (57, "PR_SET_IO_FLUSHER"),
    // Keeps others off the sibling hardware thread: CPU time that no limit counts.
    (62, "PR_SCHED_CORE"),
    // Deduplicates memory with other processes, whose contents can be told by timing.
    (67, "PR_SET_MEMORY_MERGE"),
];

pub(super) const PR_CAP_AMBIENT: u32 = 47;

fn prctl() -> Decision {
    const PR_CAP_AMBIENT_RAISE: u32 = 2;
    let mut decision = refused_values(0, PRCTLS, Errno::NotPermitted);
    let raise = [is(0, PR_CAP_AMBIENT), is(1, PR_CAP_AMBIENT_RAISE)];
    decision.cases.push(Case::deny(raise, Errno::NotPermitted));
    decision
}

const RLIMIT_CORE: u32 = 4;

/// The limit on core dumps stays what the cell was given: 1, which alone keeps a crashed tool's
/// memory from the host's own handler (`rlimits` says more). Programs with secrets set it to 0 and
/// stop if they cannot (`ssh-agent`), so they are told that it is done: no core is ever written.
fn setrlimit() -> Decision {
    Decision {
        cases: vec![Case::new([is(0, RLIMIT_CORE)], Action::Pretend)],
        otherwise: Action::Allow,
    }
}

/// Limits of the process itself, and reading those of others: the cell's first process has the
/// tool's user and must not be starved of descriptors or CPU time by it.
///
/// `RLIMIT_CORE` is as in [`setrlimit`], by which name the C library makes this call with nowhere to
/// put the old limit. Who asks for that as well would find nothing there, and is refused.
fn prlimit() -> Decision {
    let own = is(0, 0);
    let core = is(1, RLIMIT_CORE);
    Decision {
        cases: vec![
            Case::allow([is_null(2)]),
            Case::new([own, core, is_null(3)], Action::Pretend),
            Case::deny([own, core], Errno::NotPermitted),
            Case::allow([own]),
        ],
        otherwise: DENY,
    }
}

/// `MADV_MERGEABLE` asks for the same as `PR_SET_MEMORY_MERGE`; `EINVAL` is what a kernel without
/// that feature says.
fn madvise() -> Decision {
    const MADV_MERGEABLE: u32 = 12;
    let cases = vec![Case::deny([is(2, MADV_MERGEABLE)], Errno::Invalid)];
    Decision {
        cases,
        otherwise: Action::Allow,
    }
}

const MAP_HUGETLB: u32 = 0x4_0000;
const SHM_HUGETLB: u32 = 0o4000;
pub(super) const MFD_HUGETLB: u32 = 0x4;

/// Huge pages come out of a pool of the whole host, and `memory.max` does not count them. `ENOMEM`
/// is what a host says whose pool is empty, as most are; transparent huge pages are not concerned.
fn huge_pages(flags: u8, huge: u32) -> Decision {
    Decision::only(
        [Case::allow([none_of(flags, huge)])],
        Action::Deny(Errno::NoMemory),
    )
}

/// A memory file of huge pages is answered as by a kernel that does not have them, because programs
/// find out what there is by flags that no kernel knows: Chromium asks with all of them, and stops
/// at an answer other than `EINVAL`, `ENOSYS` or `EPERM`.
const NO_HUGE_MEMFD: Action = Action::Deny(Errno::Invalid);

/// Landlock has no say over memory files, so one that can be executed would carry any program past
/// the profile's `exec`. With `MFD_NOEXEC_SEAL` the kernel makes one that cannot; other callers get
/// such a one from the supervisor.
fn memfd_create(facts: FilterFacts) -> Decision {
    const MFD_NOEXEC_SEAL: u32 = 0x8;
    let small = Case::allow([none_of(1, MFD_HUGETLB)]);
    let mut decision = Decision::only([small], NO_HUGE_MEMFD);
    if facts.memfd_exec {
        return decision;
    }
    let sealed = none_but(1, MFD_HUGETLB, MFD_NOEXEC_SEAL);
    let unsealed = if facts.notify {
        Action::SealedMemfd
    } else {
        UNKNOWN
    };
    decision.cases = vec![
        Case::allow([sealed]),
        Case::new([none_of(1, MFD_HUGETLB)], unsealed),
    ];
    decision
}

/// Requests of `ioctl`. The first four push or redirect what a terminal reads or writes, so that a
/// tool could type into the terminal of who started it; the last two are `F_SETOWN` by other names.
pub(super) const IOCTLS: &[(u32, &str)] = &[
    (0x5412, "TIOCSTI"),
    (0x541c, "TIOCLINUX"),
    (0x541d, "TIOCCONS"),
    (0x5423, "TIOCSETD"),
    (0x8901, "FIOSETOWN"),
    (0x8902, "SIOCSPGRP"),
];

/// Commands of `fcntl`. An owner or a signal set on an open file that is shared with a process
/// outside would send signals across; a lease makes others wait who open the file, for 45 s.
pub(super) const FCNTLS: &[(u32, &str)] = &[
    (8, "F_SETOWN"),
    (10, "F_SETSIG"),
    (15, "F_SETOWN_EX"),
    (1024, "F_SETLEASE"),
    (1040, "F_SETDELEG"),
];

fn refused_values(argument: u8, refused: &[(u32, &str)], errno: Errno) -> Decision {
    let cases = refused
        .iter()
        .map(|(value, _)| Case::deny([is(argument, *value)], errno))
        .collect();
    Decision {
        cases,
        otherwise: Action::Allow,
    }
}

/// `S_ISUID` and `S_ISGID`. A file with one of them, left in a directory of the host, would run
/// there with the rights of the cell's host user. A directory cannot be told from a file here, so
/// a shared directory's `S_ISGID` is refused as well.
const SET_ID: u32 = 0o6000;

fn mode(argument: u8) -> Decision {
    Decision::only([Case::allow([none_of(argument, SET_ID)])], DENY)
}

/// `open`: the mode means nothing, and can be garbage, unless `O_CREAT` or `O_TMPFILE` is set.
fn create(flags: u8, mode: u8) -> Decision {
    const O_CREAT: u32 = 0o100;
    /// The bit by which `O_TMPFILE` differs from `O_DIRECTORY`.
    const O_TMPFILE_BIT: u32 = 0o20_000_000;
    let opens = Case::allow([none_of(flags, O_CREAT | O_TMPFILE_BIT)]);
    let creates = Case::allow([none_of(mode, SET_ID)]);
    Decision::only([opens, creates], DENY)
}

/// `mknod`: FIFOs, sockets and plain files. No device, although a user namespace would not get one
/// either; the exception is device 0:0, with which an overlay hides files.
fn node(argument: u8) -> Decision {
    const S_IFMT: u32 = 0o170_000;
    const PLAIN: u32 = 0;
    const S_IFREG: u32 = 0o100_000;
    const S_IFIFO: u32 = 0o010_000;
    const S_IFSOCK: u32 = 0o140_000;
    let allowed = [PLAIN, S_IFREG, S_IFIFO, S_IFSOCK]
        .map(|kind| Case::allow([masked(argument, S_IFMT | SET_ID, kind)]));
    Decision::only(allowed, DENY)
}

/// `RENAME_WHITEOUT` makes a node of device 0:0 without `mknod`, and Landlock does not take it for
/// making a device: one would be left in a directory of the host. `EINVAL` is what most file systems
/// say of it.
fn whiteout() -> Decision {
    const RENAME_WHITEOUT: u32 = 4;
    let refused = masked(4, RENAME_WHITEOUT, RENAME_WHITEOUT);
    Decision {
        cases: vec![Case::deny([refused], Errno::Invalid)],
        otherwise: Action::Allow,
    }
}

pub(super) const AF_UNIX: u32 = 1;
pub(super) const AF_INET: u32 = 2;
pub(super) const AF_INET6: u32 = 10;
pub(super) const AF_NETLINK: u32 = 16;
/// `SOCK_TYPE_MASK`: the rest of the argument is `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
pub(super) const SOCK_TYPE: u32 = 0xf;
pub(super) const SOCK_STREAM: u32 = 1;
pub(super) const SOCK_DGRAM: u32 = 2;
pub(super) const SOCK_RAW: u32 = 3;
pub(super) const SOCK_SEQPACKET: u32 = 5;
pub(super) const SOCK_PACKET: u32 = 10;

/// TCP, UDP, `NETLINK_ROUTE`, and Unix sockets where they reach nothing of the host.
///
/// An error says what a kernel without the protocol says, which programs that probe for one (Go for
/// MPTCP, resolvers for IPv6) take for an answer. Network namespaces do not cover `AF_VSOCK`.
fn socket(facts: FilterFacts) -> Decision {
    const IPPROTO_TCP: u32 = 6;
    const IPPROTO_UDP: u32 = 17;
    const NETLINK_ROUTE: u32 = 0;
    let inet = internet();
    let kind = |kind| masked(1, SOCK_TYPE, kind);
    let stream = |protocol| {
        let conditions = [inet, kind(SOCK_STREAM), is(2, protocol)];
        if facts.tcp_sockets {
            Case::allow(conditions)
        } else {
            Case::deny(conditions, Errno::NoAccess)
        }
    };
    let mut cases = vec![
        stream(0),
        stream(IPPROTO_TCP),
        Case::allow([inet, kind(SOCK_DGRAM), is(2, 0)]),
        Case::allow([inet, kind(SOCK_DGRAM), is(2, IPPROTO_UDP)]),
        Case::deny([inet, kind(SOCK_RAW)], Errno::NotPermitted),
        Case::deny([inet, kind(SOCK_PACKET)], Errno::NotPermitted),
        Case::deny([inet], Errno::NoProtocol),
        Case::allow([is(0, AF_NETLINK), is(2, NETLINK_ROUTE)]),
        Case::deny([is(0, AF_NETLINK)], Errno::NoProtocol),
    ];
    if facts.unix_sockets {
        cases.insert(0, Case::allow([is(0, AF_UNIX)]));
    }
    Decision {
        cases,
        otherwise: Action::Deny(Errno::NoAddressFamily),
    }
}

/// A pair is connected from the start. But a datagram socket takes another address at every send,
/// so where Unix sockets are not allowed only the kinds are that stay with their peer.
fn socketpair(facts: FilterFacts) -> Decision {
    let unix = is(0, AF_UNIX);
    let cases = if facts.unix_sockets {
        vec![Case::allow([unix])]
    } else {
        vec![
            Case::allow([unix, masked(1, SOCK_TYPE, SOCK_STREAM)]),
            Case::allow([unix, masked(1, SOCK_TYPE, SOCK_SEQPACKET)]),
            Case::deny([unix], Errno::NoSocketType),
        ]
    };
    Decision {
        cases,
        otherwise: Action::Deny(Errno::NoAddressFamily),
    }
}

/// `MSG_FASTOPEN` connects without `connect`, past Landlock's check of it. The error is that of a
/// kernel where fast open is switched off.
fn fast_open(flags: u8) -> Decision {
    const MSG_FASTOPEN: u32 = 0x2000_0000;
    let allowed = [Case::allow([none_of(flags, MSG_FASTOPEN)])];
    Decision::only(allowed, Action::Deny(Errno::NotSupported))
}

const SOL_SOCKET: u32 = 1;
const SOL_TCP: u32 = 6;

/// Socket options by level and name: programs in the kernel that packets run through, further ways
/// to open a connection without `connect`, and protocols on top of TCP, whose modules the kernel
/// loads when asked.
pub(super) const SOCKET_OPTIONS: &[(u32, u32, Errno, &str)] = &[
    (SOL_SOCKET, 26, Errno::NotPermitted, "SO_ATTACH_FILTER"),
    (SOL_SOCKET, 50, Errno::NotPermitted, "SO_ATTACH_BPF"),
    (
        SOL_SOCKET,
        51,
        Errno::NotPermitted,
        "SO_ATTACH_REUSEPORT_CBPF",
    ),
    (
        SOL_SOCKET,
        52,
        Errno::NotPermitted,
        "SO_ATTACH_REUSEPORT_EBPF",
    ),
    (SOL_TCP, 23, Errno::NotSupported, "TCP_FASTOPEN"),
    (SOL_TCP, 30, Errno::NotSupported, "TCP_FASTOPEN_CONNECT"),
    (SOL_TCP, 31, Errno::NotSupported, "TCP_ULP"),
];

fn setsockopt() -> Decision {
    let denied = |&(level, option, errno, _): &(u32, u32, Errno, &str)| {
        Case::deny([is(1, level), is(2, option)], errno)
    };
    let cases = SOCKET_OPTIONS.iter().map(denied).collect();
    Decision {
        cases,
        otherwise: Action::Allow,
    }
}
