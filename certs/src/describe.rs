//! A certificate put into words, for people and status displays. Nothing decides by what is here; verification is in `tls`.

use std::time::SystemTime;

use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;

use crate::error::{Error, rfc3339};
use crate::fingerprint::Fingerprint;
use crate::leaf;
use crate::spiffe::SpiffeId;

/// What a certificate says. Serialises with camelCase keys; times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// Subject, or empty: an SVID has none.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number, hexadecimal with colons.
    pub serial: String,
    /// The SPIFFE id, when the certificate has exactly one URI name and that is one.
    pub spiffe_id: Option<SpiffeId>,
    /// Every URI name.
    pub uris: Vec<String>,
    /// Every DNS name.
    pub dns_names: Vec<String>,
    /// Every IP address.
    pub ip_addresses: Vec<String>,
    /// Begin of validity.
    #[serde(serialize_with = "time_text")]
    pub not_before: SystemTime,
    /// End of validity.
    #[serde(serialize_with = "time_text")]
    pub not_after: SystemTime,
    /// True for a CA certificate.
    pub is_ca: bool,
    /// The public key, for example `ECDSA P-256`.
    pub key: String,
    /// SHA-256 of the certificate.
    pub sha256: Fingerprint,
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`).
    pub spki_sha256: Fingerprint,
}

impl CertificateInfo {
    /// Describes a certificate in DER.
    pub fn of(der: &[u8]) -> Result<Self, Error> {
        let certificate = leaf::parse(der)
            .map_err(|fault| Error::configuration("certificate", format!("cannot be read: {fault}")))?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|n| &n.value.general_names).collect::<Vec<_>>();
        let pick = |f: fn(&GeneralName<'_>) -> Option<String>| names.iter().filter_map(|n| f(n)).collect::<Vec<_>>();
        let uris = pick(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            spiffe_id: match &uris[..] {
                [only] => only.parse().ok(),
                _ => None,
            },
            uris,
            dns_names: pick(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            }),
            ip_addresses: pick(|name| match name {
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            }),
            not_before: leaf::system_time(certificate.validity().not_before),
            not_after: leaf::system_time(certificate.validity().not_after),
            is_ca: certificate.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca),
            key: key(certificate.public_key()),
            sha256: Fingerprint::of(der),
            spki_sha256: Fingerprint::of(certificate.public_key().raw),
        })
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => Some(std::net::IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        16 => Some(std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        _ => None,
    }
}

fn key(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::EC(point)) => format!("ECDSA P-{}", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        _ => match key.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => "Ed25519".into(),
            other => other.into(),
        },
    }
}

fn time_text<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use std::time::Duration;

    #[test]
    fn an_svid_and_its_root_are_described() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let domain = "weft.test".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, now).unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart").unwrap();
        let svid = ca.issue(&id, None, now).unwrap();
        let leaf = CertificateInfo::of(&svid.chain()[0]).unwrap();
        assert_eq!(leaf.spiffe_id, Some(id));
        assert_eq!((leaf.subject.as_str(), leaf.issuer.as_str()), ("", "O=Weft, CN=weft.test issuing"));
        assert_eq!((leaf.is_ca, leaf.key.as_str()), (false, "ECDSA P-256"));
        assert_eq!(rfc3339(leaf.not_before), "2027-01-15T07:59:00Z");
        assert_eq!(rfc3339(leaf.not_after), "2027-01-16T08:00:00Z");
        let root = CertificateInfo::of(&ca.root()).unwrap();
        assert!(root.is_ca);
        assert_eq!(root.spki_sha256, ca.root_fingerprint().unwrap());
        assert!(CertificateInfo::of(b"nonsense").is_err());
    }
}
