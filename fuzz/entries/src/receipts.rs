//! A log of receipts that somebody did something to.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use supervisor::audit::{Audit, Durability, LOG_FILE, Receipt, verify_directory};
use supervisor::caller::Caller;
use supervisor::outcome::Status;
use supervisor::service::ended;
use tempfile::TempDir;
use tokio::runtime::Builder;

/// Receipts in the log.
const RECEIPTS: usize = 4;
/// Most things that are done to it by one input.
const CHANGES_MAX: usize = 16;

/// A whole log and what lies beside it, by name.
static WHOLE: LazyLock<BTreeMap<OsString, Vec<u8>>> = LazyLock::new(|| {
    let directory = TempDir::with_prefix("toolcell-fuzz-").expect("/tmp is writable");
    let audit = Audit::new(directory.path().to_owned(), Durability::Kernel);
    for call in 0..RECEIPTS {
        let outcome = ended(&call.to_string(), "tool", Status::Exited, String::new());
        let receipt = Receipt::new(&outcome, "digest", "arguments".to_owned(), &Caller::local());
        append(&audit, receipt);
    }
    let found = verify_directory(directory.path()).expect("the log can be read");
    assert!(found.is_whole() && found.findings.is_empty(), "{found:?}");
    let files = std::fs::read_dir(directory.path())
        .expect("it can be read")
        .flatten();
    files
        .map(|file| {
            (
                file.file_name(),
                std::fs::read(file.path()).expect("it can be read"),
            )
        })
        .collect()
});

/// Changes the log as the input says, and verifies it: it is whole only if nothing was changed.
pub fn run(data: &[u8]) {
    let directory = TempDir::with_prefix("toolcell-fuzz-").expect("/tmp is writable");
    let write = |name: &OsStr, contents: &[u8]| {
        std::fs::write(directory.path().join(name), contents).expect("the directory is writable");
    };
    for (name, contents) in &*WHOLE {
        write(name, contents);
    }
    let whole = &WHOLE[OsStr::new(LOG_FILE)];
    let changed = change(whole, data);
    write(OsStr::new(LOG_FILE), &changed);
    let found = verify_directory(directory.path()).expect("the log can be read");
    assert_eq!(found.is_whole(), changed == *whole, "{found:#?}");
}

/// Four bytes a change: what, where, and two more that say how much or what else.
fn change(whole: &[u8], data: &[u8]) -> Vec<u8> {
    let mut log = whole.to_vec();
    for step in data.chunks_exact(4).take(CHANGES_MAX) {
        let [what, where_to, how, more] = step else {
            unreachable!("chunks of four")
        };
        let length = log.len().max(1);
        let at = usize::from(u16::from_be_bytes([*where_to, *more])) % length;
        let mut lines: Vec<Vec<u8>> = log
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        let count = lines.len().max(1);
        let (first, second) = (usize::from(*where_to) % count, usize::from(*how) % count);
        match what % 8 {
            0 => {
                if let Some(byte) = log.get_mut(at) {
                    *byte ^= how;
                }
                continue;
            }
            1 => {
                log.truncate(at);
                continue;
            }
            2 => {
                log.insert(at.min(log.len()), *how);
                continue;
            }
            3 => {
                if at < log.len() {
                    log.remove(at);
                }
                continue;
            }
            4 if first < lines.len() => {
                lines.remove(first);
            }
            5 if first < lines.len() && second < lines.len() => lines.swap(first, second),
            6 if first < lines.len() => {
                let again = lines[first].clone();
                lines.insert(second.min(lines.len()), again);
            }
            7 => lines.truncate(first),
            _ => {}
        }
        log = lines.concat();
    }
    log
}

/// One change of each kind, several, and none.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..8).map(|what| vec![what, 1, 2, 3]).collect();
    seeds.push(Vec::new());
    seeds.push(vec![4, 0, 0, 0, 5, 1, 2, 0, 0, 9, 1, 9]);
    seeds
}

fn append(audit: &Audit, receipt: Receipt) {
    let runtime = Builder::new_current_thread()
        .build()
        .expect("a runtime starts");
    let written = runtime.block_on(async { audit.reserve().await?.write(receipt).await });
    written.expect("the log can be written");
}
