//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor.
///
/// # Errors
/// If epoll(7) cannot take it.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "deprecated in favour of an unsafe function, for types whose descriptor can be \
                  closed or exchanged while it is watched; an `OwnedFd` within an `AsyncFd` cannot"
    )]
    AsyncFd::with_interest(descriptor, interest)
}
