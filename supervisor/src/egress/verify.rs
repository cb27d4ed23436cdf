//! What the first bytes of a connection say, and whether that is what was connected to.
//!
//! A tool connects to a name's synthetic address; what it then sends must be meant for that name.
//! TLS says so in its first message (SNI), HTTP in every request (Host, `:authority`). Bytes that say
//! neither are refused, unless the entry is one for any protocol (`/tcp`).
//!
//! What cannot be seen: the Host of a request within TLS, and the name in a ClientHello that is
//! encrypted with the server's help (ECH).

mod authority;
pub mod http1;
pub mod http2;
pub mod tls;
mod violation;

use std::fmt;
use std::net::IpAddr;

use profiles::egress::{Name, Protocol};

pub use authority::{Authority, Host};
pub use http1::Head;
pub use tls::Hello;
pub use violation::{Violation, Wrong};

/// Longest first line by which bytes are told to be HTTP or not.
pub const FIRST_LINE_BYTES_MAX: usize = 16 << 10;
/// Longest method of a request; the longest that is registered has 17.
const METHOD_BYTES_MAX: usize = 32;

/// What a connection was made to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A name, by its synthetic address.
    Name(Name),
    /// An address that is listed as such.
    Address(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing that could be told yet.
    NeedMore,
    /// TLS: its whole ClientHello.
    Tls(Hello),
    /// HTTP/1: the whole head of its first request.
    Http1(Head),
    /// HTTP/2 without TLS: its whole preface.
    Http2Preface,
    /// Some other protocol.
    Other,
    /// One of these protocols, but not as it should be.
    Malformed(&'static str),
}

/// Says what the first bytes of a connection are. Never needs more than [`tls::HELLO_BYTES_MAX`] or
/// [`http1::HEAD_BYTES_MAX`].
#[must_use]
pub fn look(head: &[u8]) -> Look {
    match kind(head) {
        None => Look::NeedMore,
        Some(Kind::Tls) => match tls::Hello::read(head) {
            Ok(None) => Look::NeedMore,
            Ok(Some(hello)) => Look::Tls(hello),
            Err(why) => Look::Malformed(why),
        },
        Some(Kind::Http1) => match Head::read(head) {
            Ok(None) => Look::NeedMore,
            Ok(Some(head)) => Look::Http1(head),
            Err(why) => Look::Malformed(why),
        },
        Some(Kind::Http2) => Look::Http2Preface,
        Some(Kind::Other) => Look::Other,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tls,
    Http1,
    Http2,
    Other,
}

/// What the bytes are, by as few of them as say so.
fn kind(head: &[u8]) -> Option<Kind> {
    let first = *head.first()?;
    if first == tls::HANDSHAKE {
        return match head.get(1) {
            None => None,
            Some(&tls::MAJOR_VERSION) => Some(Kind::Tls),
            Some(_) => Some(Kind::Other),
        };
    }
    let preface = http2::PREFACE;
    let common = head.len().min(preface.len());
    if head[..common] == preface[..common] {
        return (common == preface.len()).then_some(Kind::Http2);
    }
    first_line(head)
}

/// Whether the first line is one of HTTP/1: a method, a target and the version.
fn first_line(head: &[u8]) -> Option<Kind> {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = head.iter().take_while(|byte| token(byte)).count();
    if method == 0 || method > METHOD_BYTES_MAX {
        return Some(Kind::Other);
    }
    match head.get(method) {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(Kind::Other),
    }
    let within = &head[..head.len().min(FIRST_LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return (within.len() == FIRST_LINE_BYTES_MAX).then_some(Kind::Other);
    };
    let speaks = within[..end].windows(6).any(|part| part == b" HTTP/");
    Some(if speaks { Kind::Http1 } else { Kind::Other })
}

/// What to do with the bytes that have come and have not been forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Keep them, and come back with more behind them.
    NeedMore,
    /// So many of them may be forwarded, at least one; come back with the rest, if any.
    Forward(usize),
    /// They and everything after them may be forwarded unseen.
    Opaque,
    /// Nothing of them may be forwarded, and the connection must end.
    Refuse(Violation),
}

/// Checks what a client sends over one connection.
///
/// The verifier keeps no bytes: the caller passes everything that has come and has not been
/// forwarded, again and again. [`PENDING_BYTES_MAX`] is the most that it is asked to keep.
#[derive(Debug)]
pub struct Verifier {
    peer: Peer,
    port: u16,
    allow_no_sni: bool,
    state: State,
}

/// The most bytes that a [`Verdict::NeedMore`] leaves with the caller.
pub const PENDING_BYTES_MAX: usize = 128 << 10;

#[derive(Debug)]
enum State {
    Unknown,
    Tls(tls::Stream),
    Http1(http1::Stream),
    Http2(Box<http2::Stream>),
    Opaque,
    Refused(Violation),
}

impl Verifier {
    /// Begins with a connection: what it was made to, by which port, and what the plan admits.
    #[must_use]
    pub fn new(peer: Peer, port: u16, protocol: Protocol, allow_no_sni: bool) -> Self {
        Self {
            peer,
            port,
            allow_no_sni,
            state: match protocol {
                Protocol::Tcp => State::Opaque,
                Protocol::Web => State::Unknown,
            },
        }
    }

    /// Judges the bytes that have come and have not been forwarded.
    pub fn feed(&mut self, pending: &[u8]) -> Verdict {
        if pending.is_empty() && !matches!(self.state, State::Opaque | State::Refused(_)) {
            return Verdict::NeedMore;
        }
        match self.judge(pending) {
            Ok(verdict) => {
                if verdict == Verdict::Opaque {
                    self.state = State::Opaque;
                }
                verdict
            }
            Err(wrong) => {
                let violation = Violation::new(wrong, &self.peer, self.port);
                self.state = State::Refused(violation.clone());
                Verdict::Refuse(violation)
            }
        }
    }

    fn judge(&mut self, pending: &[u8]) -> Result<Verdict, Wrong> {
        if matches!(self.state, State::Unknown) {
            self.state = match kind(pending) {
                None => return Ok(Verdict::NeedMore),
                Some(Kind::Tls) => State::Tls(tls::Stream::default()),
                Some(Kind::Http1) => State::Http1(http1::Stream::default()),
                Some(Kind::Http2) => State::Http2(Box::default()),
                Some(Kind::Other) => return Err(Wrong::Protocol),
            };
        }
        let forwarded = match &mut self.state {
            State::Opaque => return Ok(Verdict::Opaque),
            State::Refused(violation) => return Ok(Verdict::Refuse(violation.clone())),
            State::Tls(stream) => {
                let progress = stream.feed(pending, &self.peer, self.allow_no_sni)?;
                if progress == tls::Progress::Opaque {
                    return Ok(Verdict::Opaque);
                }
                progress.forward()
            }
            State::Http1(stream) => stream.feed(pending, &self.peer, self.port)?.forward,
            State::Http2(stream) => stream.feed(pending, &self.peer, self.port)?,
            State::Unknown => 0,
        };
        Ok(match forwarded {
            0 => Verdict::NeedMore,
            bytes => Verdict::Forward(bytes),
        })
    }

    /// Whether the server may answer 101 now, and mean by it that the connection is no longer HTTP:
    /// if the first bytes that it sends say so, tell by [`Verifier::upgraded`], before the client is
    /// sent them.
    #[must_use]
    pub fn awaits_upgrade(&self) -> bool {
        matches!(&self.state, State::Http1(stream) if stream.awaits_upgrade())
    }

    /// The server has answered 101: what follows is no longer HTTP. Says whether that was awaited; if
    /// not, nothing changes.
    pub fn upgraded(&mut self) -> bool {
        let awaited = self.awaits_upgrade();
        if awaited {
            self.state = State::Opaque;
        }
        awaited
    }

    /// Whether the rest of the connection may be forwarded unseen.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }
}

#[cfg(test)]
mod tests;
