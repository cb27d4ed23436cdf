//! Network addresses that a tool tries in a cell that reaches none.
//!
//! The network namespace has no route and Landlock refuses TCP; here it is only told what that kept
//! from what. An attempt is named by its address and, if it asks a resolver, by the name that the
//! question is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use profiles::filter::addresses::AddressCall;
use runner::sys;

use super::{Allowed, memory, paths};
use crate::descriptor::Other;
use crate::outcome::{Denial, DenialKind};

/// Longest address (`struct sockaddr_storage`).
const ADDRESS_BYTES_MAX: usize = 128;
/// Most messages of one `sendmmsg` that are looked at: the C library asks two questions at once.
const MESSAGES_MAX: u64 = 8;
/// Longest question to a resolver over UDP without extensions (RFC 1035, 2.3.4).
const QUESTION_BYTES_MAX: usize = 512;
/// Longest name in text (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// The port of resolvers.
const DNS_PORT: u16 = 53;
/// Ports that an entry of `network.allow` has if it says none.
const WEB_PORTS: [u16; 2] = [80, 443];
const NO_NETWORK: &str = "`network.allow` is empty";

/// Something that a tool tried.
#[derive(Debug)]
pub(super) enum Attempt {
    /// What was denied.
    Denied(Denial),
    /// A connection to a resolver, with the question still to come.
    Resolver,
    /// A question to a resolver.
    Lookup {
        /// The name that it asks for.
        name: String,
        /// Whether the socket had been connected before.
        connected: bool,
    },
}

/// What the call tries to reach; nothing if that is in the cell and allowed.
pub(super) fn look(call: &sys::Notification, kind: AddressCall, allowed: &Allowed) -> Vec<Attempt> {
    let Ok(pid) = i32::try_from(call.pid) else {
        return vec![];
    };
    let look = Look { pid, call, allowed };
    let arguments = &call.arguments;
    match kind {
        AddressCall::Connect => look.connect(arguments[1], arguments[2]),
        AddressCall::Bind => look.bind(arguments[1], arguments[2]),
        AddressCall::SendTo => {
            let message = Message {
                address: arguments[4],
                address_bytes: arguments[5],
                data: arguments[1],
                data_bytes: arguments[2],
            };
            look.send(&[message])
        }
        AddressCall::SendMessages => {
            let count = (arguments[2] & u64::from(u32::MAX)).min(MESSAGES_MAX);
            let messages: Option<Vec<_>> = (0..count)
                .map(|index| look.message(arguments[1].checked_add(index * 64)?))
                .collect();
            look.send(&messages.unwrap_or_default())
        }
    }
}

/// The denial of a question about a name.
pub(super) fn lookup(name: &str) -> Denial {
    denial(
        format!("look up {name}"),
        NO_NETWORK,
        format!("network.allow = [{name:?}]"),
    )
}

/// The denial of questions of which the names are not known.
pub(super) fn nameless_lookup(count: u64) -> Denial {
    let rule = format!("{NO_NETWORK}; which name was looked up shows with `--explain`");
    let what = "look up a name (udp port 53)".to_owned();
    Denial {
        count,
        ..denial(what, &rule, String::new())
    }
}

fn denial(what: String, rule: &str, allow_with: String) -> Denial {
    Denial {
        kind: DenialKind::Network,
        what,
        rule: rule.to_owned(),
        allow_with,
        count: 1,
    }
}

/// What is sent, by where it is in the tool's memory.
struct Message {
    address: u64,
    address_bytes: u64,
    data: u64,
    data_bytes: u64,
}

/// What a tool's memory names.
enum Address {
    Internet(SocketAddr),
    /// A Unix socket's path.
    Path(PathBuf),
}

struct Look<'a> {
    pid: i32,
    call: &'a sys::Notification,
    allowed: &'a Allowed,
}

impl Look<'_> {
    fn connect(&self, pointer: u64, length: u64) -> Vec<Attempt> {
        let address = match self.address(pointer, length) {
            Some(Address::Internet(address)) => address,
            Some(Address::Path(path)) => {
                let denied = paths::look_at_socket(self.call.pid, &path);
                return denied.map(Attempt::Denied).into_iter().collect();
            }
            None => return vec![],
        };
        let kind = self.kind();
        let tcp = kind == Some(SockType::Stream);
        if address.port() == DNS_PORT && !tcp {
            return vec![Attempt::Resolver];
        }
        if is_of_the_cell(address.ip()) {
            return self.within("connect to", address, kind);
        }
        // With port 0 the C library asks by which way an address would be reached, to sort them.
        if address.port() == 0 && !tcp {
            return vec![];
        }
        vec![Attempt::Denied(outward("connect to", address, kind))]
    }

    fn bind(&self, pointer: u64, length: u64) -> Vec<Attempt> {
        match self.address(pointer, length) {
            Some(Address::Internet(address)) if is_of_the_cell(address.ip()) => {
                self.within("listen on", address, self.kind())
            }
            _ => vec![],
        }
    }

    /// An address of the cell's own, which only Landlock keeps from TCP.
    fn within(&self, verb: &str, address: SocketAddr, kind: Option<SockType>) -> Vec<Attempt> {
        if !self.allowed.no_loopback || kind != Some(SockType::Stream) {
            return vec![];
        }
        vec![Attempt::Denied(denial(
            format!("{verb} {address} (tcp)"),
            "`network.loopback` is false",
            "network.loopback = true".to_owned(),
        ))]
    }

    fn send(&self, messages: &[Message]) -> Vec<Attempt> {
        let mut seen: Vec<Attempt> = Vec::new();
        let mut asked: Vec<String> = Vec::new();
        for message in messages {
            let connected = message.address == 0;
            let address = if connected {
                self.peer()
            } else {
                match self.address(message.address, message.address_bytes) {
                    Some(Address::Internet(address)) => Some(address),
                    _ => None,
                }
            };
            let Some(address) = address else { continue };
            if address.port() == DNS_PORT {
                let name = self.question(message);
                match name {
                    // Both kinds of address of one name are asked for together.
                    Some(name) if asked.contains(&name) => {}
                    Some(name) => {
                        asked.push(name.clone());
                        seen.push(Attempt::Lookup { name, connected });
                    }
                    None if !connected => seen.push(Attempt::Resolver),
                    None => {}
                }
            } else if !connected && !is_of_the_cell(address.ip()) {
                seen.push(Attempt::Denied(outward("send to", address, self.kind())));
            }
        }
        seen
    }

    /// The socket, as a copy of our own.
    fn socket(&self) -> Option<OwnedFd> {
        // The kernel looks at the low 32 bits only.
        let number = u32::try_from(self.call.arguments[0] & u64::from(u32::MAX)).ok()?;
        Other::open(self.pid)?.copy(number.cast_signed())
    }

    fn kind(&self) -> Option<SockType> {
        getsockopt(&self.socket()?, sockopt::SockType).ok()
    }

    /// Where a datagram socket is connected to.
    fn peer(&self) -> Option<SocketAddr> {
        let socket = self.socket()?;
        if getsockopt(&socket, sockopt::SockType) != Ok(SockType::Datagram) {
            return None;
        }
        UdpSocket::from(socket).peer_addr().ok()
    }

    /// Reads an address; nothing if it is of another family.
    fn address(&self, pointer: u64, length: u64) -> Option<Address> {
        let length = usize::try_from(length & u64::from(u32::MAX)).ok()?;
        let bytes = memory::bytes::<ADDRESS_BYTES_MAX>(self.pid, pointer, length)?;
        parse_address(&bytes)
    }

    /// Reads a `struct msghdr` with the first of its pieces.
    fn message(&self, pointer: u64) -> Option<Message> {
        let header = memory::bytes::<32>(self.pid, pointer, 32)?;
        let vector = word(&header, 16)?;
        let (data, data_bytes) = if word(&header, 24)? == 0 {
            (0, 0)
        } else {
            let first = memory::bytes::<16>(self.pid, vector, 16)?;
            (word(&first, 0)?, word(&first, 8)?)
        };
        Some(Message {
            address: word(&header, 0)?,
            address_bytes: word(&header, 8)?,
            data,
            data_bytes,
        })
    }

    /// The name that a message to a resolver asks for.
    fn question(&self, message: &Message) -> Option<String> {
        let length = usize::try_from(message.data_bytes).ok()?;
        let bytes = memory::bytes::<QUESTION_BYTES_MAX>(self.pid, message.data, length)?;
        parse_question(&bytes)
    }
}

fn outward(verb: &str, address: SocketAddr, kind: Option<SockType>) -> Denial {
    let (suffix, line) = match kind {
        Some(SockType::Stream) => {
            let protocol = if WEB_PORTS.contains(&address.port()) {
                ""
            } else {
                "/tcp"
            };
            (
                " (tcp)",
                format!("network.allow = [\"{address}{protocol}\"]"),
            )
        }
        Some(SockType::Datagram) => (" (udp)", String::new()),
        _ => ("", String::new()),
    };
    let rule = if line.is_empty() {
        "no route leaves the cell, and no profile allows datagrams"
    } else {
        NO_NETWORK
    };
    denial(format!("{verb} {address}{suffix}"), rule, line)
}

/// Whether an address is the cell's own loopback, or stands for it.
fn is_of_the_cell(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// A word of the kernel's at an offset.
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// Reads a `struct sockaddr`: ip(7), ipv6(7), unix(7).
fn parse_address(bytes: &[u8]) -> Option<Address> {
    use nix::libc::{AF_INET as INET, AF_INET6 as INET6, AF_UNIX as UNIX};
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    match family {
        INET if bytes.len() >= 16 => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            let address = Ipv4Addr::from(octets);
            Some(Address::Internet(SocketAddr::from((address, port()?))))
        }
        INET6 if bytes.len() >= 24 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            // An IPv4 address in an IPv6 one is the IPv4 address.
            let address = IpAddr::from(Ipv6Addr::from(octets)).to_canonical();
            Some(Address::Internet(SocketAddr::from((address, port()?))))
        }
        UNIX => {
            let path = bytes[2..].split(|byte| *byte == 0).next()?;
            // One that begins with a NUL is no path, and a relative one is the tool's own affair.
            let absolute = path.starts_with(b"/");
            absolute.then(|| Address::Path(std::ffi::OsString::from_vec(path.to_vec()).into()))
        }
        _ => None,
    }
}

/// The name of the first question in a message to a resolver (RFC 1035, 4.1); nothing if it is no
/// question, or its name is of other characters than names of hosts have.
fn parse_question(message: &[u8]) -> Option<String> {
    const HEADER_BYTES: usize = 12;
    const RESPONSE: u8 = 0x80;
    let (header, mut rest) = message.split_at_checked(HEADER_BYTES)?;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    if header[2] & RESPONSE != 0 || questions == 0 {
        return None;
    }
    let mut name = String::new();
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            return (!name.is_empty()).then_some(name);
        }
        // The two high bits mark a pointer, which a question has no use for.
        let (label, after) = (length < 64).then(|| after.split_at_checked(length.into()))??;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.iter().all(plain) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        rest = after;
    }
}
