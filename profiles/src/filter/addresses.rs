//! The calls that name a network address.
//!
//! In a cell that reaches nothing, these tell what a tool would have reached. As with paths, nothing
//! is decided by what the listener reads: the call goes on to the network namespace and to Landlock.

use super::arguments::{Case, Decision, is_null};
use super::{Action, PathNotify};

/// A call that names a network address, or sends to one that was named before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressCall {
    /// `connect(socket, address, length)`.
    Connect,
    /// `bind(socket, address, length)`.
    Bind,
    /// `sendto(socket, data, length, flags, address, length)`; without an address it is `send`.
    SendTo,
    /// `sendmmsg(socket, messages, count, flags)`.
    SendMessages,
}

/// The call of a name, if it names a network address.
#[must_use]
pub fn by_name(name: &str) -> Option<AddressCall> {
    Some(match name {
        "connect" => AddressCall::Connect,
        "bind" => AddressCall::Bind,
        "sendto" => AddressCall::SendTo,
        "sendmmsg" => AddressCall::SendMessages,
        _ => return None,
    })
}

impl AddressCall {
    /// The decision with the inspection of the address in place of what it allows.
    ///
    /// `send`, which is `sendto` with a null pointer, stays as fast as it is unless everything is
    /// being explained. `sendmmsg` is what the C library asks for names with, and hardly anything
    /// else. `sendmsg` is never looked at: it hands descriptors from process to process, and the
    /// runner hands over the very listener with it.
    pub(super) fn inspected(self, decision: Decision, explain: PathNotify) -> Decision {
        let everything = explain == PathNotify::All;
        match self {
            Self::SendTo if !everything => {
                let mut cases = Vec::new();
                for case in decision.cases {
                    if case.action == Action::Allow {
                        let mut without = case.clone();
                        without.conditions.push(is_null(4));
                        cases.push(without);
                    }
                    cases.push(inspected(case));
                }
                Decision {
                    cases,
                    otherwise: decision.otherwise,
                }
            }
            _ => decision.replaced(Action::Allow, Action::InspectAddress),
        }
    }
}

fn inspected(case: Case) -> Case {
    let action = match case.action {
        Action::Allow => Action::InspectAddress,
        action => action,
    };
    Case { action, ..case }
}
