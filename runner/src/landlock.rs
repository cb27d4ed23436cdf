//! The Landlock domain of the tool; see landlock(7).
//!
//! A ruleset names inodes. `/tmp`, `/work` and the root itself are new in every cell, and a ruleset
//! cannot be copied, so each cell fills one of its own: about 1.5 µs a rule, with paths of one or
//! two components that are looked up in the finished root where nothing else runs yet.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;

use crate::confine::At;
use crate::report::{SetupFailure, Step};
use crate::spec::{Landlock, LandlockRule};

/// A file in every cell's root that no rule allows to be read: a domain that is in force refuses it.
pub const CANARY: &str = "/.unreadable";

/// Enforces the ruleset on this process, wholly or not at all.
pub(crate) fn enforce(orders: &Landlock, call_rules: &[LandlockRule]) -> Result<(), SetupFailure> {
    let mut ruleset = create(orders).at(Step::Landlock)?;
    for (index, rule) in orders.rules.iter().chain(call_rules).enumerate() {
        ruleset = add(ruleset, orders, rule).at_item(Step::Landlock, index)?;
    }
    let status = ruleset
        .restrict_self()
        .map_err(|error| errno_of(&error))
        .at(Step::Landlock)?;
    // HardRequirement leaves no other status, but this is the line that the design rests on.
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(SetupFailure {
            step: Step::Landlock,
            errno: 0,
            index: 0,
        });
    }
    Ok(())
}

/// Gives the cell's first process a domain that allows nothing: it needs no file any more.
///
/// Signals are left out: the tool's processes are in another domain, and this one must be able to
/// ask them to end.
pub(crate) fn enforce_nothing_allowed(orders: &Landlock) -> Result<(), Errno> {
    let orders = Landlock {
        scoped: 0,
        rules: Vec::new(),
        ..orders.clone()
    };
    let status = create(&orders)?
        .restrict_self()
        .map_err(|error| errno_of(&error))?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Whether the domain refuses what no rule allows.
pub(crate) fn refuses_canary() -> bool {
    std::fs::File::open(CANARY).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

fn create(orders: &Landlock) -> Result<RulesetCreated, Errno> {
    let scoped = BitFlags::<Scope>::from_bits(orders.scoped).map_err(|_| Errno::EINVAL)?;
    let network =
        BitFlags::<AccessNet>::from_bits(orders.handled_net).map_err(|_| Errno::EINVAL)?;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(rights(orders.handled_fs)?)
        .map_err(|error| errno_of(&error))?;
    if !network.is_empty() {
        ruleset = ruleset
            .handle_access(network)
            .map_err(|error| errno_of(&error))?;
    }
    if !scoped.is_empty() {
        ruleset = ruleset.scope(scoped).map_err(|error| errno_of(&error))?;
    }
    ruleset.create().map_err(|error| errno_of(&error))
}

fn add(
    ruleset: RulesetCreated,
    orders: &Landlock,
    rule: &LandlockRule,
) -> Result<RulesetCreated, Errno> {
    let mut access = rights(rule.access)?;
    if !is_directory(&rule.path)? {
        // The kernel refuses rights on a file that only a directory can have.
        access &= AccessFs::from_file(ABI::from(i32::try_from(orders.abi).unwrap_or(0)));
    }
    let anchor = PathFd::new(&rule.path).map_err(|_| errno_of_open(&rule.path))?;
    ruleset
        .add_rule(PathBeneath::new(anchor, access))
        .map_err(|error| errno_of(&error))
}

fn rights(bits: u64) -> Result<BitFlags<AccessFs>, Errno> {
    BitFlags::from_bits(bits).map_err(|_| Errno::EINVAL)
}

fn is_directory(path: &Path) -> Result<bool, Errno> {
    let stat = nix::sys::stat::stat(path)?;
    Ok(stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR)
}

/// The crate wraps the kernel's error in layers of its own; the innermost is an I/O error.
fn errno_of(error: &RulesetError) -> Errno {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Errno::from_raw(io.raw_os_error().unwrap_or(0));
        }
        source = error.source();
    }
    // Every other variant says that the kernel does not know a right or scope that was asked for.
    Errno::EOPNOTSUPP
}

fn errno_of_open(path: &PathBuf) -> Errno {
    match std::fs::File::open(path) {
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        Ok(_) => Errno::EACCES,
    }
}
