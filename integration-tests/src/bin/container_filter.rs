//! Puts a filter like the one that Docker sets on containers without `CAP_SYS_ADMIN` into force, and
//! executes a command under it: `container_filter COMMAND ARGUMENT…`.
//!
//! What matters of Docker's here: no namespaces and no mounts (`EPERM`), and no `clone3` (`ENOSYS`,
//! so that C libraries fall back to `clone`, whose flags can be looked at).

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Flags of `clone(2)` for new namespaces, as in Docker's filter.
const NAMESPACES: u64 = 0x7e02_0000;

const FORBIDDEN: [libc::c_long; 18] = [
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn apply(rules: Rules, errno: libc::c_int) -> Result<(), seccompiler::Error> {
    let errno = u32::try_from(errno).expect("errors are positive");
    let arch = std::env::consts::ARCH
        .try_into()
        .expect("an architecture of ours");
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        arch,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

fn namespaces(flag: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(flag),
        flag,
    )?;
    SeccompRule::new(vec![condition])
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().expect("a command is given");
    let mut forbidden: Rules = FORBIDDEN.into_iter().map(|call| (call, vec![])).collect();
    let flags = (0..u64::BITS)
        .map(|bit| 1 << bit)
        .filter(|flag| NAMESPACES & flag != 0);
    let clone = flags.map(|flag| namespaces(flag).expect("the rule is well-formed"));
    forbidden.insert(libc::SYS_clone, clone.collect());
    let unknown = Rules::from([(libc::SYS_clone3, vec![])]);
    apply(unknown, libc::ENOSYS).expect("the kernel takes filters");
    apply(forbidden, libc::EPERM).expect("the kernel takes filters");
    let error = Command::new(command).args(words).exec();
    eprintln!("could not be executed: {error}");
    ExitCode::FAILURE
}
