//! `weft up`: starts the whole control plane in one process and ends it in order.
//!
//! Owns the data directory's layout (`weft.redb`, `identity/`, `audit/`, `api/`, `kubeconfig`, `ports.json`, `endpoints.json`), the listeners and
//! their remembered ports, and the signals. What the parts do is theirs; this file only wires them.

mod listen;
mod papers;
mod relay;
mod settings;
mod stand_by;

pub use settings::{Cluster, Settings};

use crate::fleet::{ControlService, Fleet, Leases, Life, traffic, web};
use crate::grpc;
use crate::identity::service::Issue;
use crate::identity::{Audit, Authority, IdentityService, Ledger, Limiter, Reviewer, Revoker, Rotator, Tokens};
use crate::metrics::Metrics;
use crate::rollout::{Rollouts, conduct};
use crate::store::{Embedded, Etcd, EtcdSettings, Measured, Options, Store};
use crate::world::reconcile::{self, Compiled};
use crate::world::watch::Reflectors;
use crate::world::{Mesh, events, jwks, status};
use crate::xds::{Discovery, Hub, Pace};
use crate::{api, compile};
use listen::Listeners;
use papers::{Named, accounts, api_authority, api_tls, names, vault};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weft_certs::ca::Vault;
use weft_certs::{ApiCa, TrustDomain, files};
use weft_proto::v1::identity_server::IdentityServer;
use weft_resident::Quiet;

/// How long parts may take to end once they are told to.
const DRAIN: Duration = Duration::from_secs(10);
/// Expired join tokens are removed this often.
const SWEEP: Duration = Duration::from_secs(3600);
/// How long the kubeconfig's client certificate is valid; a new one is written with every start.
const ADMIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// When pages of the program that only a start needs are given back: most of what follows runs a small part of it, however many sidecars
/// there are. The allocator gives back by itself.
const QUIET: Quiet = Quiet {
    look: Duration::from_secs(1),
    busy: Duration::from_millis(250),
    pause: (Duration::from_secs(2), Duration::from_secs(64)),
    trim: || {},
};

/// Why the control plane did not start, or ended badly. The text says what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Error {
    move |error| Error(format!("{what}: {error}"))
}

/// Where a running control plane listens; the content of `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// `ip:port` of the gRPC listener.
    pub grpc: String,
    /// `https://ip:port` of the resource API.
    pub api: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Process id.
    pub pid: u32,
}

/// Runs the control plane until SIGTERM or SIGINT, then ends it in order. `endpoints.json` appears once both listeners answer.
///
/// # Errors
/// When it cannot start (data directory, ports, keys, store) or a part of it died.
pub async fn run(settings: Settings) -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    raise_descriptors();
    let mut term = signal(SignalKind::terminate()).map_err(failed("cannot listen for SIGTERM"))?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed("cannot listen for SIGINT"))?;
    let shutdown = CancellationToken::new();
    let running = run_until(settings, shutdown.clone(), |_| {});
    tokio::pin!(running);
    tokio::select! {
        result = &mut running => return result,
        _ = term.recv() => tracing::info!("SIGTERM: ending"),
        _ = int.recv() => tracing::info!("SIGINT: ending"),
    }
    shutdown.cancel();
    running.await
}

/// As many descriptors as the system allows: one for each connection, of which a sidecar has two.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// As [`run`], but ends when `shutdown` is cancelled; `started` is called once with the bound addresses.
///
/// # Errors
/// As for [`run`].
pub async fn run_until(
    settings: Settings,
    shutdown: CancellationToken,
    started: impl FnOnce(&Endpoints),
) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::default());
    let _gives_back = AbortOnDropHandle::new(tokio::spawn(weft_resident::give_back(QUIET)));
    let (store, mut listeners) = open(&settings).await?;
    let store: Arc<dyn Store> = Arc::new(Measured::new(store, metrics.clone()));
    let mut started = Some(started);
    let result = loop {
        let leads = stand_by::until_leading(&settings, &*store, &mut listeners, &shutdown, &mut started).await;
        match leads {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
        match lead(&settings, (store.clone(), &metrics), &mut listeners, &shutdown, &mut started).await {
            Ok(Ended::Deposed) => {}
            Ok(Ended::ToldTo) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    store.resign().await;
    if !closed(store).await {
        tracing::warn!("connections still hold the store open");
    }
    tracing::info!("the control plane has ended");
    result
}

/// Store and listeners. Those who share a store are told where this one serves.
async fn open(settings: &Settings) -> Result<(Arc<dyn Store>, Listeners), Error> {
    let dir = &settings.data_dir;
    files::private_dir(dir).map_err(failed("cannot use the data directory"))?;
    let Some(etcd) = &settings.store else {
        // First: it says whether another control plane runs on this directory.
        let store = open_store(dir, None).await?;
        return Ok((store, Listeners::bind(settings).await?));
    };
    let listeners = Listeners::bind(settings).await?;
    let place = listeners.place.clone();
    let etcd = EtcdSettings {
        replica: format!("{} {}", etcd.replica, place.grpc).trim().to_owned(),
        serves: Some(place),
        ..etcd.clone()
    };
    Ok((open_store(dir, Some(&etcd)).await?, listeners))
}

/// Why a control plane leads no longer.
enum Ended {
    /// It was told to end.
    ToldTo,
    /// Another may lead by now.
    Deposed,
}

/// Does what only one may do, until it is told to end, another may lead, or a part of it dies.
async fn lead(
    settings: &Settings,
    (store, metrics): (Arc<dyn Store>, &Arc<Metrics>),
    listeners: &mut Listeners,
    shutdown: &CancellationToken,
    started: &mut Option<impl FnOnce(&Endpoints)>,
) -> Result<Ended, Error> {
    let parts = match Parts::open(settings, store.clone(), metrics, listeners).await {
        Err(error) if !store.lead().borrow().is_certain() => {
            tracing::warn!(%error, "the lead was lost before it began");
            return Ok(Ended::Deposed);
        }
        opened => opened?,
    };
    let endpoints = parts.endpoints.clone();
    let term = shutdown.child_token();
    let mut tasks = parts.spawn(settings, &term)?;
    write_public(&settings.data_dir.join("endpoints.json"), &endpoints)?;
    tracing::info!(api = %endpoints.api, grpc = %endpoints.grpc, trust_domain = %endpoints.trust_domain, "the control plane is up");
    if let Some(started) = started.take() {
        started(&endpoints);
    }
    let result = tokio::select! {
        // First: parts end by themselves because of it.
        biased;
        () = shutdown.cancelled() => Ok(Ended::ToldTo),
        () = deposed(&*store) => Ok(Ended::Deposed),
        ended = tasks.join_next() => match ended {
            Some(Ok((part, Ok(())))) => Err(Error(format!("{part} ended by itself"))),
            Some(Ok((part, Err(error)))) => Err(Error(format!("{part}: {error}"))),
            Some(Err(panicked)) => Err(Error(format!("a part of the control plane panicked: {panicked}"))),
            None => Ok(Ended::ToldTo),
        },
    };
    term.cancel();
    let ended = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("parts of the control plane did not end in time and are cut");
        tasks.shutdown().await;
    }
    result
}

/// Waits until nobody else holds the store, so that a successor can open it; false when somebody does for too long.
async fn closed(store: Arc<dyn Store>) -> bool {
    let alone = async {
        while Arc::strong_count(&store) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DRAIN, alone).await.is_ok()
}

type Tasks = JoinSet<(&'static str, Result<(), String>)>;

/// Everything opened and bound, nothing running yet.
struct Parts {
    endpoints: Endpoints,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    api: api::Api,
    api_tls: watch::Sender<Arc<rustls::ServerConfig>>,
    clients: Arc<ApiCa>,
    record: Arc<api::record::Record>,
    api_listener: TcpListener,
    grpc_listener: TcpListener,
    grpc_tls: Arc<rustls::ServerConfig>,
    authority: Arc<Authority>,
    vault: Vault,
    revoker: Arc<Revoker>,
    audit: Arc<Audit>,
    tokens: Tokens,
    mesh: Mesh,
    reserved: weft_policy::config::Cidr,
    leaf_lifetime: Duration,
    jwks: jwks::Settings,
    reviewer: Reviewer,
    rollouts: Arc<Rollouts>,
    /// Up to which their records are known.
    recorded: u64,
}

impl Parts {
    async fn open(
        settings: &Settings,
        store: Arc<dyn Store>,
        metrics: &Arc<Metrics>,
        listeners: &mut Listeners,
    ) -> Result<Self, Error> {
        let dir = &settings.data_dir;
        let trust_domain: TrustDomain =
            settings.trust_domain.parse().map_err(failed(format!("trust domain {:?}", settings.trust_domain)))?;
        let reserved = range(&settings.service_cidr)?;
        let vault = vault(settings)?;
        let identity = dir.join("identity");
        let authority = match &settings.pki {
            Some(files) => {
                files.read().and_then(|texts| Authority::open_pki(&identity, &vault, &trust_domain, texts.pki()))
            }
            None => Authority::open(&identity, &vault, &trust_domain),
        };
        let authority = authority.map_err(failed("mesh CA"))?;
        authority.ca().root_fingerprint().map_err(failed("mesh CA"))?;
        let audit = Arc::new(Audit::open(&dir.join("audit")).map_err(failed("audit record"))?);
        let ledger = Ledger::new(store.clone());
        let revoker = Revoker::open(authority.clone(), ledger, audit.clone()).await;
        let revoker = revoker.map_err(failed("cannot revoke what was revoked before"))?;
        let signing = authority.clone();
        let spki = move || signing.ca().root_fingerprint().map(|print| print.to_string()).unwrap_or_default();
        let tokens = Tokens::new(store.clone(), Arc::new(spki), trust_domain.to_string());
        let api_settings = api::Settings {
            service_cidr: settings.service_cidr.clone(),
            hosts: names(&store.lead().borrow(), settings.api.ip()),
            ..api::Settings::default()
        };
        let api = api::Api::open(store.clone(), api_settings).await.map_err(failed("resource API"))?;

        let rollouts = Arc::new(Rollouts::default());
        let recorded = conduct::load(&rollouts, &*store).await.map_err(failed("records of rollouts"))?;

        let reviewing = match &settings.token_review {
            Some(cluster) => cluster.client().await?,
            None => api::client(&api),
        };

        let endpoints = listeners.endpoints(&trust_domain);
        let (api_listener, grpc_listener) = (listeners.api()?, listeners.grpc()?);
        let clients = api_authority(dir, &vault, &endpoints.api)?;
        let called = names(&store.lead().borrow(), settings.api.ip());
        let api_tls = watch::Sender::new(api_tls(&clients, &called)?);
        let record = Arc::new(api::record::Record::open(&dir.join("audit")).map_err(failed("audit record"))?);
        api.keep_record(record.clone());
        api.count_in(metrics.clone());
        api.issue_tokens(accounts(dir, &vault, &settings.domain)?);
        let grpc_tls = weft_certs::tls::server_config(
            authority.live(),
            weft_certs::tls::ClientAuth::Optional,
            &[weft_certs::tls::ALPN_GRPC],
        )
        .map_err(failed("gRPC TLS"))?;
        let mesh = Mesh {
            trust_domain: trust_domain.to_string(),
            domain: settings.domain.clone(),
            service_cidr: settings.service_cidr.clone(),
            registered_only: settings.registered_only,
            ..Mesh::default()
        };
        Ok(Self {
            endpoints,
            store,
            metrics: metrics.clone(),
            api,
            api_tls,
            clients: Arc::new(clients),
            record,
            api_listener,
            grpc_listener,
            grpc_tls,
            authority,
            vault,
            revoker,
            audit,
            tokens,
            mesh,
            reserved,
            leaf_lifetime: settings.leaf_lifetime,
            jwks: jwks::Settings { roots: Vec::new(), loopback_http: settings.jwks_loopback_http },
            reviewer: Reviewer::new(reviewing),
            rollouts,
            recorded,
        })
    }

    fn spawn(self, settings: &Settings, shutdown: &CancellationToken) -> Result<Tasks, Error> {
        let client = api::client(&self.api);
        let hub = Arc::new(Hub::default());
        let fleet = Arc::new(Fleet::default());
        let (publish, compiled) = watch::channel(Compiled::default());
        let life = Life::new(
            client.clone(),
            compiled.clone(),
            hub.convergence().clone(),
            fleet.clone(),
            settings.stream_grace,
            settings.start_grace,
        );
        let rotator = Rotator::new(self.authority.clone(), self.audit.clone(), fleet.clone(), compiled.clone());
        let pace = Arc::new(Pace::told(self.metrics.clone()));
        self.api.mount(web::router(web::Sources {
            fleet: fleet.clone(),
            hub: hub.clone(),
            compiled: compiled.clone(),
            tokens: self.tokens.clone(),
            rotator: rotator.clone(),
            revoker: self.revoker.clone(),
            audit: self.audit.clone(),
            record: self.record,
            clients: self.clients.clone(),
            store: self.store.clone(),
            trust_domain: self.endpoints.trust_domain.clone(),
            data_dir: settings.data_dir.clone(),
            prometheus: settings.prometheus.clone(),
            pace: pace.clone(),
            metrics: self.metrics.clone(),
            started: std::time::Instant::now(),
        }));
        let mut tasks = Tasks::new();

        let (measured, offered, stop) = (hub.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            pace.follow(measured, offered, stop).await;
            ("pace of changes", Ok(()))
        });
        let (followed, stop) = (self.api.clone(), shutdown.clone());
        tasks.spawn(async move {
            followed.follow_roles(&stop).await;
            ("roles", Ok(()))
        });
        let named =
            Named { store: self.store.clone(), api: self.api.clone(), authority: self.clients, ip: settings.api.ip() };
        let (api, listener, tls, stop) = (self.api, self.api_listener, self.api_tls.subscribe(), shutdown.clone());
        let (changing, ending) = (self.api_tls, shutdown.clone());
        tasks.spawn(async move {
            named.follow(changing, ending).await;
            ("names of the API", Ok(()))
        });
        tasks.spawn(async move {
            let served = api::server::serve_as(listener, api, tls, stop).await;
            ("resource API", served.map_err(|e| e.to_string()))
        });

        let issue = Issue {
            tokens: self.tokens.clone(),
            reviewer: self.reviewer,
            revoker: self.revoker.clone(),
            limiter: Limiter::new(settings.certificates_per_identity, self.leaf_lifetime),
            audit: self.audit,
        };
        let identity = IdentityService::new(self.authority.clone(), Arc::new(issue), client.clone(), self.reserved)
            .lasting(self.leaf_lifetime);
        let services = listen::Services {
            discovery: Discovery::new(hub.clone(), shutdown.clone()),
            identity: IdentityServer::new(identity),
            control: ControlService::new(
                fleet.clone(),
                life.clone(),
                Leases::new(compiled.clone(), self.store.lead()),
                shutdown.clone(),
            ),
        };
        let (listener, tls, stop, ready) = (self.grpc_listener, self.grpc_tls, shutdown.clone(), compiled.clone());
        let live = self.authority.live().clone();
        tasks.spawn(async move {
            // Nobody is told that a service is absent before the world was read once.
            if first_compilation(ready, &stop).await {
                grpc::serve(listener, tls, live, services, stop).await;
            }
            ("gRPC server", Ok(()))
        });

        let (watched, mesh, stop, offered) = (client.clone(), self.mesh, shutdown.clone(), hub.clone());
        let (trust, keys) = (self.authority.trust(), self.jwks);
        let means = conduct::Means {
            rollouts: self.rollouts.clone(),
            store: self.store,
            fleet: fleet.clone(),
            convergence: hub.convergence().clone(),
            compiled: compiled.clone(),
        };
        let (recorded, conducting) = (self.recorded, shutdown.clone());
        tasks.spawn(async move {
            conduct::conduct(means, recorded, conducting).await;
            ("rollouts", Ok(()))
        });
        let (rollouts, metrics) = (self.rollouts, self.metrics);
        tasks.spawn(async move {
            let reflectors = Reflectors::start(&watched, keys);
            let told = (&*offered, &*metrics);
            let ran = reconcile::run(&reflectors, mesh, trust, &rollouts, told, &publish, &stop).await;
            ("reconciler", ran)
        });
        let (to, of, stop) = (client.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            events::run(to, of, stop).await;
            ("event writer", Ok(()))
        });
        let (of, by, stop) = (fleet.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            traffic::names::follow(of, by, stop).await;
            ("summaries of traffic", Ok(()))
        });
        let (convergence, stop) = (hub.convergence().clone(), shutdown.clone());
        tasks.spawn(async move {
            status::run(client, compiled, convergence, stop).await;
            ("status writer", Ok(()))
        });
        let stop = shutdown.clone();
        tasks.spawn(async move {
            life.run(stop).await;
            ("fleet", Ok(()))
        });
        let (rotation, stop) = (rotator.clone(), shutdown.clone());
        tasks.spawn(async move {
            rotation.run(stop).await;
            ("root rotation", Ok(()))
        });
        if let Some(files) = settings.pki.clone() {
            let (rotator, vault, stop) = (rotator.clone(), self.vault, shutdown.clone());
            tasks.spawn(async move {
                files.follow(rotator, vault, stop).await;
                ("files of the intermediate", Ok(()))
            });
        }
        let (revoker, stop) = (self.revoker, shutdown.clone());
        tasks.spawn(async move {
            revoker.run(stop).await;
            ("revocation", Ok(()))
        });
        let (authority, stop) = (self.authority, shutdown.clone());
        tasks.spawn(async move {
            authority.keep_fresh(stop).await;
            ("certificate renewal", Ok(()))
        });
        let (tokens, stop) = (self.tokens, shutdown.clone());
        tasks.spawn(async move {
            sweep_tokens(tokens, stop).await;
            ("join tokens", Ok(()))
        });
        Ok(tasks)
    }
}

/// The store in a data directory, or the one that is named.
///
/// # Errors
/// When it cannot be opened; the text says what to do.
pub async fn open_store(dir: &Path, named: Option<&EtcdSettings>) -> Result<Arc<dyn Store>, Error> {
    files::private_dir(dir).map_err(failed("cannot use the data directory"))?;
    if let Some(etcd) = named {
        let opened = Etcd::open(etcd.clone()).await;
        return Ok(Arc::new(opened.map_err(failed(format!("{etcd:?}")))?));
    }
    let path = dir.join("weft.redb");
    let opened = Embedded::open(&path, Options::default()).map_err(|error| {
        Error(format!(
            "cannot open {}: {error}; is another control plane running on this data directory?",
            path.display()
        ))
    });
    Ok(Arc::new(opened?))
}

/// Ends when this control plane leads no longer.
async fn deposed(store: &dyn Store) {
    if store.lead().wait_for(|lead| !lead.mine).await.is_err() {
        // Nobody is there who could take the lead.
        std::future::pending().await
    }
}

async fn first_compilation(mut compiled: watch::Receiver<Compiled>, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        first = compiled.wait_for(|c| c.generation > 0) => first.is_ok(),
        () = shutdown.cancelled() => false,
    }
}

async fn sweep_tokens(tokens: Tokens, shutdown: CancellationToken) {
    loop {
        if let Err(error) = tokens.sweep(SystemTime::now()).await {
            tracing::warn!(%error, "cannot remove expired join tokens");
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn write_public<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(failed("cannot write JSON"))?;
    files::write_public(path, &text).map_err(failed("cannot write"))
}

/// The range of cluster addresses, checked as a sidecar would.
fn range(cidr: &str) -> Result<weft_policy::config::Cidr, Error> {
    let world = crate::world::World {
        mesh: Mesh {
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            service_cidr: cidr.to_owned(),
            ..Mesh::default()
        },
        ..Default::default()
    };
    let settings = weft_policy::config::Settings::from_wire(&compile::mesh::settings(&world));
    let settings = settings.map_err(failed(format!("service range {cidr:?}")))?;
    settings.mesh_cidrs.first().copied().ok_or_else(|| Error(format!("service range {cidr:?}: is no range")))
}
