//! Web sites of a fake internet, under names that clients know by themselves: registries, a forge, pages.
//! The servers' log says what arrived.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::internet::{Internet, SITES, network};
use crate::programs::{ROOMY, installed, script};
use crate::{Who, World, outcome, within};

/// Variables by which programs are told of an authority, and `pass_env` passes them on.
const AUTHORITY_VARIABLES: [&str; 4] = [
    "PIP_CERT",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];

/// Longest wait for a server to be there; the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// The names that lead to them, and to the servers of databases.
const NAMES: [&str; 11] = [
    "www.example.net",
    "static.example.net",
    "tracker.example.net",
    "db.example.net",
    "github.com",
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "deb.debian.org",
    "index.crates.io",
    "static.crates.io",
];

/// The running sites, and the internet that they are in.
#[derive(Debug)]
pub struct Sites {
    /// The internet.
    pub internet: Internet,
    child: Child,
    directory: TempDir,
    /// The server's, which it works in.
    _world: World,
}

impl Sites {
    /// Has a test with sites of its own for everybody who can be had here, if these programs are
    /// installed.
    pub fn everyone(programs: &[&str], test: impl Fn(&Self, &World)) {
        if !installed(programs) || !installed(&["/usr/bin/node"]) {
            return;
        }
        for who in crate::everyone() {
            let Some(sites) = Self::start() else {
                return;
            };
            let mut world = sites.internet.world(who);
            let authority = sites.internet.authority().display().to_string();
            for variable in AUTHORITY_VARIABLES {
                world.env.insert(variable.to_owned(), authority.clone());
            }
            test(&sites, &world);
        }
    }

    fn start() -> Option<Self> {
        let internet = Internet::leading_to(SITES, &NAMES)?;
        let directory =
            TempDir::with_prefix_in("toolcell-test-", "/var/tmp").expect("/var/tmp is writable");
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everybody).expect("it is ours");
        let server = directory.path().join("sites.mjs");
        fs::write(&server, script("sites.mjs")).expect("it is ours");
        let [certificate, key] = internet.certificate();
        let arguments = [&server, directory.path(), &certificate, &key]
            .map(|path: &Path| path.to_str().expect("its name is plain"));
        let world = internet.world(Who::Root);
        let mut command = world.program(Path::new("/usr/bin/node"), &arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("node starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("it is a pipe"))
            .read_line(&mut said)
            .expect("it is text");
        assert_eq!(said, "ready\n");
        Some(Self {
            internet,
            child,
            directory,
            _world: world,
        })
    }

    /// The file that is served as `HOST/PATH`; its directory exists.
    #[must_use]
    pub fn file(&self, url: &str) -> PathBuf {
        let path = self.directory.path().join(url);
        let parent = path.parent().expect("it is beneath a directory");
        fs::create_dir_all(parent).expect("it is ours");
        path
    }

    /// Serves this as `HOST/PATH`.
    pub fn put(&self, url: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.file(url), contents).expect("it is ours");
    }

    /// Every request that arrived: `HTTP/2.0 GET www.example.net/page`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let text = |request: &Value, key: &str| request[key].as_str().unwrap_or("-").to_owned();
        self.log()
            .iter()
            .map(|seen| {
                let [version, method, url] =
                    ["version", "method", "url"].map(|key| text(seen, key));
                format!("HTTP/{version} {method} {url}")
            })
            .collect()
    }

    /// The same as the server wrote it.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("requests"));
        let text = text.expect("the server made it");
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }

    /// Asserts that a request arrived that begins with this, and that nothing arrived for any other
    /// host than these.
    #[track_caller]
    pub fn assert_arrived(&self, request: &str, hosts: &[&str]) {
        let requests = self.requests();
        let found = requests.iter().any(|seen| seen.starts_with(request));
        assert!(found, "no `{request}` among {requests:#?}");
        for seen in &requests {
            let url = seen.rsplit(' ').next().unwrap_or_default();
            let host = url.split('/').next().unwrap_or_default();
            assert!(hosts.contains(&host), "{seen}");
        }
    }

    /// Runs a command in a roomy cell with a workspace, of a profile that extends `network` by these
    /// tables.
    #[must_use]
    pub fn run(&self, world: &World, tables: &str, command: &[&str]) -> Value {
        let profile = network(world, &format!("{tables}\n{ROOMY}"));
        let workspace = world.workspace();
        let workspace = workspace.to_str().expect("its name is plain");
        let mut arguments = vec!["run", "--json", "--profile", &profile];
        arguments.extend(["--workspace", workspace, "--"]);
        arguments.extend(command);
        outcome(&world.toolcell(&arguments))
    }
}

/// A server of HTTP/3 beside the sites. It goes with the value.
#[derive(Debug)]
pub struct Http3 {
    child: Child,
    log: PathBuf,
    /// The server's, which it works in.
    _world: World,
}

impl Sites {
    /// Serves a page by HTTP/3, too, by the same port of the same address; `python` is the environment
    /// with HTTP clients.
    #[must_use]
    pub fn http_3(&self, python: &Path) -> Http3 {
        let log = self.directory.path().join("http3");
        let [certificate, key] = self.internet.certificate();
        let world = self.internet.world(Who::Root);
        let text = script("http3_server.py");
        let paths = [&certificate, &key].map(|path| path.to_str().expect("its name is plain"));
        let arguments = ["-I", "-c", &text, SITES, paths[0], paths[1]];
        let mut command = world.program(&python.join("bin/python3"), &arguments);
        let told = fs::File::create(&log).expect("it is ours");
        let child = command.stdout(told).spawn().expect("python starts");
        let server = Http3 {
            child,
            log,
            _world: world,
        };
        let ready = within(PATIENCE, || server.said().starts_with("ready\n"));
        assert!(ready, "{}", server.said());
        server
    }
}

impl Http3 {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("it was made")
    }

    /// How many requests arrived.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.said().matches("request\n").count()
    }
}

impl Drop for Http3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
