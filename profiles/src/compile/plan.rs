//! What one call runs: the profile's command with the call's arguments in place of placeholders.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use runner::spec::Program;
use serde_json::Value;

use crate::arguments::{ArgumentError, Arguments};
use crate::diagnostics::shortened;
use crate::paths::{self, PathError};
use crate::resolve::{PathArgument, PathKind, Piece, Place, Run, WORK, Word};

use super::{Compiled, HOME, PATH};

/// Longest word of a command line or variable of an environment in bytes, with its NUL (the
/// kernel's `MAX_ARG_STRLEN`).
pub const WORD_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of a command line and an environment together: they travel to the launcher in one
/// message, of which the rest is left for mounts and rules.
pub const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// What one call runs, and what of the host it asks for beyond its profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The program and its arguments.
    pub argv: Vec<CString>,
    /// The whole environment, `NAME=value` each, sorted.
    pub env: Vec<CString>,
    /// Working directory in the cell.
    pub cwd: PathBuf,
    /// What goes to the program's standard input.
    pub stdin: Option<Vec<u8>>,
    /// Paths that the call's own arguments name, to be opened and identified by the supervisor.
    pub grants: Vec<Grant>,
}

impl Plan {
    /// What is executed.
    #[must_use]
    pub fn program(&self) -> Program {
        Program {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
        }
    }
}

/// A path that a call's argument names, and that the cell shall contain.
///
/// It must be looked up beneath `root` without following any link, and must be what `want` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The argument.
    pub argument: String,
    /// The directory of the host beneath which it lies.
    pub root: PathBuf,
    /// Where it lies there: normal components only; empty for the root itself.
    pub relative: PathBuf,
    /// What must be there.
    pub want: Want,
    /// What the tool may do with it.
    pub access: PathAccess,
    /// Whether the tool may execute it.
    pub exec: bool,
}

/// What must be at a granted path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// What kind of thing.
    pub kind: WantKind,
    /// Whether it must be there at all.
    pub existence: Existence,
}

/// The kind of thing that must be at a granted path.
pub type WantKind = PathKind;

/// Whether something must be at a granted path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// It must exist.
    Exists,
    /// It may be absent; its parent directory must then exist, and is granted in its place.
    MayBeCreated,
}

/// What a tool may do with a granted path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathAccess {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

impl Compiled {
    /// Puts a call's arguments in the places that the profile's author made for them.
    ///
    /// `pass_env` is the supervisor's environment; only what the profile names is taken from it.
    pub fn fill(
        &self,
        arguments: &Arguments,
        pass_env: &BTreeMap<String, String>,
    ) -> Result<Plan, ArgumentError> {
        let Some(run) = &self.resolved.run else {
            let found = format!("the base `{}`", self.resolved.name);
            return Err(ArgumentError::about("", "a profile with a command", found)
                .with_hint("bases are for `toolcell run`"));
        };
        let filler = Filler {
            compiled: self,
            arguments,
        };
        let argv = filler.argv(run)?;
        let stdin = run.stdin.as_ref().map(|piece| filler.stream(piece));
        filler.plan(argv, stdin.transpose()?.flatten(), pass_env)
    }

    /// What a process executes that is started before its call comes, if the profile wants that: it
    /// has no argument in it then.
    #[must_use]
    pub fn prestarted(&self, pass_env: &BTreeMap<String, String>) -> Option<Program> {
        let run = self.resolved.run.as_ref()?;
        if !self.resolved.pool.prestart {
            return None;
        }
        let filler = Filler {
            compiled: self,
            arguments: &Arguments::none(),
        };
        let plan = filler
            .argv(run)
            .and_then(|argv| filler.plan(argv, None, pass_env));
        Some(plan.ok()?.program())
    }

    /// A command of a person's own (`toolcell run`), with the profile's environment and directory.
    ///
    /// Its first word must be an absolute path; [`Compiled::candidates`] helps to find it.
    pub fn fill_command(
        &self,
        argv: Vec<String>,
        pass_env: &BTreeMap<String, String>,
    ) -> Result<Plan, ArgumentError> {
        let Some(program) = argv.first() else {
            return Err(ArgumentError::about("", "a command", "nothing"));
        };
        if !program.starts_with('/') {
            let found = format!("`{}`", shortened(program));
            return Err(ArgumentError::about(
                "",
                "the absolute path of a program",
                found,
            ));
        }
        let argv: Result<Vec<_>, _> = argv.into_iter().map(|text| word("", &text)).collect();
        let filler = Filler {
            compiled: self,
            arguments: &Arguments::none(),
        };
        filler.plan(argv?, None, pass_env)
    }
}

/// The profile and the arguments of one call.
struct Filler<'a> {
    compiled: &'a Compiled,
    arguments: &'a Arguments,
}

impl Filler<'_> {
    fn argv(&self, run: &Run) -> Result<Vec<CString>, ArgumentError> {
        let mut argv = vec![word("", &run.program.to_string_lossy())?];
        let mut options_end = false;
        for written in &run.arguments {
            options_end |= written.piece == Piece::Literal("--".to_owned());
            self.push_words(written, options_end, &mut argv)?;
        }
        Ok(argv)
    }

    /// The plan around a command line.
    fn plan(
        &self,
        argv: Vec<CString>,
        stdin: Option<Vec<u8>>,
        pass_env: &BTreeMap<String, String>,
    ) -> Result<Plan, ArgumentError> {
        let env = self.environment(pass_env)?;
        let bytes: usize = argv
            .iter()
            .chain(&env)
            .map(|word| word.count_bytes() + 1)
            .sum();
        if bytes > COMMAND_BYTES_MAX {
            let expected =
                format!("at most {COMMAND_BYTES_MAX} bytes of command line and environment");
            return Err(ArgumentError::about("", expected, bytes.to_string())
                .with_hint("pass what is long by way of the standard input"));
        }
        Ok(Plan {
            cwd: self.working_directory()?,
            grants: self.grants()?,
            argv,
            env,
            stdin,
        })
    }

    fn push_words(
        &self,
        written: &Word,
        options_end: bool,
        argv: &mut Vec<CString>,
    ) -> Result<(), ArgumentError> {
        let name = match &written.piece {
            Piece::Literal(text) => {
                argv.push(word("", text)?);
                return Ok(());
            }
            Piece::Root(root) => {
                argv.push(word("", &self.root(root)?.to_string_lossy())?);
                return Ok(());
            }
            Piece::Argument(name) => name,
        };
        let Some(value) = self.arguments.get(name) else {
            return Ok(());
        };
        if let (Some(flag), Value::Bool(given)) = (&written.flag, value) {
            if *given {
                argv.push(word(name, flag)?);
            }
            return Ok(());
        }
        let values = match value {
            Value::Array(items) => items.iter().map(|item| self.text(name, item)).collect(),
            single => self.text(name, single).map(|text| vec![text]),
        };
        let dash_allowed = options_end || written.leading_dash || written.flag.is_some();
        for value in values? {
            if value.starts_with('-') && !dash_allowed {
                let found = format!("`{}`", shortened(&value));
                return Err(ArgumentError::about(
                    name,
                    "a value that does not begin with `-`",
                    found,
                )
                .with_hint("the program would take it for an option"));
            }
            if let Some(flag) = &written.flag {
                argv.push(word(name, flag)?);
            }
            argv.push(word(name, &value)?);
        }
        Ok(())
    }

    /// A value as one word: a path argument as its path in the cell, everything else as written.
    fn text(&self, name: &str, value: &Value) -> Result<String, ArgumentError> {
        if let Some(path) = self.path(name)? {
            return Ok(path.whole().to_string_lossy().into_owned());
        }
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) if self.compiled.input.is_integer(name) => integer(name, number),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(ArgumentError::about(
                name,
                "a string, a number or a boolean",
                "something else",
            )),
        }
    }

    /// What goes to the standard input: text as it is, anything structured as JSON.
    fn stream(&self, piece: &Piece) -> Result<Option<Vec<u8>>, ArgumentError> {
        Ok(match piece {
            Piece::Literal(text) => Some(text.clone().into_bytes()),
            Piece::Root(root) => Some(self.root(root)?.to_string_lossy().into_owned().into_bytes()),
            Piece::Argument(name) => match self.arguments.get(name) {
                None => None,
                Some(structured @ (Value::Array(_) | Value::Object(_) | Value::Null)) => {
                    Some(structured.to_string().into_bytes())
                }
                Some(value) => Some(self.text(name, value)?.into_bytes()),
            },
        })
    }

    fn environment(
        &self,
        pass_env: &BTreeMap<String, String>,
    ) -> Result<Vec<CString>, ArgumentError> {
        let environment = &self.compiled.resolved.environment;
        let mut variables = BTreeMap::from([
            ("HOME".to_owned(), HOME.to_owned()),
            ("PATH".to_owned(), PATH.to_owned()),
        ]);
        for (name, piece) in &environment.set {
            let value = match piece {
                Piece::Literal(text) => Some(text.clone()),
                Piece::Root(root) => Some(self.root(root)?.to_string_lossy().into_owned()),
                Piece::Argument(argument) => match self.arguments.get(argument) {
                    Some(value) => Some(self.text(argument, value)?),
                    None => None,
                },
            };
            if let Some(value) = value {
                variables.insert(name.clone(), value);
            }
        }
        for name in &environment.pass {
            if let Some(value) = pass_env.get(name) {
                variables.insert(name.clone(), value.clone());
            }
        }
        for name in super::inject::variables(&self.compiled.resolved) {
            variables.insert(name.to_owned(), super::TRUSTED.to_owned());
        }
        variables
            .into_iter()
            .map(|(name, value)| {
                let source = match environment.set.get(&name) {
                    Some(Piece::Argument(argument)) => argument,
                    _ => "",
                };
                word(source, &format!("{name}={value}"))
            })
            .collect()
    }

    fn working_directory(&self) -> Result<PathBuf, ArgumentError> {
        Ok(match &self.compiled.resolved.environment.cwd {
            Piece::Literal(path) => PathBuf::from(path),
            Piece::Root(root) => self.root(root)?.to_owned(),
            Piece::Argument(name) => self
                .path(name)?
                .map_or_else(|| PathBuf::from(WORK), |path| path.whole()),
        })
    }

    /// The paths that the cell shall contain because an argument names them.
    fn grants(&self) -> Result<Vec<Grant>, ArgumentError> {
        let files = &self.compiled.resolved.files;
        let lists = [
            (&files.read, PathAccess::Read, false),
            (&files.exec, PathAccess::Read, true),
            (&files.write, PathAccess::Write, false),
        ];
        let mut grants: BTreeMap<&str, Grant> = BTreeMap::new();
        for (list, access, exec) in lists {
            for rule in list {
                let Place::Argument(name) = &rule.place else {
                    continue;
                };
                let Some(path) = self.path(name)? else {
                    continue;
                };
                let may_create = path.argument.create && access == PathAccess::Write;
                let grant = grants.entry(name).or_insert_with(|| Grant {
                    argument: name.clone(),
                    root: path.root.to_owned(),
                    relative: path.relative.clone(),
                    want: Want {
                        kind: path.argument.kind,
                        existence: Existence::Exists,
                    },
                    access,
                    exec,
                });
                grant.access = grant.access.max(access);
                grant.exec |= exec;
                if may_create {
                    grant.want.existence = Existence::MayBeCreated;
                }
            }
        }
        Ok(grants.into_values().collect())
    }

    /// The path that an argument names, if it is a path argument and the call has it.
    fn path<'a>(&'a self, name: &str) -> Result<Option<Named<'a>>, ArgumentError> {
        let Some(argument) = self.compiled.resolved.paths.get(name) else {
            return Ok(None);
        };
        let Some(value) = self.arguments.get(name) else {
            return Ok(None);
        };
        let Some(text) = value.as_str() else {
            return Err(ArgumentError::about(name, "a path", "something else"));
        };
        let root = self.root(&argument.root)?;
        let written = self.compiled.resolved.roots.get(&argument.root);
        let relative = relative_to(text, root, written.map(PathBuf::as_path))
            .map_err(|error| not_beneath(name, &argument.root, root, &error))?;
        if relative.as_os_str().is_empty() && argument.kind == PathKind::File {
            return Err(ArgumentError::about(name, "a file", "the root itself"));
        }
        Ok(Some(Named {
            argument,
            root,
            relative,
        }))
    }

    fn root(&self, name: &str) -> Result<&Path, ArgumentError> {
        // Compiling has refused profiles with a root that nobody gave.
        let root = self.compiled.roots.get(name).map(PathBuf::as_path);
        root.ok_or_else(|| ArgumentError::about("", format!("the root `{name}`"), "nothing"))
    }
}

/// A path argument's value, checked.
struct Named<'a> {
    argument: &'a PathArgument,
    root: &'a Path,
    relative: PathBuf,
}

impl Named<'_> {
    fn whole(&self) -> PathBuf {
        if self.relative.as_os_str().is_empty() {
            self.root.to_owned()
        } else {
            self.root.join(&self.relative)
        }
    }
}

/// Why a path argument's value is not a path beneath its root.
enum NotBeneath {
    Path(PathError),
    Elsewhere,
}

/// Reads a path that is relative to a root, or absolute beneath it.
fn relative_to(text: &str, root: &Path, written: Option<&Path>) -> Result<PathBuf, NotBeneath> {
    if !text.starts_with('/') {
        return paths::relative(text).map_err(NotBeneath::Path);
    }
    let path = paths::absolute(text).map_err(NotBeneath::Path)?;
    [Some(root), written]
        .into_iter()
        .flatten()
        .find_map(|root| path.strip_prefix(root).ok())
        .map(Path::to_owned)
        .ok_or(NotBeneath::Elsewhere)
}

fn not_beneath(name: &str, root_name: &str, root: &Path, error: &NotBeneath) -> ArgumentError {
    let expected = format!("a path beneath `{}`", root.display());
    match error {
        NotBeneath::Path(error) => ArgumentError::about(name, expected, error.found()),
        NotBeneath::Elsewhere => ArgumentError::about(name, expected, "a path elsewhere")
            .with_hint(format!("give it relative to the root `{root_name}`")),
    }
}

/// An integer in digits: JSON may write it as `1.0` or `1e3`. One that is beyond what was read
/// exactly would arrive as another number.
fn integer(name: &str, number: &serde_json::Number) -> Result<String, ArgumentError> {
    /// 2^53: below, each integer is a floating-point number of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(value) if number.is_f64() && value.abs() < EXACT_MAX => Ok(format!("{value:.0}")),
        Some(_) if number.is_f64() => {
            let found = format!("`{}`", shortened(&number.to_string()));
            Err(ArgumentError::about(name, "an integer of 64 bits", found))
        }
        _ => Ok(number.to_string()),
    }
}

/// Text as a word of a command line or an environment.
fn word(argument: &str, text: &str) -> Result<CString, ArgumentError> {
    if text.len() >= WORD_BYTES_MAX {
        let expected = format!("fewer than {WORD_BYTES_MAX} bytes in a word");
        return Err(
            ArgumentError::about(argument, expected, text.len().to_string())
                .with_hint("pass what is long by way of the standard input"),
        );
    }
    CString::new(text).map_err(|error| {
        let found = format!("a NUL byte at {}", error.nul_position());
        ArgumentError::about(argument, "text without NUL bytes", found)
    })
}
