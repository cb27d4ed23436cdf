//! HTTP/1 without TLS: every request that a client sends over one connection (RFC 9112).
//!
//! What two parsers could read in two ways is refused, so that no request hides within another's
//! body: line ends that are not CRLF, folded fields, spaces before colons, lengths that are several or
//! beside a transfer coding, codings other than `chunked`.

use super::{Authority, Peer, Wrong};

/// Longest head of a request; servers take 8 to 64 KiB.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most fields in a head, or in trailers.
pub const FIELDS_MAX: usize = 128;
/// Longest line with the size of a chunk, extensions included.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// Most bytes of trailers.
pub const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Most digits of a Content-Length: 10^18 bytes and more are sent by nobody.
const LENGTH_DIGITS_MAX: usize = 18;
/// Most hexadecimal digits of a chunk's size.
const CHUNK_DIGITS_MAX: usize = 15;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// The head of a request, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which hosts it names: in the target, in the Host field, or in both. Never none.
    pub authorities: Vec<Authority>,
    /// How long its body is.
    pub body: Body,
    /// Whether it asks for another protocol on the connection.
    pub upgrade: bool,
    /// Whether the client waits to be asked for the body.
    pub expects: bool,
    /// Whether it asks for what would hide later requests.
    pub tunnel: Option<&'static str>,
    /// How many bytes it takes up.
    pub length: usize,
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// By its length.
    Length(u64),
    /// By a chunk without content.
    Chunked,
}

impl Head {
    /// Reads a head; `None` if there is only a part of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        if matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return Err("an empty line before a request");
        }
        let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let Some(end) = find(within, END_OF_HEAD) else {
            check_lines(within, 0)?;
            return if within.len() == HEAD_BYTES_MAX {
                Err("a head that is too long")
            } else {
                Ok(None)
            };
        };
        let length = end + END_OF_HEAD.len();
        let text = &bytes[..length];
        check_lines(text, 0)?;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(text) {
            Ok(httparse::Status::Complete(read)) if read == length => {}
            Ok(_) => return Err("a head that ends before its empty line"),
            Err(error) => return Err(name_error(error)),
        }
        Self::judge(&request, length).map(Some)
    }

    fn judge(request: &httparse::Request<'_, '_>, length: usize) -> Result<Self, &'static str> {
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err("a head without a request");
        };
        let fields = Fields::read(request.headers)?;
        let connect = method == "CONNECT";
        let mut authorities = Vec::new();
        if !connect && let Some(authority) = read_target(method, target)? {
            authorities.push(authority);
        }
        match fields.host {
            Some(host) => authorities.push(Authority::read(host)?),
            None if version >= 1 => return Err("a request without Host"),
            None if authorities.is_empty() && !connect => return Err("a request without Host"),
            None => {}
        }
        if fields.chunked && version == 0 {
            return Err("a transfer coding in HTTP/1.0");
        }
        let body = match (fields.length, fields.chunked) {
            (Some(_), true) => return Err("Content-Length beside Transfer-Encoding"),
            (None, true) => Body::Chunked,
            (length, false) => Body::Length(length.unwrap_or(0)),
        };
        let tunnel = if connect {
            Some("an HTTP request to become a tunnel (CONNECT)")
        } else if fields.hidden {
            Some("an HTTP request to go on in HTTP/2 or TLS (Upgrade)")
        } else {
            None
        };
        Ok(Self {
            authorities,
            body,
            upgrade: fields.upgrade,
            expects: fields.expected.is_some(),
            tunnel,
            length,
        })
    }

    /// Whether it is for what was connected to.
    ///
    /// # Errors
    /// How it is not.
    pub fn check(&self, peer: &Peer, port: u16) -> Result<(), Wrong> {
        if let Some(what) = self.tunnel {
            return Err(Wrong::Tunnel(what));
        }
        self.authorities
            .iter()
            .try_for_each(|authority| authority.check(peer, port))
    }
}

/// The fields that say where a request goes and how long it is.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    expected: Option<&'a [u8]>,
    /// It asks to go on in HTTP/2 or TLS, where nothing would be checked.
    hidden: bool,
}

impl<'a> Fields<'a> {
    fn read(fields: &[httparse::Header<'a>]) -> Result<Self, &'static str> {
        let mut found = Self::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let value = field.value.trim_ascii();
            if is("host") {
                if found.host.replace(value).is_some() {
                    return Err("Host twice");
                }
            } else if is("content-length") {
                if found.length.replace(read_length(value)?).is_some() {
                    return Err("Content-Length twice");
                }
            } else if is("transfer-encoding") {
                if found.chunked {
                    return Err("Transfer-Encoding twice");
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("a transfer coding other than `chunked`");
                }
                found.chunked = true;
            } else if is("upgrade") {
                found.upgrade = true;
                found.hidden |= value.split(|byte| *byte == b',').any(|part| {
                    let part = part.trim_ascii().to_ascii_lowercase();
                    part.starts_with(b"h2") || part.starts_with(b"tls")
                });
            } else if is("http2-settings") {
                found.hidden = true;
            } else if is("connection") {
                // Who passes the request on would take the field out first.
                let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let framing = |name: &[u8]| std::str::from_utf8(name).is_ok_and(is_framing);
                if names.any(framing) {
                    return Err("a Connection that names a field such as Content-Length");
                }
            } else if is("expect") {
                // What a server does with the body if it expects something else is told nowhere.
                let twice = found.expected.replace(value).is_some();
                if twice || !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err("an expectation other than `100-continue`");
                }
            } else if is_framing(field.name) {
                // Some servers take the one for the other.
                return Err("a field such as `Content_Length`");
            }
        }
        Ok(found)
    }
}

/// Whether a field says where a request goes or how long it is, or does so for servers that take
/// whatever is neither letter nor digit for the same.
fn is_framing(name: &str) -> bool {
    let plain = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
        _ => b'-',
    };
    ["host", "content-length", "transfer-encoding"]
        .iter()
        .any(|framing| name.bytes().map(plain).eq(framing.bytes()))
}

fn read_length(value: &[u8]) -> Result<u64, &'static str> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit)
    {
        return Err("a Content-Length that is no number");
    }
    Ok(value
        .iter()
        .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// The host in a request's target, if it names one (RFC 9112, section 3.2).
fn read_target(method: &str, target: &str) -> Result<Option<Authority>, &'static str> {
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(None);
    }
    let scheme = "http://";
    let rest = target
        .get(..scheme.len())
        .filter(|start| start.eq_ignore_ascii_case(scheme))
        .map(|_| &target[scheme.len()..])
        .ok_or("a target that is neither a path nor a URL of `http`")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Authority::read(&rest.as_bytes()[..end]).map(Some)
}

/// Refuses what some parsers take for the end of a line and others do not, and folded lines.
///
/// What comes before `from` has been looked through.
fn check_lines(text: &[u8], from: usize) -> Result<(), &'static str> {
    for (at, byte) in text.iter().enumerate().skip(from) {
        let before = at.checked_sub(1).map(|at| text[at]);
        match byte {
            0 => return Err("a NUL in a head"),
            b'\n' if before != Some(b'\r') => return Err("a line end without CR"),
            b' ' | b'\t' if before == Some(b'\n') => return Err("a folded field"),
            b'\n' => {}
            _ if before == Some(b'\r') => return Err("a CR that ends no line"),
            _ => {}
        }
    }
    Ok(())
}

fn name_error(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name that is none",
        httparse::Error::HeaderValue => "a field value with control characters",
        httparse::Error::NewLine => "a line end that is none",
        httparse::Error::Token => "a request line that is none",
        httparse::Error::TooManyHeaders => "a head with too many fields",
        httparse::Error::Version => "a version of HTTP that is none",
        httparse::Error::Status => "a head that is none",
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|part| part == what)
}

/// What came of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many of them may be forwarded; none if more are needed.
    pub forward: usize,
    /// How many heads of requests ended within those.
    pub requests: usize,
}

/// What of a request some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its whole head.
    Head,
    /// Some of its body, or what frames it.
    Body,
    /// All that comes behind the last chunk.
    Trailers,
}

/// What a client sends over a connection of HTTP/1, to its end.
#[derive(Debug, Default)]
pub struct Stream {
    state: State,
    requests: u64,
    /// The last request asks for another protocol.
    upgrade: bool,
    /// How many pending bytes are known to hold no end of what is awaited.
    scanned: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// A request's head is next.
    #[default]
    Head,
    /// So many bytes of a body.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// The lines behind the last chunk.
    Trailers,
}

impl Stream {
    /// Judges the bytes that have come and have not been forwarded. A head and what frames a body are
    /// forwarded only as a whole, once they are checked.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn feed(&mut self, pending: &[u8], peer: &Peer, port: u16) -> Result<Progress, Wrong> {
        let mut progress = Progress::default();
        loop {
            let rest = &pending[progress.forward..];
            if rest.is_empty() {
                return Ok(progress);
            }
            let Some((taken, part)) = self.piece(rest, peer, port)? else {
                return Ok(progress);
            };
            progress.forward += taken;
            progress.requests += usize::from(part == Part::Head);
        }
    }

    /// Judges one piece of the bytes that have come and have not been forwarded: how many bytes it is,
    /// and what of a request; `None` if more must come first.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn piece(
        &mut self,
        rest: &[u8],
        peer: &Peer,
        port: u16,
    ) -> Result<Option<(usize, Part)>, Wrong> {
        if rest.is_empty() {
            return Ok(None);
        }
        let part = match self.state {
            State::Head => Part::Head,
            State::Trailers => Part::Trailers,
            _ => Part::Body,
        };
        let taken = match self.state {
            State::Head => self.head(rest, peer, port)?,
            State::Body(left) => self.pass(rest, left, State::Head, State::Body),
            State::Size => self.size(rest).map_err(Wrong::Malformed)?,
            State::Chunk(left) => self.pass(rest, left, State::ChunkEnd, State::Chunk),
            State::ChunkEnd => self.chunk_end(rest).map_err(Wrong::Malformed)?,
            State::Trailers => self.trailers(rest).map_err(Wrong::Malformed)?,
        };
        if taken.is_some() {
            self.scanned = 0;
        }
        Ok(taken.map(|bytes| (bytes, part)))
    }

    fn head(&mut self, rest: &[u8], peer: &Peer, port: u16) -> Taken<Wrong> {
        // What came before is not looked through again, however it dribbles.
        let from = self.scanned.min(rest.len());
        let ends = find(&rest[from.saturating_sub(END_OF_HEAD.len())..], END_OF_HEAD).is_some();
        let empty = matches!(rest.first(), Some(b'\r' | b'\n'));
        if rest.len() < HEAD_BYTES_MAX && !ends && !empty {
            check_lines(rest, from).map_err(Wrong::Malformed)?;
            self.scanned = rest.len();
            return Ok(None);
        }
        let Some(head) = Head::read(rest).map_err(Wrong::Malformed)? else {
            return Ok(None);
        };
        head.check(peer, port)?;
        self.requests += 1;
        self.upgrade = head.upgrade;
        self.state = match head.body {
            Body::Length(0) => State::Head,
            Body::Length(left) => State::Body(left),
            Body::Chunked => State::Size,
        };
        Ok(Some(head.length))
    }

    /// Lets bytes pass, up to a number.
    #[allow(clippy::unnecessary_wraps)] // as the others return
    fn pass(
        &mut self,
        rest: &[u8],
        left: u64,
        then: State,
        still: fn(u64) -> State,
    ) -> Option<usize> {
        let bytes = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - bytes as u64;
        self.state = if left == 0 { then } else { still(left) };
        Some(bytes)
    }

    fn size(&mut self, rest: &[u8]) -> Taken<&'static str> {
        let Some(end) = line(rest, CHUNK_LINE_BYTES_MAX)? else {
            return Ok(None);
        };
        let text = &rest[..end - 2];
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = digits.count();
        if digits == 0 || digits > CHUNK_DIGITS_MAX {
            return Err("the size of a chunk that is no number");
        }
        let shown = |byte: &u8| *byte == b'\t' || (b' '..=b'~').contains(byte);
        match &text[digits..] {
            [] => {}
            [b';', extension @ ..] if extension.iter().all(shown) => {}
            _ => return Err("bytes behind the size of a chunk"),
        }
        let size = std::str::from_utf8(&text[..digits])
            .ok()
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or("the size of a chunk that is no number")?;
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Chunk(size)
        };
        Ok(Some(end))
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Taken<&'static str> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.state = State::Size;
                Ok(Some(2))
            }
            [b'\r'] => Ok(None),
            _ => Err("a chunk that is longer than it says"),
        }
    }

    fn trailers(&mut self, rest: &[u8]) -> Taken<&'static str> {
        let within = &rest[..rest.len().min(TRAILER_BYTES_MAX)];
        // As with a head, what came before is not looked through again.
        let from = self.scanned.min(within.len());
        let unseen = from.saturating_sub(END_OF_HEAD.len());
        let end = if within.starts_with(b"\r\n") {
            2
        } else if let Some(end) = find(&within[unseen..], END_OF_HEAD) {
            unseen + end + END_OF_HEAD.len()
        } else {
            check_lines(within, from)?;
            self.scanned = within.len();
            return if within.len() == TRAILER_BYTES_MAX {
                Err("trailers that are too long")
            } else {
                Ok(None)
            };
        };
        let text = &rest[..end];
        check_lines(text, 0)?;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        match httparse::parse_headers(text, &mut fields) {
            Ok(httparse::Status::Complete((read, fields))) if read == end => {
                if fields.iter().any(|field| is_framing(field.name)) {
                    return Err("a trailer that belongs into a head");
                }
            }
            Ok(_) => return Err("trailers that end before their empty line"),
            Err(error) => return Err(name_error(error)),
        }
        self.state = State::Head;
        Ok(Some(end))
    }

    /// Whether what comes next begins a request.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.state == State::Head
    }

    /// Whether the server's next answer may be one to a request for another protocol: only to the
    /// first request on a connection, since it would be told from earlier answers by nothing else.
    #[must_use]
    pub fn awaits_upgrade(&self) -> bool {
        self.upgrade && self.requests == 1 && self.state == State::Head
    }
}

/// How many bytes were taken; `None` if there must be more first.
type Taken<E> = Result<Option<usize>, E>;

/// Where a line ends, its CRLF included; there is no other CR, LF or NUL in it.
fn line(rest: &[u8], length_max: usize) -> Result<Option<usize>, &'static str> {
    let within = &rest[..rest.len().min(length_max)];
    let end = find(within, b"\r\n").map(|end| end + 2);
    check_lines(&within[..end.unwrap_or(within.len())], 0)?;
    if end.is_none() && within.len() == length_max {
        return Err("a line that is too long");
    }
    Ok(end)
}

#[cfg(test)]
mod tests;
