//! A profile and its bases in order: lists are appended, everything else overrides.

use crate::diagnostics::{Diagnostic, Origin, Problems};
use crate::read::Written;
use crate::schema::{At, Profile};

use super::{Rule, given};

/// The keys under which rules stand, in the order in which they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleKey {
    Read,
    Exec,
    Write,
    Deny,
    Protect,
    NetworkAllow,
    NetworkDeny,
    NetworkAddresses,
    NetworkInject,
    SocketConnect,
    SyscallAllow,
    SyscallDeny,
    PassEnv,
}

impl RuleKey {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Read => "files.read",
            Self::Exec => "files.exec",
            Self::Write => "files.write",
            Self::Deny => "files.deny",
            Self::Protect => "files.protect",
            Self::NetworkAllow => "network.allow",
            Self::NetworkDeny => "network.deny",
            Self::NetworkAddresses => "network.allow_addresses",
            Self::NetworkInject => "network.inject",
            Self::SocketConnect => "sockets.connect",
            Self::SyscallAllow => "syscalls.allow",
            Self::SyscallDeny => "syscalls.deny",
            Self::PassEnv => "run.pass_env",
        }
    }
}

/// One rule as written, with its place.
#[derive(Debug, Clone)]
pub(crate) struct WrittenRule {
    pub key: RuleKey,
    pub text: String,
    pub why: String,
    pub if_present: bool,
    pub profile: String,
    pub origin: Origin,
}

/// A profile with everything it extends, outermost base first, itself last.
pub(crate) struct Chain<'a> {
    links: Vec<&'a Written>,
    rules: Vec<WrittenRule>,
}

impl<'a> Chain<'a> {
    /// `links` is never empty: it ends with the profile itself.
    pub(crate) fn new(links: Vec<&'a Written>, problems: &mut Problems) -> Self {
        let rules = rules(&links, problems);
        Self { links, rules }
    }

    /// Leaves one rule out.
    pub(crate) fn without(mut self, index: usize) -> Self {
        if index < self.rules.len() {
            self.rules.remove(index);
        }
        self
    }

    /// Adds the hosts that the operator gives to the profile.
    pub(crate) fn with_hosts(mut self, hosts: Option<&String>, problems: &mut Problems) -> Self {
        let own: &str = &self.own().profile.name;
        let given = hosts.map(|hosts| given::rules(own, hosts));
        append(&mut self.rules, given.into_iter().flatten(), problems);
        self.rules.sort_by_key(|rule| rule.key as usize);
        self
    }

    /// The profile itself.
    pub(crate) fn own(&self) -> &'a Written {
        self.links
            .last()
            .expect("a chain ends with the profile itself")
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &'a Written> {
        self.links.iter().copied()
    }

    /// The value of the outermost profile that has one.
    pub(crate) fn last<T>(
        &self,
        get: impl Fn(&'a Profile) -> Option<&'a At<T>>,
    ) -> Option<(&'a T, Origin)> {
        self.links.iter().rev().find_map(|written| {
            let value = get(&written.profile)?;
            Some((&**value, written.origin(value.span())))
        })
    }

    pub(crate) fn rules(&self, key: RuleKey) -> impl Iterator<Item = &WrittenRule> {
        self.rules.iter().filter(move |rule| rule.key == key)
    }

    /// How far from the outermost base the profile is in which a rule stands.
    pub(crate) fn depth(&self, rule: &WrittenRule) -> Option<usize> {
        self.links
            .iter()
            .position(|written| *written.profile.name == rule.profile)
    }

    pub(crate) fn public_rules(&self) -> Vec<Rule> {
        let public = |rule: &WrittenRule| Rule {
            key: rule.key.text(),
            text: rule.text.clone(),
            why: rule.why.clone(),
            profile: rule.profile.clone(),
            place: rule.origin.to_string(),
        };
        self.rules.iter().map(public).collect()
    }
}

/// Every rule of every link; a rule that a base already has is not repeated.
fn rules(links: &[&Written], problems: &mut Problems) -> Vec<WrittenRule> {
    let mut all: Vec<WrittenRule> = Vec::new();
    for written in links {
        append(&mut all, rules_of(written), problems);
    }
    all.sort_by_key(|rule| rule.key as usize);
    all
}

/// Appends the rules of one file but for those that are already there.
fn append(
    all: &mut Vec<WrittenRule>,
    rules: impl IntoIterator<Item = WrittenRule>,
    problems: &mut Problems,
) {
    for rule in rules {
        let same = all
            .iter()
            .find(|other| other.key == rule.key && other.text == rule.text);
        match same {
            None => all.push(rule),
            Some(first) if first.origin.file == rule.origin.file => problems.push(
                Diagnostic::at(
                    &rule.origin,
                    format!("`{}` is listed twice in `{}`", rule.text, rule.key.text()),
                )
                .with_hint(format!(
                    "it is already there in line {}",
                    first.origin.line()
                )),
            ),
            Some(_) => {}
        }
    }
}

fn rules_of(written: &Written) -> Vec<WrittenRule> {
    let profile = &written.profile;
    let mut rules = Vec::new();
    let mut push = |key, span, text: &str, why: &str, if_present| {
        rules.push(WrittenRule {
            key,
            text: text.to_owned(),
            why: why.to_owned(),
            if_present,
            profile: profile.name.to_string(),
            origin: written.origin(span),
        });
    };
    if let Some(files) = &profile.files {
        for (key, list) in [
            (RuleKey::Read, &files.read),
            (RuleKey::Exec, &files.exec),
            (RuleKey::Write, &files.write),
            (RuleKey::Deny, &files.deny),
            (RuleKey::Protect, &files.protect),
        ] {
            for entry in list {
                push(key, entry.span(), &entry.path, &entry.why, entry.if_present);
            }
        }
    }
    if let Some(network) = &profile.network {
        for (key, list) in [
            (RuleKey::NetworkAllow, &network.allow),
            (RuleKey::NetworkDeny, &network.deny),
        ] {
            for entry in list {
                push(key, entry.span(), &entry.host, &entry.why, false);
            }
        }
        for entry in &network.allow_addresses {
            let key = RuleKey::NetworkAddresses;
            push(key, entry.span(), &entry.range, &entry.why, false);
        }
        for entry in &network.inject {
            let text = super::inject::text(entry);
            push(
                RuleKey::NetworkInject,
                entry.span(),
                &text,
                &entry.why,
                false,
            );
        }
    }
    if let Some(sockets) = &profile.sockets {
        for entry in &sockets.connect {
            let key = RuleKey::SocketConnect;
            push(key, entry.span(), &entry.path, &entry.why, entry.if_present);
        }
    }
    if let Some(syscalls) = &profile.syscalls {
        for (key, list) in [
            (RuleKey::SyscallAllow, &syscalls.allow),
            (RuleKey::SyscallDeny, &syscalls.deny),
        ] {
            for entry in list {
                push(key, entry.span(), &entry.name, &entry.why, false);
            }
        }
    }
    if let Some(run) = &profile.run {
        for entry in &run.pass_env {
            push(
                RuleKey::PassEnv,
                entry.span(),
                &entry.name,
                &entry.why,
                false,
            );
        }
    }
    rules
}
