//! The admission webhook: an API server asks it of every pod that is to be made, and it answers with the pod's sidecar.
//!
//! `POST /inject` takes an AdmissionReview ([`review`]); `GET /livez` and `/readyz` are for kubelet. Every replica of the control plane
//! answers. The one that leads keeps the certificate and what the API server believes of it ([`certificate`]). How sidecars are made is a
//! file, which may change while this runs ([`file`]).

mod certificate;
mod file;
mod review;

pub use certificate::{CONFIGURATION, SECRET, SERVICE};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::server::{self, Answers, Door};

/// Bytes of a review: an object of 3 MiB, as large as an API server takes one, written twice, and what is said of it.
const LARGEST: usize = 8 << 20;
/// How long a review may take to arrive. An API server waits for the answer at most 30 s.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Connections open at once: an API server has a few.
const CONNECTIONS: usize = 512;

/// What the webhook is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The control plane's own namespace, in which its Service and the webhook's Secret are.
    pub namespace: String,
    /// How sidecars are made: a YAML file of [`super::Settings`], camelCase; `None`: the defaults.
    pub injection: Option<PathBuf>,
    /// Validity of the webhook's certificate, which is replaced half-way: 30 days.
    pub lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { namespace: "weft-system".into(), injection: None, lifetime: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// Answers until `shutdown`. While `leads` is true it also keeps the Secret and the configuration of the webhook.
///
/// # Errors
/// The file of settings cannot be read or is wrong when this starts; the listener breaks.
pub async fn run(
    listener: TcpListener,
    client: kube::Client,
    settings: Settings,
    leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let injection = match &settings.injection {
        Some(path) => file::read(path).map_err(|why| format!("{}: {why}", path.display()))?,
        None => super::Settings::default(),
    };
    let (changed, injection) = watch::channel(Arc::new(injection));
    // Until there is one to serve with. Nobody believes it, and kubelet, which asks for health, believes any.
    let first = certificate::Fresh::make(&settings, SystemTime::now()).and_then(|fresh| fresh.served());
    let (serve, tls) = watch::channel(first.map_err(|error| error.to_string())?);
    let (say, ready) = watch::channel(false);
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(certificate::follow(client.clone(), settings.clone(), serve, say, stop.clone()));
    tasks.spawn(certificate::keep(client, settings.clone(), leads, stop.clone()));
    if let Some(path) = settings.injection {
        tasks.spawn(file::follow(path, changed, stop.clone()));
    }
    let served = serve_with(listener, tls, Hook { injection, ready }, shutdown).await;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    served.map_err(|error| error.to_string())
}

async fn serve_with(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    hook: Hook,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let door = Door { name: "the admission webhook", connections: CONNECTIONS, tls };
    server::open(listener, door, move |_, _, _| hook.clone(), shutdown).await
}

/// Who answers.
#[derive(Clone)]
struct Hook {
    injection: watch::Receiver<Arc<super::Settings>>,
    /// Whether the certificate is the one that the API server believes.
    ready: watch::Receiver<bool>,
}

impl Answers for Hook {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        match (path, request.method()) {
            ("/livez", &Method::GET | &Method::HEAD) => text(StatusCode::OK, "ok"),
            ("/readyz", &Method::GET | &Method::HEAD) if *self.ready.borrow() => text(StatusCode::OK, "ok"),
            ("/readyz", &Method::GET | &Method::HEAD) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no certificate yet: the control plane that leads makes it",
            ),
            ("/inject", &Method::POST) => self.inject(request).await,
            ("/livez" | "/readyz" | "/inject", _) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "POST /inject, GET /livez and /readyz")
            }
            _ => text(StatusCode::NOT_FOUND, "there are /inject, /livez and /readyz"),
        }
    }
}

impl Hook {
    async fn inject(&self, request: Request<Incoming>) -> Response<Body> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is application/json");
        }
        let body = match tokio::time::timeout(ARRIVAL, Limited::new(request.into_body(), LARGEST).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 8 MiB");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the review broke off"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the review did not arrive in time"),
        };
        let settings = self.injection.borrow().clone();
        match review::answer(&body, &settings) {
            Ok(answer) => {
                let mut response = Response::new(Body::from(answer.to_string()));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(why) => text(StatusCode::BAD_REQUEST, &why),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
