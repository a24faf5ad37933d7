//! What the server offers at one moment: every resource encoded once, with its version, and the indexes that answer names and aliases.
//!
//! Immutable once built; successive ones share what did not change, so that the next costs what changed and no more. A stream looks names up
//! here on behalf of its [`Client`]; which variant of a service that client sees, and whether it may have an `Inbound`, is decided here and
//! nowhere else.

use super::interest::Topic;
use super::session::Client;
use super::shards::{Claims, Shards};
use crate::compile::{Output, Variants};
use crate::world::Table;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{Resource, type_url, v1, version_of};

/// One resource as it goes over the wire, shared by all the sidecars that hold it.
#[derive(Debug, PartialEq)]
pub struct Encoded {
    /// Resource name.
    pub name: Arc<str>,
    /// Hash of `any.value`.
    pub version: Arc<str>,
    /// `host:…` and `vip:…` names under which the resource can be asked for too.
    pub aliases: Vec<String>,
    /// The packed message.
    pub any: prost_types::Any,
}

#[derive(Debug)]
struct Service {
    default: Arc<Encoded>,
    by_namespace: BTreeMap<String, Arc<Encoded>>,
}

#[derive(Debug)]
struct Inbound {
    /// Who may have it.
    identity: String,
    encoded: Arc<Encoded>,
}

/// What was encoded, to find out what differs in the next.
#[derive(Clone, Debug, Default)]
struct Source {
    services: Table<Arc<Variants>>,
    endpoints: Table<Arc<v1::Endpoints>>,
    inbound: Table<Arc<v1::Inbound>>,
    /// With the settings, once there were any.
    mesh: Option<(BTreeMap<String, v1::TrustBundle>, v1::MeshSettings)>,
}

/// Everything on offer. See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    source: Source,
    services: Shards<Arc<Service>>,
    /// Alias → service, for clients of any namespace.
    aliases: Shards<Claims>,
    /// Client namespace → alias → service: what only that namespace may write (`host:catalog`).
    own_aliases: HashMap<String, Arc<HashMap<String, Claims>>>,
    endpoints: Shards<Arc<Encoded>>,
    /// By workload uid.
    inbound: Shards<Arc<Inbound>>,
    bundles: HashMap<String, Arc<Encoded>>,
    settings: Option<Arc<Encoded>>,
    /// Variants beyond the default ones.
    variants: usize,
    encoded: usize,
    /// Names whose resource is another than in the snapshot before, or came, or went.
    topics: Vec<Topic>,
}

impl Snapshot {
    /// Encodes what differs in `output` from what `previous` was made of; all else is taken over.
    #[must_use]
    pub fn next(previous: &Self, output: &Output) -> Self {
        let mut next = Self { encoded: 0, topics: Vec::new(), ..previous.clone() };
        for (name, _, is) in output.services.changes(&previous.source.services, Arc::ptr_eq) {
            next.service(name, is.map(|v| &**v));
        }
        for (name, _, is) in output.endpoints.changes(&previous.source.endpoints, Arc::ptr_eq) {
            match is {
                Some(message) => {
                    let before = previous.endpoints.get(name);
                    let encoded = next.keep(name, &**message, Vec::new(), before);
                    if before.is_none_or(|before| !Arc::ptr_eq(before, &encoded)) {
                        next.topics.push((type_url::ENDPOINTS, encoded.name.clone()));
                    }
                    next.endpoints.insert(encoded.name.clone(), encoded);
                }
                None => {
                    next.topics.push((type_url::ENDPOINTS, name.as_str().into()));
                    next.endpoints.remove(name);
                }
            }
        }
        for (uid, _, is) in output.inbound.changes(&previous.source.inbound, Arc::ptr_eq) {
            match is {
                Some(message) => {
                    let encoded = next.keep(uid, &**message, Vec::new(), previous.inbound.get(uid).map(|i| &i.encoded));
                    let identity = message.identity.clone();
                    next.topics.push((type_url::INBOUND, encoded.name.clone()));
                    next.inbound.insert(encoded.name.clone(), Arc::new(Inbound { identity, encoded }));
                }
                None => {
                    next.topics.push((type_url::INBOUND, uid.as_str().into()));
                    next.inbound.remove(uid);
                }
            }
        }
        let mesh = (output.bundles.clone(), output.settings.clone());
        if previous.source.mesh.as_ref() != Some(&mesh) {
            let bundles = output.bundles.iter().map(|(name, message)| {
                (name.clone(), next.keep(name, message, Vec::new(), previous.bundles.get(name)))
            });
            next.bundles = bundles.collect();
            let bundles = previous.bundles.keys().chain(next.bundles.keys());
            let topics = bundles.map(|name| (type_url::TRUST_BUNDLE, Arc::from(name.as_str())));
            next.topics.extend(topics.chain([(type_url::MESH_SETTINGS, "mesh".into())]));
            next.settings = Some(next.keep("mesh", &output.settings, Vec::new(), previous.settings.as_ref()));
        }
        next.source = Source {
            services: output.services.clone(),
            endpoints: output.endpoints.clone(),
            inbound: output.inbound.clone(),
            mesh: Some(mesh),
        };
        next
    }

    fn service(&mut self, name: &str, is: Option<&Variants>) {
        let was = self.services.get(name).cloned();
        let is = is.map(|variants| {
            let default = self.encode(name, &variants.default, was.as_ref().map(|s| &s.default));
            let by_namespace = variants.by_namespace.iter().map(|(namespace, message)| {
                let was = was.as_ref().and_then(|s| s.by_namespace.get(namespace));
                (namespace.clone(), self.encode(name, message, was))
            });
            let by_namespace = by_namespace.collect();
            Arc::new(Service { default, by_namespace })
        });
        let (before, now) = (names(was.as_deref()), names(is.as_deref()));
        for (namespace, alias) in before.difference(&now) {
            self.unname(*namespace, alias, name);
        }
        for (namespace, alias) in now.difference(&before) {
            let Some(service) = &is else { continue };
            self.name(*namespace, alias, &service.default.name);
        }
        let aliases: BTreeSet<&str> = before.union(&now).map(|(_, alias)| *alias).collect();
        let topics = aliases.into_iter().chain([name]).map(|name| (type_url::SERVICE, Arc::from(name)));
        self.topics.extend(topics.collect::<Vec<_>>());
        self.variants -= was.as_ref().map_or(0, |s| s.by_namespace.len());
        self.variants += is.as_ref().map_or(0, |s| s.by_namespace.len());
        match is {
            Some(service) => self.services.insert(service.default.name.clone(), service),
            None => self.services.remove(name),
        }
    }

    fn name(&mut self, namespace: Option<&str>, alias: &str, service: &Arc<str>) {
        match namespace {
            None => {
                let mut claims = self.aliases.get(alias).cloned().unwrap_or_default();
                claims.add(service);
                self.aliases.insert(alias.into(), claims);
            }
            Some(namespace) => {
                let own = Arc::make_mut(self.own_aliases.entry(namespace.to_owned()).or_default());
                own.entry(alias.to_owned()).or_default().add(service);
            }
        }
    }

    fn unname(&mut self, namespace: Option<&str>, alias: &str, service: &str) {
        match namespace {
            None => {
                let Some(mut claims) = self.aliases.get(alias).cloned() else { return };
                claims.remove(service);
                if claims.is_empty() { self.aliases.remove(alias) } else { self.aliases.insert(alias.into(), claims) }
            }
            Some(namespace) => {
                let Some(own) = self.own_aliases.get_mut(namespace).map(Arc::make_mut) else { return };
                let Some(claims) = own.get_mut(alias) else { return };
                claims.remove(service);
                if claims.is_empty() {
                    own.remove(alias);
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
                let service = self.services.get(name)?;
                Some(service.by_namespace.get(&client.namespace).unwrap_or(&service.default))
            }
            type_url::ENDPOINTS => self.endpoints.get(name),
            // The identity of the connection decides, never what the node says of itself.
            type_url::INBOUND => self.inbound.get(name).filter(|i| i.identity == client.identity).map(|i| &i.encoded),
            type_url::TRUST_BUNDLE => self.bundles.get(name),
            type_url::MESH_SETTINGS => self.settings.as_ref().filter(|_| name == "mesh"),
            _ => None,
        }
    }

    /// How many resources were encoded for it; all others it took over.
    #[must_use]
    pub fn encoded(&self) -> usize {
        self.encoded
    }

    /// How many resources are on offer, variants included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
            + self.variants
            + self.endpoints.len()
            + self.inbound.len()
            + self.bundles.len()
            + usize::from(self.settings.is_some())
    }

    /// Names, aliases among them, whose resource is another than in the snapshot before, or came, or went.
    #[must_use]
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Whether nothing was compiled yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&mut self, name: &str, message: &v1::Service, before: Option<&Arc<Encoded>>) -> Arc<Encoded> {
        // Invariant: aliases are a function of the message, so that the version covers them.
        let hosts = message.hostnames.iter().map(|h| format!("host:{h}"));
        let aliases = hosts.chain(message.vips.iter().map(|v| format!("vip:{v}"))).collect();
        self.keep(name, message, aliases, before)
    }

    /// Encodes a message; what it was before stays if that was the same.
    fn keep<M: Resource>(
        &mut self,
        name: &str,
        message: &M,
        aliases: Vec<String>,
        before: Option<&Arc<Encoded>>,
    ) -> Arc<Encoded> {
        self.encoded += 1;
        let any = message.to_any();
        if let Some(same) = before.filter(|before| before.any.value == any.value) {
            return same.clone();
        }
        let name = before.map_or_else(|| Arc::from(name), |before| before.name.clone());
        Arc::new(Encoded { name, version: version_of(&any.value).into(), aliases, any })
    }
}

/// The aliases of a service: for clients of all namespaces (`None`), and what only those of one may write besides.
fn names(service: Option<&Service>) -> BTreeSet<(Option<&str>, &str)> {
    let Some(service) = service else { return BTreeSet::new() };
    let all = service.default.aliases.iter().map(|a| (None, a.as_str()));
    let own = service.by_namespace.iter().flat_map(|(namespace, encoded)| {
        let more = encoded.aliases.iter().filter(|a| !service.default.aliases.contains(a));
        more.map(move |a| (Some(namespace.as_str()), a.as_str()))
    });
    all.chain(own).collect()
}
