//! Bytes between a connection in a cell and one of the host's.
//!
//! A little is read and written. Much moves through a pipe by splice(2), so that no byte is copied to
//! this process. A buffer and a pipe for each direction are all that is ever held of a connection that
//! one side does not read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Size of the pipe of each direction: large enough that few system calls are made for much data.
const PIPE_BYTES: usize = 256 * 1024;
/// How much is read at a time. A message that fills it is much: what follows is spliced.
pub const READ_BYTES: usize = 16 * 1024;
/// Longest time without a byte in either direction; what a peer has forgotten must not stay.
pub const IDLE_MAX: Duration = Duration::from_mins(10);

/// The bytes that a call may still move, and has moved, together for all its connections.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            left: AtomicU64::new(bytes),
        }
    }

    /// Takes bytes off; false if there are not that many.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }
}

/// What became of one attempt to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// So many were moved; none if there were none yet.
    Moved(usize),
    /// The side that sends has said that nothing more comes.
    Finished,
    /// The call may move no more bytes.
    OverBudget,
}

/// What both directions of one connection share.
#[derive(Debug)]
pub struct Flow<'a> {
    /// The call's budget.
    pub budget: &'a Budget,
    /// Bytes moved in this direction.
    pub moved: &'a AtomicU64,
    /// When a byte last went either way.
    pub last: &'a LastMoved,
}

/// When something was last moved, in milliseconds of a connection's life.
#[derive(Debug)]
pub struct LastMoved {
    begun: Instant,
    millis: AtomicU64,
}

impl Default for LastMoved {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            millis: AtomicU64::new(0),
        }
    }
}

impl LastMoved {
    fn note(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for so long that the connection counts as forgotten.
    pub async fn forgotten(&self) {
        loop {
            let deadline = self.deadline();
            sleep_until(deadline).await;
            if self.deadline() == deadline {
                return;
            }
        }
    }

    /// Waits for a read or a write, as long as the connection is not forgotten.
    ///
    /// # Errors
    /// That of what is waited for, or that the connection is.
    pub async fn unless_forgotten<T>(
        &self,
        waiting: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::pin!(waiting);
        tokio::select! {
            result = &mut waiting => result,
            () = self.forgotten() => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// When the connection counts as forgotten, if nothing moves until then.
    fn deadline(&self) -> Instant {
        self.begun + Duration::from_millis(self.millis.load(Ordering::Relaxed)) + IDLE_MAX
    }
}

impl Flow<'_> {
    /// Notes bytes that were moved; false if the call may not move that many.
    #[must_use]
    pub fn account(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.last.note();
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.budget.take(bytes)
    }

    /// Moves what there is from one socket to the other.
    pub async fn move_once(
        &self,
        channel: &mut Channel,
        from: &TcpStream,
        to: &TcpStream,
    ) -> io::Result<Chunk> {
        match &channel.pipe {
            Some(pipe) if channel.much => {
                let moved = self.splice_once(pipe, from, to).await?;
                if let Chunk::Moved(bytes) = moved {
                    channel.much = bytes >= READ_BYTES;
                }
                Ok(moved)
            }
            _ => {
                let read = match try_read(from, &mut channel.buffer) {
                    Ok(0) => return Ok(Chunk::Finished),
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Chunk::Moved(0));
                    }
                    Err(error) => return Err(error),
                };
                if !self.account(read) {
                    return Ok(Chunk::OverBudget);
                }
                self.write(to, &channel.buffer[..read]).await?;
                if read == channel.buffer.len() {
                    channel.much = true;
                    if channel.pipe.is_none() {
                        channel.pipe = Some(Pipe::new()?);
                    }
                }
                Ok(Chunk::Moved(read))
            }
        }
    }

    async fn splice_once(
        &self,
        pipe: &Pipe,
        from: &TcpStream,
        to: &TcpStream,
    ) -> io::Result<Chunk> {
        let got = from.try_io(Interest::READABLE, || shift(from, &pipe.fill));
        let bytes = match got {
            Ok(0) => return Ok(Chunk::Finished),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Chunk::Moved(0)),
            Err(error) => return Err(error),
        };
        if !self.account(bytes) {
            return Ok(Chunk::OverBudget);
        }
        let mut held = bytes;
        while held > 0 {
            match to.try_io(Interest::WRITABLE, || shift(&pipe.drain, to)) {
                Ok(sent) => held -= sent.min(held),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(Chunk::Moved(bytes))
    }

    /// Writes bytes that were read already.
    pub async fn write(&self, to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match to.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is, at most a buffer full; 0 at the end.
    pub async fn read(&self, from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            from.readable().await?;
            match try_read(from, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Tells the other side that nothing more comes (shutdown(2)).
pub fn finish(socket: &TcpStream) -> io::Result<()> {
    match nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(socket),
        nix::sys::socket::Shutdown::Write,
    ) {
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Closes a connection so that its other side sees a reset at once, and not an orderly end.
pub fn reset(socket: TcpStream) {
    // Nothing is waited for: an unsent rest is what a reset is meant to drop.
    let _ = socket.set_zero_linger();
    drop(socket);
}

/// Reads what there is. If that is less than asked for, nothing is left, and the socket counts as not
/// readable until the kernel says that it is: that saves a read that would find nothing.
pub fn try_read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = None;
    let tried = from.try_io(Interest::READABLE, || {
        let read = rustix::io::read(from, &mut *buffer)?;
        got = Some(read);
        if read > 0 && read < buffer.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(read)
    });
    got.map_or(tried, Ok)
}

fn shift(from: impl AsFd, to: impl AsFd) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(&from, None, &to, None, PIPE_BYTES, flags) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// What one direction of a connection moves through.
#[derive(Debug)]
pub struct Channel {
    buffer: Vec<u8>,
    /// Made when there is much for the first time: most connections are small.
    pipe: Option<Pipe>,
    /// Whether the last move was of much, so that the next is spliced.
    much: bool,
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            buffer: vec![0; READ_BYTES],
            pipe: None,
            much: false,
        }
    }
}

/// A pipe that bytes move through; it is empty between two moves.
#[derive(Debug)]
struct Pipe {
    drain: OwnedFd,
    fill: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (drain, fill) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let bytes = i32::try_from(PIPE_BYTES).expect("the size is a small constant");
        // An ordinary user may have used up what pipes may take; a smaller one is only slower.
        let _ = fcntl(&fill, FcntlArg::F_SETPIPE_SZ(bytes));
        Ok(Self { drain, fill })
    }
}
