//! Settings of a sidecar: plain data read from flags, environment and one file (YAML or JSON), and their validation by field name.
//!
//! No I/O beyond reading that file happens here; what needs sockets, keys or directories is done by `app` with a validated value.
//! Precedence: a flag (or its environment variable), then the file, then the default.

use crate::intercept::nft::{Cidr, Filter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
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
    /// Directory of the key, certificate, last-known-good resources, `ready.json` and the socket; made with mode 0700.
    pub state_dir: Option<PathBuf>,
    /// A file of `weft.v1.Resources`, watched, instead of a control plane.
    pub resources: Option<PathBuf>,
    /// With `resources`: directory of `cert.pem`, `key.pem` and `roots.pem`, watched. Without it there is no mTLS.
    pub certificates: Option<PathBuf>,
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
    /// One line for each call.
    pub access_log: AccessLog,
    /// Bounds on what may be open at once.
    pub limits: Limits,
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

/// The control plane's address and, where no join token carries it, the pin of its CA.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// `ip:port` of its gRPC listener.
    pub address: SocketAddr,
    /// SHA-256 of the root CA's public key (SPKI), hexadecimal. A join token that says otherwise is refused.
    #[serde(default)]
    pub ca_fingerprint: Option<String>,
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
}

impl Capture {
    /// As the rules need it; `field` is where it stands.
    ///
    /// # Errors
    /// A range that is none.
    pub fn filter(&self, field: &str) -> Result<Filter, ConfigError> {
        let ranges = |name: &str, texts: &[String]| -> Result<Vec<Cidr>, ConfigError> {
            let parse = |(i, text): (usize, &String)| {
                text.parse().map_err(|e: String| refuse(format!("{field}.{name}[{i}]"), e))
            };
            texts.iter().enumerate().map(parse).collect()
        };
        Ok(Filter {
            include_ports: self.include_ports.clone(),
            exclude_ports: self.exclude_ports.clone(),
            include_cidrs: ranges("includeCidrs", &self.include_cidrs)?,
            exclude_cidrs: ranges("excludeCidrs", &self.exclude_cidrs)?,
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
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: local(15021), socket: None }
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
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { deadline: Span(Duration::from_secs(30)), wait_for_application: None }
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

/// A duration as people write it: `30s`, `250ms`, `5m`, `1h`, `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no duration; write for example 250ms, 30s, 5m or 1m30s");
        let mut total = Duration::ZERO;
        let mut rest = text;
        if rest.is_empty() || rest.len() > 32 {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let millis = match &rest[..unit] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(bad()),
            };
            rest = &rest[unit..];
            let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(bad)?;
            total = total.checked_add(part).ok_or_else(bad)?;
        }
        Ok(Self(total))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) {
            output.collect_str(&format_args!("{}s", millis / 1000))
        } else {
            output.collect_str(&format_args!("{millis}ms"))
        }
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

/// Where the resources come from: exactly one, once [`Settings::source`] has looked.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// xDS. The workload is known.
    ControlPlane(ControlPlane, Box<Workload>),
    /// A watched file.
    File(PathBuf),
}

/// A setting that cannot be used: its path in the file (`workload.ports[0].port`) and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{field}: {reason}", file.as_ref().map(|f| format!("{}: ", f.display())).unwrap_or_default())]
pub struct ConfigError {
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    /// Path of the field; empty when the whole input is at fault.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A refusal of `field`.
pub fn refuse(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError { file: None, field: field.into(), reason: reason.into() }
}

impl Settings {
    /// Reads YAML (and so JSON) text; the error names the field.
    ///
    /// # Errors
    /// Malformed text, an unknown field, a wrong type.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_saphyr::from_str(text)
            .map_err(|e| refuse("settings", crate::discovery::file::first_line(&e.to_string())))?;
        if value.is_null() {
            return Ok(Self::default());
        }
        serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            refuse(if path == "." { "settings".into() } else { path }, e.into_inner().to_string())
        })
    }

    /// Reads a settings file.
    ///
    /// # Errors
    /// As [`Settings::parse`], and when the file cannot be read; the error names the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let named = |mut e: ConfigError| {
            e.file = Some(path.to_owned());
            e
        };
        let text = std::fs::read_to_string(path).map_err(|e| named(refuse("settings", e.to_string())))?;
        Self::parse(&text).map_err(named)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.source()?;
        if let Some(workload) = &self.workload {
            workload.validate()?;
        }
        if self.workers.0 == 0 || self.workers.0 > 256 {
            return Err(refuse("workers", "must be 1 to 256"));
        }
        if self.drain.deadline.0 > Duration::from_secs(3600) {
            return Err(refuse("drain.deadline", "must be at most 1h"));
        }
        if !(0.0..=1.0).contains(&self.access_log.sample) {
            return Err(refuse("accessLog.sample", "must be 0 to 1"));
        }
        if self.access_log.path.is_empty() {
            return Err(refuse("accessLog.path", "must be off, stdout, stderr or a path"));
        }
        for (i, tcp) in self.outbound.tcp.iter().enumerate() {
            if tcp.target().is_none() {
                return Err(refuse(format!("outbound.tcp[{i}].host"), format!("{:?} is not host:port", tcp.host)));
            }
        }
        self.interception.outbound.filter("interception.outbound")?;
        self.interception.inbound.filter("interception.inbound")?;
        if self.interception.install && !self.transparent {
            return Err(refuse("interception.install", "needs transparent: true"));
        }
        if let Some(credentials) = &self.outbound.credentials
            && (credentials.user.contains(':') || credentials.user.is_empty())
        {
            return Err(refuse("outbound.credentials.user", "must not be empty or contain a colon"));
        }
        for (field, n) in [
            ("limits.inboundConnections", self.limits.inbound_connections),
            ("limits.outboundConnections", self.limits.outbound_connections),
            ("limits.requests", self.limits.requests),
        ] {
            if n == 0 {
                return Err(refuse(field, "must be at least 1"));
            }
        }
        if let Some(pin) = self.control_plane.as_ref().and_then(|c| c.ca_fingerprint.as_ref())
            && (pin.len() != 64 || !pin.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(refuse("controlPlane.caFingerprint", "must be 64 hexadecimal digits (SHA-256 of the SPKI)"));
        }
        Ok(())
    }

    /// Which source of resources is meant.
    ///
    /// # Errors
    /// None or both are set, or a control plane without workload or state directory.
    pub fn source(&self) -> Result<Source, ConfigError> {
        match (&self.control_plane, &self.resources) {
            (Some(_), Some(_)) => {
                Err(refuse("resources", "cannot be used together with controlPlane; remove one of them"))
            }
            (None, None) => Err(refuse(
                "controlPlane",
                "nothing says where the configuration comes from; give --control-plane IP:PORT or --resources FILE",
            )),
            (None, Some(file)) => Ok(Source::File(file.clone())),
            (Some(control), None) => {
                if self.certificates.is_some() {
                    return Err(refuse("certificates", "belongs to resources; a control plane issues certificates"));
                }
                if self.state_dir.is_none() {
                    return Err(refuse("stateDir", "is required with controlPlane: key and certificate live there"));
                }
                let workload = self.workload.clone().ok_or_else(|| {
                    refuse("workload", "is required with controlPlane: namespace, serviceAccount and name")
                })?;
                Ok(Source::ControlPlane(control.clone(), Box::new(workload)))
            }
        }
    }

    /// Whether outbound stays until somebody says that the application is gone.
    #[must_use]
    pub fn waits_for_application(&self) -> bool {
        self.drain.wait_for_application.unwrap_or(self.until_stdin_closes || self.control_plane.is_some())
    }

    /// Where the private socket belongs, if anywhere.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        self.admin.socket.clone().or_else(|| Some(self.state_dir.as_ref()?.join("admin.sock")))
    }
}

impl Workload {
    fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("workload.namespace", &self.namespace),
            ("workload.serviceAccount", &self.service_account),
            ("workload.name", &self.name),
        ] {
            if !is_label(value) {
                return Err(refuse(field, format!("{value:?} is not a DNS label (a-z, 0-9 and -, at most 63)")));
            }
        }
        for (i, service) in self.services.iter().enumerate() {
            if !is_label(service) {
                return Err(refuse(format!("workload.services[{i}]"), format!("{service:?} is not a DNS label")));
            }
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                return Err(refuse(format!("workload.ports[{i}].port"), "must be 1 to 65535"));
            }
            if self.ports[..i].iter().any(|p| p.port == port.port) {
                return Err(refuse(format!("workload.ports[{i}].port"), format!("{} is listed twice", port.port)));
            }
        }
        Ok(())
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "
workload: { namespace: shop, serviceAccount: catalog, name: catalog-1, services: [catalog], ports: [{port: 8080, protocol: http}] }
controlPlane: { address: '127.0.0.1:15010' }
stateDir: /var/lib/weft
";

    #[test]
    fn a_minimal_file_gets_the_documented_defaults() {
        let settings = Settings::parse(MINIMAL).unwrap();
        settings.validate().unwrap();
        assert_eq!(settings.outbound.listen.to_string(), "127.0.0.1:15001");
        assert_eq!(settings.inbound.tunnel.to_string(), "127.0.0.1:15008");
        assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:15021");
        assert_eq!(settings.workers.0, 1);
        assert_eq!(settings.drain.deadline.0, Duration::from_secs(30));
        assert_eq!(settings.socket().unwrap(), Path::new("/var/lib/weft/admin.sock"));
        assert_eq!(settings.workload.unwrap().uid(), "shop/catalog-1");
    }

    #[test]
    fn json_is_read_as_well_as_yaml_and_what_is_written_reads_back() {
        let settings = Settings::parse(MINIMAL).unwrap();
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(Settings::parse(&json).unwrap(), settings);
    }

    #[test]
    fn an_error_names_the_field_that_is_wrong() {
        for (text, field) in [
            ("workload: {namespace: shop, name: a, ports: [{port: 70000}]}", "workload.ports[0].port"),
            ("controlPlane: {address: localhost}", "controlPlane.address"),
            ("outbound: {lisen: '127.0.0.1:1'}", "outbound.lisen"),
            ("drain: {deadline: 30}", "drain.deadline"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        for (text, field) in [
            ("{}", "controlPlane"),
            ("resources: a.yaml\ncontrolPlane: {address: '127.0.0.1:1'}", "resources"),
            ("controlPlane: {address: '127.0.0.1:1'}", "stateDir"),
            ("resources: a.yaml\nworkers: 0", "workers"),
            ("resources: a.yaml\nworkload: {namespace: Shop, name: a}", "workload.namespace"),
            ("resources: a.yaml\noutbound: {tcp: [{listen: '127.0.0.1:0', host: db}]}", "outbound.tcp[0].host"),
        ] {
            let error = Settings::parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn spans_read_as_people_write_them() {
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("1m30s", 90_000), ("2h", 7_200_000)] {
            assert_eq!(text.parse::<Span>().unwrap().0, Duration::from_millis(millis));
        }
        for text in ["", "30", "s", "1d", "-1s", "1s ", "99999999999999999999s", "18446744073709551615h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let credentials = Credentials { user: "weft".into(), password: "hunter2".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
