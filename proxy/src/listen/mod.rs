//! Accept loops: one socket a worker, permits before connections, and an end that loses nothing.
//!
//! What a connection means is decided by the handler that the loop is given (`outbound`, `inbound`, `admin`); how its first bytes tell
//! the protocol is in [`detect`]. Invariant: every accepted connection lives in its loop's `JoinSet`, so none outlives the loop.

mod deal;
pub mod detect;
pub mod hello;
pub(crate) mod pace;

pub use deal::Dealer;

use crate::drain::{Drain, Session, Side};
use crate::telemetry::{Direction, Telemetry};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Connections that the kernel may hold for an accept loop.
const BACKLOG: i32 = 1024;
/// Pause after an error of `accept` that is not the connection's own (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a listener is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// One socket for each worker.
    pub workers: usize,
    /// Connections to any address may come here: TPROXY brings them.
    pub transparent: bool,
    /// An IPv6 address is for IPv6 alone: the same port of IPv4 has a listener of its own.
    pub only_v6: bool,
}

impl Binding {
    /// One socket, of its address.
    #[must_use]
    pub const fn one() -> Self {
        Self { workers: 1, transparent: false, only_v6: false }
    }
}

/// Binds one socket for each worker at the same address (`SO_REUSEPORT` when there are several); port 0 picks one port for all. The
/// first is bound without sharing, so that a port which another process holds is an error and not a silent split of its traffic.
///
/// `[::]` is both families, and IPv4 alone where the machine has no IPv6.
///
/// # Errors
/// Those of `bind` and `listen`; that a transparent socket takes a capability.
pub fn bind(address: SocketAddr, how: Binding) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let both = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !how.only_v6;
    match bind_family(address, how) {
        Err(error) if both && is_without_ipv6(&error) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::info!(%address, "there is no IPv6 here: listens on IPv4 alone");
            bind_family(address, how)
        }
        bound => bound,
    }
}

fn bind_family(address: SocketAddr, how: Binding) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let first = socket(address, false, how)?;
    let bound = first.local_addr()?;
    if how.workers <= 1 {
        return Ok((bound, vec![first]));
    }
    drop(first);
    let listeners = (0..how.workers).map(|_| socket(bound, true, how)).collect::<io::Result<_>>()?;
    Ok((bound, listeners))
}

/// EAFNOSUPPORT: the kernel was started without it. EADDRNOTAVAIL: it is switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn socket(address: SocketAddr, share: bool, how: Binding) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // Said either way: what a machine has as its default (net.ipv6.bindv6only) must not matter.
        socket.set_only_v6(how.only_v6)?;
    }
    if how.transparent {
        crate::intercept::transparent(&socket, address.is_ipv4())?;
    }
    // What is accepted inherits it (tcp(7)): one system call less for each connection.
    socket.set_tcp_nodelay(true)?;
    pace::unpaced(&socket, address.ip());
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a redirected connection wanted to go; `None` when nothing redirected it.
#[must_use]
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    crate::intercept::original_destination(stream).ok().flatten()
}

/// Where a connection wanted to go that TPROXY brought to a listener on this port; `None`: to that port itself.
#[must_use]
pub fn diverted_destination(stream: &TcpStream, listener: u16) -> Option<SocketAddr> {
    crate::intercept::diverted_destination(stream, listener).ok().flatten()
}

/// What every accept loop of a direction shares.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Which way its connections go.
    pub direction: Direction,
    /// What the connections are, for the gauge: `explicit`, `named`, `transparent`, `tunnel`, `plaintext`.
    pub kind: &'static str,
    /// Permits of the direction: over the limit a connection is refused at once rather than queued.
    pub permits: Arc<Semaphore>,
    /// When to stop.
    pub drain: Drain,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
}

/// An accepted connection and everything that its end gives back.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Holds the accept permit, the drain's count and the gauge until it is dropped.
    pub hold: Hold,
}

/// Dropped with the connection.
#[derive(Debug)]
pub struct Hold {
    _session: Session,
    _permit: OwnedSemaphorePermit,
    _place: Option<deal::Place>,
    open: crate::telemetry::metrics::Gauge,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.shift(-1.0);
    }
}

impl Gate {
    const fn side(&self) -> Side {
        match self.direction {
            Direction::Inbound => Side::Inbound,
            Direction::Outbound => Side::Outbound,
        }
    }

    /// Accepts until the drain asks this direction to end, then waits for what is open, and cuts it at the drain's deadline.
    /// Runs `handler` once for each connection, on this thread; with a `dealer` that is the thread with the fewest connections.
    pub async fn serve<F>(
        &self,
        listener: impl Into<Arc<TcpListener>>,
        mut dealer: Option<Dealer>,
        handler: impl Fn(Accepted) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener: Arc<TcpListener> = listener.into();
        let (graceful, cut) = (self.drain.graceful(self.side()), self.drain.cut(self.side()));
        let gauge = self.telemetry.connections.with(&[self.direction.name(), self.kind]);
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = graceful.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let kept = match &dealer {
                            None => Some((stream, peer, None)),
                            Some(dealer) => dealer.deal(stream, peer).map(|(stream, peer, place)| (stream, peer, Some(place))),
                        };
                        if let Some((stream, peer, place)) = kept
                            && let Some(accepted) = self.admit(&gauge, stream, peer, place)
                        {
                            // Boxed: a task is moved several times before it runs, and once more when it ends.
                            open.spawn(Box::pin(handler(accepted)));
                        }
                    }
                    Err(error) if of_the_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, kind = self.kind, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                (stream, peer, place) = handed(&mut dealer) => match stream {
                    Ok(stream) => {
                        if let Some(accepted) = self.admit(&gauge, stream, peer, Some(place)) {
                            open.spawn(Box::pin(handler(accepted)));
                        }
                    }
                    Err(error) => tracing::warn!(%peer, %error, kind = self.kind, "cannot take a connection over"),
                },
                Some(ended) = open.join_next(), if !open.is_empty() => self.note(&ended),
            }
        }
        drop(listener);
        loop {
            tokio::select! {
                biased;
                () = cut.cancelled() => {
                    open.shutdown().await;
                    return;
                }
                ended = open.join_next() => match ended {
                    Some(ended) => self.note(&ended),
                    None => return,
                },
            }
        }
    }

    /// `None`: refused, since too many are open.
    fn admit(
        &self,
        gauge: &crate::telemetry::metrics::Gauge,
        stream: TcpStream,
        peer: SocketAddr,
        place: Option<deal::Place>,
    ) -> Option<Accepted> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.telemetry.refused.with(&[self.direction.name(), "overflow"]).increment();
            tracing::warn!(%peer, kind = self.kind, "refused: too many connections are open");
            return None;
        };
        gauge.shift(1.0);
        let session = self.drain.session(self.side());
        let hold = Hold { _session: session, _permit: permit, _place: place, open: gauge.clone() };
        Some(Accepted { stream, peer, hold })
    }

    fn note(&self, ended: &Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(kind = self.kind, "a connection's task panicked: {error}");
        }
    }
}

/// The next connection from another worker; pending for ever without a dealer.
async fn handed(dealer: &mut Option<Dealer>) -> (io::Result<TcpStream>, SocketAddr, deal::Place) {
    match dealer {
        Some(dealer) => dealer.handed().await,
        None => std::future::pending().await,
    }
}

/// Errors of `accept(2)` that concern the connection which was about to be accepted, and not the listener.
fn of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::ConnectionAborted | E::ConnectionReset | E::ConnectionRefused | E::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn gate(permits: usize) -> Gate {
        Gate {
            direction: Direction::Outbound,
            kind: "explicit",
            permits: Arc::new(Semaphore::new(permits)),
            drain: Drain::new(),
            telemetry: Arc::new(Telemetry::quiet()),
        }
    }

    #[test]
    fn several_workers_share_one_port_and_a_port_in_use_is_an_error() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, listeners) = bind(any, Binding { workers: 3, ..Binding::default() }).unwrap();
        assert!(listeners.len() == 3 && listeners.iter().all(|l| l.local_addr().unwrap() == address));
        let (taken, _held) = bind(any, Binding::one()).unwrap();
        assert!(bind(taken, Binding { workers: 2, ..Binding::default() }).is_err());
    }

    #[test]
    fn both_families_may_have_a_listener_of_their_own_on_one_port_or_share_one() {
        let (v4, _held) = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Binding::one()).unwrap();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, v4.port()));
        assert!(bind(any, Binding::one()).is_err(), "both families would be one too many");
        let (v6, beside) = bind(any, Binding { only_v6: true, ..Binding::one() }).unwrap();
        assert_eq!((v6.port(), beside.len()), (v4.port(), 1));
        let (both, listeners) = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), Binding::one()).unwrap();
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let _caller = std::net::TcpStream::connect((ip, both.port())).unwrap();
            assert_eq!(listeners[0].accept().unwrap().1.ip().to_canonical(), ip);
        }
    }

    #[test]
    fn an_accepted_connection_sends_small_answers_at_once() {
        let (address, listeners) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Binding::one()).unwrap();
        let _caller = std::net::TcpStream::connect(address).unwrap();
        assert!(listeners[0].accept().unwrap().0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn over_the_limit_a_connection_is_closed_and_a_permit_comes_back_with_its_connection() {
        let (address, mut listeners) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Binding::one()).unwrap();
        let (gate, listener) = (gate(1), TcpListener::from_std(listeners.remove(0)).unwrap());
        let (serving, drain) = (gate.clone(), gate.drain.clone());
        let server = tokio::spawn(async move {
            serving
                .serve(listener, None, |mut accepted| async move {
                    let _ = accepted.stream.write_all(b"hello").await;
                    let _ = accepted.stream.read(&mut [0; 1]).await;
                    drop(accepted.hold);
                })
                .await;
        });
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut text = [0; 5];
        first.read_exact(&mut text).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(second.read(&mut text).await.unwrap_or(0), 0, "refused at once");
        drop(first);
        loop {
            let mut third = TcpStream::connect(address).await.unwrap();
            if third.read(&mut text).await.unwrap_or(0) == 5 {
                break;
            }
        }
        drain.application_gone();
        let ended = drain.run(Duration::from_millis(100));
        let (_, cut) = tokio::join!(server, ended);
        assert_eq!(cut, 0);
        assert_eq!(gate.drain.open(Side::Outbound), 0);
    }
}
