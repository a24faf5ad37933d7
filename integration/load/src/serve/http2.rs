//! HTTP/2 of the upstream: the answers of HTTP/1.1, gRPC echo, and CONNECT for the TLS listener.

use super::{Count, Counts, asked};
use crate::failure::Failure;
use crate::measure::add;
use crate::socket::FILL;
use crate::wire::{drive, wire};
use bytes::{Buf, Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Windows as meshes open them between proxies.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAMS: u32 = 4096;
/// Sent without waiting for the window; longer bodies wait.
const AT_ONCE: u64 = 64 * 1024;
/// Longest gRPC message.
const MESSAGE: usize = 16 << 20;
/// Resets that clients may have in flight before the library calls it an attack: the soak resets for a living.
const RESETS: usize = 10_000;
/// Small frames that may wait: gRPC streams are made of them.
const SMALL_FRAMES: usize = 64 << 20;

/// Serves one connection until it ends.
pub(super) async fn connection<S>(stream: S, counts: Rc<Counts>) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (wire, flusher) = wire(stream);
    let serve = async move {
        let mut builder = server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(wire).await else { return };
        let mut streams = JoinSet::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            if let Some(more) = answer(request, respond, &counts) {
                streams.spawn_local(more);
            }
            while streams.try_join_next().is_some() {}
        }
        // The connection is over: what still runs on it is aborted by the drop of `streams`.
    };
    drive(serve, flusher).await;
    Ok(())
}

/// Answers at once what fits in the windows, and returns what takes longer.
fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counts: &Rc<Counts>,
) -> Option<impl Future<Output = ()> + use<>> {
    let (head, body) = request.into_parts();
    let counts = counts.clone();
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    let mut response = Response::new(());
    let kind = if head.method == Method::CONNECT {
        Kind::Connect
    } else if head.method == Method::POST && is_grpc {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Kind::Grpc
    } else if head.method == Method::POST {
        add(&counts.http2.requests, 1);
        if let Some(length) = head.headers.get(CONTENT_LENGTH) {
            response.headers_mut().insert(CONTENT_LENGTH, length.clone());
        }
        Kind::Echo
    } else {
        add(&counts.http2.requests, 1);
        let asked = asked(head.uri.path());
        add(&counts.http2.bytes, asked.length);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let length = match asked.length {
            1024 => HeaderValue::from_static("1024"),
            length => HeaderValue::from(length),
        };
        response.headers_mut().insert(CONTENT_LENGTH, length);
        if let Ok(status) = http::StatusCode::from_u16(asked.status) {
            *response.status_mut() = status;
        }
        Kind::Fill(asked.length)
    };
    let Ok(mut send) = respond.send_response(response, matches!(kind, Kind::Fill(0))) else { return None };
    if let Kind::Fill(length @ 0..=AT_ONCE) = kind {
        if length > 0 {
            // Fails only when the stream was reset meanwhile.
            let _reset = send.send_data(fill(length), true);
        }
        return None;
    }
    Some(async move {
        // A stream that fails is reset by the drop of its halves; its client knows why.
        let _ended = match kind {
            Kind::Fill(length) => send_fill(&mut send, length).await,
            Kind::Connect => echo(body, send, &counts.tls).await,
            Kind::Echo => echo(body, send, &counts.http2).await,
            Kind::Grpc => grpc(body, send, &counts.grpc).await,
        };
    })
}

enum Kind {
    Fill(u64),
    Echo,
    Grpc,
    Connect,
}

fn fill(length: u64) -> Bytes {
    Bytes::from_static(&FILL[..usize::try_from(length).unwrap_or(usize::MAX).min(FILL.len())])
}

/// Waits for window, sends, until all of `data` is gone.
async fn send(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), Failure> {
    while !data.is_empty() {
        let room = crate::http2::room(send, data.len()).await?;
        send.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

async fn send_fill(stream: &mut SendStream<Bytes>, mut left: u64) -> Result<(), Failure> {
    while left > 0 {
        let piece = fill(left);
        left -= piece.len() as u64;
        send(stream, piece).await?;
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

async fn echo(mut body: RecvStream, mut stream: SendStream<Bytes>, count: &Count) -> Result<(), Failure> {
    while let Some(data) = body.data().await {
        let data = data?;
        let length = data.len();
        add(&count.bytes, 2 * length as u64);
        send(&mut stream, data).await?;
        body.flow_control().release_capacity(length)?;
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

/// Each message back once it is whole, then `grpc-status: 0`.
async fn grpc(mut body: RecvStream, mut stream: SendStream<Bytes>, count: &Count) -> Result<(), Failure> {
    let mut held = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        add(&count.bytes, data.len() as u64);
        if held.is_empty() {
            let whole = whole(&data, count)?;
            held.extend_from_slice(&data[whole..]);
            back(&mut stream, data.slice(..whole), count).await?;
        } else {
            held.extend_from_slice(&data);
            let whole = whole(&held, count)?;
            back(&mut stream, held.split_to(whole).freeze(), count).await?;
        }
    }
    if !held.is_empty() {
        return Err(Failure::Closed);
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}

async fn back(stream: &mut SendStream<Bytes>, data: Bytes, count: &Count) -> Result<(), Failure> {
    add(&count.bytes, data.len() as u64);
    send(stream, data).await
}

/// How many bytes at the front of `data` are whole messages; counts them.
fn whole(data: &[u8], count: &Count) -> Result<usize, Failure> {
    let mut rest = data;
    while let Some((_flag, [a, b, c, d])) = rest.split_first_chunk::<5>().map(|([f, l @ ..], _)| (*f, *l)) {
        let length = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MESSAGE {
            return Err(Failure::Length);
        }
        if rest.len() < length {
            break;
        }
        rest.advance(length);
        add(&count.requests, 1);
    }
    Ok(data.len() - rest.len())
}
