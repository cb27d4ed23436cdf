//! Unmodified HTTP clients in cells, against servers that say what arrived: every one reaches what its
//! profile lists, and what it does not list arrives nowhere.

use std::path::Path;
use std::process::Command;

use harness::clients::http_python;
use harness::internet::assert_denied;
use harness::programs::{host, script, static_go};
use harness::websites::Sites;
use harness::{World, skip};
use serde_json::{Value, json};

const ALLOW: &str = "[network]\nallow = [\"www.example.net\"]";
const PAGE: &str = "a page\n";

/// Runs a shell script in a cell that may reach `www.example.net`.
fn shell(sites: &Sites, world: &World, script: &str) -> Value {
    sites.run(world, ALLOW, &["/bin/sh", "-c", script])
}

fn stdout(outcome: &Value) -> &str {
    outcome["stdout"]["text"].as_str().expect("it is text")
}

#[track_caller]
fn denied_tracker(outcome: &Value) {
    let allow = r#"network.allow = ["tracker.example.net"]"#;
    let rule = "no entry of `network.allow` covers it";
    assert_denied(outcome, "look up tracker.example.net", rule, allow);
}

#[test]
fn curl_speaks_http_1_and_2_and_does_without_3() {
    Sites::everyone(&["/usr/bin/curl"], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let with_3 = host("/usr/bin/curl", &["--version"]).contains("HTTP3");
        let attempts = "curl -sS http://www.example.net/page; \
             curl -sS --http1.1 https://www.example.net/page; \
             curl -sS -w '%{http_version}\\n' https://www.example.net/page; \
             curl -s https://tracker.example.net/page; echo $?";
        let outcome = shell(sites, world, attempts);
        let expected = format!("{PAGE}{PAGE}{PAGE}2\n6\n");
        assert_eq!(stdout(&outcome), expected, "{:?} {outcome:#}", world.who);
        denied_tracker(&outcome);
        let expected =
            ["1.1", "1.1", "2.0"].map(|version| format!("HTTP/{version} GET www.example.net/page"));
        assert_eq!(sites.requests(), expected, "{:?}", world.who);
        if !with_3 {
            skip("curl's HTTP/3", "this curl has none");
            return;
        }
        let attempts = "curl -sS --http3 -w '%{http_version}\\n' https://www.example.net/page; \
             curl -s -m 5 --http3-only https://www.example.net/page; test $? -ne 28 && echo refused";
        let outcome = shell(sites, world, attempts);
        let expected = format!("{PAGE}2\nrefused\n");
        assert_eq!(stdout(&outcome), expected, "{:?} {outcome:#}", world.who);
    });
}

#[test]
fn pythons_clients_reach_what_is_allowed() {
    let Some(python) = http_python() else {
        return;
    };
    Sites::everyone(&[], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let environment = python.display();
        let tables = format!(
            "{ALLOW}\n[files]\nread = [\"{environment}\"]\n[run]\npass_env = [\"SSL_CERT_FILE\", \"REQUESTS_CA_BUNDLE\"]"
        );
        let interpreter = format!("{environment}/bin/python3");
        let command = [&interpreter, "-I", "-c", &script("http_clients.py")];
        let outcome = sites.run(world, &tables, &command);
        let said: Value = serde_json::from_str(stdout(&outcome))
            .unwrap_or_else(|error| panic!("{error} {outcome:#}"));
        let expected = json!({
            "urllib": ["a page", "URLError"],
            "requests": ["a page", "ConnectionError"],
            "httpx": ["HTTP/2 a page", "ConnectError"],
            "aiohttp": ["a page", "ClientConnectorDNSError"],
            "aiodns": ["a page", "ClientConnectorDNSError"],
            "niquests": ["20 20 a page", "ConnectionError"],
        });
        assert_eq!(said, expected, "{:?} {outcome:#}", world.who);
        denied_tracker(&outcome);
        for agent in [
            "Python-urllib/",
            "python-requests/",
            "python-httpx/",
            "niquests/",
        ] {
            let came = |seen: &Value| seen["agent"].as_str().unwrap_or("").starts_with(agent);
            assert!(sites.log().iter().any(came), "{agent} {:#?}", sites.log());
        }
        sites.assert_arrived("HTTP/2.0 GET www.example.net/page", &["www.example.net"]);
        // Niquests tried HTTP/3 at its second request.
        let rule = "only TCP leaves a cell";
        assert_denied(&outcome, "send to www.example.net:443 (udp)", rule, "");
    });
}

#[test]
fn node_fetches() {
    Sites::everyone(&["/usr/bin/node"], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let program = r#"
            const https = require("node:https");
            const get = (url) => new Promise((done) => https.get(url, (answer) => {
                answer.setEncoding("utf8").on("data", (text) => done(text.trim()));
            }).on("error", (error) => done(error.code)));
            (async () => {
                const said = [];
                for (const host of ["www", "tracker"]) {
                    const url = `https://${host}.example.net/page`;
                    said.push(await fetch(url).then((a) => a.text()).catch((e) => e.cause.code));
                    said.push(await get(url));
                }
                console.log(JSON.stringify(said.map((text) => text.trim())));
            })();"#;
        let tables = format!("{ALLOW}\n[run]\npass_env = [\"NODE_EXTRA_CA_CERTS\"]");
        let outcome = sites.run(world, &tables, &["/usr/bin/node", "-e", program]);
        let expected = "[\"a page\",\"a page\",\"ENOTFOUND\",\"ENOTFOUND\"]\n";
        assert_eq!(stdout(&outcome), expected, "{:?} {outcome:#}", world.who);
        denied_tracker(&outcome);
        let expected = ["HTTP/1.1 GET www.example.net/page"; 2];
        assert_eq!(sites.requests(), expected, "{:?}", world.who);
    });
}

#[test]
fn a_client_of_http_3_falls_back_at_once() {
    let Some(python) = http_python() else {
        return;
    };
    Sites::everyone(&[], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let server = sites.http_3(&python);
        let interpreter = format!("{}/bin/python3", python.display());
        let client = script("http3_client.py");
        let arguments = ["-I", "-c", &client];
        // The control: outside, it ends up with HTTP/3.
        let outside = world
            .program(Path::new(&interpreter), &arguments)
            .output()
            .expect("python starts");
        let said = String::from_utf8_lossy(&outside.stdout);
        assert_eq!(said, "20 30 by HTTP/3 True\n", "{outside:?}");
        assert_eq!(server.requests(), 1, "{:?}", world.who);
        let tables = format!(
            "{ALLOW}\n[files]\nread = [\"{}\"]\n[run]\npass_env = [\"SSL_CERT_FILE\", \"REQUESTS_CA_BUNDLE\"]",
            python.display()
        );
        let command = [&[interpreter.as_str()][..], &arguments].concat();
        let outcome = sites.run(world, &tables, &command);
        let expected = "20 20 a page True\n";
        assert_eq!(stdout(&outcome), expected, "{:?} {outcome:#}", world.who);
        assert_eq!(server.requests(), 1, "{:?}", world.who);
        let rule = "only TCP leaves a cell";
        assert_denied(&outcome, "send to www.example.net:443 (udp)", rule, "");
    });
}

/// Debian's `hey` has threads and connections at once, and is linked with the C library.
#[test]
fn a_go_program_with_gos_own_resolver_loads_a_site() {
    Sites::everyone(&["/usr/bin/hey"], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let script = "export GODEBUG=netdns=go; hey -n 20 -c 4 https://www.example.net/page; \
                      hey -n 1 -c 1 https://tracker.example.net/page";
        let outcome = shell(sites, world, script);
        let said = stdout(&outcome);
        assert!(said.contains("[200]\t20 responses"), "{outcome:#}");
        assert!(said.contains("no such host"), "{outcome:#}");
        denied_tracker(&outcome);
        let came = sites.requests();
        assert_eq!(
            came, ["HTTP/1.1 GET www.example.net/page"; 20],
            "{:?}",
            world.who
        );
    });
}

#[test]
fn a_static_go_program_fetches_a_page() {
    let Some(program) = static_go("get.go") else {
        return;
    };
    Sites::everyone(&[], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let path = program.display().to_string();
        let tables = format!("{ALLOW}\n[files]\nexec = [\"{path}\"]");
        let urls = [
            "http://www.example.net/page",
            "https://www.example.net/page",
            "https://tracker.example.net/page",
            "https://www.example.net:8443/page",
        ];
        let command = [&[path.as_str()][..], &urls].concat();
        let outcome = sites.run(world, &tables, &command);
        let said = stdout(&outcome);
        for expected in [
            "HTTP/1.1 a page",
            "HTTP/2.0 a page",
            "no such host",
            "connection refused",
        ] {
            assert!(said.contains(expected), "{expected} {outcome:#}");
        }
        denied_tracker(&outcome);
        let came = sites.requests();
        let expected = ["1.1", "2.0"].map(|of| format!("HTTP/{of} GET www.example.net/page"));
        assert_eq!(came, expected, "{:?}", world.who);
    });
}

#[test]
fn a_static_program_with_musls_resolver_fetches_a_page() {
    Sites::everyone(&["/usr/bin/musl-gcc"], |sites, world| {
        sites.put("www.example.net/page", PAGE);
        let source = world.write("get.c", &script("get.c"));
        let built = world.workspace().join("get");
        let compiled = Command::new("/usr/bin/musl-gcc")
            .args(["-static", "-o"])
            .args([&built, &source])
            .status();
        assert!(compiled.expect("the compiler starts").success());
        let tables = format!("{ALLOW}\n[files]\nexec = [\"/work\"]");
        let script = "./get www.example.net 80 /page; ./get tracker.example.net 80 /page; \
                      ./get www.example.net 8080 /page";
        let outcome = sites.run(world, &tables, &["/bin/sh", "-c", script]);
        let said = stdout(&outcome);
        assert!(
            said.contains("200 OK") && said.contains(PAGE),
            "{outcome:#}"
        );
        assert!(said.contains("Name does not resolve"), "{outcome:#}");
        let refused = outcome["stderr"]["text"].as_str().unwrap_or_default();
        assert_eq!(refused, "connect: Connection refused\n", "{outcome:#}");
        denied_tracker(&outcome);
        let came = sites.requests();
        assert_eq!(
            came,
            ["HTTP/1.1 GET www.example.net/page"],
            "{:?}",
            world.who
        );
    });
}
