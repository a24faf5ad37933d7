//! `weft describe`: one object for people: what it is, its conditions, its spec, and what happened to it. Of a secret no value is shown.

use crate::Global;
use crate::client::kinds::Kinds;
use crate::client::{Client, Error, encode};
use crate::failure::Failure;
use crate::{get, output};
use base64::Engine as _;
use serde_json::Value;

/// Flags of `weft describe`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kind, or kind/name
    #[arg(value_name = "KIND")]
    kind: String,
    /// Name of the object
    names: Vec<String>,
    /// Namespace (default: the kubeconfig's, else default)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// Shows one object, or several after another.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let kinds = Kinds::discover(&client).await?;
    let namespace = client.namespace(args.namespace.as_deref());
    let mut text = String::new();
    for target in get::targets(&kinds, &args.kind, &args.names)? {
        let Some(name) = target.name else {
            return Err(Failure::usage(format!("which {}?", target.kind.singular))
                .hint(format!("list them with: weft get {} -n {namespace}", target.kind.plural)));
        };
        let object: Value = client
            .read(&target.kind.object(&namespace, &name))
            .await
            .map_err(|error| error.into_failure(&format!("describe {}", target.kind.singular)))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&describe(&object)?);
        text.push_str(&events(&client, &kinds, &object).await?);
    }
    output::print(&text)?;
    Ok(0)
}

/// The events of an object, the newest last; nothing where there are none.
async fn events(client: &Client, kinds: &Kinds, object: &Value) -> Result<String, Failure> {
    let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let Some(kind) = kinds.exact("v1", "Event").filter(|_| at("/kind") != "Event") else { return Ok(String::new()) };
    let namespace = Some(at("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or("default");
    let selector = format!("involvedObject.name={},involvedObject.uid={}", at("/metadata/name"), at("/metadata/uid"));
    let path = format!("{}?fieldSelector={}", kind.collection(Some(namespace)), encode(&selector));
    let answer = match client.read_as(&path, get::TABLE).await {
        Ok(answer) => answer,
        // Who may see the object need not be allowed to see its events.
        Err(Error::Refused(_)) => return Ok(String::new()),
        Err(Error::Failed(failure)) => return Err(failure),
    };
    let (mut header, mut rows) = get::table(&answer, false, false, &mut Vec::new());
    if let Some(column) = header.iter().position(|name| name == "OBJECT") {
        header.remove(column);
        rows.iter_mut().for_each(|row| drop(row.remove(column)));
    }
    if rows.is_empty() { Ok(String::new()) } else { Ok(format!("\nevents:\n{}", output::table(&header, &rows, &[]))) }
}

/// Values of a secret by their length.
fn hidden(data: &Value) -> Value {
    let size = |text: &Value| {
        let encoded = text.as_str().unwrap_or_default();
        let length =
            base64::engine::general_purpose::STANDARD.decode(encoded).map_or(encoded.len(), |bytes| bytes.len());
        Value::from(format!("({length} bytes)"))
    };
    data.as_object().into_iter().flatten().map(|(key, text)| (key.clone(), size(text))).collect()
}

fn describe(object: &Value) -> Result<String, Failure> {
    let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut text = format!("{} {}", at("/kind"), at("/metadata/name"));
    if let Some(namespace) = object.pointer("/metadata/namespace").and_then(Value::as_str) {
        text.push_str(&format!(" in namespace {namespace}"));
    }
    text.push_str(&format!("\ncreated {}\n", at("/metadata/creationTimestamp")));
    if let Some(labels) = object.pointer("/metadata/labels").and_then(Value::as_object).filter(|l| !l.is_empty()) {
        let pairs: Vec<String> =
            labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        text.push_str(&format!("labels {}\n", pairs.join(", ")));
    }
    let mut rows = Vec::new();
    let mut conditions = |owner: &str, list: Option<&Value>| {
        for condition in list.and_then(Value::as_array).into_iter().flatten() {
            let cell = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
            rows.push(vec![owner.to_owned(), cell("type"), cell("status"), cell("reason"), cell("message")]);
        }
    };
    conditions("-", object.pointer("/status/conditions"));
    for parent in object.pointer("/status/parents").and_then(Value::as_array).into_iter().flatten() {
        let name = parent.pointer("/parentRef/name").and_then(Value::as_str).unwrap_or("-");
        conditions(name, parent.get("conditions"));
    }
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&output::table(&["PARENT", "CONDITION", "STATUS", "REASON", "MESSAGE"], &rows, &[]));
    }
    for part in ["spec", "data"] {
        if let Some(value) = object.get(part) {
            let secret = part == "data" && at("/kind") == "Secret";
            let value = if secret { &hidden(value) } else { value };
            text.push_str(&format!("\n{part}:\n"));
            for line in output::yaml(value)?.lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_is_described_without_its_values() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "key"}, "data": {"password": "aHVudGVyMg=="}});
        let text = describe(&secret).unwrap();
        assert!(text.contains("password: (7 bytes)") && !text.contains("aHVu"), "{text}");
    }

    #[test]
    fn a_route_is_described_with_the_conditions_of_each_parent() {
        let object = json!({"kind": "HTTPRoute", "metadata": {"name": "catalog", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"hostnames": ["a"]},
            "status": {"parents": [{"parentRef": {"name": "catalog"}, "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "ok"}]}]}});
        assert_eq!(
            describe(&object).unwrap(),
            "HTTPRoute catalog in namespace shop\ncreated 2026-01-01T00:00:00Z\n\n\
             PARENT   CONDITION  STATUS  REASON    MESSAGE\ncatalog  Accepted   True    Accepted  ok\n\n\
             spec:\n  hostnames:\n  - a\n"
        );
    }
}
