//! Endpoints that are no pods, of an EndpointSlice, as workloads without a sidecar: a database beside the cluster, say.

use crate::kinds::{EndpointSlice, Phase, Protocol, WorkloadPort};
use crate::world::workload::{Labels, Origin, Spec, Workload};
use std::net::IpAddr;
use std::sync::Arc;

/// Label of a slice: the Service that it is of.
const SERVICE: &str = "kubernetes.io/service-name";

/// The workloads of a slice, by uid (`namespace/slice-address`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice(pub Vec<(String, Arc<Workload>)>);

/// What of a slice are no pods.
#[must_use]
pub fn workloads(slice: EndpointSlice) -> Slice {
    let (namespace, own) = (slice.metadata.namespace.unwrap_or_default(), slice.metadata.name.unwrap_or_default());
    let Some(service) = slice.metadata.labels.and_then(|mut labels| labels.remove(SERVICE)) else {
        return Slice::default();
    };
    let (space, services): (Arc<str>, Arc<[String]>) = (namespace.as_str().into(), Arc::new([service]));
    let ports: Arc<[WorkloadPort]> = slice
        .ports
        .into_iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| {
            let number = port.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)?;
            let name = port.name.filter(|name| !name.is_empty());
            Some(WorkloadPort { name, port: number, protocol: Protocol::Detect, local: None })
        })
        .collect();
    let mut out = Vec::new();
    for endpoint in
        slice.endpoints.into_iter().filter(|e| e.target_ref.as_ref().is_none_or(|t| t.kind.as_deref() != Some("Pod")))
    {
        // The others, where there are any, are the same endpoint (Kubernetes: "all may be assumed fungible").
        let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        let conditions = endpoint.conditions.unwrap_or_default();
        let phase = match (conditions.terminating, conditions.ready) {
            (Some(true), _) => Phase::Draining,
            (_, Some(false)) => Phase::NotReady,
            _ => Phase::Ready,
        };
        let name = format!("{own}-{}", address.to_string().replace([':', '.'], "-"));
        let uid = format!("{namespace}/{name}");
        let workload = Workload {
            namespace: space.clone(),
            name: name.into(),
            object_uid: Box::default(),
            resource_version: Box::default(),
            labels: Labels::default(),
            annotations: Labels::default(),
            spec: Spec {
                address: address.to_string().into(),
                zone: endpoint.zone.map(Into::into),
                services: services.clone(),
                ports: ports.clone(),
                ..Spec::default()
            },
            phase: Some(phase),
            origin: Origin::Slice,
        };
        out.push((uid, Arc::new(workload)));
    }
    Slice(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_slice_what_is_no_pod_is_an_endpoint_without_a_sidecar() {
        let slice = json!({
            "metadata": {"namespace": "shop", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "pg", "port": 5433}, {"name": "stats", "port": 9, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["192.0.2.50"], "zone": "a"},
                {"addresses": ["192.0.2.51"], "conditions": {"ready": false}},
                {"addresses": ["192.0.2.52"], "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["192.0.2.53"], "targetRef": {"kind": "Pod", "name": "db-0"}},
                {"addresses": ["db.example.com"]},
            ],
        });
        let Slice(found) = workloads(serde_json::from_value(slice.clone()).unwrap());
        let seen: Vec<_> = found.iter().map(|(uid, w)| (uid.as_str(), &*w.spec.address, w.phase)).collect();
        assert_eq!(
            seen,
            [
                ("shop/db-1-192-0-2-50", "192.0.2.50", Some(Phase::Ready)),
                ("shop/db-1-192-0-2-51", "192.0.2.51", Some(Phase::NotReady)),
                ("shop/db-1-192-0-2-52", "192.0.2.52", Some(Phase::Draining)),
            ]
        );
        let first = &found[0].1.spec;
        assert_eq!(
            (first.tunnel.as_deref(), first.zone.as_deref(), &*first.services),
            (None, Some("a"), &["db".to_owned()][..])
        );
        assert_eq!(first.ports.iter().map(|p| (p.name.as_deref(), p.port)).collect::<Vec<_>>(), [(Some("pg"), 5433)]);
        let mut nobodys = slice;
        nobodys["metadata"]["labels"] = json!({});
        assert!(workloads(serde_json::from_value(nobodys).unwrap()).0.is_empty());
    }
}
