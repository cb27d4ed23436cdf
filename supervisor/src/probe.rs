//! What this host can do, as facts that profiles are compiled for.

use std::collections::{BTreeMap, BTreeSet};

use profiles::host::{Arch, Host};
use profiles::tier::Tier;

/// `SECCOMP_RET_USER_NOTIF`; see seccomp(2).
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// Why this host cannot have cells at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No filter is written for this processor.
    #[error("toolcell has no system call filter for this processor; it knows x86_64 and aarch64")]
    Architecture,
    /// Landlock is missing.
    #[error(
        "this kernel does not enforce Landlock; hint: boot with `landlock` in the `lsm=` list of the \
         kernel's command line (`cat /sys/kernel/security/lsm` shows the present one), or run \
         Linux 5.13 or later"
    )]
    Landlock,
}

/// Asks the kernel. The facts about paths and secrets are filled in by whoever compiles.
///
/// # Errors
/// If cells cannot be had here.
pub fn host(tier: Tier) -> Result<Host, ProbeError> {
    let arch = Arch::native().ok_or(ProbeError::Architecture)?;
    let landlock_abi = runner::sys::landlock_abi();
    if landlock_abi == 0 {
        return Err(ProbeError::Landlock);
    }
    let notify = runner::sys::seccomp_action_available(RET_USER_NOTIF);
    Ok(Host {
        arch,
        landlock_abi,
        notify,
        tier,
        secrets: BTreeSet::new(),
        paths: BTreeMap::new(),
    })
}
