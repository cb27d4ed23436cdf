//! Egress by name: which hosts, ports and protocols a cell may reach, as pure decisions.
//!
//! An [`Entry`] is one line of `network.allow` or `network.deny`; a [`Plan`] is all of them compiled
//! for one profile, with the synthetic addresses that names get inside the cell and the sockets that
//! stand for them there. What is not in a plan cannot be reached: an empty plan answers no name and
//! accepts no connection.

mod addresses;
mod entry;
mod injection;
mod name;
mod nearest;
mod plan;
mod relate;

pub use addresses::{Opened, Special, special, unlistable};
pub use entry::{Entry, EntryError, PORTS_MAX, Protocol, Target, WEB_PORTS};
pub use injection::{
    Injection, InjectionError, RequestPath, Written as WrittenInjection, is_same_field,
    is_secret_name, overrides_request,
};
pub use name::{LABEL_BYTES_MAX, NAME_BYTES_MAX, Name, NameError};
pub use nearest::nearest;
pub use plan::{
    Admission, Lookup, POOL_MIN, POOL_NAMES_MAX, Plan, PlanError, PlannedSocket, RESOLVER, Refusal,
    Role, Rule, SOCKETS_MAX,
};
