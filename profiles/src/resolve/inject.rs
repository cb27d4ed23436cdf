//! `network.inject`: headers with secrets, each read, and whether each can reach what it is for.

use crate::diagnostics::{Diagnostic, Problems};
use crate::egress::{Entry, Injection, Protocol, WrittenInjection};
use crate::schema::InjectEntry;

use super::chain::{Chain, RuleKey, WrittenRule};
use super::check::because;
use super::network::Read;

/// Most headers of a profile, bases included.
const INJECTIONS_MAX: usize = 16;

/// What tells one rule from another: the request, and the header.
pub(super) fn text(entry: &InjectEntry) -> String {
    let InjectEntry {
        host,
        method,
        path,
        header,
        ..
    } = entry;
    format!("{method} {host}{path} {header}")
}

/// Reads what the chain's profiles inject into requests for the hosts that they allow.
pub(super) fn resolve(
    chain: &Chain<'_>,
    allow: &[Read<'_>],
    deny: &[Read<'_>],
    problems: &mut Problems,
) -> Vec<Injection> {
    let mut found = Vec::new();
    for (entry, rule) in entries(chain) {
        let injection = read(entry, rule)
            .and_then(|injection| reachable(&injection, rule, allow, deny).map(|()| injection));
        found.extend(problems.note(injection));
    }
    if found.len() > INJECTIONS_MAX {
        let own = chain.own();
        let origin = own.origin(own.profile.name.span());
        let message = format!("{} headers in `network.inject`", found.len());
        let expected = format!("expected at most {INJECTIONS_MAX}");
        problems.push(Diagnostic::at(&origin, message).with_expected(expected));
    }
    found
}

/// The entries as written, of those rules that are there.
fn entries<'a>(chain: &'a Chain<'_>) -> impl Iterator<Item = (&'a InjectEntry, &'a WrittenRule)> {
    let written = chain.links().flat_map(|written| {
        let network = written.profile.network.iter();
        let entries = network.flat_map(|network| &network.inject);
        entries.map(move |entry| (&**entry, written.origin(entry.span()).to_string()))
    });
    written.filter_map(|(entry, place)| {
        let mut rules = chain.rules(RuleKey::NetworkInject);
        let rule = rules.find(|rule| rule.origin.to_string() == place)?;
        Some((entry, rule))
    })
}

fn read(entry: &InjectEntry, rule: &WrittenRule) -> Result<Injection, Diagnostic> {
    let written = WrittenInjection {
        host: &entry.host,
        method: &entry.method,
        path: &entry.path,
        header: &entry.header,
        value: &entry.value,
        secret: &entry.secret,
    };
    Injection::read(written).map_err(|error| {
        let message = format!("`{}` {}", error.key, error.wrong);
        Diagnostic::at(&rule.origin, message).with_expected(format!("expected {}", error.expected))
    })
}

/// Whether requests to the host can be made at all, and are looked at.
fn reachable(
    injection: &Injection,
    rule: &WrittenRule,
    allow: &[Read<'_>],
    deny: &[Read<'_>],
) -> Result<(), Diagnostic> {
    let Injection { name, port, .. } = injection;
    let covers = |entry: &Entry| entry.covers(name) && entry.covers_port(*port);
    let at = |message: String| Diagnostic::at(&rule.origin, message);
    if let Some((_, other)) = deny.iter().find(|(entry, _)| covers(entry)) {
        let message = format!(
            "`{name}:{port}` is denied by `{}` ({})",
            other.text, other.origin
        );
        return Err(at(message).with_hint("leave one of the two out"));
    }
    let mut covering = allow.iter().filter(|(entry, _)| covers(entry)).peekable();
    if covering.peek().is_none() {
        let message = format!("no entry of `network.allow` covers `{name}:{port}`");
        return Err(at(message).with_hint(format!("add `network.allow = [\"{name}:{port}\"]`")));
    }
    match covering.find(|(entry, _)| entry.protocol == Protocol::Tcp) {
        Some((_, other)) => Err(at(format!(
            "`{}` ({}) lets any protocol pass, and a header needs HTTP",
            other.text, other.origin
        ))
        .with_hint("leave out `/tcp`")),
        None => Ok(()),
    }
}

/// What is opened, and for which secret.
pub(super) fn weakenings(injections: &[Injection], chain: &Chain<'_>) -> Vec<String> {
    let whys = entries(chain).map(|(_, rule)| because(&rule.why));
    let lines = injections.iter().zip(whys).map(|(injection, why)| {
        let Injection {
            name,
            port,
            method,
            path,
            header,
            secret,
            ..
        } = injection;
        format!(
            "adds the header `{header}` to `{method} https://{name}:{port}{path}` from the secret \
             `{secret}`; the tool never sees it; TLS to that host is opened by Toolcell{why}"
        )
    });
    lines.collect()
}
