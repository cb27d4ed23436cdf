//! A toolcell that runs while a test does something to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{World, slowness, within};

/// Longest wait for anything that is expected; the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// A started toolcell. Its streams are read all the time, so that it never waits for the test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<Vec<u8>>,
}

impl World {
    /// Starts toolcell, with pipes for its standard streams.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("toolcell starts");
        let (lines, errors) = (
            read_lines(child.stdout.take().expect("it is a pipe")),
            read_all(child.stderr.take().expect("it is a pipe")),
        );
        Running {
            stdin: child.stdin.take(),
            child,
            lines,
            errors,
        }
    }
}

impl Running {
    /// Its PID: the supervisor's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE * slowness())
            .expect("it writes a line in time")
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin
            .write_all(text.as_ref())
            .and_then(|()| stdin.flush())
            .expect("it reads its input");
    }

    /// Closes its standard input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal. One that is gone already is not missed.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a PID fits"));
        let _ = kill(pid, signal);
    }

    /// Waits for its end; returns its status with the output that no `line` took.
    #[must_use]
    pub fn end(mut self) -> Output {
        let status = self.wait();
        let stdout: String = self.lines.iter().map(|line| line + "\n").collect();
        let stderr = self
            .errors
            .recv_timeout(PATIENCE * slowness())
            .unwrap_or_default();
        Output {
            status,
            stdout: stdout.into_bytes(),
            stderr,
        }
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        within(PATIENCE, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("toolcell ends in time")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(from: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            if send
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    lines
}

fn read_all(mut from: ChildStderr) -> Receiver<Vec<u8>> {
    let (send, all) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    all
}
