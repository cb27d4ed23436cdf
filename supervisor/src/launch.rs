//! The launcher's other end: starts it, hands it templates, and has it start cells.
//!
//! The only module that starts processes on the host.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use runner::report::Report;
use runner::spec::{Call, SPEC_BYTES_MAX, Template};
use runner::wire::{self, BUILD, CellOrder, CgroupEntry, Leftovers, MESSAGE_BYTES_MAX, Order};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Send buffer of the launcher's socket: room for a burst of orders while it clones a cell.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// The launcher as just started, before any thread of the supervisor exists.
#[derive(Debug)]
pub struct Started {
    socket: OwnedFd,
    process: Child,
}

/// Starts this very executable as a launcher, and checks that it is the same build.
///
/// # Errors
/// If it cannot be started, or answers as another build.
pub fn start() -> io::Result<Started> {
    let (socket, theirs) = pair()?;
    setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
    // The environment is cleared because every cell's first process inherits the launcher's memory.
    #[allow(clippy::disallowed_methods)] // the one place that starts a process
    let process = Command::new("/proc/self/exe")
        .arg(runner::launcher::ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    let hello = encode(&Order::Hello {
        build: BUILD.to_owned(),
    })?;
    runner::sys::send(socket.as_fd(), &hello, &[])?;
    let mut answer = [0; 256];
    let (length, _) = runner::sys::receive(socket.as_fd(), &mut answer)?;
    if answer[..length] != *BUILD.as_bytes() {
        return Err(io::Error::other(
            "the launcher is not the same build as the supervisor",
        ));
    }
    nix::fcntl::fcntl(
        &socket,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok(Started { socket, process })
}

/// Why a cell was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The orders do not fit one message.
    #[error(
        "the command with its arguments and environment takes {bytes} bytes, more than {max}; pass \
         long text on standard input (`stdin` in the profile)"
    )]
    TooLong {
        /// Size of the encoded orders.
        bytes: usize,
        /// [`SPEC_BYTES_MAX`].
        max: usize,
    },
    /// The launcher cannot be talked to.
    #[error("the launcher has gone ({0}); restart toolcell")]
    Gone(#[source] io::Error),
    /// No descriptors or memory for another cell.
    #[error("could not make the cell's pipes and sockets: {0}")]
    Resources(#[source] io::Error),
}

/// Hands orders to the launcher.
#[derive(Debug)]
pub struct Launcher {
    socket: AsyncFd<OwnedFd>,
    /// Held while one message is sent, so that messages keep their order.
    sending: tokio::sync::Mutex<()>,
    next: AtomicU32,
    /// Numbers of the templates that the launcher holds, by digest.
    templates: Mutex<HashMap<String, u32>>,
    /// Dropped last: the launcher is reaped by the supervisor's own exit.
    _process: Child,
}

/// How a cell enters its cgroup, and what the launcher removes if the supervisor vanishes.
#[derive(Debug)]
pub struct Grounds<'a> {
    /// Which kind of entry.
    pub cgroup: CgroupEntry,
    /// The descriptors that it speaks of.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// Directories that will be empty once the cell has ended, children before parents.
    pub directories: Vec<PathBuf>,
}

/// Which template of the launcher's to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateId(u32);

/// The tool's standard streams, as the tool gets them.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

impl Launcher {
    /// Takes over a launcher, inside the runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch its socket.
    pub fn new(started: Started) -> io::Result<Self> {
        Ok(Self {
            socket: crate::descriptor::watch(started.socket, Interest::WRITABLE)?,
            sending: tokio::sync::Mutex::new(()),
            next: AtomicU32::new(1),
            templates: Mutex::new(HashMap::new()),
            _process: started.process,
        })
    }

    /// Gives the launcher a template, unless it has one of that digest already.
    ///
    /// # Errors
    /// If it is too large, or the launcher has gone.
    pub async fn template(
        &self,
        digest: &str,
        template: &Template,
    ) -> Result<TemplateId, LaunchError> {
        if let Some(&id) = self.lock_templates().get(digest) {
            return Ok(TemplateId(id));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let order = Order::Template {
            id,
            template: Box::new(template.clone()),
        };
        self.send(&order, &[]).await?;
        self.lock_templates().insert(digest.to_owned(), id);
        Ok(TemplateId(id))
    }

    /// Has the launcher forget every template whose digest is not among those in use.
    ///
    /// # Errors
    /// If the launcher has gone.
    pub async fn retain(&self, in_use: impl Fn(&str) -> bool) -> Result<(), LaunchError> {
        let mut stale = Vec::new();
        self.lock_templates().retain(|digest, id| {
            let keep = in_use(digest);
            if !keep {
                stale.push(*id);
            }
            keep
        });
        for id in stale {
            self.send(&Order::Forget { id }, &[]).await?;
        }
        Ok(())
    }

    /// Starts a cell. How it goes is told by the returned [`Cell`].
    ///
    /// # Errors
    /// If the orders are too large, or the launcher has gone.
    pub async fn start(
        &self,
        TemplateId(template): TemplateId,
        call: Call,
        grounds: Grounds<'_>,
        streams: Streams,
    ) -> Result<Cell, LaunchError> {
        let (ours, theirs) = pair().map_err(|e| LaunchError::Resources(e.into()))?;
        let number = u64::from(self.next.fetch_add(1, Ordering::Relaxed));
        let ours = Cell::new(ours, number).map_err(LaunchError::Resources)?;
        let mut descriptors = vec![
            theirs.as_fd(),
            streams.stdin.as_fd(),
            streams.stdout.as_fd(),
            streams.stderr.as_fd(),
        ];
        descriptors.extend(grounds.descriptors);
        let leftovers = Leftovers {
            call: number,
            directories: grounds.directories,
        };
        let order = Order::Start {
            template,
            call: Box::new(call),
            cgroup: grounds.cgroup,
            leftovers,
        };
        self.send(&order, &descriptors).await?;
        Ok(ours)
    }

    /// Tells the launcher that what this cell had on the host is removed.
    ///
    /// # Errors
    /// If the launcher has gone.
    pub async fn over(&self, number: u64) -> Result<(), LaunchError> {
        self.send(&Order::Over { call: number }, &[]).await
    }

    async fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), LaunchError> {
        let bytes = encode(order).map_err(LaunchError::Gone)?;
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(LaunchError::TooLong {
                bytes: bytes.len(),
                max: SPEC_BYTES_MAX,
            });
        }
        let _turn = self.sending.lock().await;
        loop {
            let mut ready = self.socket.writable().await.map_err(LaunchError::Gone)?;
            let sent =
                ready.try_io(|socket| Ok(runner::sys::send(socket.as_fd(), &bytes, descriptors)?));
            match sent {
                Ok(result) => return result.map_err(LaunchError::Gone),
                Err(_would_block) => {}
            }
        }
    }

    fn lock_templates(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cell as the supervisor sees it: a socket on which it reports and takes one order.
///
/// Dropping it ends the cell: its first process exits at the end of file.
#[derive(Debug)]
pub struct Cell {
    /// The launcher's number for the call.
    pub number: u64,
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Cell {
    fn new(socket: OwnedFd, number: u64) -> io::Result<Self> {
        nix::fcntl::fcntl(
            &socket,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Ok(Self {
            number,
            socket: crate::descriptor::watch(socket, Interest::READABLE)?,
            buffer: vec![0; 4096],
        })
    }

    /// The next report with its descriptors; `None` once nobody is left to report. Cancel-safe.
    ///
    /// # Errors
    /// If a message is not a report, which a cell never sends before the tool runs and a tool
    /// cannot.
    pub async fn report(&mut self) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.socket.readable().await?;
            let buffer = &mut self.buffer;
            let received = ready.try_io(|socket| Ok(runner::sys::receive(socket.as_fd(), buffer)?));
            match received {
                Err(_would_block) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECONNRESET as i32) => {
                    return Ok(None);
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok((0, _))) => return Ok(None),
                Ok(Ok((length, descriptors))) => {
                    let report = wire::decode(&self.buffer[..length]).map_err(io::Error::other)?;
                    return Ok(Some((report, descriptors)));
                }
            }
        }
    }

    /// Asks every process in the cell to end. A cell that is already gone has nothing to be asked.
    pub fn terminate(&self) {
        if let Ok(order) = encode(&CellOrder::Terminate) {
            let _ = runner::sys::send(self.socket.as_fd(), &order, &[]);
        }
    }
}

/// The first process of a cell, as a pidfd: becomes readable when it, and so everything in the cell,
/// has ended (pidfd_open(2), pid_namespaces(7)).
#[derive(Debug, Clone)]
pub struct FirstProcess {
    /// In the supervisor's PID namespace.
    pub pid: i32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

impl FirstProcess {
    /// Watches a pidfd.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        let pidfd = Arc::new(crate::descriptor::watch(pidfd, Interest::READABLE)?);
        Ok(Self { pid, pidfd })
    }

    /// Kills it, and with it everything in the cell.
    pub fn kill(&self) {
        // ESRCH: it has ended already.
        let _ = runner::sys::signal_process(
            self.pidfd.get_ref().as_fd(),
            nix::sys::signal::Signal::SIGKILL,
        );
    }

    /// Waits until everything in the cell has ended. Cancel-safe.
    pub async fn ended(&self) {
        // An error can only mean that the runtime is shutting down.
        let _ = self.pidfd.readable().await;
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

fn encode<T: serde::Serialize>(message: &T) -> io::Result<Vec<u8>> {
    wire::encode(message).map_err(io::Error::other)
}

const _: () = assert!(SPEC_BYTES_MAX < MESSAGE_BYTES_MAX);
