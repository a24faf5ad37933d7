//! What the mesh knows at one moment: objects by name, and the questions that the compiler asks of them.
//!
//! A [`World`] is a value: the reflectors of [`watch`] give a new one whenever something changed, and successive ones share what did not
//! ([`table`]), so that the difference between two is found without reading either. [`reconcile`] turns worlds
//! into what is offered, [`status`] tells objects their fate, [`events`] writes what happened to them, [`jwks`] fetches the keys of issuers. What objects mean for sidecars is decided in [`crate::compile`] alone.

pub mod cluster;
pub mod events;
pub mod jwks;
pub(crate) mod keep;
pub mod reconcile;
pub mod status;
pub mod table;
mod text;
pub mod watch;
mod workload;

pub use table::Table;
pub use text::Text;
pub use workload::{Labels, Origin, Spec, Workload};

use crate::compile::Kind;
use crate::kinds::{
    AuthorizationPolicy, EgressMode, FederatedTrustDomain, MeshSettings, MeshTls, Phase, RateLimitPolicy,
    RequestAuthentication, Service, TrafficPolicy,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ObjectMeta;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::v1;

/// What holds for the mesh as a whole, from settings and the CA.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// `weft.local`
    pub trust_domain: String,
    /// `cluster.local`
    pub domain: String,
    /// Ranges in which sidecars ask what an address is: of Services' cluster addresses, and of what else is of the mesh.
    pub ranges: Arc<[String]>,
    /// Whether what is no service of the mesh, and no host registered in it, cannot be called from inside.
    pub registered_only: bool,
    /// Root certificates, DER.
    pub roots: Vec<Vec<u8>>,
    /// Seconds since the Unix epoch; older certificates are renewed at once. Zero: none.
    pub reissue_after: i64,
    /// What was revoked, a list for each key that signed it.
    pub revocations: Arc<[v1::RevocationList]>,
}

/// A route of any kind, its spec as written: it is read strictly by the compiler.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
    /// `metadata.creationTimestamp`, seconds since the Unix epoch.
    pub created: i64,
    /// What its annotation says of rollouts.
    pub rollout: Option<String>,
    /// `spec`
    pub spec: Text,
    /// `status`
    pub status: Text,
}

impl Route {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Everything, by "namespace/name". A copy shares what it has in common with the original.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Settings.
    pub mesh: Mesh,
    /// Services.
    pub services: Table<Arc<Service>>,
    /// Workloads.
    pub workloads: Table<Arc<Workload>>,
    /// HTTPRoutes.
    pub http_routes: Table<Arc<Route>>,
    /// GRPCRoutes.
    pub grpc_routes: Table<Arc<Route>>,
    /// TLSRoutes.
    pub tls_routes: Table<Arc<Route>>,
    /// TCPRoutes.
    pub tcp_routes: Table<Arc<Route>>,
    /// TrafficPolicies.
    pub traffic: Table<Arc<TrafficPolicy>>,
    /// AuthorizationPolicies.
    pub authorization: Table<Arc<AuthorizationPolicy>>,
    /// Other trust domains that are believed.
    pub federated: Table<Arc<FederatedTrustDomain>>,
    /// MeshTLS objects.
    pub mesh_tls: Table<Arc<MeshTls>>,
    /// RateLimitPolicies.
    pub limits: Table<Arc<RateLimitPolicy>>,
    /// RequestAuthentications.
    pub authentication: Table<Arc<RequestAuthentication>>,
    /// MeshSettings, of which the one named `default` counts.
    pub settings: Table<Arc<MeshSettings>>,
    /// Keys of issuers, by the address that they come from.
    pub jwks: Table<Arc<jwks::Jwks>>,
}

impl World {
    /// The routes of a kind; `None` for what is no kind of route.
    #[must_use]
    pub fn routes(&self, kind: Kind) -> Option<&Table<Arc<Route>>> {
        match kind {
            Kind::HttpRoute => Some(&self.http_routes),
            Kind::GrpcRoute => Some(&self.grpc_routes),
            Kind::TlsRoute => Some(&self.tls_routes),
            Kind::TcpRoute => Some(&self.tcp_routes),
            Kind::TrafficPolicy
            | Kind::AuthorizationPolicy
            | Kind::MeshTls
            | Kind::RateLimitPolicy
            | Kind::RequestAuthentication
            | Kind::MeshSettings => None,
        }
    }

    /// What people decided for the mesh as a whole, where they did.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<MeshSettings>> {
        self.settings.get(&format!("/{}", MeshSettings::NAME))
    }

    /// Whether only what is registered may be called: as the settings say, else as the control plane was started.
    #[must_use]
    pub fn is_registered_only(&self) -> bool {
        let said = self.settings().and_then(|settings| settings.spec.egress);
        said.map_or(self.mesh.registered_only, |egress| egress == EgressMode::Registered)
    }

    /// Workloads of a namespace with their uids, in order.
    pub fn workloads_in(&self, namespace: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<Workload>)> {
        self.workloads.with_prefix(&format!("{namespace}/"))
    }
}

/// The address at which others can reach the workload, unless it has gone or shares it by being on loopback.
#[must_use]
pub fn own_address(workload: &Workload) -> Option<IpAddr> {
    let alive = workload.phase != Some(Phase::Lost);
    workload.spec.address.parse::<IpAddr>().ok().filter(|a| alive && !a.is_loopback())
}

/// By what objects of a kind are ordered when one must win: the older, then the smaller name.
#[must_use]
pub fn age(meta: &ObjectMeta) -> (i64, String, String) {
    (created(meta), meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// `metadata.creationTimestamp`, seconds since the Unix epoch.
#[must_use]
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second())
}

/// Whether a label selector selects an object with these labels. An empty selector selects everything; an unknown operator nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let value = |key: &str| labels.get(key);
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            let listed = value(&e.key).is_some_and(|v| values.iter().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value(&e.key).is_some(),
                "DoesNotExist" => value(&e.key).is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_mean_what_they_mean_in_kubernetes() {
        let labels: Labels = [("app".to_owned(), "cart".to_owned())].into_iter().collect();
        let selects = |s| super::selects(&serde_json::from_value(s).unwrap(), &labels);
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": {"app": "cart"}})));
        assert!(!selects(json!({"matchLabels": {"app": "cart", "tier": "web"}})));
        assert!(selects(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["cart", "x"]}]})));
        assert!(selects(json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]})));
        assert!(!selects(json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]})));
        assert!(!selects(json!({"matchExpressions": [{"key": "app", "operator": "Near"}]})));
    }
}
