//! `weft up`: flags to settings, logging, and then the control plane's own `run`. What a control plane does is not here.

use crate::failure::Failure;
use crate::output;
use crate::store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use weft_control::fleet::prometheus::Prometheus;
use weft_control::identity::pki::Files;
use weft_control::up::{Cluster, Kubernetes, Settings};

/// Flags of `weft up`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the control plane keeps its state, its keys and the kubeconfig
    #[arg(long, env = "WEFT_DATA_DIR", default_value = "./.weft", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where sidecars connect; port 0 takes any free one and keeps it over restarts
    #[arg(long, default_value = "127.0.0.1:15010", value_name = "IP:PORT")]
    grpc: SocketAddr,
    /// Where the resource API listens (TLS); port 0 as above
    #[arg(long, default_value = "127.0.0.1:15080", value_name = "IP:PORT")]
    api: SocketAddr,
    /// Trust domain of the identities that this mesh issues
    #[arg(long, default_value = "weft.local", value_name = "DOMAIN")]
    trust_domain: String,
    /// Last part of the full names of services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// Range from which Services get their addresses; with --kubernetes, ranges from which they do, between commas
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// What programs in the mesh may call outside it, where their sidecars intercept every connection
    #[arg(long, value_enum, default_value = "pass-through", value_name = "MODE")]
    egress: Egress,
    /// How long workloads' certificates are valid, 10s to 24h; sidecars renew them in time
    #[arg(long, default_value = "24h", value_parser = lifetime, value_name = "DURATION")]
    leaf_lifetime: Duration,
    /// Fetch keys of token issuers also over plain HTTP where their address is loopback
    #[arg(long)]
    jwks_loopback_http: bool,
    /// Sign with an intermediate of an existing PKI: its certificate, then those above it, without the root (PEM); watched
    #[arg(long, value_name = "FILE", requires_all = ["ca_key", "ca_roots"])]
    ca_chain: Option<PathBuf>,
    /// The intermediate's private key (PEM, 0600); watched
    #[arg(long, value_name = "FILE", requires = "ca_chain")]
    ca_key: Option<PathBuf>,
    /// The roots of the trust domain (PEM); watched
    #[arg(long, value_name = "FILE", requires = "ca_chain")]
    ca_roots: Option<PathBuf>,
    /// File (0600) whose first line is the passphrase that the keys of the CAs are encrypted with; those in the clear are encrypted
    #[arg(long, value_name = "FILE")]
    ca_key_passphrase_file: Option<PathBuf>,
    /// Have a Kubernetes API server review service-account tokens: a kubeconfig, or in-cluster [default: the control plane's own API]
    #[arg(long, value_name = "FILE|in-cluster", value_parser = cluster)]
    token_review: Option<Cluster>,
    /// Read the objects of a Kubernetes cluster, and keep there what must last: --kubernetes in a pod, --kubernetes=KUBECONFIG elsewhere
    #[arg(
        long,
        env = "WEFT_KUBERNETES",
        value_name = "KUBECONFIG",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = IN_CLUSTER,
        value_parser = cluster,
        conflicts_with_all = ["store", "ca_chain", "as_cluster"]
    )]
    kubernetes: Option<Cluster>,
    /// With --kubernetes: the control plane's own namespace
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system", value_name = "NAMESPACE")]
    namespace: String,
    /// With --kubernetes: what this control plane is called among those that stand for the lead [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME", hide_env_values = true)]
    replica_name: Option<String>,
    /// With --kubernetes: where the others reach it [default: where it listens]
    #[arg(long, env = "POD_IP", value_name = "IP", hide_env_values = true)]
    advertise: Option<std::net::IpAddr>,
    #[command(flatten)]
    store: store::StoreArgs,
    /// Certificates that one identity may have in half of their lifetime, and at once: a sidecar needs one
    #[arg(long, default_value = "1000", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    certificates_per_identity: u32,
    /// Ranges longer than an hour come from this Prometheus, which scrapes the sidecars: http://HOST:PORT or https://HOST:PORT
    #[arg(long, env = "WEFT_PROMETHEUS", value_name = "URL")]
    prometheus: Option<String>,
    /// Roots of its certificate (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_ca: Option<PathBuf>,
    /// File (0600) whose first line is USER:PASSWORD for it
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_auth_file: Option<PathBuf>,
    /// Serve kinds of a Kubernetes cluster (Pod, Node, Lease …) too, and of others what CustomResourceDefinitions define: to try what reads a cluster
    #[arg(long, hide = true)]
    as_cluster: bool,
    /// What to log: a level, or directives such as info,weft_control=debug
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Log as JSON, one document a line
    #[arg(long)]
    log_json: bool,
}

/// The mesh's own bounds: below, clocks and round trips matter; above, nobody notices in time what was stolen.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = output::duration(text)?;
    if (Duration::from_secs(10)..=Duration::from_secs(24 * 3600)).contains(&lifetime) {
        return Ok(lifetime);
    }
    Err("must be from 10s to 24h".to_owned())
}

/// What is said of the cluster whose pod the control plane is in.
const IN_CLUSTER: &str = "in-cluster";

/// `in-cluster`, or the path of a kubeconfig.
fn cluster(text: &str) -> Result<Cluster, std::convert::Infallible> {
    Ok(if text == IN_CLUSTER { Cluster::Own } else { Cluster::Kubeconfig(text.into()) })
}

/// What may be called outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Egress {
    /// Whatever there is
    PassThrough,
    /// Hosts that a Service of type ExternalName registers
    RegisteredOnly,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<u8, Failure> {
    log(&args.log, args.log_json)?;
    let defaults = Settings::default();
    let store = args.store.settings(&store::host())?;
    if store.is_some() && args.ca_chain.is_none() {
        // Each would make a root of its own, and no sidecar would trust those of the others.
        return Err(Failure::usage(
            "--store needs --ca-chain, --ca-key and --ca-roots, the same for every control plane",
        )
        .hint("control planes that share a store sign for one mesh, with an intermediate of one authority"));
    }
    let prometheus = args.prometheus.map(|address| {
        Prometheus::open(&address, args.prometheus_ca.as_ref(), args.prometheus_auth_file.as_ref())
            .map(Arc::new)
            .map_err(|why| Failure::usage(format!("--prometheus {why}")))
    });
    let kubernetes = args.kubernetes.map(|cluster| Kubernetes {
        cluster,
        namespace: args.namespace,
        replica: args.replica_name.unwrap_or_else(store::host),
        address: args.advertise,
        service_ranges: args
            .service_cidr
            .iter()
            .flat_map(|all| all.split(','))
            .map(|one| one.trim().to_owned())
            .collect(),
    });
    let settings = Settings {
        kubernetes,
        prometheus: prometheus.transpose()?,
        data_dir: args.data_dir,
        grpc: args.grpc,
        api: args.api,
        trust_domain: args.trust_domain,
        domain: args.cluster_domain,
        service_cidr: args.service_cidr.unwrap_or_else(|| defaults.service_cidr.clone()),
        registered_only: args.egress == Egress::RegisteredOnly,
        leaf_lifetime: args.leaf_lifetime,
        jwks_loopback_http: args.jwks_loopback_http,
        ca_key_passphrase_file: args.ca_key_passphrase_file,
        pki: match (args.ca_chain, args.ca_key, args.ca_roots) {
            (Some(chain), Some(key), Some(roots)) => Some(Files { chain, key, roots }),
            _ => None,
        },
        token_review: args.token_review,
        store,
        as_cluster: args.as_cluster,
        certificates_per_identity: args.certificates_per_identity,
        ..defaults
    };
    weft_control::up::run(settings).await.map_err(|error| Failure::not_well(error.to_string()))?;
    Ok(0)
}

fn log(filter: &str, json: bool) -> Result<(), Failure> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log {filter}: {error}")).hint("write --log info,weft_control=debug")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only when a subscriber is set already, which then stays.
    let _ =
        if json { builder.json().try_init() } else { builder.with_ansi(std::io::stderr().is_terminal()).try_init() };
    Ok(())
}
