//! `[network]`: every entry read, and whether each says something.

use ipnet::IpNet;

use crate::diagnostics::{Diagnostic, Problems, did_you_mean, shortened};
use crate::egress::{
    Entry, EntryError, Name, NameError, Opened, PORTS_MAX, Protocol, Rule, Special, Target,
    WEB_PORTS, nearest, special, unlistable,
};

use super::NetworkRules;
use super::chain::{Chain, RuleKey, WrittenRule};
use super::check::because;

/// Most entries in the lists of `[network]`, bases included.
const ENTRIES_MAX: usize = 256;
/// What an entry looks like.
const HOST_EXPECTED: &str = "expected a host such as `example.org`, `*.example.org:8443` or \
     `db.example.org:5432/tcp`";
/// Names that a cell answers itself, out of its own `/etc/hosts`.
const LOCALHOST: &str = "localhost";

/// An entry, and the rule that it was read from.
pub(super) type Read<'a> = (Entry, &'a WrittenRule);

/// Reads the network rules of a chain.
pub(super) fn resolve(chain: &Chain<'_>, problems: &mut Problems) -> NetworkRules {
    let mut list = |key, read: fn(&WrittenRule) -> Result<Entry, Diagnostic>| -> Vec<Read<'_>> {
        let rules = chain.rules(key);
        let read = rules.filter_map(|rule| Some((problems.note(read(rule))?, rule)));
        read.collect()
    };
    let allow = list(RuleKey::NetworkAllow, allowed);
    let deny = list(RuleKey::NetworkDeny, denied);
    let mut opened = Vec::new();
    for rule in chain.rules(RuleKey::NetworkAddresses) {
        opened.extend(problems.note(opening(rule)));
    }
    let entries = allow.len() + deny.len() + opened.len();
    if entries > ENTRIES_MAX {
        let own = chain.own();
        let origin = own.origin(own.profile.name.span());
        problems.push(
            Diagnostic::at(&origin, format!("{entries} entries in `[network]`"))
                .with_expected(format!("expected at most {ENTRIES_MAX}")),
        );
    } else {
        contradictions(chain, &allow, &deny, problems);
    }
    let flag = |get: fn(&crate::schema::Network) -> Option<&crate::schema::At<bool>>| {
        let written = chain.last(|profile| get(profile.network.as_ref()?));
        written.is_some_and(|(flag, _)| *flag)
    };
    let inject = super::inject::resolve(chain, &allow, &deny, problems);
    let rules = |read: Vec<Read<'_>>| {
        let rule = |(entry, rule): Read<'_>| Rule {
            entry,
            place: rule.origin.to_string(),
        };
        read.into_iter().map(rule).collect()
    };
    NetworkRules {
        allow: rules(allow),
        deny: rules(deny),
        allow_addresses: opened,
        inject,
        allow_no_sni: flag(|network| network.allow_no_sni.as_ref()),
        loopback: flag(|network| network.loopback.as_ref()),
        unix: flag(|network| network.unix.as_ref()),
    }
}

/// What the hosts are for that the profile needs of the operator, if nobody gave any.
pub(super) fn missing(chain: &Chain<'_>, network: &NetworkRules) -> Option<String> {
    let needed = chain.last(|profile| profile.network.as_ref()?.required.as_ref());
    needed
        .filter(|_| network.allow.is_empty())
        .map(|(what, _)| what.clone())
}

fn allowed(rule: &WrittenRule) -> Result<Entry, Diagnostic> {
    let entry = Entry::allow(&rule.text).map_err(|error| no_host(rule, &error))?;
    let at = |message: String| Diagnostic::at(&rule.origin, message);
    let text = &rule.text;
    match &entry.target {
        Target::Name(name) | Target::Machine(name) if is_localhost(name) => {
            let service = entry.ports.first().copied().unwrap_or(5432);
            Err(at(format!(
                "`{text}`: in a cell `{LOCALHOST}` is the cell itself"
            ))
            .with_hint(format!(
                "for a service on the machine's own loopback, give it a name: \
                     `host:db.internal:{service}/tcp`"
            )))
        }
        Target::Beneath(suffix) if is_localhost(suffix) => Err(at(format!(
            "`{text}`: in a cell names beneath `{LOCALHOST}` are the cell itself"
        ))
        .with_hint("what they serve within the cell needs `network.loopback = true`")),
        Target::Addresses(range) => match unlistable(*range) {
            None => Ok(entry),
            Some(kind) => Err(at(unlistable_message(text, *range, kind))
                .with_hint(unlistable_hint(kind, &entry.ports))),
        },
        _ => Ok(entry),
    }
}

fn unlistable_message(text: &str, range: IpNet, kind: Special) -> String {
    let single = range.prefix_len() == range.max_prefix_len();
    let what = if single {
        format!("`{text}` is {kind}")
    } else {
        format!("`{text}` holds {kind} addresses")
    };
    match kind {
        Special::Loopback => format!("{what}, which in a cell is the cell's own"),
        Special::Benchmarking => {
            format!("`{text}` is what a cell has for the names that it may reach")
        }
        _ => format!("{what}, where nobody serves"),
    }
}

fn unlistable_hint(kind: Special, ports: &[u16]) -> String {
    match (kind, ports.first()) {
        (Special::Loopback, Some(port)) => format!(
            "for a service on the machine's own loopback, give it a name: \
             `host:db.internal:{port}/tcp`"
        ),
        _ => "list the ranges that the tool needs, such as `10.0.0.0/8:5432/tcp`, or names"
            .to_owned(),
    }
}

fn is_localhost(name: &Name) -> bool {
    let last = name.as_str().rsplit('.').next();
    // `cell` is the host name, which `/etc/hosts` has, too.
    last == Some(LOCALHOST) || name.as_str() == crate::compile::HOSTNAME
}

fn denied(rule: &WrittenRule) -> Result<Entry, Diagnostic> {
    let entry = Entry::deny(&rule.text).map_err(|error| no_host(rule, &error))?;
    if entry.protocol == Protocol::Tcp {
        let without = rule.text.trim_end_matches("/tcp");
        let message = "a denial holds for every protocol";
        return Err(Diagnostic::at(&rule.origin, message).with_hint(format!("write `{without}`")));
    }
    Ok(entry)
}

/// The diagnostic for a text that is no entry, with the entry that was probably meant.
fn no_host(rule: &WrittenRule, error: &EntryError) -> Diagnostic {
    let text = shortened(&rule.text);
    let meant = nearest(&rule.text).map(|meant| shortened(&meant));
    let is_url = rule.text.contains("://");
    let has_path = matches!(error, EntryError::Range(_)) && !rule.text.starts_with(is_numeric);
    let message = if rule.text.is_empty() {
        "an empty text is no host".to_owned()
    } else if is_url {
        format!("`{text}` is a URL, not a host")
    } else if rule.text.contains(char::is_whitespace) {
        format!("`{text}` holds a space")
    } else if rule.text.contains("/udp") {
        format!("`{text}`: only TCP leaves a cell")
    } else if has_path && rule.text.contains('/') {
        format!("`{text}` has a path, and a host is reached as a whole")
    } else {
        let what = crate::diagnostics::shortened_to(&error.to_string(), 200);
        format!("`{text}` is no host: {what}")
    };
    let web = WEB_PORTS.map(|port| port.to_string()).join(" and ");
    let hint = match (error, meant) {
        (EntryError::TcpWithoutPort | EntryError::MachineWithoutPort, _) => None,
        (EntryError::Ports, _) => Some(format!("list each port once, and at most {PORTS_MAX}")),
        (EntryError::Port(_), Some(meant)) if !meant.contains(':') && !is_url => Some(format!(
            "a port is a number; without any, {web} are meant: `{meant}`"
        )),
        (EntryError::Range(_), Some(meant)) if rule.text.starts_with(is_numeric) => {
            Some(format!("the range that it is in is `{meant}`"))
        }
        (_, Some(meant)) => Some(format!("write `{meant}`")),
        (EntryError::Name { error, .. }, None) if *error == NameError::Numeric => {
            Some("write an address with all its parts, such as `192.0.2.7`".to_owned())
        }
        (_, None) => None,
    };
    Diagnostic::at(&rule.origin, message)
        .with_expected(HOST_EXPECTED)
        .with_hint_maybe(hint)
}

/// How addresses begin, and names hardly ever.
fn is_numeric(first: char) -> bool {
    first.is_ascii_digit() || first == '['
}

fn opening(rule: &WrittenRule) -> Result<Opened, Diagnostic> {
    Opened::read(&rule.text).map_err(|error| {
        let text = shortened(&rule.text);
        let words = Special::ALL.into_iter().filter(|kind| kind.can_be_opened());
        let whole = rule.text.parse::<IpNet>().ok().map(|range| range.trunc());
        let hint = match whole.filter(|whole| whole.to_string() != rule.text) {
            Some(whole) => Some(format!("the range that it is in is `{whole}`")),
            None => did_you_mean(&rule.text, words.map(Special::word)),
        };
        Diagnostic::at(&rule.origin, format!("`{text}` {error}")).with_hint_maybe(hint)
    })
}

/// Notes entries that say nothing: a denial of what nobody allows, and an allowed entry of which a
/// denial leaves nothing. Bases may deny in general, and a profile may take back what its base
/// allows.
fn contradictions(
    chain: &Chain<'_>,
    allow: &[Read<'_>],
    deny: &[Read<'_>],
    problems: &mut Problems,
) {
    for (denied, rule) in deny {
        let same_file = |other: &WrittenRule| other.origin.file == rule.origin.file;
        let takes = allow.iter().any(|(allowed, _)| denied.touches(allowed));
        if !takes && allow.iter().any(|(_, other)| same_file(other)) {
            let message = format!("`{}` denies nothing that is allowed", rule.text);
            problems.push(
                Diagnostic::at(&rule.origin, message)
                    .with_hint("what is not allowed cannot be reached: leave it out"),
            );
        }
    }
    for (allowed, rule) in allow {
        let depth = chain.depth(rule);
        let before = deny.iter().filter(|(_, other)| chain.depth(other) <= depth);
        let mut last = None;
        let mut left = allowed.ports.clone();
        for (denied, other) in before {
            let still = denied.leaves(allowed, &left);
            if still.len() < left.len() {
                last = Some(other);
            }
            left = still;
        }
        if let Some(other) = last.filter(|_| left.is_empty()) {
            let message = format!(
                "`{}` is allowed, and all of it is denied by `{}` ({})",
                rule.text, other.text, other.origin
            );
            problems
                .push(Diagnostic::at(&rule.origin, message).with_hint("leave one of the two out"));
        }
        let other = allow.iter().find(|(other, _)| ambiguous(allowed, other));
        if let Some((_, other)) = other {
            let message = format!(
                "`{}` is a service of the machine, and `{}` ({}) a host of the same name",
                rule.text, other.text, other.origin
            );
            problems.push(
                Diagnostic::at(&rule.origin, message)
                    .with_hint("give the service a name of its own, such as `host:db.internal:…`"),
            );
        }
    }
}

/// Whether one entry is for a service of the machine, and the other for a host by the same name.
fn ambiguous(one: &Entry, other: &Entry) -> bool {
    matches!((&one.target, &other.target), (Target::Machine(one), Target::Name(other)) if one == other)
}

/// What of it is weaker than reaching hosts by their whole names with protocols that can be checked.
pub(super) fn weakenings(network: &NetworkRules, chain: &Chain<'_>) -> Vec<String> {
    let why = |key, rule: &Rule| {
        let mut written = chain.rules(key);
        let written = written.find(|written| written.origin.to_string() == rule.place);
        because(written.map_or("", |written| &written.why))
    };
    let mut found = Vec::new();
    for rule in &network.allow {
        let entry = &rule.entry;
        let mut what = match &entry.target {
            Target::Name(_) if entry.protocol == Protocol::Web => continue,
            Target::Name(_) => format!("reaches `{entry}`"),
            Target::Beneath(suffix) => format!("reaches every host beneath `{suffix}` (`{entry}`)"),
            Target::Any => format!("reaches EVERY host that has a name (`{entry}`)"),
            Target::Addresses(range) => match special(range.network()) {
                None => format!("reaches addresses without a name (`{entry}`)"),
                Some(kind) => {
                    format!(
                        "reaches addresses that are not public ({kind}), without a name (`{entry}`)"
                    )
                }
            },
            Target::Machine(_) => {
                format!("reaches a service on the machine's own loopback (`{entry}`)")
            }
        };
        if entry.protocol == Protocol::Tcp {
            what.push_str(", with any protocol, unchecked");
        }
        found.push(format!("{what}{}", why(RuleKey::NetworkAllow, rule)));
    }
    for rule in chain.rules(RuleKey::NetworkAddresses) {
        found.push(format!(
            "names may lead to addresses that are not public (`{}`){}",
            rule.text,
            because(&rule.why)
        ));
    }
    found.extend(super::inject::weakenings(&network.inject, chain));
    if network.allow_no_sni {
        found.push(
            "TLS clients may leave out the server's name, and then only the name that they \
             resolved is checked"
                .to_owned(),
        );
    }
    found
}
