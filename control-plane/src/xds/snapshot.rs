//! What the server offers at one moment: every resource with its version, and the indexes that answer names and aliases.
//!
//! Immutable once built; successive ones share what did not change, so that the next costs what changed and no more. A stream looks names up
//! here on behalf of its [`Client`]; which variant of a service that client sees, and whether it may have an `Inbound`, is decided here and
//! nowhere else.

use super::interest::Topic;
use super::session::Client;
use super::shards::{Claims, Shards};
use crate::compile::{Alone, Encoded, Guarded, Output, Packed, Variants};
use crate::world::Table;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{type_url, v1};

/// Everything on offer. See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    services: Table<Arc<Variants>>,
    /// By the service of a workload's own address.
    alone: Table<Arc<Alone>>,
    endpoints: Table<Packed<v1::Endpoints>>,
    /// By workload uid.
    inbound: Table<Arc<Guarded>>,
    bundles: BTreeMap<String, Packed<v1::TrustBundle>>,
    settings: Option<Packed<v1::MeshSettings>>,
    /// Alias → service, for clients of any namespace.
    aliases: Shards<Claims>,
    /// Client namespace → alias → service: what only that namespace may write (`host:catalog`).
    own_aliases: HashMap<String, Arc<HashMap<String, Claims>>>,
    /// Variants beyond the default ones.
    variants: usize,
    /// Slices of workloads' own addresses.
    alone_slices: usize,
    /// How many resources are others than in the snapshot before.
    renewed: usize,
}

impl Snapshot {
    /// Offers `output`; what it has in common with `previous` is taken over. With it come the names, aliases among them, whose resource is
    /// another than before, or came, or went.
    #[must_use]
    pub fn next(previous: &Self, output: &Output) -> (Self, Vec<Topic>) {
        let mut next = Next { of: Self { renewed: 0, ..previous.clone() }, topics: Vec::new() };
        for (name, was, is) in output.services.changes(&previous.services, Arc::ptr_eq) {
            next.service(name, was.map(|v| &**v), is.map(|v| &**v));
        }
        for (name, was, is) in output.alone.changes(&previous.alone, |a, b| a.same(b)) {
            next.alone(name, was.map(|v| &**v), is.map(|v| &**v));
        }
        for (name, _, is) in output.endpoints.changes(&previous.endpoints, Packed::ptr_eq) {
            next.tell(type_url::ENDPOINTS, name, is.is_some());
        }
        for (uid, _, is) in output.inbound.changes(&previous.inbound, Arc::ptr_eq) {
            next.tell(type_url::INBOUND, uid, is.is_some());
        }
        let settings = Packed::new("mesh", &output.settings).or_same(previous.settings.as_ref());
        let bundles: BTreeMap<_, _> = output
            .bundles
            .iter()
            .map(|(name, message)| {
                (name.clone(), Packed::new(name.as_str(), message).or_same(previous.bundles.get(name)))
            })
            .collect();
        for name in previous.bundles.keys().chain(bundles.keys()).collect::<BTreeSet<_>>() {
            let (was, is) = (previous.bundles.get(name), bundles.get(name));
            if was != is {
                next.tell(type_url::TRUST_BUNDLE, &name.as_str().into(), is.is_some());
            }
        }
        if previous.settings.as_ref() != Some(&settings) {
            next.tell(type_url::MESH_SETTINGS, &"mesh".into(), true);
        }
        let Next { of: next, topics } = next;
        let (services, alone) = (output.services.clone(), output.alone.clone());
        let (endpoints, inbound) = (output.endpoints.clone(), output.inbound.clone());
        (Self { services, alone, endpoints, inbound, bundles, settings: Some(settings), ..next }, topics)
    }

    fn name(&mut self, namespace: Option<&str>, alias: &Arc<str>, service: &Arc<str>) {
        match namespace {
            None => {
                let mut claims = self.aliases.get(alias).cloned().unwrap_or_default();
                claims.add(service);
                self.aliases.insert(alias.clone(), claims);
            }
            Some(namespace) => {
                let own = Arc::make_mut(self.own_aliases.entry(namespace.to_owned()).or_default());
                own.entry(alias.to_string()).or_default().add(service);
            }
        }
    }

    fn unname(&mut self, namespace: Option<&str>, alias: &Arc<str>, service: &str) {
        match namespace {
            None => {
                let Some(mut claims) = self.aliases.get(alias).cloned() else { return };
                claims.remove(service);
                if claims.is_empty() { self.aliases.remove(alias) } else { self.aliases.insert(alias.clone(), claims) }
            }
            Some(namespace) => {
                let Some(own) = self.own_aliases.get_mut(namespace).map(Arc::make_mut) else { return };
                let Some(claims) = own.get_mut(&**alias) else { return };
                claims.remove(service);
                if claims.is_empty() {
                    own.remove(&**alias);
                }
                if own.is_empty() {
                    self.own_aliases.remove(namespace);
                }
            }
        }
    }

    /// The resource that `client` gets when it asks for `name` (or an alias) of the type. `None`: absent for this client.
    #[must_use]
    pub fn lookup(&self, client: &Client, type_url: &str, name: &str) -> Option<&Arc<Encoded>> {
        match type_url {
            type_url::SERVICE => {
                let name = if name.starts_with("host:") || name.starts_with("vip:") {
                    let own = self.own_aliases.get(&client.namespace).and_then(|own| own.get(name));
                    own.or_else(|| self.aliases.get(name))?.winner()?
                } else {
                    name
                };
                let of_service = self.services.get(name).map(|variants| variants.of(&client.namespace));
                of_service.or_else(|| Some(self.alone.get(name)?.service())).map(Packed::encoded)
            }
            type_url::ENDPOINTS => {
                let of_service = self.endpoints.get(name);
                of_service.or_else(|| Alone::slice(&self.alone, name)).map(Packed::encoded)
            }
            // The identity of the connection decides, never what the node says of itself.
            type_url::INBOUND => {
                self.inbound.get(name).filter(|i| *i.identity == *client.identity).map(|i| i.inbound.encoded())
            }
            type_url::TRUST_BUNDLE => self.bundles.get(name).map(Packed::encoded),
            type_url::MESH_SETTINGS => self.settings.as_ref().filter(|_| name == "mesh").map(Packed::encoded),
            _ => None,
        }
    }

    /// How many resources are others than before; all the rest it took over.
    #[must_use]
    pub fn renewed(&self) -> usize {
        self.renewed
    }

    /// How many resources are on offer, variants included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
            + self.variants
            + self.alone.len()
            + self.alone_slices
            + self.endpoints.len()
            + self.inbound.len()
            + self.bundles.len()
            + usize::from(self.settings.is_some())
    }

    /// Whether nothing was compiled yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A snapshot that is being made, and what differs in it.
struct Next {
    of: Snapshot,
    topics: Vec<Topic>,
}

impl Next {
    /// A resource came, went, or is another.
    fn tell(&mut self, url: &'static str, name: &Arc<str>, is: bool) {
        self.of.renewed += usize::from(is);
        self.topics.push((url, name.clone()));
    }

    /// A workload's own address.
    fn alone(&mut self, name: &Arc<str>, was: Option<&Alone>, is: Option<&Alone>) {
        let alias = |alone: Option<&Alone>| alone.map(|alone| Arc::<str>::from(alone.alias()));
        let (before, now) = (alias(was), alias(is));
        if before != now {
            if let Some(alias) = &before {
                self.of.unname(None, alias, name);
            }
            if let Some(alias) = &now {
                self.of.name(None, alias, name);
            }
        }
        let aliases = before.into_iter().filter(|alias| Some(alias) != now.as_ref()).chain(now.clone());
        self.topics.extend(aliases.map(|alias| (type_url::SERVICE, alias)));
        self.tell(type_url::SERVICE, name, is.is_some());
        let slices = |alone: Option<&Alone>| alone.into_iter().flat_map(Alone::slice_names).collect::<BTreeSet<_>>();
        let (before, now) = (slices(was), slices(is));
        for slice in before.union(&now) {
            self.tell(type_url::ENDPOINTS, &slice.as_str().into(), now.contains(slice));
        }
        self.of.alone_slices = self.of.alone_slices + now.len() - before.len();
    }

    fn service(&mut self, name: &Arc<str>, was: Option<&Variants>, is: Option<&Variants>) {
        let (before, now) = (names(was), names(is));
        for (namespace, alias) in before.difference(&now) {
            self.of.unname(*namespace, alias, name);
        }
        for (namespace, alias) in now.difference(&before) {
            self.of.name(*namespace, alias, name);
        }
        let aliases: BTreeSet<&Arc<str>> = before.union(&now).map(|(_, alias)| *alias).collect();
        self.topics.extend(aliases.into_iter().map(|alias| (type_url::SERVICE, alias.clone())));
        self.tell(type_url::SERVICE, name, is.is_some());
        let beyond = |service: Option<&Variants>| service.map_or(0, |s| s.by_namespace.len());
        self.of.renewed += beyond(is);
        self.of.variants = self.of.variants + beyond(is) - beyond(was);
    }
}

/// The aliases of a service: for clients of all namespaces (`None`), and what only those of one may write besides.
fn names(service: Option<&Variants>) -> BTreeSet<(Option<&str>, &Arc<str>)> {
    let Some(service) = service else { return BTreeSet::new() };
    let all = service.default.aliases.iter().map(|alias| (None, alias));
    let own = service.by_namespace.iter().flat_map(|(namespace, packed)| {
        let more = packed.aliases.iter().filter(|a| !service.default.aliases.contains(a));
        more.map(move |alias| (Some(namespace.as_str()), alias))
    });
    all.chain(own).collect()
}
