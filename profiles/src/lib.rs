//! Toolcell's profiles: read as written, resolved, and compiled to the orders for one cell.
//!
//! The stages are modules, and one type crosses each border: a [`diagnostics::SourceFile`] is read
//! by [`library`] into the form of [`schema`]; [`resolve`] checks it and follows `extends`;
//! [`compile`] turns the result and the facts of a [`host`] into a template for cells and a plan
//! for arguments. Nothing here touches the machine.

#![forbid(unsafe_code)]

pub mod host;
