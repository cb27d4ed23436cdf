//! System calls as they are, for what no library offers: wrong numbers, wrong arguments, old gates.
//!
//! The only unsafe code of the integration tests.

use std::ffi::CStr;
use std::os::fd::{FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// An argument of a system call. Memory is lent for the length of the call.
pub enum Argument<'a> {
    /// A number, or a pointer that is meant to be wrong.
    Number(usize),
    /// Text that the kernel reads.
    Text(&'a CStr),
    /// Memory that the kernel reads.
    Read(&'a [u8]),
    /// Memory that the kernel writes.
    Write(&'a mut [u8]),
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Argument<'_> {
            #[allow(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                clippy::cast_lossless,
                clippy::cast_possible_wrap,
                reason = "a register takes a number as C would extend it"
            )]
            fn from(number: $number) -> Self {
                Self::Number(number as isize as usize)
            }
        }
    )*};
}
numbers!(i32, u32, i64, u64, usize);

impl<'a> From<&'a CStr> for Argument<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Argument<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Read(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Argument<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::Write(bytes)
    }
}

/// Makes a system call: its number, then its arguments.
macro_rules! syscall {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::raw::call($number, &mut [$($crate::raw::Argument::from($argument)),*])
    };
}
pub(crate) use syscall;

/// Makes a system call.
///
/// For calls that leave this process's memory as it is but for what is lent to them.
pub fn call(number: i64, arguments: &mut [Argument<'_>]) -> Result<i64, Errno> {
    let mut words = [0_usize; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Argument::Number(number) => *number,
            Argument::Text(text) => text.as_ptr() as usize,
            Argument::Read(bytes) => bytes.as_ptr() as usize,
            Argument::Write(bytes) => bytes.as_mut_ptr() as usize,
        };
    }
    let [first, second, third, fourth, fifth, sixth] = words;
    // SAFETY: pointers among the arguments are to memory that is lent for this call, with the access
    // that the kernel takes, and each caller passes as much as the call's manual page asks for;
    // numbers in place of pointers are invalid ones, to which the kernel answers EFAULT.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    Errno::result(result)
}

/// Makes a system call without arguments by the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub fn call_int80(number: u32) -> Result<i64, Errno> {
    let result: i32;
    // SAFETY: the gate takes the number and returns the result in `eax` and, for a call without
    // arguments, reads and writes nothing else; kernels clear r8 to r11 on the way.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inout("eax") number => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 {
        Err(Errno::from_raw(-result))
    } else {
        Ok(i64::from(result))
    }
}

/// Makes a system call without arguments by the gate of 32-bit programs, which only x86 has.
#[cfg(not(target_arch = "x86_64"))]
pub fn call_int80(_number: u32) -> Result<i64, Errno> {
    Err(Errno::ENOSYS)
}

/// Makes a system call that returns a new descriptor.
pub fn descriptor(result: i64) -> OwnedFd {
    let number = i32::try_from(result).expect("a descriptor is small");
    // SAFETY: the kernel has just made the descriptor and returned it, so nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Runs `child` in a child process, which exits with what it returns.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: the probe has one thread when it forks, so the child's memory is whole.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => std::process::exit(child()),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Runs `child` in a child process, which executes a program; `Ok` if that then succeeds.
///
/// # Errors
/// What `child` returns, if it executed nothing; `ECHILD` if the program did not succeed.
pub fn in_a_child(child: impl FnOnce() -> Errno) -> Result<(), Errno> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let child = fork(|| {
        let errno = child() as i32;
        let _ = nix::unistd::write(&writer, &errno.to_ne_bytes());
        1
    })?;
    drop(writer);
    let mut errno = [0_u8; 4];
    let read = nix::unistd::read(&reader, &mut errno)?;
    let status = nix::sys::wait::waitpid(child, None)?;
    match (read, status) {
        (4, _) => Err(Errno::from_raw(i32::from_ne_bytes(errno))),
        (_, nix::sys::wait::WaitStatus::Exited(_, 0)) => Ok(()),
        _ => Err(Errno::ECHILD),
    }
}
