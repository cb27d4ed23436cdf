//! What a listener reads of a tool's memory, which the tool can change meanwhile (process_vm_readv(2)).

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// Longest path that is read from a tool, with its NUL (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// Reads a NUL-terminated string from a tool's memory, page by page so that an unmapped next page
/// does no harm.
pub(super) fn path(pid: i32, pointer: u64) -> Option<String> {
    const PAGE: usize = 4096;
    let pointer = usize::try_from(pointer).ok()?;
    let mut text = Vec::new();
    while text.len() < PATH_BYTES_MAX {
        let base = pointer.checked_add(text.len())?;
        let length = (PAGE - base % PAGE).min(PATH_BYTES_MAX - text.len());
        let mut page = [0; PAGE];
        let mut local = [IoSliceMut::new(&mut page[..length])];
        let remote = [RemoteIoVec { base, len: length }];
        let count = process_vm_readv(Pid::from_raw(pid), &mut local, &remote).ok()?;
        if let Some(end) = page[..count].iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&page[..end]);
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        if count < length {
            return None;
        }
        text.extend_from_slice(&page[..count]);
    }
    None
}

/// Reads at most this many bytes; fewer, if the memory ends before.
pub(super) fn bytes<const MOST: usize>(pid: i32, pointer: u64, length: usize) -> Option<Vec<u8>> {
    let base = usize::try_from(pointer).ok()?;
    let length = length.min(MOST);
    base.checked_add(length)?;
    let mut read = vec![0; length];
    let mut local = [IoSliceMut::new(&mut read)];
    let remote = [RemoteIoVec { base, len: length }];
    let count = process_vm_readv(Pid::from_raw(pid), &mut local, &remote).ok()?;
    read.truncate(count);
    Some(read)
}
