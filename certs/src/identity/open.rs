//! The connections that are open, by what their peers presented: a certificate that is revoked, or a trust domain that is no longer
//! trusted, ends them. What "ending" is, their owners say; nothing is done for each byte or call.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::LiveIdentity;
use crate::bundle::TrustBundles;
use crate::error::PeerFault;
use crate::revocation::Presented;
use crate::spiffe::SpiffeId;

/// Ends a connection.
pub(super) type Cut = Box<dyn Fn(&SpiffeId, &PeerFault) + Send>;

/// Every connection that is minded.
#[derive(Default)]
pub(super) struct Open(Mutex<Connections>);

#[derive(Default)]
struct Connections {
    next: u64,
    all: HashMap<u64, (Presented, Cut)>,
}

impl Open {
    pub(super) fn watch(live: &Arc<LiveIdentity>, peer: Presented, cut: Cut) -> Watched {
        let key = {
            let mut connections = live.open.lock();
            let key = connections.next;
            connections.next += 1;
            connections.all.insert(key, (peer.clone(), cut));
            key
        };
        // The bundles may have changed since the handshake; from here on a change finds it.
        if let Some(fault) = fault(&live.current().bundles, &peer) {
            let removed = live.open.lock().all.remove(&key);
            if let Some((_, cut)) = removed {
                cut(&peer.id, &fault);
            }
        }
        Watched { live: live.clone(), key }
    }

    /// Cuts those whose peers these bundles speak against.
    pub(super) fn judge(&self, bundles: &TrustBundles) {
        let mut connections = self.lock();
        let faults = connections.all.iter().filter_map(|(key, (peer, _))| Some((*key, fault(bundles, peer)?)));
        let faults: Vec<_> = faults.collect();
        let cut = faults.into_iter().filter_map(|(key, fault)| Some((connections.all.remove(&key)?, fault)));
        let cut: Vec<_> = cut.collect();
        // An owner may let go of its connection at once, which takes the lock.
        drop(connections);
        for ((peer, cut), fault) in cut {
            cut(&peer.id, &fault);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fault(bundles: &TrustBundles, peer: &Presented) -> Option<PeerFault> {
    match bundles.get(peer.id.trust_domain()) {
        Some(bundle) => peer.is_revoked(bundle).then_some(PeerFault::Revoked),
        None => {
            let trusted = bundles.domains().cloned().collect();
            Some(PeerFault::UnknownTrustDomain { id: peer.id.clone(), trusted })
        }
    }
}

/// A connection that is minded until this is dropped.
pub struct Watched {
    live: Arc<LiveIdentity>,
    key: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let removed = self.live.open.lock().all.remove(&self.key);
        // Outside the lock: its owner's code.
        drop(removed);
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.key)
    }
}
