//! Reflectors: one for each kind over a `kube::Client`, the same against the embedded API and against a real one.
//!
//! [`Reflectors`] owns the watch tasks and the caches they fill, and builds a [`World`] on request. Until every kind was listed once there
//! is no world: a half-known one would withdraw what the other half holds.

use super::{Mesh, Route, World, created};
use crate::compile::Kind;
use crate::kinds::{AuthorizationPolicy, GrpcRoute, HttpRoute, MeshTls, Service, TrafficPolicy, Workload};
use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The caches and the tasks that fill them; dropping it ends the tasks.
pub struct Reflectors {
    services: Store<Service>,
    workloads: Store<Workload>,
    http: Store<DynamicObject>,
    grpc: Store<DynamicObject>,
    traffic: Store<TrafficPolicy>,
    authorization: Store<AuthorizationPolicy>,
    mesh_tls: Store<MeshTls>,
    changed: watch::Receiver<u64>,
    tasks: JoinSet<()>,
}

impl Reflectors {
    /// Starts watching every kind.
    #[must_use]
    pub fn start(client: &kube::Client) -> Self {
        let mut tasks = JoinSet::new();
        let (dirty, changed) = watch::channel(0);
        let dirty = Arc::new(dirty);
        Self {
            services: typed(client, &mut tasks, &dirty),
            workloads: typed(client, &mut tasks, &dirty),
            http: raw(client, &ApiResource::erase::<HttpRoute>(&()), &mut tasks, &dirty),
            grpc: raw(client, &ApiResource::erase::<GrpcRoute>(&()), &mut tasks, &dirty),
            traffic: typed(client, &mut tasks, &dirty),
            authorization: typed(client, &mut tasks, &dirty),
            mesh_tls: typed(client, &mut tasks, &dirty),
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
    pub async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.services.wait_until_ready().await?;
        self.workloads.wait_until_ready().await?;
        self.http.wait_until_ready().await?;
        self.grpc.wait_until_ready().await?;
        self.traffic.wait_until_ready().await?;
        self.authorization.wait_until_ready().await?;
        self.mesh_tls.wait_until_ready().await
    }

    /// How many watch tasks are alive: all of them, or something is badly wrong.
    #[must_use]
    pub fn watching(&self) -> usize {
        self.tasks.len()
    }

    /// The world as it is known now.
    #[must_use]
    pub fn world(&self, mesh: &Mesh) -> World {
        let mut world = World {
            mesh: mesh.clone(),
            services: by_name(&self.services),
            workloads: by_name(&self.workloads),
            routes: Vec::new(),
            traffic: by_name(&self.traffic),
            authorization: by_name(&self.authorization),
            mesh_tls: by_name(&self.mesh_tls),
        };
        for (kind, store) in [(Kind::HttpRoute, &self.http), (Kind::GrpcRoute, &self.grpc)] {
            world.routes.extend(store.state().iter().map(|object| route(kind, object)));
        }
        world.sort_routes();
        world
    }
}

fn route(kind: Kind, object: &DynamicObject) -> Route {
    Route {
        kind,
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        created: created(&object.metadata),
        spec: object.data.get("spec").cloned().unwrap_or_default(),
        status: object.data.get("status").cloned().unwrap_or_default(),
    }
}

fn by_name<K>(store: &Store<K>) -> BTreeMap<String, Arc<K>>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    let name =
        |object: &Arc<K>| format!("{}/{}", object.namespace().unwrap_or_default(), object.name().unwrap_or_default());
    store.state().into_iter().map(|object| (name(&object), object)).collect()
}

fn typed<K>(client: &kube::Client, tasks: &mut JoinSet<()>, dirty: &Arc<watch::Sender<u64>>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    tasks.spawn(follow(Api::<K>::all(client.clone()), writer, dirty.clone(), K::kind(&()).into_owned()));
    reader
}

fn raw(
    client: &kube::Client,
    resource: &ApiResource,
    tasks: &mut JoinSet<()>,
    dirty: &Arc<watch::Sender<u64>>,
) -> Store<DynamicObject> {
    let writer = reflector::store::Writer::new(resource.clone());
    let reader = writer.as_reader();
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    tasks.spawn(follow(api, writer, dirty.clone(), resource.kind.clone()));
    reader
}

async fn follow<K>(api: Api<K>, writer: reflector::store::Writer<K>, dirty: Arc<watch::Sender<u64>>, kind: String)
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => dirty.send_modify(|n| *n += 1),
            Err(error) => tracing::warn!(%kind, %error, "a watch failed and will be tried again"),
        }
    }
}
