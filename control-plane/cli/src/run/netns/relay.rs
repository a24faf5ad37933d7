//! Carries a sidecar's connections to a control plane on this host's loopback, which its own network namespace cannot see.
//!
//! Bytes only: what travels is TLS between the two, and both check whom they talk to.

use crate::failure::Failure;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Connections carried at once: a sidecar has two.
const MOST: usize = 16;

/// A relay that ends when the value drops.
pub struct Relay {
    task: JoinHandle<()>,
    /// Where the sidecar connects.
    pub address: SocketAddr,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `on` and carries what connects there to `to`.
pub async fn start(on: Ipv4Addr, to: SocketAddr) -> Result<Relay, Failure> {
    let bad = |error: std::io::Error| Failure::not_well(format!("cannot listen on the bridge address {on}: {error}"));
    let listener = TcpListener::bind((on, 0)).await.map_err(bad)?;
    let address = listener.local_addr().map_err(bad)?;
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MOST => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(carry(stream, to));
                    }
                    // Out of descriptors, say: what is open may end meanwhile.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(Relay { task, address })
}

async fn carry(mut from: TcpStream, to: SocketAddr) {
    let connect = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(to));
    if let Ok(Ok(mut stream)) = connect.await {
        let _ = (from.set_nodelay(true), stream.set_nodelay(true));
        let _ = tokio::io::copy_bidirectional(&mut from, &mut stream).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_dead_end_closes() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = start(Ipv4Addr::LOCALHOST, server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        let mut buffer = [0; 4];
        peer.read_exact(&mut buffer).await.unwrap();
        peer.write_all(&buffer).await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ping");
        drop((peer, server));
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    }
}
