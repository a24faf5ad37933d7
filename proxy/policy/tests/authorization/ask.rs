//! A question, as values; how it is put to compiled policies, and the answer as a text.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::net::IpAddr;
use weft_policy::authorize::{Cause, Connection, Policies, Token, Verdict};
use weft_policy::config::{Inbound, Refusal};
use weft_policy::route::Head;
use weft_proto::v1;

/// The mesh's own.
pub const TRUST_DOMAIN: &str = "weft.local";

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub identity: Option<String>,
    pub address: Option<IpAddr>,
    pub server_name: Option<String>,
    pub what: What,
}

/// About what.
#[derive(Clone, Debug, Default)]
pub enum What {
    #[default]
    Opaque,
    Connection,
    Request {
        method: String,
        path: String,
        /// Lower-case names; `host` is one of them.
        headers: Vec<(String, String)>,
        claims: Option<Value>,
    },
}

/// `allow shop/a#0`, `deny shop/d#1`, `not-allowed shop/a`, `unrestricted`; and the audit rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub verdict: String,
    pub audit: Option<String>,
}

/// The claims of a token, as their JSON.
pub struct Claims {
    claims: Value,
    principal: Option<String>,
}

impl Claims {
    pub fn new(claims: Value) -> Self {
        let text = |name: &str| claims[name].as_str().filter(|text| !text.is_empty());
        let principal = text("iss").zip(text("sub")).map(|(iss, sub)| format!("{iss}/{sub}"));
        Self { claims, principal }
    }
}

impl Token for Claims {
    fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    fn any_claim(&self, path: &[Box<str>], test: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut at = &self.claims;
        for name in path {
            at = &at[&**name];
        }
        let mut one = |value: &Value| match value {
            Value::String(text) => test(text),
            Value::Bool(_) | Value::Number(_) => test(&value.to_string()),
            _ => false,
        };
        match at {
            Value::Array(list) => list.iter().any(&mut one),
            value => one(value),
        }
    }
}

/// The policies of one port.
pub fn compiled(wire: &[v1::Authorization], port: u16) -> Result<Policies, Refusal> {
    let port = v1::InboundPort {
        port: port.into(),
        local: "127.0.0.1:80".into(),
        authorization: wire.to_vec(),
        ..Default::default()
    };
    let identity = format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders");
    let wire = v1::Inbound { workload: "shop/orders-1".into(), identity, ports: vec![port], ..Default::default() };
    Inbound::from_wire(&wire).map(|inbound| inbound.ports[0].authorization.clone())
}

impl Ask {
    /// Asks the policies.
    pub fn put(&self, policies: &Policies) -> Answer {
        let connection = Connection {
            identity: self.identity.as_deref(),
            address: self.address,
            server_name: self.server_name.as_deref(),
        };
        let decision = match &self.what {
            What::Opaque => policies.opaque(&connection),
            What::Connection => policies.connection(&connection),
            What::Request { method, path, headers, claims } => {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
                }
                let token = claims.clone().map(Claims::new);
                let token = token.as_ref().map(|token| -> &dyn Token { token });
                policies.request(&connection, &Head::new(method, path, &map), token)
            }
        };
        let named = |cause: Cause<'_>| format!("{}#{}", cause.policy, cause.index);
        let verdict = match decision.verdict {
            Verdict::Unrestricted => "unrestricted".to_owned(),
            Verdict::Allowed(cause) => format!("allow {}", named(cause)),
            Verdict::Denied(cause) => format!("deny {}", named(cause)),
            Verdict::NotAllowed { policy } => format!("not-allowed {policy}"),
        };
        Answer { verdict, audit: decision.audit.map(named) }
    }
}
