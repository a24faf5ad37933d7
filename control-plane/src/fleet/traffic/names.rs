//! Which headers and query parameters policies ask calls for: what sidecars tell the values of, and no others.

use crate::compile::Output;
use crate::fleet::Fleet;
use crate::world::reconcile::Compiled;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_proto::v1::{self, rate_limit_key};

/// Names of each that sidecars heed.
const MOST: usize = 64;
/// How long changes are gathered.
const PAUSE: Duration = Duration::from_secs(1);
/// How often everything is read again.
const ANEW: Duration = Duration::from_secs(600);

/// The names, and what else policies ask for that is not recorded of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names of headers, in lower case.
    pub headers: BTreeSet<String>,
    /// Names of query parameters.
    pub queries: BTreeSet<String>,
    /// Conditions that no summary answers: `source.ip`, `request.auth.claims[…]`.
    pub unknown: BTreeSet<String>,
}

impl Names {
    /// What all that is offered asks for.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        let mut names = Self::default();
        names.read(&Output::default(), output);
        names
    }

    /// Adds what is asked for by what is offered now and was not before.
    fn read(&mut self, before: &Output, output: &Output) {
        let services = output.services.changes(&before.services, Arc::ptr_eq);
        for variants in services.into_iter().filter_map(|(_, _, is)| is) {
            for service in variants.iter() {
                for frontend in service.read().ports.into_iter().filter_map(|port| port.frontend) {
                    let rules = frontend.routes.into_iter().flat_map(|route| route.rules);
                    let matches = rules.flat_map(|rule| rule.matches);
                    self.matches(matches.chain(frontend.faults.into_iter().flat_map(|fault| fault.matches)));
                }
            }
        }
        let inbound = output.inbound.changes(&before.inbound, Arc::ptr_eq);
        for guarded in inbound.into_iter().filter_map(|(_, _, is)| is) {
            for port in guarded.read().ports {
                for limit in port.rate_limits {
                    self.matches(limit.matches.into_iter());
                    self.headers.extend(limit.keys.into_iter().filter_map(|key| match key.key {
                        Some(rate_limit_key::Key::Header(name)) => Some(name.to_ascii_lowercase()),
                        _ => None,
                    }));
                }
                for rule in port.authorization.into_iter().flat_map(|policy| policy.rules) {
                    self.rule(rule);
                }
            }
        }
    }

    fn matches(&mut self, matches: impl Iterator<Item = v1::RouteMatch>) {
        for one in matches {
            self.headers.extend(one.headers.into_iter().map(|header| header.name.to_ascii_lowercase()));
            self.queries.extend(one.queries.into_iter().map(|query| query.name));
        }
    }

    fn rule(&mut self, rule: v1::AuthorizationRule) {
        for condition in rule.when {
            let header = condition.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            match (header, condition.key.as_str()) {
                (Some(name), _) => drop(self.headers.insert(name.to_ascii_lowercase())),
                (None, "source.namespace" | "source.principal" | "destination.port") => {}
                (None, _) => drop(self.unknown.insert(condition.key)),
            }
        }
        for source in rule.from {
            if !source.ip_blocks.is_empty() || !source.not_ip_blocks.is_empty() {
                self.unknown.insert("source.ip".to_owned());
            }
            if !source.request_principals.is_empty() || !source.not_request_principals.is_empty() {
                self.unknown.insert("request.auth.principal".to_owned());
            }
        }
    }

    fn wire(&self) -> v1::command::Command {
        let some = |names: &BTreeSet<String>| names.iter().take(MOST).cloned().collect();
        v1::command::Command::TrafficNames(v1::TrafficNames {
            headers: some(&self.headers),
            queries: some(&self.queries),
        })
    }
}

impl Fleet {
    /// The command that makes a sidecar tell of its traffic.
    pub(in crate::fleet) fn summaries(&self) -> v1::command::Command {
        self.traffic.lock().names.wire()
    }
}

/// Tells sidecars what policies ask for whenever that changes, until `shutdown`. What nobody asks for any more is found out now and then:
/// meanwhile it does no harm.
pub async fn follow(fleet: Arc<Fleet>, mut compiled: watch::Receiver<Compiled>, shutdown: CancellationToken) {
    let (mut before, mut known, mut anew) = (Arc::<Output>::default(), Names::default(), Instant::now() + ANEW);
    loop {
        let output = compiled.borrow_and_update().output.clone();
        if Instant::now() >= anew {
            (before, known, anew) = (Arc::default(), Names::default(), Instant::now() + ANEW);
        }
        let (was, is, mut names) = (before, output.clone(), known);
        // May read every resource: not on a thread that serves.
        let read = tokio::task::spawn_blocking(move || {
            names.read(&was, &is);
            names
        });
        let Ok(names) = read.await else { return };
        let changed = {
            let mut traffic = fleet.traffic.lock();
            std::mem::replace(&mut traffic.names, names.clone()) != names
        };
        if changed {
            fleet.tell_all(&names.wire(), |_| true);
        }
        (before, known) = (output, names);
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            // Many changes are looked at together.
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
