//! Asks for everything that goes into a bundle, each with a deadline of its own, and goes on without what does not answer.

use super::bundle::Bundle;
use crate::check;
use crate::client::kinds::{Kind, Kinds};
use crate::client::{Client, Error, encode};
use crate::failure::Failure;
use crate::output::progress;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long one answer may take.
const ONE: Duration = Duration::from_secs(20);
/// Sidecars that are asked at once.
const AT_ONCE: usize = 4;
/// Objects of a page, and pages of a kind.
const PAGE: usize = 500;
const PAGES: usize = 4;

/// Pages of the control plane: the file, and where it comes from.
const DOCUMENTS: [(&str, &str); 9] = [
    ("process.json", "/weft/v1/process"),
    ("fleet.json", "/weft/v1/fleet"),
    ("stat.json", "/weft/v1/stat?window=60s"),
    ("stat-1h.json", "/weft/v1/stat?window=1h"),
    ("routes.json", "/weft/v1/routes?window=60s"),
    ("endpoints.json", "/weft/v1/endpoints?window=60s"),
    ("identity.json", "/weft/v1/identity"),
    ("audit-api.json", "/weft/v1/audit?last=500"),
    ("audit-identity.json", "/weft/v1/identity/audit?last=500"),
];

/// Gathers until `end`; false when the control plane does not answer.
pub async fn all(client: &Client, bundle: &mut Bundle, sidecars: usize, end: Instant) -> Result<bool, Failure> {
    progress("weft: checks");
    let health = match timeout_at(end, check::look(client)).await {
        Ok(health) => health?,
        Err(_) => return Err(Failure::unreachable("the checks took longer than --timeout")),
    };
    let reached = health.reached();
    bundle.document("check.json", json!(health));
    bundle.document("preflight.json", json!(check::preflight::facts()));
    bundle.leave_out("join tokens", "never collected");
    if !reached {
        let own = json!({ "client": { "version": env!("CARGO_PKG_VERSION") }, "server": null });
        bundle.document("version.json", own);
        return Ok(false);
    }
    let server = ask(client, "/version", end).await.unwrap_or_default();
    bundle.document("version.json", json!({ "client": { "version": env!("CARGO_PKG_VERSION") }, "server": server }));
    progress("weft: what the control plane knows");
    let mut fleet = Value::Null;
    for (file, path) in DOCUMENTS {
        match ask(client, path, end).await {
            Ok(answer) => {
                if file == "fleet.json" {
                    fleet = answer.clone();
                }
                bundle.document(file, answer);
            }
            Err(why) => bundle.failed(file, &why),
        }
    }
    progress("weft: objects");
    objects(client, bundle, end).await;
    let (chosen, others) = chosen(&fleet, sidecars);
    if others > 0 {
        bundle.leave_out(&format!("{others} sidecars"), format!("{} are asked: --sidecars", chosen.len()));
    }
    ask_sidecars(client, bundle, chosen, end).await;
    Ok(true)
}

async fn ask(client: &Client, path: &str, end: Instant) -> Result<Value, String> {
    match timeout_at(end.min(Instant::now() + ONE), client.read(path)).await {
        Ok(answer) => answer.map_err(why),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn why(error: Error) -> String {
    match error {
        Error::Refused(refusal) => refusal.describe(),
        Error::Failed(failure) => failure.message,
    }
}

/// Every object of every kind, a file a kind.
async fn objects(client: &Client, bundle: &mut Bundle, end: Instant) {
    let kinds = match timeout_at(end, Kinds::discover(client)).await {
        Ok(Ok(kinds)) => kinds,
        Ok(Err(failure)) => return bundle.failed("objects", &failure.message),
        Err(_) => return bundle.failed("objects", "no answer in time"),
    };
    for kind in kinds.preferred() {
        let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
        let file = format!("objects/{}{group}.json", kind.plural);
        match list(client, kind, end).await {
            Ok((items, false)) => bundle.document(&file, json!({ "kind": kind.kind, "items": items })),
            Ok((items, true)) => {
                bundle.leave_out(&file, format!("the first {} are there", items.len()));
                bundle.document(&file, json!({ "kind": kind.kind, "items": items }));
            }
            Err(why) => bundle.failed(&file, &why),
        }
    }
}

/// The objects of a kind, and whether there are more.
async fn list(client: &Client, kind: &Kind, end: Instant) -> Result<(Vec<Value>, bool), String> {
    let (mut all, mut next) = (Vec::new(), String::new());
    for _ in 0..PAGES {
        let go_on = if next.is_empty() { String::new() } else { format!("&continue={}", encode(&next)) };
        let mut page = ask(client, &format!("{}?limit={PAGE}{go_on}", kind.collection(None)), end).await?;
        let items = page.get_mut("items").map(Value::take);
        for mut item in items.and_then(|items| items.as_array().cloned()).unwrap_or_default() {
            // Items of a list come without their type, by which a Secret is known.
            item["kind"] = kind.kind.clone().into();
            if let Some(metadata) = item.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
            all.push(item);
        }
        next = page.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default().to_owned();
        if next.is_empty() {
            return Ok((all, false));
        }
    }
    Ok((all, true))
}

/// The workloads whose sidecars are asked, those that are not as they should be first, and how many are not asked.
fn chosen(fleet: &Value, most: usize) -> (Vec<String>, usize) {
    let workloads = fleet.get("workloads").and_then(Value::as_array).into_iter().flatten();
    let mut connected: Vec<(bool, &str)> = workloads
        .filter(|workload| workload["sidecar"].is_object())
        .filter_map(|workload| {
            let sidecar = &workload["sidecar"];
            let well = sidecar["ready"] == true && sidecar["draining"] == false && workload["phase"] == "Ready";
            Some((well, workload["workload"].as_str()?))
        })
        .collect();
    connected.sort_unstable();
    let left = connected.len().saturating_sub(most);
    (connected.into_iter().take(most).map(|(_, name)| name.to_owned()).collect(), left)
}

/// What each of them holds, does and counts.
async fn ask_sidecars(client: &Client, bundle: &mut Bundle, chosen: Vec<String>, end: Instant) {
    let count = chosen.len();
    let asked = chosen.into_iter().enumerate().map(|(index, workload)| async move {
        let (namespace, name) = workload.split_once('/').unwrap_or(("", &workload));
        let page = |page: &str| format!("/weft/v1/fleet/{}/{}/{page}", encode(namespace), encode(name));
        let text = async {
            match timeout_at(end.min(Instant::now() + ONE), client.text(&page("metrics"))).await {
                Ok(text) => text.map_err(why),
                Err(_) => Err("no answer in time".to_owned()),
            }
        };
        let (config, stats) = (page("config"), page("stats"));
        let answers = tokio::join!(ask(client, &config, end), ask(client, &stats, end), text);
        (format!("sidecars/{:03}-{}", index + 1, folder(&workload)), answers)
    });
    let mut answers = futures_util::stream::iter(asked).buffered(AT_ONCE);
    let mut done = 0;
    while let Some((folder, (config, stats, metrics))) = answers.next().await {
        for (file, answer) in [("config.json", config), ("stats.json", stats)] {
            match answer {
                Ok(answer) => bundle.document(&format!("{folder}/{file}"), answer),
                Err(why) => bundle.failed(&format!("{folder}/{file}"), &why),
            }
        }
        match metrics {
            Ok(text) => bundle.text(&format!("{folder}/metrics.txt"), &text),
            Err(why) => bundle.failed(&format!("{folder}/metrics.txt"), &why),
        }
        done += 1;
        progress(&format!("weft: {done} of {count} sidecars"));
    }
}

/// A workload's name as that of a directory: short, and without a slash.
fn folder(workload: &str) -> String {
    workload.chars().take(60).map(|c| if c == '/' { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_with_problems_are_asked_first() {
        let one =
            |name: &str, phase: &str, sidecar: Value| json!({ "workload": name, "phase": phase, "sidecar": sidecar });
        let well = || json!({ "ready": true, "draining": false });
        let fleet = json!({ "workloads": [
            one("shop/a", "Ready", well()),
            one("shop/b", "Ready", Value::Null),
            one("shop/c", "Draining", json!({ "ready": false, "draining": true })),
            one("shop/d", "Ready", well()),
        ] });
        assert_eq!(chosen(&fleet, 2), (vec!["shop/c".to_owned(), "shop/a".to_owned()], 1));
        assert_eq!(chosen(&Value::Null, 2), (Vec::new(), 0));
    }

    #[test]
    fn a_directory_is_named_after_its_workload() {
        assert_eq!(folder("shop/cart-1"), "shop.cart-1");
        assert_eq!(folder(&"x".repeat(300)).len(), 60);
    }
}
