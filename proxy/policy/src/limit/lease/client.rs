//! The sidecar's side: spends leases, asks for more, and knows what to admit without one.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use parking_lot::Mutex;
use weft_proto::v1;

use super::{OVERFLOW, PATIENCE};
use crate::limit::TokenBucket;
use crate::limit::rate::{Left, Limit};

/// Buckets at a time.
const MOST_BUCKETS: usize = 16_384;
/// Limits that are remembered.
const MOST_LIMITS: usize = 4096;
/// Asks in one message.
const MOST_ASKS: usize = 512;
const SECOND: Duration = Duration::from_secs(1);

/// The leases of one sidecar, for all its ports. Shared by all workers.
#[derive(Debug)]
pub struct Client {
    state: Mutex<State>,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    /// By limit, then by key.
    limits: HashMap<Arc<str>, Account>,
    count: usize,
    overflowed: u64,
    /// Buckets that want to ask, each once.
    queue: Vec<(Arc<str>, Box<[u8]>)>,
}

#[derive(Debug)]
struct Account {
    /// Sidecars that enforce the limit, as far as is known.
    instances: u32,
    buckets: HashMap<Box<[u8]>, Bucket>,
}

/// What this sidecar may admit of one (limit, key).
#[derive(Debug)]
struct Bucket {
    /// Leased.
    tokens: u32,
    expires: Instant,
    /// Whether leases are what counts: one was answered, and the control plane has not gone away since.
    leasing: bool,
    /// Without leases: this sidecar's part of the limit.
    reserve: TokenBucket,
    /// Admitted from the reserve, and not yet confessed.
    overdrawn: u32,
    share: f64,
    demand: Demand,
    asked: Option<Instant>,
    ask_after: Instant,
    queued: bool,
    used: Instant,
    /// How long a bucket of the limit takes to fill: what is idle for longer says nothing any more.
    fills_in: Duration,
}

/// Calls that wanted to begin in a second.
#[derive(Debug)]
struct Demand {
    began: Instant,
    current: u32,
    previous: u32,
}

impl Default for Client {
    fn default() -> Self {
        Self::bounded(MOST_BUCKETS)
    }
}

impl Client {
    /// For so many buckets.
    pub(super) fn bounded(most: usize) -> Self {
        Client { state: Mutex::default(), most }
    }

    /// Takes a token. Whether there is something to ask for afterwards is [`Self::wants`]'s to say.
    ///
    /// # Errors
    /// How long until there may be one.
    pub fn take(&self, limit: &Limit, key: &[u8], now: Instant) -> Result<Left, Duration> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let connected = state.connected;
        let (name, key) = state.locate(limit, key, self.most, now);
        let Some(bucket) = state.bucket(&name, &key) else { return Err(SECOND) };
        bucket.used = now;
        bucket.demand.count(now);
        let taken = bucket.take(limit, connected, now);
        if !bucket.queued && connected && bucket.wants(now) {
            bucket.queued = true;
            state.queue.push((name, key));
        }
        taken
    }

    /// Puts back what was taken for a call that another limit refused.
    pub fn give(&self, limit: &Limit, key: &[u8], now: Instant) {
        let mut state = self.state.lock();
        let known = state.limits.get_mut(&limit.name).and_then(|account| {
            let key = if account.buckets.contains_key(key) { key } else { OVERFLOW };
            account.buckets.get_mut(key)
        });
        let Some(bucket) = known else { return };
        if bucket.leasing {
            bucket.tokens = bucket.tokens.saturating_add(1);
        } else {
            bucket.reserve.give(1.0, now);
            bucket.overdrawn = bucket.overdrawn.saturating_sub(1);
        }
    }

    /// Whether the control stream is up. Down, every bucket falls back to this sidecar's share: what is leased may still
    /// be spent while it is valid.
    pub fn connected(&self, up: bool, now: Instant) {
        let mut state = self.state.lock();
        state.connected = up;
        state.queue.clear();
        for bucket in state.limits.values_mut().flat_map(|account| account.buckets.values_mut()) {
            (bucket.asked, bucket.queued) = (None, false);
            bucket.ask_after = now;
            if !up {
                bucket.fall_back(now);
            }
        }
    }

    /// Whether [`Self::asks`] would ask for anything.
    pub fn wants(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// What to ask now, at most a few hundred buckets at a time; `None`: nothing. To be sent at once: an ask that is not
    /// answered within a second counts as one that the control plane was away for.
    pub fn asks(&self, now: Instant) -> Option<v1::LeaseRequest> {
        let mut state = self.state.lock();
        if !state.connected {
            return None;
        }
        let rest = state.queue.len().saturating_sub(MOST_ASKS);
        let due = state.queue.split_off(rest);
        let mut asks = Vec::with_capacity(due.len());
        for (name, key) in due {
            if let Some(bucket) = state.bucket(&name, &key) {
                bucket.queued = false;
                asks.extend(bucket.ask(&name, &key, now));
            }
        }
        (!asks.is_empty()).then_some(v1::LeaseRequest { asks })
    }

    /// Takes what was granted, or announced.
    pub fn granted(&self, grant: &v1::LeaseGrant, now: Instant) {
        let mut state = self.state.lock();
        for lease in &grant.leases {
            let name = lease.limit.as_str();
            if !state.limits.contains_key(name) && state.limits.len() < MOST_LIMITS {
                state.limits.insert(name.into(), Account { instances: 1, buckets: HashMap::default() });
            }
            let Some(account) = state.limits.get_mut(name) else { continue };
            if lease.instances > 0 {
                account.instances = lease.instances;
            }
            if let Some(bucket) = account.buckets.get_mut(lease.key.as_slice()) {
                bucket.granted(lease, now);
            }
        }
    }

    /// Returns what has expired, and forgets buckets that say nothing any more. About once a second.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.state.lock();
        let State { limits, queue, count, connected, .. } = &mut *state;
        for (name, account) in limits.iter_mut() {
            account.buckets.retain(|key, bucket| {
                let leftover = bucket.tokens > 0 && now >= bucket.expires;
                let confession = bucket.overdrawn > 0 && bucket.asked.is_none();
                if (leftover || confession) && *connected && !bucket.queued {
                    bucket.queued = true;
                    queue.push((Arc::clone(name), key.clone()));
                }
                let idle = now.saturating_duration_since(bucket.used);
                bucket.queued || bucket.tokens > 0 || idle < bucket.fills_in.max(2 * SECOND)
            });
        }
        if limits.len() > MOST_LIMITS {
            limits.retain(|_, account| !account.buckets.is_empty());
        }
        *count = limits.values().map(|account| account.buckets.len()).sum();
    }

    /// Buckets at present.
    pub fn len(&self) -> usize {
        self.state.lock().count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls that were counted in a shared bucket for want of room, ever.
    pub fn overflowed(&self) -> u64 {
        self.state.lock().overflowed
    }
}

impl State {
    fn bucket(&mut self, name: &str, key: &[u8]) -> Option<&mut Bucket> {
        self.limits.get_mut(name)?.buckets.get_mut(key)
    }

    /// The name and key of the bucket that a call counts in, made if need be.
    fn locate(&mut self, limit: &Limit, key: &[u8], most: usize, now: Instant) -> (Arc<str>, Box<[u8]>) {
        let new = || Account { instances: 1, buckets: HashMap::default() };
        let account = self.limits.entry(Arc::clone(&limit.name)).or_insert_with(new);
        let known = account.buckets.contains_key(key);
        let key = if known || self.count < most { key } else { OVERFLOW };
        self.overflowed += u64::from(!known && key == OVERFLOW);
        if !account.buckets.contains_key(key) {
            self.count += usize::from(key != OVERFLOW);
            let share = 1.0 / f64::from(account.instances.max(1));
            account.buckets.insert(key.into(), Bucket::new(limit, share, now));
        }
        (Arc::clone(&limit.name), key.into())
    }
}

impl Bucket {
    fn new(limit: &Limit, share: f64, now: Instant) -> Self {
        let (rate, burst) = part(limit, share);
        let fills_in = Duration::try_from_secs_f64(f64::from(limit.burst) / limit.per_second()).unwrap_or(limit.per);
        Bucket {
            tokens: 0,
            expires: now,
            leasing: false,
            reserve: TokenBucket::new(rate, burst, now),
            overdrawn: 0,
            share,
            demand: Demand { began: now, current: 0, previous: 0 },
            asked: None,
            ask_after: now,
            queued: false,
            used: now,
            fills_in,
        }
    }

    fn take(&mut self, limit: &Limit, connected: bool, now: Instant) -> Result<Left, Duration> {
        let (rate, burst) = part(limit, self.share);
        self.reserve.retune(rate, burst, now);
        let full_in = || Duration::from_secs_f64((f64::from(limit.burst) / limit.per_second()).min(86_400.0));
        if self.tokens > 0 && now < self.expires {
            self.tokens -= 1;
            return Ok(Left { tokens: self.tokens, full_in: full_in().min(SECOND) });
        }
        let unanswered = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) >= PATIENCE);
        if self.leasing && (unanswered || !connected) {
            self.fall_back(now);
        }
        if unanswered {
            self.asked = None;
        }
        if self.leasing {
            // Empty for all: what the control plane told, else a round trip or so.
            let wait = self.ask_after.saturating_duration_since(now);
            return Err(wait.max(Duration::from_millis(1)));
        }
        match self.reserve.take(1, now) {
            Ok(()) => {
                self.overdrawn = self.overdrawn.saturating_add(1);
                let full_in = self.reserve.until(burst, now).unwrap_or(limit.per);
                Ok(Left { tokens: self.reserve.tokens(now) as u32, full_in })
            }
            Err(wait) => Err(wait.unwrap_or(limit.per)),
        }
    }

    /// From leases to the reserve, which is empty then: what there was has been spent.
    fn fall_back(&mut self, now: Instant) {
        if self.leasing {
            self.leasing = false;
            let held = self.reserve.tokens(now);
            self.reserve.owe(held, now);
        }
    }

    /// Whether to ask: half of what a second needs is gone, or something is to be confessed.
    fn wants(&self, now: Instant) -> bool {
        let valid = if now < self.expires { self.tokens } else { 0 };
        self.asked.is_none() && now >= self.ask_after && u64::from(valid) * 2 < u64::from(self.demand.at(now))
    }

    fn ask(&mut self, name: &str, key: &[u8], now: Instant) -> Option<v1::LeaseAsk> {
        let returned = if now < self.expires { 0 } else { std::mem::take(&mut self.tokens) };
        // After a long outage no more than the reserve lacks: what is older the bucket would have refilled.
        let lacking = (self.reserve.burst() - self.reserve.tokens(now)).ceil().max(0.0) as u32;
        let overdrawn = std::mem::take(&mut self.overdrawn);
        let overdrawn = if self.leasing { overdrawn } else { overdrawn.min(lacking) };
        let demand = self.demand.at(now);
        let wanted = demand.saturating_sub(self.tokens);
        if wanted == 0 && returned == 0 && overdrawn == 0 {
            return None;
        }
        self.asked = Some(now);
        Some(v1::LeaseAsk { limit: name.into(), key: key.into(), demand, wanted, returned, overdrawn })
    }

    fn granted(&mut self, lease: &v1::Lease, now: Instant) {
        if lease.share_millionths == 0 {
            // An announcement: it answers nothing.
            return;
        }
        // Valid from when it was asked for: however long the answer took, both sides agree on when it ends.
        let from = self.asked.take().unwrap_or(now);
        let until = from + Duration::from_millis(u64::from(lease.valid_ms.min(60_000)));
        self.leasing = true;
        if lease.tokens > 0 {
            self.tokens = self.tokens.saturating_add(lease.tokens);
            self.expires = self.expires.max(until);
        }
        self.share = (f64::from(lease.share_millionths) / 1e6).clamp(1e-6, 1.0);
        self.ask_after = now + Duration::from_millis(u64::from(lease.retry_ms.min(60_000)));
    }
}

/// Rate and burst of a part of a limit: one call at least, or a small part could never admit any.
fn part(limit: &Limit, share: f64) -> (f64, f64) {
    (limit.per_second() * share, (f64::from(limit.burst) * share).max(1.0))
}

impl Demand {
    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.current = self.current.saturating_add(1);
    }

    /// The busier of this second and the one before.
    fn at(&self, now: Instant) -> u32 {
        let past = now.saturating_duration_since(self.began);
        match past {
            past if past < SECOND => self.current.max(self.previous),
            past if past < 2 * SECOND => self.current,
            _ => 0,
        }
    }

    fn turn(&mut self, now: Instant) {
        let past = now.saturating_duration_since(self.began);
        if past >= SECOND {
            self.previous = if past < 2 * SECOND { self.current } else { 0 };
            (self.current, self.began) = (0, now);
        }
    }
}
