//! A cell's reader, as the supervisor asks it: what looks into the cell's processes, which a supervisor
//! in a Landlock domain cannot (`runner::reader`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use runner::wire::{self, ANSWER_BYTES_MAX, Answer, Question};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use crate::launch::{FirstProcess, Launcher};

/// Longest wait for an answer: only memory that the tool has made slow takes so long.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Most readers that one cell gets: one that answered late is given up for another.
const READERS_MAX: u32 = 4;

/// Has a reader look into a cell's processes; the launcher makes it when it is first asked, as most
/// calls never have anything to ask.
///
/// Dropping it ends the reader.
#[derive(Debug)]
pub struct Reader {
    launcher: Arc<Launcher>,
    first: FirstProcess,
    /// The cell's PID namespace.
    namespace: OwnedFd,
    counts: bool,
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// Taken out while a question is open: what came later would belong to another.
    socket: Option<AsyncFd<OwnedFd>>,
    started: u32,
}

impl Reader {
    /// A reader of the cell with this first process and PID namespace; whether it finds mapped files
    /// in memory, too.
    #[must_use]
    pub fn new(
        launcher: Arc<Launcher>,
        first: FirstProcess,
        namespace: OwnedFd,
        counts: bool,
    ) -> Self {
        Self {
            launcher,
            first,
            namespace,
            counts,
            link: Mutex::default(),
        }
    }

    /// Asks, and waits for the answer and the descriptor that comes with it. Nothing comes of it if the
    /// cell has ended, or if readers do not answer in time.
    pub async fn ask(&self, question: &Question) -> Option<(Answer, Option<OwnedFd>)> {
        let mut link = self.link.lock().await;
        let asked = async {
            let socket = match link.socket.take() {
                Some(socket) => socket,
                None if link.started < READERS_MAX => {
                    link.started += 1;
                    let started = self
                        .launcher
                        .start_reader(self.namespace.as_fd(), self.counts);
                    started.await.map_err(io::Error::other)?
                }
                None => return Ok(None),
            };
            let answered = ask(&socket, question).await?;
            link.socket = Some(socket);
            Ok(Some(answered))
        };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let asked: io::Result<_> = tokio::time::timeout(ANSWER_MAX, asked)
            .await
            .map_err(late)
            .flatten();
        match asked {
            Ok(answered) => answered,
            Err(error) => {
                if !self.first.has_ended() {
                    tracing::warn!(%error, "a cell's reader does not answer: what it was asked is not known");
                }
                None
            }
        }
    }

    /// Whether there is nothing left to look into.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.first.has_ended()
    }
}

async fn ask(
    socket: &AsyncFd<OwnedFd>,
    question: &Question,
) -> io::Result<(Answer, Option<OwnedFd>)> {
    let bytes = wire::encode(question).map_err(io::Error::other)?;
    runner::sys::send(socket.as_fd(), &bytes, &[])?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let mut ready = socket.readable().await?;
        let received =
            ready.try_io(|socket| Ok(runner::sys::receive(socket.as_fd(), &mut buffer)?));
        match received {
            Err(_would_block) => {}
            Ok(Ok((0, _))) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok((length, descriptors))) => {
                let answer = wire::decode(&buffer[..length]).map_err(io::Error::other)?;
                return Ok((answer, descriptors.into_iter().next()));
            }
            Ok(Err(error)) => return Err(error),
        }
    }
}
