//! The launcher: a small single-threaded process that makes cells.
//!
//! It is the supervisor's own executable, started again with [`ARGUMENT`] before any thread exists,
//! because forking from a large multi-threaded process is slow and unsound. It obeys one socket and
//! ends, with every cell, when the supervisor does; what their calls had on the host it removes.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::confine::{self, At, Cell};
use crate::descriptors;
use crate::idmaps;
use crate::leftovers::Leftovers;
use crate::namespaces;
use crate::reader;
use crate::report::{Report, SetupFailure, Step};
use crate::spec::{Call, Filter, Template};
use crate::sys::{self, Forked, SingleThreaded};
use crate::wire::{self, BUILD, CgroupEntry, MESSAGE_BYTES_MAX, Order};

/// The first argument that makes the executable a launcher.
pub const ARGUMENT: &str = "toolcell-launcher";
/// The first argument that makes the executable a gateway, which is the supervisor's affair; only the
/// launcher starts processes.
pub const GATEWAY_ARGUMENT: &CStr = c"toolcell-gateway";
/// Where it keeps its socket; it is started with the socket as its standard input.
const SOCKET: RawFd = 3;
/// Most templates it keeps.
pub const TEMPLATES_MAX: usize = 4096;

/// Serves until the supervisor goes; returns the exit status.
#[must_use]
pub fn main() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("toolcell: the launcher cannot go on: {error}");
            1
        }
    }
}

fn serve() -> Result<(), Errno> {
    let mut launcher = Launcher::new()?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (length, descriptors) = match sys::receive(launcher.socket.as_fd(), &mut buffer) {
            // What came with an oversized message is closed by now, and its sender sees the end of
            // its report socket.
            Err(Errno::EINTR | Errno::EMSGSIZE) => continue,
            result => result?,
        };
        if length == 0 {
            launcher.leftovers.remove_all();
            return Ok(());
        }
        match wire::decode(&buffer[..length]) {
            Ok(order) => launcher.obey(order, descriptors)?,
            Err(_) => {
                if let Some(socket) = descriptors.first() {
                    fail(socket, Step::Decode, Errno::EBADMSG);
                }
            }
        }
    }
}

struct Launcher {
    proof: SingleThreaded,
    /// Always [`SOCKET`].
    socket: OwnedFd,
    /// The filter of readers; none are made before it is known.
    reader: Option<Filter>,
    templates: HashMap<u32, Template>,
    leftovers: Leftovers,
}

impl Launcher {
    fn new() -> Result<Self, Errno> {
        let proof = SingleThreaded::check()?;
        let socket = occupy_low_numbers()?;
        // No parent-death signal: the end of the socket says the same, and leaves time to clean up.
        // Away from the terminal: an interrupt from the keyboard is for the supervisor to handle.
        match nix::unistd::setsid() {
            Ok(_) | Err(Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
        reap_automatically()?;
        outlive_requests_to_end()?;
        if nix::unistd::geteuid().is_root() {
            // Supplementary groups stay in force inside a user namespace, mapped or not.
            nix::unistd::setgroups(&[])?;
        }
        Ok(Self {
            proof,
            socket,
            reader: None,
            templates: HashMap::new(),
            leftovers: Leftovers::default(),
        })
    }

    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> Result<(), Errno> {
        match order {
            Order::Hello { build, reader } => {
                sys::send(self.socket.as_fd(), BUILD.as_bytes(), &[])?;
                self.reader = Some(reader);
                if build == BUILD {
                    Ok(())
                } else {
                    Err(Errno::EPROTO)
                }
            }
            Order::Standby => self.stand_by(descriptors),
            Order::Template { id, template } => {
                if self.templates.len() < TEMPLATES_MAX {
                    self.templates.insert(id, *template);
                }
                Ok(())
            }
            Order::Forget { id } => {
                self.templates.remove(&id);
                Ok(())
            }
            Order::Reader { counts } => {
                let mut descriptors = descriptors.into_iter();
                if let (Some(socket), Some(namespace)) = (descriptors.next(), descriptors.next()) {
                    self.start_reader(&socket, &namespace, counts);
                }
                Ok(())
            }
            Order::Gateway => {
                if let Some(socket) = descriptors.into_iter().next() {
                    self.start_gateway(&socket);
                }
                Ok(())
            }
            Order::Answer => {
                if let Some(socket) = descriptors.first() {
                    // Whoever asked may have given up waiting.
                    let _ = sys::send(socket.as_fd(), &[1], &[]);
                }
                Ok(())
            }
            Order::Over { call } => {
                self.leftovers.forget(call);
                Ok(())
            }
            Order::Start {
                template,
                call,
                cgroup,
                leftovers,
            } => {
                self.leftovers.note(leftovers.call, leftovers.directories);
                self.start(template, &call, cgroup, descriptors);
                Ok(())
            }
        }
    }

    /// Starts a gateway with an empty environment; if it cannot be, the supervisor sees the end of the
    /// socket.
    fn start_gateway(&self, socket: &OwnedFd) {
        if let Ok(Forked::Child) = sys::fork(self.proof) {
            let prepared = sys::reset_signals()
                .and_then(|()| outlive_requests_to_end())
                .and_then(|()| sys::duplicate_onto(socket.as_fd(), 0, false))
                .and_then(|()| sys::duplicate_onto(sys::borrow_open(2)?, 1, false));
            if prepared.is_ok() {
                let program = c"/proc/self/exe";
                let _ = nix::unistd::execve(program, &[program, GATEWAY_ARGUMENT], &[] as &[&CStr]);
            }
            sys::exit_now(descriptors::EXIT_NOT_STARTED);
        }
    }

    /// Forks a launcher that obeys another socket, with nothing of this one's. A fork that fails is
    /// told by the socket's end.
    fn stand_by(&mut self, descriptors: Vec<OwnedFd>) -> Result<(), Errno> {
        let Some(socket) = descriptors.first() else {
            return Ok(());
        };
        if let Ok(Forked::Child) = sys::fork(self.proof) {
            // This one's socket is closed by that: the supervisor sees when this one has gone.
            sys::duplicate_onto(socket.as_fd(), SOCKET, true)?;
            drop(descriptors);
            nix::unistd::setsid()?;
            self.templates = HashMap::new();
            self.leftovers = Leftovers::default();
        }
        Ok(())
    }

    /// Forks a reader of the cell with this PID namespace. If that fails its socket ends, and denied
    /// paths are not named.
    fn start_reader(&self, socket: &OwnedFd, namespace: &OwnedFd, counts: bool) {
        let Some(filter) = &self.reader else { return };
        if let Ok(Forked::Child) = sys::fork(self.proof) {
            sys::exit_now(reader::serve((socket, namespace), counts, filter));
        }
    }

    /// Starts a cell; whatever goes wrong is told on the call's own socket.
    fn start(&self, id: u32, call: &Call, cgroup: CgroupEntry, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let Some(socket) = descriptors.next() else {
            return;
        };
        let Some(streams) = three(&mut descriptors) else {
            return fail(&socket, Step::Decode, Errno::EBADMSG);
        };
        let Some(template) = self.templates.get(&id) else {
            return fail(&socket, Step::Decode, Errno::ENOENT);
        };
        let begin = match call.program {
            Some(_) => None,
            None => descriptors.next(),
        };
        if call.program.is_none() && begin.is_none() {
            return fail(&socket, Step::Decode, Errno::EBADMSG);
        }
        let cgroup_descriptors: Vec<OwnedFd> = descriptors.collect();
        let expected = match cgroup {
            CgroupEntry::None => 0,
            CgroupEntry::V2 => 1,
            CgroupEntry::V1(count) => usize::from(count),
        };
        if cgroup_descriptors.len() != expected {
            return fail(&socket, Step::Decode, Errno::EBADMSG);
        }
        let told = socket.try_clone();
        if let Err(failure) = self.clone_cell(
            template,
            call,
            socket,
            (streams, begin),
            (cgroup, cgroup_descriptors),
        ) && let Ok(socket) = told
        {
            confine::report(&socket, &Report::Failed(failure));
        }
    }

    fn clone_cell(
        &self,
        template: &Template,
        call: &Call,
        socket: OwnedFd,
        (streams, begin): ([OwnedFd; 3], Option<OwnedFd>),
        (cgroup, cgroup_descriptors): (CgroupEntry, Vec<OwnedFd>),
    ) -> Result<(), SetupFailure> {
        let prepared = idmaps::prepare(self.proof, &template.mounts, call)?;
        let pipe = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).at(Step::Clone)?;
        let (mapped, release) = pipe;
        let into = match cgroup {
            CgroupEntry::V2 => cgroup_descriptors.first().map(AsFd::as_fd),
            CgroupEntry::V1(_) | CgroupEntry::None => None,
        };
        let flags = namespaces::clone_flags(cgroup);
        match sys::clone3(self.proof, flags, into).at(Step::Clone)? {
            Forked::Child => {
                drop(release);
                confine::run_cell(Cell {
                    proof: self.proof,
                    template,
                    call,
                    socket,
                    streams,
                    begin,
                    mapped,
                    cgroup,
                    cgroup_descriptors,
                    prepared,
                })
            }
            Forked::Parent(child) => {
                // Told first, so that the supervisor can end a cell that hangs in its setup.
                let started = Report::Started { pid: child.pid };
                let namespace = reader::namespace_of_cell(child.pid).at(Step::Clone)?;
                let descriptors = [child.pidfd.as_fd(), namespace.as_fd()];
                confine::send(&socket, &started, &descriptors).at(Step::Clone)?;
                namespaces::write_id_maps(child.pid, template.inside, call.host)
                    .at(Step::MapIds)?;
                nix::unistd::write(&release, &[1]).at(Step::MapIds)?;
                Ok(())
            }
        }
    }
}

fn three(descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<[OwnedFd; 3]> {
    Some([
        descriptors.next()?,
        descriptors.next()?,
        descriptors.next()?,
    ])
}

fn fail(socket: &OwnedFd, step: Step, errno: Errno) {
    let failure = SetupFailure {
        step,
        errno: errno as i32,
        index: 0,
    };
    confine::report(socket, &Report::Failed(failure));
}

/// Moves the socket from 0, where the supervisor put it, to [`SOCKET`] and puts `/dev/null` on 0, 1 and
/// [`descriptors::BEGIN`]; 2 stays where last words can be read. So every later descriptor is 5 or above.
/// What else was inherited is closed.
fn occupy_low_numbers() -> Result<OwnedFd, Errno> {
    sys::duplicate_onto(sys::borrow_open(0)?, SOCKET, true)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null");
    let null = null.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    for number in 0..2 {
        sys::duplicate_onto(null.as_fd(), number, false)?;
    }
    sys::borrow_open(2)?;
    sys::duplicate_onto(null.as_fd(), descriptors::BEGIN, true)?;
    // It may be that very number; wherever else it is, it is closed next.
    let _ = null.into_raw_fd();
    sys::close_from(descriptors::BEGIN + 1)?;
    sys::adopt(SOCKET)
}

/// Has the kernel reap the cells' first processes: their ends are known by pidfd and by report.
fn reap_automatically() -> Result<(), Errno> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::SA_NOCLDWAIT, SigSet::empty());
    sys::set_signal_action(Signal::SIGCHLD, &ignore)
}

/// Leaves it to the supervisor when to end, and so how calls end. Where a service is stopped, or its
/// user logs out, everything in the cgroup is asked at once; a launcher that heeded that would take
/// its cells along before they were cancelled. A tool's own process has its signals reset.
fn outlive_requests_to_end() -> Result<(), Errno> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        sys::set_signal_action(signal, &ignore)?;
    }
    Ok(())
}
