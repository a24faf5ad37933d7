//! Probes of the application, asked through the sidecar's admin port.
//!
//! Kubelet is no mesh identity: where mTLS is strict its probes would be refused, and where the sidecar accepts connections on the
//! application's behalf a TCP probe would always succeed. The sidecar asks the application itself, over loopback, and says what it said.

use super::annotations::{Refusal, Settings};
use super::pod::{ADMIN, Record};
use serde_json::{Map, Value, json};

const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Points captured probes at the sidecar; what it has to ask for each (`web/readinessProbe=http://127.0.0.1:8080/ready`).
pub(super) fn rewrite(pod: &mut Value, settings: &Settings, record: &mut Record) -> Result<Vec<String>, Refusal> {
    let mut asked = Vec::new();
    // Probes of ordinary init containers are not allowed; native sidecars have theirs.
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for (i, container) in containers.iter_mut().enumerate() {
            let ports = container.get("ports").cloned().unwrap_or_default();
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            for kind in PROBES {
                let Some(probe) = container.get_mut(kind).and_then(Value::as_object_mut) else { continue };
                let Some(handler) =
                    HANDLERS.into_iter().find(|handler| probe.get(*handler).is_some_and(Value::is_object))
                else {
                    continue;
                };
                let field = format!("spec.{list}[{i}].{kind}.{handler}");
                let Some(original) = probe.get(handler).cloned() else { continue };
                // A probe of another host is none of this application.
                if original.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
                    continue;
                }
                let port = port(&original, &ports).map_err(|why| Refusal::new(format!("{field}.port"), why))?;
                if !settings.captures(port) {
                    continue;
                }
                asked.push(format!("{name}/{kind}={}", address(handler, &original, port)));
                let mut get = json!({"path": format!("/app-probe/{name}/{kind}"), "port": ADMIN});
                if let (Some(headers), Some(get)) = (original.get("httpHeaders"), get.as_object_mut()) {
                    get.insert("httpHeaders".into(), headers.clone());
                }
                probe.remove(handler);
                probe.insert("httpGet".into(), get);
                let kept = json!({ handler: original });
                record.probes.entry(name.clone()).or_default().insert(kind.into(), kept);
            }
        }
    }
    Ok(asked)
}

/// Puts the handlers back that were there.
pub(super) fn restore(pod: &mut Value, record: &Record) {
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(probes) = record.probes.get(name) else { continue };
            for (kind, handler) in probes {
                let Some(probe) = container.get_mut(kind).and_then(Value::as_object_mut) else { continue };
                probe.remove("httpGet");
                probe.extend(handler.as_object().cloned().unwrap_or_else(Map::new));
            }
        }
    }
}

fn port(handler: &Value, ports: &Value) -> Result<u16, String> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    match handler.get("port") {
        Some(Value::String(name)) => {
            // Numbers are written as strings too.
            if let Ok(port) = name.parse() {
                return Ok(port);
            }
            let all = ports.as_array().map_or(&[][..], Vec::as_slice);
            let named = all.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(name));
            let port = named.and_then(|port| port.get("containerPort")).and_then(number);
            port.ok_or_else(|| format!("{name:?} is no port of this container"))
        }
        Some(port) => number(port).ok_or_else(|| format!("{port} is no port")),
        None => Err("is missing".into()),
    }
}

fn address(handler: &str, original: &Value, port: u16) -> String {
    let text = |key: &str| original.get(key).and_then(Value::as_str);
    match handler {
        "httpGet" => {
            let scheme = text("scheme").unwrap_or("HTTP").to_ascii_lowercase();
            let path = text("path").unwrap_or("/");
            let slash = if path.starts_with('/') { "" } else { "/" };
            format!("{scheme}://127.0.0.1:{port}{slash}{path}")
        }
        "grpc" => format!("grpc://127.0.0.1:{port}/{}", text("service").unwrap_or_default()),
        _ => format!("tcp://127.0.0.1:{port}"),
    }
}
