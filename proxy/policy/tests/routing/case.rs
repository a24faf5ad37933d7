//! The cases of the routing suite as the files of this folder write them. Shared by the tests of the pure core and of the sidecar.
//!
//! A file has `groups`; its other keys only hold anchors. A group has a `name`, the rule of the specification that its cases show
//! (`spec`; a case may name its own), the `frontend` of one service port as `weft.v1.Frontend` in JSON, perhaps the port's `protocol`, and
//! `cases`. The port is 80 of service `shop/front`; backends are the services `shop/a` to `shop/h`, port 80, which answer 200.
//!
//! A case: `name`, `request`, `expect`, perhaps `reply`: headers with which the backend answers.
//! - `request` is `METHOD target`, or `{method, path, host, headers, grpc, scheme, port, serverName, tcp}`. Host is `front.shop` unless
//!   named (empty: none). A header is a text or a list of texts. `grpc: service/method` is a gRPC call; `serverName` a TLS connection
//!   (`false`: without a name), `tcp: true` an opaque one, of which 404 and 500 mean that it is refused. `scheme` and `port` are what the
//!   caller spoke and addressed (http, 80).
//! - `expect` is a backend, a status, or a map in which everything must hold: `backend`, `route` (`name#index`), `status`, `grpcStatus`,
//!   `location`; at the backend `path` (with query), `host`, `headers`, `absent`; at the caller `response: {headers, absent}`; `mirrors`,
//!   `delay` in milliseconds; `shares` in percent of backends or statuses. What is not random holds for every draw.

use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Fewer cases than this mean that a file was not found.
pub const FEWEST: usize = 500;

#[derive(Deserialize)]
pub struct File {
    pub groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub spec: Option<String>,
    pub frontend: Value,
    pub protocol: Option<String>,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub spec: Option<String>,
    pub request: Value,
    #[serde(default)]
    pub reply: BTreeMap<String, Value>,
    pub expect: Value,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Request {
    pub method: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub headers: BTreeMap<String, Value>,
    pub grpc: Option<String>,
    pub scheme: Option<String>,
    pub port: Option<u16>,
    pub server_name: Option<Value>,
    pub tcp: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Expect {
    pub backend: Option<String>,
    pub route: Option<String>,
    pub status: Option<u16>,
    pub grpc_status: Option<u8>,
    pub location: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub headers: BTreeMap<String, Value>,
    pub absent: Vec<String>,
    pub response: Response,
    pub mirrors: Option<BTreeSet<String>>,
    pub delay: Option<u64>,
    pub shares: BTreeMap<String, f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Response {
    pub headers: BTreeMap<String, Value>,
    pub absent: Vec<String>,
}

/// Every file of the folder, with its theme, in order.
pub fn files(folder: &Path) -> Vec<(String, File)> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let theme = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let file = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{theme}: {e}"));
        (theme, file)
    };
    paths.iter().map(read).collect()
}

/// A text, or the texts of a list.
pub fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

impl Request {
    /// As a case writes it.
    pub fn of(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(line) => {
                let (method, path) = line.split_once(' ').ok_or("a request is METHOD target")?;
                Ok(Self { method: Some(method.into()), path: Some(path.into()), ..Self::default() })
            }
            map => serde_json::from_value(map.clone()).map_err(|e| format!("request: {e}")),
        }
    }
}

impl Expect {
    /// As a case writes it.
    pub fn of(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(backend) => Ok(Expect { backend: Some(backend.clone()), ..Expect::default() }),
            Value::Number(status) => {
                let status = status.as_u64().and_then(|status| u16::try_from(status).ok());
                Ok(Expect { status, ..Expect::default() })
            }
            Value::Object(map) if !map.is_empty() => {
                serde_json::from_value(value.clone()).map_err(|e| format!("expect: {e}"))
            }
            _ => Err("expects nothing".into()),
        }
    }
}
