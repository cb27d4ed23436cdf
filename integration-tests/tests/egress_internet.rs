//! The fake internet itself: without a cell, everything in it is reached, and seen. So it is of use
//! as the other side of the tests of egress.

use std::path::Path;

use harness::everyone;
use harness::internet::{Internet, OTHER, WWW};

#[test]
fn an_ordinary_program_reaches_every_address_of_the_fake_internet() {
    let Some(internet) = Internet::start() else {
        return;
    };
    for who in everyone() {
        let world = internet.world(who);
        let attempts = internet.attempts_outside(
            &world,
            r#"
attempt("name", get, "www.example.org", "/hello")
attempt("address", connect, "8.8.8.8", 80)
attempt("metadata", get, "metadata.example.org", "/latest")
attempt("loopback", connect, "127.0.0.1", 80)
attempt("six", connect, "2606:4700::1111", 443)
attempt("tls", secured, "www.example.org", "www.example.org")
attempt("fronted", secured, "www.example.org", "other.example.org")
attempt("unknown", address, "nothing.example.org")
attempt("banner", talk, "other.example.org", 22, b"SSH-2.0-test\r\n")
attempt("echo", talk, "other.example.org", 7000, b"hello", True)
"#,
        );
        for (attempt, answer) in [
            ("name", "HTTP/1.1 200 OK"),
            ("address", "connected"),
            ("metadata", "HTTP/1.1 200 OK"),
            ("loopback", "connected"),
            ("six", "connected"),
            ("tls", "HTTP/1.1 200 OK"),
            ("fronted", "HTTP/1.1 200 OK"),
            ("unknown", "EAI_NONAME"),
            ("banner", "SSH-2.0-fake\r\n"),
            ("echo", "hello<5>"),
        ] {
            assert_eq!(attempts.answer(attempt), answer, "{who:?} {attempt}");
        }
        let seen = internet.seen();
        let sent = seen.sent();
        for to in [
            &format!("tcp {WWW}:80"),
            &format!("tcp {WWW}:443"),
            &format!("tcp {OTHER}:22"),
            "tcp 8.8.8.8:80",
            "tcp 169.254.169.254:80",
            "tcp 127.0.0.1:80",
            "tcp [2606:4700::1111]:443",
        ] {
            assert!(sent.iter().any(|sent| sent == to), "{to} in {sent:#?}");
        }
        let requests = seen.requests();
        assert!(
            requests.contains(&"www.example.org /hello".to_owned()),
            "{requests:#?}"
        );
        let named: Vec<_> = seen.of("tls").map(|tls| tls["sni"].clone()).collect();
        assert_eq!(named, ["www.example.org", "other.example.org"]);
        assert!(seen.questions().contains(&"nothing.example.org".to_owned()));
    }
}

#[test]
fn curl_speaks_http2_in_the_fake_internet() {
    let Some(internet) = Internet::start() else {
        return;
    };
    for who in everyone() {
        let world = internet.world(who);
        let arguments = ["-sS", "-w", " %{http_version}", "https://www.example.org/"];
        let output = world
            .program(Path::new("/usr/bin/curl"), &arguments)
            .output()
            .expect("curl starts");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "h2 2",
            "{who:?} {output:#?}"
        );
    }
}
