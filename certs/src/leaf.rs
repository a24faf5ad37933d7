//! What a leaf certificate says of itself, read strictly (X509-SVID): exactly one URI name, a SPIFFE id with a path, no authority, the
//! key usages of a leaf. Used for peers in a handshake and for our own certificate before it is put to use. Whether anybody vouches for
//! the leaf is decided in `tls::verify`.

use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::error::PeerFault;
use crate::spiffe::SpiffeId;

/// GeneralName's tag for a URI, for names that the parser could not read.
const URI_TAG: u32 = 6;

/// The facts of an SVID's leaf.
pub(crate) struct Leaf {
    pub id: SpiffeId,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerFault> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerFault::Malformed("bytes after its end".into())),
        Err(e) => Err(PeerFault::Malformed(e.to_string())),
    }
}

/// Reads and checks a leaf, whoever signed it.
pub(crate) fn inspect(der: &[u8]) -> Result<Leaf, PeerFault> {
    let certificate = parse(der)?;
    check_usage(&certificate)?;
    Ok(Leaf {
        id: sole_id(&certificate)?,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

/// "The leaf MUST set digitalSignature … MUST NOT set keyCertSign or cRLSign", cA false (X509-SVID §4). webpki looks at none of the key
/// usages, hence here.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerFault> {
    let malformed = |e: x509_parser::error::X509Error| PeerFault::Malformed(e.to_string());
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|c| c.value.ca) {
        return Err(PeerFault::CertificateAuthority);
    }
    let Some(usage) = certificate.key_usage().map_err(malformed)? else {
        return Err(PeerFault::KeyUsage("it states none, but an SVID must".into()));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(PeerFault::KeyUsage("it may sign certificates, which an SVID must not".into()));
    }
    if !usage.value.digital_signature() {
        return Err(PeerFault::KeyUsage("it may not sign handshakes (digitalSignature)".into()));
    }
    Ok(())
}

/// "Signing certificates … MUST set keyCertSign" (X509-SVID §4.3), for one on the way from a leaf to its root.
pub(crate) fn check_issuer_usage(der: &[u8]) -> Result<(), PeerFault> {
    let certificate = parse(der)?;
    match certificate.key_usage().map_err(|e| PeerFault::Malformed(e.to_string()))? {
        Some(usage) if !usage.value.key_cert_sign() => {
            Err(PeerFault::KeyUsage("an issuer of its chain may not sign certificates (keyCertSign)".into()))
        }
        _ => Ok(()),
    }
}

fn sole_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerFault> {
    let names = certificate.subject_alternative_name().map_err(|e| PeerFault::Malformed(e.to_string()))?;
    let mut uris = names.iter().flat_map(|n| &n.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        // A URI that is not text counts: otherwise it would hide beside a good one.
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(""),
        _ => None,
    });
    let (uri, others) = match uris.next() {
        Some(uri) => (uri, uris.count()),
        None => return Err(PeerFault::UriNames { count: 0 }),
    };
    if others > 0 {
        return Err(PeerFault::UriNames { count: others + 1 });
    }
    let id = SpiffeId::new(uri).map_err(|reason| PeerFault::NotSpiffe {
        // A peer chose this text and it ends in a log line.
        uri: uri.chars().take(256).collect(),
        reason,
    })?;
    match id.path() {
        "" => Err(PeerFault::NoPath(id.trust_domain().clone())),
        _ => Ok(id),
    }
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
