//! Decisions of policy, counted and put into words: who is refused reads which policy and rule ruling, and so do the metrics.

use super::Inbound;
use crate::error::{Kind, ProxyError};
use crate::exchange::{Peer, Ruling, Said};
use crate::telemetry::metrics::Counter;
use parking_lot::Mutex;
use std::sync::Arc;
use weft_certs::jwt::Reason;
use weft_policy::authorize::{Cause, Decision, Verdict};
use weft_policy::config::InboundPort;

/// Place of no rule: none allowed it.
const NO_RULE: usize = usize::MAX;

impl Inbound {
    /// Authorization before the first byte: of an opaque connection for good, of an HTTP one only if every request would be denied. What
    /// is admitted is counted when it is used: an opaque connection when it is dialled, calls each.
    pub(super) fn connect(&self, port: &Arc<InboundPort>, peer: &Peer, opaque: bool) -> Result<(), ProxyError> {
        let decision = connection(port, peer, opaque);
        if !decision.is_allowed() {
            self.count(port, peer, &decision, &Counted::default());
        }
        verdict(&decision, peer)?;
        match (&port.authentication, opaque) {
            (Some(authentication), true) => match &authentication.required_by {
                Some(policy) => {
                    self.count_token(port, peer, policy, Reason::Missing);
                    Err(refused(policy, Reason::Missing))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn count(&self, port: &Arc<InboundPort>, peer: &Peer, decision: &Decision<'_>, counted: &Counted) {
        let authz = &self.exchange.telemetry.authz;
        let resolve = |cause: &Cause<'_>, name| {
            let place;
            let rule = match (cause.rule, cause.index) {
                ("", NO_RULE) => "",
                ("", index) => {
                    place = index.to_string();
                    &place
                }
                (rule, _) => rule,
            };
            authz.with(&[&port.service, &peer.source, cause.policy, rule, name])
        };
        match decision.verdict {
            Verdict::Unrestricted => {}
            Verdict::Allowed(cause) => counted.increment(port, &cause, "allow", resolve),
            Verdict::Denied(cause) => counted.increment(port, &cause, "deny", resolve),
            Verdict::NotAllowed { policy } => {
                let cause = Cause { policy, index: NO_RULE, rule: "" };
                counted.increment(port, &cause, "deny", resolve);
            }
        }
        if let Some(cause) = decision.audit {
            resolve(&cause, "audit").increment();
        }
    }

    /// Counts a token that was refused, or missing.
    pub(super) fn count_token(&self, port: &InboundPort, peer: &Peer, policy: &str, reason: Reason) {
        let authz = &self.exchange.telemetry.authz;
        authz.with(&[&port.service, &peer.source, policy, "", reason.name()]).increment();
    }
}

/// The decision on a connection, before anything is said on it.
pub(super) fn connection<'p>(port: &'p InboundPort, peer: &Peer, opaque: bool) -> Decision<'p> {
    let (policies, connection) = (&port.authorization, peer.connection());
    if opaque { policies.opaque(&connection) } else { policies.connection(&connection) }
}

/// The counter of a connection's last decision: calls of one peer are mostly ruling by one rule.
#[derive(Default)]
pub(super) struct Counted(Mutex<Option<Last>>);

/// A port, the rule of it that ruling (the address of its policy's name, its place), what it ruling, and where that is counted.
type Last = (Arc<InboundPort>, (usize, usize), &'static str, Counter);

impl Counted {
    fn increment(
        &self,
        port: &Arc<InboundPort>,
        cause: &Cause<'_>,
        name: &'static str,
        resolve: impl FnOnce(&Cause<'_>, &'static str) -> Counter,
    ) {
        // Policies live in the port, which is kept: an equal address is an equal name.
        let rule = (cause.policy.as_ptr().addr(), cause.index);
        let mut last = self.0.lock();
        if let Some((known, of, as_name, counter)) = &*last
            && Arc::ptr_eq(known, port)
            && (*of, *as_name) == (rule, name)
        {
            return counter.increment();
        }
        let counter = resolve(cause, name);
        counter.increment();
        *last = Some((Arc::clone(port), rule, name, counter));
    }
}

/// What the access log says of a decision.
pub(super) fn ruling<'p>(port: &'p InboundPort, decision: &Decision<'p>) -> Ruling<'p> {
    let (verdict, policy, rule) = match decision.verdict {
        Verdict::Unrestricted => (Said::Nothing, "", ""),
        Verdict::Allowed(cause) => (Said::Allow, cause.policy, cause.rule),
        Verdict::Denied(cause) => (Said::Deny, cause.policy, cause.rule),
        Verdict::NotAllowed { policy } => (Said::Deny, policy, ""),
    };
    Ruling { verdict, policy, rule, service: Some(&port.service), shown: port.authorization_header }
}

pub(super) fn verdict(decision: &Decision<'_>, peer: &Peer) -> Result<(), ProxyError> {
    let who = peer.identity.as_deref().unwrap_or("a peer without a certificate");
    let why = match decision.verdict {
        Verdict::Unrestricted | Verdict::Allowed(_) => return Ok(()),
        Verdict::Denied(cause) if cause.rule.is_empty() => {
            format!("AuthorizationPolicy {} denies {who} (rule {})", cause.policy, cause.index)
        }
        Verdict::Denied(cause) => format!("AuthorizationPolicy {} denies {who} (rule {})", cause.policy, cause.rule),
        Verdict::NotAllowed { policy } => format!("no rule of AuthorizationPolicy {policy} allows {who}"),
    };
    Err(ProxyError::because(Kind::Denied, why))
}

/// A token that was refused, or missing. Says nothing of the token itself.
pub(super) fn refused(policy: &str, reason: Reason) -> ProxyError {
    match reason {
        Reason::Missing => {
            ProxyError::because(Kind::TokenMissing, format!("RequestAuthentication {policy} demands a token"))
        }
        reason => {
            let why = format!("RequestAuthentication {policy} refuses the token: {reason}");
            ProxyError::because(Kind::TokenRefused, why)
        }
    }
}
