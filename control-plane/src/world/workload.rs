//! A workload as the mesh knows it: what of the object matters here, and small, since there are more of these than of anything else. What
//! one has in common with another, as instances of a service have most, is kept once.

use crate::kinds::{self, Phase, WorkloadPort};
use std::sync::Arc;

/// Pairs in order of key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl FromIterator<(String, String)> for Labels {
    /// Of pairs in order of key.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(several(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()))
    }
}

/// What tells of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An object of the kind `Workload`, whose status is the mesh's to write.
    #[default]
    Object,
    /// A pod of a cluster: Kubernetes watches over its life.
    Pod,
    /// An endpoint of an EndpointSlice that is no pod.
    Slice,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Box<str>,
    /// `metadata.uid`
    pub object_uid: Box<str>,
    /// `metadata.resourceVersion`
    pub resource_version: Box<str>,
    /// `metadata.labels`
    pub labels: Labels,
    /// Those annotations that are the mesh's own.
    pub annotations: Labels,
    /// `spec`
    pub spec: Spec,
    /// `status.phase`
    pub phase: Option<Phase>,
    /// What tells of it.
    pub origin: Origin,
}

/// [`kinds::WorkloadSpec`], field by field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// The service account it runs as.
    pub service_account: Arc<str>,
    /// Trust domain of its identity, where that is not the mesh's own.
    pub trust_domain: Option<Arc<str>>,
    /// IP address at which peers reach it.
    pub address: Box<str>,
    /// `<ip>:<port>` of its sidecar's mTLS listener; `None`: it has no sidecar.
    pub tunnel: Option<Box<str>>,
    /// Where it runs.
    pub zone: Option<Arc<str>>,
    /// Services that it is an endpoint of, besides those whose selector matches.
    pub services: Arc<[String]>,
    /// Share of calls relative to other endpoints.
    pub weight: Option<u32>,
    /// Ports that the application listens on.
    pub ports: Arc<[WorkloadPort]>,
}

impl From<kinds::WorkloadSpec> for Spec {
    fn from(spec: kinds::WorkloadSpec) -> Self {
        Self {
            service_account: spec.service_account.into(),
            trust_domain: spec.trust_domain.map(Into::into),
            address: spec.address.into(),
            tunnel: spec.tunnel.map(Into::into),
            zone: spec.zone.map(Into::into),
            services: several(spec.services),
            weight: spec.weight,
            ports: several(spec.ports),
        }
    }
}

impl From<kinds::Workload> for Workload {
    fn from(object: kinds::Workload) -> Self {
        let kinds::Workload { metadata, spec, status } = object;
        let text = |text: Option<String>| text.unwrap_or_default().into();
        let own = |(key, _): &(String, String)| key.starts_with("weft.mesh/");
        Self {
            namespace: metadata.namespace.unwrap_or_default().into(),
            name: text(metadata.name),
            object_uid: text(metadata.uid),
            resource_version: text(metadata.resource_version),
            labels: metadata.labels.into_iter().flatten().collect(),
            annotations: metadata.annotations.into_iter().flatten().filter(own).collect(),
            spec: spec.into(),
            phase: status.and_then(|status| status.phase),
            origin: Origin::Object,
        }
    }
}

impl Workload {
    /// The same, sharing with another whatever is equal.
    #[must_use]
    pub fn like(mut self, other: &Self) -> Self {
        share(&mut self.namespace, &other.namespace);
        share(&mut self.labels.0, &other.labels.0);
        share(&mut self.annotations.0, &other.annotations.0);
        let (own, others) = (&mut self.spec, &other.spec);
        share(&mut own.service_account, &others.service_account);
        share(&mut own.services, &others.services);
        share(&mut own.ports, &others.ports);
        for (own, others) in [(&mut own.trust_domain, &others.trust_domain), (&mut own.zone, &others.zone)] {
            if let (Some(own), Some(others)) = (own, others) {
                share(own, others);
            }
        }
        self
    }
}

fn share<T: ?Sized + PartialEq>(own: &mut Arc<T>, other: &Arc<T>) {
    if own == other {
        *own = other.clone();
    }
}

/// Of none there is but one.
fn several<T>(all: Vec<T>) -> Arc<[T]> {
    if all.is_empty() { Arc::default() } else { all.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_an_object_what_matters_to_the_mesh_is_kept() {
        let object = json!({
            "apiVersion": "weft.mesh/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": "shop", "name": "cart-1", "uid": "u", "resourceVersion": "7",
                "labels": {"tier": "a", "app": "cart"}, "annotations": {"weft.mesh/allowed-services": "*", "note": "x"}},
            "spec": {"address": "192.0.2.1", "ports": [{"port": 80}]}, "status": {"phase": "Ready"},
        });
        let kept = Workload::from(serde_json::from_value::<kinds::Workload>(object).unwrap());
        assert_eq!(
            (&*kept.namespace, &*kept.name, &*kept.object_uid, &*kept.resource_version),
            ("shop", "cart-1", "u", "7")
        );
        assert_eq!(
            (kept.labels.get("app"), kept.labels.get("tier"), kept.labels.get("b")),
            (Some("cart"), Some("a"), None)
        );
        assert_eq!(kept.annotations.iter().collect::<Vec<_>>(), [("weft.mesh/allowed-services", "*")]);
        assert_eq!((kept.spec.ports.len(), kept.phase), (1, Some(Phase::Ready)));
    }

    #[test]
    fn instances_of_a_service_keep_once_what_they_have_in_common() {
        let instance = |name: &str, zone: &str| {
            let object = json!({
                "apiVersion": "weft.mesh/v1alpha1", "kind": "Workload",
                "metadata": {"namespace": "shop", "name": name, "labels": {"app": "cart"}},
                "spec": {"address": "192.0.2.1", "zone": zone, "ports": [{"port": 80}]},
            });
            Workload::from(serde_json::from_value::<kinds::Workload>(object).unwrap())
        };
        let one = instance("cart-1", "a");
        let (other, elsewhere) = (instance("cart-2", "a").like(&one), instance("cart-3", "b").like(&one));
        assert_eq!((&other, &elsewhere), (&instance("cart-2", "a"), &instance("cart-3", "b")));
        assert!(Arc::ptr_eq(&one.labels.0, &other.labels.0) && Arc::ptr_eq(&one.spec.ports, &other.spec.ports));
        assert!(Arc::ptr_eq(one.spec.zone.as_ref().unwrap(), other.spec.zone.as_ref().unwrap()));
    }
}
