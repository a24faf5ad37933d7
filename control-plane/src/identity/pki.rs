//! The intermediate of an existing PKI, in files that are watched: what they say is put to use while the mesh runs, and what is wrong with
//! them is said while the one before stays in force. What is checked, and how one takes the place of the other, is `weft_certs::ca`'s.

use super::Rotator;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use weft_certs::ca::{Pki, Vault};
use weft_certs::{Error, files};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where the intermediate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Its certificate, then those above it, without the root; PEM.
    pub chain: PathBuf,
    /// Its private key, PEM; its owner's alone. PKCS#8 may be encrypted with the passphrase of the CA's keys.
    pub key: PathBuf,
    /// The roots of the trust domain, PEM.
    pub roots: PathBuf,
}

/// What the files say.
pub struct Texts {
    chain: String,
    key: String,
    roots: String,
}

impl Texts {
    /// As the authority takes it.
    #[must_use]
    pub fn pki(&self) -> Pki<'_> {
        Pki { chain: &self.chain, key: &self.key, roots: &self.roots }
    }
}

/// What tells a file from what it was: device, inode, length, time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// One is missing, or the key is open to others than its owner.
    pub fn read(&self) -> Result<Texts, Error> {
        Ok(Texts {
            chain: files::read(&self.chain)?,
            key: files::read_private(&self.key)?,
            roots: files::read(&self.roots)?,
        })
    }

    fn stamps(&self) -> [Stamp; 3] {
        [&self.chain, &self.key, &self.roots].map(|path| stamp(path))
    }

    /// Follows the files until `shutdown`.
    pub async fn follow(self, rotator: Arc<Rotator>, vault: Vault, shutdown: CancellationToken) {
        let mut seen = self.stamps();
        // Of what was tried last, why it is not in force.
        let mut refused: Option<String> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.cancelled() => return,
            }
            let now = self.stamps();
            // What was refused is tried again: it may be half of a change, or have come during another one.
            if now == seen && refused.is_none() {
                continue;
            }
            seen = now;
            let replaced = self.read().and_then(|texts| rotator.replace(texts.pki(), &vault));
            let reason = replaced.err().map(|error| error.to_string());
            if let Some(reason) = reason.as_ref().filter(|reason| refused.as_ref() != Some(*reason)) {
                tracing::error!("{reason}; the intermediate of before stays in force");
                rotator.refused(reason);
            }
            refused = reason;
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}
