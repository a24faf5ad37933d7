//! What an object becomes when it is created or updated: its metadata, its generation, what a client may not change, and all judgements
//! of its content.
//!
//! Pure but for the time and randomness that the caller gives.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    failure::{Failure, Problem, Result},
    schema::Walk,
};
use crate::kinds::{
    Kind, ROLLOUT, Wish,
    check::{Cause, Findings, is_label, is_label_key, is_label_value, is_segment, is_subdomain},
    metadata_schema,
    registry::Naming,
};

/// Bytes of all annotations together, as Kubernetes has it.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Where an object is addressed.
#[derive(Clone, Debug)]
pub(super) struct Address<'a> {
    pub kind: &'static Kind,
    /// `None` for kinds of the whole cluster.
    pub namespace: Option<&'a str>,
    /// `None` when it is created.
    pub name: Option<&'a str>,
}

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but `status`, where the kind has one of its own.
    Main,
    /// `status` alone.
    Status,
}

/// Reads the clock as objects write it: whole seconds.
pub(super) fn timestamp(now: OffsetDateTime) -> String {
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// A version 4 UUID from random bytes.
pub(super) fn uuid(mut b: [u8; 16]) -> String {
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The metadata of a document that is an object.
pub(super) fn metadata(document: &mut Value) -> Result<&mut Map<String, Value>> {
    let Value::Object(document) = document else {
        return Err(Failure::bad_request("the body of the request must be an object"));
    };
    match document.entry("metadata").or_insert_with(|| json!({})) {
        Value::Object(metadata) => Ok(metadata),
        null @ Value::Null => {
            *null = json!({});
            match null {
                Value::Object(metadata) => Ok(metadata),
                _ => Err(Failure::bad_request("metadata must be an object")),
            }
        }
        _ => Err(Failure::bad_request("metadata must be an object")),
    }
}

pub(super) fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap_or_default()
}

/// Checks that the document is what the path says it is, and fills in what the path says and the document does not.
pub(super) fn address(document: &mut Value, to: &Address<'_>) -> Result<()> {
    let (version, kind) = (to.kind.api_version(), to.kind.kind);
    metadata(document)?;
    for (field, wanted) in [("apiVersion", version.as_str()), ("kind", kind)] {
        match document.get(field).and_then(Value::as_str) {
            Some(said) if said == wanted => {}
            None | Some("") => document[field] = wanted.into(),
            Some(said) => {
                return Err(Failure::bad_request(format!(
                    "{field} in the data ({said}) does not match the expected one ({wanted})"
                )));
            }
        }
    }
    let metadata = metadata(document)?;
    for (field, wanted) in [("namespace", to.namespace), ("name", to.name)] {
        let said = metadata.get(field).and_then(Value::as_str).unwrap_or_default();
        match wanted {
            Some(wanted) if said.is_empty() => drop(metadata.insert(field.into(), wanted.into())),
            Some(wanted) if said != wanted => {
                return Err(Failure::bad_request(format!(
                    "the {field} of the object ({said}) does not match the {field} on the URL ({wanted})"
                )));
            }
            None if field == "namespace" && !said.is_empty() => drop(metadata.remove(field)),
            _ => {}
        }
    }
    Ok(())
}

/// Drops unknown fields, sets defaults, and judges the whole. Returns the unknown fields.
pub(super) fn admit(kind: &Kind, document: &mut Value) -> (Vec<Problem>, Vec<Cause>) {
    let mut walk = Walk::over(&kind.schema, document, "");
    let mut unknown = std::mem::take(&mut walk.unknown);
    let mut causes = walk.causes();
    let mut about = Walk::over(metadata_schema(), &mut document["metadata"], "metadata");
    unknown.append(&mut about.unknown);
    causes.append(&mut about.causes());
    let mut findings = Findings(causes);
    judge_metadata(kind, &document["metadata"], &mut findings);
    if kind.is_secret() {
        if findings.0.is_empty() {
            crate::kinds::data::encode_strings(document);
        }
        hide(&mut findings);
    }
    if findings.0.is_empty() {
        // Checks of meaning rely on the types that the schema promises.
        (kind.check)(document, &mut findings);
    }
    (unknown, findings.0)
}

/// What is said of a secret value does not say the value.
fn hide(findings: &mut Findings) {
    let told = |field: &str| !field.starts_with("data") && !field.starts_with("stringData");
    for cause in findings.0.iter_mut().filter(|cause| !told(&cause.field)) {
        let why = cause.message.rsplit(": ").next().unwrap_or_default();
        cause.message = format!("Invalid value: \"<hidden>\": {why}");
    }
}

fn judge_metadata(kind: &Kind, metadata: &Value, findings: &mut Findings) {
    let name = metadata["name"].as_str().unwrap_or_default();
    let (fits, rule) = match kind.naming {
        Naming::Label => (is_label(name), "an RFC 1123 label: at most 63 lower-case letters, digits and inner '-'"),
        Naming::Subdomain => (
            is_subdomain(name),
            "an RFC 1123 subdomain: lower-case letters, digits, '-' and '.', at most 253 characters",
        ),
        Naming::Segment => (is_segment(name), "a segment of a path: no '/', no '%', at most 253 characters"),
    };
    if name.is_empty() {
        findings.required("metadata.name", "name or generateName is required");
    } else if !fits {
        findings.invalid("metadata.name", &metadata["name"], format_args!("must be {rule}"));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if !is_label_key(key) {
            findings.invalid(
                "metadata.labels",
                &Value::from(key.as_str()),
                "name part must consist of alphanumeric characters, '-', '_' or '.'",
            );
        }
        if !value.as_str().is_some_and(is_label_value) {
            findings.invalid(
                "metadata.labels",
                value,
                "a valid label value is at most 63 alphanumeric characters, '-', '_' or '.'",
            );
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        if !is_label_key(&key.to_ascii_lowercase()) {
            findings.invalid("metadata.annotations", &Value::from(key.as_str()), "must be a qualified name");
        }
        if key == ROLLOUT
            && let Err(why) = value.as_str().unwrap_or_default().parse::<Wish>()
        {
            findings.invalid(format!("metadata.annotations[{ROLLOUT}]"), value, why);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        findings
            .too_long("metadata.annotations", format_args!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"));
    }
    for (i, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        if !finalizer.as_str().is_some_and(is_label_key) {
            findings.invalid(format!("metadata.finalizers[{i}]"), finalizer, "must be a qualified name");
        }
    }
}

/// Makes the document a new object: identity, time of birth, first generation, no status yet.
pub(super) fn born(kind: &Kind, document: &mut Value, random: [u8; 16], now: OffsetDateTime) -> Result<()> {
    if kind.status
        && let Value::Object(object) = document
    {
        object.remove("status");
    }
    match kind.plural {
        "namespaces" => {
            let name = name(document).to_owned();
            let labels = metadata(document)?.entry("labels").or_insert_with(|| json!({}));
            labels["kubernetes.io/metadata.name"] = name.into();
            document["spec"]["finalizers"] = json!(["kubernetes"]);
            document["status"] = json!({ "phase": "Active" });
        }
        "services" if kind.group.is_empty() => document["status"] = json!({ "loadBalancer": {} }),
        _ => {}
    }
    let counted = counts_generations(kind, document);
    let metadata = metadata(document)?;
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid(random).into());
    metadata.insert("creationTimestamp".into(), timestamp(now).into());
    if counted {
        metadata.insert("generation".into(), 1.into());
    }
    Ok(())
}

/// Namespaces and service accounts have no generation: nothing in them is carried out.
fn counts_generations(kind: &Kind, document: &Value) -> bool {
    document.get("spec").is_some() && kind.plural != "namespaces"
}

/// Makes the document the successor of the object as it is: what cannot change stays, and what the request does not write
/// stays. The caller checked the resource version, which is gone from `old`.
pub(super) fn succeeded(kind: &Kind, old: &Value, new: &mut Value, part: Part) -> Result<()> {
    let sent = std::mem::take(new);
    *new = match part {
        Part::Status => {
            let mut kept = old.clone();
            match sent.get("status") {
                Some(status) if !status.is_null() => kept["status"] = status.clone(),
                _ => {
                    if let Value::Object(kept) = &mut kept {
                        kept.remove("status");
                    }
                }
            }
            kept
        }
        Part::Main => {
            let mut next = sent;
            if kind.status {
                match (old.get("status"), &mut next) {
                    (Some(status), Value::Object(next)) => drop(next.insert("status".into(), status.clone())),
                    (None, Value::Object(next)) => drop(next.remove("status")),
                    _ => {}
                }
            }
            next
        }
    };
    let was = &old["metadata"];
    let uid = new["metadata"].get("uid").and_then(Value::as_str).unwrap_or_default();
    if !uid.is_empty() && was["uid"] != uid {
        let why = format!("the UID in the precondition ({uid}) does not match the UID in record ({})", was["uid"]);
        return Err(Failure::conflict(kind, name(old), why));
    }
    if kind.plural == "namespaces" {
        new["spec"] = old["spec"].clone();
        let label = was["name"].clone();
        metadata(new)?.entry("labels").or_insert_with(|| json!({}))["kubernetes.io/metadata.name"] = label;
    }
    let metadata = metadata(new)?;
    for field in ["selfLink", "resourceVersion", "managedFields"] {
        metadata.remove(field);
    }
    for field in
        ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"]
    {
        match was.get(field) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    if was.get("deletionTimestamp").is_some() {
        let before = was["finalizers"].as_array().map_or(&[][..], Vec::as_slice);
        let added =
            metadata.get("finalizers").and_then(Value::as_array).into_iter().flatten().find(|f| !before.contains(f));
        if let Some(added) = added {
            let why = format!(
                "metadata.finalizers: no new finalizers can be added if the object is being deleted, found {added}"
            );
            return Err(Failure::protected(kind, name(old), &why));
        }
    }
    Ok(())
}

/// Counts the generation up when what is wanted changed. Comes last, after defaults, which are no change.
pub(super) fn count(old: &Value, new: &mut Value) {
    if content(old) != content(new)
        && let Some(generation) = old["metadata"]["generation"].as_u64()
    {
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// What a generation counts: everything but metadata and status.
fn content(object: &Value) -> Vec<(&String, &Value)> {
    object.as_object().into_iter().flatten().filter(|(k, _)| *k != "metadata" && *k != "status").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn kind(plural: &str) -> &'static Kind {
        kinds::all().iter().find(|k| k.plural == plural).unwrap()
    }

    fn policy() -> Value {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"targetRefs": [{"kind": "Service", "name": "a"}]}});
        let kind = kind("trafficpolicies");
        address(&mut policy, &Address { kind, namespace: Some("shop"), name: None }).unwrap();
        let (unknown, causes) = admit(kind, &mut policy);
        assert!(unknown.is_empty() && causes.is_empty(), "{causes:?}");
        born(kind, &mut policy, [7; 16], OffsetDateTime::UNIX_EPOCH).unwrap();
        policy
    }

    #[test]
    fn a_new_object_has_an_identity_and_no_status() {
        let policy = policy();
        let metadata = &policy["metadata"];
        assert_eq!(metadata["uid"], "07070707-0707-4707-8707-070707070707");
        assert_eq!(metadata["creationTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!((metadata["generation"].as_u64(), policy.get("status")), (Some(1), None));
    }

    #[test]
    fn only_a_change_of_what_is_wanted_counts_as_a_generation() {
        let kind = kind("trafficpolicies");
        let old = policy();
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        labelled["metadata"]["uid"] = Value::Null;
        labelled["status"] = json!({"conditions": []});
        succeeded(kind, &old, &mut labelled, Part::Main).unwrap();
        count(&old, &mut labelled);
        assert_eq!((&labelled["metadata"]["generation"], labelled.get("status")), (&json!(1), None));
        let mut respecified = old.clone();
        respecified["spec"]["retry"] = json!({"attempts": 1});
        succeeded(kind, &old, &mut respecified, Part::Main).unwrap();
        count(&old, &mut respecified);
        assert_eq!(respecified["metadata"]["generation"], 2);
        let mut reported = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"conditions": []}});
        succeeded(kind, &old, &mut reported, Part::Status).unwrap();
        count(&old, &mut reported);
        assert_eq!(reported["spec"], old["spec"]);
        assert_eq!(reported["metadata"]["generation"], 1);
        assert_eq!(reported["status"], json!({"conditions": []}));
    }

    #[test]
    fn another_objects_uid_is_a_conflict() {
        let old = policy();
        let mut new = old.clone();
        new["metadata"]["uid"] = "another".into();
        assert!(succeeded(kind("trafficpolicies"), &old, &mut new, Part::Main).is_err());
    }

    #[test]
    fn a_document_of_another_kind_or_place_is_refused() {
        let kind = kind("services");
        let to = Address { kind, namespace: Some("shop"), name: Some("a") };
        for wrong in [
            json!({"kind": "Secret"}),
            json!({"apiVersion": "v2"}),
            json!({"metadata": {"namespace": "other"}}),
            json!({"metadata": {"name": "b"}}),
            json!([]),
            json!({"metadata": 1}),
        ] {
            assert!(address(&mut wrong.clone(), &to).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bad_names_and_labels_are_named() {
        let mut service =
            json!({"metadata": {"name": "A.b", "labels": {"a b": "c d"}}, "spec": {"ports": [{"port": 1}]}});
        let (_, causes) = admit(kind("services"), &mut service);
        let fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, ["metadata.name", "metadata.labels", "metadata.labels"]);
    }
}
