//! A client of `toolcell serve --listen` and `--socket` that writes HTTP by hand, so that it can write
//! it wrongly as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{World, within};

/// Longest wait for anything that is expected; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// What a client of MCP accepts.
pub const ACCEPT: &str = "application/json, text/event-stream";

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    child: Child,
    said: PathBuf,
    /// Where it listens, as it says.
    pub places: Vec<Place>,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Place {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl Server {
    /// Starts one on a free port of loopback, with further arguments.
    #[must_use]
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        Self::start_by(world, world.command(&arguments))
    }

    /// Starts one by this command, and waits until it listens.
    #[must_use]
    pub fn start_by(world: &World, mut command: std::process::Command) -> Self {
        let said = world.path("server.said");
        let file = std::fs::File::create(&said).expect("the scratch directory is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("it starts");
        let mut server = Self {
            child,
            said,
            places: Vec::new(),
        };
        within(PATIENCE, || {
            let ended = server.child.try_wait().expect("it is our child").is_some();
            server.places = places(&server.said());
            ended || !server.places.is_empty()
        });
        assert!(!server.places.is_empty(), "{}", server.said());
        server
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Its PID: the supervisor's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its address of TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let address = self.places.iter().find_map(|place| match place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        });
        address.expect("it listens on TCP")
    }

    /// A new connection over TCP.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::new(TcpStream::connect(self.address()).expect("it listens"))
    }

    /// One request on a connection of its own.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut connection = self.connect();
        connection.request(method, path, headers, body);
        connection.response()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a PID fits"));
        let _ = kill(pid, signal);
    }

    /// Waits for its end.
    #[must_use]
    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        within(PATIENCE, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it ends in time")
    }

    /// Has it end, which it does well.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.end();
        assert!(status.success(), "{status:?}: {}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn places(said: &str) -> Vec<Place> {
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("toolcell: listening on "));
    lines
        .filter_map(|place| match place.strip_prefix("http://") {
            Some(address) => address.parse().ok().map(Place::Tcp),
            None => Some(Place::Unix(place.strip_prefix("unix:")?.into())),
        })
        .collect()
}

/// Something that is read from and written to.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// One connection.
pub struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer of MCP's that is in it, whether alone or in a stream: its result, or its error.
    #[must_use]
    pub fn answer(&self) -> Value {
        let mut messages = events(&self.body);
        if messages.is_empty() {
            messages.push(self.json());
        }
        let answer = messages
            .into_iter()
            .find(|message| message.get("id").is_some_and(|id| !id.is_null()));
        let mut answer = answer.unwrap_or_else(|| panic!("no answer: {self:?}"));
        let answer = ["result", "error"].map(|key| answer[key].take());
        let answer = answer.into_iter().find(|value| !value.is_null());
        answer.expect("it is an answer")
    }
}

/// The messages of an event stream.
fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok())
        .collect()
}

impl Connection {
    /// On a stream that is connected.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("it is set");
        Self {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// To a Unix socket.
    #[must_use]
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is set");
        Self {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// Writes bytes as they are. A server that has hung up does not read them.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.stream.get_mut();
        let _ = stream
            .write_all(bytes.as_ref())
            .and_then(|()| stream.flush());
    }

    /// Writes a request.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        let has = |name: &str| headers.iter().any(|(given, _)| *given == name);
        if !has("host") {
            text += "host: localhost\r\n";
        }
        if method != "GET" || !body.is_empty() {
            let _ = write!(text, "content-length: {}\r\n", body.len());
            if !has("content-type") {
                text += "content-type: application/json\r\n";
            }
        }
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        self.write(text + "\r\n" + body);
    }

    /// Reads a line; nothing if the server has hung up.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing comes: {error}"),
        }
    }

    /// Whether the server has hung up, after what it may still have written.
    pub fn is_over(&mut self) -> bool {
        while self.line().is_some() {}
        true
    }

    /// Reads the status and the headers of a response; nothing if the server has hung up.
    pub fn head(&mut self) -> Option<Response> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut response = Response {
            status: status.unwrap_or_else(|| panic!("no status: {first}")),
            headers: BTreeMap::new(),
            body: String::new(),
        };
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').expect("a header has a colon");
            let value = value.trim().to_owned();
            response.headers.insert(name.to_ascii_lowercase(), value);
        }
        Some(response)
    }

    /// Reads a whole response.
    #[must_use]
    pub fn response(&mut self) -> Response {
        self.next_response().expect("it answers")
    }

    /// Reads a whole response; nothing if the server has hung up.
    pub fn next_response(&mut self) -> Option<Response> {
        let mut response = self.head()?;
        let mut body = Vec::new();
        if let Some(length) = response.headers.get("content-length") {
            body.resize(length.parse().expect("it is a number"), 0);
            self.stream.read_exact(&mut body).expect("it comes whole");
        } else if response.headers.contains_key("transfer-encoding") {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        }
        response.body = String::from_utf8(body).expect("it is text");
        Some(response)
    }

    /// Reads one chunk of a body; nothing at its end, or where the server has hung up.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line()?;
        let size = usize::from_str_radix(&size, 16).expect("it is a size");
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk).expect("it comes whole");
        self.line()?;
        (size > 0).then_some(chunk)
    }

    /// Reads a streamed body until a message of it fits; returns it.
    pub fn message(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let chunk = self.chunk().expect("more is expected");
            let text = String::from_utf8(chunk).expect("it is text");
            if let Some(message) = events(&text).into_iter().find(&fits) {
                return message;
            }
        }
    }
}

/// A client of MCP in the era of 2025-11-25, past its initialization.
#[derive(Debug)]
pub struct Client<'a> {
    server: &'a Server,
    /// Its session.
    pub session: String,
    /// Further headers of each request.
    pub headers: Vec<(String, String)>,
}

impl<'a> Client<'a> {
    /// Begins a session.
    #[must_use]
    pub fn start(server: &'a Server, headers: &[(&str, &str)]) -> Self {
        let mut client = Self {
            server,
            session: String::new(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let response = client.post(&initialize());
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.answer().get("serverInfo").is_some());
        client
            .session
            .clone_from(&response.headers["mcp-session-id"]);
        let told = client.post(&json!({
            "jsonrpc": "2.0", "method": "notifications/initialized"
        }));
        assert_eq!(told.status, 202, "{told:?}");
        client
    }

    /// Writes a message on a connection of its own.
    #[must_use]
    pub fn send(&self, message: &Value) -> Connection {
        let mut connection = self.server.connect();
        let mut headers = vec![("accept", ACCEPT)];
        if !self.session.is_empty() {
            headers.push(("mcp-session-id", &self.session));
            headers.push(("mcp-protocol-version", "2025-11-25"));
        }
        let own = self.headers.iter();
        headers.extend(own.map(|(name, value)| (name.as_str(), value.as_str())));
        connection.request("POST", "/mcp", &headers, &message.to_string());
        connection
    }

    /// Sends a message and reads what comes back.
    #[must_use]
    pub fn post(&self, message: &Value) -> Response {
        self.send(message).response()
    }

    /// Sends a request; returns its result, or its error.
    #[must_use]
    pub fn request(&self, method: &str, parameters: &Value) -> Value {
        self.post(&json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": parameters }))
            .answer()
    }

    /// Calls a tool; returns the outcome.
    #[must_use]
    pub fn call(&self, tool: &str, arguments: &Value) -> Value {
        let parameters = json!({ "name": tool, "arguments": arguments });
        self.request("tools/call", &parameters)["structuredContent"].take()
    }

    /// The names of the tools.
    #[must_use]
    pub fn tools(&self) -> Vec<String> {
        let listed = self.request("tools/list", &json!({}));
        let tools = listed["tools"].as_array().expect("it is a list");
        tools
            .iter()
            .map(|tool| tool["name"].as_str().expect("it has a name").to_owned())
            .collect()
    }
}

/// The request that begins a session.
#[must_use]
pub fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" },
        },
    })
}

/// A request of the era of 2026-07-28, with its headers.
#[must_use]
pub fn stateless(method: &str, parameters: &Value) -> (Value, Vec<(&'static str, String)>) {
    let mut parameters = parameters.clone();
    parameters["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "0" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut headers = vec![
        ("accept", ACCEPT.to_owned()),
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", method.to_owned()),
    ];
    if let Some(name) = parameters["name"].as_str() {
        headers.push(("mcp-name", name.to_owned()));
    }
    let message = json!({
        "jsonrpc": "2.0", "id": 7, "method": method, "params": parameters
    });
    (message, headers)
}
