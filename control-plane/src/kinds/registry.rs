//! The table of what the API serves: names, scope, schema, columns and checks of each kind.

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{
    AuthorizationPolicy, EndpointSlice, FederatedTrustDomain, GATEWAY_GROUP, GROUP, GrpcRoute, HttpRoute, MeshSettings,
    MeshTls, Namespace, RateLimitPolicy, RequestAuthentication, Service, ServiceAccount, TcpRoute, TlsRoute,
    TrafficPolicy, Workload,
    check::{self, Findings},
    column::{self, Column},
    routes, structural,
};

/// What names of a kind's objects must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// An RFC 1123 label: it becomes a part of a host name.
    Label,
    /// An RFC 1123 subdomain.
    Subdomain,
    /// One segment of a path.
    Segment,
}

/// One kind that the API serves.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    /// The version that it is served in. A kind that is served in several has an entry for each, the preferred one first; they differ in name
    /// alone, and their objects are the same.
    pub version: &'static str,
    /// `HTTPRoute`
    pub kind: &'static str,
    /// `httproutes`
    pub plural: &'static str,
    /// `httproute`
    pub singular: &'static str,
    /// What people type instead.
    pub short_names: &'static [&'static str],
    /// Names for several kinds at once (`kubectl get weft`).
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is written apart from the rest.
    pub status: bool,
    /// A kind of Kubernetes itself: clients send strategic merge patches.
    pub builtin: bool,
    /// A kind that only the API of a cluster has: served where this one stands for such.
    pub of_cluster: bool,
    /// Rule for names.
    pub naming: Naming,
    /// Structural OpenAPI v3 schema of the whole object, `metadata` as [`metadata_schema`].
    pub schema: Value,
    /// Columns of its table after `NAME`.
    pub columns: Vec<Column>,
    /// Checks beyond the schema.
    pub check: fn(&Value, &mut Findings),
}

impl Kind {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `HTTPRouteList`
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// `plural.group`, or `plural` alone: how errors name it.
    pub fn resource_name(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether no entry before it in the table has the same objects.
    pub fn is_preferred(&self) -> bool {
        let same = |other: &&Self| other.group == self.group && other.kind == self.kind;
        all().iter().find(same).is_none_or(|first| first.version == self.version)
    }

    /// Whether a delete is answered by the object that is gone, as Kubernetes does for these two; generated clients rely on it.
    pub fn returns_deleted(&self) -> bool {
        self.group.is_empty() && matches!(self.plural, "services" | "serviceaccounts")
    }

    /// Whether its values are never told.
    pub fn is_secret(&self) -> bool {
        self.group.is_empty() && self.plural == "secrets"
    }

    /// The resource of its store keys, `group/plural`.
    pub fn resource(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }
}

/// Every kind, in the order of discovery.
pub fn all() -> &'static [Kind] {
    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(build);
    &KINDS
}

/// The kind of a resource path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind that an object says it is.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all().iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The schema of `metadata`, the same for every kind.
pub fn metadata_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(structural::metadata);
    &SCHEMA
}

/// Finds nothing.
pub(super) fn nothing(_: &Value, _: &mut Findings) {}

fn build() -> Vec<Kind> {
    let core = |kind, plural, singular, short_names, namespaced, status, naming, schema, columns, check| Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        namespaced,
        status,
        builtin: true,
        of_cluster: false,
        naming,
        schema,
        columns,
        check,
    };
    let gateway = |kind, plural, singular, schema, check| Kind {
        group: GATEWAY_GROUP,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &["gateway-api"],
        namespaced: true,
        status: true,
        builtin: false,
        of_cluster: false,
        naming: Naming::Subdomain,
        schema,
        columns: column::route(),
        check,
    };
    let weft = |kind, plural, singular, short_names, naming, schema, columns, check| Kind {
        group: GROUP,
        version: "v1alpha1",
        kind,
        plural,
        singular,
        short_names,
        categories: &["weft"],
        namespaced: true,
        status: true,
        builtin: false,
        of_cluster: false,
        naming,
        schema,
        columns,
        check,
    };
    let tcp_route = || {
        let schema = structural::route(&TcpRoute::crd(), routes::tcp_route());
        gateway("TCPRoute", "tcproutes", "tcproute", schema, check::tcp_route)
    };
    let mut kinds = vec![
        core(
            "Namespace",
            "namespaces",
            "namespace",
            &["ns"],
            false,
            true,
            Naming::Label,
            structural::builtin::<Namespace>(NAMESPACE_OVERLAY),
            column::namespace(),
            nothing,
        ),
        core(
            "Service",
            "services",
            "service",
            &["svc"],
            true,
            true,
            Naming::Label,
            structural::builtin::<Service>(SERVICE_OVERLAY),
            column::service(),
            check::service,
        ),
        core(
            "ServiceAccount",
            "serviceaccounts",
            "serviceaccount",
            &["sa"],
            true,
            false,
            Naming::Subdomain,
            structural::builtin::<ServiceAccount>(SERVICE_ACCOUNT_OVERLAY),
            column::service_account(),
            nothing,
        ),
        Kind {
            group: "discovery.k8s.io",
            ..core(
                "EndpointSlice",
                "endpointslices",
                "endpointslice",
                &[],
                true,
                false,
                Naming::Subdomain,
                structural::builtin::<EndpointSlice>(ENDPOINT_SLICE_OVERLAY),
                column::endpoint_slice(),
                check::endpoint_slice,
            )
        },
        gateway(
            "GRPCRoute",
            "grpcroutes",
            "grpcroute",
            structural::route(&GrpcRoute::crd(), routes::grpc_route()),
            check::grpc_route,
        ),
        gateway(
            "HTTPRoute",
            "httproutes",
            "httproute",
            structural::route(&HttpRoute::crd(), routes::http_route()),
            check::http_route,
        ),
        tcp_route(),
        gateway(
            "TLSRoute",
            "tlsroutes",
            "tlsroute",
            structural::route(&TlsRoute::crd(), routes::tls_route()),
            check::tls_route,
        ),
        // What people have from before Gateway API 1.6.
        Kind { version: "v1alpha2", ..tcp_route() },
        weft(
            "AuthorizationPolicy",
            "authorizationpolicies",
            "authorizationpolicy",
            &["authz"],
            Naming::Subdomain,
            structural::derived(&AuthorizationPolicy::crd()),
            column::authorization_policy(),
            check::authorization_policy,
        ),
        Kind {
            namespaced: false,
            status: false,
            ..weft(
                "FederatedTrustDomain",
                "federatedtrustdomains",
                "federatedtrustdomain",
                &["ftd"],
                Naming::Subdomain,
                structural::derived(&FederatedTrustDomain::crd()),
                column::federated_trust_domain(),
                check::federated_trust_domain,
            )
        },
        Kind {
            namespaced: false,
            ..weft(
                "MeshSettings",
                "meshsettings",
                "meshsettings",
                &["ms"],
                Naming::Subdomain,
                structural::derived(&MeshSettings::crd()),
                column::mesh_settings(),
                check::mesh_settings,
            )
        },
        weft(
            "MeshTLS",
            "meshtlses",
            "meshtls",
            &["mtls"],
            Naming::Subdomain,
            structural::derived(&MeshTls::crd()),
            column::mesh_tls(),
            check::mesh_tls,
        ),
        weft(
            "RateLimitPolicy",
            "ratelimitpolicies",
            "ratelimitpolicy",
            &["rlp"],
            Naming::Subdomain,
            structural::borrowing(&RateLimitPolicy::crd(), &["spec.limits[].matches"]),
            column::rate_limit_policy(),
            check::rate_limit_policy,
        ),
        weft(
            "RequestAuthentication",
            "requestauthentications",
            "requestauthentication",
            &["reqauth"],
            Naming::Subdomain,
            structural::derived(&RequestAuthentication::crd()),
            column::request_authentication(),
            check::request_authentication,
        ),
        weft(
            "TrafficPolicy",
            "trafficpolicies",
            "trafficpolicy",
            &["tp"],
            Naming::Subdomain,
            structural::borrowing(&TrafficPolicy::crd(), &["spec.faults[].matches"]),
            column::traffic_policy(),
            check::traffic_policy,
        ),
        weft(
            "Workload",
            "workloads",
            "workload",
            &["wl"],
            Naming::Label,
            structural::derived(&Workload::crd()),
            column::workload(),
            check::workload,
        ),
    ];
    kinds.extend(super::data::kinds());
    kinds.extend(super::gateways::kinds());
    kinds.extend(super::rbac::kinds());
    kinds.extend(super::cluster::kinds());
    kinds
}

/// What Kubernetes knows of its kinds beyond the published types: defaults, enumerations, bounds, how lists merge. A pointer into the
/// schema, and what is merged there.
pub(super) type Overlay = fn() -> Vec<(&'static str, Value)>;

fn merged_by(keys: &[&str]) -> Value {
    json!({
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": keys,
        "x-kubernetes-patch-strategy": "merge",
        "x-kubernetes-patch-merge-key": keys[0],
    })
}

const NAMESPACE_OVERLAY: Overlay = || {
    vec![
        ("/properties/status/properties/conditions", merged_by(&["type"])),
        ("/properties/spec/properties/finalizers", json!({ "x-kubernetes-list-type": "atomic" })),
    ]
};

const SERVICE_OVERLAY: Overlay = || {
    let ports = "/properties/spec/properties/ports";
    let atomic = json!({ "x-kubernetes-list-type": "atomic" });
    vec![
        (
            ports,
            json!({ "maxItems": 1024, "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "port" }),
        ),
        (ports, json!({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"] })),
        ("/properties/spec/properties/ports/items/properties/port", json!({ "minimum": 1, "maximum": 65535 })),
        (
            "/properties/spec/properties/ports/items/properties/protocol",
            json!({ "default": "TCP", "enum": ["TCP", "UDP", "SCTP"] }),
        ),
        (
            "/properties/spec/properties/type",
            json!({ "default": "ClusterIP", "enum": ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"] }),
        ),
        ("/properties/spec/properties/sessionAffinity", json!({ "default": "None", "enum": ["ClientIP", "None"] })),
        ("/properties/spec/properties/clusterIPs", atomic.clone()),
        ("/properties/spec/properties/externalIPs", atomic.clone()),
        ("/properties/spec/properties/ipFamilies", atomic.clone()),
        ("/properties/spec/properties/loadBalancerSourceRanges", atomic),
        ("/properties/spec/properties/selector", json!({ "x-kubernetes-map-type": "atomic" })),
        ("/properties/status/properties/conditions", merged_by(&["type"])),
    ]
};

const SERVICE_ACCOUNT_OVERLAY: Overlay = || {
    vec![
        ("/properties/secrets", merged_by(&["name"])),
        ("/properties/imagePullSecrets", json!({ "x-kubernetes-list-type": "atomic" })),
    ]
};

const ENDPOINT_SLICE_OVERLAY: Overlay = || {
    vec![
        ("/properties/addressType", json!({ "enum": ["FQDN", "IPv4", "IPv6"] })),
        ("/properties/endpoints", json!({ "maxItems": 1000, "x-kubernetes-list-type": "atomic" })),
        ("/properties/ports", json!({ "maxItems": 20_000, "x-kubernetes-list-type": "atomic" })),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_built_and_found() {
        for kind in all() {
            assert!(std::ptr::eq(find(kind.group, kind.version, kind.plural).unwrap(), kind));
            assert!(std::ptr::eq(find_kind(&kind.api_version(), kind.kind).unwrap(), kind));
            assert_eq!(kind.schema["properties"]["kind"]["type"], "string", "{}", kind.kind);
            assert!(kind.schema["properties"].get("metadata").is_some(), "{}", kind.kind);
            assert_eq!(kind.status, kind.schema["properties"].get("status").is_some(), "{}", kind.kind);
        }
    }

    #[test]
    fn no_schema_refers_to_another() {
        fn walk(value: &Value, path: &str) {
            match value {
                Value::Object(map) => {
                    assert!(!map.contains_key("$ref"), "{path}");
                    map.iter().for_each(|(k, v)| walk(v, &format!("{path}/{k}")));
                }
                Value::Array(list) => list.iter().for_each(|v| walk(v, path)),
                _ => {}
            }
        }
        all().iter().for_each(|k| walk(&k.schema, k.kind));
        walk(metadata_schema(), "metadata");
    }

    #[test]
    fn gateway_types_read_a_route_of_a_service() {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 80}], "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
                "retry": {"codes": [503], "attempts": 2, "backoff": "10ms"},
                "timeouts": {"request": "2s"},
                "backendRefs": [{"name": "catalog-v2", "port": 80, "weight": 10}]}]}});
        let read: crate::kinds::HttpRoute = serde_json::from_value(route).unwrap();
        assert_eq!(read.spec.rules.unwrap()[0].retry.as_ref().unwrap().attempts, Some(2));
    }
}
