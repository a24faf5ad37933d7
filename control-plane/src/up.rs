//! `weft up`: starts the whole control plane in one process and ends it in order.
//!
//! Owns the data directory's layout (`weft.redb`, `identity/`, `audit/`, `api/`, `kubeconfig`, `ports.json`, `endpoints.json`), the listeners and
//! their remembered ports, and the signals. What the parts do is theirs; this file only wires them.

mod listen;
mod papers;
mod parts;
mod relay;
mod settings;
mod stand_by;
mod webhook;

pub use settings::{Cluster, Kubernetes, Settings};

use crate::metrics::Metrics;
use crate::store::{self, Embedded, Etcd, EtcdSettings, Measured, Options, Store};
use listen::Listeners;
use parts::Parts;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use webhook::Webhook;
use weft_certs::files;
use weft_resident::Quiet;

/// How long parts may take to end once they are told to.
const DRAIN: Duration = Duration::from_secs(10);
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
    let webhook = Webhook::start(&settings, &*store).await?;
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
    if let Some(webhook) = webhook {
        webhook.end().await;
    }
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
    if let Some(kubernetes) = &settings.kubernetes {
        let listeners = Listeners::bind(settings).await?;
        let client = kubernetes.cluster.client().await?;
        let own = store::kubernetes::Settings {
            namespace: kubernetes.namespace.clone(),
            replica: kubernetes.replica.clone(),
            serves: Some(listeners.place),
            options: Options::default(),
        };
        return Ok((Arc::new(store::Kubernetes::open(&client, own)), listeners));
    }
    let Some(etcd) = &settings.store else {
        // First: it says whether another control plane runs on this directory.
        let store = open_store(dir, None).await?;
        return Ok((store, Listeners::bind(settings).await?));
    };
    let listeners = Listeners::bind(settings).await?;
    let place = listeners.place;
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

fn write_public<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(failed("cannot write JSON"))?;
    files::write_public(path, &text).map_err(failed("cannot write"))
}
