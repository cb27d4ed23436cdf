//! HTTP/2 without TLS (prior knowledge): every request that a client sends over one connection
//! (RFC 9113, RFC 7541).

use super::{Authority, Peer, Wrong};

/// What a client of HTTP/2 begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes of one request's fields with their frames, compressed.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Most fields of one request.
pub const FIELDS_MAX: usize = 256;
/// Most bytes of one request's fields, decompressed: what a table holds can be repeated for one byte.
pub const FIELDS_BYTES_MAX: usize = 256 << 10;
/// Largest table that a client may use for compression; 4 KiB is usual.
pub const TABLE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a frame's header.
const FRAME_HEADER: usize = 9;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What a client sends over a connection of HTTP/2, to its end.
pub struct Stream {
    begun: Begun,
    /// Bytes of a frame that are yet to pass.
    passing: usize,
    decoder: loona_hpack::Decoder<'static>,
    /// The highest number of a stream that the client has opened.
    last: u32,
    /// There is nothing new to see before so many bytes are pending.
    needed: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Begun {
    #[default]
    Nothing,
    Preface,
    Settings,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("begun", &self.begun)
            .field("passing", &self.passing)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Default for Stream {
    fn default() -> Self {
        let mut decoder = loona_hpack::Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_BYTES_MAX);
        Self {
            begun: Begun::default(),
            passing: 0,
            decoder,
            last: 0,
            needed: 0,
        }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [high, middle, low, kind, flags, a, b, c, d] = *bytes.first_chunk()?;
        Some(Self {
            length: usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low),
            kind,
            flags,
            // The highest bit is reserved, and ignored by all.
            stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1),
        })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Stream {
    /// Judges the bytes that have come and have not been forwarded: how many may be. The frames of a
    /// request's fields are forwarded only as a whole, once they are checked.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn feed(&mut self, pending: &[u8], peer: &Peer, port: u16) -> Result<usize, Wrong> {
        if pending.len() < self.needed {
            return Ok(0);
        }
        self.needed = 0;
        let mut forward = 0;
        loop {
            let rest = &pending[forward..];
            let taken = if self.passing > 0 {
                let bytes = self.passing.min(rest.len());
                self.passing -= bytes;
                bytes
            } else if self.begun == Begun::Nothing {
                self.preface(rest)?
            } else {
                self.frame(rest, peer, port)?
            };
            if taken == 0 {
                return Ok(forward);
            }
            // What is needed is counted from the first byte that stays.
            forward += taken;
        }
    }

    fn preface(&mut self, rest: &[u8]) -> Result<usize, Wrong> {
        let common = rest.len().min(PREFACE.len());
        if rest[..common] != PREFACE[..common] {
            return Err(Wrong::Malformed("a preface of HTTP/2 that is none"));
        }
        if common < PREFACE.len() {
            return Ok(0);
        }
        self.begun = Begun::Preface;
        Ok(common)
    }

    fn frame(&mut self, rest: &[u8], peer: &Peer, port: u16) -> Result<usize, Wrong> {
        let Some(frame) = Frame::read(rest) else {
            return Ok(0);
        };
        if self.begun == Begun::Preface {
            if frame.kind != SETTINGS || frame.stream != 0 {
                return Err(Wrong::Malformed("a first frame that is not SETTINGS"));
            }
            self.begun = Begun::Settings;
        }
        match frame.kind {
            HEADERS => {
                let Some((block, length)) = self.block(rest, frame)? else {
                    return Ok(0);
                };
                self.fields(frame, &block, peer, port)?;
                Ok(length)
            }
            CONTINUATION => Err(Wrong::Malformed("a CONTINUATION of nothing")),
            PUSH_PROMISE => Err(Wrong::Malformed("a promise by a client")),
            _ => {
                let length = FRAME_HEADER + frame.length;
                let bytes = length.min(rest.len());
                self.passing = length - bytes;
                Ok(bytes)
            }
        }
    }

    /// Puts the fields of a request together from their frames; says how many bytes those take up.
    fn block(&mut self, rest: &[u8], first: Frame) -> Result<Option<(Vec<u8>, usize)>, Wrong> {
        let mut block = Vec::new();
        let mut frame = first;
        let mut at = 0;
        loop {
            let end = at + FRAME_HEADER + frame.length;
            if end > BLOCK_BYTES_MAX {
                return Err(Wrong::Malformed("fields of a request that are too long"));
            }
            let Some(content) = rest.get(at + FRAME_HEADER..end) else {
                self.needed = end;
                return Ok(None);
            };
            let content = if frame.kind == HEADERS {
                without_padding(frame, content).ok_or(Wrong::Malformed("a padding too long"))?
            } else {
                content
            };
            block.extend_from_slice(content);
            if frame.has(END_HEADERS) {
                return Ok(Some((block, end)));
            }
            let Some(next) = Frame::read(&rest[end..]) else {
                self.needed = end + FRAME_HEADER;
                return Ok(None);
            };
            if next.kind != CONTINUATION || next.stream != first.stream {
                return Err(Wrong::Malformed("a frame within the fields of a request"));
            }
            frame = next;
            at = end;
        }
    }

    fn fields(&mut self, frame: Frame, block: &[u8], peer: &Peer, port: u16) -> Result<(), Wrong> {
        let mut request = Request::default();
        self.decoder
            .decode_with_cb(block, |name, value| request.field(&name, &value))
            .map_err(|_| Wrong::Malformed("fields of a request that cannot be decompressed"))?;
        if let Some(wrong) = request.wrong {
            return Err(wrong);
        }
        if frame.stream.is_multiple_of(2) {
            return Err(Wrong::Malformed(
                "a request on a stream that is not the client's",
            ));
        }
        if frame.stream > self.last {
            self.last = frame.stream;
            return request.check(peer, port);
        }
        // A stream that has begun: these are trailers, which end it.
        if request.pseudo > 0 || request.framing || !frame.has(END_STREAM) {
            return Err(Wrong::Malformed("a second request on a stream"));
        }
        Ok(())
    }
}

/// The fields in a HEADERS frame, without the padding and priority around them.
fn without_padding(frame: Frame, content: &[u8]) -> Option<&[u8]> {
    let mut content = content;
    let mut padding = 0;
    if frame.has(PADDED) {
        let (first, rest) = content.split_first()?;
        padding = usize::from(*first);
        content = rest;
    }
    if frame.has(PRIORITY) {
        content = content.get(5..)?;
    }
    content.get(..content.len().checked_sub(padding)?)
}

/// What the fields of a request say.
#[derive(Default)]
struct Request {
    fields: usize,
    bytes: usize,
    pseudo: usize,
    regular: usize,
    authority: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    method: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    length: Option<Vec<u8>>,
    /// There is a field that says where a request goes or how long it is.
    framing: bool,
    wrong: Option<Wrong>,
}

impl Request {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        if self.wrong.is_none()
            && let Err(wrong) = self.try_field(name, value)
        {
            self.wrong = Some(wrong);
        }
    }

    fn try_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let malformed = |why| Err(Wrong::Malformed(why));
        self.fields += 1;
        self.bytes += name.len() + value.len();
        if self.fields > FIELDS_MAX || self.bytes > FIELDS_BYTES_MAX {
            return malformed("a request with too many fields");
        }
        // A server that speaks HTTP/1 further on would take these for the ends of fields.
        if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return malformed("a field value with control characters");
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            self.pseudo += 1;
            if self.regular > 0 {
                return malformed("a pseudo-field behind other fields");
            }
            let place = match pseudo {
                b"authority" => &mut self.authority,
                b"method" => &mut self.method,
                b"scheme" => &mut self.scheme,
                b"path" => &mut self.path,
                b"protocol" => {
                    return Err(Wrong::Tunnel(
                        "an HTTP request to become a tunnel (CONNECT)",
                    ));
                }
                _ => return malformed("a pseudo-field that is none"),
            };
            return once(place, value);
        }
        self.regular += 1;
        let token = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte)
        };
        if name.is_empty() || !name.iter().all(token) {
            return malformed("a field name that is none");
        }
        match name {
            b"host" => {
                self.framing = true;
                once(&mut self.host, value)
            }
            b"content-length" => {
                self.framing = true;
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                if !digits {
                    return malformed("a Content-Length that is no number");
                }
                once(&mut self.length, value)
            }
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" | b"http2-settings" | b"content_length" | b"transfer_encoding" => {
                malformed("a field of HTTP/1 in a request of HTTP/2")
            }
            _ => Ok(()),
        }
    }

    fn check(&self, peer: &Peer, port: u16) -> Result<(), Wrong> {
        let malformed = |why| Err(Wrong::Malformed(why));
        match self.method.as_deref() {
            Some(b"CONNECT") => {
                return Err(Wrong::Tunnel(
                    "an HTTP request to become a tunnel (CONNECT)",
                ));
            }
            Some(method) if !method.is_empty() && method.iter().all(u8::is_ascii_graphic) => {}
            _ => return malformed("a request without a method"),
        }
        if self.scheme.as_deref() != Some(b"http") {
            return malformed("a scheme that is not `http`");
        }
        match self.path.as_deref() {
            Some(b"*") => {}
            Some(path) if path.starts_with(b"/") && !path.iter().any(u8::is_ascii_whitespace) => {}
            _ => return malformed("a path that is none"),
        }
        if self.authority.is_none() && self.host.is_none() {
            return malformed("a request without a host");
        }
        for text in [&self.authority, &self.host].into_iter().flatten() {
            let authority = Authority::read(text).map_err(Wrong::Malformed)?;
            authority.check(peer, port)?;
        }
        Ok(())
    }
}

fn once(place: &mut Option<Vec<u8>>, value: &[u8]) -> Result<(), Wrong> {
    match place.replace(value.to_vec()) {
        None => Ok(()),
        Some(_) => Err(Wrong::Malformed("a field twice that there is one of")),
    }
}

#[cfg(test)]
mod tests;
