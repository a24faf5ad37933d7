//! What a control plane that does not lead does with those who connect to it: it carries their connections to the one that leads.
//!
//! Bytes only. What travels is TLS between the two ends, who check each other: the one between could read or say nothing.

use crate::store::{Lead, Place};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the one that leads may take to accept.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections carried at once: a sidecar has one or two.
const MOST: usize = 16_384;

/// Which of a replica's two listeners is meant.
pub(super) type Door = fn(&Place) -> SocketAddr;

/// Carries until `stop`. A connection ends with either side, and when another replica leads.
pub(super) async fn run(
    listener: TcpListener,
    own: SocketAddr,
    door: Door,
    mut lead: watch::Receiver<Lead>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MOST));
    let mut carried = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            permit_and_stream = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => permit_and_stream,
            Some(_) = carried.join_next() => continue,
            () = stop.cancelled() => return,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                let Some(to) = target(&lead.borrow_and_update(), own, door) else {
                    // Nobody leads: closed, so that who is there tries another replica, or this one again a little later.
                    continue;
                };
                let lead = lead.clone();
                carried.spawn(async move {
                    let replaced = replaced(lead, to, own, door);
                    tokio::select! {
                        () = carry(stream, to) => {}
                        () = replaced => {}
                    }
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection for the control plane that leads cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => return,
        }
    }
}

/// Where the one that leads is to be reached: never here, which would be without end.
fn target(lead: &Lead, own: SocketAddr, door: Door) -> Option<SocketAddr> {
    let at = door(lead.leader.as_ref()?.at.as_ref()?);
    (!lead.mine && at != own && !at.ip().is_unspecified()).then_some(at)
}

/// Ends when it is to be reached elsewhere.
async fn replaced(mut lead: watch::Receiver<Lead>, to: SocketAddr, own: SocketAddr, door: Door) {
    // The end of the store is that of the process.
    let _ = lead.wait_for(|lead| target(lead, own, door) != Some(to)).await;
}

async fn carry(mut from: TcpStream, to: SocketAddr) {
    match tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
        Ok(Ok(mut stream)) => {
            let _ = (from.set_nodelay(true), stream.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut from, &mut stream).await;
        }
        Ok(Err(error)) => tracing::debug!(%to, %error, "the control plane that leads cannot be reached"),
        Err(_) => tracing::debug!(%to, "the control plane that leads does not accept in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Replica;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn led_from(at: SocketAddr) -> Lead {
        let place = Place { grpc: at, api: at };
        Lead { leader: Some(Replica { name: "one".into(), at: Some(place) }), ..Lead::default() }
    }

    async fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Ends with a complaint where a relay that does not do its part would have the test wait for ever.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.expect("in time")
    }

    async fn ended(client: &mut TcpStream) -> bool {
        matches!(soon(client.read(&mut [0])).await, Ok(0) | Err(_))
    }

    /// What is said at one side is heard at the other, both ways.
    async fn carries(client: &mut TcpStream, peer: &mut TcpStream) {
        for text in [b"ping", b"pong"] {
            let mut heard = [0; 4];
            client.write_all(text).await.unwrap();
            soon(peer.read_exact(&mut heard)).await.unwrap();
            peer.write_all(&heard).await.unwrap();
            soon(client.read_exact(&mut heard)).await.unwrap();
            assert_eq!(&heard, text);
        }
    }

    #[tokio::test]
    async fn a_connection_is_carried_to_the_one_that_leads_and_ends_when_another_does() {
        let ((first, first_at), (second, second_at), (own, own_at)) = (bound().await, bound().await, bound().await);
        let (lead, seen) = watch::channel(led_from(first_at));
        let stop = CancellationToken::new();
        let relay = tokio::spawn(run(own, own_at, |place| place.grpc, seen, stop.clone()));

        let mut client = TcpStream::connect(own_at).await.unwrap();
        let (mut peer, _) = soon(first.accept()).await.unwrap();
        carries(&mut client, &mut peer).await;
        // What else changes changes nothing.
        lead.send_modify(|lead| lead.replicas.push(Replica::default()));
        carries(&mut client, &mut peer).await;

        lead.send_replace(led_from(second_at));
        assert!(ended(&mut client).await && ended(&mut peer).await);
        let mut client = TcpStream::connect(own_at).await.unwrap();
        let (mut peer, _) = soon(second.accept()).await.unwrap();
        carries(&mut client, &mut peer).await;
        // The end of one side is the end of the other.
        drop(peer);
        assert!(ended(&mut client).await);

        let mut client = TcpStream::connect(own_at).await.unwrap();
        let (mut peer, _) = soon(second.accept()).await.unwrap();
        carries(&mut client, &mut peer).await;
        stop.cancel();
        soon(relay).await.unwrap();
        assert!(ended(&mut client).await && ended(&mut peer).await);
    }

    #[tokio::test]
    async fn each_listener_has_its_own_door_at_the_one_that_leads() {
        let ((grpc, grpc_at), (api, api_at)) = (bound().await, bound().await);
        let place = Place { grpc: grpc_at, api: api_at };
        let lead = Lead { leader: Some(Replica { name: "one".into(), at: Some(place) }), ..Lead::default() };
        let (_lead, seen) = watch::channel(lead);
        let doors: [(&TcpListener, Door); 2] = [(&grpc, |place| place.grpc), (&api, |place| place.api)];
        for (listener, door) in doors {
            let (own, own_at) = bound().await;
            let relay = tokio::spawn(run(own, own_at, door, seen.clone(), CancellationToken::new()));
            let mut client = TcpStream::connect(own_at).await.unwrap();
            let (mut peer, _) = soon(listener.accept()).await.unwrap();
            carries(&mut client, &mut peer).await;
            relay.abort();
        }
    }

    #[tokio::test]
    async fn where_nobody_leads_or_it_would_come_back_here_the_connection_is_closed() {
        let ((own, own_at), (_other, other_at)) = (bound().await, bound().await);
        let mine = Lead { mine: true, ..led_from(other_at) };
        let nowhere = led_from(SocketAddr::from(([0, 0, 0, 0], 15010)));
        for lead in [Lead::default(), led_from(own_at), nowhere, mine.clone()] {
            assert_eq!(target(&lead, own_at, |place| place.grpc), None, "{lead:?}");
        }
        assert_eq!(target(&led_from(other_at), own_at, |place| place.grpc), Some(other_at));
        let (lead, seen) = watch::channel(Lead::default());
        let stop = CancellationToken::new();
        let relay = tokio::spawn(run(own, own_at, |place| place.grpc, seen, stop.clone()));
        for now in [Lead::default(), mine] {
            lead.send_replace(now);
            assert!(ended(&mut TcpStream::connect(own_at).await.unwrap()).await);
        }
        stop.cancel();
        soon(relay).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_leads_and_is_gone_ends_the_connection_and_not_the_relay() {
        let ((own, own_at), (gone, gone_at), (next, next_at)) = (bound().await, bound().await, bound().await);
        drop(gone);
        let (lead, seen) = watch::channel(led_from(gone_at));
        let relay = tokio::spawn(run(own, own_at, |place| place.grpc, seen, CancellationToken::new()));
        assert!(ended(&mut TcpStream::connect(own_at).await.unwrap()).await);
        lead.send_replace(led_from(next_at));
        let mut client = TcpStream::connect(own_at).await.unwrap();
        let (mut peer, _) = soon(next.accept()).await.unwrap();
        carries(&mut client, &mut peer).await;
        relay.abort();
    }
}
