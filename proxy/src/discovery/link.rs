//! The way to the control plane: one gRPC channel over our own TLS, patience between attempts, and failures in words.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_certs::tls::unnamed;

/// DNS-less: TCP and TLS to the control plane together.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a quiet connection is asked whether it lives, and how long the answer may take: without it a partitioned stream stays
/// dead after the repair.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A channel that connects when it is first used, and again after it broke. Whom it accepts is said by `tls`.
#[must_use]
pub fn channel(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Channel {
    let tls = TlsConnector::from(tls);
    // The scheme must be http: with https tonic insists on TLS of its own.
    Endpoint::from_static("http://weft-control")
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let connected = timeout(CONNECT, dial(address, tls)).await;
                connected
                    .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} is silent"))))
            }
        }))
}

async fn dial(
    address: SocketAddr,
    tls: TlsConnector,
) -> io::Result<hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>> {
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
