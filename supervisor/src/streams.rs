//! The tool's standard streams: what it is fed, and what of its output is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

use crate::launch::Streams;
use crate::outcome;
use crate::results::Spool;
use crate::service::{Progress, Stream};

/// How much is read from a stream at once: the default capacity of a pipe (pipe(7)).
const CHUNK_BYTES: usize = 64 * 1024;
/// Most bytes of output in one progress message; the rest of a chunk is in the result.
const PROGRESS_BYTES_MAX: usize = 4096;

/// The supervisor's ends of the tool's streams.
#[derive(Debug)]
pub struct Ends {
    /// Feeds standard input; absent if the tool is fed nothing.
    pub stdin: Option<pipe::Sender>,
    /// Standard output.
    pub stdout: pipe::Receiver,
    /// Standard error.
    pub stderr: pipe::Receiver,
}

/// Makes the streams of one cell.
///
/// # Errors
/// If there are no descriptors left.
pub fn open(fed: bool) -> io::Result<(Ends, Streams)> {
    // A tool that is fed nothing gets a pipe that has ended. `/dev/null` would be the host's own
    // inode on a writable mount, whose times anybody who may write to it may change.
    let (sender, receiver) = pipe::pipe()?;
    let their_stdin = receiver.into_blocking_fd()?;
    let stdin = fed.then_some(sender);
    let (their_stdout, stdout) = pipe::pipe()?;
    let (their_stderr, stderr) = pipe::pipe()?;
    let theirs = Streams {
        stdin: their_stdin,
        stdout: their_stdout.into_blocking_fd()?,
        stderr: their_stderr.into_blocking_fd()?,
    };
    Ok((
        Ends {
            stdin,
            stdout,
            stderr,
        },
        theirs,
    ))
}

/// Feeds the tool, then closes its input. A tool that does not read it is not an error.
pub async fn feed(mut stdin: pipe::Sender, mut from: impl AsyncRead + Unpin) {
    let _ = tokio::io::copy(&mut from, &mut stdin).await;
}

/// What both output streams of a call share.
#[derive(Debug)]
pub struct OutputLimit {
    /// Most bytes, both streams together.
    most: u64,
    /// Bytes so far.
    so_far: AtomicU64,
    /// Told when `most` is passed.
    pub passed: Notify,
    /// Milliseconds after `begun` of the last output, for the idle deadline.
    last: AtomicU64,
    begun: Instant,
}

impl OutputLimit {
    /// A limit that nothing has been counted against.
    #[must_use]
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most,
            so_far: AtomicU64::new(0),
            passed: Notify::new(),
            last: AtomicU64::new(0),
            begun: Instant::now(),
        })
    }

    /// When the last output came, or when the call began.
    #[must_use]
    pub fn last_output(&self) -> Instant {
        self.begun + std::time::Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Whether more was written than may be.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.so_far.load(Ordering::Relaxed) > self.most
    }

    /// Counts bytes, and returns how many of them are within the limit.
    fn count(&self, bytes: usize) -> usize {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        let bytes = bytes as u64;
        let before = self.so_far.fetch_add(bytes, Ordering::Relaxed);
        let room = self.most.saturating_sub(before);
        if bytes > room {
            self.passed.notify_one();
        }
        usize::try_from(bytes.min(room)).unwrap_or(usize::MAX)
    }
}

/// Where a stream's output goes besides the result.
pub struct Listeners {
    /// Progress messages.
    pub progress: Option<mpsc::Sender<Progress>>,
    /// A copy, byte for byte, for `toolcell run`.
    pub copy: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

/// What was kept of one stream.
pub struct Kept {
    head: Vec<u8>,
    bytes: u64,
    spool: Spool,
    /// The whole is longer than the head, and is in the spool.
    spooled: bool,
    /// Bytes in the spool.
    in_spool: u64,
    /// Why the rest is lost, if it is.
    lost: Option<String>,
}

/// Reads a stream to its end.
///
/// It ends when every process that holds it has: the caller sees to that. It ends early when whoever
/// is copied to has gone. Nothing beyond the limit is kept, but it is still read, so that a tool that is being ended does not hang on it.
pub async fn drain(
    mut from: pipe::Receiver,
    stream: Stream,
    inline: usize,
    limit: Arc<OutputLimit>,
    spool: Spool,
    mut listeners: Listeners,
) -> Kept {
    let mut kept = Kept {
        head: Vec::new(),
        bytes: 0,
        spool,
        spooled: false,
        in_spool: 0,
        lost: None,
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    // A read error on a pipe of our own can only be a bug in this program; the end is the safe answer.
    while let Ok(length) = from.read(&mut chunk).await
        && length > 0
    {
        kept.bytes += length as u64;
        let within = &chunk[..limit.count(length)];
        kept.append(within, inline);
        if let Some(progress) = &listeners.progress {
            let text = String::from_utf8_lossy(&within[..within.len().min(PROGRESS_BYTES_MAX)]);
            if !text.is_empty() {
                // A full queue means that nobody keeps up; the result has it all.
                let _ = progress.try_send(Progress::Output {
                    stream,
                    text: text.into_owned(),
                });
            }
        }
        if let Some(copy) = &mut listeners.copy
            && (copy.write_all(within).await.is_err() || copy.flush().await.is_err())
        {
            // Nobody reads on. The tool learns of it as it would without a cell: by SIGPIPE.
            break;
        }
    }
    kept
}

impl Kept {
    fn append(&mut self, bytes: &[u8], inline: usize) {
        let into_head = bytes.len().min(inline.saturating_sub(self.head.len()));
        if !self.spooled {
            if into_head == bytes.len() {
                self.head.extend_from_slice(bytes);
                return;
            }
            self.spooled = true;
            let head = std::mem::take(&mut self.head);
            self.keep(&head);
            self.head = head;
        }
        self.keep(bytes);
        self.head.extend_from_slice(&bytes[..into_head]);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.lost.is_some() {
            return;
        }
        match self.spool.append(bytes) {
            Ok(()) => self.in_spool += bytes.len() as u64,
            Err(error) => self.lost = Some(error.to_string()),
        }
    }

    /// The stream as it appears in the outcome, and why a part of it is lost, if one is.
    #[must_use]
    pub fn publish(self) -> (outcome::Stream, Option<String>) {
        let truncated = self.spooled || (self.head.len() as u64) < self.bytes;
        let resource = if self.spooled {
            self.spool.publish()
        } else {
            None
        };
        let text = match std::str::from_utf8(&self.head) {
            Ok(text) => text.to_owned(),
            // The head may end within a character.
            Err(error) if truncated && error.error_len().is_none() => {
                String::from_utf8_lossy(&self.head[..error.valid_up_to()]).into_owned()
            }
            Err(_) => String::from_utf8_lossy(&self.head).into_owned(),
        };
        (
            outcome::Stream {
                text,
                bytes: self.bytes,
                truncated,
                resource_bytes: resource.as_ref().map(|_| self.in_spool),
                resource,
            },
            self.lost,
        )
    }
}
