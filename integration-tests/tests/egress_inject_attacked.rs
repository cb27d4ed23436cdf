//! A tool that wants the secret for itself, or for a request that the profile does not name: by
//! disguises of requests, by requests within others, by other ways to the same server.
//!
//! The fake internet's servers read lines that end in any way, and tell each request that they saw.

use std::time::Duration;

use harness::builtin::stdout;
use harness::injected::{INJECTED, REQUESTS, SECRET, assert_exited, everyone, python};
use harness::internet::{AT_ONCE_MILLIS, WWW, assert_denied, gateway};
use harness::search::holds;
use harness::stdio::Server;
use harness::{World, within};
use serde_json::{Value, json};

/// Longest wait until a process has forgotten what it need not know any more.
const FORGOTTEN_MAX: Duration = Duration::from_secs(10);
/// What the attacks have in common: each is bytes over TLS on a connection of its own, and is told with
/// the first line of the answer and the time that it took.
const EXCHANGES: &str = r#"
import time
told = {}
def exchange(name, *parts, host="www.example.org"):
    begun, got = time.monotonic(), b""
    try:
        with secured(host) as stream:
            for part in parts:
                if callable(part):
                    got = part(stream)
                else:
                    stream.sendall(part)
            while part := stream.recv(65536):
                got += part
    except OSError as error:
        got += type(error).__name__.encode()
    line = got.split(b"\r\n")[0].decode("latin-1")
    told[name] = [line, (time.monotonic() - begun) * 1000, got.decode("latin-1")]
def request(line, *fields, body=b"", host="www.example.org", length=True):
    fields = [b"Host: " + host.encode(), b"Connection: close", *fields]
    if length:
        fields.append(b"Content-Length: %d" % len(body))
    return line + b" HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + body
def say():
    print(json.dumps(told))
"#;

/// Has a program in a cell try exchanges; returns its outcome and what it told of each.
#[track_caller]
fn exchanges(world: &World, tables: &str, script: &str) -> (Value, Value) {
    let outcome = python(world, tables, &format!("{EXCHANGES}{script}\nsay()"));
    assert_exited(&outcome);
    let told = serde_json::from_str(stdout(&outcome)).expect("it tells JSON");
    (outcome, told)
}

fn line(told: &Value, name: &str) -> String {
    told[name][0].as_str().unwrap_or("untold").to_owned()
}

#[test]
fn no_disguise_of_a_request_gets_the_secret() {
    everyone(|internet, world| {
        let (outcome, told) = exchanges(
            world,
            INJECTED,
            r#"
for path in [
    b"//v1/x", b"/v1//x", b"/v1/./x", b"/./v1/x", b"/v1/../v1/x", b"/v1/..", b"/v1/%2e%2e/v1/x", b"/v1%2fx",
    b"/v1/x%2f..%2fy", b"/v1/%78", b"/v1/x%00", b"/v1/x;y", b"/v1/..;/x", b"/v1/x\\y", b"/v1\\x", b"/V1/x",
    b"/v1/x#y", b"/v1/x/", b"/v1/", b"/v1", b"/v1/\xc3\xa9", b"/v1/x?_method=DELETE",
    b"/v1/x?a&%5Fmethod=DELETE", b"http://www.example.org/v1/x", b"/v2/x?/v1/x", b"/" + b"a" * 9000 + b"/../v1/x",
]:
    exchange("path " + repr(path[:40]), request(b"POST " + path))
for method in [b"post", b"Post", b"GET", b"PUT", b"TRACE", b"OPTIONS", b"POSTS", b"DELETE"]:
    exchange("method " + repr(method), request(method + b" /v1/x"))
for field in [
    b"X-HTTP-Method-Override: TRACE", b"X-Http.Method_Override: GET", b"X-Original-URL: /admin", b"X-Rewrite-URL: /a",
    b"X-Forwarded-Host: evil.org", b"X-Host: evil.org", b"Forwarded: host=evil.org", b"X-Forwarded_Prefix: /a",
    b"X-Original-Host: evil.org",
]:
    exchange("field " + repr(field), request(b"POST /v1/x", field))
for name, data in {
    "tab": b"POST\t/v1/x\tHTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    "spaces": b"POST  /v1/x  HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    "version": b"POST /v1/x HTTP/1.2\r\nHost: www.example.org\r\n\r\n",
    "no version": b"POST /v1/x\r\n\r\n",
    "nul": b"POST /v1/x\0 HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    "empty line": b"\r\nPOST /v1/x HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    "two hosts": request(b"POST /v1/x", b"Host: www.example.org"),
    "other host": request(b"POST /v1/x", host="other.example.org"),
    "other port": request(b"POST /v1/x", host="www.example.org:8443"),
    "host spelled": request(b"POST /v1/x", b"H_ost: x", b"ho.st: x", host="www.example.org@evil.org"),
    "absolute other": request(b"POST http://other.example.org/v1/x"),
    "connect": request(b"CONNECT www.example.org:443"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "h2c": request(b"POST /v1/x", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    "websocket": request(b"POST /v1/x", b"Upgrade: websocket"),
    "many fields": request(b"POST /v1/x", *[b"A%d: b" % n for n in range(200)]),
    "long": request(b"POST /v1/x", b"A: " + b"b" * 66000),
}.items():
    exchange("refused " + name, data)
exchange("control", request(b"POST /v1/control"))
exchange("control port", request(b"POST /v1/control", host="WWW.example.org:443"))
"#,
        );
        let seen = internet.seen().authorized();
        let (with, without): (Vec<_>, Vec<_>) = seen.iter().partition(|line| !line.ends_with(" -"));
        let secret = format!("Bearer {SECRET}");
        let control = format!("POST www.example.org/v1/control {secret}");
        let by_port = format!("POST WWW.example.org:443/v1/control {secret}");
        assert_eq!(with, [&control, &by_port], "{outcome:#}");
        // What is disguised arrives, or is refused at once; both are tried.
        assert!(without.len() > 30, "{without:#?}");
        let told = told.as_object().expect("it is one");
        for (name, exchange) in told {
            let [line, millis] = [&exchange[0], &exchange[1]];
            let line = line.as_str().expect("text");
            if name.starts_with("refused") {
                assert!(line.starts_with("HTTP/1.1 4"), "{name}: {line}");
            } else {
                assert!(line.starts_with("HTTP/1.1 "), "{name}: {line}");
            }
            assert!(millis.as_f64() < Some(AT_ONCE_MILLIS), "{name}: {millis}");
        }
        assert!(!outcome.to_string().contains(SECRET));
    });
}

#[test]
fn no_request_hides_in_anothers_body() {
    everyone(|internet, world| {
        let (outcome, told) = exchanges(
            world,
            INJECTED,
            r#"
hidden = b"POST /v1/hidden HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n"
def outer(*fields, body, end=b"\r\n\r\n", version=b"1.1", between=b"\r\n"):
    first = [b"POST /outer HTTP/" + version, b"Host: www.example.org", *fields]
    return between.join(first) + end + body
chunked = b"Transfer-Encoding: chunked"
all = b"Content-Length: %d" % len(hidden)
none = b"0\r\n\r\n" + hidden
for name, data in {
    "length, chunks": outer(b"Content-Length: %d" % len(none), chunked, body=none),
    "chunks, length": outer(chunked, b"Content-Length: %d" % len(none), body=none),
    "two lengths": outer(b"Content-Length: 0", all, body=hidden),
    "two equal lengths": outer(all, all, body=hidden),
    "listed lengths": outer(b"Content-Length: 0, %d" % len(hidden), body=hidden),
    "signed length": outer(b"Content-Length: +%d" % len(hidden), body=hidden),
    "hexadecimal length": outer(b"Content-Length: 0x%x" % len(hidden), body=hidden),
    "long length": outer(b"Content-Length: 18446744073709551616", body=hidden),
    "empty length": outer(b"Content-Length:", body=hidden),
    "spelled length": outer(b"Content_Length: %d" % len(hidden), body=hidden),
    "dotted length": outer(b"Content.Length: %d" % len(hidden), body=hidden),
    "space before colon": outer(b"Content-Length : %d" % len(hidden), body=hidden),
    "folded": outer(b"A: b", b" Content-Length: %d" % len(hidden), body=hidden),
    "folded coding": outer(b"Transfer-Encoding:", b" chunked", body=none),
    "another coding": outer(b"Transfer-Encoding: xchunked", body=none),
    "two codings": outer(b"Transfer-Encoding: gzip, chunked", body=none),
    "coding twice": outer(chunked, chunked, body=none),
    "coding undone": outer(chunked, b"Transfer-Encoding: identity", body=none),
    "quoted coding": outer(b'Transfer-Encoding: "chunked"', body=none),
    "coding with a tab": outer(b"Transfer-Encoding: \x0bchunked", body=none),
    "coding of 1.0": outer(chunked, body=none, version=b"1.0"),
    "LF": outer(all, body=hidden, between=b"\n", end=b"\n\n"),
    "CR": outer(b"A: b\r" + all, body=hidden),
    "NUL": outer(b"A: \0", all, body=hidden),
    "size with 0x": outer(chunked, body=b"0x0\r\n\r\n" + hidden),
    "negative size": outer(chunked, body=b"-1\r\n\r\n" + hidden),
    "size with a space": outer(chunked, body=b"0 \r\n\r\n" + hidden),
    "size that is long": outer(chunked, body=b"10000000000000000\r\n" + hidden),
    "LF behind a size": outer(chunked, body=b"0\n\r\n" + hidden),
    "LF in an extension": outer(chunked, body=b"5;a\nb\r\nabcde\r\n0\r\n\r\n" + hidden),
    "longer chunk": outer(chunked, body=b"1\r\nab\r\n0\r\n\r\n" + hidden),
    "trailer of length": outer(chunked, body=b"0\r\nContent-Length: 5\r\n\r\n" + hidden),
    "length to be dropped": outer(b"Connection: close, Content-Length", all, body=hidden),
    "coding to be dropped": outer(b"Connection: transfer-encoding", chunked, body=none),
    "host to be dropped": outer(b"Connection: Host", all, body=hidden),
    "other expectation": outer(b"Expect: y 100-continue", all, body=hidden),
    "expected twice": outer(b"Expect: 100-continue", b"Expect: 100-continue", all, body=hidden),
}.items():
    exchange(name, data)
exchange("control", request(b"POST /outer", body=hidden))
exchange("control in chunks", request(b"POST /outer", chunked, body=b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden), length=False))
exchange("control by itself", hidden + request(b"GET /last"))
"#,
        );
        let requests = internet.seen().authorized();
        // A head that is as it should be arrives before a body that is not.
        let outer = "POST www.example.org/outer -";
        let others: Vec<_> = requests.iter().filter(|line| *line != outer).collect();
        let hidden = format!("POST www.example.org/v1/hidden Bearer {SECRET}");
        let last = "GET www.example.org/last -".to_owned();
        assert_eq!(others, [&hidden, &last], "{requests:#?} {told:#}");
        for (name, exchange) in told.as_object().expect("it is one") {
            let answer = exchange[0].as_str().expect("text");
            let control = name.starts_with("control");
            assert_eq!(answer == "HTTP/1.1 200 OK", control, "{name}: {answer}");
            assert!(exchange[1].as_f64() < Some(AT_ONCE_MILLIS), "{name}");
        }
        let denials = outcome["denials"].as_array().expect("a list");
        assert!(denials.iter().all(|denial| denial["allow_with"] == ""));
    });
}

#[test]
fn no_request_with_the_secret_becomes_the_body_of_another() {
    everyone(|internet, world| {
        let (outcome, told) = exchanges(
            world,
            INJECTED,
            r#"
kept = b"%b HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: %d\r\n\r\n%b"
def answered(stream):
    return stream.recv(65536)
def echo(length):
    return kept % (b"POST /echo", length, b"")
wanted = kept % (b"POST /v1/x", 2, b"{}")
exchange("leaves", kept % (b"POST /leaves", len(echo(106)), echo(106)), answered, wanted)
exchange("control", kept % (b"POST /v1/x", 2, b"{}"), answered, wanted.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
exchange("echo", request(b"POST /echo", body=b"mine"))
"#,
        );
        let seen = internet.seen();
        let secret = format!("POST www.example.org/v1/x Bearer {SECRET}");
        let with = seen.authorized();
        let with = with.iter().filter(|line| **line == secret);
        assert_eq!(with.count(), 2, "{told:#}");
        let echoed: Vec<_> = seen.of("echoed").map(|event| &event["text"]).collect();
        assert!(echoed.contains(&&json!("mine")), "{echoed:#?}");
        for text in echoed {
            assert!(!text.to_string().contains(SECRET), "{text}");
        }
        assert!(!outcome.to_string().contains(SECRET));
    });
}

#[test]
fn what_is_refused_is_answered_unless_an_earlier_answer_is_awaited() {
    everyone(|internet, world| {
        let (outcome, told) = exchanges(
            world,
            INJECTED,
            r#"
def first(stream):
    got = b""
    while b"}" not in got:
        got += stream.recv(65536)
    return b""
kept = b"POST /v1/x HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n"
other = request(b"POST /v1/x", host="other.example.org")
exchange("host", other)
exchange("upgrade", request(b"GET /v1/x", b"Upgrade: websocket"))
exchange("later", kept, first, other)
exchange("awaited", b"GET /stall HTTP/1.1\r\nHost: www.example.org\r\n\r\n" + other)
exchange("within", b"POST /v1/x HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
# It sends the body behind the head, whatever has come of that.
connection = http.client.HTTPSConnection("www.example.org", timeout=10, context=trust)
connection.request("POST", "/v1/x", b"x" * 100_000, {"Host": "other.example.org"})
answer = connection.getresponse()
told["client"] = [str(answer.status), 0, answer.read().decode()]
exchange("control", request(b"POST /v1/x"))
"#,
        );
        assert_eq!(line(&told, "host"), "HTTP/1.1 421 Misdirected Request");
        assert_eq!(line(&told, "upgrade"), "HTTP/1.1 403 Forbidden");
        assert_eq!(line(&told, "later"), "HTTP/1.1 421 Misdirected Request");
        for name in ["awaited", "within"] {
            // Ours would be taken for the answer to a request that the server is busy with.
            let answer = line(&told, name);
            assert!(!answer.contains("HTTP"), "{name}: {answer}");
        }
        assert_eq!(line(&told, "client"), "421");
        assert_eq!(
            told["client"][2],
            "toolcell: an HTTP request for `other.example.org` over a connection to \
             `www.example.org:443`: the host of every HTTP request must be the one that was \
             connected to\n"
        );
        assert_eq!(line(&told, "control"), "HTTP/1.1 200 OK", "{outcome:#}");
        for (name, exchange) in told.as_object().expect("it is one") {
            assert!(exchange[1].as_f64() < Some(AT_ONCE_MILLIS), "{name}");
        }
        let seen = internet.seen().authorized();
        assert!(seen.iter().all(|line| !line.contains("other")), "{seen:#?}");
    });
}

#[test]
fn other_ways_to_the_same_server_have_no_secret() {
    everyone(|internet, world| {
        let tables = INJECTED.replace(
            r#"allow = ["www.example.org:443""#,
            &format!(
                r#"allow = ["*.example.org:443", "www.example.org:443,8443", "{WWW}:443", "{WWW}:8443""#
            ),
        );
        let (outcome, told) = exchanges(
            world,
            &tables,
            &r#"
def over(name, host, port, sni, line, as_host):
    begun, got = time.monotonic(), b""
    try:
        context = ssl.create_default_context()
        context.check_hostname = sni is not None
        with socket.create_connection((host, port), 10) as plain:
            with context.wrap_socket(plain, server_hostname=sni) as stream:
                stream.sendall(request(line, host=as_host))
                while part := stream.recv(65536):
                    got += part
    except OSError as error:
        got += type(error).__name__.encode()
    told[name] = [got.split(b"\r\n")[0].decode("latin-1"), (time.monotonic() - begun) * 1000, ""]
www = "www.example.org"
over("same address", "both.example.org", 443, "both.example.org", b"POST /v1/same", www)
over("same address, own name", "both.example.org", 443, "both.example.org", b"POST /v1/own", "both.example.org")
over("fronted", "both.example.org", 443, www, b"POST /v1/fronted", www)
over("other name within", www, 443, www, b"POST /v1/within", "both.example.org")
over("other SNI", www, 443, "both.example.org", b"POST /v1/sni", "both.example.org")
over("port", www, 8443, www, b"POST /v1/port", www + ":8443")
over("literal", "ADDRESS", 443, None, b"POST /v1/literal", www)
over("literal with a name", "ADDRESS", 443, www, b"POST /v1/literal-sni", www)
over("dot", www + ".", 443, www, b"POST /v1/dot", www + ".")
over("control", www, 443, www, b"POST /v1/control", www)
"#
            .replace("ADDRESS", WWW),
        );
        let seen = internet.seen().authorized();
        let with: Vec<_> = seen.iter().filter(|line| !line.ends_with(" -")).collect();
        let secret = format!("Bearer {SECRET}");
        assert_eq!(
            with,
            [
                &format!("POST www.example.org./v1/dot {secret}"),
                &format!("POST www.example.org/v1/control {secret}")
            ],
            "{told:#} {outcome:#}"
        );
        for (name, arrived) in [
            ("same", true),
            ("own", true),
            ("fronted", false),
            ("within", false),
            ("sni", false),
            ("port", true),
            ("literal-sni", false),
        ] {
            let target = format!("/v1/{name} ");
            let found = seen.iter().any(|line| line.contains(&target));
            assert_eq!(found, arrived, "{name}: {seen:#?}");
        }
    });
}

#[test]
fn a_secret_that_the_server_sends_back_does_not_reach_the_tool() {
    everyone(|internet, world| {
        // Servers tell who asks for another path which fields they got.
        let tables = INJECTED.replace("/v1/*", "/reflect/*");
        let (outcome, told) = exchanges(
            world,
            &tables,
            r#"
own = b"X-Own: sk-9f2c7Qm4visible"
def whole(stream):
    got = b""
    while not got.endswith(b"}}"):
        got += stream.recv(65536)
    return got
exchange("reflected", request(b"POST /reflect/x", own))
exchange("reflected in a kept connection", request(b"POST /other/x", own).replace(b"Connection: close\r\n", b""),
    whole, request(b"POST /reflect/x", own))
exchange("control", request(b"POST /other/x", own))
"#,
        );
        let secret = format!("Bearer {SECRET}");
        let reflected = format!("POST www.example.org/reflect/x {secret}");
        let other = "POST www.example.org/other/x -".to_owned();
        let seen = internet.seen().authorized();
        let arrived: Vec<_> = seen.iter().collect();
        assert_eq!(arrived, [&reflected, &other, &reflected, &other]);
        assert!(!outcome.to_string().contains(SECRET), "{outcome:#}");
        assert!(!told["reflected"][2].to_string().contains("bearer"));
        for name in ["reflected in a kept connection", "control"] {
            let got = told[name][2].as_str().expect("text");
            assert!(got.contains("sk-9f2c7Qm4visible"), "{name}: {got}");
        }
        assert_denied(
            &outcome,
            "an answer of www.example.org:443 with a secret in it",
            "the tool must not have it",
            "",
        );
    });
}

#[test]
fn a_redirect_takes_the_secret_nowhere() {
    everyone(|internet, world| {
        let tables = INJECTED.replace("/v1/*", "/redirect/*");
        let tables = tables.replace("\"POST\"", "\"GET\"");
        let outcome = python(
            world,
            &tables,
            r#"
import subprocess
for to in ["other.example.org/there", "www.example.org/plain"]:
    done = subprocess.run(["/usr/bin/curl", "-sSL", "--location-trusted", "--max-time", "10", "-o", "/dev/null",
        "-w", "%{http_code}", f"https://www.example.org/redirect/{to}"], capture_output=True, text=True)
    print(done.stdout, done.stderr)
"#,
        );
        assert_exited(&outcome);
        let secret = format!("Bearer {SECRET}");
        let seen = internet.seen().authorized();
        assert_eq!(
            seen,
            [
                format!("GET www.example.org/redirect/other.example.org/there {secret}"),
                format!("GET www.example.org/redirect/www.example.org/plain {secret}"),
                "GET www.example.org/plain -".to_owned(),
            ],
            "{outcome:#}"
        );
    });
}

#[test]
fn the_hosts_proxy_sees_no_secret() {
    everyone(|internet, world| {
        let mut world = internet.world(world.who);
        world.secret("openai", SECRET, 0o600);
        world
            .env
            .insert("HTTPS_PROXY".to_owned(), "http://9.8.7.6:3128".to_owned());
        let outcome = python(
            &world,
            INJECTED,
            "print(request('www.example.org', 'POST', '/v1/x', 'Bearer mine'))",
        );
        assert_eq!(stdout(&outcome), "200\n", "{outcome:#}");
        let seen = internet.seen();
        let proxied: Vec<_> = seen.of("proxied").collect();
        assert_eq!(proxied.len(), 1, "{seen:#?}");
        assert_eq!(proxied[0]["target"], "www.example.org:443");
        assert!(!proxied[0].to_string().contains(SECRET));
        let line = format!("POST www.example.org/v1/x Bearer {SECRET}");
        assert_eq!(seen.authorized(), [line]);
    });
}

#[test]
fn calls_at_once_have_their_own_secrets_and_authorities_and_the_gateway_forgets_them() {
    const OTHER_SECRET: &str = "sk-5b81Zt0another";
    everyone(|internet, world| {
        world.secret("second", OTHER_SECRET, 0o600);
        let tool = |name: &str, secret: &str| {
            let tables = INJECTED.replace("\"openai\"", &format!("\"{secret}\""));
            let text = format!(
                "format = 1\nname = \"{name}\"\ntitle = \"Reach\"\ndescription = \"A test's.\"\n\
                 extends = [\"network\"]\n[input]\ntype = \"object\"\nrequired = [\"code\"]\n\
                 properties.code = {{ type = \"string\" }}\n[run]\n\
                 argv = [\"/usr/bin/python3\", \"-I\", \"-\"]\nstdin = \"{{code}}\"\n{tables}\n"
            );
            world.write(&format!("profiles/{name}.toml"), &text);
        };
        tool("one", "openai");
        tool("two", "second");
        let directory = world.path("profiles").display().to_string();
        let mut server = Server::start(world, &["--profiles", &directory]);
        // Each holds its connection until the test has seen both requests.
        let code = |path: &str| {
            format!(
                "{REQUESTS}{EXCHANGES}
own = secured('www.example.org')
own.sendall(request(b'POST /v1/{path}').replace(b'Connection: close\\r\\n', b''))
print(own.recv(12).decode())
exchange('stall', request(b'GET /half'))
print(open('/etc/toolcell/ca.pem').read().rpartition('-----BEGIN')[2])
"
            )
        };
        server.call(1, "one", &json!({ "code": code("one") }));
        server.call(2, "two", &json!({ "code": code("two") }));
        let outcomes = [server.outcome(1), server.outcome(2)];
        for outcome in &outcomes {
            assert_exited(outcome);
            assert!(stdout(outcome).starts_with("HTTP/1.1 200"), "{outcome:#}");
        }
        let authority = |outcome: &Value| {
            let certificate = stdout(outcome).split_once(" CERTIFICATE-----");
            certificate.expect("it is printed").1.to_owned()
        };
        assert_ne!(authority(&outcomes[0]), authority(&outcomes[1]));
        let seen = internet.seen().authorized();
        let of = |path: &str| seen.iter().find(|line| line.contains(path));
        let [one, two] = ["/v1/one", "/v1/two"].map(|path| of(path).expect("it arrived"));
        assert!(one.ends_with(&format!("Bearer {SECRET}")), "{seen:#?}");
        assert!(
            two.ends_with(&format!("Bearer {OTHER_SECRET}")),
            "{seen:#?}"
        );

        let gateway = gateway(world).expect("it serves");
        for secret in [SECRET, OTHER_SECRET] {
            let forgotten = within(FORGOTTEN_MAX, || !holds(gateway, "mem", secret));
            assert!(forgotten, "the gateway still has `{secret}`");
        }
        // The control: what it need not forget is found in the same way.
        assert!(holds(gateway, "mem", "toolcell-gateway"));
    });
}
