//! Why a connection is refused by what was sent over it.

use super::Peer;
use crate::outcome::{Denial, DenialKind};

/// What is wrong with bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// TLS for another server than the one that was connected to; its name.
    Sni(String),
    /// TLS without a server's name.
    NoSni,
    /// A request for another host; the host.
    Host(String),
    /// A request by another port of the host.
    Port(u16),
    /// Neither TLS nor HTTP.
    Protocol,
    /// A request to become a tunnel or a protocol in which later requests could not be seen.
    Tunnel(&'static str),
    /// TLS or HTTP, but not as it should be; how so.
    Malformed(&'static str),
}

/// A connection that is refused, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub wrong: Wrong,
    /// What was tried.
    pub what: String,
    /// Which rule denied it.
    pub rule: String,
    /// The profile line that would allow it.
    pub allow_with: String,
}

impl Violation {
    /// Tells what was wrong on a connection.
    #[must_use]
    pub fn new(wrong: Wrong, peer: &Peer, port: u16) -> Self {
        let to = format!("{peer}:{port}");
        let (what, rule) = match &wrong {
            Wrong::Sni(name) => (
                format!("TLS for `{name}` over a connection to `{to}`"),
                "the server name of TLS must be the name that was connected to",
            ),
            Wrong::NoSni => (
                format!("TLS without a server name over a connection to `{to}`"),
                "TLS must name its server",
            ),
            Wrong::Host(host) => (
                format!("an HTTP request for `{host}` over a connection to `{to}`"),
                "the host of every HTTP request must be the one that was connected to",
            ),
            Wrong::Port(other) => (
                format!("an HTTP request for port {other} over a connection to `{to}`"),
                "the port of every HTTP request must be the one that was connected to",
            ),
            Wrong::Protocol => (
                format!("bytes to `{to}` that are neither TLS nor HTTP"),
                "an entry without `/tcp` admits TLS and HTTP",
            ),
            Wrong::Tunnel(what) => (
                format!("{what} over a connection to `{to}`"),
                "every HTTP request on a connection must be seen",
            ),
            Wrong::Malformed(how) => (
                format!("bytes to `{to}` that are malformed: {how}"),
                "TLS and HTTP must be read in one way only",
            ),
        };
        let allow_with = match &wrong {
            Wrong::NoSni => "network.allow_no_sni = true".to_owned(),
            _ => format!("network.allow = [\"{to}/tcp\"]"),
        };
        Self {
            wrong,
            what,
            rule: rule.to_owned(),
            allow_with,
        }
    }

    /// As it appears in the result of a call.
    #[must_use]
    pub fn denial(&self) -> Denial {
        Denial {
            kind: DenialKind::Network,
            what: self.what.clone(),
            rule: self.rule.clone(),
            allow_with: self.allow_with.clone(),
            count: 1,
        }
    }
}
