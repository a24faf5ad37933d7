//! Reflectors: one for each kind over a `kube::Client`, the same against the embedded API and against a real one.
//!
//! [`Reflectors`] owns the watch tasks and the caches they fill, and gives a [`World`] on request: copies of the caches, which share what
//! they hold. Until every kind was listed once there is no world: a half-known one would withdraw what the other half holds.

use super::cluster::{self, ranges::Ranges, slice::Slice};
use super::keep::{Cache, Place, Shared, Watched, follow};
use super::status::{self, Spoken};
use super::{Mesh, Origin, Route, Table, Text, Workload, World, created, jwks};
use crate::compile::Kind;
use crate::kinds::{
    self, AuthorizationPolicy, EndpointSlice, FederatedTrustDomain, MeshSettings, MeshTls, ROLLOUT, RateLimitPolicy,
    RequestAuthentication, Service, TrafficPolicy,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Resource;
use kube::api::{Api, DynamicObject};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_policy::config::Cidr;

pub use super::keep::Ended;

/// Label of nodes: the zone that they are in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Ranges of Services' addresses as a cluster says them.
type Declared = Arc<Cache<Arc<[Cidr]>>>;

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
    /// Ranges of a cluster's addresses; `None`: they are the mesh's own.
    ranges: Option<(Declared, Mutex<Ranges>)>,
    changed: watch::Receiver<u64>,
    tasks: Tasks,
}

impl Reflectors {
    /// Starts watching every kind, and fetching the keys of issuers. In a cluster, its pods are workloads too. `spoken` learns which versions there are.
    #[must_use]
    pub fn start(client: &kube::Client, keys: jwks::Settings, spoken: &Spoken, in_cluster: bool) -> Self {
        let (dirty, changed) = watch::channel(0);
        let mut tasks =
            Tasks { client: client.clone(), dirty: Arc::new(dirty), set: JoinSet::new(), listed: Vec::new() };
        let authentication: Arc<Cache<Arc<RequestAuthentication>>> = tasks.typed();
        let jwks = jwks::Shared::default();
        let (cache, shared, changes) = (authentication.clone(), jwks.clone(), changed.clone());
        let news = tasks.dirty.clone();
        tasks.set.spawn(async move {
            let wanted = || jwks::addresses(cache.copy().iter().map(|(_, policy)| policy.as_ref()));
            jwks::follow(keys, wanted, shared, changes, || news.send_modify(|n| *n += 1)).await;
        });
        let workloads = Arc::new(Cache::default());
        tasks.workloads(&workloads);
        tasks.slices(&workloads);
        let ranges = in_cluster.then(|| {
            tasks.pods(&workloads);
            (tasks.service_ranges(), Mutex::default())
        });
        Self {
            services: tasks.typed(),
            workloads,
            http: tasks.routes(Kind::HttpRoute, spoken),
            grpc: tasks.routes(Kind::GrpcRoute, spoken),
            tls: tasks.routes(Kind::TlsRoute, spoken),
            tcp: tasks.routes(Kind::TcpRoute, spoken),
            traffic: tasks.typed(),
            authorization: tasks.typed(),
            federated: tasks.typed(),
            mesh_tls: tasks.typed(),
            limits: tasks.typed(),
            authentication,
            settings: tasks.typed(),
            jwks,
            ranges,
            changed,
            tasks,
        }
    }

    /// Changes with every event of any kind.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Waits until every kind was listed once, or is known not to be served.
    ///
    /// # Errors
    /// When a watch task has ended.
    pub async fn ready(&self) -> Result<(), Ended> {
        for listed in &self.tasks.listed {
            listed.clone().wait_for(|listed| *listed).await.map_err(|_| Ended)?;
        }
        Ok(())
    }

    /// How many watch tasks are alive: all of them, or something is badly wrong.
    #[must_use]
    pub fn watching(&self) -> usize {
        self.tasks.set.len()
    }

    /// The world as it is known now.
    #[must_use]
    pub fn world(&self, mesh: &Mesh) -> World {
        let (mut mesh, services, workloads) = (mesh.clone(), self.services.copy(), self.workloads.copy());
        if let Some((declared, ranges)) = &self.ranges {
            let said = declared.copy().values().flat_map(|ranges| ranges.iter().copied()).collect();
            let own = mesh.ranges.iter().filter_map(|range| range.parse().ok());
            let declared: Vec<Cidr> = own.chain(Vec::into_iter(said)).collect();
            mesh.ranges = ranges.lock().update(declared, &workloads, &services);
        }
        World {
            mesh,
            services,
            workloads,
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

/// The watches, as they are begun.
struct Tasks {
    client: kube::Client,
    dirty: Arc<watch::Sender<u64>>,
    set: JoinSet<()>,
    listed: Vec<watch::Receiver<bool>>,
}

impl Tasks {
    fn watched<K>(&mut self, kind: &str, versions: Vec<Api<K>>) -> Watched<K> {
        let (listed, is_listed) = watch::channel(false);
        self.listed.push(is_listed);
        Watched { kind: kind.to_owned(), versions, spoken: Box::new(|_| {}), dirty: self.dirty.clone(), listed }
    }

    /// Every object of a kind that has one version.
    fn follow<K, V>(
        &mut self,
        place: impl Place<V> + 'static,
        made: impl Fn(K, Option<&V>) -> Option<V> + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        V: PartialEq + Clone + Send + Sync + 'static,
    {
        let watched = self.watched(&K::kind(&()), vec![Api::<K>::all(self.client.clone())]);
        self.set.spawn(follow(watched, place, made));
    }

    fn typed<K>(&mut self) -> Arc<Cache<Arc<K>>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + PartialEq + Send + Sync + 'static,
    {
        let cache = Arc::new(Cache::default());
        self.follow(cache.clone(), |mut object: K, _: Option<&Arc<K>>| {
            // Who wrote what is most of an object, and nothing to the mesh.
            object.meta_mut().managed_fields = None;
            Some(Arc::new(object))
        });
        cache
    }

    fn routes(&mut self, kind: Kind, spoken: &Spoken) -> Arc<Cache<Arc<Route>>> {
        let cache = Arc::new(Cache::default());
        let versions = status::versions(kind);
        let apis = versions.iter().map(|resource| Api::all_with(self.client.clone(), resource)).collect();
        let (said, to) = (versions, spoken.clone());
        let spoken = Box::new(move |version: Option<usize>| to.say(kind, version.and_then(|at| said.get(at))));
        let watched = Watched { spoken, ..self.watched::<DynamicObject>(kind.name(), apis) };
        self.set.spawn(follow(watched, cache.clone(), move |object, _: Option<&Arc<Route>>| Some(route(kind, object))));
        cache
    }

    fn workloads(&mut self, all: &Arc<Cache<Arc<Workload>>>) {
        let place = Shared { cache: all.clone(), owns: |workload: &Arc<Workload>| workload.origin == Origin::Object };
        self.follow(place, |object: kinds::Workload, near| Some(like(Workload::from(object), near)));
    }

    fn pods(&mut self, all: &Arc<Cache<Arc<Workload>>>) {
        let nodes: Arc<Cache<Arc<str>>> = Arc::new(Cache::default());
        self.follow(nodes.clone(), |node: Node, _| {
            node.metadata.labels.and_then(|mut labels| labels.remove(ZONE)).map(Into::into)
        });
        let place = Shared { cache: all.clone(), owns: |workload: &Arc<Workload>| workload.origin == Origin::Pod };
        let known = self.listed.last().cloned();
        let watched = self.watched(&Pod::kind(&()), vec![Api::<Pod>::all(self.client.clone())]);
        self.set.spawn(async move {
            // Where nodes are comes first: a pod stays on the one that it was given to.
            if let Some(mut known) = known {
                let _ = known.wait_for(|listed| *listed).await;
            }
            let zone = move |node: &str| nodes.get(&format!("/{node}"));
            follow(watched, place, move |pod: Pod, near| {
                cluster::pod::workload(pod, &zone).map(|workload| like(workload, near))
            })
            .await;
        });
    }

    fn slices(&mut self, all: &Arc<Cache<Arc<Workload>>>) {
        let into = Shared { cache: all.clone(), owns: |workload: &Arc<Workload>| workload.origin == Origin::Slice };
        self.follow(Spread { slices: Table::default(), into }, |slice: EndpointSlice, _| {
            Some(Arc::new(cluster::slice::workloads(slice)))
        });
    }

    fn service_ranges(&mut self) -> Declared {
        let cache = Arc::new(Cache::default());
        self.follow(cache.clone(), |range: ServiceCIDR, _| {
            let texts = range.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
            Some(texts.iter().filter_map(|text| text.parse().ok()).collect())
        });
        cache
    }
}

fn like(workload: Workload, near: Option<&Arc<Workload>>) -> Arc<Workload> {
    Arc::new(match near {
        Some(near) => workload.like(near),
        None => workload,
    })
}

/// Slices, each of which is several workloads.
struct Spread {
    slices: Table<Arc<Slice>>,
    into: Shared<Arc<Workload>>,
}

impl Spread {
    fn spread(&mut self, was: Option<Arc<Slice>>, is: Option<&Arc<Slice>>) {
        let is = is.map(|slice| slice.0.as_slice()).unwrap_or_default();
        for (uid, _) in was.iter().flat_map(|slice| &slice.0) {
            if !is.iter().any(|(kept, _)| kept == uid) {
                self.into.put(uid.clone(), None);
            }
        }
        is.iter().for_each(|(uid, workload)| self.into.put(uid.clone(), Some(workload.clone())));
    }
}

impl Place<Arc<Slice>> for Spread {
    fn get(&self, key: &str) -> Option<Arc<Slice>> {
        self.slices.get(key).cloned()
    }

    fn put(&mut self, key: String, value: Option<Arc<Slice>>) {
        let was = match value.clone() {
            Some(value) => self.slices.insert(key, value),
            None => self.slices.remove(&key),
        };
        self.spread(was, value.as_ref());
    }

    fn replace(&mut self, all: Table<Arc<Slice>>) {
        let was = std::mem::replace(&mut self.slices, all.clone());
        let gone = was.iter().filter(|(key, _)| !all.contains_key(key));
        let gone: Vec<Arc<Slice>> = gone.map(|(_, slice)| slice.clone()).collect();
        gone.into_iter().for_each(|slice| self.spread(Some(slice), None));
        all.iter().for_each(|(key, slice)| self.spread(was.get(key).cloned(), Some(slice)));
    }

    fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }
}
