//! The cases as the files of this folder write them.
//!
//! A file has `groups`; its other keys only hold anchors. A group has a `name`, the `policies` of one port as `weft.v1.Authorization` in JSON
//! (`action` as `ALLOW`, `DENY`, `AUDIT`), perhaps that `port` (80), and `cases`. `istio` quotes the meaning that Istio documents for its
//! AuthorizationPolicy and that is shared; `weft` says what Weft means instead, or where Istio says nothing.
//!
//! A case: `name`, `from`, `address`, `sni`, `to`, `headers`, `token`, `expect`, `audit`.
//! - `from` is the peer: `cart` (of namespace shop), `bank/teller`, a SPIFFE id, or `nobody` (plaintext). Default: `cart`.
//! - `to` is `METHOD /path` of a request to host `orders.shop` unless `headers` has a `host` (empty: none), or `opaque` bytes, or a
//!   `connection` before its first request. A header is a text or a list of lines. `token` holds the claims of a verified token.
//! - `expect` is `allow <policy>#<rule>`, `deny <policy>#<rule>`, `not-allowed <policy>` or `unrestricted`; `audit` is `<policy>#<rule>`.

use super::ask::{Ask, What};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use weft_proto::v1;

#[derive(Deserialize)]
pub struct File {
    pub groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub istio: Option<String>,
    pub weft: Option<String>,
    pub policies: Vec<Value>,
    pub port: Option<u16>,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub from: Option<String>,
    pub address: Option<std::net::IpAddr>,
    pub sni: Option<String>,
    pub to: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    pub token: Option<Value>,
    pub expect: String,
    pub audit: Option<String>,
}

pub fn policies(group: &Group) -> Result<Vec<v1::Authorization>, String> {
    let read = |value: &Value| {
        let mut value = value.clone();
        let action = value["action"].as_str().map(|action| format!("ACTION_{action}"));
        value["action"] = action.ok_or("a policy without an action")?.into();
        weft_proto::json::deserialize("weft.v1.Authorization", value).map_err(|error| error.to_string())
    };
    group.policies.iter().map(read).collect()
}

pub fn ask(case: &Case) -> Result<Ask, String> {
    let identity = match case.from.as_deref().unwrap_or("cart") {
        "nobody" => None,
        id if id.starts_with("spiffe://") => Some(id.to_owned()),
        name => {
            let (namespace, account) = name.split_once('/').unwrap_or(("shop", name));
            Some(format!("spiffe://{}/ns/{namespace}/sa/{account}", super::ask::TRUST_DOMAIN))
        }
    };
    let what = match case.to.as_deref().unwrap_or("GET /") {
        "opaque" => What::Opaque,
        "connection" => What::Connection,
        text => {
            let (method, path) = text.split_once(' ').ok_or("neither a request nor opaque nor connection")?;
            let mut headers = Vec::new();
            if !case.headers.contains_key("host") {
                headers.push(("host".to_owned(), "orders.shop".to_owned()));
            }
            for (name, value) in &case.headers {
                let lines = match value {
                    Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
                    Value::String(line) if line.is_empty() && name == "host" => Vec::new(),
                    Value::String(line) => vec![line.as_str()],
                    _ => return Err(format!("header {name} is no text")),
                };
                headers.extend(lines.into_iter().map(|line| (name.clone(), line.to_owned())));
            }
            What::Request { method: method.into(), path: path.into(), headers, claims: case.token.clone() }
        }
    };
    Ok(Ask { identity, address: case.address, server_name: case.sni.clone(), what })
}
