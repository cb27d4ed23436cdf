//! What a call came to: a closed set of ends, with everything a caller needs to understand it.
//!
//! An [`Outcome`] is also the `structuredContent` of the MCP result; its JSON Schema, generated from
//! these types, is the published `outputSchema`.

pub use profiles::tier::Tier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The tool exited by itself; see `exit_code`.
    Exited,
    /// A signal that Toolcell did not send ended the tool; see `signal`.
    Signalled,
    /// The wall clock or the idle deadline passed.
    TimedOut,
    /// The CPU time limit was used up.
    CpuTimeExceeded,
    /// The kernel ended a process of the cell for want of memory.
    OutOfMemory,
    /// The cell reached its cap on processes and threads, and the tool failed.
    PidsExceeded,
    /// The tool wrote more output than the limit.
    OutputExceeded,
    /// A size-capped directory filled up, and the tool failed.
    DiskExceeded,
    /// The caller cancelled the call, or went away.
    Cancelled,
    /// A denial ended the tool.
    Denied,
    /// The call was never started; see `reason`.
    Refused,
    /// The cell could not be built; see `reason`.
    SetupFailed,
}

impl Status {
    /// As it stands in results and receipts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::TimedOut => "timed_out",
            Self::CpuTimeExceeded => "cpu_time_exceeded",
            Self::OutOfMemory => "out_of_memory",
            Self::PidsExceeded => "pids_exceeded",
            Self::OutputExceeded => "output_exceeded",
            Self::DiskExceeded => "disk_exceeded",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::SetupFailed => "setup_failed",
        }
    }
}

/// The result of one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Identifier of the call, also in its receipt.
    pub call: String,
    /// The tool's name.
    pub tool: String,
    /// How it ended.
    pub status: Status,
    /// Whether the tool exited by itself with a status that its profile calls a success.
    pub succeeded: bool,
    /// The tool's exit status, if it exited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "i32")] // absent, never null
    pub exit_code: Option<i32>,
    /// The signal that ended the tool, by name, if one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "String")] // absent, never null
    pub signal: Option<String>,
    /// In one or two sentences: why it ended so, and what would change it. Empty for a plain exit.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// What the tool wrote to its standard output.
    pub stdout: Stream,
    /// What the tool wrote to its standard error.
    pub stderr: Stream,
    /// What was denied, with the profile line that would allow it.
    pub denials: Vec<Denial>,
    /// What the call used.
    pub usage: Usage,
    /// What it reached over the network, by host.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub egress: Vec<EgressUse>,
    /// What the kernel confirmed to be enforced; absent if the cell never came to that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Enforced")] // absent, never null
    pub enforced: Option<Enforced>,
    /// Files that the tool left in its workspace's `out/`.
    pub files: Vec<Artifact>,
}

/// One of the tool's output streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stream {
    /// The text, or its head if `truncated`; bytes that are not UTF-8 appear as U+FFFD.
    pub text: String,
    /// How many bytes the tool wrote in all, as far as they were read.
    pub bytes: u64,
    /// Whether `text` is only the head.
    pub truncated: bool,
    /// Where more of it can be read (`resources/read`), if it was truncated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "String")] // absent, never null
    pub resource: Option<String>,
    /// How many bytes are there: all, unless the output passed its limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "u64")] // absent, never null
    pub resource_bytes: Option<u64>,
}

/// How [`Denial::allow_with`] begins where a rule must go, not come.
pub const REMOVE: &str = "remove ";

/// Something the tool tried and was not allowed to do, or a limit it ran into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Denial {
    /// Which layer said no.
    pub kind: DenialKind,
    /// What was tried: a system call, a path with the access, a limit.
    pub what: String,
    /// Which rule, or absence of one, denied it.
    pub rule: String,
    /// The profile line that would allow it, or "remove `…` from `…`" where a rule of the profile
    /// takes it away; empty if nothing in a profile can.
    pub allow_with: String,
    /// How often.
    pub count: u64,
}

impl Denial {
    /// The option that would allow it without a profile, where there is one: whoever uses a built-in
    /// tool has no profile to change.
    #[must_use]
    pub fn option(&self, tool: &str) -> Option<String> {
        let host = self.allow_with.strip_prefix("network.allow = [\"")?;
        let host = host.strip_suffix("\"]")?;
        Some(format!("--allow {tool}={host}"))
    }
}

/// The layer that denied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DenialKind {
    /// The seccomp filter.
    Syscall,
    /// The minimal root, a read-only mount or Landlock.
    Path,
    /// The network namespace, Landlock's ports or egress.
    Network,
    /// A limit of the profile.
    Limit,
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// From launch to end, in milliseconds.
    pub wall_ms: u64,
    /// User CPU time of the whole cell, in milliseconds.
    pub cpu_user_ms: u64,
    /// System CPU time of the whole cell, in milliseconds.
    pub cpu_system_ms: u64,
    /// Peak memory in bytes: of the cell where a memory controller counts it, else of the largest
    /// process.
    pub memory_peak_bytes: u64,
    /// Most processes and threads at once, where the kernel counts them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "u64")] // absent, never null
    pub pids_peak: Option<u64>,
    /// Bytes sent and received over the network.
    pub egress_bytes: u64,
}

/// What a call sent to and received from one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressUse {
    /// The host and the port, as the tool named them.
    pub host: String,
    /// How many connections were made.
    pub connections: u64,
    /// Bytes that went to it.
    pub sent_bytes: u64,
    /// Bytes that came from it.
    pub received_bytes: u64,
}

/// What the kernel confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enforced {
    /// The tier: what this host lets Toolcell enforce, or what the operator chose by name.
    pub tier: Tier,
    /// Landlock ABI of the ruleset.
    pub landlock_abi: u32,
    /// SHA-256 of the seccomp program.
    pub filter: String,
    /// Control group values as read back, such as `memory.max = 536870912`.
    pub cgroup: Vec<String>,
    /// Where the control groups are made, and by whose leave; absent without them.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub cgroup_place: String,
    /// Namespaces the cell has of its own.
    pub namespaces: Vec<String>,
    /// What of the cell was there before the call came.
    #[serde(default)]
    pub start: StartedFrom,
}

/// What of a cell was there before its call came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartedFrom {
    /// Nothing.
    #[default]
    Cold,
    /// A cell that waited (`pool.ready`).
    Ready,
    /// The tool's own process, too (`pool.prestart`).
    Prestarted,
}

/// A file that the tool left behind on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Path relative to `out/`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Media type guessed from the name.
    pub mime_type: String,
    /// Where it can be read (`resources/read`).
    pub resource: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_named_as_in_results() {
        let Some(schema) = schemars::schema_for!(Status).get("oneOf").cloned() else {
            panic!("a schema that lists them");
        };
        let listed: Vec<Status> = schema
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| serde_json::from_value(one["const"].clone()).expect("a status"))
            .collect();
        assert_eq!(listed.len(), 12);
        for status in listed {
            let written = serde_json::to_value(status).expect("it is plain");
            assert_eq!(written, status.name());
        }
    }
}
