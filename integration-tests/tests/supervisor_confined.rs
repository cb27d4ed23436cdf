//! The supervisor has confined itself, seen from the host: what `/proc` says of a server, of its
//! launchers, which stay outside, and of the reader of a cell.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::stdio::Server;
use harness::{Host, Who, World, assert_nothing_left, everyone, within};
use serde_json::json;

/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`.
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
/// `Seccomp:` of a process under a filter.
const FILTER: u64 = 2;
/// Most memory that a launcher that stands by has for itself.
const STANDBY_BYTES_MAX: u64 = 1 << 20;

/// The fields of a thread's `status` whose values are one number; sets are hexadecimal.
fn status(path: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).expect("it runs");
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter_map(|(name, value)| {
            let radix = if name.starts_with("Cap") { 16 } else { 10 };
            let value = u64::from_str_radix(value.trim(), radix).ok()?;
            Some((name.to_owned(), value))
        })
        .collect()
}

fn of_process(pid: u32) -> BTreeMap<String, u64> {
    status(&format!("/proc/{pid}/status"))
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let pids = children.split_whitespace();
    pids.map(|pid| pid.parse().expect("it is a number"))
        .collect()
}

fn launcher_of(supervisor: u32) -> u32 {
    children(supervisor)[0]
}

fn is_gateway(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| word == b"toolcell-gateway")
}

fn descriptors_of(pid: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let names = descriptors.flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

/// A server with a tool that may reach a host, which it does not try to.
fn server_with_egress(world: &World) -> Server {
    world.write(
        "tools/reaches.toml",
        "format = 1\nname = \"reaches\"\ndescription = \"May reach a host.\"\n\
         extends = [\"standard\"]\nnetwork.allow = [\"example.org\"]\n\
         [run]\nargv = [\"/bin/sh\", \"-c\", \"grep -c ^nameserver /etc/resolv.conf\"]\n",
    );
    let directory = world.path("tools");
    Server::start(
        world,
        &["--profiles", directory.to_str().expect("it is text")],
    )
}

fn assert_reaches(server: &mut Server, id: u64, who: Who) {
    server.call(id, "reaches", &json!({}));
    let outcome = server.outcome(id);
    assert_eq!(outcome["status"], "exited", "{who:?}: {outcome:#}");
    assert_eq!(outcome["stdout"]["text"], "1\n", "{who:?}: {outcome:#}");
}

fn gateway_of(launcher: u32) -> u32 {
    let gateways: Vec<_> = children(launcher)
        .into_iter()
        .filter(|pid| is_gateway(*pid))
        .collect();
    let [gateway] = gateways[..] else {
        panic!("{gateways:?}");
    };
    gateway
}

#[test]
fn no_core_of_what_knows_secrets_is_dumped() {
    let core = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("Max core file"));
        let words = line.expect("it is limited").split_whitespace();
        words.skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = server_with_egress(&world);
        assert_reaches(&mut server, 1, who);
        let supervisor = server.running.pid();
        // The control: without ours it would be what the launcher, which knows none, has.
        let launcher = launcher_of(supervisor);
        assert_eq!(core(launcher), core(std::process::id()), "{who:?}");
        assert!(["0", "1"].contains(&&core(supervisor)[1][..]), "{who:?}");
        assert_eq!(core(supervisor)[0], core(supervisor)[1], "{who:?}");
        // One that may not be dumped belongs to root in `/proc`.
        let owner = |pid: u32| {
            use std::os::unix::fs::MetadataExt as _;
            let found = std::fs::metadata(format!("/proc/{pid}/stat")).expect("it runs");
            found.uid()
        };
        assert_eq!(owner(gateway_of(launcher)), 0, "{who:?}");
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn the_gateway_has_no_capability_and_under_root_a_user_of_its_own() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = server_with_egress(&world);
        assert_reaches(&mut server, 1, who);
        let launcher = launcher_of(server.running.pid());
        let gateway = gateway_of(launcher);
        for thread in std::fs::read_dir(format!("/proc/{gateway}/task")).expect("it runs") {
            let path = thread.expect("it can be listed").path().join("status");
            let path = path.to_str().expect("names in /proc are UTF-8");
            let found = status(path);
            assert_eq!(found["NoNewPrivs"], 1, "{who:?}");
            assert_eq!(found["Seccomp"], FILTER, "{who:?}");
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(found[set], 0, "{who:?} {set}");
            }
            if who == Who::Root {
                assert_eq!(found["CapBnd"], 0);
                let text = std::fs::read_to_string(path).expect("it runs");
                let ids = "1999999999\t1999999999\t1999999999\t1999999999\n";
                for name in ["Uid", "Gid"] {
                    assert!(text.contains(&format!("{name}:\t{ids}")), "{text}");
                }
            }
        }
        // The control: the launcher, from which it comes, has what there is.
        if who == Who::Root {
            assert_ne!(of_process(launcher)["CapBnd"], 0);
        }
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn the_next_launcher_starts_gateways() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = server_with_egress(&world);
        assert_reaches(&mut server, 1, who);
        let launcher = launcher_of(server.running.pid());
        let standby = children(launcher)
            .into_iter()
            .find(|pid| !is_gateway(*pid))
            .expect("one stands by");
        let gateway = gateway_of(launcher);
        kill(launcher);
        kill(gateway);
        assert_reaches(&mut server, 2, who);
        assert_ne!(gateway_of(standby), gateway, "{who:?}");
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn every_thread_of_a_server_is_confined_and_its_launchers_are_not() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        server.call(1, "shell", &json!({ "script": "echo ran" }));
        let outcome = server.outcome(1);
        assert_eq!(outcome["stdout"]["text"], "ran\n", "{who:?}: {outcome:#}");

        let pid = server.running.pid();
        let kept = if who == Who::Root { DAC_OVERRIDE } else { 0 };
        let mut threads = 0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
            let path = thread.expect("it can be listed").path().join("status");
            let found = status(path.to_str().expect("names in /proc are UTF-8"));
            assert_eq!(found["NoNewPrivs"], 1, "{who:?}");
            assert_eq!(found["Seccomp"], FILTER, "{who:?}");
            for set in ["CapEff", "CapPrm"] {
                assert_eq!(found[set], kept, "{who:?} {set}");
            }
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(found[set], 0, "{who:?} {set}");
            }
            if who == Who::Root {
                // An ordinary user may not shrink it, and no_new_privs makes nothing of it.
                assert_eq!(found["CapBnd"], kept);
            }
            threads += 1;
        }
        assert!(threads > 1, "{who:?}: it serves with threads");

        // The control: what it would have, had it not confined itself, its launchers still have.
        let launcher = launcher_of(pid);
        let standby = children(launcher)[0];
        let own = of_process(std::process::id());
        for outside in [launcher, standby] {
            let found = of_process(outside);
            for field in ["NoNewPrivs", "Seccomp"] {
                assert_eq!(found[field], own[field], "{who:?} {field}");
            }
            if who == Who::Root {
                assert_eq!(found["CapEff"], own["CapEff"]);
            }
        }
        server.running.close();
        let _ = server.running.end();
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn a_launcher_that_stands_by_takes_little() {
    for who in everyone() {
        let world = World::new(who);
        let server = Server::start(&world, &[]);
        let standby = children(launcher_of(server.running.pid()))[0];
        let rollup = std::fs::read_to_string(format!("/proc/{standby}/smaps_rollup"));
        let rollup = rollup.expect("root may look, and so may its own user");
        let own: u64 = ["Private_Dirty:", "Private_Clean:"]
            .iter()
            .map(|name| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|line| line.trim().strip_suffix("kB"));
                let number = number.expect("it has the field").trim();
                number.parse::<u64>().expect("it is a number") * 1024
            })
            .sum();
        assert!(own <= STANDBY_BYTES_MAX, "{who:?}: {own} bytes");
    }
}

#[test]
fn the_reader_of_a_cell_can_do_little_else_and_ends_with_it() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let arguments = ["run", "--explain", "--", "/bin/sh", "-c", "echo up; cat"];
        let mut running = world.start(&arguments);
        assert_eq!(running.line(), "up", "{who:?}");
        let filtered = |pid: &u32| of_process(*pid)["Seccomp"] == FILTER;
        let in_our_namespace = |pid: &u32| {
            let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            link(*pid) == link(std::process::id())
        };
        let launcher = launcher_of(running.pid());
        let readers: Vec<_> = children(launcher)
            .into_iter()
            .filter(in_our_namespace)
            .filter(filtered)
            .filter(|pid| !is_gateway(*pid))
            .collect();
        let [reader] = readers[..] else {
            panic!("{who:?}: {readers:?}");
        };
        let found = of_process(reader);
        let kept = if who == Who::Root { DAC_READ_SEARCH } else { 0 };
        assert_eq!(found["NoNewPrivs"], 1, "{who:?}");
        assert_eq!(found["CapEff"], kept, "{who:?}");
        assert_eq!(found["CapPrm"], kept, "{who:?}");
        // Its socket, and the PID namespace that it is bound to; more only while it answers.
        let mut descriptors = vec![];
        let few = within(Duration::from_secs(20), || {
            descriptors = descriptors_of(reader);
            descriptors == ["0", "1", "2", "3", "4"]
        });
        assert!(few, "{who:?}: {descriptors:?}");

        running.close();
        assert!(running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn calls_without_anything_to_name_have_no_reader() {
    for who in everyone() {
        let world = World::new(who);
        let mut running = world.start(&["run", "--", "/bin/sh", "-c", "echo up; cat"]);
        assert_eq!(running.line(), "up", "{who:?}");
        let of_launcher = children(launcher_of(running.pid()));
        // The one that stands by, and the cell's first process.
        assert_eq!(of_launcher.len(), 2, "{who:?}");
        running.close();
        assert!(running.end().status.success(), "{who:?}");
    }
}

#[test]
fn the_next_launcher_stands_by_however_many_are_killed() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        let mut launcher = launcher_of(server.running.pid());
        for id in 1..5 {
            let standby = children(launcher)[0];
            kill(launcher);
            server.call(id, "shell", &json!({ "script": "echo ran" }));
            let outcome = server.outcome(id);
            assert_eq!(outcome["stdout"]["text"], "ran\n", "{who:?}: {outcome:#}");
            launcher = standby;
        }
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

#[test]
fn without_any_launcher_calls_are_refused_with_the_mend() {
    for who in everyone() {
        let world = World::new(who);
        let before = Host::look();
        let mut server = Server::start(&world, &[]);
        let launcher = launcher_of(server.running.pid());
        let standby = children(launcher)[0];
        server.call(1, "shell", &json!({ "script": "echo ran" }));
        let control = server.outcome(1);
        assert_eq!(control["stdout"]["text"], "ran\n", "{who:?}: {control:#}");

        kill(standby);
        kill(launcher);
        for id in 2..5 {
            server.call(id, "shell", &json!({ "script": "echo ran" }));
            let outcome = server.outcome(id);
            assert_eq!(outcome["status"], "refused", "{who:?}: {outcome:#}");
            let reason = outcome["reason"].as_str().expect("it has one");
            assert!(reason.contains("hint: restart toolcell"), "{reason}");
        }
        server.running.close();
        assert!(server.running.end().status.success(), "{who:?}");
        assert_nothing_left(&world, &before);
    }
}

fn kill(pid: u32) {
    let number = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a PID fits"));
    nix::sys::signal::kill(number, nix::sys::signal::Signal::SIGKILL).expect("it is running");
    // Dead or reaped, its sockets are closed.
    let dead = within(Duration::from_secs(20), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    assert!(dead, "{pid} is killed");
}

#[test]
fn doctor_says_how_the_supervisor_is_confined() {
    for who in everyone() {
        let world = World::new(who);
        let output = world.toolcell(&["doctor"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said
            .lines()
            .find(|line| line.contains("the supervisor confines itself"))
            .unwrap_or_else(|| panic!("{who:?}: {said}"));
        assert!(line.starts_with("ok"), "{line}");
        assert!(line.contains("Landlock ABI"), "{line}");
        assert!(line.contains("seccomp"), "{line}");
    }
}
