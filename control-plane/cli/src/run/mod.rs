//! `weft run`: any program with a sidecar beside it. This file turns flags into a plan; `join` gets what joining needs, `sidecar`
//! knows the sidecar process, `supervise` lives with both.

mod given;
mod join;
pub mod netns;
pub mod ports;
pub mod sidecar;
mod supervise;

use crate::Global;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::trampoline::{self, Death};
use ports::{Port, TcpOutbound};
use rand::RngExt;
use sidecar::{Plan, Wanted, private_file};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Last part of the full names of services, as `weft up` has it by default.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Flags of `weft run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Service that the program serves (repeat for several); none: it only calls others
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// Port that the program listens on; the protocol is http, http2, grpc, tcp or detect (repeat for several)
    #[arg(long = "port", value_name = "[NAME=][SERVICEPORT:]PORT[:PROTOCOL]")]
    ports: Vec<Port>,
    /// Namespace (default: the kubeconfig's, else default)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Service account: with the namespace, its identity (default: the first service, else default)
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Name of this instance (default: made up)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Label of the workload (repeat for several)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Zone, for balancing
    #[arg(long, default_value = "", value_name = "NAME")]
    zone: String,
    /// Local listener whose connections go to one service: 127.0.0.1:5432=db.shop:5432 (repeat for several)
    #[arg(long, value_name = "LISTEN=HOST:PORT")]
    tcp: Vec<TcpOutbound>,
    /// How far the program is apart from the host
    #[arg(long, value_enum, default_value = "none")]
    isolation: Isolation,
    /// Address at which other hosts reach this workload
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    address: IpAddr,
    /// Where sidecars reach the control plane, each replica of it, comma-separated or repeated (default: what weft up wrote beside the kubeconfig)
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "IP:PORT", value_delimiter = ',')]
    control_plane: Vec<SocketAddr>,
    /// File with a join token; $WEFT_JOIN_TOKEN is the alternative. With a kubeconfig at hand neither is needed
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    #[command(flatten)]
    given: given::Given,
    /// Where the sidecar keeps its identity, its last configuration and its log
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Access log of the sidecar: off, or a file
    #[arg(long, default_value = "off", value_name = "FILE")]
    access_log: String,
    /// What the sidecar logs: a level, or directives such as info,weft_proxy=debug
    #[arg(long, value_name = "FILTER")]
    sidecar_log: Option<String>,
    /// How long the sidecar may take to become ready
    #[arg(long, default_value = "30s", value_parser = output::duration)]
    ready_timeout: Duration,
    /// How long calls under way may take to end
    #[arg(long, default_value = "30s", value_parser = output::duration)]
    drain_deadline: Duration,
    /// How long the program may take to end once asked; then it is killed
    #[arg(long, default_value = "30s", value_parser = output::duration)]
    stop_timeout: Duration,
    /// What program and sidecar get when this process dies
    #[arg(long, value_enum, default_value = "term", hide = true)]
    death: Death,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How far the program is apart from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Not at all: it finds the mesh by http_proxy and --tcp; no privileges needed
    None,
    /// A network namespace, an address and names of its own; every connection is intercepted (root)
    Netns,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is no label; write version=v2"))?;
    if key.is_empty() { Err("a label needs a key".into()) } else { Ok((key.to_owned(), value.to_owned())) }
}

/// Runs the program; the value is its exit code.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let ports = ports::distinct(args.ports.clone()).map_err(|text| Failure::usage(format!("--port: {text}")))?;
    if !ports.is_empty() && args.services.is_empty() {
        return Err(Failure::usage("--port without --service: nobody could find it").hint("add --service NAME"));
    }
    let program = trampoline::sibling("weft-proxy", "WEFT_PROXY")?;
    let namespace = namespace(global, args.namespace.as_deref());
    let account = args.service_account.clone().or(args.services.first().cloned()).unwrap_or_else(|| "default".into());
    let base = args.services.first().map_or("workload", String::as_str);
    let named = args.name.is_some() || args.state_dir.is_some();
    let name = args.name.clone().unwrap_or_else(|| format!("{base}-{}", random(5)));
    let control_plane = join::control_plane(global, &args.control_plane)?;
    let state = State::open(global, args.state_dir.as_deref(), &namespace, &name, !named)?;
    let netns = match args.isolation {
        Isolation::None => None,
        Isolation::Netns => Some(netns::Netns::create(&state.dir, &namespace, CLUSTER_DOMAIN)?),
    };

    let subject =
        join::Subject { namespace: &namespace, service_account: &account, services: &args.services, ports: &ports };
    let stored = state.has_identity() || args.given.has_identity();
    let source = match args.given.joins() {
        true => join::given(global)?,
        false => join::source(global, args.join_token_file.as_deref(), stored)?,
    };
    if let join::Source::Kubeconfig(client) | join::Source::Given(Some(client)) = &source {
        match join::ensure(client, &subject).await {
            Err(failure) if stored && failure.exit == Exit::Unreachable => {
                eprintln!("weft: {failure}; going on with what was known");
            }
            other => other?,
        }
    }
    let token_file = state.dir.join(sidecar::TOKEN_FILE);
    let revocable = std::cell::RefCell::new(None);
    let renew = async || -> Result<(), Failure> {
        let Some(secret) = join::token(&source, &subject, state.has_identity()).await? else { return Ok(()) };
        if let Some(before) = revocable.replace(secret.revocable) {
            join::revoke(&source, &before, subject.namespace).await;
        }
        private_file(&token_file, secret.text.as_bytes())
    };
    renew().await?;

    // The control plane's loopback is not that of the namespace.
    let mut relays = Vec::new();
    let mut reached = Vec::new();
    for address in control_plane {
        match &netns {
            Some(netns) if address.ip().is_loopback() => {
                let relay = netns::relay::start(netns.gateway(), address).await?;
                reached.push(relay.address);
                relays.push(relay);
            }
            _ => reached.push(address),
        }
    }
    let (user, password) = ("weft".to_owned(), random(24));
    let labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    let socket = state.socket()?;
    let mut settings = sidecar::settings(&Wanted {
        namespace: &namespace,
        service_account: &account,
        name: &name,
        services: &args.services,
        ports: &ports,
        labels: &labels,
        zone: &args.zone,
        address: netns.as_ref().map_or(args.address, |netns| netns.address().into()),
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        control_plane: &reached,
        state_dir: &state.dir,
        socket: &socket,
        credentials: Some((&user, &password)),
        tcp: &args.tcp,
        access_log: &args.access_log,
        drain: args.drain_deadline + args.stop_timeout,
        log: args.sidecar_log.as_deref(),
    });
    args.given.settle(&mut settings)?;
    if args.given.joins() && token_file.is_file() {
        // Of an earlier run that joined otherwise: the sidecar takes one or the other.
        std::fs::remove_file(&token_file)
            .map_err(|error| Failure::not_well(format!("cannot remove {}: {error}", token_file.display())))?;
    }
    if let Some(netns) = &netns {
        netns.intercept(&mut settings);
    }
    let prefix = netns.as_ref().map(netns::Netns::enter).unwrap_or_default();
    let plan = Plan { program, prefix, state_dir: state.dir.clone(), settings, death: args.death };
    let patience =
        supervise::Patience { ready: args.ready_timeout, drain: args.drain_deadline, stop: args.stop_timeout };
    let launch = async |ready: &sidecar::Ready| {
        output::progress(&format!("weft: {namespace}/{name} has joined the mesh; starting the program"));
        // Where everything is intercepted nobody needs to be told.
        let proxy = netns.is_none().then(|| format!("http://{user}:{password}@{}", ready.outbound));
        let service = args.services.first().map(String::as_str).unwrap_or_default();
        let environment = environment(proxy.as_deref(), &namespace, service, &name, &account, ready);
        let mut words = netns.as_ref().map(netns::Netns::enter_with_names).unwrap_or_default();
        words.extend(args.command.iter().cloned());
        start(&words, args.death, environment)
    };
    let outcome = supervise::supervise(plan, patience, launch, renew).await;
    let last = revocable.take();
    if let Some(id) = last {
        join::revoke(&source, &id, subject.namespace).await;
    }
    outcome
}

/// What the program finds in its environment.
fn environment(
    proxy: Option<&str>,
    namespace: &str,
    service: &str,
    name: &str,
    account: &str,
    ready: &sidecar::Ready,
) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("WEFT_NAMESPACE", namespace.to_owned()),
        ("WEFT_WORKLOAD", name.to_owned()),
        ("WEFT_SERVICE_ACCOUNT", account.to_owned()),
        ("WEFT_ADMIN", format!("http://{}", ready.admin)),
    ];
    if let Some(proxy) = proxy {
        // What programs ask of this host is theirs; everything else goes through the sidecar. Not https_proxy: a TLS connection
        // to the outside is nothing the sidecar could help with.
        let local = "localhost,127.0.0.1,::1";
        environment.extend(["http_proxy", "HTTP_PROXY", "grpc_proxy"].map(|name| (name, proxy.to_owned())));
        environment.extend(["no_proxy", "NO_PROXY", "no_grpc_proxy"].map(|name| (name, local.to_owned())));
    }
    if !service.is_empty() {
        environment.push(("WEFT_SERVICE", service.to_owned()));
    }
    environment
}

fn start(
    command: &[OsString],
    death: Death,
    environment: Vec<(&'static str, String)>,
) -> Result<tokio::process::Child, Failure> {
    let Some((program, rest)) = command.split_first() else {
        return Err(Failure::usage("no program given"));
    };
    trampoline::command(Path::new(program), death)?
        .args(rest)
        .envs(environment)
        // It was for joining; the program has no business with it.
        .env_remove("WEFT_JOIN_TOKEN")
        .spawn()
        .map_err(|error| Failure::not_well(format!("cannot start {}: {error}", program.display())))
}

fn namespace(global: &Global, flag: Option<&str>) -> String {
    let from_context = || {
        let path = crate::client::kubeconfig::find(global)?;
        let text = std::fs::read_to_string(&path).ok()?;
        crate::client::kubeconfig::parse(&path, &text, global.context.as_deref()).ok()?.namespace
    };
    flag.map(str::to_owned).or_else(from_context).unwrap_or_else(|| "default".into())
}

/// Lower-case letters and digits.
fn random(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// The sidecar's state directory, ours alone while we live.
struct State {
    dir: PathBuf,
    /// Directory of the socket where the state directory's own path is too long for one.
    short: std::cell::OnceCell<PathBuf>,
    transient: bool,
    _lock: std::fs::File,
}

impl State {
    fn open(
        global: &Global,
        flag: Option<&Path>,
        namespace: &str,
        name: &str,
        transient: bool,
    ) -> Result<Self, Failure> {
        let dir = match flag {
            Some(dir) => dir.to_owned(),
            None => default_state(global).join("run").join(format!("{namespace}.{name}")),
        };
        let bad = |error: std::io::Error| Failure::not_well(format!("state directory {}: {error}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(bad)?;
        let dir = dir.canonicalize().map_err(bad)?;
        let bad = |error: std::io::Error| Failure::not_well(format!("state directory {}: {error}", dir.display()));
        let lock = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("run.lock")).map_err(bad)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Failure::usage(format!("{namespace}/{name} is running already ({})", dir.display()))
                    .hint("give this instance another --name"));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(bad(error)),
        }
        Ok(Self { dir, short: std::cell::OnceCell::new(), transient, _lock: lock })
    }

    /// Whether a sidecar has joined from here before.
    fn has_identity(&self) -> bool {
        self.dir.join("identity.pem").exists()
    }

    /// Where the private socket belongs: paths of sockets end at 107 bytes.
    fn socket(&self) -> Result<PathBuf, Failure> {
        let socket = self.dir.join("admin.sock");
        if socket.as_os_str().len() <= 100 {
            return Ok(socket);
        }
        let dir = std::env::temp_dir().join(format!("weft-{}", random(12)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Failure::not_well(format!("cannot make {}: {error}", dir.display())))?;
        Ok(self.short.get_or_init(|| dir).join("admin.sock"))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(short) = self.short.get() {
            let _ = std::fs::remove_dir_all(short);
        }
        if self.transient {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Beside the control plane's own state where it is on this host, else where programs of this user keep theirs.
fn default_state(global: &Global) -> PathBuf {
    if let Some(kubeconfig) = crate::client::kubeconfig::find(global)
        && kubeconfig.with_file_name("endpoints.json").exists()
        && let Some(dir) = kubeconfig.parent()
    {
        return dir.to_owned();
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("weft")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_the_mesh_in_its_environment() {
        let ready = sidecar::Ready {
            pid: 1,
            outbound: "127.0.0.1:4001".parse().unwrap(),
            tunnel: "127.0.0.1:4002".parse().unwrap(),
            admin: "127.0.0.1:4003".parse().unwrap(),
            socket: "/s".into(),
        };
        let environment: BTreeMap<_, _> =
            environment(Some("http://weft:x@127.0.0.1:4001"), "shop", "", "load-1", "load", &ready)
                .into_iter()
                .collect();
        assert_eq!(environment["grpc_proxy"], "http://weft:x@127.0.0.1:4001");
        assert_eq!(environment["WEFT_ADMIN"], "http://127.0.0.1:4003");
        assert!(!environment.contains_key("WEFT_SERVICE"));
        assert!(environment["no_proxy"].contains("127.0.0.1"));
    }

    #[test]
    fn an_intercepted_program_is_told_of_no_proxy() {
        let any = "127.0.0.1:1".parse().unwrap();
        let ready = sidecar::Ready { pid: 1, outbound: any, tunnel: any, admin: any, socket: "/s".into() };
        let environment = environment(None, "shop", "cart", "cart-1", "cart", &ready);
        assert!(environment.iter().all(|(name, _)| !name.to_lowercase().contains("proxy")));
        assert!(environment.contains(&("WEFT_SERVICE", "cart".to_owned())));
    }

    #[test]
    fn a_state_directory_belongs_to_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let global = Global::default();
        let first = State::open(&global, Some(&path), "shop", "cart-1", false).unwrap();
        assert!(State::open(&global, Some(&path), "shop", "cart-1", false).is_err());
        drop(first);
        State::open(&global, Some(&path), "shop", "cart-1", false).unwrap();
    }

    #[test]
    fn a_long_path_gets_a_socket_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        let state = State::open(&Global::default(), Some(&path), "shop", "cart-1", true).unwrap();
        let socket = state.socket().unwrap();
        assert!(socket.as_os_str().len() <= 100);
        let short = socket.parent().unwrap().to_owned();
        assert!(short.exists());
        drop(state);
        assert!(!short.exists() && !path.exists());
    }
}
