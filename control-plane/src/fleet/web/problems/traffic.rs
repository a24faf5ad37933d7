//! Where calls fail, and who suffers for it. Pure.
//!
//! A service that fails because what it calls fails is no cause: its own calls onward fail about as often as it does. So each failing
//! service is either a cause, or explained by causes further down; who calls a cause suffers, and so does whoever calls those that are
//! explained by it. Where nearly all failures of a service are on one of several edges to it, that edge is the cause: a policy, or a caller.

use super::super::document::{Document, ServiceRow};
use super::{Kind, Problem, Severity, percent};
use std::collections::{BTreeMap, BTreeSet};

/// Below these nothing is said: the share that failed, and how many.
const NOTABLE: f64 = 0.01;
const LEAST: u64 = 3;
/// From this share on it is an error.
const GRAVE: f64 = 0.05;
/// A service is explained where failed calls of its own come to this part of its failures.
const EXPLAINED: f64 = 0.5;
/// One edge is meant where it has this part of the failures, and others have so many calls that went well.
const CONCENTRATED: f64 = 0.95;
const OTHERS: u64 = 10;

/// Calls, and those of them that failed.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    all: u64,
    failed: u64,
}

impl Calls {
    #[expect(clippy::cast_precision_loss, reason = "a share of calls in a window")]
    fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.failed as f64 / self.all as f64 }
    }

    fn is_notable(self) -> bool {
        self.failed >= LEAST && self.share() >= NOTABLE
    }
}

/// Who calls whom, and how that goes.
struct Graph<'d> {
    services: BTreeMap<&'d str, Calls>,
    /// By destination, then by source.
    edges: BTreeMap<&'d str, BTreeMap<&'d str, Calls>>,
    /// What routes gave away: by the service that was addressed, then by the one that answered.
    given: BTreeMap<&'d str, BTreeMap<&'d str, Calls>>,
}

impl<'d> Graph<'d> {
    fn of(document: &'d Document) -> Self {
        let services = document.services.iter().map(|row| {
            let numbers = &row.row.numbers;
            (row.row.service.as_str(), Calls { all: numbers.calls, failed: numbers.failures })
        });
        let mut edges: BTreeMap<&str, BTreeMap<&str, Calls>> = BTreeMap::new();
        for row in &document.edges {
            let Some(source) = row.source.as_deref().filter(|source| !source.is_empty()) else { continue };
            let calls = Calls { all: row.numbers.calls, failed: row.numbers.failures };
            edges.entry(&row.service).or_default().insert(source, calls);
        }
        let mut given: BTreeMap<&str, BTreeMap<&str, Calls>> = BTreeMap::new();
        for calls in document.addressed.iter().filter(|calls| calls.service != calls.by) {
            let sum = given.entry(&calls.service).or_default().entry(&calls.by).or_default();
            sum.all += calls.numbers.calls;
            sum.failed += calls.numbers.failures;
        }
        Self { services: services.collect(), edges, given }
    }

    /// Failing services, each with those of its own callees by which its failures are explained.
    fn explained(&self) -> BTreeMap<&'d str, BTreeSet<&'d str>> {
        let failing = self.services.iter().filter(|(_, calls)| calls.is_notable());
        let mut found: BTreeMap<&str, BTreeSet<&str>> = failing.map(|(name, _)| (*name, BTreeSet::new())).collect();
        let names: Vec<&str> = found.keys().copied().collect();
        for name in names {
            let onward = self.edges.iter().filter_map(|(callee, callers)| Some((*callee, *callers.get(name)?)));
            let given = self.given.get(name).into_iter().flatten().map(|(by, calls)| (*by, *calls));
            let onward: Vec<_> = onward
                .chain(given)
                .filter(|(callee, calls)| *callee != name && calls.is_notable() && found.contains_key(callee))
                .collect();
            let failed: u64 = onward.iter().map(|(_, calls)| calls.failed).sum();
            let own = self.services.get(name).map_or(0, |calls| calls.failed);
            #[expect(clippy::cast_precision_loss, reason = "a share of calls in a window")]
            let is_explained = failed as f64 >= EXPLAINED * own as f64;
            if is_explained && let Some(by) = found.get_mut(name) {
                *by = onward.into_iter().map(|(callee, _)| callee).collect();
            }
        }
        self.promote(&mut found);
        found
    }

    /// Services that call each other in a circle may all be explained by one another: then the one that fails most is the cause.
    fn promote(&self, explained: &mut BTreeMap<&'d str, BTreeSet<&'d str>>) {
        loop {
            let mut rooted: BTreeSet<&str> =
                explained.iter().filter(|(_, by)| by.is_empty()).map(|(name, _)| *name).collect();
            loop {
                let more: Vec<&str> = explained
                    .iter()
                    .filter(|(name, by)| !rooted.contains(*name) && by.iter().any(|by| rooted.contains(by)))
                    .map(|(name, _)| *name)
                    .collect();
                if more.is_empty() {
                    break;
                }
                rooted.extend(more);
            }
            let share = |name: &&str| self.services.get(name).map_or(0.0, |calls| calls.share());
            let worst = explained
                .keys()
                .copied()
                .filter(|name| !rooted.contains(name))
                .max_by(|a, b| share(a).total_cmp(&share(b)).then(b.cmp(a)));
            let Some(by) = worst.and_then(|worst| explained.get_mut(worst)) else { return };
            by.clear();
        }
    }

    /// Whose calls fail because a service does, as far up as they are explained by it.
    fn sufferers(&self, cause: &str, explained: &BTreeMap<&str, BTreeSet<&str>>) -> BTreeSet<&'d str> {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        let mut next = vec![cause];
        while let Some(name) = next.pop() {
            let callers = self.edges.get(name).into_iter().flatten().filter(|(_, calls)| calls.is_notable());
            for (caller, _) in callers {
                let goes_on = explained.get(caller).is_some_and(|by| by.contains(name));
                if *caller != cause && found.insert(caller) && goes_on {
                    next.push(caller);
                }
            }
        }
        found
    }

    /// The caller on whose edge nearly all failures are, while others' calls go well.
    fn concentrated(&self, service: &str) -> Option<(&'d str, Calls)> {
        let callers = self.edges.get(service)?;
        let failed: u64 = callers.values().map(|calls| calls.failed).sum();
        let (source, worst) = callers.iter().max_by_key(|(_, calls)| calls.failed)?;
        let others = callers.iter().filter(|(name, _)| *name != source);
        let went_well: u64 = others.map(|(_, calls)| calls.all - calls.failed.min(calls.all)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a share of calls in a window")]
        let is_one = worst.failed as f64 >= CONCENTRATED * failed as f64;
        (is_one && went_well >= OTHERS).then_some((*source, *worst))
    }
}

/// What is wrong with calls; `since` says since when those of a service fail, seconds since the Unix epoch.
pub(in super::super) fn problems(document: &Document, since: impl Fn(&str) -> Option<u64>) -> Vec<Problem> {
    let graph = Graph::of(document);
    let explained = graph.explained();
    let mut found = Vec::new();
    for (cause, _) in explained.iter().filter(|(_, by)| by.is_empty()) {
        let calls = graph.services.get(cause).copied().unwrap_or_default();
        let suffers = graph.sufferers(cause, &explained).into_iter().map(str::to_owned).collect();
        let since = since(cause);
        found.push(match graph.concentrated(cause) {
            Some((source, calls)) => edge(source, cause, calls, suffers, since),
            None => service(document, cause, calls, suffers, since),
        });
    }
    found.extend(unready(document, &graph, &explained));
    found.extend(ejected(document, &found));
    found
}

fn severity(share: f64) -> Severity {
    if share >= GRAVE { Severity::Error } else { Severity::Warning }
}

fn service(document: &Document, name: &str, calls: Calls, suffers: Vec<String>, since: Option<u64>) -> Problem {
    let row = document.services.iter().find(|row| row.row.service == name);
    let is_down = row.is_some_and(|row| row.endpoints > 0 && row.ready_endpoints == 0);
    let fact = format!("{} of calls to {name} fail", percent(calls.share()));
    let hint = "its instances say why: look at each, and at the policies that name it";
    Problem {
        severity: severity(calls.share()),
        kind: Kind::Service,
        name: name.to_owned(),
        fact: if is_down { format!("{fact}: none of its instances is ready") } else { fact },
        suffers,
        since,
        hint: if is_down { "are its programs up? their sidecar.log says more".to_owned() } else { hint.to_owned() },
        command: endpoints(name),
        docs: "docs/src/reference/failures.md",
        about: vec![name.to_owned()],
        share: calls.share(),
    }
}

fn edge(source: &str, name: &str, calls: Calls, suffers: Vec<String>, since: Option<u64>) -> Problem {
    let (namespace, own) = name.split_once('/').unwrap_or(("default", name));
    Problem {
        severity: severity(calls.share()),
        kind: Kind::Edge,
        name: format!("{source} → {name}"),
        fact: format!("{} of calls from {source} to {name} fail, those of others do not", percent(calls.share())),
        suffers,
        since,
        hint: "a policy may refuse this caller, or it asks for what is not there".to_owned(),
        command: format!("weft explain --from {source} --to {own}.{namespace}"),
        docs: "docs/src/reference/failures.md",
        about: vec![source.to_owned(), name.to_owned()],
        share: calls.share(),
    }
}

fn endpoints(name: &str) -> String {
    let (namespace, own) = name.split_once('/').unwrap_or(("default", name));
    format!("weft endpoints {own} -n {namespace}")
}

/// Services without a ready instance of which nothing was said yet.
fn unready<'d>(document: &'d Document, graph: &Graph<'d>, explained: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Problem> {
    let down = document.services.iter().filter(|row| row.endpoints > 0 && row.ready_endpoints == 0);
    let is_said = |name: &str| explained.get(name).is_some_and(BTreeSet::is_empty);
    let told = |row: &ServiceRow| {
        let name = row.row.service.as_str();
        Problem {
            severity: Severity::Error,
            kind: Kind::Service,
            name: name.to_owned(),
            fact: match row.endpoints {
                1 => format!("the only instance of {name} is not ready"),
                all => format!("none of the {all} instances of {name} is ready"),
            },
            suffers: graph.edges.get(name).into_iter().flatten().map(|(caller, _)| (*caller).to_owned()).collect(),
            since: None,
            hint: "are its programs up? their sidecar.log says more".to_owned(),
            command: endpoints(name),
            docs: "docs/src/reference/checks.md#services",
            about: vec![name.to_owned()],
            share: 1.0,
        }
    };
    down.filter(|row| !is_said(&row.row.service)).map(told).collect()
}

/// Services for which breakers are open, but no more is wrong.
fn ejected(document: &Document, said: &[Problem]) -> Vec<Problem> {
    let open = document.services.iter().filter(|row| row.row.open_breakers > 0);
    let is_said = |name: &str| said.iter().any(|problem| problem.about.iter().any(|about| about == name));
    let told = |row: &ServiceRow| {
        let (name, open) = (row.row.service.as_str(), row.row.open_breakers);
        Problem {
            severity: Severity::Warning,
            kind: Kind::Service,
            name: name.to_owned(),
            fact: match open {
                1 => format!("a caller's breaker is open for an instance of {name}"),
                _ => format!("{open} breakers of callers are open for instances of {name}"),
            },
            suffers: Vec::new(),
            since: None,
            hint: "calls go to its other instances meanwhile; see which are left out".to_owned(),
            command: endpoints(name),
            docs: "docs/src/howto/breakers.md",
            about: vec![name.to_owned()],
            share: 0.0,
        }
    };
    open.filter(|row| !is_said(&row.row.service)).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::golden::{Numbers, Row};

    fn numbers(calls: u64, failures: u64) -> Numbers {
        Numbers { calls, failures, ..Numbers::default() }
    }

    /// Of edges (source, destination, calls, failures); a service's numbers are their sums.
    fn mesh(edges: &[(&str, &str, u64, u64)]) -> Document {
        let mut services: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (_, to, calls, failures) in edges {
            let sums = services.entry(to).or_default();
            *sums = (sums.0 + calls, sums.1 + failures);
        }
        let service = |(name, (calls, failures)): (&str, (u64, u64))| ServiceRow {
            row: Row { service: name.into(), numbers: numbers(calls, failures), ..Row::default() },
            ready_endpoints: 1,
            endpoints: 1,
        };
        let edge = |(from, to, calls, failures): &(&str, &str, u64, u64)| Row {
            service: (*to).into(),
            source: Some((*from).into()),
            numbers: numbers(*calls, *failures),
            ..Row::default()
        };
        Document {
            services: services.into_iter().map(service).collect(),
            edges: edges.iter().map(edge).collect(),
            ..Document::default()
        }
    }

    fn found(document: &Document) -> Vec<(Kind, String, Vec<String>)> {
        problems(document, |_| Some(7)).into_iter().map(|p| (p.kind, p.name, p.suffers)).collect()
    }

    fn told(kind: Kind, name: &str, suffers: &[&str]) -> (Kind, String, Vec<String>) {
        (kind, name.to_owned(), suffers.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_cause_is_where_failures_begin_and_those_above_it_suffer() {
        let chain = mesh(&[
            ("shop/load", "shop/web", 1000, 95),
            ("shop/web", "shop/catalog", 900, 0),
            ("shop/web", "shop/orders", 300, 98),
            ("shop/orders", "shop/stock", 300, 0),
            ("shop/orders", "shop/payments", 290, 100),
        ]);
        assert_eq!(found(&chain), [told(Kind::Service, "shop/payments", &["shop/load", "shop/orders", "shop/web"])]);
        let told = problems(&chain, |name| (name == "shop/payments").then_some(7));
        assert_eq!(told[0].fact, "34 % of calls to shop/payments fail");
        assert_eq!((told[0].severity, told[0].since), (Severity::Error, Some(7)));
        assert_eq!(told[0].command, "weft endpoints payments -n shop");
    }

    #[test]
    fn a_service_whose_route_gives_calls_to_one_that_fails_is_no_cause() {
        let mut document = mesh(&[("shop/web", "shop/catalog-v1", 300, 90), ("shop/web", "shop/catalog", 10, 0)]);
        let row = document.services.iter_mut().find(|row| row.row.service == "shop/catalog").unwrap();
        row.row.numbers = numbers(310, 90);
        document.addressed = vec![super::super::super::super::golden::Addressed {
            service: "shop/catalog".into(),
            by: "shop/catalog-v1".into(),
            route: "shop/catalog".into(),
            numbers: numbers(300, 90),
        }];
        assert_eq!(found(&document), [told(Kind::Service, "shop/catalog-v1", &["shop/web"])]);
    }

    #[test]
    fn a_service_that_fails_more_than_what_it_calls_is_a_cause_of_its_own() {
        let two = mesh(&[
            ("shop/load", "shop/web", 1000, 400),
            ("shop/web", "shop/orders", 1000, 30),
            ("shop/web", "shop/stock", 1000, 0),
        ]);
        assert_eq!(
            found(&two),
            [told(Kind::Service, "shop/orders", &["shop/web"]), told(Kind::Service, "shop/web", &["shop/load"]),]
        );
    }

    #[test]
    fn two_causes_share_their_sufferers() {
        let both = mesh(&[
            ("shop/load", "shop/web", 1000, 200),
            ("shop/web", "shop/a", 500, 100),
            ("shop/web", "shop/b", 500, 100),
        ]);
        assert_eq!(
            found(&both),
            [
                told(Kind::Service, "shop/a", &["shop/load", "shop/web"]),
                told(Kind::Service, "shop/b", &["shop/load", "shop/web"]),
            ]
        );
    }

    #[test]
    fn an_edge_is_named_where_only_its_caller_fails() {
        let refused = mesh(&[("shop/orders", "shop/payments", 50, 50), ("shop/billing", "shop/payments", 500, 0)]);
        assert_eq!(found(&refused), [told(Kind::Edge, "shop/orders → shop/payments", &["shop/orders"])]);
        let fact = &problems(&refused, |_| None)[0].fact;
        assert_eq!(fact, "100 % of calls from shop/orders to shop/payments fail, those of others do not");
        // One caller alone says nothing of others.
        let only = mesh(&[("shop/orders", "shop/payments", 50, 50)]);
        assert_eq!(found(&only)[0].0, Kind::Service);
    }

    #[test]
    fn a_circle_has_a_cause_and_ends() {
        let circle =
            mesh(&[("shop/a", "shop/b", 100, 40), ("shop/b", "shop/a", 100, 30), ("shop/c", "shop/a", 100, 30)]);
        assert_eq!(found(&circle), [told(Kind::Service, "shop/b", &["shop/a", "shop/c"])]);
    }

    #[test]
    fn a_few_failures_of_many_are_nothing() {
        assert_eq!(found(&mesh(&[("shop/a", "shop/b", 10_000, 50)])), []);
        assert_eq!(found(&mesh(&[("shop/a", "shop/b", 4, 2)])), []);
        let some = problems(&mesh(&[("shop/a", "shop/b", 1000, 20)]), |_| None);
        assert_eq!(some[0].severity, Severity::Warning);
    }

    #[test]
    fn a_service_without_a_ready_instance_is_said_once() {
        let mut down = mesh(&[("shop/a", "shop/b", 100, 100)]);
        down.services[0].ready_endpoints = 0;
        let told = problems(&down, |_| None);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].fact, "100 % of calls to shop/b fail: none of its instances is ready");
        let mut idle = mesh(&[("shop/a", "shop/b", 0, 0)]);
        idle.services[0].ready_endpoints = 0;
        assert_eq!(problems(&idle, |_| None)[0].fact, "the only instance of shop/b is not ready");
    }
}
