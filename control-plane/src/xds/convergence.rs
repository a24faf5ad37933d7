//! Which sidecar holds which version of what: the ground truth of `Programmed` (“12 of 12 sidecars hold generation 7”).
//!
//! Streams report in through a [`Guard`], whose drop is the end of the stream. What a version means for an object that people wrote is the
//! compiler's knowledge: it lists the resources that each object shapes, and [`Convergence::held`] counts.

use super::by_type::ByType;
use super::offer::Offer;
use super::session::{Client, Event};
use super::sorted::Sorted;
use crate::compile::Encoded;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::watch;

/// A resource by type URL and name.
pub type Key = (&'static str, String);

/// What one sidecar says of one resource. There is one for each resource of each sidecar: names and versions are shared.
#[derive(Debug, Default)]
struct Held {
    /// Last version that the sidecar said it applied.
    version: Option<Arc<str>>,
    /// What it refused since.
    refused: Option<Box<Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    version: Arc<str>,
    field: String,
    reason: String,
}

#[derive(Debug)]
struct Sidecar {
    client: Client,
    /// Workload uid, once its `Inbound` was granted.
    uid: Option<String>,
    held: ByType<Sorted<Held>>,
}

/// A sidecar that was sent a resource, and what it says of it.
type Holder<'s> = (u64, &'s Sidecar, &'s Held);

/// A refusal by one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Workload uid, or the identity where no uid is known.
    pub sidecar: String,
    /// Resource name.
    pub resource: String,
    /// Path of the field.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// How far a set of resources has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sidecars that hold the newest version of all those they need.
    pub hold: usize,
    /// Sidecars that need at least one.
    pub need: usize,
    /// Refusals of the newest versions.
    pub refused: Vec<Refused>,
}

/// What all streams hold. Cheap to share.
#[derive(Debug)]
pub struct Convergence {
    sidecars: Mutex<BTreeMap<u64, Sidecar>>,
    next: std::sync::atomic::AtomicU64,
    changed: watch::Sender<u64>,
    shaped: watch::Sender<u64>,
}

/// Endpoints come and go all the time, and no object that people wrote shapes them: who asks after objects is not told of them.
fn is_shaped(type_url: &str) -> bool {
    type_url != weft_proto::type_url::ENDPOINTS
}

impl Default for Convergence {
    fn default() -> Self {
        Self {
            sidecars: Mutex::default(),
            next: 0.into(),
            changed: watch::Sender::new(0),
            shaped: watch::Sender::new(0),
        }
    }
}

impl Convergence {
    /// A stream has begun.
    #[must_use]
    pub fn join(self: &Arc<Self>, client: Client) -> Guard {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.sidecars.lock().insert(id, Sidecar { client, uid: None, held: ByType::default() });
        self.touch(true);
        Guard { all: self.clone(), id }
    }

    /// Changes whenever what is held may have.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes whenever what is held of anything but endpoints may have.
    #[must_use]
    pub fn changes_of_shaped(&self) -> watch::Receiver<u64> {
        self.shaped.subscribe()
    }

    /// Sidecars connected now.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.sidecars.lock().len()
    }

    /// For each set of resources, none of them endpoints: how many sidecars need any of it, and how many of those hold the newest version of all they need.
    #[must_use]
    pub fn held<'a>(&self, offer: &Offer, sets: impl Iterator<Item = &'a BTreeSet<Key>>) -> Vec<Progress> {
        let sidecars = self.sidecars.lock();
        let mut by_key: HashMap<(&str, &str), Vec<Holder<'_>>> = HashMap::new();
        for (id, sidecar) in sidecars.iter() {
            for (url, name, held) in sidecar.shaped() {
                by_key.entry((url, name)).or_default().push((*id, sidecar, held));
            }
        }
        sets.map(|set| {
            let mut needs: BTreeMap<u64, bool> = BTreeMap::new();
            let mut refused = Vec::new();
            for key in set {
                for (id, sidecar, held) in by_key.get(&(key.0, key.1.as_str())).into_iter().flatten() {
                    let Some(newest) = sidecar.offered(offer, key) else { continue };
                    *needs.entry(*id).or_insert(true) &= held.version.as_ref() == Some(&newest.version);
                    if let Some(refusal) = held.refused.as_ref().filter(|r| r.version == newest.version) {
                        refused.push(Refused {
                            sidecar: sidecar.uid.clone().unwrap_or_else(|| sidecar.client.identity.clone()),
                            resource: key.1.clone(),
                            field: refusal.field.clone(),
                            reason: refusal.reason.clone(),
                        });
                    }
                }
            }
            Progress { hold: needs.values().filter(|all| **all).count(), need: needs.len(), refused }
        })
        .collect()
    }

    /// Of the sidecars that need `key`: how many do not hold its newest version yet. A refusal counts as an answer.
    #[must_use]
    pub fn waiting_for(&self, offer: &Offer, keys: &BTreeSet<Key>) -> usize {
        let sidecars = self.sidecars.lock();
        let behind = |sidecar: &&Sidecar| {
            keys.iter().any(|key| {
                let newest = sidecar.offered(offer, key);
                let held = newest.and_then(|n| sidecar.held.get(key.0)?.get(&n.name));
                match (newest, held) {
                    (Some(newest), Some(held)) => {
                        held.version.as_ref() != Some(&newest.version)
                            && held.refused.as_ref().is_none_or(|r| r.version != newest.version)
                    }
                    _ => false,
                }
            })
        };
        sidecars.values().filter(behind).count()
    }

    /// Sidecars that do not hold the newest of what they need, endpoints left out. A refusal counts as an answer.
    #[must_use]
    pub fn behind(&self, offer: &Offer) -> usize {
        let sidecars = self.sidecars.lock();
        let is_behind = |sidecar: &&Sidecar| {
            let snapshot = offer.of(sidecar.uid.as_deref());
            sidecar.shaped().any(|(url, name, held)| {
                snapshot.lookup(&sidecar.client, url, name).is_some_and(|newest| {
                    held.version.as_ref() != Some(&newest.version)
                        && held.refused.as_ref().is_none_or(|refusal| refusal.version != newest.version)
                })
            })
        };
        sidecars.values().filter(is_behind).count()
    }

    /// The workloads whose sidecars need any of these resources.
    #[must_use]
    pub fn holders(&self, keys: &BTreeSet<Key>) -> BTreeSet<String> {
        let sidecars = self.sidecars.lock();
        let holds =
            |sidecar: &Sidecar, (url, name): &Key| sidecar.held.get(url).is_some_and(|of| of.get(name).is_some());
        let needs = |sidecar: &&Sidecar| keys.iter().any(|key| holds(sidecar, key));
        sidecars.values().filter(needs).filter_map(|sidecar| sidecar.uid.clone()).collect()
    }

    fn touch(&self, shaped: bool) {
        self.changed.send_modify(|n| *n += 1);
        if shaped {
            self.shaped.send_modify(|n| *n += 1);
        }
    }
}

impl Sidecar {
    /// What it holds of anything but endpoints.
    fn shaped(&self) -> impl Iterator<Item = (&'static str, &Arc<str>, &Held)> {
        let shaped = self.held.iter().filter(|(url, _)| is_shaped(url));
        shaped.flat_map(|(url, of_type)| of_type.iter().map(move |(name, held)| (url, name, held)))
    }

    fn offered<'o>(&self, offer: &'o Offer, key: &Key) -> Option<&'o Arc<Encoded>> {
        offer.of(self.uid.as_deref()).lookup(&self.client, key.0, &key.1)
    }

    fn name(&mut self, type_url: &str, resource: &str) {
        // An Inbound goes to its own workload alone, so whoever has it is that workload.
        if type_url == weft_proto::type_url::INBOUND {
            self.uid = Some(resource.to_owned());
        }
    }
}

/// One stream's place in the count; dropping it ends the count of that stream.
#[derive(Debug)]
pub struct Guard {
    all: Arc<Convergence>,
    id: u64,
}

impl Guard {
    /// Resources were sent: from now on the sidecar needs them.
    pub fn sent(&self, type_url: &'static str, names: impl Iterator<Item = Arc<str>>) {
        if let Some(sidecar) = self.all.sidecars.lock().get_mut(&self.id) {
            for name in names {
                sidecar.name(type_url, &name);
                if let Some(held) = sidecar.held.get_mut(type_url) {
                    held.entry(name);
                }
            }
        }
        self.all.touch(is_shaped(type_url));
    }

    /// What a request said.
    pub fn apply(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut shaped = false;
        if let Some(sidecar) = self.all.sidecars.lock().get_mut(&self.id) {
            for event in events {
                shaped |= is_shaped(event.type_url());
                match event {
                    Event::Holds { type_url, name, version } => {
                        sidecar.name(type_url, &name);
                        if let Some(held) = sidecar.held.get_mut(type_url) {
                            held.insert(name, Held { version: Some(version), refused: None });
                        }
                    }
                    Event::Refused { type_url, name, version, field, reason } => {
                        if let Some(held) = sidecar.held.get_mut(type_url) {
                            held.entry(name).refused = Some(Box::new(Refusal { version, field, reason }));
                        }
                    }
                    Event::Dropped { type_url, name } => {
                        if let Some(held) = sidecar.held.get_mut(type_url) {
                            held.remove(&name);
                        }
                    }
                }
            }
        }
        self.all.touch(shaped);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all.sidecars.lock().remove(&self.id);
        self.all.touch(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Output, Packed, Variants};
    use weft_proto::{type_url, v1};

    #[test]
    fn progress_counts_sidecars_not_resources_and_a_closed_stream_no_longer_counts() {
        let mut output = Output::default();
        for name in ["shop/a", "shop/b"] {
            let default = Packed::service(&v1::Service { name: name.into(), ..Default::default() });
            output.services.insert(name, Arc::new(Variants { default, by_namespace: BTreeMap::new() }));
        }
        let offer = Offer::default().next(&output, None).0;
        let client = Client { identity: "spiffe://weft.local/ns/shop/sa/x".into(), namespace: "shop".into() };
        let version = |n: &str| offer.stable.lookup(&client, type_url::SERVICE, n).unwrap().version.clone();
        let all = Arc::new(Convergence::default());
        let (one, two) = (all.join(client.clone()), all.join(client.clone()));
        one.sent(type_url::SERVICE, ["shop/a".into(), "shop/b".into()].into_iter());
        two.sent(type_url::SERVICE, ["shop/a".into()].into_iter());
        let holds = |n: &str| Event::Holds { type_url: type_url::SERVICE, name: n.into(), version: version(n) };
        one.apply(vec![holds("shop/a"), holds("shop/b")]);
        let set: BTreeSet<Key> = [(type_url::SERVICE, "shop/a".into()), (type_url::SERVICE, "shop/b".into())].into();
        let progress = |all: &Convergence| all.held(&offer, std::iter::once(&set)).remove(0);
        assert_eq!((progress(&all).hold, progress(&all).need), (1, 2));
        assert_eq!((all.waiting_for(&offer, &set), all.behind(&offer)), (1, 1));
        two.apply(vec![Event::Refused {
            type_url: type_url::SERVICE,
            name: "shop/a".into(),
            version: version("shop/a"),
            field: "ports[0]".into(),
            reason: "no".into(),
        }]);
        assert_eq!(progress(&all).refused.len(), 1);
        assert_eq!((all.waiting_for(&offer, &set), all.behind(&offer)), (0, 0));
        drop(two);
        assert_eq!((progress(&all).hold, progress(&all).need), (1, 1));
    }
}
