//! The sidecar's containers and volumes, put into a pod and taken out of it.

use super::annotations::{Interception, Refusal, Settings};
use super::{RECORD, REVISION, RULES, SIDECAR, object, probes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The sidecar's ports, with the words for messages.
const PORTS: [(u16, &str); 5] = [
    (15_001, "takes the application's calls"),
    (15_006, "takes captured calls to the application"),
    (15_008, "takes mTLS"),
    (15_021, "answers /ready, /live and /metrics"),
    (15_053, "answers DNS"),
];
/// The port that probes are sent to.
pub(super) const ADMIN: u16 = 15_021;
const STATE: &str = "weft-state";
const IDENTITY: &str = "weft-identity";
/// Lists of the pod, and of its metadata, that injection adds to.
const PLACES: [(&str, &str); 4] =
    [("metadata", "annotations"), ("metadata", "labels"), ("spec", "initContainers"), ("spec", "volumes")];

/// What injection added and replaced, kept in the pod itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Of Weft.
    version: String,
    /// Lists that were not there before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made: Vec<String>,
    /// The revision that the pod asked for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// Handlers of probes as they were, by container and probe.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) probes: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Every container of a pod: the list it is in, its name, itself.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = (String, &str, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |list| {
        let all = spec.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        all.iter().enumerate().map(move |(i, container)| {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            (format!("spec.{list}[{i}]"), name, container)
        })
    })
}

/// `before` is the record of an injection that this one takes the place of.
pub(super) fn with_sidecar(bare: &Value, settings: &Settings, before: Record) -> Result<Value, Refusal> {
    refuse_conflicts(bare, settings)?;
    let mut pod = bare.clone();
    let mut record = Record { version: env!("CARGO_PKG_VERSION").into(), ..Record::default() };
    let asked = if settings.rewrite_probes { probes::rewrite(&mut pod, settings, &mut record)? } else { Vec::new() };
    if pod.get("metadata").is_none() || before.made.iter().any(|place| place == "metadata") {
        record.made.push("metadata".into());
    }
    for (parent, list) in PLACES {
        let place = format!("{parent}.{list}");
        let absent = pod.get(parent).is_none_or(|parent| parent.get(list).is_none_or(Value::is_null));
        if absent || before.made.contains(&place) {
            record.made.push(place);
        }
    }
    let Some(whole) = pod.as_object_mut() else { return Err(Refusal::new("", "a pod must be an object")) };
    let spec = whole.get_mut("spec").and_then(Value::as_object_mut);
    let spec = spec.ok_or_else(|| Refusal::new("spec", "is missing"))?;
    let ours = [rules(settings), sidecar(bare, settings, &asked)];
    list(spec, "initContainers")?.splice(0..0, ours);
    list(spec, "volumes")?.extend(volumes());
    let metadata = object(whole, "metadata").ok_or_else(|| Refusal::new("metadata", "must be an object"))?;
    let labels = object(metadata, "labels").ok_or_else(|| Refusal::new("metadata.labels", "must be an object"))?;
    record.revision = labels.insert(REVISION.into(), settings.revision.clone().into()).and_then(|old| match old {
        Value::String(old) => Some(old),
        _ => None,
    });
    let annotations =
        object(metadata, "annotations").ok_or_else(|| Refusal::new("metadata.annotations", "must be an object"))?;
    let text = serde_json::to_string(&record).map_err(|e| Refusal::new(RECORD, e.to_string()))?;
    annotations.insert(RECORD.into(), text.into());
    Ok(pod)
}

/// Undoes it.
pub(super) fn without_sidecar(pod: &Value, record: &Record) -> Value {
    let mut bare = pod.clone();
    restore(&mut bare, record);
    bare
}

fn restore(pod: &mut Value, record: &Record) {
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(RECORD);
    }
    if let Some(labels) = pod.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        match &record.revision {
            Some(old) => labels.insert(REVISION.into(), old.clone().into()),
            None => labels.remove(REVISION),
        };
    }
    let named =
        |item: &Value, names: [&str; 2]| item.get("name").and_then(Value::as_str).is_some_and(|n| names.contains(&n));
    for (list, names) in [("initContainers", [RULES, SIDECAR]), ("volumes", [STATE, IDENTITY])] {
        if let Some(items) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) {
            items.retain(|item| !named(item, names));
        }
    }
    probes::restore(pod, record);
    for (parent, list) in PLACES {
        let Some(parent_object) = pod.get_mut(parent).and_then(Value::as_object_mut) else { continue };
        let empty = match parent_object.get(list) {
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            _ => false,
        };
        if empty && record.made.contains(&format!("{parent}.{list}")) {
            parent_object.remove(list);
        }
    }
    let bare = pod.get("metadata").and_then(Value::as_object).is_some_and(Map::is_empty);
    if bare && record.made.iter().any(|place| place == "metadata") {
        pod.as_object_mut().and_then(|pod| pod.remove("metadata"));
    }
}

fn refuse_conflicts(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if tproxy(settings) && !settings.intercept_inbound {
        let why = "TPROXY is a way to take calls to the application, and intercept-inbound leaves them alone";
        return Err(Refusal::new("metadata.annotations[config.weft.mesh/interception-mode]", why));
    }
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Refusal::new("spec.containers", "there is none"));
    }
    let user = |place: String, context: Option<&Value>| {
        let uid = context.and_then(|context| context.get("runAsUser")).and_then(Value::as_u64);
        // With TPROXY packets are told by their mark.
        if tproxy(settings) || uid != Some(u64::from(settings.proxy_uid)) {
            return Ok(());
        }
        let why = format!(
            "{} is the sidecar's user: the application's calls would pass by the mesh; choose another, or another for the sidecar \
             (annotation config.weft.mesh/proxy-uid)",
            settings.proxy_uid
        );
        Err(Refusal::new(format!("{place}.securityContext.runAsUser"), why))
    };
    user("spec".into(), spec.get("securityContext"))?;
    for (place, name, container) in containers(spec) {
        if [RULES, SIDECAR].contains(&name) {
            let why = format!("{name} is the name of a container of Weft's, and nothing says that Weft injected it");
            return Err(Refusal::new(format!("{place}.name"), why));
        }
        user(place.clone(), container.get("securityContext"))?;
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        for (i, port) in ports.enumerate() {
            let number = port.get("containerPort").and_then(Value::as_u64);
            if let Some((taken, what)) = PORTS.iter().find(|(taken, _)| Some(u64::from(*taken)) == number) {
                let why = format!("{taken} is the port of the sidecar that {what}");
                return Err(Refusal::new(format!("{place}.ports[{i}].containerPort"), why));
            }
        }
    }
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    for (i, volume) in volumes.enumerate() {
        if let Some(name @ (STATE | IDENTITY)) = volume.get("name").and_then(Value::as_str) {
            return Err(Refusal::new(
                format!("spec.volumes[{i}].name"),
                format!("{name} is the name of a volume of Weft's"),
            ));
        }
    }
    Ok(())
}

fn list<'a>(spec: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, Refusal> {
    let list = spec.entry(key).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().ok_or_else(|| Refusal::new(format!("spec.{key}"), "must be a list"))
}

fn tproxy(settings: &Settings) -> bool {
    settings.interception_mode == Interception::Tproxy
}

/// Rules take root and one capability; nothing else of this container does.
fn rules(settings: &Settings) -> Value {
    let mut args = vec!["intercept".to_owned(), "install".into()];
    if tproxy(settings) {
        args.extend(["--proxy-mark", "--inbound-mode", "tproxy"].map(str::to_owned));
    } else {
        args.extend(["--proxy-uid".to_owned(), settings.proxy_uid.to_string()]);
    }
    for (flag, is) in [("--no-inbound", !settings.intercept_inbound), ("--no-dns", !settings.intercept_dns)] {
        if is {
            args.push(flag.into());
        }
    }
    fn all<T: ToString>(items: &[T]) -> String {
        items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
    }
    let lists = [
        ("--include-outbound-ports", all(&settings.include_outbound_ports)),
        ("--exclude-outbound-ports", all(&settings.exclude_outbound_ports)),
        ("--include-outbound-cidrs", all(&settings.include_outbound_cidrs)),
        ("--exclude-outbound-cidrs", all(&settings.exclude_outbound_cidrs)),
        ("--exclude-outbound-interfaces", all(&settings.exclude_outbound_interfaces)),
        ("--include-inbound-ports", all(&settings.include_inbound_ports)),
        ("--exclude-inbound-ports", all(&settings.exclude_inbound_ports)),
        ("--exclude-uids", all(&settings.exclude_uids)),
    ];
    for (flag, items) in lists {
        if !items.is_empty() {
            args.extend([flag.to_owned(), items]);
        }
    }
    image(
        settings,
        json!({
            "name": RULES,
            "args": args,
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "runAsGroup": 0,
                "runAsNonRoot": false,
                "runAsUser": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }),
    )
}

fn sidecar(pod: &Value, settings: &Settings, probes: &[String]) -> Value {
    let mut args = vec![
        "--control-plane".to_owned(),
        settings.control_plane.clone(),
        "--trust-domain".into(),
        settings.trust_domain.clone(),
        "--namespace=$(POD_NAMESPACE)".into(),
        "--service-account=$(SERVICE_ACCOUNT)".into(),
        "--name=$(POD_NAME)".into(),
        "--address=$(POD_IP)".into(),
        "--roots-file=/var/run/secrets/weft.mesh/roots.pem".into(),
        "--service-account-token-file=/var/run/secrets/weft.mesh/token".into(),
        "--state-dir=/var/lib/weft/state".into(),
        "--transparent".into(),
        if tproxy(settings) { "--inbound-mode=tproxy".into() } else { format!("--exempt-uid={}", settings.proxy_uid) },
        "--outbound=127.0.0.1:15001".into(),
        "--tunnel=[::]:15008".into(),
        format!("--admin=[::]:{ADMIN}"),
        "--application-ends-first".into(),
        format!("--drain-deadline={}", settings.drain_deadline),
        format!("--workers={}", settings.workers),
        format!("--log={}", settings.log),
        format!("--access-log={}", settings.access_log),
    ];
    if settings.intercept_inbound {
        args.push("--plaintext=[::]:15006".into());
    }
    if settings.intercept_dns {
        args.push("--dns=127.0.0.1:15053".into());
    }
    args.extend(ports(pod).into_iter().map(|port| format!("--port={port}")));
    args.extend(probes.iter().map(|probe| format!("--app-probe={probe}")));
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let ask = |path: &str| json!({"path": path, "port": ADMIN});
    let mut resources = Map::new();
    for (list, cpu, memory) in [
        ("requests", &settings.cpu_request, &settings.memory_request),
        ("limits", &settings.cpu_limit, &settings.memory_limit),
    ] {
        let said: Map<String, Value> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter(|(_, quantity)| !quantity.is_empty())
            .map(|(name, quantity)| (name.to_owned(), quantity.clone().into()))
            .collect();
        if !said.is_empty() {
            resources.insert(list.into(), said.into());
        }
    }
    image(
        settings,
        json!({
            "name": SIDECAR,
            "args": args,
            "env": [
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
                field("POD_IP", "status.podIP"),
            ],
            "ports": [
                {"name": "weft-mtls", "containerPort": 15_008, "protocol": "TCP"},
                {"name": "weft-admin", "containerPort": ADMIN, "protocol": "TCP"},
            ],
            // Kubernetes 1.29: it starts before the application, ends after it, and no Job waits for it.
            "restartPolicy": "Always",
            // What comes after it waits until it has a certificate and its configuration.
            "startupProbe": {"httpGet": ask("/ready"), "periodSeconds": 1, "failureThreshold": 600},
            "readinessProbe": {"httpGet": ask("/ready"), "periodSeconds": 2},
            "livenessProbe": {"httpGet": ask("/live"), "periodSeconds": 10, "failureThreshold": 6},
            "resources": resources,
            "securityContext": security(settings),
            "volumeMounts": [
                {"name": STATE, "mountPath": "/var/lib/weft"},
                {"name": IDENTITY, "mountPath": "/var/run/secrets/weft.mesh", "readOnly": true},
            ],
        }),
    )
}

/// Kubernetes gives capabilities to root alone: a program of another user loses them when it starts.
fn security(settings: &Settings) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": settings.proxy_uid,
        "runAsNonRoot": true,
        "runAsUser": settings.proxy_uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if tproxy(settings) {
        context["capabilities"] = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
        (context["runAsNonRoot"], context["runAsUser"]) = (false.into(), 0.into());
    }
    context
}

fn image(settings: &Settings, mut container: Value) -> Value {
    if let Some(container) = container.as_object_mut() {
        container.insert("image".into(), settings.image.clone().into());
        if !settings.image_pull_policy.is_empty() {
            container.insert("imagePullPolicy".into(), settings.image_pull_policy.clone().into());
        }
    }
    container
}

/// The TCP ports that containers declare, with the protocol that a name such as `http-metrics` says (the habit of Istio's port names).
fn ports(pod: &Value) -> Vec<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut all = Vec::new();
    for (_, _, container) in containers(spec) {
        for port in container.get("ports").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| port.get(key).and_then(Value::as_str);
            let Some(number) = port.get("containerPort").and_then(Value::as_u64) else { continue };
            if text("protocol").is_some_and(|protocol| protocol != "TCP") {
                continue;
            }
            let protocol = match text("name").unwrap_or_default().split('-').next() {
                Some("http") => "http",
                Some("http2" | "h2c") => "http2",
                Some("grpc") => "grpc",
                Some("tcp" | "https" | "tls") => "tcp",
                _ => "detect",
            };
            let port = format!("{number}:{protocol}");
            if !all.contains(&port) {
                all.push(port);
            }
        }
    }
    all
}

fn volumes() -> [Value; 2] {
    [
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
        json!({"name": IDENTITY, "projected": {"sources": [
            {"serviceAccountToken": {"audience": "weft.mesh", "expirationSeconds": 3600, "path": "token"}},
            {"configMap": {"name": "weft-roots", "items": [{"key": "roots.pem", "path": "roots.pem"}]}},
        ]}}),
    ]
}
