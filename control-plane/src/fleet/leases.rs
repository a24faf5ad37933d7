//! Global rate limits: parts the tokens of a limit among the sidecars that enforce it, on their control streams.
//!
//! How tokens are parted is `weft_policy::limit::lease`'s; which limits there are, and who may ask for them, comes from what was compiled
//! last. Buckets live in this process: after a restart they are full again.

use crate::store::Lead;
use crate::world::reconcile::Compiled;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_policy::limit::lease::{Allocator, ClientId, Terms};
use weft_proto::v1;

/// How often buckets that say nothing any more are forgotten.
const SWEEP: Duration = Duration::from_secs(5);

/// The buckets of all global limits.
#[derive(Debug)]
pub struct Leases {
    compiled: watch::Receiver<Compiled>,
    /// Whose tokens count.
    lead: watch::Receiver<Lead>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    allocator: Allocator,
    /// What the limits were last taken from.
    generation: u64,
    /// Limits by the workload that enforces them.
    enforced: Enforced,
    swept: Instant,
}

impl Leases {
    /// Over what is compiled from now on, for as long as this control plane leads: tokens that two give out are too many.
    #[must_use]
    pub fn new(compiled: watch::Receiver<Compiled>, lead: watch::Receiver<Lead>) -> Arc<Self> {
        let state =
            State { allocator: Allocator::default(), generation: 0, enforced: HashMap::new(), swept: Instant::now() };
        Arc::new(Self { compiled, lead, state: Mutex::new(state) })
    }

    /// What a stream that begins is told; `None`: its workload enforces no global limit.
    pub fn announce(&self, uid: &str) -> Option<v1::LeaseGrant> {
        let mut state = self.state.lock();
        state.follow(&self.compiled);
        let State { allocator, enforced, .. } = &*state;
        let limits = enforced.get(uid)?;
        Some(allocator.announce(limits.iter().map(|name| &**name)))
    }

    /// Answers asks of a workload's sidecar; those for limits that it does not enforce get nothing.
    pub fn request(&self, client: ClientId, uid: &str, mut request: v1::LeaseRequest) -> v1::LeaseGrant {
        if !self.lead.borrow().is_certain() {
            return v1::LeaseGrant::default();
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        state.follow(&self.compiled);
        if now.saturating_duration_since(state.swept) > SWEEP {
            state.swept = now;
            state.allocator.sweep(now);
        }
        let State { allocator, enforced, .. } = &mut *state;
        let own = enforced.get(uid).map_or(&[][..], Vec::as_slice);
        request.asks.retain(|ask| own.iter().any(|name| **name == *ask.limit));
        allocator.request(client, &request, now)
    }

    /// A stream has ended.
    pub fn lost(&self, client: ClientId) {
        self.state.lock().allocator.lost(client);
    }
}

impl State {
    fn follow(&mut self, compiled: &watch::Receiver<Compiled>) {
        let compiled = compiled.borrow();
        if compiled.generation == self.generation {
            return;
        }
        self.generation = compiled.generation;
        let (terms, enforced) = limits(compiled.inbound().map(|(uid, guarded)| (uid, &*guarded.global)));
        self.allocator.configure(terms);
        self.enforced = enforced;
    }
}

/// Limits by name.
type AllTerms = BTreeMap<Arc<str>, Terms>;
/// Names of limits by the workload that enforces them.
type Enforced = HashMap<String, Vec<Arc<str>>>;

/// The global limits of all workloads, and which workload enforces which.
fn limits<'i>(workloads: impl Iterator<Item = (&'i str, &'i [v1::RateLimit])>) -> (AllTerms, Enforced) {
    let (mut terms, mut enforced) = (AllTerms::new(), Enforced::new());
    for (uid, limits) in workloads {
        for limit in limits {
            let seconds = limit.per.as_ref().map_or(1.0, |per| per.seconds as f64 + f64::from(per.nanos) / 1e9);
            let burst = if limit.burst == 0 { limit.requests } else { limit.burst };
            let name: Arc<str> = limit.name.as_str().into();
            let own = enforced.entry(uid.to_owned()).or_default();
            // One limit on several ports of a workload is enforced by it once.
            if own.contains(&name) {
                continue;
            }
            own.push(Arc::clone(&name));
            let per_second = f64::from(limit.requests) / seconds.max(1e-3);
            let of_limit = terms.entry(name).or_insert(Terms { per_second, burst, instances: 0 });
            of_limit.instances += 1;
        }
    }
    (terms, enforced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Guarded;

    fn inbound(limit: &str, scope: v1::RateLimitScope) -> v1::Inbound {
        let limit = v1::RateLimit {
            name: limit.to_owned(),
            requests: 60,
            per: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            scope: scope.into(),
            ..Default::default()
        };
        let port = |number| v1::InboundPort { port: number, rate_limits: vec![limit.clone()], ..Default::default() };
        v1::Inbound { ports: vec![port(80), port(81)], ..Default::default() }
    }

    #[test]
    fn a_limit_is_parted_among_the_workloads_that_enforce_it_and_no_others() {
        let all: BTreeMap<String, Guarded> = [
            ("shop/a".to_owned(), inbound("shop/catalog/all", v1::RateLimitScope::Global)),
            ("shop/b".to_owned(), inbound("shop/catalog/all", v1::RateLimitScope::Global)),
            ("shop/c".to_owned(), inbound("shop/orders/own", v1::RateLimitScope::Local)),
        ]
        .into_iter()
        .map(|(uid, inbound)| (uid.clone(), Guarded::new(uid.as_str(), &inbound)))
        .collect();
        let (terms, enforced) = limits(all.iter().map(|(uid, guarded)| (uid.as_str(), &*guarded.global)));
        let name: Arc<str> = "shop/catalog/all".into();
        assert_eq!(terms, [(name.clone(), Terms { per_second: 1.0, burst: 60, instances: 2 })].into());
        assert_eq!(enforced.get("shop/a"), Some(&vec![name]));
        assert!(!enforced.contains_key("shop/c"), "a local limit is nobody else's business");
    }

    #[test]
    fn a_sidecar_gets_tokens_of_its_own_limits_only() {
        let (_publish, compiled) = watch::channel(Compiled::default());
        let (lead, led) = watch::channel(Lead { mine: true, ..Lead::default() });
        let leases = Leases::new(compiled, led);
        let guarded = Guarded::new("shop/a", &inbound("shop/catalog/all", v1::RateLimitScope::Global));
        let (terms, enforced) = limits(std::iter::once(("shop/a", &*guarded.global)));
        {
            let mut state = leases.state.lock();
            state.allocator.configure(terms);
            state.enforced = enforced;
        }
        let ask = |limit: &str| v1::LeaseRequest {
            asks: vec![v1::LeaseAsk { limit: limit.to_owned(), demand: 5, wanted: 5, ..Default::default() }],
        };
        assert_eq!(leases.request(1, "shop/a", ask("shop/catalog/all")).leases[0].tokens, 5);
        assert!(leases.request(2, "shop/b", ask("shop/catalog/all")).leases.is_empty());
        assert_eq!(leases.announce("shop/a").expect("told").leases[0].instances, 1);
        assert!(leases.announce("shop/b").is_none());
        // What was certain until a moment ago, as after a pause of the process, is not any more.
        lead.send_modify(|lead| lead.until = Some(tokio::time::Instant::now()));
        assert!(leases.request(1, "shop/a", ask("shop/catalog/all")).leases.is_empty());
    }
}
