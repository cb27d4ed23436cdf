//! A small MCP client: JSON-RPC, a message a line, over the pipes of `toolcell serve --stdio`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for an answer: the demo's calls end within three seconds by themselves.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the server to go once its standard input is closed.
const GOODBYE_MAX: Duration = Duration::from_secs(12);
/// How often a server that is about to go is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A server, and the conversation with it.
pub struct Session {
    server: Child,
    to_server: ChildStdin,
    messages: Receiver<String>,
    last_id: u64,
}

impl Session {
    /// Starts the server and says hello; returns what it says about itself.
    pub fn open(mut command: Command) -> Result<(Self, Value), String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command
            .spawn()
            .map_err(|error| format!("no server: {error}"))?;
        let to_server = server
            .stdin
            .take()
            .ok_or("the server has no standard input")?;
        let from_server = server
            .stdout
            .take()
            .ok_or("the server has no standard output")?;
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from_server).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut session = Self {
            server,
            to_server,
            messages,
            last_id: 0,
        };
        let hello = session.ask(
            "initialize",
            &json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": "toolcell-demo", "version": env!("CARGO_PKG_VERSION") },
            }),
        )?;
        session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok((session, hello))
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .messages
                .recv_timeout(left)
                .map_err(|error| format!("no answer to `{method}`: {error}"))?;
            let mut message: Value = serde_json::from_str(&line)
                .map_err(|error| format!("`{line}` is no message: {error}"))?;
            if message["id"] != id {
                continue;
            }
            return match message.get("error") {
                Some(error) => Err(format!("`{method}` was answered with {error}")),
                None => Ok(message["result"].take()),
            };
        }
    }

    /// Calls a tool; returns the outcome, which is the result's structured content.
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value, String> {
        let params = json!({ "name": tool, "arguments": arguments });
        let mut result = self.ask("tools/call", &params)?;
        match result["structuredContent"].take() {
            Value::Null => Err(format!(
                "`{tool}` was answered without an outcome: {result}"
            )),
            outcome => Ok(outcome),
        }
    }

    /// Closes the server's standard input, as clients do, and waits for it to go.
    pub fn close(self) -> Result<bool, String> {
        let Self {
            mut server,
            to_server,
            ..
        } = self;
        drop(to_server);
        let deadline = Instant::now() + GOODBYE_MAX;
        loop {
            match server.try_wait().map_err(|error| error.to_string())? {
                Some(status) => return Ok(status.success()),
                None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                None => {
                    let _ = server.kill();
                    let _ = server.wait();
                    return Err("the server did not go when its client did".to_owned());
                }
            }
        }
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    fn send(&mut self, message: &Value) -> Result<(), String> {
        writeln!(self.to_server, "{message}")
            .and_then(|()| self.to_server.flush())
            .map_err(|error| format!("the server does not listen: {error}"))
    }
}
