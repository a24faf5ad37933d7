//! Create, update and patch: from what was sent, through every judgement, to the store.

use std::{collections::HashSet, net::Ipv4Addr};

use http::HeaderValue;
use rand::RngExt as _;

use super::*;
use crate::{
    api::{
        apply::{self, Managers, Reach, Schema, Writer},
        failure::Problem,
        object::{Address, admit},
        patch,
        protobuf::{self, PROTOBUF},
        record::Made,
    },
    kinds::check::{self, Cause, Findings, Reason},
    store::StoreError,
};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// Characters of a field manager's name, as Kubernetes has it.
const MAX_MANAGER: usize = 128;

/// The content types of patches that a kind takes.
pub(in crate::api) fn patch_types(kind: &Kind) -> &'static [&'static str] {
    if kind.builtin {
        &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH]
    } else {
        &[JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
    }
}

/// What becomes of fields that do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validation {
    Ignore,
    Warn,
    Strict,
}

/// How a write is carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub how: Validation,
    /// Judged only.
    pub dry: bool,
}

impl Mode {
    pub fn of(call: &Call) -> Result<Self> {
        Ok(Self { how: validation(call)?, dry: dry_run(call, &Value::Null)? })
    }
}

/// Who writes: `fieldManager`, or the first part of the user agent.
pub(super) fn writer(call: &Call) -> Result<Writer> {
    let given = call.query.text("fieldManager");
    if given.chars().count() > MAX_MANAGER || given.chars().any(char::is_control) {
        let why = format!("fieldManager: Invalid value: must be at most {MAX_MANAGER} printable characters");
        return Err(Failure::options("PatchOptions", &why));
    }
    let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let agent = agent.split('/').next().unwrap_or_default().trim();
    let manager = match (given, agent) {
        ("", "") if call.caller() == crate::api::CONTROL => "weft-control".to_owned(),
        ("", "") => "unknown".to_owned(),
        ("", agent) => agent.chars().filter(|c| !c.is_control()).take(MAX_MANAGER).collect(),
        (given, _) => given.to_owned(),
    };
    Ok(Writer {
        manager,
        api_version: call.kind.api_version(),
        subresource: if call.part == Part::Status { "status" } else { "" },
        time: object::timestamp(OffsetDateTime::now_utc()),
    })
}

/// What a call may own.
pub(super) fn reach(call: &Call) -> Reach {
    match call.part {
        Part::Status => Reach::Status,
        Part::Main if call.kind.status => Reach::Main,
        Part::Main => Reach::All,
    }
}

fn validation(call: &Call) -> Result<Validation> {
    match call.query.text("fieldValidation") {
        "" | "Warn" => Ok(Validation::Warn),
        "Ignore" => Ok(Validation::Ignore),
        "Strict" => Ok(Validation::Strict),
        other => Err(Failure::bad_request(format!("{other:?} is no value of fieldValidation: Ignore, Warn or Strict"))),
    }
}

/// The document of a body, with the fields that it gives twice.
pub(super) fn document(call: &Call, body: &Bytes) -> Result<(Value, Vec<Problem>)> {
    match content_type(call).as_str() {
        "" | JSON => json::parse(body),
        // JSON is YAML, and its parser sees fields that are given twice.
        APPLY_PATCH if body.trim_ascii_start().starts_with(b"{") => json::parse(body),
        YAML | APPLY_PATCH => Ok((json::parse_yaml(body)?, Vec::new())),
        PROTOBUF => Ok((protobuf::parse(body)?, Vec::new())),
        _ => Err(Failure::unsupported_media_type(&[JSON, YAML])),
    }
}

/// Judges a document that is to be stored; what does not count is refused or becomes warnings.
fn judge(
    kind: &Kind,
    name: &str,
    document: &mut Value,
    mut problems: Vec<Problem>,
    how: Validation,
) -> Result<Vec<Problem>> {
    let (mut unknown, causes) = admit(kind, document);
    problems.append(&mut unknown);
    if how == Validation::Strict && !problems.is_empty() {
        return Err(Failure::strict(kind, &problems));
    }
    if !causes.is_empty() {
        return Err(Failure::invalid(kind, name, &causes));
    }
    Ok(if how == Validation::Warn { problems } else { Vec::new() })
}

fn answer(call: &Call, status: StatusCode, object: Value, warnings: &[Problem]) -> Result<Response<Body>> {
    let form = negotiate(&call.headers, call.query.text("includeObject"))?;
    let made = Made(object::name(&object).to_owned());
    let mut response = json_response(status, &form.one(call.kind, object, OffsetDateTime::now_utc()));
    response.extensions_mut().insert(made);
    for warning in warnings.iter().take(16) {
        let text: String = warning
            .to_string()
            .chars()
            .take(256)
            .flat_map(|c| if c == '"' { vec!['\\', '"'] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

pub(super) async fn create(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    if call.kind.namespaced && call.namespace.is_none() {
        return Err(Failure::method_not_allowed());
    }
    let (kind, mode) = (call.kind, Mode::of(call)?);
    let writer = writer(call)?;
    let (mut document, problems) = document(call, body)?;
    object::address(&mut document, &Address { kind, namespace: call.namespace.as_deref(), name: None })?;
    if !document["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let generate = document["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    let generated = object::name(&document).is_empty() && !generate.is_empty();
    if generated {
        document["metadata"]["name"] = suffixed(&generate).into();
    }
    if let Some(metadata) = document["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let owners =
        |new: &Value| apply::updated(Schema::of(kind), &json!({}), new, Managers::default(), &writer, reach(call));
    let name = object::name(&document).to_owned();
    let made = store_new(api, call, document, owners, mode, problems).await?;
    made.ok_or_else(|| Failure::already_exists(kind, &name))
}

/// Makes a new object of a document that says what and where it is; `None` when there is one already.
pub(super) async fn store_new(
    api: &Inner,
    call: &Call,
    mut document: Value,
    owners: impl FnOnce(&Value) -> Managers,
    mode: Mode,
    problems: Vec<Problem>,
) -> Result<Option<Response<Body>>> {
    let kind = call.kind;
    let name = object::name(&document).to_owned();
    let warnings = judge(kind, &name, &mut document, problems, mode.how)?;
    let managed = owners(&document).encode();
    rights::may_give(api, call, None, &document)?;
    object::born(kind, &mut document, rand::random(), OffsetDateTime::now_utc())?;
    own(&mut document, managed);
    // Held while the namespace may not go and the address may not be taken.
    let _exclusive = api.exclusive.lock().await;
    namespace_exists(api, call).await?;
    if is_service(kind) {
        allocate(api, call, None, &mut document).await?;
    }
    let key = key(call, &name);
    if mode.dry {
        let there = api.store.get(&key).await?.is_some();
        return if there { Ok(None) } else { answer(call, StatusCode::CREATED, document, &warnings).map(Some) };
    }
    let write = Write { key, expect: Expect::Absent, value: Some(stored(document)) };
    match api.store.transact(vec![write]).await {
        Ok(events) => {
            let made = events.first().and_then(|e| e.after.as_ref()).map(|r| object(kind, r)).unwrap_or_default();
            answer(call, StatusCode::CREATED, made, &warnings).map(Some)
        }
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Says in the object who owns what of it.
fn own(document: &mut Value, managed: Value) {
    if let Some(metadata) = document["metadata"].as_object_mut() {
        match managed {
            Value::Null => drop(metadata.remove("managedFields")),
            managed => drop(metadata.insert("managedFields".into(), managed)),
        }
    }
}

/// Five random characters of those that make no words.
fn suffixed(prefix: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let prefix: String = prefix.chars().take(58).collect();
    let suffix: String = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
    prefix + &suffix
}

pub(super) async fn update(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    let (mut document, problems) = document(call, body)?;
    let (namespace, name) = (call.namespace.as_deref(), call.name.as_deref());
    object::address(&mut document, &Address { kind: call.kind, namespace, name })?;
    change(api, call, problems, |_| Ok(document.clone())).await
}

pub(super) async fn patch(api: &Inner, call: &Call, body: &Bytes) -> Result<Response<Body>> {
    let kind = call.kind;
    let content = content_type(call);
    if !patch_types(kind).contains(&content.as_str()) {
        return Err(Failure::unsupported_media_type(patch_types(kind)));
    }
    if content == APPLY_PATCH {
        return server_side::apply(api, call, body).await;
    }
    if call.query.has("force") {
        return Err(Failure::options("PatchOptions", "force: Forbidden: may not be specified for non-apply patch"));
    }
    let (sent, problems) = json::parse(body)?;
    if content != JSON_PATCH && !sent.is_object() {
        return Err(Failure::bad_request("the patch must be an object"));
    }
    let (namespace, name) = (call.namespace.as_deref(), call.name.as_deref());
    change(api, call, problems, |current| {
        let mut document = current.clone();
        match (content.as_str(), &mut document, &sent) {
            (JSON_PATCH, document, operations) => patch::json_patch(document, operations.clone())?,
            (STRATEGIC_PATCH, Value::Object(document), Value::Object(sent)) => {
                // `metadata` has one schema for every kind.
                let mut schema = kind.schema.clone();
                schema["properties"]["metadata"] = kinds::metadata_schema().clone();
                patch::strategic(&schema, document, sent)?;
            }
            (_, document, sent) => patch::merge_patch(document, sent),
        }
        object::address(&mut document, &Address { kind, namespace, name })?;
        Ok(document)
    })
    .await
}

/// Reads the object, makes its successor, judges it and writes it, as often as another writer comes between.
async fn change(
    api: &Inner,
    call: &Call,
    problems: Vec<Problem>,
    next: impl Fn(&Value) -> Result<Value>,
) -> Result<Response<Body>> {
    let (name, mode, writer) = (call.name.as_deref().unwrap_or_default(), Mode::of(call)?, writer(call)?);
    for _ in 0..ATTEMPTS {
        let record = read(api, call).await?;
        let current = object(call.kind, &record);
        let mut document = next(&current)?;
        // A patch is applied anew to what another writer left, unless it names a revision itself, which then no longer fits.
        let again = content_type(call).contains("patch") || named_revision(&document)?.is_none();
        let said = object::metadata(&mut document)?.remove("managedFields").unwrap_or_default();
        let there = &current["metadata"]["managedFields"];
        let known = apply::owners(if call.part == Part::Main { &said } else { &Value::Null }, there);
        let owners =
            |old: &Value, new: &Value| apply::updated(Schema::of(call.kind), old, new, known, &writer, reach(call));
        match store_next(api, call, &record, document, owners, mode, problems.clone()).await? {
            Some(answer) => return Ok(answer),
            None if again => {}
            None => return Err(Failure::stale(call.kind, name)),
        }
    }
    Err(Failure::stale(call.kind, name))
}

/// The resource version that a document names; 0 is none.
fn named_revision(document: &Value) -> Result<Option<u64>> {
    let named = revision(document["metadata"]["resourceVersion"].as_str().unwrap_or_default())?;
    Ok(named.filter(|named| *named != 0))
}

/// Makes a document the successor of the object of a record; `None` when another writer came between.
pub(super) async fn store_next(
    api: &Inner,
    call: &Call,
    record: &Record,
    mut document: Value,
    owners: impl FnOnce(&Value, &Value) -> Managers,
    mode: Mode,
    problems: Vec<Problem>,
) -> Result<Option<Response<Body>>> {
    let (kind, name) = (call.kind, call.name.as_deref().unwrap_or_default());
    // A resource version that was sent must be the current one; one that is not sent, or was not touched by a patch, always is.
    if named_revision(&document)?.is_some_and(|sent| sent != record.revision) {
        return Err(Failure::stale(kind, name));
    }
    let current = object(kind, record);
    let mut old = current.clone();
    object::metadata(&mut old)?.remove("resourceVersion");
    object::succeeded(kind, &old, &mut document, call.part)?;
    if is_service(kind) {
        keep_address(&old, &mut document);
    }
    let warnings = judge(kind, name, &mut document, problems, mode.how)?;
    let mut changes = Findings::default();
    check::change(kind, &old, &document, &mut changes);
    if !changes.0.is_empty() {
        return Err(Failure::invalid(kind, name, &changes.0));
    }
    let managed = owners(&old, &document).encode();
    own(&mut document, managed);
    let _exclusive = if is_service(kind) { Some(api.exclusive.lock().await) } else { None };
    if is_service(kind) {
        allocate(api, call, Some(&old), &mut document).await?;
    }
    object::count(&old, &mut document);
    if old == document {
        return answer(call, StatusCode::OK, current, &warnings).map(Some);
    }
    rights::may_give(api, call, Some(&old), &document)?;
    let finished = document["metadata"].get("deletionTimestamp").is_some()
        && document["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    if mode.dry {
        return answer(call, StatusCode::OK, document, &warnings).map(Some);
    }
    let value = (!finished).then(|| stored(document.clone()));
    let write = Write { key: record.key.clone(), expect: Expect::Revision(record.revision), value };
    match api.store.transact(vec![write]).await {
        Ok(events) => {
            let made = events.first().and_then(|e| e.after.as_ref()).map(|r| object(kind, r));
            answer(call, StatusCode::OK, made.unwrap_or(document), &warnings).map(Some)
        }
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// An update that does not mention the address keeps it, as long as the type has one.
fn keep_address(old: &Value, new: &mut Value) {
    if new["spec"]["type"] == "ExternalName" || !new["spec"].is_object() {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let said = &new["spec"][field];
        if (said.is_null() || said == "") && !old["spec"][field].is_null() {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
}

/// Gives the Service a cluster address, or checks the one it asks for. The caller holds the lock.
async fn allocate(api: &Inner, call: &Call, old: Option<&Value>, service: &mut Value) -> Result<()> {
    let name = object::name(service).to_owned();
    let refuse = |message: String| {
        let cause = Cause { reason: Reason::Invalid, field: "spec.clusterIP".into(), message };
        Failure::invalid(call.kind, &name, &[cause])
    };
    let spec = &mut service["spec"];
    if spec["type"] == "ExternalName" {
        if let Value::Object(spec) = spec {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
        return Ok(());
    }
    let asked = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let had = old.and_then(|o| o["spec"]["clusterIP"].as_str()).unwrap_or_default();
    if !had.is_empty() && asked != had {
        return Err(refuse(format!("Invalid value: {asked:?}: may not change once set")));
    }
    let address = if asked == "None" || (!had.is_empty() && asked == had) {
        asked
    } else {
        let scope = Scope { resource: call.kind.resource().into(), namespace: None };
        let taken: HashSet<Ipv4Addr> = api
            .store
            .list(&scope, None, 0, None)
            .await?
            .items
            .iter()
            .filter_map(|r| object(call.kind, r)["spec"]["clusterIP"].as_str()?.parse().ok())
            .collect();
        let namespace = call.namespace.as_deref().unwrap_or_default();
        match asked.parse::<Ipv4Addr>() {
            Ok(wanted) if taken.contains(&wanted) => {
                return Err(refuse(format!("Invalid value: {asked:?}: provided IP is already allocated")));
            }
            Ok(wanted) if !api.addresses.holds(wanted) => {
                let range = &api.settings.service_cidr;
                return Err(refuse(format!("Invalid value: {asked:?}: provided IP is not in the valid range {range}")));
            }
            Ok(_) => asked,
            Err(_) if asked.is_empty() => match api.addresses.pick(namespace, &name, &taken) {
                Some(address) => address.to_string(),
                None => return Err(Failure::internal("no cluster address is left; give `weft up` a larger range")),
            },
            Err(_) => return Err(refuse(format!("Invalid value: {asked:?}: must be an IPv4 address of the range"))),
        }
    };
    spec["clusterIPs"] = json!([address]);
    if address != "None" {
        spec["ipFamilies"] = json!(["IPv4"]);
        spec["ipFamilyPolicy"] = "SingleStack".into();
        if spec["internalTrafficPolicy"].is_null() {
            spec["internalTrafficPolicy"] = "Cluster".into();
        }
    }
    spec["clusterIP"] = address.into();
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
    Ok(())
}
