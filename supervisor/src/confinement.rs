//! The supervisor confines itself, once everything is set up and before it has threads.
//!
//! It reads what models and tools send. Should they take it over, what is left to them is this
//! process: its capabilities, a Landlock domain, and the filter of `profiles/own/supervisor.toml`.
//! The launcher was started before and stays outside, as it must mount; it takes whole orders only.
//!
//! Reading is not restricted. Profiles are read again when they change, and what a cell hands back is
//! on mounts that no rule of ours could name.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use profiles::filter::own;
use profiles::host::Arch;
use runner::spec::Filter;
use runner::sys::{Capabilities, SingleThreaded};

/// What root keeps: `CAP_DAC_OVERRIDE`, to collect from, unmark and remove directories of cells'
/// users. To kill a cell takes no capability: its user namespace belongs to our user.
pub const ROOT_KEEPS: u64 = 1 << 1;
/// Newest Landlock ABI that is used, as in cells.
const ABI_MAX: u32 = profiles::compile::ABI_MAX;
/// A file that its owner may always write to, and that no rule names: opening it does nothing.
const CANARY: &str = "/proc/self/comm";

/// Largest core dump. By 0, the kernel would still hand our memory, secrets included, to the program
/// that `core_pattern` names; by this it does not, and a file of it holds nothing (`fs/coredump.c`).
const CORE_BYTES: u64 = 1;

/// Where the supervisor goes on writing.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Receipts, results, workspaces.
    pub state: Option<PathBuf>,
    /// A directory of the user's for what a tool left: files are made there, and none is removed.
    pub out: Option<PathBuf>,
    /// Below these, cells' control groups are made.
    pub cgroups: Vec<PathBuf>,
    /// A process that is like cells' in that it stays outside, whose entries in `/proc` must stay to
    /// be seen: in a tier that adds up what they say.
    pub seen: Option<u32>,
    /// The journal's socket, if the log goes there: its messages name it each time.
    pub journal: Option<PathBuf>,
    /// It has sockets to accept connections from.
    pub listens: bool,
}

/// What the kernel has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Of the Landlock domain.
    pub landlock_abi: u32,
    /// Effective capabilities that are left.
    pub capabilities: u64,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = match self.capabilities {
            0 => "no capabilities",
            ROOT_KEEPS => "no capabilities but CAP_DAC_OVERRIDE",
            _ => "fewer capabilities",
        };
        write!(f, "Landlock ABI {}, seccomp, {kept}", self.landlock_abi)
    }
}

/// Why the supervisor could not confine itself.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor could not confine itself: {step}: {what}")]
pub struct ConfinementError {
    step: &'static str,
    what: String,
}

trait In<T> {
    fn step(self, step: &'static str) -> Result<T, ConfinementError>;
}

impl<T, E: fmt::Display> In<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, ConfinementError> {
        self.map_err(|error| refused(step, error.to_string()))
    }
}

fn refused(step: &'static str, what: impl Into<String>) -> ConfinementError {
    ConfinementError {
        step,
        what: what.into(),
    }
}

/// Confines this process for good, and reads back from the kernel that it holds.
///
/// # Errors
/// If anything does not hold. Some of it may then, so the process is of no use any more but to say so.
pub fn confine(places: &Places) -> Result<Confined, ConfinementError> {
    SingleThreaded::check()
        .map_err(|_| "there are other threads already")
        .step("threads")?;
    let arch = Arch::native()
        .ok_or("no filter is written for this processor")
        .step("seccomp")?;
    let process = if places.listens {
        own::Process::Listener
    } else {
        own::Process::Supervisor
    };
    let filter = own::filter(process, arch).step("seccomp")?;
    // What is refused afterwards must have worked before, or its refusal says nothing.
    open_canary().step("the canary, before")?;

    let root = nix::unistd::geteuid().is_root();
    let keep = if root { ROOT_KEEPS } else { 0 };
    no_core_dump().step("core dumps")?;
    runner::sys::keep_capabilities(keep).step("capabilities")?;
    nix::sys::prctl::set_no_new_privs().step("no_new_privs")?;
    let landlock_abi = enforce_landlock(places).step("Landlock")?;
    runner::sys::install_filter(&filter.program, false).step("seccomp")?;
    read_back(keep, root)?;
    if let Some(pid) = places.seen {
        std::fs::read(format!("/proc/{pid}/stat"))
            .map_err(|_| {
                "`/proc` hides processes (`hidepid`) whose use must be added up; hint: mount it \
                 without, or use the tier `full`"
            })
            .step("/proc")?;
    }
    let capabilities = Capabilities::of_this_thread().step("capabilities")?;
    Ok(Confined {
        landlock_abi,
        capabilities: capabilities.effective,
    })
}

/// The filter of cells' readers, for the launcher.
///
/// # Errors
/// If none is written for this processor.
pub fn reader_filter() -> Result<Filter, ConfinementError> {
    let arch = Arch::native()
        .ok_or("no filter is written for this processor")
        .step("seccomp")?;
    own::filter(own::Process::Reader, arch).step("seccomp")
}

/// Enforces a domain in which nothing can be executed or connected to, and something written beneath
/// the places only. Returns its ABI.
///
/// Signals are not scoped: cells are outside of the domain, and must be killed.
fn enforce_landlock(places: &Places) -> Result<u32, String> {
    let number = runner::sys::landlock_abi().min(ABI_MAX);
    if number == 0 {
        return Err("not enforced by this kernel".to_owned());
    }
    let abi = ABI::from(i32::try_from(number).unwrap_or(i32::MAX));
    let handled = AccessFs::from_all(abi) & !(AccessFs::ReadFile | AccessFs::ReadDir);
    let text = |error: landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(handled)
        .map_err(text)?;
    let network = AccessNet::from_all(abi);
    if !network.is_empty() {
        ruleset = ruleset.handle_access(network).map_err(text)?;
    }
    if Scope::from_all(abi).contains(Scope::AbstractUnixSocket) {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket).map_err(text)?;
    }
    let files = AccessFs::WriteFile | AccessFs::Truncate;
    let directories = AccessFs::MakeDir | AccessFs::RemoveDir;
    let whole = files | directories | AccessFs::MakeReg | AccessFs::RemoveFile;
    let state = places.state.iter().map(|path| (path, whole));
    let groups = places
        .cgroups
        .iter()
        .map(|path| (path, files | directories));
    // Before ABI 9 Landlock has no such right, and looking a socket up is not restricted.
    let right = BitFlags::from(AccessFs::ResolveUnix) & handled;
    let journal = places.journal.iter().filter(|_| !right.is_empty());
    let journal = journal.map(|path| (path, right));
    let makes = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::WriteFile;
    let out = places.out.iter().map(|path| (path, makes));
    let mut ruleset = ruleset.create().map_err(text)?;
    for (path, access) in state.chain(groups).chain(journal).chain(out) {
        let rule = beneath(path, access & handled)?;
        ruleset = ruleset.add_rule(rule).map_err(text)?;
    }
    let status = ruleset.restrict_self().map_err(text)?;
    if status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs {
        Ok(number)
    } else {
        Err("not fully enforced".to_owned())
    }
}

fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, String> {
    let opened = PathFd::new(path).map_err(|error| error.to_string())?;
    Ok(PathBeneath::new(opened, access))
}

fn no_core_dump() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    let most = hard.min(CORE_BYTES);
    setrlimit(Resource::RLIMIT_CORE, most, most)
}

/// Asks the kernel what holds.
fn read_back(keep: u64, root: bool) -> Result<(), ConfinementError> {
    let no_new_privs = nix::sys::prctl::get_no_new_privs().step("no_new_privs")?;
    if !no_new_privs {
        return Err(refused("no_new_privs", "it reads back as not set"));
    }
    let found = Capabilities::of_this_thread().step("capabilities")?;
    let could_gain = if root { found.bounding } else { 0 };
    let held = found.effective | found.permitted | could_gain;
    if held & !keep != 0 || found.inheritable | found.ambient != 0 {
        return Err(refused("capabilities", format!("{found:x?} are left")));
    }
    match open_canary() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        result => {
            let what = format!("`{CANARY}` can still be written to: {result:?}");
            return Err(refused("Landlock", what));
        }
    }
    // A filter from outside may be in force as well, so the kernel's word that there is one is not
    // enough. Landlock lets a socket be made, and so does every container.
    let flags = SockFlag::SOCK_CLOEXEC;
    match socket(AddressFamily::Unix, SockType::Stream, flags, None) {
        Err(Errno::EPERM) => Ok(()),
        result => {
            let what = format!("a socket can still be made: {result:?}");
            Err(refused("seccomp", what))
        }
    }
}

/// Opens the canary for writing, and writes nothing.
fn open_canary() -> io::Result<File> {
    File::options().write(true).open(CANARY)
}
