//! What kinds the server knows, and at which paths: discovery, and the ways people name a kind (`svc`, `service`, `Service`,
//! `services`, `httproutes.gateway.networking.k8s.io`).

use super::{Client, Error, encode};
use crate::failure::Failure;
use serde::Deserialize;

/// One kind that the server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    /// `v1`
    pub version: String,
    /// `HTTPRoute`
    pub kind: String,
    /// `httproutes`
    pub plural: String,
    /// `httproute`
    pub singular: String,
    /// `svc`
    pub short: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// `gateway.networking.k8s.io/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Path of the collection, of one namespace or (without one) of all.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let api_version = self.api_version();
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("{root}/{api_version}/namespaces/{}/{}", encode(namespace), self.plural)
            }
            _ => format!("{root}/{api_version}/{}", self.plural),
        }
    }

    /// Path of one object.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), encode(name))
    }

    /// `httproute.gateway.networking.k8s.io`, as `-o name` prints it; `service` for the core group.
    pub fn display(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    fn is_called(&self, name: &str) -> bool {
        let (name, group) = name.split_once('.').map_or((name, None), |(name, group)| (name, Some(group)));
        let named = [&self.plural, &self.singular].iter().any(|own| own.eq_ignore_ascii_case(name))
            || self.kind.eq_ignore_ascii_case(name)
            || self.short.iter().any(|own| own.eq_ignore_ascii_case(name));
        named
            && group.is_none_or(|group| {
                group == self.group
                    || group.strip_prefix(&self.version).is_some_and(|rest| rest == format!(".{}", self.group))
            })
    }
}

/// All kinds of a server.
#[derive(Clone, Debug)]
pub struct Kinds(Vec<Kind>);

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    versions: Vec<Version>,
    preferred_version: Option<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    #[serde(default)]
    singular_name: String,
    namespaced: bool,
    kind: String,
    #[serde(default)]
    short_names: Vec<String>,
}

impl Kinds {
    /// Asks the server: every version of every group, preferred versions first.
    pub async fn discover(client: &Client) -> Result<Self, Failure> {
        let failed = |error: Error| error.into_failure("ask the API what kinds it serves");
        let groups: Groups = client.read("/apis").await.map_err(failed)?;
        let mut sources = vec![(String::new(), "v1".to_owned())];
        for group in groups.groups {
            let preferred = group.preferred_version.map(|version| version.version);
            sources.extend(preferred.iter().map(|version| (group.name.clone(), version.clone())));
            let others = group.versions.into_iter().map(|version| version.version);
            sources.extend(others.filter(|v| Some(v) != preferred.as_ref()).map(|v| (group.name.clone(), v)));
        }
        let answers = futures_util::future::join_all(sources.iter().map(|(group, version)| async move {
            let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            client.read::<Resources>(&path).await
        }))
        .await;
        let mut kinds = Vec::new();
        for ((group, version), answer) in sources.into_iter().zip(answers) {
            let resources = match answer {
                Ok(resources) => resources.resources,
                // An aggregated group of a cluster may be down; its kinds are then unknown, the others are not.
                Err(Error::Refused(_)) => continue,
                Err(error) => return Err(failed(error)),
            };
            // A name with a slash is a subresource.
            for resource in resources.into_iter().filter(|resource| !resource.name.contains('/')) {
                let lower = resource.kind.to_lowercase();
                kinds.push(Kind {
                    group: group.clone(),
                    version: version.clone(),
                    singular: if resource.singular_name.is_empty() { lower } else { resource.singular_name },
                    kind: resource.kind,
                    plural: resource.name,
                    short: resource.short_names,
                    namespaced: resource.namespaced,
                });
            }
        }
        Ok(Self(kinds))
    }

    /// Every kind once, in its preferred version.
    pub fn preferred(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter().enumerate().filter_map(|(index, kind)| {
            let same = |other: &Kind| other.group == kind.group && other.kind == kind.kind;
            (!self.0[..index].iter().any(same)).then_some(kind)
        })
    }

    /// The kind that people mean by `name`.
    pub fn named(&self, name: &str) -> Result<&Kind, Failure> {
        self.0.iter().find(|kind| kind.is_called(name)).ok_or_else(|| {
            let mut known: Vec<&str> = self.0.iter().map(|kind| kind.singular.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            Failure::usage(format!("the server knows no kind '{name}'")).hint(format!("it knows: {}", known.join(", ")))
        })
    }

    /// The kind of a document.
    pub fn exact(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0.iter().find(|known| known.kind == kind && known.api_version() == api_version)
    }

    /// The API version that serves a kind of this name, for hints.
    pub fn version_of(&self, kind: &str) -> Option<String> {
        self.0.iter().find(|known| known.kind.eq_ignore_ascii_case(kind)).map(Kind::api_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Kind {
        Kind {
            group: "gateway.networking.k8s.io".into(),
            version: "v1".into(),
            kind: "HTTPRoute".into(),
            plural: "httproutes".into(),
            singular: "httproute".into(),
            short: vec![],
            namespaced: true,
        }
    }

    #[test]
    fn a_kind_answers_to_every_usual_name() {
        for name in [
            "httproute",
            "httproutes",
            "HTTPRoute",
            "httproutes.gateway.networking.k8s.io",
            "httproutes.v1.gateway.networking.k8s.io",
        ] {
            assert!(route().is_called(name), "{name}");
        }
        assert!(!route().is_called("httproutes.example.com"));
    }

    #[test]
    fn paths_follow_the_kubernetes_api() {
        assert_eq!(
            route().object("shop", "catalog"),
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/catalog"
        );
        let namespace = Kind {
            group: String::new(),
            version: "v1".into(),
            kind: "Namespace".into(),
            plural: "namespaces".into(),
            singular: "namespace".into(),
            short: vec!["ns".into()],
            namespaced: false,
        };
        assert_eq!(namespace.object("ignored", "shop"), "/api/v1/namespaces/shop");
        assert!(namespace.is_called("ns"));
    }
}
