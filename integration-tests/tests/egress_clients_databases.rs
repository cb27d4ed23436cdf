//! Clients of databases in cells, by `/tcp` entries, against the databases' own servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use harness::internet::{Internet, assert_denied, network};
use harness::programs::{installed, told};
use harness::{Who, World, everyone, within};
use serde_json::Value;

/// Where the servers are.
const ADDRESS: &str = "151.101.1.1";
/// Longest wait for a server to take connections.
const STARTED: Duration = Duration::from_mins(1);

/// A server in a fake internet, of an ordinary user. It goes with the value.
struct Server {
    child: Child,
    world: World,
}

impl Server {
    fn start(world: World, program: &Path, arguments: &[&str], ask: (&str, &[&str])) -> Self {
        let log = fs::File::create(world.path("log")).expect("the directory is writable");
        let mut command = world.program(program, arguments);
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("it starts");
        let server = Self { child, world };
        let answers = within(STARTED, || server.ask(ask.0, ask.1).is_ok());
        assert!(answers, "{}", server.log());
        server
    }

    /// Runs a client beside the server, outside of any cell.
    fn ask(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        told(&mut self.world.program(Path::new(program), arguments))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.path("log")).expect("it was made")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(world: &World, allow: &str, script: &str) -> Value {
    let profile = network(world, &format!("[network]\nallow = [\"{allow}\"]"));
    world.run(&profile, &["/bin/sh", "-c", script])
}

/// Asserts that a connection was refused for what was said over it.
#[track_caller]
fn assert_unspoken(outcome: &Value, peer: &str, allow: &str) {
    let what = format!("bytes to `{peer}` that are neither TLS nor HTTP");
    assert_denied(outcome, &what, "an entry without `/tcp`", allow);
}

/// The directory of the newest PostgreSQL's programs.
fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    programs.filter(|bin| bin.join("postgres").exists()).max()
}

fn start_postgres(internet: &Internet) -> Option<Server> {
    let Some(bin) = postgres() else {
        let _ = installed(&["/usr/lib/postgresql/*/bin/postgres"]);
        return None;
    };
    // It does not run as root.
    let world = internet.world(Who::User);
    for (from, name) in internet
        .certificate()
        .iter()
        .zip(["server.crt", "server.key"])
    {
        let to = world.path(name);
        fs::copy(from, &to).expect("the directory is writable");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("it is ours");
        world.give(&to);
    }
    let directory = world
        .directory
        .path()
        .to_str()
        .expect("its name is plain")
        .to_owned();
    let data = format!("{directory}/data");
    let arguments = ["-D", &data, "-U", "test", "-A", "trust", "--no-sync"];
    let made = told(&mut world.program(&bin.join("initdb"), &arguments));
    assert!(made.is_ok(), "{made:?}");
    world.write(
        "data/pg_hba.conf",
        "hostssl all all all trust\nlocal all all trust\n",
    );
    let files = [
        format!("ssl_cert_file={directory}/server.crt"),
        format!("ssl_key_file={directory}/server.key"),
    ];
    let mut arguments = vec!["-D", &data, "-k", &directory, "-h", "0.0.0.0"];
    for setting in [
        "ssl=on",
        &files[0],
        &files[1],
        "fsync=off",
        "log_statement=all",
    ] {
        arguments.extend(["-c", setting]);
    }
    let ask = ["-h", &directory, "-U", "test"];
    let ready = bin.join("pg_isready");
    let ready = (ready.to_str().expect("its name is plain"), &ask[..]);
    Some(Server::start(
        world,
        &bin.join("postgres"),
        &arguments,
        ready,
    ))
}

#[test]
fn psql_talks_to_postgresql_by_a_tcp_entry_and_not_without() {
    if !installed(&["/usr/bin/psql"]) {
        return;
    }
    for who in everyone() {
        let Some(internet) = Internet::leading_to(ADDRESS, &["db.example.net"]) else {
            return;
        };
        let Some(server) = start_postgres(&internet) else {
            return;
        };
        let world = internet.world(who);
        let script = "psql -At 'host=db.example.net user=test dbname=postgres sslmode=verify-full \
                      sslrootcert=/etc/ssl/certs/ca-certificates.crt' -c \"SELECT 'from ' || 'the cell'\"";
        let outcome = shell(&world, "db.example.net:5432", script);
        assert_ne!(outcome["exit_code"], 0, "{who:?} {outcome:#}");
        let allow = r#"network.allow = ["db.example.net:5432/tcp"]"#;
        assert_unspoken(&outcome, "db.example.net:5432", allow);
        assert!(!server.log().contains("from "), "{}", server.log());

        let outcome = shell(&world, "db.example.net:5432/tcp", script);
        assert_eq!(
            outcome["stdout"]["text"], "from the cell\n",
            "{who:?} {outcome:#}"
        );
        assert_eq!(
            outcome["egress"][0]["host"], "db.example.net:5432",
            "{outcome:#}"
        );
        let statement = "SELECT 'from ' || 'the cell'";
        assert!(server.log().contains(statement), "{}", server.log());
    }
}

#[test]
fn redis_cli_talks_to_redis_by_a_tcp_entry_and_not_without() {
    let programs = ["/usr/bin/redis-server", "/usr/bin/redis-cli"];
    if !installed(&programs) {
        return;
    }
    for who in everyone() {
        let Some(internet) = Internet::leading_to(ADDRESS, &["db.example.net"]) else {
            return;
        };
        let arguments = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""];
        let world = internet.world(Who::User);
        let server = Server::start(
            world,
            Path::new(programs[0]),
            &arguments,
            (programs[1], &["ping"]),
        );
        let world = internet.world(who);
        let script = "redis-cli -h db.example.net SET key 'from the cell' && redis-cli -h db.example.net GET key";
        let value = || {
            server
                .ask("/usr/bin/redis-cli", &["GET", "key"])
                .expect("it answers")
        };

        let outcome = shell(&world, "db.example.net:6379", script);
        let allow = r#"network.allow = ["db.example.net:6379/tcp"]"#;
        assert_unspoken(&outcome, "db.example.net:6379", allow);
        assert_eq!(value(), "\n", "{who:?} {outcome:#}");

        let outcome = shell(&world, "db.example.net:6379/tcp", script);
        assert_eq!(
            outcome["stdout"]["text"], "OK\nfrom the cell\n",
            "{who:?} {outcome:#}"
        );
        assert_eq!(value(), "from the cell\n", "{who:?} {outcome:#}");
    }
}
