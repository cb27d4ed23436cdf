//! What calls would leave on the host if the supervisor vanished, and its removal.
//!
//! The supervisor removes a call's cgroups and directories itself. It can be killed at any moment,
//! though, and the launcher then is the last one who knows of them: cells end by themselves, as
//! their sockets do, and what held them is removed here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// Longest wait for the cells of a vanished supervisor to end.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two attempts: about the time that an empty PID namespace takes to be torn down.
const PAUSE: Duration = Duration::from_millis(5);

/// The directories of the calls that are running.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(HashMap<u64, Vec<PathBuf>>);

impl Leftovers {
    /// Notes what a call has on the host, children before parents.
    pub(crate) fn note(&mut self, call: u64, directories: Vec<PathBuf>) {
        if !directories.is_empty() {
            self.0.insert(call, directories);
        }
    }

    /// Forgets a call, whose directories its supervisor has removed.
    pub(crate) fn forget(&mut self, call: u64) {
        self.0.remove(&call);
    }

    /// Removes everything that is noted, as soon as nothing lives in it.
    pub(crate) fn remove_all(self) {
        let deadline = Instant::now() + WAIT_MAX;
        let mut rest: Vec<PathBuf> = self.0.into_values().flatten().collect();
        loop {
            rest.retain(|directory| !is_gone(directory));
            if rest.is_empty() || Instant::now() > deadline {
                return;
            }
            sleep(PAUSE);
        }
    }
}

/// Removes one empty directory, and says whether there is nothing left to try.
fn is_gone(directory: &PathBuf) -> bool {
    match nix::unistd::unlinkat(
        nix::fcntl::AT_FDCWD,
        directory,
        nix::unistd::UnlinkatFlags::RemoveDir,
    ) {
        // A cgroup that still has processes is busy; a directory whose child is listed after it is
        // not empty yet.
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => false,
        _ => true,
    }
}
