//! What becomes of a call before its first attempt: the rule that it meets, the share that is drawn, and whether it is sent on at all or
//! answered here. Decisions are `weft_policy`'s; this finds the endpoints they mean.

use super::answer::Answer;
use super::headers::View;
use super::observe::Observation;
use super::{Exchange, Plan};
use crate::codec::{Headers, RequestHead, Version};
use crate::discovery::Snapshot;
use crate::endpoint::connect;
use crate::endpoint::{Cluster, Origin};
use crate::error::{Kind, ProxyError};
use crate::random;
use http::header;
use http::uri::Scheme;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_policy::config::{Endpoint, Fallback, Frontend, Protocol};
use weft_policy::hedge::{Delay, is_hedgeable};
use weft_policy::retry::BudgetSettings;
use weft_policy::route::{
    self, Addressed, BackendName, Decision, Held, Request as _, Rule, Session, Target, WeightedBackend,
};

/// What routing decided, and how attempts go about it.
pub(super) struct Way<'p> {
    pub cluster: &'p Arc<Cluster>,
    pub frontend_budget: Option<(&'p Arc<Cluster>, BudgetSettings)>,
    pub rule: Option<&'p Rule>,
    pub backend: Option<&'p WeightedBackend>,
    pub protocol: Protocol,
    /// What a hashing balancer goes by.
    pub key: Option<u64>,
    /// As whom the application is called.
    pub origin: Option<&'p Origin>,
    /// When a second attempt is sent; `None`: never.
    pub hedge: Option<Arc<Delay>>,
    /// What few calls have.
    pub more: Option<Box<More<'p>>>,
}

impl Way<'_> {
    /// What policy adds to the call's answer, taken out for one of the proxy's own.
    pub fn marks(&mut self) -> Option<Box<route::HeaderEdit>> {
        self.more.as_mut()?.marks.take().map(Box::new)
    }
}

/// What filters beyond header edits ask for.
#[derive(Default)]
pub(super) struct More<'p> {
    pub rewritten: route::Rewritten<'p>,
    /// Where copies go.
    pub mirrors: Vec<&'p Arc<Cluster>>,
    /// CORS headers of the response.
    pub marks: Option<route::HeaderEdit>,
    pub session: Option<Kept<'p>>,
}

/// The session that a call belongs to, or begins.
pub(super) struct Kept<'p> {
    session: &'p Session,
    backend: &'p BackendName,
    held: Option<Held>,
}

impl More<'_> {
    /// What is left of it where another backend stands in: the session was with the one that is not there.
    pub fn elsewhere(mut self: Box<Self>) -> Box<Self> {
        self.mirrors.clear();
        self.session = None;
        self
    }

    /// What the answer of the endpoint `uid` carries besides what the upstream and header edits say.
    pub fn mark(&self, headers: &mut Headers, uid: &str) {
        if let Some(marks) = &self.marks {
            super::headers::edit(headers, std::slice::from_ref(marks));
        }
        match self.session.as_ref().and_then(|session| session.issue(uid)) {
            Some((name, value)) if name == header::SET_COOKIE => headers.append(name, value),
            Some((name, value)) => headers.set(&name, &value),
            None => {}
        }
    }
}

impl Kept<'_> {
    /// Workload uid of the endpoint that the session is at.
    pub fn uid(&self) -> Option<&str> {
        self.held.as_ref().map(|held| &*held.uid)
    }

    /// The header with which the answer of the endpoint `uid` tells the client where its session is; nothing where it is known.
    pub fn issue(&self, uid: &str) -> Option<(http::HeaderName, http::HeaderValue)> {
        if self.uid() == Some(uid) {
            return None;
        }
        let now = unix();
        let since = self.held.as_ref().map_or(now, |held| held.since);
        self.session.issue(self.backend, uid, since, now)
    }
}

/// Where a call goes.
pub(super) enum Decided<'p> {
    /// To an endpoint of the cluster.
    Send(Way<'p>),
    /// Nowhere: this is its answer.
    Answer(Box<Answer>),
    /// Nowhere, because nothing says where.
    Fail(ProxyError),
}

/// What takes the place of a backend without anybody to answer.
pub(super) enum Instead<'p> {
    Cluster(&'p Arc<Cluster>),
    Answer(Box<Answer>),
}

/// Seconds since the Unix epoch.
fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The rule, the share and the endpoints of a call. With the time that a fault wants it to wait first.
pub(super) fn decide<'p>(
    plan: &'p Plan<'_>,
    head: &RequestHead,
    source: Option<IpAddr>,
    seen: &mut Observation<'_>,
) -> (Decided<'p>, Option<Duration>) {
    let (snapshot, service, port, protocol, frontend) = match plan {
        Plan::Inbound { cluster, protocol, marks, .. } => {
            let more = marks.map(|marks| Box::new(More { marks: Some(marks.clone()), ..More::default() }));
            let way = Way {
                cluster,
                frontend_budget: None,
                rule: None,
                backend: None,
                protocol: *protocol,
                key: None,
                origin: plan.origin(),
                hedge: None,
                more,
            };
            return (Decided::Send(way), None);
        }
        Plan::Outbound { snapshot, service, port, protocol, frontend, .. } => {
            (*snapshot, *service, *port, *protocol, *frontend)
        }
    };
    let call = View::new(head);
    let random = random::draw();
    let mut decision = frontend.routes.decide(&call, random);
    let mut held = None;
    if let Decision::Forward { rule, .. } | Decision::Unresolved { rule, .. } = &decision
        && rule.session.is_some()
    {
        (decision, held) = decision.resume(&call, unix());
    }
    match &decision {
        Decision::Forward { rule, name, .. } => seen.routed(rule, &name.service),
        Decision::Redirect { rule, .. } | Decision::Preflight { rule, .. } | Decision::Unresolved { rule, .. } => {
            seen.routed(rule, service);
        }
        Decision::NoRoute => {}
    }
    // What the sidecar answers itself a browser is to read as well.
    let marks = |rule: &Rule, backend| rule.cors(backend).map(|cors| Box::new(cors.response(&call)));
    let mut delay = None;
    // A preflight asks the mesh, not the application: it is answered before any fault.
    if !frontend.faults.is_empty() && !matches!(decision, Decision::Preflight { .. }) {
        let injected = frontend.faults.draw(&call, random);
        delay = injected.and_then(|injected| injected.delay);
        if let Some(abort) = injected.and_then(|injected| injected.abort) {
            seen.marks = match &decision {
                Decision::Forward { rule, backend, .. } => marks(rule, Some(backend)),
                Decision::Redirect { rule, .. } | Decision::Unresolved { rule, .. } => marks(rule, None),
                Decision::Preflight { .. } | Decision::NoRoute => None,
            };
            return (Decided::Answer(Box::new(Answer::fault(abort))), delay);
        }
    }
    let decided = match decision {
        Decision::Forward { rule, backend, name, prefix } => {
            let more = more(snapshot, &call, random, (rule, backend, name), prefix, held);
            // Retries are budgeted where calls are addressed, wherever they then go.
            let owner = snapshot.cluster(service, port);
            let way = |cluster: &'p Arc<Cluster>, backend, more| {
                let frontend_budget = Some((owner.unwrap_or(cluster), frontend.retry_budget));
                let key = cluster.key(&call, source);
                let hedge = frontend.hedge.filter(|_| is_hedgeable(&head.method) && !head.upgrade);
                let hedge = hedge.map(|settings| owner.unwrap_or(cluster).hedge(rule, settings));
                let rule = Some(&**rule);
                Decided::Send(Way { cluster, frontend_budget, rule, backend, protocol, key, origin: None, hedge, more })
            };
            match snapshot.cluster(&name.service, name.port) {
                Some(cluster) => way(cluster, Some(backend), more),
                None => match instead(snapshot, frontend) {
                    Some(Instead::Cluster(cluster)) => way(cluster, None, more.map(More::elsewhere)),
                    Some(Instead::Answer(answer)) => {
                        seen.marks = marks(rule, Some(backend));
                        Decided::Answer(answer)
                    }
                    None => {
                        seen.marks = marks(rule, Some(backend));
                        Decided::Fail(unknown(name))
                    }
                },
            }
        }
        Decision::Redirect { rule, redirect, prefix } => {
            seen.marks = marks(rule, None);
            let https = head.scheme == Some(Scheme::HTTPS);
            let addressed = Addressed {
                scheme: if https { route::Scheme::Https } else { route::Scheme::Http },
                authority: head.authority.as_deref().unwrap_or_default(),
                port,
                path: call.path(),
                query: call.query(),
            };
            Decided::Answer(Box::new(Answer::redirect(redirect.status, &redirect.location(&addressed, prefix))))
        }
        Decision::Preflight { cors, .. } => Decided::Answer(Box::new(Answer::preflight(cors.preflight(&call)))),
        Decision::Unresolved { rule, reason, .. } => {
            seen.marks = marks(rule, None);
            Decided::Fail(ProxyError::because(Kind::UnresolvedBackend, reason.to_owned()))
        }
        Decision::NoRoute => {
            Decided::Fail(ProxyError::because(Kind::NoRoute, format!("no route of {service}:{port} matches")))
        }
    };
    (decided, delay)
}

fn unknown(name: &BackendName) -> ProxyError {
    ProxyError::because(Kind::NoEndpoint, format!("nothing is known of the endpoints of {name}"))
}

/// What filters beyond header edits and the session ask for; `None` for a call without either.
fn more<'p>(
    snapshot: &'p Snapshot,
    call: &View<'_>,
    random: u64,
    (rule, backend, name): (&'p Rule, &'p WeightedBackend, &'p BackendName),
    prefix: Option<&str>,
    held: Option<Held>,
) -> Option<Box<More<'p>>> {
    if rule.filters.extra.is_none() && backend.filters.extra.is_none() && rule.session.is_none() {
        return None;
    }
    let mirrors = rule.mirrors(backend, random).filter_map(|name| snapshot.cluster(&name.service, name.port));
    Some(Box::new(More {
        rewritten: rule.rewrite(backend, (call.path(), call.query()), prefix),
        mirrors: mirrors.collect(),
        marks: rule.cors(Some(backend)).map(|cors| cors.response(call)),
        session: rule.session.as_deref().map(|session| Kept { session, backend: name, held }),
    }))
}

/// What the frontend has for calls whose backend has nobody to answer them.
pub(super) fn instead<'p>(snapshot: &'p Snapshot, frontend: &'p Frontend) -> Option<Instead<'p>> {
    match frontend.fallback.as_ref()? {
        Fallback::Backend(Target::Backend(name)) => snapshot.cluster(&name.service, name.port).map(Instead::Cluster),
        Fallback::Backend(Target::Unresolved(_)) => None,
        Fallback::Response(response) => Some(Instead::Answer(Box::new(Answer::fixed(response)))),
    }
}

impl Plan<'_> {
    /// As [`instead`].
    pub(super) fn instead(&self) -> Option<Instead<'_>> {
        match self {
            Self::Inbound { .. } => None,
            Self::Outbound { snapshot, frontend, .. } => instead(snapshot, frontend),
        }
    }
}

impl Exchange {
    /// In which protocol a call travels on: what the endpoint or the port is declared to speak, else what the caller speaks. gRPC is
    /// HTTP/2 whatever was declared.
    pub(super) fn wire_protocol(declared: Protocol, endpoint: &Endpoint, head: &RequestHead) -> connect::Protocol {
        let native = head.version == Version::Http2;
        match endpoint.protocol.unwrap_or(declared) {
            _ if native && head.is_grpc() => connect::Protocol::Http2,
            // A peer without a name for native streams takes CONNECT streams only.
            _ if endpoint.tunnel.as_ref().is_some_and(|tunnel| tunnel.server_name.is_empty()) => {
                connect::Protocol::Http1
            }
            // An upgrade in the manner of HTTP/1 has no counterpart on an h2 connection of ours, but for a websocket.
            _ if head.upgrade && !native && !head.is_websocket() => connect::Protocol::Http1,
            Protocol::Http1 => connect::Protocol::Http1,
            Protocol::Http2 | Protocol::Grpc => connect::Protocol::Http2,
            Protocol::Detect | Protocol::Tcp if native => connect::Protocol::Http2,
            Protocol::Detect | Protocol::Tcp => connect::Protocol::Http1,
        }
    }
}
