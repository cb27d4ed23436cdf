//! What is denied is named, with the rule and the line of a profile that would allow it; and that
//! line is right.

use harness::{World, everyone, outcome};
use serde_json::{Value, json};

/// Runs a Python script, with denied paths named.
fn explained(world: &World, tables: &str, script: &str) -> Value {
    let profile = world.profile(tables);
    let command = ["run", "--json", "--explain", "--profile", &profile];
    let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
    outcome(&world.toolcell(&[&command[..], &tool[..]].concat()))
}

fn denials(outcome: &Value) -> &[Value] {
    outcome["denials"].as_array().expect("denials are a list")
}

/// The one denial of this kind and text.
#[track_caller]
fn denial<'a>(outcome: &'a Value, kind: &str, what: &str) -> &'a Value {
    let found = denials(outcome).iter().find(|denial| {
        denial["kind"] == kind && denial["what"].as_str().is_some_and(|found| found == what)
    });
    found.unwrap_or_else(|| panic!("`{what}` is not named: {outcome:#}"))
}

fn line(denial: &Value) -> &str {
    denial["allow_with"].as_str().expect("it is text")
}

/// A table of a profile with a line such as `files.read = […]`.
fn table(line: &str) -> String {
    let (table, entry) = line.split_once('.').expect("it names a table");
    format!("[{table}]\n{entry}\n")
}

const PTRACE: &str = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(3): traced = libc.ptrace(0, 0, 0, 0)
print(traced, ctypes.get_errno())
";

#[test]
fn a_denied_system_call_is_named_and_its_line_allows_it() {
    for who in everyone() {
        let world = World::new(who);
        let denied = world.python("", PTRACE);
        assert_eq!(
            denied["stdout"]["text"], "-1 1\n",
            "{who:?}: EPERM: {denied:#}"
        );
        let named = denial(&denied, "syscall", "ptrace");
        assert_eq!(named["count"], 3, "{who:?}");
        assert_eq!(line(named), "syscalls.allow = [\"ptrace\"]", "{who:?}");
        assert_ne!(named["rule"], "", "{who:?}");
        let allowed = world.python(&table(line(named)), PTRACE);
        assert_eq!(allowed["denials"], json!([]), "{who:?}: {allowed:#}");
        assert!(
            allowed["exit_code"] == 0 || allowed["signal"].is_string(),
            "{who:?}: {allowed:#}"
        );
    }
}

#[test]
fn what_no_profile_can_allow_says_so() {
    let script = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000)
libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)
libc.syscall(321, 0, 0, 0)
";
    for who in everyone() {
        let world = World::new(who);
        let denied = world.python("", script);
        assert!(denials(&denied).len() >= 2, "{who:?}: {denied:#}");
        for denial in denials(&denied) {
            assert_eq!(line(denial), "", "{who:?}: {denied:#}");
        }
        let _ = denial(&denied, "syscall", "mount");
    }
}

#[test]
fn a_tool_that_is_denied_nothing_has_no_denials() {
    for who in everyone() {
        let world = World::new(who);
        let script = "
import os, socket, subprocess, tempfile, threading, multiprocessing, mmap, json, random
subprocess.run(['/bin/true'], check=True)
threading.Thread(target=print, args=['x']).start()
with tempfile.TemporaryFile() as file: file.write(b'x')
open('/work/file', 'w').write('x')
print(os.listdir('/usr')[:0], open('/proc/self/status').read()[:0])
";
        for outcome in [world.python("", script), explained(&world, "", script)] {
            assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
            assert_eq!(outcome["denials"], json!([]), "{who:?}: {outcome:#}");
        }
    }
}

#[test]
fn a_path_that_may_not_be_read_is_named_and_its_line_allows_it() {
    for who in everyone() {
        let world = World::new(who);
        let docs = elsewhere();
        let secret = docs.path().join("secret").display().to_string();
        std::fs::write(&secret, "secret\n").expect("it is ours");
        let script = format!("print(open('{secret}').read())");
        let denied = explained(&world, "", &script);
        assert_eq!(denied["exit_code"], 1, "{who:?}: {denied:#}");
        let named = denial(&denied, "path", &format!("read {secret}"));
        assert_eq!(
            line(named),
            format!("files.read = [\"{secret}\"]"),
            "{who:?}"
        );
        let allowed = explained(&world, &table(line(named)), &script);
        assert_eq!(
            allowed["stdout"]["text"], "secret\n\n",
            "{who:?}: {allowed:#}"
        );
        assert_eq!(
            allowed["denials"],
            json!([]),
            "{who:?}: what is allowed is not named"
        );
        // Without being asked to, nobody looks at paths.
        let plain = world.python("", &script);
        assert_eq!(plain["denials"], json!([]), "{who:?}: {plain:#}");
    }
}

#[test]
fn a_path_that_may_not_be_written_is_named_and_its_line_allows_it() {
    for who in everyone() {
        let world = World::new(who);
        let directory = elsewhere();
        let file = directory.path().join("file");
        std::fs::write(&file, "old\n").expect("it is ours");
        let docs = directory.path().display().to_string();
        let script = format!("open('{docs}/file', 'w').write('new')");
        let read = format!("[files]\nread = [\"{docs}\"]\n");
        let denied = explained(&world, &read, &script);
        assert_eq!(denied["exit_code"], 1, "{who:?}: {denied:#}");
        let named = denial(&denied, "path", &format!("write {docs}/file"));
        assert_eq!(
            line(named),
            format!("files.write = [\"{docs}/file\"]"),
            "{who:?}"
        );
        assert_eq!(
            std::fs::read_to_string(&file).expect("it is there"),
            "old\n",
            "{who:?}"
        );
        // What cells of root's may write belongs to nobody in particular.
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("it is ours");
        let allowed = explained(
            &world,
            &format!("{read}write = [\"{docs}/file\"]\n"),
            &script,
        );
        assert_eq!(allowed["exit_code"], 0, "{who:?}: {allowed:#}");
        assert_eq!(allowed["denials"], json!([]), "{who:?}: {allowed:#}");
        assert_eq!(
            std::fs::read_to_string(&file).expect("it is there"),
            "new",
            "{who:?}"
        );
    }
}

#[test]
fn every_way_to_write_is_named() {
    let script = "
import os
def attempt(call, *arguments):
    try: call(*arguments)
    except OSError: pass
    else: print('allowed', call, arguments)
attempt(open, '/usr/a', 'w')
attempt(os.mkdir, '/usr/b')
attempt(os.symlink, 'x', '/usr/c')
attempt(os.unlink, '/usr/bin/true')
attempt(os.rename, '/usr/bin/env', '/work/env')
attempt(os.mkfifo, '/usr/e')
attempt(os.truncate, '/usr/bin/id', 0)
attempt(os.link, '/work/x', '/usr/f')
os.chdir('/usr/share')
attempt(open, '../lib/g', 'w')
";
    for who in everyone() {
        let world = World::new(who);
        let denied = explained(&world, "", script);
        assert_eq!(denied["stdout"]["text"], "", "{who:?}");
        let named: Vec<_> = denials(&denied)
            .iter()
            .map(|denial| &denial["what"])
            .collect();
        for path in [
            "/usr/a",
            "/usr/b",
            "/usr/c",
            "/usr/bin/true",
            "/usr/bin/env",
            "/usr/e",
            "/usr/bin/id",
            "/usr/f",
            "/usr/lib/g",
        ] {
            let write = format!("write {path}");
            assert!(
                named.iter().any(|what| **what == write),
                "{who:?}: {path}: {named:?}"
            );
        }
    }
}

#[test]
fn a_program_that_may_not_be_executed_is_named() {
    let script = "
import os, shutil, subprocess
shutil.copy('/usr/bin/true', '/work/true')
os.chmod('/work/true', 0o755)
print(subprocess.run(['/work/true'], check=True).returncode)
";
    for who in everyone() {
        let world = World::new(who);
        let denied = explained(&world, "", script);
        let named = denial(&denied, "path", "execute /work/true");
        assert!(
            line(named).starts_with("files.exec = ["),
            "{who:?}: {named}"
        );
        let allowed = explained(&world, "[files]\nexec = [\"/work\"]\n", script);
        assert_eq!(allowed["stdout"]["text"], "0\n", "{who:?}: {allowed:#}");
        assert_eq!(allowed["denials"], json!([]), "{who:?}: {allowed:#}");
    }
}

#[test]
fn what_is_just_not_there_is_no_denial() {
    // Programs look for files in many places; naming them all would bury what matters.
    let script = "
import os
for path in ['/usr/no-such-file', '/work/no-such-file', '/usr/lib/no-such-directory/file']:
    assert not os.path.exists(path)
    try: open(path)
    except FileNotFoundError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = explained(&world, "", script);
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        assert_eq!(outcome["denials"], json!([]), "{who:?}: {outcome:#}");
    }
}

#[test]
fn a_profile_can_ask_for_paths_to_be_named() {
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.python("[explain]\npaths = true\n", "open('/root/.ssh/id_rsa')");
        let _ = denial(&outcome, "path", "read /root/.ssh/id_rsa");
    }
}

#[test]
fn many_different_denials_are_counted_beyond_a_limit() {
    let script = "
for n in range(1000):
    try: open(f'/root/{n}')
    except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = explained(&world, "", script);
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        assert_eq!(denials(&outcome).len(), 65, "{who:?}: 64 and a sum");
        let sum: u64 = denials(&outcome)
            .iter()
            .filter_map(|denial| denial["count"].as_u64())
            .sum();
        assert_eq!(sum, 1000, "{who:?}");
        let receipt = &world.receipts()[0];
        let kept = receipt["denials"].as_array().map_or(0, Vec::len);
        assert!(
            kept > 0 && kept <= 65,
            "{who:?}: the receipt has them too: {kept}"
        );
    }
}

#[test]
fn a_flood_of_denials_ends_like_any_call() {
    let script = "
import ctypes
libc = ctypes.CDLL(None)
for _ in range(50_000): libc.ptrace(0, 0, 0, 0)
";
    for who in everyone() {
        let world = World::new(who);
        let tables = "[limits]\nwall = \"2 min\"\ncpu_time = \"2 min\"\n";
        let outcome = world.python(tables, script);
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        assert_eq!(
            denial(&outcome, "syscall", "ptrace")["count"],
            50_000,
            "{who:?}"
        );
    }
}

#[test]
fn a_name_that_a_tool_tries_forges_no_line() {
    let script = "
try: open('/root/a\\ntoolcell: denied: nothing\\x1b[2J')
except OSError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let command = [
            "run",
            "--explain",
            "--",
            "/usr/bin/python3",
            "-I",
            "-c",
            script,
        ];
        let output = world.toolcell(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{who:?}: {said}");
        assert!(
            said.contains(r"/root/a\ntoolcell: denied: nothing\u{1b}[2J"),
            "{who:?}: {said}"
        );
    }
}

#[test]
fn an_answer_to_a_model_has_the_denial_and_its_line() {
    for who in everyone() {
        let world = World::new(who);
        let called = world.toolcell(&["call", "python", &json!({ "code": PTRACE }).to_string()]);
        let text = String::from_utf8_lossy(&called.stdout);
        assert!(
            text.contains("[denied] ptrace (3 times): "),
            "{who:?}: {text}"
        );
        assert!(
            text.contains("hint: syscalls.allow = [\"ptrace\"]"),
            "{who:?}: {text}"
        );
    }
}

/// A directory that no cell has, beneath nothing that cells have of their own, open to everyone.
fn elsewhere() -> tempfile::TempDir {
    let directory = tempfile::TempDir::with_prefix_in("toolcell-test-", "/var/tmp");
    let directory = directory.expect("/var/tmp is writable");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("it is ours");
    directory
}
