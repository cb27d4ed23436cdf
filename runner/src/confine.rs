//! How a cell comes to be: the ordered list of steps, first for the cell, then for the tool in it.
//!
//! Read it beside ARCHITECTURE.md's table of steps, which a test holds equal to [`CELL_STEPS`] and
//! [`TOOL_STEPS`]. Each layer is enforced by the process upon itself, and the first that fails ends
//! the cell with a [`SetupFailure`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::report::{Confirmed, Report, SetupFailure, Step};
use crate::spec::{Call, Program, SYSTEM_V_LISTS, Template};
use crate::sys::{self, Forked, SingleThreaded};
use crate::wire::{Begin, CgroupEntry, MESSAGE_BYTES_MAX};
use crate::{descriptors, init, landlock, limits, mounts, namespaces, network, seccomp, wire};

/// How often a report is sent whose descriptors the kernel takes for too many: it holds a tool's limit
/// of open files against all that a user has on their way (unix(7), `ETOOMANYREFS`).
const SENDINGS_MAX: u32 = 2000;
/// How long it waits in between; the supervisor receives within a few milliseconds.
const SENDING_AGAIN_AFTER_MILLIS: u8 = 1;

/// Steps of the cell's first process, in order.
pub const CELL_STEPS: [Step; 16] = [
    Step::ParentDeathSignal,
    Step::MapIds,
    Step::Cgroup,
    Step::Identity,
    Step::SessionKeyring,
    Step::Network,
    Step::Hostname,
    Step::MountPropagation,
    Step::Staging,
    Step::Mount,
    Step::HandBack,
    Step::PivotRoot,
    Step::RootReadOnly,
    Step::DropCapabilities,
    Step::NoNewPrivileges,
    Step::Fork,
];

/// Steps of the process that becomes the tool, in order.
pub const TOOL_STEPS: [Step; 11] = [
    Step::Stdio,
    Step::NewProcessGroup,
    Step::Rlimit,
    Step::ParentDeathSignal,
    Step::Landlock,
    Step::CloseDescriptors,
    Step::ReadBack,
    Step::Wait,
    Step::WorkingDirectory,
    Step::Seccomp,
    Step::Exec,
];

/// Everything the cell's first process has in hand when it starts.
pub(crate) struct Cell<'a> {
    pub proof: SingleThreaded,
    pub template: &'a Template,
    pub call: &'a Call,
    /// Where reports go and orders come from.
    pub socket: OwnedFd,
    /// Standard input, output and error of the tool.
    pub streams: [OwnedFd; 3],
    /// Where the call's program comes from, if the call has none.
    pub begin: Option<OwnedFd>,
    /// Readable once the launcher has written the id maps; end of file if it failed or died.
    pub mapped: OwnedFd,
    pub cgroup: CgroupEntry,
    /// The descriptors that `cgroup` speaks of.
    pub cgroup_descriptors: Vec<OwnedFd>,
    /// Mounts that only the launcher could prepare, by index into the list of mounts.
    pub prepared: mounts::Prepared,
}

/// Attaches the step, and the item of its list, to an `errno`.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Result<T, SetupFailure>;
    fn at_item(self, step: Step, index: usize) -> Result<T, SetupFailure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, SetupFailure> {
        self.at_item(step, 0)
    }

    fn at_item(self, step: Step, index: usize) -> Result<T, SetupFailure> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.map_err(|errno| SetupFailure {
            step,
            errno: errno as i32,
            index,
        })
    }
}

/// The cell's first process, from its first instruction to its last.
pub(crate) fn run_cell(mut cell: Cell<'_>) -> ! {
    let status = match build(&mut cell) {
        Ok(tool) => {
            init::watch(&cell, tool);
            0
        }
        Err(failure) => {
            report(&cell.socket, &Report::Failed(failure));
            1
        }
    };
    sys::exit_now(status)
}

/// Builds the cell and forks the tool's process; returns the tool's PID.
fn build(cell: &mut Cell<'_>) -> Result<i32, SetupFailure> {
    namespaces::die_with_parent().at(Step::ParentDeathSignal)?;
    // The launcher ignores it; here the tool must be waited for.
    init::expect_children().at(Step::ParentDeathSignal)?;
    namespaces::wait_for_id_maps(&cell.mapped).at(Step::MapIds)?;
    namespaces::enter_cgroup(cell.cgroup, &cell.cgroup_descriptors).at(Step::Cgroup)?;
    cell.cgroup_descriptors.clear();
    let (template, call) = (&cell.template.mounts, &cell.call.mounts);
    mounts::open_work(&mut cell.prepared, template, call)?;
    namespaces::take_identity(cell.template.inside).at(Step::Identity)?;
    namespaces::leave_session_keyring().at(Step::SessionKeyring)?;
    network::set_up(&cell.template.network, &cell.socket)?;
    namespaces::set_hostname(&cell.template.hostname).at(Step::Hostname)?;

    let root = mounts::stage(cell.template.root_bytes)?;
    let prepared = std::mem::take(&mut cell.prepared);
    mounts::populate(&root, &cell.template.mounts, cell.call, prepared)?;
    hand_back(cell, &root)?;
    mounts::enter(&root).at(Step::PivotRoot)?;
    mounts::make_root_read_only().at(Step::RootReadOnly)?;
    drop(root);

    sys::drop_capabilities().at(Step::DropCapabilities)?;
    nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
    // Before the fork: from its first instruction the tool has the same user as this process, and
    // must not be able to look into it.
    nix::sys::prctl::set_dumpable(false).at(Step::NoNewPrivileges)?;
    match sys::fork(cell.proof).at(Step::Fork)? {
        Forked::Child => become_tool(cell),
        Forked::Parent(tool) => Ok(tool),
    }
}

/// Gives the supervisor the directories that it measures and collects from, and the lists that it
/// counts by.
fn hand_back(cell: &Cell<'_>, root: &OwnedFd) -> Result<(), SetupFailure> {
    let mut directories = Vec::with_capacity(cell.template.handed_back.len());
    for (index, path) in cell.template.handed_back.iter().enumerate() {
        directories.push(mounts::open_beneath(root, path).at_item(Step::HandBack, index)?);
    }
    if cell.template.system_v_counted {
        for path in SYSTEM_V_LISTS {
            match mounts::open_list(root, path) {
                Ok(list) => directories.push(list),
                // A kernel without System V objects.
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(error).at_item(Step::HandBack, directories.len()),
            }
        }
    }
    let borrowed: Vec<_> = directories.iter().map(AsFd::as_fd).collect();
    send(&cell.socket, &Report::Built, &borrowed).at(Step::HandBack)
}

/// The child: confines itself and execs the tool. Only a failure comes back to the supervisor.
fn become_tool(cell: &Cell<'_>) -> ! {
    let Err(failure) = confine_and_exec(cell);
    if let Ok(socket) = sys::borrow_open(descriptors::REPORT) {
        report(&socket, &Report::Failed(failure));
    } else {
        report(&cell.socket, &Report::Failed(failure));
    }
    sys::exit_now(descriptors::EXIT_NOT_STARTED)
}

fn confine_and_exec(cell: &Cell<'_>) -> Result<std::convert::Infallible, SetupFailure> {
    let Cell { template, call, .. } = cell;
    descriptors::connect(&cell.streams, &cell.socket, cell.begin.as_ref()).at(Step::Stdio)?;
    namespaces::leave_terminal().at(Step::NewProcessGroup)?;
    limits::apply(&template.rlimits)?;
    namespaces::die_with_parent().at(Step::ParentDeathSignal)?;
    landlock::enforce(&template.landlock, &call.rules)?;
    descriptors::close_all_but_standard(cell.begin.is_some()).at(Step::CloseDescriptors)?;

    let socket = sys::borrow_open(descriptors::REPORT).at(Step::CloseDescriptors)?;
    let mut confirmed = read_back(template)?;
    let program = match &call.program {
        Some(program) => program,
        None => &wait_for_program(socket)?,
    };
    nix::unistd::chdir(&program.cwd).at(Step::WorkingDirectory)?;
    let listener = seccomp::install(&template.filter).at(Step::Seccomp)?;
    confirmed.seccomp_filter = sys::seccomp_is_filtering().at(Step::Seccomp)?;
    if !confirmed.seccomp_filter {
        return Err(SetupFailure {
            step: Step::Seccomp,
            errno: 0,
            index: 0,
        });
    }
    let listener: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
    send(&socket, &Report::Confined(confirmed), &listener).at(Step::Seccomp)?;
    // The listener was opened with O_CLOEXEC and goes with the exec, as does the report socket.
    let file = program.argv.first().ok_or(Errno::EINVAL).at(Step::Exec)?;
    nix::unistd::execve(file, &program.argv, &program.env).at(Step::Exec)
}

/// Says that the cell is ready, and waits for its call; the end of file, if none comes.
fn wait_for_program(socket: BorrowedFd<'_>) -> Result<Program, SetupFailure> {
    let begin = sys::borrow_open(descriptors::BEGIN).at(Step::Wait)?;
    send(&socket, &Report::Waiting, &[]).at(Step::Wait)?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let (length, _) = sys::receive(begin, &mut buffer).at(Step::Wait)?;
    if length == 0 {
        return Err(Errno::ECANCELED).at(Step::Wait);
    }
    let begin: Begin = wire::decode(&buffer[..length])
        .map_err(|_| Errno::EBADMSG)
        .at(Step::Wait)?;
    Ok(begin.program)
}

/// Asks the kernel what holds, and fails on the first answer that is not as ordered.
fn read_back(template: &Template) -> Result<Confirmed, SetupFailure> {
    let confirmed = Confirmed {
        no_new_privs: nix::sys::prctl::get_no_new_privs().at(Step::ReadBack)?,
        no_capabilities: sys::has_no_capabilities().at(Step::ReadBack)?,
        landlock_refuses: landlock::refuses_canary(),
        seccomp_filter: false,
        uid: nix::unistd::geteuid().as_raw(),
        root_read_only: mounts::root_is_read_only().at(Step::ReadBack)?,
        rlimits: limits::hold(&template.rlimits).at(Step::ReadBack)?,
        network: network::holds(&template.network).at(Step::ReadBack)?,
    };
    let held = [
        confirmed.no_new_privs,
        confirmed.no_capabilities,
        confirmed.landlock_refuses,
        confirmed.uid == template.inside.uid && confirmed.uid != 0,
        confirmed.root_read_only,
        confirmed.rlimits,
        confirmed.network,
    ];
    match held.iter().position(|held| !held) {
        Some(index) => Err(SetupFailure {
            step: Step::ReadBack,
            errno: 0,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        }),
        None => Ok(confirmed),
    }
}

/// Sends a report; if the supervisor has gone there is nobody to tell, and the cell dies with it.
pub(crate) fn report(socket: &impl AsFd, message: &Report) {
    let _ = send(socket, message, &[]);
}

pub(crate) fn send(
    socket: &impl AsFd,
    message: &Report,
    attached: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = wire::encode(message).map_err(|_| Errno::EMSGSIZE)?;
    for _ in 1..SENDINGS_MAX {
        match sys::send(socket.as_fd(), &bytes, attached) {
            // What other cells of the same user have handed over is not received yet.
            Err(Errno::ETOOMANYREFS) => {}
            result => return result,
        }
        // The tool's filter may forbid it, and then this only tries faster.
        let _ = nix::poll::poll(&mut [], SENDING_AGAIN_AFTER_MILLIS);
    }
    sys::send(socket.as_fd(), &bytes, attached)
}
