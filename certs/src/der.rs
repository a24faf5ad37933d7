//! DER certificates one after another, as the SPIFFE Workload API sends chains and bundles: bounded, and every byte accounted for.

use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::pem::MAX_CERTIFICATES;

/// Every certificate, in its order; `what` names the bytes in errors. None is an error.
pub fn certificates(what: &str, der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |reason: String| Error::configuration(what, reason);
    let mut out = Vec::new();
    let mut left = der;
    while !left.is_empty() {
        if out.len() == MAX_CERTIFICATES {
            return Err(bad(format!("holds more than {MAX_CERTIFICATES} certificates")));
        }
        let (rest, _) = x509_parser::parse_x509_certificate(left)
            .map_err(|e| bad(format!("holds something that is no certificate in DER: {e}")))?;
        let (one, rest) = left.split_at(left.len() - rest.len());
        out.push(CertificateDer::from(one.to_vec()));
        left = rest;
    }
    if out.is_empty() {
        return Err(bad("holds no certificate".into()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use proptest::prelude::*;
    use std::time::SystemTime;

    fn two() -> Vec<CertificateDer<'static>> {
        let root = || MeshCa::ephemeral(&"weft.test".parse().unwrap(), SystemTime::now()).unwrap().root();
        vec![root(), root()]
    }

    fn joined(all: &[CertificateDer<'static>]) -> Vec<u8> {
        all.iter().flat_map(|one| one.to_vec()).collect()
    }

    #[test]
    fn certificates_one_after_another_come_apart_again() {
        let all = two();
        assert_eq!(certificates("bundle", &joined(&all)).unwrap(), all);
    }

    #[test]
    fn half_a_certificate_none_and_too_many_are_refused_by_name() {
        let all = joined(&two());
        let short = certificates("bundle", &all[..all.len() - 1]).unwrap_err().to_string();
        assert!(short.starts_with("bundle holds something that is no certificate in DER"), "{short}");
        assert_eq!(certificates("bundle", &[]).unwrap_err().to_string(), "bundle holds no certificate");
        let many = two()[0].repeat(MAX_CERTIFICATES + 1);
        assert_eq!(certificates("bundle", &many).unwrap_err().to_string(), "bundle holds more than 64 certificates");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read_whole(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(all) = certificates("bundle", &bytes) {
                prop_assert_eq!(joined(&all), bytes);
            }
        }
    }
}
