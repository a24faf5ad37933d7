//! The control plane itself: its Deployment, its Service, what may be taken away of it at once, and how it makes sidecars.

use serde_json::{Value, json};

use super::{labels, metadata, rights::NAME, source::Source};
use crate::inject::webhook::SERVICE;

/// Ports of the control plane.
const GRPC: u16 = 15_010;
const API: u16 = 15_080;
pub(super) const WEBHOOK: u16 = 15_017;
/// The ConfigMap with how sidecars are made.
const INJECTION: &str = "weft-injection";
const SETTINGS: &str = "settings.yaml";
/// The user of the control plane's image.
const USER: u32 = 65_532;

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "control-plane" })
}

/// How sidecars are made; the control plane reads it again when it changes.
pub(super) fn injection(source: &Source<'_>) -> Value {
    let fields = [
        ("controlPlane", format!("{SERVICE}.{}:{GRPC}", source.namespace())),
        ("revision", source.text("revision")),
        ("trustDomain", source.text("trustDomain")),
    ];
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(source, INJECTION),
        "data": { SETTINGS: source.document(&fields, "injection") },
    })
}

/// What sidecars, people and API servers call.
pub(super) fn service(source: &Source<'_>) -> Value {
    let port =
        |name: &str, port: u16, to: &str| json!({ "name": name, "port": port, "targetPort": to, "protocol": "TCP" });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(source, SERVICE),
        "spec": {
            "selector": selector(),
            "ports": [port("grpc", GRPC, "grpc"), port("api", API, "api"), port("webhook", 443, "webhook")],
        },
    })
}

/// One pod at a time may be taken away for the sake of a node.
pub(super) fn disruption(source: &Source<'_>) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(source, NAME),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } },
    })
}

/// The pods.
pub(super) fn deployment(source: &Source<'_>) -> Value {
    let mut own = labels();
    own["app.kubernetes.io/component"] = "control-plane".into();
    own["weft.mesh/inject"] = "disabled".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(source, NAME),
        "spec": {
            "replicas": source.plain("replicas"),
            "selector": { "matchLabels": selector() },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": { "metadata": { "labels": own }, "spec": pod(source) },
        },
    })
}

fn pod(source: &Source<'_>) -> Value {
    let spread = |key: &str| {
        json!({
            "topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector() },
        })
    };
    let apart = json!({
        "weight": 100,
        "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": selector() } },
    });
    json!({
        "serviceAccountName": NAME,
        "imagePullSecrets": source.references("imagePullSecrets"),
        "priorityClassName": source.text("priorityClassName"),
        "nodeSelector": source.tree("nodeSelector"),
        "tolerations": source.tree("tolerations"),
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [apart] } },
        "topologySpreadConstraints": [spread("topology.kubernetes.io/zone")],
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(source)],
        "volumes": [
            // Keys are here: never on a disk. What must last is in Secrets.
            { "name": "state", "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } },
            { "name": "injection", "configMap": { "name": INJECTION } },
        ],
    })
}

fn container(source: &Source<'_>) -> Value {
    let listen = source.text("listen");
    let args = [
        "up".to_owned(),
        "--kubernetes".to_owned(),
        format!("--grpc={listen}:{GRPC}"),
        format!("--api={listen}:{API}"),
        format!("--webhook={listen}:{WEBHOOK}"),
        format!("--injection-settings=/etc/weft/injection/{SETTINGS}"),
        format!("--trust-domain={}", source.text("trustDomain")),
        format!("--cluster-domain={}", source.text("clusterDomain")),
        format!("--egress={}", source.text("egress")),
    ];
    let env = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let asked = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "webhook", "scheme": "HTTPS" },
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5,
        })
    };
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    json!({
        "name": NAME,
        "image": source.text("image"),
        "imagePullPolicy": source.text("imagePullPolicy"),
        "args": source.and(args.into_iter().map(Value::from).collect(), "extraArgs"),
        "env": [
            env("POD_NAMESPACE", "metadata.namespace"),
            env("POD_NAME", "metadata.name"),
            env("POD_IP", "status.podIP"),
            { "name": "WEFT_DATA_DIR", "value": "/var/lib/weft/state" },
            { "name": "WEFT_LOG", "value": source.text("log") },
        ],
        "ports": [port("grpc", GRPC), port("api", API), port("webhook", WEBHOOK)],
        "startupProbe": asked("/livez", 2, 60),
        "livenessProbe": asked("/livez", 10, 6),
        "readinessProbe": asked("/readyz", 5, 3),
        "resources": {
            "requests": { "cpu": source.text("resources.cpuRequest"), "memory": source.text("resources.memoryRequest") },
            "limits": { "memory": source.text("resources.memoryLimit") },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "state", "mountPath": "/var/lib/weft" },
            { "name": "injection", "mountPath": "/etc/weft/injection", "readOnly": true },
        ],
    })
}
