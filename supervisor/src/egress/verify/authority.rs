//! The host and port that a request is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use profiles::egress::Name;

use super::{Peer, Wrong};

/// A host as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// By name.
    Name(Name),
    /// By address.
    Address(IpAddr),
}

/// `host` or `host:port`, as in a Host field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if it is named.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads what a request says. Nothing that could be read in two ways is read: no user, no empty
    /// port, no zone, no address but in the usual notation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, &'static str> {
        let (host, port) = if let Some(rest) = text.strip_prefix(b"[") {
            let end = rest.iter().position(|byte| *byte == b']');
            let end = end.ok_or("a host that begins with `[` and has no `]`")?;
            let address: Ipv6Addr = std::str::from_utf8(&rest[..end])
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or("a host in brackets that is no IPv6 address")?;
            (Host::Address(address.into()), &rest[end + 1..])
        } else {
            let end = text.iter().position(|byte| *byte == b':');
            let (host, port) = text.split_at(end.unwrap_or(text.len()));
            (read_host(host)?, port)
        };
        let port = match port {
            [] => None,
            [b':', digits @ ..] => Some(read_port(digits)?),
            _ => return Err("bytes between a host and its port"),
        };
        Ok(Self { host, port })
    }

    /// Whether it is what was connected to.
    ///
    /// # Errors
    /// How it is not.
    pub fn check(&self, peer: &Peer, port: u16) -> Result<(), Wrong> {
        let same = match (&self.host, peer) {
            (Host::Name(name), Peer::Name(own)) => name == own,
            (Host::Address(address), Peer::Address(own)) => {
                address.to_canonical() == own.to_canonical()
            }
            _ => false,
        };
        if !same {
            return Err(Wrong::Host(self.host.to_string()));
        }
        match self.port {
            Some(other) if other != port => Err(Wrong::Port(other)),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
        }
    }
}

fn read_host(text: &[u8]) -> Result<Host, &'static str> {
    let address = std::str::from_utf8(text).ok();
    if let Some(address) = address.and_then(|text| text.parse::<Ipv4Addr>().ok()) {
        return Ok(Host::Address(address.into()));
    }
    Name::from_ascii(text)
        .map(Host::Name)
        .map_err(|_| "a host that is neither a name nor an address")
}

fn read_port(digits: &[u8]) -> Result<u16, &'static str> {
    let wrong = "a port that is none";
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    let port = digits
        .iter()
        .fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(wrong)
}
