//! A delegated scope, asked for over D-Bus: what `systemd-run --scope -p Delegate=yes` does, without
//! anybody having to type it.
//!
//! systemd moves this process into the scope, lets it manage what is below, and removes all of it
//! when the last process is gone. A user's systemd asks the system's for the move where the process
//! comes from outside of its own part of the tree, as it does from an SSH session, tmux or cron.
//! The connection is closed before this returns.

mod dbus;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zvariant::{OwnedObjectPath, Value};

use dbus::{CallError, Connection, Interface};

/// Longest wait for a scope, from connecting to being in it: a quiet host takes a few milliseconds,
/// and one that still boots may take seconds.
const SCOPE_DEADLINE: Duration = Duration::from_secs(30);
/// Longest part of systemd's words that a message repeats.
const WORDS_CHARS_MAX: usize = 300;

const MANAGER: Interface = Interface {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    name: "org.freedesktop.systemd1.Manager",
};

/// Which systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// The host's, which root may ask.
    System,
    /// The user's own.
    User,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the host's systemd",
            Self::User => "the user's systemd",
        })
    }
}

/// A scope that this process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub unit: String,
    pub from: Manager,
}

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScopeError {
    /// Nobody serves any of the sockets.
    #[error(
        "{from} cannot be asked for a scope, as it does not run: {}",
        list(tried)
    )]
    NoManager {
        from: Manager,
        tried: Vec<(PathBuf, io::Error)>,
    },
    /// It was asked, and said no or nothing.
    #[error("{from} was asked for a scope and answered: {words}")]
    Refused { from: Manager, words: String },
    /// systemd takes this process for a unit's own, and would take the unit for ended.
    #[error("this process is the main one of a unit of systemd's, and so is not moved out of it")]
    MainProcess,
}

fn list(tried: &[(PathBuf, io::Error)]) -> String {
    let each = tried
        .iter()
        .map(|(path, error)| format!("`{}`: {error}", path.display()));
    each.collect::<Vec<_>>().join(", ")
}

/// Where a manager listens.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    path: PathBuf,
    /// Whether a message bus is there, rather than the manager itself.
    bus: bool,
}

/// Asks for a scope with this process in it, and returns when it is in it.
pub(super) fn ask(uid: u32) -> Result<Scope, ScopeError> {
    let pid = std::process::id();
    // Set for the process that systemd itself executed, and inherited by its children.
    if std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|main| main == pid.to_string()) {
        return Err(ScopeError::MainProcess);
    }
    let from = if uid == 0 {
        Manager::System
    } else {
        Manager::User
    };
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let addresses = addresses(uid, runtime_dir.as_deref());
    let scope = Scope {
        unit: format!(
            "toolcell-{pid}-{:08x}.scope",
            uuid::Uuid::new_v4().as_fields().0
        ),
        from,
    };
    start(&scope, &addresses, uid, pid)?;
    Ok(scope)
}

/// Where to ask, in this order. The manager's own socket first, as systemd's tools do: it is there
/// where no message bus is, and there is nobody in between.
fn addresses(uid: u32, runtime_dir: Option<&Path>) -> Vec<Address> {
    let own = |path: PathBuf| Address { path, bus: false };
    let bus = |path: PathBuf| Address { path, bus: true };
    if uid == 0 {
        return vec![
            own("/run/systemd/private".into()),
            bus("/run/dbus/system_bus_socket".into()),
        ];
    }
    // cron, `su` and `docker exec` set no variable, or leave another user's.
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let named = runtime_dir
        .filter(|path| path.is_absolute() && **path != usual)
        .map(Path::to_owned);
    let directories = named.into_iter().chain([usual]);
    let both = |path: PathBuf| [own(path.join("systemd/private")), bus(path.join("bus"))];
    directories.flat_map(both).collect()
}

fn start(scope: &Scope, addresses: &[Address], uid: u32, pid: u32) -> Result<(), ScopeError> {
    let from = scope.from;
    let deadline = Instant::now() + SCOPE_DEADLINE;
    let mut tried = Vec::new();
    for address in addresses {
        match Connection::open(&address.path, uid, deadline) {
            Ok(connection) => {
                let started = start_on(connection, address.bus, &scope.unit, pid);
                return started.map_err(|error| ScopeError::Refused {
                    from,
                    words: words(&error.to_string()),
                });
            }
            Err(error) => tried.push((address.path.clone(), error)),
        }
    }
    Err(ScopeError::NoManager { from, tried })
}

/// Has the scope started, and waits until the manager says that it is.
fn start_on(mut connection: Connection, bus: bool, unit: &str, pid: u32) -> Result<(), CallError> {
    if bus {
        connection.join_bus(&MANAGER)?;
        // Without a subscriber it says nothing to a bus.
        connection.call(&MANAGER, "Subscribe", &())?;
    }
    let properties = [
        ("Description", Value::from("Cells of Toolcell")),
        ("Delegate", Value::from(true)),
        ("PIDs", Value::from(vec![pid])),
        // Nobody looks at a scope that has failed: it shall not stay.
        ("CollectMode", Value::from("inactive-or-failed")),
    ];
    let others: [(&str, Vec<(&str, Value<'_>)>); 0] = [];
    let body = (unit, "fail", &properties[..], &others[..]);
    let answer = connection.call(&MANAGER, "StartTransientUnit", &body)?;
    let (job, _): (OwnedObjectPath, _) = answer.deserialize().map_err(io::Error::other)?;
    loop {
        let removed = connection.signal(&MANAGER, "JobRemoved")?;
        let (told, _): ((u32, OwnedObjectPath, String, String), _) =
            removed.deserialize().map_err(io::Error::other)?;
        match told {
            (_, path, _, result) if path == job && result == "done" => return Ok(()),
            (_, path, _, result) if path == job => {
                return Err(CallError::Refused(format!(
                    "starting it came to `{result}`"
                )));
            }
            _ => {}
        }
    }
}

/// What a person is told of an answer.
fn words(text: &str) -> String {
    let head = text.chars().take(WORDS_CHARS_MAX);
    head.flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uid: u32, runtime_dir: Option<&str>) -> Vec<String> {
        let addresses = addresses(uid, runtime_dir.map(Path::new));
        addresses
            .iter()
            .map(|address| address.path.display().to_string())
            .collect()
    }

    #[test]
    fn a_users_manager_is_looked_for_without_the_variable_too() {
        let usual = ["/run/user/7/systemd/private", "/run/user/7/bus"];
        assert_eq!(paths(7, None), usual);
        assert_eq!(paths(7, Some("/run/user/7")), usual);
        // Another user's, after `su`; and one that is no path to go by.
        assert_eq!(paths(7, Some("/run/user/8"))[2..], usual);
        assert_eq!(paths(7, Some("run")), usual);
    }

    #[test]
    fn root_asks_the_hosts() {
        let hosts = ["/run/systemd/private", "/run/dbus/system_bus_socket"];
        assert_eq!(paths(0, Some("/run/user/0")), hosts);
    }

    #[test]
    fn where_nobody_listens_each_place_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = addresses(7, Some(directory.path()));
        let scope = Scope {
            unit: "toolcell-1-2.scope".into(),
            from: Manager::User,
        };
        let uid = nix::unistd::geteuid().as_raw();
        let error = start(&scope, &addresses, uid, 1).unwrap_err().to_string();
        assert!(error.contains("does not run"), "{error}");
        assert!(error.contains("systemd/private"), "{error}");
    }

    #[test]
    fn one_that_hangs_up_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("systemd")).unwrap();
        let path = directory.path().join("systemd/private");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let serving = std::thread::spawn(move || drop(listener.accept()));
        let scope = Scope {
            unit: "toolcell-1-2.scope".into(),
            from: Manager::User,
        };
        let addresses = addresses(7, Some(directory.path()));
        let uid = nix::unistd::geteuid().as_raw();
        let error = start(&scope, &addresses, uid, 1).unwrap_err();
        assert!(matches!(error, ScopeError::NoManager { .. }), "{error}");
        serving.join().unwrap();
    }
}
