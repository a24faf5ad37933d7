//! Events: what the control plane decided about an object, written beside it, so that `kubectl describe` and `weft describe` show it.
//!
//! [`observe`] says what happened between two compilations and [`ledger`] what of it is written; both are pure. [`run`] writes; outside a cluster, it takes
//! away what is older than an hour, whoever wrote it.

pub mod ledger;
pub mod observe;

use super::reconcile::Compiled;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use ledger::{Entry, Ledger};
use observe::Observer;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How the control plane signs events.
pub const COMPONENT: &str = "weft-control";
/// How long an event is kept after it happened last.
pub const LIFETIME: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(60);
/// Events read at once by a sweep.
const PAGE: u32 = 500;

/// Writes events of every compilation until `shutdown`. Where nobody else does, old ones are taken away: `expires`.
pub async fn run(
    client: kube::Client,
    expires: bool,
    mut compiled: watch::Receiver<Compiled>,
    shutdown: CancellationToken,
) {
    let (mut observer, mut ledger) = (Observer::default(), Ledger::default());
    let started = Instant::now();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            _ = sweep.tick(), if expires => {
                tokio::select! {
                    swept = expire(&client) => if let Err(error) = swept {
                        tracing::warn!(%error, "cannot take old events away");
                    },
                    () = shutdown.cancelled() => return,
                }
                continue;
            }
            () = shutdown.cancelled() => return,
        }
        let latest = compiled.borrow_and_update().clone();
        let happened = observer.observe(&latest.world, latest.verdicts());
        for entry in happened.into_iter().filter_map(|one| ledger.note(one, started.elapsed())) {
            let written = tokio::select! {
                written = write(&client, &entry) => written,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = written {
                tracing::warn!(%error, reason = %entry.what.reason, "cannot write an event");
            }
        }
        let left_out = ledger.left_out();
        if left_out > 0 {
            tracing::info!(left_out, "events came too fast and were left out");
        }
    }
}

async fn write(client: &kube::Client, entry: &Entry) -> Result<(), kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace(&entry.what.about.namespace));
    let now = super::status::now();
    for _ in 0..3 {
        let known = if entry.again { counted(&api, &entry.name, &now).await } else { Ok(false) };
        match known {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(error),
        }
        let event: Event = serde_json::from_value(document(entry, &now)).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => return Ok(()),
            // Another replica, or this one before it was restarted, said the same; and what is about to go needs no events.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                if counted(&api, &entry.name, &now).await? {
                    return Ok(());
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Counts an event once more; false: there is none.
async fn counted(api: &Api<Event>, name: &str, now: &str) -> Result<bool, kube::Error> {
    let Some(event) = api.get_opt(name).await? else { return Ok(false) };
    let patch = json!({ "count": event.count.unwrap_or(1).saturating_add(1), "lastTimestamp": now });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the events of an object are: those of the whole cluster have theirs in `default`, as in Kubernetes.
fn namespace(of_object: &str) -> &str {
    if of_object.is_empty() { "default" } else { of_object }
}

fn document(entry: &Entry, now: &str) -> Value {
    let (what, about) = (&entry.what, &entry.what.about);
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": entry.name, "namespace": namespace(&about.namespace) },
        "involvedObject": {
            "apiVersion": about.api_version, "kind": about.kind, "namespace": about.namespace, "name": about.name,
            "uid": about.uid },
        "type": if what.warning { "Warning" } else { "Normal" },
        "reason": what.reason, "message": what.message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": { "component": COMPONENT }, "reportingComponent": COMPONENT, "reportingInstance": "",
    })
}

/// Takes away every event that did not happen again for an hour.
async fn expire(client: &kube::Client) -> Result<(), kube::Error> {
    let oldest =
        k8s_openapi::jiff::Timestamp::now().as_second() - i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = Api::<Event>::all(client.clone()).list(&params).await?;
        for event in page.items.iter().filter(|event| last(event).is_some_and(|at| at < oldest)) {
            let (Some(namespace), Some(name)) = (&event.metadata.namespace, &event.metadata.name) else { continue };
            let api: Api<Event> = Api::namespaced(client.clone(), namespace);
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// When it happened last, in seconds since the Unix epoch.
fn last(event: &Event) -> Option<i64> {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0.as_second());
    let single = event.event_time.as_ref().map(|t| t.0.as_second());
    let counted = event.last_timestamp.as_ref().map(|t| t.0.as_second());
    let written = event.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second());
    series.into_iter().chain(counted).chain(single).chain(written).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_old_as_its_last_time() {
        let event = |fields: Value| serde_json::from_value::<Event>(fields).map(|event| last(&event)).unwrap();
        let base = json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:10Z"}, "involvedObject": {}});
        assert_eq!(event(base.clone()), Some(10));
        let mut again = base.clone();
        again["lastTimestamp"] = "1970-01-01T00:01:00Z".into();
        assert_eq!(event(again), Some(60));
        let mut series = base;
        series["series"] = json!({"count": 2, "lastObservedTime": "1970-01-01T00:02:00.000000Z"});
        assert_eq!(event(series), Some(120));
    }
}
