//! Revocation lists of the mesh's authority: one for each key that signs, or signed lately, and has something to revoke. Keys that were
//! replaced are kept for that as long as anybody trusts what they signed. Who is revoked, and for how long, is the caller's business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;

use super::{BACKDATE, Signer, Vault, whole_seconds};
use crate::bundle::TrustBundle;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::revocation::{MAX_REVOKED, RevocationList};
use crate::{files, leaf, pem};

/// How long a list says that it is good for; whoever keeps the authority signs a new one at half of it.
pub const LIST_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Keys that were replaced and are kept.
const MAX_RETIRED: usize = 8;
const RETIRED: &str = "retired-";

/// Why a certificate was revoked (RFC 5280 §5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reason {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Somebody else may have the private key.
    KeyCompromise,
    /// Its holder is called otherwise now.
    AffiliationChanged,
    /// Another one takes its place.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// Its holder may no longer have it.
    PrivilegeWithdrawn,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// As RFC 5280 writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// "the reason code CRL entry extension SHOULD be absent instead of using the unspecified (0) reasonCode value" (RFC 5280 §5.3.1).
    const fn code(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reason {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|reason| reason.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Request(format!("reason: {text:?} is none of {names}"))
        })
    }
}

/// A certificate that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Fingerprint of the key that signed it, as [`super::Issued`] says it.
    pub issuer: Fingerprint,
    /// Its serial number, big endian.
    pub serial: Vec<u8>,
    /// Since when.
    pub at: SystemTime,
    /// Why.
    pub reason: Reason,
}

/// A key that signs, with its way to the root.
pub(super) struct Issuing {
    pub signer: Signer,
    /// From the signer's certificate upwards, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the signer's public key.
    pub key: Fingerprint,
}

impl Issuing {
    pub fn new(signer: Signer, chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let key = Fingerprint::of_public_key(&signer.certificate)?;
        Ok(Self { signer, chain, key })
    }

    /// Of a signer right below the root.
    pub fn below_root(signer: Signer) -> Result<Self, Error> {
        let chain = vec![signer.certificate.clone()];
        Self::new(signer, chain)
    }
}

/// What is revoked, and by whom that can be said.
#[derive(Default)]
pub(super) struct Lists {
    pub revoked: Vec<Revocation>,
    /// Newest first.
    pub retired: Vec<Arc<Issuing>>,
    number: u64,
}

impl Lists {
    /// Keys that an earlier run retired. One that cannot be read is passed over: it only speaks against others.
    pub fn load(directory: &Path, vault: &Vault) -> Self {
        let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_retired = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(RETIRED));
        let mut retired: Vec<_> = names
            .filter(is_retired)
            .filter_map(|path| Signer::load(&path, vault).ok().flatten())
            .filter_map(|signer| Issuing::below_root(signer).ok().map(Arc::new))
            .collect();
        retired.sort_by_key(|issuing| std::cmp::Reverse(issuing.signer.not_before));
        Self { retired, ..Self::default() }
    }

    /// Keeps a key that signs no more.
    pub fn retire(&mut self, issuing: Arc<Issuing>) {
        self.retired.retain(|other| other.key != issuing.key);
        self.retired.insert(0, issuing);
        self.retired.truncate(MAX_RETIRED);
    }

    /// Signs the lists anew. Keys that nobody trusts any more are forgotten.
    pub fn sign(
        &mut self,
        bundle: &TrustBundle,
        current: &Arc<Issuing>,
        now: SystemTime,
    ) -> Result<Vec<RevocationList>, Error> {
        if self.revoked.len() > MAX_REVOKED {
            return Err(Error::Request(format!(
                "{} certificates would be revoked; a list holds at most {MAX_REVOKED}: rotate the root instead",
                self.revoked.len()
            )));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // It grows from list to list, and from run to run without being written down (RFC 5280 §5.2.3).
        let number = since.max(self.number + 1);
        let mut signed = Vec::new();
        let mut kept = Vec::new();
        for issuing in std::iter::once(current).chain(self.retired.iter().filter(|r| r.key != current.key)) {
            let is_current = Arc::ptr_eq(issuing, current);
            let entries: Vec<_> = self.revoked.iter().filter(|entry| entry.issuer == issuing.key).collect();
            let list = sign(issuing, &entries, number, now)?;
            match RevocationList::new(bundle, list, issuing.chain.clone()) {
                Ok(list) => {
                    if !list.is_empty() {
                        signed.push(list);
                    }
                    if !is_current && issuing.signer.not_after > now {
                        kept.push(issuing.clone());
                    }
                }
                // Its root is no longer trusted, and what it signed neither.
                Err(_) if !is_current => {}
                Err(error) => return Err(error),
            }
        }
        self.retired = kept;
        self.number = number;
        Ok(signed)
    }

    /// Removes files of keys that are not kept.
    pub fn sweep(&self, directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        let kept: Vec<_> = self.retired.iter().map(|issuing| retired_path(directory, &issuing.key)).collect();
        for path in entries.flatten().map(|entry| entry.path()) {
            let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RETIRED));
            if named && !kept.contains(&path) {
                // What stays is swept the next time.
                drop(files::remove(&path));
            }
        }
    }
}

/// Where a key is kept once it signs no more.
pub(super) fn retired_path(directory: &Path, key: &Fingerprint) -> PathBuf {
    let name = key.to_string();
    directory.join(format!("{RETIRED}{}.pem", name.get(..16).unwrap_or(&name)))
}

fn sign(issuing: &Issuing, entries: &[&Revocation], number: u64, now: SystemTime) -> Result<Vec<u8>, Error> {
    let revoked = entries.iter().map(|entry| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&entry.serial),
        revocation_time: whole_seconds(entry.at),
        reason_code: entry.reason.code(),
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: whole_seconds(now.checked_sub(BACKDATE).unwrap_or(now)),
        next_update: whole_seconds(now.checked_add(LIST_VALIDITY).unwrap_or(now)),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: key_identifier(&issuing.signer.certificate),
    };
    match params.signed_by(&issuing.signer.issuer) {
        Ok(list) => Ok(list.der().to_vec()),
        Err(rcgen::Error::IssuerNotCrlSigner) => Err(Error::Request(
            "the intermediate may not sign revocation lists: its key usage lacks cRLSign; give one that has it".into(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// The identifier by which a certificate calls its key.
fn key_identifier(certificate: &[u8]) -> KeyIdMethod {
    let parsed = leaf::parse(certificate).ok();
    let said = parsed.iter().flat_map(|c| c.extensions()).find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    said.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

/// Lists in PEM, one block each.
pub fn lists_to_pem(lists: &[RevocationList]) -> String {
    lists.iter().map(|list| pem::encode("X509 CRL", list.der())).collect()
}
