//! The parts of a control plane that leads: opened and bound by [`Parts::open`], each running as a task by [`Parts::spawn`].

use super::listen::{self, Listeners};
use super::papers::{self, Named, accounts, api_authority, api_tls, vault};
use super::{Endpoints, Error, Settings, failed};
use crate::cluster::papers::Papers;
use crate::cluster::{known, rights, roots};
use crate::fleet::{ControlService, Fleet, Leases, Life, traffic, web};
use crate::grpc;
use crate::identity::service::Issue;
use crate::identity::{Audit, Authority, IdentityService, Ledger, Limiter, Reviewer, Revoker, Rotator, Tokens};
use crate::metrics::Metrics;
use crate::rollout::{Rollouts, conduct};
use crate::store::Store;
use crate::world::reconcile::{self, Compiled};
use crate::world::status::Spoken;
use crate::world::watch::Reflectors;
use crate::world::{Mesh, events, jwks, status};
use crate::xds::{Discovery, Hub, Pace};
use crate::{api, cluster, compile};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_certs::ca::Vault;
use weft_certs::{ApiCa, TrustDomain};
use weft_proto::v1::identity_server::IdentityServer;

/// Expired join tokens are removed this often.
const SWEEP: Duration = Duration::from_secs(3600);
/// How often what could not be kept is tried again.
const AGAIN: Duration = Duration::from_secs(5);

pub(super) type Tasks = JoinSet<(&'static str, Result<(), String>)>;

/// Everything opened and bound, nothing running yet.
pub(super) struct Parts {
    pub endpoints: Endpoints,
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
    /// The cluster whose objects are read, and where the keys are kept in it; `None`: the objects are the resource API's own.
    cluster: Option<(kube::Client, Papers)>,
    reserved: Option<weft_policy::config::Cidr>,
    leaf_lifetime: Duration,
    jwks: jwks::Settings,
    reviewer: Reviewer,
    rollouts: Arc<Rollouts>,
    /// Up to which their records are known.
    recorded: u64,
}

impl Parts {
    /// Opens everything; nothing runs yet.
    pub async fn open(
        settings: &Settings,
        store: Arc<dyn Store>,
        metrics: &Arc<Metrics>,
        listeners: &mut Listeners,
    ) -> Result<Self, Error> {
        let dir = &settings.data_dir;
        let trust_domain: TrustDomain =
            settings.trust_domain.parse().map_err(failed(format!("trust domain {:?}", settings.trust_domain)))?;
        let vault = vault(settings)?;
        let cluster = match &settings.kubernetes {
            Some(kubernetes) => {
                let client = kubernetes.cluster.client().await?;
                let papers = Papers::new(&client, &kubernetes.namespace, dir);
                papers.load().await.map_err(failed("keys of the mesh's authorities"))?;
                Some((client, papers))
            }
            None => None,
        };
        let ranges = match &settings.kubernetes {
            Some(kubernetes) => kubernetes.service_ranges.clone(),
            None => vec![settings.service_cidr.clone()],
        };
        let reserved = ranges.first().map(|first| range(first)).transpose()?;
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
            hosts: papers::names(&store.lead().borrow(), settings),
            cluster: settings.as_cluster,
            ..api::Settings::default()
        };
        let api = api::Api::open(store.clone(), api_settings).await.map_err(failed("resource API"))?;

        let rollouts = Arc::new(Rollouts::default());
        let recorded = conduct::load(&rollouts, &*store).await.map_err(failed("records of rollouts"))?;

        let reviewing = match (&settings.token_review, &cluster) {
            (Some(cluster), _) => cluster.client().await?,
            (None, Some((client, _))) => client.clone(),
            (None, None) => api::client(&api),
        };

        let endpoints = listeners.endpoints(&trust_domain);
        let (api_listener, grpc_listener) = (listeners.api()?, listeners.grpc()?);
        let clients = api_authority(dir, &vault, &endpoints.api)?;
        let called = papers::names(&store.lead().borrow(), settings);
        let api_tls = watch::Sender::new(api_tls(&clients, &called)?);
        let record = Arc::new(api::record::Record::open(&dir.join("audit")).map_err(failed("audit record"))?);
        api.keep_record(record.clone());
        api.count_in(metrics.clone());
        api.issue_tokens(accounts(dir, &vault, &settings.domain)?);
        if let (Some((client, papers)), Some(kubernetes)) = (&cluster, &settings.kubernetes) {
            papers.save().await.map_err(failed("the keys of the mesh's authorities cannot be kept"))?;
            let told = known::tell(client, &kubernetes.namespace, &clients.certificate_pem()).await;
            told.map_err(failed("the certificate of the API cannot be published"))?;
            api.stand_before(api::Front::new(client.clone(), kubernetes.cluster.bare_client().await?));
        }
        let grpc_tls = weft_certs::tls::server_config(
            authority.live(),
            weft_certs::tls::ClientAuth::Optional,
            &[weft_certs::tls::ALPN_GRPC],
        )
        .map_err(failed("gRPC TLS"))?;
        let mesh = Mesh {
            trust_domain: trust_domain.to_string(),
            domain: settings.domain.clone(),
            ranges: ranges.into(),
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
            cluster,
            reserved,
            leaf_lifetime: settings.leaf_lifetime,
            jwks: jwks::Settings { roots: Vec::new(), loopback_http: settings.jwks_loopback_http },
            reviewer: Reviewer::new(reviewing),
            rollouts,
            recorded,
        })
    }

    /// Starts everything; a part that ends before `shutdown` has failed.
    pub fn spawn(self, settings: &Settings, shutdown: &CancellationToken) -> Result<Tasks, Error> {
        let in_cluster = self.cluster.is_some();
        let client = match &self.cluster {
            Some((client, _)) => client.clone(),
            None => api::client(&self.api),
        };
        let spoken = Spoken::default();
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

        let (followed, stop, roles) = (self.api.clone(), shutdown.clone(), in_cluster.then(|| client.clone()));
        tasks.spawn(async move {
            match roles {
                Some(client) => rights::run(client, |grants| followed.grant(grants), stop).await,
                None => followed.follow_roles(&stop).await,
            }
            ("roles", Ok(()))
        });
        let named = Named {
            store: self.store.clone(),
            api: self.api.clone(),
            authority: self.clients,
            settings: settings.clone(),
        };
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
        if settings.as_cluster {
            // An API server and nothing else: what its objects mean is the business of who reads it.
            return Ok(tasks);
        }

        let (measured, offered, stop) = (hub.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            pace.follow(measured, offered, stop).await;
            ("pace of changes", Ok(()))
        });

        let issue = Issue {
            tokens: self.tokens.clone(),
            reviewer: self.reviewer,
            revoker: self.revoker.clone(),
            limiter: Limiter::new(settings.certificates_per_identity, self.leaf_lifetime),
            audit: self.audit,
        };
        let identity = IdentityService::new(self.authority.clone(), Arc::new(issue), client.clone(), self.reserved)
            .with_pods(in_cluster)
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
        let (rollouts, metrics, versions) = (self.rollouts, self.metrics, spoken.clone());
        tasks.spawn(async move {
            let reflectors = Reflectors::start(&watched, keys, &versions, in_cluster);
            let told = (&*offered, &*metrics);
            let ran = reconcile::run(&reflectors, mesh, trust, &rollouts, told, &publish, &stop).await;
            ("reconciler", ran)
        });
        let (to, of, stop) = (client.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            events::run(to, !in_cluster, of, stop).await;
            ("event writer", Ok(()))
        });
        let (of, by, stop) = (fleet.clone(), compiled.clone(), shutdown.clone());
        tasks.spawn(async move {
            traffic::names::follow(of, by, stop).await;
            ("summaries of traffic", Ok(()))
        });
        let (convergence, stop) = (hub.convergence().clone(), shutdown.clone());
        tasks.spawn(async move {
            status::run(client, spoken, compiled, convergence, stop).await;
            ("status writer", Ok(()))
        });
        if let Some((client, papers)) = self.cluster {
            let (authority, stop) = (self.authority.clone(), shutdown.clone());
            tasks.spawn(async move {
                keep_papers(papers, authority, stop).await;
                ("keys in the cluster", Ok(()))
            });
            let (asked, stop) = (client.clone(), shutdown.clone());
            tasks.spawn(async move {
                cluster::follow_gateway_api(asked, stop).await;
                ("look at the Gateway API", Ok(()))
            });
            let (authority, stop) = (self.authority.clone(), shutdown.clone());
            tasks.spawn(async move {
                tell_roots(client, authority, stop).await;
                ("roots in the cluster", Ok(()))
            });
        }
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

/// Keeps in the cluster what becomes of the authorities, as often as something does.
async fn keep_papers(papers: Papers, authority: Arc<Authority>, shutdown: CancellationToken) {
    let mut trust = authority.trust();
    loop {
        let kept = papers.save().await;
        if let Err(error) = &kept {
            tracing::error!(%error, "the keys of the mesh's authorities cannot be kept: they would be lost with this pod");
        }
        tokio::select! {
            changed = trust.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if kept.is_err() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Tells pods the roots.
async fn tell_roots(client: kube::Client, authority: Arc<Authority>, shutdown: CancellationToken) {
    let mut trust = authority.trust();
    let (say, roots) = watch::channel(authority.ca().bundle().to_pem());
    let following = async {
        while trust.changed().await.is_ok() {
            say.send_replace(authority.ca().bundle().to_pem());
        }
    };
    tokio::select! {
        () = roots::run(client, roots, shutdown.clone()) => {}
        () = following => shutdown.cancelled().await,
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

/// The range of cluster addresses, checked as a sidecar would.
fn range(cidr: &str) -> Result<weft_policy::config::Cidr, Error> {
    let world = crate::world::World {
        mesh: Mesh {
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            ranges: Arc::new([cidr.to_owned()]),
            ..Mesh::default()
        },
        ..Default::default()
    };
    let settings = weft_policy::config::Settings::from_wire(&compile::mesh::settings(&world));
    let settings = settings.map_err(failed(format!("service range {cidr:?}")))?;
    settings.mesh_cidrs.first().copied().ok_or_else(|| Error(format!("service range {cidr:?}: is no range")))
}
