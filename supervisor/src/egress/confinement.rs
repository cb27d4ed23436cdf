//! The gateway's own confinement, before it has a second thread or has read a byte.

use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use profiles::filter::own;
use profiles::host::Arch;
use runner::sys::Capabilities;

/// The host user of a gateway under a supervisor that runs as root: nobody else's, and just below
/// those that cells get.
const USER: u32 = 1_999_999_999;
/// Most descriptors: a relay of one connection has two sockets and four ends of pipes.
const DESCRIPTORS_MAX: u64 = 65_536;
/// `CAP_SETGID`, `CAP_SETUID`, `CAP_SETPCAP`: root becomes that user with them, and gives them up.
const TO_CHANGE_USER: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// Takes everything away that relaying does not need, and checks that it is gone.
///
/// # Errors
/// If the kernel does not do all of it: a gateway that is not confined does not serve.
pub fn confine() -> io::Result<()> {
    no_privileges()?;
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    raise_descriptors()?;
    no_files()?;
    only_relaying()
}

/// No capabilities, and under root another user; read back from the kernel.
fn no_privileges() -> io::Result<()> {
    let root = nix::unistd::geteuid().is_root();
    if root {
        nix::unistd::setgroups(&[])?;
        runner::sys::keep_capabilities(TO_CHANGE_USER)?;
        let (user, group) = (USER.into(), USER.into());
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
        runner::sys::drop_capabilities()?;
    } else {
        runner::sys::keep_capabilities(0)?;
    }
    let found = Capabilities::of_this_thread()?;
    // An ordinary user may not shrink the bounding set, and no_new_privs makes nothing of it.
    let bounding = if root { found.bounding } else { 0 };
    if found.effective | found.permitted | found.inheritable | found.ambient | bounding != 0 {
        let what = format!("the gateway has capabilities left: {found:x?}");
        return Err(io::Error::other(what));
    }
    Ok(())
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

/// The calls of `profiles/own/gateway.toml`; all else is refused.
fn only_relaying() -> io::Result<()> {
    let arch = Arch::native()
        .ok_or_else(|| io::Error::other("no filter is written for this processor"))?;
    let filter = own::filter(own::Process::Gateway, arch).map_err(io::Error::other)?;
    runner::sys::install_filter(&filter.program, false)?;
    // Landlock has nothing against it, so that only the filter can refuse it.
    if nix::unistd::chdir("/") == Err(Errno::EPERM) {
        Ok(())
    } else {
        Err(io::Error::other(
            "the kernel does not confirm the gateway's filter",
        ))
    }
}
