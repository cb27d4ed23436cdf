//! `[sockets] connect`: the Unix socket that a profile lists is reached, and no other.
//!
//! The listener is the test's own; what it accepts is what is asserted.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use harness::everyone;
use harness::ground::{Ground, said};

/// A listening socket at a path of the ground that everybody may connect to.
fn listen(ground: &Ground, name: &str) -> (UnixListener, String) {
    let path = ground.path(name);
    let listener = UnixListener::bind(&path).expect("its directory exists");
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("we made it");
    listener.set_nonblocking(true).expect("a socket can be");
    (listener, ground.text(name))
}

fn came(listener: &UnixListener) -> bool {
    match listener.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// A profile of `standard` with these sockets. It shows no directory of the ground: before Landlock
/// ABI 9 it could have none.
fn listing(ground: &Ground, files: &str, sockets: &str) -> PathBuf {
    let text = format!(
        "format = 1\nname = \"probing\"\nextends = [\"standard\"]\n[files]\n{files}\n\
         [sockets]\nconnect = [{sockets}]\n"
    );
    ground.world.write("probing.toml", &text)
}

/// Does one thing with a path, and says `ok` or the error's name.
const ATTEMPT: &str = "
import errno, os, socket, sys
what, path = sys.argv[1:]
try:
    if what == 'connect':
        socket.socket(socket.AF_UNIX).connect(path)
    elif what == 'unlink':
        os.unlink(path)
    else:
        os.chmod(path, 0)
    print('ok')
except OSError as error:
    print(errno.errorcode[error.errno])
";

fn output(ground: &Ground, profile: &Path, what: &str, path: &str) -> Output {
    let profile = profile.to_str().expect("temporary names are text");
    let python = ["--", "/usr/bin/python3", "-c", ATTEMPT, what, path];
    let arguments = [&["run", "--json", "--profile", profile][..], &python].concat();
    let mut command = ground.world.command(&arguments);
    command.output().expect("toolcell starts")
}

fn attempt(ground: &Ground, profile: &Path, what: &str, path: &str) -> String {
    said(&output(ground, profile, what, path)).answer
}

#[test]
fn the_listed_socket_is_reached_and_its_sibling_is_not() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("run");
        let (listed, path) = listen(&ground, "run/listed");
        let (sibling, other) = listen(&ground, "run/sibling");
        let profile = listing(&ground, "", &format!("\"{path}\""));
        assert_eq!(
            attempt(&ground, &profile, "connect", &path),
            "ok",
            "{who:?}"
        );
        assert!(came(&listed), "{who:?}");

        let said = attempt(&ground, &profile, "connect", &other);
        assert_eq!(said, "ENOENT", "{who:?}");
        assert!(!came(&sibling), "{who:?}");
        assert!(
            ground.outside(&["unix", &other]).succeeded() && came(&sibling),
            "the control of {who:?}"
        );
    }
}

#[test]
fn a_socket_that_is_not_listed_is_not_reached() {
    for who in everyone() {
        let ground = Ground::new(who);
        let (listener, path) = listen(&ground, "socket");
        let said = attempt(&ground, &listing(&ground, "", ""), "connect", &path);
        assert_eq!(said, "ENOENT", "{who:?}");
        assert!(!came(&listener), "{who:?}");
    }
}

#[test]
fn a_listed_socket_cannot_be_removed_or_changed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let (_listener, path) = listen(&ground, "socket");
        let profile = listing(&ground, "", &format!("\"{path}\""));
        for what in ["unlink", "chmod"] {
            let said = attempt(&ground, &profile, what, &path);
            let refused = ["EROFS", "EACCES", "EPERM", "EBUSY"].contains(&said.as_str());
            assert!(refused, "{who:?} {what}: {said}");
        }
        let mode = std::fs::symlink_metadata(&path).expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o777, "{who:?}");
    }
}

#[test]
fn a_socket_is_reached_by_the_link_that_the_profile_names() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("run");
        let (listener, _) = listen(&ground, "run/socket");
        symlink("run", ground.path("link")).expect("it is free");
        let path = ground.text("link/socket");
        let profile = listing(&ground, "", &format!("\"{path}\""));
        assert_eq!(
            attempt(&ground, &profile, "connect", &path),
            "ok",
            "{who:?}"
        );
        assert!(came(&listener), "{who:?}");
    }
}

#[test]
fn what_is_no_socket_is_refused_by_name() {
    for who in everyone() {
        let ground = Ground::new(who);
        let file = ground.file("file", "text");
        let directory = ground.directory("directory");
        for (path, why) in [
            (file.display().to_string(), "is no socket"),
            (
                directory.display().to_string(),
                "is a directory, not a socket",
            ),
            (ground.text("nothing"), "there is no socket"),
        ] {
            let profile = listing(&ground, "", &format!("\"{path}\""));
            let output = output(&ground, &profile, "connect", &path);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(why), "{who:?} {path}: {said}");
        }
    }
}

/// Before Landlock ABI 9 nothing but the absence of directories keeps a tool from other sockets.
#[test]
fn a_listed_socket_does_not_open_those_in_a_directory_that_is_shown() {
    for who in everyone() {
        let ground = Ground::new(who);
        let shown = ground.directory("shown");
        let (other, other_path) = listen(&ground, "shown/other");
        let (listed, path) = listen(&ground, "listed");
        let files = format!("read = [\"{}\"]", shown.display());
        let profile = listing(&ground, &files, &format!("\"{path}\""));
        let output = output(&ground, &profile, "connect", &other_path);
        assert!(!came(&other), "{who:?}: {output:?}");
        let control = listing(&ground, "", &format!("\"{path}\""));
        assert_eq!(
            attempt(&ground, &control, "connect", &path),
            "ok",
            "{who:?}"
        );
        assert!(came(&listed), "the control of {who:?}");
    }
}
