//! What egress costs: the same client and the same server, directly over loopback, through a cell, and
//! through `srt` (npm's `@anthropic-ai/sandbox-runtime`) if `SRT` names it. All take turns in one run, so
//! that ratios hold on a busy machine too. Root makes the namespaces: `make bench-egress`.
//!
//! The table goes to `target/bench/egress.md`; the process fails if a bar is missed.

mod client;
mod server;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use harness::internet::{Internet, WWW, network};
use harness::programs::{ROOMY, told};
use harness::stdio::Server;
use harness::{Who, World};
use serde_json::{Value, json};

use client::Figures;

/// How often each way has its turn.
const ROUNDS: usize = 7;
/// Calls of each tool for what setting up a cell takes.
const CALLS: u64 = 200;
/// Whole commands of each kind.
const COMMANDS: usize = 20;
/// The server's name in the namespaces.
const HOST: &str = "www.example.org";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => server::main(),
        Some("client") => client::main(HOST),
        Some("--bench") => run(),
        // `cargo test --all-targets` starts it too.
        _ => ExitCode::SUCCESS,
    }
}

fn run() -> ExitCode {
    // A name server's answers would be remembered; these need no server at all.
    let hosts = format!("127.0.0.1 localhost\n{WWW} {HOST}\n2606:4700::1111 {HOST}\n");
    let Some(internet) = Internet::with(&hosts) else {
        return ExitCode::FAILURE;
    };
    let world = internet.world(Who::Root);
    // Where cells have nothing of their own, and everybody can read.
    let directory = tempfile::TempDir::with_prefix_in("toolcell-bench-", "/var/tmp");
    let directory = directory.expect("/var/tmp is writable");
    let own = directory.path().join("egress");
    let executable = std::env::current_exe().expect("it has an executable");
    std::fs::copy(executable, &own).expect("the directory is ours");
    let mut command = world.program(&own, &["serve"]);
    let mut serving = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let srt = Srt::find(&world);
    let table = measure(&world, &own, srt.as_ref());
    let set_up = set_up(&world);
    let commands = commands(&world, srt.as_ref());
    let _ = serving.kill();
    let _ = serving.wait();
    report(&table, &set_up, &commands)
}

/// What was measured of each way, by turns.
struct Table {
    direct: Vec<Figures>,
    cell: Vec<Figures>,
    srt: Vec<Figures>,
}

fn measure(world: &World, own: &Path, srt: Option<&Srt>) -> Table {
    let path = own.to_str().expect("its name is plain");
    let entry = format!("{HOST}:{}", server::PORT);
    let tables = format!(
        "[network]\nallow = [\"{entry}\"]\n[files]\nexec = [\"{path}\"]\n{}\negress = \"2 GiB\"",
        ROOMY.trim_end()
    );
    let profile = network(world, &tables);
    let mut table = Table {
        direct: vec![],
        cell: vec![],
        srt: vec![],
    };
    // What is first in a round, and what is after a gap, may be slower: nobody always is.
    for round in 0..ROUNDS {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => {
                    let said = told(&mut world.program(own, &["client"]));
                    table
                        .direct
                        .push(Figures::read(&said.expect("the client runs")));
                }
                1 => {
                    let outcome = world.run(&profile, &[path, "client"]);
                    let said = outcome["stdout"]["text"].as_str().unwrap_or_default();
                    assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
                    table.cell.push(Figures::read(said));
                }
                _ => {
                    if let Some(srt) = srt {
                        let said = told(&mut srt.command(world, 1, &[path, "client"]));
                        match said {
                            Ok(said) => table.srt.push(Figures::read(&said)),
                            Err(error) => eprintln!("srt does without this round: {error}"),
                        }
                    }
                }
            }
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    table
}

/// Milliseconds of calls of `/bin/true` by a running server: with no network, and with ten names.
fn set_up(world: &World) -> [Vec<f64>; 2] {
    let names: Vec<_> = (0..10)
        .map(|n| format!("name-{n}.wild.example.net"))
        .collect();
    for (name, tables) in [
        ("none", String::new()),
        ("ten", format!("[network]\nallow = {}", json!(names))),
    ] {
        let text = format!(
            "format = 1\nname = \"{name}\"\ntitle = \"T\"\ndescription = \"A benchmark's.\"\n\
             extends = [\"network\"]\n[run]\nargv = [\"/bin/true\"]\n\
             [input]\ntype = \"object\"\n{tables}\n"
        );
        world.write(&format!("profiles/{name}.toml"), &text);
    }
    let profiles = world.path("profiles");
    let mut server = Server::start(world, &["--profiles", profiles.to_str().expect("plain")]);
    let mut taken = [vec![], vec![]];
    for id in 1..=2 * CALLS {
        let turn = usize::from(id % 2 == 0);
        let begun = Instant::now();
        server.call(id, ["none", "ten"][turn], &json!({}));
        let outcome = server.outcome(id);
        assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
        // The first of each starts what later ones share.
        if id > 20 {
            taken[turn].push(millis(begun.elapsed()));
        }
    }
    taken
}

/// Milliseconds of whole commands that run `/bin/true` with ten names allowed: ours, and srt's.
fn commands(world: &World, srt: Option<&Srt>) -> [Vec<f64>; 2] {
    let names: Vec<_> = (0..10)
        .map(|n| format!("name-{n}.wild.example.net"))
        .collect();
    let profile = network(world, &format!("[network]\nallow = {}", json!(names)));
    let mut taken = [vec![], vec![]];
    for _ in 0..COMMANDS {
        let arguments = ["run", "--json", "--profile", &profile, "--", "/bin/true"];
        taken[0].push(timed(&mut world.command(&arguments)));
        if let Some(srt) = srt {
            taken[1].push(timed(&mut srt.command(world, 10, &["/bin/true"])));
        }
    }
    taken
}

fn timed(command: &mut Command) -> f64 {
    let begun = Instant::now();
    told(command).expect("it succeeds");
    millis(begun.elapsed())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Another sandbox with an allowlist of names, to compare with.
struct Srt {
    program: String,
}

impl Srt {
    fn find(world: &World) -> Option<Self> {
        let Ok(program) = std::env::var("SRT") else {
            eprintln!(
                "srt is not measured; hint: `npm install @anthropic-ai/sandbox-runtime`, and `SRT=…/node_modules/.bin/srt`"
            );
            return None;
        };
        let srt = Self { program };
        match told(&mut srt.command(world, 1, &["/bin/true"])) {
            Ok(_) => Some(srt),
            Err(error) => {
                eprintln!("srt is not measured, for it does not run here: {error}");
                None
            }
        }
    }

    fn command(&self, world: &World, names: usize, command: &[&str]) -> Command {
        let others = (1..names).map(|n| format!("name-{n}.wild.example.net"));
        let names: Vec<_> = std::iter::once(HOST.to_owned()).chain(others).collect();
        let settings = json!({
            "network": { "allowedDomains": names, "deniedDomains": [] },
            "filesystem": { "denyRead": [], "allowWrite": ["/tmp"], "denyWrite": [] },
        });
        let settings = world.write(&format!("srt-{}.json", names.len()), &settings.to_string());
        let mut arguments = vec!["--settings", settings.to_str().expect("plain"), "--"];
        arguments.extend(command);
        world.program(Path::new(&self.program), &arguments)
    }
}

/// A row: what it is of, the figure, the bar in words, and whether a cell's meets it beside the direct.
type Kind = (
    &'static str,
    fn(&Figures) -> f64,
    &'static str,
    fn(f64, f64) -> bool,
);

/// Writes the table, and says whether every bar is met.
fn report(table: &Table, set_up: &[Vec<f64>; 2], commands: &[Vec<f64>; 2]) -> ExitCode {
    let mut rows = vec![];
    let mut missed = vec![];
    let kinds: [Kind; 3] = [
        (
            "1 GiB download, MiB/s",
            |f| f.mebibytes,
            "≥ 0.5×",
            |cell, direct| cell >= 0.5 * direct,
        ),
        (
            "new connection and a GET, µs",
            |f| f.connection,
            "≤ 3.5×",
            |cell, direct| cell <= 3.5 * direct,
        ),
        (
            "GET on an open connection, µs",
            |f| f.request,
            "≤ 90 µs where direct is up to 40, else ≤ 2.25×",
            |cell, direct| cell <= 2.25 * direct.max(40.0),
        ),
    ];
    for (name, figure, bar, met) in kinds {
        let of = |figures: &[Figures]| Spread::of(figures.iter().map(figure));
        let (direct, cell, srt) = (of(&table.direct), of(&table.cell), of(&table.srt));
        let faster = bar.starts_with('≥') == (cell.median > srt.median);
        if !met(cell.median, direct.median) || !(srt.none() || faster) {
            missed.push(name);
        }
        let ratio = cell.median / direct.median;
        let beside = srt.beside(&direct);
        rows.push(format!(
            "| {name} | {direct} | {cell} | {ratio:.2}× | {bar} | {beside} |"
        ));
    }
    let [none, ten] = set_up
        .each_ref()
        .map(|taken| Spread::of(taken.iter().copied()));
    // Of calls that are neighbours, so that what else the machine does is in both.
    let pairs = set_up[0].iter().zip(&set_up[1]);
    let more = Spread::of(pairs.map(|(none, ten)| ten - none)).median;
    if more > 0.7 {
        missed.push("set-up");
    }
    rows.push(format!(
        "| call of `true`: no names, ten names, ms | {none} | {ten} | +{more:.2} ms | ≤ +0.7 ms | |"
    ));
    let [ours, theirs] = commands
        .each_ref()
        .map(|taken| Spread::of(taken.iter().copied()));
    if !theirs.none() && theirs.median < ours.median {
        missed.push("whole command");
    }
    rows.push(format!(
        "| whole command `true`, ten names, ms | | {ours} | | | {theirs} |"
    ));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!("{} cores, Linux {}\n\n", cores, kernel.trim());
    text.push_str("| | direct | cell | ratio | bar | srt |\n|---|---|---|---|---|---|\n");
    for row in rows {
        writeln!(text, "{row}").expect("a string takes it");
    }
    print!("{text}");
    let directory = harness::profile_directory().join("../bench");
    std::fs::create_dir_all(&directory).expect("target is writable");
    std::fs::write(directory.join("egress.md"), text).expect("target is writable");
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("bars missed: {}", missed.join(", "));
    ExitCode::FAILURE
}

/// The median, with the least and the most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }

    fn none(&self) -> bool {
        self.median.is_nan()
    }

    /// With how many times the direct it is.
    fn beside(&self, direct: &Self) -> String {
        if self.none() {
            return String::new();
        }
        format!("{self}, {:.2}×", self.median / direct.median)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.none() {
            return write!(f, "–");
        }
        let digits = usize::from(self.median < 100.0);
        let Self {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

/// A figure of the client's output.
fn figure(said: &Value, key: &str) -> f64 {
    said[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no `{key}` in {said}"))
}
