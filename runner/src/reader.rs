//! The reader of one cell: looks into the cell's processes on behalf of the supervisor.
//!
//! The supervisor is in a Landlock domain, and the kernel lets no process of a domain look into one
//! that is outside (landlock(7), "Ptrace restrictions"). So a cell whose denied paths are to be named
//! gets a small process without a domain, forked by the launcher. It looks into the processes of that
//! cell's PID namespace and into no others, understands nothing of what it reads, and gives up
//! everything else that it could do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::spec::{Filter, Identity};
use crate::sys;
use crate::wire::{
    self, ANSWER_BYTES_MAX, Answer, Base, NamedPath, PATH_BYTES_MAX, PLACES_MAX, Question,
};

/// Where it keeps its socket.
const SOCKET: RawFd = 3;
/// `CAP_DAC_READ_SEARCH`: under root, the way to the descriptors of a process of another user. To
/// look into the process itself takes no capability: cells' user namespaces belong to our user.
const KEPT: u64 = 1 << 2;
/// Bytes of `smaps_rollup` that are read: it has some 25 short lines.
const ROLLUP_BYTES_MAX: usize = 4096;

/// Becomes the reader of the cell with this first process; returns the exit status.
pub(crate) fn serve(socket: &OwnedFd, first: i32, filter: &Filter) -> i32 {
    match settle(socket, first, filter).and_then(|(socket, cell)| answer_all(socket, cell)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Keeps the socket and what the reader needs, and nothing else.
fn settle<'a>(
    socket: &OwnedFd,
    first: i32,
    filter: &Filter,
) -> Result<(BorrowedFd<'a>, Identity), Errno> {
    sys::duplicate_onto(socket.as_fd(), SOCKET, true)?;
    sys::close_from(SOCKET + 1)?;
    let cell = namespace_of(open_process(first)?.as_fd())?;
    // A first process that is gone already could have left its number to one of the host's.
    if cell == namespace_of(open_process(nix::unistd::getpid().as_raw())?.as_fd())? {
        return Err(Errno::ESRCH);
    }
    let socket = sys::borrow_open(SOCKET)?;
    sys::keep_capabilities(KEPT)?;
    nix::sys::prctl::set_no_new_privs()?;
    sys::install_filter(&filter.program, false)?;
    Ok((socket, cell))
}

fn answer_all(socket: BorrowedFd<'_>, cell: Identity) -> Result<(), Errno> {
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

fn answer(question: &Question, cell: Identity) -> Result<(Answer, Option<OwnedFd>), Errno> {
    let (Question::Paths { pid, .. } | Question::SharedMemory { pid }) = *question;
    let process = open_process(pid)?;
    of_cell(process.as_fd(), cell)?;
    let answer = match question {
        Question::Paths { places, .. } => {
            let named = places.iter().take(PLACES_MAX);
            let named = named.map(|place| named_path(process.as_fd(), pid, *place).ok());
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = openat(&process, "root", flags, Mode::empty())?;
            (Answer::Paths(named.collect()), Some(root))
        }
        Question::SharedMemory { .. } => (Answer::SharedMemory(rollup(process.as_fd())?), None),
    };
    // Its memory was read by number. It is still there, so nobody else had its number meanwhile.
    of_cell(process.as_fd(), cell)?;
    Ok(answer)
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

fn of_cell(process: BorrowedFd<'_>, cell: Identity) -> Result<(), Errno> {
    if namespace_of(process)? == cell {
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

fn rollup(process: BorrowedFd<'_>) -> Result<String, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(process, "smaps_rollup", flags, Mode::empty())?;
    let mut text = vec![0; ROLLUP_BYTES_MAX];
    let length = nix::unistd::read(&file, &mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}
