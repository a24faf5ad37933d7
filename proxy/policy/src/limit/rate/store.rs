//! Token buckets by key, in bounded memory. A bucket that is full again says nothing that a new one would not: those are
//! the ones that make room. Where there are none, what comes new shares one bucket, so that nobody escapes a limit by
//! inventing keys, nor is anybody's count forgotten.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Left, Limit};
use crate::limit::TokenBucket;

/// Buckets at a time, of all limits of a port together: about 6 MiB if all are used.
pub const MOST_KEYS: usize = 65_536;
const SHARDS: usize = 16;
/// Buckets that are looked at to find a full one.
const LOOKS: usize = 16;

/// Token buckets by key.
#[derive(Debug)]
pub struct Store {
    shards: [Mutex<Shard>; SHARDS],
    most_in_shard: usize,
    /// A key is known by two hashes of it under seeds that nobody knows: nobody can make two that meet.
    seeds: [RandomState; 2],
    evicted: AtomicU64,
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<u128, usize>,
    buckets: Vec<(u128, TokenBucket)>,
    /// Of the clock that looks for full buckets.
    hand: usize,
    /// Shared by keys that found no room, by name of their limit. Not counted in the bound: there are as many as limits.
    overflow: HashMap<Arc<str>, TokenBucket>,
}

impl Default for Store {
    fn default() -> Self {
        Self::bounded(MOST_KEYS)
    }
}

impl Store {
    /// A store of another size.
    pub(super) fn bounded(most: usize) -> Self {
        Store {
            shards: Default::default(),
            most_in_shard: most.div_ceil(SHARDS),
            seeds: Default::default(),
            evicted: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// What a combination of values under a limit is known by.
    pub(super) fn key(&self, limit: &str, values: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u128 {
        let mut hashers = self.seeds.each_ref().map(BuildHasher::build_hasher);
        let mut see = |value: &[u8]| {
            for hasher in &mut hashers {
                // Its length before it: "ab" and "c" are not "a" and "bc".
                hasher.write_usize(value.len());
                hasher.write(value);
            }
        };
        see(limit.as_bytes());
        values(&mut see);
        let [high, low] = hashers.map(|hasher| hasher.finish());
        u128::from(high) << 64 | u128::from(low)
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one. Nothing was taken.
    pub(super) fn take(&self, key: u128, limit: &Limit, now: Instant) -> Result<Left, Duration> {
        self.with(key, limit, now, |bucket| match bucket.take(1, now) {
            Ok(()) => Ok(Left {
                tokens: bucket.tokens(now) as u32,
                full_in: bucket.until(bucket.burst(), now).unwrap_or(limit.per),
            }),
            Err(wait) => Err(wait.unwrap_or(limit.per)),
        })
    }

    /// Puts back what was taken for a call that another limit refused.
    pub(super) fn give(&self, key: u128, limit: &Limit, now: Instant) {
        self.with(key, limit, now, |bucket| bucket.give(1.0, now));
    }

    /// Buckets at present.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().buckets.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Full buckets that made room for new ones, ever.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Calls that were counted in a shared bucket for want of room, ever.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn with<T>(&self, key: u128, limit: &Limit, now: Instant, act: impl FnOnce(&mut TokenBucket) -> T) -> T {
        let (rate, burst) = (limit.per_second(), f64::from(limit.burst));
        let fresh = || TokenBucket::new(rate, burst, now);
        // The high bits choose the shard, the map uses the others.
        let mut shard = self.shards[(key >> 124) as usize % SHARDS].lock();
        let bucket = match shard.place(key, self.most_in_shard, now, fresh) {
            Place::Known(bucket) => bucket,
            Place::New { bucket, evicted } => {
                self.evicted.fetch_add(u64::from(evicted), Ordering::Relaxed);
                bucket
            }
            Place::None => {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                shard.overflow.entry(Arc::clone(&limit.name)).or_insert_with(fresh)
            }
        };
        // The limit may have been changed since.
        bucket.retune(rate, burst, now);
        act(bucket)
    }
}

enum Place<'s> {
    Known(&'s mut TokenBucket),
    New { bucket: &'s mut TokenBucket, evicted: bool },
    None,
}

impl Shard {
    fn place(&mut self, key: u128, most: usize, now: Instant, fresh: impl FnOnce() -> TokenBucket) -> Place<'_> {
        let free = match self.places.get(&key) {
            Some(place) => return self.buckets.get_mut(*place).map_or(Place::None, |(_, bucket)| Place::Known(bucket)),
            None if self.buckets.len() < most => None,
            None => match self.full(now) {
                Some(place) => Some(place),
                None => return Place::None,
            },
        };
        let place = match free {
            None => {
                self.buckets.push((key, fresh()));
                self.buckets.len() - 1
            }
            Some(place) => {
                let old = std::mem::replace(&mut self.buckets[place], (key, fresh()));
                self.places.remove(&old.0);
                place
            }
        };
        self.places.insert(key, place);
        let bucket = &mut self.buckets[place].1;
        Place::New { bucket, evicted: free.is_some() }
    }

    /// The place of a bucket that is full, among the next few.
    fn full(&mut self, now: Instant) -> Option<usize> {
        for _ in 0..LOOKS.min(self.buckets.len()) {
            self.hand = (self.hand + 1) % self.buckets.len();
            let (_, bucket) = &mut self.buckets[self.hand];
            if bucket.tokens(now) >= bucket.burst() {
                return Some(self.hand);
            }
        }
        None
    }
}
