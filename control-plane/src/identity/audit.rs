//! What the authority did, for ever readable: a [`Journal`], `audit/audit.jsonl` of the data directory. No key and no secret of a token is ever
//! in it: tokens are named by their public ids.

use crate::journal::{Journal, Refusals};
use serde::Serialize;
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

pub use crate::journal::MOST;

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

/// The record.
#[derive(Debug)]
pub struct Audit {
    journal: Journal,
    refusals: Refusals,
}

impl Audit {
    /// In a directory, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(directory: &Path) -> Result<Self, weft_certs::Error> {
        Ok(Self { journal: Journal::open(directory, "audit")?, refusals: Refusals::default() })
    }

    /// Appends a record.
    pub fn write(&self, event: Event<'_>) {
        self.journal.write(&event);
    }

    /// Appends a refusal, unless there were too many.
    pub fn refuse(
        &self,
        what: &'static str,
        (identity, by): (Option<&str>, Option<By<'_>>),
        address: Option<SocketAddr>,
        reason: &str,
    ) {
        if let Some(kept_back) = self.refusals.take() {
            self.write(Event::Refused { what, identity, by, address, reason, kept_back });
        }
    }

    /// The last records, oldest first, at most [`MOST`].
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn last(&self, count: usize) -> io::Result<Vec<Value>> {
        self.journal.last(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FILE, FILES};
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
