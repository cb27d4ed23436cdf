//! Whether a directory of cgroup v2 is one to make cells in: a pure decision on facts.

use std::path::PathBuf;

use super::detect::{CONTROLLERS, READ_ONLY_MEND, Unusable};
use super::scope::ScopeError;

/// Most processes that a message names.
const NAMED_MAX: usize = 3;

/// What was found out about a directory, and about who asks.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // one independent fact each
pub(super) struct Site {
    pub directory: PathBuf,
    pub access: Access,
    /// Whether it is the root of the whole hierarchy.
    pub top: bool,
    /// `cgroup.type`.
    pub kind: String,
    /// Whether systemd has delegated it, if that can be told.
    pub delegated: Option<bool>,
    /// Processes in it other than this one.
    pub others: Vec<String>,
    /// Whether this process is in it.
    pub holds_us: bool,
    /// `cgroup.controllers`.
    pub controllers: Vec<String>,
    /// `cgroup.controllers` of the hierarchy's root, if it is to be seen: a container sees only a part.
    pub kernel_controllers: Option<Vec<String>>,
    /// Whether systemd manages the host.
    pub systemd: bool,
    /// Whether a systemd of this user's runs.
    pub user_manager: bool,
    /// Whether `XDG_RUNTIME_DIR` is set, by which that one is found; cron and `su` do not set it.
    pub runtime_dir: bool,
    pub uid: u32,
}

/// What we may do in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Yes,
    Denied,
    ReadOnly,
    Missing,
}

/// Where cells are to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this directory, which holds no process.
    AsItIs(PathBuf),
    /// In this directory, once this process has left it for a leaf.
    WithLeaf(PathBuf),
    /// In a directory of ours below this one, the root of the hierarchy.
    AtTop(PathBuf),
}

/// Decides.
pub(super) fn judge(site: &Site) -> Result<Place, Unusable> {
    let path = site.directory.display();
    match site.access {
        Access::Missing => {
            return Err(Unusable::new(
                format!("there is no cgroup `{path}`"),
                "make it first, or leave the choice to Toolcell",
            ));
        }
        Access::ReadOnly => {
            let reason = format!("the cgroup `{path}` is mounted read-only");
            return Err(Unusable::new(reason, READ_ONLY_MEND));
        }
        Access::Denied => {
            let reason = format!("the cgroup `{path}` is not delegated to user {}", site.uid);
            return Err(Unusable::new(reason, site.ask_for_delegation()));
        }
        Access::Yes => {}
    }
    // Root may write anywhere, and a user in all that its own systemd manages: neither makes it ours.
    if site.systemd && site.delegated == Some(false) {
        let reason = format!("the cgroup `{path}` is systemd's, which has not delegated it");
        return Err(Unusable::new(reason, site.ask_for_delegation()));
    }
    if !site.top && site.kind != "domain" {
        return Err(Unusable::new(
            format!("the cgroup `{path}` is `{}`, not a domain", site.kind),
            "start Toolcell in a cgroup without threaded ones around it",
        ));
    }
    site.has_controllers()?;
    if site.top {
        // The one group that may hold processes and hand controllers down.
        return Ok(Place::AtTop(site.directory.clone()));
    }
    if !site.others.is_empty() {
        let named = &site.others[..site.others.len().min(NAMED_MAX)];
        let more = match site.others.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let reason = format!(
            "the cgroup `{path}` holds other processes, so that it cannot hand its controllers down: \
             {}{more}",
            named.join(", ")
        );
        return Err(Unusable::new(reason, site.ask_for_delegation()));
    }
    let directory = site.directory.clone();
    if site.holds_us {
        Ok(Place::WithLeaf(directory))
    } else {
        Ok(Place::AsItIs(directory))
    }
}

/// A refusal, when the scope that could have mended it was not to be had either.
pub(super) fn without_scope(refusal: Unusable, error: &ScopeError) -> Unusable {
    let mend = match error {
        ScopeError::MainProcess => "put `Delegate=yes` into the unit".to_owned(),
        _ => refusal.mend,
    };
    Unusable {
        reason: format!("{}; {error}", refusal.reason),
        mend,
    }
}

impl Site {
    /// Whether a scope of systemd's could be what this directory is not.
    pub fn scope_helps(&self) -> bool {
        self.systemd && matches!(self.access, Access::Yes | Access::Denied)
    }

    fn has_controllers(&self) -> Result<(), Unusable> {
        let lacks = |list: &[String]| -> Vec<&'static str> {
            let is_missing = |name: &&str| !list.iter().any(|found| found == *name);
            CONTROLLERS.into_iter().filter(is_missing).collect()
        };
        let missing = lacks(&self.controllers);
        if missing.is_empty() {
            return Ok(());
        }
        let (path, missing) = (self.directory.display(), missing.join("`, `"));
        let reason = format!("the cgroup `{path}` lacks the controllers `{missing}`");
        let kernel_lacks = self
            .kernel_controllers
            .as_deref()
            .map(lacks)
            .unwrap_or_default();
        let mend = if kernel_lacks.contains(&"memory") {
            "boot the kernel with `cgroup_enable=memory`, and without `cgroup_disable=`".into()
        } else if !kernel_lacks.is_empty() {
            "boot a kernel that has them on cgroup v2, and mount no cgroup v1 hierarchy".into()
        } else if self.systemd && self.uid != 0 {
            format!(
                "{}; if that does not give them, as root put `[Service]` and \
                 `Delegate=cpu memory pids` into /etc/systemd/system/user@.service.d/delegate.conf, \
                 `systemctl daemon-reload`, and log in again",
                self.ask_for_delegation()
            )
        } else if self.systemd {
            self.ask_for_delegation()
        } else {
            format!(
                "enable them in `cgroup.subtree_control` of the cgroup above `{path}`; for a container, \
                 outside it"
            )
        };
        Err(Unusable::new(reason, mend))
    }

    /// The line that gives Toolcell a directory of its own.
    fn ask_for_delegation(&self) -> String {
        let uid = self.uid;
        let find = if self.runtime_dir {
            String::new()
        } else {
            format!("XDG_RUNTIME_DIR=/run/user/{uid} ")
        };
        let own = format!("`{find}systemd-run --user --scope -p Delegate=yes -- toolcell …`");
        match (self.systemd, uid) {
            (true, 0) => "start it as `systemd-run --scope -p Delegate=yes -- toolcell …`, or put \
                          `Delegate=yes` into its unit"
                .into(),
            (true, _) if self.user_manager => format!("start it as {own}"),
            (true, _) => format!("as root: `loginctl enable-linger {uid}`; then start it as {own}"),
            (false, 0) => "start it in a cgroup where it is alone: make a directory below \
                           /sys/fs/cgroup, write its pid to the `cgroup.procs` there, and start it"
                .into(),
            (false, _) => format!(
                "as root make a directory below /sys/fs/cgroup with `memory`, `pids` and `cpu` \
                 enabled, `chown {uid}` it and its `cgroup.procs` and `cgroup.subtree_control`, and \
                 start Toolcell in it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// A scope that a user's systemd has delegated.
    fn delegated() -> Site {
        Site {
            directory: "/sys/fs/cgroup/user.slice/run-1.scope".into(),
            access: Access::Yes,
            top: false,
            kind: "domain".into(),
            delegated: Some(true),
            others: Vec::new(),
            holds_us: true,
            controllers: words("cpu memory pids"),
            kernel_controllers: Some(words("cpuset cpu io memory hugetlb pids rdma misc")),
            systemd: true,
            user_manager: true,
            runtime_dir: true,
            uid: 1000,
        }
    }

    #[test]
    fn a_delegated_scope_gets_a_leaf() {
        let site = delegated();
        assert_eq!(judge(&site), Ok(Place::WithLeaf(site.directory.clone())));
        let elsewhere = Site {
            holds_us: false,
            ..site
        };
        let directory = elsewhere.directory.clone();
        assert_eq!(judge(&elsewhere), Ok(Place::AsItIs(directory)));
    }

    #[track_caller]
    fn refused(site: &Site, reason: &str, mend: &str) {
        let refusal = judge(site).expect_err("it was found fit");
        assert!(refusal.reason.contains(reason), "{}", refusal.reason);
        assert!(refusal.mend.contains(mend), "{}", refusal.mend);
    }

    #[test]
    fn a_login_session_is_told_to_ask_its_own_systemd() {
        let site = Site {
            access: Access::Denied,
            delegated: Some(false),
            ..delegated()
        };
        refused(
            &site,
            "not delegated to user 1000",
            "systemd-run --user --scope -p Delegate=yes",
        );
        let cron = Site {
            runtime_dir: false,
            ..site
        };
        refused(
            &cron,
            "not delegated",
            "start it as `XDG_RUNTIME_DIR=/run/user/1000 systemd-run",
        );
        let never_logged_in = Site {
            user_manager: false,
            ..cron
        };
        refused(
            &never_logged_in,
            "not delegated",
            "`loginctl enable-linger 1000`; then",
        );
    }

    #[test]
    fn root_does_not_take_what_systemd_did_not_give() {
        let site = Site {
            uid: 0,
            delegated: Some(false),
            ..delegated()
        };
        refused(&site, "systemd's", "systemd-run --scope -p Delegate=yes");
        let top = Site {
            top: true,
            ..site.clone()
        };
        refused(&top, "systemd's", "Delegate=yes");
        assert!(
            judge(&Site {
                delegated: Some(true),
                ..site
            })
            .is_ok()
        );
    }

    #[test]
    fn a_users_own_systemd_is_taken_at_its_word_where_it_says_one() {
        let refusing = Site {
            delegated: Some(false),
            ..delegated()
        };
        refused(
            &refusing,
            "systemd's",
            "systemd-run --user --scope -p Delegate=yes",
        );
        let silent = Site {
            delegated: None,
            ..delegated()
        };
        assert!(judge(&silent).is_ok());
    }

    #[test]
    fn root_without_systemd_gets_a_directory_at_the_top() {
        let directory = PathBuf::from("/sys/fs/cgroup");
        let site = Site {
            directory: directory.clone(),
            uid: 0,
            systemd: false,
            delegated: Some(false),
            top: true,
            kind: String::new(),
            // The top may hold them.
            others: vec!["1 (`init`)".into()],
            ..delegated()
        };
        assert_eq!(judge(&site), Ok(Place::AtTop(directory)));
    }

    #[test]
    fn other_processes_in_the_group_are_named() {
        let others = (7..12).map(|pid| format!("{pid} (`sh`)")).collect();
        let site = Site {
            others,
            ..delegated()
        };
        refused(
            &site,
            "7 (`sh`), 8 (`sh`), 9 (`sh`) and 2 more",
            "systemd-run",
        );
    }

    #[test]
    fn a_missing_controller_is_named_with_the_one_who_withholds_it() {
        let site = Site {
            controllers: words("memory pids"),
            ..delegated()
        };
        refused(&site, "lacks the controllers `cpu`", "user@.service.d");
        let as_root = Site {
            uid: 0,
            ..site.clone()
        };
        refused(&as_root, "`cpu`", "Delegate=yes");
        let contained = Site {
            systemd: false,
            ..as_root
        };
        refused(&contained, "`cpu`", "cgroup.subtree_control");
        let part = Site {
            kernel_controllers: None,
            ..contained
        };
        refused(&part, "`cpu`", "outside it");
        let kernel_controllers = Some(words("cpu pids"));
        let booted = Site {
            controllers: words("cpu pids"),
            kernel_controllers,
            ..site
        };
        refused(&booted, "`memory`", "cgroup_enable=memory");
    }

    #[test]
    fn read_only_missing_and_threaded_directories_are_told_apart() {
        let site = Site {
            access: Access::ReadOnly,
            ..delegated()
        };
        refused(&site, "read-only", "--privileged");
        let site = Site {
            access: Access::Missing,
            ..delegated()
        };
        refused(&site, "there is no cgroup", "make it first");
        let site = Site {
            kind: "domain threaded".into(),
            ..delegated()
        };
        refused(&site, "domain threaded", "threaded");
    }
}
