//! What an argument check refused, in words.

use super::Errno;
use super::arguments::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, FCNTLS, IOCTLS, PR_CAP_AMBIENT, PRCTLS, SOCK_DGRAM,
    SOCK_PACKET, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOCK_TYPE, SOCKET_OPTIONS,
};

/// What a check refused, for people: `socket(AF_VSOCK, …)`, `ioctl(TIOCSTI)`.
pub(super) fn refused(name: &str, arguments: &[u64; 6]) -> String {
    let low =
        |index: usize| u32::try_from(arguments[index] & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let named = |table: &[(u32, &str)], value: u32| {
        let found = table.iter().find(|(known, _)| *known == value);
        found.map_or_else(|| format!("{value:#x}"), |(_, name)| (*name).to_owned())
    };
    match name {
        "clone" => format!("clone({})", flags(CLONE_FLAGS, low(0))),
        "personality" => format!("personality({:#x})", low(0)),
        "prctl" if low(0) == PR_CAP_AMBIENT => {
            "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)".to_owned()
        }
        "prctl" => format!("prctl({})", named(PRCTLS, low(0))),
        "prlimit64" if low(0) == 0 => "prlimit64(RLIMIT_CORE) for the old limit, too".to_owned(),
        "prlimit64" => "prlimit64 on another process".to_owned(),
        "madvise" => "madvise(MADV_MERGEABLE)".to_owned(),
        "mmap" => "mmap(MAP_HUGETLB)".to_owned(),
        "shmget" => "shmget(SHM_HUGETLB)".to_owned(),
        "memfd_create" => "memfd_create(MFD_HUGETLB)".to_owned(),
        "ioctl" => format!("ioctl({})", named(IOCTLS, low(1))),
        "fcntl" => format!("fcntl({})", named(FCNTLS, low(1))),
        "open" | "creat" | "chmod" | "fchmod" | "openat" | "fchmodat" | "fchmodat2" => {
            format!("{name} with a setuid or setgid bit")
        }
        "mknod" | "mknodat" => format!("{name} of a device, or with a setuid or setgid bit"),
        "renameat2" => "renameat2(RENAME_WHITEOUT)".to_owned(),
        "socket" => {
            let (family, kind) = (named(FAMILIES, low(0)), named(KINDS, low(1) & SOCK_TYPE));
            format!("socket({family}, {kind}, {})", low(2))
        }
        "socketpair" => {
            let (family, kind) = (named(FAMILIES, low(0)), named(KINDS, low(1) & SOCK_TYPE));
            format!("socketpair({family}, {kind})")
        }
        "sendto" | "sendmsg" | "sendmmsg" => format!("{name} with MSG_FASTOPEN"),
        "setsockopt" => {
            let known =
                |option: &&(u32, u32, Errno, &str)| (option.0, option.1) == (low(1), low(2));
            match SOCKET_OPTIONS.iter().find(known) {
                Some((.., option)) => format!("setsockopt({option})"),
                None => format!("setsockopt({}, {})", low(1), low(2)),
            }
        }
        _ => name.to_owned(),
    }
}

/// Names of the set bits that have one.
fn flags(table: &[(u32, &str)], value: u32) -> String {
    let set = table.iter().filter(|(bit, _)| value & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

const CLONE_FLAGS: &[(u32, &str)] = &[
    (0x0002_0000, "CLONE_NEWNS"),
    (0x0200_0000, "CLONE_NEWCGROUP"),
    (0x0400_0000, "CLONE_NEWUTS"),
    (0x0800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
];

const FAMILIES: &[(u32, &str)] = &[
    (AF_UNIX, "AF_UNIX"),
    (AF_INET, "AF_INET"),
    (3, "AF_AX25"),
    (4, "AF_IPX"),
    (AF_INET6, "AF_INET6"),
    (15, "AF_KEY"),
    (AF_NETLINK, "AF_NETLINK"),
    (17, "AF_PACKET"),
    (21, "AF_RDS"),
    (29, "AF_CAN"),
    (30, "AF_TIPC"),
    (31, "AF_BLUETOOTH"),
    (38, "AF_ALG"),
    (39, "AF_NFC"),
    (40, "AF_VSOCK"),
    (41, "AF_KCM"),
    (42, "AF_QIPCRTR"),
    (43, "AF_SMC"),
    (44, "AF_XDP"),
    (45, "AF_MCTP"),
];

const KINDS: &[(u32, &str)] = &[
    (SOCK_STREAM, "SOCK_STREAM"),
    (SOCK_DGRAM, "SOCK_DGRAM"),
    (SOCK_RAW, "SOCK_RAW"),
    (4, "SOCK_RDM"),
    (SOCK_SEQPACKET, "SOCK_SEQPACKET"),
    (6, "SOCK_DCCP"),
    (SOCK_PACKET, "SOCK_PACKET"),
];
