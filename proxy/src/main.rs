//! `weft-proxy`: flags and environment over one settings file, the log, and the exit code. What runs is in the library.

use clap::Parser;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use weft_proxy::admin::AppProbe;
use weft_proxy::app::{self, AppError};
use weft_proxy::config::{
    self, AccessLogFormat, Addresses, ConfigError, ControlPlane, OtlpProtocol, Place, Port, Protocol, Settings, Span,
    TcpOutbound, Tracing, Workload, WorkloadApi,
};
use weft_proxy::intercept;

/// What the program does besides being a sidecar.
#[derive(clap::Subcommand, Debug)]
enum Other {
    /// The nftables rules that bring a workload's traffic to its sidecar
    Intercept {
        #[command(subcommand)]
        command: intercept::command::Command,
    },
}

/// The sidecar of the Weft service mesh.
///
/// Stands beside one application, takes its calls and the calls to it, and gives each routing, retries, mTLS, limits and metrics. Its
/// configuration comes from a control plane, or without one from a watched file:
///
///   weft-proxy --resources mesh.yaml --certificates ./certs
///
///   weft-proxy --control-plane 127.0.0.1:15010 --state-dir ./state \
///     --namespace shop --name cart-1 --service cart --port 8080:http
///
/// A join token is read from --join-token-file or WEFT_JOIN_TOKEN. SIGTERM drains: calls to the application end first, its own calls
/// last. SIGUSR2 starts the program that stands at its path now, which takes over without losing a connection. Exit codes: 0 ended as
/// asked, 1 failed to start or to run, 2 wrong settings.
#[derive(Parser, Debug)]
#[command(
    name = "weft-proxy",
    version,
    max_term_width = 120,
    verbatim_doc_comment,
    args_conflicts_with_subcommands = true
)]
struct Flags {
    #[command(subcommand)]
    command: Option<Other>,
    /// Settings, YAML or JSON with camelCase fields; flags go before what it says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check settings and resources, print what is wrong, and end
    #[arg(long)]
    check: bool,

    /// Mesh resources, YAML or JSON, watched; instead of a control plane
    #[arg(long, value_name = "FILE", help_heading = "Configuration source")]
    resources: Option<PathBuf>,
    /// Directory of cert.pem, key.pem and roots.pem, watched; with --resources
    #[arg(long, value_name = "DIR", help_heading = "Configuration source")]
    certificates: Option<PathBuf>,
    /// Agent of the SPIFFE Workload API that gives the identity: unix:///run/spire/agent.sock, or env for SPIFFE_ENDPOINT_SOCKET
    #[arg(long, value_name = "URI", help_heading = "Configuration source")]
    workload_api: Option<String>,
    /// Which of the agent's identities to take [default: the first]
    #[arg(long, value_name = "ID", help_heading = "Configuration source", conflicts_with = "svid_hint")]
    spiffe_id: Option<String>,
    /// The same by the hint that the agent gives with it
    #[arg(long, value_name = "HINT", help_heading = "Configuration source")]
    svid_hint: Option<String>,
    /// gRPC address of the control plane, an IP address or a name and a port; of each replica, comma-separated or repeated
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', help_heading = "Configuration source")]
    control_plane: Vec<Place>,
    /// File with a join token (never pass the token itself on a command line)
    #[arg(long, value_name = "FILE", help_heading = "Configuration source")]
    join_token_file: Option<PathBuf>,
    /// File with the service-account token that Kubernetes projects for the audience weft.mesh; needs --roots-file
    #[arg(long, value_name = "FILE", help_heading = "Configuration source")]
    service_account_token_file: Option<PathBuf>,
    /// File with the roots of the mesh (PEM), for a workload without a join token
    #[arg(long, value_name = "FILE", help_heading = "Configuration source")]
    roots_file: Option<PathBuf>,
    /// Trust domain of these roots [default: weft.local]
    #[arg(long, value_name = "DOMAIN", help_heading = "Configuration source")]
    trust_domain: Option<String>,
    /// Where key, certificate and last-known-good configuration are kept
    #[arg(long, value_name = "DIR", help_heading = "Configuration source")]
    state_dir: Option<PathBuf>,

    /// Namespace of the workload
    #[arg(long, help_heading = "Workload")]
    namespace: Option<String>,
    /// Service account of the workload [default: default]
    #[arg(long, value_name = "NAME", help_heading = "Workload")]
    service_account: Option<String>,
    /// Name of the workload, unique in its namespace
    #[arg(long, help_heading = "Workload")]
    name: Option<String>,
    /// Service that the workload belongs to; repeatable
    #[arg(long, value_name = "NAME", help_heading = "Workload")]
    service: Vec<String>,
    /// Port that the application serves, with http, http2, grpc, tcp or detect; repeatable
    #[arg(long, value_name = "PORT[:PROTOCOL]", value_parser = port, help_heading = "Workload")]
    port: Vec<Port>,
    /// Address at which peers reach the workload [default: 127.0.0.1]
    #[arg(long, value_name = "IP", help_heading = "Workload")]
    address: Option<IpAddr>,

    /// Outbound listener [default: 127.0.0.1:15001]
    #[arg(long, value_name = "IP:PORT", help_heading = "Listeners (port 0: any free one)")]
    outbound: Option<SocketAddr>,
    /// Local port whose connections go to one service; repeatable
    #[arg(long, value_name = "IP:PORT=HOST:PORT", value_parser = tcp, help_heading = "Listeners (port 0: any free one)")]
    tcp: Vec<TcpOutbound>,
    /// mTLS listener for peers [default: 127.0.0.1:15008]
    #[arg(long, value_name = "IP:PORT", help_heading = "Listeners (port 0: any free one)")]
    tunnel: Option<SocketAddr>,
    /// Listener for plaintext that nftables redirected
    #[arg(long, value_name = "IP:PORT", help_heading = "Listeners (port 0: any free one)")]
    plaintext: Option<SocketAddr>,
    /// /ready, /live and /metrics [default: 127.0.0.1:15021]
    #[arg(long, value_name = "IP:PORT", help_heading = "Listeners (port 0: any free one)")]
    admin: Option<SocketAddr>,
    /// Private socket [default: admin.sock in the state directory]
    #[arg(long, value_name = "PATH", help_heading = "Listeners (port 0: any free one)")]
    socket: Option<PathBuf>,
    /// What GET /app-probe/NAME on the admin port asks the application: http, https, tcp or grpc at 127.0.0.1; repeatable
    #[arg(long, value_name = "NAME=URL", help_heading = "Listeners (port 0: any free one)")]
    app_probe: Vec<AppProbe>,
    /// DNS server for the application, UDP and TCP
    #[arg(long, value_name = "IP:PORT", help_heading = "Listeners (port 0: any free one)")]
    dns: Option<SocketAddr>,
    /// Take connections that nftables redirects here
    #[arg(long, help_heading = "Listeners (port 0: any free one)")]
    transparent: bool,
    /// The user that the sidecar runs as, where the rules let that user's packets pass; otherwise it marks them, which takes CAP_NET_ADMIN
    #[arg(long, value_name = "UID", help_heading = "Listeners (port 0: any free one)")]
    exempt_uid: Option<u32>,
    /// How the rules bring calls to the application here; tproxy takes CAP_NET_ADMIN [default: redirect]
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        hide_possible_values = true,
        help_heading = "Listeners (port 0: any free one)"
    )]
    inbound_mode: Option<intercept::Mode>,

    /// Data threads [default: 1]
    #[arg(long, value_name = "N", help_heading = "Running")]
    workers: Option<u16>,
    /// Access log: off, stdout, stderr or a file [default: off]
    #[arg(long, value_name = "WHERE", help_heading = "Running")]
    access_log: Option<String>,
    /// Layout of its lines: json or apache [default: json]
    #[arg(long, value_name = "FORMAT", value_parser = log_format, help_heading = "Running")]
    access_log_format: Option<AccessLogFormat>,
    /// Receiver of spans, OTLP: http://HOST:4317, or https for TLS; what the mesh's settings say of it goes before
    #[arg(long, value_name = "URL", help_heading = "Running")]
    tracing_endpoint: Option<String>,
    /// How it is spoken to: grpc or http [default: grpc]
    #[arg(long, value_name = "PROTOCOL", value_parser = otlp, requires = "tracing_endpoint", help_heading = "Running")]
    tracing_protocol: Option<OtlpProtocol>,
    /// Share of the calls that begin a trace here, in percent [default: 1]
    #[arg(long, value_name = "PERCENT", requires = "tracing_endpoint", help_heading = "Running")]
    tracing_sampling: Option<f64>,
    /// What to log, for example info,weft_proxy=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "WEFT_LOG", help_heading = "Running")]
    log: Option<String>,
    /// How long leaving may take [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Running")]
    drain_deadline: Option<Span>,
    /// Take over from the process that serves now, without losing a connection: its listening sockets pass from one to the other; without
    /// one it is an ordinary start
    #[arg(long, env = "WEFT_TAKE_OVER", help_heading = "Running")]
    take_over: bool,
    /// How long connections that were open before a takeover may go on in the older process [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Running")]
    take_over_deadline: Option<Span>,
    /// SIGTERM comes after the application's end, as for a native sidecar of Kubernetes: it is not waited for
    #[arg(long, conflicts_with = "until_stdin_closes", help_heading = "Running")]
    application_ends_first: bool,
    /// Take the end of standard input as the end of the application
    #[arg(long, help_heading = "Running")]
    until_stdin_closes: bool,
}

fn port(text: &str) -> Result<Port, String> {
    let (number, protocol) = text.split_once(':').unwrap_or((text, "detect"));
    let protocol = match protocol {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        "detect" => Protocol::Detect,
        other => return Err(format!("{other:?} is not http, http2, grpc, tcp or detect")),
    };
    let port = number.parse().map_err(|_| format!("{number:?} is no port"))?;
    Ok(Port { name: String::new(), port, protocol, local: None })
}

fn tcp(text: &str) -> Result<TcpOutbound, String> {
    let (listen, host) = text.split_once('=').ok_or("write IP:PORT=HOST:PORT")?;
    let listen = listen.parse().map_err(|_| format!("{listen:?} is not IP:PORT"))?;
    Ok(TcpOutbound { listen, host: host.to_owned() })
}

fn log_format(text: &str) -> Result<AccessLogFormat, String> {
    match text {
        "json" => Ok(AccessLogFormat::Json),
        "apache" => Ok(AccessLogFormat::Apache),
        other => Err(format!("{other:?} is neither json nor apache")),
    }
}

fn otlp(text: &str) -> Result<OtlpProtocol, String> {
    match text {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http" => Ok(OtlpProtocol::Http),
        other => Err(format!("{other:?} is neither grpc nor http")),
    }
}

impl Flags {
    /// The file's settings with the flags over them.
    fn settings(self) -> Result<Settings, ConfigError> {
        let mut settings = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        fn over<T>(place: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *place = value;
            }
        }
        settings.resources = self.resources.or(settings.resources);
        settings.certificates = self.certificates.or(settings.certificates);
        settings.join_token_file = self.join_token_file.or(settings.join_token_file);
        settings.state_dir = self.state_dir.or(settings.state_dir);
        settings.log = self.log.or(settings.log);
        if let Some(endpoint) = self.workload_api {
            let (spiffe_id, hint) = settings.workload_api.take().map_or((None, None), |api| (api.spiffe_id, api.hint));
            settings.workload_api = Some(WorkloadApi { endpoint, spiffe_id, hint });
        }
        if self.spiffe_id.is_some() || self.svid_hint.is_some() {
            let Some(api) = &mut settings.workload_api else {
                return Err(config::refuse("workloadApi", "--spiffe-id and --svid-hint need --workload-api"));
            };
            (api.spiffe_id, api.hint) = (self.spiffe_id, self.svid_hint);
        }
        if !self.control_plane.is_empty() {
            let addresses = Addresses::new(self.control_plane);
            let addresses = addresses.map_err(|why| config::refuse("controlPlane.address", why))?;
            let control = settings.control_plane.get_or_insert_with(|| ControlPlane::at(addresses.clone()));
            control.address = addresses;
        }
        if let Some(control) = &mut settings.control_plane {
            control.roots_file = self.roots_file.or(control.roots_file.take());
            over(&mut control.trust_domain, self.trust_domain);
        }
        settings.service_account_token_file = self.service_account_token_file.or(settings.service_account_token_file);
        if let (Some(namespace), Some(name)) = (&self.namespace, &self.name)
            && settings.workload.is_none()
        {
            settings.workload = Some(Workload::named(namespace, name));
        }
        if let Some(workload) = &mut settings.workload {
            over(&mut workload.namespace, self.namespace);
            over(&mut workload.name, self.name);
            over(&mut workload.service_account, self.service_account);
            over(&mut workload.address, self.address);
            workload.services.extend(self.service);
            workload.ports.extend(self.port);
        } else if self.namespace.is_some() || self.name.is_some() || !self.service.is_empty() || !self.port.is_empty() {
            return Err(config::refuse("workload", "--namespace and --name are needed together"));
        }
        over(&mut settings.outbound.listen, self.outbound);
        settings.outbound.tcp.extend(self.tcp);
        over(&mut settings.inbound.tunnel, self.tunnel);
        settings.inbound.plaintext = self.plaintext.or(settings.inbound.plaintext);
        over(&mut settings.admin.listen, self.admin);
        settings.admin.socket = self.socket.or(settings.admin.socket);
        settings.admin.app_probes.extend(self.app_probe);
        settings.dns.listen = self.dns.or(settings.dns.listen);
        settings.transparent |= self.transparent;
        settings.interception.exempt_uid = self.exempt_uid.or(settings.interception.exempt_uid);
        over(&mut settings.interception.inbound_mode, self.inbound_mode);
        over(&mut settings.workers.0, self.workers);
        over(&mut settings.access_log.path, self.access_log);
        over(&mut settings.access_log.format, self.access_log_format);
        if let Some(endpoint) = self.tracing_endpoint {
            let tracing = settings.tracing.get_or_insert_default();
            tracing.endpoint = endpoint;
            over(&mut tracing.protocol, self.tracing_protocol);
            tracing.sampling = self.tracing_sampling.or(tracing.sampling);
        }
        // Under a control plane the environment is the application's, and the mesh's settings say where spans go.
        if settings.tracing.is_none() && settings.resources.is_some() {
            settings.tracing = Tracing::from_environment(|name| std::env::var(name).ok())?;
        }
        over(&mut settings.drain.deadline, self.drain_deadline);
        settings.take_over.at_start |= self.take_over;
        over(&mut settings.take_over.deadline, self.take_over_deadline);
        if self.application_ends_first {
            settings.drain.wait_for_application = Some(false);
        }
        settings.until_stdin_closes |= self.until_stdin_closes;
        settings.validate()?;
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(Other::Intercept { command }) = &flags.command {
        return match intercept::command::run(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("weft-proxy: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let check = flags.check;
    let outcome = flags.settings().map_err(AppError::from).and_then(|settings| {
        if check {
            return app::check(&settings).map(|()| 0);
        }
        app::run(settings)
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft-proxy: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Flags::command().debug_assert();
    }

    #[test]
    fn flags_go_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.yaml");
        std::fs::write(&file, "resources: mesh.yaml\nworkers: 2\noutbound: {listen: '127.0.0.1:9000'}\n").unwrap();
        let args =
            ["weft-proxy", "--config", file.to_str().unwrap(), "--workers", "3", "--tcp", "127.0.0.1:0=db.shop:5432"];
        let settings = Flags::parse_from(args).settings().unwrap();
        assert_eq!(settings.workers.0, 3);
        assert_eq!(settings.outbound.listen.port(), 9000);
        assert_eq!(settings.outbound.tcp[0].target().unwrap(), ("db.shop".into(), 5432));
    }

    #[test]
    fn without_a_source_the_error_says_what_to_give() {
        let error = Flags::parse_from(["weft-proxy"]).settings().unwrap_err().to_string();
        assert!(error.contains("--control-plane") && error.contains("--resources"), "{error}");
    }
}
