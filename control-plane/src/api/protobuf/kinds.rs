//! The numbers of the fields of Kubernetes' own kinds, as its published definitions (`generated.proto` of `k8s.io/api` and
//! `k8s.io/apimachinery`) have them. Only kinds that are served here.

/// What a field holds.
#[derive(Clone, Copy)]
pub enum Type {
    Text,
    Int,
    Bool,
    Bytes,
    Time,
    IntOrText,
    /// `FieldsV1`
    Fields,
    /// A map from text to text.
    Texts,
    /// A map from text to bytes.
    Binaries,
    Message(&'static [Field]),
}

/// One field of a message.
pub struct Field {
    pub number: u64,
    pub name: &'static str,
    pub kind: Type,
    /// Whether there may be several.
    pub many: bool,
    /// Whether it says something even when it is zero: a pointer in Go.
    pub keep: bool,
}

const fn one(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, many: false, keep: false }
}

const fn many(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, many: true, keep: true }
}

const fn keep(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, many: false, keep: true }
}

use Type::{Binaries, Bool, Bytes, Fields, Int, IntOrText, Message, Text, Texts, Time};

pub const TEXT_ENTRY: &[Field] = &[one(1, "key", Text), one(2, "value", Text)];
pub const BINARY_ENTRY: &[Field] = &[one(1, "key", Text), one(2, "value", Bytes)];
pub const TIME: &[Field] = &[keep(1, "seconds", Int), one(2, "nanos", Int)];
pub const INT_OR_TEXT: &[Field] = &[keep(1, "type", Int), one(2, "intVal", Int), one(3, "strVal", Text)];
pub const FIELDS_V1: &[Field] = &[one(1, "Raw", Bytes)];
const TYPE_META: &[Field] = &[one(1, "apiVersion", Text), one(2, "kind", Text)];
pub const UNKNOWN: &[Field] = &[one(1, "typeMeta", Message(TYPE_META)), one(2, "raw", Bytes)];

const OWNER: &[Field] = &[
    one(1, "kind", Text),
    one(3, "name", Text),
    one(4, "uid", Text),
    one(5, "apiVersion", Text),
    keep(6, "controller", Bool),
    keep(7, "blockOwnerDeletion", Bool),
];
const MANAGED: &[Field] = &[
    one(1, "manager", Text),
    one(2, "operation", Text),
    one(3, "apiVersion", Text),
    one(4, "time", Time),
    one(6, "fieldsType", Text),
    one(7, "fieldsV1", Fields),
    one(8, "subresource", Text),
];
const META: Type = Message(&[
    one(1, "name", Text),
    one(2, "generateName", Text),
    one(3, "namespace", Text),
    one(4, "selfLink", Text),
    one(5, "uid", Text),
    one(6, "resourceVersion", Text),
    one(7, "generation", Int),
    one(8, "creationTimestamp", Time),
    one(9, "deletionTimestamp", Time),
    keep(10, "deletionGracePeriodSeconds", Int),
    one(11, "labels", Texts),
    one(12, "annotations", Texts),
    many(13, "ownerReferences", Message(OWNER)),
    many(14, "finalizers", Text),
    many(17, "managedFields", Message(MANAGED)),
]);
const CONDITION: Type = Message(&[
    one(1, "type", Text),
    one(2, "status", Text),
    one(3, "observedGeneration", Int),
    one(4, "lastTransitionTime", Time),
    one(5, "reason", Text),
    one(6, "message", Text),
]);
const REFERENCE: Type = Message(&[
    one(1, "kind", Text),
    one(2, "namespace", Text),
    one(3, "name", Text),
    one(4, "uid", Text),
    one(5, "apiVersion", Text),
    one(6, "resourceVersion", Text),
    one(7, "fieldPath", Text),
]);
const NAMED: Type = Message(&[one(1, "name", Text)]);

const NAMESPACE_CONDITION: &[Field] = &[
    one(1, "type", Text),
    one(2, "status", Text),
    one(4, "lastTransitionTime", Time),
    one(5, "reason", Text),
    one(6, "message", Text),
];
const NAMESPACE: &[Field] = &[
    one(1, "metadata", META),
    one(2, "spec", Message(&[many(1, "finalizers", Text)])),
    one(3, "status", Message(&[one(1, "phase", Text), many(2, "conditions", Message(NAMESPACE_CONDITION))])),
];

const PORT: &[Field] = &[
    one(1, "name", Text),
    one(2, "protocol", Text),
    one(3, "port", Int),
    one(4, "targetPort", IntOrText),
    one(5, "nodePort", Int),
    keep(6, "appProtocol", Text),
];
const AFFINITY: &[Field] = &[one(1, "clientIP", Message(&[keep(1, "timeoutSeconds", Int)]))];
const SERVICE_SPEC: &[Field] = &[
    many(1, "ports", Message(PORT)),
    one(2, "selector", Texts),
    one(3, "clusterIP", Text),
    one(4, "type", Text),
    many(5, "externalIPs", Text),
    one(7, "sessionAffinity", Text),
    one(8, "loadBalancerIP", Text),
    many(9, "loadBalancerSourceRanges", Text),
    one(10, "externalName", Text),
    one(11, "externalTrafficPolicy", Text),
    one(12, "healthCheckNodePort", Int),
    one(13, "publishNotReadyAddresses", Bool),
    one(14, "sessionAffinityConfig", Message(AFFINITY)),
    keep(17, "ipFamilyPolicy", Text),
    many(18, "clusterIPs", Text),
    many(19, "ipFamilies", Text),
    keep(20, "allocateLoadBalancerNodePorts", Bool),
    keep(21, "loadBalancerClass", Text),
    keep(22, "internalTrafficPolicy", Text),
    keep(23, "trafficDistribution", Text),
];
const PORT_STATUS: &[Field] = &[one(1, "port", Int), one(2, "protocol", Text), keep(3, "error", Text)];
const INGRESS: &[Field] =
    &[one(1, "ip", Text), one(2, "hostname", Text), keep(3, "ipMode", Text), many(4, "ports", Message(PORT_STATUS))];
const SERVICE: &[Field] = &[
    one(1, "metadata", META),
    one(2, "spec", Message(SERVICE_SPEC)),
    one(
        3,
        "status",
        Message(&[
            one(1, "loadBalancer", Message(&[many(1, "ingress", Message(INGRESS))])),
            many(2, "conditions", CONDITION),
        ]),
    ),
];
const SERVICE_ACCOUNT: &[Field] = &[
    one(1, "metadata", META),
    many(2, "secrets", REFERENCE),
    many(3, "imagePullSecrets", NAMED),
    keep(4, "automountServiceAccountToken", Bool),
];
const SECRET: &[Field] = &[
    one(1, "metadata", META),
    one(2, "data", Binaries),
    one(3, "type", Text),
    one(4, "stringData", Texts),
    keep(5, "immutable", Bool),
];
const CONFIG_MAP: &[Field] =
    &[one(1, "metadata", META), one(2, "data", Texts), one(3, "binaryData", Binaries), keep(4, "immutable", Bool)];
const EVENT: &[Field] = &[
    one(1, "metadata", META),
    one(2, "involvedObject", REFERENCE),
    one(3, "reason", Text),
    one(4, "message", Text),
    one(5, "source", Message(&[one(1, "component", Text), one(2, "host", Text)])),
    one(6, "firstTimestamp", Time),
    one(7, "lastTimestamp", Time),
    one(8, "count", Int),
    one(9, "type", Text),
    one(10, "eventTime", Time),
    one(11, "series", Message(&[one(1, "count", Int), one(2, "lastObservedTime", Time)])),
    one(12, "action", Text),
    one(13, "related", REFERENCE),
    one(14, "reportingComponent", Text),
    one(15, "reportingInstance", Text),
];

const ENDPOINT: &[Field] = &[
    many(1, "addresses", Text),
    one(2, "conditions", Message(&[keep(1, "ready", Bool), keep(2, "serving", Bool), keep(3, "terminating", Bool)])),
    keep(3, "hostname", Text),
    one(4, "targetRef", REFERENCE),
    one(5, "deprecatedTopology", Texts),
    keep(6, "nodeName", Text),
    keep(7, "zone", Text),
    one(8, "hints", Message(&[many(1, "forZones", NAMED), many(2, "forNodes", NAMED)])),
];
const ENDPOINT_PORT: &[Field] =
    &[keep(1, "name", Text), keep(2, "protocol", Text), keep(3, "port", Int), keep(4, "appProtocol", Text)];
const ENDPOINT_SLICE: &[Field] = &[
    one(1, "metadata", META),
    many(2, "endpoints", Message(ENDPOINT)),
    many(3, "ports", Message(ENDPOINT_PORT)),
    one(4, "addressType", Text),
];

const REQUIREMENT: &[Field] = &[one(1, "key", Text), one(2, "operator", Text), many(3, "values", Text)];
const SELECTOR: &[Field] = &[one(1, "matchLabels", Texts), many(2, "matchExpressions", Message(REQUIREMENT))];
const RULE: &[Field] = &[
    many(1, "verbs", Text),
    many(2, "apiGroups", Text),
    many(3, "resources", Text),
    many(4, "resourceNames", Text),
    many(5, "nonResourceURLs", Text),
];
const ROLE: &[Field] = &[
    one(1, "metadata", META),
    many(2, "rules", Message(RULE)),
    one(3, "aggregationRule", Message(&[many(1, "clusterRoleSelectors", Message(SELECTOR))])),
];
const SUBJECT: &[Field] =
    &[one(1, "kind", Text), one(2, "apiGroup", Text), one(3, "name", Text), one(4, "namespace", Text)];
const BINDING: &[Field] = &[
    one(1, "metadata", META),
    many(2, "subjects", Message(SUBJECT)),
    one(3, "roleRef", Message(&[one(1, "apiGroup", Text), one(2, "kind", Text), one(3, "name", Text)])),
];

const RESOURCE: &[Field] = &[
    one(1, "namespace", Text),
    one(2, "verb", Text),
    one(3, "group", Text),
    one(4, "version", Text),
    one(5, "resource", Text),
    one(6, "subresource", Text),
    one(7, "name", Text),
];
const PATH: &[Field] = &[one(1, "path", Text), one(2, "verb", Text)];
const ACCESS: &[Field] = &[
    one(1, "metadata", META),
    one(
        2,
        "spec",
        Message(&[
            one(1, "resourceAttributes", Message(RESOURCE)),
            one(2, "nonResourceAttributes", Message(PATH)),
            one(3, "user", Text),
            many(4, "groups", Text),
            one(6, "uid", Text),
        ]),
    ),
];
const OWN_ACCESS: &[Field] = &[
    one(1, "metadata", META),
    one(
        2,
        "spec",
        Message(&[one(1, "resourceAttributes", Message(RESOURCE)), one(2, "nonResourceAttributes", Message(PATH))]),
    ),
];
const OWN_RULES: &[Field] = &[one(1, "metadata", META), one(2, "spec", Message(&[one(1, "namespace", Text)]))];
const WHO: &[Field] = &[one(1, "metadata", META)];
const TOKEN_REVIEW: &[Field] =
    &[one(1, "metadata", META), one(2, "spec", Message(&[one(1, "token", Text), many(2, "audiences", Text)]))];
const BOUND: &[Field] = &[one(1, "kind", Text), one(2, "apiVersion", Text), one(3, "name", Text), one(4, "uid", Text)];
const TOKEN_REQUEST: &[Field] = &[
    one(1, "metadata", META),
    one(
        2,
        "spec",
        Message(&[
            many(1, "audiences", Text),
            one(3, "boundObjectRef", Message(BOUND)),
            keep(4, "expirationSeconds", Int),
        ]),
    ),
];

const DELETE_OPTIONS: &[Field] = &[
    keep(1, "gracePeriodSeconds", Int),
    one(2, "preconditions", Message(&[keep(1, "uid", Text), keep(2, "resourceVersion", Text)])),
    keep(3, "orphanDependents", Bool),
    keep(4, "propagationPolicy", Text),
    many(5, "dryRun", Text),
];

/// The fields of a kind.
pub fn fields(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (api_version, kind) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Service") => SERVICE,
        ("v1", "ServiceAccount") => SERVICE_ACCOUNT,
        ("v1", "Secret") => SECRET,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Event") => EVENT,
        ("discovery.k8s.io/v1", "EndpointSlice") => ENDPOINT_SLICE,
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        ("authorization.k8s.io/v1", "SubjectAccessReview" | "LocalSubjectAccessReview") => ACCESS,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => OWN_ACCESS,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => OWN_RULES,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => WHO,
        ("authentication.k8s.io/v1", "TokenReview") => TOKEN_REVIEW,
        ("authentication.k8s.io/v1", "TokenRequest") => TOKEN_REQUEST,
        // Every group has its own name for the same.
        (_, "DeleteOptions") => DELETE_OPTIONS,
        _ => return None,
    })
}
