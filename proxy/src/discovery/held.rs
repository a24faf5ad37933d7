//! Resources as they are held: the wire form (for resumption, disk and dumps) beside the validated one (for use).

use super::Alias;
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_policy::config::{self, Refusal};
use weft_proto::discovery::Resource;
use weft_proto::v1;

/// An accepted resource.
#[derive(Debug)]
pub(super) struct Held<T> {
    /// As it arrived: name, version, aliases and bytes.
    pub resource: Resource,
    /// As it is used.
    pub value: Arc<T>,
}

/// What is known under one name.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// The last good version.
    pub held: Option<Arc<Held<T>>>,
    /// Whether the source said anything, be it that there is none.
    pub answered: bool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { held: None, answered: false }
    }
}

impl<T> Slot<T> {
    pub fn hold(&mut self, held: Held<T>) {
        self.answered = true;
        // The same again must not look like a change.
        if !self.held.as_ref().is_some_and(|h| h.resource == held.resource) {
            self.held = Some(Arc::new(held));
        }
    }

    pub fn absent(&mut self) {
        (self.held, self.answered) = (None, true);
    }

    pub fn version(&self) -> Option<String> {
        self.held.as_ref().map(|h| h.resource.version.clone())
    }
}

/// A service with what discovery has to know of it.
#[derive(Debug)]
pub(super) struct HeldService {
    /// The resource.
    pub held: Arc<Held<config::Service>>,
    /// Every name it answers to: those of the envelope, its host names and its addresses.
    pub aliases: BTreeSet<Alias>,
    /// Backends that its routes send calls to, by service and port.
    pub refs: BTreeSet<(String, u16)>,
}

impl HeldService {
    /// Endpoint slices of all its ports.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<str>> {
        self.held.value.ports.iter().flat_map(|port| port.backend.slices.iter())
    }

    /// Endpoint slices of one port.
    pub fn slices_of(&self, port: u16) -> impl Iterator<Item = &Arc<str>> {
        self.held.value.ports.iter().filter(move |p| p.port == port).flat_map(|p| p.backend.slices.iter())
    }
}

/// Unpacks, checks the name and converts.
pub(super) fn accept<'r, W, T>(
    resource: &'r Resource,
    name: impl for<'w> Fn(&'w W) -> &'w str,
    convert: impl FnOnce(&W) -> Result<T, Refusal>,
) -> Result<Held<T>, Refusal>
where
    W: weft_proto::Resource,
{
    let any = resource.resource.as_ref().ok_or_else(|| Refusal::new("", "the resource is empty"))?;
    let wire = W::from_any(any).map_err(|e| Refusal::new("", format!("the resource does not decode: {e}")))?;
    let own = name(&wire);
    if !own.is_empty() && own != resource.name {
        return Err(Refusal::new("name", format!("the resource is named {own:?} and was sent as {:?}", resource.name)));
    }
    Ok(Held { value: Arc::new(convert(&wire)?), resource: resource.clone() })
}

pub(super) fn accept_service(resource: &Resource) -> Result<HeldService, Refusal> {
    let mut refs = BTreeSet::new();
    let held = accept::<v1::Service, _>(
        resource,
        |w| &w.name,
        |wire| {
            let value = config::Service::from_wire(wire)?;
            // Shares without a weight too: a session that began when they had one goes on there.
            let targets = value.ports.iter().flat_map(|port| port.frontend.targets());
            refs.extend(targets.map(|name| (name.service.to_string(), name.port)));
            Ok(value)
        },
    )?;
    let mut aliases: BTreeSet<Alias> = resource.aliases.iter().filter_map(|a| Alias::parse(a)).collect();
    aliases.extend(held.value.hostnames.iter().map(|h| Alias::Host(h.to_string())));
    aliases.extend(held.value.vips.iter().map(|ip| Alias::Vip(*ip)));
    Ok(HeldService { held: Arc::new(held), aliases, refs })
}
