//! Unix sockets of the host: abstract names, and paths such as those of Docker, D-Bus, X11 and
//! ssh-agent.
//!
//! The listener is the test's own and open to everybody; it says whether anybody came. The positive
//! control is the same probe outside, which is let in.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;

use harness::everyone;
use harness::ground::{Ground, Said};

/// A listening socket at a path of the ground that everybody may connect to.
fn listen(ground: &Ground, name: &str) -> (UnixListener, String) {
    let path = ground.path(name);
    let listener = UnixListener::bind(&path).expect("its directory exists");
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("we made it");
    listener.set_nonblocking(true).expect("a socket can be");
    (listener, ground.text(name))
}

fn nobody_came(listener: &UnixListener) -> bool {
    listener
        .accept()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// What a cell without Unix sockets, or without the socket in it, says.
fn refused(said: &Said) -> bool {
    ["EAFNOSUPPORT", "ENOENT", "EACCES", "EPERM", "ECONNREFUSED"].contains(&said.answer.as_str())
}

/// The profile, with Unix sockets allowed wherever a test must show that something else holds.
fn with_sockets(ground: &Ground, files: &str) -> std::path::PathBuf {
    ground.profile(files, "[network]\nunix = true\n")
}

#[test]
fn an_abstract_socket_of_the_host_is_not_reached() {
    for who in everyone() {
        let ground = Ground::new(who);
        let name = ground.text("abstract");
        let address = SocketAddr::from_abstract_name(&name).expect("it is short");
        let listener = UnixListener::bind_addr(&address).expect("nobody else has this name");
        listener.set_nonblocking(true).expect("a socket can be");
        let said = ground.attempt(&with_sockets(&ground, ""), &["abstract", &name]);
        assert!(refused(&said), "{who:?}: {said:#?}");
        assert!(nobody_came(&listener), "{who:?}");

        assert!(
            ground.outside(&["abstract", &name]).succeeded(),
            "the control of {who:?}"
        );
        assert!(listener.accept().is_ok(), "the control of {who:?}");
    }
}

#[test]
fn a_socket_by_path_that_is_not_listed_does_not_exist() {
    for who in everyone() {
        let ground = Ground::new(who);
        let (listener, path) = listen(&ground, "socket");
        let said = ground.attempt(&with_sockets(&ground, ""), &["unix", &path]);
        assert_eq!(said, "ENOENT", "{who:?}");
        assert!(nobody_came(&listener), "{who:?}");

        assert!(
            ground.outside(&["unix", &path]).succeeded(),
            "the control of {who:?}"
        );
        assert!(listener.accept().is_ok(), "the control of {who:?}");
    }
}

#[test]
fn a_socket_in_a_directory_that_may_be_read_is_not_reached() {
    for who in everyone() {
        let ground = Ground::new(who);
        let listed = ground.directory("listed");
        let (listener, path) = listen(&ground, "listed/socket");
        let files = format!("read = [\"{}\"]", listed.display());
        let said = ground.attempt(&ground.profile(&files, ""), &["unix", &path]);
        assert!(refused(&said), "{who:?}: {said:#?}");
        assert!(nobody_came(&listener), "{who:?}");

        // Where the profile names the weakening, the same attempt arrives.
        let weak = with_sockets(&ground, &files);
        let control = ground.attempt(&weak, &["unix", &path]);
        assert_eq!(
            listener.accept().is_ok(),
            control.succeeded(),
            "the control of {who:?}"
        );
        assert!(
            control.succeeded() || control == "EACCES",
            "the control of {who:?}: {control:#?}"
        );
    }
}

#[test]
fn a_socket_in_a_workspace_of_the_host_is_not_reached() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let (listener, path) = listen(&ground, "workspace/socket");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        let said = ground.attempt_with(&profile, &options, &["unix", "/work/socket"]);
        assert!(refused(&said), "{who:?}: {said:#?}");
        assert!(nobody_came(&listener), "{who:?}");

        assert!(
            ground.outside(&["unix", &path]).succeeded(),
            "the control of {who:?}"
        );
        assert!(listener.accept().is_ok(), "the control of {who:?}");
    }
}

#[test]
fn a_datagram_socket_in_a_workspace_of_the_host_is_not_reached() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let path = workspace.join("socket");
        let socket = UnixDatagram::bind(&path).expect("its directory exists");
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("we made it");
        socket.set_nonblocking(true).expect("a socket can be");
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        for attempt in ["unix_datagram", "pair_datagram"] {
            let said = ground.attempt_with(&profile, &options, &[attempt, "/work/socket"]);
            assert!(!said.succeeded(), "{who:?} {attempt}: {said:#?}");
            assert!(socket.recv(&mut [0; 8]).is_err(), "{who:?} {attempt}");

            let path = path.to_str().expect("temporary names are text");
            assert!(
                ground.outside(&[attempt, path]).succeeded(),
                "the control of {who:?}"
            );
            assert!(socket.recv(&mut [0; 8]).is_ok(), "the control of {who:?}");
        }
    }
}

/// The places where a host's daemons listen are not in a cell, whatever listens there.
#[test]
fn the_places_of_the_hosts_daemons_do_not_exist() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = with_sockets(&ground, "");
        for path in [
            "/run",
            "/var/run",
            "/var/run/docker.sock",
            "/run/dbus/system_bus_socket",
        ] {
            let said = ground.attempt(&profile, &["stat", path]);
            assert_eq!(said, "ENOENT", "{who:?} {path}");
        }
        // The cell has a /tmp, but not the host's, in which X11 and ssh-agent listen.
        let said = ground.attempt(&profile, &["list", "/tmp"]);
        assert_eq!(said.detail(), "", "{who:?}");
        assert!(Path::new("/run").exists() && ground.outside(&["stat", "/run"]).succeeded());
    }
}

#[test]
fn sockets_within_a_cell_work() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = with_sockets(&ground, "");
        for attempt in [
            ["own_unix", "/tmp"],
            ["own_unix", "/work"],
            ["own_abstract", "own"],
        ] {
            let said = ground.attempt(&profile, &attempt);
            assert!(said.succeeded(), "{who:?} {attempt:?}: {said:#?}");
        }
    }
}
