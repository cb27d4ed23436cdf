//! A client of `toolcell serve --stdio` that writes JSON-RPC by hand.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{Running, World};

/// An MCP server on pipes, past its initialization.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub running: Running,
    answers: HashMap<u64, Value>,
}

impl Server {
    /// Starts one, with further arguments, and initializes it in the era of 2025-11-25.
    #[must_use]
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let running = world.start(&[&["serve", "--stdio"], arguments].concat());
        let mut server = Self {
            running,
            answers: HashMap::new(),
        };
        let parameters = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" },
        });
        server.request(0, "initialize", &parameters);
        let answer = server.answer(0);
        assert!(answer.get("serverInfo").is_some(), "{answer:#}");
        server.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        server
    }

    /// Writes one message.
    pub fn send(&mut self, message: &Value) {
        self.running.write(format!("{message}\n"));
    }

    /// Sends a request.
    pub fn request(&mut self, id: u64, method: &str, parameters: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }));
    }

    /// Calls a tool.
    pub fn call(&mut self, id: u64, tool: &str, arguments: &Value) {
        self.request(
            id,
            "tools/call",
            &json!({ "name": tool, "arguments": arguments }),
        );
    }

    /// Waits for the answer to a request; returns its result, or its error.
    pub fn answer(&mut self, id: u64) -> Value {
        while !self.answers.contains_key(&id) {
            let line = self.running.line();
            let mut message: Value = serde_json::from_str(&line).expect("it writes JSON");
            let Some(answered) = message.get("id").and_then(Value::as_u64) else {
                continue;
            };
            let result = ["result", "error"].map(|key| message[key].take());
            let result = result.into_iter().find(|value| !value.is_null());
            self.answers
                .insert(answered, result.expect("it is an answer"));
        }
        self.answers.remove(&id).expect("it has come")
    }

    /// Waits for the outcome of a call.
    pub fn outcome(&mut self, id: u64) -> Value {
        self.answer(id)["structuredContent"].take()
    }
}
