//! Tries things and says what came of them: what the escape tests run, in cells and outside.
//!
//! `probe NAME ARG…` makes one attempt and prints `ok`, with what it found out, or the kernel's
//! error. `probe each ATTEMPT…` makes one attempt for each argument, whose words are separated by
//! spaces, each in a process of its own, and prints a line for each.

mod calls;
mod execution;
mod files;
mod memory;
mod mounts;
mod names;
mod processes;
mod races;
mod raw;
mod shared;
mod sockets;
mod terminals;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;

/// What an attempt found out, or the error that it ended with.
type Found = Result<String, Errno>;

/// One attempt by its name.
type Attempt = (&'static str, fn(&[String]) -> Found);

/// No attempt takes longer; one that does is ended by SIGALRM.
const ATTEMPT_SECONDS: u32 = 20;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((name, attempts)) if name == "each" => {
            for attempt in attempts {
                println!("{attempt}\t{}", apart(attempt));
            }
            ExitCode::SUCCESS
        }
        Some((name, arguments)) => {
            nix::unistd::alarm::set(ATTEMPT_SECONDS);
            let found = one(name, arguments);
            match &found {
                Ok(detail) if detail.is_empty() => println!("ok"),
                Ok(detail) => println!("ok {detail}"),
                Err(errno) => println!("{errno:?}"),
            }
            ExitCode::from(u8::from(found.is_err()))
        }
        None => panic!("expected the name of an attempt"),
    }
}

fn one(name: &str, arguments: &[String]) -> Found {
    let groups: [&[Attempt]; 10] = [
        calls::ATTEMPTS,
        execution::ATTEMPTS,
        files::ATTEMPTS,
        memory::ATTEMPTS,
        mounts::ATTEMPTS,
        processes::ATTEMPTS,
        races::ATTEMPTS,
        shared::ATTEMPTS,
        sockets::ATTEMPTS,
        terminals::ATTEMPTS,
    ];
    let mut attempts = groups.into_iter().flatten();
    let (_, attempt) = attempts
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("no attempt is called `{name}`"));
    attempt(arguments)
}

/// Makes an attempt in a process of its own, since some of them change or end the process.
fn apart(attempt: &str) -> String {
    let program = std::env::current_exe().expect("proc is mounted");
    let output = Command::new(program)
        .args(attempt.split(' '))
        .stdin(Stdio::null())
        .output()
        .expect("the probe can execute itself");
    let said = String::from_utf8_lossy(&output.stdout);
    match (said.lines().next(), output.status.signal()) {
        (Some(line), None) => line.to_owned(),
        (_, signal) => format!(
            "ended by signal {signal:?}: {}",
            String::from_utf8_lossy(&output.stderr).replace('\n', " ")
        ),
    }
}

/// An argument of an attempt.
fn argument(arguments: &[String], index: usize) -> &str {
    arguments
        .get(index)
        .unwrap_or_else(|| panic!("expected argument {index}"))
}

/// A number among the arguments: decimal, or hexadecimal after `0x`.
fn number<T: TryFrom<i128>>(arguments: &[String], index: usize) -> T {
    let text = argument(arguments, index);
    let number = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number = number.unwrap_or_else(|_| panic!("`{text}` is not a number"));
    T::try_from(number).unwrap_or_else(|_| panic!("`{text}` is out of range"))
}

/// The error number of an I/O error.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
