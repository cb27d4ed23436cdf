//! What a call costs beside a bare spawn of the same program, and beside other sandboxes that are
//! installed here. All take turns in one run, so that ratios hold on a busy machine too: `make bench`.
//!
//! The report goes to `target/bench/calls.md` with a plot beside it; the process fails if a bar is missed.

mod peers;
mod report;
mod within;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::stdio::Server;
use harness::{Who, World, within as in_time};
use serde_json::json;

use peers::Peer;
use report::Report;

/// Rounds of `true`, in which each way has one turn.
const ROUNDS: usize = 400;
/// Rounds of programs that take longer.
const LONG_ROUNDS: usize = 100;
/// Rounds of which a slow peer is in one.
const SLOW_EVERY: usize = 20;
/// Rounds that are not counted.
const WARM_UP: usize = 10;
/// Calls for each figure of throughput, and how often it is measured.
const THROUGHPUT_CALLS: usize = 240;
const THROUGHPUT_ROUNDS: usize = 5;
/// Callers of a burst.
const BURST: usize = 16;
/// Longest wait for cells that shall wait.
const SETTLED_MAX: Duration = Duration::from_mins(1);

/// The programs that are started.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("true", &["/usr/bin/true"]),
    ("python", &["/usr/bin/python3", "-I", "-c", "pass"]),
    (
        "work",
        &[
            "/usr/bin/python3",
            "-I",
            "-c",
            "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass",
        ],
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("within") => within::main(),
        Some("--bench") => run(),
        // `cargo test --all-targets` starts it too.
        _ => ExitCode::SUCCESS,
    }
}

fn run() -> ExitCode {
    let who = if nix::unistd::geteuid().is_root() {
        Who::Root
    } else {
        Who::User
    };
    let world = World::new(who);
    tools(&world);
    let peers = Peer::installed(&world);
    let mut report = Report::new();
    for (program, command) in PROGRAMS {
        let rounds = if program == "true" {
            ROUNDS
        } else {
            LONG_ROUNDS
        };
        report.latencies(program, latencies(&world, program, command, rounds, &peers));
    }
    for callers in [1, 2, BURST] {
        report.throughput(callers, throughput(&world, callers));
    }
    report.burst(burst(&world));
    report.idle(idle(&world));
    report.within(within::measure(&world));
    report.finish()
}

/// Writes a profile of each program, cold and with cells that wait.
fn tools(world: &World) {
    for (program, command) in PROGRAMS {
        for (name, pool) in [
            (format!("{program}_cold"), String::new()),
            (format!("{program}_ready"), "[pool]\nready = 4".to_owned()),
            (
                format!("{program}_many"),
                format!("[pool]\nready = {BURST}"),
            ),
        ] {
            let text = format!(
                "format = 1\nname = \"{name}\"\ntitle = \"T\"\ndescription = \"A benchmark's.\"\n\
                 extends = [\"standard\"]\n[input]\ntype = \"object\"\n\
                 [run]\nargv = {}\n[limits]\nconcurrency = {BURST}\nrate = \"1000000/min\"\n{pool}\n",
                json!(command)
            );
            let directory = if name.ends_with("many") {
                "many"
            } else {
                "few"
            };
            world.write(&format!("{directory}/{name}.toml"), &text);
        }
    }
    let text = "format = 1\nname = \"prestarted\"\ntitle = \"T\"\ndescription = \"A benchmark's.\"\n\
                extends = [\"standard\"]\n[input]\ntype = \"object\"\nrequired = [\"code\"]\n\
                properties.code = { type = \"string\" }\n\
                [run]\nargv = [\"/usr/bin/python3\", \"-I\", \"-\"]\nstdin = \"{code}\"\n\
                [limits]\nconcurrency = 16\nrate = \"1000000/min\"\n\
                [pool]\nready = 4\nprestart = true\n";
    world.write("few/prestarted.toml", text);
}

fn serve(world: &World, directory: &str) -> Server {
    let profiles = world.path(directory);
    Server::start(
        world,
        &[
            "--profiles",
            profiles.to_str().expect("plain"),
            "--receipts",
            "kernel",
        ],
    )
}

/// A server's calls, one after the other.
struct Calls {
    server: Server,
    next: u64,
}

impl Calls {
    fn new(world: &World, directory: &str) -> Self {
        Self {
            server: serve(world, directory),
            next: 1,
        }
    }

    /// Milliseconds of a call, and what it was served from.
    fn call(&mut self, tool: &str, code: Option<&str>) -> (f64, String) {
        let id = self.next;
        self.next += 1;
        let arguments = code.map_or_else(|| json!({}), |code| json!({ "code": code }));
        let begun = Instant::now();
        self.server.call(id, tool, &arguments);
        let outcome = self.server.outcome(id);
        let taken = millis(begun.elapsed());
        assert_eq!(outcome["succeeded"], true, "{outcome:#}");
        let start = outcome["enforced"]["start"].as_str().unwrap_or_default();
        (taken, start.to_owned())
    }

    /// The time of a call that must be served so. What is not there yet is waited for, as between the
    /// calls of an agent.
    fn timed(&mut self, tool: &str, code: Option<&str>, start: &str) -> f64 {
        let mut taken = None;
        in_time(SETTLED_MAX, || {
            let (millis, from) = self.call(tool, code);
            taken = (from == start).then_some(millis);
            taken.is_some()
        });
        taken.unwrap_or_else(|| panic!("`{tool}` is never {start}"))
    }
}

/// A way to start a program: its name, what takes its time once, and in which rounds it has a turn.
type Way<'a> = (String, Box<dyn FnMut() -> f64 + 'a>, usize);

/// Milliseconds of each way, by its name.
pub type Latencies = Vec<(String, Vec<f64>)>;

fn latencies(
    world: &World,
    program: &str,
    command: &[&str],
    rounds: usize,
    peers: &[Peer],
) -> Latencies {
    let calls = Mutex::new(Calls::new(world, "few"));
    let profile = world.profile("");
    let mut ways: Vec<Way<'_>> = Vec::new();
    let bare = || timed(Command::new(command[0]).args(&command[1..]));
    ways.push(("bare spawn".to_owned(), Box::new(bare), 1));
    let call = |tool: String, code: Option<&'static str>, start: &'static str| {
        let calls = &calls;
        Box::new(move || {
            let mut calls = calls.lock().expect("nobody panics with it");
            calls.timed(&tool, code, start)
        })
    };
    ways.push((
        "cold".to_owned(),
        call(format!("{program}_cold"), None, "cold"),
        1,
    ));
    ways.push((
        "ready".to_owned(),
        call(format!("{program}_ready"), None, "ready"),
        1,
    ));
    if program == "python" {
        let way = call("prestarted".to_owned(), Some("pass"), "prestarted");
        ways.push(("prestarted".to_owned(), way, 1));
    }
    let run = || {
        let arguments = ["run", "--profile", &profile, "--"];
        timed(&mut world.command(&[&arguments[..], command].concat()))
    };
    ways.push(("toolcell run".to_owned(), Box::new(run), 4));
    for peer in peers {
        let every = if peer.is_slow { SLOW_EVERY } else { 4 };
        let way = || timed(&mut peer.command(command));
        ways.push((peer.name.clone(), Box::new(way), every));
    }
    let mut taken: Latencies = ways
        .iter()
        .map(|(name, ..)| (name.clone(), vec![]))
        .collect();
    let count = ways.len();
    for round in 0..WARM_UP + rounds {
        // What is first in a round may be slower: nobody always is.
        for turn in 0..count {
            let index = (round + turn) % count;
            let (_, way, every) = &mut ways[index];
            if round % *every != 0 {
                continue;
            }
            let millis = way();
            if round >= WARM_UP {
                taken[index].1.push(millis);
            }
        }
    }
    taken
}

/// Milliseconds of a program with nothing to read and nobody to listen.
fn timed(command: &mut Command) -> f64 {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().expect("it can be started");
    let taken = millis(begun.elapsed());
    assert!(status.success(), "{command:?}: {status}");
    taken
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Calls per second of `true`: bare spawns, cold, ready.
fn throughput(world: &World, callers: usize) -> [Vec<f64>; 3] {
    let mut few = Calls::new(world, "few");
    let mut many = Calls::new(world, "many");
    let mut rates = [vec![], vec![], vec![]];
    for _ in 0..THROUGHPUT_ROUNDS {
        rates[0].push(rate(|| spawn_all(callers, THROUGHPUT_CALLS)));
        rates[1].push(rate(|| few.keep(callers, "true_cold", THROUGHPUT_CALLS)));
        rates[2].push(rate(|| many.keep(callers, "true_many", THROUGHPUT_CALLS)));
    }
    rates
}

fn rate(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    let calls = u32::try_from(THROUGHPUT_CALLS).expect("it is small");
    f64::from(calls) / begun.elapsed().as_secs_f64()
}

/// Spawns `true` from so many threads.
fn spawn_all(callers: usize, times: usize) {
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let own = times / callers + usize::from(caller < times % callers);
            scope.spawn(move || {
                for _ in 0..own {
                    timed(&mut Command::new("/usr/bin/true"));
                }
            });
        }
    });
}

impl Calls {
    /// Keeps so many calls under way until all are answered.
    fn keep(&mut self, callers: usize, tool: &str, times: usize) {
        let first = self.next;
        let mut sent = 0;
        let mut answered = 0;
        while answered < times {
            while sent < times && sent - answered < callers {
                self.server.call(self.next, tool, &json!({}));
                self.next += 1;
                sent += 1;
            }
            let outcome = self.server.outcome(first + answered as u64);
            assert_eq!(outcome["succeeded"], true, "{outcome:#}");
            answered += 1;
        }
    }
}

/// Milliseconds until a burst is answered: of bare spawns, and of calls that find a cell each.
fn burst(world: &World) -> [Vec<f64>; 2] {
    let mut calls = Calls::new(world, "many");
    let mut taken = [vec![], vec![]];
    for _ in 0..4 * THROUGHPUT_ROUNDS {
        assert!(in_time(SETTLED_MAX, || harness::left::cells(world) >= 3 * BURST));
        let begun = Instant::now();
        spawn_all(BURST, BURST);
        taken[0].push(millis(begun.elapsed()));
        let begun = Instant::now();
        calls.keep(BURST, "true_many", BURST);
        taken[1].push(millis(begun.elapsed()));
    }
    taken
}

/// What waits for calls holds, in KiB.
pub struct Idle {
    /// The supervisor's own memory.
    pub supervisor: f64,
    /// The launcher's.
    pub launcher: f64,
    /// What the kernel charges to the cgroup of a cell that waits; the median.
    pub cell: f64,
}

fn idle(world: &World) -> Option<Idle> {
    let mut calls = Calls::new(world, "many");
    calls.timed("true_many", None, "ready");
    in_time(SETTLED_MAX, || harness::left::cells(world) >= 3 * BURST).then_some(())?;
    let supervisor = calls.server.running.pid();
    let children =
        std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
    let launcher = children.ok()?.split_whitespace().next()?.parse().ok()?;
    let mut cells: Vec<f64> = harness::left::cgroups(world)
        .iter()
        .filter_map(|group| {
            let files = ["memory.usage_in_bytes", "memory.current"];
            let text = files
                .iter()
                .find_map(|file| std::fs::read_to_string(group.join(file)).ok())?;
            Some(text.trim().parse::<f64>().ok()? / 1024.0)
        })
        .collect();
    cells.sort_by(f64::total_cmp);
    Some(Idle {
        supervisor: private(supervisor)?,
        launcher: private(launcher)?,
        cell: *cells.get(cells.len() / 2)?,
    })
}

/// Memory that a process does not share, in KiB.
fn private(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(of("Private_Clean:")? + of("Private_Dirty:")?)
}
