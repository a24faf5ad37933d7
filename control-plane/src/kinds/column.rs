//! The columns that `kubectl get` shows for each kind after its name; `kubectl get -o wide` shows those of priority 1 too.

use serde_json::Value;

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// 0: always shown, 1: only when wide.
    pub priority: u8,
    /// What is in it.
    pub cell: Cell,
}

/// Where a column's text comes from.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// The time since the object was created.
    Age,
    /// The time since the first of these fields (JSON pointers) that is there.
    Since(&'static [&'static str]),
    /// What the function says of the object; an empty text is shown as `<none>`.
    Text(fn(&Value) -> String),
}

const AGE: Column = Column { name: "Age", priority: 0, cell: Cell::Age };

const fn since(name: &'static str, priority: u8, fields: &'static [&'static str]) -> Column {
    Column { name, priority, cell: Cell::Since(fields) }
}

const fn text(name: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { name, priority: 0, cell: Cell::Text(cell) }
}

const fn wide(name: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { name, priority: 1, cell: Cell::Text(cell) }
}

fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value, entry: fn(&Value) -> String) -> String {
    let entries: Vec<String> = value.as_array().into_iter().flatten().map(entry).filter(|e| !e.is_empty()).collect();
    match entries.len() {
        0..=3 => entries.join(","),
        more => format!("{} + {} more...", entries[..3].join(","), more - 3),
    }
}

/// `kind/name` of each reference.
fn refs(value: &Value) -> String {
    list(value, |r| format!("{}/{}", string(&r["kind"]), string(&r["name"])))
}

fn labels(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", string(v)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Status of the condition of a type, `Unknown` before anyone reported.
fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.map_or_else(|| "Unknown".to_owned(), |c| string(&c["status"]))
}

pub(super) fn age() -> Vec<Column> {
    vec![AGE]
}

pub(super) fn namespace() -> Vec<Column> {
    vec![text("Status", |o| string(&o["status"]["phase"])), AGE]
}

pub(super) fn service() -> Vec<Column> {
    let external = |o: &Value| {
        let spec = &o["spec"];
        match spec["type"].as_str() {
            Some("ExternalName") => string(&spec["externalName"]),
            Some("LoadBalancer") => list(&o["status"]["loadBalancer"]["ingress"], |i| string(&i["ip"])),
            _ => list(&spec["externalIPs"], string),
        }
    };
    vec![
        text("Type", |o| string(&o["spec"]["type"])),
        text("Cluster-IP", |o| string(&o["spec"]["clusterIP"])),
        text("External-IP", external),
        text("Port(s)", |o| list(&o["spec"]["ports"], |p| format!("{}/{}", p["port"], string(&p["protocol"])))),
        AGE,
        wide("Selector", |o| labels(&o["spec"]["selector"])),
    ]
}

pub(super) fn service_account() -> Vec<Column> {
    vec![text("Secrets", |o| o["secrets"].as_array().map_or(0, Vec::len).to_string()), AGE]
}

pub(super) fn role() -> Vec<Column> {
    vec![text("Created At", |o| string(&o["metadata"]["creationTimestamp"]))]
}

/// Subjects of a kind, `namespace/name` where they are in one.
fn subjects(object: &Value, kind: &str) -> String {
    let all = object["subjects"].as_array().into_iter().flatten().filter(|s| s["kind"] == kind);
    let named = all.map(|s| match s["namespace"].as_str().unwrap_or_default() {
        "" => string(&s["name"]),
        namespace => format!("{namespace}/{}", string(&s["name"])),
    });
    named.collect::<Vec<_>>().join(", ")
}

pub(super) fn binding() -> Vec<Column> {
    vec![
        text("Role", |o| format!("{}/{}", string(&o["roleRef"]["kind"]), string(&o["roleRef"]["name"]))),
        AGE,
        wide("Users", |o| subjects(o, "User")),
        wide("Groups", |o| subjects(o, "Group")),
        wide("ServiceAccounts", |o| subjects(o, "ServiceAccount")),
    ]
}

pub(super) fn endpoint_slice() -> Vec<Column> {
    vec![
        text("AddressType", |o| string(&o["addressType"])),
        text("Ports", |o| list(&o["ports"], |p| string(&p["port"]))),
        text("Endpoints", |o| list(&o["endpoints"], |e| string(&e["addresses"][0]))),
        AGE,
    ]
}

pub(super) fn route() -> Vec<Column> {
    let accepted = |o: &Value| {
        let parents = o["status"]["parents"].as_array();
        let mut said = parents
            .into_iter()
            .flatten()
            .flat_map(|p| p["conditions"].as_array())
            .flatten()
            .filter(|c| c["type"] == "Accepted");
        match said.next() {
            None => "Unknown".to_owned(),
            Some(first) if first["status"] != "True" => string(&first["status"]),
            Some(_) => said.find(|c| c["status"] != "True").map_or_else(|| "True".to_owned(), |c| string(&c["status"])),
        }
    };
    vec![
        text("Hostnames", |o| list(&o["spec"]["hostnames"], string)),
        text("Parents", |o| refs(&o["spec"]["parentRefs"])),
        text("Accepted", accepted),
        AGE,
        wide("Rules", |o| o["spec"]["rules"].as_array().map_or(0, Vec::len).to_string()),
    ]
}

/// The targets of a policy: named ones, a selector, or the namespace.
fn targets(object: &Value) -> String {
    let spec = &object["spec"];
    match (refs(&spec["targetRefs"]), labels(&spec["selector"]["matchLabels"])) {
        (refs, _) if !refs.is_empty() => refs,
        (_, selector) if !selector.is_empty() => selector,
        _ if spec["selector"].is_object() => "<selector>".to_owned(),
        _ => "<namespace>".to_owned(),
    }
}

pub(super) fn authorization_policy() -> Vec<Column> {
    vec![
        text("Action", |o| string(&o["spec"]["action"])),
        text("Targets", targets),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
        wide("Rules", |o| o["spec"]["rules"].as_array().map_or(0, Vec::len).to_string()),
    ]
}

pub(super) fn request_authentication() -> Vec<Column> {
    vec![
        text("Issuers", |o| list(&o["spec"]["rules"], |rule| string(&rule["issuer"]))),
        text("Targets", targets),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
        wide("Keys", |o| condition(o, "JwksFetched")),
    ]
}

pub(super) fn mesh_tls() -> Vec<Column> {
    vec![
        text("Mode", |o| string(&o["spec"]["mode"])),
        text("Targets", targets),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
        wide("Ports", |o| list(&o["spec"]["ports"], |p| format!("{}={}", p["port"], string(&p["mode"])))),
    ]
}

pub(super) fn mesh_settings() -> Vec<Column> {
    // "5% for 1m": what is left out has its default.
    let rollout = |o: &Value| match &o["spec"]["rollout"] {
        Value::Null => "off".to_owned(),
        rollout => {
            let percent = rollout["percent"].as_u64().unwrap_or(5);
            format!("{percent}% for {}", rollout["duration"].as_str().unwrap_or("60s"))
        }
    };
    vec![
        text("Egress", |o| string(&o["spec"]["egress"])),
        text("Rollout", rollout),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
    ]
}

pub(super) fn federated_trust_domain() -> Vec<Column> {
    vec![text("Trust-Domain", |o| string(&o["spec"]["trustDomain"])), AGE]
}

pub(super) fn traffic_policy() -> Vec<Column> {
    vec![text("Targets", targets), text("Accepted", |o| condition(o, "Accepted")), AGE]
}

pub(super) fn rate_limit_policy() -> Vec<Column> {
    // "burst=100/1s"
    fn limit(limit: &Value) -> String {
        format!("{}={}/{}", string(&limit["name"]), limit["requests"], string(&limit["per"]))
    }
    vec![
        text("Targets", targets),
        text("Limits", |o| list(&o["spec"]["limits"], limit)),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
    ]
}

pub(super) fn workload() -> Vec<Column> {
    vec![
        text("Phase", |o| string(&o["status"]["phase"])),
        text("Address", |o| string(&o["spec"]["address"])),
        text("Ports", |o| list(&o["spec"]["ports"], |p| format!("{}/{}", p["port"], string(&p["protocol"])))),
        text("Services", |o| list(&o["spec"]["services"], string)),
        AGE,
        wide("Account", |o| string(&o["spec"]["serviceAccount"])),
        wide("Tunnel", |o| string(&o["spec"]["tunnel"])),
        wide("Zone", |o| string(&o["spec"]["zone"])),
    ]
}

fn count(object: &Value, fields: &[&str]) -> String {
    fields.iter().map(|f| object[f].as_object().map_or(0, serde_json::Map::len)).sum::<usize>().to_string()
}

pub(super) fn config_map() -> Vec<Column> {
    vec![text("Data", |o| count(o, &["data", "binaryData"])), AGE]
}

pub(super) fn secret() -> Vec<Column> {
    vec![text("Type", |o| string(&o["type"])), text("Data", |o| count(o, &["data"])), AGE]
}

pub(super) fn event() -> Vec<Column> {
    let object = |o: &Value| {
        let about = &o["involvedObject"];
        format!("{}/{}", string(&about["kind"]).to_lowercase(), string(&about["name"]))
    };
    vec![
        since(
            "Last Seen",
            0,
            &["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"],
        ),
        text("Type", |o| string(&o["type"])),
        text("Reason", |o| string(&o["reason"])),
        text("Object", object),
        text("Message", |o| string(&o["message"]).trim().to_owned()),
        wide("Source", |o| string(&o["source"]["component"])),
        since("First Seen", 1, &["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]),
        wide("Count", |o| o["count"].as_u64().unwrap_or(1).to_string()),
    ]
}

pub(super) fn gateway_class() -> Vec<Column> {
    vec![
        text("Controller", |o| string(&o["spec"]["controllerName"])),
        text("Accepted", |o| condition(o, "Accepted")),
        AGE,
        wide("Description", |o| string(&o["spec"]["description"])),
    ]
}

pub(super) fn gateway() -> Vec<Column> {
    vec![
        text("Class", |o| string(&o["spec"]["gatewayClassName"])),
        text("Address", |o| list(&o["status"]["addresses"], |a| string(&a["value"]))),
        text("Programmed", |o| condition(o, "Programmed")),
        AGE,
    ]
}

pub(super) fn reference_grant() -> Vec<Column> {
    vec![AGE]
}
