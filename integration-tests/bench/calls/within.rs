//! What the layers cost a program while it runs: the same loops inside of a cell and outside.

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use harness::World;
use harness::programs::told;
use serde_json::{Value, json};

/// Turns of each side.
const ROUNDS: usize = 9;
/// System calls of each loop.
const GETPIDS: u32 = 200_000;
const OPENS: u32 = 40_000;
/// Steps of a loop that makes none.
const STEPS: u64 = 150_000_000;

/// One loop's nanoseconds, outside and inside by turns.
pub struct Loop {
    /// What it does.
    pub name: &'static str,
    /// Its key in what is printed.
    key: &'static str,
    /// Most that inside may be of outside.
    pub bar: f64,
    /// Outside.
    pub outside: Vec<f64>,
    /// Inside.
    pub inside: Vec<f64>,
}

/// The loops, as the program that is measured.
pub fn main() -> ExitCode {
    let timed = |times: f64, work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1e9 / times
    };
    let getpid = timed(f64::from(GETPIDS), &mut || {
        for _ in 0..GETPIDS {
            black_box(nix::unistd::getppid());
        }
    });
    let open = timed(f64::from(OPENS), &mut || {
        for _ in 0..OPENS {
            drop(std::fs::File::open("/usr/bin/env").expect("it is everywhere"));
        }
    });
    let compute = timed(1e6, &mut || {
        let sum = (0..STEPS).fold(0_u64, |sum, step| black_box(sum.wrapping_mul(31) ^ step));
        black_box(sum);
    });
    println!(
        "{}",
        json!({ "getpid": getpid, "open": open, "compute": compute })
    );
    ExitCode::SUCCESS
}

/// Has the loops run by turns.
pub fn measure(world: &World) -> Vec<Loop> {
    let directory = tempfile::TempDir::with_prefix_in("toolcell-bench-", "/var/tmp");
    let directory = directory.expect("/var/tmp is writable");
    let own = directory.path().join("calls");
    std::fs::copy(std::env::current_exe().expect("it has one"), &own).expect("it is ours");
    let path = own.to_str().expect("its name is plain");
    std::os::unix::fs::chown(directory.path(), None, None).expect("it is ours");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable).expect("it is ours");
    let profile = world.profile(&format!("[files]\nexec = [\"{path}\"]\n"));
    let made = |name, key, bar| Loop {
        name,
        key,
        bar,
        outside: vec![],
        inside: vec![],
    };
    let mut loops = vec![
        made("a system call (`getppid`)", "getpid", 1.12),
        made("open and close", "open", 1.6),
        made("computing", "compute", 1.02),
    ];
    for _ in 0..ROUNDS {
        let outside = told(Command::new(&own).arg("within")).expect("it runs");
        let outside: Value = serde_json::from_str(&outside).expect("it prints JSON");
        let outcome = world.run(&profile, &[path, "within"]);
        let inside = outcome["stdout"]["text"].as_str().unwrap_or_default();
        let inside: Value = serde_json::from_str(inside).unwrap_or_else(|_| panic!("{outcome:#}"));
        for one in &mut loops {
            let figure = |said: &Value| said[one.key].as_f64().expect("it is a number");
            let (outside, inside) = (figure(&outside), figure(&inside));
            one.outside.push(outside);
            one.inside.push(inside);
        }
    }
    loops
}
