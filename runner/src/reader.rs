//! The reader of one cell: looks into the cell's processes on behalf of the supervisor.
//!
//! The supervisor is in a Landlock domain, and the kernel lets no process of a domain look into one
//! that is outside (landlock(7), "Ptrace restrictions"). So a cell that has to be looked into gets a
//! small process without a domain, forked by the launcher when the supervisor first asks. It looks into
//! the processes of that cell's PID namespace and into no others, understands nothing of what it
//! reads, and gives up everything else that it could do.

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::namespaces::identity_of;
use crate::spec::{Filter, Identity};
use crate::sys;
use crate::wire::{
    self, ANSWER_BYTES_MAX, Answer, Base, NamedPath, PATH_BYTES_MAX, PIECE_BYTES_MAX, PIECES_MAX,
    PLACES_MAX, Question,
};

mod held;

/// Where it keeps its socket.
const SOCKET: RawFd = 3;
/// Where it keeps the PID namespace, so that no other gets its number.
const NAMESPACE: RawFd = 4;
/// `CAP_DAC_READ_SEARCH`: under root, the way to the descriptors of a process of another user. To
/// look into the process itself takes no capability: cells' user namespaces belong to our user.
const DAC_READ_SEARCH: u64 = 1 << 2;
/// `CAP_CHECKPOINT_RESTORE`: under root, the way to what is mapped (`map_files` in proc(5)).
const CHECKPOINT_RESTORE: u64 = 1 << 40;
/// Bytes that are read of a file about a process: `smaps_rollup` has some 25 short lines.
const HEAD_BYTES_MAX: usize = 4096;

/// Becomes the reader of the cell with this PID namespace; returns the exit status.
pub(crate) fn serve(
    (socket, namespace): (&OwnedFd, &OwnedFd),
    counts: bool,
    filter: &Filter,
) -> i32 {
    let settled = settle((socket, namespace), counts, filter);
    match settled.and_then(|(socket, cell)| answer_all(socket, cell)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// The cell, as a reader knows it.
#[derive(Clone, Copy)]
struct Cell {
    /// Its PID namespace.
    namespace: Identity,
    /// The device of nameless files in memory, which are all in one file system of the kernel's.
    memory_files: u64,
}

/// Keeps the socket and what the reader needs, and nothing else.
fn settle<'a>(
    (socket, namespace): (&OwnedFd, &OwnedFd),
    counts: bool,
    filter: &Filter,
) -> Result<(BorrowedFd<'a>, Cell), Errno> {
    let cell = Cell {
        namespace: identity_of(namespace.as_fd())?,
        memory_files: held::device_of_memory_files()?,
    };
    let own = open_process(nix::unistd::getpid().as_raw())?;
    if cell.namespace == namespace_of(own.as_fd())? {
        return Err(Errno::EPERM);
    }
    sys::duplicate_onto(socket.as_fd(), SOCKET, true)?;
    sys::duplicate_onto(namespace.as_fd(), NAMESPACE, true)?;
    sys::close_from(NAMESPACE + 1)?;
    let socket = sys::borrow_open(SOCKET)?;
    let counting = if counts { CHECKPOINT_RESTORE } else { 0 };
    sys::keep_capabilities(DAC_READ_SEARCH | counting)?;
    nix::sys::prctl::set_no_new_privs()?;
    sys::install_filter(&filter.program, false)?;
    Ok((socket, cell))
}

/// Opens the PID namespace of a cell that has just been made. Who has the descriptor may have a
/// reader, and while somebody has it no other namespace has its number.
pub(crate) fn namespace_of_cell(first: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::open(
        format!("/proc/{first}/ns/pid").as_str(),
        flags,
        Mode::empty(),
    )
}

fn answer_all(socket: BorrowedFd<'_>, cell: Cell) -> Result<(), Errno> {
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = match sys::receive(socket, &mut buffer) {
            Err(Errno::EINTR) => continue,
            result => result?.0,
        };
        if length == 0 {
            return Ok(());
        }
        let question = wire::decode(&buffer[..length]).map_err(|_| Errno::EBADMSG)?;
        let (answer, root) = answer(&question, cell).unwrap_or((Answer::Nothing, None));
        let bytes = wire::encode(&answer).map_err(|_| Errno::EMSGSIZE)?;
        let attached: Vec<_> = root.iter().map(AsFd::as_fd).collect();
        sys::send(socket, &bytes, &attached)?;
    }
}

fn answer(question: &Question, cell: Cell) -> Result<(Answer, Option<OwnedFd>), Errno> {
    let (Question::Paths { pid, .. }
    | Question::Memory { pid, .. }
    | Question::Socket { pid, .. }
    | Question::SharedMemory { pid }
    | Question::Held { pid, .. }) = *question;
    let process = open_process(pid)?;
    of_cell(process.as_fd(), cell)?;
    let mut root = None;
    let answer = match question {
        Question::Paths { places, .. } => {
            let named = places.iter().take(PLACES_MAX);
            let named = named.map(|place| named_path(process.as_fd(), pid, *place).ok());
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            root = Some(openat(&process, "root", flags, Mode::empty())?);
            Answer::Paths(named.collect())
        }
        Question::Memory { pieces, .. } => {
            let pieces = pieces.iter().take(PIECES_MAX);
            Answer::Memory(pieces.map(|piece| read_piece(pid, *piece).ok()).collect())
        }
        Question::Socket { descriptor, .. } => socket(pid, *descriptor)?,
        Question::SharedMemory { .. } => {
            Answer::SharedMemory(head(process.as_fd(), "smaps_rollup")?)
        }
        Question::Held { place, from, .. } => {
            Answer::Held(held::look(pid, *place, *from, cell.memory_files))
        }
    };
    // Its memory was read by number. It is still there, so nobody else had its number meanwhile.
    of_cell(process.as_fd(), cell)?;
    Ok((answer, root))
}

fn open_process(pid: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty())
}

/// The PID namespace of a process.
fn namespace_of(process: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let found = fstatat(process, "ns/pid", AtFlags::empty())?;
    Ok(Identity {
        dev: found.st_dev,
        ino: found.st_ino,
    })
}

fn of_cell(process: BorrowedFd<'_>, cell: Cell) -> Result<(), Errno> {
    if namespace_of(process)? == cell.namespace {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn named_path(
    process: BorrowedFd<'_>,
    pid: i32,
    (base, pointer): (Base, u64),
) -> Result<NamedPath, Errno> {
    let text = read_text(pid, pointer)?;
    let relative = !text.is_empty() && !text.starts_with(b"/");
    let base = relative.then(|| match base {
        Base::WorkingDirectory => readlinkat(process, "cwd"),
        Base::Descriptor(number) => readlinkat(process, format!("fd/{number}").as_str()),
    });
    let base = base.transpose()?.map(PathBuf::from);
    Ok(NamedPath { text, base })
}

/// Reads a NUL-terminated string from a process's memory, page by page so that an unmapped next page
/// does no harm.
fn read_text(pid: i32, pointer: u64) -> Result<Vec<u8>, Errno> {
    const PAGE: usize = 4096;
    let pointer = usize::try_from(pointer).map_err(|_| Errno::EFAULT)?;
    let mut text = Vec::new();
    while text.len() < PATH_BYTES_MAX {
        let base = pointer.checked_add(text.len()).ok_or(Errno::EFAULT)?;
        let length = (PAGE - base % PAGE).min(PATH_BYTES_MAX - text.len());
        let mut page = [0; PAGE];
        let mut local = [std::io::IoSliceMut::new(&mut page[..length])];
        let remote = [RemoteIoVec { base, len: length }];
        let count = process_vm_readv(Pid::from_raw(pid), &mut local, &remote)?;
        if let Some(end) = page[..count].iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&page[..end]);
            return Ok(text);
        }
        if count < length {
            return Err(Errno::EFAULT);
        }
        text.extend_from_slice(&page[..count]);
    }
    Err(Errno::ENAMETOOLONG)
}

/// Reads as many bytes, or fewer if the memory ends before.
fn read_piece(pid: i32, (address, length): (u64, u16)) -> Result<Vec<u8>, Errno> {
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    let length = usize::from(length).min(PIECE_BYTES_MAX);
    base.checked_add(length).ok_or(Errno::EFAULT)?;
    let mut read = vec![0; length];
    let mut local = [std::io::IoSliceMut::new(&mut read)];
    let remote = [RemoteIoVec { base, len: length }];
    let count = process_vm_readv(Pid::from_raw(pid), &mut local, &remote)?;
    read.truncate(count);
    Ok(read)
}

/// What a descriptor is as a socket, seen on a copy of it.
fn socket(pid: i32, descriptor: RawFd) -> Result<Answer, Errno> {
    let copy = held::copy(pid, descriptor)?;
    let kind = getsockopt(&copy, sockopt::SockType)?;
    let peer = (kind == SockType::Datagram).then(|| UdpSocket::from(copy).peer_addr());
    Ok(Answer::Socket(kind as i32, peer.and_then(Result::ok)))
}

/// The head of a file about a process: as much as one read gives.
fn head(process: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(process, name, flags, Mode::empty())?;
    let mut text = vec![0; HEAD_BYTES_MAX];
    let length = nix::unistd::read(&file, &mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}
