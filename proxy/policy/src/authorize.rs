//! Who may call: deny, then allow; audit rules only watch. By peer identity and namespace at connect, by method and
//! path for each request. Fails closed: what cannot be decided narrows nothing and admits nothing. Nothing here
//! terminates TLS or logs.

use std::sync::Arc;

/// The compiled policies of one port.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    trust_domain: Arc<str>,
    /// Whether any rule looks at paths: only then their other readings matter.
    reads_paths: bool,
    deny: Vec<Policy>,
    allow: Vec<Policy>,
    audit: Vec<Policy>,
}

/// One AuthorizationPolicy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Any suffices.
    pub rules: Vec<Rule>,
}

/// One rule of a policy; empty lists hold for everyone.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Name; may be empty.
    pub name: Arc<str>,
    /// SPIFFE ids.
    pub identities: Vec<Pattern>,
    /// Namespaces of the mesh's own trust domain.
    pub namespaces: Vec<Box<str>>,
    /// Methods.
    pub methods: Vec<Box<str>>,
    /// Paths.
    pub paths: Vec<Pattern>,
}

/// Exact, or with a trailing `*` a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Equal.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
}

/// Which rule of which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause<'p> {
    /// `namespace/name` of the policy.
    pub policy: &'p str,
    /// Index of the rule.
    pub index: usize,
    /// Name of the rule; may be empty.
    pub rule: &'p str,
}

/// Whether a call or connection is admitted, and what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// The verdict.
    pub verdict: Verdict<'p>,
    /// The first audit rule that matched.
    pub audit: Option<Cause<'p>>,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'p> {
    /// No policy restricts the port.
    Unrestricted,
    /// This rule allows it.
    Allowed(Cause<'p>),
    /// This rule denies it.
    Denied(Cause<'p>),
    /// ALLOW policies exist (this is the first) and none allows it.
    NotAllowed {
        /// `namespace/name` of the first ALLOW policy.
        policy: &'p str,
    },
}

impl Decision<'_> {
    /// Whether it is admitted.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Unrestricted | Verdict::Allowed(_))
    }
}

/// What is asked of the policies.
#[derive(Clone, Copy)]
enum Question<'q> {
    Connection,
    Opaque,
    Request { method: &'q str, path: &'q str, normal: Option<&'q str> },
}

impl Policies {
    /// Compiled policies of a port in that trust domain.
    pub fn new(trust_domain: Arc<str>, deny: Vec<Policy>, allow: Vec<Policy>, audit: Vec<Policy>) -> Self {
        let reads_paths =
            [&deny, &allow, &audit].into_iter().flatten().flat_map(|p| &p.rules).any(|r| !r.paths.is_empty());
        Policies { trust_domain, deny, allow, audit, reads_paths }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty() && self.audit.is_empty()
    }

    /// An HTTP connection, before its first request: denied only if every request on it would be. `peer` is the
    /// verified SPIFFE id.
    pub fn connection(&self, peer: Option<&str>) -> Decision<'_> {
        self.decide(peer, Question::Connection)
    }

    /// An opaque connection. Of a DENY rule, methods and paths are ignored (it denies more); an ALLOW rule that has any
    /// does not match.
    pub fn opaque(&self, peer: Option<&str>) -> Decision<'_> {
        self.decide(peer, Question::Opaque)
    }

    /// A request. `path` is without query and as on the wire. Where it has another reading (dot segments, doubled
    /// slashes, backslashes, percent-encoding), a DENY or audit rule matches if either reading does, an ALLOW rule only
    /// if both do. Allocates only for such a path.
    pub fn request(&self, peer: Option<&str>, method: &str, path: &str) -> Decision<'_> {
        if !self.reads_paths || is_plain(path) {
            return self.decide(peer, Question::Request { method, path, normal: None });
        }
        let normal = normalize(path);
        self.decide(peer, Question::Request { method, path, normal: Some(&normal) })
    }

    fn decide(&self, peer: Option<&str>, question: Question<'_>) -> Decision<'_> {
        if self.is_empty() {
            return Decision { verdict: Verdict::Unrestricted, audit: None };
        }
        let caller = Caller::new(peer, &self.trust_domain);
        let audit = first(&self.audit, |rule| caller.meets(rule) && rule.suspects(question));
        let denied = first(&self.deny, |rule| caller.meets(rule) && rule.suspects(question));
        let verdict = match (denied, self.allow.first()) {
            (Some(cause), _) => Verdict::Denied(cause),
            (None, None) => Verdict::Unrestricted,
            (None, Some(policy)) => match first(&self.allow, |rule| caller.meets(rule) && rule.admits(question)) {
                Some(cause) => Verdict::Allowed(cause),
                None => Verdict::NotAllowed { policy: &policy.name },
            },
        };
        Decision { verdict, audit }
    }
}

fn first(policies: &[Policy], matches: impl Fn(&Rule) -> bool) -> Option<Cause<'_>> {
    policies.iter().find_map(|policy| {
        let (index, rule) = policy.rules.iter().enumerate().find(|(_, rule)| matches(rule))?;
        Some(Cause { policy: &policy.name, index, rule: &rule.name })
    })
}

/// Who asks: nobody known (plaintext), or a verified identity.
#[derive(Clone, Copy)]
struct Caller<'c> {
    identity: Option<&'c str>,
    /// Only of the mesh's own trust domain: another mesh may call its namespaces what it likes.
    namespace: Option<&'c str>,
}

impl<'c> Caller<'c> {
    fn new(identity: Option<&'c str>, trust_domain: &str) -> Self {
        let namespace = identity
            .and_then(crate::config::identity_parts)
            .filter(|(domain, _, _)| *domain == trust_domain)
            .map(|(_, namespace, _)| namespace);
        Caller { identity, namespace }
    }

    fn meets(self, rule: &Rule) -> bool {
        (rule.identities.is_empty() || self.identity.is_some_and(|id| rule.identities.iter().any(|p| p.holds(id))))
            && (rule.namespaces.is_empty()
                || self.namespace.is_some_and(|ns| rule.namespaces.iter().any(|n| **n == *ns)))
    }
}

impl Rule {
    fn reads_requests(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }

    fn takes_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| **m == *method)
    }

    fn takes_path(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|p| p.holds(path))
    }

    /// Whether a rule that denies or watches holds: in doubt it does.
    fn suspects(&self, question: Question<'_>) -> bool {
        match question {
            Question::Connection => !self.reads_requests(),
            Question::Opaque => true,
            Question::Request { method, path, normal } => {
                self.takes_method(method) && (self.takes_path(path) || normal.is_some_and(|n| self.takes_path(n)))
            }
        }
    }

    /// Whether a rule that allows holds: in doubt it does not.
    fn admits(&self, question: Question<'_>) -> bool {
        match question {
            Question::Connection => true,
            Question::Opaque => !self.reads_requests(),
            Question::Request { method, path, normal } => {
                self.takes_method(method) && self.takes_path(path) && normal.is_none_or(|n| self.takes_path(n))
            }
        }
    }
}

impl Pattern {
    /// Whether the text matches.
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(exact) => **exact == *text,
            Pattern::Prefix(prefix) => text.starts_with(&**prefix),
        }
    }
}

/// Whether a path has no reading but its own.
fn is_plain(path: &str) -> bool {
    let suspicious = path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';'));
    !suspicious && !path.contains("//") && !path.contains("/.")
}

/// Whether the literal part of a pattern is what [`normalize`] leaves of a path: otherwise no normal path would ever
/// begin with it.
pub(crate) fn is_normal(literal: &str) -> bool {
    literal.is_empty() || is_plain(literal) || normalize(literal) == literal
}

/// The path as an application might read it: percent-decoded once, backslashes as slashes, path parameters dropped, dot
/// segments resolved (RFC 3986 §5.2.4), slashes merged.
fn normalize(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escape = match (byte, tail) {
            (b'%', [high, low, ..]) => nibble(*high).zip(nibble(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        rest = if escape.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
        bytes.push(match escape.unwrap_or(*byte) {
            b'\\' => b'/',
            byte => byte,
        });
    }
    let decoded = String::from_utf8_lossy(&bytes);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() || decoded.ends_with('/') {
        normal.push('/');
    }
    normal
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CART: &str = "spiffe://weft.local/ns/shop/sa/cart";
    const SPY: &str = "spiffe://other.local/ns/shop/sa/cart";

    fn policy(name: &str, rule: Rule) -> Policy {
        Policy { name: name.into(), rules: vec![Rule { name: "r".into(), ..rule }] }
    }

    fn policies(deny: Vec<Policy>, allow: Vec<Policy>) -> Policies {
        Policies::new("weft.local".into(), deny, allow, Vec::new())
    }

    fn paths(patterns: &[&str]) -> Vec<Pattern> {
        let pattern = |p: &&str| match p.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.into()),
            None => Pattern::Exact((*p).into()),
        };
        patterns.iter().map(pattern).collect()
    }

    #[test]
    fn without_policies_everyone_is_admitted() {
        assert_eq!(Policies::default().request(None, "GET", "/").verdict, Verdict::Unrestricted);
    }

    #[test]
    fn deny_comes_before_allow_and_the_rule_is_named() {
        let all = policies(
            vec![policy("shop/no-delete", Rule { methods: vec!["DELETE".into()], ..Rule::default() })],
            vec![policy("shop/cart", Rule { identities: paths(&[CART]), ..Rule::default() })],
        );
        let cause = |policy| Cause { policy, index: 0, rule: "r" };
        assert_eq!(all.request(Some(CART), "GET", "/").verdict, Verdict::Allowed(cause("shop/cart")));
        assert_eq!(all.request(Some(CART), "DELETE", "/").verdict, Verdict::Denied(cause("shop/no-delete")));
        assert_eq!(all.request(Some(SPY), "GET", "/").verdict, Verdict::NotAllowed { policy: "shop/cart" });
        assert!(!all.request(None, "GET", "/").is_allowed());
    }

    #[test]
    fn an_allow_policy_without_rules_denies_all_and_a_deny_policy_without_rules_denies_nothing() {
        let empty = || Policy { name: "shop/none".into(), rules: Vec::new() };
        assert!(!policies(Vec::new(), vec![empty()]).request(Some(CART), "GET", "/").is_allowed());
        assert!(policies(vec![empty()], Vec::new()).request(Some(CART), "GET", "/").is_allowed());
    }

    #[test]
    fn a_rule_without_conditions_holds_for_the_anonymous_too() {
        assert!(policies(Vec::new(), vec![policy("shop/any", Rule::default())]).opaque(None).is_allowed());
        let known = Rule { identities: vec![Pattern::Prefix("".into())], ..Rule::default() };
        let known = policies(Vec::new(), vec![policy("shop/known", known)]);
        assert!(known.opaque(Some(CART)).is_allowed());
        assert!(!known.opaque(None).is_allowed());
    }

    #[test]
    fn a_namespace_of_another_trust_domain_is_another_namespace() {
        let rule = Rule { namespaces: vec!["shop".into()], ..Rule::default() };
        let shop = policies(Vec::new(), vec![policy("shop/own", rule)]);
        assert!(shop.request(Some(CART), "GET", "/").is_allowed());
        assert!(!shop.request(Some(SPY), "GET", "/").is_allowed());
        assert!(!shop.request(Some("spiffe://weft.local/ns/shop"), "GET", "/").is_allowed());
    }

    #[test]
    fn opaque_bytes_meet_deny_rules_in_full_and_allow_rules_about_requests_never() {
        let rule = || Rule { methods: vec!["GET".into()], ..Rule::default() };
        assert!(!policies(vec![policy("shop/d", rule())], Vec::new()).opaque(Some(CART)).is_allowed());
        assert!(!policies(Vec::new(), vec![policy("shop/a", rule())]).opaque(Some(CART)).is_allowed());
    }

    #[test]
    fn a_connection_is_refused_only_when_every_request_would_be() {
        let get = || Rule { identities: paths(&[CART]), methods: vec!["GET".into()], ..Rule::default() };
        assert!(policies(vec![policy("shop/d", get())], Vec::new()).connection(Some(CART)).is_allowed());
        let allow = policies(Vec::new(), vec![policy("shop/a", get())]);
        assert!(allow.connection(Some(CART)).is_allowed());
        assert!(!allow.connection(Some(SPY)).is_allowed());
        let all = policies(vec![policy("shop/d", Rule { identities: paths(&[CART]), ..Rule::default() })], Vec::new());
        assert!(!all.connection(Some(CART)).is_allowed());
    }

    #[test]
    fn audit_rules_watch_without_deciding() {
        let audit = vec![policy("shop/watch", Rule { paths: paths(&["/admin*"]), ..Rule::default() })];
        let all = Policies::new("weft.local".into(), Vec::new(), Vec::new(), audit);
        let decision = all.request(Some(CART), "GET", "/admin/x");
        assert_eq!(decision.verdict, Verdict::Unrestricted);
        assert_eq!(decision.audit.map(|cause| cause.policy), Some("shop/watch"));
        assert_eq!(all.request(Some(CART), "GET", "/").audit, None);
    }

    #[test]
    fn a_path_in_disguise_is_denied_and_not_allowed() {
        let deny = policies(vec![policy("shop/d", Rule { paths: paths(&["/admin*"]), ..Rule::default() })], Vec::new());
        let allow =
            policies(Vec::new(), vec![policy("shop/a", Rule { paths: paths(&["/public/*"]), ..Rule::default() })]);
        for path in [
            "/public/../admin",
            "/public/%2e%2e/admin",
            "//admin",
            "/%61dmin",
            "/public\\..\\admin",
            "/./admin",
            "/public/..;/admin",
            "/public/x/../../admin/",
            "/public/..%2fadmin",
        ] {
            assert!(!deny.request(Some(CART), "GET", path).is_allowed(), "{path}");
            assert!(!allow.request(Some(CART), "GET", path).is_allowed(), "{path}");
        }
        for path in ["/public/a%20b", "/public/x/../y", "/public/..a", "/public//z", "/public/p;v=1"] {
            assert!(deny.request(Some(CART), "GET", path).is_allowed(), "{path}");
            assert!(allow.request(Some(CART), "GET", path).is_allowed(), "{path}");
        }
    }

    #[test]
    fn normal_forms_resolve_dots_merge_slashes_and_decode_once() {
        for (path, normal) in [
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("//a///b/", "/a/b/"),
            ("/%2525", "/%25"),
            ("/a%2Fb", "/a/b"),
            ("/%zz", "/%zz"),
            ("", "/"),
        ] {
            assert_eq!(normalize(path), normal, "{path}");
        }
    }
}
