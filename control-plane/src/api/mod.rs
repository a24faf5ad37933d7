//! The Kubernetes resource API, served by Weft itself where there is no Kubernetes: kubectl, client libraries and GitOps tools work
//! against it.
//!
//! One request goes one way: [`server`] (TLS, who calls) → `route` (what is asked) → `door` (who may) → `resource` (verbs) → `object`, `schema`,
//! `patch`, `apply` (what the object becomes) → [`crate::store`]. What was written, commanded or refused goes into the [`record`]. The reconcilers of this process take the same way through [`client`], without a network.
//! What a kind is, is said in [`crate::kinds`]; nothing here knows what the mesh does with an object.

pub mod access;
pub mod accounts;
mod address;
mod apply;
mod discovery;
mod door;
mod failure;
mod front;
mod holding;
mod json;
mod object;
mod openapi;
mod patch;
mod protobuf;
pub mod record;
mod resource;
mod reviews;
mod rights;
mod route;
mod schema;
mod selector;
mod served;
pub mod server;
mod table;
mod watch;

use std::{sync::Arc, time::Duration};

pub use front::Front;
pub use holding::Holding;

use axum::body::Body;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::rbac::User;
use crate::store::{Store, StoreError};

/// What the API is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Range (IPv4 CIDR) from which Services get their cluster addresses.
    pub service_cidr: String,
    /// Names by which the server may be called besides `localhost` and loopback addresses (`Host`, without port).
    pub hosts: Vec<String>,
    /// Whether it stands for the API of a Kubernetes cluster, with kinds of one: false. For trying what reads a cluster.
    pub cluster: bool,
    /// Bytes of a request's body: 3 MiB, as Kubernetes has it.
    pub max_body: usize,
    /// Watches open at once: 1024.
    pub max_watches: usize,
    /// Connections open at once: 512.
    pub max_connections: usize,
    /// How long a request that is no watch may take, its body included: 30 s.
    pub deadline: Duration,
    /// How long a watch lasts at most, whatever it asks for: 1 h.
    pub max_watch: Duration,
    /// How often a watch that allows bookmarks gets one: 30 s.
    pub bookmarks: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_cidr: "198.18.0.0/16".into(),
            hosts: Vec::new(),
            cluster: false,
            max_body: 3 << 20,
            max_watches: 1024,
            max_connections: 512,
            deadline: Duration::from_secs(30),
            max_watch: Duration::from_secs(3600),
            bookmarks: Duration::from_secs(30),
        }
    }
}

/// Who sent a request. It travels as an extension of the request, which only [`server`] and [`client`] set: nothing that comes over the
/// network can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Presented no certificate: may ask for health and version only, unless it brings a token.
    Anonymous,
    /// The control plane itself.
    Control,
    /// Known by a client certificate.
    Known(Arc<User>),
}

/// Where a request came from; set by [`server`] alone, as the [`Caller`] is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub std::net::SocketAddr);

/// The group (organization of a client certificate) whose members may do everything.
pub const ADMIN_GROUP: &str = crate::rbac::MASTERS;
/// Whom [`client`] acts as.
pub const CONTROL: &str = "system:weft-control";

/// Why the API did not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The resource API over a store. Cheap to clone.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    store: Arc<dyn Store>,
    settings: Settings,
    /// The settings' own names, or those of [`Api::is_called`].
    hosts: parking_lot::RwLock<Vec<String>>,
    addresses: address::Range,
    watches: Arc<Semaphore>,
    /// Serialises what must look at many objects before it writes: addresses of Services, namespaces that go.
    exclusive: tokio::sync::Mutex<()>,
    rights: rights::Rights,
    /// Tokens of service accounts; without it there are none.
    accounts: std::sync::OnceLock<accounts::Accounts>,
    /// What is written down of requests; without it nothing.
    record: std::sync::OnceLock<Arc<record::Record>>,
    /// The cluster whose objects are meant, where they are not this API's own.
    front: std::sync::OnceLock<Front>,
    /// What is counted of requests; without it nothing.
    metrics: std::sync::OnceLock<Arc<crate::metrics::Metrics>>,
    /// Other pages of the same server, under `/weft/`, and `/metrics`.
    pages: std::sync::OnceLock<axum::Router>,
}

impl Api {
    /// The API over a store; makes the namespace `default` and the roles of the first start where they are missing.
    ///
    /// # Errors
    /// When a setting makes no sense or the store fails.
    pub async fn open(store: Arc<dyn Store>, settings: Settings) -> Result<Self, Error> {
        let addresses = settings.service_cidr.parse().map_err(Error::Settings)?;
        let watches = Arc::new(Semaphore::new(settings.max_watches));
        let api = Self(Arc::new(Inner {
            store,
            hosts: settings.hosts.clone().into(),
            settings,
            addresses,
            watches,
            exclusive: tokio::sync::Mutex::new(()),
            rights: rights::Rights::default(),
            accounts: std::sync::OnceLock::new(),
            record: std::sync::OnceLock::new(),
            front: std::sync::OnceLock::new(),
            metrics: std::sync::OnceLock::new(),
            pages: std::sync::OnceLock::new(),
        }));
        resource::ensure_namespace(&api.0, "default").await?;
        rights::bootstrap(&api.0).await?;
        Ok(api)
    }

    /// Counts the requests that come over the network. Only the first call counts.
    pub fn count_in(&self, metrics: Arc<crate::metrics::Metrics>) {
        drop(self.0.metrics.set(metrics));
    }

    /// Serves other pages under `/weft/`, and `/metrics`, to those whose roles name them (`door`). A request brings a [`crate::rbac::Asking`] along. Only the
    /// first call counts.
    pub fn mount(&self, pages: axum::Router) {
        drop(self.0.pages.set(pages));
    }

    /// From now on these are the names by which it may be called, as [`Settings::hosts`] says them.
    pub fn is_called(&self, hosts: Vec<String>) {
        *self.0.hosts.write() = hosts;
    }

    /// Serves a cluster's objects instead of its own, and believes the cluster's tokens. Only the first call counts.
    pub fn stand_before(&self, front: Front) {
        drop(self.0.front.set(front));
    }

    /// Puts in force what the roles of elsewhere come to.
    pub fn grant(&self, grants: Arc<crate::rbac::Grants>) {
        self.0.rights.put(grants);
    }

    /// Makes tokens of service accounts, and believes them. Only the first call counts.
    pub fn issue_tokens(&self, accounts: accounts::Accounts) {
        drop(self.0.accounts.set(accounts));
    }

    /// Writes down what is asked. Only the first call counts.
    pub fn keep_record(&self, record: Arc<record::Record>) {
        drop(self.0.record.set(record));
    }

    /// Follows the roles and bindings that other replicas write, until `shutdown`; those that come through this API are in force at once.
    pub async fn follow_roles(&self, shutdown: &CancellationToken) {
        self.0.rights.follow(&*self.0.store, shutdown).await;
    }

    /// Answers one request. The caller is the request's [`Caller`] extension; without one it is anonymous.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        route::handle(&self.0, request).await
    }
}

/// A client of this very process: the same requests and answers as over the network, as `system:weft-control`. Its default namespace is
/// `default`.
pub fn client(api: &Api) -> kube::Client {
    let api = api.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let api = api.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Caller::Control);
            Ok::<_, std::convert::Infallible>(api.handle(request).await)
        }
    });
    kube::Client::new(service, "default")
}
