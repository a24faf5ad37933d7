//! The control plane's side: one bucket for each (limit, key), parted among those who ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_proto::v1;

use super::{LONGEST_VALUE, OVERFLOW, VALID};
use crate::limit::TokenBucket;

/// Who asks: one number for each control stream.
pub type ClientId = u64;

/// What a limit says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Calls in a second, on average.
    pub per_second: f64,
    /// Size of the bucket.
    pub burst: u32,
    /// Sidecars that enforce it.
    pub instances: u32,
}

/// Buckets at a time.
const MOST_POOLS: usize = 65_536;
/// Who has not asked for this long has no part in a bucket any more.
const REMEMBERED: Duration = Duration::from_secs(3);
/// When to ask again for a bucket that is empty.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(30);
/// More is no rate of one sidecar: it keeps sums of what peers say within bounds.
const MOST_DEMAND: u32 = 10_000_000;
/// Keys have at most 8 values.
const LONGEST_KEY: usize = 8 * (LONGEST_VALUE + 1);

/// The buckets of all global limits.
#[derive(Debug)]
pub struct Allocator {
    terms: HashMap<Arc<str>, Terms>,
    /// By limit, then by key.
    pools: HashMap<Arc<str>, HashMap<Box<[u8]>, Pool>>,
    count: usize,
    most: usize,
    overflowed: u64,
}

/// One bucket and who draws on it.
#[derive(Debug)]
struct Pool {
    bucket: TokenBucket,
    askers: HashMap<ClientId, Asker>,
}

#[derive(Debug)]
struct Asker {
    demand: u32,
    seen: Instant,
    /// Tokens leased and not returned: no more can come back.
    outstanding: u64,
}

impl Default for Allocator {
    fn default() -> Self {
        Self::bounded(MOST_POOLS)
    }
}

impl Allocator {
    /// For so many buckets.
    pub(super) fn bounded(most: usize) -> Self {
        Allocator { terms: HashMap::new(), pools: HashMap::new(), count: 0, most, overflowed: 0 }
    }

    /// The limits there are. Buckets of those that stay keep what they hold.
    pub fn configure(&mut self, limits: impl IntoIterator<Item = (Arc<str>, Terms)>) {
        self.terms = limits.into_iter().collect();
        self.pools.retain(|name, _| self.terms.contains_key(name));
        self.count = self.pools.values().map(HashMap::len).sum();
    }

    /// Answers one ask. `None`: there is no such limit, or the key is malformed. Whether the asker may ask for this limit
    /// is for the caller to know.
    pub fn ask(&mut self, client: ClientId, ask: &v1::LeaseAsk, now: Instant) -> Option<v1::Lease> {
        let (name, terms) =
            self.terms.get_key_value(ask.limit.as_str()).map(|(name, terms)| (Arc::clone(name), *terms))?;
        if ask.key.len() > LONGEST_KEY {
            return None;
        }
        let pool = self.pool(name, &ask.key, terms, now);
        pool.bucket.retune(terms.per_second, f64::from(terms.burst), now);
        pool.askers.retain(|id, asker| *id == client || now.saturating_duration_since(asker.seen) < REMEMBERED);
        let asker = pool.askers.entry(client).or_insert(Asker { demand: 0, seen: now, outstanding: 0 });

        let returned = u64::from(ask.returned).min(asker.outstanding);
        asker.outstanding -= returned;
        pool.bucket.give(returned as f64, now);
        pool.bucket.owe(f64::from(ask.overdrawn), now);
        (asker.demand, asker.seen) = (ask.demand.max(ask.wanted).min(MOST_DEMAND), now);
        // Never more than a second's worth of what the asker has to do.
        let wanted = ask.wanted.min(asker.demand);

        let mine = u64::from(asker.demand);
        let all: u64 = pool.askers.values().map(|asker| u64::from(asker.demand)).sum();
        let share = if all == 0 { 1.0 } else { mine as f64 / all as f64 };
        let there = pool.bucket.tokens(now).max(0.0).floor();
        // A bucket that fills slowly never holds one for everybody: whoever comes first has it.
        let mut tokens = if there < 1.0 { 0 } else { wanted.min((there * share).floor().max(1.0) as u32) };
        if pool.bucket.take(tokens, now).is_err() {
            tokens = 0;
        }
        if let Some(asker) = pool.askers.get_mut(&client) {
            asker.outstanding += u64::from(tokens);
        }
        let next = pool.bucket.until(1.0, now).unwrap_or(LATEST).clamp(SOONEST, LATEST);
        Some(v1::Lease {
            limit: ask.limit.clone(),
            key: ask.key.clone(),
            tokens,
            valid_ms: VALID.as_millis() as u32,
            share_millionths: ((share * 1e6) as u32).max(1),
            retry_ms: if tokens == 0 && wanted > 0 { next.as_millis() as u32 } else { 0 },
            instances: terms.instances,
        })
    }

    /// Answers all asks of a message.
    pub fn request(&mut self, client: ClientId, request: &v1::LeaseRequest, now: Instant) -> v1::LeaseGrant {
        v1::LeaseGrant { leases: request.asks.iter().filter_map(|ask| self.ask(client, ask, now)).collect() }
    }

    /// Tells a sidecar, when its stream begins, how many enforce each of its limits: until it has leased from a bucket
    /// it keeps to that part of it.
    pub fn announce<'l>(&self, limits: impl IntoIterator<Item = &'l str>) -> v1::LeaseGrant {
        let lease = |name: &str| {
            let instances = self.terms.get(name)?.instances;
            Some(v1::Lease { limit: name.into(), instances, ..Default::default() })
        };
        v1::LeaseGrant { leases: limits.into_iter().filter_map(lease).collect() }
    }

    /// A stream has ended: what its sidecar holds is spent, for all that is known.
    pub fn lost(&mut self, client: ClientId) {
        for pool in self.pools.values_mut().flat_map(HashMap::values_mut) {
            pool.askers.remove(&client);
        }
    }

    /// Forgets buckets that are full: a new one would be the same. Now and then, every few seconds.
    pub fn sweep(&mut self, now: Instant) {
        for pools in self.pools.values_mut() {
            pools.retain(|_, pool| {
                pool.askers.retain(|_, asker| now.saturating_duration_since(asker.seen) < REMEMBERED);
                !pool.askers.is_empty() || pool.bucket.tokens(now) < pool.bucket.burst()
            });
        }
        self.count = self.pools.values().map(HashMap::len).sum();
    }

    /// Buckets at present.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Asks that were answered from a shared bucket for want of room, ever.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Tokens that are out with a client, and may come back.
    #[cfg(test)]
    pub(super) fn outstanding(&self, limit: &str, key: &[u8], client: ClientId) -> u64 {
        let pool = self.pools.get(limit).and_then(|pools| pools.get(key));
        pool.and_then(|pool| pool.askers.get(&client)).map_or(0, |asker| asker.outstanding)
    }

    fn pool(&mut self, name: Arc<str>, key: &[u8], terms: Terms, now: Instant) -> &mut Pool {
        let pools = self.pools.entry(name).or_default();
        let known = pools.contains_key(key);
        let key = if known || self.count < self.most { key } else { OVERFLOW };
        self.overflowed += u64::from(!known && key == OVERFLOW);
        if !pools.contains_key(key) {
            // Those that are shared are not counted: there are as many as limits.
            self.count += usize::from(key != OVERFLOW);
        }
        pools.entry(key.into()).or_insert_with(|| Pool {
            bucket: TokenBucket::new(terms.per_second, f64::from(terms.burst), now),
            askers: HashMap::new(),
        })
    }
}
