//! What of this host's settings, or of the container around us, keeps cells from being built.
//!
//! Looked at before the supervisor confines itself, which it would take for a restriction from
//! outside. It decides nothing: whether a cell can be had is found out by building one. It explains
//! why one could not be, and which command mends that.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use runner::report::Step;
use runner::spec::Mount;

/// `CAP_SYS_ADMIN`; see capabilities(7).
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// Most covered places that a message names.
const NAMED_MAX: usize = 3;

/// The settings and restrictions, as far as they can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether we are root.
    pub root: bool,
    /// Whether we have `CAP_SYS_ADMIN`.
    pub sys_admin: bool,
    /// `kernel.unprivileged_userns_clone`, where the kernel has it (Debian's and Arch's do).
    pub userns_clone: Option<u64>,
    /// `user.max_user_namespaces`.
    pub userns_max: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu's kernels).
    pub apparmor_userns: Option<u64>,
    /// The AppArmor profile that we run under, if there is one.
    pub apparmor_profile: Option<String>,
    /// Whether a seccomp filter was in force before ours: a container's, mostly.
    pub filtered: bool,
    /// Places in `/proc` with something mounted over them, which container runtimes do.
    pub covered: Vec<PathBuf>,
    /// Our own executable.
    pub program: PathBuf,
}

/// A cause, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// What stands in the way.
    pub why: String,
    /// What to do about it.
    pub mend: String,
}

static AT_START: OnceLock<Surroundings> = OnceLock::new();

/// What there was when it was first asked for, which is to be before anything is confined.
pub fn at_start() -> &'static Surroundings {
    AT_START.get_or_init(Surroundings::look)
}

impl Surroundings {
    fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        let effective = field("CapEff").and_then(|set| u64::from_str_radix(&set, 16).ok());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            root: nix::unistd::geteuid().is_root(),
            sys_admin: effective.is_some_and(|set| set & CAP_SYS_ADMIN != 0),
            userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            userns_max: number("/proc/sys/user/max_user_namespaces"),
            apparmor_userns: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            apparmor_profile: fs::read_to_string("/proc/self/attr/apparmor/current")
                .ok()
                .map(|text| text.trim_end().to_owned())
                // A profile may be there only to be named by: ours is.
                .filter(|text| text.ends_with("(enforce)")),
            filtered: field("Seccomp").is_some_and(|mode| mode == "2"),
            covered: covered(&mounts),
            program: std::env::current_exe().unwrap_or_default(),
        }
    }

    /// Why this step failed here, if these settings explain it.
    #[must_use]
    pub fn explain(&self, step: Step, errno: Errno, mount: Option<&Mount>) -> Option<Hindrance> {
        match (step, errno) {
            (Step::Clone, Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => self.no_namespaces(),
            (Step::Clone, Errno::ENOSPC | Errno::EUSERS) => Some(self.too_many_namespaces()),
            (Step::Clone, Errno::EINVAL) if self.userns_max.is_none() => Some(not_built()),
            (Step::Mount, Errno::EPERM) if matches!(mount, Some(Mount::Proc { .. })) => {
                self.covered_proc().or_else(|| self.restricted())
            }
            // A namespace that AppArmor has emptied of its rights is made, and nothing in it is
            // allowed; a container's filter may let it be made, too, and forbid the mounts.
            (_, Errno::EPERM | Errno::EACCES) => self.restricted(),
            _ => None,
        }
    }

    /// What forbids namespaces at all to this user, before anything was tried.
    #[must_use]
    pub fn forbids_namespaces(&self) -> Option<Hindrance> {
        if self.userns_clone == Some(0) && !self.sys_admin {
            return Some(hindrance(
                "user namespaces are forbidden to ordinary users (`kernel.unprivileged_userns_clone = 0`)",
                "as root: `sysctl -w kernel.unprivileged_userns_clone=1`, and the same line in \
                 /etc/sysctl.d/ to keep it",
            ));
        }
        match self.userns_max {
            Some(0) => Some(self.too_many_namespaces()),
            Some(_) => None,
            None => Some(not_built()),
        }
    }

    fn no_namespaces(&self) -> Option<Hindrance> {
        self.forbids_namespaces().or_else(|| self.restricted())
    }

    /// What takes rights away that this user has else.
    fn restricted(&self) -> Option<Hindrance> {
        if self.apparmor_userns == Some(1) && !self.sys_admin {
            return Some(hindrance(
                "AppArmor restricts user namespaces (`kernel.apparmor_restrict_unprivileged_userns = 1`)",
                &apparmor_mend(&self.program),
            ));
        }
        if self.filtered {
            return Some(hindrance(
                "a seccomp filter from outside is in force, as container runtimes set one, and forbids \
                 namespaces or mounts",
                "start the container with `--security-opt seccomp=unconfined --security-opt \
                 systempaths=unconfined`, or on Kubernetes with `seccompProfile: {type: Unconfined}` \
                 and `procMount: Unmasked`",
            ));
        }
        let profile = self.apparmor_profile.as_ref()?;
        Some(Hindrance {
            why: format!("AppArmor confines this process already, by the profile `{profile}`"),
            mend:
                "start it without: in a container, with `--security-opt apparmor=unconfined`; else \
                   put the one in its place that Toolcell ships (`packaging/apparmor/toolcell`)"
                    .to_owned(),
        })
    }

    fn too_many_namespaces(&self) -> Hindrance {
        let limit = match self.userns_max {
            Some(0) => "`user.max_user_namespaces = 0`",
            // The limit of every namespace around this one counts, too, and is not seen here.
            _ => "`user.max_user_namespaces` is reached, here or around a container",
        };
        Hindrance {
            why: format!("no more user namespaces may be made ({limit})"),
            mend: "as root: `sysctl -w user.max_user_namespaces=15000`, and the same line in \
                   /etc/sysctl.d/ to keep it"
                .to_owned(),
        }
    }

    /// What is mounted within `/proc`, if anything is: a fresh one would uncover it.
    #[must_use]
    pub fn covered_proc(&self) -> Option<Hindrance> {
        let named = &self.covered[..self.covered.len().min(NAMED_MAX)];
        let named: Vec<_> = named
            .iter()
            .map(|path| format!("`{}`", path.display()))
            .collect();
        let more = match self.covered.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| Hindrance {
            why: format!(
                "parts of `/proc` are covered here, as in a container ({}{more}), and the kernel gives \
                 no fresh one where something is hidden",
                named.join(", ")
            ),
            mend: "start the container with `--security-opt systempaths=unconfined`, on Kubernetes with \
                   `procMount: Unmasked`; in a systemd unit, without `ProtectKernelTunables=` and its \
                   like; else `umount` them"
                .to_owned(),
        })
    }
}

fn hindrance(why: &str, mend: &str) -> Hindrance {
    Hindrance {
        why: why.to_owned(),
        mend: mend.to_owned(),
    }
}

fn not_built() -> Hindrance {
    hindrance(
        "this kernel has no user namespaces",
        "run one that is built with CONFIG_USER_NS",
    )
}

/// The command that lets this one program make user namespaces where AppArmor restricts them.
fn apparmor_mend(program: &Path) -> String {
    let program = program.display();
    format!(
        "as root: `printf 'abi <abi/4.0>,\\nprofile toolcell \"{program}\" flags=(unconfined) {{ userns, \
         }}\\n' > /etc/apparmor.d/toolcell && apparmor_parser -r /etc/apparmor.d/toolcell`"
    )
}

/// Mount points within `/proc`, but for the one that is mounted on demand on every host with systemd.
fn covered(mountinfo: &str) -> Vec<PathBuf> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4));
    let within = points
        .filter(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc")
        .map(PathBuf::from);
    let mut found: Vec<_> = within.collect();
    found.dedup();
    found
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Surroundings {
        Surroundings {
            userns_max: Some(60_000),
            program: "/opt/my tools/toolcell".into(),
            ..Surroundings::default()
        }
    }

    #[track_caller]
    fn explained(
        at: &Surroundings,
        step: Step,
        errno: Errno,
        mount: Option<&Mount>,
        why: &str,
        mend: &str,
    ) {
        let found = at.explain(step, errno, mount).expect("it is explained");
        assert!(found.why.contains(why), "{}", found.why);
        assert!(found.mend.contains(mend), "{}", found.mend);
    }

    #[test]
    fn each_setting_is_named_with_the_command_that_mends_it() {
        let (clone, eperm) = (Step::Clone, Errno::EPERM);
        let debian = Surroundings {
            userns_clone: Some(0),
            ..usual()
        };
        explained(
            &debian,
            clone,
            eperm,
            None,
            "unprivileged_userns_clone",
            "sysctl -w",
        );
        let none = Surroundings {
            userns_max: Some(0),
            ..usual()
        };
        explained(
            &none,
            clone,
            Errno::ENOSPC,
            None,
            "max_user_namespaces = 0",
            "sysctl -w",
        );
        let ubuntu = Surroundings {
            apparmor_userns: Some(1),
            ..usual()
        };
        for step in [Step::Clone, Step::MapIds, Step::Network, Step::Hostname] {
            explained(
                &ubuntu,
                step,
                eperm,
                None,
                "AppArmor restricts",
                "apparmor_parser -r",
            );
        }
        let docker = Surroundings {
            filtered: true,
            covered: vec!["/proc/kcore".into()],
            ..usual()
        };
        explained(
            &docker,
            clone,
            eperm,
            None,
            "seccomp filter from outside",
            "seccomp=unconfined",
        );
        let proc = Mount::Proc {
            target: "/proc".into(),
        };
        explained(
            &docker,
            Step::Mount,
            eperm,
            Some(&proc),
            "`/proc/kcore`",
            "systempaths",
        );
        let confined = Surroundings {
            apparmor_profile: Some("docker-default (enforce)".into()),
            ..usual()
        };
        explained(
            &confined,
            Step::Staging,
            eperm,
            None,
            "docker-default",
            "apparmor=unconfined",
        );
    }

    #[test]
    fn what_has_another_cause_is_not_explained() {
        let mut restricted = usual();
        restricted.userns_clone = Some(0);
        restricted.apparmor_userns = Some(1);
        assert_eq!(restricted.explain(Step::Mount, Errno::ENOENT, None), None);
        assert_eq!(usual().explain(Step::Clone, Errno::EPERM, None), None);
        // Root is not held up by what ordinary users are.
        restricted.sys_admin = true;
        assert_eq!(restricted.explain(Step::Clone, Errno::EPERM, None), None);
    }

    #[test]
    fn the_mend_for_apparmor_is_a_whole_command() {
        let mend = apparmor_mend(Path::new("/opt/my tools/toolcell"));
        let command = r#"`printf 'abi <abi/4.0>,\nprofile toolcell "/opt/my tools/toolcell" flags=(unconfined) { userns, }\n' > /etc/apparmor.d/toolcell && apparmor_parser -r /etc/apparmor.d/toolcell`"#;
        assert!(mend.ends_with(command), "{mend}");
    }

    #[test]
    fn what_is_mounted_within_proc_is_found() {
        let mounts = "\
            22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
            30 22 0:29 / /proc/sys/fs/binfmt_misc rw shared:14 - autofs systemd-1 rw\n\
            40 22 0:31 / /proc/acpi ro - tmpfs tmpfs ro\n\
            41 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n\
            42 28 0:6 / /process rw - tmpfs tmpfs rw\n";
        let found = covered(mounts);
        assert_eq!(found, [Path::new("/proc/acpi"), Path::new("/proc/kcore")]);
    }
}
