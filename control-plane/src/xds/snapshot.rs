//! What the server offers at one moment: every resource encoded once, with its version, and the indexes that answer names and aliases.
//!
//! Immutable once built. A stream looks names up here on behalf of its [`Client`]; which variant of a service that client sees, and
//! whether it may have an `Inbound`, is decided here and nowhere else.

use super::session::Client;
use crate::compile::Output;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weft_proto::{Resource, type_url, v1, version_of};

/// One resource as it goes over the wire, shared by all the sidecars that hold it.
#[derive(Debug, PartialEq)]
pub struct Encoded {
    /// Resource name.
    pub name: String,
    /// Hash of `any.value`.
    pub version: String,
    /// `host:…` and `vip:…` names under which the resource can be asked for too.
    pub aliases: Vec<String>,
    /// The packed message.
    pub any: prost_types::Any,
}

impl Encoded {
    fn new<M: Resource>(name: &str, aliases: Vec<String>, message: &M) -> Self {
        let any = message.to_any();
        Self { name: name.to_owned(), version: version_of(&any.value), aliases, any }
    }
}

#[derive(Debug, Default)]
struct Service {
    default: Arc<Encoded>,
    by_namespace: BTreeMap<String, Arc<Encoded>>,
}

impl Default for Encoded {
    fn default() -> Self {
        Self { name: String::new(), version: version_of(&[]), aliases: Vec::new(), any: prost_types::Any::default() }
    }
}

/// Everything on offer. See the module's text.
#[derive(Debug, Default)]
pub struct Snapshot {
    services: HashMap<String, Service>,
    /// Alias → service, for clients of any namespace.
    aliases: HashMap<String, String>,
    /// Client namespace → alias → service: what only that namespace may write (`host:catalog`).
    own_aliases: HashMap<String, HashMap<String, String>>,
    endpoints: HashMap<String, Arc<Encoded>>,
    /// Workload uid → the identity that may have it, the resource.
    inbound: HashMap<String, (String, Arc<Encoded>)>,
    bundles: HashMap<String, Arc<Encoded>>,
    settings: Option<Arc<Encoded>>,
}

impl Snapshot {
    /// Encodes `output`. What equals the resource of the same name in `previous` is taken over, neither hashed nor stored again.
    #[must_use]
    pub fn next(previous: &Self, output: &Output) -> Self {
        let mut next = Self::default();
        for (name, variants) in &output.services {
            let before = previous.services.get(name);
            let default = encode(name, &variants.default, before.map(|s| &s.default));
            for alias in &default.aliases {
                next.aliases.entry(alias.clone()).or_insert_with(|| name.clone());
            }
            let mut by_namespace = BTreeMap::new();
            for (namespace, message) in &variants.by_namespace {
                let encoded = encode(name, message, before.and_then(|s| s.by_namespace.get(namespace)));
                let own = next.own_aliases.entry(namespace.clone()).or_default();
                for alias in encoded.aliases.iter().filter(|a| !default.aliases.contains(a)) {
                    own.entry(alias.clone()).or_insert_with(|| name.clone());
                }
                by_namespace.insert(namespace.clone(), encoded);
            }
            next.services.insert(name.clone(), Service { default, by_namespace });
        }
        for (name, message) in &output.endpoints {
            next.endpoints.insert(name.clone(), keep(name, message, Vec::new(), previous.endpoints.get(name)));
        }
        for (uid, message) in &output.inbound {
            let encoded = keep(uid, message, Vec::new(), previous.inbound.get(uid).map(|(_, e)| e));
            next.inbound.insert(uid.clone(), (message.identity.clone(), encoded));
        }
        for (name, message) in &output.bundles {
            next.bundles.insert(name.clone(), keep(name, message, Vec::new(), previous.bundles.get(name)));
        }
        next.settings = Some(keep("mesh", &output.settings, Vec::new(), previous.settings.as_ref()));
        next
    }

    /// The resource that `client` gets when it asks for `name` (or an alias) of the type. `None`: absent for this client.
    #[must_use]
    pub fn lookup(&self, client: &Client, type_url: &str, name: &str) -> Option<&Arc<Encoded>> {
        match type_url {
            type_url::SERVICE => {
                let name = if name.starts_with("host:") || name.starts_with("vip:") {
                    let own = self.own_aliases.get(&client.namespace).and_then(|own| own.get(name));
                    own.or_else(|| self.aliases.get(name))?
                } else {
                    name
                };
                let service = self.services.get(name)?;
                Some(service.by_namespace.get(&client.namespace).unwrap_or(&service.default))
            }
            type_url::ENDPOINTS => self.endpoints.get(name),
            // The identity of the connection decides, never what the node says of itself.
            type_url::INBOUND => {
                self.inbound.get(name).filter(|(identity, _)| *identity == client.identity).map(|(_, e)| e)
            }
            type_url::TRUST_BUNDLE => self.bundles.get(name),
            type_url::MESH_SETTINGS => self.settings.as_ref().filter(|_| name == "mesh"),
            _ => None,
        }
    }

    /// How many resources are on offer, variants included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.values().map(|s| 1 + s.by_namespace.len()).sum::<usize>()
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

fn encode(name: &str, message: &v1::Service, before: Option<&Arc<Encoded>>) -> Arc<Encoded> {
    // Invariant: aliases are a function of the message, so that the version covers them.
    let hosts = message.hostnames.iter().map(|h| format!("host:{h}"));
    let aliases = hosts.chain(message.vips.iter().map(|v| format!("vip:{v}"))).collect();
    keep(name, message, aliases, before)
}

fn keep<M: Resource>(name: &str, message: &M, aliases: Vec<String>, before: Option<&Arc<Encoded>>) -> Arc<Encoded> {
    match before {
        Some(before) if before.any.value == message.encode_to_vec() => before.clone(),
        _ => Arc::new(Encoded::new(name, aliases, message)),
    }
}
