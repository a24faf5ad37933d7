//! One exchange with a web server, over a connection of its own: for what the control plane reads from elsewhere now and then. The answer is
//! bounded in size and time, and no redirect is followed.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Uri, response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where plain HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Nowhere.
    Never,
    /// To addresses on loopback, wherever a name led.
    Loopback,
    /// Wherever the address says so.
    Always,
}

/// Asks `uri`, whose path and query become the request's, and reads at most `largest` bytes of the answer. `tls` is called for `https` only.
/// The whole is given up after `deadline`.
pub(crate) async fn exchange(
    uri: &Uri,
    request: Request<Full<Bytes>>,
    tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, String>,
    plain: Plain,
    (largest, deadline): (usize, Duration),
) -> Result<(response::Parts, Bytes), String> {
    let work = async {
        let host = uri.host().ok_or("names no host")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        if !secure && plain == Plain::Never {
            return Err("plain HTTP is not spoken".to_owned());
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(|error| format!("connect: {error}"))?;
        if !secure {
            // The name was resolved by others: what counts is where it led.
            let is_loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
            if plain == Plain::Loopback && !is_loopback {
                return Err("plain HTTP is spoken to loopback only".to_owned());
            }
            return over(stream, uri, request, largest).await;
        }
        let name = rustls_pki_types::ServerName::try_from(bare).map_err(|_| "names no host".to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(tls()?);
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        over(stream, uri, request, largest).await
    };
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
}

async fn over<S>(
    stream: S,
    uri: &Uri,
    mut request: Request<Full<Bytes>>,
    largest: usize,
) -> Result<(response::Parts, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("HTTP: {error}"))?;
    let bad = |_| "is no address".to_owned();
    let host = uri.host().unwrap_or_default();
    let authority = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    *request.uri_mut() = uri.path_and_query().map_or("/", |target| target.as_str()).parse().map_err(|_| bad(()))?;
    request.headers_mut().insert(HOST, HeaderValue::try_from(authority).map_err(|_| bad(()))?);
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| format!("HTTP: {error}"))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, largest).collect().await;
        let body = body.map_err(|_| format!("the answer broke off, or is longer than {largest} bytes"))?;
        Ok((parts, body.to_bytes()))
    };
    let connection = async {
        // Its own end is the exchange's, which says what went wrong.
        drop(connection.await);
        std::future::pending().await
    };
    tokio::select! {
        exchanged = exchange => exchanged,
        () = connection => Err("the connection ended".to_owned()),
    }
}
