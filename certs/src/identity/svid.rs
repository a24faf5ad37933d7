//! One X.509 SVID: a chain, its private key, and the facts of the leaf. Checked when it is made, so that whoever holds one can use it.
//! Whether peers trust it depends on their bundles and is not asked here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::ca::BACKDATE;
use crate::error::{Error, PeerFault};
use crate::key::KeyPair;
use crate::spiffe::SpiffeId;
use crate::{leaf, pem, tls};

/// A certificate chain with its key, fit to be presented as a workload's identity.
pub struct Svid {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
    // A secret, kept for saving.
    key_pem: String,
}

impl Svid {
    /// Takes a chain (leaf first; the root may be at its end) and the key of the leaf. Refuses a key of another certificate and a leaf
    /// that is no SVID.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, Error> {
        let bad = |reason: String| Error::configuration("certificate", reason);
        let first = chain.first().ok_or_else(|| bad("is missing: the chain is empty".into()))?;
        // The faults' texts speak of a peer, which here we will be.
        let facts =
            leaf::inspect(first).map_err(|fault: PeerFault| bad(format!("is no SVID; peers would say: {fault}")))?;
        let certified = CertifiedKey::from_der(chain, key.private_der(), &tls::provider())
            .map_err(|e| bad(format!("and key do not fit together: {e}")))?;
        Ok(Self {
            id: facts.id,
            not_before: facts.not_before,
            not_after: facts.not_after,
            certified: Arc::new(certified),
            key_pem: key.to_pem(),
        })
    }

    /// Reads a chain (leaf first) and its key from PEM; both may be in one text.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, Error> {
        Self::new(pem::certificates("certificate chain", chain)?, &KeyPair::from_pem("private key", key)?)
    }

    /// Takes a chain (leaf first, DER certificates one after another) and its key (PKCS#8, DER), as the SPIFFE Workload API gives them.
    pub fn from_der(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = crate::der::certificates("certificate chain", chain)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        Self::new(chain, &KeyPair::from_der("private key", &key)?)
    }

    /// Who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The certificate itself, without those above it.
    pub fn leaf(&self) -> &[u8] {
        self.chain().first().map_or(&[], |leaf| leaf)
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(self.chain())
    }

    /// The key in PEM. A secret: write it with [`crate::files::write_private`] only.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Begin of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// True once nobody accepts it any more.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }

    /// The whole span of its validity.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When it was issued: what the mesh issues begins [`BACKDATE`] before, which of a short life is most.
    fn issued(&self) -> SystemTime {
        if self.lifetime() > BACKDATE { self.not_before + BACKDATE } else { self.not_before }
    }

    /// The middle of its life, which begins when it is issued.
    pub fn half_life(&self) -> SystemTime {
        self.life(0.5)
    }

    /// When to renew: at a third of its life, shifted by up to a twentieth, so that a fleet started together does not ask together, and
    /// an authority that is away for half a life is back in time for everybody. `spread` is a random number of -1.0..=1.0.
    pub fn renew_at(&self, spread: f64) -> SystemTime {
        self.life(1.0 / 3.0 + 0.05 * if spread.is_finite() { spread.clamp(-1.0, 1.0) } else { 0.0 })
    }

    fn life(&self, fraction: f64) -> SystemTime {
        let issued = self.issued();
        issued + self.not_after.duration_since(issued).unwrap_or_default().mul_f64(fraction)
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svid({}, until {})", self.id, crate::error::rfc3339(self.not_after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use crate::spiffe::TrustDomain;

    fn svid(now: SystemTime) -> Svid {
        let domain: TrustDomain = "weft.test".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart").unwrap();
        MeshCa::ephemeral(&domain, now).unwrap().issue(&id, Some(Duration::from_secs(3600)), now).unwrap()
    }

    #[test]
    fn renewal_is_at_a_third_of_the_life_give_or_take_a_twentieth() {
        let svid = svid(SystemTime::now());
        assert_eq!(svid.lifetime(), Duration::from_secs(3660));
        let issued = svid.not_before() + BACKDATE;
        assert_eq!(svid.half_life(), issued + Duration::from_secs(1800));
        assert_eq!(svid.renew_at(0.0), issued + Duration::from_secs(1200));
        assert_eq!(svid.renew_at(-1.0), issued + Duration::from_secs(1020));
        assert_eq!(svid.renew_at(7.0), issued + Duration::from_secs(1380));
        assert_eq!(svid.renew_at(f64::NAN), svid.renew_at(0.0));
        assert!(!svid.is_expired(svid.not_after() - Duration::from_secs(1)) && svid.is_expired(svid.not_after()));
    }

    #[test]
    fn a_life_that_is_shorter_than_its_backdate_is_not_due_for_renewal_at_once() {
        let now = SystemTime::now();
        let domain: TrustDomain = "weft.test".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart").unwrap();
        let svid = MeshCa::ephemeral(&domain, now).unwrap().issue(&id, Some(Duration::from_secs(20)), now).unwrap();
        let wait = svid.renew_at(0.0).duration_since(now).unwrap();
        assert!((4.6..=6.7).contains(&wait.as_secs_f64()), "{wait:?}");
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let one = svid(SystemTime::now());
        let other = svid(SystemTime::now());
        let error = Svid::from_pem(&one.chain_pem(), other.key_pem()).unwrap_err().to_string();
        assert!(error.starts_with("certificate and key do not fit together"), "{error}");
    }

    #[test]
    fn a_ca_certificate_is_no_svid() {
        let ca = MeshCa::ephemeral(&"weft.test".parse().unwrap(), SystemTime::now()).unwrap();
        let error = Svid::new(vec![ca.root().clone()], &KeyPair::generate().unwrap()).unwrap_err().to_string();
        assert!(error.contains("peer presented a CA certificate as its own"), "{error}");
    }
}
