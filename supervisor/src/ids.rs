//! Which user of the host a cell runs as: never root.
//!
//! An ordinary user's cells run as that user. Under root each cell gets a user id of its own, so
//! that what the kernel counts or allows by user (limits, keys, signals) couples no two cells.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use runner::spec::Ids;

/// First user id that cells of a root supervisor get. The range from 1,879,048,192 to 2,147,483,647
/// is unused by every assignment that distributions and systemd document.
const FIRST: u32 = 2_000_000_000;
/// How many there are.
const COUNT: u32 = 65_536;

/// Assigns users of the host to cells.
#[derive(Debug, Clone)]
pub struct HostIds(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    /// Every cell runs as the supervisor's own user, who is not root.
    Own(Ids),
    /// Each cell gets one of a range.
    Range {
        first: u32,
        count: u32,
        state: Mutex<State>,
    },
}

#[derive(Debug)]
struct State {
    next: u32,
    in_use: BTreeSet<u32>,
}

/// Why no user can be assigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// Root of a user namespace in which nobody else exists.
    #[error(
        "running as root where no other user exists, and a cell never runs as root; hint: run \
         toolcell as an ordinary user, or map more users into this container"
    )]
    OnlyRoot,
    /// All are taken.
    #[error("all {0} user ids for cells are in use")]
    Exhausted(u32),
}

/// A user that belongs to one cell until this is dropped.
#[derive(Debug)]
pub struct Assigned {
    /// The user and group.
    pub ids: Ids,
    from: HostIds,
}

impl HostIds {
    /// Looks at who the supervisor is, and at the user namespace it is in.
    ///
    /// # Errors
    /// If it is root and there is nobody else.
    pub fn detect() -> Result<Self, IdsError> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !uid.is_root() {
            return Ok(Self(Arc::new(Kind::Own(Ids {
                uid: uid.as_raw(),
                gid: gid.as_raw(),
            }))));
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let groups = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
        let (first, count) = range(&map, &groups).ok_or(IdsError::OnlyRoot)?;
        // Two supervisors on one host begin at different places.
        let next = std::process::id().wrapping_mul(64) % count;
        let state = Mutex::new(State {
            next,
            in_use: BTreeSet::new(),
        });
        Ok(Self(Arc::new(Kind::Range {
            first,
            count,
            state,
        })))
    }

    /// Assigns a user to a cell.
    ///
    /// # Errors
    /// If all are taken.
    pub fn assign(&self) -> Result<Assigned, IdsError> {
        let ids = match &*self.0 {
            Kind::Own(ids) => *ids,
            Kind::Range {
                first,
                count,
                state,
            } => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let free = (0..*count)
                    .map(|step| (state.next + step) % count)
                    .find(|slot| !state.in_use.contains(slot))
                    .ok_or(IdsError::Exhausted(*count))?;
                state.in_use.insert(free);
                state.next = (free + 1) % count;
                Ids {
                    uid: first + free,
                    gid: first + free,
                }
            }
        };
        Ok(Assigned {
            ids,
            from: self.clone(),
        })
    }

    /// Whether cells run as users other than the supervisor's own.
    #[must_use]
    pub fn is_range(&self) -> bool {
        matches!(*self.0, Kind::Range { .. })
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        if let Kind::Range { first, state, .. } = &*self.from.0 {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.in_use.remove(&(self.ids.uid - first));
        }
    }
}

/// The range to use, given the maps of the user namespace: the usual one where it is mapped, else
/// the end of the largest mapped range that leaves root out.
fn range(uids: &str, gids: &str) -> Option<(u32, u32)> {
    let uids = extents(uids);
    let gids = extents(gids);
    let covers = |map: &[(u32, u32)], first: u32, count: u32| {
        map.iter().any(|&(start, length)| {
            start <= first && first - start <= length && length - (first - start) >= count
        })
    };
    if covers(&uids, FIRST, COUNT) && covers(&gids, FIRST, COUNT) {
        return Some((FIRST, COUNT));
    }
    let (start, length) = uids.iter().copied().max_by_key(|&(_, length)| length)?;
    let first = start.max(1);
    let length = length - (first - start);
    let count = length.min(COUNT);
    let first = first + (length - count);
    (count > 0 && covers(&gids, first, count)).then_some((first, count))
}

/// First id inside and length of each line of a `uid_map`; see user_namespaces(7).
fn extents(map: &str) -> Vec<(u32, u32)> {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let first = fields.next()?.parse().ok()?;
            let length = fields.nth(1)?.parse().ok()?;
            Some((first, length))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_range_is_used_on_a_host() {
        let host = "         0          0 4294967295\n";
        assert_eq!(range(host, host), Some((FIRST, COUNT)));
    }

    #[test]
    fn a_container_gives_the_end_of_what_it_has() {
        let container = "0 100000 65536\n";
        assert_eq!(range(container, container), Some((1, 65_535)));
    }

    #[test]
    fn root_alone_is_not_enough() {
        assert_eq!(range("0 1000 1\n", "0 1000 1\n"), None);
    }

    #[test]
    fn an_unreadable_map_gives_nothing() {
        assert_eq!(range("", ""), None);
    }
}
