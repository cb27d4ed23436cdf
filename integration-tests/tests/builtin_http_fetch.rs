//! `http_fetch`: what it returns, and that nobody leads it anywhere but to the operator's hosts.

use harness::builtin::{stderr, stdout};
use harness::internet::{Internet, WWW, assert_denied};
use harness::stdio::Server;
use harness::{World, outcome};
use serde_json::{Value, json};

const HOSTS: &str = "www.example.org,two.example.org:443,private.example.org,metadata.example.org";

fn fetch(world: &World, url: &str) -> Value {
    outcome(&world.attempt_with_hosts(HOSTS, "http_fetch", &json!({ "url": url })))
}

#[track_caller]
fn fetched(world: &World, url: &str) -> String {
    let outcome = fetch(world, url);
    assert_eq!(outcome["exit_code"], 0, "{url}: {outcome:#}");
    stdout(&outcome).to_owned()
}

/// Asserts that nothing was fetched, and that the model is told this.
#[track_caller]
fn assert_not_fetched(outcome: &Value, told: &str) {
    assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
    assert!(stderr(outcome).contains(told), "{outcome:#}");
    assert_eq!(stdout(outcome), "", "{outcome:#}");
}

#[test]
fn a_page_is_returned_as_text_and_as_a_file() {
    Internet::everyone(|internet, world| {
        let page = "<p>Grüße</p>\n";
        let html = "text/html; charset=utf-8";
        let host = "www.example.org";
        internet.serves(host, "/page?q=1", "200 OK", html, page.as_bytes());
        let outcome = fetch(world, "https://www.example.org/page?q=1#part");
        let told = stdout(&outcome);
        let head = "200 OK\ntext/html; charset=utf-8, 15 bytes, from https://www.example.org/page";
        assert!(told.starts_with(head), "{outcome:#}");
        assert!(told.ends_with(&format!("\n\n{page}\n")), "{outcome:#}");
        assert_eq!(outcome["files"][0]["name"], "body.html", "{outcome:#}");
        assert_eq!(outcome["files"][0]["bytes"], 15, "{outcome:#}");
        let seen = internet.seen();
        assert_eq!(seen.requests(), ["www.example.org /page?q=1"], "{seen:#?}");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:443")], "{seen:#?}");
        // The same over plain HTTP.
        assert!(fetched(world, "http://www.example.org/page?q=1").contains("Grüße"));
        assert_eq!(internet.seen().sent(), [format!("tcp {WWW}:80")]);
    });
}

#[test]
fn text_is_decoded_and_of_long_text_the_beginning_is_shown() {
    Internet::everyone(|internet, world| {
        let host = "www.example.org";
        let serves = |target: &str, kind: &str, body: &[u8]| {
            internet.serves(host, target, "200 OK", kind, body);
        };
        serves("/latin", "text/plain; charset=iso-8859-1", b"Gr\xfc\xdfe");
        assert!(fetched(world, "https://www.example.org/latin").contains("\n\nGrüße\n"));
        serves(
            "/unheard-of",
            "text/plain; charset=unheard-of",
            "Grüße".as_bytes(),
        );
        assert!(fetched(world, "https://www.example.org/unheard-of").contains("Grüße"));
        serves("/data", "application/json", br#"{"a": 1}"#);
        assert!(fetched(world, "https://www.example.org/data").contains("{\"a\": 1}"));

        let long = "0123456789".repeat(10_000);
        serves("/long", "text/plain", long.as_bytes());
        let outcome = fetch(world, "https://www.example.org/long");
        assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
        assert!(stdout(&outcome).contains(", 100000 bytes, "), "{outcome:#}");
        assert!(stdout(&outcome).len() < 25_000, "{outcome:#}");
        assert!(stderr(&outcome).contains("`out/body.txt`"), "{outcome:#}");
        assert_eq!(outcome["files"][0]["bytes"], 100_000, "{outcome:#}");

        serves("/picture", "image/png", b"\x89PNG\r\n\x1a\n\0\0");
        let outcome = fetch(world, "https://www.example.org/picture");
        assert!(
            stdout(&outcome).contains("image/png, 10 bytes"),
            "{outcome:#}"
        );
        assert!(!stdout(&outcome).contains("PNG"), "{outcome:#}");
        assert_eq!(outcome["files"][0]["name"], "body.png", "{outcome:#}");
    });
}

#[test]
fn a_body_is_bounded_packed_or_not() {
    Internet::everyone(|internet, world| {
        // Of a site of its own nothing is laid down: any number of bytes is served.
        let most = 64 << 20;
        let outcome = fetch(world, "http://two.example.org:443/bytes/1");
        assert_ne!(outcome["exit_code"], 0, "the port is for TLS: {outcome:#}");
        let url = format!("http://www.example.org/bytes/{}", most + 1000);
        let outcome = fetch(world, &url);
        assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
        assert!(
            stderr(&outcome).contains("only 67108864 bytes"),
            "{outcome:#}"
        );
        assert_eq!(outcome["files"][0]["bytes"], most, "{outcome:#}");

        let packed = |bytes: usize| {
            let code = format!(
                "import gzip, sys; sys.stdout.buffer.write(gzip.compress(b'ab' * {}, 1))",
                bytes / 2
            );
            let output = std::process::Command::new("/usr/bin/python3")
                .args(["-c", &code])
                .output();
            let body = output.expect("python starts").stdout;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), &body].concat()
        };
        internet.answers("www.example.org", "/packed", &packed(10));
        assert!(fetched(world, "https://www.example.org/packed").ends_with("\n\nababababab\n"));
        internet.answers("www.example.org", "/bomb", &packed(most + 1000));
        let outcome = fetch(world, "https://www.example.org/bomb");
        assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
        assert_eq!(outcome["files"][0]["bytes"], most, "{outcome:#}");
    });
}

#[test]
fn what_goes_wrong_at_the_server_is_said() {
    Internet::everyone(|internet, world| {
        let host = "www.example.org";
        internet.serves(
            host,
            "/gone",
            "404 Not Found",
            "text/plain",
            b"no such page",
        );
        let outcome = fetch(world, "https://www.example.org/gone");
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        assert!(
            stdout(&outcome).starts_with("404 Not Found\n"),
            "{outcome:#}"
        );
        assert!(stdout(&outcome).contains("no such page"), "{outcome:#}");
        assert!(
            stderr(&outcome).contains("answered with an error"),
            "{outcome:#}"
        );

        let cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf";
        internet.answers(host, "/cut", cut);
        assert_not_fetched(
            &fetch(world, "https://www.example.org/cut"),
            "www.example.org",
        );

        internet.redirects(host, "/around", "/around");
        let outcome = fetch(world, "https://www.example.org/around");
        assert_not_fetched(&outcome, "error: redirected to");
        let requests = internet.seen().requests();
        assert!(requests.len() < 20, "{requests:?}");
    });
}

#[test]
fn a_redirect_is_followed_within_the_hosts_and_nowhere_else() {
    Internet::everyone(|internet, world| {
        let host = "www.example.org";
        internet.serves(
            "two.example.org",
            "/there",
            "200 OK",
            "text/plain",
            b"arrived",
        );
        internet.redirects(host, "/ok", "https://two.example.org/there");
        let told = fetched(world, "http://www.example.org/ok");
        assert!(
            told.contains("from https://two.example.org/there"),
            "{told}"
        );
        assert!(told.contains("arrived"), "{told}");
        let _ = internet.seen();

        internet.redirects(host, "/out", "https://other.example.org/there?secret");
        let outcome = fetch(world, "https://www.example.org/out");
        assert_not_fetched(
            &outcome,
            "error: redirected to `https://other.example.org/there?secret`: `other.example.org` is not \
             among the hosts that this tool may reach",
        );
        let seen = internet.seen();
        assert_eq!(seen.requests(), ["www.example.org /out"], "{seen:#?}");
        assert_eq!(seen.sent(), [format!("tcp {WWW}:443")], "{seen:#?}");
        assert_eq!(
            seen.questions().iter().filter(|name| *name != host).count(),
            0
        );
        let allow_with = r#"network.allow = ["other.example.org"]"#;
        let denial = |denial: &Value| denial["allow_with"] == allow_with;
        let denials = outcome["denials"].as_array().expect("a list");
        assert!(denials.iter().any(denial), "{outcome:#}");

        // Another port of an allowed host, an address, and no protocol of the web's.
        internet.redirects(host, "/port", "http://two.example.org/there");
        let outcome = fetch(world, "https://www.example.org/port");
        assert_not_fetched(&outcome, "`two.example.org` may not be reached by port 80");
        internet.redirects(host, "/address", "http://169.254.169.254/latest/meta-data");
        let outcome = fetch(world, "https://www.example.org/address");
        assert_not_fetched(&outcome, "`169.254.169.254` may not be reached by port 80");
        internet.redirects(host, "/file", "file:///etc/passwd");
        let outcome = fetch(world, "https://www.example.org/file");
        assert_eq!(outcome["exit_code"], 1, "{outcome:#}");
        assert!(!stdout(&outcome).contains("root"), "{outcome:#}");
        let sent = internet.seen().sent();
        let www = |sent: &&String| **sent == format!("tcp {WWW}:443");
        assert_eq!(sent.iter().filter(www).count(), sent.len(), "{sent:?}");
    });
}

#[test]
fn an_allowed_name_does_not_lead_to_addresses_that_are_not_public() {
    Internet::everyone(|internet, world| {
        assert_eq!(fetch(world, "http://www.example.org/")["exit_code"], 0);
        let _ = internet.seen();
        for host in ["private.example.org", "metadata.example.org"] {
            let outcome = fetch(world, &format!("http://{host}/"));
            assert_not_fetched(&outcome, &format!("`{host}` could not be reached"));
            assert_eq!(internet.seen().sent(), Vec::<String>::new(), "{outcome:#}");
            let denials = outcome["denials"].as_array().expect("a list");
            assert_eq!(denials.len(), 1, "{outcome:#}");
        }
    });
}

#[test]
fn what_is_no_url_of_the_web_is_refused() {
    Internet::everyone(|internet, world| {
        assert_eq!(fetch(world, "http://www.example.org")["exit_code"], 0);
        let _ = internet.seen();
        for url in [
            "file:///etc/passwd",
            "ftp://www.example.org/",
            "www.example.org",
            "https://user:word@www.example.org/",
            "https:///",
            "http://www.example.org/ /",
        ] {
            let outcome = fetch(world, url);
            assert_eq!(outcome["status"], "refused", "{url}: {outcome:#}");
        }
        assert_not_fetched(&fetch(world, "http://www..example.org/"), "this is no URL");
        assert_not_fetched(&fetch(world, "http://www.example.org:99999/"), "error:");
        assert_eq!(internet.seen().sent(), Vec::<String>::new());
    });
}

#[test]
fn nothing_is_offered_until_the_operator_gives_hosts() {
    Internet::everyone(|internet, world| {
        let url = json!({ "url": "http://www.example.org/" });
        let listed = world.toolcell(&["list"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(
            listed.contains("`http_fetch` needs hosts")
                && listed.contains("hint: give them with `--allow http_fetch=HOST`"),
            "{listed}"
        );
        let without = world.toolcell(&["call", "--json", "http_fetch", &url.to_string()]);
        let told = String::from_utf8_lossy(&without.stderr).into_owned();
        assert!(
            !without.status.success() && told.contains("needs hosts"),
            "{told}"
        );
        assert_eq!(internet.seen().sent(), Vec::<String>::new());
        assert_eq!(fetch(world, "http://www.example.org/")["exit_code"], 0);
        assert_denied(
            &fetch(world, "http://www.example.org:8080/"),
            "connect to www.example.org:8080",
            "port",
            r#"network.allow = ["www.example.org:8080"]"#,
        );
    });
}

#[test]
fn a_server_and_any_command_get_the_operators_hosts() {
    Internet::everyone(|internet, world| {
        let mut server = Server::start(world, &["--allow", "http_fetch=www.example.org"]);
        server.request(1, "tools/list", &json!({}));
        let tools = server.answer(1)["tools"].take();
        let tools = tools.as_array().expect("a list");
        let tool = tools.iter().find(|tool| tool["name"] == "http_fetch");
        let hints = &tool.expect("it is offered")["annotations"];
        assert_eq!(hints["openWorldHint"], true, "{hints:#}");
        server.call(
            2,
            "http_fetch",
            &json!({ "url": "https://www.example.org/" }),
        );
        let outcome = server.outcome(2);
        assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
        server.call(
            3,
            "http_fetch",
            &json!({ "url": "https://other.example.org/" }),
        );
        assert_not_fetched(
            &server.outcome(3),
            "`other.example.org` is not among the hosts",
        );

        let run = |host: &str, allow: &[&str]| {
            let command = ["--", "/usr/bin/curl", "-sS", host];
            let run = ["run", "--json", "--profile", "network"];
            harness::outcome(&world.toolcell(&[&run[..], allow, &command[..]].concat()))
        };
        let allow = ["--allow", "network=www.example.org"];
        assert_eq!(run("https://www.example.org/", &allow)["exit_code"], 0);
        assert_ne!(run("https://other.example.org/", &allow)["exit_code"], 0);
        assert_ne!(run("https://www.example.org/", &[])["exit_code"], 0);
        let sent = internet.seen().sent();
        assert_eq!(sent, vec![format!("tcp {WWW}:443"); 2], "{sent:?}");
    });
}
