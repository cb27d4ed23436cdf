//! No rule of a built-in profile is idle: each has an exercise that succeeds, and that fails once the
//! rule is left out.
//!
//! The profile without the rule is the shipped file less one entry. It lies in the user's directory
//! of profiles, where it takes the place of the shipped one for every profile that extends it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::builtin::Roots;
use harness::internet::Internet;
use harness::programs::{host, installed};
use harness::{World, everyone, skip};
use serde_json::{Value, json};
use toml::Table;

/// One rule of a shipped profile.
#[derive(Debug)]
struct Rule {
    /// The profile that it is written in.
    profile: String,
    /// The list that it stands in, such as `files.read`, or the key itself, such as `network.unix`.
    key: String,
    /// What it names; empty if the key says it all.
    text: String,
    /// Whether its path may be absent on a host.
    if_present: bool,
    /// The profile without it.
    without: String,
}

/// The lists whose entries are rules.
const LISTS: [(&str, &str); 11] = [
    ("files", "read"),
    ("files", "exec"),
    ("files", "write"),
    ("files", "deny"),
    ("network", "allow"),
    ("network", "allow_addresses"),
    ("network", "inject"),
    ("sockets", "connect"),
    ("syscalls", "allow"),
    ("syscalls", "deny"),
    ("run", "pass_env"),
];
/// Keys that widen a profile by themselves.
const SWITCHES: [(&str, &str); 2] = [("network", "loopback"), ("network", "unix")];

fn shipped() -> Vec<(String, Table)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles/builtin");
    let mut profiles: Vec<_> = fs::read_dir(directory)
        .expect("the sources are there")
        .map(|entry| {
            let text = fs::read_to_string(entry.expect("it is there").path());
            let table: Table = text.expect("it is text").parse().expect("it is TOML");
            (
                table["name"].as_str().expect("it has a name").to_owned(),
                table,
            )
        })
        .collect();
    profiles.sort_by(|(one, _), (other, _)| one.cmp(other));
    profiles
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (profile, table) in shipped() {
        for (outer, inner) in LISTS {
            let entries = table.get(outer).and_then(|outer| outer.get(inner));
            let entries = entries.and_then(toml::Value::as_array);
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let mut without = table.clone();
                without[outer][inner]
                    .as_array_mut()
                    .expect("it is a list")
                    .remove(index);
                let text = entry.as_str().or_else(|| entry.get("path")?.as_str());
                let others = ["name", "host", "range"];
                let others = others.iter().find_map(|key| entry.get(key)?.as_str());
                let text = text.or(others);
                rules.push(Rule {
                    profile: profile.clone(),
                    key: format!("{outer}.{inner}"),
                    text: text.expect("a rule names something").to_owned(),
                    if_present: entry.get("if_present").is_some(),
                    without: without.to_string(),
                });
            }
        }
        for (outer, inner) in SWITCHES {
            let mut without = table.clone();
            let switch = without
                .get_mut(outer)
                .and_then(|outer| outer.as_table_mut()?.remove(inner));
            if switch.is_some() {
                rules.push(Rule {
                    profile: profile.clone(),
                    key: format!("{outer}.{inner}"),
                    text: String::new(),
                    if_present: false,
                    without: without.to_string(),
                });
            }
        }
    }
    rules
}

/// What a rule is there for, done for real; says how it went wrong.
type Exercise = Box<dyn Fn(&World) -> Result<(), String>>;

/// Runs a script in a cell of a base.
fn script(profile: &'static str, script: impl Into<String>) -> Exercise {
    let script = script.into();
    Box::new(move |world| {
        let arguments = [
            "run",
            "--json",
            "--profile",
            profile,
            "--",
            "/bin/sh",
            "-c",
            &script,
        ];
        succeeded(&world.toolcell(&arguments).stdout).map(drop)
    })
}

/// The same with Python, in a workspace of the host.
fn python_in_workspace(profile: &'static str, code: &'static str) -> Exercise {
    Box::new(move |world| {
        let workspace = world.workspace();
        let workspace = workspace.to_str().expect("a plain path");
        let mut arguments = vec![
            "run",
            "--json",
            "--profile",
            profile,
            "--workspace",
            workspace,
        ];
        arguments.extend(["--", "/usr/bin/python3", "-c", code]);
        succeeded(&world.toolcell(&arguments).stdout).map(drop)
    })
}

/// Calls a tool with one root, `directory` of the world, and looks at what it prints.
fn tool(name: &'static str, root: &'static str, arguments: Value, told: &'static str) -> Exercise {
    Box::new(move |world| {
        let directory = prepared(world);
        let roots: Roots = if root.is_empty() {
            &[]
        } else {
            &[(root, &directory)]
        };
        let printed = succeeded(&world.attempt(roots, name, &arguments).stdout)?;
        if printed == told {
            Ok(())
        } else {
            Err(format!("it printed {printed:?}"))
        }
    })
}

/// Calls a tool that reaches hosts of the tests' internet.
fn reaching(name: &'static str, arguments: Value) -> Exercise {
    Box::new(move |world| succeeded(&world.attempt(&[], name, &arguments).stdout).map(drop))
}

fn clone(host: &str) -> Exercise {
    let url = format!("https://{host}/owner/demo.git");
    reaching("git_clone", json!({ "url": url }))
}

/// Fetches a page, and wants it as a file, too.
fn fetch(url: &'static str) -> Exercise {
    Box::new(move |world| {
        let arguments = json!({ "url": url });
        let output = world.attempt_with_hosts("pypi.org", "http_fetch", &arguments);
        succeeded(&output.stdout)?;
        let outcome: Value = serde_json::from_slice(&output.stdout).expect("it was read before");
        let file = outcome["files"][0]["name"] == "body.html";
        file.then_some(()).ok_or_else(|| outcome.to_string())
    })
}

/// Looks at a place in a cell that has the certificates and nothing else of `/usr` but libraries.
fn seen_by_clients(place: &str) -> Exercise {
    let place = place.to_owned();
    Box::new(move |world| {
        let text = "format = 1\nname = \"client\"\nextends = [\"minimal\", \"certificates\"]\n\
                    files.exec = [\"/usr/bin/ls\"]\n";
        let profile = world.write("client.toml", text);
        let profile = profile.to_str().expect("a plain path");
        let run = [
            "run",
            "--json",
            "--profile",
            profile,
            "--",
            "/usr/bin/ls",
            &place,
        ];
        succeeded(&world.toolcell(&run).stdout).map(drop)
    })
}

/// What of the rules is about hosts: their exercises need an internet.
fn needs_internet(rule: &Rule) -> bool {
    let reaching = [
        "chat",
        "http_fetch",
        "weather",
        "git_clone",
        "pip_install",
        "npm_install",
    ];
    reaching.contains(&rule.profile.as_str())
        || (rule.profile == "certificates" && rule.text == "/etc/ssl/certs")
}

/// An internet with all that the exercises ask it for.
fn internet() -> Option<Internet> {
    let internet = Internet::start()?;
    for host in ["github.com", "gitlab.com", "codeberg.org"] {
        internet.serves_repository(host);
    }
    internet.serves_python_packages();
    internet.serves_node_packages();
    internet.serves_weather();
    internet.serves(
        "pypi.org",
        "/simple/",
        "200 OK",
        "text/html",
        b"<p>All of it</p>",
    );
    Some(internet)
}

/// Asks a model, with a key.
fn chat() -> Exercise {
    Box::new(|world| {
        world.secret("openai", "a-key", 0o600);
        let arguments = json!({ "messages": [{ "role": "user", "content": "hello" }] });
        succeeded(&world.attempt(&[], "chat", &arguments).stdout).map(drop)
    })
}

/// What a call printed, if it succeeded.
fn succeeded(answer: &[u8]) -> Result<String, String> {
    let outcome: Value = serde_json::from_slice(answer).map_err(|_| "no outcome".to_owned())?;
    if outcome["status"] != "exited" || outcome["exit_code"] != 0 {
        return Err(outcome.to_string());
    }
    Ok(outcome["stdout"]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// A directory with a text, a database and a repository.
fn prepared(world: &World) -> PathBuf {
    let directory = world.path("directory");
    if !directory.exists() {
        world.write("directory/text.txt", "some text\n");
        let path = directory.to_str().expect("a plain path");
        let _ = host(
            "/usr/bin/git",
            &["init", "--quiet", "--initial-branch=main", path],
        );
        let database = world.write("directory/numbers.db", "");
        let database = database.to_str().expect("a plain path");
        let _ = host(
            "/usr/bin/sqlite3",
            &[database, "CREATE TABLE n (i); INSERT INTO n VALUES (42);"],
        );
    }
    directory
}

/// What making a key takes on a host whose default is this version of Java; none on another.
fn java(version: &str) -> Option<Exercise> {
    let home = fs::canonicalize("/usr/bin/java").ok()?;
    home.to_str()?
        .contains(version)
        .then(|| script("standard", KEY))
}

/// The exercise that needs this rule.
#[allow(clippy::too_many_lines)] // A table.
fn exercise(rule: &Rule) -> Option<Exercise> {
    let calculate = || tool("calculate", "", json!({ "expression": "6 * 7" }), "42\n");
    let sqlite = || {
        let arguments = json!({ "database": "numbers.db", "sql": "SELECT i FROM n" });
        tool("sqlite_query", "databases", arguments, "i\n42\n")
    };
    let write = || {
        let arguments = json!({ "path": "text.txt", "content": "other text\n" });
        tool("file_write", "writable", arguments, "")
    };
    let search = || {
        let arguments = json!({ "pattern": "some", "path": "text.txt" });
        let exercise: Exercise = Box::new(move |world| {
            let directory = prepared(world);
            let roots: Roots = &[("docs", &directory)];
            let told = succeeded(&world.attempt(roots, "search_docs", &arguments).stdout)?;
            if told.ends_with(":1:some text\n") {
                Ok(())
            } else {
                Err(told)
            }
        });
        exercise
    };
    let read = || {
        tool(
            "file_read",
            "files",
            json!({ "path": "text.txt" }),
            "some text\n",
        )
    };
    let git = || {
        tool(
            "git",
            "repository",
            json!({ "command": "ls-files", "args": ["-o", "t*"] }),
            "text.txt\n",
        )
    };
    let kept = |place: &str| {
        script(
            "standard",
            format!("echo kept > {place}/x && cat {place}/x"),
        )
    };
    Some(
        match (rule.profile.as_str(), rule.key.as_str(), rule.text.as_str()) {
            ("calculate", "files.exec", "/usr/bin/python3")
            | ("minimal", "files.read", "/usr/lib") => calculate(),
            ("chat", _, _) => chat(),
            ("file_read", "files.exec", "/usr/bin/cat") | ("file_read", "files.read", "{path}") => {
                read()
            }
            ("file_write", "files.exec", "/bin/sh" | "/usr/bin/cat")
            | ("file_write", "files.write", "{path}") => write(),
            ("git", "files.exec", "/usr/bin/git") | ("git", "files.read", "{roots.repository}") => {
                git()
            }
            ("search_docs", "files.exec", "/usr/bin/rg")
            | ("search_docs", "files.read", "{path}") => search(),
            ("sqlite_query", "files.exec", "/bin/sh" | "/usr/bin/sqlite3")
            | ("sqlite_query", "files.read", "{roots.databases}") => sqlite(),

            ("readonly", "files.exec", "/usr") => script("readonly", "true"),
            ("readonly", "files.read", "/etc/alternatives") => {
                script("readonly", "awk 'BEGIN { exit 0 }'")
            }
            ("readonly", "files.read", "/etc/fonts") => script("standard", FONTS),
            ("readonly", "files.read", "/etc/ld.so.cache") => {
                script("readonly", "/sbin/ldconfig -p | grep -q libc.so")
            }
            ("readonly", "files.read", "/etc/localtime") => {
                let time = host("/usr/bin/sha256sum", &["/etc/localtime"]);
                script("readonly", format!("echo '{}' | sha256sum -c", time.trim()))
            }
            ("readonly", "files.read", path) if path.starts_with("/etc/java-") => {
                java(path.trim_start_matches("/etc/"))?
            }

            ("standard", "files.write", place @ ("/work" | "/tmp" | "/dev/shm")) => kept(place),

            ("certificates", "files.read", "/etc/ssl/certs")
            | ("http_fetch", "files.exec" | "files.write", _) => fetch("https://pypi.org/simple/"),
            ("certificates", "files.read", place) if Path::new(place).exists() => {
                seen_by_clients(place)
            }
            ("weather", "files.exec" | "network.allow", _) => {
                let place = json!({ "latitude": 40.7128, "longitude": -74.006 });
                reaching("get_forecast", place)
            }
            ("git_clone", "files.exec", place) if !Path::new(place).exists() => return None,
            ("git_clone", "network.allow", host) => clone(host.trim_end_matches(":443")),
            ("git_clone", "files.exec" | "files.write", _) => clone("github.com"),
            ("pip_install", "files.exec" | "files.write" | "network.allow", _) => {
                reaching("pip_install", json!({ "packages": ["demo-wheel"] }))
            }
            ("npm_install", "files.read", "/usr/share/nodejs") => return None,
            ("npm_install", "files.exec" | "files.read" | "files.write" | "network.allow", _) => {
                reaching("npm_install", json!({ "packages": ["demo-node"] }))
            }

            ("privileged", "files.exec", place @ ("/work" | "/tmp")) => script(
                "privileged",
                format!("cp /bin/true {place}/program && {place}/program"),
            ),
            ("privileged", "files.read", "/sys/devices/system/cpu") => {
                script("privileged", "lscpu | grep -q '^On-line'")
            }
            ("privileged", "network.loopback", "") => script("privileged", LOOPBACK),
            ("privileged", "network.unix", "") => python_in_workspace(
                "privileged",
                "import socket\nsocket.socket(socket.AF_UNIX).bind('/tmp/socket')",
            ),
            ("privileged", "syscalls.allow", "ptrace") => script("privileged", TRACED),
            ("privileged", "syscalls.allow", "process_vm_readv") => {
                script("privileged", READ_ANOTHER)
            }
            _ => return None,
        },
    )
}

/// Writes a word into a picture with a font that is found by its name.
const FONTS: &str = "ffmpeg -nostdin -v error -f lavfi -i \
    color=size=64x64:duration=0.1,drawtext=text=hi:font=DejaVu -f null - 2> /dev/stdout | \
    { ! grep . ; }";
/// The version alone would be told without any settings.
const KEY: &str = "keytool -genkeypair -alias a -dname CN=a -keyalg EC -storepass secret \
    -keystore /tmp/keys";
const LOOPBACK: &str = "python3 -c \"
import socket
listener = socket.create_server(('127.0.0.1', 0))
socket.create_connection(listener.getsockname())
\"";
/// `PTRACE_TRACEME` is 0.
const TRACED: &str = "python3 -c 'import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0'";
/// Reads the memory of a child process, as strace does of what it traces.
const READ_ANOTHER: &str = "python3 -c '
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
text = ctypes.create_string_buffer(b\"of the child\")
child = os.fork()
if child == 0:
    signal.pause()
class Vector(ctypes.Structure):
    _fields_ = [(\"base\", ctypes.c_void_p), (\"length\", ctypes.c_size_t)]
got = ctypes.create_string_buffer(len(text))
local = Vector(ctypes.addressof(got), len(got))
remote = Vector(ctypes.addressof(text), len(text))
count = libc.process_vm_readv(child, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
os.kill(child, signal.SIGKILL)
assert (count, got.value) == (len(text), b\"of the child\"), ctypes.get_errno()
'";

#[test]
fn every_rule_has_an_exercise() {
    let missing: BTreeSet<_> = rules()
        .iter()
        .filter(|rule| exercise(rule).is_none() && !rule.if_present)
        .map(|rule| format!("{}: {} {}", rule.profile, rule.key, rule.text))
        .collect();
    assert!(missing.is_empty(), "justify or remove: {missing:#?}");
}

#[test]
fn a_built_in_profile_breaks_without_any_one_of_its_rules() {
    let needed = [
        "/usr/bin/git",
        "/usr/bin/sqlite3",
        "/usr/bin/rg",
        "/usr/bin/ffmpeg",
    ];
    if !installed(&needed) {
        return;
    }
    let internet = internet();
    let mut idle = Vec::new();
    for rule in rules() {
        let shown = format!("`{}` in {} of `{}`", rule.text, rule.key, rule.profile);
        let Some(exercise) = exercise(&rule) else {
            skip(&shown, "this host has nothing that needs it");
            continue;
        };
        let needed = needs_internet(&rule);
        if needed && internet.is_none() {
            skip(&shown, "there is no internet of the tests' own");
            continue;
        }
        let world = |who| match internet.as_ref().filter(|_| needed) {
            Some(internet) => internet.world(who),
            None => World::new(who),
        };
        for who in everyone() {
            if let Err(error) = exercise(&world(who)) {
                panic!("{who:?}: with {shown}: {error}");
            }
            let world = world(who);
            world.write(
                &format!("config/toolcell/profiles/{}.toml", rule.profile),
                &rule.without,
            );
            if exercise(&world).is_ok() {
                idle.push(format!("{who:?}: {shown}"));
            }
        }
    }
    assert!(idle.is_empty(), "nothing needs: {idle:#?}");
}
