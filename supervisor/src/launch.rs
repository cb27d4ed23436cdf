//! The launcher's other end: starts it, hands it templates, and has it start cells.
//!
//! The only module that starts processes on the host: one, before the supervisor confines itself.
//! The launcher makes all others, its own successor among them, which stands by from the start.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use runner::report::Report;
use runner::spec::{Call, Filter, Program, SPEC_BYTES_MAX, Template};
use runner::wire::{
    self, BUILD, Begin, CellOrder, CgroupEntry, Leftovers, MESSAGE_BYTES_MAX, Order,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Send buffer of the launcher's socket: room for a burst of orders while it clones a cell.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;
/// Most templates that the launcher holds; one takes about ten kilobytes.
const TEMPLATES_KEPT_MAX: usize = 256;
const _: () = assert!(TEMPLATES_KEPT_MAX <= runner::launcher::TEMPLATES_MAX);

/// Longest report of a cell.
const REPORT_BYTES_MAX: usize = 4096;
/// Longest wait for a launcher's first answer.
const HELLO_SECONDS_MAX: i64 = 10;

/// A launcher that was just started, and the one that stands by.
#[derive(Debug)]
pub struct Started {
    socket: OwnedFd,
    process: Child,
    standby: OwnedFd,
    reader: Filter,
}

impl Started {
    /// The launcher's PID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// Starts this very executable as a launcher, and checks that it is the same build. Readers will have
/// this filter.
///
/// # Errors
/// If it cannot be started or makes no standby, or answers as another build.
pub fn start(reader: Filter) -> io::Result<Started> {
    lift_descriptor_limit()?;
    let (socket, theirs) = link_pair()?;
    // The environment is cleared because every cell's first process inherits the launcher's memory.
    #[allow(clippy::disallowed_methods)] // the one place that starts a process
    let process = Command::new("/proc/self/exe")
        .arg(runner::launcher::ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    greet(&socket, &reader)?;
    let standby = stand_by(&socket, &reader)?;
    Ok(Started {
        socket,
        process,
        standby,
        reader,
    })
}

/// A pair of sockets for a launcher: ours, and its own.
fn link_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pair()?;
    setsockopt(&ours, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
    setsockopt(
        &ours,
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(HELLO_SECONDS_MAX),
    )?;
    Ok((ours, theirs))
}

/// Has a launcher introduce itself. The socket does not block from then on.
fn greet(socket: &OwnedFd, reader: &Filter) -> io::Result<()> {
    let hello = encode(&Order::Hello {
        build: BUILD.to_owned(),
        reader: reader.clone(),
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
        socket,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok(())
}

/// Has a launcher make another that stands by.
fn stand_by(socket: &OwnedFd, reader: &Filter) -> io::Result<OwnedFd> {
    let (ours, theirs) = link_pair()?;
    runner::sys::send(socket.as_fd(), &encode(&Order::Standby)?, &[theirs.as_fd()])?;
    drop(theirs);
    greet(&ours, reader)?;
    Ok(ours)
}

/// Raises this process's limit of open descriptors, which the launcher and the cells inherit, as far as
/// it may: a cell with egress hands over hundreds, and the kernel also holds the limit against all that
/// a user has on their way (`ETOOMANYREFS`, unix(7)). A tool gets its own limit in its cell.
fn lift_descriptor_limit() -> Result<(), Errno> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
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
    #[error(
        "the launcher has gone, and so has the one that stood by, and a confined supervisor starts no \
         other ({0}); hint: restart toolcell"
    )]
    Gone(#[source] io::Error),
    /// An order could not be sent although somebody is there to take it.
    #[error("the launcher could not be told: {0}")]
    Untold(#[source] io::Error),
    /// No descriptors or memory for another cell.
    #[error("could not make the cell's pipes and sockets: {0}")]
    Resources(#[source] io::Error),
}

/// Hands orders to the launcher, or to the one that stands by if it has ended.
#[derive(Debug)]
pub struct Launcher {
    /// Held while orders are sent, so that a template comes before the cell that needs it.
    link: tokio::sync::Mutex<Link>,
    next: AtomicU64,
}

/// One launcher process, and what it has been told.
#[derive(Debug)]
struct Link {
    socket: AsyncFd<OwnedFd>,
    /// The launcher that we started ourselves, to be reaped.
    process: Option<Child>,
    /// What takes over; absent if none could be made.
    standby: Option<OwnedFd>,
    /// The filter of readers.
    reader: Filter,
    /// Numbers of the templates that it holds, by digest.
    templates: HashMap<String, u32>,
    next_template: u32,
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
            link: tokio::sync::Mutex::new(Link::new(started)?),
            next: AtomicU64::new(1),
        })
    }

    /// Starts a cell of a template with this digest. How it goes is told by the returned [`Cell`]. If the
    /// call has no program, the cell waits until it is [told](Cell::begin).
    ///
    /// # Errors
    /// If the orders are too large, or no launcher can be had.
    pub async fn start(
        &self,
        digest: &str,
        template: &Template,
        call: Call,
        grounds: Grounds<'_>,
        streams: Streams,
    ) -> Result<Cell, LaunchError> {
        let (ours, theirs) = pair().map_err(|e| LaunchError::Resources(e.into()))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut ours = Cell::new(ours, number).map_err(LaunchError::Resources)?;
        let mut descriptors = vec![
            theirs.as_fd(),
            streams.stdin.as_fd(),
            streams.stdout.as_fd(),
            streams.stderr.as_fd(),
        ];
        let mut waits = None;
        if call.program.is_none() {
            let (begin, theirs) = pair().map_err(|e| LaunchError::Resources(e.into()))?;
            ours.begin = Some(begin);
            waits = Some(theirs);
        }
        descriptors.extend(waits.iter().map(AsFd::as_fd));
        descriptors.extend(grounds.descriptors);
        let mut order = Order::Start {
            template: 0,
            call: Box::new(call),
            cgroup: grounds.cgroup,
            leftovers: Leftovers {
                call: number,
                directories: grounds.directories,
            },
        };
        let mut link = self.link.lock().await;
        match link.start(digest, template, &mut order, &descriptors).await {
            Err(LaunchError::Gone(error)) => {
                tracing::error!(%error, "the launcher has ended, and its cells with it; another takes over");
                link.replace().map_err(LaunchError::Gone)?;
                link.start(digest, template, &mut order, &descriptors)
                    .await?;
            }
            result => result?,
        }
        Ok(ours)
    }

    /// Has the launcher start a gateway that obeys this socket. Whether it came to live is seen on the
    /// socket's other end.
    ///
    /// # Errors
    /// If no launcher can be had.
    pub async fn start_gateway(&self, socket: OwnedFd) -> Result<(), LaunchError> {
        let mut link = self.link.lock().await;
        match link.send(&Order::Gateway, &[socket.as_fd()]).await {
            Err(LaunchError::Gone(error)) => {
                tracing::error!(%error, "the launcher has ended, and its cells with it; another takes over");
                link.replace().map_err(LaunchError::Gone)?;
                link.send(&Order::Gateway, &[socket.as_fd()]).await
            }
            result => result,
        }
    }

    /// Has the launcher make a reader of the cell with this PID namespace. If it does not, the socket
    /// that is returned ends. None takes the place of a launcher that has gone: its cells go, too.
    ///
    /// # Errors
    /// If the launcher has gone.
    pub async fn start_reader(
        &self,
        namespace: BorrowedFd<'_>,
        counts: bool,
    ) -> Result<AsyncFd<OwnedFd>, LaunchError> {
        let (ours, theirs) = pair().map_err(|e| LaunchError::Resources(e.into()))?;
        let ours = watch(ours).map_err(LaunchError::Resources)?;
        let descriptors = [theirs.as_fd(), namespace];
        let link = self.link.lock().await;
        link.send(&Order::Reader { counts }, &descriptors).await?;
        Ok(ours)
    }

    /// Waits until the launcher says that it takes orders. If it has gone, the one that stood by
    /// takes over, as for a call. The caller sets the deadline.
    ///
    /// # Errors
    /// If no launcher can be had.
    pub async fn answer(&self) -> Result<(), LaunchError> {
        let (ours, theirs) = pair().map_err(|e| LaunchError::Resources(e.into()))?;
        let ours = watch(ours).map_err(LaunchError::Resources)?;
        let mut link = self.link.lock().await;
        match link.send(&Order::Answer, &[theirs.as_fd()]).await {
            Err(LaunchError::Gone(error)) => {
                tracing::error!(%error, "the launcher has ended, and its cells with it; another takes over");
                link.replace().map_err(LaunchError::Gone)?;
                link.send(&Order::Answer, &[theirs.as_fd()]).await?;
            }
            result => result?,
        }
        drop(link);
        drop(theirs);
        // The end of the socket without the byte: it went before it came to this order.
        let mut byte = [0];
        loop {
            let mut ready = ours.readable().await.map_err(LaunchError::Untold)?;
            let received =
                ready.try_io(|socket| Ok(runner::sys::receive(socket.as_fd(), &mut byte)?));
            match received {
                Err(_would_block) => {}
                Ok(Ok((1, _))) => return Ok(()),
                Ok(Ok(_)) => return Err(LaunchError::Gone(Errno::EPIPE.into())),
                Ok(Err(error)) => return Err(LaunchError::Gone(error)),
            }
        }
    }

    /// Tells the launcher that what this cell had on the host is removed.
    ///
    /// # Errors
    /// If the launcher has gone, and with it what it knew.
    pub async fn over(&self, number: u64) -> Result<(), LaunchError> {
        self.link
            .lock()
            .await
            .send(&Order::Over { call: number }, &[])
            .await
    }
}

impl Link {
    fn new(started: Started) -> io::Result<Self> {
        Ok(Self {
            socket: crate::descriptor::watch(started.socket, Interest::WRITABLE)?,
            process: Some(started.process),
            standby: Some(started.standby),
            reader: started.reader,
            templates: HashMap::new(),
            next_template: 1,
        })
    }

    /// Puts the launcher that stands by in the place of one that has ended, and has it make the next.
    fn replace(&mut self) -> io::Result<()> {
        if let Some(mut old) = self.process.take() {
            // Whatever is wrong with it, it has closed its socket; it must not linger.
            let _ = old.kill();
            old.wait()?;
        }
        let socket = self.standby.take().ok_or(Errno::ESRCH)?;
        // Fails if it has gone, too.
        match stand_by(&socket, &self.reader) {
            Ok(next) => self.standby = Some(next),
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) => tracing::error!(%error, "no other launcher stands by"),
        }
        self.socket = crate::descriptor::watch(socket, Interest::WRITABLE)?;
        self.templates.clear();
        Ok(())
    }

    async fn start(
        &mut self,
        digest: &str,
        template: &Template,
        order: &mut Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LaunchError> {
        let id = if let Some(&id) = self.templates.get(digest) {
            id
        } else {
            self.make_room().await?;
            let id = self.next_template;
            let template = Box::new(template.clone());
            self.send(&Order::Template { id, template }, &[]).await?;
            self.templates.insert(digest.to_owned(), id);
            self.next_template += 1;
            id
        };
        if let Order::Start { template, .. } = order {
            *template = id;
        }
        self.send(order, descriptors).await
    }

    /// Has the launcher forget every template if it holds many: those of profiles that have changed
    /// since are among them, and those in use are sent again.
    async fn make_room(&mut self) -> Result<(), LaunchError> {
        if self.templates.len() < TEMPLATES_KEPT_MAX {
            return Ok(());
        }
        for (_, id) in std::mem::take(&mut self.templates) {
            self.send(&Order::Forget { id }, &[]).await?;
        }
        Ok(())
    }

    async fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), LaunchError> {
        let bytes = encode(order).map_err(LaunchError::Untold)?;
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(LaunchError::TooLong {
                bytes: bytes.len(),
                max: SPEC_BYTES_MAX,
            });
        }
        loop {
            let mut ready = self.socket.writable().await.map_err(LaunchError::Untold)?;
            let sent =
                ready.try_io(|socket| Ok(runner::sys::send(socket.as_fd(), &bytes, descriptors)?));
            if let Ok(result) = sent {
                return result.map_err(|error| {
                    if is_gone(&error) {
                        LaunchError::Gone(error)
                    } else {
                        LaunchError::Untold(error)
                    }
                });
            }
        }
    }
}

/// Whether an error of a socket says that nobody has its other end.
fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::EPIPE, Errno::ECONNRESET, Errno::ENOTCONN];
    gone.iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
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
    /// Where a cell that waits is told to begin.
    begin: Option<OwnedFd>,
    /// Reports that were heard while it waited, to be heard again.
    heard: VecDeque<(Report, Vec<OwnedFd>)>,
}

impl Cell {
    fn new(socket: OwnedFd, number: u64) -> io::Result<Self> {
        Ok(Self {
            number,
            socket: watch(socket)?,
            buffer: vec![0; REPORT_BYTES_MAX],
            begin: None,
            heard: VecDeque::new(),
        })
    }

    /// Tells a cell that waits what to execute.
    ///
    /// # Errors
    /// If it has gone, or was told before.
    pub fn begin(&mut self, program: Program) -> io::Result<()> {
        let socket = self.begin.take().ok_or(Errno::EALREADY)?;
        let order = encode(&Begin { program })?;
        Ok(runner::sys::send(socket.as_fd(), &order, &[])?)
    }

    /// Has [`Cell::report`] return these first, in their order.
    pub fn hear_again(&mut self, reports: impl IntoIterator<Item = (Report, Vec<OwnedFd>)>) {
        self.heard.extend(reports);
    }

    /// The next report with its descriptors; `None` once nobody is left to report. Cancel-safe.
    ///
    /// # Errors
    /// If a message is not a report, which a cell never sends before the tool runs and a tool
    /// cannot.
    pub async fn report(&mut self) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
        if let Some(heard) = self.heard.pop_front() {
            return Ok(Some(heard));
        }
        loop {
            let mut ready = self.socket.readable().await?;
            let buffer = &mut self.buffer;
            let received = ready.try_io(|socket| Ok(runner::sys::receive(socket.as_fd(), buffer)?));
            match received {
                Err(_would_block) => {}
                // Said once when the cell went with an order unread (unix(7)); its last words follow.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECONNRESET as i32) => {}
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

    /// Whether it has ended, and with it everything in the cell.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.pidfd.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ended| ended > 0)
    }

    /// Waits until everything in the cell has ended. Cancel-safe.
    pub async fn ended(&self) {
        // An error can only mean that the runtime is shutting down.
        let _ = self.pidfd.readable().await;
    }
}

/// Two connected sockets for whole messages, as all of our processes talk by.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Has the runtime watch for what comes on a socket.
fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    crate::descriptor::watch(socket, Interest::READABLE)
}

fn encode<T: serde::Serialize>(message: &T) -> io::Result<Vec<u8>> {
    wire::encode(message).map_err(io::Error::other)
}

const _: () = assert!(SPEC_BYTES_MAX < MESSAGE_BYTES_MAX);
