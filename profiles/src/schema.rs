//! A profile as written: TOML with strict keys, every value with its place in the file.
//!
//! These types say what can be written, no more: what it means, and whether it holds together, is
//! decided in [`crate::resolve`]. The JSON Schema for editors is generated from them.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tier::Tier;

mod editors;
mod effect;
mod text;

pub use editors::json_schema;
pub use effect::Effect;
pub(crate) use text::HINT_MARK;
pub use text::{At, Count, FromText, HumanDuration, Rate, Short, Size};

/// The format version that this version of Toolcell reads.
pub const FORMAT: u32 = 1;

/// A Toolcell profile: what a tool runs, what its cell contains, and its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub format: At<u32>,
    /// Name of the profile, which is the MCP tool's name; lower case.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_-]{0,63}$"))]
    pub name: At<String>,
    /// Title shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<At<String>>,
    /// What the tool does, for the model that chooses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<At<String>>,
    /// Words to find the profile by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<At<String>>,
    /// Profiles that this one builds on: rules are appended to theirs, everything else overrides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extends: Vec<At<String>>,
    /// The arguments of a call: a JSON Schema (2020-12) of type object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub input: Option<At<toml::Table>>,
    /// What runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Directories of the host by name, for `{roots.NAME}`; a path, or a table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots: BTreeMap<String, At<Short<Root>>>,
    /// String arguments that are paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<String, At<PathArgument>>,
    /// What exists in the cell; absent means nothing beyond what running takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// What can be reached; absent means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Sockets of the host that can be connected to; absent means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Sockets>,
    /// System calls beyond, or out of, the default groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<Syscalls>,
    /// Limits of one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Who may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Cells that are prepared before a call comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// What is told about denials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
}

/// What runs in the cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The program, an absolute path, and its arguments; a placeholder such as `{code}` is a whole
    /// word. Absent in a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<At<Vec<At<Short<ArgvWord>>>>>,
    /// What the program reads from its standard input: text, or one placeholder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<At<String>>,
    /// Exit statuses that mean success; `[0]` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<At<Vec<u8>>>,
    /// What the program does to what it reaches, for the hints to clients; nothing enforces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<At<Effect>>,
    /// Working directory in the cell; `/work` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<At<String>>,
    /// The environment beside `HOME` and `PATH`; a value is text, or one placeholder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, At<String>>,
    /// Variables taken from the supervisor's environment, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<At<Short<PassEnv>>>,
    /// Variables taken from the credential store: variable name to credential name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, At<String>>,
}

/// A word of `argv`: text or `"{argument}"`, or a table that says how an argument is passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArgvWord {
    /// A literal word, or a whole-word placeholder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word: Option<String>,
    /// Name of the argument; without it, `word` must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arg: Option<String>,
    /// Option name that goes before each value, as a word of its own; for a boolean argument it is
    /// the whole word, present if the argument is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// Whether a value may begin with `-`, which a program may take for an option.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leading_dash: bool,
}

impl FromText for ArgvWord {
    const EXPECTED: &'static str =
        "a word, or a table such as `{ arg = \"limit\", flag = \"-n\" }`";

    fn from_text(text: String) -> Self {
        Self {
            word: Some(text),
            arg: None,
            flag: None,
            leading_dash: false,
        }
    }
}

/// A variable taken from the supervisor's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PassEnv {
    /// Name of the variable.
    pub name: String,
    /// Why the tool needs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for PassEnv {
    const EXPECTED: &'static str =
        "the name of a variable, or a table such as `{ name = \"TZ\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            name: text,
            why: String::new(),
        }
    }
}

/// A directory of the host that rules and arguments refer to by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Where it is, absolute; `--root NAME=DIR` overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether the operator must say where it is, with `--root NAME=DIR`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for Root {
    const EXPECTED: &'static str =
        "an absolute path, or a table such as `{ required = true, why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            path: Some(text.into()),
            ..Self::default()
        }
    }
}

/// Makes a string argument a path beneath a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathArgument {
    /// The root, such as `{roots.docs}`, beneath which the path must lie.
    pub beneath: At<String>,
    /// What must be there.
    #[serde(default)]
    pub kind: PathKind,
    /// Whether it may be absent, to be created by the tool.
    #[serde(default, skip_serializing_if = "is_false")]
    pub create: bool,
}

/// What a path argument names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Either.
    #[default]
    Any,
}

/// What exists in the cell, and what may be done with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// May be read, and mapped as libraries are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<At<Short<PathEntry>>>,
    /// May be read and executed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<At<Short<PathEntry>>>,
    /// May be read and written; `/work`, `/tmp` and `/dev/shm` are the cell's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<At<Short<PathEntry>>>,
    /// Covered, within a tree that a rule above allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<At<Short<PathEntry>>>,
    /// Paths relative to the workspace that are visible, but cannot be written, created or
    /// replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<At<Short<PathEntry>>>,
    /// What is at `/work`; nothing if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<At<Workspace>>,
}

/// A path of the host, or a placeholder for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathEntry {
    /// An absolute path, `{roots.NAME}`, or the placeholder of a path argument.
    pub path: String,
    /// Whether the path may be absent on the host, in which case the rule does nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub if_present: bool,
    /// Why the tool needs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for PathEntry {
    const EXPECTED: &'static str =
        "a path, or a table such as `{ path = \"/usr/lib\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            path: text,
            if_present: false,
            why: String::new(),
        }
    }
}

/// What is at `/work`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Workspace {
    /// Nothing.
    None {},
    /// An empty directory in memory that ends with the call.
    Ephemeral {
        /// Capacity; `limits.disk` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Size>,
    },
    /// A directory that persists for each caller and name.
    Named {
        /// The name; that of the profile if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A directory of the host.
    Host {
        /// Where it is, absolute, or `{roots.NAME}`.
        path: String,
    },
}

/// What can be reached over the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Hosts that can be reached, by name, port and protocol: `example.org`, `*.example.org:443`,
    /// `db.example.org:5432/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<At<Short<HostEntry>>>,
    /// What the hosts are for that the operator must give, with `--allow NAME=HOST`, if `allow` is
    /// empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<At<String>>,
    /// Hosts out of the allowed ones; without a port, by any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<At<Short<HostEntry>>>,
    /// Addresses that are not public and that an allowed name may lead to: a range such as
    /// `10.0.0.0/8`, or a word such as `private`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_addresses: Vec<At<Short<AddressEntry>>>,
    /// Headers that Toolcell adds to requests, with secrets that the tool never sees: TLS to their
    /// hosts is opened for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<At<InjectEntry>>,
    /// Whether TLS clients may leave out the server's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_no_sni: Option<At<bool>>,
    /// Whether programs in the cell may talk TCP to each other over the cell's own loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback: Option<At<bool>>,
    /// Whether Unix sockets may be made even where one of the host's might be in reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<At<bool>>,
}

/// A host by name, with ports and protocol; a wildcard, an address, or a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The host, such as `example.org` or `db.example.org:5432/tcp`.
    pub host: String,
    /// Why the tool needs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for HostEntry {
    const EXPECTED: &'static str =
        "a host, or a table such as `{ host = \"example.org:443\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            host: text,
            why: String::new(),
        }
    }
}

/// A header that is added to the requests for one host, method and path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InjectEntry {
    /// The host, which `allow` must list, such as `api.example.org:443`.
    pub host: String,
    /// The method, such as `POST`.
    pub method: String,
    /// The path, such as `/v1/models`; `/v1/*` is all beneath.
    pub path: String,
    /// Name of the header, such as `Authorization`. What the tool sends under this name to the host
    /// is taken out of every request.
    pub header: String,
    /// What the header says, with `{secret}` once, such as `Bearer {secret}`.
    pub value: String,
    /// Name of the secret in the credential store.
    pub secret: String,
    /// Why the tool needs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Addresses that a name may lead to although they are not public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressEntry {
    /// A range such as `10.0.0.0/8`, or a word such as `private`.
    pub range: String,
    /// Why names lead there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for AddressEntry {
    const EXPECTED: &'static str =
        "a range, or a table such as `{ range = \"10.0.0.0/8\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            range: text,
            why: String::new(),
        }
    }
}

/// Sockets of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sockets {
    /// Unix sockets that can be connected to, by their paths on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connect: Vec<At<Short<SocketEntry>>>,
}

/// A Unix socket of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SocketEntry {
    /// Its absolute path, which is also its path in the cell.
    pub path: String,
    /// Whether it may be absent on the host, in which case the entry does nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub if_present: bool,
    /// Why the tool needs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for SocketEntry {
    const EXPECTED: &'static str =
        "a path, or a table such as `{ path = \"/run/postgresql/.s.PGSQL.5432\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            path: text,
            if_present: false,
            why: String::new(),
        }
    }
}

/// System calls beyond, or out of, the default groups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Syscalls {
    /// Allowed although the default groups deny them: a visible weakening.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<At<Short<SyscallEntry>>>,
    /// Denied although the default groups allow them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<At<Short<SyscallEntry>>>,
}

/// A system call by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyscallEntry {
    /// The name, as in `syscalls(2)`.
    pub name: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl FromText for SyscallEntry {
    const EXPECTED: &'static str =
        "the name of a system call, or a table such as `{ name = \"ptrace\", why = \"…\" }`";

    fn from_text(text: String) -> Self {
        Self {
            name: text,
            why: String::new(),
        }
    }
}

/// Limits of one call. Sizes and durations carry a unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of the whole cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<At<Size>>,
    /// Swap of the whole cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<At<Size>>,
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<At<f64>>,
    /// Processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<At<Count>>,
    /// Time on the clock from start to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<At<HumanDuration>>,
    /// Processor time of the whole cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<At<HumanDuration>>,
    /// Time without any output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<At<HumanDuration>>,
    /// Time between SIGTERM and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<At<HumanDuration>>,
    /// Output on both streams together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<At<Size>>,
    /// How much of a stream is shown in the answer; the rest is a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline: Option<At<Size>>,
    /// Size of the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<At<Size>>,
    /// Size of `/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp: Option<At<Size>>,
    /// Size of `/dev/shm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm: Option<At<Size>>,
    /// Descriptors of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<At<Count>>,
    /// Largest file that can be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<At<Size>>,
    /// Bytes to and from hosts, both ways together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<At<Size>>,
    /// Connections to hosts at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<At<Count>>,
    /// Calls of this tool at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<At<Count>>,
    /// Calls of this tool in a time, such as `60/min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<At<Rate>>,
    /// The weakest tier that the tool may run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<At<Tier>>,
}

/// Who may call the tool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Roles that may call; everyone's role on stdio is `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<At<Vec<At<String>>>>,
    /// When a person is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approve: Option<At<Approve>>,
}

/// When a person is asked before a call starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Approve {
    /// Never.
    #[default]
    Never,
    /// At a caller's first call.
    First,
    /// At every call.
    Always,
}

/// Cells that are prepared before a call comes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<At<Count>>,
    /// Whether the tool's own process already waits for its standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prestart: Option<At<bool>>,
}

/// What is told about denials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Whether denied paths are named, at some cost for every path the tool touches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<At<bool>>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !value
}
