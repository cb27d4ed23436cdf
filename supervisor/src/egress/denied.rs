//! What is said of what egress refused: what was tried, which rule said no, which line would say yes.

use std::net::{IpAddr, SocketAddr};

use profiles::egress::{Name, NameError, Refusal, unlistable};

use super::budget::Kind;
use super::dial::Destination;
use super::watcher::{Attempt, Transport};
use crate::exceeded;
use crate::outcome::{Denial, DenialKind};

/// Longest piece of a tool's text that is repeated in a message, in characters.
const QUOTED_CHARS_MAX: usize = 80;
/// Longest piece of an error of TLS, in characters.
const ERROR_CHARS_MAX: usize = 200;

fn network(what: String, rule: impl Into<String>, allow_with: impl Into<String>) -> Denial {
    Denial {
        kind: DenialKind::Network,
        what,
        rule: rule.into(),
        allow_with: allow_with.into(),
        count: 1,
    }
}

/// The line that allows a host and a port.
#[must_use]
pub fn allow(host: &str, port: Option<u16>, suffix: &str) -> String {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("network.allow = [\"{host}{port}{suffix}\"]")
}

/// A host as an entry of a profile has it.
#[must_use]
pub fn host(destination: &Destination) -> String {
    match destination {
        Destination::Name(name) => name.to_string(),
        Destination::Machine(name) => format!("host:{name}"),
        Destination::Address(IpAddr::V6(address)) => format!("[{address}]"),
        Destination::Address(address) => address.to_string(),
    }
}

/// The host and port of a connection, as a tool would write them.
#[must_use]
pub fn endpoint(destination: &Destination, port: u16) -> String {
    match destination {
        Destination::Name(name) | Destination::Machine(name) => format!("{name}:{port}"),
        Destination::Address(address) => SocketAddr::new(*address, port).to_string(),
    }
}

/// The rule behind a refusal, and the line that lifts it; `host` is as a profile writes it.
fn rule_and_line(host: &str, port: Option<u16>, refusal: &Refusal) -> (String, String) {
    match refusal {
        Refusal::Denied(rule) => (
            format!(
                "`network.deny` covers it: `{}` at {}",
                rule.entry, rule.place
            ),
            String::new(),
        ),
        Refusal::Host => (
            "no entry of `network.allow` covers it".to_owned(),
            allow(host, port, ""),
        ),
        Refusal::Port => (
            "`network.allow` lists the host, but not this port".to_owned(),
            allow(host, port, ""),
        ),
        Refusal::Special(kind) => (
            format!("it leads to a {kind} address, which names may not unless it is opened"),
            if kind.can_be_opened() {
                format!("network.allow_addresses = [\"{kind}\"]")
            } else {
                String::new()
            },
        ),
    }
}

/// A name that the resolver does not know.
#[must_use]
pub fn name(name: &Name, refusal: &Refusal) -> Denial {
    let (rule, line) = rule_and_line(name.as_str(), None, refusal);
    network(format!("look up {name}"), rule, line)
}

/// A question whose name is none; the text is escaped.
#[must_use]
pub fn not_a_name(text: &str, error: NameError) -> Denial {
    let text: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    network(
        format!("look up {text}"),
        format!("it is no host name: it {error}"),
        "",
    )
}

/// Questions past a budget.
#[must_use]
pub fn questions(kind: Kind) -> Denial {
    network(
        kind.what().to_owned(),
        "names must not carry what the profile lets nobody send",
        "",
    )
}

/// A connection that the plan does not admit.
#[must_use]
pub fn connection(destination: &Destination, port: u16, refusal: &Refusal) -> Denial {
    let (rule, mut line) = rule_and_line(&host(destination), Some(port), refusal);
    if let Destination::Address(address) = destination
        && unlistable((*address).into()).is_some()
    {
        // No entry can list it: it is nobody's, or the cell's own.
        line.clear();
    }
    network(
        format!("connect to {}", endpoint(destination, port)),
        rule,
        line,
    )
}

/// A name that led to where it must not lead.
#[must_use]
pub fn led_to(destination: &Destination, port: u16, address: IpAddr, refusal: &Refusal) -> Denial {
    let (rule, line) = rule_and_line(&host(destination), Some(port), refusal);
    let what = format!("connect to {} at {address}", endpoint(destination, port));
    network(what, rule, line)
}

/// A host that is allowed and cannot be reached, which is nobody's rule.
#[must_use]
pub fn unreachable(destination: &Destination, port: u16, why: &str) -> Denial {
    let what = format!("connect to {}", endpoint(destination, port));
    network(
        what,
        format!("it is allowed, but cannot be reached: {why}"),
        "",
    )
}

/// A host whose TLS is opened, and that cannot show that it is that host.
#[must_use]
pub fn untrusted(destination: &Destination, port: u16, error: &std::io::Error) -> Denial {
    network(
        format!("TLS to {}", endpoint(destination, port)),
        format!(
            "`network.inject` adds a secret to requests to it, and the host does not trust it: \
             {}; servers are checked by `SSL_CERT_FILE` of toolcell's environment, or by the \
             system's authorities",
            quoted(error)
        ),
        "",
    )
}

/// The beginning of an error, which may repeat what the other side wrote: a server's certificate.
fn quoted(error: &std::io::Error) -> String {
    let mut quoted = String::new();
    for c in error.to_string().chars().take(ERROR_CHARS_MAX) {
        match c {
            ' '..='~' => quoted.push(c),
            _ => quoted.extend(c.escape_unicode()),
        }
    }
    quoted
}

/// A client that does not agree to the TLS that is opened for it.
#[must_use]
pub fn not_opened(destination: &Destination, port: u16, error: &std::io::Error) -> Denial {
    network(
        format!("TLS to {}", endpoint(destination, port)),
        format!(
            "`network.inject` opens it, and the client did not agree: {}; it must trust `{}` and \
             speak HTTP/1.1",
            quoted(error),
            profiles::compile::TRUSTED
        ),
        "",
    )
}

/// An answer that has a secret in it.
#[must_use]
pub fn sent_back(destination: &Destination, port: u16) -> Denial {
    network(
        format!(
            "an answer of {} with a secret in it",
            endpoint(destination, port)
        ),
        "`network.inject` adds it to requests, and the tool must not have it; `path` can leave out \
         what sends requests back",
        "",
    )
}

/// A client that does not begin with TLS where it would be opened.
#[must_use]
pub fn not_tls(destination: &Destination, port: u16) -> Denial {
    network(
        format!("bytes to {} that are not TLS", endpoint(destination, port)),
        "`network.inject` adds a secret to requests to it, which needs TLS",
        "",
    )
}

/// What the kernel refused in the cell; one to the address of a name is about the port.
#[must_use]
pub fn attempt(attempt: &Attempt, destination: &Destination) -> Denial {
    let port = attempt.address.port();
    let endpoint = endpoint(destination, port);
    match attempt.protocol {
        Transport::Tcp => {
            let refusal = match destination {
                Destination::Name(_) | Destination::Machine(_) => Refusal::Port,
                Destination::Address(_) => Refusal::Host,
            };
            connection(destination, port, &refusal)
        }
        Transport::Udp => network(
            format!("send to {endpoint} (udp)"),
            "only TCP leaves a cell; QUIC clients fall back to it",
            "",
        ),
    }
}

/// More connections at once than the limit.
#[must_use]
pub fn too_many_connections(destination: &Destination, port: u16, most: u32) -> Denial {
    Denial {
        kind: DenialKind::Limit,
        what: format!("connect to {}", endpoint(destination, port)),
        rule: format!("`limits.connections = {most}` are open"),
        allow_with: format!("limits.connections = {}", most.saturating_mul(2)),
        count: 1,
    }
}

/// More bytes than the limit.
#[must_use]
pub fn too_many_bytes(most: u64) -> Denial {
    exceeded::by_size("network traffic", "egress", most)
}

/// A client that did not say whom it means in time.
#[must_use]
pub fn silent(destination: &Destination, port: u16) -> Denial {
    network(
        format!("connect to {}", endpoint(destination, port)),
        "the client sent neither TLS nor HTTP in time; other protocols are allowed by `/tcp`",
        allow(&host(destination), Some(port), "/tcp"),
    )
}

/// A socket that could not be opened for a name, which is our own trouble.
#[must_use]
pub fn broken(name: &Name, port: u16, error: &std::io::Error) -> Denial {
    let destination = Destination::Name(name.clone());
    unreachable(&destination, port, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_wrote_is_told_in_short() {
        let name = Name::parse("a.org").expect("a name");
        let written = format!("valid for \u{1b}[2J\u{202e}{}", "x".repeat(60_000));
        let error = std::io::Error::other(written);
        let denial = untrusted(&Destination::Name(name), 443, &error);
        assert!(denial.rule.len() < 600, "{}", denial.rule.len());
        assert!(denial.rule.contains("valid for \\u{1b}[2J\\u{202e}xx"));
    }
}
