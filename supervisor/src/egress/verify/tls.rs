//! TLS: the server name in a ClientHello (RFC 8446, RFC 6066), however it is cut into records.

use std::collections::BTreeSet;

use profiles::egress::Name;

use super::{Peer, Wrong};

/// The content type of records with handshake messages.
pub const HANDSHAKE: u8 = 22;
/// The first byte of the version of every record, from SSL 3 to TLS 1.3.
pub const MAJOR_VERSION: u8 = 3;
/// Most bytes of a ClientHello with its record headers; real ones have at most some thousand.
pub const HELLO_BYTES_MAX: usize = 64 << 10;

/// Most records of a ClientHello; real ones have one, or some where it is long.
pub const HELLO_RECORDS_MAX: usize = 1024;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
/// Bytes of a record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// Most bytes in a record that is not encrypted (RFC 8446, section 5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// Most bytes in a record that is encrypted, as TLS 1.2 has it.
const CIPHERTEXT_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 2048;
/// Bytes of a handshake message's header: type, length.
const MESSAGE_HEADER: usize = 4;
/// The handshake message type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// Fewest bytes of an encrypted Finished of TLS 1.2: 4 + 12, and a nonce and tag or a MAC.
const FINISHED_BYTES_MIN: usize = 32;
/// Most alerts and changes of cipher spec between ClientHello and what follows it.
const BETWEEN_MAX: u32 = 8;

const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The type of an entry in a list of server names; no other is registered.
const HOST_NAME: u8 = 0;

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server that it is for.
    pub sni: Option<Name>,
    /// Whether it holds another, encrypted one, or makes believe so: browsers always do.
    pub ech: bool,
    /// Whether data follows before the server has answered.
    pub early_data: bool,
    /// How many bytes it takes up, record headers included.
    pub length: usize,
}

impl Hello {
    /// Reads a ClientHello at the beginning of a connection; `None` if there is only a part of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        match Message::read(bytes)? {
            Message::Whole { content, length } => Self::of(&content, length).map(Some),
            Message::Part { .. } => Ok(None),
        }
    }

    fn of(message: &[u8], length: usize) -> Result<Self, &'static str> {
        let mut hello = read_body(&mut Reader(&message[MESSAGE_HEADER..]))?;
        hello.length = length;
        Ok(hello)
    }

    /// Whether it is for what was connected to.
    ///
    /// # Errors
    /// How it is not.
    pub fn check(&self, peer: &Peer, allow_no_sni: bool) -> Result<(), Wrong> {
        match (&self.sni, peer) {
            (Some(name), Peer::Name(own)) if name == own => Ok(()),
            (Some(name), _) => Err(Wrong::Sni(name.to_string())),
            // There is no server name for an address (RFC 6066, section 3).
            (None, Peer::Address(_)) => Ok(()),
            (None, Peer::Name(_)) if allow_no_sni => Ok(()),
            (None, Peer::Name(_)) => Err(Wrong::NoSni),
        }
    }
}

/// The first handshake message, put together from its records.
enum Message {
    Whole {
        content: Vec<u8>,
        /// How many bytes its records take up.
        length: usize,
    },
    Part {
        /// There is nothing new to see before so many bytes are there.
        needed: usize,
    },
}

impl Message {
    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        match Self::put_together(bytes)? {
            Self::Part { .. } if bytes.len() >= HELLO_BYTES_MAX => {
                Err("a ClientHello that is too long")
            }
            message => Ok(message),
        }
    }

    fn put_together(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut content = Vec::new();
        let mut at = 0;
        for _ in 0..HELLO_RECORDS_MAX {
            let Some(record) = Record::read(&bytes[at..], FRAGMENT_BYTES_MAX)? else {
                return Ok(Self::Part { needed: 0 });
            };
            if record.kind != HANDSHAKE {
                return Err("another record within a ClientHello");
            }
            if record.length == 0 {
                return Err("a record without content");
            }
            let end = at + RECORD_HEADER + record.length;
            let promised = content.len() + record.length;
            content.extend_from_slice(&bytes[at + RECORD_HEADER..end.min(bytes.len())]);
            if content.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Err("a handshake that does not begin with a ClientHello");
            }
            let mut needed = 0;
            if let [_, high, middle, low, ..] = content[..] {
                let low = usize::from(u16::from_be_bytes([middle, low]));
                let length = MESSAGE_HEADER + (usize::from(high) << 16 | low);
                if length > HELLO_BYTES_MAX {
                    return Err("a ClientHello that is too long");
                }
                if promised > length {
                    return Err("bytes behind a ClientHello");
                }
                if content.len() == length {
                    return Ok(Self::Whole {
                        content,
                        length: end,
                    });
                }
                needed = end;
            }
            if end > bytes.len() {
                return Ok(Self::Part { needed });
            }
            at = end;
        }
        Err("a ClientHello in too many records")
    }
}

/// A record's header.
struct Record {
    kind: u8,
    length: usize,
}

impl Record {
    fn read(bytes: &[u8], length_max: usize) -> Result<Option<Self>, &'static str> {
        if bytes.get(1).is_some_and(|major| *major != MAJOR_VERSION) {
            return Err("a record of no version of TLS");
        }
        let [kind, _, _, high, low, ..] = *bytes else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > length_max {
            return Err("a record that is too long");
        }
        Ok(Some(Self { kind, length }))
    }
}

/// Reads the message's content, all of it.
fn read_body(body: &mut Reader<'_>) -> Result<Hello, &'static str> {
    let mut hello = Hello {
        sni: None,
        ech: false,
        early_data: false,
        length: 0,
    };
    let cut = "a ClientHello whose lengths do not fit";
    body.take(2 + 32).ok_or(cut)?;
    let session = body.vector8().ok_or(cut)?;
    let ciphers = body.vector16().ok_or(cut)?;
    let compressions = body.vector8().ok_or(cut)?;
    if session.0.len() > 32 || ciphers.0.is_empty() || ciphers.0.len() % 2 != 0 {
        return Err(cut);
    }
    if compressions.0.is_empty() {
        return Err(cut);
    }
    if body.0.is_empty() {
        // Before there were extensions.
        return Ok(hello);
    }
    let mut extensions = body.vector16().ok_or(cut)?;
    if !body.0.is_empty() {
        return Err("bytes behind the extensions of a ClientHello");
    }
    let mut seen = BTreeSet::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16().ok_or(cut)?;
        let content = extensions.vector16().ok_or(cut)?;
        if !seen.insert(kind) {
            return Err("an extension twice in a ClientHello");
        }
        if kind == SERVER_NAME {
            hello.sni = Some(read_server_name(content)?);
        }
    }
    hello.ech = seen.contains(&ENCRYPTED_CLIENT_HELLO);
    hello.early_data = seen.contains(&EARLY_DATA);
    Ok(hello)
}

/// Reads a list of server names, which must be exactly one.
fn read_server_name(mut content: Reader<'_>) -> Result<Name, &'static str> {
    let wrong = "a server name that is not exactly one";
    let mut list = content.vector16().ok_or(wrong)?;
    let kind = list.take(1).ok_or(wrong)?;
    let name = list.vector16().ok_or(wrong)?;
    if !content.0.is_empty() || !list.0.is_empty() || kind != [HOST_NAME] {
        return Err(wrong);
    }
    Name::from_ascii(name.0).map_err(|_| "a server name that is no host name")
}

/// Bytes that are yet to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind their number, in one byte.
    fn vector8(&mut self) -> Option<Self> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Reader)
    }

    /// Bytes behind their number, in two bytes.
    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }
}

/// What may be done with the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More of them are needed.
    NeedMore,
    /// So many may be forwarded.
    Forward(usize),
    /// All may, unseen.
    Opaque,
}

impl Progress {
    /// How many bytes may be forwarded now, if it is a number.
    #[must_use]
    pub fn forward(self) -> usize {
        match self {
            Self::Forward(bytes) => bytes,
            Self::NeedMore | Self::Opaque => 0,
        }
    }
}

/// What a client sends over a connection of TLS, up to where everything is encrypted.
///
/// A server may ask for a second ClientHello (HelloRetryRequest), which is not encrypted either, and
/// some serve whom that one names: it is checked like the first.
#[derive(Debug, Default)]
pub struct Stream {
    greeted: bool,
    early_data: bool,
    changed: bool,
    between: u32,
    needed: usize,
    /// Bytes of early data, or of a record of another kind, that are yet to pass.
    passing: usize,
}

impl Stream {
    /// Judges the bytes that have come and have not been forwarded.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn feed(
        &mut self,
        pending: &[u8],
        peer: &Peer,
        allow_no_sni: bool,
    ) -> Result<Progress, Wrong> {
        if self.passing > 0 {
            let bytes = self.passing.min(pending.len());
            self.passing -= bytes;
            return Ok(Progress::Forward(bytes));
        }
        if pending.len() < self.needed {
            return Ok(Progress::NeedMore);
        }
        if self.greeted {
            let longest = CIPHERTEXT_BYTES_MAX;
            let record = Record::read(pending, longest).map_err(Wrong::Malformed)?;
            let Some(record) = record else {
                return Ok(Progress::NeedMore);
            };
            match record.kind {
                HANDSHAKE => match self.says_hello(pending, record.length)? {
                    None => return Ok(Progress::NeedMore),
                    Some(false) => return Ok(Progress::Opaque),
                    Some(true) => {}
                },
                _ => return self.between(&record, pending.len()),
            }
        }
        let hello = match Message::read(pending).map_err(Wrong::Malformed)? {
            Message::Whole { content, length } => Hello::of(&content, length),
            Message::Part { needed } => {
                self.needed = needed;
                return Ok(Progress::NeedMore);
            }
        };
        let hello = hello.map_err(Wrong::Malformed)?;
        hello.check(peer, allow_no_sni)?;
        if self.greeted {
            // There is no third (RFC 8446, section 4.1.4).
            return Ok(Progress::Opaque);
        }
        self.greeted = true;
        self.early_data = hello.early_data;
        self.needed = 0;
        Ok(Progress::Forward(hello.length))
    }

    /// Lets a record pass that tells nothing yet of what the next handshake message is.
    fn between(&mut self, record: &Record, pending: usize) -> Result<Progress, Wrong> {
        match record.kind {
            CHANGE_CIPHER_SPEC | ALERT => {
                self.changed |= record.kind == CHANGE_CIPHER_SPEC;
                self.between += 1;
                if self.between > BETWEEN_MAX {
                    return Err(Wrong::Malformed("records that lead nowhere"));
                }
            }
            // A second ClientHello may follow early data, whose records pass one by one.
            APPLICATION_DATA if self.early_data => {}
            APPLICATION_DATA => return Ok(Progress::Opaque),
            _ => return Err(Wrong::Malformed("a record of no known kind")),
        }
        let length = RECORD_HEADER + record.length;
        let bytes = length.min(pending);
        self.passing = length - bytes;
        Ok(Progress::Forward(bytes))
    }

    /// Whether a handshake record after the first ClientHello begins a second; `None` if more bytes
    /// are needed to tell.
    ///
    /// In TLS 1.2, a Finished comes encrypted in such a record after the change of cipher spec, and
    /// may begin with any byte: but it is not short, and its length and version do not fit.
    fn says_hello(&self, pending: &[u8], length: usize) -> Result<Option<bool>, Wrong> {
        let content = &pending[RECORD_HEADER..];
        let Some(kind) = content.first() else {
            return Ok(None);
        };
        if *kind != CLIENT_HELLO {
            return Ok(Some(false));
        }
        if !self.changed {
            return Ok(Some(true));
        }
        if length < FINISHED_BYTES_MIN {
            return Err(Wrong::Malformed("a second ClientHello in small pieces"));
        }
        let Some(version) = content.get(4..6) else {
            return Ok(None);
        };
        Ok(Some(content[1] == 0 && version[0] == MAJOR_VERSION))
    }
}

#[cfg(test)]
mod tests;
