//! A header that is added on a tool's behalf: to which requests, and what it says around a secret.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Target};
use super::name::Name;

/// The port of a host that names none: that of HTTPS.
const PORT: u16 = 443;
/// Where the secret goes.
const SECRET: &str = "{secret}";
/// What makes a path one for everything beneath it.
const BENEATH: &str = "/*";
/// Longest path, header, value or name of a secret in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest name of a secret in bytes: it is a file's.
const SECRET_NAME_BYTES_MAX: usize = 64;
/// Fields that say where a request goes, how long it is, or what becomes of the connection.
const NOT_TO_BE_ADDED: [&str; 15] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
];
/// Fields by which some servers, or what passes requests on to them, take a request for another than
/// its first line and Host say (methods: Rails, Symfony, WebDAV; paths: IIS, Symfony, Envoy, Traefik;
/// hosts: whatever stands behind a proxy). A request with one of them gets no secret.
const OVERRIDES: [&str; 20] = [
    "forwarded",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-url",
    "x-rewrite-url",
];
/// The same as parameters in a query (Symfony, Laravel; Google's and WCF's services).
const OVERRIDING_PARAMETERS: [&str; 6] = [
    "$httpmethod",
    "$method",
    "_method",
    "http_method",
    "x-http-method-override",
    "x-method-override",
];

/// A header that is added to the requests for one host, method and path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injection {
    /// The host.
    pub name: Name,
    /// Its port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path.
    pub path: RequestPath,
    /// Name of the header.
    pub header: String,
    /// What its value says before the secret.
    pub before: String,
    /// What its value says after the secret.
    pub after: String,
    /// Name of the secret in the credential store.
    pub secret: String,
}

/// To which paths a header is added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestPath {
    /// To this one.
    Exact(String),
    /// To every one that begins so; it ends with a slash.
    Beneath(String),
}

/// What is written in a profile, before it is read.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The host, with a port if it is not 443.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// The header.
    pub header: &'a str,
    /// Its value, with `{secret}` once.
    pub value: &'a str,
    /// Name of the secret.
    pub secret: &'a str,
}

/// Why it cannot be read: which key, what is wrong with it, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectionError {
    /// The key.
    pub key: &'static str,
    /// What is wrong; it completes "`key`: …".
    pub wrong: String,
    /// What was expected.
    pub expected: &'static str,
}

impl Injection {
    /// Reads what is written in a profile.
    ///
    /// # Errors
    /// If a part of it is none.
    pub fn read(written: Written<'_>) -> Result<Self, InjectionError> {
        let (name, port) = read_host(written.host)?;
        let (before, after) = read_value(written.value)?;
        Ok(Self {
            name,
            port,
            method: read_method(written.method)?,
            path: RequestPath::read(written.path)?,
            header: read_header(written.header)?,
            before: before.to_owned(),
            after: after.to_owned(),
            secret: read_secret(written.secret)?,
        })
    }

    /// Whether it is about a connection.
    #[must_use]
    pub fn is_for(&self, name: &Name, port: u16) -> bool {
        self.name == *name && self.port == port
    }

    /// Whether a request gets the header. Where a server could take the request for another one,
    /// it does not.
    #[must_use]
    pub fn adds_to(&self, method: &str, target: &str) -> bool {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.method == method && self.path.covers(path) && !overrides_method(query)
    }

    /// Whether a field of a request is the header, also in the spelling that some servers take for
    /// the same.
    #[must_use]
    pub fn replaces(&self, field: &str) -> bool {
        is_same_field(field, &self.header)
    }
}

/// Whether two names are one field's, at least for servers that take whatever is neither letter nor
/// digit for the same.
#[must_use]
pub fn is_same_field(one: &str, other: &str) -> bool {
    plain(one) == plain(other)
}

/// Whether a field can make a server take a request for another than its first line says.
#[must_use]
pub fn overrides_request(field: &str) -> bool {
    OVERRIDES.contains(&plain(field).as_str())
}

/// Whether a query has a parameter by which some servers take a request for one of another method.
fn overrides_method(query: &str) -> bool {
    query.split(['&', ';']).any(|parameter| {
        let end = parameter.find(['=', '[']).unwrap_or(parameter.len());
        let name = decoded(&parameter[..end]).to_ascii_lowercase();
        OVERRIDING_PARAMETERS.contains(&name.trim_start())
    })
}

/// Text without its percent-encoding, as far as it is ASCII.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().replace('+', " ");
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                decoded.push(char::from(byte));
                decoded.push_str(&part[2..]);
            }
            None => decoded.push_str(part),
        }
    }
    decoded
}

/// Whether this can name a secret.
#[must_use]
pub fn is_secret_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !text.is_empty()
        && text.len() <= SECRET_NAME_BYTES_MAX
        && text.bytes().all(fits)
        && !text.starts_with(['.', '-'])
}

impl RequestPath {
    fn read(text: &str) -> Result<Self, InjectionError> {
        let wrong = |wrong: &str| error("path", wrong, "`/v1/models`, or `/v1/*` for all beneath");
        let (path, beneath) = match text.strip_suffix(BENEATH) {
            Some(rest) => (format!("{rest}/"), true),
            None => (text.to_owned(), false),
        };
        if !path.starts_with('/') || path.len() > TEXT_BYTES_MAX {
            return Err(wrong("is no path of a URL"));
        }
        if path.contains('*') {
            return Err(wrong("has `*` elsewhere than as its last part"));
        }
        let inner = path.strip_suffix('/').unwrap_or(&path);
        if !inner.is_empty() && !is_plain(inner.trim_start_matches('/')) || path.contains("//") {
            return Err(wrong("has parts that servers read in more than one way"));
        }
        Ok(if beneath {
            Self::Beneath(path)
        } else {
            Self::Exact(path)
        })
    }

    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Beneath(own) => path.strip_prefix(own.as_str()).is_some_and(is_plain),
        }
    }
}

/// Whether a server can take a path for nothing but what it says: no parts that lead elsewhere, no
/// separators in disguise, nothing empty.
fn is_plain(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@".contains(&byte);
    let mut parts = path.split('/');
    parts.all(|part| {
        !part.is_empty() && part.bytes().all(allowed) && part.bytes().any(|byte| byte != b'.')
    })
}

/// A field's name as servers that pass it on in an environment read it: for them, whatever is neither
/// letter nor digit is the same.
fn plain(field: &str) -> String {
    let same = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    field.chars().map(same).collect()
}

fn error(key: &'static str, wrong: impl Into<String>, expected: &'static str) -> InjectionError {
    InjectionError {
        key,
        wrong: wrong.into(),
        expected,
    }
}

fn read_host(text: &str) -> Result<(Name, u16), InjectionError> {
    let wrong = |wrong: String| error("host", wrong, "one host by its name, with one port");
    let entry = Entry::deny(text).map_err(|why| wrong(format!("is no host: {why}")))?;
    let port = match entry.ports[..] {
        [] => PORT,
        [port] => port,
        _ => return Err(wrong("has several ports".to_owned())),
    };
    match entry.target {
        Target::Name(name) if entry.protocol == super::Protocol::Web => Ok((name, port)),
        _ => Err(wrong("is not one host that speaks HTTP".to_owned())),
    }
}

fn read_method(text: &str) -> Result<String, InjectionError> {
    let expected = "a method such as `POST`";
    if text.is_empty() || text.len() > 32 || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(error("method", "is no method in capitals", expected));
    }
    match text {
        "TRACE" => Err(error("method", "would have the secret sent back", expected)),
        "CONNECT" => Err(error("method", "would make a tunnel", expected)),
        _ => Ok(text.to_owned()),
    }
}

fn read_header(text: &str) -> Result<String, InjectionError> {
    let expected = "the name of a header such as `Authorization`";
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || !text.bytes().all(token) {
        return Err(error("header", "is no name of a header", expected));
    }
    if NOT_TO_BE_ADDED.contains(&plain(text).as_str()) || overrides_request(text) {
        let wrong = "says where a request goes or how it is read";
        return Err(error("header", wrong, expected));
    }
    Ok(text.to_owned())
}

fn read_value(text: &str) -> Result<(&str, &str), InjectionError> {
    let wrong = |wrong: &str| error("value", wrong, "`{secret}` once, as in `Bearer {secret}`");
    let (before, after) = text
        .split_once(SECRET)
        .filter(|(_, after)| !after.contains(SECRET))
        .ok_or_else(|| wrong("does not have `{secret}` exactly once"))?;
    if text.len() > TEXT_BYTES_MAX || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(wrong("holds what a header cannot"));
    }
    Ok((before, after))
}

fn read_secret(text: &str) -> Result<String, InjectionError> {
    if is_secret_name(text) {
        return Ok(text.to_owned());
    }
    let expected = "letters, digits, `_`, `-` and `.`, as in `openai`";
    Err(error("secret", "cannot name a secret", expected))
}

impl fmt::Display for Injection {
    /// The request that gets the header, and the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, port, method, ..
        } = self;
        write!(f, "{method} {name}:{port}{} {}", self.path, self.header)
    }
}

impl fmt::Display for RequestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Beneath(path) => write!(f, "{path}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Written<'_> = Written {
        host: "api.example.org:443",
        method: "POST",
        path: "/v1/chat",
        header: "Authorization",
        value: "Bearer {secret}",
        secret: "openai",
    };

    #[test]
    fn a_request_gets_the_header_only_by_the_very_method_and_path() {
        let exact = Injection::read(GOOD).expect("it is one");
        assert!(exact.adds_to("POST", "/v1/chat") && exact.adds_to("POST", "/v1/chat?a=/../b"));
        for (method, target) in [
            ("GET", "/v1/chat"),
            ("post", "/v1/chat"),
            ("POST", "/v1/chat/"),
            ("POST", "/v1/chat/x"),
            ("POST", "//v1/chat"),
            ("POST", "/v1/%63hat"),
            ("POST", "/v1/x/../chat"),
            ("POST", "http://api.example.org/v1/chat"),
        ] {
            assert!(!exact.adds_to(method, target), "{method} {target}");
        }
    }

    #[test]
    fn no_path_beneath_leads_out() {
        let path = "/v1/*";
        let beneath = Injection::read(Written { path, ..GOOD }).expect("it is one");
        for target in ["/v1/a", "/v1/a/b.c?x", "/v1/..a", "/v1/a:b"] {
            assert!(beneath.adds_to("POST", target), "{target}");
        }
        for target in [
            "/v1",
            "/v1/",
            "/v2/a",
            "/v1/../a",
            "/v1/a/..",
            "/v1/.",
            "/v1//a",
            "/v1/%2e%2e/a",
            "/v1/..%2fa",
            "/v1/..;/a",
            "/v1/a\\..\\b",
            "/v1/a#b",
            "/v1/a/",
            "/v1/…",
        ] {
            assert!(!beneath.adds_to("POST", target), "{target}");
        }
    }

    #[test]
    fn spellings_that_servers_take_for_the_header_are_replaced() {
        let header = "X-Api-Key";
        let one = Injection::read(Written { header, ..GOOD }).expect("it is one");
        for spelling in ["x-api-key", "X_Api-KEY", "x.api!key"] {
            assert!(one.replaces(spelling), "{spelling}");
        }
        assert!(!one.replaces("x-api-keys") && !one.replaces("xapikey"));
        assert!(overrides_request("X-HTTP-Method_Override") && !overrides_request("X-Method"));
    }

    #[test]
    fn a_query_that_names_another_method_gets_nothing() {
        let exact = Injection::read(GOOD).expect("it is one");
        for query in [
            "",
            "a=_method",
            "method=x",
            "a&b=c;d",
            "_methods=x",
            "a=%5fmethod",
            "%",
            "%zz",
        ] {
            assert!(
                exact.adds_to("POST", &format!("/v1/chat?{query}")),
                "{query}"
            );
        }
        for query in [
            "_method=DELETE",
            "a&_METHOD",
            "a;_method=x",
            "%5Fmethod=x",
            "_method[]=x",
            "+_method=x",
            "%24httpMethod=x",
            "X-HTTP-Method-Override=PUT",
        ] {
            assert!(
                !exact.adds_to("POST", &format!("/v1/chat?{query}")),
                "{query}"
            );
        }
    }

    #[test]
    fn what_is_none_is_told_by_its_key() {
        for (key, text) in [
            ("host", "*.example.org"),
            ("host", "10.0.0.1:443"),
            ("host", "example.org:443/tcp"),
            ("host", "example.org:443,80"),
            ("method", "post"),
            ("method", "TRACE"),
            ("path", "v1"),
            ("path", "/v*/x"),
            ("path", "/a/../b"),
            ("path", "/a%20b"),
            ("header", "Content-Length"),
            ("header", "transfer_encoding"),
            ("header", "A:"),
            ("value", "Bearer"),
            ("value", "{secret}{secret}"),
            ("value", "{secret}\r\nA: b"),
            ("secret", "../x"),
            ("secret", ""),
        ] {
            let mut written = GOOD;
            *match key {
                "host" => &mut written.host,
                "method" => &mut written.method,
                "path" => &mut written.path,
                "header" => &mut written.header,
                "value" => &mut written.value,
                _ => &mut written.secret,
            } = text;
            let error = Injection::read(written).expect_err(text);
            assert_eq!(error.key, key, "{text}");
        }
        let path = "/*";
        let root = Injection::read(Written { path, ..GOOD }).expect("it is one");
        assert!(root.adds_to("POST", "/x") && !root.adds_to("POST", "/"));
    }
}
