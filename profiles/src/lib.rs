//! Toolcell's profiles: read as written, resolved, and compiled to the orders for one cell.
//!
//! The stages are modules, and one type crosses each border: a [`diagnostics::SourceFile`] is read
//! by [`library`] into the form of [`schema`]; [`resolve`] checks it and follows `extends`;
//! [`mod@compile`] turns the result and the facts of a [`host`] into a template for cells and a plan
//! for arguments. Nothing here touches the machine.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod compile;
pub mod diagnostics;
pub mod egress;
pub mod filter;
pub mod host;
pub mod library;
pub mod paths;
pub mod placeholders;
pub mod read;
pub mod resolve;
pub mod schema;
pub mod syscalls;
pub mod tier;
pub mod units;

pub use arguments::{ArgumentError, Arguments, InputSchema};
pub use compile::{
    CallError, CallFacts, Compiled, Existence, Grant, GrantFact, PathAccess, Plan, ProtectFact,
    ProtectState, Socket, SocketFact, Want, WantKind, WorkspaceFact, compile,
};
pub use diagnostics::{Diagnostic, Diagnostics, SourceFile};
pub use host::{Arch, Host, PathFact, Tier};
pub use library::Library;
pub use resolve::{Overrides, Resolved, Workspace, WorkspaceKind};
