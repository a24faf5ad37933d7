//! What is wrong besides calls: sidecars that are not there or refuse what they are told, policies that are not in force, certificates, and
//! the control plane itself. Of the same findings as `weft check`, one problem for each thing that is not well.

use super::super::check::{Fact, Outcome, Seen, control, identity, policies, sidecars};
use super::{Kind, Problem, Severity};

const CHECKS: &str = "docs/src/reference/checks.md";

/// All of them, in no order.
pub(in super::super) fn problems(seen: &Seen) -> Vec<Problem> {
    let lost = sidecars::lost(seen).0.into_iter().map(|uid| {
        let fact = format!("the sidecar of {uid} is not connected");
        let hint =
            "is its process there? its sidecar.log says why it cannot connect; delete a workload that is gone for good";
        sidecar(uid, Severity::Error, fact, hint)
    });
    let silent = sidecars::silent(seen).into_iter().map(|uid| {
        let fact = format!("the sidecar of {uid} has stopped reporting");
        sidecar(uid, Severity::Warning, fact, "what it measures is missing here; see its sidecar.log")
    });
    let refused = sidecars::refused(seen).into_iter().map(|refused| {
        let place = if refused.field.is_empty() { String::new() } else { format!("{}: ", refused.field) };
        let fact = format!("{} refuses {}: {place}{}", refused.sidecar, refused.resource, refused.reason);
        let hint = "it keeps the last good version; is it older than the control plane?";
        sidecar(&refused.sidecar, Severity::Error, fact, hint)
    });
    let policies = policies::unmet_of(seen).into_iter().map(|(verdict, message, reason, is_grave)| {
        let (kind, place) = (verdict.kind.name(), format!("{}/{}", verdict.namespace, verdict.name));
        Problem {
            severity: if is_grave { Severity::Error } else { Severity::Warning },
            kind: Kind::Policy,
            name: format!("{kind} {place}"),
            fact: format!("{message} ({reason})"),
            suffers: Vec::new(),
            since: None,
            hint: "correct it and apply it again; an earlier edition may be in force meanwhile".to_owned(),
            command: format!("weft describe {} {} -n {}", kind.to_lowercase(), verdict.name, verdict.namespace),
            docs: "docs/src/reference/checks.md#policies",
            about: vec![place],
            share: 0.0,
        }
    });
    let own = control::facts(seen).into_iter().chain(control::store(seen));
    let own = own.filter_map(|fact| of_fact(fact, Kind::ControlPlane, "weft check control-plane store"));
    let identity = identity::facts(seen).into_iter();
    let identity = identity.filter_map(|fact| of_fact(fact, Kind::Certificate, "weft identity show"));
    lost.chain(silent).chain(refused).chain(policies).chain(own).chain(identity).collect()
}

fn sidecar(uid: &str, severity: Severity, fact: String, hint: &str) -> Problem {
    let (namespace, name) = uid.split_once('/').unwrap_or(("default", uid));
    Problem {
        severity,
        kind: Kind::Sidecar,
        name: uid.to_owned(),
        fact,
        suffers: Vec::new(),
        since: None,
        hint: hint.to_owned(),
        command: format!("weft describe workload {name} -n {namespace}"),
        docs: "docs/src/reference/checks.md#sidecars",
        about: vec![uid.to_owned()],
        share: 0.0,
    }
}

/// A fact that does not hold, of the mesh as a whole.
fn of_fact(fact: Fact, kind: Kind, command: &str) -> Option<Problem> {
    let severity = match fact.result {
        Outcome::Error => Severity::Error,
        Outcome::Warning => Severity::Warning,
        Outcome::Ok | Outcome::Skipped => return None,
    };
    Some(Problem {
        severity,
        kind,
        name: fact.name.to_owned(),
        fact: fact.detail,
        suffers: Vec::new(),
        since: None,
        hint: fact.hint.unwrap_or_default().to_owned(),
        command: command.to_owned(),
        docs: CHECKS,
        about: Vec::new(),
        share: 0.0,
    })
}
