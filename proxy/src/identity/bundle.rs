//! From a trust bundle as it travels to one that judges peers. A revocation list that cannot be believed is left out and said: without it
//! the roots are as good as before, and a list must never stop the mesh.

use std::time::SystemTime;
use weft_certs::{CertificateDer, Error, RevocationList, TrustBundle};
use weft_policy::config;

/// The roots, and those of the lists that are verified by them.
///
/// # Errors
/// When the name is no trust domain or a root is no certificate.
pub(super) fn bundle(wire: &config::TrustBundle) -> Result<TrustBundle, Error> {
    let domain = wire.trust_domain.parse()?;
    let bundle = TrustBundle::from_der(domain, wire.roots.iter().cloned())?;
    let mut lists = Vec::with_capacity(wire.revocations.len());
    for list in &wire.revocations {
        let issuer = list.issuer.iter().cloned().map(CertificateDer::from).collect();
        match RevocationList::new(&bundle, list.crl.clone(), issuer) {
            Ok(list) => lists.push(list),
            Err(error) => tracing::error!("{error}; it is ignored, and what it names is not refused"),
        }
    }
    Ok(bundle.with_revocations(lists))
}

/// The earliest time at which one of the lists was to be replaced; `None`: there is none.
pub(super) fn next_update<'b>(bundles: impl Iterator<Item = &'b TrustBundle>) -> Option<SystemTime> {
    bundles.flat_map(TrustBundle::revocations).map(RevocationList::next_update).min()
}
