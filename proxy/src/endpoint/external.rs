//! External hosts: keeps the addresses of backends outside the mesh as DNS has them, and asks again when their records expire.
//!
//! A host that stops resolving keeps its last addresses: a name server that is away must not take its clients' traffic with it.

use super::cluster::Cluster;
use crate::discovery::Directory;
use crate::intercept::exempt;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use weft_policy::config::{Endpoint, Health};

/// Records are believed for at least this long, whatever they say…
const SHORTEST: Duration = Duration::from_secs(1);
/// …and at most this long.
const LONGEST: Duration = Duration::from_secs(300);
/// A name that did not resolve is asked for again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a name server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait when there is no host.
const NOTHING: Duration = Duration::from_secs(60);
/// Addresses of one host that are used.
const MOST: usize = 64;

/// Which backend.
type Key = (Arc<str>, u16);

/// What a question came to: addresses, and until when they hold.
pub(crate) type Answer = Result<(Vec<IpAddr>, Instant), String>;

/// One external host.
struct Watched {
    host: Arc<str>,
    due: Instant,
    asking: bool,
}

/// Questions of the sidecar itself: where everything is intercepted, its own DNS must not answer them.
pub type Resolver = hickory_resolver::Resolver<Exempt>;

/// Sockets that no rule redirects.
#[derive(Clone, Default)]
pub struct Exempt(TokioHandle);

type Opening<S> = Pin<Box<dyn Future<Output = io::Result<S>> + Send>>;

impl RuntimeProvider for Exempt {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.0.clone()
    }

    fn connect_tcp(&self, to: SocketAddr, from: Option<SocketAddr>, within: Option<Duration>) -> Opening<Self::Tcp> {
        Box::pin(async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            exempt(&socket)?;
            if let Some(from) = from {
                socket.bind(from)?;
            }
            let connected = tokio::time::timeout(within.unwrap_or(CONNECT), socket.connect(to)).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local: SocketAddr, _to: SocketAddr) -> Opening<UdpSocket> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            exempt(&socket)?;
            Ok(socket)
        })
    }
}

/// Whether a host is being asked for that nobody has said anything about yet.
#[must_use]
pub fn is_awaited(cluster: &Cluster) -> bool {
    cluster.resolution().is_some_and(|resolution| !*resolution.borrow())
}

/// Waits until a host was answered for, at most as long as a connection to it may take. At once where there is no such host, or it was.
pub async fn first_answer(cluster: &Cluster) {
    if let Some(mut resolution) = cluster.resolution() {
        let answered = resolution.wait_for(|answered| *answered);
        let _ = tokio::time::timeout(cluster.backend().connect_timeout, answered).await;
    }
}

/// An address of a host, as soon as it was answered for.
pub async fn address(cluster: &Cluster) -> Option<IpAddr> {
    first_answer(cluster).await;
    cluster.address()
}

/// A resolver that asks these name servers, and `/etc/hosts` before them.
///
/// # Errors
/// The library's reason.
pub fn resolver(upstream: &[SocketAddr]) -> Result<Resolver, String> {
    let server = |address: &SocketAddr| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), upstream.iter().map(server).collect());
    let mut builder = Resolver::builder_with_config(config, Exempt::default());
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}

/// Resolves until `end`.
pub async fn run(directory: Directory, resolver: Resolver, end: impl Future<Output = ()>) {
    let mut end = std::pin::pin!(end);
    let mut published = directory.changes();
    let mut hosts: HashMap<Key, Watched> = HashMap::new();
    let mut asked: JoinSet<(Key, Arc<str>, Answer)> = JoinSet::new();
    loop {
        let now = Instant::now();
        let mut wake = now + NOTHING;
        let snapshot = directory.snapshot().clone();
        let mut known = HashMap::with_capacity(hosts.len());
        for (service, port, cluster) in snapshot.clusters() {
            let Some(external) = cluster.backend().external.clone() else { continue };
            let key: Key = (service.into(), port);
            let kept = hosts.remove(&key).filter(|watched| watched.host == external.host);
            let mut watched =
                kept.unwrap_or_else(|| Watched { host: Arc::clone(&external.host), due: now, asking: false });
            if !watched.asking && watched.due <= now {
                watched.asking = true;
                let (resolver, host, key) = (resolver.clone(), Arc::clone(&external.host), key.clone());
                asked.spawn(async move {
                    let answer = resolve(&resolver, &host).await;
                    (key, host, answer)
                });
            }
            if !watched.asking {
                wake = wake.min(watched.due);
            }
            known.insert(key, watched);
        }
        hosts = known;
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep_until(wake.into()) => {}
            changed = published.changed() => {
                if changed.is_err() {
                    return end.await;
                }
            }
            Some(answered) = asked.join_next(), if !asked.is_empty() => {
                let Ok((key, host, answer)) = answered else { continue };
                let Some(watched) = hosts.get_mut(&key).filter(|watched| watched.host == host) else { continue };
                watched.asking = false;
                let snapshot = directory.snapshot().clone();
                match (answer, snapshot.cluster(&key.0, key.1)) {
                    (Ok((addresses, until)), Some(cluster)) => {
                        watched.due = until;
                        take(cluster, &host, &addresses);
                    }
                    (Ok(_), None) => {}
                    (Err(why), cluster) => {
                        tracing::warn!(%host, "an external host does not resolve: {why}");
                        if let Some(cluster) = cluster {
                            cluster.unresolvable();
                        }
                        watched.due = Instant::now() + AGAIN;
                    }
                }
            }
        }
    }
}

/// The addresses of a name (or of what is an address), and until when they hold.
pub(crate) async fn resolve(resolver: &Resolver, host: &str) -> Answer {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((vec![address], Instant::now() + LONGEST));
    }
    // A final dot keeps search domains out of it.
    let name = if host.ends_with('.') { host.to_owned() } else { format!("{host}.") };
    let found = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.iter().take(MOST).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let now = Instant::now();
    let until = found.valid_until().clamp(now + SHORTEST, now + LONGEST);
    Ok((addresses, until))
}

fn take(cluster: &Cluster, host: &str, addresses: &[IpAddr]) {
    let Some(port) = cluster.backend().external.as_ref().map(|external| external.port) else { return };
    let endpoint = |address: &IpAddr| Endpoint {
        uid: format!("{host}/{address}").into(),
        address: SocketAddr::new(*address, port),
        tunnel: None,
        health: Health::Ready,
        weight: 1,
        region: Arc::default(),
        zone: Arc::default(),
        protocol: None,
    };
    cluster.resolved(addresses.iter().map(endpoint).collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_policy::config::{Backend, ExternalHost};

    fn outside() -> Arc<Cluster> {
        let external = Some(ExternalHost { host: "api.example.com".into(), port: 80 });
        Cluster::new("shop/api".into(), 80, Arc::new(Backend { external, ..Backend::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn who_calls_a_host_first_waits_for_its_addresses_but_not_for_ever() {
        let start = tokio::time::Instant::now();
        let cluster = outside();
        assert!(is_awaited(&cluster));
        first_answer(&cluster).await;
        assert_eq!(start.elapsed(), cluster.backend().connect_timeout, "nobody answered");

        let first = tokio::spawn({
            let cluster = Arc::clone(&cluster);
            async move { address(&cluster).await }
        });
        tokio::task::yield_now().await;
        assert!(!first.is_finished());
        take(&cluster, "api.example.com", &[IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(first.await.unwrap(), Some(IpAddr::from([192, 0, 2, 7])));
        let start = tokio::time::Instant::now();
        first_answer(&cluster).await;
        assert!(!is_awaited(&cluster) && start.elapsed().is_zero(), "it is known now");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_host_that_does_not_resolve_or_where_there_is_none() {
        let start = tokio::time::Instant::now();
        let cluster = outside();
        cluster.unresolvable();
        assert_eq!(address(&cluster).await, None);
        first_answer(&Cluster::new("shop/orders".into(), 80, Arc::new(Backend::default()))).await;
        assert!(start.elapsed().is_zero());
    }
}
