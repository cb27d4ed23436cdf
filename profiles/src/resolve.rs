//! A profile resolved: `extends` followed, everything checked and typed, every default decided.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::diagnostics::Origin;
use crate::egress::{self, Injection, Opened};
use crate::filter::SyscallRules;
pub use crate::placeholders::Piece;
use crate::schema::Effect;
pub use crate::schema::{Approve, PathKind};
use crate::tier::Tier;

mod chain;
mod check;
mod files;
mod given;
mod inject;
mod input;
mod limits;
mod network;
mod run;
mod sockets;
mod trust;

pub(crate) use chain::Chain;
pub use files::is_the_systems;
pub(crate) use files::{check_host_path, check_workspace_path};
pub use given::ALLOW_OPTION;
pub use trust::TRUST_STORES;
pub(crate) use trust::hint as trust_hint;

/// Where the workspace is in a cell.
pub const WORK: &str = "/work";
/// Where the cell's own temporary directory is.
pub const TMP: &str = "/tmp";
/// Where the cell's own shared memory is.
pub const SHM: &str = "/dev/shm";

/// What the operator says beside the profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Directories for the profile's roots, by name.
    pub roots: BTreeMap<String, PathBuf>,
    /// Hosts that a profile may reach besides, by its name: entries of `network.allow`, separated by
    /// commas.
    pub hosts: BTreeMap<String, String>,
    /// Another workspace than the profile's.
    pub workspace: Option<WorkspaceKind>,
    /// Whether denied paths are named.
    pub explain_paths: Option<bool>,
    /// The variables among [`TRUST_STORES`] that are set in the supervisor's environment: what they
    /// name is shown to a tool that is passed the variable.
    pub trust_stores: BTreeMap<String, String>,
}

/// A workspace as the operator chooses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceKind {
    /// An empty directory in memory.
    Ephemeral,
    /// A directory that persists under this name.
    Named(String),
    /// A directory of the host.
    Host(PathBuf),
}

/// A profile of which nothing is left to decide.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resolved {
    /// Name of the profile, and of its tool.
    pub name: String,
    /// Title shown to people.
    pub title: String,
    /// What the tool does.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// JSON Schema (2020-12) of the arguments.
    pub input: serde_json::Value,
    /// What runs; `None` in a base.
    pub run: Option<Run>,
    /// The environment that the profile gives, also to a person's own command.
    pub environment: Environment,
    /// What exists in the cell.
    pub files: Files,
    /// What can be reached.
    pub network: NetworkRules,
    /// Unix sockets of the host that can be connected to.
    pub sockets: Vec<SocketRule>,
    /// System calls beyond, or out of, the default groups.
    pub syscalls: SyscallRules,
    /// Limits of one call.
    pub limits: Limits,
    /// Who may call.
    pub access: Access,
    /// Cells that are prepared before a call comes.
    pub pool: Pool,
    /// What is told about denials.
    pub explain: Explain,
    /// What is at `/work`.
    pub workspace: Workspace,
    /// Directories of the host by name; those that were not given are in `missing_roots`.
    pub roots: BTreeMap<String, PathBuf>,
    /// Roots that the operator must still give, with what they are for.
    pub missing_roots: BTreeMap<String, String>,
    /// What the hosts are for that the operator must still give.
    pub missing_hosts: Option<String>,
    /// Arguments that are paths.
    pub paths: BTreeMap<String, PathArgument>,
    /// What is weaker than the defaults, each in a sentence.
    pub weakenings: Vec<String>,
    /// Every rule as written, for people.
    #[serde(skip)]
    pub rules: Vec<Rule>,
    /// Where the profile's own name stands, for diagnostics about the whole.
    #[serde(skip)]
    pub(crate) origin: Origin,
}

/// One rule as written: something that the profile allows or denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The key it stands under, such as `files.read`.
    pub key: &'static str,
    /// What it names.
    pub text: String,
    /// Why it is there; empty if nobody said.
    pub why: String,
    /// The profile that it was written in.
    pub profile: String,
    /// File, line and column.
    pub place: String,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The program: an absolute path, literally.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<Word>,
    /// What it reads from its standard input; end of file at once if `None`.
    pub stdin: Option<Piece>,
    /// Exit statuses that mean success.
    pub success: BTreeSet<u8>,
    /// What it does to what it reaches, by its author's word.
    #[serde(skip_serializing_if = "Run::may_change_anything")]
    pub effect: Effect,
    #[serde(skip)]
    pub(crate) program_origin: Origin,
}

impl Run {
    #[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
    fn may_change_anything(effect: &Effect) -> bool {
        *effect == Effect::Changes
    }
}

/// One word of a command line, or as many as an array argument has items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Word {
    /// What the word is.
    pub piece: Piece,
    /// The option name that goes before each value.
    pub flag: Option<String>,
    /// Whether a value may begin with `-`.
    pub leading_dash: bool,
}

/// Working directory and environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Environment {
    /// Working directory: a literal path in the cell, a root, or a path argument.
    pub cwd: Piece,
    /// Variables that the profile sets.
    pub set: BTreeMap<String, Piece>,
    /// Variables taken from the supervisor's environment.
    pub pass: BTreeSet<String>,
    /// Variables taken from the credential store.
    pub secrets: BTreeMap<String, String>,
}

/// What exists in the cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Files {
    /// May be read, and mapped as libraries are.
    pub read: Vec<PathRule>,
    /// May be read and executed.
    pub exec: Vec<PathRule>,
    /// May be read and written.
    pub write: Vec<PathRule>,
    /// Covered within what is allowed.
    pub deny: Vec<PathRule>,
    /// Paths relative to the workspace that cannot be written, created or replaced.
    pub protect: BTreeSet<PathBuf>,
}

/// One rule about a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathRule {
    /// The path.
    pub place: Place,
    /// Whether it may be absent on the host.
    pub if_present: bool,
    /// Why.
    #[serde(skip)]
    pub why: String,
    /// The variable of the supervisor's environment that names the path, if it is not written in
    /// the profile.
    #[serde(skip)]
    pub variable: Option<String>,
    #[serde(skip)]
    pub(crate) origin: Origin,
}

/// What a path rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A path of the host, which has the same path in the cell.
    Host(PathBuf),
    /// A root.
    Root(String),
    /// What a path argument of the call names.
    Argument(String),
    /// The workspace.
    Work,
    /// The cell's own temporary directory.
    Tmp,
    /// The cell's own shared memory.
    Shm,
}

/// What can be reached. In JSON the entries are as a person would write them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NetworkRules {
    /// Hosts that can be reached.
    #[serde(serialize_with = "entries_as_text")]
    pub allow: Vec<egress::Rule>,
    /// Hosts out of the allowed ones.
    #[serde(serialize_with = "entries_as_text")]
    pub deny: Vec<egress::Rule>,
    /// Addresses that are not public and that a name may lead to.
    #[serde(serialize_with = "as_text")]
    pub allow_addresses: Vec<Opened>,
    /// Headers that are added to requests, with secrets that the tool never sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<Injection>,
    /// Whether TLS clients may leave out the server's name.
    pub allow_no_sni: bool,
    /// Whether programs in the cell may talk TCP to each other.
    pub loopback: bool,
    /// Whether Unix sockets may be made even where one of the host's might be in reach.
    pub unix: bool,
}

fn entries_as_text<S: Serializer>(rules: &[egress::Rule], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(rules.iter().map(|rule| rule.entry.to_string()))
}

fn as_text<S: Serializer>(items: &[impl ToString], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(items.iter().map(ToString::to_string))
}

impl NetworkRules {
    /// Whether nothing beyond the cell can be reached by name or address.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.allow.is_empty()
    }
}

/// A Unix socket of the host that can be connected to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SocketRule {
    /// Its path on the host, which is also its path in the cell.
    pub path: PathBuf,
    /// Whether it may be absent on the host.
    pub if_present: bool,
    #[serde(skip)]
    pub(crate) origin: Origin,
}

/// Limits of one call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Memory of the cell in bytes.
    pub memory: u64,
    /// Swap of the cell in bytes.
    pub swap: u64,
    /// Processor cores.
    pub cpu: f64,
    /// Processes and threads at once.
    pub pids: u32,
    /// Time on the clock.
    pub wall: Duration,
    /// Processor time of the cell.
    pub cpu_time: Duration,
    /// Time without any output.
    pub idle: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Bytes of output on both streams together.
    pub output: u64,
    /// Bytes of one stream that are shown in the answer.
    pub inline: u64,
    /// Size of the workspace in bytes.
    pub disk: u64,
    /// Size of `/tmp` in bytes.
    pub tmp: u64,
    /// Size of `/dev/shm` in bytes.
    pub shm: u64,
    /// Descriptors of one process.
    pub open_files: u32,
    /// Largest file in bytes.
    pub file_size: u64,
    /// Bytes to and from hosts, both ways together.
    pub egress: u64,
    /// Connections to hosts at once.
    pub connections: u32,
    /// Calls of the tool at once.
    pub concurrency: u32,
    /// Calls of the tool in a time.
    pub rate: Option<Rate>,
    /// The weakest tier that it may run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Tier>,
}

/// How many calls in what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// How many.
    pub calls: u32,
    /// In what time.
    pub per: Duration,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Roles that may call.
    pub roles: BTreeSet<String>,
    /// When a person is asked.
    pub approve: Approve,
}

/// Cells that are prepared before a call comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// How many.
    pub ready: u32,
    /// Whether the tool's own process already waits.
    pub prestart: bool,
}

/// What is told about denials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Explain {
    /// Whether denied paths are named.
    pub paths: bool,
}

/// What is at `/work`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Workspace {
    /// An empty directory in memory that ends with the call.
    Ephemeral {
        /// Capacity.
        bytes: u64,
    },
    /// A directory that persists for each caller under this name.
    Named {
        /// The name.
        name: String,
    },
    /// A directory of the host.
    Host {
        /// Where it is.
        path: PathBuf,
    },
    /// Nothing.
    None,
}

/// A string argument that is a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathArgument {
    /// Name of the root beneath which it must lie.
    pub root: String,
    /// What must be there.
    pub kind: PathKind,
    /// Whether it may be absent, to be created.
    pub create: bool,
}

/// Paths by which programs name what may be elsewhere: links on a host with a merged `/usr`. They
/// are reproduced in the cell where they lead to something that it contains.
pub(crate) const ALIASES: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// The device nodes that every cell has, and whether a host may be without.
pub(crate) const DEVICES: [(&str, bool); 6] = [
    ("/dev/null", true),
    ("/dev/zero", true),
    ("/dev/full", false),
    ("/dev/random", true),
    ("/dev/urandom", true),
    ("/dev/tty", false),
];

/// Where dynamic loaders are; what is executed needs its loader to be executable too.
pub(crate) const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

impl Resolved {
    /// The paths of the host about which [`crate::compile::compile`] must be told; pass them to
    /// [`crate::host::Host::gather`].
    #[must_use]
    pub fn paths(&self) -> BTreeSet<PathBuf> {
        let rules = [
            &self.files.read,
            &self.files.exec,
            &self.files.write,
            &self.files.deny,
        ];
        let listed = rules
            .into_iter()
            .flatten()
            .filter_map(|rule| match &rule.place {
                Place::Host(path) => Some(path.as_path()),
                _ => None,
            });
        let workspace = match &self.workspace {
            Workspace::Host { path } => Some(path.as_path()),
            _ => None,
        };
        let own = ALIASES.into_iter().chain(LOADERS);
        let own = own
            .chain(DEVICES.into_iter().map(|(path, _)| path))
            .map(Path::new);
        let sockets = self.sockets.iter().map(|socket| socket.path.as_path());
        let program = self.run.as_ref().map(|run| run.program.as_path());
        let mut paths = BTreeSet::new();
        for path in listed
            .chain(self.roots.values().map(PathBuf::as_path))
            .chain(workspace)
            .chain(program)
            .chain(sockets)
            .chain(own)
        {
            paths.insert(path.to_owned());
            paths.extend(
                crate::paths::ancestors(path)
                    .into_iter()
                    .map(Path::to_owned),
            );
        }
        paths
    }

    /// Whether the profile runs something by itself; a base does not.
    #[must_use]
    pub fn is_tool(&self) -> bool {
        self.run.is_some()
    }

    /// Whether a call can change nothing that outlasts it: not in what the cell may write, and not
    /// beyond it, where it reaches nothing or the author says that the program only asks.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        !self.writes() && (!self.reaches_out() || self.effect() == Effect::Reads)
    }

    /// Whether a call can take away or replace something, as it may where it writes, and where it
    /// reaches out unless the author says otherwise.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        self.writes() || self.reaches_out() && self.effect() == Effect::Changes
    }

    /// What the profile's own program does to what it reaches.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.run.as_ref().map(|run| run.effect).unwrap_or_default()
    }

    /// Whether a call can write to something that outlasts it.
    fn writes(&self) -> bool {
        self.files.write.iter().any(|rule| match rule.place {
            Place::Host(_) | Place::Root(_) | Place::Argument(_) => true,
            Place::Work => matches!(
                self.workspace,
                Workspace::Named { .. } | Workspace::Host { .. }
            ),
            Place::Tmp | Place::Shm => false,
        })
    }

    /// Whether a call can talk to anybody beyond its cell: a host, a service of the machine, or who
    /// listens on one of its Unix sockets.
    #[must_use]
    pub fn reaches_out(&self) -> bool {
        !self.network.is_none() || !self.sockets.is_empty()
    }
}
