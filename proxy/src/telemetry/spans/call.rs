//! What is kept of one traced call until its spans are sent: its own span and one for each attempt, in a record of bounded size.

use super::super::{Direction, Outcome};
use http::Method;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use weft_policy::trace::Context;

/// Longest text that a peer chose, in bytes.
pub const TEXT: usize = 1024;
/// Attempts of one call that are kept.
pub const ATTEMPTS: usize = 32;

/// One traced call that has ended.
#[derive(Debug)]
pub struct Call {
    /// Where its span stands in the trace.
    pub context: Context,
    /// Which way it went.
    pub direction: Direction,
    /// When its first byte came.
    pub began: SystemTime,
    /// "namespace/name" of the caller.
    pub source: Arc<str>,
    /// "namespace/name" of the service.
    pub destination: Arc<str>,
    /// "namespace/route[/rule]".
    pub route: Arc<str>,
    /// SPIFFE id of the caller.
    pub source_identity: Option<Arc<str>>,
    /// SPIFFE id of the endpoint.
    pub destination_identity: Option<Arc<str>>,
    /// `http1`, `http2`, `grpc`…
    pub protocol: &'static str,
    /// Of HTTP: `1.1`.
    pub version: &'static str,
    /// Request method.
    pub method: Method,
    /// As the caller wrote it, at most [`TEXT`].
    pub authority: Box<str>,
    /// Path and query without credentials, at most [`TEXT`].
    pub target: Box<str>,
    /// `x-request-id`.
    pub request_id: Box<str>,
    /// Address of the caller, of a call to the application.
    pub client: Option<IpAddr>,
    /// Whether the hop was mutually authenticated.
    pub mtls: bool,
    /// `allow` or `deny`; empty: nothing restricts the port.
    pub verdict: &'static str,
    /// "namespace/name" of the policy that let it in or kept it out.
    pub policy: Box<str>,
    /// Its rule.
    pub rule: Box<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The same for people.
    pub detail: Box<str>,
    /// Attempts to answer it, of a call of the application.
    pub attempts: Vec<Attempt>,
}

/// One attempt of a call, which the endpoint knows as its caller's span.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What the endpoint was told.
    pub span_id: u64,
    /// When it began, after the call.
    pub from: Duration,
    /// When it ended, after the call's beginning. `None`: with the call.
    pub until: Option<Duration>,
    /// Workload uid of the endpoint.
    pub endpoint: Arc<str>,
    /// Where that is.
    pub address: SocketAddr,
    /// HTTP status; 0: none.
    pub status: u16,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u16>,
    /// Label of what went wrong; empty: nothing.
    pub reason: &'static str,
}

impl Call {
    /// How many spans it makes.
    #[must_use]
    pub fn spans(&self) -> usize {
        1 + self.attempts.len()
    }

    /// What it occupies, shared names aside.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = [&self.authority, &self.target, &self.request_id, &self.policy, &self.rule, &self.detail];
        size_of::<Self>()
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + self.attempts.capacity() * size_of::<Attempt>()
    }
}

/// Text that a peer chose, as it may be kept: UTF-8, not longer than [`TEXT`].
#[must_use]
pub fn bounded(text: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(text);
    text[..text.floor_char_boundary(TEXT)].into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn call(target: &str) -> Call {
        let context = Context {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 7,
            parent_id: Some(3),
            sampled: Some(true),
            debug: false,
        };
        let attempt = |span_id, status, until| Attempt {
            span_id,
            from: Duration::from_millis(1),
            until,
            endpoint: "shop/catalog-1".into(),
            address: ([192, 0, 2, 7], 8080).into(),
            status,
            grpc_status: None,
            reason: "",
        };
        Call {
            context,
            direction: Direction::Outbound,
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            source: "shop/storefront".into(),
            destination: "shop/catalog".into(),
            route: "shop/catalog/rules[0]".into(),
            source_identity: Some("spiffe://weft.local/ns/shop/sa/storefront".into()),
            destination_identity: Some("spiffe://weft.local/ns/shop/sa/catalog".into()),
            protocol: "http1",
            version: "1.1",
            method: Method::GET,
            authority: "catalog.shop:8080".into(),
            target: bounded(target.as_bytes()),
            request_id: "7d3e".into(),
            client: None,
            mtls: true,
            verdict: "",
            policy: "".into(),
            rule: "".into(),
            outcome: Outcome { status: 200, duration: Duration::from_millis(5), attempts: 2, ..Outcome::default() },
            detail: "".into(),
            attempts: vec![attempt(8, 503, Some(Duration::from_millis(2))), attempt(9, 0, None)],
        }
    }

    #[test]
    fn what_a_peer_chose_is_bounded_and_is_text() {
        assert_eq!(&*bounded(b"/a\xff"), "/a\u{fffd}");
        let long = "ü".repeat(TEXT);
        assert!(bounded(long.as_bytes()).len() <= TEXT && bounded(long.as_bytes()).len() >= TEXT - 1);
    }
}
