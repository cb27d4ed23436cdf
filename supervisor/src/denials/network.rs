//! Network addresses that a tool tries in a cell that reaches none.
//!
//! The network namespace has no route and Landlock refuses TCP; here it is only told what that kept
//! from what. An attempt is named by its address and, if it asks a resolver, by the name that the
//! question is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::socket::SockType;
use profiles::filter::addresses::AddressCall;
use runner::sys;
use runner::wire::{Answer, PIECE_BYTES_MAX, PIECES_MAX, Question};

use super::{Allowed, paths};
use crate::outcome::{Denial, DenialKind};
use crate::reader::Reader;

/// Longest address (`struct sockaddr_storage`).
const ADDRESS_BYTES_MAX: u64 = 128;
/// Most messages of one `sendmmsg` that are looked at: the C library asks two questions at once.
const MESSAGES_MAX: usize = 8;
/// `struct mmsghdr` on 64-bit processors.
const HEADER_BYTES: usize = 64;
const _: () = assert!(2 * MESSAGES_MAX <= PIECES_MAX);
const _: () = assert!(MESSAGES_MAX * HEADER_BYTES <= PIECE_BYTES_MAX);
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
pub(super) async fn look(
    call: &sys::Notification,
    kind: AddressCall,
    allowed: &Allowed,
    reader: &Reader,
) -> Vec<Attempt> {
    let Ok(pid) = i32::try_from(call.pid) else {
        return vec![];
    };
    let look = Look {
        pid,
        // The kernel looks at the low 32 bits only.
        descriptor: low(call.arguments[0]).cast_signed(),
        allowed,
        reader,
    };
    let arguments = &call.arguments;
    match kind {
        AddressCall::Connect => look.connect((arguments[1], arguments[2])).await,
        AddressCall::Bind => look.bind((arguments[1], arguments[2])).await,
        AddressCall::SendTo => {
            let message = Message {
                address: (arguments[4], arguments[5]),
                data: (arguments[1], arguments[2]),
            };
            look.send(&[message]).await
        }
        AddressCall::SendMessages => {
            let messages = look.messages(arguments[1], low(arguments[2])).await;
            look.send(&messages.unwrap_or_default()).await
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // on purpose
const fn low(argument: u64) -> u32 {
    argument as u32
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

/// Where something is in the tool's memory, and how long it says it is.
type Piece = (u64, u64);

/// What is sent.
struct Message {
    /// Null if the socket is connected.
    address: Piece,
    data: Piece,
}

/// What the reader says of a socket.
struct Socket {
    kind: Option<SockType>,
    /// Where a socket for datagrams is connected to.
    peer: Option<SocketAddr>,
}

/// What a tool's memory names.
enum Address {
    Internet(SocketAddr),
    /// A Unix socket's path.
    Path(PathBuf),
}

struct Look<'a> {
    pid: i32,
    /// The socket that the call is about.
    descriptor: i32,
    allowed: &'a Allowed,
    reader: &'a Reader,
}

impl Look<'_> {
    async fn connect(&self, address: Piece) -> Vec<Attempt> {
        let address = match self.address(address).await {
            Some(Address::Internet(address)) => address,
            Some(Address::Path(path)) => {
                let denied = paths::look_at_socket(self.pid, &path, self.reader).await;
                return denied.map(Attempt::Denied).into_iter().collect();
            }
            None => return vec![],
        };
        let kind = self.socket().await.kind;
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

    async fn bind(&self, address: Piece) -> Vec<Attempt> {
        match self.address(address).await {
            Some(Address::Internet(address)) if is_of_the_cell(address.ip()) => {
                self.within("listen on", address, self.socket().await.kind)
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

    async fn send(&self, messages: &[Message]) -> Vec<Attempt> {
        let pieces = messages.iter().flat_map(|message| {
            let (address, length) = message.address;
            let length = length.min(ADDRESS_BYTES_MAX);
            [(address, length), message.data]
        });
        let read = self.memory(pieces.collect()).await;
        let mut socket = None;
        let mut seen: Vec<Attempt> = Vec::new();
        let mut asked: Vec<String> = Vec::new();
        for (message, read) in messages.iter().zip(read.chunks(2)) {
            let connected = message.address.0 == 0;
            let address = if connected {
                if socket.is_none() {
                    socket = Some(self.socket().await);
                }
                socket.as_ref().and_then(|socket| socket.peer)
            } else {
                match read[0].as_deref().and_then(parse_address) {
                    Some(Address::Internet(address)) => Some(address),
                    _ => None,
                }
            };
            let Some(address) = address else { continue };
            if address.port() == DNS_PORT {
                match read
                    .get(1)
                    .and_then(|data| parse_question(data.as_deref()?))
                {
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
                let kind = self.socket().await.kind;
                seen.push(Attempt::Denied(outward("send to", address, kind)));
            }
        }
        seen
    }

    async fn socket(&self) -> Socket {
        let question = Question::Socket {
            pid: self.pid,
            descriptor: self.descriptor,
        };
        match self.reader.ask(&question).await {
            Some((Answer::Socket(kind, peer), _)) => Socket {
                kind: SockType::try_from(kind).ok(),
                peer,
            },
            _ => Socket {
                kind: None,
                peer: None,
            },
        }
    }

    /// Reads pieces of memory; nothing where there is none.
    async fn memory(&self, pieces: Vec<Piece>) -> Vec<Option<Vec<u8>>> {
        let most = PIECE_BYTES_MAX as u64;
        let bounded = |(address, length): Piece| {
            let length = u16::try_from(length.min(most));
            (address, length.expect("the longest piece fits"))
        };
        let count = pieces.len();
        let question = Question::Memory {
            pid: self.pid,
            pieces: pieces.into_iter().map(bounded).collect(),
        };
        match self.reader.ask(&question).await {
            Some((Answer::Memory(read), _)) if read.len() == count => read,
            _ => vec![None; count],
        }
    }

    /// Reads an address; nothing if it is of another family.
    async fn address(&self, (pointer, length): Piece) -> Option<Address> {
        let length = u64::from(low(length)).min(ADDRESS_BYTES_MAX);
        let read = self.memory(vec![(pointer, length)]).await.pop()?;
        parse_address(&read?)
    }

    /// Reads a vector of `struct mmsghdr`, each with the first of its pieces.
    async fn messages(&self, pointer: u64, count: u32) -> Option<Vec<Message>> {
        let count = usize::try_from(count).ok()?.min(MESSAGES_MAX);
        let bytes = u64::try_from(count * HEADER_BYTES).ok()?;
        let headers = self.memory(vec![(pointer, bytes)]).await.pop()??;
        let headers: Vec<_> = headers.chunks_exact(HEADER_BYTES).collect();
        let first_of = |header: &&[u8]| {
            let pieces = word(header, 24).filter(|pieces| *pieces > 0);
            let vector = pieces.and_then(|_| word(header, 16));
            vector.map_or((0, 0), |vector| (vector, 16))
        };
        let firsts = self.memory(headers.iter().map(first_of).collect()).await;
        let messages = headers.iter().zip(firsts).map(|(header, first)| {
            let first = first.unwrap_or_default();
            Some(Message {
                address: (word(header, 0)?, u64::from(low(word(header, 8)?))),
                data: word(&first, 0).zip(word(&first, 8)).unwrap_or((0, 0)),
            })
        });
        messages.collect()
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
