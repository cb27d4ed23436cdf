//! What a cell could inherit from who started Toolcell: descriptors, variables, a terminal.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use harness::ground::{Ground, said};
use harness::{everyone, skip};

/// Runs a command line with further descriptors of a secret file open, low ones and high ones.
fn with_descriptors(ground: &Ground, command: &Command) -> Output {
    let secret = ground.file("secret", "secret");
    let mut shell = Command::new("bash");
    shell
        .arg("-c")
        .arg("f=$0; exec 3<$f 4<$f 7<>$f 9<$f 63<$f 200<$f 255<$f 500<>$f 1000<$f; exec \"$@\"");
    shell
        .arg(secret)
        .arg(command.get_program())
        .args(command.get_args());
    shell.env_clear();
    for (name, value) in command.get_envs() {
        shell.env(name, value.expect("none is removed"));
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell.stdin(Stdio::null()).output().expect("bash is there")
}

#[test]
fn no_descriptor_is_inherited() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        let command = ground.command(&profile, &[], &["descriptors"]);
        let said = said(&with_descriptors(&ground, &command));
        assert_eq!(said.detail(), "0,1,2", "{who:?}");

        let mut command = Command::new(ground.probe());
        command.arg("descriptors");
        let control = with_descriptors(&ground, &command);
        let control = String::from_utf8_lossy(&control.stdout).into_owned();
        for number in ["3", "4", "7", "9", "63", "200", "255", "500", "1000"] {
            let open = control
                .trim_end()
                .split([' ', ','])
                .any(|open| open == number);
            assert!(open, "the control: {number} of {control}");
        }
    }
}

/// Standard input, output and error are pipes and nothing of the host's, so there is no file of the
/// host's by way of `/proc/self/fd` either.
#[test]
fn the_standard_streams_are_no_files_of_the_host() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for number in 1..3 {
            let path = format!("/proc/self/fd/{number}");
            let said = ground.attempt(&profile, &["readlink", &path]);
            assert!(
                said.detail().starts_with("pipe:"),
                "{who:?} {number}: {said:#?}"
            );
        }
        let said = ground.attempt(&profile, &["readlink", "/proc/self/fd/0"]);
        let none = ["/dev/null", "pipe:"]
            .iter()
            .any(|name| said.detail().starts_with(name));
        assert!(none, "{who:?}: {said:#?}");
    }
}

#[test]
fn only_the_variables_that_the_profile_names_are_set() {
    for who in everyone() {
        let mut ground = Ground::new(who);
        for name in [
            "TOOLCELL_TEST_SECRET",
            "AWS_SECRET_ACCESS_KEY",
            "SSH_AUTH_SOCK",
            "TZ",
        ] {
            ground
                .world
                .env
                .insert(name.to_owned(), "secret".to_owned());
        }
        let plain = ground.profile("", "");
        let said = ground.attempt(&plain, &["environment"]);
        assert_eq!(said.detail(), "HOME,LANG,PATH", "{who:?}");

        let passing = ground.profile("", "[run]\npass_env = [\"TOOLCELL_TEST_SECRET\"]\n");
        let said = ground.attempt(&passing, &["environment"]);
        let expected = "HOME,LANG,PATH,TOOLCELL_TEST_SECRET";
        assert_eq!(said.detail(), expected, "the control of {who:?}");
    }
}

/// `LD_PRELOAD` and its like concern neither Toolcell's tools nor, as the launcher is started by
/// Toolcell itself, the process that builds the cell.
#[test]
fn no_library_is_loaded_into_a_cell_from_outside() {
    for who in everyone() {
        let mut ground = Ground::new(who);
        let library = ground.file("library.so", "not a library");
        let library = library.display().to_string();
        for name in ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"] {
            ground.world.env.insert(name.to_owned(), library.clone());
        }
        let profile = ground.profile("", "");
        let said = ground.attempt(&profile, &["environment"]);
        assert_eq!(said.detail(), "HOME,LANG,PATH", "{who:?}");
        // The loader complains about what it cannot load; within the cell nobody did.
        assert_eq!(said.outcome["stderr"]["bytes"], 0, "{who:?}");
        let control = Command::new(ground.probe())
            .arg("environment")
            .env("LD_PRELOAD", &library)
            .output()
            .expect("the probe starts");
        assert!(!control.stderr.is_empty(), "the control of {who:?}");
    }
}

/// A profile cannot ask for what steers the loader, either, or if it does it says so.
#[test]
fn the_secrets_of_who_started_toolcell_are_in_no_environment_that_a_tool_reads() {
    for who in everyone() {
        let mut ground = Ground::new(who);
        ground
            .world
            .env
            .insert("TOOLCELL_TEST_SECRET".to_owned(), "hunter2".to_owned());
        let profile = ground.profile("", "").display().to_string();
        let script = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'";
        let outcome = ground.world.run(&profile, &["/bin/sh", "-c", script]);
        let said = outcome["stdout"]["text"].as_str().unwrap_or_default();
        assert!(
            said.contains("PATH="),
            "the control of {who:?}: {outcome:#}"
        );
        assert!(!said.contains("hunter2"), "{who:?}: {outcome:#}");
    }
}

/// Runs a command line on a terminal of its own, which controls it.
fn on_a_terminal(command: &Command) -> Output {
    let quoted: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
        .collect();
    let mut script = Command::new("script");
    script
        .args(["-qec", &quoted.join(" "), "/dev/null"])
        .env_clear();
    for (name, value) in command.get_envs() {
        script.env(name, value.expect("none is removed"));
    }
    script
        .stdin(Stdio::null())
        .output()
        .expect("checked before")
}

#[test]
fn the_terminal_of_who_started_toolcell_is_out_of_reach() {
    if Command::new("script").arg("--version").output().is_err() {
        return skip("a controlling terminal", "there is no `script`");
    }
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "").display().to_string();
        let probe = ground.probe().display().to_string();
        for attempt in [&["controlling"][..], &["type_into", "/dev/tty"]] {
            let mut arguments = vec!["run", "--profile", &profile, "--", &probe];
            arguments.extend(attempt);
            let output = on_a_terminal(&ground.world.command(&arguments));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.starts_with("ENXIO"), "{who:?} {attempt:?}: {text}");
        }
        let mut control = Command::new(&probe);
        control.arg("controlling");
        let output = on_a_terminal(&control);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with("ok"), "the control of {who:?}: {text}");
    }
}

/// Terminals of the host have no names in the cell, whose `/dev/pts` is its own.
#[test]
fn the_terminals_of_the_host_have_no_names_in_a_cell() {
    for who in everyone() {
        let ground = Ground::new(who);
        let said = ground.attempt(&ground.profile("", ""), &["list", "/dev/pts"]);
        assert_eq!(said.detail(), "ptmx", "{who:?}");
        let mode = std::fs::metadata("/dev/pts")
            .expect("the host has it")
            .permissions()
            .mode();
        assert_ne!(mode, 0);
    }
}
