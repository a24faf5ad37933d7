//! The protocol of one incremental stream, without I/O: requests are applied, responses are asked for, and both are plain values.
//!
//! A session never queues updates, only names that may have changed. It compares what its client should hold of those by the newest snapshot
//! with what it was sent, whenever it may send; so a slow sidecar costs nothing but its own lateness, and meets only the newest version of
//! everything.
//! Reference: xDS protocol, "Incremental xDS" (envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol).

use super::by_type::{self, ByType};
use super::interest::Topic;
use super::snapshot::Snapshot;
use super::sorted::Sorted;
use crate::compile::Encoded;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Envelope};
use weft_proto::{Resource, type_url, v1};

/// Who is at the other end, from the certificate of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// SPIFFE id.
    pub identity: String,
    /// Namespace of that id: decides which variant of a service it sees.
    pub namespace: String,
}

/// What a request did, for those who keep count and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client holds this version: it acknowledged it, or said so when it resumed.
    Holds {
        /// Type URL.
        type_url: &'static str,
        /// Resource name, never an alias.
        name: Arc<str>,
        /// Version held.
        version: Arc<str>,
    },
    /// The client kept its last good version.
    Refused {
        /// Type URL.
        type_url: &'static str,
        /// Resource name.
        name: Arc<str>,
        /// Version refused.
        version: Arc<str>,
        /// Path of the field at fault; empty when the client did not say.
        field: String,
        /// Why.
        reason: String,
    },
    /// The client no longer holds or wants the resource.
    Dropped {
        /// Type URL.
        type_url: &'static str,
        /// Resource name.
        name: Arc<str>,
    },
}

impl Event {
    /// Type URL of the resource that it is about.
    #[must_use]
    pub const fn type_url(&self) -> &'static str {
        match self {
            Self::Holds { type_url, .. } | Self::Refused { type_url, .. } | Self::Dropped { type_url, .. } => type_url,
        }
    }
}

/// Why a stream ends: what the peer did that the protocol or this server does not allow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// A type that this server does not serve.
    #[error(
        "unknown resource type {0:?}: this server offers weft.v1 Service, Endpoints, Inbound, TrustBundle and MeshSettings"
    )]
    UnknownType(String),
    /// A subscription to everything.
    #[error("a wildcard subscription to {0} is refused: subscribe by name")]
    Wildcard(&'static str),
    /// More than the bound below.
    #[error("more than {MAX_SUBSCRIPTIONS} subscriptions on one stream")]
    TooMany,
    /// A name longer than the bound below.
    #[error("a resource name is longer than {MAX_NAME} bytes")]
    LongName,
}

/// Subscriptions of one stream, all types together.
pub const MAX_SUBSCRIPTIONS: usize = 20_000;
/// Bytes in a name.
pub const MAX_NAME: usize = 512;
/// Resources in one response; more go into further ones, so that no message grows without bound.
const MAX_PER_RESPONSE: usize = 256;
/// Bytes of them, unless one alone has more: a stream's buffer stays as large as its largest message was.
const MAX_BYTES_PER_RESPONSE: usize = 4 << 10;
/// Responses that may wait for their acknowledgement before the stream pauses.
const MAX_OUTSTANDING: usize = 64;
/// In this order responses are sent: what is referred to goes before what refers to it.
const ORDER: [&str; 5] = by_type::TYPES;

/// What the client knows about a name that it subscribed to.
#[derive(Debug, PartialEq)]
enum Answer {
    /// Nothing yet: an answer is owed, even if the resource is held already.
    Owed,
    /// That it is this resource.
    Present(Arc<str>),
    /// That there is no such resource.
    Absent,
}

#[derive(Debug, Default)]
struct TypeState {
    /// By names and aliases as the client wrote them.
    subscribed: Sorted<Answer>,
    /// Resource name → version last sent, or held since before the stream. Both shared with what is on offer.
    held: Sorted<Arc<str>>,
    /// Names and aliases that must be looked at: the client has just said that it wants or holds them, or something of theirs has changed.
    unsure: BTreeSet<Arc<str>>,
    /// Those of them that stand for nothing on offer, and resources that a name stood for until now.
    vanished: BTreeSet<Arc<str>>,
    seen: bool,
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    type_url: &'static str,
    sent: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<Arc<str>>,
}

/// Counts since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Resources sent.
    pub sent: u64,
    /// Resources that the client held already when it resumed, and that were not sent again.
    pub resumed: u64,
    /// Removals sent.
    pub removed: u64,
    /// Responses refused, wholly or in part.
    pub refused: u64,
}

/// State of one stream.
#[derive(Debug)]
pub struct Session {
    client: Client,
    types: ByType<TypeState>,
    outstanding: VecDeque<Outstanding>,
    nonce: u64,
    counts: Counts,
}

impl Session {
    /// A stream that has just been opened by `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, types: ByType::default(), outstanding: VecDeque::new(), nonce: 0, counts: Counts::default() }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Applies one request: acknowledgement, subscriptions, resumption; any mixture of them.
    ///
    /// # Errors
    /// When the stream must end.
    pub fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Result<Vec<Event>, PeerMisbehaved> {
        let url = known(&request.type_url).ok_or_else(|| PeerMisbehaved::UnknownType(clipped(&request.type_url)))?;
        let mut events = Vec::new();
        if !request.response_nonce.is_empty() {
            self.acknowledge(url, &request, &mut events);
        }
        let first = !self.types.get_mut(url).is_some_and(|state| std::mem::replace(&mut state.seen, true));
        let mut subscribe = request.resource_names_subscribe;
        // "a wildcard is an empty first subscription, or the name *"
        let wildcard = (first && subscribe.is_empty()) || subscribe.iter().any(|n| n == "*");
        if wildcard {
            if url != type_url::MESH_SETTINGS {
                return Err(PeerMisbehaved::Wildcard(url));
            }
            subscribe.retain(|n| n != "*");
            subscribe.push("mesh".to_owned());
        }
        self.check_bounds(&subscribe, &request.initial_resource_versions)?;
        let client = &self.client;
        let Some(state) = self.types.get_mut(url) else { return Ok(events) };
        for name in request.resource_names_unsubscribe {
            let Some(Answer::Present(resource)) = state.subscribed.remove(&name) else { continue };
            let still = state.subscribed.values().any(|a| matches!(a, Answer::Present(r) if *r == resource));
            if !still && state.held.remove(&resource).is_some() {
                events.push(Event::Dropped { type_url: url, name: resource });
            }
        }
        if first {
            for (name, version) in request.initial_resource_versions {
                let current = snapshot.lookup(client, url, &name).filter(|current| *current.name == *name);
                let shared = current.map(|current| (current.name.clone(), current.version.clone()));
                // Of what it holds as it is on offer there is one copy for all streams.
                let (name, version) = match shared {
                    Some((name, current)) if *current == *version => (name, current),
                    Some((name, _)) => (name, version.into()),
                    None => (name.into(), version.into()),
                };
                state.unsure.insert(name.clone());
                state.held.insert(name, version);
            }
        }
        for name in subscribe {
            // Names that resume are owed an answer only if it differs; names asked for anew always are.
            let current = snapshot.lookup(client, url, &name);
            // Of a name that is on offer there is one copy for all streams.
            let shared = current.and_then(|resource| resource.called(&name)).cloned();
            let name = shared.unwrap_or_else(|| name.into());
            match current.filter(|r| first && state.held.get(&r.name) == Some(&r.version)) {
                Some(resource) => {
                    self.counts.resumed += 1;
                    let (resource, version) = (resource.name.clone(), resource.version.clone());
                    events.push(Event::Holds { type_url: url, name: resource.clone(), version });
                    state.subscribed.insert(name, Answer::Present(resource));
                }
                None => {
                    state.unsure.insert(name.clone());
                    state.subscribed.insert(name, Answer::Owed);
                }
            }
        }
        Ok(events)
    }

    /// Something of these has changed: what is offered from now on may be another.
    pub fn changed(&mut self, topics: impl IntoIterator<Item = Topic>) {
        for (url, name) in topics {
            if let Some(state) = self.types.get_mut(url) {
                state.unsure.insert(name);
            }
        }
    }

    /// The next response that is due by `snapshot`, if any. Call until `None`. Only what the client or [`Self::changed`] has named since is
    /// looked at.
    pub fn response(&mut self, snapshot: &Snapshot) -> Option<DeltaDiscoveryResponse> {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        for url in ORDER {
            if let Some(due) = self.due(url, snapshot) {
                return Some(self.send(url, due, BTreeSet::new()));
            }
        }
        // Removals last: nothing that is still in force refers to them by then.
        for url in ORDER.iter().rev() {
            let gone = self.gone(url, snapshot);
            if !gone.is_empty() {
                return Some(self.send(url, Vec::new(), gone));
            }
        }
        None
    }

    /// Type and names of the resources in the newest response that waits for its acknowledgement.
    pub fn newest(&self) -> Option<(&'static str, impl Iterator<Item = Arc<str>>)> {
        let newest = self.outstanding.back()?;
        Some((newest.type_url, newest.sent.iter().map(|(name, _)| name.clone())))
    }

    /// Type, name and version of everything that the client was sent or resumed with.
    pub fn held(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.types.iter().flat_map(|(url, s)| s.held.iter().map(move |(n, v)| (url, &**n, &**v)))
    }

    fn due(&mut self, url: &'static str, snapshot: &Snapshot) -> Option<Vec<Arc<Encoded>>> {
        let TypeState { subscribed, held, unsure, vanished, .. } = self.types.get_mut(url)?;
        let mut due: BTreeMap<&str, &Arc<Encoded>> = BTreeMap::new();
        let mut bytes = 0;
        while let Some(name) = unsure.pop_first() {
            let Some(resource) = snapshot.lookup(&self.client, url, &name) else {
                vanished.insert(name);
                continue;
            };
            let Some(answer) = subscribed.get_mut(&name) else { continue };
            let known = matches!(answer, Answer::Present(known) if *known == resource.name);
            if known && held.get(&resource.name) == Some(&resource.version) {
                continue;
            }
            let more = bytes + resource.value.len();
            if due.len() >= MAX_PER_RESPONSE || (more > MAX_BYTES_PER_RESPONSE && !due.is_empty()) {
                unsure.insert(name);
                break;
            }
            bytes = more;
            if let Answer::Present(was) = std::mem::replace(answer, Answer::Present(resource.name.clone()))
                && was != resource.name
            {
                vanished.insert(was);
            }
            due.insert(&resource.name, resource);
        }
        (!due.is_empty()).then(|| due.into_values().cloned().collect())
    }

    fn gone(&mut self, url: &'static str, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        let Some(TypeState { subscribed, held, vanished, .. }) = self.types.get_mut(url) else {
            return BTreeSet::new();
        };
        let (mut gone, mut left) = (BTreeSet::new(), BTreeSet::new());
        for name in std::mem::take(vanished) {
            let stands = snapshot.lookup(&self.client, url, &name).is_some();
            match subscribed.get_mut(&name) {
                // What came back since is told as a change, if it is one.
                Some(_) if stands => {}
                // A name that resolves to nothing is answered once, and again when it stops resolving.
                Some(answer) => {
                    match std::mem::replace(answer, Answer::Absent) {
                        Answer::Absent => continue,
                        Answer::Present(was) => drop(left.insert(was)),
                        Answer::Owed => {}
                    }
                    gone.insert(name);
                }
                None => drop(left.insert(name)),
            }
        }
        // A resource that no name stands for any more is not the client's business, whether there is one or not.
        for name in left {
            let stands_for = |answer: &Answer| matches!(answer, Answer::Present(resource) if *resource == name);
            if held.get(&name).is_some() && !subscribed.values().any(stands_for) {
                gone.insert(name);
            }
        }
        gone
    }

    fn send(
        &mut self,
        url: &'static str,
        resources: Vec<Arc<Encoded>>,
        removed: BTreeSet<Arc<str>>,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        self.counts.sent += resources.len() as u64;
        self.counts.removed += removed.len() as u64;
        if let Some(state) = self.types.get_mut(url) {
            for resource in &resources {
                state.held.insert(resource.name.clone(), resource.version.clone());
            }
            for name in &removed {
                state.held.remove(name);
            }
        }
        let nonce = self.nonce.to_string();
        self.outstanding.push_back(Outstanding {
            nonce: nonce.clone(),
            type_url: url,
            sent: resources.iter().map(|r| (r.name.clone(), r.version.clone())).collect(),
            removed: removed.iter().cloned().collect(),
        });
        DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce,
            resources: resources.iter().map(|r| envelope(r)).collect(),
            removed_resources: removed.iter().map(|name| name.to_string()).collect(),
            ..Default::default()
        }
    }

    fn acknowledge(&mut self, url: &'static str, request: &DeltaDiscoveryRequest, events: &mut Vec<Event>) {
        let position = self.outstanding.iter().position(|o| o.nonce == request.response_nonce && o.type_url == url);
        // A nonce of an earlier stream, or one that was acknowledged already, says nothing.
        let Some(answered) = position.and_then(|i| self.outstanding.remove(i)) else { return };
        if self.outstanding.is_empty() {
            self.outstanding = VecDeque::new();
        }
        let mut refusals: BTreeMap<String, v1::ResourceRefusal> = BTreeMap::new();
        if let Some(status) = &request.error_detail {
            self.counts.refused += 1;
            let told = status.details.iter().filter_map(|d| v1::ResourceRefusal::from_any(d).ok());
            refusals.extend(told.map(|r| (r.name.clone(), r)));
            if refusals.is_empty() {
                // A peer that does not say which: all of them.
                refusals.extend(answered.sent.iter().map(|(name, _)| {
                    let reason = clipped(&status.message);
                    let name = name.to_string();
                    (name.clone(), v1::ResourceRefusal { name, reason, ..Default::default() })
                }));
            }
        }
        for (name, version) in answered.sent {
            events.push(match refusals.remove(&*name) {
                Some(r) => Event::Refused {
                    type_url: url,
                    name,
                    version,
                    field: clipped(&r.field),
                    reason: clipped(&r.reason),
                },
                None => Event::Holds { type_url: url, name, version },
            });
        }
        events.extend(answered.removed.into_iter().map(|name| Event::Dropped { type_url: url, name }));
    }

    fn check_bounds(
        &self,
        subscribe: &[String],
        held: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), PeerMisbehaved> {
        let now: usize = self.types.iter().map(|(_, s)| s.subscribed.len().max(s.held.len())).sum();
        if now + subscribe.len() > MAX_SUBSCRIPTIONS || now + held.len() > MAX_SUBSCRIPTIONS {
            return Err(PeerMisbehaved::TooMany);
        }
        let long = |n: &String| n.len() > MAX_NAME;
        if subscribe.iter().any(long) || held.iter().any(|(n, v)| long(n) || long(v)) {
            return Err(PeerMisbehaved::LongName);
        }
        Ok(())
    }
}

/// The type URL, if it is of a type that is served.
pub(super) fn known(url: &str) -> Option<&'static str> {
    ORDER.into_iter().find(|known| *known == url)
}

fn clipped(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

fn envelope(resource: &Encoded) -> Envelope {
    Envelope {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        aliases: resource.aliases.iter().map(|alias| alias.to_string()).collect(),
        resource: Some(prost_types::Any { type_url: resource.type_url.to_owned(), value: resource.value.to_vec() }),
        ..Default::default()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
