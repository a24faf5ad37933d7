//! What happened between two compilations that people should see: a policy or route that is refused or does not resolve, and one that is
//! in force again; endpoints that are lost, expire or come back. Each is told of the object, and of the Services that it is about.
//!
//! Pure. After a start it tells what is wrong, not what is well.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::ledger::{About, Occurrence};
use crate::{
    compile::{Kind, ParentVerdict, Stage, Verdict},
    kinds::{Phase, TargetRef},
    world::{Table, Workload, World},
};

/// The reason of what is not known yet: nothing is wrong.
const WAITING: &str = "Pending";

/// Kind, namespace, name and uid.
type Object = (Kind, String, String, String);

/// What was wrong with an object when it was last looked at.
struct Told {
    verdict: Arc<Verdict>,
    wrong: BTreeSet<(&'static str, String)>,
    /// How far its rollout had got, and of which edition.
    rollout: Option<(Stage, i64)>,
}

/// Remembers one compilation to compare the next with.
#[derive(Default)]
pub struct Observer {
    told: HashMap<Object, Told>,
    /// What was looked at last: endpoints come and go far more often than anything is said of policies.
    verdicts: Vec<Arc<Verdict>>,
    workloads: Option<Table<Arc<Workload>>>,
}

impl Observer {
    /// What happened since the last time.
    pub fn observe(&mut self, world: &World, verdicts: &[Arc<Verdict>]) -> Vec<Occurrence> {
        let mut happened = Vec::new();
        let same = |(was, is): (&Arc<Verdict>, &Arc<Verdict>)| Arc::ptr_eq(was, is);
        if self.verdicts.len() != verdicts.len() || !self.verdicts.iter().zip(verdicts).all(same) {
            self.told = self.judged(world, verdicts, &mut happened);
            self.verdicts = verdicts.to_vec();
        }
        if let Some(before) = &self.workloads {
            let same = |a: &Arc<Workload>, b: &Arc<Workload>| Arc::ptr_eq(a, b) || a == b;
            for (_, was, is) in world.workloads.changes(before, same) {
                workload(world, was, is, &mut happened);
            }
        }
        self.workloads = Some(world.workloads.clone());
        happened
    }

    fn judged(
        &mut self,
        world: &World,
        verdicts: &[Arc<Verdict>],
        happened: &mut Vec<Occurrence>,
    ) -> HashMap<Object, Told> {
        let mut seen = HashMap::with_capacity(verdicts.len());
        for verdict in verdicts {
            let object = (verdict.kind, verdict.namespace.clone(), verdict.name.clone(), verdict.uid.clone());
            let before = self.told.remove(&object);
            if let Some(told) = before.as_ref().filter(|told| Arc::ptr_eq(&told.verdict, verdict)) {
                let told = Told { verdict: verdict.clone(), wrong: told.wrong.clone(), rollout: told.rollout };
                seen.insert(object, told);
                continue;
            }
            let (before, stage) = before.map(|told| (told.wrong, told.rollout)).unwrap_or_default();
            let wrong = tell(world, verdict, &before, happened);
            rolled(world, verdict, stage, happened);
            let rollout = verdict.rollout.as_ref().map(|note| (note.stage, verdict.generation));
            seen.insert(object, Told { verdict: verdict.clone(), wrong, rollout });
        }
        seen
    }
}

/// Tells what is newly wrong with an object; returns all that is.
fn tell(
    world: &World,
    verdict: &Verdict,
    before: &BTreeSet<(&'static str, String)>,
    happened: &mut Vec<Occurrence>,
) -> BTreeSet<(&'static str, String)> {
    let mut wrong = BTreeSet::new();
    let mut say = |warning: bool, reason: &str, message: &str, parent: Option<&ParentVerdict>| {
        say(world, verdict, (warning, reason, message), parent, happened);
    };
    for parent in &verdict.parents {
        for condition in parent.conditions.iter().filter(|c| !c.status && c.reason != WAITING) {
            let what = (condition.reason, condition.message.clone());
            if wrong.insert(what.clone()) && !before.contains(&what) {
                let message = match condition.message.as_str() {
                    "" => format!("{} is False", condition.r#type),
                    text => text.to_owned(),
                };
                say(true, condition.reason, &message, Some(parent));
            }
        }
    }
    if wrong.is_empty() && !before.is_empty() {
        say(
            false,
            "Accepted",
            &format!("generation {} is accepted, and all that it names is there", verdict.generation),
            None,
        );
    }
    wrong
}

/// Tells how the rollout of an object moved on; `before` is how far it had got, and of which edition.
fn rolled(world: &World, verdict: &Verdict, before: Option<(Stage, i64)>, happened: &mut Vec<Occurrence>) {
    let now = verdict.rollout.as_ref().map(|note| (note.stage, verdict.generation));
    if now == before {
        return;
    }
    let generation = verdict.generation;
    let everywhere = format!("generation {generation} is in force for all sidecars");
    let what = match (&verdict.rollout, before) {
        (Some(note), _) => match note.stage {
            Stage::Waiting => return,
            Stage::Trying => (false, "RolloutStarted", note.message.as_str()),
            Stage::RolledBack => (true, "RolledBack", note.message.as_str()),
        },
        (None, Some((Stage::Trying, of))) if of == generation && verdict.is_accepted() => {
            (false, "RolledOut", everywhere.as_str())
        }
        _ => return,
    };
    say(world, verdict, what, None, happened);
}

/// Says something of an object, and of the Services that it is about: whether somebody should do something, the reason, and for people.
fn say(
    world: &World,
    verdict: &Verdict,
    (warning, reason, message): (bool, &str, &str),
    parent: Option<&ParentVerdict>,
    happened: &mut Vec<Occurrence>,
) {
    let about = About {
        api_version: if verdict.kind.is_route() { "gateway.networking.k8s.io/v1" } else { "weft.mesh/v1alpha1" },
        kind: verdict.kind.name(),
        namespace: verdict.namespace.clone(),
        name: verdict.name.clone(),
        uid: verdict.uid.clone(),
    };
    let occurrence = |about: About, message: String| Occurrence { about, warning, reason: reason.to_owned(), message };
    happened.push(occurrence(about, message.to_owned()));
    for service in services(world, verdict, parent) {
        let message = format!("{} {}/{}: {message}", verdict.kind.name(), verdict.namespace, verdict.name);
        happened.push(occurrence(service, message));
    }
}

/// The Services that an object is about: the parent of a route, the targets of a policy.
fn services(world: &World, verdict: &Verdict, parent: Option<&ParentVerdict>) -> Vec<About> {
    let key = format!("{}/{}", verdict.namespace, verdict.name);
    let of = |refs: &[TargetRef]| -> Vec<String> {
        refs.iter().filter(|r| r.is_service()).map(|r| format!("{}/{}", verdict.namespace, r.name)).collect()
    };
    let named: Vec<String> = match verdict.kind {
        kind if kind.is_route() => {
            let all = verdict.parents.iter().filter(|p| parent.is_none_or(|only| std::ptr::eq(only, *p)));
            all.filter_map(|p| service_of(p.parent.as_ref()?, &verdict.namespace)).collect()
        }
        Kind::TrafficPolicy => world.traffic.get(&key).map(|p| of(&p.spec.target_refs)).unwrap_or_default(),
        Kind::AuthorizationPolicy => world.authorization.get(&key).map(|p| of(&p.spec.target_refs)).unwrap_or_default(),
        Kind::MeshTls => world.mesh_tls.get(&key).map(|p| of(&p.spec.target_refs)).unwrap_or_default(),
        Kind::RateLimitPolicy => world.limits.get(&key).map(|p| of(&p.spec.target_refs)).unwrap_or_default(),
        Kind::RequestAuthentication => {
            world.authentication.get(&key).map(|p| of(&p.spec.target_refs)).unwrap_or_default()
        }
        Kind::MeshSettings | Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => Vec::new(),
    };
    named.iter().collect::<BTreeSet<_>>().into_iter().filter_map(|key| service(world, key)).collect()
}

fn service_of(parent: &Value, namespace: &str) -> Option<String> {
    let text = |field: &str| parent.get(field).and_then(Value::as_str).unwrap_or_default();
    let namespace = Some(text("namespace")).filter(|n| !n.is_empty()).unwrap_or(namespace);
    (text("group").is_empty() && text("kind") == "Service").then(|| format!("{namespace}/{}", text("name")))
}

fn service(world: &World, key: &str) -> Option<About> {
    let service = world.services.get(key)?;
    let (namespace, name) = key.split_once('/')?;
    Some(About {
        api_version: "v1",
        kind: "Service",
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
    })
}

fn phase(workload: &Workload) -> Option<Phase> {
    workload.phase
}

/// What became of a workload: lost, gone for good after it was lost, or back.
fn workload(world: &World, was: Option<&Arc<Workload>>, is: Option<&Arc<Workload>>, happened: &mut Vec<Occurrence>) {
    let lost = |w: Option<&Arc<Workload>>| w.is_some_and(|w| phase(w) == Some(Phase::Lost));
    let (warning, reason, what) = match (lost(was), is) {
        (false, Some(now)) if was.is_some() && phase(now) == Some(Phase::Lost) => {
            (true, "EndpointLost", "its sidecar is not heard of, and no calls are sent to it")
        }
        (true, None) => (true, "EndpointExpired", "its sidecar was not heard of for too long, and it was removed"),
        (true, Some(now)) if phase(now) == Some(Phase::Ready) => (false, "EndpointReady", "its sidecar is back"),
        _ => return,
    };
    let Some(of) = is.or(was) else { return };
    let (namespace, name) = (of.namespace.to_string(), of.name.to_string());
    if is.is_some() {
        let about = About {
            api_version: "weft.mesh/v1alpha1",
            kind: "Workload",
            namespace: namespace.clone(),
            name: name.clone(),
            uid: of.object_uid.to_string(),
        };
        happened.push(Occurrence { about, warning, reason: reason.to_owned(), message: what.to_owned() });
    }
    for about in of.spec.services.iter().filter_map(|name| service(world, &format!("{namespace}/{name}"))) {
        let message = format!("workload {name} ({}): {what}", of.spec.address);
        happened.push(Occurrence { about, warning, reason: reason.to_owned(), message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Condition, Note};
    use serde_json::json;

    fn world() -> World {
        let mut world = World::default();
        let service = json!({"metadata": {"name": "cart", "namespace": "shop", "uid": "s"}});
        world.services.insert("shop/cart", Arc::new(serde_json::from_value(service).unwrap()));
        world
    }

    fn verdict(conditions: Vec<Condition>) -> Arc<Verdict> {
        let parent = ParentVerdict {
            parent: Some(json!({"group": "", "kind": "Service", "name": "cart"})),
            conditions,
            shapes: BTreeSet::default(),
        };
        Arc::new(Verdict {
            kind: Kind::HttpRoute,
            namespace: "shop".into(),
            name: "r".into(),
            uid: "u".into(),
            generation: 3,
            parents: vec![parent],
            rollout: None,
        })
    }

    fn said(happened: &[Occurrence]) -> Vec<(&str, bool, &str, &str)> {
        happened.iter().map(|o| (o.about.kind, o.warning, o.reason.as_str(), o.message.as_str())).collect()
    }

    #[test]
    fn what_is_refused_is_told_once_of_the_route_and_its_service_and_when_it_is_well_again() {
        let (mut observer, world) = (Observer::default(), world());
        let broken = || {
            vec![Condition::accepted(), Condition::resolved(&[("BackendNotFound", "shop/cart-v9 is not there".into())])]
        };
        let first = observer.observe(&world, &[verdict(broken())]);
        assert_eq!(
            said(&first),
            [
                ("HTTPRoute", true, "BackendNotFound", "shop/cart-v9 is not there"),
                ("Service", true, "BackendNotFound", "HTTPRoute shop/r: shop/cart-v9 is not there"),
            ]
        );
        assert_eq!(first[1].about.uid, "s");
        assert!(observer.observe(&world, &[verdict(broken())]).is_empty(), "nothing new");
        let well = observer.observe(&world, &[verdict(vec![Condition::accepted()])]);
        assert_eq!(
            said(&well)[0],
            ("HTTPRoute", false, "Accepted", "generation 3 is accepted, and all that it names is there")
        );
        assert!(observer.observe(&world, &[verdict(vec![Condition::accepted()])]).is_empty());
        assert!(
            Observer::default().observe(&world, &[verdict(vec![Condition::accepted()])]).is_empty(),
            "well at the start"
        );
    }

    #[test]
    fn how_a_rollout_goes_is_told_once_and_of_the_service_too() {
        let (mut observer, world) = (Observer::default(), world());
        let mut step = |stage: Option<Stage>, generation: i64| {
            let mut verdict = Verdict::clone(&verdict(vec![Condition::accepted()]));
            verdict.generation = generation;
            verdict.rollout = stage.map(|stage| Note { stage, message: "so many".into() });
            let happened = observer.observe(&world, &[Arc::new(verdict)]);
            happened.iter().map(|o| (o.warning, o.reason.clone(), o.about.kind)).collect::<Vec<_>>()
        };
        let both = |warning: bool, reason: &str| {
            vec![(warning, reason.to_owned(), "HTTPRoute"), (warning, reason.to_owned(), "Service")]
        };
        assert!(step(None, 1).is_empty() && step(Some(Stage::Waiting), 2).is_empty());
        assert_eq!(step(Some(Stage::Trying), 2), both(false, "RolloutStarted"));
        assert!(step(Some(Stage::Trying), 2).is_empty());
        assert_eq!(step(None, 2), both(false, "RolledOut"));
        assert!(step(None, 2).is_empty() && step(Some(Stage::Waiting), 3).is_empty());
        assert_eq!(step(Some(Stage::Trying), 3), both(false, "RolloutStarted"));
        assert_eq!(step(Some(Stage::RolledBack), 3), both(true, "RolledBack"));
        assert!(step(Some(Stage::RolledBack), 3).is_empty() && step(None, 4).is_empty());
    }

    #[test]
    fn a_workload_that_is_lost_expires_or_returns_is_told_of_its_services() {
        let mut world = world();
        let mut observer = Observer::default();
        let mut step = |phase: Option<&str>| {
            let workload = phase.map(|phase| {
                let workload = json!({"apiVersion": "weft.mesh/v1alpha1", "kind": "Workload",
                    "metadata": {"name": "w", "namespace": "shop", "uid": "w"},
                    "spec": {"address": "192.0.2.1", "services": ["cart"]}, "status": {"phase": phase}});
                Arc::new(serde_json::from_value::<crate::kinds::Workload>(workload).unwrap().into())
            });
            match workload {
                Some(workload) => drop(world.workloads.insert("shop/w", workload)),
                None => drop(world.workloads.remove("shop/w")),
            }
            observer.observe(&world, &[]).iter().map(|o| (o.about.kind, o.reason.clone())).collect::<Vec<_>>()
        };
        assert!(step(Some("Ready")).is_empty());
        let both = |reason: &str| vec![("Workload", reason.to_owned()), ("Service", reason.to_owned())];
        assert_eq!(step(Some("Lost")), both("EndpointLost"));
        assert_eq!(step(Some("Ready")), both("EndpointReady"));
        assert_eq!(step(Some("Lost")), both("EndpointLost"));
        assert_eq!(step(None), [("Service", "EndpointExpired".to_owned())]);
        assert!(step(Some("Ready")).is_empty() && step(None).is_empty(), "one that drained and left was not lost");
    }
}
