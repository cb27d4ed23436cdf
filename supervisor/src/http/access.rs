//! Who asks, and whether they may ask at all.

use http::HeaderMap;

use super::connection::Peer;
use crate::caller::Caller;

/// How callers are known.
#[derive(Debug, Clone)]
pub struct Access {
    /// User that this supervisor runs as.
    owner: u32,
    /// Whoever reaches it over TCP may ask: only where that is this machine.
    anonymous: bool,
}

/// Why somebody is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// They have not said who they are, or it is not true.
    Unknown(&'static str),
    /// They are known, and may not.
    Refused(&'static str),
}

impl Access {
    /// Serves this supervisor's own user on Unix sockets, and over TCP whoever comes, if so.
    #[must_use]
    pub fn new(anonymous: bool) -> Self {
        Self {
            owner: nix::unistd::geteuid().as_raw(),
            anonymous,
        }
    }

    /// Finds out who asks.
    pub fn caller(&self, peer: Option<Peer>, _headers: &HeaderMap) -> Result<Caller, Denied> {
        match peer {
            // Root could be anybody anyway.
            Some(Peer::Unix { uid }) if uid == self.owner || uid == 0 => Ok(Caller::of_user(uid)),
            Some(Peer::Unix { .. }) => Err(Denied::Refused(
                "this socket serves the user that the server runs as",
            )),
            Some(Peer::Tcp(_)) if self.anonymous => Ok(Caller::anonymous()),
            Some(Peer::Tcp(_)) | None => Err(Denied::Unknown("who are you?")),
        }
    }
}
