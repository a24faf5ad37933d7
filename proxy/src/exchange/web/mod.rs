//! gRPC-Web (gRPC, `PROTOCOL-WEB`): calls of clients that cannot read trailers, put into gRPC for a backend that speaks it, and its
//! answers put back.
//!
//! Messages are the same in both, so nothing is buffered and no message is bounded: the text form is decoded and encoded as it streams
//! (`text`), and the response's trailers become the body's last frame (`frame`). Whether a call is translated is decided in `cross`: a
//! backend that did not declare gRPC or HTTP/2 may speak gRPC-Web itself, and gets the call as it is.

mod frame;
mod text;

use super::body::{Cursor, Replay};
use super::reply::{GRPC_MESSAGE, GRPC_STATUS, grpc_status};
use super::stream::{Broken, Flow};
use crate::codec::{Frame, Headers, Known, Reply, RequestHead, ResponseHead, Set, UpRecv, UpSend, Web};
use crate::error::{Kind, ProxyError};
use bytes::Bytes;
use frame::Boundary;
use http::header::{self, HeaderName, HeaderValue};
use text::{Decoder, Encoder};

/// Details of a status, in the rich error model.
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// What a content type is taken to end in where nobody says.
const USUAL: &[u8] = b"+proto";

/// The form that the caller wants the answer in. PROTOCOL-WEB, "Text-encoded (response) streams": it says so in `Accept`; who does not
/// gets the form that it sent.
pub(super) fn wanted(head: &RequestHead, sent: Web) -> Web {
    let accepted = head.headers.get_all(&header::ACCEPT).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut forms = accepted.filter_map(|media| Web::of(media.trim_ascii()));
    forms.next().unwrap_or(sent)
}

/// Makes a head of gRPC-Web one of gRPC.
pub(super) fn request(head: &mut RequestHead) {
    let media = head.headers.known(Known::ContentType).map(|value| of_grpc(value.as_bytes()));
    if let Some(media) = media {
        head.headers.set_known(Known::ContentType, &media);
    }
    // gRPC over HTTP/2, "Requests": it says that the caller can read trailers.
    head.headers.set_known(Known::Te, b"trailers");
    // What text stands for is shorter, and HTTP/2 ends a body by itself.
    head.headers.remove_all(Set::of(&[Known::ContentLength]));
}

/// `application/grpc`, with what follows the form in a content type of gRPC-Web.
fn of_grpc(media: &[u8]) -> Vec<u8> {
    [b"application/grpc", suffix(media)].concat()
}

/// `+proto` and the like: what messages are encoded in.
fn suffix(media: &[u8]) -> &[u8] {
    let media = media.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    media.iter().position(|byte| *byte == b'+').map_or(&[], |at| &media[at..])
}

/// The content type of an answer in this form.
fn content_type(form: Web, suffix: &[u8]) -> Vec<u8> {
    let suffix = if suffix.is_empty() { USUAL } else { suffix };
    let form: &[u8] = match form {
        Web::Binary => b"application/grpc-web",
        Web::Text => b"application/grpc-web-text",
    };
    [form, suffix].concat()
}

/// The way of one answer back to the caller.
#[derive(Debug)]
pub(super) struct Answer {
    text: Option<Encoder>,
    boundary: Boundary,
}

impl Answer {
    fn new(form: Web) -> Self {
        Self { text: (form == Web::Text).then(Encoder::default), boundary: Boundary::default() }
    }

    /// Makes the head of a gRPC answer one of gRPC-Web. `None`: the upstream did not answer in gRPC, and what it said goes on as it is.
    pub fn begin(form: Web, head: &mut ResponseHead) -> Option<Self> {
        let media = head.headers.known(Known::ContentType).map(crate::codec::Value::as_bytes).unwrap_or_default();
        if !media.starts_with(b"application/grpc") && head.headers.known(Known::GrpcStatus).is_none() {
            return None;
        }
        let media = content_type(form, suffix(media));
        head.headers.set_known(Known::ContentType, &media);
        head.headers.remove_all(Set::of(&[Known::ContentLength, Known::Trailer]));
        Some(Self::new(form))
    }

    /// A piece of the body in the caller's form.
    pub fn data(&mut self, data: Bytes) -> Bytes {
        let whole = self.boundary.pass(&data);
        match &mut self.text {
            // Padded where a message ends: what a client waits for is whole then.
            Some(text) => text.push(&data, whole),
            None => data,
        }
    }

    /// What is left of a body that breaks off within a message.
    fn rest(&mut self) -> Bytes {
        self.text.as_mut().map(|text| text.push(&[], true)).unwrap_or_default()
    }

    /// Does the body stand between two messages? Only there may trailers follow.
    pub fn is_between(&self) -> bool {
        self.boundary.is_between()
    }

    /// The body's last frame.
    pub fn trailers(&mut self, trailers: &Headers) -> Bytes {
        let frame = frame::trailers(trailers);
        match &mut self.text {
            Some(text) => text.push(&frame, true),
            None => frame,
        }
    }

    /// The last frame of an answer whose status came with the head: it moves to where clients read it without being shown headers.
    pub fn trailers_only(&mut self, head: &mut ResponseHead) -> Bytes {
        let mut trailers = Headers::new();
        for name in [GRPC_STATUS, GRPC_MESSAGE, GRPC_STATUS_DETAILS] {
            if let Some(value) = head.headers.get(&name).and_then(crate::codec::Value::to_header_value) {
                trailers.append(name.clone(), value);
            }
            head.headers.remove(&name);
        }
        self.trailers(&trailers)
    }
}

/// A status of the proxy's own: its content type, and the whole body.
pub(super) fn status(form: Web, trailers: &Headers) -> (Option<HeaderValue>, Bytes) {
    (HeaderValue::from_bytes(&content_type(form, USUAL)).ok(), Answer::new(form).trailers(trailers))
}

fn malformed() -> ProxyError {
    ProxyError::because(Kind::BadRequest, "the body of a gRPC-Web text call is not base64")
}

/// The request's body, from its beginning: each attempt has its own.
#[derive(Debug, Default)]
pub(super) struct Request(Decoder);

impl Request {
    /// The bytes that a piece of text stands for; they may be none yet.
    ///
    /// # Errors
    /// [`Kind::BadRequest`] when it is not base64.
    pub fn data(&mut self, text: &[u8]) -> Result<Bytes, ProxyError> {
        self.0.push(text).map_err(|_| malformed())
    }

    /// # Errors
    /// [`Kind::BadRequest`] when the text breaks off within a group.
    pub fn end(&self) -> Result<(), ProxyError> {
        self.0.end().map_err(|_| malformed())
    }
}

/// Sends the request's body, decoded.
pub(super) async fn upload(
    replay: &mut Replay<'_, '_>,
    cursor: &mut Cursor,
    send: &mut UpSend<'_>,
) -> Result<(), Broken> {
    let mut request = Request::default();
    loop {
        match replay.next(cursor).await {
            Some(Ok(Frame::Data(text))) => {
                let data = request.data(&text).map_err(Broken::Caller)?;
                if replay.is_over(cursor) {
                    request.end().map_err(Broken::Caller)?;
                    return send.last(data).await.map_err(Broken::upstream);
                }
                if !data.is_empty() {
                    send.data(data).await.map_err(Broken::upstream)?;
                }
            }
            // gRPC has no trailers of requests.
            Some(Ok(Frame::Trailers(_))) | None => {
                request.end().map_err(Broken::Caller)?;
                return send.finish().await.map_err(Broken::upstream);
            }
            Some(Err(error)) => return Err(Broken::Caller(error)),
        }
    }
}

/// Sends the answer's body to the caller, in its form; returns the gRPC status of the trailers.
pub(super) async fn download(
    recv: &mut UpRecv<'_>,
    reply: &mut Reply<'_>,
    flow: &Flow,
    answer: &mut Answer,
) -> Result<Option<u16>, ProxyError> {
    loop {
        match reply.while_open(recv.frame()).await? {
            Some(Ok(Frame::Data(data))) => {
                let data = answer.data(data);
                flow.sent(data.len());
                if !data.is_empty() {
                    reply.data(data).await?;
                }
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                let frame = answer.trailers(&trailers);
                flow.sent(frame.len());
                reply.last(frame).await?;
                return Ok(grpc_status(&trailers));
            }
            Some(Err(error)) => return Err(error.into()),
            None => {
                // Without trailers there is no status to tell: the client notices, as a gRPC client would.
                let rest = answer.rest();
                if !rest.is_empty() {
                    reply.data(rest).await?;
                }
                reply.finish().await?;
                return Ok(None);
            }
        }
    }
}

/// Tells an error of the proxy in an answer that has begun, between two messages.
///
/// # Errors
/// When the caller is gone.
pub(super) async fn tell(mut answer: Answer, trailers: &Headers, reply: &mut Reply<'_>) -> Result<(), ProxyError> {
    reply.last(answer.trailers(trailers)).await.map_err(ProxyError::from)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
