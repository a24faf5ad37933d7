//! One AdmissionReview (`admission.k8s.io/v1`) and its answer: a JSON patch (RFC 6902) that gives the pod its sidecar, or none and why.
//!
//! A pod that cannot be injected is refused only if it asks for a sidecar itself; where its namespace does, the pod is made without one and
//! whoever makes it is warned: a mistake about the mesh must not keep a namespace from starting pods. No I/O here.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::inject::{self, Outcome, Refusal, Settings, WISH, Wish};

const VERSION: &str = "admission.k8s.io/v1";
/// Characters of a warning: an API server cuts longer ones.
const LONGEST: usize = 256;

/// What became of a pod.
enum Verdict {
    /// A patch, and what to say of it.
    Admitted(Option<json_patch::Patch>, Vec<String>),
    Refused(Refusal),
}

/// The AdmissionReview that answers one.
///
/// # Errors
/// It is no AdmissionReview of a version that is known here; the text says why.
pub(super) fn answer(body: &[u8], settings: &Settings) -> Result<Value, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| format!("the review is no JSON: {error}"))?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/kind") != "AdmissionReview" || text("/apiVersion") != VERSION {
        let (kind, version) = (text("/kind"), text("/apiVersion"));
        return Err(format!("{kind:?} of version {version:?} is no AdmissionReview of {VERSION}"));
    }
    let uid = text("/request/uid");
    if uid.is_empty() || uid.len() > 256 {
        return Err("request.uid: is missing, or longer than 256 bytes".into());
    }
    let verdict = if text("/request/operation") != "CREATE" || !text("/request/subResource").is_empty() {
        Verdict::Admitted(None, Vec::new())
    } else if (text("/request/kind/group"), text("/request/kind/kind")) != ("", "Pod") {
        let why = format!("weft: {} is no Pod: it is left as it is", text("/request/kind/kind"));
        Verdict::Admitted(None, vec![why])
    } else {
        let pod = review.pointer("/request/object").filter(|pod| pod.is_object());
        judge(pod.ok_or("request.object: is missing")?, settings)
    };
    let mut response = json!({ "uid": uid, "allowed": true });
    match verdict {
        Verdict::Admitted(patch, warnings) => {
            if let Some(patch) = patch {
                let patch = serde_json::to_vec(&patch).map_err(|error| error.to_string())?;
                response["patchType"] = "JSONPatch".into();
                response["patch"] = STANDARD.encode(patch).into();
            }
            if !warnings.is_empty() {
                response["warnings"] = warnings.iter().map(|warning| cut(warning)).collect();
            }
        }
        Verdict::Refused(refusal) => {
            response["allowed"] = false.into();
            response["status"] = json!({
                "status": "Failure",
                "code": 422,
                "reason": "Invalid",
                "message": format!("no sidecar can be injected: {refusal}"),
                "details": { "kind": "Pod", "causes": [
                    { "reason": "FieldValueInvalid", "field": refusal.field, "message": refusal.reason },
                ] },
            });
        }
    }
    Ok(json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response }))
}

/// Only pods of namespaces that say `enabled`, and pods that say it themselves, come here.
fn judge(pod: &Value, settings: &Settings) -> Verdict {
    match inject::inject(pod, settings, Wish::NamespaceEnabled) {
        Ok(Outcome::Injected(injected)) => Verdict::Admitted(Some(json_patch::diff(pod, &injected)), Vec::new()),
        Ok(Outcome::Unchanged) => Verdict::Admitted(None, Vec::new()),
        Ok(Outcome::Skipped(why)) => Verdict::Admitted(None, vec![format!("weft: no sidecar: {why}")]),
        Err(refusal) if asks(pod) => Verdict::Refused(refusal),
        Err(refusal) => {
            tracing::warn!(pod = %name(pod), %refusal, "a pod gets no sidecar");
            Verdict::Admitted(None, vec![format!("weft: no sidecar: {refusal}")])
        }
    }
}

fn asks(pod: &Value) -> bool {
    let said = |place: &str| pod["metadata"][place][WISH].as_str();
    matches!(said("annotations").or_else(|| said("labels")), Some("enabled" | "true"))
}

fn name(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    let own = if text("name").is_empty() { text("generateName") } else { text("name") };
    format!("{}/{own}", text("namespace"))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}
