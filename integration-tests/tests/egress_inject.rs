//! Secrets that are added to requests: the server sees them, and nothing in the cell, in what is told
//! of the call, or in what is kept of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use harness::builtin::stdout;
use harness::injected::{INJECTED, REQUESTS, SECRET, assert_exited, everyone, python};
use harness::internet::{Authority, Internet, gateways, network};
use harness::search::{descendants, files_with, holds, processes};
use harness::{World, skip};
use serde_json::Value;

#[test]
fn only_the_listed_request_gets_the_secret_and_the_tools_own_header_is_replaced() {
    everyone(|internet, world| {
        let outcome = python(
            world,
            INJECTED,
            r#"
print(request("www.example.org", "POST", "/v1/chat/completions"))
print(request("www.example.org", "POST", "/v1/chat/completions", "Bearer mine"))
print(request("www.example.org", "GET", "/v1/models", "Bearer mine"))
print(request("www.example.org", "POST", "/bytes/1", "Bearer mine"))
print(request("www.example.org", "POST", "/v1/../bytes/1"))
print(request("www.example.org", "POST", "/v1/%2e%2e/bytes/1"))
print(request("other.example.org", "POST", "/v1/chat/completions", "Bearer mine"))
connection = http.client.HTTPConnection("www.example.org", timeout=10)
connection.request("POST", "/v1/plain", b"{}")
print(connection.getresponse().status)
"#,
        );
        assert_exited(&outcome);
        let secret = format!("Bearer {SECRET}");
        let chat = "/v1/chat/completions";
        assert_eq!(
            internet.seen().authorized(),
            [
                format!("POST www.example.org{chat} {secret}"),
                format!("POST www.example.org{chat} {secret}"),
                "GET www.example.org/v1/models -".to_owned(),
                "POST www.example.org/bytes/1 -".to_owned(),
                "POST www.example.org/v1/../bytes/1 -".to_owned(),
                "POST www.example.org/v1/%2e%2e/bytes/1 -".to_owned(),
                format!("POST other.example.org{chat} Bearer mine"),
                "POST www.example.org/v1/plain -".to_owned(),
            ],
            "{outcome:#}"
        );
    });
}

#[test]
fn each_request_on_a_kept_connection_is_judged_by_itself() {
    everyone(|internet, world| {
        let outcome = python(
            world,
            INJECTED,
            r#"
connection = http.client.HTTPSConnection("www.example.org", timeout=10, context=trust)
for method, path, body in [
    ("POST", "/v1/a", b"{}"), ("GET", "/bytes/300000", None), ("POST", "/v1/b", iter([b"{", b"}"])),
    ("GET", "/chunked/300000", None), ("POST", "/v1/c", b'{"pad": "%s"}' % (b"x" * 300000)),
]:
    fields = {"Transfer-Encoding": "chunked"} if path == "/v1/b" else {}
    connection.request(method, path, body, fields, encode_chunked=bool(fields))
    answer = connection.getresponse()
    print(answer.status, len(answer.read()))
"#,
        );
        assert_exited(&outcome);
        let lines: Vec<_> = stdout(&outcome).lines().collect();
        assert_eq!((lines[1], lines[3]), ("200 300000", "200 300000"));
        let seen = internet.seen();
        assert_eq!(seen.of("tls").count(), 1, "{seen:#?}");
        let secret = format!("Bearer {SECRET}");
        assert_eq!(
            seen.authorized(),
            [
                format!("POST www.example.org/v1/a {secret}"),
                "GET www.example.org/bytes/300000 -".to_owned(),
                format!("POST www.example.org/v1/b {secret}"),
                "GET www.example.org/chunked/300000 -".to_owned(),
                format!("POST www.example.org/v1/c {secret}"),
            ]
        );
    });
}

#[test]
fn curl_python_and_node_work_through_it() {
    const CLIENTS: &str = r#"
set -e
for path in /v1/curl /bytes/70000; do
  curl -sS --fail --max-time 10 -d '{}' -o /tmp/curl https://www.example.org$path
done
wc -c < /tmp/curl
python3 -I -c '
import urllib.request
for path in ["/v1/python", "/bytes/70000"]:
    got = urllib.request.urlopen("https://www.example.org" + path, b"{}", timeout=10).read()
print(len(got))'
"#;
    const NODE: &str = r#"
node -e '
(async () => {
  for (const path of ["/v1/node", "/bytes/70000"]) {
    const answer = await fetch("https://www.example.org" + path, { method: "POST", body: "{}" });
    got = (await answer.arrayBuffer()).byteLength;
  }
  console.log(got);
})()'
"#;
    let with_node = std::path::Path::new("/usr/bin/node").exists();
    if !with_node {
        skip("fetch of Node.js", "there is no /usr/bin/node");
    }
    everyone(|internet, world| {
        let script = if with_node {
            format!("{CLIENTS}{NODE}")
        } else {
            CLIENTS.to_owned()
        };
        let tables = format!("{INJECTED}[limits]\nmemory = \"1 GiB\"\n");
        let outcome = world.run(&network(world, &tables), &["/bin/sh", "-c", &script]);
        assert_exited(&outcome);
        let clients = if with_node { 3 } else { 2 };
        assert_eq!(stdout(&outcome), "70000\n".repeat(clients), "{outcome:#}");
        let with = |line: &&String| line.ends_with(&format!("Bearer {SECRET}"));
        let seen = internet.seen();
        assert_eq!(seen.authorized().iter().filter(with).count(), clients);
        // Over nothing but HTTP/1, whatever else a client offers.
        assert!(
            seen.of("tls").all(|tls| tls["alpn"] == "http/1.1"),
            "{seen:#?}"
        );
    });
}

#[test]
fn answers_come_as_they_are_sent() {
    everyone(|_, world| {
        let outcome = python(
            world,
            INJECTED,
            r#"
with secured("www.example.org") as stream:
    stream.sendall(b"POST /events HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n")
    got = b""
    while b"first" not in got:
        got += stream.recv(65536)
    assert b"second" not in got
    stream.sendall(b"GET /seen HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
    while part := stream.recv(65536):
        got += part
print(got.decode().partition("\r\n\r\n")[2])
"#,
        );
        assert_exited(&outcome);
        assert_eq!(stdout(&outcome), "data: first\n\ndata: second\n\n\n");
    });
}

#[test]
fn a_server_that_cannot_show_who_it_is_gets_nothing() {
    everyone(|internet, world| {
        let tables = INJECTED.replace("www.example.org", "expired.example.org");
        let run = |name: &str| {
            let script = format!("print(request('{name}', 'POST', '/v1/x'))");
            python(world, &tables.replace("expired.example.org", name), &script)
        };
        let trusted = Authority::Trusted;
        internet.certify("expired.example.org", trusted, "expired.example.org", -1);
        internet.certify("misnamed.example.org", trusted, "www.example.org", 2);
        internet.certify(
            "stranger.example.org",
            Authority::Stranger,
            "stranger.example.org",
            2,
        );
        for (name, why) in [
            ("expired.example.org", "Expired"),
            ("misnamed.example.org", "not valid for name"),
            ("stranger.example.org", "UnknownIssuer"),
        ] {
            let outcome = run(name);
            assert_eq!(
                stdout(&outcome).trim(),
                "ConnectionResetError",
                "{outcome:#}"
            );
            let denials = outcome["denials"].as_array().expect("a list");
            let denied = |denial: &&Value| denial["what"] == format!("TLS to {name}:443");
            let denial = denials.iter().find(denied).expect("it is denied");
            let rule = denial["rule"].as_str().unwrap_or_default();
            assert!(
                rule.to_lowercase().contains(&why.to_lowercase()),
                "{denial:#}"
            );
            assert!(internet.seen().authorized().is_empty(), "{name}");
        }
        internet.certify("expired.example.org", trusted, "expired.example.org", 2);
        let control = run("expired.example.org");
        assert_eq!(stdout(&control).trim(), "200", "{control:#}");
        assert_eq!(
            internet.seen().authorized(),
            [format!("POST expired.example.org/v1/x Bearer {SECRET}")]
        );
    });
}

#[test]
fn the_hosts_own_trust_store_decides_who_gets_the_secret() {
    Internet::everyone(|internet, world| {
        let name = "stranger.example.org";
        internet.certify(name, Authority::Stranger, name, 2);
        let mut world = internet.world(world.who);
        world.secret("openai", SECRET, 0o600);
        let tables = INJECTED.replace("www.example.org", name);
        let run = |world: &World, name: &str| {
            let tables = tables.replace("stranger.example.org", name);
            let script = format!("print(request('{name}', 'POST', '/v1/x'))");
            stdout(&python(world, &tables, &script)).trim().to_owned()
        };
        assert_eq!(run(&world, name), "ConnectionResetError");
        let store = internet.stranger();
        fs::set_permissions(&store, Permissions::from_mode(0o644)).expect("it is ours");
        world
            .env
            .insert("SSL_CERT_FILE".to_owned(), store.display().to_string());
        assert_eq!(run(&world, name), "200");
        assert_eq!(run(&world, "www.example.org"), "ConnectionResetError");
        let line = format!("POST {name}/v1/x Bearer {SECRET}");
        assert_eq!(internet.seen().authorized(), [line]);

        let missing = world.path("nothing.pem");
        fs::write(&missing, "no certificate\n").expect("it is ours");
        world
            .env
            .insert("SSL_CERT_FILE".to_owned(), missing.display().to_string());
        let refused = python(&world, &tables, "print(1)");
        assert_eq!(refused["status"], "refused", "{refused:#}");
        let reason = refused["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains("it holds no certificate that is valid now"),
            "{reason}"
        );
    });
}

#[test]
fn an_authority_whose_time_is_over_is_none() {
    Internet::everyone(|internet, world| {
        let name = "stranger.example.org";
        let mut world = internet.world(world.who);
        world.secret("openai", SECRET, 0o600);
        let tables = INJECTED.replace("www.example.org", name);
        let mut trusting = |by: Authority, beside: &str| {
            internet.certify(name, by, name, 2);
            let own = fs::read_to_string(internet.stranger()).expect("it was made");
            let store = world.write("store.pem", &(own + beside));
            fs::set_permissions(&store, Permissions::from_mode(0o644)).expect("it is ours");
            let store = store.display().to_string();
            world.env.insert("SSL_CERT_FILE".to_owned(), store);
            let script = format!("print(request('{name}', 'POST', '/v1/x'))");
            python(&world, &tables, &script)
        };
        let usual = fs::read_to_string(internet.authority()).expect("it was made");
        // The control: the same with an authority that is in its time.
        let control = trusting(Authority::Stranger, &usual);
        assert_eq!(stdout(&control).trim(), "200", "{control:#}");
        assert_eq!(internet.seen().authorized().len(), 1);

        let lapsed = trusting(Authority::Lapsed, &usual);
        let said = stdout(&lapsed);
        assert_eq!(said.trim(), "ConnectionResetError", "{lapsed:#}");
        let told = lapsed["denials"].to_string();
        assert!(told.contains("UnknownIssuer"), "{lapsed:#}");
        let alone = trusting(Authority::Lapsed, "");
        let reason = alone["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains("no certificate that is valid now"),
            "{alone:#}"
        );
        assert!(internet.seen().authorized().is_empty());
    });
}

#[test]
fn what_is_not_tls_for_the_host_or_would_leave_http_is_refused() {
    everyone(|internet, world| {
        let outcome = python(
            world,
            INJECTED,
            r#"
def talk(stream, data):
    # OpenSSL's clients take a reset for an end that was not announced.
    try:
        stream.sendall(data)
        return stream.recv(12).decode() or "ended"
    except ConnectionResetError:
        return "ended"
plain = socket.create_connection(("www.example.org", 443), 10)
print(talk(plain, b"POST /v1/x HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n"))
for fields in [b"Host: other.example.org", b"Host: www.example.org\r\nUpgrade: websocket"]:
    print(talk(secured("www.example.org"), b"POST /v1/x HTTP/1.1\r\n" + fields + b"\r\n\r\n"))
try:
    unnamed = ssl.create_default_context()
    unnamed.check_hostname = False
    unnamed.wrap_socket(socket.create_connection(("www.example.org", 443), 10))
except OSError as error:
    print(type(error).__name__)
print(request("www.example.org", "POST", "/v1/control"))
"#,
        );
        assert_exited(&outcome);
        let told = "ended\nHTTP/1.1 421\nHTTP/1.1 403\nConnectionResetError\n200\n";
        assert_eq!(stdout(&outcome), told, "{outcome:#}");
        assert_eq!(
            internet.seen().authorized(),
            [format!("POST www.example.org/v1/control Bearer {SECRET}")]
        );
        assert_eq!(
            outcome["denials"].as_array().map(Vec::len),
            Some(4),
            "{outcome:#}"
        );
    });
}

#[test]
fn without_a_header_to_add_a_cell_has_no_authority_of_ours() {
    const LOOK: &str = r#"
import os
print(os.path.exists("/etc/toolcell"), sorted(n for n in os.environ if "CERT" in n or "CA" in n))
print(request("www.example.org", "POST", "/v1/x", "Bearer mine"))
"#;
    everyone(|internet, world| {
        let (without, _) = INJECTED.split_once("[[").expect("it has one");
        let outcome = python(world, without, LOOK);
        assert_eq!(stdout(&outcome), "False []\n200\n", "{outcome:#}");
        let seen = internet.seen();
        assert_eq!(seen.authorized(), ["POST www.example.org/v1/x Bearer mine"]);

        let control = python(world, INJECTED, LOOK);
        let told = "True ['CURL_CA_BUNDLE', 'GIT_SSL_CAINFO', 'NODE_EXTRA_CA_CERTS', 'PIP_CERT', \
                    'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE']\n200\n";
        assert_eq!(stdout(&control), told, "{control:#}");
    });
}

#[test]
fn each_call_has_an_authority_of_its_own_for_the_listed_names_alone() {
    everyone(|_, world| {
        let authority = || {
            let outcome = python(
                world,
                INJECTED,
                "print(open('/etc/toolcell/ca.pem').read().rpartition('-----BEGIN')[2])",
            );
            "-----BEGIN".to_owned() + stdout(&outcome)
        };
        let (one, other) = (authority(), authority());
        assert_ne!(one, other);
        let path = world.write("authority.pem", &one);
        let path = path.to_str().expect("a plain path");
        let arguments = ["x509", "-noout", "-text", "-in", path];
        let told = harness::programs::host("/usr/bin/openssl", &arguments);
        for words in [
            "DNS:www.example.org",
            "CA:TRUE, pathlen:0",
            "X509v3 Name Constraints: critical",
        ] {
            assert!(told.contains(words), "{told}");
        }
        assert!(!told.contains("other.example.org"), "{told}");
    });
}

#[test]
fn nothing_in_the_cell_and_nothing_that_is_told_or_kept_has_the_secret() {
    everyone(|internet, world| {
        let profile = network(world, INJECTED);
        let script = format!(
            "{REQUESTS}
status = request('www.example.org', 'POST', '/v1/x')
got = urllib.request.urlopen('https://www.example.org/bytes/1000').read()
print('ready', status, len(got), flush=True)
sys.stdin.read()"
        );
        let marker = "toolcell-test-waits";
        let mut running = world.start(&[
            "run",
            "--profile",
            &profile,
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            &script,
            marker,
        ]);
        assert_eq!(running.line(), "ready 200 1000");
        let sent = internet.seen().authorized();
        assert!(
            sent.contains(&format!("POST www.example.org/v1/x Bearer {SECRET}")),
            "{sent:#?}"
        );

        let tool = in_cells(marker);
        assert!(!tool.is_empty());
        for pid in &tool {
            for part in ["environ", "cmdline", "mem"] {
                assert!(!holds(*pid, part, SECRET), "{pid} {part}");
            }
            // The controls: what the tool has is found in the same ways.
            assert!(holds(*pid, "cmdline", marker) && holds(*pid, "mem", "toolcell-test-waits"));
            assert!(holds(*pid, "environ", "SSL_CERT_FILE"));
        }
        let gateways = gateways(world);
        assert_eq!(gateways.len(), 1);
        assert!(
            holds(gateways[0], "mem", SECRET),
            "the gateway is what adds it"
        );
        for pid in gateways.iter().copied().chain([running.pid()]) {
            for part in ["environ", "cmdline"] {
                assert!(!holds(pid, part, SECRET), "{pid} {part}");
            }
        }
        // Nor has what else runs for the call: its first process, and the launcher.
        let others = descendants(running.pid());
        assert!(others.len() > tool.len() + 1, "{others:?}");
        for pid in others.iter().filter(|pid| !gateways.contains(pid)) {
            assert!(!holds(*pid, "mem", SECRET), "{pid}");
        }
        running.close();
        let output = running.end();
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(SECRET));
        }

        let outcome = python(
            world,
            INJECTED,
            "print(request('www.example.org', 'POST', '/v1/x'))",
        );
        assert!(!outcome.to_string().contains(SECRET));
        let receipts = world.receipts();
        assert_eq!(receipts.len(), 2);
        assert_eq!(
            files_with(world, "Bearer {secret}"),
            [world.path("reaching.toml")]
        );
        let found = files_with(world, SECRET);
        assert_eq!(found, [world.path("config/toolcell/secrets/openai")]);
    });
}

#[test]
fn a_call_without_its_secret_is_refused_by_name() {
    everyone(|internet, world| {
        let profile = network(world, INJECTED);
        let run = || {
            let command = ["/usr/bin/python3", "-I", "-c", "print(1)"];
            let mut arguments = vec!["run", "--json", "--profile", &profile, "--"];
            arguments.extend(command);
            let output = world.toolcell(&arguments);
            let told = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&told).into_owned()
        };
        assert!(run().contains("\"exit_code\": 0"), "{}", run());
        world.secret("openai", SECRET, 0o644);
        let told = run();
        assert!(told.contains("secret `openai` is open to others"), "{told}");
        assert!(!told.contains(SECRET));
        fs::remove_file(world.path("config/toolcell/secrets/openai")).expect("it is there");
        let told = run();
        assert!(told.contains("needs the secret `openai`"), "{told}");
        assert!(internet.seen().authorized().is_empty());
    });
}

/// The processes whose command line has a word, other than toolcell's own.
fn in_cells(word: &str) -> Vec<u32> {
    let pids = processes();
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"/usr/bin/python3") && words.any(|found| found == word.as_bytes())
    })
    .collect()
}
