//! The gateway: the process that resolves, dials and relays for cells.
//!
//! It is the supervisor's own executable, started again by the launcher. It reads what tools and
//! foreign servers send, and so has nothing but its sockets: no file, no privilege, no memory of the
//! supervisor's, and no secret that a call of it does not need.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use runner::sys;
use runner::wire;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zeroize::Zeroize as _;

use super::cell;
use super::confinement;
use super::dial::Dialer;
use super::names::Names;
use super::wire::{Account, MESSAGE_BYTES_MAX, Order, Service};

/// Threads that relay; each moves gigabytes a second.
const WORKERS_MAX: usize = 4;

/// Serves until the supervisor goes; returns the exit status.
#[must_use]
pub fn main() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("toolcell: the gateway cannot go on: {error}");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    let socket = sys::adopt(0)?;
    confinement::confine()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS_MAX))
        .enable_all()
        .build()?;
    let result = runtime.block_on(obey(socket));
    runtime.shutdown_background();
    result
}

async fn obey(socket: OwnedFd) -> io::Result<()> {
    let socket = watch(socket, Interest::READABLE)?;
    let mut dialer = Dialer {
        names: Names::new(None, None),
        proxy: None,
    };
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (length, descriptors) = receive(&socket, &mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let order = wire::decode::<Order>(&buffer[..length]);
        // It may have held secrets.
        buffer[..length].zeroize();
        match order.map_err(io::Error::other)? {
            Order::Host(host) => {
                let mut files = descriptors.into_iter();
                let (resolv_conf, hosts) = host.files;
                let resolv_conf = if resolv_conf { files.next() } else { None };
                let hosts = if hosts { files.next() } else { None };
                dialer = Dialer {
                    names: Names::new(resolv_conf, hosts),
                    proxy: host.proxy.map(Arc::new),
                };
            }
            Order::Serve(service) => {
                let mut descriptors = descriptors.into_iter();
                let Some(call) = descriptors.next() else {
                    continue;
                };
                let rest = descriptors.collect();
                tokio::spawn(serve_cell(call, *service, dialer.clone(), rest));
            }
        }
    }
}

/// Serves one cell; whatever goes wrong, the supervisor sees the end of the call's socket.
async fn serve_cell(call: OwnedFd, service: Service, dialer: Dialer, descriptors: Vec<OwnedFd>) {
    let Ok(call) = watch(call, Interest::READABLE | Interest::WRITABLE) else {
        return;
    };
    let over = async {
        let mut nothing = [0; 1];
        // Nothing is ever sent this way, so that whatever comes is the end.
        let _ = receive(&call, &mut nothing).await;
    };
    match cell::serve(service, dialer, descriptors, over).await {
        Ok(account) => {
            if let Err(error) = tell(&call, &account).await {
                eprintln!("toolcell: the gateway could not account for a call: {error}");
            }
        }
        Err(error) => eprintln!("toolcell: the gateway could not serve a cell: {error}"),
    }
}

async fn tell(call: &AsyncFd<OwnedFd>, account: &Account) -> io::Result<()> {
    let bytes = wire::encode(account).map_err(io::Error::other)?;
    loop {
        let mut ready = call.writable().await?;
        if let Ok(sent) = ready.try_io(|call| Ok(sys::send(call.as_fd(), &bytes, &[])?)) {
            return sent;
        }
    }
}

async fn receive(
    socket: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| Ok(sys::receive(socket.as_fd(), buffer)?)) {
            Err(_would_block) => {}
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Ok(result) => return result,
        }
    }
}

fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    crate::descriptor::watch(socket, interest)
}
