//! A fake internet: namespaces of the test's own in which every address is answered by
//! `programs/internet.py`, names are those that the test says, and programs trust the test's
//! authority. Toolcell runs in it as it runs on a host; nothing outside changes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::programs::{installed, script};
use crate::{Who, World, skip};

/// Longest wait for what the servers say; the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);
/// By when an attempt that is denied must have failed: what is denied at once fails within a few
/// milliseconds, and a client that waits does so for 10 s.
pub const AT_ONCE_MILLIS: f64 = 5000.0;
/// The namespaces' name server; its answers go to an address of its own machine, which is any.
const NAME_SERVER: &str = "9.9.9.9:";
/// What the namespaces are made of, and their certificates.
const PROGRAMS: [&str; 8] = [
    "/usr/bin/curl",
    "/usr/bin/mount",
    "/usr/bin/nsenter",
    "/usr/bin/openssl",
    "/usr/bin/python3",
    "/usr/bin/setpriv",
    "/usr/bin/unshare",
    "/bin/ip",
];

/// What is allowed in most tests of what is denied.
pub const WWW_ONLY: &str = "[network]\nallow = [\"www.example.org\"]";
/// Where `www.example.org` is.
pub const WWW: &str = "93.184.215.14";
/// Where `other.example.org` is.
pub const OTHER: &str = "93.184.215.15";

/// Where the web sites of `websites.rs` are; `internet.py` has the same.
pub(crate) const SITES: &str = "151.101.1.1";

/// Names of every fake internet: two to allow and to deny, and those that lead astray.
fn names() -> Value {
    let at = |address: &str| json!({ "A": [[address]] });
    let at_6 = |address: &str| json!({ "AAAA": [[address]] });
    json!({
        "www.example.org": at(WWW),
        "other.example.org": at(OTHER),
        "xn--bcher-kva.example.org": at(WWW),
        "*.wild.example.net": at("151.101.0.223"),
        "six.example.org": at_6("2606:4700::1111"),
        "both.example.org": { "A": [[WWW]], "AAAA": [["2606:4700::1111"]] },
        "api.openai.com": at(WWW),
        "expired.example.org": at(WWW),
        "misnamed.example.org": at(WWW),
        "stranger.example.org": at(WWW),
        "two.example.org": { "A": [[WWW, OTHER]] },
        "api.internal.example": at("10.0.0.5"),
        "metadata.example.org": at("169.254.169.254"),
        "private.example.org": at("10.0.0.5"),
        "home.example.org": at("192.168.1.1"),
        "carrier.example.org": at("100.64.0.1"),
        "loopback.example.org": at("127.0.0.1"),
        "zero.example.org": at("0.0.0.0"),
        "multicast.example.org": at("224.0.0.1"),
        "loopback6.example.org": at_6("::1"),
        "mapped.example.org": at_6("::ffff:169.254.169.254"),
        "nat64.example.org": at_6("64:ff9b::a9fe:a9fe"),
        "sixtofour.example.org": at_6("2002:a9fe:a9fe::1"),
        "local6.example.org": at_6("fd00:ec2::254"),
        "link6.example.org": at_6("fe80::1"),
        "rebound.example.org": { "A": [[WWW], ["169.254.169.254"]] },
        "mixed.example.org": { "A": [["169.254.169.254", OTHER]] },
        "silent.example.org": { "silent": true },
        "api.weather.gov": at("23.202.0.1"),
        "codeberg.org": at("217.197.91.145"),
        "files.pythonhosted.org": at("151.101.0.223"),
        "github.com": at("140.82.121.3"),
        "gitlab.com": at("172.65.251.78"),
        "pypi.org": at("151.101.64.223"),
        "registry.npmjs.org": at("104.16.0.35"),
        "broken.example.org": { "fails": true },
    })
}

/// A running one. It goes with the value, and with the test's process.
#[derive(Debug)]
pub struct Internet {
    child: Child,
    asking: Mutex<Asking>,
    pub(crate) directory: TempDir,
}

#[derive(Debug)]
struct Asking {
    stdin: ChildStdin,
    events: Receiver<Value>,
    /// What came while something else was waited for.
    kept: Vec<Value>,
}

/// By whom a server's certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// By the one that programs trust.
    Trusted,
    /// By another.
    Stranger,
    /// By another, whose own time is over.
    Lapsed,
}

/// What happened in it, in order.
#[derive(Debug, Default)]
pub struct Seen(Vec<Value>);

/// What a script's attempts came to, beside the outcome of its call.
#[derive(Debug)]
pub struct Attempts {
    /// The whole outcome.
    pub outcome: Value,
    said: Value,
}

impl Internet {
    /// Starts one with the usual names; says loudly if it cannot be had here.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::with("127.0.0.1 localhost\n")
    }

    /// The same in which these names lead to an address.
    #[must_use]
    pub fn leading_to(address: &str, names_there: &[&str]) -> Option<Self> {
        let mut zone = names();
        for name in names_there {
            zone[*name] = json!({ "A": [[address]] });
        }
        Self::begin("127.0.0.1 localhost\n", &zone)
    }

    /// The same with this text as the host's `/etc/hosts`.
    #[must_use]
    pub fn with(hosts: &str) -> Option<Self> {
        Self::begin(hosts, &names())
    }

    fn begin(hosts: &str, zone: &Value) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("the fake internet", "only root makes namespaces for it");
            return None;
        }
        if !installed(&PROGRAMS) {
            return None;
        }
        // Not beneath `/tmp`: of that each cell has its own.
        let directory =
            TempDir::with_prefix_in("toolcell-test-", "/var/tmp").expect("/var/tmp is writable");
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everybody).expect("it is ours");
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).expect("it is ours");
        };
        write("resolv.conf", "nameserver 9.9.9.9\n");
        write("hosts", hosts);
        write("zone.json", &zone.to_string());
        write("internet.py", &script("internet.py"));
        certify(directory.path(), zone);
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--ipc", "--", "/usr/bin/python3", "-I"]);
        command
            .arg(directory.path().join("internet.py"))
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("unshare starts");
        let asking = Asking {
            stdin: child.stdin.take().expect("it is a pipe"),
            events: read(child.stdout.take().expect("it is a pipe")),
            kept: vec![],
        };
        let internet = Self {
            child,
            asking: Mutex::new(asking),
            directory,
        };
        let _ = internet.until(|seen| seen.of("ready").next().is_some());
        Some(internet)
    }

    /// Has a test in one for everybody who can be had here, each in their own.
    pub fn everyone(test: impl Fn(&Self, &World)) {
        for who in crate::everyone() {
            let Some(internet) = Self::start() else {
                return;
            };
            test(&internet, &internet.world(who));
        }
    }

    /// A fresh world whose programs run in these namespaces.
    #[must_use]
    pub fn world(&self, who: Who) -> World {
        let mut world = World::new(who);
        world.namespaces_of = Some(self.child.id());
        world
    }

    /// The certificate of the test's authority, which the namespaces' programs trust anyway.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("certs/ca-certificates.crt")
    }

    /// The certificate of the other authority, once it has certified something.
    #[must_use]
    pub fn stranger(&self) -> PathBuf {
        self.directory.path().join("other.pem")
    }

    /// Has the servers show a certificate of its own for a name: by an authority, for a subject, and for
    /// so many days, which may be over.
    pub fn certify(&self, name: &str, by: Authority, subject: &str, days: i32) {
        let directory = self.directory.path();
        let openssl = |arguments: &str| openssl(directory, arguments);
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let authority = match by {
            Authority::Trusted => "-CA certs/ca-certificates.crt -CAkey ca.key",
            Authority::Stranger => {
                openssl(&format!(
                    "req -x509 {key} -days 2 -subj /CN=Stranger -keyout other.key -out other.pem"
                ));
                "-CA other.pem -CAkey other.key"
            }
            Authority::Lapsed => {
                let settings = "basicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\n";
                fs::write(directory.join("other.cnf"), settings).expect("it is ours");
                openssl(&format!(
                    "req -new {key} -subj /CN=Lapsed -keyout other.key -out other.csr"
                ));
                openssl(
                    "x509 -req -in other.csr -signkey other.key -days -1 -extfile other.cnf \
                     -out other.pem",
                );
                "-CA other.pem -CAkey other.key"
            }
        };
        let alternative = format!("subjectAltName = DNS:{subject}\n");
        fs::write(directory.join("own.cnf"), alternative).expect("it is ours");
        openssl(&format!(
            "req -new {key} -subj /CN=Server -keyout own.key -out own.csr"
        ));
        openssl(&format!(
            "x509 -req -in own.csr {authority} -CAcreateserial -days {days} -extfile own.cnf \
             -out own.pem"
        ));
        let read = |name: &str| fs::read_to_string(directory.join(name)).expect("it was made");
        let both = read("own.pem") + &read("own.key");
        fs::write(directory.join(format!("{name}.pem")), both).expect("it is ours");
    }

    /// The servers' certificate and its key.
    #[must_use]
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.directory.path().join(name))
    }

    /// What happened since this was last asked. Whatever was sent before is in it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.stdin.write_all(b"now\n").expect("it reads");
        let mut seen = std::mem::take(&mut asking.kept);
        loop {
            let event = asking.events.recv_timeout(PATIENCE).expect("it answers");
            if event["event"] == "told" {
                return Seen(seen);
            }
            seen.push(event);
        }
    }

    /// Waits until what happened since it was last asked is enough, and returns it.
    #[must_use]
    pub fn until(&self, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen(std::mem::take(&mut asking.kept));
        let deadline = Instant::now() + PATIENCE;
        while !enough(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match asking.events.recv_timeout(left) {
                Ok(event) => seen.0.push(event),
                Err(error) => panic!("{error}; only this was seen: {seen:#?}"),
            }
        }
        seen
    }

    /// Runs a Python script of attempts (`programs/attempts.py`) in a cell of a profile that extends
    /// `network` by these tables.
    #[must_use]
    pub fn attempts(&self, world: &World, tables: &str, attempts: &str) -> Attempts {
        let profile = network(world, tables);
        let text = format!("{}\n{attempts}\nsay()\n", script("attempts.py"));
        let command = ["/usr/bin/python3", "-I", "-c", &text];
        Attempts::of(world.run(&profile, &command))
    }

    /// The same, and what was seen of it on the host's side, which is asked for before as well.
    #[must_use]
    #[track_caller]
    pub fn try_in_cell(&self, world: &World, tables: &str, attempts: &str) -> (Attempts, Seen) {
        let _ = self.seen();
        let tried = self.attempts(world, tables, attempts);
        let who = world.who;
        assert_eq!(tried.outcome["status"], "exited", "{who:?} {tried:#?}");
        (tried, self.seen())
    }

    /// The same script outside of any cell, by the same user.
    #[must_use]
    pub fn attempts_outside(&self, world: &World, attempts: &str) -> Attempts {
        let text = format!("{}\n{attempts}\nsay()\n", script("attempts.py"));
        let output = world
            .program(Path::new("/usr/bin/python3"), &["-I", "-c", &text])
            .output()
            .expect("python starts");
        Attempts {
            said: said(&output),
            outcome: Value::Null,
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    /// The events of one kind.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |event| event["event"] == kind)
    }

    /// Every connection that was tried, every datagram and every ping, as `tcp 93.184.215.14:443`;
    /// without the host's own questions to its name server and the answers.
    #[must_use]
    pub fn sent(&self) -> Vec<String> {
        let packets = self.of("packet").map(|packet| {
            let text = |key: &str| packet[key].as_str().unwrap_or_default().to_owned();
            let (to, port) = (text("to"), &packet["port"]);
            let to = if to.contains(':') {
                format!("[{to}]")
            } else {
                to
            };
            format!("{} {to}:{port}", text("protocol"))
        });
        packets
            .filter(|sent| !sent.contains(&format!(" {NAME_SERVER}")))
            .collect()
    }

    /// The targets of the requests that the servers read, each with its `Host`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or("-").to_owned();
        self.of("request")
            .map(|request| format!("{} {}", text(request, "host"), text(request, "target")))
            .collect()
    }

    /// The requests that the servers read, each with its `Authorization`.
    #[must_use]
    pub fn authorized(&self) -> Vec<String> {
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or("-").to_owned();
        let requests = self.of("request").map(|event| {
            let [method, host] = ["method", "host"].map(|key| text(event, key));
            let [target, own] = ["target", "authorization"].map(|key| text(event, key));
            format!("{method} {host}{target} {own}")
        });
        requests.collect()
    }

    /// The names that the host's name server was asked for.
    #[must_use]
    pub fn questions(&self) -> Vec<String> {
        let names = self
            .of("question")
            .filter_map(|asked| asked["name"].as_str());
        names.map(str::to_owned).collect()
    }
}

impl Attempts {
    fn of(outcome: Value) -> Self {
        let stdout = outcome["stdout"]["text"].as_str().unwrap_or_default();
        let last = stdout.lines().last().unwrap_or_default();
        let said = serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("it said nothing ({error}): {outcome:#}"));
        Self { outcome, said }
    }

    /// What an attempt came to: the text that it returned, or the name of its error.
    #[must_use]
    #[track_caller]
    pub fn answer(&self, attempt: &str) -> &str {
        let answer = self.said[attempt]["answer"].as_str();
        answer.unwrap_or_else(|| panic!("there was no attempt `{attempt}`: {:#}", self.said))
    }

    /// How long it took, in milliseconds.
    #[must_use]
    pub fn millis(&self, attempt: &str) -> f64 {
        self.said[attempt]["millis"]
            .as_f64()
            .expect("each is timed")
    }

    /// The names of all attempts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.said.as_object().expect("it says an object");
        all.keys().map(String::as_str)
    }

    /// Asserts that an attempt came to nothing, and at once.
    #[track_caller]
    pub fn refused(&self, attempt: &str) {
        let answer = self.answer(attempt);
        let refused = ["ECONNREFUSED", "ECONNRESET", "EAI_NONAME", "EAI_NODATA"];
        assert!(refused.contains(&answer), "{attempt}: {answer} {self:#?}");
        assert!(
            self.millis(attempt) < AT_ONCE_MILLIS,
            "{attempt}: {self:#?}"
        );
    }

    /// Asserts that the call's outcome has a denial of exactly this, with these words in its rule, and
    /// with this line to allow it.
    #[track_caller]
    pub fn denied(&self, what: &str, rule: &str, allow_with: &str) {
        assert_denied(&self.outcome, what, rule, allow_with);
    }
}

/// Asserts that an outcome has a denial of the network as [`Attempts::denied`] says.
#[track_caller]
pub fn assert_denied(outcome: &Value, what: &str, rule: &str, allow_with: &str) {
    let denials = outcome["denials"].as_array().expect("a list");
    let Some(denial) = denials.iter().find(|denial| denial["what"] == what) else {
        panic!("no denial of `{what}` among {denials:#?}");
    };
    let told = denial["rule"].as_str().unwrap_or_default();
    assert!(told.contains(rule), "{denial:#}");
    assert_eq!(denial["allow_with"], allow_with, "{denial:#}");
    assert_eq!(denial["kind"], "network", "{denial:#}");
}

/// The line that allows a host.
#[must_use]
pub fn allow(host: &str) -> String {
    format!("network.allow = [\"{host}\"]")
}

/// Writes a profile that extends `network` by these tables; returns its path for `--profile`.
#[must_use]
pub fn network(world: &World, tables: &str) -> String {
    let text = format!(
        "format = 1\nname = \"reaching\"\ntitle = \"Reach\"\ndescription = \"A test's.\"\n\
         extends = [\"network\"]\n{tables}\n"
    );
    world.write("reaching.toml", &text).display().to_string()
}

/// The PID of the gateway that serves this world's cells, if one runs.
#[must_use]
pub fn gateway(world: &World) -> Option<u32> {
    gateways(world).into_iter().next()
}

/// All of them.
#[must_use]
pub fn gateways(world: &World) -> Vec<u32> {
    let supervisors = world.track.supervisors();
    let processes = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_one = line
            .split(|byte| *byte == 0)
            .any(|word| word == b"toolcell-gateway");
        is_one && ancestors(*pid).iter().any(|pid| supervisors.contains(pid))
    })
    .collect()
}

/// A process's parent, and theirs.
fn ancestors(pid: u32) -> Vec<u32> {
    let mut found = vec![];
    let mut pid = pid;
    while let Some(parent) = status(pid, "PPid").and_then(|text| text.parse().ok()) {
        if parent == 0 {
            break;
        }
        found.push(parent);
        pid = parent;
    }
    found
}

/// A line of `/proc/PID/status`, without its key.
#[must_use]
pub fn status(pid: u32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value.trim().to_owned())
}

fn said(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:#?}"))
}

fn read(from: ChildStdout) -> Receiver<Value> {
    let (send, events) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).expect("it writes JSON");
            if send.send(event).is_err() {
                return;
            }
        }
    });
    events
}

/// Runs openssl in a directory; returns what it says.
fn openssl(directory: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .expect("openssl starts");
    assert!(output.status.success(), "openssl {arguments}: {output:#?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes an authority that programs find as the system's, and a certificate for all names.
fn certify(directory: &Path, zone: &Value) {
    let names = zone.as_object().expect("it is one").keys();
    let names: Vec<_> = names.map(|name| format!("DNS:{name}")).collect();
    let extra = format!("IP:{WWW},IP:{OTHER},IP:2606:4700::1111,DNS:bare.machine.example");
    let settings = format!(
        "[req]\ndistinguished_name = name\n[name]\n\
         [authority]\nbasicConstraints = critical, CA:TRUE\n\
         keyUsage = critical, keyCertSign\nsubjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = critical, CA:FALSE\n\
         keyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth\n\
         subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n\
         subjectAltName = {},{extra}\n",
        names.join(",")
    );
    let certs = directory.join("certs");
    fs::create_dir(&certs).expect("it is ours");
    fs::write(directory.join("openssl.cnf"), settings).expect("it is ours");
    let openssl = |arguments: &str| openssl(directory, arguments);
    let request = "req -config openssl.cnf -x509 -days 2 -nodes -newkey ec \
                   -pkeyopt ec_paramgen_curve:prime256v1";
    openssl(&format!(
        "{request} -extensions authority -subj /CN=Test -keyout ca.key -out certs/ca-certificates.crt"
    ));
    openssl(&format!(
        "{request} -extensions server -subj /CN=Server -CA certs/ca-certificates.crt -CAkey ca.key \
         -keyout server.key -out server.pem"
    ));
    // OpenSSL looks for authorities by the hash of their names.
    let hash = openssl("x509 -noout -hash -in certs/ca-certificates.crt");
    let (bundle, hashed) = (certs.join("ca-certificates.crt"), certs.join(hash + ".0"));
    fs::copy(bundle, hashed).expect("it is ours");
}
