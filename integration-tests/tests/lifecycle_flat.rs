//! A server that has answered many calls holds no more than one that has answered few.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use harness::stdio::Server;
use harness::{World, cgroup, everyone, left, skip, within};
use serde_json::json;

/// Calls, and how many go before the first count: caches and pools fill.
const CALLS: u64 = 1000;
const WARM_UP: u64 = 40;
/// How many of them are under way at once.
const AT_ONCE: u64 = 4;
/// What a process may grow by over all the calls. A kilobyte lost in each would show.
const GROWTH_MAX_KB: u64 = 1024;

#[test]
fn a_thousand_calls_leave_every_count_as_it_was() {
    // Where each takes seconds, fewer must do.
    let calls = CALLS / u64::from(harness::slowness());
    if calls < CALLS {
        skip(
            "a thousand calls",
            &format!("the machine is slow: {calls} of them were made"),
        );
    }
    for who in everyone() {
        let world = World::new(who);
        let mut server = Server::start(&world, &[]);
        let mut next = 1;
        let mut make = |server: &mut Server, calls: u64| {
            for _ in 0..calls / AT_ONCE {
                let ids = next..next + AT_ONCE;
                next = ids.end;
                for id in ids.clone() {
                    server.call(id, "shell", &json!({ "script": format!("echo {id}") }));
                }
                for id in ids {
                    let outcome = server.outcome(id);
                    assert_eq!(outcome["stdout"]["text"], format!("{id}\n"), "{outcome:#}");
                }
            }
        };
        make(&mut server, WARM_UP);
        let few = settled(&world);
        make(&mut server, calls);
        let mut many = settled(&world);
        // What is on its way out when the last answer comes.
        within(Duration::from_secs(10), || {
            many = settled(&world);
            many.counts == few.counts
        });
        assert_eq!(many.counts, few.counts, "{who:?}");
        assert_eq!(left::cells(&world), 0, "{who:?}");
        for (process, after) in &many.memory_kb {
            let before = few.memory_kb[process];
            assert!(
                after.saturating_sub(before) <= GROWTH_MAX_KB,
                "{who:?}: {process} grew from {before} to {after} kB in {calls} calls"
            );
        }
    }
}

/// What is held, of each process of the world: descriptors and mounts; and cgroups.
#[derive(Debug, Default)]
struct Held {
    counts: BTreeMap<String, usize>,
    memory_kb: BTreeMap<String, u64>,
}

fn settled(world: &World) -> Held {
    let mut held = Held::default();
    let group = world.track.group().expect("processes can be followed here");
    let groups = cgroup::tree(group);
    let place = world.directory.path().display().to_string();
    held.counts.insert("cgroups".into(), groups.len());
    for (pid, name) in world.track.processes().unwrap_or_default() {
        let process = format!("{pid} {name}");
        // Another user's processes hide their descriptors from it.
        if let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) {
            held.counts
                .insert(format!("{process} descriptors"), entries.count());
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        // Others mount here, too.
        let ours = mounts.lines().filter(|line| line.contains(&place));
        held.counts
            .insert(format!("{process} mounts"), ours.count());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let resident = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        held.memory_kb.insert(process, resident.unwrap_or(0));
    }
    held
}
