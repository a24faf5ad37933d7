//! `AuthorizationPolicy`, `RequestAuthentication`, `MeshTLS` and `FederatedTrustDomain`: who may call what, with which tokens, whether
//! plaintext is accepted, and whose identities are believed besides the mesh's own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, PolicyStatus, TargetRef};

/// Who may call the targets. Deny rules are asked first; then, where at least one Allow policy holds, what no rule allows is denied.
/// Without `targetRefs` and `selector` it holds for every workload of its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    shortname = "authz",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Services or Workloads of this namespace. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Workloads of this namespace by label. Not together with `targetRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What happens to a call that a rule matches. Default Allow.
    #[serde(default)]
    pub action: Action,
    /// Any rule suffices. None: an Allow policy allows nothing, a Deny policy denies nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
    /// Answers say which rule decided, in `weft-authorization`. Default: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header: Option<bool>,
}

/// What happens to a call that a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Lets it through.
    #[default]
    Allow,
    /// Refuses it.
    Deny,
    /// Only reports that it matched.
    Audit,
}

/// Matches a call when one of `from`, one of `to` and all of `when` hold; an empty list holds for every call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Shown in logs and metrics where the rule decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Who calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<Source>,
    /// What is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<Operation>,
    /// What else must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub when: Vec<AuthorizationCondition>,
}

/// A caller. Every list that is not empty must hold: a list when one of its entries matches, a `not` list when none does. An entry is a
/// value, or one end of it and `*`, or `*` alone, which any value matches; what a caller does not have is matched by none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// SPIFFE ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub identities: Vec<String>,
    /// SPIFFE ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub not_identities: Vec<String>,
    /// Namespaces of the caller's identity, in the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub namespaces: Vec<String>,
    /// Namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub not_namespaces: Vec<String>,
    /// Service accounts: `name` in this namespace, or `namespace/name`; no `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 317)))]
    pub service_accounts: Vec<String>,
    /// Service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 317)))]
    pub not_service_accounts: Vec<String>,
    /// Addresses of the peer: `192.0.2.7`, `2001:db8::/32`; no `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub ip_blocks: Vec<String>,
    /// Addresses of the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub not_ip_blocks: Vec<String>,
    /// `<iss>/<sub>` of the token that the request brought. A RequestAuthentication verifies it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub request_principals: Vec<String>,
    /// `<iss>/<sub>`; `*`: a request without a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub not_request_principals: Vec<String>,
}

/// A call. Lists hold as those of a source do. Of opaque connections only `ports` are known: for the rest a Deny rule holds and an Allow
/// rule does not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Hosts in any case; the port counts where the entry has one: `shop.test`, `*.shop.test:8080`, `shop.test:*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 260)))]
    pub hosts: Vec<String>,
    /// Hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 260)))]
    pub not_hosts: Vec<String>,
    /// Ports of the workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// Ports of the workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub not_ports: Vec<u16>,
    /// HTTP methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// HTTP methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 32)))]
    pub not_methods: Vec<String>,
    /// Paths: `/orders`, `/orders/*`, `*.json`, or templates such as `/users/{*}/orders/{**}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
    /// Paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub not_paths: Vec<String>,
}

/// An attribute of the call, and values of which one must match, none may, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationCondition {
    /// `source.ip`, `source.namespace`, `source.principal`, `destination.port`, `connection.sni`, `request.headers[x-tenant]`,
    /// `request.auth.principal`, `request.auth.audiences`, `request.auth.presenter` or `request.auth.claims[realm][roles]`.
    #[schemars(length(min = 1, max = 1024))]
    pub key: String,
    /// One must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub values: Vec<String>,
    /// None may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub not_values: Vec<String>,
}

/// Which tokens the requests to the targets may bring: a token that is not acceptable is refused (401), and so is a request without one
/// unless every object that holds is optional. Without `targetRefs` and `selector` it holds for every workload of its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "RequestAuthentication",
    plural = "requestauthentications",
    shortname = "reqauth",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// Services or Workloads of this namespace. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Workloads of this namespace by label. Not together with `targetRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Issuers, and how their tokens are verified. A token must be good by one of those of its issuer.
    #[schemars(length(min = 1, max = 32))]
    pub rules: Vec<TokenRule>,
    /// Requests without a token are admitted too. Default: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// JSON Web Tokens of one issuer: signed by RS*, PS*, ES256, ES384 or EdDSA, with an expiry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenRule {
    /// Value of `iss`, exactly.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// One of them must be in `aud`. None: any audience.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub audiences: Vec<String>,
    /// The issuer's keys, as a JSON Web Key Set. Either this or `jwksUri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub jwks: Option<String>,
    /// Where the issuer publishes its keys: `https://…`. They are fetched again as its Cache-Control says, between a minute and an hour;
    /// if that fails the last good ones stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub jwks_uri: Option<String>,
    /// Headers that hold the token. With none of the three lists: `Authorization: Bearer <token>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub from_headers: Vec<TokenHeader>,
    /// Query parameters that hold the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub from_params: Vec<String>,
    /// Cookies that hold the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub from_cookies: Vec<String>,
    /// The application gets the token too. Default: it is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_original_token: Option<bool>,
    /// Claims that the application gets as headers. What a caller sends under these names is always taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub output_claim_to_headers: Vec<ClaimHeader>,
    /// Difference of clocks that is allowed for. Default 60s, at most 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew: Option<Duration>,
}

/// A header that holds a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenHeader {
    /// Name of the header.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What stands before the token: `Bearer `, in any case. A value without it is no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub prefix: Option<String>,
}

/// A claim as a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimHeader {
    /// Name of the header.
    #[schemars(length(min = 1, max = 256))]
    pub header: String,
    /// The claim, by its names joined by dots: `sub`, `realm_access.roles`. Lists are joined by commas.
    #[schemars(length(min = 1, max = 1024))]
    pub claim: String,
}

/// Whether plaintext is accepted. Without `targetRefs` and `selector` it holds for every workload of its namespace, in `weft-system` for
/// those of every namespace. What names its targets wins over what holds for a namespace, that over what holds for the mesh; then one
/// that lists the port wins, then the older one.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "MeshTLS",
    root = "MeshTls",
    plural = "meshtlses",
    singular = "meshtls",
    shortname = "mtls",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct MeshTlsSpec {
    /// Services or Workloads of this namespace. Not together with `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Workloads of this namespace by label. Not together with `targetRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What holds for every port that `ports` does not list. Default Strict.
    #[serde(default)]
    pub mode: TlsMode,
    /// Ports of the workload that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub ports: Vec<PortTls>,
}

/// What a port accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Only peers with an identity of the mesh.
    #[default]
    Strict,
    /// Those, and plaintext.
    Permissive,
    /// The same, and peers call in plaintext.
    Disabled,
}

/// The mode of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortTls {
    /// A port of the workload.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What it accepts.
    pub mode: TlsMode,
}

/// Another trust domain whose members are believed to be who they say they are, by its own roots alone: none of its roots vouches for this
/// mesh, and none of this mesh's for it. What its members may do, authorization says.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.mesh",
    version = "v1alpha1",
    kind = "FederatedTrustDomain",
    plural = "federatedtrustdomains",
    shortname = "ftd",
    category = "weft",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct FederatedTrustDomainSpec {
    /// The trust domain: `partner.example`. Of several objects for one domain the oldest counts; one for the mesh's own does not.
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: String,
    /// Its roots: certificates in PEM, at most 64. `weft identity bundle` prints those of a mesh.
    #[schemars(length(min = 1, max = 262_144))]
    pub roots: String,
}
