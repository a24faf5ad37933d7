//! The certificate authorities: the mesh's own, which signs SVIDs, and the one of the resource API, which signs its server certificate
//! and the client certificates of people. They share no key, so that an SVID never authenticates to the API (ARCHITECTURE §6).
//! Here: what both need, signing keys with their certificates and fresh parameters. Who may ask for what is decided by their callers.

mod api;
mod issue;
mod lists;
mod mesh;
mod pki;
mod rotation;
mod steps;
mod tokens;
mod vault;

pub use api::{ApiCa, ClientName, Credential};
pub use issue::{Issued, SVID_VALIDITY};
pub use lists::{LIST_VALIDITY, Reason, Revocation, lists_to_pem};
pub use mesh::MeshCa;
pub use pki::{Pki, Replaced};
pub use rotation::{Rotation, Stage, Step};
pub use tokens::TokenKey;
pub use vault::Vault;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::error::Error;
use crate::key::KeyPair;
use crate::{files, leaf, pem};

/// How far in the past a certificate begins, for clocks that are a little behind.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// Validity of a root that is made here.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A CA certificate with its key, ready to sign.
struct Signer {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, rcgen::KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Signer {
    /// Binds a key to its certificate; refuses a key of another certificate and a certificate that may not sign.
    fn new(what: &str, certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, Error> {
        let bad = |reason: String| Error::configuration(what, reason);
        let parsed = leaf::parse(&certificate).map_err(|e| bad(format!("holds a bad certificate: {e}")))?;
        if parsed.public_key().raw != key.public_der() {
            return Err(bad("holds a private key that is not the certificate's".into()));
        }
        if !parsed.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca) {
            return Err(bad(format!("holds the certificate \"{}\", which is no CA certificate", parsed.subject())));
        }
        if parsed.key_usage().ok().flatten().is_some_and(|u| !u.value.key_cert_sign()) {
            return Err(bad(format!("holds the certificate \"{}\", which may not sign others", parsed.subject())));
        }
        let (not_before, not_after) =
            (leaf::system_time(parsed.validity().not_before), leaf::system_time(parsed.validity().not_after));
        let issuer = Issuer::from_ca_cert_der(&certificate, key.into_inner())?;
        Ok(Self { certificate, issuer, not_before, not_after })
    }

    /// A new self-signed root.
    fn root(mut params: CertificateParams) -> Result<(Self, KeyPair), Error> {
        let key = KeyPair::generate()?;
        params.serial_number = Some(serial()?);
        let pair = KeyPair::from_der("new root", &key.private_der())?.into_inner();
        let certificate = params.self_signed(&pair)?.der().clone();
        Ok((Self::new("new root", certificate, KeyPair::from_der("new root", &key.private_der())?)?, key))
    }

    /// A new CA below this one.
    fn intermediate(&self, mut params: CertificateParams) -> Result<(Self, KeyPair), Error> {
        let key = KeyPair::generate()?;
        let pair = KeyPair::from_der("new intermediate", &key.private_der())?;
        let certificate = self.sign(&mut params, &pair.public_der())?;
        Ok((Self::new("new intermediate", certificate, pair)?, key))
    }

    /// Signs over a public key (`SubjectPublicKeyInfo`, DER) and leaves the serial number in `params`. Invariant: what is signed never outlives this certificate.
    fn sign(&self, params: &mut CertificateParams, public_key: &[u8]) -> Result<CertificateDer<'static>, Error> {
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.not_after = params.not_after.min(OffsetDateTime::from(self.not_after));
        let public_key = rcgen::SubjectPublicKeyInfo::from_der(public_key)?;
        Ok(params.signed_by(&public_key, &self.issuer)?.der().clone())
    }

    /// True when so little of its life is left that a successor should sign instead: a third.
    fn is_ageing(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_after.duration_since(now).unwrap_or_default() < life / 3
    }

    /// Reads what [`store`] wrote; `None` when there is no such file.
    fn load(path: &Path, vault: &Vault) -> Result<Option<Self>, Error> {
        let Some(text) = vault.read(path)? else { return Ok(None) };
        let what = path.display().to_string();
        let certificate = pem::certificates(&what, &text)?.swap_remove(0);
        Self::new(&what, certificate, KeyPair::from_pem(&what, &text)?).map(Some)
    }
}

/// Key and certificate go into one file, so that a crash never leaves one without the other.
fn store(path: &Path, vault: &Vault, signer: &Signer, key: &KeyPair) -> Result<(), Error> {
    let text = vault.seal(key)? + &pem::encode("CERTIFICATE", &signer.certificate);
    files::write_private(path, text.as_bytes())
}

/// Parameters of a CA certificate.
fn authority(common_name: &str, path_len: u8, now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = validity(now, life);
    params.distinguished_name.push(DnType::OrganizationName, "Weft");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Fresh parameters with a validity and nothing else; rcgen's defaults are valid for millennia and carry a name.
fn validity(now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = whole_seconds(now.checked_sub(BACKDATE).unwrap_or(now));
    params.not_after = whole_seconds(now.checked_add(life).unwrap_or(now));
    params
}

/// X.509 has whole seconds.
fn whole_seconds(time: SystemTime) -> OffsetDateTime {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time)
}

/// 16 random bytes: 126 bits that nobody guesses, positive and never zero (RFC 5280 §4.1.2.2, CA/B baseline 7.1).
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Crypto("no randomness".into()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A DNS name or an IP address as a subject alternative name.
fn host_name(name: &str) -> Result<SanType, Error> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => match rustls_pki_types::DnsName::try_from(name) {
            Ok(_) => Ok(SanType::DnsName(name.try_into()?)),
            Err(_) => Err(Error::Request(format!("{name:?} is neither a DNS name nor an IP address"))),
        },
    }
}
