//! The name that a TLS client asks for (SNI, RFC 6066 §3), read from its ClientHello without answering it: what passed-through TLS is told
//! apart by. The bytes stay for whoever the connection goes to.

use crate::codec::Io;
use bytes::BytesMut;
use rustls::server::Acceptor;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long a client may take for its ClientHello.
const PATIENCE: Duration = Duration::from_secs(10);
/// A ClientHello of one full record; post-quantum key shares need some 2 KiB.
const BOUND: usize = 16 * 1024 + 5;

/// ContentType of a handshake record (RFC 8446 §5.1): how TLS begins.
const HANDSHAKE: u8 = 22;
/// A fatal alert (RFC 8446 §6) in a plaintext record: no server is known by the name that was asked for.
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a client says first.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// It speaks TLS, and names this server if it names any.
    Tls(Option<Box<str>>),
    /// It speaks something else.
    Other,
}

/// Reads the ClientHello into `buffer`.
///
/// # Errors
/// Why this is no client that could be passed on, for the log.
pub async fn server_name(io: &mut Io, buffer: &mut BytesMut) -> Result<Hello, &'static str> {
    match tokio::time::timeout(PATIENCE, read(io, buffer)).await {
        Ok(result) => result,
        Err(_) => Err("the client did not finish its ClientHello in time"),
    }
}

async fn read(io: &mut Io, buffer: &mut BytesMut) -> Result<Hello, &'static str> {
    let mut acceptor = Acceptor::default();
    loop {
        let before = buffer.len();
        if before >= BOUND {
            return Err("the ClientHello is too long");
        }
        match io.read_buf(buffer).await {
            Ok(1..) => {}
            Ok(0) => return Err("the client closed before its ClientHello was complete"),
            Err(_) => return Err("the connection broke before the ClientHello was complete"),
        }
        if buffer.first().is_some_and(|first| *first != HANDSHAKE) {
            return Ok(Hello::Other);
        }
        let mut fresh = buffer.get(before..).unwrap_or_default();
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh).is_err() {
                return Err("these bytes are not TLS");
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Hello::Tls(accepted.client_hello().server_name().map(Box::from))),
            Err(_) => return Err("these bytes are not a ClientHello"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// What rustls' own client says first.
    fn hello(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn told(bytes: Vec<u8>, step: usize) -> (Result<Hello, &'static str>, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let writing = async {
            for chunk in bytes.chunks(step) {
                client.write_all(chunk).await.unwrap();
            }
            drop(client);
        };
        let mut buffer = BytesMut::new();
        let mut io = Io::other(server);
        let (_, name) = tokio::join!(writing, server_name(&mut io, &mut buffer));
        (name, buffer.to_vec())
    }

    #[tokio::test]
    async fn the_name_is_read_however_the_hello_is_cut_and_its_bytes_are_kept() {
        let bytes = hello("orders.example.com");
        for step in [1, 7, 100_000] {
            let (name, kept) = told(bytes.clone(), step).await;
            assert_eq!(name, Ok(Hello::Tls(Some("orders.example.com".into()))));
            assert_eq!(kept, bytes);
        }
    }

    #[tokio::test]
    async fn a_client_that_calls_an_address_names_no_server() {
        assert_eq!(told(hello("192.0.2.7"), 512).await.0, Ok(Hello::Tls(None)));
    }

    #[tokio::test]
    async fn what_is_not_tls_or_breaks_off_is_told_apart() {
        assert_eq!(told(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec(), 512).await.0, Ok(Hello::Other));
        let mut broken = hello("orders.example.com");
        broken[5] = 99;
        assert_eq!(told(broken, 100_000).await.0, Err("these bytes are not a ClientHello"));
        let mut half = hello("orders.example.com");
        half.truncate(half.len() / 2);
        assert_eq!(told(half, 512).await.0, Err("the client closed before its ClientHello was complete"));
    }
}
