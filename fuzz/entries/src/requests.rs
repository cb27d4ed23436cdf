//! Requests over TLS that is opened, to which secrets are added.

use profiles::egress::{Injection, Name, WrittenInjection};
use supervisor::egress::requests::Requests;
use supervisor::egress::verify::{PENDING_BYTES_MAX, Peer};
use supervisor::egress::wire::Header;
use supervisor::secrets::Secret;

const HOST: &str = "api.example.org";
/// What is added; inputs that have it themselves are none.
const SECRET: &str = "sk-hidden";
/// Fields that are added.
const ADDED: [&str; 2] = ["authorization", "x-key"];

/// However a connection's bytes come, the same goes on. Who reads it with less care finds the same
/// requests, each with the secret if it is one that gets it, by fields of ours and no others.
pub fn run(data: &[u8]) {
    if holds(data) {
        return;
    }
    let whole = passed(data, data.len().max(1));
    for piece in [1, 7, 100] {
        let pieces = passed(data, piece);
        // Of what is wrong in two ways, either may be told, and more of what was right before it.
        assert_eq!(whole.refused, pieces.refused);
        if !whole.refused {
            assert_eq!(whole.sent, pieces.sent);
        }
    }
    let (came, went) = (careless(&data[..whole.taken]), careless(&whole.sent));
    assert_eq!(whole.heads, came.len(), "{came:#?}");
    assert_eq!(whole.heads, went.len(), "{went:#?}");
    for (came, went) in came.iter().zip(&went) {
        assert_eq!((&came.line, &came.body), (&went.line, &went.body));
        assert!(!holds(&went.body));
        went.check();
    }
}

fn holds(bytes: &[u8]) -> bool {
    let mut windows = bytes.windows(SECRET.len());
    windows.any(|window| window == SECRET.as_bytes())
}

struct Passed {
    sent: Vec<u8>,
    taken: usize,
    heads: usize,
    refused: bool,
}

/// What goes on of a connection whose bytes come in pieces of a length.
fn passed(data: &[u8], piece: usize) -> Passed {
    let headers = [
        header("POST", "/v1/chat", "Authorization", "Bearer {secret}"),
        header("GET", "/v1/*", "X-Key", "{secret}"),
    ];
    let peer = Peer::Name(Name::parse(HOST).expect("a name"));
    let mut requests = Requests::new(headers.iter().collect(), peer, 443);
    let mut passed = Passed {
        sent: Vec::new(),
        taken: 0,
        heads: 0,
        refused: false,
    };
    let mut end = 0;
    while end < data.len() {
        end = data.len().min(end + piece);
        loop {
            match requests.next(&data[passed.taken..end]) {
                Ok(Some(found)) => {
                    assert!(found.taken > 0);
                    assert!(found.head || !holds(&found.sent));
                    passed.taken += found.taken;
                    passed.heads += usize::from(found.head);
                    passed.sent.extend_from_slice(&found.sent);
                }
                Ok(None) => break,
                Err(_) => {
                    passed.refused = true;
                    return passed;
                }
            }
        }
        assert!(end - passed.taken <= PENDING_BYTES_MAX + piece);
    }
    passed
}

fn header(method: &str, path: &str, header: &str, value: &str) -> Header {
    let written = WrittenInjection {
        host: HOST,
        method,
        path,
        header,
        value,
        secret: "key",
    };
    Header {
        injection: Injection::read(written).expect("it is one"),
        secret: Secret::new(SECRET.as_bytes().to_vec()),
    }
}

/// A request as a server finds it that takes lines as they come.
#[derive(Debug)]
struct Request {
    line: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Panics if it has a secret that it should not have, or has one otherwise than it should.
    fn check(&self) {
        let secrets: Vec<_> = self
            .fields
            .iter()
            .filter(|(_, value)| value.contains(SECRET))
            .collect();
        for (name, _) in &self.fields {
            let named = plain(name);
            let is_added = ADDED.contains(&&named[..]);
            let with = secrets.iter().filter(|(secret, _)| secret == name).count();
            // What the tool itself sent under the name has gone.
            assert!(!is_added || with == 1, "{self:#?}");
        }
        if secrets.is_empty() {
            return;
        }
        let mut words = self.line.split(' ');
        let (method, target) = (words.next().expect("one"), words.next().expect("two"));
        assert_eq!(words.next().map(|version| &version[..7]), Some("HTTP/1."));
        assert_eq!(words.next(), None);
        let path = target.split('?').next().expect("one");
        match method {
            "POST" => assert_eq!((path, &secrets[0].0[..]), ("/v1/chat", "authorization")),
            "GET" => {
                assert_eq!(secrets[0].0, "x-key");
                // As servers resolve it that decode first, or take other separators as well.
                assert!(path.starts_with("/v1/") && !path.contains(['%', '\\', ';', '#']));
                let parts: Vec<_> = path[1..].split('/').collect();
                let leads_elsewhere = |part: &&&str| ["", ".", ".."].contains(*part);
                assert_eq!(parts.iter().find(leads_elsewhere), None, "{path}");
            }
            _ => panic!("{self:#?}"),
        }
        assert_eq!(secrets.len(), 1, "{self:#?}");
        let hosts: Vec<_> = self
            .fields
            .iter()
            .filter(|(name, _)| plain(name) == "host")
            .collect();
        let [(_, host)] = hosts[..] else {
            // Of HTTP/1.0 with the host in its target, which is no path.
            panic!("{self:#?}");
        };
        let host = host.to_lowercase();
        let host = host.strip_suffix(":443").unwrap_or(&host);
        assert_eq!(host.trim_end_matches('.'), HOST);
    }
}

/// A field's name for servers to which whatever is neither letter nor digit is the same.
fn plain(name: &str) -> String {
    let same = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    name.chars().map(same).collect::<String>().to_lowercase()
}

/// The requests on a connection, by lines that end in LF, the last length that is said, and chunks if
/// anything speaks of them. The last may be cut off within its body.
fn careless(bytes: &[u8]) -> Vec<Request> {
    let mut rest = bytes;
    let mut found = Vec::new();
    loop {
        while let [b'\r' | b'\n', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return found;
        }
        let mut request = Request {
            line: line(&mut rest),
            fields: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let field = line(&mut rest);
            if field.is_empty() {
                break;
            }
            let (name, value) = field.split_once(':').unwrap_or((&field, ""));
            let field = (name.trim().to_lowercase(), value.trim().to_owned());
            request.fields.push(field);
        }
        let of = |wanted: &str| {
            let mut fields = request.fields.iter().rev();
            let field = fields.find(|(name, _)| plain(name) == wanted);
            field.map(|(_, value)| value.to_lowercase())
        };
        if of("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            loop {
                let size = line(&mut rest);
                let digits = size.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16).unwrap_or_default();
                if size == 0 {
                    while !line(&mut rest).is_empty() {}
                    break;
                }
                request.body.extend_from_slice(take(&mut rest, size));
                line(&mut rest);
            }
        } else if let Some(length) = of("content-length").and_then(|value| value.parse().ok()) {
            request.body = take(&mut rest, length).to_vec();
        }
        found.push(request);
    }
}

fn line(rest: &mut &[u8]) -> String {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
    *rest = after;
    let text = String::from_utf8_lossy(line);
    text.trim_end_matches(['\r', '\n']).to_owned()
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> &'a [u8] {
    let length = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
    let (taken, after) = rest.split_at(length);
    *rest = after;
    taken
}

/// Requests that get the secret, and others that would like to.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "POST /v1/chat HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 2\r\n\r\n{}GET /v1/a HTTP/1.1\r\nHost: api.example.org:443\r\n\r\n",
        "POST /v1/chat?a=b HTTP/1.1\r\nHost: API.example.org.\r\nauthorization: mine\r\nX_Key: mine\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nAuthorization: mine\r\n\r\nGET /v1/../x HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        "GET /v1/a/b HTTP/1.1\r\nHost: api.example.org\r\nX-Original-URL: /admin\r\n\r\nGET /v1/%2e%2e/x HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        "POST http://api.example.org/v1/chat HTTP/1.0\r\nConnection: authorization\r\n\r\n",
        "POST /v1/chat HTTP/1.1\r\nHost: api.example.org\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\nPOST /v1/chat HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/a HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        "GET /v1/a HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        "GET /v1/a HTTP/1.1\r\nHost: api.example.org\r\nUpgrade: websocket\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
