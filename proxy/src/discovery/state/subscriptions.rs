//! What to subscribe to, which versions to offer when a stream begins, and what each alias means.

use super::{Answer, State};
use crate::discovery::Alias;
use crate::discovery::held::{HeldService, Slot};
use foldhash::{HashMap, HashMapExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use weft_proto::type_url;

impl State {
    /// The names to be subscribed to, by type. Types without a name are not in it: a first subscription is never empty.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut wanted: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        let mut want = |url: &'static str, name: String| {
            wanted.entry(url).or_default().insert(name);
        };
        if let Some((uid, trust_domain)) = &self.own {
            want(type_url::TRUST_BUNDLE, trust_domain.clone());
            for domain in self.federated() {
                want(type_url::TRUST_BUNDLE, domain.to_owned());
            }
            want(type_url::MESH_SETTINGS, "mesh".to_owned());
            want(type_url::INBOUND, uid.clone());
        }
        for alias in self.asks.keys() {
            want(type_url::SERVICE, alias.to_string());
        }
        let fronted = self.fronted();
        for (name, slot) in self.services.iter().filter(|(_, slot)| slot.parked.is_none()) {
            let versions = [&slot.latest, &slot.active].into_iter().flatten();
            for held in versions {
                for slice in held.slices() {
                    want(type_url::ENDPOINTS, slice.to_string());
                }
                if fronted.has(name) {
                    for (backend, _) in held.refs.iter().filter(|(backend, _)| backend != name) {
                        want(type_url::SERVICE, backend.clone());
                    }
                }
            }
        }
        wanted
    }

    /// Other trust domains that are to be trusted.
    fn federated(&self) -> impl Iterator<Item = &str> {
        self.settings.held.iter().flat_map(|held| held.value.federated.iter().map(|domain| &**domain))
    }

    /// Whether the bundle of a trust domain counts: the own one's for ever, another's while the settings name it. A file means what it says.
    pub(in crate::discovery) fn believes(&self, domain: &str) -> bool {
        let own = self.own.as_ref().is_none_or(|(_, own)| own == domain);
        own || self.federated().any(|other| other == domain)
    }

    /// Versions to offer when a stream begins: what is held of `type_url` and still wanted.
    #[must_use]
    pub fn versions(&self, type_url: &str) -> BTreeMap<String, String> {
        fn of<T>(slots: &BTreeMap<String, Slot<T>>) -> BTreeMap<String, String> {
            slots.iter().filter_map(|(name, slot)| Some((name.clone(), slot.version()?))).collect()
        }
        let wanted = self.wanted().remove(type_url).unwrap_or_default();
        let fronted = self.fronted();
        match type_url {
            type_url::SERVICE => self
                .services
                .iter()
                .filter(|(name, slot)| slot.parked.is_none() && (fronted.has(name) || wanted.contains(*name)))
                .filter_map(|(name, slot)| Some((name.clone(), slot.latest.as_ref()?.held.resource.version.clone())))
                .collect(),
            type_url::ENDPOINTS => {
                let mut held = of(&self.slices);
                held.retain(|name, _| wanted.contains(name));
                held
            }
            type_url::TRUST_BUNDLE => {
                let mut held = of(&self.bundles);
                held.retain(|name, _| wanted.contains(name));
                held
            }
            type_url::INBOUND => {
                let name = self.own.as_ref().map(|(uid, _)| uid.clone());
                name.zip(self.inbound.version()).into_iter().collect()
            }
            type_url::MESH_SETTINGS => self.settings.version().map(|v| ("mesh".to_owned(), v)).into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }

    /// What each alias means, for a snapshot: a service in force, or absent; with the mark of its use.
    pub(in crate::discovery) fn aliases(&self) -> HashMap<Alias, (Option<Arc<HeldService>>, Arc<AtomicBool>)> {
        let mut map = HashMap::new();
        let fronted = self.fronted();
        for (name, slot) in &self.services {
            let Some(active) = slot.active.as_ref().filter(|_| fronted.has(name)) else { continue };
            for alias in &active.aliases {
                map.entry(alias.clone()).or_insert_with(|| (Some(active.clone()), slot.used.clone()));
            }
        }
        for (alias, ask) in &self.asks {
            match &ask.answer {
                Answer::Service(name) => {
                    if let Some(slot) = self.services.get(name)
                        && let Some(active) = &slot.active
                    {
                        map.insert(alias.clone(), (Some(active.clone()), slot.used.clone()));
                    }
                }
                Answer::Absent => {
                    map.insert(alias.clone(), (None, ask.used.clone()));
                }
                Answer::Pending => {}
            }
        }
        map
    }
}
