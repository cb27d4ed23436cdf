//! `toolcell doctor`: what this host can enforce, found out by doing it.
//!
//! The verdict does not come from version numbers: a throw-away cell is built with every layer, and
//! what it reads back from the kernel decides. The single facts are there to explain a failure.

use std::fs;
use std::process::ExitCode;

use serde::Serialize;

use super::{Page, answer, answer_json};
use crate::confinement::Confined;
use crate::outcome::{Outcome, Status, Tier};

/// Arguments of `toolcell doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// The tier that this host allows; absent if it can have no cell at all.
    pub tier: Option<Tier>,
    /// What that tier lacks of the full one.
    pub lost: Vec<String>,
    /// Each fact, in the order of the layers.
    pub facts: Vec<Fact>,
}

/// One fact about the host.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    /// What was looked at.
    pub what: String,
    /// Whether it is as the full tier needs it.
    pub fine: bool,
    /// What was found.
    pub found: String,
    /// What would mend it; empty if nothing needs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Fact {
    /// A fact that needs no mending.
    #[must_use]
    pub fn fine(what: &str, found: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            fine: true,
            found: found.into(),
            mend: String::new(),
        }
    }

    /// A fact that stands in the way.
    #[must_use]
    pub fn lacking(what: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            fine: false,
            found: found.into(),
            mend: mend.into(),
        }
    }
}

/// What a tier lacks of the full one.
#[must_use]
pub fn lost(tier: Tier) -> Vec<String> {
    match tier {
        Tier::Full => vec![],
        Tier::Rlimits => [
            "memory: capped for each process (`RLIMIT_DATA`); the cell's sum is sampled ten times a \
             second, so a burst can pass the limit before the cell is ended",
            "CPU share: `limits.cpu` is not enforced; `limits.cpu_time` is, by samples",
            "out of memory: a process sees a failed allocation rather than the kernel's kill",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

/// Facts that need no cell.
#[must_use]
pub fn kernel_facts() -> Vec<Fact> {
    let release = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.release().display(), name.machine().display()))
        .unwrap_or_default();
    let user = nix::unistd::geteuid();
    vec![
        Fact::fine("kernel", release.replace('"', "")),
        Fact::fine(
            "user",
            if user.is_root() {
                "root".to_owned()
            } else {
                format!("uid {user}")
            },
        ),
        landlock(),
        seccomp(),
        user_namespaces(),
        modules(),
    ]
}

/// The fact of our own confinement, which has just been made to hold.
#[must_use]
pub fn confined_fact(confined: Result<Confined, String>) -> Fact {
    let what = "the supervisor confines itself";
    match confined {
        Ok(confined) => Fact::fine(what, confined.to_string()),
        Err(reason) => Fact::lacking(what, reason, ""),
    }
}

/// Facts from cells that were tried, with this tier.
#[must_use]
pub fn trial_fact(tier: Tier, outcome: &Outcome) -> Fact {
    let what = match tier {
        Tier::Full => "a throw-away cell, every layer",
        Tier::Rlimits => "a throw-away cell, without cgroups",
    };
    if outcome.status == Status::Exited
        && outcome.exit_code == Some(0)
        && outcome.enforced.is_some()
    {
        let took = outcome.usage.wall_ms;
        return Fact::fine(
            what,
            format!("built, read back and removed; its program ran {took} ms"),
        );
    }
    Fact::lacking(what, outcome.reason.clone(), mend_of(&outcome.reason))
}

/// Where a failure to build a cell usually comes from, by what is set on this host.
fn mend_of(reason: &str) -> String {
    let restricted = read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted == Some(1) && !nix::unistd::geteuid().is_root() {
        return apparmor_mend(&std::env::current_exe().unwrap_or_default());
    }
    if reason.contains("create the namespaces") {
        return "check `sysctl kernel.unprivileged_userns_clone user.max_user_namespaces`; in a \
                container, its seccomp profile must allow `clone3` and `unshare`"
            .to_owned();
    }
    if reason.contains("Proc") && reason.contains("EPERM") {
        return "parts of `/proc` are covered here, as in a container: start it so that `/proc` is \
                whole (`--security-opt systempaths=unconfined`)"
            .to_owned();
    }
    String::new()
}

/// The command that lets this one program make user namespaces where AppArmor restricts them.
fn apparmor_mend(program: &std::path::Path) -> String {
    let program = program.display();
    format!(
        "AppArmor restricts user namespaces here; as root: `printf 'abi <abi/4.0>,\\nprofile toolcell \
         \"{program}\" flags=(unconfined) {{ userns, }}\\n' > /etc/apparmor.d/toolcell && \
         apparmor_parser -r /etc/apparmor.d/toolcell`"
    )
}

fn landlock() -> Fact {
    match runner::sys::landlock_abi() {
        0 => Fact::lacking(
            "Landlock",
            "not enforced by this kernel",
            "boot with `landlock` in the `lsm=` list of the kernel's command line, or run Linux 5.13 \
             or later",
        ),
        abi => {
            let missing = match abi {
                1..=5 => " (what it lacks, mounts, the filter and namespaces cover)",
                _ => "",
            };
            Fact::fine("Landlock", format!("ABI {abi}{missing}"))
        }
    }
}

fn seccomp() -> Fact {
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ERRNO: u32 = 0x0005_0000;
    if !runner::sys::seccomp_action_available(ERRNO) {
        let mend = "run a kernel that is built with CONFIG_SECCOMP_FILTER";
        return Fact::lacking("seccomp", "no filters", mend);
    }
    if runner::sys::seccomp_action_available(USER_NOTIF) {
        Fact::fine("seccomp", "filters, and denials are named")
    } else {
        Fact::fine(
            "seccomp",
            "filters; denials are not named (no user notification)",
        )
    }
}

fn user_namespaces() -> Fact {
    let what = "user namespaces";
    if read_number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0)
        && !nix::unistd::geteuid().is_root()
    {
        return Fact::lacking(
            what,
            "forbidden to ordinary users (`kernel.unprivileged_userns_clone = 0`)",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    match read_number("/proc/sys/user/max_user_namespaces") {
        Some(0) => Fact::lacking(
            what,
            "none allowed (`user.max_user_namespaces = 0`)",
            "sysctl -w user.max_user_namespaces=15000",
        ),
        Some(most) => Fact::fine(what, format!("up to {most}")),
        None => Fact::lacking(
            what,
            "not in this kernel",
            "run one built with CONFIG_USER_NS",
        ),
    }
}

fn modules() -> Fact {
    const LSM: &str = "/sys/kernel/security/lsm";
    let list = fs::read_to_string(LSM);
    Fact::fine(
        "security modules",
        list.unwrap_or_else(|error| format!("not known: `{LSM}`: {error}")),
    )
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reports the findings; success only if this host has the full tier.
#[must_use]
pub fn report(args: &Args, findings: &Findings) -> ExitCode {
    let status = if findings.tier == Some(Tier::Full) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if args.json {
        return answer_json(findings, status);
    }
    let mut page = Page::default();
    for fact in &findings.facts {
        let mark = if fact.fine { "ok  " } else { "LACK" };
        let mut lines = fact.found.lines();
        page.line(
            0,
            &format!(
                "{mark}  {}: {}",
                fact.what,
                lines.next().unwrap_or_default()
            ),
        );
        for line in lines {
            page.line(4, line);
        }
        if !fact.mend.is_empty() {
            page.line(3, &format!("hint: {}", fact.mend));
        }
    }
    page.line(0, "");
    match findings.tier {
        Some(Tier::Full) => page.line(0, "tier: full: every layer holds for every call"),
        Some(Tier::Rlimits) => {
            page.line(
                0,
                "tier: rlimits, if you choose it by `--tier rlimits`; calls are refused else",
            );
        }
        None => page.line(
            0,
            "tier: none: this host can have no cell, and every call is refused",
        ),
    }
    page.list("what is lost:", &findings.lost);
    answer(&page.text, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mend_for_apparmor_is_a_whole_command() {
        let mend = apparmor_mend(std::path::Path::new("/opt/my tools/toolcell"));
        let command = r#"`printf 'abi <abi/4.0>,\nprofile toolcell "/opt/my tools/toolcell" flags=(unconfined) { userns, }\n' > /etc/apparmor.d/toolcell && apparmor_parser -r /etc/apparmor.d/toolcell`"#;
        assert!(mend.ends_with(command), "{mend}");
    }
}
