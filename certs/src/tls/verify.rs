//! The verification of a peer: chain, validity, key usages, exactly one URI name, and roots chosen by the trust domain that the name
//! claims. rustls' own verifier wants DNS names, which SVIDs do not have. Pure but for what its callers pass.

use std::borrow::Cow;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::{TrustBundle, TrustBundles};
use crate::error::{PeerFault, system_time};
use crate::fingerprint::Fingerprint;
use crate::leaf;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Longer chains are refused before any signature is looked at.
const MAX_CHAIN: usize = 10;

/// On which side of the handshake the peer is: decides the extended key usage that is required of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Verifies a peer by bundles, and says who it is.
pub(crate) fn peer(
    bundles: &TrustBundles,
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    now: UnixTime,
    side: Side,
) -> Result<SpiffeId, PeerFault> {
    let id = leaf::inspect(leaf)?.id;
    let Some(bundle) = bundles.get(id.trust_domain()) else {
        return Err(PeerFault::UnknownTrustDomain { trusted: bundles.domains().cloned().collect(), id });
    };
    path(&id, bundle.anchors(), leaf, above, (now, side), |path| match is_revoked(bundle, path) {
        true => Err(webpki::Error::CertRevoked),
        false => Ok(()),
    })?;
    Ok(id)
}

/// Verifies a whole chain for an id that is known.
pub(crate) fn chain(
    bundles: &TrustBundles,
    expected: &SpiffeId,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    side: Side,
) -> Result<(), PeerFault> {
    let (leaf, above) = chain.split_first().ok_or(PeerFault::NoCertificate)?;
    demand(expected, peer(bundles, leaf, above, now, side)?)
}

/// Refuses everybody but one.
pub(crate) fn demand(expected: &SpiffeId, presented: SpiffeId) -> Result<(), PeerFault> {
    if presented == *expected {
        return Ok(());
    }
    Err(PeerFault::WrongIdentity { expected: expected.clone(), presented })
}

/// Verifies the control plane by the fingerprint of its root's key alone: before a sidecar has any bundle. The root is one of the
/// certificates that the peer presents. A forged certificate with the pinned key in it is of no use to anybody, since the signatures
/// below it are verified with that key.
pub(crate) fn pinned(
    pin: &Fingerprint,
    domain: &TrustDomain,
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), PeerFault> {
    let id = leaf::inspect(leaf)?.id;
    let mut found = false;
    let mut fault = None;
    for candidate in pinned_certificates(pin, above) {
        found = true;
        let anchor = webpki::anchor_from_trusted_cert(candidate).map_err(|e| PeerFault::Malformed(e.to_string()))?;
        match path(&id, &[anchor], leaf, above, (now, Side::Server), |_| Ok(())) {
            Ok(()) => return demand(&SpiffeId::control_plane(domain), id),
            Err(e) => fault = Some(e),
        }
    }
    Err(match fault {
        Some(fault) if found => fault,
        _ => PeerFault::PinMismatch { pin: *pin, presented: above.len() + 1 },
    })
}

/// The CA certificates above the leaf whose key has the fingerprint.
pub(crate) fn pinned_certificates<'a, 'b>(
    pin: &Fingerprint,
    above: &'a [CertificateDer<'b>],
) -> impl Iterator<Item = &'a CertificateDer<'b>> {
    above.iter().take(MAX_CHAIN).filter(move |der| {
        leaf::parse(der).is_ok_and(|certificate| {
            Fingerprint::of(certificate.public_key().raw) == *pin
                && certificate.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca)
        })
    })
}

/// Whether the issuer of the leaf, on the path that was found, has revoked it.
fn is_revoked(bundle: &TrustBundle, path: &webpki::VerifiedPath<'_>) -> bool {
    if bundle.revocations().is_empty() {
        return false;
    }
    let issuer = match path.intermediate_certificates().next() {
        Some(issuer) => leaf::parse(&issuer.der()).ok().map(|issuer| Fingerprint::of(issuer.public_key().raw)),
        None => {
            let anchored = bundle.anchors().iter().position(|anchor| anchor == path.anchor());
            anchored.and_then(|i| Fingerprint::of_public_key(bundle.roots().get(i)?).ok())
        }
    };
    issuer.is_some_and(|issuer| bundle.revokes(&issuer, path.end_entity().serial()))
}

/// Path validation by webpki, with the rule on top that whoever signs may sign, and what `judge` says of the path.
fn path(
    id: &SpiffeId,
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    (now, side): (UnixTime, Side),
    judge: impl Fn(&webpki::VerifiedPath<'_>) -> Result<(), webpki::Error>,
) -> Result<(), PeerFault> {
    if above.len() >= MAX_CHAIN {
        return Err(PeerFault::Malformed(format!("a chain of {} certificates", above.len() + 1)));
    }
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let algorithms = super::provider().signature_verification_algorithms.all;
    let may_sign = |path: &webpki::VerifiedPath<'_>| {
        for issuer in path.intermediate_certificates() {
            leaf::check_issuer_usage(&issuer.der()).map_err(|_| webpki::Error::EndEntityUsedAsCa)?;
        }
        judge(path)
    };
    EndEntityCert::try_from(leaf)
        .and_then(|cert| {
            cert.verify_for_usage(algorithms, anchors, above, now, usage, None, Some(&may_sign)).map(|_| ())
        })
        .map_err(|error| fault(id, error))
}

fn fault(id: &SpiffeId, error: webpki::Error) -> PeerFault {
    use webpki::Error as E;
    let untrusted = |reason: Cow<'_, str>| PeerFault::UntrustedChain { id: id.clone(), reason: reason.into_owned() };
    match error {
        E::CertExpired { time, not_after } => {
            PeerFault::Expired { not_after: system_time(&not_after), now: system_time(&time) }
        }
        E::CertNotValidYet { time, not_before } => {
            PeerFault::NotYetValid { not_before: system_time(&not_before), now: system_time(&time) }
        }
        E::CertRevoked => PeerFault::Revoked,
        E::CaUsedAsEndEntity => PeerFault::CertificateAuthority,
        E::EndEntityUsedAsCa => PeerFault::KeyUsage("an issuer of its chain may not sign certificates".into()),
        E::RequiredEkuNotFoundContext(_) => {
            PeerFault::KeyUsage("it is not for this side of a handshake (extended key usage)".into())
        }
        E::UnknownIssuer => untrusted("unknown issuer".into()),
        E::InvalidSignatureForPublicKey => untrusted("a signature in it is wrong".into()),
        other => untrusted(format!("{other:?}").into()),
    }
}
