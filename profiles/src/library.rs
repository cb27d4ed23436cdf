//! Every written profile by name, the built-in ones first.

use std::collections::BTreeMap;

use crate::diagnostics::{
    Diagnostic, Diagnostics, Kind, Origin, Problems, SourceFile, did_you_mean, listed, shortened,
};
use crate::read::Written;
use crate::resolve::{Chain, Overrides, Resolved, Rule};

/// Most profiles in one library.
pub const PROFILES_MAX: usize = 512;
/// Longest way from a profile to its outermost base.
pub const EXTENDS_DEPTH_MAX: usize = 8;
/// Longest name of a profile in bytes; clients put it before names of their own.
pub const NAME_BYTES_MAX: usize = 64;
/// What a name must be like.
pub(crate) const NAME_EXPECTED: &str =
    "expected a lower-case letter, then at most 63 lower-case letters, digits, `_` or `-`";

/// The profiles that are shipped.
const BUILTIN: [(&str, &str); 24] = [
    ("calculate.toml", include_str!("../builtin/calculate.toml")),
    (
        "certificates.toml",
        include_str!("../builtin/certificates.toml"),
    ),
    ("chat.toml", include_str!("../builtin/chat.toml")),
    ("file_read.toml", include_str!("../builtin/file_read.toml")),
    (
        "file_write.toml",
        include_str!("../builtin/file_write.toml"),
    ),
    (
        "get_alerts.toml",
        include_str!("../builtin/get_alerts.toml"),
    ),
    (
        "get_forecast.toml",
        include_str!("../builtin/get_forecast.toml"),
    ),
    ("git.toml", include_str!("../builtin/git.toml")),
    ("git_clone.toml", include_str!("../builtin/git_clone.toml")),
    (
        "http_fetch.toml",
        include_str!("../builtin/http_fetch.toml"),
    ),
    ("minimal.toml", include_str!("../builtin/minimal.toml")),
    ("network.toml", include_str!("../builtin/network.toml")),
    ("node.toml", include_str!("../builtin/node.toml")),
    (
        "npm_install.toml",
        include_str!("../builtin/npm_install.toml"),
    ),
    (
        "pip_install.toml",
        include_str!("../builtin/pip_install.toml"),
    ),
    (
        "privileged.toml",
        include_str!("../builtin/privileged.toml"),
    ),
    ("python.toml", include_str!("../builtin/python.toml")),
    ("readonly.toml", include_str!("../builtin/readonly.toml")),
    (
        "search_docs.toml",
        include_str!("../builtin/search_docs.toml"),
    ),
    ("shell.toml", include_str!("../builtin/shell.toml")),
    (
        "sqlite_query.toml",
        include_str!("../builtin/sqlite_query.toml"),
    ),
    ("standard.toml", include_str!("../builtin/standard.toml")),
    ("translate.toml", include_str!("../builtin/translate.toml")),
    ("weather.toml", include_str!("../builtin/weather.toml")),
];

/// Every written profile by name.
#[derive(Debug, Clone, Default)]
pub struct Library {
    profiles: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    written: Written,
    builtin: bool,
}

impl Library {
    /// The profiles that are shipped.
    ///
    /// # Panics
    ///
    /// If a shipped profile cannot be read, which a test rules out.
    #[must_use]
    pub fn builtin() -> Self {
        let mut library = Self::default();
        for (name, text) in BUILTIN {
            let file = SourceFile {
                name: format!("builtin/{name}"),
                text: text.to_owned(),
            };
            let written = Written::read(file).expect("a test reads every built-in profile");
            let entry = Entry {
                written,
                builtin: true,
            };
            library.profiles.insert(entry.name(), entry);
        }
        library
    }

    /// Adds a user's file and returns the name of its profile.
    ///
    /// It may take the place of a built-in profile, but not of another user's file.
    pub fn add(&mut self, file: SourceFile) -> Result<String, Diagnostics> {
        let written = Written::read(file)?;
        let name_at = written.origin(written.profile.name.span());
        let name = written.profile.name.to_string();
        if !is_profile_name(&name) {
            let message = format!("`{}` cannot name a profile", shortened(&name));
            return Err(Diagnostic::at(&name_at, message)
                .with_expected(NAME_EXPECTED)
                .into());
        }
        if let Some(other) = self.profiles.get(&name)
            && !other.builtin
        {
            let first = other.origin();
            let message = format!("`{name}` is defined twice, first in `{}`", first.file.name);
            return Err(Diagnostic::at(&name_at, message)
                .with_hint(format!("rename one of the two; the first is at {first}"))
                .into());
        }
        if self.profiles.len() >= PROFILES_MAX && !self.profiles.contains_key(&name) {
            let message = format!("more than {PROFILES_MAX} profiles");
            return Err(Diagnostic::at(&name_at, message).into());
        }
        let entry = Entry {
            written,
            builtin: false,
        };
        self.profiles.insert(name.clone(), entry);
        Ok(name)
    }

    /// The names of all profiles, sorted; bases included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    /// Whether the profile of this name is a shipped one.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.profiles.get(name).is_some_and(|entry| entry.builtin)
    }

    /// The file that a profile was read from.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&SourceFile> {
        self.profiles.get(name).map(|entry| &*entry.written.file)
    }

    /// Follows `extends` and checks everything that can be checked without a host.
    pub fn resolve(&self, name: &str, overrides: &Overrides) -> Result<Resolved, Diagnostics> {
        let mut problems = Problems::default();
        let chain = self.chain(name, &mut problems)?;
        let chain = chain.with_hosts(overrides.hosts.get(name), &mut problems);
        chain.resolve(overrides, problems)
    }

    /// Every rule of a profile and its bases, in the order that [`Library::resolve_without`]
    /// counts.
    pub fn rules(&self, name: &str) -> Result<Vec<Rule>, Diagnostics> {
        let mut problems = Problems::default();
        let chain = self.chain(name, &mut problems)?;
        problems.or(chain.public_rules())
    }

    /// Resolves a profile with one of its rules left out, to find out what the rule is good for.
    pub fn resolve_without(
        &self,
        name: &str,
        rule: usize,
        overrides: &Overrides,
    ) -> Result<Resolved, Diagnostics> {
        let mut problems = Problems::default();
        let chain = self.chain(name, &mut problems)?.without(rule);
        let chain = chain.with_hosts(overrides.hosts.get(name), &mut problems);
        chain.resolve(overrides, problems)
    }

    fn chain(&self, name: &str, problems: &mut Problems) -> Result<Chain<'_>, Diagnostics> {
        let Some(entry) = self.profiles.get(name) else {
            let message = format!("unknown profile `{}`", shortened(name));
            return Err(Diagnostic::general(Kind::UnknownProfile, message)
                .with_hint(
                    did_you_mean(name, self.names())
                        .unwrap_or_else(|| format!("there are {}", listed(self.names()))),
                )
                .into());
        };
        let mut links = Vec::new();
        self.follow(entry, &mut Vec::new(), &mut links)?;
        Ok(Chain::new(links, problems))
    }

    /// Appends a profile's bases, then the profile; a base that several share comes once.
    fn follow<'a>(
        &'a self,
        entry: &'a Entry,
        path: &mut Vec<&'a str>,
        links: &mut Vec<&'a Written>,
    ) -> Result<(), Diagnostics> {
        let written = &entry.written;
        let own_name: &str = &written.profile.name;
        path.push(own_name);
        for base in &written.profile.extends {
            let origin = written.origin(base.span());
            let found = self.base(base, &origin)?;
            let base_name: &str = &found.written.profile.name;
            if let Some(start) = path.iter().position(|name| *name == base_name) {
                let circle = [&path[start..], &[base_name]].concat().join("` → `");
                return Err(Diagnostic::at(&origin, "`extends` leads in a circle")
                    .with_expected(format!("`{circle}`"))
                    .into());
            }
            if path.len() > EXTENDS_DEPTH_MAX {
                let message = format!("`extends` goes deeper than {EXTENDS_DEPTH_MAX}");
                return Err(Diagnostic::at(&origin, message).into());
            }
            let known = links
                .iter()
                .any(|link| *link.profile.name == *found.written.profile.name);
            if !known {
                self.follow(found, path, links)?;
            }
        }
        path.pop();
        links.push(written);
        Ok(())
    }

    fn base(&self, name: &str, origin: &Origin) -> Result<&Entry, Diagnostics> {
        self.profiles.get(name).ok_or_else(|| {
            let message = format!("unknown base `{}`", shortened(name));
            Diagnostic::at(origin, message)
                .with_hint_maybe(did_you_mean(name, self.names()))
                .into()
        })
    }
}

impl Entry {
    fn name(&self) -> String {
        self.written.profile.name.to_string()
    }

    fn origin(&self) -> Origin {
        self.written.origin(self.written.profile.name.span())
    }
}

/// Whether this can name a profile, and so a tool and a named workspace.
#[must_use]
pub fn is_profile_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(fits)
}
