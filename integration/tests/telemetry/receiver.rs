//! A receiver of spans as a process of its own, and the spans that it got.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use weft_integration::rig::{Process, python_env, wait_for};

/// A running receiver.
pub struct Receiver {
    process: Process,
    /// Endpoint of gRPC.
    pub grpc: String,
    /// Endpoint of HTTP.
    pub http: String,
}

/// One span, as the receiver wrote it.
#[derive(Clone, Debug)]
pub struct Span(pub Value);

impl Span {
    /// A field of the span itself.
    pub fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// An attribute as text.
    pub fn attribute(&self, name: &str) -> String {
        match &self.0["attributes"][name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// The service whose sidecar made it.
    pub fn service(&self) -> &str {
        self.0["resource"]["service.name"].as_str().unwrap_or_default()
    }

    pub fn is_server(&self) -> bool {
        self.field("kind") == "SPAN_KIND_SERVER"
    }

    /// Whether it is an attempt of a call, and not the call.
    pub fn is_attempt(&self) -> bool {
        !self.attribute("weft.endpoint").is_empty()
    }
}

impl Receiver {
    /// Starts it, and waits until it takes spans.
    pub fn start(folder: &Path) -> Self {
        Self::start_as(folder, "http", &[])
    }

    /// The same over TLS, with this certificate and key.
    pub fn start_tls(folder: &Path, certificate: &Path, key: &Path) -> Self {
        Self::start_as(folder, "https", &["--tls".as_ref(), certificate, key])
    }

    fn start_as(folder: &Path, scheme: &str, arguments: &[&Path]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telemetry/receiver.py");
        let mut command = Command::new(python_env("otlp"));
        let mut process = Process::start(folder, "receiver", command.arg(script).args(arguments));
        let ports = wait_for("the receiver listens", || {
            process.assert_running();
            let log = process.log();
            let first = log.lines().find(|line| line.starts_with("{\"grpc\"")).ok_or("nothing yet")?;
            serde_json::from_str::<Value>(first).map_err(|error| error.to_string())
        });
        let endpoint = |way: &str| format!("{scheme}://127.0.0.1:{}", ports[way]);
        Self { process, grpc: endpoint("grpc"), http: endpoint("http") }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let log = self.process.log();
        let spans = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        spans.filter(|span| span["trace"].is_string()).map(Span).collect()
    }

    /// The spans of a trace, once they are as wanted.
    #[track_caller]
    pub fn until(&self, trace: &str, what: &str, complete: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        wait_for(what, || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span.field("trace") == trace).collect();
            if complete(&spans) { Ok(spans) } else { Err(format!("{spans:#?}")) }
        })
    }
}

/// Asserts that the spans are one tree below `root`, and gives what each is below.
#[track_caller]
pub fn assert_connected(spans: &[Span], root: &str) {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.field("span"), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "no id twice: {spans:#?}");
    for span in spans {
        let parent = span.field("parent");
        assert!(parent == root || by_id.contains_key(parent), "{span:#?} is below nobody of {spans:#?}");
        if let Some(parent) = by_id.get(parent) {
            let times = |span: &Span| (span.0["start"].as_u64().unwrap(), span.0["end"].as_u64().unwrap());
            let ((from, until), (outer, _)) = (times(span), times(parent));
            assert!(from <= until && outer <= from + 5_000_000, "{span:#?} begins before {parent:#?}");
        }
    }
    let tops = spans.iter().filter(|span| span.field("parent") == root).count();
    assert_eq!(tops, 1, "one span is the first: {spans:#?}");
}
