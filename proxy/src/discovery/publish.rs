//! From what discovery holds to what workers read: builds snapshots, and keeps the live endpoint sets across them.
//!
//! A cluster outlives the versions of its configuration: breakers, load and in-flight counts belong to it, and it is told of a change
//! rather than replaced.

use super::held::Held;
use super::state::State;
use super::{Alias, Directory, Entry, Shared, Snapshot};
use crate::endpoint::{Cluster, Place};
use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt, HashSet};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use weft_policy::config;

/// The writing end of a [`Directory`]. Owned by the task that owns the [`State`].
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    clusters: BTreeMap<(Arc<str>, u16), Live>,
    bundles: watch::Sender<Bundles>,
}

/// The trust bundles in force, by trust domain.
pub type Bundles = Arc<BTreeMap<String, Arc<config::TrustBundle>>>;

#[derive(Debug)]
struct Live {
    cluster: Arc<Cluster>,
    backend: Arc<config::Backend>,
    slices: Vec<Option<Arc<Held<config::Endpoints>>>>,
}

impl Publisher {
    /// A directory with nothing in it, its writing end, and the names that calls ask for.
    #[must_use]
    pub fn new() -> (Directory, Self, mpsc::Receiver<Alias>) {
        let (asks, asked) = mpsc::channel(1024);
        let empty = Snapshot {
            generation: 0,
            services: HashMap::new(),
            clusters: HashMap::new(),
            hosts: HashMap::new(),
            vips: HashMap::new(),
            complete: false,
            inbound: None,
            settings: Arc::new(unset()),
        };
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(empty),
            published: watch::Sender::new(0),
            inbound: watch::Sender::new(0),
            asks,
        });
        let publisher =
            Self { shared: shared.clone(), clusters: BTreeMap::new(), bundles: watch::Sender::new(Bundles::default()) };
        (Directory(shared), publisher, asked)
    }

    /// Follows the trust bundles.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.subscribe()
    }

    /// Publishes what the state has in force.
    pub fn publish(&mut self, state: &State) {
        let before = self.shared.snapshot.load_full();
        let mut services = HashMap::new();
        let mut clusters: HashMap<Arc<str>, Vec<(u16, Arc<Cluster>)>> = HashMap::new();
        let mut live = BTreeMap::new();
        let own = state.inbound.held.as_ref().map_or_else(Place::default, |held| Place {
            region: Arc::clone(&held.value.region),
            zone: Arc::clone(&held.value.zone),
        });
        // A fallback is the frontend's, and stands in for whichever backend its routes chose.
        let active = state.services.values().filter_map(|slot| slot.active.as_ref());
        let frontends = active.flat_map(|active| active.held.value.ports.iter().map(|port| &port.frontend));
        let replaceable: HashSet<_> = frontends
            .filter(|frontend| frontend.fallback.is_some())
            .flat_map(|frontend| frontend.routes.rules().iter().flat_map(|rule| rule.targets()).cloned())
            .collect();
        for slot in state.services.values() {
            let Some(active) = &slot.active else { continue };
            let service = &active.held.value;
            services.insert(service.name.clone(), service.clone());
            for port in &service.ports {
                let key = (service.name.clone(), port.port);
                let slices: Vec<_> = (port.backend.slices.iter())
                    .map(|name| state.slices.get(&**name).and_then(|slot| slot.held.clone()))
                    .collect();
                let kept = self.keep(&key, &port.backend, slices);
                let has_fallback = port.frontend.fallback.is_some() || replaceable.contains(kept.cluster.name());
                kept.cluster.situate(&own, has_fallback);
                clusters.entry(key.0.clone()).or_default().push((port.port, kept.cluster.clone()));
                live.insert(key, kept);
            }
        }
        self.clusters = live;
        let (mut hosts, mut vips) = (HashMap::new(), HashMap::new());
        for (alias, (service, used)) in state.aliases() {
            let entry = Entry { service: service.map(|s| s.held.value.clone()), used };
            match alias {
                Alias::Host(host) => _ = hosts.insert(host.into_boxed_str(), entry),
                Alias::Vip(ip) => _ = vips.insert(ip, entry),
            }
        }
        let inbound = state.inbound.held.as_ref().map(|h| h.value.clone());
        let inbound_changed = match (&before.inbound, &inbound) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b),
            (None, None) => false,
            _ => true,
        };
        let generation = before.generation + 1;
        self.shared.snapshot.store(Arc::new(Snapshot {
            generation,
            services,
            clusters,
            hosts,
            vips,
            complete: state.is_complete(),
            inbound,
            settings: state.settings.held.as_ref().map_or_else(|| before.settings.clone(), |h| h.value.clone()),
        }));
        let bundles: BTreeMap<String, Arc<config::TrustBundle>> = (state.bundles.iter())
            .filter(|(name, _)| state.believes(name))
            .filter_map(|(name, slot)| Some((name.clone(), slot.held.as_ref()?.value.clone())))
            .collect();
        let bundles_changed = self.bundles.send_if_modified(|current| {
            let changed = **current != bundles;
            if changed {
                *current = Arc::new(bundles);
            }
            changed
        });
        self.shared.published.send_replace(generation);
        if inbound_changed || bundles_changed {
            self.shared.inbound.send_modify(|n| *n += 1);
        }
    }

    fn keep(
        &mut self,
        key: &(Arc<str>, u16),
        backend: &Arc<config::Backend>,
        slices: Vec<Option<Arc<Held<config::Endpoints>>>>,
    ) -> Live {
        let endpoints = || -> Vec<config::Endpoint> {
            slices.iter().flatten().flat_map(|held| held.value.endpoints.iter().cloned()).collect()
        };
        match self.clusters.remove(key) {
            Some(mut kept) => {
                let same = |a: &Option<Arc<Held<_>>>, b: &Option<Arc<Held<_>>>| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                };
                let unchanged = kept.slices.len() == slices.len()
                    && kept.slices.iter().zip(&slices).all(|(a, b)| same(a, b))
                    && kept.backend == *backend;
                if !unchanged {
                    kept.cluster.update(backend.clone(), endpoints());
                    (kept.backend, kept.slices) = (backend.clone(), slices);
                }
                kept
            }
            None => {
                let cluster = Cluster::new(key.0.clone(), key.1, backend.clone());
                cluster.update(backend.clone(), endpoints());
                Live { cluster, backend: backend.clone(), slices }
            }
        }
    }
}

/// Settings before any were received: nothing is assumed of the mesh, and what is not known passes.
fn unset() -> config::Settings {
    config::Settings {
        trust_domain: "".into(),
        domain: "".into(),
        egress: config::Egress::PassThrough,
        mesh_cidrs: Vec::new(),
        federated: Vec::new(),
        tracing: None,
        access_log: None,
    }
}
