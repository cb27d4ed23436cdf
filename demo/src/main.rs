//! `make demo`: an MCP session over standard input and output, with calls that a cell is for.
//!
//! Each scene is one `tools/call` to `toolcell serve --stdio`. At the end the demo looks at what the
//! calls left on the host, and has the receipts verified. The exit status is 1 if anything was not
//! as it should be.

#![allow(
    clippy::disallowed_methods,
    reason = "starts toolcell from outside, as a client does"
)]

mod page;
mod session;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use page::Page;
use session::Session;
use traces::Traces;

const TOOL: &str = "python_small";

/// One call, and how it should end.
struct Scene {
    title: &'static str,
    code: &'static str,
    end: End,
}

enum End {
    /// The tool exits by itself with this status.
    Exits(i64),
    /// With this outcome.
    Ends(&'static str),
    /// With this outcome where whole cells are limited; where only each process is, the tool may be
    /// refused what it asks for, and fail by itself.
    EndsOrFails(&'static str),
}

const SCENES: [Scene; 8] = [
    Scene {
        title: "Work: compute something, and leave a file",
        code: "import os, statistics\n\
               sizes = [2, 3, 5, 8, 13, 21]\n\
               print(\"median\", statistics.median(sizes))\n\
               os.mkdir(\"out\")\n\
               open(\"out/sizes.txt\", \"w\").write(str(sizes))",
        end: End::Exits(0),
    },
    Scene {
        title: "Read the host's passwords",
        code: "print(open(\"/etc/shadow\").read())",
        end: End::Exits(1),
    },
    Scene {
        title: "Open the network",
        code: "import socket\n\
               socket.create_connection((\"1.1.1.1\", 443), timeout=1)",
        end: End::Exits(1),
    },
    Scene {
        title: "Look into another process",
        code: "import ctypes, os\n\
               libc = ctypes.CDLL(None, use_errno=True)\n\
               libc.ptrace(16, os.getppid(), 0, 0)\n\
               raise OSError(ctypes.get_errno(), \"ptrace\")",
        end: End::Exits(1),
    },
    Scene {
        title: "Take all the memory",
        code: "hoard = [bytearray(8 << 20) for _ in range(1000)]",
        end: End::EndsOrFails("out_of_memory"),
    },
    Scene {
        title: "Fork without end",
        code: "import os\n\
               while True:\n    os.fork()",
        end: End::EndsOrFails("pids_exceeded"),
    },
    Scene {
        title: "Sleep past the deadline",
        code: "import time\n\
               time.sleep(3600)",
        end: End::Ends("timed_out"),
    },
    Scene {
        title: "Flood the output",
        code: "while True:\n    print(\"all work and no play\" * 50)",
        end: End::Ends("output_exceeded"),
    },
];

fn main() -> ExitCode {
    match demo(&Page::new()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows everything; true if it all went as it should.
fn demo(page: &Page) -> Result<bool, String> {
    let toolcell = std::env::current_exe()
        .map_err(|error| error.to_string())?
        .with_file_name("toolcell");
    let scratch = tempfile::Builder::new()
        .prefix("toolcell-demo-")
        .tempdir()
        .map_err(|error| format!("no temporary directory: {error}"))?;
    let host = Host {
        toolcell,
        scratch: scratch.path().to_owned(),
    };
    for directory in [host.state(), host.temporary()] {
        fs::create_dir(&directory).map_err(|error| error.to_string())?;
        fs::set_permissions(
            &directory,
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .map_err(|error| error.to_string())?;
    }
    let (tier, why) = host.tier()?;
    // The trial calls of the choice above are not part of the story.
    fs::remove_dir_all(host.state()).map_err(|error| error.to_string())?;
    traces::adopt_orphans().map_err(|error| error.to_string())?;
    let before = Traces::look();

    let mut command = host.command(tier);
    command
        .args(["serve", "--stdio", "--tool", TOOL, "--profiles"])
        .arg(profiles());
    let (mut session, hello) = Session::open(command)?;
    let supervisor = session.pid();
    open(page, tier, why.as_deref(), &hello);
    let mut as_expected = true;
    for (index, scene) in SCENES.iter().enumerate() {
        let outcome = session.call(TOOL, &json!({ "code": scene.code }))?;
        page.scene(index + 1, scene.title, scene.code, &outcome);
        show_files(page, &mut session, &outcome)?;
        if !ended_as(scene, tier, &outcome) {
            page.checked(false, "this is not how it should have ended");
            as_expected = false;
        }
    }
    let server_went = session.close()?;
    let clean = left_behind(page, &host, &before, supervisor) & server_went;
    let receipts = receipts(page, &host)?;
    Ok(as_expected && clean && receipts)
}

fn open(page: &Page, tier: &str, why: Option<&str>, hello: &Value) {
    let user = nix::unistd::geteuid();
    let name = if user.is_root() {
        "root".to_owned()
    } else {
        format!("user {user}")
    };
    let server = &hello["serverInfo"];
    let (server, version) = (text(&server["name"]), text(&server["version"]));
    let mut lines = vec![
        format!(
            "An MCP client talks to {server} {version} over stdio (protocol {}), as {name}, tier {tier}.",
            text(&hello["protocolVersion"])
        ),
        "Every call gets a cell of its own: 64 MiB, 16 processes, 3 s (demo/profiles/python_small.toml)."
            .to_owned(),
    ];
    if let Some(why) = why {
        lines.push(
            "This host gives this user no cgroup to limit whole cells by, so the demo names the \
             weaker tier, `--tier rlimits`:"
                .to_owned(),
        );
        lines.push(
            "each process is limited, and their sum only sampled. `toolcell doctor` says how to \
             mend it. The reason:"
                .to_owned(),
        );
        lines.push(format!("  {why}"));
    }
    page.open("Eight calls to one tool", &lines);
}

fn ended_as(scene: &Scene, tier: &str, outcome: &Value) -> bool {
    let exited = outcome["status"] == "exited";
    match scene.end {
        End::Exits(code) => exited && outcome["exit_code"] == code,
        End::EndsOrFails(_) if tier == "rlimits" && exited => outcome["exit_code"] != 0,
        End::Ends(status) | End::EndsOrFails(status) => outcome["status"] == status,
    }
}

/// The files that a call left, read back as a client would.
fn show_files(page: &Page, session: &mut Session, outcome: &Value) -> Result<(), String> {
    for file in outcome["files"].as_array().into_iter().flatten() {
        let read = session.ask("resources/read", &json!({ "uri": file["resource"] }))?;
        let contents = text(&read["contents"][0]["text"]);
        page.row("left", &format!("out/{}: {contents}", text(&file["name"])));
    }
    Ok(())
}

/// Looks for whatever the session may have left on the host.
fn left_behind(page: &Page, host: &Host, before: &Traces, supervisor: u32) -> bool {
    page.open("What is left of them on this host", &[]);
    let now = Traces::look();
    let checks = [
        (
            !traces::process_left(),
            "no process (every orphan would have come to the demo)",
        ),
        (!traces::cgroup_left(supervisor), "no cgroup"),
        (!now.new_mounts(before), "no mount"),
        (
            !now.new_ipc(before),
            "no System V segment, semaphore or queue",
        ),
        (traces::is_empty(&host.temporary()), "no temporary file"),
    ];
    for (holds, what) in checks {
        page.checked(holds, what);
    }
    checks.iter().all(|(holds, _)| *holds)
}

/// Has the receipts verified: as they are, and with one word changed.
fn receipts(page: &Page, host: &Host) -> Result<bool, String> {
    page.open("What is left on purpose: a receipt for each call", &[]);
    let (whole, said) = host.verify(&host.state())?;
    page.checked(whole, said.lines().next().unwrap_or_default());

    let forged = host.scratch.join("forged");
    forge(&host.state(), &forged).map_err(|error| error.to_string())?;
    let (whole, said) = host.verify(&forged)?;
    let found = said.lines().next().unwrap_or_default();
    let found = found.split_once("forged/").map_or(found, |(_, rest)| rest);
    page.checked(
        !whole,
        &format!("in a copy with one status changed: {found}"),
    );
    Ok(!whole)
}

/// Copies receipts, and changes how one call is said to have ended.
fn forge(receipts: &Path, copy: &Path) -> std::io::Result<()> {
    fs::create_dir(copy)?;
    for file in fs::read_dir(receipts)? {
        let file = file?;
        let target = copy.join(file.file_name());
        fs::copy(file.path(), &target)?;
        if target
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            let honest = fs::read_to_string(&target)?;
            fs::write(&target, honest.replace("timed_out", "exited"))?;
        }
    }
    Ok(())
}

/// Where the demo's toolcell runs.
struct Host {
    toolcell: PathBuf,
    scratch: PathBuf,
}

impl Host {
    fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    fn temporary(&self) -> PathBuf {
        self.scratch.join("tmp")
    }

    fn command(&self, tier: &str) -> Command {
        let mut command = Command::new(&self.toolcell);
        command
            .args(["--tier", tier])
            .env("STATE_DIRECTORY", self.state())
            .env("TMPDIR", self.temporary())
            .env("XDG_CONFIG_HOME", &self.scratch);
        command
    }

    /// The strongest tier that works here and, if it is not the strongest there is, why.
    fn tier(&self) -> Result<(&'static str, Option<String>), String> {
        let full = self.trial("full")?;
        if full["status"] == "exited" {
            return Ok(("full", None));
        }
        let why = text(&full["reason"]);
        let why = why.split("; hint:").next().unwrap_or(why);
        let why = why
            .split_once("here: ")
            .map_or(why, |(_, rest)| rest)
            .to_owned();
        let rlimits = self.trial("rlimits")?;
        if rlimits["status"] == "exited" {
            return Ok(("rlimits", Some(why)));
        }
        let reason = text(&rlimits["reason"]);
        Err(format!(
            "no cell can be had here: {reason}; hint: `toolcell doctor` says what is missing"
        ))
    }

    fn trial(&self, tier: &str) -> Result<Value, String> {
        if !Path::new("/usr/bin/python3").exists() {
            return Err(
                "the calls need `/usr/bin/python3`; hint: `apt-get install python3`".to_owned(),
            );
        }
        let output = self
            .command(tier)
            .args(["call", "--json", "calculate", "expression=6*7"])
            .output()
            .map_err(|error| format!("{}: {error}", self.toolcell.display()))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Whether the receipts in a directory are whole, and what was said of them.
    fn verify(&self, directory: &Path) -> Result<(bool, String), String> {
        let output = self
            .command("full")
            .args(["audit", "verify"])
            .arg(directory)
            .output()
            .map_err(|error| error.to_string())?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }
}

/// The demo's profiles, in the source tree that it was built from.
fn profiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
