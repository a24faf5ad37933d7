//! External hosts: keeps the addresses of backends outside the mesh as DNS has them, and asks again when their records expire.
//!
//! A host that stops resolving keeps its last addresses: a name server that is away must not take its clients' traffic with it.

use super::cluster::Cluster;
use crate::discovery::Directory;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weft_policy::config::{Endpoint, Health};

/// Records are believed for at least this long, whatever they say…
const SHORTEST: Duration = Duration::from_secs(1);
/// …and at most this long.
const LONGEST: Duration = Duration::from_secs(300);
/// A name that did not resolve is asked for again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// How long to wait when there is no host.
const NOTHING: Duration = Duration::from_secs(60);
/// Addresses of one host that are used.
const MOST: usize = 64;

/// Which backend.
type Key = (Arc<str>, u16);

/// What a question came to: addresses, and until when they hold.
type Answer = Result<(Vec<IpAddr>, Instant), String>;

/// One external host.
struct Watched {
    host: Arc<str>,
    due: Instant,
    asking: bool,
}

/// A resolver that asks these name servers, and `/etc/hosts` before them.
///
/// # Errors
/// The library's reason.
pub fn resolver(upstream: &[SocketAddr]) -> Result<TokioResolver, String> {
    let server = |address: &SocketAddr| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), upstream.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}

/// Resolves until `end`.
pub async fn run(directory: Directory, resolver: TokioResolver, end: impl Future<Output = ()>) {
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
                    (Err(why), _) => {
                        tracing::warn!(%host, "an external host does not resolve: {why}");
                        watched.due = Instant::now() + AGAIN;
                    }
                }
            }
        }
    }
}

async fn resolve(resolver: &TokioResolver, host: &str) -> Answer {
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
