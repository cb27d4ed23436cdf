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
use crate::surroundings;

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
            if user.is_root() && surroundings::at_start().sys_admin {
                "root".to_owned()
            } else if user.is_root() {
                "root, without CAP_SYS_ADMIN".to_owned()
            } else {
                format!("uid {user}")
            },
        ),
        landlock(),
        seccomp(),
        user_namespaces(),
        covered_proc(),
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
    let what = if tier.has_cgroups() {
        "a throw-away cell, every layer"
    } else {
        "a throw-away cell, without cgroups"
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
    let (found, mend) = match outcome.reason.split_once("; hint: ") {
        Some((_, mend)) if mend.contains("toolcell doctor") => (outcome.reason.as_str(), ""),
        Some(parts) => parts,
        None => (outcome.reason.as_str(), ""),
    };
    Fact::lacking(what, found, mend)
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
                1 | 2 => " (what it lacks, read-only mounts and the namespaces cover)",
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
    let named = if runner::sys::seccomp_action_available(USER_NOTIF) {
        "filters, and denials are named"
    } else {
        "filters; denials are not named (no user notification)"
    };
    let outer = if surroundings::at_start().filtered {
        "; one from outside is in force already, as in a container"
    } else {
        ""
    };
    Fact::fine("seccomp", format!("{named}{outer}"))
}

fn user_namespaces() -> Fact {
    let what = "user namespaces";
    let around = surroundings::at_start();
    if let Some(found) = around.forbids_namespaces() {
        return Fact::lacking(what, found.why, found.mend);
    }
    let most = around.userns_max.unwrap_or_default();
    let but = match around.apparmor_userns {
        Some(1) if !around.sys_admin => {
            "; AppArmor restricts those of programs without a profile that allows them"
        }
        _ => "",
    };
    Fact::fine(what, format!("up to {most}{but}"))
}

/// What a container, or a unit, puts over parts of `/proc`.
fn covered_proc() -> Fact {
    let what = "/proc";
    match surroundings::at_start().covered_proc() {
        Some(found) => Fact::lacking(what, found.why, found.mend),
        None => Fact::fine(what, "whole"),
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
        Some(tier) => {
            let chosen = format!(
                "tier: {tier}, if you choose it by `--tier {tier}`; calls are refused else"
            );
            page.line(0, &chosen);
        }
        None => page.line(
            0,
            "tier: none: this host can have no cell, and every call is refused",
        ),
    }
    page.list("what is lost:", &findings.lost);
    answer(&page.text, status)
}
