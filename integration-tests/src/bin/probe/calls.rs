//! System calls by name, with arguments as plain as a test writes them.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

use crate::raw::{self, Argument, syscall};
use crate::{Attempt, Found, argument, errno, names, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("call", call),
    ("clone", clone),
    ("clone3", clone3),
    ("int80", int80),
    ("number", by_number),
    ("openat2", openat2),
    ("bpf_map", bpf_map),
    ("perf", perf),
    ("getfd_of_self", getfd_of_self),
    ("own_memory", own_memory),
    ("vmsplice", vmsplice),
    ("handle", handle),
    ("forged_handle", forged_handle),
    ("setns", setns),
    ("clock", clock),
    ("host_name", host_name),
    ("listen_to_calls", listen_to_calls),
];

/// Numbers by name; not all of them are in the C library's headers yet.
const NUMBERS: &[(&str, i64)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("adjtimex", libc::SYS_adjtimex),
    ("chroot", libc::SYS_chroot),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("delete_module", libc::SYS_delete_module),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("fanotify_mark", libc::SYS_fanotify_mark),
    ("fcntl", libc::SYS_fcntl),
    ("finit_module", libc::SYS_finit_module),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("fspick", libc::SYS_fspick),
    ("getpid", libc::SYS_getpid),
    ("init_module", libc::SYS_init_module),
    ("io_setup", libc::SYS_io_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("kcmp", libc::SYS_kcmp),
    ("kexec_file_load", libc::SYS_kexec_file_load),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("memfd_secret", 447),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("move_pages", libc::SYS_move_pages),
    ("open_tree", libc::SYS_open_tree),
    ("open_tree_attr", 467),
    ("personality", libc::SYS_personality),
    ("pivot_root", libc::SYS_pivot_root),
    ("prctl", libc::SYS_prctl),
    ("process_madvise", libc::SYS_process_madvise),
    ("process_mrelease", libc::SYS_process_mrelease),
    ("ptrace", libc::SYS_ptrace),
    ("quotactl", libc::SYS_quotactl),
    ("quotactl_fd", 443),
    ("reboot", libc::SYS_reboot),
    ("request_key", libc::SYS_request_key),
    ("setdomainname", libc::SYS_setdomainname),
    ("statmount", 457),
    ("listmount", 458),
    ("swapoff", libc::SYS_swapoff),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("vhangup", libc::SYS_vhangup),
    #[cfg(target_arch = "x86_64")]
    ("ioperm", libc::SYS_ioperm),
    #[cfg(target_arch = "x86_64")]
    ("iopl", libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    ("modify_ldt", libc::SYS_modify_ldt),
];

/// `call NAME ARGUMENT…`: numbers, `@text`, and `#n` for a buffer of so many bytes of zeros.
fn call(arguments: &[String]) -> Found {
    let name = argument(arguments, 0);
    let known = NUMBERS.iter().find(|(known, _)| *known == name);
    let Some((_, number)) = known else {
        panic!("no number is known for `{name}`");
    };
    with_arguments(*number, &arguments[1..])
}

/// `number NUMBER ARGUMENT…`: a call by its number.
fn by_number(arguments: &[String]) -> Found {
    with_arguments(number(arguments, 0), &arguments[1..])
}

enum Owned {
    Number(usize),
    Text(CString),
    Buffer(Vec<u8>),
}

fn with_arguments(number: i64, words: &[String]) -> Found {
    let mut owned: Vec<Owned> = (0..words.len())
        .map(|index| match words[index].as_bytes() {
            [b'@', ..] => Owned::Text(names::text(&words[index][1..])),
            [b'#', ..] => Owned::Buffer(vec![0; words[index][1..].parse().expect("a size")]),
            [b'-', ..] => {
                let negative: isize = words[index].parse().expect("a number");
                Owned::Number(negative.cast_unsigned())
            }
            _ => Owned::Number(crate::number(words, index)),
        })
        .collect();
    let mut arguments: Vec<Argument<'_>> = owned
        .iter_mut()
        .map(|owned| match owned {
            Owned::Number(number) => Argument::Number(*number),
            Owned::Text(text) => Argument::Text(text),
            Owned::Buffer(buffer) => Argument::Write(buffer),
        })
        .collect();
    raw::call(number, &mut arguments)?;
    Ok(String::new())
}

/// `clone FLAGS`: a process with new namespaces, as `fork` makes one.
fn clone(arguments: &[String]) -> Found {
    let flags: u64 = number(arguments, 0);
    let sigchld = u64::from(libc::SIGCHLD.cast_unsigned());
    let process = syscall!(libc::SYS_clone, flags | sigchld, 0, 0, 0, 0)?;
    leave_child(process);
    Ok(String::new())
}

/// `clone3 FLAGS`
fn clone3(arguments: &[String]) -> Found {
    let mut orders = [0_u64; 11];
    orders[0] = number(arguments, 0);
    orders[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    let orders: Vec<u8> = orders.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let process = syscall!(libc::SYS_clone3, &orders[..], orders.len())?;
    leave_child(process);
    Ok(String::new())
}

/// Ends the child of a bare clone, and waits for it in the parent.
fn leave_child(process: i64) {
    if process == 0 {
        std::process::exit(0);
    }
    let _ = nix::sys::wait::wait();
}

/// `int80 NUMBER`: a call without arguments through the gate of 32-bit programs.
fn int80(arguments: &[String]) -> Found {
    raw::call_int80(number(arguments, 0)).map(|_| String::new())
}

/// `openat2 PATH`
fn openat2(arguments: &[String]) -> Found {
    let path = names::text(argument(arguments, 0));
    let how = [0_u8; 24];
    syscall!(
        libc::SYS_openat2,
        libc::AT_FDCWD,
        path.as_c_str(),
        &how[..],
        how.len()
    )?;
    Ok(String::new())
}

/// `bpf_map`: an array of one number in the kernel.
fn bpf_map(_: &[String]) -> Found {
    const BPF_MAP_CREATE: i32 = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let attributes: Vec<u8> = [BPF_MAP_TYPE_ARRAY, 4, 4, 1]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    syscall!(
        libc::SYS_bpf,
        BPF_MAP_CREATE,
        &attributes[..],
        attributes.len()
    )?;
    Ok(String::new())
}

/// `perf`: a counter of this process's own CPU time, kernel left out.
fn perf(_: &[String]) -> Found {
    const TYPE_SOFTWARE: u32 = 1;
    const SIZE: u32 = 64;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    let mut attributes = [0_u8; SIZE as usize];
    attributes[..4].copy_from_slice(&TYPE_SOFTWARE.to_ne_bytes());
    attributes[4..8].copy_from_slice(&SIZE.to_ne_bytes());
    attributes[40..48].copy_from_slice(&EXCLUDE_KERNEL.to_ne_bytes());
    syscall!(libc::SYS_perf_event_open, &attributes[..], 0, -1, -1, 0)?;
    Ok(String::new())
}

/// `getfd_of_self`: takes descriptor 1 out of a process, of this one.
fn getfd_of_self(_: &[String]) -> Found {
    let process = syscall!(libc::SYS_pidfd_open, std::process::id(), 0)?;
    syscall!(libc::SYS_pidfd_getfd, process, 1, 0)?;
    Ok(String::new())
}

/// `own_memory read|write [PID]`: memory of a process through process_vm_readv or its like.
fn own_memory(arguments: &[String]) -> Found {
    let bytes = *b"secret";
    let mut copy = [0_u8; 6];
    let words = |base: *const u8| [base as usize, 6].map(usize::to_ne_bytes).concat();
    let remote = words(bytes.as_ptr());
    let local = words(copy.as_mut_ptr());
    let call = match argument(arguments, 0) {
        "read" => libc::SYS_process_vm_readv,
        _ => libc::SYS_process_vm_writev,
    };
    let process = if arguments.len() > 1 {
        number(arguments, 1)
    } else {
        std::process::id()
    };
    syscall!(call, process, &local[..], 1, &remote[..], 1, 0)?;
    Ok(String::new())
}

/// `vmsplice`: own memory into a pipe.
fn vmsplice(_: &[String]) -> Found {
    let (_reader, writer) = std::io::pipe().map_err(|error| errno(&error))?;
    let bytes = [7_u8; 16];
    let vector = [bytes.as_ptr() as usize, bytes.len()]
        .map(usize::to_ne_bytes)
        .concat();
    syscall!(libc::SYS_vmsplice, writer.as_raw_fd(), &vector[..], 1, 0)?;
    Ok(String::new())
}

/// `handle PATH`: the number by which a file can be opened.
fn handle(arguments: &[String]) -> Found {
    let path = names::text(argument(arguments, 0));
    let mut handle = [0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = [0_u8; 4];
    syscall!(
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        path.as_c_str(),
        &mut handle[..],
        &mut mount[..],
        0
    )?;
    Ok(String::new())
}

/// `forged_handle PATH`: opens the root of the file system that `PATH` is on, by its usual number.
fn forged_handle(arguments: &[String]) -> Found {
    const FILEID_INO32_GEN: u32 = 1;
    const ROOT_INODE: u32 = 2;
    let mount = std::fs::File::open(argument(arguments, 0)).map_err(|error| errno(&error))?;
    let handle: Vec<u8> = [8, FILEID_INO32_GEN, ROOT_INODE, 0]
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect();
    syscall!(
        libc::SYS_open_by_handle_at,
        mount.as_raw_fd(),
        &handle[..],
        libc::O_RDONLY
    )?;
    Ok(String::new())
}

/// `setns PATH`: enters a namespace.
fn setns(arguments: &[String]) -> Found {
    let file = std::fs::File::open(argument(arguments, 0)).map_err(|error| errno(&error))?;
    syscall!(libc::SYS_setns, file.as_raw_fd(), 0)?;
    Ok(String::new())
}

/// `clock settimeofday|clock_settime`: sets a clock to what cannot be, which privileges get as far
/// as being told so.
fn clock(arguments: &[String]) -> Found {
    let impossible = [0_i64, 2_000_000_000].map(i64::to_ne_bytes).concat();
    match argument(arguments, 0) {
        "settimeofday" => syscall!(libc::SYS_settimeofday, &impossible[..], 0),
        _ => syscall!(
            libc::SYS_clock_settime,
            libc::CLOCK_REALTIME,
            &impossible[..]
        ),
    }
    .map(|_| String::new())
}

/// `host_name`: sets the host name to what it is.
fn host_name(_: &[String]) -> Found {
    let name = nix::unistd::gethostname().map_err(|_| Errno::EINVAL)?;
    let name = name.into_encoded_bytes();
    syscall!(libc::SYS_sethostname, &name[..], name.len())?;
    Ok(String::new())
}

/// `listen_to_calls`: installs a filter that allows everything, with a listener.
fn listen_to_calls(_: &[String]) -> Found {
    const SECCOMP_SET_MODE_FILTER: i32 = 1;
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: i32 = 1 << 3;
    nix::sys::prctl::set_no_new_privs()?;
    // One instruction: return SECCOMP_RET_ALLOW.
    let instruction = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f_u8];
    let program = [1, instruction.as_ptr() as usize]
        .map(usize::to_ne_bytes)
        .concat();
    let flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    syscall!(
        libc::SYS_seccomp,
        SECCOMP_SET_MODE_FILTER,
        flags,
        &program[..]
    )?;
    Ok(String::new())
}
