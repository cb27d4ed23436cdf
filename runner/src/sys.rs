//! Every `unsafe` line of Toolcell: system calls for which no well-kept crate offers a safe function.
//!
//! Each function here is safe to call with any arguments: what could be misused is typed
//! ([`OwnedFd`], [`CStr`]) or checked. Errors are the kernel's `errno`.

use std::ffi::{CStr, c_int, c_long, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::report::End;
use crate::spec::Instruction;

/// Result of a call into the kernel.
pub type Result<T> = std::result::Result<T, Errno>;

fn check(result: c_long) -> Result<c_long> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that a system call has just returned.
fn own(result: c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: callers pass the return value of a call that creates a descriptor; `check` has excluded
    // errors, so `fd` is open, and as the kernel has only just made it nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which side of a fork one is on.
#[derive(Debug)]
pub enum Forked<T> {
    /// The caller, with what the kernel said about the child.
    Parent(T),
    /// The new process.
    Child,
}

/// A process just made by [`clone3`].
#[derive(Debug)]
pub struct Child {
    /// Its PID in the caller's PID namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Whether this process has exactly one thread, by the kernel's account.
fn single_threaded() -> bool {
    // `nlink` of the task directory is two plus the number of threads (proc_pid_task(5)); where
    // /proc is not to be had the answer is no, which refuses the fork.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3)
}

/// Proof that the process was single-threaded when it began to serve, and starts no thread.
///
/// In the child of a multi-threaded process only async-signal-safe functions may be called
/// (fork(2)); with this proof any function may.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Checks with the kernel.
    ///
    /// # Errors
    /// `EBUSY` if there is another thread or it cannot be known.
    pub fn check() -> Result<Self> {
        if single_threaded() {
            Ok(Self(()))
        } else {
            Err(Errno::EBUSY)
        }
    }
}

/// `clone3(2)` as a fork into new namespaces, with a pidfd, and on cgroup v2 straight into a cgroup.
///
/// # Errors
/// As clone3(2).
pub fn clone3(
    _proof: SingleThreaded,
    namespaces: c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Forked<Child>> {
    /// `libc`'s constant of this name overflows its type.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: `clone_args` is a plain C structure for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.flags = u64::from((namespaces | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: `args` is initialised and outlives the call, `size` is its size, `pidfd` outlives the
    // call. Without CLONE_VM the child has a copy of this memory and stack, as after fork(2); the
    // caller's proof of being single-threaded means that no lock is held by a vanished thread.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) };
    match check(result)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Child {
            pid: i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
            pidfd: own(c_long::from(pidfd))?,
        })),
    }
}

/// `fork(2)`.
///
/// # Errors
/// As fork(2).
pub fn fork(_proof: SingleThreaded) -> Result<Forked<i32>> {
    // SAFETY: the caller's proof says that this is the only thread, so the child may go on to call
    // anything.
    match check(c_long::from(unsafe { libc::fork() }))? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(
            i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
        )),
    }
}

/// Reaps one child that has ended, without waiting; `None` if none has.
///
/// By waitpid(2) itself, as `nix` has no value for a death by a real-time signal.
///
/// # Errors
/// As waitpid(2).
pub fn reap() -> Result<Option<(i32, End)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = check(c_long::from(pid))?;
    if pid == 0 {
        return Ok(None);
    }
    let end = if libc::WIFEXITED(status) {
        End::Exited(libc::WEXITSTATUS(status))
    } else {
        End::Signalled(libc::WTERMSIG(status))
    };
    Ok(Some((
        i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
        end,
    )))
}

/// Ends the process at once, without destructors or exit handlers.
pub fn exit_now(status: c_int) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Gives every signal its default disposition and unblocks all, as a fresh process expects.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset_signals() -> Result<()> {
    // SAFETY: `sigaction` is a plain C structure; all zeroes means SIG_DFL, no flags, empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: `default` is a valid action and no handler of ours is replaced by another. KILL, STOP
        // and the two signals that libc keeps for itself are refused with EINVAL, which is right.
        let _ = unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Sets what this process does on a signal, to the default or to ignoring it.
///
/// # Errors
/// `EINVAL` for a handler, which would have to be async-signal-safe; as sigaction(2).
pub fn set_signal_action(
    signal: nix::sys::signal::Signal,
    action: &nix::sys::signal::SigAction,
) -> Result<()> {
    use nix::sys::signal::{SigHandler, sigaction};
    match action.handler() {
        SigHandler::SigIgn | SigHandler::SigDfl => {
            // SAFETY: neither disposition runs any code of this process.
            unsafe { sigaction(signal, action) }.map(drop)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of what `at` refers to.
///
/// # Errors
/// As open_tree(2).
pub fn clone_tree(at: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: the descriptor is open for the call, the path is an empty C string, flags are integers.
    own(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })
}

/// `move_mount(2)`: attaches the detached mount `from` at the place that `to` refers to.
///
/// # Errors
/// As move_mount(2).
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags: c_uint = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both descriptors are open for the call and both paths are empty C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })?;
    Ok(())
}

/// What [`set_mount`] changes; see mount_setattr(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes<'a> {
    /// `attr_set`: `MOUNT_ATTR_*` bits.
    pub set: u64,
    /// `propagation`: one of `MS_PRIVATE`, `MS_SLAVE`, or 0.
    pub propagation: u64,
    /// A user namespace for `MOUNT_ATTR_IDMAP`.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// `mount_setattr(2)` on the mount that `mount` refers to.
///
/// # Errors
/// As mount_setattr(2).
pub fn set_mount(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes<'_>,
    recursive: bool,
) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: `mount_attr` is a plain C structure for which all zeroes is a valid value.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes.set;
    attr.propagation = attributes.propagation;
    if let Some(namespace) = attributes.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::from(namespace.as_raw_fd().cast_unsigned());
    }
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the descriptors are open for the call, the path is an empty C string, `attr` is
    // initialised and outlives the call, and `size` is its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size,
        )
    })?;
    Ok(())
}

/// A file system being configured: `fsopen(2)`.
#[derive(Debug)]
pub struct FileSystem(OwnedFd);

impl FileSystem {
    /// Opens a file system of this type for configuration.
    ///
    /// # Errors
    /// As fsopen(2).
    pub fn open(kind: &CStr) -> Result<Self> {
        const FSOPEN_CLOEXEC: c_uint = 1;
        // SAFETY: `kind` is a C string and outlives the call.
        own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets a parameter to a string (`FSCONFIG_SET_STRING`).
    ///
    /// # Errors
    /// As fsconfig(2).
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        const FSCONFIG_SET_STRING: c_uint = 1;
        self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets a flag (`FSCONFIG_SET_FLAG`).
    ///
    /// # Errors
    /// As fsconfig(2).
    pub fn set_flag(&self, key: &CStr) -> Result<()> {
        const FSCONFIG_SET_FLAG: c_uint = 0;
        self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())
    }

    /// Creates the file system and returns a detached mount with these `MOUNT_ATTR_*` bits.
    ///
    /// # Errors
    /// As fsconfig(2) and fsmount(2).
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        const FSCONFIG_CMD_CREATE: c_uint = 6;
        const FSMOUNT_CLOEXEC: c_uint = 1;
        self.configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        let attributes = c_uint::try_from(attributes).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the descriptor is open for the call; the rest are integers.
        own(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes,
            )
        })
    }

    fn configure(
        &self,
        command: c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> Result<()> {
        // SAFETY: callers in this type pass null or the pointer of a `CStr` that outlives the call, as
        // the command asks (fsconfig(2)); the kernel only reads them. `aux` is 0.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key,
                value,
                0,
            )
        })?;
        Ok(())
    }
}

/// `pivot_root(".", ".")`: the working directory's mount becomes the root; the old one is stacked
/// beneath it at the same place, to be detached.
///
/// # Errors
/// As pivot_root(2).
pub fn pivot_root_here() -> Result<()> {
    // SAFETY: both arguments are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Errors
/// As netdevice(7).
pub fn loopback_up() -> Result<()> {
    /// `IFF_UP | IFF_RUNNING`, in the type that the field has.
    const IFF_UP_RUNNING: libc::c_short = 0x41;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a plain C structure for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = IFF_UP_RUNNING;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq` with name and flags, which `request` is; it outlives the
    // call.
    check(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request)
    }))?;
    Ok(())
}

/// Sets an option of a socket that is an integer or a flag; see socket(7), ip(7), ipv6(7).
///
/// # Errors
/// As setsockopt(2).
pub fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> Result<()> {
    set_option(socket, level, option, &value)
}

/// Lets a socket receive only what a classic BPF program passes (`SO_ATTACH_FILTER`, socket(7)).
///
/// # Errors
/// As setsockopt(2); `EINVAL` for a program that is too long.
pub fn attach_socket_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    let mut filter = native(program);
    let description = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_mut_ptr(),
    };
    // `filter` outlives the call; the kernel copies and checks it.
    set_option(
        socket,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_FILTER,
        &description,
    )
}

/// `setsockopt(2)`: the kernel reads at most the size of `value`, and what a `sock_fprog` points to.
fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the descriptor is open for the call; `value` is a plain C value that outlives it, and
    // `size` is its size.
    check(c_long::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size,
        )
    }))?;
    Ok(())
}

/// Replaces the session keyring with an empty one of the process's own; see keyctl(2).
///
/// # Errors
/// As keyctl(2); `ENOSYS` on kernels without keyrings.
pub fn join_new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    })?;
    Ok(())
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Capabilities that fit the sets.
const CAPABILITIES_MAX: c_int = 64;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// Effective, permitted and inheritable sets; two 32-bit words each, low word first.
type CapabilityData = [[u32; 3]; 2];

/// Capabilities of a thread as bit masks; see capabilities(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What the kernel checks.
    pub effective: u64,
    /// What may become effective.
    pub permitted: u64,
    /// What an `execve` may hand on.
    pub inheritable: u64,
    /// What an `execve` may ever give.
    pub bounding: u64,
    /// What an `execve` of any program keeps.
    pub ambient: u64,
}

impl Capabilities {
    /// Those of this thread.
    ///
    /// # Errors
    /// As capget(2) and prctl(2).
    pub fn of_this_thread() -> Result<Self> {
        const IS_SET: c_int = libc::PR_CAP_AMBIENT_IS_SET;
        let mut header = CapabilityHeader {
            version: CAPABILITY_VERSION_3,
            pid: 0,
        };
        let mut data: CapabilityData = [[u32::MAX; 3]; 2];
        // SAFETY: version 3 writes two data structures of three words each; both outlive the call.
        check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) })?;
        let word = |set: usize| u64::from(data[0][set]) | u64::from(data[1][set]) << 32;
        let mut found = Self {
            effective: word(0),
            permitted: word(1),
            inheritable: word(2),
            bounding: 0,
            ambient: 0,
        };
        for capability in 0..CAPABILITIES_MAX {
            // SAFETY: integer arguments only. EINVAL marks the first number past the kernel's last.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
            match check(c_long::from(result)) {
                Ok(0) => {}
                Ok(_) => found.bounding |= 1 << capability,
                Err(Errno::EINVAL) => break,
                Err(error) => return Err(error),
            }
            // SAFETY: integer arguments only.
            let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, IS_SET, capability, 0, 0) };
            if check(c_long::from(result))? != 0 {
                found.ambient |= 1 << capability;
            }
        }
        Ok(found)
    }
}

/// Empties every capability set: bounding, ambient, then effective, permitted and inheritable; and
/// locks the securebits so that no uid change can bring one back. See capabilities(7).
///
/// # Errors
/// As prctl(2) and capset(2).
pub fn drop_capabilities() -> Result<()> {
    drop_bounding(0)?;
    lock_securebits()?;
    clear_ambient()?;
    set_capabilities(0)
}

/// Gives up every capability but those in the mask, of which none is gained. Who may not shrink
/// the bounding set has nothing that it could give.
///
/// # Errors
/// As prctl(2), capget(2) and capset(2).
pub fn keep_capabilities(keep: u64) -> Result<()> {
    const SETPCAP: u64 = 1 << 8;
    let held = Capabilities::of_this_thread()?;
    if held.effective & SETPCAP != 0 {
        drop_bounding(keep)?;
        lock_securebits()?;
    }
    clear_ambient()?;
    set_capabilities(held.permitted & keep)
}

fn drop_bounding(keep: u64) -> Result<()> {
    for capability in (0..CAPABILITIES_MAX).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: integer arguments only. EINVAL marks the first number past the kernel's last.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match check(c_long::from(result)) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lock_securebits() -> Result<()> {
    /// NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and the lock of each; KEEP_CAPS locked off.
    const SECBITS_ALL_LOCKED: c_int = 0b1110_1111;
    // SAFETY: integer arguments only.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBITS_ALL_LOCKED, 0, 0, 0) };
    check(c_long::from(result)).map(drop)
}

fn clear_ambient() -> Result<()> {
    const CLEAR_ALL: c_int = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: integer arguments only.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0) };
    check(c_long::from(result)).map(drop)
}

/// Makes this the effective and the permitted set, and empties the inheritable one.
fn set_capabilities(mask: u64) -> Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    #[allow(clippy::cast_possible_truncation)] // the two halves, on purpose
    let [low, high] = [mask as u32, (mask >> 32) as u32];
    let data: CapabilityData = [[low, low, 0], [high, high, 0]];
    // SAFETY: version 3 reads a header and two data structures of three words each; both outlive the
    // call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const data) }).map(drop)
}

/// Whether all five capability sets of this thread are empty.
///
/// # Errors
/// As capget(2) and prctl(2).
pub fn has_no_capabilities() -> Result<bool> {
    let Capabilities {
        effective,
        permitted,
        inheritable,
        bounding,
        ambient,
    } = Capabilities::of_this_thread()?;
    Ok(effective | permitted | inheritable | bounding | ambient == 0)
}

/// Closes every descriptor from `first` on; see close_range(2).
///
/// The caller must not use an owned descriptor in that range afterwards; a later close of one only
/// fails with `EBADF`, as this process is about to exec or has none left.
///
/// # Errors
/// As close_range(2).
pub fn close_from(first: RawFd) -> Result<()> {
    let first = c_uint::try_from(first).map_err(|_| Errno::EBADF)?;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) })?;
    Ok(())
}

/// `dup3(2)` onto a fixed number, without `O_CLOEXEC` unless asked; the copy is left open on purpose.
///
/// # Errors
/// As dup3(2).
pub fn duplicate_onto(fd: BorrowedFd<'_>, number: RawFd, close_on_exec: bool) -> Result<()> {
    if fd.as_raw_fd() == number {
        let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: integer arguments only, on an open descriptor.
        check(c_long::from(unsafe {
            libc::fcntl(number, libc::F_SETFD, flags)
        }))?;
        return Ok(());
    }
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: integer arguments only; `number` is one that the caller has set aside.
    check(c_long::from(unsafe {
        libc::dup3(fd.as_raw_fd(), number, flags)
    }))?;
    Ok(())
}

/// Borrows a descriptor by number.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn borrow_open<'a>(number: RawFd) -> Result<BorrowedFd<'a>> {
    // SAFETY: integer arguments only.
    check(c_long::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    // SAFETY: it is open, as just seen. The single-threaded callers (launcher and cell) set the
    // number aside for the life of the process.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes over a descriptor that a parent process left open for this one under an agreed number.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: integer arguments only.
    check(c_long::from(unsafe { libc::fcntl(number, libc::F_GETFD) }))?;
    // SAFETY: it is open, as just seen, and by the agreement with the parent it is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Receives one message and its descriptors, all with `O_CLOEXEC`.
///
/// Returns the length; 0 means that the other side has gone.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` if the message or its descriptors did not fit (what came is closed).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut control = nix::cmsg_space!([RawFd; crate::wire::DESCRIPTORS_MAX]);
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            for fd in raw {
                // SAFETY: the kernel has just installed `fd` in this process for this message
                // (unix(7), SCM_RIGHTS); nobody else knows of it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    if message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
    {
        return Err(Errno::EMSGSIZE);
    }
    Ok((message.bytes, descriptors))
}

/// Sends one message with descriptors.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &parts,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Installs a seccomp filter on this thread; see seccomp(2).
///
/// With `listener`, returns the user-notification descriptor.
///
/// # Errors
/// As seccomp(2); `EINVAL` for a program that is too long.
pub fn install_filter(program: &[Instruction], listener: bool) -> Result<Option<OwnedFd>> {
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let mut filter = native(program);
    let description = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_mut_ptr(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: `description` and the instructions that it points to outlive the call; the kernel
        // copies and checks them.
        unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const description,
            )
        }
    };
    if !listener {
        check(install(0))?;
        return Ok(None);
    }
    let base = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Kernels before 5.19 lack the flag that keeps a non-fatal signal from restarting a call that is
    // being answered; the answer is the same with and without.
    match own(install(base | WAIT_KILLABLE_RECV)) {
        Err(Errno::EINVAL) => own(install(base)).map(Some),
        result => result.map(Some),
    }
}

fn native(program: &[Instruction]) -> Vec<libc::sock_filter> {
    let instruction = |i: &Instruction| libc::sock_filter {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    };
    program.iter().map(instruction).collect()
}

/// Whether this thread runs under a seccomp filter (`PR_GET_SECCOMP`).
///
/// # Errors
/// As prctl(2).
pub fn seccomp_is_filtering() -> Result<bool> {
    const SECCOMP_MODE_FILTER: c_long = 2;
    // SAFETY: integer arguments only.
    let mode = unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) };
    Ok(check(c_long::from(mode))? == SECCOMP_MODE_FILTER)
}

/// A system call that waits for an answer; see seccomp_unotify(2).
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Cookie of the call.
    pub id: u64,
    /// PID of the caller, in the PID namespace of the reader.
    pub pid: u32,
    /// System call number.
    pub number: i32,
    /// `AUDIT_ARCH_*` of the call.
    pub arch: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// How to answer a [`Notification`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call fails with this error.
    Fail(Errno),
    /// The kernel goes on with the call as if it had not been asked about. Only for calls whose
    /// permission is decided elsewhere: the arguments may change after they were looked at.
    Continue,
}

const fn ioctl_number(direction: u64, number: u64, size: usize) -> libc::Ioctl {
    ((direction << 30) | ((size as u64) << 16) | (0x21 << 8) | number) as libc::Ioctl
}

/// Takes the next notification.
///
/// # Errors
/// As seccomp_unotify(2); `ENOENT` if the caller was killed meanwhile, `EAGAIN`-like waits do not
/// happen once poll(2) has said readable.
pub fn receive_notification(listener: BorrowedFd<'_>) -> Result<Notification> {
    const RECEIVE: libc::Ioctl = ioctl_number(3, 0, size_of::<libc::seccomp_notif>());
    // SAFETY: `seccomp_notif` is a plain C structure; the kernel demands that it be zeroed.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`; `request` is one and outlives the call.
    check(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut request)
    }))?;
    Ok(Notification {
        id: request.id,
        pid: request.pid,
        number: request.data.nr,
        arch: request.data.arch,
        arguments: request.data.args,
    })
}

/// Answers a notification.
///
/// # Errors
/// As seccomp_unotify(2); `ENOENT` if the caller no longer waits.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<()> {
    const FLAG_CONTINUE: u32 = 1;
    const SEND: libc::Ioctl = ioctl_number(3, 1, size_of::<libc::seccomp_notif_resp>());
    // SAFETY: `seccomp_notif_resp` is a plain C structure for which all zeroes is a valid value.
    let mut response: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
    response.id = id;
    match answer {
        Answer::Fail(error) => response.error = -(error as i32),
        Answer::Continue => response.flags = FLAG_CONTINUE,
    }
    // SAFETY: the kernel reads one `seccomp_notif_resp`; `response` is one and outlives the call.
    check(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), SEND, &raw mut response)
    }))?;
    Ok(())
}

/// Whether the caller of a notification still waits: what was read of its memory before is its own.
#[must_use]
pub fn notification_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    const ID_VALID: libc::Ioctl = ioctl_number(1, 2, size_of::<u64>());
    // SAFETY: the kernel reads one u64; `id` outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), ID_VALID, &raw const id) == 0 }
}

/// Answers a notification with a descriptor: installs a copy of `fd` in the caller and makes it the
/// call's result, in one step (`SECCOMP_ADDFD_FLAG_SEND`).
///
/// # Errors
/// As seccomp_unotify(2).
pub fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<()> {
    const FLAG_SEND: u32 = 2;
    const ADD_FD: libc::Ioctl = ioctl_number(1, 3, size_of::<libc::seccomp_notif_addfd>());
    // SAFETY: `seccomp_notif_addfd` is a plain C structure for which all zeroes is a valid value.
    let mut request: libc::seccomp_notif_addfd = unsafe { std::mem::zeroed() };
    request.id = id;
    request.flags = FLAG_SEND;
    request.srcfd = fd.as_raw_fd().cast_unsigned();
    request.newfd_flags = if close_on_exec {
        libc::O_CLOEXEC.cast_unsigned()
    } else {
        0
    };
    // SAFETY: the kernel reads one `seccomp_notif_addfd`; `request` is one and outlives the call.
    check(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), ADD_FD, &raw const request)
    }))?;
    Ok(())
}

/// Wakes the answering side on the caller's CPU (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, Linux 6.6).
///
/// # Errors
/// `EINVAL` on kernels without it, which only costs time.
pub fn wake_synchronously(listener: BorrowedFd<'_>) -> Result<()> {
    const SET_FLAGS: libc::Ioctl = ioctl_number(1, 4, size_of::<u64>());
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the argument is an integer, not a pointer.
    check(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP)
    }))?;
    Ok(())
}

/// An anonymous file in memory that can never be executed (`MFD_NOEXEC_SEAL`, Linux 6.3).
///
/// # Errors
/// As memfd_create(2).
pub fn memfd_without_exec(name: &CStr, allow_sealing: bool) -> Result<OwnedFd> {
    const MFD_NOEXEC_SEAL: c_uint = 8;
    let mut flags = libc::MFD_CLOEXEC | MFD_NOEXEC_SEAL;
    if allow_sealing {
        flags |= libc::MFD_ALLOW_SEALING;
    }
    // SAFETY: `name` is a C string and outlives the call.
    own(c_long::from(unsafe {
        libc::memfd_create(name.as_ptr(), flags)
    }))
}

/// A descriptor for a process, or for a thread where the kernel has those (`PIDFD_THREAD`, Linux 6.9);
/// see pidfd_open(2).
///
/// # Errors
/// As pidfd_open(2); `EINVAL` or `ENOENT` for a thread before Linux 6.9.
pub fn open_pidfd(id: i32) -> Result<OwnedFd> {
    const PIDFD_THREAD: c_int = libc::O_EXCL;
    for flags in [PIDFD_THREAD, 0] {
        // SAFETY: integer arguments only.
        match own(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) }) {
            Err(Errno::EINVAL) if flags != 0 => {}
            result => return result,
        }
    }
    Err(Errno::EINVAL)
}

/// A copy of a descriptor of another process, with `O_CLOEXEC`; see pidfd_getfd(2).
///
/// # Errors
/// As pidfd_getfd(2); `EBADF` if it has no such descriptor.
pub fn copy_descriptor(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd> {
    // SAFETY: an open descriptor and integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// Bytes that can be read from a pipe or a socket (`FIONREAD`, ioctl_tty(2)).
///
/// # Errors
/// As ioctl(2).
pub fn readable_bytes(descriptor: BorrowedFd<'_>) -> Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one int to `bytes`, which outlives the call.
    check(c_long::from(unsafe {
        libc::ioctl(descriptor.as_raw_fd(), libc::FIONREAD, &raw mut bytes)
    }))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Sends a signal through a pidfd; see pidfd_send_signal(2).
///
/// # Errors
/// As pidfd_send_signal(2); `ESRCH` if the process has ended.
pub fn signal_process(pidfd: BorrowedFd<'_>, signal: nix::sys::signal::Signal) -> Result<()> {
    // SAFETY: an open descriptor, an integer, a null `siginfo_t` (the default), no flags.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as c_int,
            std::ptr::null::<c_void>(),
            0,
        )
    })?;
    Ok(())
}

/// The kernel's Landlock ABI; 0 where Landlock is not built in or not enabled.
#[must_use]
pub fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: c_uint = 1;
    // SAFETY: with the VERSION flag the kernel takes a null attribute and size 0 and only returns a
    // number (landlock_create_ruleset(2)).
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether the kernel knows a seccomp return action (`SECCOMP_GET_ACTION_AVAIL`).
#[must_use]
pub fn seccomp_action_available(action: u32) -> bool {
    const SECCOMP_GET_ACTION_AVAIL: c_uint = 2;
    // SAFETY: the kernel reads one u32; `action` outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        ) == 0
    }
}

/// Sets one limit of this process, soft and hard; see setrlimit(2).
///
/// # Errors
/// As setrlimit(2).
pub fn set_rlimit(resource: crate::spec::Resource, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call; the resource is one of libc's own constants.
    check(c_long::from(unsafe {
        libc::setrlimit(rlimit_number(resource), &raw const limit)
    }))?;
    Ok(())
}

/// Reads one limit of this process; see getrlimit(2).
///
/// # Errors
/// As getrlimit(2).
pub fn get_rlimit(resource: crate::spec::Resource) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` outlives the call; the resource is one of libc's own constants.
    check(c_long::from(unsafe {
        libc::getrlimit(rlimit_number(resource), &raw mut limit)
    }))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

fn rlimit_number(resource: crate::spec::Resource) -> libc::__rlimit_resource_t {
    use crate::spec::Resource;
    match resource {
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::CpuSeconds => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::MessageQueue => libc::RLIMIT_MSGQUEUE,
        Resource::PendingSignals => libc::RLIMIT_SIGPENDING,
        Resource::Stack => libc::RLIMIT_STACK,
    }
}

/// Bytes that wait in a socket, as the kernel accounts them: received and not yet read, and sent and
/// not yet taken (`SO_MEMINFO`, socket(7)).
///
/// # Errors
/// As getsockopt(2).
pub fn socket_memory(socket: BorrowedFd<'_>) -> Result<u64> {
    /// `SK_MEMINFO_RMEM_ALLOC` and `SK_MEMINFO_WMEM_ALLOC` of `SK_MEMINFO_VARS`.
    const RECEIVED: usize = 0;
    const SENT: usize = 2;
    const VARIABLES: usize = 9;
    let mut values = [0_u32; VARIABLES];
    let mut length = libc::socklen_t::try_from(size_of_val(&values)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `length` bytes to `values`, which has as many, and the length
    // to `length`; both outlive the call.
    check(c_long::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut values).cast(),
            &raw mut length,
        )
    }))?;
    Ok(u64::from(values[RECEIVED]) + u64::from(values[SENT]))
}
