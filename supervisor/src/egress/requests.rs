//! The requests of a tool to a host whose TLS is opened: each checked, and passed on with the headers
//! that the profile adds in place of the tool's own.

use profiles::egress::{is_same_field, overrides_request};
use zeroize::Zeroizing;

use super::verify::http1::{Body, Part, Stream};
use super::verify::{Head, Peer, Wrong};
use super::wire::Header;

/// What comes between a head's lines.
const LINE_END: &[u8] = b"\r\n";
/// What a request with a secret says of how its answer may be encoded.
const AS_IT_IS: &[u8] = b"Accept-Encoding: identity";

/// What the last request on a connection says.
const LAST: &[u8] = b"Connection: close";

/// What a client sends over one connection, to its end.
pub struct Requests<'a> {
    headers: Vec<&'a Header>,
    stream: Stream,
    /// No request may follow the one that is being passed on.
    last: bool,
    peer: Peer,
    port: u16,
}

/// A piece of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many bytes of the client's it was.
    pub taken: usize,
    /// What goes on in their place; only a head may hold a secret.
    pub sent: Zeroizing<Vec<u8>>,
    /// Whether it is a whole head, with which a request begins.
    pub head: bool,
}

impl<'a> Requests<'a> {
    /// Begins with a connection, and the headers that are for it.
    #[must_use]
    pub fn new(headers: Vec<&'a Header>, peer: Peer, port: u16) -> Self {
        Self {
            headers,
            stream: Stream::default(),
            last: false,
            peer,
            port,
        }
    }

    /// What the connection is to.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Takes the next piece of what has come and has not been taken; `None` if more must come first.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub fn next(&mut self, pending: &[u8]) -> Result<Option<Passed>, Wrong> {
        if self.last && self.stream.begins() && !pending.is_empty() {
            let what = "a request behind one that was said to be the connection's last";
            return Err(Wrong::Malformed(what));
        }
        let Some((taken, part)) = self.stream.piece(pending, &self.peer, self.port)? else {
            return Ok(None);
        };
        let bytes = &pending[..taken];
        let sent = match part {
            Part::Head => self.head(bytes)?,
            Part::Body => Zeroizing::new(bytes.to_vec()),
            // Some servers take a trailer for a header (RFC 9110, section 6.5.1, lets them go).
            Part::Trailers => Zeroizing::new(LINE_END.to_vec()),
        };
        Ok(Some(Passed {
            taken,
            sent,
            head: part == Part::Head,
        }))
    }

    /// A head with the tool's own headers of these names taken out, and ours put in if the request is
    /// one that they are for.
    fn head(&mut self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Wrong> {
        let head = Head::read(bytes).map_err(Wrong::Malformed)?;
        let head = head.ok_or(Wrong::Malformed("a head without its end"))?;
        if head.upgrade {
            let what = "an HTTP request to go on in another protocol (Upgrade)";
            return Err(Wrong::Tunnel(what));
        }
        let text = bytes.strip_suffix(b"\r\n\r\n").unwrap_or(bytes);
        let mut lines = text
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let request = lines.next().unwrap_or_default();
        let fields: Vec<_> = lines.map(|line| (name_of(line), line)).collect();
        let overridden = fields.iter().any(|(name, _)| overrides_request(name));
        let added = if overridden {
            vec![]
        } else {
            self.added_to(request)
        };
        self.last = !leaves_nothing(&head, request, !added.is_empty());

        let longest: usize = self.headers.iter().map(|header| header.bytes()).sum();
        // As large as it gets, so that no part of it stays behind where it grew.
        let most = bytes.len() + longest + AS_IT_IS.len() + LAST.len() + 2 * LINE_END.len();
        let mut sent = Zeroizing::new(Vec::with_capacity(most));
        let mut push = |parts: &[&[u8]]| {
            for part in parts {
                sent.extend_from_slice(part);
            }
            sent.extend_from_slice(LINE_END);
        };
        push(&[request]);
        for (name, line) in &fields {
            let replaced = |header: &&Header| header.injection.replaces(name);
            let taken_out = self.headers.iter().any(replaced)
                || self.last && name.eq_ignore_ascii_case("connection")
                || !added.is_empty() && compresses(name);
            if !taken_out {
                push(&[line]);
            }
        }
        if !added.is_empty() {
            push(&[AS_IT_IS]);
        }
        if self.last {
            push(&[LAST]);
        }
        for Header { injection, secret } in added {
            let (before, after) = (injection.before.as_bytes(), injection.after.as_bytes());
            let name = injection.header.as_bytes();
            push(&[name, b": ", before, secret.expose(), after]);
        }
        push(&[]);
        Ok(sent)
    }

    /// The headers that a request gets: of those by one name, the first.
    fn added_to(&self, request: &[u8]) -> Vec<&'a Header> {
        let (method, target) = read_request(request);
        let mut added: Vec<&Header> = Vec::new();
        for header in &self.headers {
            let name = &header.injection.header;
            let taken = added.iter().any(|other| other.injection.replaces(name));
            if !taken && header.injection.adds_to(method, target) {
                added.push(header);
            }
        }
        added
    }
}

impl Header {
    /// How many bytes it takes up in a head.
    fn bytes(&self) -> usize {
        let Self { injection, secret } = self;
        let value = injection.before.len() + secret.expose().len() + injection.after.len();
        injection.header.len() + 2 + value + LINE_END.len()
    }
}

/// Whether a field can have an answer come compressed, where a secret could not be seen.
fn compresses(field: &str) -> bool {
    let names = ["accept-encoding", "te"];
    names.iter().any(|name| is_same_field(field, name))
}

/// Whether a server that misreads a request cannot have some of its body left, and take the next
/// request, with a secret, for what follows that: there is no body, or the server must read it to do
/// what the request is for.
fn leaves_nothing(head: &Head, request: &[u8], has_secret: bool) -> bool {
    let (method, _) = read_request(request);
    let reads = has_secret && !head.expects && ["PATCH", "POST", "PUT"].contains(&method);
    head.body == Body::Length(0) || reads
}

/// The name of a field; a head that was checked has only ASCII in it.
fn name_of(line: &[u8]) -> &str {
    let end = line.iter().position(|byte| *byte == b':');
    std::str::from_utf8(&line[..end.unwrap_or(line.len())]).unwrap_or_default()
}

fn read_request(line: &[u8]) -> (&str, &str) {
    let line = std::str::from_utf8(line).unwrap_or_default();
    let mut words = line.split(' ');
    (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use profiles::egress::{Injection, Name, WrittenInjection};

    use super::*;
    use crate::secrets::Secret;

    fn header(method: &str, path: &str, header: &str, value: &str) -> Header {
        let written = WrittenInjection {
            host: "api.example.org",
            method,
            path,
            header,
            value,
            secret: "key",
        };
        Header {
            injection: Injection::read(written).expect("it is one"),
            secret: Secret::new(b"hidden".to_vec()),
        }
    }

    /// What goes on of what a client sends, however it is cut.
    fn passed(text: &str) -> Result<String, Wrong> {
        let headers = [
            header("POST", "/v1/chat", "Authorization", "Bearer {secret}"),
            header("GET", "/v1/*", "Authorization", "Basic {secret}"),
            header("GET", "/v1/*", "X-Key", "{secret}"),
        ];
        let mut all: Vec<String> = Vec::new();
        for size in [1, 7, text.len().max(1)] {
            let name = Name::parse("api.example.org").expect("a name");
            let mut requests = Requests::new(headers.iter().collect(), Peer::Name(name), 443);
            let (mut pending, mut sent) = (Vec::new(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                pending.extend_from_slice(part);
                while let Some(piece) = requests.next(&pending)? {
                    pending.drain(..piece.taken);
                    sent.extend_from_slice(&piece.sent);
                }
            }
            all.push(String::from_utf8(sent).expect("text"));
        }
        assert!(all.iter().all(|other| *other == all[0]), "{all:#?}");
        Ok(all.swap_remove(0))
    }

    const HOST: &str = "Host: api.example.org\r\n";

    #[test]
    fn the_tools_own_header_is_replaced() {
        let request = format!(
            "POST /v1/chat HTTP/1.1\r\nauthorization: Bearer mine\r\n{HOST}AUTHORIZATION:x\r\n\
             Content-Length: 4\r\n\r\nbody"
        );
        let expected = format!(
            "POST /v1/chat HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\
             Accept-Encoding: identity\r\nAuthorization: Bearer hidden\r\n\r\nbody"
        );
        assert_eq!(passed(&request), Ok(expected));
    }

    #[test]
    fn other_requests_lose_theirs_and_get_none() {
        for line in [
            "POST /v1/chat/x HTTP/1.1",
            "POST /v1/x/../chat HTTP/1.1",
            "PUT /v1/chat HTTP/1.1",
            "GET /v1/../admin HTTP/1.1",
            "GET /v2 HTTP/1.1",
        ] {
            let request =
                format!("{line}\r\n{HOST}Authorization: mine\r\nX_Key: mine\r\nA: b\r\n\r\n");
            let expected = format!("{line}\r\n{HOST}A: b\r\n\r\n");
            assert_eq!(passed(&request), Ok(expected), "{line}");
        }
        let overridden = format!("GET /v1/x HTTP/1.1\r\n{HOST}X-Original-URL: /admin\r\n\r\n");
        assert_eq!(passed(&overridden), Ok(overridden.clone()));
    }

    #[test]
    fn no_secret_follows_a_body_that_a_server_might_leave() {
        let get = format!("GET /v1/x HTTP/1.1\r\n{HOST}\r\n");
        let (close, length) = ("Connection: close\r\n", "Content-Length: 1\r\n");
        let expect = "Expect: 100-continue\r\n";
        for (line, fields) in [
            ("POST /other", ""),
            ("GET /v1/x", ""),
            ("POST /v1/chat", expect),
        ] {
            let request =
                format!("{line} HTTP/1.1\r\n{HOST}Connection: keep-alive\r\n{fields}{length}\r\nx");
            let sent = passed(&request).expect("it passes");
            assert!(
                sent.contains(close) && !sent.contains("keep-alive"),
                "{sent}"
            );
            let followed = passed(&format!("{request}{get}"));
            assert!(matches!(followed, Err(Wrong::Malformed(_))), "{line}");
        }
        for line in ["POST /v1/chat", "POST /v1/chat?a"] {
            let request = format!("{line} HTTP/1.1\r\n{HOST}{length}\r\nx{get}");
            assert!(!passed(&request).expect("both pass").contains(close));
        }
    }

    #[test]
    fn answers_to_requests_with_the_secret_are_not_compressed() {
        let encoded = "TE: gzip\r\naccept-encoding: gzip, br\r\nA: b\r\n";
        let request = format!("GET /v1/x HTTP/1.1\r\n{HOST}{encoded}\r\n");
        let expected = format!(
            "GET /v1/x HTTP/1.1\r\n{HOST}A: b\r\nAccept-Encoding: identity\r\n\
             Authorization: Basic hidden\r\nX-Key: hidden\r\n\r\n"
        );
        assert_eq!(passed(&request), Ok(expected));
        let other = format!("GET /v2 HTTP/1.1\r\n{HOST}{encoded}\r\n");
        assert_eq!(passed(&other), Ok(other.clone()));
    }

    #[test]
    fn each_request_on_a_connection_is_judged_by_itself() {
        let get = format!("GET /v1/x?q HTTP/1.1\r\n{HOST}\r\n");
        let other = format!("GET /other HTTP/1.1\r\n{HOST}\r\n");
        let chunked = format!(
            "POST /v1/chat HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\nAuthorization: mine\r\n\r\n"
        );
        let with = |request: &str, fields: &str| {
            request.replacen("\r\n\r\n", &format!("\r\n{fields}\r\n"), 1)
        };
        let expected = [
            with(
                &get,
                "Accept-Encoding: identity\r\nAuthorization: Basic hidden\r\nX-Key: hidden\r\n",
            ),
            other.clone(),
            with(
                &chunked,
                "Accept-Encoding: identity\r\nAuthorization: Bearer hidden\r\n",
            )
            .replace("0\r\nAuthorization: mine\r\n", "0\r\n"),
            other.clone(),
        ];
        let all = format!("{get}{other}{chunked}{other}");
        assert_eq!(passed(&all), Ok(expected.concat()));
    }

    #[test]
    fn what_would_leave_http_or_is_for_another_host_is_refused() {
        let upgrade = format!("GET /v1/x HTTP/1.1\r\n{HOST}Upgrade: websocket\r\n\r\n");
        assert!(matches!(passed(&upgrade), Err(Wrong::Tunnel(_))));
        let other = "GET /v1/x HTTP/1.1\r\nHost: other.example.org\r\n\r\n";
        assert_eq!(
            passed(other),
            Err(Wrong::Host("other.example.org".to_owned()))
        );
        let smuggled = format!(
            "POST /v1/chat HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"
        );
        assert!(matches!(passed(&smuggled), Err(Wrong::Malformed(_))));
    }
}
