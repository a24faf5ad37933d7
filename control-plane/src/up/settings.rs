//! What a control plane is told when it starts, with its defaults. What becomes of each is decided where it is used.

use super::{Error, failed};
use crate::fleet::prometheus::Prometheus;
use crate::identity::{limiter, pki};
use crate::store::EtcdSettings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What `weft up` is told. Every field has the default that [`Settings::default`] gives it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where state lives (0700): `./.weft`.
    pub data_dir: PathBuf,
    /// gRPC listener (xDS, identity, control streams): `127.0.0.1:15010`. Port 0: ephemeral on the first start, remembered after.
    pub grpc: SocketAddr,
    /// Resource API listener (TLS): `127.0.0.1:15080`. Port 0 as above.
    pub api: SocketAddr,
    /// Trust domain of the mesh: `weft.local`.
    pub trust_domain: String,
    /// Cluster domain, the last part of service names: `cluster.local`.
    pub domain: String,
    /// Range (CIDR) from which Services get their cluster addresses: `198.18.0.0/16` (RFC 2544, never routed on the Internet).
    pub service_cidr: String,
    /// Whether only services of the mesh and registered hosts may be called from inside: `false`, the rest passes.
    pub registered_only: bool,
    /// How long a workload stays in discovery after its control stream was lost: 10 s.
    pub stream_grace: Duration,
    /// Validity of workloads' certificates, 10 s to 24 h: 24 h.
    pub leaf_lifetime: Duration,
    /// Keys of issuers are fetched over plain HTTP too where their address is loopback: false.
    pub jwks_loopback_http: bool,
    /// Holds the passphrase with which the keys of the CAs are encrypted: none, they are kept in the clear (0600).
    pub ca_key_passphrase_file: Option<PathBuf>,
    /// The intermediate of an existing PKI, which signs instead of one of the control plane's own.
    pub pki: Option<pki::Files>,
    /// The API server that says what service-account tokens are worth: the control plane's own, where none is named.
    pub token_review: Option<Cluster>,
    /// Objects are in this etcd, which other control planes may use too: none, they are in the data directory.
    pub store: Option<EtcdSettings>,
    /// Certificates that one identity may have in half of their lifetime, and at once: 1000.
    pub certificates_per_identity: u32,
    /// Asked for ranges longer than the hour that is kept: none.
    pub prometheus: Option<Arc<Prometheus>>,
    /// The cluster whose objects are read: none, they are the resource API's own.
    pub kubernetes: Option<Kubernetes>,
    /// Whether the resource API stands for that of a Kubernetes cluster, with kinds of one: false.
    pub as_cluster: bool,
    /// After a start of the control plane no workload is withdrawn for a lost stream during this time: 30 s.
    pub start_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./.weft"),
            grpc: SocketAddr::from(([127, 0, 0, 1], 15010)),
            api: SocketAddr::from(([127, 0, 0, 1], 15080)),
            trust_domain: "weft.local".into(),
            domain: "cluster.local".into(),
            service_cidr: "198.18.0.0/16".into(),
            registered_only: false,
            stream_grace: Duration::from_secs(10),
            leaf_lifetime: weft_certs::ca::SVID_VALIDITY,
            jwks_loopback_http: false,
            ca_key_passphrase_file: None,
            pki: None,
            token_review: None,
            store: None,
            certificates_per_identity: limiter::DEFAULT,
            prometheus: None,
            kubernetes: None,
            as_cluster: false,
            start_grace: Duration::from_secs(30),
        }
    }
}

/// A control plane of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// How it is reached.
    pub cluster: Cluster,
    /// The control plane's own namespace, where its Lease and its Secrets are.
    pub namespace: String,
    /// What it calls itself among those that stand for the lead: the name of its pod.
    pub replica: String,
    /// Where the others reach it, where it listens on all addresses: that of its pod.
    pub address: Option<std::net::IpAddr>,
    /// Ranges of Services' cluster addresses, besides those that the cluster says.
    pub service_ranges: Vec<String>,
}

/// A Kubernetes cluster, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The one whose pod this process is in.
    Own,
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
}

impl Cluster {
    /// With the credentials of this process.
    pub(super) async fn client(&self) -> Result<kube::Client, Error> {
        kube::Client::try_from(self.config().await?).map_err(failed("Kubernetes client"))
    }

    /// Without any: for who brings their own.
    pub(super) async fn bare_client(&self) -> Result<kube::Client, Error> {
        let mut config = self.config().await?;
        config.auth_info = kube::config::AuthInfo::default();
        kube::Client::try_from(config).map_err(failed("Kubernetes client"))
    }

    async fn config(&self) -> Result<kube::Config, Error> {
        use kube::config::{Config, KubeConfigOptions, Kubeconfig};
        let mut config = match self {
            Self::Own => Config::incluster().map_err(failed("this process is in no pod of a cluster"))?,
            Self::Kubeconfig(path) => {
                let at = || format!("kubeconfig {}", path.display());
                let read = Kubeconfig::read_from(path).map_err(failed(at()))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(failed(at()))?
            }
        };
        config.connect_timeout = Some(CLUSTER);
        // Longer than a watch is silent; who waits for an answer says how long.
        config.read_timeout = Some(SILENT);
        Ok(config)
    }
}

/// How long the API server of a cluster may take to accept a connection.
const CLUSTER: Duration = Duration::from_secs(5);
/// How long a watch may say nothing: it ends by itself before.
const SILENT: Duration = Duration::from_secs(295);
