//! What fuzzing calls: everything that reads what somebody else wrote, with what must hold for every
//! input.
//!
//! Each module has `run`, which panics if something does not hold, and `seeds`, inputs to begin
//! with. `make fuzz` drives them with coverage; `tests/bounded.rs`, which needs nothing but stable
//! Rust, for a bounded time with every `make test`.
// A panic is how an entry says that something does not hold.
#![allow(clippy::missing_panics_doc)]

pub mod arguments;
pub mod jsonrpc;
pub mod placeholder;
pub mod profile;
pub mod receipts;
pub mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use profiles::resolve::Overrides;
use profiles::{Arch, Compiled, Host, Library, PathFact, Resolved, Tier};

/// One thing to fuzz.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics if something does not hold for an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "profile",
        run: profile::run,
        seeds: profile::seeds,
    },
    Target {
        name: "spec",
        run: spec::run,
        seeds: spec::seeds,
    },
    Target {
        name: "arguments",
        run: arguments::run,
        seeds: arguments::seeds,
    },
    Target {
        name: "placeholder",
        run: placeholder::run,
        seeds: placeholder::seeds,
    },
    Target {
        name: "jsonrpc",
        run: jsonrpc::run,
        seeds: jsonrpc::seeds,
    },
    Target {
        name: "receipts",
        run: receipts::run,
        seeds: receipts::seeds,
    },
];

/// The names of the profiles that are shipped.
fn shipped() -> Vec<String> {
    Library::builtin().names().map(str::to_owned).collect()
}

/// Resolves a profile with a directory for each root that it asks for.
fn resolve(library: &Library, name: &str) -> Result<Resolved, profiles::Diagnostics> {
    let resolved = library.resolve(name, &Overrides::default())?;
    let roots: BTreeMap<_, _> = resolved
        .missing_roots
        .keys()
        .map(|root| (root.clone(), PathBuf::from("/srv").join(root)))
        .collect();
    library.resolve(
        name,
        &Overrides {
            roots,
            ..Overrides::default()
        },
    )
}

/// Compiles a profile for a host that has everything that profiles name.
fn compile(resolved: &Resolved) -> Result<Compiled, profiles::Diagnostics> {
    let paths = Host::gather(&resolved.paths(), |path| {
        match path.parent().and_then(Path::to_str) {
            // `/bin` is a link to `/usr/bin`, as on every Debian.
            Some("/bin") => leads_to(&path.display().to_string().replacen("/bin", "/usr/bin", 1)),
            Some("/") if path == Path::new("/bin") => leads_to("/usr/bin"),
            Some("/usr/bin") => PathFact::File { executable: true },
            Some("/dev") => PathFact::Other,
            _ => PathFact::Directory,
        }
    });
    let host = Host {
        arch: Arch::X86_64,
        landlock_abi: 7,
        notify: true,
        tier: Tier::Full,
        paths,
    };
    profiles::compile(resolved, &host)
}

fn leads_to(path: &str) -> PathFact {
    PathFact::Symlink {
        link: path.into(),
        canonical: path.into(),
    }
}
