//! Reflectors: one for each kind over a `kube::Client`, the same against the embedded API and against a real one.
//!
//! [`Reflectors`] owns the watch tasks and the caches they fill, and gives a [`World`] on request: copies of the caches, which share what
//! they hold. Until every kind was listed once there is no world: a half-known one would withdraw what the other half holds.

use super::jwks;
use super::{Mesh, Route, Table, Text, Workload, World, created, status};
use crate::compile::Kind;
use crate::kinds::{
    self, AuthorizationPolicy, FederatedTrustDomain, MeshSettings, MeshTls, ROLLOUT, RateLimitPolicy,
    RequestAuthentication, Service, TrafficPolicy,
};
use futures_util::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A watch has ended before its kind was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a watch task has ended")]
pub struct Ended;

/// What is known of one kind, by "namespace/name".
struct Cache<V> {
    now: Mutex<Table<V>>,
    /// Whether it was listed once; its watch task is the one who says so.
    listed: watch::Receiver<bool>,
}

impl<V> Cache<V> {
    fn new() -> (Arc<Self>, watch::Sender<bool>) {
        let (say, listed) = watch::channel(false);
        (Arc::new(Self { now: Mutex::default(), listed }), say)
    }

    fn copy(&self) -> Table<V>
    where
        V: Clone,
    {
        self.now.lock().clone()
    }

    async fn ready(&self) -> Result<(), Ended> {
        self.listed.clone().wait_for(|listed| *listed).await.map(drop).map_err(|_| Ended)
    }
}

/// The caches and the tasks that fill them; dropping it ends the tasks.
pub struct Reflectors {
    services: Arc<Cache<Arc<Service>>>,
    workloads: Arc<Cache<Arc<Workload>>>,
    http: Arc<Cache<Arc<Route>>>,
    grpc: Arc<Cache<Arc<Route>>>,
    tls: Arc<Cache<Arc<Route>>>,
    tcp: Arc<Cache<Arc<Route>>>,
    traffic: Arc<Cache<Arc<TrafficPolicy>>>,
    authorization: Arc<Cache<Arc<AuthorizationPolicy>>>,
    federated: Arc<Cache<Arc<FederatedTrustDomain>>>,
    mesh_tls: Arc<Cache<Arc<MeshTls>>>,
    limits: Arc<Cache<Arc<RateLimitPolicy>>>,
    authentication: Arc<Cache<Arc<RequestAuthentication>>>,
    settings: Arc<Cache<Arc<MeshSettings>>>,
    jwks: jwks::Shared,
    changed: watch::Receiver<u64>,
    tasks: JoinSet<()>,
}

impl Reflectors {
    /// Starts watching every kind, and fetching the keys of issuers.
    #[must_use]
    pub fn start(client: &kube::Client, keys: jwks::Settings) -> Self {
        let mut tasks = JoinSet::new();
        let (dirty, changed) = watch::channel(0);
        let dirty = Arc::new(dirty);
        let authentication: Arc<Cache<Arc<RequestAuthentication>>> = typed(client, &mut tasks, &dirty);
        let jwks = jwks::Shared::default();
        let (cache, shared, changes, news) = (authentication.clone(), jwks.clone(), changed.clone(), dirty.clone());
        tasks.spawn(async move {
            let wanted = || jwks::addresses(cache.now.lock().iter().map(|(_, policy)| policy.as_ref()));
            jwks::follow(keys, wanted, shared, changes, || news.send_modify(|n| *n += 1)).await;
        });
        Self {
            services: typed(client, &mut tasks, &dirty),
            workloads: kept::<kinds::Workload, _>(
                client,
                &mut tasks,
                &dirty,
                |object, near: Option<&Arc<Workload>>| {
                    let workload = Workload::from(object);
                    Arc::new(match near {
                        Some(near) => workload.like(near),
                        None => workload,
                    })
                },
            ),
            http: routes(client, Kind::HttpRoute, &mut tasks, &dirty),
            grpc: routes(client, Kind::GrpcRoute, &mut tasks, &dirty),
            tls: routes(client, Kind::TlsRoute, &mut tasks, &dirty),
            tcp: routes(client, Kind::TcpRoute, &mut tasks, &dirty),
            traffic: typed(client, &mut tasks, &dirty),
            authorization: typed(client, &mut tasks, &dirty),
            federated: typed(client, &mut tasks, &dirty),
            mesh_tls: typed(client, &mut tasks, &dirty),
            limits: typed(client, &mut tasks, &dirty),
            authentication,
            settings: typed(client, &mut tasks, &dirty),
            jwks,
            changed,
            tasks,
        }
    }

    /// Changes with every event of any kind.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Waits until every kind was listed once.
    ///
    /// # Errors
    /// When a watch task has ended.
    pub async fn ready(&self) -> Result<(), Ended> {
        self.services.ready().await?;
        self.workloads.ready().await?;
        self.http.ready().await?;
        self.grpc.ready().await?;
        self.tls.ready().await?;
        self.tcp.ready().await?;
        self.traffic.ready().await?;
        self.authorization.ready().await?;
        self.federated.ready().await?;
        self.mesh_tls.ready().await?;
        self.limits.ready().await?;
        self.authentication.ready().await?;
        self.settings.ready().await
    }

    /// How many watch tasks are alive: all of them, or something is badly wrong.
    #[must_use]
    pub fn watching(&self) -> usize {
        self.tasks.len()
    }

    /// The world as it is known now.
    #[must_use]
    pub fn world(&self, mesh: &Mesh) -> World {
        World {
            mesh: mesh.clone(),
            services: self.services.copy(),
            workloads: self.workloads.copy(),
            http_routes: self.http.copy(),
            grpc_routes: self.grpc.copy(),
            tls_routes: self.tls.copy(),
            tcp_routes: self.tcp.copy(),
            traffic: self.traffic.copy(),
            authorization: self.authorization.copy(),
            federated: self.federated.copy(),
            mesh_tls: self.mesh_tls.copy(),
            limits: self.limits.copy(),
            authentication: self.authentication.copy(),
            settings: self.settings.copy(),
            jwks: self.jwks.lock().clone(),
        }
    }
}

/// A route as the mesh reads it.
pub(crate) fn route(kind: Kind, mut object: DynamicObject) -> Arc<Route> {
    let mut part = |name: &str| object.data.get_mut(name).map(serde_json::Value::take).unwrap_or_default();
    let (spec, status) = (part("spec"), part("status"));
    Arc::new(Route {
        kind,
        created: created(&object.metadata),
        rollout: object.metadata.annotations.as_mut().and_then(|all| all.remove(ROLLOUT)),
        namespace: object.metadata.namespace.unwrap_or_default(),
        name: object.metadata.name.unwrap_or_default(),
        uid: object.metadata.uid.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        spec: Text::from(&spec),
        status: Text::from(&status),
    })
}

type Dirty = Arc<watch::Sender<u64>>;

fn typed<K>(client: &kube::Client, tasks: &mut JoinSet<()>, dirty: &Dirty) -> Arc<Cache<Arc<K>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + PartialEq + Send + Sync + 'static,
{
    kept(client, tasks, dirty, |mut object: K, _| {
        // Who wrote what is most of an object, and nothing to the mesh.
        object.meta_mut().managed_fields = None;
        Arc::new(object)
    })
}

/// What is `made` of the objects of a kind, each with what it was before, or with another that is like it.
fn kept<K, V>(
    client: &kube::Client,
    tasks: &mut JoinSet<()>,
    dirty: &Dirty,
    made: impl Fn(K, Option<&Arc<V>>) -> Arc<V> + Send + 'static,
) -> Arc<Cache<Arc<V>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    V: PartialEq + Send + Sync + 'static,
{
    let (cache, listed) = Cache::new();
    let (api, kind) = (Api::<K>::all(client.clone()), K::kind(&()).into_owned());
    tasks.spawn(follow(api, cache.clone(), listed, made, dirty.clone(), kind));
    cache
}

fn routes(client: &kube::Client, kind: Kind, tasks: &mut JoinSet<()>, dirty: &Dirty) -> Arc<Cache<Arc<Route>>> {
    let (cache, listed) = Cache::new();
    let resource = status::resource(kind);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let made = move |object, _: Option<&Arc<Route>>| route(kind, object);
    tasks.spawn(follow(api, cache.clone(), listed, made, dirty.clone(), resource.kind));
    cache
}

/// Keeps a cache as the API is. A list that tells nothing new of an object leaves it as it was, so that nothing follows from it.
async fn follow<K, V>(
    api: Api<K>,
    cache: Arc<Cache<Arc<V>>>,
    listed: watch::Sender<bool>,
    made: impl Fn(K, Option<&Arc<V>>) -> Arc<V>,
    dirty: Dirty,
    kind: String,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: PartialEq,
{
    let name = |object: &K| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listing: Table<Arc<V>> = Table::default();
    let mut last: Option<Arc<V>> = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing = Table::default(),
            Ok(Event::InitApply(object)) => {
                let key = name(&object);
                let known = cache.now.lock().get(&key).cloned();
                let is = made(object, known.as_ref().or(last.as_ref()));
                let is = known.filter(|was| *was == is).unwrap_or(is);
                last = Some(is.clone());
                listing.insert(key, is);
            }
            Ok(Event::InitDone) => {
                *cache.now.lock() = std::mem::take(&mut listing);
                listed.send_replace(true);
                dirty.send_modify(|n| *n += 1);
            }
            Ok(Event::Apply(object)) => {
                let key = name(&object);
                let known = cache.now.lock().get(&key).cloned();
                let is = made(object, known.as_ref().or(last.as_ref()));
                last = Some(is.clone());
                drop(cache.now.lock().insert(key, is));
                dirty.send_modify(|n| *n += 1);
            }
            Ok(Event::Delete(object)) => {
                drop(cache.now.lock().remove(&name(&object)));
                dirty.send_modify(|n| *n += 1);
            }
            Err(error) => tracing::warn!(%kind, %error, "a watch failed and will be tried again"),
        }
    }
}
