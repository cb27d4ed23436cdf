//! The gateway's own confinement, before it has a second thread or has read a byte.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The host user of a gateway under a supervisor that runs as root: nobody else's, and just below
/// those that cells get.
const USER: u32 = 1_999_999_999;
/// Most descriptors: a relay of one connection has two sockets and four ends of pipes.
const DESCRIPTORS_MAX: u64 = 65_536;

/// What a program that only relays between sockets needs.
const CALLS: [libc::c_long; 63] = [
    // Sockets, and moving bytes between them.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    // The two files that come as descriptors.
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    // Waiting; the runtime keeps a pair of nameless sockets for signals.
    libc::SYS_socketpair,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory and threads.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_prlimit64,
    // Ends.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Takes everything away that relaying does not need, and checks that it is gone.
///
/// # Errors
/// If the kernel does not do all of it: a gateway that is not confined does not serve.
pub fn confine() -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setgroups(&[])?;
        let (user, group) = (USER.into(), USER.into());
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    raise_descriptors()?;
    no_files()?;
    only_relaying()
}

/// One relay takes six descriptors, and the usual soft limit is 1,024.
fn raise_descriptors() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS_MAX), hard)?;
    Ok(())
}

/// No file can be opened, made, run or removed, on any kernel; no abstract socket or process outside
/// be reached where Landlock has scopes.
fn no_files() -> io::Result<()> {
    let abi = runner::sys::landlock_abi();
    if abi == 0 {
        return Err(io::Error::other("the kernel has no Landlock"));
    }
    let abi = ABI::from(i32::try_from(abi).unwrap_or(i32::MAX));
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(io::Error::other)?;
    if abi >= ABI::V6 {
        ruleset = ruleset
            .scope(Scope::from_all(abi))
            .map_err(io::Error::other)?;
    }
    let status = ruleset
        .create()
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    let refused = std::fs::File::open("/")
        .err()
        .and_then(|e| e.raw_os_error());
    if status.ruleset != RulesetStatus::FullyEnforced || refused != Some(Errno::EACCES as i32) {
        return Err(io::Error::other(
            "Landlock does not confirm the gateway's ruleset",
        ));
    }
    Ok(())
}

/// The calls above, sockets of TCP and UDP over IP, threads but no processes; all else is refused.
fn only_relaying() -> io::Result<()> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        CALLS.into_iter().map(|call| (call, vec![])).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_epoll_wait, vec![]), (libc::SYS_poll, vec![])]);
    let equals = |argument, value: i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let families = [libc::AF_INET, libc::AF_INET6]
        .map(|family| equals(0, family).and_then(|condition| SeccompRule::new(vec![condition])));
    rules.insert(libc::SYS_socket, all(families)?);
    let threads = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let is_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(threads),
        threads,
    )
    .and_then(|condition| SeccompRule::new(vec![condition]));
    rules.insert(libc::SYS_clone, all([is_thread])?);
    let refuse = SeccompAction::Errno(Errno::EPERM as u32);
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    // The C library goes back to `clone` where there is no `clone3`, whose flags are in memory.
    let no_clone3 = SeccompFilter::new(
        [(libc::SYS_clone3, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(Errno::ENOSYS as u32),
        arch,
    );
    rules.insert(libc::SYS_clone3, vec![]);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch);
    // The second one refuses the calls by which filters are installed.
    for filter in [no_clone3, filter] {
        let program: BpfProgram = filter
            .and_then(BpfProgram::try_from)
            .map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    // Landlock has nothing against it, so that only the filter can refuse it.
    if nix::unistd::chdir("/") == Err(Errno::EPERM) {
        Ok(())
    } else {
        Err(io::Error::other(
            "the kernel does not confirm the gateway's filter",
        ))
    }
}

fn all<const N: usize>(
    rules: [Result<SeccompRule, seccompiler::BackendError>; N],
) -> io::Result<Vec<SeccompRule>> {
    rules
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)
}
