//! Reading a log again, and naming whatever was done to it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::chain::{BreakReason, Entry, LINE_BYTES_MAX, Line, Link};
use super::log::{HEAD_FILE, files, read_head};

/// Most findings that are reported; a log that was rewritten has one on every line.
pub const FINDINGS_MAX: usize = 100;

/// What came of reading a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Files that were read, in the order of their lines.
    pub files: Vec<PathBuf>,
    /// How many lines they have.
    pub lines: u64,
    /// How many of them are receipts.
    pub receipts: u64,
    /// The end of the chain: keep it elsewhere, and a log written anew shows too.
    pub end: Option<Link>,
    /// What was found, in the order of the lines.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub findings_left_out: usize,
}

impl Verified {
    /// Whether nothing was done to the log.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }
}

/// Something about the log that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which file.
    pub file: PathBuf,
    /// In which line of it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What it is.
    pub what: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A crash explains it, and no receipt is missing or changed.
    Note,
    /// Receipts are missing or were changed.
    Error,
}

/// Verifies every file of the log in a directory, and that its end is the one in the head file.
pub fn verify_directory(directory: &Path) -> io::Result<Verified> {
    let mut reader = Reader::default();
    for path in files(directory)? {
        reader.file(&path)?;
    }
    let head_path = directory.join(HEAD_FILE);
    let head = match File::open(&head_path) {
        Ok(head) => read_head(&head)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    reader.compare_head(&head_path, head.as_ref());
    Ok(reader.verified)
}

/// Verifies one file. What came before its first line cannot be known.
pub fn verify_file(path: &Path) -> io::Result<Verified> {
    let mut reader = Reader::default();
    reader.file(path)?;
    Ok(reader.verified)
}

#[derive(Default)]
struct Reader {
    verified: Verified,
    /// Where the next line must hang: unknown at the first, and after a line that is none.
    next: Option<Link>,
    /// The line before, to tell a duplicate.
    last_text: Vec<u8>,
    /// Hashes of the last lines, to recognise the one that the head file names.
    recent: std::collections::VecDeque<Link>,
    /// The line that was read last.
    at: (PathBuf, u64),
}

/// How many lines the head file may be behind: a crash leaves it one behind.
const HEAD_BEHIND_MAX: usize = 8;

impl Reader {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.verified.files.push(path.to_owned());
        let mut lines = BufReader::new(File::open(path)?);
        let mut text = Vec::new();
        let mut number = 0;
        loop {
            text.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            if lines.by_ref().take(limit).read_until(b'\n', &mut text)? == 0 {
                break;
            }
            number += 1;
            self.at = (path.to_owned(), number);
            let whole = text.pop_if(|byte| *byte == b'\n').is_some();
            if !whole && text.len() > LINE_BYTES_MAX {
                self.error(format!("is longer than {LINE_BYTES_MAX} bytes"));
                self.next = None;
                lines.skip_until(b'\n')?;
                continue;
            }
            self.line(&text, number);
            if !whole {
                self.error("has no end: it was cut off".to_owned());
            }
            self.last_text.clone_from(&text);
        }
        if number == 0 {
            self.at = (path.to_owned(), 0);
            self.error("is empty: its lines are missing".to_owned());
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8], number: u64) {
        self.verified.lines += 1;
        let decoded = std::str::from_utf8(text)
            .map_err(|_| "is not UTF-8".to_owned())
            .and_then(|text| Line::decode(text).map_err(|error| error.to_string()));
        let (line, next) = match decoded {
            Ok(decoded) => decoded,
            Err(what) => {
                self.error(what);
                // The next line may hang on what this one was; only its number can be checked.
                self.next = self.next.take().map(|next| Link {
                    records: next.records + 1,
                    hash: String::new(),
                });
                return;
            }
        };
        self.place(&line, text, number);
        if (number == 1) != matches!(line.entry, Entry::Log { .. }) {
            self.error(
                "is out of place: a file begins with its header, and has no other".to_owned(),
            );
        }
        self.entry(&line.entry);
        self.verified.end = Some(next.clone());
        self.recent.push_back(next.clone());
        if self.recent.len() > HEAD_BEHIND_MAX {
            self.recent.pop_front();
        }
        self.next = Some(next);
    }

    /// Compares a line's number and what it hangs on with the line before.
    fn place(&mut self, line: &Line, text: &[u8], number: u64) {
        let Some(next) = &self.next else {
            let begins = number == 1 && self.verified.lines == 1;
            if begins && line.sequence > 0 && self.verified.files.len() == 1 {
                self.note(format!(
                    "is number {}: what came before is not in these files",
                    line.sequence
                ));
            } else if begins && line.previous != Link::origin().hash {
                self.error("does not begin where a log begins".to_owned());
            }
            return;
        };
        if text == self.last_text {
            self.error("is a duplicate of the line before".to_owned());
        } else if line.sequence > next.records {
            let (first, last) = (next.records, line.sequence - 1);
            self.error(format!("comes after a cut: {first} to {last} are missing"));
        } else if line.sequence < next.records {
            self.error(format!(
                "is out of order: it is number {}, where {} belongs",
                line.sequence, next.records
            ));
        } else if !next.hash.is_empty() && line.previous != next.hash {
            self.error("was put in: it does not hang on the line before".to_owned());
        }
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Log { .. } => {}
            Entry::Call(_) => self.verified.receipts += 1,
            Entry::Break { reason, .. } => match reason {
                BreakReason::Torn => {
                    self.note(
                        "says that half a line before it was taken off after a crash".to_owned(),
                    );
                }
                BreakReason::HeadMissing => {
                    self.error(
                        "says that the head file was missing when the log was opened".to_owned(),
                    );
                }
                BreakReason::Cut => {
                    self.error(
                        "says that the log before it did not end as it had been left".to_owned(),
                    );
                }
                BreakReason::Unreadable => {
                    self.error(
                        "says that the log before it ended with a line that is none".to_owned(),
                    );
                }
            },
        }
    }

    /// The end of the log must be the one that the head file names.
    fn compare_head(&mut self, head_path: &Path, head: Option<&Link>) {
        let end = self.verified.end.clone();
        let Some(head) = head else {
            if end.is_some() {
                self.at = (head_path.to_owned(), 0);
                self.error("is missing or unreadable: a cut at the end would not show".to_owned());
            }
            return;
        };
        if end.as_ref() == Some(head) {
            return;
        }
        if self.at.0.as_os_str().is_empty() {
            self.at = (head_path.to_owned(), 0);
            let what = format!(
                "names {} lines, and there is no log: all were cut off",
                head.records
            );
            self.error(what);
            return;
        }
        let found = end.as_ref().map_or(0, |end| end.records);
        if found > head.records && self.recent.contains(head) {
            let behind = found - head.records;
            self.note(format!(
                "is {behind} further than the head file says: a crash came between"
            ));
        } else if found < head.records {
            self.error(format!(
                "is the last: {found} to {} were cut off the end",
                head.records - 1
            ));
        } else {
            self.error("is the last, and not the one that the head file names".to_owned());
        }
    }

    fn note(&mut self, what: String) {
        self.find(Severity::Note, what);
    }

    fn error(&mut self, what: String) {
        self.find(Severity::Error, what);
    }

    fn find(&mut self, severity: Severity, what: String) {
        if self.verified.findings.len() >= FINDINGS_MAX {
            self.verified.findings_left_out += 1;
            return;
        }
        let (file, line) = self.at.clone();
        self.verified.findings.push(Finding {
            severity,
            file,
            line,
            what,
        });
    }
}
