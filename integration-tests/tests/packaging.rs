//! What is packed beside the executable, as far as it can be told without installing it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Who, World};

fn repository() -> PathBuf {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    parent.expect("it lies in the repository").to_owned()
}

fn said(world: &World, arguments: &[&str]) -> String {
    let output = world.toolcell(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn world() -> World {
    World::new(if nix::unistd::geteuid().is_root() {
        Who::Root
    } else {
        Who::User
    })
}

#[test]
fn every_command_has_a_page() {
    let world = world();
    let pages = world.path("man").display().to_string();
    said(&world, &["man", &pages]);
    let found: BTreeSet<String> = std::fs::read_dir(&pages)
        .expect("it was made")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let help = said(&world, &["--help"]);
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help");
    let mut count = 0;
    for command in commands {
        assert!(
            found.contains(&format!("toolcell-{command}.1")),
            "{found:?}"
        );
        count += 1;
    }
    assert!(count >= 10, "{help}");
    assert!(found.contains("toolcell.1"), "{found:?}");
    assert!(said(&world, &["man"]).contains(".TH toolcell 1"));
}

#[test]
fn completions_are_a_shells_own_language() {
    let world = world();
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&world, &["completions", shell]);
        assert!(script.contains("audit"), "{shell}: {script}");
        if shell == "bash" {
            let path = world.write("completions", &script);
            let parsed = Command::new("bash").arg("-n").arg(path).output();
            assert!(parsed.expect("bash is there").status.success());
        }
    }
}

/// What the documentation of the units says of a line must be about one that is there.
#[test]
fn every_line_of_the_units_is_explained() {
    let read = |name: &str| std::fs::read_to_string(repository().join(name)).expect("it is there");
    let text = read("docs/systemd.md");
    for unit in ["system", "user"] {
        let unit = read(&format!("packaging/systemd/{unit}/toolcell.service"));
        let service = unit.split("[Service]").nth(1).expect("it has one");
        let service = service.split("[Install]").next().expect("it has one");
        for line in service.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, _)) = line.split_once('=') {
                assert!(text.contains(&format!("`{name}")), "`{name}=`");
            }
        }
    }
}
