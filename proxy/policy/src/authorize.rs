//! Who may call: deny, then allow; audit rules only watch. By peer identity and namespace at connect, by method and path for each request. Fails closed: what
//! cannot be decided narrows nothing and admits nothing. Nothing here terminates TLS or logs.

use std::sync::Arc;

/// The compiled policies of one port.
#[derive(Clone, Debug, Default)]
pub struct Policies {
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

impl Policies {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty() && self.audit.is_empty()
    }

    /// An HTTP connection, before its first request: denied only if every request on it would be. `peer` is the verified SPIFFE id.
    pub fn connection(&self, peer: Option<&str>) -> Decision<'_> {
        let _ = peer;
        unimplemented!()
    }

    /// An opaque connection. Of a DENY rule, methods and paths are ignored (it denies more); an ALLOW rule that has any does not match.
    pub fn opaque(&self, peer: Option<&str>) -> Decision<'_> {
        let _ = peer;
        unimplemented!()
    }

    /// A request. `path` is without query and as on the wire. Where it has another reading (dot segments, doubled slashes, percent-encoding), a DENY rule matches if either
    /// reading does, an ALLOW rule only if both do.
    pub fn request(&self, peer: Option<&str>, method: &str, path: &str) -> Decision<'_> {
        let _ = (peer, method, path);
        unimplemented!()
    }
}
