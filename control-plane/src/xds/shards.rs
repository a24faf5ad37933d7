//! A hash map whose copies share what they have in common: entries are spread over shards behind `Arc`s, and an edit copies one shard.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A power of two. With 200,000 entries an edit copies fewer than a thousand.
const SHARDS: usize = 256;

/// The map. See the module's text.
#[derive(Debug)]
pub(super) struct Shards<V> {
    shards: Vec<Arc<HashMap<Arc<str>, V>>>,
    hasher: RandomState,
}

impl<V> Clone for Shards<V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone() }
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], hasher: RandomState::new() }
    }
}

impl<V> Shards<V> {
    pub fn get(&self, key: &str) -> Option<&V> {
        self.shards[self.shard_of(key)].get(key)
    }

    fn shard_of(&self, key: &str) -> usize {
        // The map within uses the low bits of a hash of its own.
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

impl<V: Clone> Shards<V> {
    pub fn insert(&mut self, key: Arc<str>, value: V) {
        let at = self.shard_of(&key);
        Arc::make_mut(&mut self.shards[at]).insert(key, value);
    }

    pub fn remove(&mut self, key: &str) {
        let at = self.shard_of(key);
        if self.shards[at].contains_key(key) {
            Arc::make_mut(&mut self.shards[at]).remove(key);
        }
    }
}

/// Who claims a name: the first by name has it, so that it does not matter who came first.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Vec<Arc<str>>);

impl Claims {
    pub fn winner(&self) -> Option<&str> {
        self.0.first().map(Borrow::borrow)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, who: &Arc<str>) {
        if let Err(at) = self.0.binary_search(who) {
            // Nearly always there is one.
            self.0.reserve_exact(1);
            self.0.insert(at, who.clone());
        }
    }

    pub fn remove(&mut self, who: &str) {
        self.0.retain(|w| **w != *who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_the_original_loses() {
        let mut shards = Shards::default();
        for i in 0..1000 {
            shards.insert(format!("item-{i}").into(), i);
        }
        let copy = shards.clone();
        shards.remove("item-7");
        shards.remove("nobody");
        shards.insert("item-8".into(), 0);
        assert_eq!((shards.get("item-9"), copy.get("item-9")), (Some(&9), Some(&9)));
        assert_eq!((shards.get("item-7"), copy.get("item-7")), (None, Some(&7)));
        assert_eq!((shards.get("item-8"), copy.get("item-8")), (Some(&0), Some(&8)));
        let shared = shards.shards.iter().zip(&copy.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2);
    }

    #[test]
    fn the_smallest_name_has_what_two_claim_and_leaves_it_to_the_other() {
        let mut claims = Claims::default();
        claims.add(&"shop/b".into());
        claims.add(&"shop/a".into());
        claims.add(&"shop/a".into());
        assert_eq!(claims.winner(), Some("shop/a"));
        claims.remove("shop/a");
        assert_eq!(claims.winner(), Some("shop/b"));
        claims.remove("shop/b");
        assert!(claims.is_empty());
    }
}
