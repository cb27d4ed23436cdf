//! What the host allows: which interface, where cells can be made, or why not and what mends it.
//!
//! On v1 cells are made below the supervisor's own group in each hierarchy. On v2 they are made below
//! a directory that was delegated to us, which must hold no process itself: so the supervisor first
//! moves to a leaf of its own in it. Where systemd manages the host and has delegated nothing yet, it
//! is asked for a scope. What is found is tried out on a throw-away group before it is called usable.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cgroups_rs::fs::cgroup::get_cgroups_relative_paths;
use cgroups_rs::fs::hierarchies::{UNIFIED_MOUNTPOINT, is_cgroup2_unified_mode, mountinfo_self};
use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::delegation::delegated;
use super::directories::Directories;
use super::scope;
use super::site::{Access, Place, Site, judge, without_scope};
use super::{CellLimits, CgroupError, Cgroups, Way, file, v1, v2};

/// Controllers without which there is no tier with cgroups.
pub(super) const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Name of the supervisor's leaf on v2; `DelegateSubgroup=supervisor` lets systemd make it.
pub(super) const LEAF: &str = "supervisor";
/// Directory of our own at the root of a v2 hierarchy that nobody manages.
pub(super) const TOP: &str = "toolcell";
/// How often this process is looked for in a group's list before it is taken not to be in it.
const LISTS_MAX: usize = 8;
/// Limits of the throw-away group.
const TRIAL: CellLimits = CellLimits {
    memory: 16 << 20,
    swap: 0,
    cpu: 0.1,
    pids: 1,
};

/// What a host allows.
#[derive(Debug)]
pub enum Detection {
    /// Cells can have groups.
    Usable(Cgroups),
    /// They cannot.
    Unusable {
        /// Why.
        reason: String,
        /// What to do about it.
        mend: String,
    },
}

/// What the operator says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Path within the hierarchies, as in `/proc/PID/cgroup`, of an existing directory below which
    /// cells are made, instead of the supervisor's own. Limits of the supervisor's own group then do
    /// not hold for the cells.
    pub parent: Option<PathBuf>,
}

/// Why cells cannot have groups, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    pub reason: String,
    pub mend: String,
}

impl Unusable {
    pub fn new(reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            mend: mend.into(),
        }
    }
}

/// Finds out what the host allows, and on v2 moves this process to a leaf of its own; to be called
/// before the launcher is started, so that it comes along.
#[must_use]
pub fn detect(options: &Options) -> Detection {
    let result = if is_cgroup2_unified_mode() {
        detect_v2(options)
    } else {
        detect_v1(options)
    };
    match result {
        Ok(cgroups) => Detection::Usable(cgroups),
        Err(Unusable { reason, mend }) => Detection::Unusable { reason, mend },
    }
}

fn detect_v1(options: &Options) -> Result<Cgroups, Unusable> {
    let own = own_paths()?;
    let all_mounts = mountinfo_self();
    if all_mounts.is_empty() {
        return Err(Unusable::new(
            format!("no cgroup file system is mounted at {UNIFIED_MOUNTPOINT}"),
            format!("`mount -t cgroup2 none {UNIFIED_MOUNTPOINT}`, or start Toolcell where it is"),
        ));
    }
    let parent_in = |controller: &'static str| -> Result<(PathBuf, PathBuf), Unusable> {
        let missing = || {
            Unusable::new(
                format!("no cgroup v1 hierarchy with the `{controller}` controller is mounted"),
                "mount it, or better, boot with cgroup v2 alone",
            )
        };
        let mounts: Vec<PathBuf> = all_mounts
            .iter()
            .filter(|mount| mount.super_opts.iter().any(|option| option == controller))
            .map(|mount| mount.mount_point.clone())
            .collect();
        let first = mounts.first().ok_or_else(missing)?;
        if let Some(parent) = &options.parent {
            return Ok((beneath(first, parent)?, first.clone()));
        }
        let path = own.get(controller).ok_or_else(missing)?;
        let found = mounts.iter().find_map(|mount| {
            let directory = own_directory(mount, path, &holds_this_process)?;
            Some((directory, mount.clone()))
        });
        found.ok_or_else(|| not_visible(path))
    };
    let (cpu, cpu_mount) = parent_in("cpu")?;
    let (memory, _) = parent_in("memory")?;
    let parents = v1::Parents {
        counts_swap: memory.join("memory.memsw.limit_in_bytes").exists(),
        cores: v1::cores_allowed(&cpu, &cpu_mount),
        pids: parent_in("pids")?.0,
        cpuacct: parent_in("cpuacct")?.0,
        memory,
        cpu,
    };
    let way = match options.parent {
        Some(_) => Way::Named,
        None => Way::Own,
    };
    let given = v1_below(&parents, &format!("{TOP}-{}", geteuid()));
    let of_own = tried(super::Place::V1(parents.clone()), way.clone());
    match of_own {
        Err(error) if given.memory.is_dir() && options.parent.is_none() => {
            tried(super::Place::V1(given), way).map_err(|_| error)
        }
        result => result,
    }
    .map_err(|error| v1_refused(&parents, &error))
}

/// The directories of this name below each of the parents: what root can make for one user, below
/// the groups that the user's processes are in, so that their limits hold.
fn v1_below(parents: &v1::Parents, name: &str) -> v1::Parents {
    v1::Parents {
        memory: parents.memory.join(name),
        pids: parents.pids.join(name),
        cpu: parents.cpu.join(name),
        cpuacct: parents.cpuacct.join(name),
        ..*parents
    }
}

fn v1_refused(parents: &v1::Parents, error: &CgroupError) -> Unusable {
    let reason = format!("cgroup v1 cannot be used: {error}");
    if is_kind(error, std::io::ErrorKind::ReadOnlyFilesystem) {
        return Unusable::new(reason, READ_ONLY_MEND);
    }
    if geteuid().is_root() {
        return Unusable::new(
            reason,
            "let root make directories there, or name another cgroup",
        );
    }
    let uid = geteuid();
    let paths: Vec<String> = parents
        .distinct()
        .iter()
        .map(|path| format!("'{}/{TOP}-{uid}'", path.display()))
        .collect();
    let mend = format!("as root: `install -d -o {uid} {}`", paths.join(" "));
    Unusable::new(reason, mend)
}

pub(super) const READ_ONLY_MEND: &str = "mount the cgroup file system writable: in a container, start \
    it with `--privileged`, or with `--cgroupns=private -v /sys/fs/cgroup:/sys/fs/cgroup:rw`";

fn is_kind(error: &CgroupError, kind: std::io::ErrorKind) -> bool {
    match error {
        CgroupError::Make { source, .. }
        | CgroupError::Read { source, .. }
        | CgroupError::Write { source, .. } => source.kind() == kind,
        _ => false,
    }
}

fn detect_v2(options: &Options) -> Result<Cgroups, Unusable> {
    let (site, own) = look(options)?;
    let (place, way) = match judge(&site) {
        Ok(Place::AtTop(top)) => (Place::AtTop(top), Way::Top),
        Ok(place) if options.parent.is_some() => (place, Way::Named),
        Ok(place) => (place, Way::Delegated),
        // Only who is in its own group is helped by another one.
        Err(refusal) if own && site.scope_helps() => match scope::ask(site.uid) {
            Ok(scope) => {
                tracing::debug!(unit = scope.unit, "systemd gave a scope");
                (judge(&look(options)?.0)?, Way::Asked(scope))
            }
            Err(error) => return Err(without_scope(refusal, &error)),
        },
        Err(refusal) => return Err(refusal),
    };
    made(place, way)
}

/// Looks at the directory that the operator named, or at this process's own; and says which.
fn look(options: &Options) -> Result<(Site, bool), Unusable> {
    let mount = Path::new(UNIFIED_MOUNTPOINT);
    let own = own_paths()?;
    let path = own.get("").map_or("/", String::as_str);
    let own = own_directory(mount, path, &holds_this_process);
    let directory = match (&options.parent, &own) {
        (Some(parent), _) => beneath(mount, parent)?,
        (None, Some(own)) => own.clone(),
        (None, None) => return Err(not_visible(path)),
    };
    let site = inspect(mount, &directory, own.as_deref());
    Ok((site, options.parent.is_none()))
}

/// Prepares the place, and tries it.
fn made(place: Place, way: Way) -> Result<Cgroups, Unusable> {
    let directory = match &place {
        Place::AsItIs(path) | Place::WithLeaf(path) | Place::AtTop(path) => path.clone(),
    };
    let refused = |error: CgroupError| {
        Unusable::new(
            format!(
                "the cgroup `{}` cannot be used: {error}",
                directory.display()
            ),
            "leave it to Toolcell alone: nobody else puts processes into it or changes its \
             `cgroup.subtree_control`",
        )
    };
    let parent = match place {
        Place::AsItIs(parent) => parent,
        Place::WithLeaf(parent) => {
            move_to_leaf(&parent).map_err(refused)?;
            parent
        }
        Place::AtTop(top) => {
            enable_controllers(&top).map_err(refused)?;
            let parent = top.join(TOP);
            match std::fs::create_dir(&parent) {
                Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                    let path = parent;
                    return Err(refused(CgroupError::Make { path, source }));
                }
                _ => parent,
            }
        }
    };
    enable_controllers(&parent).map_err(refused)?;
    let trial = Directories::make(&[&parent], &trial_name()).map_err(refused)?;
    let swap = |group: &PathBuf| group.join("memory.swap.max").exists();
    let counts_swap = trial.paths().first().is_some_and(swap);
    drop(trial);
    let parent = v2::Parent {
        directory: parent,
        counts_swap,
    };
    tried(super::Place::V2(parent), way).map_err(refused)
}

/// Gathers the facts about a directory that [`judge`] decides on.
fn inspect(mount: &Path, directory: &Path, own: Option<&Path>) -> Site {
    let mut base = directory;
    if own == Some(directory)
        && directory.file_name().is_some_and(|name| name == LEAF)
        && let Some(parent) = directory.parent().filter(|path| path.starts_with(mount))
    {
        // Already in the leaf: by systemd's `DelegateSubgroup=`, or by an earlier call.
        base = parent;
    }
    let words = |path: PathBuf| -> Vec<String> {
        let text = file::read(&path).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let uid = geteuid();
    Site {
        access: access(base),
        top: is_top(base),
        kind: words(base.join("cgroup.type")).join(" "),
        delegated: delegated(base, mount, uid.as_raw()),
        others: others(base),
        holds_us: own == Some(base),
        controllers: words(base.join("cgroup.controllers")),
        kernel_controllers: is_top(mount).then(|| words(mount.join("cgroup.controllers"))),
        systemd: Path::new("/run/systemd/system").is_dir(),
        user_manager: Path::new(&format!("/run/user/{uid}/systemd")).is_dir(),
        runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").is_some(),
        uid: uid.as_raw(),
        directory: base.to_owned(),
    }
}

/// Whether a directory is the root of the whole hierarchy: the only one without a type.
fn is_top(directory: &Path) -> bool {
    !directory.join("cgroup.type").exists()
}

/// What we may do in a directory, and to the two files that delegation is about.
fn access(directory: &Path) -> Access {
    let files = ["", "cgroup.procs", "cgroup.subtree_control"];
    let denied = files
        .map(|name| eaccess(&directory.join(name), AccessFlags::W_OK))
        .into_iter()
        .find_map(Result::err);
    match denied {
        None => Access::Yes,
        Some(nix::errno::Errno::EROFS) => Access::ReadOnly,
        Some(nix::errno::Errno::ENOENT) => Access::Missing,
        Some(_) => Access::Denied,
    }
}

/// Processes in a group that are not this one, as `PID (name)`.
fn others(directory: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let text = file::read(&directory.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter(|pid| *pid != own);
    pids.map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{pid} (`{}`)", name.trim_end().escape_debug())
    })
    .collect()
}

fn move_to_leaf(parent: &Path) -> Result<(), CgroupError> {
    let leaf = parent.join(LEAF);
    match std::fs::create_dir(&leaf) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(CgroupError::Make { path: leaf, source });
        }
        _ => {}
    }
    // "0" is the writing process with all its threads.
    file::write(&leaf.join("cgroup.procs"), "0")
}

/// Enables the controllers for what is below, and checks that they are: cgroups-rs drops the errors
/// of these writes, and asks for every controller that the kernel has.
fn enable_controllers(parent: &Path) -> Result<(), CgroupError> {
    let path = parent.join("cgroup.subtree_control");
    let enabled = file::read(&path)?;
    let is_enabled = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let missing: Vec<String> = CONTROLLERS
        .iter()
        .filter(|name| !is_enabled(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    file::write(&path, &missing.join(" "))?;
    let found = file::read(&path)?;
    if CONTROLLERS.iter().all(|name| is_enabled(&found, name)) {
        return Ok(());
    }
    Err(CgroupError::Differs {
        file: "cgroup.subtree_control",
        asked: CONTROLLERS.join(" "),
        found: found.trim().to_owned(),
    })
}

/// Makes a group with limits and removes it again.
fn tried(place: super::Place, way: Way) -> Result<Cgroups, CgroupError> {
    let cgroups = Cgroups { place, way };
    cgroups.create(&trial_name(), &TRIAL)?;
    Ok(cgroups)
}

fn trial_name() -> String {
    static TRIALS: AtomicU32 = AtomicU32::new(0);
    format!("trial-{}", TRIALS.fetch_add(1, Ordering::Relaxed))
}

fn own_paths() -> Result<std::collections::HashMap<String, String>, Unusable> {
    get_cgroups_relative_paths().map_err(|error| {
        Unusable::new(
            format!("the cgroups of this process cannot be told: {error}"),
            "mount /proc, and boot a kernel with control groups (CONFIG_CGROUPS)",
        )
    })
}

/// The directory below a mount that is this process's own group.
///
/// What `/proc/self/cgroup` says begins at the root of a cgroup namespace or of the hierarchy, and
/// the mount may show only a part of that: so each way to read it is held against where this
/// process really is, the longest first.
fn own_directory(mount: &Path, path: &str, holds_us: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let names: Vec<Component<'_>> = Path::new(path)
        .components()
        .filter(|part| !matches!(part, Component::RootDir))
        .collect();
    if names
        .iter()
        .any(|part| !matches!(part, Component::Normal(_)))
    {
        // "/.." is a group outside the namespace: only the whole mount can be it.
        return Some(mount.to_owned()).filter(|directory| holds_us(directory));
    }
    (0..=names.len())
        .map(|from| {
            mount
                .components()
                .chain(names[from..].iter().copied())
                .collect::<PathBuf>()
        })
        .find(|directory| holds_us(directory))
}

/// Whether this process is listed in a group. A v1 list is as long as there were processes when it
/// was begun, so others that come meanwhile can push us, the youngest, off its end: look again.
fn holds_this_process(directory: &Path) -> bool {
    let own = std::process::id().to_string();
    (0..LISTS_MAX).any(|_| {
        let text = file::read(&directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().any(|pid| pid == own)
    })
}

/// The directory that the operator named, as a path below the mount.
fn beneath(mount: &Path, parent: &Path) -> Result<PathBuf, Unusable> {
    let within = parent.strip_prefix(mount).unwrap_or(parent);
    let mut directory = mount.to_owned();
    for part in within.components() {
        match part {
            Component::Normal(name) => directory.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Unusable::new(
                    format!("the cgroup `{}` is not a plain path", parent.display()),
                    "name it as in /proc/PID/cgroup, without `..`",
                ));
            }
        }
    }
    Ok(directory)
}

fn not_visible(path: &str) -> Unusable {
    Unusable::new(
        format!("this process's cgroup `{path}` is not to be seen below /sys/fs/cgroup"),
        "mount the cgroup file system that this process is in: in a container, `--cgroupns=private`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mount: &str, path: &str, real: &str) -> Option<String> {
        let directory = own_directory(Path::new(mount), path, &|path| path == Path::new(real));
        directory.map(|path| path.display().to_string())
    }

    #[test]
    fn the_own_group_is_found_however_much_of_the_hierarchy_is_mounted() {
        let memory = "/sys/fs/cgroup/memory";
        for (path, real) in [
            ("/", memory),
            ("/a/b", "/sys/fs/cgroup/memory/a/b"),
            // A container without a cgroup namespace: its own part is mounted.
            ("/docker/123", memory),
            ("/docker/123/x", "/sys/fs/cgroup/memory/x"),
            // A process that was moved out of its cgroup namespace.
            ("/..", memory),
        ] {
            assert_eq!(found(memory, path, real).as_deref(), Some(real), "{path}");
        }
        assert_eq!(found(memory, "/a", "/sys/fs/cgroup/memory/b"), None);
        assert_eq!(found(memory, "/../a", "/sys/fs/cgroup/memory/../a"), None);
    }

    #[test]
    fn a_named_parent_stays_below_the_mount() {
        let mount = Path::new("/sys/fs/cgroup");
        for named in ["/tools/mine", "tools/mine", "/sys/fs/cgroup/tools/mine"] {
            let directory = beneath(mount, Path::new(named)).unwrap();
            assert_eq!(directory, Path::new("/sys/fs/cgroup/tools/mine"));
        }
        assert!(beneath(mount, Path::new("/tools/../..")).is_err());
    }
}
