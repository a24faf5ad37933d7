//! Which worker gets a connection that will carry many calls for a long time.
//!
//! The kernel deals the connections of a shared port to the workers' sockets by a hash of their addresses. That is even over thousands of
//! connections; the hop between two sidecars is a handful of them, and where the hash puts all on one socket the other workers idle for as
//! long as they live. A worker that accepts one while another holds fewer therefore hands it over, once, before its first byte is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Connections on their way to one worker; over that, whoever accepted one keeps it.
const ON_THE_WAY: usize = 64;

/// What the workers of one listener know of each other.
type Seats = Arc<[Seat]>;

#[derive(Debug)]
struct Seat {
    /// Connections that the worker holds or is being handed.
    open: AtomicUsize,
    handed: mpsc::Sender<Handed>,
}

type Handed = (std::net::TcpStream, SocketAddr, Place);

/// One worker's part in dealing the connections of a listener.
#[derive(Debug)]
pub struct Dealer {
    seats: Seats,
    own: usize,
    inbox: mpsc::Receiver<Handed>,
}

/// Counts a connection to a worker until it is dropped.
#[derive(Debug)]
pub struct Place {
    seats: Seats,
    worker: usize,
}

impl Place {
    fn take(seats: &Seats, worker: usize) -> Self {
        seats[worker].open.fetch_add(1, Ordering::Relaxed);
        Self { seats: seats.clone(), worker }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seats[self.worker].open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dealer {
    /// One for each of `workers`.
    #[must_use]
    pub fn all(workers: usize) -> Vec<Self> {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(ON_THE_WAY)).unzip();
        let seats: Seats = senders.into_iter().map(|handed| Seat { open: AtomicUsize::new(0), handed }).collect();
        let dealer = |(own, inbox)| Self { seats: seats.clone(), own, inbox };
        inboxes.into_iter().enumerate().map(dealer).collect()
    }

    /// For another listener of the same worker: it deals likewise, and what is handed to the worker comes to the first.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { seats: self.seats.clone(), own: self.own, inbox: mpsc::channel(1).1 }
    }

    /// Keeps an accepted connection, or hands it to the worker that holds the fewest where that is fewer than this one's; `None` then.
    pub(super) fn deal(&self, stream: TcpStream, peer: SocketAddr) -> Option<(TcpStream, SocketAddr, Place)> {
        let open = |worker: usize| self.seats[worker].open.load(Ordering::Relaxed);
        let fewest =
            (0..self.seats.len()).min_by_key(|worker| (open(*worker), *worker != self.own)).unwrap_or(self.own);
        if fewest != self.own
            && let Ok(permit) = self.seats[fewest].handed.try_reserve()
        {
            // Only the error of `epoll_ctl` is possible, and the connection is lost with it.
            if let Ok(stream) = stream.into_std() {
                permit.send((stream, peer, Place::take(&self.seats, fewest)));
            }
            return None;
        }
        Some((stream, peer, Place::take(&self.seats, self.own)))
    }

    /// The next connection that another worker hands over.
    pub(super) async fn handed(&mut self) -> (std::io::Result<TcpStream>, SocketAddr, Place) {
        match self.inbox.recv().await {
            Some((stream, peer, place)) => (TcpStream::from_std(stream), peer, place),
            // The seats hold a sender each, so that the channel does not close before they do; beside it nothing is handed over.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn connection() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (server, peer) = accepted.unwrap();
        (client.unwrap(), server, peer)
    }

    #[tokio::test]
    async fn a_second_connection_goes_to_the_worker_that_has_none() {
        let mut dealers = Dealer::all(2);
        let mut second = dealers.pop().unwrap();
        let first = dealers.pop().unwrap();
        let (_client, stream, peer) = connection().await;
        let kept = first.deal(stream, peer).expect("both have none: whoever accepts keeps");
        let (_client, stream, peer) = connection().await;
        assert!(first.deal(stream, peer).is_none());
        let (stream, from, place) = second.handed().await;
        assert_eq!((stream.unwrap().peer_addr().unwrap(), from, place.worker), (peer, peer, 1));
        let (_client, stream, peer) = connection().await;
        let third = second.deal(stream, peer).expect("as many as the other: kept");
        drop((third, place, kept));
        assert!(first.seats.iter().all(|seat| seat.open.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn who_is_busy_taking_over_is_not_handed_more() {
        let dealers = Dealer::all(2);
        // Held elsewhere, so that the other worker always has fewer.
        let held: Vec<Place> = (0..1000).map(|_| Place::take(&dealers[0].seats, 0)).collect();
        for _ in 0..ON_THE_WAY {
            let (_client, stream, peer) = connection().await;
            assert!(dealers[0].deal(stream, peer).is_none());
        }
        let (_client, stream, peer) = connection().await;
        assert!(dealers[0].deal(stream, peer).is_some(), "its inbox is full");
        drop(held);
    }
}
