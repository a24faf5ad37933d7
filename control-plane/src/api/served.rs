//! Which of the kinds that this API knows it serves: its own; or, where it stands for the API of a Kubernetes cluster, those of a cluster, and
//! of the others what a CustomResourceDefinition defines, as a cluster does.

use std::collections::HashSet;

use serde_json::Value;

use super::{Inner, failure::Result};
use crate::kinds::{self, Kind};
use crate::store::Scope;

/// What is served at one moment.
#[derive(Debug)]
pub(super) enum Served {
    /// What a mesh outside a cluster needs.
    Own,
    /// What a cluster has, and of what is defined there `(group, version, plural)`.
    Cluster(HashSet<(String, String, String)>),
}

impl Served {
    /// What is served now.
    pub async fn now(api: &Inner) -> Result<Self> {
        if !api.settings.cluster {
            return Ok(Self::Own);
        }
        let resource = "apiextensions.k8s.io/customresourcedefinitions".into();
        let page = api.store.list(&Scope { resource, namespace: None }, None, 0, None).await?;
        let mut defined = HashSet::new();
        for record in page.items {
            let definition: Value = serde_json::from_slice(&record.value).unwrap_or_default();
            let spec = &definition["spec"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for version in spec["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true) {
                defined.insert((text(&spec["group"]), text(&version["name"]), text(&spec["names"]["plural"])));
            }
        }
        Ok(Self::Cluster(defined))
    }

    /// Whether this kind is.
    pub fn has(&self, kind: &Kind) -> bool {
        match self {
            Self::Own => !kind.of_cluster,
            Self::Cluster(defined) => {
                let named = || (kind.group.to_owned(), kind.version.to_owned(), kind.plural.to_owned());
                kind.builtin || defined.contains(&named())
            }
        }
    }

    /// All that are.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        kinds::all().iter().filter(|kind| self.has(kind))
    }
}
