//! The page `problems`: what is not well, the worst first, each with what to do. [`traffic`] finds where calls fail and who suffers for it,
//! [`objects`] what is wrong with sidecars, policies, certificates and the control plane itself.

pub(super) mod objects;
pub(super) mod traffic;

use super::document::{Document, Part};
use super::{Sources, is_of};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Over which calls are judged.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Problems that a page lists.
const SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Severity {
    /// Calls fail, or are about to.
    Error,
    /// Somebody should look.
    Warning,
}

/// What a problem is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    Service,
    Edge,
    Sidecar,
    Policy,
    Certificate,
    ControlPlane,
}

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Problem {
    pub severity: Severity,
    pub kind: Kind,
    /// "namespace/name" of a service or workload, "source → destination" of an edge, "Kind namespace/name" of a policy.
    pub name: String,
    /// What is wrong, a sentence for people.
    pub fact: String,
    /// Services and callers whose calls fail for it.
    pub suffers: Vec<String>,
    /// Since when, seconds since the Unix epoch; null: not known.
    pub since: Option<u64>,
    pub hint: String,
    /// What shows more of it.
    pub command: String,
    /// Where the book speaks of it.
    pub docs: &'static str,
    /// The names that it is about, by which it is of a namespace.
    #[serde(skip)]
    pub about: Vec<String>,
    /// Of the calls concerned, 0 to 1: the more, the further up.
    #[serde(skip)]
    pub share: f64,
}

/// What is wrong with calls; the document is of the last [`WINDOW`].
pub(super) fn of_calls(sources: &Sources, document: &Document) -> Vec<Problem> {
    traffic::problems(document, |service| sources.fleet.failing_since(service))
}

/// The worst first.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| {
        let place = (a.severity, &a.kind, &a.name).cmp(&(b.severity, &b.kind, &b.name));
        a.severity.cmp(&b.severity).then(b.share.total_cmp(&a.share)).then(place)
    });
}

/// What a part of the mesh is told of them. A namespace hears of what is in it, and of what it suffers for, and of no other sufferers.
pub(super) fn page(problems: &[Problem], part: &Part) -> Value {
    let here = |name: &String| is_of(name, &part.namespace);
    let concerned = |problem: &&Problem| {
        part.namespace.is_empty() || problem.about.iter().any(here) || problem.suffers.iter().any(here)
    };
    let mut items: Vec<Problem> = problems.iter().filter(concerned).cloned().collect();
    for item in &mut items {
        item.suffers.retain(here);
    }
    let omitted = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    json!({ "items": items, "omitted": omitted })
}

/// `34 %`, `1.3 %`
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 99.95 {
        "100 %".to_owned()
    } else if percent >= 10.0 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str, severity: Severity, share: f64, suffers: &[&str]) -> Problem {
        Problem {
            severity,
            kind: Kind::Service,
            name: name.to_owned(),
            fact: String::new(),
            suffers: suffers.iter().map(|name| (*name).to_owned()).collect(),
            since: None,
            hint: String::new(),
            command: String::new(),
            docs: "",
            about: vec![name.to_owned()],
            share,
        }
    }

    #[test]
    fn the_worst_is_first() {
        let mut all = [
            problem("shop/a", Severity::Warning, 1.0, &[]),
            problem("shop/b", Severity::Error, 0.2, &[]),
            problem("shop/d", Severity::Error, 0.7, &[]),
            problem("shop/c", Severity::Error, 0.7, &[]),
        ];
        sort(&mut all);
        assert_eq!(all.each_ref().map(|one| one.name.as_str()), ["shop/c", "shop/d", "shop/b", "shop/a"]);
    }

    #[test]
    fn a_namespace_hears_of_its_own_and_of_what_it_suffers_for() {
        let all = [
            problem("bank/ledger", Severity::Error, 1.0, &["bank/teller", "shop/orders"]),
            problem("bank/vault", Severity::Error, 1.0, &["bank/teller"]),
            problem("shop/cart", Severity::Warning, 0.1, &["office/portal"]),
        ];
        let of = |namespace: &str| page(&all, &Part { namespace: namespace.into(), service: String::new() });
        let shop = of("shop");
        assert_eq!(shop["items"][0]["name"], "bank/ledger");
        assert_eq!(shop["items"][0]["suffers"], json!(["shop/orders"]));
        assert_eq!((&shop["items"][1]["name"], &shop["items"][1]["suffers"]), (&json!("shop/cart"), &json!([])));
        assert!(shop["items"].as_array().is_some_and(|items| items.len() == 2), "{shop}");
        assert!(of("").to_string().contains("bank/vault"));
    }

    #[test]
    fn shares_are_written_as_people_say_them() {
        assert_eq!([1.0, 0.344, 0.0131].map(percent), ["100 %", "34 %", "1.3 %"].map(str::to_owned));
    }
}
