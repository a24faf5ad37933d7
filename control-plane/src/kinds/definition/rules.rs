//! What the checks of [`check`](crate::kinds::check) say, said again for an API server: rules in CEL (`x-kubernetes-validations`) and
//! patterns.
//!
//! A rule's cost is estimated when the definition is created, as if every list and text were as long as its schema lets it be, and a rule of
//! more than ten million units is refused. Where lists stand in lists there is room for a pattern only, which costs nothing. Nothing here
//! needs more than an API server of Kubernetes 1.29 knows: there are no functions for addresses before 1.30.

use crate::kinds::{
    GROUP,
    check::{Reason, SPANS},
    registry::Kind,
};

/// One rule of CEL.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The field whose value is `self`, `spec.faults[].delay`; empty: the object.
    pub at: String,
    /// The expression.
    pub rule: String,
    /// What is said where it is false.
    pub message: String,
    /// Which field within `self` it is said of, `.fraction`; empty: `self`.
    pub field: &'static str,
    /// What kind of mistake it is: one of `Invalid`, `Required`, `Forbidden` and `Duplicate`, which are all that an API server knows here.
    pub reason: Reason,
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
/// RFC 9110 token.
const TOKEN: &str = "^[-A-Za-z0-9!#$%&'*+.^_`|~]+$";
const METHOD: &str = "^[-A-Z0-9!#$%&'*+.^_`|~]+$";
/// Slashes and RFC 3986 `pchar`.
const PATH: &str = "^([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+$";
/// What is not there once a path is normalised.
const DETOUR: &str = r"//|/\.\.?/|/\.\.?$|%2[fF]";
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
/// 1 to 65535.
const PORT: &str =
    "0*(6553[0-5]|655[0-2][0-9]|65[0-4][0-9][0-9]|6[0-4][0-9][0-9][0-9]|[1-5][0-9][0-9][0-9][0-9]|[1-9][0-9]{0,3})";
/// A value, one of its ends and `*`, or `*` alone.
const TEXT: &str = r"^(\*?[^*]+|[^*]+\*|\*)$";

fn subdomain() -> String {
    format!(r"{LABEL}(\.{LABEL})*")
}

fn v4() -> String {
    format!(r"{BYTE}(\.{BYTE}){{3}}")
}

/// As good as a regular expression can: that `::` comes once is said apart.
fn v6() -> String {
    format!("([0-9A-Fa-f]{{0,4}}:){{2,8}}([0-9A-Fa-f]{{0,4}}|{})", v4())
}

/// Patterns of texts, by field.
pub fn patterns(kind: &Kind) -> Vec<(&'static str, String)> {
    match kind.kind {
        "AuthorizationPolicy" => authorization_patterns(),
        "FederatedTrustDomain" => vec![("spec.trustDomain", "^[-a-z0-9._]+$".to_owned())],
        "RateLimitPolicy" => vec![("spec.limits[].name", format!("^{LABEL}$"))],
        "Workload" => vec![
            ("spec.serviceAccount", format!("^{}$", subdomain())),
            ("spec.trustDomain", "^[-a-z0-9._]+$".to_owned()),
            ("spec.services[]", format!("^{LABEL}$")),
            ("spec.ports[].name", format!("^{LABEL}$")),
        ],
        _ => Vec::new(),
    }
}

fn authorization_patterns() -> Vec<(&'static str, String)> {
    let identity = r"^(spiffe://[^*]*\*?|\*[^*]*)$".to_owned();
    let namespace = r"^(\*?[-a-z0-9]+|[-a-z0-9]+\*|\*)$".to_owned();
    let account = format!("^({LABEL}/)?{}$", subdomain());
    let block = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$".to_owned();
    let host = r"^[-A-Za-z0-9._*:\[\]]+$".to_owned();
    let path = r"^[/*][^?#]*$".to_owned();
    let named = r"request\.headers\[[^\[\]]+\]";
    let of_token = r"request\.auth\.(principal|audiences|presenter|claims(\[[^\[\]]+\])+)";
    let plain = r"source\.(ip|namespace|principal)|destination\.port|connection\.sni";
    let key = format!("^({plain}|{named}|{of_token})$");
    vec![
        ("spec.rules[].from[].identities[]", identity.clone()),
        ("spec.rules[].from[].notIdentities[]", identity),
        ("spec.rules[].from[].namespaces[]", namespace.clone()),
        ("spec.rules[].from[].notNamespaces[]", namespace),
        ("spec.rules[].from[].serviceAccounts[]", account.clone()),
        ("spec.rules[].from[].notServiceAccounts[]", account),
        ("spec.rules[].from[].ipBlocks[]", block.clone()),
        ("spec.rules[].from[].notIpBlocks[]", block),
        ("spec.rules[].from[].requestPrincipals[]", TEXT.to_owned()),
        ("spec.rules[].from[].notRequestPrincipals[]", TEXT.to_owned()),
        ("spec.rules[].to[].hosts[]", host.clone()),
        ("spec.rules[].to[].notHosts[]", host),
        ("spec.rules[].to[].methods[]", TOKEN.to_owned()),
        ("spec.rules[].to[].notMethods[]", TOKEN.to_owned()),
        ("spec.rules[].to[].paths[]", path.clone()),
        ("spec.rules[].to[].notPaths[]", path),
        ("spec.rules[].when[].key", key),
        ("spec.rules[].when[].values[]", TEXT.to_owned()),
        ("spec.rules[].when[].notValues[]", TEXT.to_owned()),
    ]
}

/// The rules of a kind.
pub fn of(kind: &Kind) -> Vec<Rule> {
    let workloads = &["Service", "Workload"];
    let mut rules = Rules::default();
    match kind.kind {
        "AuthorizationPolicy" => {
            rules.targets_or_selector(workloads);
            let one =
                "(has(self.values) && self.values.size() > 0) || (has(self.notValues) && self.notValues.size() > 0)";
            let why = "must name at least one value, or notValues must";
            rules.add("spec.rules[].when[]", one, why, ".values", Reason::Required);
        }
        "FederatedTrustDomain" => {
            let pem = "self.contains('-----BEGIN CERTIFICATE-----')";
            rules.invalid("spec.roots", pem, "must hold certificates in PEM");
        }
        "MeshSettings" => rules.mesh_settings(),
        "MeshTLS" => rules.targets_or_selector(workloads),
        "RateLimitPolicy" => rules.rate_limit_policy(workloads),
        "RequestAuthentication" => rules.request_authentication(workloads),
        "TrafficPolicy" => rules.traffic_policy(),
        "Workload" => rules.workload(),
        _ => {}
    }
    rules.0
}

/// Of a kind whose name becomes a part of a host name.
pub(super) fn label_name() -> Rule {
    let rule = "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')";
    let message = "the name must be lower-case letters, digits and inner '-', at most 63";
    Rule { at: String::new(), rule: rule.into(), message: message.into(), field: "", reason: Reason::Invalid }
}

/// A regular expression as a literal of CEL.
fn raw(regex: &str) -> String {
    format!("r\"{regex}\"")
}

fn matches(regex: &str) -> String {
    format!("self.matches({})", raw(regex))
}

#[derive(Default)]
struct Rules(Vec<Rule>);

impl Rules {
    fn add(&mut self, at: &str, rule: impl Into<String>, why: impl Into<String>, field: &'static str, reason: Reason) {
        self.0.push(Rule { at: at.to_owned(), rule: rule.into(), message: why.into(), field, reason });
    }

    fn invalid(&mut self, at: &str, rule: impl Into<String>, why: impl Into<String>) {
        self.add(at, rule, why, "", Reason::Invalid);
    }

    /// A duration between two others.
    fn within(&mut self, at: &str, least: &str, most: &str) {
        let rule = format!("duration(self) >= duration('{least}') && duration(self) <= duration('{most}')");
        self.invalid(at, rule, format!("must be between {least} and {most}"));
    }

    /// One duration is at most another of the same object, where both are given.
    fn at_most(&mut self, at: &str, field: &'static str, other: &str) {
        let name = field.trim_start_matches('.');
        let rule =
            format!("!has(self.{name}) || !has(self.{other}) || duration(self.{name}) <= duration(self.{other})");
        self.add(at, rule, format!("must not exceed {other}"), field, Reason::Invalid);
    }

    fn one_of(&mut self, at: &str, fields: &[&str]) {
        let given: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
        let rule = format!("[{}].exists_one(given, given)", given.join(", "));
        self.invalid(at, rule, format!("exactly one of {} must be given", fields.join(", ")));
    }

    fn only_true(&mut self, at: &str) {
        self.invalid(at, "self", "is true or absent");
    }

    fn unique(&mut self, at: &str) {
        let rule = "self.all(one, self.exists_one(other, one == other))";
        self.add(at, rule, "no two entries may be the same", "", Reason::Duplicate);
    }

    fn token(&mut self, at: &str) {
        self.invalid(at, matches(TOKEN), "must be a token as RFC 9110 defines it, such as \"x-user\"");
    }

    fn targets(&mut self, known: &[&str]) {
        let each = known.iter().map(|kind| match *kind {
            "Service" => "(self.kind == 'Service' && (!has(self.group) || self.group == ''))".to_owned(),
            own => format!("(self.kind == '{own}' && has(self.group) && self.group == '{GROUP}')"),
        });
        let named: Vec<String> = known
            .iter()
            .map(|kind| if *kind == "Service" { (*kind).to_owned() } else { format!("{kind} of group {GROUP}") })
            .collect();
        let rule = each.collect::<Vec<_>>().join(" || ");
        self.add("spec.targetRefs[]", rule, format!("must be {}", named.join(" or ")), ".kind", Reason::Invalid);
        self.unique("spec.targetRefs");
    }

    fn targets_or_selector(&mut self, known: &[&str]) {
        self.targets(known);
        let either = "!has(self.selector) || !has(self.targetRefs) || self.targetRefs.size() == 0";
        self.add("spec", either, "may not be given together with targetRefs", ".selector", Reason::Forbidden);
        let at = "spec.selector.matchExpressions[]";
        let known = "self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']";
        self.add(at, known, "must be In, NotIn, Exists or DoesNotExist", ".operator", Reason::Invalid);
        let some = "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)";
        self.add(at, some, "must name at least one value", ".values", Reason::Required);
        let none = "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0";
        self.add(at, none, "may not be given for this operator", ".values", Reason::Forbidden);
    }

    fn request_authentication(&mut self, known: &[&str]) {
        self.targets_or_selector(known);
        let one = "has(self.jwks) != has(self.jwksUri)";
        self.add("spec.rules[]", one, "either this or jwks says which keys sign", ".jwksUri", Reason::Invalid);
        let local = r"(localhost|127(\.[0-9]+){3}|\[[0-9A-Fa-f:.]+\])";
        let uri = format!("(?i)^(https://[^/?#@]+|http://{local}(:[0-9]*)?)([/?][^#]*)?$");
        let why = "must be an address such as \"https://id.example.com/jwks.json\" (http:// on loopback only)";
        self.invalid("spec.rules[].jwksUri", matches(&uri), why);
    }

    fn mesh_settings(&mut self) {
        let name = "self.metadata.name == 'default'";
        self.invalid("", name, "the name must be \"default\": the mesh has one MeshSettings");
        self.within("spec.rollout.duration", "5s", "24h");
        self.unique("spec.rollout.kinds");
        self.unique("spec.tracing.propagation");
        let uri = format!("self.endpoint.matches({})", raw("(?i)^https?://[^/?#@]+(/[^?#]*)?(#.*)?$"));
        let why = "must be an endpoint such as \"http://192.0.2.7:4317\"";
        self.add("spec.tracing", uri, why, ".endpoint", Reason::Invalid);
        let path = raw("(?i)^https?://[^/?#@]+/*(#.*)?$");
        let grpc = format!("(has(self.protocol) && self.protocol == 'Http') || self.endpoint.matches({path})");
        self.add("spec.tracing", grpc, "has a path, which gRPC has no use for", ".endpoint", Reason::Invalid);
    }

    fn traffic_policy(&mut self) {
        self.targets(&["Service"]);
        for (section, field, least, most) in SPANS {
            self.within(&format!("spec.{section}.{field}"), least, most);
        }
        self.at_most("spec.circuitBreaker", ".baseOpen", "maxOpen");
        let why = "must be an HTTP method in capitals, such as \"POST\"";
        self.invalid("spec.retry.methods[]", matches(METHOD), why);
        let whole = "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || \
                     duration(self.backendRequest) <= duration(self.request)";
        self.add("spec.timeouts", whole, "must not exceed request", ".backendRequest", Reason::Invalid);
        self.load_balancer();
        self.health_check();
        self.faults();
        self.fallback();
        let bounds = "!has(self.minRequests) || !has(self.maxRequests) || self.minRequests <= self.maxRequests";
        self.add("spec.adaptiveConcurrency", bounds, "must not exceed maxRequests", ".minRequests", Reason::Invalid);
    }

    fn load_balancer(&mut self) {
        let hashes = "(has(self.policy) && self.policy in ['RingHash', 'Maglev'])";
        let keys = "(has(self.hash) && self.hash.size() > 0)";
        let at = "spec.loadBalancer";
        let why = "policies RingHash and Maglev need something to hash";
        self.add(at, format!("!{hashes} || {keys}"), why, ".hash", Reason::Required);
        let why = "only policies RingHash and Maglev hash";
        self.add(at, format!("{hashes} || !{keys}"), why, ".hash", Reason::Forbidden);
        self.one_of("spec.loadBalancer.hash[]", &["header", "cookie", "sourceAddress"]);
        self.token("spec.loadBalancer.hash[].header");
        self.token("spec.loadBalancer.hash[].cookie");
        self.only_true("spec.loadBalancer.hash[].sourceAddress");
        self.unique("spec.loadBalancer.hash");
    }

    fn health_check(&mut self) {
        let at = "spec.healthCheck";
        self.one_of(at, &["http", "grpc", "tcp"]);
        let why = "must start with '/' and have neither spaces nor '#'";
        self.invalid("spec.healthCheck.http.path", matches(r"^/[^\x00-\x20\x7f#]*$"), why);
        let host = format!(r"^({}|\[?{}\]?)(:{PORT}|:0+)?$", subdomain(), v6());
        self.invalid("spec.healthCheck.http.host", matches(&host), "must be a host name, with a port or without");
        self.at_most(at, ".timeout", "interval");
    }

    fn faults(&mut self) {
        self.http_matches("spec.faults[]");
        let some = "has(self.delay) || has(self.abort)";
        self.add("spec.faults[]", some, "delay, abort or both must be given", "", Reason::Required);
        self.within("spec.faults[].delay.fixed", "1ms", "1h");
        for part in ["spec.faults[].delay", "spec.faults[].abort"] {
            let either = "!has(self.percent) || !has(self.fraction)";
            self.add(part, either, "percent and fraction exclude each other", "", Reason::Forbidden);
            let whole = "self.numerator <= (has(self.denominator) ? self.denominator : 100)";
            self.invalid(&format!("{part}.fraction"), whole, "numerator may not be greater than denominator");
        }
    }

    /// The paths of matches borrowed from an HTTPRoute. Whether a regular expression can be read, the control plane says.
    fn http_matches(&mut self, at: &str) {
        let at = format!("{at}.matches[].path");
        let other = "(has(self.type) && self.type == 'RegularExpression') || !has(self.value)";
        let path = format!("{other} || (self.value.startsWith('/') && self.value.matches({}))", raw(PATH));
        let why = "must be a path as RFC 3986 writes it: it starts with '/', and other characters are percent-encoded";
        self.add(&at, path, why, ".value", Reason::Invalid);
        let normal = format!("{other} || !self.value.matches({})", raw(DETOUR));
        let why = "must not contain '//', '/./', '/../' or '%2f': paths are compared once they are normalised";
        self.add(&at, normal, why, ".value", Reason::Invalid);
    }

    fn fallback(&mut self) {
        self.one_of("spec.fallback", &["backendRef", "response"]);
        let media = format!("self.contains('/') && {}", matches("^[!-~]([ -~]*[!-~])?$"));
        let why = "must be a media type, such as \"application/json\"";
        self.invalid("spec.fallback.response.contentType", media, why);
        let none = "!(self.status in [204, 205, 304]) || !has(self.body) || self.body == ''";
        let why = "a response of status 204, 205 or 304 has none (RFC 9110 section 15)";
        self.add("spec.fallback.response", none, why, ".body", Reason::Forbidden);
        let bytes = "bytes(self).size() <= 65536";
        self.invalid("spec.fallback.response.body", bytes, "may not have more than 65536 bytes");
    }

    fn rate_limit_policy(&mut self, known: &[&str]) {
        self.targets(known);
        self.http_matches("spec.limits[]");
        self.within("spec.limits[].per", "1s", "24h");
        self.one_of("spec.limits[].keys[]", &["identity", "header", "method"]);
        self.token("spec.limits[].keys[].header");
        self.only_true("spec.limits[].keys[].identity");
        self.only_true("spec.limits[].keys[].method");
        self.unique("spec.limits[].keys");
    }

    fn workload(&mut self) {
        let one = format!("{} && !{}", matches(&format!("^({}|{})$", v4(), v6())), matches(":::|::.*::"));
        // Neither unspecified nor multicast.
        let own = matches(r"^(0\.0\.0\.0|::|2(2[4-9]|3[0-9])\..*|[fF][fF][0-9A-Fa-f][0-9A-Fa-f]:.*)$");
        let why = "must be the IP address at which peers reach it, such as \"192.0.2.7\"";
        self.invalid("spec.address", format!("{one} && !{own}"), why);
        let at = format!(r"^({}|\[{}(%[0-9]+)?\]):{PORT}$", v4(), v6());
        let socket = format!("{} && !{}", matches(&at), matches(r":::|::.*::|^(0\.0\.0\.0|\[::\]):"));
        let why = "must be <ip>:<port>, such as \"192.0.2.7:15008\" or \"[2001:db8::7]:15008\"";
        self.invalid("spec.tunnel", socket.as_str(), why);
        self.invalid("spec.ports[].local", socket, why);
        let named =
            "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && one.name == other.name))";
        self.add("spec.ports", named, "no two ports may have the same name", "", Reason::Duplicate);
    }
}
