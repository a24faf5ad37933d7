//! The explicit listener: absolute-form, CONNECT, and plain requests by `Host` or `:authority`, for places without interception.
//!
//! Whoever reaches it speaks with the workload's identity, so credentials (when configured) are asked for in every form, and nothing but
//! services of the mesh can be reached: it is no relay.

use super::authority::Authority;
use super::{Destination, Outbound};
use crate::codec::{self, ByteStr, Handler, Io, Known, Reply, RequestBody, RequestHead, ResponseHead};
use crate::error::{Kind, ProxyError};
use crate::listen::detect::{self, Detected, Protocol};
use crate::telemetry::Direction;
use bytes::BytesMut;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a client may take for its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(300);

/// Serves one connection to its end.
pub(super) async fn serve(outbound: &Outbound, mut io: Io, peer: SocketAddr) {
    let mut buffer = BytesMut::new();
    let detected = detect::detect(&mut io, &mut buffer, FIRST_BYTE).await;
    let io = io.with_prefix(buffer.freeze());
    let handler = Explicit { outbound, peer, last: Mutex::default() };
    let (limits, leave) = (&outbound.settings.limits, &outbound.leave);
    let served = match detected {
        // Boxed: it needs more room than a connection of the other kind.
        Ok(Detected::Is(Protocol::Http2)) => Box::pin(codec::h2::serve(io, limits, &leave.after_calls, &handler)).await,
        Ok(Detected::Is(Protocol::Tls)) => {
            let why = "the explicit listener takes HTTP; TLS belongs inside CONNECT";
            return outbound.refuse(io, &ProxyError::because(Kind::BadRequest, why), &peer);
        }
        // What is not HTTP is answered 400 by the codec, which says more than a broken connection.
        Ok(Detected::Is(Protocol::Http1 | Protocol::Opaque)) => {
            codec::h1::serve(io, limits, &outbound.exchange.quiet, leave, &handler).await
        }
        Ok(Detected::Silent | Detected::Closed) | Err(_) => return,
    };
    if let Err(error) = served {
        tracing::debug!(%peer, "explicit connection ended: {error}");
    }
}

struct Explicit<'o> {
    outbound: &'o Outbound,
    peer: SocketAddr,
    /// Whom the last call addressed, and what that meant: clients keep a connection to a host.
    last: Mutex<Option<(ByteStr, Arc<Destination>)>>,
}

impl Handler for Explicit<'_> {
    async fn call<'c>(&'c self, head: RequestHead, body: RequestBody<'c>, mut reply: Reply<'c>) {
        let tunnel = head.method == Method::CONNECT && head.protocol.is_none();
        match self.admit(&head, tunnel).await {
            Err(error) => {
                let exchange = &self.outbound.exchange;
                Box::pin(exchange.turn_away(Direction::Outbound, None, &error, &head, &mut reply)).await;
            }
            Ok(destination) if tunnel => {
                if reply.send_head(ResponseHead::new(StatusCode::OK), false).await.is_err() {
                    return;
                }
                // Bytes inside are detected again: TLS stays opaque, HTTP is routed.
                if let Ok(io) = reply.into_io(body).await {
                    Box::pin(self.outbound.stream(io, &destination)).await;
                }
            }
            Ok(destination) => self.outbound.call(&destination, head, body, reply).await,
        }
    }

    fn rejected(&self, error: &codec::Error) {
        self.outbound.exchange.telemetry.refuse(Direction::Outbound, &error.clone().into(), &self.peer);
    }
}

impl Explicit<'_> {
    /// Who may call, and what is meant.
    async fn admit(&self, head: &RequestHead, tunnel: bool) -> Result<Arc<Destination>, ProxyError> {
        if let Some(credentials) = &self.outbound.settings.credentials {
            let given = head.headers.known(Known::ProxyAuthorization);
            if !given.is_some_and(|value| credentials.admit(value.as_bytes())) {
                let why = "this listener asks for the credentials that the workload was started with";
                return Err(ProxyError::because(Kind::ProxyAuthentication, why));
            }
        }
        let Some(text) = head.authority.as_ref().filter(|text| !text.is_empty()) else {
            return Err(ProxyError::because(Kind::BadRequest, "the request names no host"));
        };
        let https = head.scheme.as_ref().is_some_and(|scheme| *scheme == http::uri::Scheme::HTTPS);
        if https && !tunnel && head.form == codec::Form::Absolute {
            let why = "https belongs inside CONNECT, or is plain http here: the mesh encrypts it";
            return Err(ProxyError::because(Kind::Unsupported, why));
        }
        if let Some((last, destination)) = &*self.last.lock()
            && last == text
            && self.outbound.is_known(destination)
        {
            return Ok(Arc::clone(destination));
        }
        let authority = Authority::parse(text, 80)?;
        let asked = Box::pin(self.outbound.destination(authority.alias()?, authority.port));
        let destination = Arc::new(asked.await?);
        *self.last.lock() = Some((text.clone(), Arc::clone(&destination)));
        Ok(destination)
    }
}
