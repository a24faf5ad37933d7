//! Settings of a sidecar as plain data: what flags, environment and one file (YAML or JSON) may say. How they are read and checked is in
//! `check`, durations in `span`.
//!
//! No I/O beyond reading that file happens here; what needs sockets, keys or directories is done by `app` with a validated value.
//! Precedence: a flag (or its environment variable), then the file, then the default.

mod addresses;
mod agent;
mod check;
mod span;
mod telemetry;

pub use addresses::{Addresses, Place};
pub use agent::SOCKET_VARIABLE;
pub use check::{ConfigError, Source, refuse};
pub use span::Span;
pub use telemetry::{OtlpProtocol, Propagation, Tracing};

use crate::admin::AppProbe;
use crate::intercept::Mode;
use crate::intercept::nft::Filter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Everything a sidecar is told at its start. Field names in files are camelCase; unknown fields are refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The workload this sidecar stands beside. Required with a control plane.
    pub workload: Option<Workload>,
    /// Where configuration and certificates come from. Exclusive with `resources`.
    pub control_plane: Option<ControlPlane>,
    /// File with a join token; `WEFT_JOIN_TOKEN` in the environment is the alternative. Never a flag.
    pub join_token_file: Option<PathBuf>,
    /// File with a service-account token that Kubernetes projects for the audience of the mesh; read anew whenever it is needed. Needs
    /// `controlPlane.rootsFile`. Exclusive with a join token.
    pub service_account_token_file: Option<PathBuf>,
    /// Directory of the key, certificate, last-known-good resources, `ready.json` and the socket; made with mode 0700.
    pub state_dir: Option<PathBuf>,
    /// A file of `weft.v1.Resources`, watched, instead of a control plane.
    pub resources: Option<PathBuf>,
    /// With `resources`: directory of `cert.pem`, `key.pem` and `roots.pem`, watched. Without it there is no mTLS.
    pub certificates: Option<PathBuf>,
    /// An agent that gives certificate, key and trust, instead of `certificates` or of the control plane's authority.
    pub workload_api: Option<WorkloadApi>,
    /// Calls of the application.
    pub outbound: Outbound,
    /// Calls to the application.
    pub inbound: Inbound,
    /// Take connections that nftables redirected: their original destination is what counts.
    pub transparent: bool,
    /// The rules that redirect them.
    pub interception: Interception,
    /// Names of the mesh for the application.
    pub dns: Dns,
    /// Readiness and metrics, and the private socket.
    pub admin: Admin,
    /// Data threads, 1 to 256.
    pub workers: Workers,
    /// Leaving.
    pub drain: DrainSettings,
    /// Taking over from a process that runs, and handing over to one that starts.
    pub take_over: TakeOver,
    /// One line for each call.
    pub access_log: AccessLog,
    /// Where spans of calls go, if the mesh's settings say nothing of it.
    pub tracing: Option<Tracing>,
    /// Bounds on what may be open at once.
    pub limits: Limits,
    /// Whose AES-GCM seals the records of TLS.
    pub aead: Aead,
    /// Directives for the process's own log, `info,weft_proxy=debug`. Default: `WEFT_LOG`, else `info`.
    pub log: Option<String>,
    /// Whether end of file on standard input means that the application is gone.
    pub until_stdin_closes: bool,
}

/// Who the application is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Namespace, a DNS label.
    pub namespace: String,
    /// Service account, a DNS label.
    #[serde(default = "default_account")]
    pub service_account: String,
    /// Unique in the namespace, a DNS label.
    pub name: String,
    /// Names of the services (in the same namespace) that it belongs to.
    #[serde(default)]
    pub services: Vec<String>,
    /// What the application serves.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// IP address at which peers reach it.
    #[serde(default = "loopback")]
    pub address: IpAddr,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Zone, for balancing.
    #[serde(default)]
    pub zone: String,
}

impl Workload {
    /// A workload without ports, at loopback, of the default service account.
    #[must_use]
    pub fn named(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service_account: default_account(),
            name: name.to_owned(),
            services: Vec::new(),
            ports: Vec::new(),
            address: loopback(),
            labels: BTreeMap::new(),
            zone: String::new(),
        }
    }

    /// `namespace/name`, what metrics and discovery know it by.
    #[must_use]
    pub fn uid(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A port that the application serves.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Name, unique in the workload.
    #[serde(default)]
    pub name: String,
    /// The port peers name.
    pub port: u16,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where the application listens, when not at `address:port`.
    #[serde(default)]
    pub local: Option<SocketAddr>,
}

/// What an application protocol is known to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Sniffed within a deadline.
    #[default]
    Detect,
}

/// The control plane's addresses and, where no join token carries it, the pin of its CA.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// `ip:port` or `name:port` of its gRPC listener; of each replica's, where there are several.
    pub address: Addresses,
    /// SHA-256 of the root CA's public key (SPKI), hexadecimal. A join token that says otherwise is refused.
    #[serde(default)]
    pub ca_fingerprint: Option<String>,
    /// PEM file with the roots of the mesh, for a workload that has no join token to tell it whom to trust.
    #[serde(default)]
    pub roots_file: Option<PathBuf>,
    /// Trust domain of the roots: `weft.local`.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
}

impl ControlPlane {
    /// The control plane at these addresses, with the defaults of everything else.
    #[must_use]
    pub fn at(address: impl Into<Addresses>) -> Self {
        Self { address: address.into(), ca_fingerprint: None, roots_file: None, trust_domain: default_trust_domain() }
    }
}

fn default_trust_domain() -> String {
    "weft.local".to_owned()
}

/// An agent of the SPIFFE Workload API, and which of the identities that it gives is wanted: the first, or the first of the workload's
/// namespace and service account where there is a control plane.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadApi {
    /// `unix:///run/spire/agent.sock`, or `env`: what `SPIFFE_ENDPOINT_SOCKET` says.
    pub endpoint: String,
    /// The SPIFFE id.
    #[serde(default)]
    pub spiffe_id: Option<String>,
    /// The hint that whoever runs the agent has given it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Listeners for the application's calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Outbound {
    /// Explicit proxy, or the target of redirected connections.
    pub listen: SocketAddr,
    /// What `Proxy-Authorization` must say in explicit mode. `None`: nothing is asked for.
    pub credentials: Option<Credentials>,
    /// Named TCP outbounds.
    pub tcp: Vec<TcpOutbound>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { listen: local(15001), credentials: None, tcp: Vec::new() }
    }
}

/// Basic credentials of the explicit proxy.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A local port whose connections go to one service: `127.0.0.1:5432=db.shop:5432`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpOutbound {
    /// Where to listen.
    pub listen: SocketAddr,
    /// `host:port` of the service.
    pub host: String,
}

impl TcpOutbound {
    /// Name without the port in lower case, and the port.
    #[must_use]
    pub fn target(&self) -> Option<(String, u16)> {
        let (host, port) = self.host.rsplit_once(':')?;
        let port = port.parse().ok().filter(|p| *p != 0)?;
        (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
    }
}

/// Listeners for calls to the application.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Inbound {
    /// The mTLS listener that peers' sidecars dial.
    pub tunnel: SocketAddr,
    /// Plaintext, captured by nftables. `None` where nothing is captured.
    pub plaintext: Option<SocketAddr>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self { tunnel: local(15008), plaintext: None }
    }
}

/// The DNS server for the application; it runs when `listen` is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dns {
    /// UDP and TCP.
    pub listen: Option<SocketAddr>,
    /// Where other names are asked for. Empty: the nameservers of `/etc/resolv.conf`.
    pub upstream: Vec<SocketAddr>,
}

/// The nftables rules of the workload's network namespace; used when `transparent` is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Interception {
    /// Whether the sidecar installs the rules when it starts and removes them when it ends. `false` where someone else does.
    pub install: bool,
    /// Tell the sidecar's own packets by this user id instead of by a mark (which needs CAP_NET_ADMIN on every socket).
    pub exempt_uid: Option<u32>,
    /// How calls to the application are taken. The rules must have been made for the same.
    pub inbound_mode: Mode,
    /// Further users whose calls are left alone.
    pub exclude_uids: Vec<u32>,
    /// What to capture of the application's calls.
    pub outbound: Capture,
    /// What to capture of calls to the application.
    pub inbound: Capture,
}

/// What to capture in one direction. Empty `include…`: everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Capture {
    /// Ports to capture.
    pub include_ports: Vec<u16>,
    /// Ports to leave alone.
    pub exclude_ports: Vec<u16>,
    /// Remote address ranges to capture, `10.0.0.0/8`.
    pub include_cidrs: Vec<String>,
    /// Remote address ranges to leave alone.
    pub exclude_cidrs: Vec<String>,
    /// Network interfaces to leave alone; `docker*` is all whose names begin so.
    pub exclude_interfaces: Vec<String>,
}

impl Capture {
    /// As the rules need it; `field` is where it stands.
    ///
    /// # Errors
    /// A range or the name of an interface that is none.
    pub fn filter(&self, field: &str) -> Result<Filter, ConfigError> {
        fn all<T: FromStr<Err = String>>(field: &str, name: &str, texts: &[String]) -> Result<Vec<T>, ConfigError> {
            let parse = |(i, text): (usize, &String)| {
                text.parse().map_err(|e: String| refuse(format!("{field}.{name}[{i}]"), e))
            };
            texts.iter().enumerate().map(parse).collect()
        }
        Ok(Filter {
            include_ports: self.include_ports.clone(),
            exclude_ports: self.exclude_ports.clone(),
            include_cidrs: all(field, "includeCidrs", &self.include_cidrs)?,
            exclude_cidrs: all(field, "excludeCidrs", &self.exclude_cidrs)?,
            exclude_interfaces: all(field, "excludeInterfaces", &self.exclude_interfaces)?,
        })
    }
}

/// Doors for operators.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// `/ready`, `/live`, `/metrics` and nothing else.
    pub listen: SocketAddr,
    /// Unix socket, 0600. Default: `admin.sock` in the state directory, none without one.
    pub socket: Option<PathBuf>,
    /// What `/app-probe/NAME` on the port asks the application.
    pub app_probes: Vec<AppProbe>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: local(15021), socket: None, app_probes: Vec::new() }
    }
}

/// Number of data threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Workers(pub u16);

impl Default for Workers {
    fn default() -> Self {
        Self(1)
    }
}

/// How long leaving may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainSettings {
    /// What is open after this is cut.
    pub deadline: Span,
    /// Whether outbound stays until somebody says that the application is gone. Default: with a control plane. `false` where the
    /// application ends before the sidecar is told to (native sidecars of Kubernetes).
    pub wait_for_application: Option<bool>,
    /// A connection takes no more calls once a certificate that it was made with has ended; what is open on it is cut after this.
    pub expired_grace: Span,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            deadline: Span(Duration::from_secs(30)),
            wait_for_application: None,
            expired_grace: Span(Duration::from_secs(3600)),
        }
    }
}

/// Takeover in place, by a new process.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TakeOver {
    /// Take over at the start from the process at the private socket, if there is one.
    pub at_start: bool,
    /// How long a process that starts may take to become ready, before the one that runs goes on without it.
    pub patience: Span,
    /// How long connections that are open in a process that has handed over may go on.
    pub deadline: Span,
}

impl Default for TakeOver {
    fn default() -> Self {
        Self { at_start: false, patience: Span(Duration::from_secs(30)), deadline: Span(Duration::from_secs(3600)) }
    }
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// `off`, `stdout`, `stderr` or a path.
    pub path: String,
    /// Layout of a line.
    pub format: AccessLogFormat,
    /// Only calls that failed.
    pub errors_only: bool,
    /// Share of calls to write, 0 to 1; failed calls are always written.
    pub sample: f64,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: "off".into(), format: AccessLogFormat::Json, errors_only: false, sample: 1.0 }
    }
}

/// Whose AES-GCM seals the records of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aead {
    /// The faster one, by what the processor has.
    #[default]
    Auto,
    /// aws-lc's.
    AwsLc,
    /// ring's.
    Ring,
}

impl Aead {
    /// What is wanted; `None`: whatever is fastest.
    #[must_use]
    pub const fn wanted(self) -> Option<weft_certs::tls::Aead> {
        match self {
            Self::Auto => None,
            Self::AwsLc => Some(weft_certs::tls::Aead::AwsLc),
            Self::Ring => Some(weft_certs::tls::Aead::Ring),
        }
    }
}

/// Layout of an access log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// One JSON object.
    #[default]
    Json,
    /// Apache combined.
    Apache,
}

/// Process-wide bounds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections from peers.
    pub inbound_connections: u32,
    /// Connections from the application.
    pub outbound_connections: u32,
    /// Calls in flight, each way.
    pub requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { inbound_connections: 16_384, outbound_connections: 16_384, requests: 65_536 }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(loopback(), port)
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

fn default_account() -> String {
    "default".into()
}
