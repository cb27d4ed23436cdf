//! Other sandboxes, each as its documents say, with what comes closest to a cell: namespaces of its own,
//! no network, the system's directories read-only. Those that are not installed, or do not run here,
//! are left out by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::World;
use serde_json::{Value, json};

/// One of them.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Takes so long that it has few turns.
    pub is_slow: bool,
    words: Vec<String>,
    /// A bundle of the Open Container Initiative, whose configuration has the command.
    bundle: Option<PathBuf>,
}

impl Peer {
    /// Those that are installed and can run `true`.
    pub fn installed(world: &World) -> Vec<Self> {
        let mut peers = Vec::new();
        for peer in candidates(world) {
            let mut command = peer.command(&["/usr/bin/true"]);
            let said = command.stdin(Stdio::null()).output();
            match said {
                Ok(said) if said.status.success() => peers.push(peer),
                Ok(said) => eprintln!(
                    "{} is not measured, for it does not run here: {}",
                    peer.name,
                    String::from_utf8_lossy(&said.stderr).trim()
                ),
                Err(error) => eprintln!("{} is not measured: {error}", peer.name),
            }
        }
        peers
    }

    /// A command in it.
    pub fn command(&self, command: &[&str]) -> Command {
        let (program, arguments) = self.words.split_first().expect("it has a program");
        let mut started = Command::new(program);
        started.args(arguments);
        match &self.bundle {
            Some(bundle) => {
                configure(bundle, command);
                started.arg("--bundle").arg(bundle);
                started.arg(format!("toolcell-bench-{}", std::process::id()));
            }
            None => {
                started.args(command);
            }
        }
        started
    }
}

fn candidates(world: &World) -> Vec<Peer> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let peer = |name: &str, text: &str| Peer {
        name: name.to_owned(),
        is_slow: false,
        words: words(text),
        bundle: None,
    };
    let mut peers = vec![
        peer(
            "bubblewrap",
            "bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --ro-bind /usr /usr \
             --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc \
             --dev /dev --tmpfs /tmp --",
        ),
        peer(
            "firejail",
            "firejail --quiet --noprofile --net=none --private --private-dev --",
        ),
    ];
    for name in ["crun", "runc"] {
        let bundle = world.path(name);
        std::fs::create_dir(&bundle).expect("the directory is ours");
        peers.push(Peer {
            name: name.to_owned(),
            is_slow: false,
            words: words(&format!("{name} run")),
            bundle: Some(bundle),
        });
    }
    for (name, variable, arguments) in [
        ("srt", "SRT", srt_arguments(world)),
        ("codex", "CODEX", words("sandbox linux --")),
        (
            "sandlock",
            "SANDLOCK",
            words("run -r /usr -r /lib -r /lib64 -r /etc --"),
        ),
        (
            "nono",
            "NONO",
            words("run --silent --read /usr --net-block --"),
        ),
        (
            "hakoniwa",
            "HAKONIWA",
            words("run --rootdir / --unshare-network --"),
        ),
    ] {
        let Ok(program) = std::env::var(variable) else {
            eprintln!("{name} is not measured; hint: install it and set {variable} to its path");
            continue;
        };
        let mut words: Vec<String> = vec![program];
        words.extend(arguments);
        peers.push(Peer {
            name: name.to_owned(),
            is_slow: matches!(name, "srt" | "codex"),
            words,
            bundle: None,
        });
    }
    peers
}

fn srt_arguments(world: &World) -> Vec<String> {
    let settings = json!({
        "network": { "allowedDomains": [], "deniedDomains": [] },
        "filesystem": { "denyRead": [], "allowWrite": ["/tmp"], "denyWrite": [] },
    });
    let settings = world.write("srt.json", &settings.to_string());
    vec![
        "--settings".to_owned(),
        settings.display().to_string(),
        "--".to_owned(),
    ]
}

/// Writes a bundle's configuration: the host's root, read-only, and every namespace.
fn configure(bundle: &Path, command: &[&str]) {
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    let configuration = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "/", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "memory": { "limit": 268_435_456 }, "pids": { "limit": 64 } },
        },
    });
    let path = bundle.join("config.json");
    std::fs::write(path, configuration.to_string()).expect("the directory is ours");
}
