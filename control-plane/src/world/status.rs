//! Tells objects their fate: `Accepted` and `ResolvedRefs` from the compiler, `Programmed` from what sidecars acknowledged.
//!
//! [`conditions`] and [`routes`] are pure; [`run`] writes what differs from what is there. Conditions of other controllers are left alone,
//! and a condition whose status does not change keeps its `lastTransitionTime` (KEP-1623).

use super::Text;
use super::reconcile::{Compiled, settle};
use crate::compile::{Kind, Note, ParentVerdict, Verdict};
use crate::kinds::{
    AuthorizationPolicy, GrpcRoute, HttpRoute, MeshSettings, MeshTls, RateLimitPolicy, RequestAuthentication, TcpRoute,
    TlsRoute, TrafficPolicy,
};
use crate::xds::Convergence;
use crate::xds::convergence::Progress;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How this controller signs the statuses of routes.
pub const CONTROLLER: &str = "weft.mesh/control-plane";
const QUIET: Duration = Duration::from_millis(50);
const AT_MOST: Duration = Duration::from_millis(500);
/// After a write failed, it is tried again no sooner than this.
const AGAIN: Duration = Duration::from_secs(1);
/// Refusals that a message names; there may be one for each sidecar.
const NAMED: usize = 3;

/// `Programmed`, in words.
#[must_use]
pub fn programmed(
    verdict: &ParentVerdict,
    generation: i64,
    rollout: Option<&Note>,
    progress: &Progress,
) -> (bool, &'static str, String) {
    if !verdict.is_accepted() {
        let text =
            format!("generation {generation} is not accepted; what was accepted before, if anything, stays in force");
        return (false, "NotAccepted", text);
    }
    if let Some(note) = rollout {
        return (false, note.reason(), note.message.clone());
    }
    let (hold, need) = (progress.hold, progress.need);
    let count = format!("{hold} of {need} sidecars hold generation {generation}");
    if !progress.refused.is_empty() {
        let named: Vec<String> = progress
            .refused
            .iter()
            .take(NAMED)
            .map(|r| {
                let place = if r.field.is_empty() { String::new() } else { format!("{}: ", r.field) };
                format!("{} refused {}: {place}{}", r.sidecar, r.resource, r.reason)
            })
            .collect();
        let more = progress.refused.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        return (false, "Refused", format!("{count}; {}{more}", named.join("; ")));
    }
    if hold < need { (false, "Pending", count) } else { (true, "Programmed", count) }
}

/// The conditions of one parent, or of a policy, in the API's shape. `before` are those that are there; times are kept where the status
/// stays the same.
#[must_use]
pub fn conditions(verdict: &Verdict, parent: &ParentVerdict, progress: &Progress, before: &Value, now: &str) -> Value {
    let generation = verdict.generation;
    let (ok, reason, message) = programmed(parent, generation, verdict.rollout.as_ref(), progress);
    let all = parent.conditions.iter().map(|c| (c.r#type, c.status, c.reason, c.message.clone()));
    let all = all.chain(std::iter::once(("Programmed", ok, reason, message)));
    let condition = |(kind, status, reason, message): (&str, bool, &str, String)| {
        let status = if status { "True" } else { "False" };
        let same = before.as_array().into_iter().flatten().find(|b| b["type"] == kind && b["status"] == status);
        let since = same.and_then(|b| b["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        })
    };
    Value::Array(all.map(condition).collect())
}

/// The whole status of a route: other controllers' parents as they are, ours as found.
#[must_use]
pub fn routes(verdict: &Verdict, progress: &[Progress], before: &Value, now: &str) -> Value {
    let there = before["parents"].as_array().cloned().unwrap_or_default();
    let mut parents: Vec<Value> = there.iter().filter(|p| p["controllerName"] != CONTROLLER).cloned().collect();
    for (parent, progress) in verdict.parents.iter().zip(progress) {
        let reference = parent.parent.clone().unwrap_or_default();
        let ours = there.iter().find(|p| p["controllerName"] == CONTROLLER && p["parentRef"] == reference);
        let before = ours.map_or(Value::Null, |p| p["conditions"].clone());
        parents.push(json!({
            "parentRef": reference,
            "controllerName": CONTROLLER,
            "conditions": conditions(verdict, parent, progress, &before, now),
        }));
    }
    json!({ "parents": parents })
}

fn policy(verdict: &Verdict, progress: &[Progress], before: &Value, now: &str) -> Value {
    let none = Progress::default();
    let Some(only) = verdict.parents.first() else { return json!({ "conditions": [] }) };
    let progress = progress.first().unwrap_or(&none);
    json!({ "conditions": conditions(verdict, only, progress, &before["conditions"], now) })
}

/// In which versions the API serves kinds of which there are several.
#[derive(Clone, Debug, Default)]
pub struct Spoken(Arc<Mutex<HashMap<Kind, ApiResource>>>);

impl Spoken {
    /// From now on a kind is served in this version, or not at all.
    pub(super) fn say(&self, kind: Kind, version: Option<&ApiResource>) {
        match version {
            Some(resource) => {
                tracing::info!(kind = %kind.name(), version = %resource.api_version, "routes of this kind are read");
                self.0.lock().insert(kind, resource.clone());
            }
            None => drop(self.0.lock().remove(&kind)),
        }
    }

    fn resource(&self, kind: Kind) -> Option<ApiResource> {
        self.0.lock().get(&kind).cloned().or_else(|| versions(kind).into_iter().next())
    }
}

/// Where the objects of a kind are, in the versions that are understood, the preferred one first.
pub(super) fn versions(kind: Kind) -> Vec<ApiResource> {
    let only = |resource| vec![resource];
    // Of the crate's types the versions differ, the shape does not.
    let several = |resource: ApiResource, names: &[&str]| {
        let of = |version: &&str| {
            let (version, api_version) = ((*version).to_owned(), format!("{}/{version}", resource.group));
            ApiResource { version, api_version, ..resource.clone() }
        };
        names.iter().map(of).collect()
    };
    match kind {
        Kind::HttpRoute => several(ApiResource::erase::<HttpRoute>(&()), &["v1", "v1beta1"]),
        Kind::GrpcRoute => only(ApiResource::erase::<GrpcRoute>(&())),
        Kind::TlsRoute => several(ApiResource::erase::<TlsRoute>(&()), &["v1", "v1alpha3", "v1alpha2"]),
        Kind::TcpRoute => several(ApiResource::erase::<TcpRoute>(&()), &["v1", "v1alpha2"]),
        Kind::TrafficPolicy => only(ApiResource::erase::<TrafficPolicy>(&())),
        Kind::AuthorizationPolicy => only(ApiResource::erase::<AuthorizationPolicy>(&())),
        Kind::MeshTls => only(ApiResource::erase::<MeshTls>(&())),
        Kind::RateLimitPolicy => only(ApiResource::erase::<RateLimitPolicy>(&())),
        Kind::RequestAuthentication => only(ApiResource::erase::<RequestAuthentication>(&())),
        Kind::MeshSettings => only(ApiResource::erase::<MeshSettings>(&())),
    }
}

/// Kind, namespace, name and uid: an object that was made anew has no status yet, whatever its predecessor was told.
type Object = (Kind, String, String, String);

/// What an object was told, and of what that was made.
struct Told {
    verdict: Arc<Verdict>,
    progress: Vec<Progress>,
    status: Text,
}

/// Writes statuses until `shutdown`.
pub async fn run(
    client: kube::Client,
    spoken: Spoken,
    mut compiled: watch::Receiver<Compiled>,
    convergence: Arc<Convergence>,
    shutdown: CancellationToken,
) {
    let mut held = convergence.changes_of_shaped();
    let mut verdicts: Vec<Arc<Verdict>> = Vec::new();
    let mut seen = 0;
    let mut written: HashMap<Object, Told> = HashMap::new();
    loop {
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            changed = held.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            _ = settle(&mut held, QUIET, AT_MOST) => {}
            () = shutdown.cancelled() => return,
        }
        let latest = compiled.borrow_and_update().clone();
        let newest = *held.borrow();
        // Most compilations are of endpoints that came and went: no object learns anything from them.
        let same = verdicts.len() == latest.verdicts().len()
            && verdicts.iter().zip(latest.verdicts()).all(|(was, is)| Arc::ptr_eq(was, is));
        if same && newest == seen {
            continue;
        }
        (seen, verdicts) = (newest, latest.verdicts().to_vec());
        let failed = tokio::select! {
            failed = write_all(&client, &spoken, &latest, &convergence, &mut written) => failed,
            () = shutdown.cancelled() => return,
        };
        if failed {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {
                    verdicts.clear();
                    held.mark_changed();
                }
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Writes every status that differs; true when a write failed and should be tried again.
async fn write_all(
    client: &kube::Client,
    spoken: &Spoken,
    latest: &Compiled,
    convergence: &Convergence,
    written: &mut HashMap<Object, Told>,
) -> bool {
    let verdicts = latest.verdicts();
    let sets = verdicts.iter().flat_map(|v| v.parents.iter().map(|p| &p.shapes));
    let mut progress = convergence.held(&latest.offer(), sets).into_iter();
    let now = now();
    let mut failed = false;
    let mut seen = HashMap::with_capacity(verdicts.len());
    for verdict in verdicts {
        let of_parents: Vec<Progress> = progress.by_ref().take(verdict.parents.len()).collect();
        let object = (verdict.kind, verdict.namespace.clone(), verdict.name.clone(), verdict.uid.clone());
        let told = written.remove(&object);
        // Acknowledgements come in hundreds, and most say nothing of most objects: what is made of the same is the same.
        let told = match told {
            Some(told) if Arc::ptr_eq(&told.verdict, verdict) && told.progress == of_parents => {
                seen.insert(object, told);
                continue;
            }
            other => other,
        };
        let before = told.map_or_else(|| there(latest, verdict), |told| told.status.read());
        let wanted = if verdict.kind.is_route() {
            routes(verdict, &of_parents, &before, &now)
        } else {
            policy(verdict, &of_parents, &before, &now)
        };
        let same = wanted == before;
        let told = Told { verdict: verdict.clone(), progress: of_parents, status: Text::from(&wanted) };
        if same {
            seen.insert(object, told);
            continue;
        }
        match write(client, spoken, verdict, &wanted).await {
            Ok(()) => {
                seen.insert(object, told);
            }
            Err(error) => {
                tracing::warn!(kind = verdict.kind.name(), name = %verdict.name, %error, "cannot write a status");
                failed = true;
            }
        }
    }
    *written = seen;
    failed
}

async fn write(client: &kube::Client, spoken: &Spoken, verdict: &Verdict, status: &Value) -> Result<(), kube::Error> {
    let Some(resource) = spoken.resource(verdict.kind) else { return Ok(()) };
    let api: Api<DynamicObject> = match verdict.namespace.as_str() {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let patch = Patch::Merge(json!({ "status": status }));
    match api.patch_status(&verdict.name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile: nobody is left to be told.
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The status that the object has, as far as the world knows.
fn there(latest: &Compiled, verdict: &Verdict) -> Value {
    let world = &latest.world;
    let key = format!("{}/{}", verdict.namespace, verdict.name);
    let json = |status: Option<&crate::kinds::PolicyStatus>| {
        status.and_then(|s| serde_json::to_value(s).ok()).unwrap_or_default()
    };
    match verdict.kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            world.routes(verdict.kind).and_then(|all| all.get(&key)).map(|r| r.status.read()).unwrap_or_default()
        }
        Kind::TrafficPolicy => json(world.traffic.get(&key).and_then(|o| o.status.as_ref())),
        Kind::AuthorizationPolicy => json(world.authorization.get(&key).and_then(|o| o.status.as_ref())),
        Kind::MeshTls => json(world.mesh_tls.get(&key).and_then(|o| o.status.as_ref())),
        Kind::RateLimitPolicy => json(world.limits.get(&key).and_then(|o| o.status.as_ref())),
        Kind::RequestAuthentication => json(world.authentication.get(&key).and_then(|o| o.status.as_ref())),
        Kind::MeshSettings => json(world.settings.get(&key).and_then(|o| o.status.as_ref())),
    }
}

/// The time, as Kubernetes writes it: seconds, UTC.
#[must_use]
pub fn now() -> String {
    let seconds = k8s_openapi::jiff::Timestamp::now().as_second();
    k8s_openapi::jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Condition, Stage};
    use crate::xds::convergence::Refused;

    fn verdict(accepted: Condition) -> ParentVerdict {
        ParentVerdict { parent: None, conditions: vec![accepted], shapes: Default::default() }
    }

    #[test]
    fn programmed_says_how_many_sidecars_hold_which_generation() {
        let of = |hold, need| {
            let progress = Progress { hold, need, refused: Vec::new() };
            programmed(&verdict(Condition::accepted()), 7, None, &progress)
        };
        assert_eq!(of(12, 12), (true, "Programmed", "12 of 12 sidecars hold generation 7".into()));
        assert_eq!(of(11, 12), (false, "Pending", "11 of 12 sidecars hold generation 7".into()));
        assert!(of(0, 0).0, "what nobody needs is not waited for");
        let (ok, reason, _) = programmed(&verdict(Condition::refused("Invalid", "x")), 7, None, &Progress::default());
        assert_eq!((ok, reason), (false, "NotAccepted"));
        let note = Note { stage: Stage::RolledBack, message: "worse".into() };
        let said = programmed(&verdict(Condition::accepted()), 7, Some(&note), &Progress::default());
        assert_eq!(said, (false, "RolledBack", "worse".into()));
    }

    #[test]
    fn a_refusal_by_a_sidecar_is_told_with_field_and_reason() {
        let refused = vec![Refused {
            sidecar: "shop/cart-1".into(),
            resource: "shop/catalog".into(),
            field: "ports[0].port".into(),
            reason: "must not be 0".into(),
        }];
        let progress = Progress { hold: 1, need: 2, refused };
        let (ok, reason, message) = programmed(&verdict(Condition::accepted()), 7, None, &progress);
        assert_eq!((ok, reason), (false, "Refused"));
        assert!(message.contains("shop/cart-1 refused shop/catalog: ports[0].port: must not be 0"), "{message}");
    }

    #[test]
    fn times_stay_while_the_status_does_and_other_controllers_are_left_alone() {
        let parent = json!({"group": "", "kind": "Service", "name": "catalog"});
        let other = json!({"parentRef": {"name": "edge"}, "controllerName": "example.com/gw", "conditions": []});
        let verdict = Verdict {
            kind: Kind::HttpRoute,
            namespace: "shop".into(),
            name: "r".into(),
            uid: String::new(),
            generation: 2,
            parents: vec![ParentVerdict { parent: Some(parent), ..verdict(Condition::accepted()) }],
            rollout: None,
        };
        let progress = [Progress::default()];
        let first = routes(&verdict, &progress, &json!({ "parents": [other] }), "2026-01-01T00:00:00Z");
        assert_eq!(first["parents"][0], other);
        let second = routes(&verdict, &progress, &first, "2026-02-02T00:00:00Z");
        assert_eq!(first, second);
        assert_eq!(second["parents"][1]["conditions"][0]["observedGeneration"], 2);
    }
}
