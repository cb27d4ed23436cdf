//! What fuzzing calls: everything that reads what somebody else wrote, with what must hold for every
//! input.
//!
//! Each module has `run`, which panics if something does not hold, and `seeds`, inputs to begin
//! with. `make fuzz` drives them with coverage; `tests/bounded.rs`, which needs nothing but stable
//! Rust, for a bounded time with every `make test`.
// A panic is how an entry says that something does not hold.
#![allow(clippy::missing_panics_doc)]

pub mod arguments;
pub mod client_hello;
pub mod dns;
pub mod http1;
pub mod http2;
pub mod jsonrpc;
pub mod placeholder;
pub mod profile;
pub mod receipts;
pub mod requests;
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
pub const TARGETS: [Target; 11] = [
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
    Target {
        name: "dns",
        run: dns::run,
        seeds: dns::seeds,
    },
    Target {
        name: "client_hello",
        run: client_hello::run,
        seeds: client_hello::seeds,
    },
    Target {
        name: "http1",
        run: http1::run,
        seeds: http1::seeds,
    },
    Target {
        name: "http2",
        run: http2::run,
        seeds: http2::seeds,
    },
    Target {
        name: "requests",
        run: requests::run,
        seeds: requests::seeds,
    },
];

/// The bytes that hexadecimal digits stand for, whatever is between them.
fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u32> = hexadecimal.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair.iter().fold(0, |byte, digit| byte * 16 + digit));
    let bytes: Result<_, _> = digits.chunks_exact(2).map(byte).collect();
    bytes.expect("two digits are a byte")
}

/// What a verifier lets through of a connection to `api.example.org`, fed in pieces of a length.
fn verified(sent: &[u8], piece: usize) -> Result<usize, supervisor::egress::verify::Wrong> {
    use supervisor::egress::verify::{PENDING_BYTES_MAX, Peer, Verdict, Verifier};

    let name = profiles::egress::Name::parse("api.example.org").expect("a name");
    let web = profiles::egress::Protocol::Web;
    let mut verifier = Verifier::new(Peer::Name(name), 80, web, false);
    let (mut forwarded, mut end) = (0, 0);
    while end < sent.len() {
        end = sent.len().min(end + piece);
        while forwarded < end {
            match verifier.feed(&sent[forwarded..end]) {
                Verdict::NeedMore => {
                    assert!(end - forwarded <= PENDING_BYTES_MAX + piece);
                    break;
                }
                Verdict::Forward(count) => {
                    assert!(count > 0 && count <= end - forwarded);
                    forwarded += count;
                }
                Verdict::Opaque => return Ok(forwarded),
                Verdict::Refuse(violation) => return Err(violation.wrong),
            }
        }
    }
    Ok(forwarded)
}

/// Panics unless a connection is judged alike however its bytes come.
fn judged_alike(sent: &[u8]) {
    let whole = verified(sent, sent.len().max(1));
    for piece in [1, 7, 100] {
        let pieces = verified(sent, piece);
        // Of what is wrong in two ways, either may be told.
        assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} {pieces:?}");
        if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
            assert_eq!(whole, pieces);
        }
    }
}

/// The names of the profiles that are shipped.
fn shipped() -> Vec<String> {
    Library::builtin().names().map(str::to_owned).collect()
}

/// Resolves a profile with a directory for each root, and a host, that it asks for.
fn resolve(library: &Library, name: &str) -> Result<Resolved, profiles::Diagnostics> {
    let resolved = library.resolve(name, &Overrides::default())?;
    let roots: BTreeMap<_, _> = resolved
        .missing_roots
        .keys()
        .map(|root| (root.clone(), PathBuf::from("/srv").join(root)))
        .collect();
    let hosts = resolved
        .missing_hosts
        .map(|_| (name.to_owned(), "example.org".to_owned()));
    library.resolve(
        name,
        &Overrides {
            roots,
            hosts: hosts.into_iter().collect(),
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
        secrets: std::collections::BTreeSet::from(["openai".to_owned()]),
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
