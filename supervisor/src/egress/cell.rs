//! One cell's egress, within the gateway: its resolver, its listeners, its watcher, its account.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::in_pktinfo;
use nix::sys::socket::{
    Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};
use profiles::egress::{Name, Plan, Role};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Connection};
use super::denied;
use super::dial::{Destination, Dialer};
use super::dns::{Answers, Event};
use super::opened::Opener;
use super::relay::Budget;
use super::watcher::{self, Attempt, Sign};
use super::wire::{Account, HOSTS_COUNTED_MAX, Service};
use crate::denials::Recorded;
use crate::outcome::{Denial, EgressUse};

/// Connections that may wait to be accepted, in the kernel.
const BACKLOG: i32 = 128;
/// Largest DNS message over UDP that is read; questions are small.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Largest DNS message over TCP that is read.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Most connections to the resolver at once.
const RESOLVER_CONNECTIONS_MAX: usize = 16;
/// How long a listener rests that could not accept.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Longest wait for a question on a connection to the resolver.
const QUESTION_MAX: Duration = Duration::from_secs(10);
/// Descriptors that come before the watchers: the resolver's two.
const RESOLVER_DESCRIPTORS: usize = 2;

/// What the connections of one cell share.
pub struct Cell {
    /// What the cell may reach.
    pub plan: Arc<Plan>,
    /// How connections are made.
    pub dialer: Dialer,
    /// What opens TLS, if the profile injects headers.
    pub opener: Option<Opener>,
    /// Bytes that the cell may still move.
    pub budget: Budget,
    /// The most of them, for messages.
    pub bytes: u64,
    /// Connections at once.
    connections: Arc<Semaphore>,
    most_connections: u32,
    /// Everything that is done for the cell, so that it can be seen to have ended.
    tasks: TaskTracker,
    /// The call is over.
    over: CancellationToken,
    book: Mutex<Book>,
}

/// What is told of a call at its end.
#[derive(Default)]
struct Book {
    denials: Recorded,
    uses: BTreeMap<String, Arc<Use>>,
}

/// What went to and came from one host.
#[derive(Debug, Default)]
pub struct Use {
    /// Connections that were made.
    pub connections: AtomicU64,
    /// Bytes that went to it.
    pub sent: AtomicU64,
    /// Bytes that came from it.
    pub received: AtomicU64,
}

impl Cell {
    /// Does something for the cell until it is done or the call is over.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move {
            let _ = over.run_until_cancelled_owned(work).await;
        });
    }

    /// Records a denial.
    pub fn deny(&self, denial: Denial) {
        self.book().denials.add(denial);
    }

    /// The account of one host; those beyond the first many are one.
    pub fn account_of(&self, host: String) -> Arc<Use> {
        let mut book = self.book();
        let host = if book.uses.len() < HOSTS_COUNTED_MAX || book.uses.contains_key(&host) {
            host
        } else {
            "others".to_owned()
        };
        Arc::clone(book.uses.entry(host).or_default())
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self) -> Account {
        let book = std::mem::take(&mut *self.book());
        let reached = book.uses.into_iter().map(|(host, counted)| EgressUse {
            host,
            connections: counted.connections.load(Ordering::Relaxed),
            sent_bytes: counted.sent.load(Ordering::Relaxed),
            received_bytes: counted.received.load(Ordering::Relaxed),
        });
        Account {
            denials: book.denials.into_list(),
            reached: reached.collect(),
        }
    }
}

/// Serves a cell until the supervisor says that the call is over, and returns what was seen.
///
/// # Errors
/// If the descriptors are not what the plan says, or cannot be watched.
pub async fn serve(
    service: Service,
    dialer: Dialer,
    descriptors: Vec<OwnedFd>,
    over: impl Future<Output = ()>,
) -> io::Result<Account> {
    let mut descriptors = descriptors.into_iter();
    let opener = match service.opened {
        None => None,
        Some(opened) => {
            let none = || io::Error::other("the host's authorities did not come along");
            let bundle = descriptors.next().ok_or_else(none)?;
            Some(Opener::new(opened, bundle)?)
        }
    };
    let sockets = service.plan.sockets();
    let watchers = usize::from(service.watchers);
    if descriptors.len() != RESOLVER_DESCRIPTORS + watchers + sockets.len() {
        return Err(io::Error::other(
            "the cell's sockets are not those of its plan",
        ));
    }
    let mut next = || descriptors.next().expect("they were just counted");
    let (udp, tcp) = (next(), next());
    let watchers: Vec<_> = (0..watchers).map(|_| next()).collect();
    let cell = Arc::new(Cell {
        plan: Arc::clone(&service.plan),
        dialer,
        opener,
        budget: Budget::new(service.bytes),
        bytes: service.bytes,
        connections: Arc::new(Semaphore::new(service.connections as usize)),
        most_connections: service.connections,
        tasks: TaskTracker::new(),
        over: CancellationToken::new(),
        book: Mutex::default(),
    });
    let mut listening = Listening {
        cell: Arc::clone(&cell),
        pool: HashMap::new(),
    };
    for (planned, socket) in sockets.iter().zip(descriptors) {
        let port = planned.address.port();
        match &planned.role {
            Role::Pool => {
                let pooled = listening.pool.entry(planned.address.ip()).or_default();
                pooled.push((port, socket));
            }
            Role::Name(name) => listening.accept(socket, port, Some(name.clone()))?,
            Role::Address | Role::Range => listening.accept(socket, port, None)?,
        }
    }
    let answers = Arc::new(Mutex::new(Resolver {
        answers: Answers::new(Arc::clone(&service.plan)),
        listening,
    }));
    let udp = crate::descriptor::watch(udp, Interest::READABLE)?;
    let tcp = listener(tcp)?;
    cell.spawn(answer_datagrams(udp, Arc::clone(&answers)));
    cell.spawn(answer_streams(tcp, Arc::clone(&answers)));
    let mut kept = Vec::new();
    for (index, watcher) in watchers.into_iter().enumerate() {
        let watcher = Arc::new(crate::descriptor::watch(watcher, Interest::READABLE)?);
        let sign = Sign::of(index);
        cell.spawn(watch(Arc::clone(&watcher), sign, Arc::clone(&answers)));
        kept.push((watcher, sign));
    }
    over.await;
    cell.over.cancel();
    cell.tasks.close();
    cell.tasks.wait().await;
    for (watcher, sign) in kept {
        // What was refused in the last moment.
        while let Ok(seen) = watcher::receive(&watcher.get_ref(), sign) {
            if let Some(attempt) = seen {
                refused(&answers, &attempt);
            }
        }
    }
    Ok(cell.account())
}

fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The cell's listeners, and those that a name beneath a wildcard will get.
struct Listening {
    cell: Arc<Cell>,
    pool: HashMap<IpAddr, Vec<(u16, OwnedFd)>>,
}

impl Listening {
    /// Accepts what connects to a socket. Without a name, the address that was connected to is what
    /// was meant.
    fn accept(&mut self, socket: OwnedFd, port: u16, name: Option<Name>) -> io::Result<()> {
        let listener = listener(socket)?;
        let cell = Arc::clone(&self.cell);
        self.cell.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => cell.take(socket, port, name.as_ref()),
                    // The peer has gone, or descriptors are short: the next may do better.
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN_AFTER).await,
                }
            }
        });
        Ok(())
    }

    /// Opens the sockets of a pool's address for a name that has just got it.
    fn assign(&mut self, name: &Name, address: Ipv4Addr) {
        for (port, socket) in self.pool.remove(&IpAddr::from(address)).unwrap_or_default() {
            let backlog = Backlog::new(BACKLOG).expect("the backlog is within the kernel's limits");
            let opened = nix::sys::socket::listen(&socket, backlog)
                .map_err(io::Error::from)
                .and_then(|()| self.accept(socket, port, Some(name.clone())));
            if let Err(error) = opened {
                self.cell.deny(denied::broken(name, port, &error));
            }
        }
    }
}

impl Cell {
    /// Takes a connection on, if there are not too many.
    fn take(self: &Arc<Self>, socket: TcpStream, port: u16, name: Option<&Name>) {
        let destination = match name {
            Some(name) => match self.plan.admit(name, port) {
                Ok(admission) if admission.machine => Destination::Machine(name.clone()),
                _ => Destination::Name(name.clone()),
            },
            None => match socket.local_addr() {
                Ok(address) => Destination::Address(address.ip().to_canonical()),
                Err(_) => return,
            },
        };
        let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.deny(denied::too_many_connections(
                &destination,
                port,
                self.most_connections,
            ));
            return super::relay::reset(socket);
        };
        let connection = Connection {
            cell: Arc::clone(self),
            destination,
            port,
        };
        self.spawn(async move {
            connection::serve(connection, socket).await;
            drop(permit);
        });
    }
}

/// What answers a cell's questions, and opens what the answers lead to.
struct Resolver {
    answers: Answers,
    listening: Listening,
}

type Shared = Arc<Mutex<Resolver>>;

fn answer(resolver: &Shared, question: &[u8]) -> Option<Vec<u8>> {
    let mut resolver = resolver.lock().unwrap_or_else(PoisonError::into_inner);
    let answered = resolver.answers.answer(question, Instant::now());
    match answered.event {
        Some(Event::Assigned { name, address }) => resolver.listening.assign(&name, address),
        Some(Event::Refused { name, refusal }) => {
            resolver.listening.cell.deny(denied::name(&name, &refusal));
        }
        Some(Event::Budget(kind)) => resolver.listening.cell.deny(denied::questions(kind)),
        Some(Event::NotAName { text, error }) => {
            resolver
                .listening
                .cell
                .deny(denied::not_a_name(&text, error));
        }
        None => {}
    }
    answered.reply
}

/// Answers over UDP, each from the address that was asked.
async fn answer_datagrams(socket: AsyncFd<OwnedFd>, resolver: Shared) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while let Ok(mut ready) = socket.readable().await {
        let received = ready.try_io(|socket| receive_datagram(socket.as_fd(), &mut buffer));
        let Ok(Ok(Some((length, from, asked)))) = received else {
            continue;
        };
        if let Some(reply) = answer(&resolver, &buffer[..length]) {
            // A full buffer drops the answer, as networks do; the tool will ask again.
            let parts = [io::IoSlice::new(&reply)];
            let source = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: asked.ipi_addr,
                ipi_addr: asked.ipi_addr,
            };
            let control = [ControlMessage::Ipv4PacketInfo(&source)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let _ = sendmsg(socket.as_raw_fd(), &parts, &control, flags, Some(&from));
        }
    }
}

type Datagram = (usize, SockaddrIn, in_pktinfo);

fn receive_datagram(
    socket: std::os::fd::BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<Datagram>> {
    let mut control = nix::cmsg_space!(in_pktinfo);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let asked = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(asked) => Some(asked),
        _ => None,
    });
    let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(message
        .address
        .zip(asked)
        .filter(|_| whole)
        .map(|(from, asked)| (message.bytes, from, asked)))
}

/// Answers over TCP: each message with its length before it (RFC 7766).
async fn answer_streams(listener: TcpListener, resolver: Shared) {
    let room = Arc::new(Semaphore::new(RESOLVER_CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        while open.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let resolver = Arc::clone(&resolver);
        open.spawn(async move {
            while let Ok(Ok(Some(reply))) = timeout(QUESTION_MAX, ask(&mut stream, &resolver)).await
            {
                let sending = stream.write_all(&reply);
                if !matches!(timeout(QUESTION_MAX, sending).await, Ok(Ok(()))) {
                    break;
                }
            }
            drop(permit);
        });
    }
}

async fn ask(stream: &mut TcpStream, resolver: &Shared) -> io::Result<Option<Vec<u8>>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MESSAGE_BYTES_MAX {
        return Ok(None);
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(answer(resolver, &question).and_then(|reply| {
        let length = u16::try_from(reply.len()).ok()?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        Some(framed)
    }))
}

/// Names what the kernel refused in the cell: connections and datagrams to where nobody listens.
async fn watch(socket: Arc<AsyncFd<OwnedFd>>, sign: Sign, resolver: Shared) {
    while let Ok(mut ready) = socket.readable().await {
        if let Ok(Ok(Some(attempt))) = ready.try_io(|socket| watcher::receive(socket, sign)) {
            refused(&resolver, &attempt);
        }
    }
}

/// Records a refused attempt; one to the address of a name is about the port.
fn refused(resolver: &Shared, attempt: &Attempt) {
    if attempt.address.ip().is_loopback() {
        // The tool's own affair: a program of its own that does not listen yet, or any more.
        return;
    }
    let resolver = resolver.lock().unwrap_or_else(PoisonError::into_inner);
    let name = match attempt.address.ip() {
        IpAddr::V4(address) => {
            let pooled = resolver.answers.name_at(address);
            pooled.or_else(|| resolver.listening.cell.plan.name_at(address))
        }
        IpAddr::V6(_) => None,
    };
    let plan = &resolver.listening.cell.plan;
    let destination = match name {
        Some(name) if plan.is_of_the_machine(name) => Destination::Machine(name.clone()),
        Some(name) => Destination::Name(name.clone()),
        None => Destination::Address(attempt.address.ip()),
    };
    let denial = denied::attempt(attempt, &destination);
    resolver.listening.cell.deny(denial);
}
