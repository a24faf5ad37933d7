//! What the authority did, for ever readable: one JSON document a line, appended to `audit/audit.jsonl` of the data directory. Files are
//! 0600, turned over at 8 MiB, and eight are kept. No key and no secret of a token is ever in them: tokens are named by their public ids.
//!
//! A record that cannot be written is an error in the log and stops nothing: a full disk must not take the certificates of a mesh.

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use weft_policy::limit::TokenBucket;

/// Bytes of a file, after which the next one is begun.
const FILE: u64 = 8 << 20;
/// Files that are kept, the one that is written included.
const FILES: usize = 8;
/// Refusals that are written in a second, and at once. Anybody can be refused: they must not push the other records out.
const REFUSALS: (f64, f64) = (10.0, 100.0);
/// Records that are read back at most.
pub const MOST: usize = 10_000;

/// By what somebody proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum By<'a> {
    /// A join token, by its public id.
    Token(&'a str),
    /// The certificate with this serial number.
    Certificate(&'a str),
    /// A service-account token, by the pod that it is bound to or the uid of the account.
    ServiceAccount(&'a str),
}

/// Something that the authority did, or refused. Times are seconds since the Unix epoch, serial numbers hexadecimal.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event<'a> {
    /// A certificate.
    Issued {
        /// SPIFFE id.
        identity: &'a str,
        /// Serial number.
        serial: &'a str,
        /// Begin of validity.
        not_before: u64,
        /// End of validity.
        not_after: u64,
        /// Fingerprint of the key that signed it.
        issuer: String,
        /// Proof of who asked.
        by: By<'a>,
        /// Where it was asked for.
        address: Option<SocketAddr>,
    },
    /// No certificate, or no registration.
    Refused {
        /// What was asked for.
        what: &'static str,
        /// SPIFFE id, where it is known.
        identity: Option<&'a str>,
        /// Proof of who asked, where there was one that can be named.
        by: Option<By<'a>>,
        /// Where it was asked for.
        address: Option<SocketAddr>,
        /// The answer.
        reason: &'a str,
        /// Refusals before it that were not written, because there were too many.
        kept_back: u64,
    },
    /// A join token was made.
    TokenCreated {
        /// Its public id.
        token: &'a str,
        /// Namespace of the identity.
        namespace: &'a str,
        /// Service account of the identity.
        service_account: &'a str,
        /// Services that may be joined.
        services: &'a [String],
        /// Uses; null: any number.
        uses: Option<u32>,
        /// End of its validity.
        expires_at: u64,
    },
    /// A use of a join token was spent.
    TokenUsed {
        /// Its public id.
        token: &'a str,
        /// Where from.
        address: Option<SocketAddr>,
    },
    /// A join token was revoked.
    TokenRevoked {
        /// Its public id.
        token: &'a str,
    },
    /// A step of a rotation of the root.
    Rotation {
        /// What was done: `begun`, `goes on`, `broken off`.
        step: &'a str,
        /// Where it stands; null: it is over.
        stage: Option<&'a str>,
        /// Fingerprint of the root that signs.
        root: String,
    },
    /// Another intermediate signs.
    Issuer {
        /// Fingerprint of its key.
        issuer: String,
        /// Fingerprints of the roots that are trusted.
        roots: Vec<String>,
    },
    /// A certificate was revoked.
    Revoked {
        /// Serial number.
        serial: &'a str,
        /// SPIFFE id.
        identity: &'a str,
        /// As RFC 5280 writes it.
        reason: &'a str,
    },
}

#[derive(Serialize)]
struct Record<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The record.
#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    open: Mutex<Option<(File, u64)>>,
    refusals: Mutex<(TokenBucket, u64)>,
}

impl Audit {
    /// In a directory, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(directory: &Path) -> Result<Self, weft_certs::Error> {
        weft_certs::files::private_dir(directory)?;
        let refusals = TokenBucket::new(REFUSALS.0, REFUSALS.1, Instant::now());
        let audit =
            Self { directory: directory.to_owned(), open: Mutex::new(None), refusals: Mutex::new((refusals, 0)) };
        let opened = audit.append().map_err(|source| weft_certs::Error::Storage {
            action: "write",
            path: audit.path(0),
            source,
        })?;
        *audit.open.lock() = Some(opened);
        Ok(audit)
    }

    /// Appends a record.
    pub fn write(&self, event: Event<'_>) {
        let record = Record { time: k8s_openapi::jiff::Timestamp::now().to_string(), event: &event };
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.line(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, ?event, "cannot write the audit record");
        }
    }

    /// Appends a refusal, unless there were too many.
    pub fn refuse(
        &self,
        what: &'static str,
        (identity, by): (Option<&str>, Option<By<'_>>),
        address: Option<SocketAddr>,
        reason: &str,
    ) {
        let kept_back = {
            let mut refusals = self.refusals.lock();
            if refusals.0.take(1, Instant::now()).is_err() {
                refusals.1 += 1;
                return;
            }
            std::mem::take(&mut refusals.1)
        };
        self.write(Event::Refused { what, identity, by, address, reason, kept_back });
    }

    /// The last records, oldest first, at most [`MOST`].
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
            0 => "audit.jsonl".to_owned(),
            older => format!("audit.{older}.jsonl"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn token(id: &str) -> Event<'_> {
        Event::TokenRevoked { token: id }
    }

    #[test]
    fn records_are_appended_over_restarts_and_belong_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        Audit::open(&path).unwrap().write(token("one"));
        let audit = Audit::open(&path).unwrap();
        audit.write(token("two"));
        let last = audit.last(10).unwrap();
        let ids: Vec<_> = last.iter().map(|record| record["token"].as_str().unwrap()).collect();
        assert_eq!((ids, last[0]["event"].as_str()), (vec!["one", "two"], Some("tokenRevoked")));
        assert!(last[0]["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(audit.last(1).unwrap()[0]["token"], "two");
        assert_eq!(std::fs::metadata(path.join("audit.jsonl")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_record_is_bounded_and_its_end_is_read_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let long = "x".repeat(1 << 20);
        for number in 0..100 {
            audit.write(token(&format!("{number} {long}")));
        }
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), FILES);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= FILE));
        let last = audit.last(12).unwrap();
        let numbers: Vec<_> = last.iter().map(|r| r["token"].as_str().unwrap().split(' ').next().unwrap()).collect();
        assert_eq!(numbers, (88..100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn refusals_do_not_push_the_other_records_out() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        for _ in 0..10_000 {
            audit.refuse("certificate", (None, None), None, "no");
        }
        let written = audit.last(MOST).unwrap().len();
        assert!((100..1000).contains(&written), "{written}");
    }
}
