//! A workload as the mesh knows it: what of the object matters here, and small, since there are more of these than of anything else.

use crate::kinds::{self, Phase, WorkloadSpec};

/// Pairs in order of key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

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
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace.
    pub namespace: Box<str>,
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
    pub spec: WorkloadSpec,
    /// `status.phase`
    pub phase: Option<Phase>,
}

impl From<kinds::Workload> for Workload {
    fn from(object: kinds::Workload) -> Self {
        let kinds::Workload { metadata, mut spec, status } = object;
        spec.ports.shrink_to_fit();
        spec.services.shrink_to_fit();
        let text = |text: Option<String>| text.unwrap_or_default().into();
        let own = |(key, _): &(String, String)| key.starts_with("weft.mesh/");
        Self {
            namespace: text(metadata.namespace),
            name: text(metadata.name),
            object_uid: text(metadata.uid),
            resource_version: text(metadata.resource_version),
            labels: metadata.labels.into_iter().flatten().collect(),
            annotations: metadata.annotations.into_iter().flatten().filter(own).collect(),
            spec,
            phase: status.and_then(|status| status.phase),
        }
    }
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
}
