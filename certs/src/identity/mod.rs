//! A workload's identity while it is in use: certificate, key and the bundles that judge its peers, swapped as a unit while connections
//! live on. Connections keep what they were made with; the next handshake takes what is current. When to renew is the holder's business,
//! and how it is kept on disk is `state`.

mod open;
mod state;
mod svid;

pub use open::Watched;
pub use state::LISTS_FILE;
pub use svid::Svid;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use rustls_pki_types::CertificateDer;

use crate::bundle::{TrustBundle, TrustBundles};
use crate::error::{Error, PeerFault};
use crate::fingerprint::Fingerprint;
use crate::leaf;
use crate::revocation::Presented;
use crate::spiffe::{SpiffeId, TrustDomain};
use open::Open;

/// A certificate with its key, and whom its holder trusts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who we are.
    pub svid: Arc<Svid>,
    /// Whom we trust.
    pub bundles: Arc<TrustBundles>,
}

impl Identity {
    /// Puts the two together.
    pub fn new(svid: Svid, bundles: impl Into<TrustBundles>) -> Self {
        Self { svid: Arc::new(svid), bundles: Arc::new(bundles.into()) }
    }

    /// The fingerprint of the key of the trusted root that the certificate leads to; `None`: of none.
    pub fn root(&self) -> Option<Fingerprint> {
        let last = leaf::parse(self.svid.chain().last()?).ok()?;
        let bundle = self.bundles.get(self.svid.id().trust_domain())?;
        bundle.roots().iter().find_map(|root| {
            let root = leaf::parse(root).ok()?;
            let key = root.public_key();
            let vouches = last.issuer() == root.subject() && last.verify_signature(Some(key)).is_ok();
            vouches.then(|| Fingerprint::of(key.raw))
        })
    }
}

/// An identity in use, shared by every TLS configuration that was made from it.
pub struct LiveIdentity {
    current: ArcSwap<Identity>,
    generation: AtomicU64,
    open: Open,
    // Invariant: the id of `current`, for ever; another id is another LiveIdentity.
    id: SpiffeId,
}

impl LiveIdentity {
    /// Puts an identity to use.
    pub fn new(identity: Identity) -> Arc<Self> {
        let id = identity.svid.id().clone();
        Arc::new(Self {
            current: ArcSwap::from_pointee(identity),
            generation: AtomicU64::new(0),
            open: Open::default(),
            id,
        })
    }

    /// The id, which never changes.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What is in use now. Hold the guard briefly; [`Guard::into_inner`] keeps it.
    pub fn current(&self) -> Guard<Arc<Identity>> {
        self.current.load()
    }

    /// How often something was swapped in. A connection that notes it can tell later whether it was made before a change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the bundle in use says that our own certificate was revoked.
    pub fn is_revoked(&self) -> bool {
        let identity = self.current();
        let bundle = identity.bundles.get(self.id.trust_domain()).filter(|bundle| !bundle.revocations().is_empty());
        bundle.is_some_and(|bundle| Presented::of(identity.svid.chain()).is_some_and(|own| own.is_revoked(bundle)))
    }

    /// Minds an open connection whose peer presented this chain: `cut` is called, once, when the peer is no longer to be spoken with, from
    /// within the change that says so; at once if it is so already. Ends when the value is dropped. `None`: the peer has no identity.
    pub fn watch(
        self: &Arc<Self>,
        chain: &[CertificateDer<'_>],
        cut: impl Fn(&SpiffeId, &PeerFault) + Send + 'static,
    ) -> Option<Watched> {
        Some(Open::watch(self, Presented::of(chain)?, Box::new(cut)))
    }

    /// Swaps certificate, key and bundles as a unit. Refuses another id.
    pub fn replace(&self, identity: Identity) -> Result<(), Error> {
        self.check(&identity.svid)?;
        self.current.store(Arc::new(identity));
        self.changed(true);
        Ok(())
    }

    /// After a swap. Only who is trusted by other roots, or is another, must be spoken with anew.
    fn changed(&self, anew: bool) {
        if anew {
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.open.judge(&self.current().bundles);
    }

    /// Swaps certificate and key: a renewal. Refuses another id.
    pub fn replace_svid(&self, svid: Svid) -> Result<(), Error> {
        self.check(&svid)?;
        let svid = Arc::new(svid);
        self.current.rcu(|now| Identity { svid: svid.clone(), bundles: now.bundles.clone() });
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Swaps the bundle of one trust domain: a step of a root's rotation. True when it changed something.
    pub fn replace_bundle(&self, bundle: &TrustBundle) -> bool {
        let before = self.current.rcu(|now| {
            let mut bundles = (*now.bundles).clone();
            bundles.insert(bundle.clone());
            Identity { svid: now.svid.clone(), bundles: Arc::new(bundles) }
        });
        let before = before.bundles.get(bundle.trust_domain());
        let changed = before != Some(bundle);
        if changed {
            self.changed(!before.is_some_and(|before| before.has_roots_of(bundle)));
        }
        changed
    }

    /// Stops trusting a trust domain, and ends what is open with its members. True when it was trusted. Our own is trusted for ever.
    pub fn remove_bundle(&self, domain: &TrustDomain) -> bool {
        if domain == self.id.trust_domain() {
            return false;
        }
        let before = self.current.rcu(|now| {
            let mut bundles = (*now.bundles).clone();
            bundles.remove(domain);
            Identity { svid: now.svid.clone(), bundles: Arc::new(bundles) }
        });
        let changed = before.bundles.get(domain).is_some();
        if changed {
            self.changed(true);
        }
        changed
    }

    /// Swaps all bundles.
    pub fn replace_bundles(&self, bundles: TrustBundles) {
        let bundles = Arc::new(bundles);
        self.current.rcu(|now| Identity { svid: now.svid.clone(), bundles: bundles.clone() });
        self.changed(true);
    }

    fn check(&self, svid: &Svid) -> Result<(), Error> {
        if svid.id() == &self.id {
            return Ok(());
        }
        Err(Error::configuration("new certificate", format!("is for {}, but this identity is {}", svid.id(), self.id)))
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveIdentity({}, generation {})", self.id, self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use crate::spiffe::TrustDomain;
    use std::time::SystemTime;

    fn fixture() -> (MeshCa, SpiffeId) {
        let domain: TrustDomain = "weft.test".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart").unwrap();
        (MeshCa::ephemeral(&domain, SystemTime::now()).unwrap(), id)
    }

    #[test]
    fn a_renewal_keeps_the_bundles_and_counts() {
        let (ca, id) = fixture();
        let svid = || ca.issue(&id, None, SystemTime::now()).unwrap();
        let live = LiveIdentity::new(Identity::new(svid(), ca.bundle()));
        let before = Guard::into_inner(live.current());
        live.replace_svid(svid()).unwrap();
        let after = live.current();
        assert_ne!(before.svid.chain(), after.svid.chain());
        assert!(Arc::ptr_eq(&before.bundles, &after.bundles));
        assert_eq!(live.generation(), 1);
    }

    #[test]
    fn another_id_is_refused() {
        let (ca, id) = fixture();
        let live = LiveIdentity::new(Identity::new(ca.issue(&id, None, SystemTime::now()).unwrap(), ca.bundle()));
        let other = SpiffeId::workload(ca.trust_domain(), "shop", "payments").unwrap();
        let error = live.replace_svid(ca.issue(&other, None, SystemTime::now()).unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "new certificate is for spiffe://weft.test/ns/shop/sa/payments, but this identity is spiffe://weft.test/ns/shop/sa/cart"
        );
    }

    #[test]
    fn the_same_bundle_again_changes_nothing() {
        let (ca, id) = fixture();
        let live = LiveIdentity::new(Identity::new(ca.issue(&id, None, SystemTime::now()).unwrap(), ca.bundle()));
        assert!(!live.replace_bundle(&ca.bundle()));
        let (other, _) = fixture();
        assert!(live.replace_bundle(&ca.bundle().with_roots_of(&other.bundle()).unwrap()));
        assert_eq!(live.generation(), 1);
    }
}
