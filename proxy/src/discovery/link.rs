//! The way to the control plane: one gRPC channel over our own TLS, patience between attempts, and failures in words.

use crate::config::{Addresses, Place};
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_certs::tls::unnamed;

/// Name, TCP and TLS to the control plane together.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a quiet connection is asked whether it lives, and how long the answer may take: without it a partitioned stream stays
/// dead after the repair.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Which of the control plane's addresses is used: a random one first, the next one when it cannot be connected to. Shared by the channels of
/// a sidecar.
#[derive(Clone, Debug)]
pub struct Route {
    addresses: Arc<[Place]>,
    /// Counts on; its remainder is the place in the list.
    turn: Arc<AtomicUsize>,
}

impl Route {
    /// Begins at random: sidecars that start together spread over the replicas.
    #[must_use]
    pub fn new(addresses: &Addresses) -> Self {
        let addresses: Arc<[Place]> = addresses.all().into();
        let first = rand::random_range(0..addresses.len());
        Self { addresses, turn: Arc::new(AtomicUsize::new(first)) }
    }

    /// The address to try, and the turn that it belongs to.
    fn now(&self) -> (usize, &Place) {
        let turn = self.turn.load(Ordering::Relaxed);
        (turn, &self.addresses[turn % self.addresses.len()])
    }

    /// It cannot be connected to: whoever tries next, after its backoff, tries another. Nothing where somebody said so before.
    fn failed(&self, turn: usize) {
        let _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Self {
        Self::new(&Addresses::from(address))
    }
}

/// A channel that connects when it is first used, and again after it broke. Whom it accepts is said by `tls`.
#[must_use]
pub fn channel(route: impl Into<Route>, tls: Arc<rustls::ClientConfig>) -> Channel {
    let tls = TlsConnector::from(tls);
    let route = route.into();
    // The scheme must be http: with https tonic insists on TLS of its own.
    Endpoint::from_static("http://weft-control")
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (tls, route) = (tls.clone(), route.clone());
            async move {
                let (turn, address) = route.now();
                let connected = timeout(CONNECT, dial_any(address, &tls)).await;
                let connected = connected
                    .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} is silent"))));
                if connected.is_err() {
                    route.failed(turn);
                }
                connected
            }
        }))
}

type Connection = hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

/// A name may stand for several replicas: one of its addresses at random, and the others if that is not to be had.
async fn dial_any(place: &Place, tls: &TlsConnector) -> io::Result<Connection> {
    let mut addresses: Vec<SocketAddr> = match place {
        Place::Address(address) => return dial(*address, tls.clone()).await,
        Place::Name(name, port) => {
            let found = tokio::net::lookup_host((&**name, *port)).await;
            found.map_err(|e| io::Error::new(e.kind(), format!("{place}: {e}")))?.collect()
        }
    };
    if !addresses.is_empty() {
        let first = rand::random_range(0..addresses.len());
        addresses.rotate_left(first);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{place}: the name has no address"));
    for address in addresses {
        match dial(address, tls.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr, tls: TlsConnector) -> io::Result<Connection> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    crate::intercept::exempt(&socket)?;
    let stream = socket.connect(address).await.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))?;
    stream.set_nodelay(true)?;
    let stream = tls
        .connect(unnamed(), stream)
        .await
        .map_err(|e| io::Error::new(e.kind(), weft_certs::Error::from_handshake(&e)))?;
    Ok(hyper_util::rt::TokioIo::new(stream))
}

/// Whether a failure is that the control plane takes this sidecar's certificate for revoked. With TLS 1.3 that is read after the handshake,
/// by whoever uses the connection first.
pub(crate) fn says_revoked(status: &tonic::Status) -> bool {
    // HTTP/2 keeps no more than the words of what its transport said.
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked).to_string();
    let mut source = status.source();
    while let Some(error) = source {
        if error.to_string().ends_with(&alert) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let known = error.get_ref().and_then(|inner| inner.downcast_ref::<weft_certs::Error>());
            let revoked = match known {
                Some(known) => known.is_revocation(),
                None => weft_certs::Error::from_handshake(error).is_revocation(),
            };
            if revoked {
                return true;
            }
        }
        source = error.source();
    }
    false
}

/// What happened, of a failure's causes the innermost: the layers around it repeat each other, and a transport error says only "transport
/// error" by itself.
pub(crate) fn innermost(status: &tonic::Status) -> String {
    let mut last = None;
    let mut source = status.source();
    while let Some(error) = source {
        last = Some(error.to_string());
        source = error.source();
    }
    last.unwrap_or_else(|| status.message().to_owned()).replace('\n', " ")
}

/// A gRPC failure in one line.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let text = match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown if status.source().is_some() => innermost(status),
        code => format!("the control plane says {code:?}: {}", status.message()),
    };
    if says_revoked(status) {
        return weft_certs::Error::OwnRevoked.to_string();
    }
    // rustls explains this one with a link to its manual.
    if text.contains("close_notify") {
        return "the control plane closed the connection".to_owned();
    }
    text.replace('\n', " ")
}

/// Exponential backoff with full jitter (AWS, "Exponential Backoff And Jitter"): a fleet that lost its control plane together must
/// not come back together.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits are drawn from zero to `base × 2ⁿ`, at most `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.attempt.min(16)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(rand::random::<f64>())
    }

    /// Something good happened: the next wait is short again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_is_left_for_the_next_one_once() {
        let all: Vec<Place> = (1..=3).map(|port| SocketAddr::from(([192, 0, 2, 1], port)).into()).collect();
        let route = Route::new(&Addresses::new(all.clone()).unwrap());
        let mut tried = Vec::new();
        for _ in 0..3 {
            let (turn, address) = route.now();
            tried.push(address.clone());
            // Two channels met the same failure.
            route.failed(turn);
            route.failed(turn);
        }
        tried.sort();
        assert_eq!(tried, all);
        let only = Route::new(&Addresses::new(all[..1].to_vec()).unwrap());
        only.failed(only.now().0);
        assert_eq!(*only.now().1, all[0]);
    }

    #[test]
    fn sidecars_begin_at_different_addresses() {
        let all: Vec<Place> = (1..=3).map(|port| SocketAddr::from(([192, 0, 2, 1], port)).into()).collect();
        let addresses = Addresses::new(all).unwrap();
        let first: std::collections::BTreeSet<_> = (0..200).map(|_| Route::new(&addresses).now().1.clone()).collect();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn waits_grow_to_the_cap_and_a_good_answer_makes_them_short_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        for n in 0..40_u32 {
            let wait = backoff.wait();
            assert!(wait <= Duration::from_millis(100 << n.min(10)).min(Duration::from_secs(15)), "{n}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(100));
    }
}
