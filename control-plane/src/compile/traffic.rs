//! `TrafficPolicy`: what holds for calls to the ports of a Service, merged field by field.
//!
//! A policy that names the port comes before one that names the Service; between equals the older one, then the smaller name. Each
//! field is taken from the first policy that sets it.

use super::condition::{Condition, Kind, ParentVerdict, Verdict};
use super::route::duration;
use super::{names, service};
use crate::kinds::{BalancerPolicy, TrafficPolicy, TrafficPolicySpec};
use crate::world::{World, age};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_proto::{type_url, v1};

/// What one policy says, on the wire; slices and routes are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// For calls addressed to the port.
    pub frontend: v1::Frontend,
    /// For calls that end there.
    pub backend: v1::Backend,
}

/// The parts for a service, by the name of the port or for every port, in order of precedence.
type OfService = BTreeMap<Option<String>, Vec<Arc<Part>>>;

/// Older first, then by namespace and name.
type Age = (i64, String, String);

/// All policies, by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// In order of precedence.
    known: BTreeMap<Age, Arc<Known>>,
    ages: HashMap<String, Age>,
    /// Service → the policies that name it, in order of precedence.
    naming: HashMap<String, BTreeSet<Age>>,
    parts: HashMap<String, OfService>,
}

/// One policy, read.
#[derive(Debug)]
struct Known {
    /// Every Service that it names, there or not.
    names: BTreeSet<String>,
    /// What is in force of it: this edition, or the last that was good.
    part: Option<Arc<Part>>,
    targets: Vec<(String, Option<String>)>,
    verdict: Arc<Verdict>,
}

impl Policies {
    /// Follows the world: `services` and `policies` changed, came or went. Returns the services for which something else holds now.
    pub fn update(
        &mut self,
        world: &World,
        services: &BTreeSet<String>,
        policies: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let named = services.iter().filter_map(|s| self.naming.get(s)).flatten();
        let mut again: BTreeSet<String> = named.map(|(_, namespace, own)| names::namespaced(namespace, own)).collect();
        again.extend(policies.iter().cloned());
        let mut touched = BTreeSet::new();
        for key in again {
            let before = self.ages.remove(&key).and_then(|age| Some((self.known.remove(&age)?, age)));
            if let Some((known, age)) = &before {
                for name in &known.names {
                    if let Some(naming) = self.naming.get_mut(name) {
                        naming.remove(age);
                        if naming.is_empty() {
                            self.naming.remove(name);
                        }
                    }
                }
                touched.extend(known.names.iter().cloned());
            }
            let before = before.and_then(|(known, _)| known.part.clone());
            let Some(policy) = world.traffic.get(&key) else { continue };
            let Some(known) = read(world, policy, before) else { continue };
            let age = age(&policy.metadata);
            for name in &known.names {
                self.naming.entry(name.clone()).or_default().insert(age.clone());
            }
            touched.extend(known.names.iter().cloned());
            self.ages.insert(key, age.clone());
            self.known.insert(age, Arc::new(known));
        }
        touched.retain(|service| self.settle(service));
        touched
    }

    /// Works out what holds for a service; false when that is what did.
    fn settle(&mut self, service: &str) -> bool {
        let mut parts = OfService::new();
        for known in self.naming.get(service).into_iter().flatten().filter_map(|age| self.known.get(age)) {
            let Some(part) = &known.part else { continue };
            for (_, section) in known.targets.iter().filter(|(name, _)| name == service) {
                parts.entry(section.clone()).or_default().push(part.clone());
            }
        }
        let differs = self.parts.get(service).map_or(!parts.is_empty(), |before| *before != parts);
        if parts.is_empty() {
            self.parts.remove(service);
        } else if differs {
            self.parts.insert(service.to_owned(), parts);
        }
        differs
    }

    /// What holds for a port of a service.
    #[must_use]
    pub fn of(&self, service: &str, port: Option<&str>) -> Part {
        let Some(of_service) = self.parts.get(service) else { return Part::default() };
        let by_name = port.and_then(|p| of_service.get(&Some(p.to_owned())));
        let parts = by_name.into_iter().flatten().chain(of_service.get(&None).into_iter().flatten());
        parts.fold(Part::default(), |to, from| merge(to, from))
    }

    /// What the policies learn, older first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Arc<Verdict>> {
        self.known.values().map(|known| &known.verdict)
    }
}

/// Reads a policy; `before` is what was in force of it.
fn read(world: &World, policy: &TrafficPolicy, before: Option<Arc<Part>>) -> Option<Known> {
    let (namespace, own) = (policy.metadata.namespace.as_ref()?, policy.metadata.name.as_ref()?);
    let (fresh, mut accepted) = match compile(&policy.spec) {
        Ok(part) => (Some(part), Condition::accepted()),
        Err(text) => (None, Condition::refused("Invalid", text)),
    };
    let mut unresolved = Vec::new();
    let mut shapes = BTreeSet::new();
    let (mut targets, mut named) = (Vec::new(), BTreeSet::new());
    for (i, target) in policy.spec.target_refs.iter().enumerate() {
        if !target.is_service() {
            let text = format!("spec.targetRefs[{i}]: a TrafficPolicy is about Services, not about {}", target.kind);
            accepted = Condition::refused("Invalid", text);
            continue;
        }
        let name = names::namespaced(namespace, &target.name);
        named.insert(name.clone());
        let Some(found) = world.services.get(&name) else {
            unresolved.push(("TargetNotFound", format!("there is no Service {name}")));
            continue;
        };
        if let Some(section) = &target.section_name
            && !service::declared(found).any(|p| p.name.as_ref() == Some(section))
        {
            unresolved.push(("TargetNotFound", format!("Service {name} has no port named {section:?}")));
            continue;
        }
        shapes.insert((type_url::SERVICE, name.clone()));
        targets.push((name, target.section_name.clone()));
    }
    let verdict = Verdict {
        kind: Kind::TrafficPolicy,
        namespace: namespace.clone(),
        name: own.clone(),
        uid: policy.metadata.uid.clone().unwrap_or_default(),
        generation: policy.metadata.generation.unwrap_or_default(),
        parents: vec![ParentVerdict {
            parent: None,
            conditions: vec![accepted, Condition::resolved(&unresolved)],
            shapes,
        }],
    };
    // What is as it was stays the same value, so that services that it holds for are not compiled again.
    let part = match (fresh, before) {
        (Some(fresh), Some(before)) if *before == fresh => Some(before),
        (Some(fresh), _) => Some(Arc::new(fresh)),
        (None, before) => before,
    };
    Some(Known { names: named, part, targets, verdict: Arc::new(verdict) })
}

fn merge(mut to: Part, from: &Part) -> Part {
    let (f, g) = (&mut to.frontend, &from.frontend);
    f.request_timeout = f.request_timeout.or(g.request_timeout);
    f.backend_request_timeout = f.backend_request_timeout.or(g.backend_request_timeout);
    f.idle_timeout = f.idle_timeout.or(g.idle_timeout);
    f.retry = f.retry.take().or_else(|| g.retry.clone());
    f.retry_budget = f.retry_budget.or(g.retry_budget);
    let (b, c) = (&mut to.backend, &from.backend);
    if b.balancer == i32::from(v1::Balancer::Default) {
        b.balancer = c.balancer;
    }
    b.breaker = b.breaker.or(c.breaker);
    b.limits = b.limits.or(c.limits);
    b.connect_timeout = b.connect_timeout.or(c.connect_timeout);
    b.tcp_idle_timeout = b.tcp_idle_timeout.or(c.tcp_idle_timeout);
    to
}

fn compile(spec: &TrafficPolicySpec) -> Result<Part, String> {
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    let frontend = v1::Frontend {
        routes: Vec::new(),
        request_timeout: timeouts.request.and_then(duration),
        backend_request_timeout: timeouts.backend_request.and_then(duration),
        retry: spec.retry.as_ref().map(|r| v1::RetryPolicy {
            attempts: r.attempts,
            codes: r.codes.iter().map(|c| u32::from(*c)).collect(),
            methods: r.methods.clone(),
            backoff: r.backoff.and_then(duration),
            grpc_codes: r.grpc_codes.clone(),
        }),
        retry_budget: spec.retry_budget.as_ref().map(|b| v1::RetryBudget {
            percent: b.percent,
            min_per_second: b.min_per_second,
            window: b.window.and_then(duration),
        }),
        idle_timeout: timeouts.idle.and_then(duration),
    };
    let balancer = spec.load_balancer.as_ref().map_or(v1::Balancer::Default, |l| match l.policy {
        BalancerPolicy::PeakEwma => v1::Balancer::PeakEwma,
        BalancerPolicy::LeastRequest => v1::Balancer::LeastRequest,
        BalancerPolicy::RoundRobin => v1::Balancer::RoundRobin,
        BalancerPolicy::Random => v1::Balancer::Random,
    });
    let backend = v1::Backend {
        slices: Vec::new(),
        balancer: balancer.into(),
        breaker: spec.circuit_breaker.as_ref().map(|b| v1::CircuitBreaker {
            disabled: b.disabled,
            consecutive_failures: b.consecutive_failures,
            success_percent: b.success_percent,
            minimum_calls: b.minimum_calls,
            window: b.window.and_then(duration),
            base_open: b.base_open.and_then(duration),
            max_open: b.max_open.and_then(duration),
        }),
        limits: spec.connection_limits.as_ref().map(|l| v1::Limits {
            connections: l.max_connections,
            pending: l.max_pending_requests,
            requests: l.max_requests,
        }),
        connect_timeout: timeouts.connect.and_then(duration),
        tcp_idle_timeout: timeouts.tcp_idle.and_then(duration),
    };
    let part = Part { frontend, backend };
    check(&part).map(|()| part)
}

/// Whether a sidecar would take it; the error names the field as people wrote it.
fn check(part: &Part) -> Result<(), String> {
    const NAMES: [(&str, &str); 10] = [
        ("frontend.retryBudget", "spec.retryBudget"),
        ("frontend.retry", "spec.retry"),
        ("frontend.requestTimeout", "spec.timeouts.request"),
        ("frontend.backendRequestTimeout", "spec.timeouts.backendRequest"),
        ("frontend.idleTimeout", "spec.timeouts.idle"),
        ("backend.breaker", "spec.circuitBreaker"),
        ("backend.limits", "spec.connectionLimits"),
        ("backend.connectTimeout", "spec.timeouts.connect"),
        ("backend.tcpIdleTimeout", "spec.timeouts.tcpIdle"),
        ("backend.balancer", "spec.loadBalancer.policy"),
    ];
    let port = v1::ServicePort {
        port: 80,
        frontend: Some(part.frontend.clone()),
        backend: Some(part.backend.clone()),
        ..Default::default()
    };
    let probe = v1::Service { name: "probe/probe".into(), ports: vec![port], ..Default::default() };
    weft_policy::config::Service::from_wire(&probe).map(drop).map_err(|refusal| {
        let inner = refusal.field.strip_prefix("ports[0].").unwrap_or(&refusal.field);
        let found = NAMES.iter().find_map(|(wire, spec)| inner.strip_prefix(wire).map(|rest| format!("{spec}{rest}")));
        format!("{}: {}", found.unwrap_or_else(|| format!("spec.{inner}")), refusal.reason)
    })
}
