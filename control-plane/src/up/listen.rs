//! Listeners: ports that are remembered over restarts; and which services the gRPC port has.

use super::{Endpoints, Error, Settings, failed};
use crate::fleet::ControlService;
use crate::grpc::{self, Answering};
use crate::identity::IdentityService;
use crate::store::Place;
use crate::xds::Discovery;
use http::Request;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::body::Body;
use weft_certs::TrustDomain;
use weft_proto::v1::identity_server::{self, IdentityServer};

/// How long a remembered port may be held by a predecessor that is still ending.
const TAKEN: Duration = Duration::from_secs(5);

/// The ports of the last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Ports {
    grpc: Option<u16>,
    api: Option<u16>,
}

impl Ports {
    fn load(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn save(self, path: &Path) -> Result<(), Error> {
        if Self::load(path) == self {
            return Ok(());
        }
        super::write_public(path, &self)
    }
}

/// Where this control plane listens, as long as it runs: whether it leads or not.
pub(super) struct Listeners {
    grpc: Option<std::net::TcpListener>,
    api: Option<std::net::TcpListener>,
    /// Whether they are needed again: who shares a store leads, and leads no longer.
    shared: bool,
    /// The addresses.
    pub place: Place,
}

impl Listeners {
    /// Binds both, and remembers their ports.
    pub async fn bind(settings: &Settings) -> Result<Self, Error> {
        let ports = settings.data_dir.join("ports.json");
        let remembered = Ports::load(&ports);
        let grpc = bind(settings.grpc, remembered.grpc, "--grpc").await?;
        let api = bind(settings.api, remembered.api, "--api").await?;
        let mut place = Place {
            grpc: grpc.local_addr().map_err(failed("gRPC listener"))?,
            api: api.local_addr().map_err(failed("API listener"))?,
        };
        Ports { grpc: Some(place.grpc.port()), api: Some(place.api.port()) }.save(&ports)?;
        if let Some(address) = settings.kubernetes.as_ref().and_then(|kubernetes| kubernetes.address) {
            place.grpc.set_ip(address);
            place.api.set_ip(address);
        }
        let shared = settings.store.is_some() || settings.kubernetes.is_some();
        if shared && (place.grpc.ip().is_unspecified() || place.api.ip().is_unspecified()) {
            tracing::warn!(grpc = %place.grpc, api = %place.api, "the other control planes cannot reach this one there: name addresses of this host");
        }
        let kept = |listener: TcpListener| listener.into_std().map(Some).map_err(failed("listener"));
        Ok(Self { grpc: kept(grpc)?, api: kept(api)?, shared, place })
    }

    /// The gRPC listener, for as long as its taker wants.
    pub fn grpc(&mut self) -> Result<TcpListener, Error> {
        take(&mut self.grpc, self.shared)
    }

    /// The API's, likewise.
    pub fn api(&mut self) -> Result<TcpListener, Error> {
        take(&mut self.api, self.shared)
    }

    /// What others are told.
    pub fn endpoints(&self, trust_domain: &TrustDomain) -> Endpoints {
        Endpoints {
            grpc: self.place.grpc.to_string(),
            api: format!("https://{}", self.place.api),
            trust_domain: trust_domain.to_string(),
            pid: std::process::id(),
        }
    }
}

fn take(listener: &mut Option<std::net::TcpListener>, again: bool) -> Result<TcpListener, Error> {
    let taken =
        if again { listener.as_ref().map(std::net::TcpListener::try_clone).transpose() } else { Ok(listener.take()) };
    let taken = taken.map_err(failed("listener"))?.ok_or_else(|| Error("a listener is taken twice".to_owned()))?;
    TcpListener::from_std(taken).map_err(failed("listener"))
}

/// Binds an address; where its port is 0, the remembered one, since sidecars know no other.
async fn bind(address: SocketAddr, remembered: Option<u16>, flag: &str) -> Result<TcpListener, Error> {
    let wanted = match (address.port(), remembered) {
        (0, Some(port)) => SocketAddr::new(address.ip(), port),
        _ => address,
    };
    let until = tokio::time::Instant::now() + TAKEN;
    loop {
        match TcpListener::bind(wanted).await {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(Error(format!(
                    "{wanted} is taken by another process; free it or choose another with {flag}"
                )));
            }
            Err(e) => return Err(failed(format!("cannot listen on {wanted} ({flag})"))(e)),
        }
    }
}

/// The methods that are streams.
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const WHOLE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const CONTROL: &str = "/weft.v1.Control/Stream";

/// What the gRPC listener serves.
pub(super) struct Services {
    pub discovery: Discovery,
    pub identity: IdentityServer<IdentityService>,
    pub control: ControlService,
}

impl grpc::Services for Services {
    fn call(&self, request: Request<Body>) -> Answering {
        let path = request.uri().path();
        if path == DELTA {
            let discovery = self.discovery.clone();
            return grpc::stream(request, move |asked| async move { discovery.delta(asked).await });
        }
        if path == CONTROL {
            let control = self.control.clone();
            return grpc::stream(request, move |up| async move { control.stream(up).await });
        }
        match path.split('/').nth(1) {
            Some(identity_server::SERVICE_NAME) => grpc::answer(&self.identity, request),
            _ if path == WHOLE => grpc::unserved("state of the world is not served: use DeltaAggregatedResources"),
            _ => grpc::unserved("no such service is served here"),
        }
    }
}
