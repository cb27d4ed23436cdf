//! The supervisor's end of egress: has the gateway started, and has it serve a cell for each call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use runner::sys;
use runner::wire;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::host::HostNetwork;
use super::wire::{Account, MESSAGE_BYTES_MAX, Order, Service};
use crate::launch::{Launcher, pair};

/// Send buffer of the gateway's socket: room for a burst of calls.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;
/// Longest wait for the gateway to take an order.
const ORDER_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a call's account, once the call is over.
const ACCOUNT_MAX: Duration = Duration::from_secs(5);

/// Has cells served, and starts a gateway when there is none.
#[derive(Debug, Default)]
pub struct Gateways {
    link: tokio::sync::Mutex<Option<Link>>,
}

/// One gateway, and what it was told about the host.
#[derive(Debug)]
struct Link {
    socket: AsyncFd<OwnedFd>,
    told: Option<HostNetwork>,
}

impl Gateways {
    /// Has the gateway serve a cell whose sockets these are; with the host's authorities if TLS is
    /// opened. If the gateway has gone, another is
    /// started once.
    ///
    /// # Errors
    /// If no gateway can be had, or it does not take the order in time.
    pub async fn serve(
        &self,
        launcher: &Launcher,
        service: Service,
        bundle: Option<&OwnedFd>,
        sockets: &[OwnedFd],
    ) -> io::Result<Session> {
        let order = wire::encode(&Order::Serve(Box::new(service))).map_err(io::Error::other)?;
        // It may hold secrets.
        let order = Zeroizing::new(order);
        let descriptors: Vec<_> = bundle.into_iter().chain(sockets).collect();
        let mut link = self.link.lock().await;
        let serving = async {
            for last in [false, true] {
                let opened = match link.as_mut() {
                    Some(link) => link,
                    None => link.insert(Link::start(launcher).await?),
                };
                match opened.serve(&order, &descriptors).await {
                    Err(error) if !last => {
                        tracing::error!(%error, "the gateway has ended; starting another");
                        *link = None;
                    }
                    result => return result,
                }
            }
            Err(io::Error::other(
                "the gateway ends as soon as it is started",
            ))
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the gateway takes no order");
        timeout(ORDER_MAX, serving).await.map_err(|_| late())?
    }
}

impl Link {
    async fn start(launcher: &Launcher) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        setsockopt(&ours, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
        launcher
            .start_gateway(theirs)
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            socket: watch(ours)?,
            told: None,
        })
    }

    async fn serve(&mut self, order: &[u8], others: &[&OwnedFd]) -> io::Result<Session> {
        self.tell_about_the_host().await?;
        let (ours, theirs) = pair()?;
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend(others.iter().map(AsFd::as_fd));
        send(&self.socket, order, &descriptors).await?;
        Ok(Session {
            socket: Arc::new(watch(ours)?),
        })
    }

    /// Tells the gateway how names are found and what proxy there is, if that is news.
    async fn tell_about_the_host(&mut self) -> io::Result<()> {
        let now = HostNetwork::look();
        if self.told.as_ref() == Some(&now) {
            return Ok(());
        }
        let (host, files) = now.for_the_gateway();
        let order = wire::encode(&Order::Host(host)).map_err(io::Error::other)?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(&self.socket, &order, &files).await?;
        self.told = Some(now);
        Ok(())
    }
}

/// One call's socket to the gateway. Dropping it ends the cell's egress.
#[derive(Debug, Clone)]
pub struct Session {
    socket: Arc<AsyncFd<OwnedFd>>,
}

impl Session {
    /// Waits until the gateway has gone, which while a call runs it must not. Cancel-safe.
    pub async fn gone(&self) {
        // Only an account or the end can come, and no account comes before it is asked for.
        let _ = self.socket.readable().await;
    }

    /// Ends the cell's egress and returns what was seen of it.
    ///
    /// # Errors
    /// If the gateway has gone, or does not answer in time.
    pub async fn finish(self) -> io::Result<Account> {
        use std::os::fd::AsRawFd;
        let socket = self.socket.get_ref().as_raw_fd();
        match nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Write) {
            Ok(()) | Err(Errno::ENOTCONN) => {}
            Err(error) => return Err(error.into()),
        }
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        timeout(ACCOUNT_MAX, self.account()).await.map_err(late)?
    }

    async fn account(&self) -> io::Result<Account> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| Ok(sys::receive(socket.as_fd(), &mut buffer)?));
            match received {
                Err(_would_block) => {}
                Ok(Ok((0, _))) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok((length, _))) => {
                    return wire::decode(&buffer[..length]).map_err(io::Error::other);
                }
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

async fn send(
    socket: &AsyncFd<OwnedFd>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("the orders are longer than a message"));
    }
    loop {
        let mut ready = socket.writable().await?;
        let sent = ready.try_io(|socket| Ok(sys::send(socket.as_fd(), bytes, descriptors)?));
        if let Ok(result) = sent {
            return result;
        }
    }
}

fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    crate::descriptor::watch(socket, Interest::READABLE | Interest::WRITABLE)
}
