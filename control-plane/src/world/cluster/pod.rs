//! A Pod as a workload of the mesh.

use crate::inject::{RECORD, SIDECAR};
use crate::kinds::{Phase, Protocol, WorkloadPort};
use crate::world::workload::{Origin, Spec, Workload};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The port of an injected sidecar's mTLS listener.
const TUNNEL: u16 = 15_008;

/// The workload that a pod is; `None` for one that has no address yet, or has ended. `zone` says where a node is.
#[must_use]
pub fn workload(pod: Pod, zone: impl FnOnce(&str) -> Option<Arc<str>>) -> Option<Workload> {
    let Pod { metadata, spec, status } = pod;
    let (spec, status) = (spec?, status?);
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_deref()?.parse().ok()?;
    let phase = if metadata.deletion_timestamp.is_some() {
        Phase::Draining
    } else if is_ready(&status) {
        Phase::Ready
    } else {
        Phase::NotReady
    };
    let annotations = metadata.annotations.unwrap_or_default();
    let meshed = annotations.contains_key(RECORD) && containers(&spec).any(|container| container.name == SIDECAR);
    let zone = spec.node_name.as_deref().and_then(zone);
    Some(Workload {
        namespace: metadata.namespace.unwrap_or_default().into(),
        name: metadata.name.unwrap_or_default().into(),
        object_uid: metadata.uid.unwrap_or_default().into(),
        // Of every heartbeat's version nobody asks.
        resource_version: Box::default(),
        labels: metadata.labels.into_iter().flatten().collect(),
        annotations: annotations
            .into_iter()
            .filter(|(key, _)| key == crate::compile::endpoints::ALLOWED_SERVICES)
            .collect(),
        spec: Spec {
            service_account: spec.service_account_name.as_deref().unwrap_or("default").into(),
            trust_domain: None,
            address: address.to_string().into(),
            tunnel: meshed.then(|| SocketAddr::new(address, TUNNEL).to_string().into()),
            zone,
            services: Arc::default(),
            weight: None,
            ports: ports(&spec).into(),
        },
        phase: Some(phase),
        origin: Origin::Pod,
    })
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The containers that run as long as the pod does: native sidecars among them.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let native = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    spec.init_containers.iter().flatten().filter(native).chain(&spec.containers)
}

/// TCP ports that the application's containers declare, each once.
fn ports(spec: &PodSpec) -> Vec<WorkloadPort> {
    let mut out: Vec<WorkloadPort> = Vec::new();
    let own = containers(spec).filter(|container| container.name != SIDECAR);
    for port in own.flat_map(|container| container.ports.iter().flatten()) {
        let Ok(number) = u16::try_from(port.container_port) else { continue };
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        if tcp && number != 0 && !out.iter().any(|known| known.port == number) {
            let name = port.name.clone().filter(|name| !name.is_empty());
            out.push(WorkloadPort { name, port: number, protocol: Protocol::Detect, local: None });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(change: impl FnOnce(&mut Value)) -> Option<Workload> {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "cart-7d9f-x2", "uid": "u", "resourceVersion": "9",
                "labels": {"app": "cart"}, "annotations": {"weft.mesh/injected": "{}", "note": "x"}},
            "spec": {"serviceAccountName": "cart", "nodeName": "node-1",
                "initContainers": [
                    {"name": "migrate", "ports": [{"containerPort": 1}]},
                    {"name": "weft-proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15_008}]}],
                "containers": [
                    {"name": "cart", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
                    {"name": "other", "ports": [{"containerPort": 8080}, {"containerPort": 9090}]}]},
            "status": {"phase": "Running", "podIP": "192.0.2.7", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        workload(serde_json::from_value(pod).unwrap(), |node| (node == "node-1").then(|| "a".into()))
    }

    #[test]
    fn a_pod_is_a_workload_at_its_address() {
        let workload = pod(|_| {}).unwrap();
        assert_eq!(
            (&*workload.namespace, &*workload.name, &*workload.spec.address),
            ("shop", "cart-7d9f-x2", "192.0.2.7")
        );
        assert_eq!(workload.spec.tunnel.as_deref(), Some("192.0.2.7:15008"));
        assert_eq!((&*workload.spec.service_account, workload.spec.zone.as_deref()), ("cart", Some("a")));
        let ports: Vec<_> = workload.spec.ports.iter().map(|p| (p.name.as_deref(), p.port)).collect();
        assert_eq!(ports, [(Some("http"), 8080), (None, 9090)], "neither UDP, nor the sidecar's, nor what has ended");
        assert_eq!((workload.labels.get("app"), workload.phase), (Some("cart"), Some(Phase::Ready)));
        let six = pod(|p| p["status"]["podIP"] = "2001:db8::7".into()).unwrap();
        assert_eq!(six.spec.tunnel.as_deref(), Some("[2001:db8::7]:15008"));
    }

    #[test]
    fn its_life_is_what_kubernetes_says_of_it() {
        let phase = |change: fn(&mut Value)| pod(change).map(|workload| workload.phase.unwrap());
        assert_eq!(phase(|p| p["status"]["conditions"][0]["status"] = "False".into()), Some(Phase::NotReady));
        assert_eq!(
            phase(|p| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
            Some(Phase::Draining)
        );
        assert_eq!(phase(|p| p["status"]["phase"] = "Succeeded".into()), None);
        assert_eq!(phase(|p| p["status"]["podIP"] = Value::Null), None);
        assert_eq!(phase(|p| p["status"] = Value::Null), None);
    }

    #[test]
    fn without_a_sidecar_it_is_called_in_plaintext() {
        let bare = |change: fn(&mut Value)| pod(change).unwrap().spec.tunnel;
        assert_eq!(bare(|p| p["metadata"]["annotations"] = json!({})), None);
        assert_eq!(bare(|p| p["spec"]["initContainers"] = json!([])), None, "the annotation alone says nothing");
    }

    #[test]
    fn what_others_than_the_mesh_may_write_grants_nothing() {
        let workload = pod(|p| {
            p["metadata"]["annotations"]["weft.mesh/registered-by"] = "x".into();
            p["metadata"]["annotations"]["weft.mesh/allowed-services"] = "cart".into();
        });
        let annotations: Vec<_> = workload.as_ref().unwrap().annotations.iter().collect();
        assert_eq!(annotations, [("weft.mesh/allowed-services", "cart")], "which only narrows");
    }
}
