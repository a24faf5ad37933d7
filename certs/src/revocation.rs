//! Revocation lists (X.509 CRL, RFC 5280 §5): which certificates are worth nothing although they have not expired. A list is verified
//! once, when it arrives: its issuer must lead to a root of the bundle that it is part of. After that the question is exact: this serial
//! number, of this issuer's key.
//!
//! A list that is past its `nextUpdate` still holds: what was revoked stays revoked, and a control plane that is away must not stop the
//! mesh. Its holder says so in its log. Who revokes what is the control plane's business.

use std::collections::HashSet;
use std::fmt;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::bundle::TrustBundle;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::leaf;
use crate::spiffe::SpiffeId;

/// Certificates that one list may name; a longer one is refused.
pub const MAX_REVOKED: usize = 10_000;
/// The chain of a list's issuer is no longer than a peer's may be.
const MAX_ISSUERS: usize = 8;

/// One authority's list, verified.
#[derive(Clone)]
pub struct RevocationList {
    der: Vec<u8>,
    // The one that signed it, then those above it, without the root.
    issuer: Vec<CertificateDer<'static>>,
    key: Fingerprint,
    serials: HashSet<Box<[u8]>>,
    next_update: SystemTime,
}

impl RevocationList {
    /// Reads and verifies a list (DER). `issuer` is the certificate of the authority that signed it, then those above it; they must lead to
    /// one of the bundle's roots. Whether issuer or list have expired is not asked: what they revoked stays revoked.
    pub fn new(bundle: &TrustBundle, der: Vec<u8>, issuer: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let bad =
            |reason: String| Error::configuration(format!("revocation list of \"{}\"", bundle.trust_domain()), reason);
        let (rest, list) =
            CertificateRevocationList::from_der(&der).map_err(|e| bad(format!("is no CRL in DER: {e}")))?;
        if !rest.is_empty() {
            return Err(bad("has bytes after its end".into()));
        }
        let first = issuer.first().ok_or_else(|| bad("comes without its issuer's certificate".into()))?;
        leads_to_a_root(bundle, &issuer).map_err(&bad)?;
        let signer = leaf::parse(first)?;
        // "If present, … the cRLSign bit" (RFC 5280 §6.3.3 (f)).
        if signer.key_usage().ok().flatten().is_some_and(|usage| !usage.value.crl_sign()) {
            return Err(bad(format!("is issued by \"{}\", which may not sign revocation lists", signer.subject())));
        }
        if list.issuer() != signer.subject() || list.verify_signature(signer.public_key()).is_err() {
            return Err(bad(format!("is not signed by \"{}\"", signer.subject())));
        }
        // An indirect list, a delta, one for a part of the certificates: none of which means what it seems to.
        if let Some(critical) = list.extensions().iter().find(|extension| extension.critical) {
            return Err(bad(format!("has the critical extension {}, which is not understood here", critical.oid)));
        }
        let next_update = list.next_update().ok_or_else(|| bad("does not say when the next one is due".into()))?;
        let serials: HashSet<_> = list.iter_revoked_certificates().map(|entry| bare(entry.raw_serial())).collect();
        if serials.len() > MAX_REVOKED {
            return Err(bad(format!("names {} certificates; at most {MAX_REVOKED} are held", serials.len())));
        }
        let key = Fingerprint::of(signer.public_key().raw);
        let next_update = leaf::system_time(next_update);
        drop((list, signer));
        Ok(Self { der, issuer, key, serials, next_update })
    }

    /// The same of a list that comes without its issuer's certificate, which is looked for among the roots and `candidates`.
    pub fn of_issuer_among(
        bundle: &TrustBundle,
        der: Vec<u8>,
        candidates: &[CertificateDer<'static>],
    ) -> Result<Self, Error> {
        let chain = issuers(&der, candidates, bundle.roots());
        Self::new(bundle, der, chain)
    }

    /// The list in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate of the authority that signed it, then those above it, without the root.
    pub fn issuer(&self) -> &[CertificateDer<'static>] {
        &self.issuer
    }

    /// When a newer list was to be there.
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// True when it names none.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// Whether it names a certificate: a serial number (big endian) of the issuer with this key.
    pub fn names(&self, issuer: &Fingerprint, serial: &[u8]) -> bool {
        self.key == *issuer && self.serials.contains(&*bare(serial))
    }
}

impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der && self.issuer == other.issuer
    }
}

impl Eq for RevocationList {}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationList({} of {:?})", self.serials.len(), self.key)
    }
}

/// What a peer presented, as far as it can be revoked. Kept for as long as the connection is open.
#[derive(Debug, Clone)]
pub struct Presented {
    /// Who it is.
    pub id: SpiffeId,
    serial: Box<[u8]>,
    // Keys of the certificates above the leaf that bear its issuer's name: usually one; none where a root has signed it.
    issuers: Vec<Fingerprint>,
    // The issuer's name, DER, by which that root is found.
    issuer: Box<[u8]>,
}

impl Presented {
    /// Of a chain that was verified, leaf first. `None`: it is no SVID's.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (first, above) = chain.split_first()?;
        let id = leaf::inspect(first).ok()?.id;
        let certificate = leaf::parse(first).ok()?;
        let named = above.iter().filter_map(|der| leaf::parse(der).ok());
        let issuers = named.filter(|above| above.subject() == certificate.issuer());
        let issuers = issuers.map(|above| Fingerprint::of(above.public_key().raw)).collect();
        let issuer = certificate.issuer().as_raw().into();
        Some(Self { id, serial: bare(certificate.raw_serial()), issuers, issuer })
    }

    /// Whether the bundle of its trust domain names it.
    pub fn is_revoked(&self, bundle: &TrustBundle) -> bool {
        if bundle.revocations().is_empty() {
            return false;
        }
        let named = |root: &CertificateDer<'static>| {
            let root = leaf::parse(root).ok()?;
            (root.subject().as_raw() == &*self.issuer).then(|| Fingerprint::of(root.public_key().raw))
        };
        let roots = bundle.roots().iter().filter_map(named);
        self.issuers.iter().copied().chain(roots).any(|issuer| bundle.revokes(&issuer, &self.serial))
    }
}

/// The certificate whose key signed a list, then those above it as far as they are known, without the root. Empty: none fits, or there
/// is no list; it is verified by whoever uses it.
fn issuers(
    der: &[u8],
    candidates: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    let Ok((_, list)) = CertificateRevocationList::from_der(der) else { return Vec::new() };
    let signed = |one: &&CertificateDer<'static>| {
        leaf::parse(one)
            .is_ok_and(|signer| list.issuer() == signer.subject() && list.verify_signature(signer.public_key()).is_ok())
    };
    let Some(first) = candidates.iter().chain(roots).find(signed) else { return Vec::new() };
    let mut chain = vec![first.clone()];
    while chain.len() < MAX_ISSUERS
        && let Some(last) = chain.last().filter(|last| !roots.contains(last))
        && let Some(above) = candidates.iter().find(|above| !chain.contains(above) && vouches(above, last))
    {
        chain.push(above.clone());
    }
    chain
}

/// Whether `above` signed `below`.
fn vouches(above: &[u8], below: &[u8]) -> bool {
    let (Ok(above), Ok(below)) = (leaf::parse(above), leaf::parse(below)) else { return false };
    below.issuer() == above.subject() && below.verify_signature(Some(above.public_key())).is_ok()
}

/// Each certificate signed by the next, the last by a root, or itself one.
fn leads_to_a_root(bundle: &TrustBundle, chain: &[CertificateDer<'static>]) -> Result<(), String> {
    if chain.len() > MAX_ISSUERS {
        return Err(format!("comes with {} issuers; at most {MAX_ISSUERS} are looked at", chain.len()));
    }
    for (i, der) in chain.iter().enumerate() {
        let certificate = leaf::parse(der).map_err(|e| format!("comes with a bad certificate: {e}"))?;
        if !certificate.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca) {
            return Err(format!("is issued by \"{}\", which is no CA certificate", certificate.subject()));
        }
        let led = match chain.get(i + 1) {
            Some(above) => vouches(above, der),
            None => bundle.roots().iter().any(|root| root == der || vouches(root, der)),
        };
        if !led {
            return Err(format!("is issued by \"{}\", which leads to no root held here", certificate.subject()));
        }
    }
    Ok(())
}

/// Without the zeros that DER puts before a number whose first bit is set.
pub(crate) fn bare(serial: &[u8]) -> Box<[u8]> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default().into()
}

#[cfg(test)]
#[path = "revocation_tests.rs"]
mod tests;
