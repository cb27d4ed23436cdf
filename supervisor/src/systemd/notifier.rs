//! How the service goes: told on the socket that systemd names.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

/// Where systemd says that it listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Longest status: `systemctl status` shows one line.
const STATUS_BYTES_MAX: usize = 512;

/// Tells the service manager, if there is one. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    /// Connected, since a confined supervisor can neither make a socket nor look one up.
    socket: UnixDatagram,
    /// After this long without a sign of life it ends the service.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Connects to the service manager that the environment names; to none if it names none.
    ///
    /// # Errors
    /// If it names one that cannot be reached: it would wait for us in vain.
    pub fn from_environment() -> io::Result<Self> {
        match env::var_os(SOCKET) {
            None => Ok(Self::default()),
            Some(path) => Self::connect(&path, sd_notify::watchdog_enabled()),
        }
    }

    fn connect(path: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(path)?,
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that takes nothing must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(Manager { socket, watchdog }))))
    }

    /// Whether a service manager waits for us.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// After how long without a sign of life it ends the service, if ever.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    /// Calls are served from now on, or again.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// Profiles are read again until the next [`Notifier::ready`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd was not told of a reload"),
        }
    }

    /// No more calls are taken.
    pub fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
    }

    /// How it goes, in words.
    pub fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(&line(status))]);
    }

    /// A sign of life.
    pub(super) fn alive(&self, status: &str) {
        self.send(&[NotifyState::Watchdog, NotifyState::Status(&line(status))]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(manager) = &self.0 else { return };
        let mut message = String::new();
        for state in states {
            writeln!(message, "{state}").expect("a string takes all");
        }
        if let Err(error) = manager.socket.send(message.as_bytes()) {
            tracing::warn!(%error, "systemd could not be told");
        }
    }
}

/// One line, as another would be taken for another message.
fn line(text: &str) -> String {
    let mut line = text.replace(|c: char| c.is_control(), " ");
    line.truncate(line.floor_char_boundary(STATUS_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notifier = Notifier::connect(path.as_os_str(), None).unwrap();
        (directory, socket, notifier)
    }

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_in_its_own_words() {
        let (_directory, socket, notifier) = manager();
        assert!(notifier.is_on());
        notifier.ready("serving 3 tools");
        assert_eq!(told(&socket), "READY=1\nSTATUS=serving 3 tools\n");
        notifier.reloading();
        let reloading = told(&socket);
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let usec = usec.and_then(|rest| rest.trim_end().parse::<u64>().ok());
        assert!(usec.is_some_and(|usec| usec > 0), "{reloading}");
        notifier.alive("serving");
        assert_eq!(told(&socket), "WATCHDOG=1\nSTATUS=serving\n");
        notifier.stopping("ending 1 call");
        assert_eq!(told(&socket), "STOPPING=1\nSTATUS=ending 1 call\n");
    }

    #[test]
    fn a_status_cannot_say_anything_else() {
        let (_directory, socket, notifier) = manager();
        notifier.status("a\nSTOPPING=1");
        assert_eq!(told(&socket), "STATUS=a STOPPING=1\n");
        notifier.status(&"é".repeat(STATUS_BYTES_MAX));
        assert!(told(&socket).len() <= STATUS_BYTES_MAX + "STATUS=\n".len());
    }

    #[test]
    fn an_abstract_socket_will_do_and_an_absent_one_is_an_error() {
        let name = format!("@toolcell-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::connect(OsStr::new(&name), None).unwrap();
        notifier.status("here");
        assert_eq!(told(&socket), "STATUS=here\n");
        for absent in ["/nonexistent/notify", "vsock:2:1", ""] {
            assert!(Notifier::connect(OsStr::new(absent), None).is_err());
        }
    }

    #[test]
    fn without_a_manager_nothing_is_told() {
        let notifier = Notifier::default();
        assert!(!notifier.is_on() && notifier.watchdog().is_none());
        notifier.ready("nobody hears it");
    }
}
