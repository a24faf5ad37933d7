//! Talks to the resource API, Weft's own or a cluster's: JSON in, JSON out, errors as failures with a next step.
//!
//! The transport is `kube::Client` over our own connector; kinds are found by discovery, so a command knows no kind by heart.
//! What the commands mean is theirs.

mod connect;
pub mod kinds;
pub mod kubeconfig;

use crate::Global;
use crate::failure::{Exit, Failure, chain};
use futures_util::{AsyncBufRead, AsyncBufReadExt};
use http::{Method, Request};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// How long one request may take, watches apart.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a long answer may take.
const LONG: Duration = Duration::from_secs(120);

/// What the API answered when it did not do what was asked.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`…
    pub reason: String,
    /// The server's own words.
    pub message: String,
    /// Field paths and what is wrong with each.
    pub causes: Vec<(String, String)>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum Error {
    /// The API refused it.
    Refused(Refusal),
    /// It got no proper answer.
    Failed(Failure),
}

impl Error {
    /// The failure to show; `what` is what was being done ("create httproute shop/catalog").
    pub fn into_failure(self, what: &str) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Refused(refusal) => refusal.into_failure(what),
        }
    }

    /// Whether the API said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 404)
    }

    /// Whether the API said that it exists already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 409 && refusal.reason == "AlreadyExists")
    }
}

impl Refusal {
    fn into_failure(self, what: &str) -> Failure {
        let failure = Failure { exit: Exit::NotWell, message: format!("{what}: {}", self.describe()), hint: None };
        match self.code {
            409 if self.is_apply_conflict() => failure.hint(
                "others own these fields: leave them out of the file, write what is there, or take them over with --force-conflicts",
            ),
            401 => failure.hint("the kubeconfig's credentials are not good here; use the one `weft up` wrote"),
            403 => failure.hint("bind a role that allows it: `weft user add --help` says how"),
            409 if self.reason == "Conflict" => failure.hint("it was changed meanwhile; run the command again"),
            _ => failure,
        }
    }

    /// Whether it is because others own what was applied.
    pub fn is_apply_conflict(&self) -> bool {
        self.code == 409 && self.message.starts_with("Apply failed with ")
    }

    /// The message, or one line for each field at fault.
    pub fn describe(&self) -> String {
        if self.causes.is_empty() {
            return self.message.clone();
        }
        let lines = self.causes.iter().map(|(field, message)| {
            if field.is_empty() { format!("\n  {message}") } else { format!("\n  {field}: {message}") }
        });
        lines.collect()
    }
}

/// A client of one API server.
#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
    /// Where it talks to, and as whom.
    pub context: std::sync::Arc<kubeconfig::Context>,
}

impl Client {
    /// A client for the kubeconfig that applies. Connects on first use.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        Self::for_context(kubeconfig::load(global)?)
    }

    /// A client for a resolved context. Connects on first use.
    pub fn for_context(context: kubeconfig::Context) -> Result<Self, Failure> {
        let bad = |error: http::uri::InvalidUri| Failure::usage(format!("server {}: {error}", context.server));
        let base: http::Uri = context.server.parse().map_err(bad)?;
        if base.scheme_str() != Some("https") {
            return Err(Failure::usage(format!("server {} is not https", context.server)));
        }
        let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connect::Connector::new(&context)?);
        let token = context.token.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let http = http.clone();
            let mut parts = base.clone().into_parts();
            let prefix = base.path().trim_end_matches('/').to_owned();
            let token = token.clone();
            async move {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                parts.path_and_query = Some(format!("{prefix}{path}").parse()?);
                *request.uri_mut() = http::Uri::from_parts(parts)?;
                if let Some(token) = token {
                    let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
                    value.set_sensitive(true);
                    request.headers_mut().insert(http::header::AUTHORIZATION, value);
                }
                Ok::<_, tower::BoxError>(http.request(request).await?)
            }
        });
        let namespace = context.namespace.clone().unwrap_or_else(|| "default".into());
        Ok(Self { inner: kube::Client::new(service, namespace), context: std::sync::Arc::new(context) })
    }

    /// The namespace that applies: the flag's, else the context's, else `default`.
    pub fn namespace(&self, flag: Option<&str>) -> String {
        flag.map_or_else(|| self.inner.default_namespace().to_owned(), str::to_owned)
    }

    /// Sends JSON, reads JSON.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<T, Error> {
        let request = self.build(method, path, "application/json", body)?;
        tokio::time::timeout(REQUEST, self.inner.request::<T>(request))
            .await
            .map_err(|_| {
                let server = &self.context.server;
                Error::Failed(Failure::unreachable(format!("{server} took the request and did not answer within 30 s")))
            })?
            .map_err(|error| self.error(error))
    }

    /// `GET path`.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.request(Method::GET, path, None).await
    }

    /// `GET path` with another `Accept`.
    pub async fn read_as(&self, path: &str, accept: &str) -> Result<Value, Error> {
        let request = self.build(Method::GET, path, accept, None)?;
        tokio::time::timeout(REQUEST, self.inner.request(request))
            .await
            .map_err(|_| Error::Failed(Failure::unreachable(format!("{}: no answer in 30 s", self.context.server))))?
            .map_err(|error| self.error(error))
    }

    /// `GET path` as text, however long it takes to arrive within two minutes.
    pub async fn text(&self, path: &str) -> Result<String, Error> {
        let request = self.build(Method::GET, path, "*/*", None)?;
        tokio::time::timeout(LONG, self.inner.request_text(request))
            .await
            .map_err(|_| Error::Failed(Failure::unreachable(format!("{}: no answer in 120 s", self.context.server))))?
            .map_err(|error| self.error(error))
    }

    /// `POST path`.
    pub async fn create<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Error> {
        self.request(Method::POST, path, Some(("application/json", body))).await
    }

    /// Sends a request as it is, credentials added, and gives what is answered as it comes.
    pub async fn pass_on(&self, request: Request<Body>) -> Result<http::Response<Body>, Error> {
        self.inner.send(request).await.map_err(|error| self.error(error))
    }

    /// `GET path` as lines that arrive as they happen (a watch).
    pub async fn lines(&self, path: &str, accept: &str) -> Result<Lines, Error> {
        let request = self.build(Method::GET, path, accept, None)?;
        let stream = tokio::time::timeout(REQUEST, self.inner.request_stream(request))
            .await
            .map_err(|_| Error::Failed(Failure::unreachable(format!("{}: no answer in 30 s", self.context.server))))?
            .map_err(|error| self.error(error))?;
        Ok(Lines { stream: Box::pin(stream), context: self.context.clone() })
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Vec<u8>>, Error> {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, accept)
            .header(http::header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")));
        let bytes = match body {
            None => Vec::new(),
            Some((content_type, value)) => {
                builder = builder.header(http::header::CONTENT_TYPE, content_type);
                serde_json::to_vec(value).map_err(|error| Error::Failed(Failure::not_well(error.to_string())))?
            }
        };
        builder.body(bytes).map_err(|error| Error::Failed(Failure::usage(format!("{path}: {error}"))))
    }

    fn error(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                Error::Refused(Refusal {
                    code: status.code,
                    reason: status.reason.clone(),
                    message: if status.message.is_empty() { status.reason.clone() } else { status.message.clone() },
                    causes: causes.map(|cause| (cause.field.clone(), cause.message.clone())).collect(),
                })
            }
            kube::Error::Service(error) => Error::Failed(connect::explain(&self.context, &*error)),
            kube::Error::HyperError(error) => Error::Failed(connect::explain(&self.context, &error)),
            kube::Error::ReadEvents(error) => Error::Failed(connect::explain(&self.context, &error)),
            other => {
                let text = format!("{} answered what cannot be understood: {}", self.context.server, chain(&other));
                Error::Failed(Failure::not_well(text).hint("is that a Weft or Kubernetes API? see --kubeconfig"))
            }
        }
    }
}

/// Lines of a watch.
pub struct Lines {
    stream: std::pin::Pin<Box<dyn AsyncBufRead>>,
    context: std::sync::Arc<kubeconfig::Context>,
}

impl Lines {
    /// The next document; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await.map_err(|error| connect::explain(&self.context, &error))?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .map(Some)
            .map_err(|error| Failure::not_well(format!("a watch event cannot be understood: {error}")))
    }
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
