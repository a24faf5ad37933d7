//! What the mesh's authority signs, field by field: leaves, intermediates, roots. And what it reads of a request: the public key, and the
//! proof that the asker has the private one. When it signs, and with what, is `mesh`'s business.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::lists::Issuing;
use super::{ROOT_VALIDITY, Signer, Vault, authority, store, validity};
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::key::KeyPair;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Validity of an SVID when nobody asks for less; also the most that is given unless [`super::MeshCa::with_max_ttl`] says otherwise.
pub const SVID_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Validity of the intermediate; a new one signs when a third of it is left.
const INTERMEDIATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// A request of one key is a few hundred bytes.
pub(super) const MAX_CSR_LEN: usize = 16 << 10;

/// What an authority gave out.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Who it is for.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Serial number of the leaf, big endian.
    pub serial: Vec<u8>,
    /// Fingerprint of the key that signed it: with the serial number, what it is revoked by.
    pub issuer: Fingerprint,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// Signs an SVID over a public key (`SubjectPublicKeyInfo`, DER).
pub(super) fn leaf(
    issuing: &Issuing,
    domain: &TrustDomain,
    public_key: &[u8],
    id: &SpiffeId,
    ttl: Duration,
    now: SystemTime,
) -> Result<Issued, Error> {
    if id.trust_domain() != domain {
        return Err(Error::Request(format!("{id} is not of trust domain \"{domain}\", the only one signed here")));
    }
    if id.path().is_empty() {
        return Err(Error::Request(format!("{id} names no workload")));
    }
    if ttl < Duration::from_secs(1) {
        return Err(Error::Request("a certificate of less than a second was asked for".into()));
    }
    let mut params = svid(id, ttl, now)?;
    let leaf = issuing.signer.sign(&mut params, public_key)?;
    let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
    if not_after <= now {
        return Err(Error::configuration("issuing certificate", "has expired"));
    }
    let chain = std::iter::once(leaf).chain(issuing.chain.iter().cloned()).collect();
    let serial = params.serial_number.map(|serial| serial.to_bytes()).unwrap_or_default();
    Ok(Issued { id: id.clone(), chain, serial, issuer: issuing.key, not_before, not_after })
}

/// The leaf: the authority decides every field (X509-SVID §4 and its appendix A).
pub(super) fn svid(id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = validity(now, ttl);
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// The public key of a request whose signature proves possession of the private one. Nothing else of it is looked at.
pub(super) fn public_key(csr: &[u8]) -> Result<Vec<u8>, Error> {
    let bad = |reason: String| Error::Request(format!("certificate signing request {reason}"));
    if csr.len() > MAX_CSR_LEN {
        return Err(bad(format!("of {} bytes; at most {MAX_CSR_LEN} are read", csr.len())));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|e| bad(format!("is not PKCS#10 in DER: {e}")))?;
    if !rest.is_empty() {
        return Err(bad("has bytes after its end".into()));
    }
    let der = request.certification_request_info.subject_pki.raw;
    let key = rcgen::SubjectPublicKeyInfo::from_der(der).map_err(|e| bad(format!("has an unusable key: {e}")))?;
    // Strong, and cheap in a handshake; RSA is neither here.
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(bad("has a key that is neither ECDSA P-256, ECDSA P-384 nor Ed25519".into()));
    }
    request.verify_signature().map_err(|_| bad("is not signed by its own key".into()))?;
    Ok(der.to_vec())
}

pub(super) fn new_root(domain: &TrustDomain, now: SystemTime) -> Result<(Signer, KeyPair), Error> {
    Signer::root(root(domain, now)?)
}

pub(super) fn root(domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = authority(&format!("{domain} root"), 1, now, ROOT_VALIDITY);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    Ok(params)
}

pub(super) fn new_intermediate(
    domain: &TrustDomain,
    root: &Signer,
    place: Option<(&Path, &Vault)>,
    now: SystemTime,
) -> Result<Signer, Error> {
    let mut params = authority(&format!("{domain} issuing"), 0, now, INTERMEDIATE_VALIDITY);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    let (signer, key) = root.intermediate(params)?;
    if let Some((path, vault)) = place {
        store(path, vault, &signer, &key)?;
    }
    Ok(signer)
}
