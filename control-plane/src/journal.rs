//! A record that is appended to and never changed: one JSON document a line, in files that are their owner's alone (0600), turned over at 8 MiB,
//! eight of a name. What is written there is its writers' business.
//!
//! A document that cannot be written is an error in the log and stops nothing: a full disk must not take a mesh's control.

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use weft_policy::limit::TokenBucket;

/// Bytes of a file, after which the next one is begun.
pub const FILE: u64 = 8 << 20;
/// Files that are kept, the one that is written included.
pub const FILES: usize = 8;
/// Documents that are read back at most.
pub const MOST: usize = 10_000;

/// The files of one name in a directory.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    name: &'static str,
    open: Mutex<Option<(File, u64)>>,
}

#[derive(Serialize)]
struct Dated<'d, T> {
    time: String,
    #[serde(flatten)]
    document: &'d T,
}

impl Journal {
    /// `NAME.jsonl` in a directory, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self, weft_certs::Error> {
        weft_certs::files::private_dir(directory)?;
        let journal = Self { directory: directory.to_owned(), name, open: Mutex::new(None) };
        let opened = journal.append().map_err(|source| weft_certs::Error::Storage {
            action: "write",
            path: journal.path(0),
            source,
        })?;
        *journal.open.lock() = Some(opened);
        Ok(journal)
    }

    /// Appends a document, with the time.
    pub fn write<T: Serialize + std::fmt::Debug>(&self, document: &T) {
        let dated = Dated { time: k8s_openapi::jiff::Timestamp::now().to_string(), document };
        let written = serde_json::to_vec(&dated).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.line(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, name = self.name, ?document, "cannot write the audit record");
        }
    }

    /// The last documents, oldest first, at most [`MOST`]. Reads files of some MiB: not for a thread that serves.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn last(&self, count: usize) -> io::Result<Vec<Value>> {
        let count = count.min(MOST);
        let mut records = VecDeque::new();
        for number in 0..FILES {
            let file = match File::open(self.path(number)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let room = count - records.len();
            let mut these = VecDeque::with_capacity(room.min(1024));
            for line in BufReader::new(file).lines() {
                // The last line may be half written.
                let Ok(record) = serde_json::from_str::<Value>(&line?) else { continue };
                if these.len() == room {
                    these.pop_front();
                }
                these.push_back(record);
            }
            these.append(&mut records);
            records = these;
            if records.len() >= count {
                break;
            }
        }
        Ok(records.into())
    }

    fn line(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        let (mut file, mut length) = match open.take() {
            Some(open) => open,
            None => self.append()?,
        };
        if length > 0 && length + line.len() as u64 > FILE {
            drop(file);
            self.turn()?;
            (file, length) = self.append()?;
        }
        file.write_all(line)?;
        length += line.len() as u64;
        *open = Some((file, length));
        Ok(())
    }

    fn append(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.path(0))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Each file takes the place of the next older one.
    fn turn(&self) -> io::Result<()> {
        for number in (0..FILES - 1).rev() {
            match std::fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(match number {
            0 => format!("{}.jsonl", self.name),
            older => format!("{}.{older}.jsonl", self.name),
        })
    }
}

/// Refusals that are written in a second, and at once. Anybody can be refused: they must not push the other records out.
const REFUSALS: (f64, f64) = (10.0, 100.0);

/// Bounds how many refusals are written, and counts those that are not.
#[derive(Debug)]
pub struct Refusals(Mutex<(TokenBucket, u64)>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new((TokenBucket::new(REFUSALS.0, REFUSALS.1, Instant::now()), 0)))
    }
}

impl Refusals {
    /// `None`: too many, do not write it. Else how many before it were not written.
    pub fn take(&self) -> Option<u64> {
        let mut refusals = self.0.lock();
        if refusals.0.take(1, Instant::now()).is_err() {
            refusals.1 += 1;
            return None;
        }
        Some(std::mem::take(&mut refusals.1))
    }
}
