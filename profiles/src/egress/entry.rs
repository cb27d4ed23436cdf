//! One line of `network.allow` or `network.deny`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::{Name, NameError};

/// The ports of an entry that names none.
pub const WEB_PORTS: [u16; 2] = [443, 80];
/// Most ports in one entry.
pub const PORTS_MAX: usize = 16;
/// What makes an entry one for bytes of any protocol.
const TCP: &str = "/tcp";
/// What makes an entry one for a service on the machine's own loopback.
const OF_THE_MACHINE: &str = "host:";

/// Where, by which ports, and with what protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Where.
    pub target: Target,
    /// By which ports; in an entry of `network.deny`, none means all.
    pub ports: Vec<u16>,
    /// With what protocol.
    pub protocol: Protocol,
}

/// What an entry names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// `example.org`: this name and no other.
    Name(Name),
    /// `*.example.org`: every name beneath it, and not itself.
    Beneath(Name),
    /// `*`: every name.
    Any,
    /// `192.0.2.7` or `10.0.0.0/8`: addresses that a program connects to without a name.
    Addresses(IpNet),
    /// `host:db.example`: a service on the machine's own loopback, under this name.
    Machine(Name),
}

/// What is checked of a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TLS with a server name, or HTTP: they must name the host that was connected to.
    Web,
    /// Anything; only the address is checked.
    Tcp,
}

/// Why a text is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The host part.
    #[error("`{text}` {error}")]
    Name {
        /// The host part.
        text: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// A `*` where it means nothing.
    #[error("`*` stands for whole labels at the beginning: `*.example.org`")]
    Wildcard,
    /// A port.
    #[error("`{0}` is no port between 1 and 65535")]
    Port(String),
    /// The same port twice, or too many.
    #[error("lists a port twice, or more than {PORTS_MAX}")]
    Ports,
    /// An address range with bits set beyond its prefix, or no range at all.
    #[error("`{0}` is no address and no range such as `10.0.0.0/8`")]
    Range(String),
    /// Bytes of any protocol without saying where.
    #[error("`/tcp` needs a port, such as `example.org:5432/tcp`")]
    TcpWithoutPort,
    /// A service of the machine without saying which.
    #[error(
        "a service of the machine needs a name and a port, such as `host:db.internal:5432/tcp`"
    )]
    MachineWithoutPort,
}

impl Entry {
    /// Reads an entry of `network.allow`.
    ///
    /// # Errors
    /// If it is none; the message completes "`TEXT` is no host: …".
    pub fn allow(text: &str) -> Result<Self, EntryError> {
        let mut entry = Self::read(text)?;
        if entry.ports.is_empty() {
            if entry.protocol == Protocol::Tcp {
                return Err(EntryError::TcpWithoutPort);
            }
            if matches!(entry.target, Target::Machine(_)) {
                return Err(EntryError::MachineWithoutPort);
            }
            entry.ports = WEB_PORTS.to_vec();
        }
        Ok(entry)
    }

    /// Reads an entry of `network.deny`: without a port, it denies all.
    ///
    /// # Errors
    /// As [`Entry::allow`].
    pub fn deny(text: &str) -> Result<Self, EntryError> {
        Self::read(text)
    }

    fn read(text: &str) -> Result<Self, EntryError> {
        let (rest, protocol) = match text.strip_suffix(TCP) {
            Some(rest) => (rest, Protocol::Tcp),
            None => (text, Protocol::Web),
        };
        if let Some(rest) = rest.strip_prefix(OF_THE_MACHINE) {
            let (name, ports) = split_ports(rest)?;
            return Ok(Self {
                target: Target::Machine(read_name(name)?),
                ports,
                protocol,
            });
        }
        let (host, ports) = split_ports(rest)?;
        Ok(Self {
            target: read_target(host)?,
            ports,
            protocol,
        })
    }

    /// Whether the entry covers a name, whatever the port.
    #[must_use]
    pub fn covers(&self, name: &Name) -> bool {
        match &self.target {
            Target::Name(own) | Target::Machine(own) => own == name,
            Target::Beneath(suffix) => name.is_beneath(suffix),
            Target::Any => true,
            Target::Addresses(_) => false,
        }
    }

    /// Whether the entry covers an address that a program connects to without a name.
    #[must_use]
    pub fn covers_address(&self, address: IpAddr) -> bool {
        matches!(&self.target, Target::Addresses(range) if range.contains(&address))
    }

    /// Whether the entry covers a port; one without ports covers all.
    #[must_use]
    pub fn covers_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}

/// Splits `host:1,2`, `[v6]:1`, `v6` and `host` into the host and its ports.
fn split_ports(text: &str) -> Result<(&str, Vec<u16>), EntryError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| EntryError::Range(text.to_owned()))?;
        // `[2001:db8::]/32:443`: the prefix length belongs to the address.
        let (prefix, ports) = match rest.split_once(':') {
            Some((prefix, ports)) => (prefix, read_ports(ports)?),
            None => (rest, vec![]),
        };
        let host = &text[..=host.len() + 1 + prefix.len()];
        return Ok((host, ports));
    }
    match text.split_once(':') {
        // More than one colon and no bracket: an IPv6 address without a port.
        Some((_, rest)) if rest.contains(':') => Ok((text, vec![])),
        Some((host, ports)) => Ok((host, read_ports(ports)?)),
        None => Ok((text, vec![])),
    }
}

fn read_ports(text: &str) -> Result<Vec<u16>, EntryError> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let port = part.parse().ok().filter(|port| *port != 0 && digits);
        let port = port.ok_or_else(|| EntryError::Port(part.to_owned()))?;
        if ports.contains(&port) || ports.len() == PORTS_MAX {
            return Err(EntryError::Ports);
        }
        ports.push(port);
    }
    Ok(ports)
}

fn read_target(host: &str) -> Result<Target, EntryError> {
    if host == "*" {
        return Ok(Target::Any);
    }
    if let Some(suffix) = host.strip_prefix("*.") {
        return read_name(suffix).map(Target::Beneath);
    }
    if host.contains('*') {
        return Err(EntryError::Wildcard);
    }
    let looks_numeric = host.starts_with('[') || host.contains([':', '/']);
    let bare: String = host.chars().filter(|c| !matches!(c, '[' | ']')).collect();
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Target::Addresses(IpNet::from(address)));
    }
    if looks_numeric {
        let range: Option<IpNet> = bare.parse().ok();
        // `10.1.2.3/8` is more likely a mistake than a range.
        let exact = range.filter(|range| range.addr() == range.network());
        return exact
            .map(Target::Addresses)
            .ok_or_else(|| EntryError::Range(host.to_owned()));
    }
    read_name(host).map(Target::Name)
}

fn read_name(text: &str) -> Result<Name, EntryError> {
    Name::parse(text).map_err(|error| EntryError::Name {
        text: text.to_owned(),
        error,
    })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Beneath(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
            Self::Addresses(IpNet::V6(range)) if range.prefix_len() == 128 => {
                write!(f, "[{}]", range.addr())
            }
            Self::Addresses(IpNet::V6(range)) => {
                write!(f, "[{}]/{}", range.addr(), range.prefix_len())
            }
            Self::Addresses(IpNet::V4(range)) if range.prefix_len() == 32 => {
                write!(f, "{}", range.addr())
            }
            Self::Addresses(IpNet::V4(range)) => write!(f, "{range}"),
            Self::Machine(name) => write!(f, "{OF_THE_MACHINE}{name}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        for (index, port) in self.ports.iter().enumerate() {
            let separator = if index == 0 { ':' } else { ',' };
            write!(f, "{separator}{port}")?;
        }
        match self.protocol {
            Protocol::Tcp => f.write_str(TCP),
            Protocol::Web => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_written() {
        for (text, written) in [
            ("example.org", "example.org:443,80"),
            ("Example.ORG.:443", "example.org:443"),
            ("*.example.org:8443", "*.example.org:8443"),
            ("*:443", "*:443"),
            ("db.example.org:5432/tcp", "db.example.org:5432/tcp"),
            ("example.org:443,8443", "example.org:443,8443"),
            ("192.0.2.7", "192.0.2.7:443,80"),
            ("10.0.0.0/8:5432/tcp", "10.0.0.0/8:5432/tcp"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("2001:db8::1", "[2001:db8::1]:443,80"),
            ("[2001:db8::]/32:443", "[2001:db8::]/32:443"),
            ("host:db.internal:5432/tcp", "host:db.internal:5432/tcp"),
            ("bücher.example", "xn--bcher-kva.example:443,80"),
        ] {
            let entry = Entry::allow(text).map(|entry| entry.to_string());
            assert_eq!(entry.as_deref(), Ok(written), "{text}");
            assert_eq!(
                Entry::allow(written).map(|e| e.to_string()).as_deref(),
                Ok(written)
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in [
            "",
            "*",
            "*.*.org",
            "a.*.org",
            "*example.org",
            "example.org:0",
            "example.org:65536",
            "example.org:+1",
            "example.org:",
            "example.org:443,443",
            "example.org:443/udp",
            "example.org/tcp",
            "host:db.internal",
            "host:",
            "https://example.org",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "[::1",
            "1.2.3",
            "0x7f.1",
            "user@example.org",
            "exa mple.org",
            "a\0b.org",
            "[example.org]:443",
        ] {
            // `*` alone is the one of these that is right.
            assert_eq!(
                Entry::allow(text).is_ok(),
                text == "*",
                "{text:?}: {:?}",
                Entry::allow(text)
            );
        }
    }
}
