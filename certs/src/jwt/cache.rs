//! Tokens that were verified lately, by their digest: a signature costs tens of microseconds, and a client sends the same token for minutes.
//! Belongs to one [`super::Verifier`], so that a change of keys or rules forgets everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::token::Verified;
use crate::Fingerprint;

/// Tokens that are remembered, at most.
const MOST: usize = 1024;
/// Independent parts: workers rarely meet.
const SHARDS: usize = 8;

type Shard = HashMap<Fingerprint, Arc<Verified>>;

/// Invariant: what it holds was verified by the rules of its verifier, and is used no longer than the token is valid.
#[derive(Debug, Default)]
pub(super) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
}

impl Cache {
    fn shard(&self, digest: &Fingerprint) -> &Mutex<Shard> {
        let [first, ..] = digest.as_bytes();
        &self.shards[usize::from(*first) % SHARDS]
    }

    pub fn find(&self, digest: &Fingerprint, now: SystemTime) -> Option<Arc<Verified>> {
        let shard = self.shard(digest).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(digest).filter(|known| known.until() > now).map(Arc::clone)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    pub fn keep(&self, digest: Fingerprint, verified: Arc<Verified>, now: SystemTime) {
        let mut shard = self.shard(&digest).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MOST / SHARDS {
            shard.retain(|_, known| known.until() > now);
        }
        if shard.len() >= MOST / SHARDS {
            // Whoever can have so many tokens signed is known to the issuer; starting anew is cheaper than an order of age.
            shard.clear();
        }
        shard.insert(digest, verified);
    }
}
