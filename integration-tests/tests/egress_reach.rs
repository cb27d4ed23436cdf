//! What a profile allows works, with programs as they are: no variable names a proxy, no certificate
//! is installed, no option is given.

use harness::internet::{Internet, OTHER, WWW, allow};
use serde_json::{Value, json};

/// What was reached, as the outcome tells it: host, connections.
fn reached(outcome: &Value) -> Vec<(String, u64)> {
    let hosts = outcome["egress"].as_array().cloned().unwrap_or_default();
    let host = |host: &Value| {
        let name = host["host"].as_str().expect("a name").to_owned();
        (name, host["connections"].as_u64().expect("a number"))
    };
    hosts.iter().map(host).collect()
}

/// Whether nothing was denied.
#[track_caller]
fn nothing_denied(outcome: &Value) {
    assert_eq!(outcome["denials"], json!([]), "{outcome:#}");
}

#[test]
fn curl_and_python_reach_an_allowed_name() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\"]",
            r#"
import urllib.request
def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return answer.status
attempt("http", curl, "-w", "%{http_code}", "-o/dev/null", "http://www.example.org/http")
attempt("https", curl, "-w", " %{http_version}", "https://www.example.org/")
attempt("https1", curl, "--http1.1", "-w", "%{http_code}", "-o/dev/null", "https://www.example.org/https1")
attempt("urllib", fetch, "https://www.example.org/urllib")
attempt("redirect", curl, "-L", "-w", "%{http_code}", "-o/dev/null", "http://www.example.org/redirect/www.example.org/there")
attempt("twice", curl, "-w", "%{num_connects}", "-o/dev/null", "http://www.example.org/1", "-o/dev/null", "http://www.example.org/2")
attempt("getent", lambda: __import__("subprocess").run(["getent", "hosts", "www.example.org"], capture_output=True, text=True).stdout)
"#,
        );
        for (attempt, answer) in [
            ("http", "200"),
            ("https", "h2 2"),
            ("https1", "200"),
            ("urllib", "200"),
            ("redirect", "200"),
            ("twice", "10"),
        ] {
            assert_eq!(
                tried.answer(attempt),
                answer,
                "{:?} {attempt} {tried:#?}",
                world.who
            );
        }
        assert!(tried.answer("getent").starts_with("198.18."), "{tried:#?}");
        nothing_denied(&tried.outcome);
        let seen = internet.seen();
        assert!(
            seen.sent()
                .iter()
                .all(|sent| sent.starts_with(&format!("tcp {WWW}:")))
        );
        let names: Vec<_> = seen.of("tls").map(|tls| &tls["sni"]).collect();
        assert_eq!(names, ["www.example.org"; 3]);
    });
}

#[test]
fn a_name_is_the_same_however_it_is_written() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"WWW.Example.Org\", \"bücher.example.org\"]",
            r#"
code = ("-w", "%{http_code}", "-o/dev/null")
attempt("upper", curl, *code, "http://WWW.EXAMPLE.ORG/upper")
attempt("dot", curl, *code, "http://www.example.org./dot")
attempt("dot tls", curl, *code, "https://www.example.org./dot-tls")
attempt("port", curl, *code, "http://www.example.org:80/port")
attempt("idn", curl, *code, "http://bücher.example.org/idn")
attempt("punycode", curl, *code, "https://xn--bcher-kva.example.org/punycode")
"#,
        );
        for attempt in ["upper", "dot", "dot tls", "port", "idn", "punycode"] {
            assert_eq!(
                tried.answer(attempt),
                "200",
                "{:?} {attempt} {tried:#?}",
                world.who
            );
        }
        nothing_denied(&tried.outcome);
    });
}

#[test]
fn ports_wildcards_and_protocols_are_as_the_entries_say() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org:80,8080,8443\", \"*.wild.example.net:80,443\", \
             \"other.example.org:7000/tcp\", \"other.example.org:22/tcp\"]",
            r#"
for port in (80, 8080):
    attempt(f"port {port}", get, "www.example.org", port=port, name=f"www.example.org:{port}")
attempt("tls 8443", secured, "www.example.org", "www.example.org", 8443)
for name in ("a", "b", "a.b.c"):
    attempt(name, get, f"{name}.wild.example.net")
attempt("same", lambda: address("a.wild.example.net") == address("a.wild.example.net") != address("b.wild.example.net"))
attempt("echo", talk, "other.example.org", 7000, b"any bytes", True)
attempt("banner", talk, "other.example.org", 22, b"SSH-2.0-test\r\n")
"#,
        );
        for attempt in ["port 80", "port 8080", "a", "b", "a.b.c"] {
            assert_eq!(
                tried.answer(attempt),
                "HTTP/1.1 200 OK",
                "{attempt} {tried:#?}"
            );
        }
        assert_eq!(tried.answer("tls 8443"), "HTTP/1.1 200 OK", "{tried:#?}");
        assert_eq!(tried.answer("same"), "True");
        assert_eq!(tried.answer("echo"), "any bytes<9>");
        assert_eq!(tried.answer("banner"), "SSH-2.0-fake\r\n");
        nothing_denied(&tried.outcome);
        let seen = internet.seen();
        let banner = seen.of("banner").next().map(|banner| &banner["answer"]);
        assert_eq!(banner, Some(&"SSH-2.0-test\r\n".into()));
    });
}

#[test]
fn listed_addresses_and_ranges_are_reached_without_a_name() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"8.8.8.8:80\", \"151.101.0.0/16:80\", \"[2606:4700::1111]:80\", \
             \"10.0.0.5:7000/tcp\"]",
            r#"
code = ("-g", "-w", "%{http_code}", "-o/dev/null")
attempt("decimal", curl, *code, "http://134744072/")
attempt("range", curl, *code, "http://151.101.7.7/")
attempt("sixth", curl, *code, "http://[2606:4700::1111]/")
attempt("private", talk, "10.0.0.5", 7000, b"hello", True)
attempt("beyond", get, "151.102.0.1")
"#,
        );
        for attempt in ["decimal", "range", "sixth"] {
            assert_eq!(
                tried.answer(attempt),
                "200",
                "{:?} {attempt} {tried:#?}",
                world.who
            );
        }
        assert_eq!(tried.answer("private"), "hello<5>");
        tried.refused("beyond");
        let sent = [
            "tcp 8.8.8.8:80",
            "tcp 151.101.7.7:80",
            "tcp [2606:4700::1111]:80",
            "tcp 10.0.0.5:7000",
        ];
        assert_eq!(internet.seen().sent(), sent, "{:?}", world.who);
    });
}

#[test]
fn opened_addresses_are_reached_by_name() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"*.example.org\", \"api.internal.example\"]\n\
             allow_addresses = [\"10.0.0.0/24\", \"loopback\"]",
            "attempt('range', get, 'api.internal.example')\n\
             attempt('word', get, 'loopback.example.org')\n\
             attempt('other', get, 'home.example.org')",
        );
        assert_eq!(tried.answer("range"), "HTTP/1.1 200 OK", "{tried:#?}");
        assert_eq!(tried.answer("word"), "HTTP/1.1 200 OK", "{tried:#?}");
        tried.refused("other");
        let sent = ["tcp 10.0.0.5:80", "tcp 127.0.0.1:80"];
        assert_eq!(internet.seen().sent(), sent, "{:?}", world.who);
    });
}

#[test]
fn a_service_of_the_machine_is_reached_by_its_name() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"host:db.machine.example:7000/tcp\"]",
            "attempt('service', talk, 'db.machine.example', 7000, b'select', True)\n\
             attempt('other', connect, 'db.machine.example', 80)\n\
             attempt('address', connect, '127.0.0.1', 7000)",
        );
        assert_eq!(tried.answer("service"), "select<6>", "{tried:#?}");
        tried.refused("other");
        tried.refused("address");
        tried.denied(
            "connect to db.machine.example:80",
            "but not this port",
            &allow("host:db.machine.example:80"),
        );
        assert_eq!(
            internet.seen().sent(),
            ["tcp 127.0.0.1:7000"],
            "{:?}",
            world.who
        );
    });
}

#[test]
fn servers_reached_by_six_or_by_the_second_address_are_reached() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"six.example.org\", \"both.example.org\", \
             \"two.example.org:9000\"]",
            "attempt('six', secured, 'six.example.org', 'six.example.org')\n\
             attempt('both', get, 'both.example.org')\n\
             attempt('two', get, 'two.example.org', port=9000, name='two.example.org:9000')",
        );
        for attempt in ["six", "both", "two"] {
            assert_eq!(
                tried.answer(attempt),
                "HTTP/1.1 200 OK",
                "{attempt} {tried:#?}"
            );
        }
        let sent = internet.seen().sent();
        assert!(
            sent.contains(&"tcp [2606:4700::1111]:443".to_owned()),
            "{sent:#?}"
        );
        assert!(sent.contains(&format!("tcp {OTHER}:9000")), "{sent:#?}");
    });
}

#[test]
fn tls_without_a_name_is_reached_if_the_profile_says_so() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\"]\nallow_no_sni = true",
            "attempt('unnamed', secured, 'www.example.org', None)\n\
             attempt('fronted', secured, 'www.example.org', 'other.example.org')",
        );
        assert_eq!(tried.answer("unnamed"), "HTTP/1.1 200 OK", "{tried:#?}");
        tried.refused("fronted");
        let seen = internet.seen();
        let names: Vec<_> = seen.of("tls").map(|tls| &tls["sni"]).collect();
        assert_eq!(names, [&Value::Null]);
    });
}

#[test]
fn servers_that_finish_first_dribble_reset_or_stall_are_seen_as_they_are() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\", \"www.example.org:7000/tcp\", \
             \"silent.example.org\", \"broken.example.org\", \"www.example.org:8082\"]",
            r#"
www = "www.example.org"
def half():
    request = b"POST /half HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection((www, 80)) as connection:
        connection.sendall(request + b"a")
        got = b""
        while part := connection.recv(4096):
            got += part
        connection.sendall(b"12345678")
        return got.split(b"\r\n\r\n")[1].decode()
def stall():
    with socket.create_connection((www, 80)) as connection:
        connection.sendall(b"GET /stall HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
        connection.settimeout(0.2)
        return connection.recv(1)
attempt("client first", lambda: talk(www, 7000, b"x" * 100000, True)[-8:])
attempt("dribble", lambda: talk(www, 80, b"GET /dribble/50 HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n")[-50:])
attempt("reset", talk, www, 80, b"GET /reset HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
attempt("stall", stall)
attempt("nobody", get, www, port=8082, name="www.example.org:8082")
attempt("broken", get, "broken.example.org")
"#,
        );
        assert!(
            tried.answer("client first").ends_with("<100000>"),
            "{:?}",
            world.who
        );
        assert_eq!(tried.answer("dribble"), ".".repeat(50), "{tried:#?}");
        let reset = tried.answer("reset");
        assert!(
            reset == "ECONNRESET" || reset.ends_with("then reset"),
            "{tried:#?}"
        );
        assert!(tried.answer("stall").contains("timed out"), "{tried:#?}");
        tried.refused("nobody");
        tried.refused("broken");
        // The client has gone, and its server is told.
        let _ = internet.until(|seen| seen.of("left").next().is_some());
    });
}

#[test]
fn a_server_that_finishes_first_still_gets_the_rest() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\"]",
            r#"
def half():
    head = b"POST /half HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("www.example.org", 80)) as connection:
        connection.sendall(head)
        got = read_all(connection)
        connection.sendall(b"GET /more HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
    return got.split("\r\n\r\n")[1]
attempt("half", half)
"#,
        );
        assert_eq!(tried.answer("half"), "finished", "{tried:#?}");
        let seen = internet.until(|seen| seen.of("after").next().is_some());
        let after = seen.of("after").next().expect("it was waited for");
        assert_eq!(after["bytes"], 45, "{:?}", world.who);
    });
}

#[test]
fn what_was_reached_is_accounted_for_by_name() {
    Internet::everyone(|internet, world| {
        let tried = internet.attempts(
            world,
            "[network]\nallow = [\"www.example.org\", \"*.wild.example.net\", \
             \"other.example.org:7000/tcp\"]",
            "attempt('a', get, 'www.example.org', '/bytes/100000')\n\
             attempt('b', get, 'www.example.org')\n\
             attempt('c', get, 'x.wild.example.net')\n\
             attempt('d', talk, 'other.example.org', 7000, b'12345', True)",
        );
        let outcome = &tried.outcome;
        let hosts = [
            ("other.example.org:7000".to_owned(), 1),
            ("www.example.org:80".to_owned(), 2),
            ("x.wild.example.net:80".to_owned(), 1),
        ];
        assert_eq!(reached(outcome), hosts, "{:?} {outcome:#}", world.who);
        let host = |index: usize, key: &str| outcome["egress"][index][key].as_u64().expect("one");
        assert_eq!((host(0, "sent_bytes"), host(0, "received_bytes")), (5, 8));
        assert!(
            (100_000..110_000).contains(&host(1, "received_bytes")),
            "{outcome:#}"
        );
        let sum: u64 = (0..3)
            .map(|index| host(index, "sent_bytes") + host(index, "received_bytes"))
            .sum();
        assert_eq!(outcome["usage"]["egress_bytes"], sum);
        let receipts = world.receipts();
        assert_eq!(receipts[0]["usage"]["egress_bytes"], sum, "{receipts:#?}");
        let kept = receipts[0]["egress"].as_array().expect("a list");
        let told = outcome["egress"].as_array().expect("a list");
        assert!(kept.iter().all(|host| told.contains(host)), "{kept:#?}");
        assert_eq!(kept.len(), told.len(), "{kept:#?}");
    });
}

#[test]
fn the_hosts_proxy_is_used_but_for_its_exceptions() {
    for who in harness::everyone() {
        let Some(internet) = Internet::start() else {
            return;
        };
        let mut world = internet.world(who);
        for (name, value) in [
            ("HTTPS_PROXY", "http://me:secret@9.8.7.6:3128"),
            ("NO_PROXY", "localhost,.wild.example.net"),
        ] {
            world.env.insert(name.to_owned(), value.to_owned());
        }
        let tried = internet.attempts(
            &world,
            "[network]\nallow = [\"www.example.org\", \"*.wild.example.net\"]",
            "attempt('through', secured, 'www.example.org', 'www.example.org')\n\
             attempt('past', get, 'a.wild.example.net')\n\
             attempt('denied', get, 'other.example.org')\n\
             attempt('variable', lambda: [name for name in __import__('os').environ if 'PROXY' in name])",
        );
        assert_eq!(
            tried.answer("through"),
            "HTTP/1.1 200 OK",
            "{who:?} {tried:#?}"
        );
        assert_eq!(
            tried.answer("past"),
            "HTTP/1.1 200 OK",
            "{who:?} {tried:#?}"
        );
        tried.refused("denied");
        assert_eq!(tried.answer("variable"), "[]");
        let seen = internet.seen();
        let proxied: Vec<_> = seen.of("proxied").collect();
        assert_eq!(proxied.len(), 1, "{who:?} {proxied:#?}");
        assert_eq!(proxied[0]["target"], "www.example.org:443");
        // `me:secret`, as RFC 7617 has it.
        let fields = proxied[0]["fields"].to_string();
        assert!(
            fields.contains("Proxy-Authorization: Basic bWU6c2VjcmV0"),
            "{fields}"
        );
        let sent = seen.sent();
        assert_eq!(sent[0], "tcp 9.8.7.6:3128", "{who:?}");
        assert!(
            sent.contains(&"tcp 151.101.0.223:80".to_owned()),
            "{who:?} {sent:#?}"
        );
    }
}

#[test]
fn a_trust_store_that_is_passed_by_variable_is_seen_and_used() {
    for who in harness::everyone() {
        let Some(internet) = Internet::start() else {
            return;
        };
        let mut world = internet.world(who);
        let file = internet.authority().display().to_string();
        world.env.insert("SSL_CERT_FILE".to_owned(), file);
        let run = |tables: &str| {
            // `standard` shows no certificates of the system's.
            let profile = world.profile(tables);
            world.run(
                &profile,
                &["/usr/bin/curl", "-sS", "https://www.example.org/"],
            )
        };
        let passed =
            run("[run]\npass_env = [\"SSL_CERT_FILE\"]\n[network]\nallow = [\"www.example.org\"]");
        assert_eq!(passed["stdout"]["text"], "h2", "{who:?} {passed:#}");
        let kept = run("[network]\nallow = [\"www.example.org\"]");
        assert_ne!(kept["exit_code"], 0, "{who:?} {kept:#}");
        assert_eq!(internet.seen().of("request").count(), 1, "{who:?}");
    }
}

#[test]
fn the_hosts_own_names_are_known() {
    for who in harness::everyone() {
        let hosts = format!("127.0.0.1 localhost\n{OTHER} build.machine.example\n");
        let Some(internet) = Internet::with(&hosts) else {
            return;
        };
        let world = internet.world(who);
        let tried = internet.attempts(
            &world,
            "[network]\nallow = [\"build.machine.example\"]",
            "attempt('known', get, 'build.machine.example')",
        );
        assert_eq!(
            tried.answer("known"),
            "HTTP/1.1 200 OK",
            "{who:?} {tried:#?}"
        );
        assert_eq!(
            internet.seen().sent(),
            [format!("tcp {OTHER}:80")],
            "{who:?}"
        );
    }
}
