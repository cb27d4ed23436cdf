//! What `files.deny` and `files.protect` keep away is named by the very rule, with its place in the
//! profile; and without the rule it is allowed.

use std::path::PathBuf;

use harness::{USER, World, everyone, outcome};
use serde_json::{Value, json};

fn explained(world: &World, tables: &str, script: &str) -> Value {
    let profile = world.profile(tables);
    let command = ["run", "--json", "--explain", "--profile", &profile];
    let tool = ["--", "/usr/bin/python3", "-I", "-c", script];
    outcome(&world.toolcell(&[&command[..], &tool[..]].concat()))
}

/// What was denied, by the rule's beginning and the mend.
fn denials(outcome: &Value) -> Vec<(String, String, String)> {
    let denials = outcome["denials"].as_array().expect("denials are a list");
    let text = |denial: &Value, key: &str| denial[key].as_str().unwrap_or_default().to_owned();
    denials
        .iter()
        .map(|denial| {
            (
                text(denial, "what"),
                text(denial, "rule"),
                text(denial, "allow_with"),
            )
        })
        .collect()
}

/// A directory of the host as a workspace, owned by an ordinary user, as protecting what does not
/// exist demands.
fn workspace(world: &World) -> PathBuf {
    let path = world.path("work");
    std::fs::create_dir(&path).expect("the scratch directory is writable");
    std::fs::create_dir_all(path.join(".git/hooks")).expect("it is ours");
    std::fs::write(path.join(".git/hooks/old"), "old\n").expect("it is ours");
    if nix::unistd::geteuid().is_root() {
        for inner in [".", ".git", ".git/hooks", ".git/hooks/old"] {
            let inner = path.join(inner);
            std::os::unix::fs::chown(&inner, Some(USER), Some(USER)).expect("root may chown");
        }
    }
    path
}

const TRY: &str = "
import os, subprocess
def attempt(call, *arguments):
    try: call(*arguments)
    except OSError as error: print('no')
    else: print('yes')
";

#[test]
fn what_deny_covers_is_named_by_its_rule_and_allowed_without_it() {
    let script = format!(
        "{TRY}
attempt(open, '/usr/bin/env')
attempt(subprocess.run, ['/usr/bin/env'], 0, None, subprocess.DEVNULL, subprocess.DEVNULL)
attempt(os.listdir, '/usr/share/doc')
attempt(os.stat, '/usr/share/doc')
print('yes' if os.access('/usr/bin/env', os.X_OK) else 'no')
"
    );
    let denied = [
        ("execute /usr/bin/env", "/usr/bin/env"),
        ("look at /usr/bin/env", "/usr/bin/env"),
        ("read /usr/bin/env", "/usr/bin/env"),
        ("read /usr/share/doc", "/usr/share/doc"),
    ];
    for who in everyone() {
        let world = World::new(who);
        let tables = "[files]\ndeny = [\"/usr/bin/env\", \"/usr/share/doc\"]\n";
        let covered = explained(&world, tables, &script);
        // What is covered is there and can be looked at, so that is no denial.
        assert_eq!(
            covered["stdout"]["text"], "no\nno\nno\nyes\nno\n",
            "{who:?}: {covered:#}"
        );
        let found = denials(&covered);
        for (what, rule) in denied {
            let (_, why, mend) = found
                .iter()
                .find(|(found, ..)| found == what)
                .unwrap_or_else(|| panic!("{who:?}: `{what}` is not named: {found:?}"));
            let begins = format!("`files.deny` covers it (`{rule}`, ");
            assert!(why.starts_with(&begins), "{who:?}: {why}");
            assert!(why.contains("test.toml:7:"), "{who:?}: {why}");
            assert_eq!(mend, &format!("remove `{rule}` from `files.deny`"));
        }
        assert_eq!(found.len(), denied.len(), "{who:?}: {found:?}");

        let control = explained(&world, "", &script);
        assert_eq!(
            control["stdout"]["text"], "yes\nyes\nyes\nyes\nyes\n",
            "{who:?}"
        );
        assert_eq!(control["denials"], json!([]), "{who:?}: {control:#}");
    }
}

/// As an ordinary user the supervisor cannot look beneath a cover either, and names it all the same.
#[test]
fn what_is_beneath_a_covered_directory_is_named_by_its_rule() {
    let script = format!(
        "{TRY}
attempt(open, '/usr/share/doc/no/such')
attempt(os.stat, '/usr/share/doc/no')
attempt(os.mkdir, '/usr/share/doc/new')
"
    );
    for who in everyone() {
        let world = World::new(who);
        let tables = "[files]\ndeny = [\"/usr/share/doc\"]\n";
        let covered = explained(&world, tables, &script);
        let whats: Vec<_> = denials(&covered)
            .into_iter()
            .map(|(what, ..)| what)
            .collect();
        let named = [
            "look at /usr/share/doc/no",
            "read /usr/share/doc/no/such",
            "write /usr/share/doc/new",
        ];
        assert_eq!(whats, named, "{who:?}");
        for (_, rule, _) in denials(&covered) {
            assert!(
                rule.starts_with("`files.deny` covers it"),
                "{who:?}: {rule}"
            );
        }
        // Without the rule it is just not there, and only the making of it is denied.
        let control: Vec<_> = denials(&explained(&world, "", &script))
            .into_iter()
            .map(|(what, ..)| what)
            .collect();
        assert_eq!(control, ["write /usr/share/doc/new"], "{who:?}");
    }
}

#[test]
fn what_protect_keeps_is_named_by_its_rule_and_allowed_without_it() {
    let script = format!(
        "{TRY}
attempt(open, '.git/hooks/old', 'w')
attempt(open, '.git/hooks/new', 'w')
attempt(open, '.mcp.json', 'w')
open('other', 'w').close()
attempt(os.rename, 'other', '.mcp.json')
attempt(os.rename, '.git', 'elsewhere')
"
    );
    let protect = "protect = [\".git/hooks\", \".mcp.json\"]\n";
    for who in everyone() {
        let world = World::new(who);
        let path = workspace(&world);
        let tables = |protect: &str| {
            let path = path.display();
            format!("[files]\n{protect}workspace = {{ kind = \"host\", path = \"{path}\" }}\n")
        };
        let kept = explained(&world, &tables(protect), &script);
        assert_eq!(
            kept["stdout"]["text"], "no\nno\nno\nno\nno\n",
            "{who:?}: {kept:#}"
        );
        let found = denials(&kept);
        for (what, rule) in [
            ("write /work/.git", ".git/hooks"),
            ("write /work/.git/hooks/new", ".git/hooks"),
            ("write /work/.git/hooks/old", ".git/hooks"),
            ("write /work/.mcp.json", ".mcp.json"),
        ] {
            let named = found.iter().find(|(found, ..)| found == what);
            let (_, why, mend) =
                named.unwrap_or_else(|| panic!("{who:?}: `{what}` is not named: {found:?}"));
            let begins = format!("`files.protect` keeps it as it is (`{rule}`, ");
            assert!(why.starts_with(&begins), "{who:?}: {why}");
            assert_eq!(mend, &format!("remove `{rule}` from `files.protect`"));
        }
        assert_eq!(found.len(), 4, "{who:?}: {found:?}");
        let old = std::fs::read_to_string(path.join(".git/hooks/old")).expect("it is there");
        assert_eq!(old, "old\n", "{who:?}");
        assert!(!path.join(".mcp.json").exists(), "{who:?}");

        let control = explained(&world, &tables(""), &script);
        assert_eq!(
            control["stdout"]["text"], "yes\nyes\nyes\nyes\nyes\n",
            "{who:?}"
        );
        assert_eq!(control["denials"], json!([]), "{who:?}: {control:#}");
        assert!(path.join("elsewhere/hooks/new").exists(), "{who:?}");
    }
}

#[test]
fn reading_what_is_protected_is_no_denial() {
    let script = "
import os
print(open('.git/hooks/old').read(), os.listdir('.git/hooks'))
os.makedirs('.git/hooks', exist_ok=True)
";
    for who in everyone() {
        let world = World::new(who);
        let path = workspace(&world);
        let tables = format!(
            "[files]\nprotect = [\".git/hooks\"]\nworkspace = {{ kind = \"host\", path = \"{}\" }}\n",
            path.display()
        );
        let read = explained(&world, &tables, script);
        assert_eq!(read["stdout"]["text"], "old\n ['old']\n", "{who:?}");
        assert_eq!(read["denials"], json!([]), "{who:?}: {read:#}");
    }
}

/// A link in a place that may be written is the tool's own, wherever it leads.
#[test]
fn removing_a_link_to_what_may_not_be_written_is_no_denial() {
    let script = "
import os
os.symlink('/usr/bin/env', '/work/link')
os.rename('/work/link', '/work/other')
os.unlink('/work/other')
os.close(os.open('/usr/bin/env', os.O_CREAT | os.O_RDONLY))
try: os.mkdir('/usr/bin')
except FileExistsError: pass
";
    for who in everyone() {
        let world = World::new(who);
        let outcome = explained(&world, "", script);
        assert_eq!(outcome["exit_code"], 0, "{who:?}: {outcome:#}");
        assert_eq!(outcome["denials"], json!([]), "{who:?}: {outcome:#}");
        let control = explained(&world, "", "open('/usr/bin/env', 'w')");
        let named = denials(&control);
        assert_eq!(named.len(), 1, "{who:?}: {control:#}");
        assert_eq!(named[0].0, "write /usr/bin/env", "{who:?}");
    }
}

#[test]
fn the_terminal_says_what_to_remove() {
    for who in everyone() {
        let world = World::new(who);
        let profile = world.profile("[files]\ndeny = [\"/usr/bin/su\"]\n");
        let command = ["run", "--explain", "--profile", &profile];
        let tool = ["--", "/bin/cat", "/usr/bin/su"];
        let output = world.toolcell(&[&command[..], &tool[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(
                "toolcell: denied: read /usr/bin/su: `files.deny` covers it (`/usr/bin/su`, "
            ),
            "{who:?}: {said}"
        );
        assert!(
            said.contains("; hint: remove `/usr/bin/su` from `files.deny`\n"),
            "{who:?}: {said}"
        );
    }
}
