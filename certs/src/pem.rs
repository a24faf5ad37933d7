//! PEM in and out (RFC 7468), bounded. The types it carries are their modules' business.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::error::Error;

/// More certificates in one file are refused: chains are short, and bundles hold a few roots.
pub(crate) const MAX_CERTIFICATES: usize = 64;

/// How a certificate begins.
pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// One block.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 64);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every index is a boundary.
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Certificates, one block each, in their order.
pub(crate) fn encode_certificates<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates.into_iter().map(|c| encode("CERTIFICATE", c)).collect()
}

/// Every certificate of a text, in its order; `what` names the text in errors. None is an error.
pub(crate) fn certificates(what: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut out = Vec::new();
    for item in CertificateDer::pem_slice_iter(text.as_bytes()) {
        out.push(item.map_err(|e| Error::configuration(what, format!("is not valid PEM: {e}")))?);
        if out.len() > MAX_CERTIFICATES {
            return Err(Error::configuration(what, format!("holds more than {MAX_CERTIFICATES} certificates")));
        }
    }
    if out.is_empty() {
        return Err(Error::configuration(what, "holds no certificate"));
    }
    Ok(out)
}

/// Every revocation list of a text, in its order; certificates in the same text are passed over. `what` names the text in errors.
pub(crate) fn revocation_lists(what: &str, text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let mut out = Vec::new();
    for item in CertificateRevocationListDer::pem_slice_iter(text.as_bytes()) {
        let list = item.map_err(|e| Error::configuration(what, format!("is not valid PEM: {e}")))?;
        out.push(list.to_vec());
        if out.len() > MAX_CERTIFICATES {
            return Err(Error::configuration(what, format!("holds more than {MAX_CERTIFICATES} revocation lists")));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_back_as_they_were() {
        let all = vec![CertificateDer::from(vec![7u8; 100]), CertificateDer::from(vec![1u8; 48])];
        let text = encode_certificates(&all);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(certificates("x", &text).unwrap(), all);
    }

    #[test]
    fn a_text_without_certificates_says_so() {
        assert_eq!(certificates("roots.pem", "").unwrap_err().to_string(), "roots.pem holds no certificate");
        assert!(certificates("roots.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
    }
}
