//! What is sent over an allowed connection must be meant for the host that was connected to, by TLS
//! and by every request of HTTP, however it is cut up or disguised.
//!
//! The fake internet's servers tell which names and requests they saw.

use harness::internet::{AT_ONCE_MILLIS, Internet, WWW, WWW_ONLY, allow};

#[test]
fn tls_for_another_name_is_reset() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            "attempt('fronted', secured, 'www.example.org', 'other.example.org')\n\
             attempt('unnamed', secured, 'www.example.org', None)\n\
             attempt('bytes', talk, 'www.example.org', 443, b'SSH-2.0-test\\r\\n')\n\
             attempt('control', secured, 'www.example.org', 'www.example.org')",
        );
        for attempt in ["fronted", "unnamed", "bytes"] {
            tried.refused(attempt);
        }
        let to = "www.example.org:443";
        let line = allow(&format!("{to}/tcp"));
        tried.denied(
            &format!("TLS for `other.example.org` over a connection to `{to}`"),
            "must be the name that was connected to",
            &line,
        );
        tried.denied(
            &format!("TLS without a server name over a connection to `{to}`"),
            "TLS must name its server",
            "network.allow_no_sni = true",
        );
        tried.denied(
            &format!("bytes to `{to}` that are neither TLS nor HTTP"),
            "`/tcp`",
            &line,
        );
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:443")], "{:?}", world.who);
        let names: Vec<_> = seen.of("tls").map(|tls| &tls["sni"]).collect();
        assert_eq!(names, ["www.example.org"]);
    });
}

#[test]
fn a_name_in_a_hello_of_many_pieces_is_seen() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
for name in ("www", "other"):
    data = hello(f"{name}.example.org")
    attempt(f"{name} bytes", greet, "www.example.org", in_pieces(data, 1))
    attempt(f"{name} records", greet, "www.example.org", in_records(data, 40))
    attempt(f"{name} both", greet, "www.example.org", in_pieces(in_records(data, 16), 7))
"#,
        );
        for how in ["bytes", "records", "both"] {
            assert_eq!(
                tried.answer(&format!("www {how}")),
                "answered",
                "{tried:#?}"
            );
            tried.refused(&format!("other {how}"));
        }
        let denials = tried.outcome["denials"].as_array().expect("a list");
        let of_name = denials.iter().find(|denial| {
            let what = denial["what"].as_str().unwrap_or_default();
            what.starts_with("TLS for `other.example.org`")
        });
        assert_eq!(
            of_name.map(|denial| &denial["count"]),
            Some(&3.into()),
            "{denials:#?}"
        );
        assert_eq!(
            seen.sent(),
            vec![format!("tcp {WWW}:443"); 3],
            "{:?}",
            world.who
        );
    });
}

#[test]
fn http_2_with_prior_knowledge_is_relayed_for_its_host_only() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
prior = "--http2-prior-knowledge", "-w", " %{http_version}", "http://www.example.org/"
attempt("own", curl, *prior)
attempt("other", curl, "-H", "Host: other.example.org", *prior)
"#,
        );
        let who = world.who;
        assert_eq!(tried.answer("own"), "h2 2", "{who:?} {tried:#?}");
        assert!(tried.answer("other").contains("reset"), "{tried:#?}");
        let to = "www.example.org:80";
        tried.denied(
            &format!("an HTTP request for `other.example.org` over a connection to `{to}`"),
            "must be the one that was connected to",
            &allow(&format!("{to}/tcp")),
        );
        let came = seen.of("request").filter(|seen| seen["prior"] == true);
        assert_eq!(came.count(), 1, "{who:?} {seen:#?}");
    });
}

#[test]
fn a_request_for_another_host_is_not_relayed() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
www, end = "www.example.org", b"Connection: close\r\n\r\n"
attempt("host", get, www, "/host", "other.example.org")
attempt("none", talk, www, 80, b"GET /none HTTP/1.1\r\n" + end)
attempt("two", talk, www, 80, b"GET /two HTTP/1.1\r\nHost: www.example.org\r\nHost: other.example.org\r\n" + end)
attempt("absolute", talk, www, 80, b"GET http://other.example.org/absolute HTTP/1.1\r\nHost: www.example.org\r\n" + end)
attempt("connect", talk, www, 80, b"CONNECT other.example.org:443 HTTP/1.1\r\nHost: other.example.org:443\r\n\r\n")
attempt("connect own", talk, www, 80, b"CONNECT www.example.org:443 HTTP/1.1\r\nHost: www.example.org:443\r\n\r\n")
attempt("port", get, www, "/port", "www.example.org:8080")
attempt("nul", get, www, "/nul", "www.example.org\0.other.example.org")
attempt("space", get, www, "/space", "www.example.org other.example.org")
attempt("bare", talk, www, 80, b"GET /bare HTTP/1.1\nHost: other.example.org\n\n")
attempt("folded", talk, www, 80, b"GET /folded HTTP/1.1\r\nHost: www.example.org\r\n other.example.org\r\n" + end)
attempt("h2", talk, www, 80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    + b"\0\0\x16\1\5\0\0\0\1" + b"\x82\x86\x84\x01\x11other.example.org"[:22])
attempt("control", get, www, "/control")
attempt("absolute control", talk, www, 80, b"GET http://www.example.org/absolute-control HTTP/1.1\r\nHost: www.example.org\r\n" + end)
"#,
        );
        for attempt in [
            "host",
            "none",
            "two",
            "absolute",
            "connect",
            "connect own",
            "port",
            "nul",
            "space",
            "bare",
            "folded",
            "h2",
        ] {
            tried.refused(attempt);
        }
        let to = "www.example.org:80";
        let line = allow(&format!("{to}/tcp"));
        tried.denied(
            &format!("an HTTP request for `other.example.org` over a connection to `{to}`"),
            "the host of every HTTP request must be",
            &line,
        );
        tried.denied(
            &format!("an HTTP request for port 8080 over a connection to `{to}`"),
            "the port of every HTTP request must be",
            &line,
        );
        assert_eq!(tried.answer("control"), "HTTP/1.1 200 OK");
        assert!(
            tried
                .answer("absolute control")
                .starts_with("HTTP/1.1 200 OK"),
            "{tried:#?}"
        );
        let requests = [
            "www.example.org /control",
            "www.example.org http://www.example.org/absolute-control",
        ];
        assert_eq!(seen.requests(), requests, "{:?}", world.who);
        assert_eq!(seen.sent().len(), 2, "{:?} {:#?}", world.who, seen.sent());
    });
}

#[test]
fn a_later_request_for_another_host_is_not_relayed() {
    Internet::everyone(|internet, world| {
        let (tried, seen) = internet.try_in_cell(
            world,
            WWW_ONLY,
            r#"
www = "www.example.org"
def request(target, host="www.example.org", more="", method="GET"):
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()
end = "Connection: close\r\n"
hidden = request("/hidden", "other.example.org")
def later(*parts):
    with socket.create_connection((www, 80)) as connection:
        connection.sendall(request("/first"))
        first = connection.recv(65536)
        assert first.startswith(b"HTTP/1.1 200"), first
        for part in parts:
            connection.sendall(part)
        return read_all(connection)
attempt("later", later, hidden)
attempt("pipelined", talk, www, 80, request("/pipelined") + hidden)
attempt("length and chunks", talk, www, 80, request("/both",
    more=f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n", method="POST") + b"0\r\n\r\n" + hidden)
attempt("two lengths", talk, www, 80, request("/lengths",
    more=f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n", method="POST") + hidden)
attempt("chunked twice", talk, www, 80, request("/twice",
    more="Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", method="POST") + b"0\r\n\r\n" + hidden)
attempt("odd coding", talk, www, 80, request("/odd",
    more="Transfer-Encoding: xchunked\r\n", method="POST") + b"0\r\n\r\n" + hidden)
attempt("space before colon", talk, www, 80, request("/colon",
    more=f"Content-Length : {len(hidden)}\r\n", method="POST") + hidden)
attempt("odd chunk", talk, www, 80, request("/chunk",
    more="Transfer-Encoding: chunked\r\n", method="POST") + b"0x0\r\n\r\n" + hidden)
attempt("control", later, request("/second", more=end))
attempt("body control", talk, www, 80, request("/body",
    more=f"Content-Length: {len(hidden)}\r\n{end}", method="POST") + hidden)
"#,
        );
        for attempt in [
            "length and chunks",
            "two lengths",
            "chunked twice",
            "odd coding",
            "odd chunk",
            "space before colon",
        ] {
            tried.refused(attempt);
        }
        for attempt in ["later", "pipelined"] {
            assert!(
                !tried.answer(attempt).contains("hidden"),
                "{attempt} {tried:#?}"
            );
            assert!(
                tried.millis(attempt) < AT_ONCE_MILLIS,
                "{attempt} {tried:#?}"
            );
        }
        tried.denied(
            "an HTTP request for `other.example.org` over a connection to `www.example.org:80`",
            "the host of every HTTP request must be",
            &allow("www.example.org:80/tcp"),
        );
        assert!(tried.answer("control").contains("/second"), "{tried:#?}");
        assert!(
            tried.answer("body control").starts_with("HTTP/1.1 200 OK"),
            "{tried:#?}"
        );
        let requests = seen.requests();
        let others: Vec<_> = requests
            .iter()
            .filter(|seen| seen.contains("other"))
            .collect();
        assert_eq!(others, [""; 0], "{:?} {requests:#?}", world.who);
        assert!(
            requests.contains(&"www.example.org /second".to_owned()),
            "{requests:#?}"
        );
        assert!(
            requests.contains(&"www.example.org /body".to_owned()),
            "{requests:#?}"
        );
    });
}
