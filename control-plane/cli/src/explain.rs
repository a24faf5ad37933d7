//! `weft explain`: what becomes of a call, asked of the sidecars' own policy core on the control plane's current state. Nothing is sent.
//!
//! Exit code 1 when an endpoint that the call may reach refuses it, or when no rule matches.

use crate::Global;
use crate::client::{Client, Error, encode};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use serde::Deserialize;
use serde_json::{Value, json};

/// Flags of `weft explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Who calls: [namespace/]name of a workload, service or service account, or a SPIFFE id (default: a caller outside the mesh)
    #[arg(long, value_name = "CALLER")]
    from: Option<String>,
    /// Whom: a host name as the caller would write it, or namespace/name of a Service; with :PORT
    #[arg(long, value_name = "SERVICE")]
    to: String,
    /// Method
    #[arg(default_value = "GET")]
    method: String,
    /// Path and query
    #[arg(default_value = "/")]
    path: String,
    /// A header, 'name: value' (repeat for several)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Namespace of a caller that is named without one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    from: Option<String>,
    to: String,
    protocol: String,
    rule: Option<Rule>,
    outcome: Outcome,
    faults: bool,
    fallback: Option<String>,
    backends: Vec<Backend>,
    allowed: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    route: String,
    index: usize,
    name: String,
    request_timeout_ms: Option<u64>,
    backend_request_timeout_ms: Option<u64>,
    retries: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
enum Outcome {
    Forwarded,
    Redirected { status: u16, location: String },
    Preflight,
    NoRoute,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Backend {
    target: String,
    resolved: bool,
    share: f64,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    host: Option<String>,
    ready: usize,
    endpoints: usize,
    admissions: Vec<Admission>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Admission {
    mtls: bool,
    tls_mode: Option<String>,
    tls_source: String,
    allowed: bool,
    reason: String,
    audit: Option<String>,
    rate_limits: Vec<String>,
    endpoints: Vec<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written 'name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Asks and prints.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let from = match args.from.as_deref() {
        None => String::new(),
        Some(from) if from.contains('/') => from.to_owned(),
        Some(name) => format!("{}/{name}", client.namespace(args.namespace.as_deref())),
    };
    let question = json!({
        "from": from, "to": args.to, "method": args.method, "path": args.path, "headers": args.headers,
    });
    let answer = ask(&client, &question, &args.to).await.map_err(|error| error.into_failure("explain the call"))?;
    let explanation: Explanation = serde_json::from_value(answer.clone())
        .map_err(|error| Failure::not_well(format!("the control plane's answer cannot be read: {error}")))?;
    output::print(&match args.output {
        Format::Json => output::json(&answer)?,
        Format::Yaml => output::yaml(&answer)?,
        _ => render(&explanation),
    })?;
    let is_well = explanation.allowed != Some(false) && !matches!(explanation.outcome, Outcome::NoRoute);
    Ok(if is_well { 0 } else { Exit::NotWell.code() })
}

/// In the namespace of the Service where it is named so, which takes a role in that one alone; else in all of them.
async fn ask(client: &Client, question: &Value, to: &str) -> Result<Value, Error> {
    match to.split_once('/') {
        Some((namespace, _)) => {
            client.create(&format!("/weft/v1/explain?namespace={}", encode(namespace)), question).await
        }
        None => client.create("/weft/v1/explain", question).await,
    }
}

fn render(explanation: &Explanation) -> String {
    let Explanation { from, to, protocol, rule, outcome, .. } = explanation;
    let from = from.as_deref().unwrap_or("a caller without an identity");
    let mut lines = vec![format!("from     {from}"), format!("to       {to} ({protocol})")];
    match rule {
        None => lines.push("route    none matches: 404 (gRPC: UNIMPLEMENTED)".into()),
        Some(rule) if rule.route == "default" => lines.push(format!("route    none attached{}", limits(rule))),
        Some(rule) => {
            let name = if rule.name.is_empty() { String::new() } else { format!(" ({})", rule.name) };
            lines.push(format!("route    {} rule {}{name}{}", rule.route, rule.index, limits(rule)));
        }
    }
    match outcome {
        Outcome::Forwarded | Outcome::NoRoute => {}
        Outcome::Redirected { status, location } => lines.push(format!("answer   {status}, Location: {location}")),
        Outcome::Preflight => lines.push("answer   204: a CORS preflight, answered by the caller's sidecar".into()),
    }
    if explanation.faults {
        lines.push("faults   may be injected (TrafficPolicy)".into());
    }
    if let Some(fallback) = &explanation.fallback {
        lines.push(format!("fallback {fallback}"));
    }
    for backend in &explanation.backends {
        lines.push(String::new());
        lines.push(format!("{:>5.1} %  {}", backend.share * 100.0, target(backend)));
        for (what, seen) in [("path", &backend.path), ("host", &backend.host)] {
            lines.extend(seen.as_ref().map(|seen| format!("         {what} becomes {seen}")));
        }
        for admission in &backend.admissions {
            lines.extend(admitted(admission));
        }
    }
    lines.push(String::new());
    lines.push(
        match (explanation.allowed, outcome) {
            (_, Outcome::NoRoute) => "not routed",
            (Some(true), _) => "allowed",
            (Some(false), _) => "denied",
            (None, Outcome::Forwarded) => "no endpoint to ask",
            (None, _) => "answered by the caller's sidecar",
        }
        .into(),
    );
    lines.join("\n") + "\n"
}

fn limits(rule: &Rule) -> String {
    let mut all = Vec::new();
    all.extend(rule.request_timeout_ms.map(|limit| format!("timeout {limit} ms")));
    all.extend(rule.backend_request_timeout_ms.map(|limit| format!("{limit} ms a try")));
    all.push(format!("{} retries", rule.retries));
    format!(", {}", all.join(", "))
}

fn target(backend: &Backend) -> String {
    if backend.resolved {
        return format!("{}, {} of {} endpoints ready", backend.target, backend.ready, backend.endpoints);
    }
    format!("500: {}", backend.target)
}

fn admitted(admission: &Admission) -> Vec<String> {
    let verdict = if admission.allowed { "allowed" } else { "DENIED" };
    let transport = if admission.mtls { "mTLS" } else { "plaintext" };
    let mode = admission.tls_mode.as_deref().map(|mode| {
        let source = if admission.tls_source.is_empty() { "the mesh's default" } else { &admission.tls_source };
        format!(" ({mode}: {source})")
    });
    let mut lines = vec![
        format!("         {verdict} by {}: {}", admission.endpoints.join(", "), admission.reason),
        format!("         over {transport}{}", mode.unwrap_or_default()),
    ];
    lines.extend(admission.audit.as_ref().map(|audit| format!("         watched by {audit}")));
    if !admission.rate_limits.is_empty() {
        lines.push(format!("         rate limits of the port: {}", admission.rate_limits.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_split_at_its_first_colon() {
        assert_eq!(header("X-Url: http://a"), Ok(("X-Url".into(), "http://a".into())));
        assert!(header("nothing").is_err());
    }

    #[test]
    fn a_denial_is_printed_with_who_denies_and_why() {
        let explanation = json!({
            "from": "spiffe://weft.local/ns/shop/sa/cart", "to": "shop/catalog:80", "protocol": "HTTP/1",
            "rule": {"route": "shop/catalog", "index": 0, "name": "items", "requestTimeoutMs": 2000, "backendRequestTimeoutMs": null, "retries": 2},
            "outcome": {"kind": "forwarded"}, "faults": false, "fallback": null, "allowed": false,
            "backends": [{"target": "shop/catalog:80", "resolved": true, "share": 1.0, "ready": 1, "endpoints": 1, "admissions": [{
                "mtls": true, "tlsMode": "Strict", "tlsSource": "", "allowed": false, "reason": "no rule of shop/readers allows it",
                "policy": "shop/readers", "rule": null, "audit": null, "rateLimits": [], "endpoints": ["shop/catalog-1"]}]}],
        });
        let text = render(&serde_json::from_value(explanation).unwrap());
        assert!(text.contains("route    shop/catalog rule 0 (items), timeout 2000 ms, 2 retries\n"), "{text}");
        assert!(text.contains("DENIED by shop/catalog-1: no rule of shop/readers allows it\n"), "{text}");
        assert!(text.contains("over mTLS (Strict: the mesh's default)\n") && text.ends_with("denied\n"), "{text}");
    }
}
