//! Who may call: deny, then allow; audit rules only watch. By what is known of the connection at connect, and of the request for each
//! request. Fails closed: what cannot be decided narrows nothing and admits nothing. Nothing here terminates TLS, verifies a token or logs.
//!
//! The meaning is that of Istio's AuthorizationPolicy where the fields coincide. Where it differs, in doubt it denies:
//!
//! - A path with a second reading (dot segments, doubled slashes, backslashes, parameters, percent-encoding) is compared in both; Istio
//!   normalizes it before, by mesh-wide options. A pattern that has such a reading itself is refused.
//! - A header on several lines is compared line by line: a rule that denies needs one line, a rule that allows needs all. Istio joins them.
//! - Hosts are compared without the port unless the pattern has one, and a final dot does not count. Istio compares what was written.
//! - A namespace is one of the mesh's own trust domain. Istio reads it out of an identity of any.
//! - Numbers and truth values among the claims are compared as they are written in JSON. Istio compares texts only.
//! - A `*` inside a value is refused. Istio takes it literally.

mod facts;
mod path;
mod pattern;
mod rule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use facts::{Connection, Token};
use facts::{Facts, Stage};
pub use path::{PathPattern, Segment};
pub use pattern::{HostPattern, Pattern};
use rule::Stance;
pub use rule::{Rule, Subject, Test, Tests};

use crate::route::Request;

/// The compiled policies of one port.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    trust_domain: Arc<str>,
    /// Whether any rule looks at paths: only then their other readings matter.
    reads_paths: bool,
    /// Whether any rule looks at namespaces: only then identities are taken apart.
    reads_namespaces: bool,
    deny: Vec<Policy>,
    allow: Vec<Policy>,
    audit: Vec<Policy>,
}

/// One AuthorizationPolicy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Any suffices. Rules that can never hold on the port are left out.
    pub rules: Vec<Rule>,
}

/// Which rule of which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause<'p> {
    /// `namespace/name` of the policy.
    pub policy: &'p str,
    /// Place of the rule in its policy.
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
    /// Compiled policies of a port in that trust domain.
    pub fn new(trust_domain: Arc<str>, deny: Vec<Policy>, allow: Vec<Policy>, audit: Vec<Policy>) -> Self {
        let any =
            |reads: fn(&Rule) -> bool| [&deny, &allow, &audit].into_iter().flatten().flat_map(|p| &p.rules).any(reads);
        let (reads_paths, reads_namespaces) = (any(Rule::reads_paths), any(Rule::reads_namespaces));
        Policies { trust_domain, reads_paths, reads_namespaces, deny, allow, audit }
    }

    /// An HTTP connection, before its first request: denied only if every request on it would be.
    pub fn connection(&self, connection: &Connection<'_>) -> Decision<'_> {
        self.decide(connection, Stage::Connection, "", None)
    }

    /// An opaque connection. Of a rule that denies, what only a request has is ignored (it denies more); a rule that allows and asks for
    /// something of a request does not match.
    pub fn opaque(&self, connection: &Connection<'_>) -> Decision<'_> {
        self.decide(connection, Stage::Opaque, "", None)
    }

    /// A request, with the verified token that it brought. Where its path has another reading (dot segments, doubled slashes,
    /// backslashes, parameters, percent-encoding), a rule that denies or watches matches if either reading does, a rule that allows only if
    /// both do. Allocates only for such a path.
    pub fn request(&self, connection: &Connection<'_>, call: &dyn Request, token: Option<&dyn Token>) -> Decision<'_> {
        let path = call.path();
        let stage = Stage::Request(call, token);
        if !self.reads_paths || path::is_plain(path) {
            return self.decide(connection, stage, path, None);
        }
        self.decide(connection, stage, path, Some(&path::normalize(path)))
    }

    fn decide(&self, connection: &Connection<'_>, stage: Stage<'_>, path: &str, normal: Option<&str>) -> Decision<'_> {
        let namespace = connection.identity.filter(|_| self.reads_namespaces).and_then(|id| self.namespace(id));
        let facts = Facts { connection, namespace, stage };
        let suspects = |rule: &Rule| rule.holds(&facts, path, normal, Stance::Suspect);
        let admits = |rule: &Rule| rule.holds(&facts, path, normal, Stance::Admit);
        let verdict = match (first(&self.deny, suspects), self.allow.first()) {
            (Some(cause), _) => Verdict::Denied(cause),
            (None, None) => Verdict::Unrestricted,
            (None, Some(policy)) => match first(&self.allow, admits) {
                Some(cause) => Verdict::Allowed(cause),
                None => Verdict::NotAllowed { policy: &policy.name },
            },
        };
        Decision { verdict, audit: first(&self.audit, suspects) }
    }

    fn namespace<'i>(&self, identity: &'i str) -> Option<&'i str> {
        let (domain, namespace, _) = crate::config::identity_parts(identity)?;
        (*domain == *self.trust_domain).then_some(namespace)
    }
}

fn first(policies: &[Policy], matches: impl Fn(&Rule) -> bool) -> Option<Cause<'_>> {
    policies.iter().find_map(|policy| {
        let rule = policy.rules.iter().find(|rule| matches(rule))?;
        Some(Cause { policy: &policy.name, index: rule.index, rule: &rule.name })
    })
}
