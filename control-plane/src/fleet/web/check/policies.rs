//! Routes and policies: whether they are accepted, whether what they name is there, and whether they are about anything.

use super::{Fact, Seen};
use crate::compile::Verdict;

pub(super) fn facts(seen: &Seen) -> Vec<Fact> {
    vec![accepted(seen), resolved(seen, true), resolved(seen, false), effective(seen)]
}

/// Routes and policies of which a condition does not hold: each, its message and reason, and whether calls are concerned: an object that
/// is not accepted, or a route without its backend.
pub(in super::super) fn unmet_of(seen: &Seen) -> Vec<(&Verdict, &str, &str, bool)> {
    let verdicts = seen.compiled.output.verdicts.iter();
    let found = verdicts.filter_map(|verdict| {
        let mut conditions = verdict.parents.iter().flat_map(|parent| &parent.conditions);
        let first = conditions.find(|condition| !condition.status)?;
        let is_grave = first.r#type != "ResolvedRefs" || verdict.kind.is_route();
        Some((&**verdict, first.message.as_str(), first.reason, is_grave))
    });
    found.collect()
}

fn object(verdict: &Verdict) -> String {
    format!("{} {}/{}", verdict.kind.name(), verdict.namespace, verdict.name)
}

/// The first condition of a type that does not hold.
fn unmet(verdict: &Verdict, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut conditions = verdict.parents.iter().flat_map(|parent| &parent.conditions);
    let found = conditions.find(|condition| !condition.status && wanted(condition.r#type))?;
    Some(format!("{}: {} ({})", object(verdict), found.message, found.reason))
}

fn accepted(seen: &Seen) -> Fact {
    let name = "every route and policy is accepted";
    let verdicts = &seen.compiled.output.verdicts;
    let bad: Vec<_> = verdicts.iter().filter_map(|verdict| unmet(verdict, |kind| kind != "ResolvedRefs")).collect();
    Fact::of(name, &bad, format!("{} of {0}", verdicts.len()), |bad| {
        Fact::error(name, bad, "an earlier edition may be in force; see: weft describe KIND NAME -n NAMESPACE")
    })
}

fn resolved(seen: &Seen, of_routes: bool) -> Fact {
    let name = if of_routes { "every backend of a route exists" } else { "every target of a policy exists" };
    let verdicts = seen.compiled.output.verdicts.iter().filter(|verdict| verdict.kind.is_route() == of_routes);
    let bad: Vec<_> = verdicts.filter_map(|verdict| unmet(verdict, |kind| kind == "ResolvedRefs")).collect();
    Fact::of(name, &bad, "", |bad| {
        let hint = match of_routes {
            true => "calls of that share are answered with 500: correct backendRefs, or make the Service",
            false => "it does nothing there: correct targetRefs, or make what it names",
        };
        Fact::error(name, bad, hint)
    })
}

fn effective(seen: &Seen) -> Fact {
    let name = "every policy is about somebody";
    let idle = |verdict: &&std::sync::Arc<Verdict>| {
        let holds = verdict.parents.iter().all(|parent| parent.conditions.iter().all(|condition| condition.status));
        !verdict.kind.is_route() && holds && verdict.parents.iter().all(|parent| parent.shapes.is_empty())
    };
    let idle: Vec<_> = seen.compiled.output.verdicts.iter().filter(idle).map(|verdict| object(verdict)).collect();
    Fact::of(name, &idle, "", |idle| {
        let hint = "no workload matches it now: look at its selector or targetRefs, and at the labels of workloads";
        Fact::warning(name, format!("about nobody: {idle}"), hint)
    })
}
