//! Calls that are answered by a stream of messages, each in a buffer of its own that goes with it. The encoder of tonic keeps one for each
//! stream, as large as its largest message was: for streams that are silent most of the time that is much of what they cost.

use super::{Answering, Messages};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use prost::Message;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// How messages of a caller are compressed; none is agreed on here.
const ENCODING: &str = "grpc-encoding";

/// Answers a call with what `serve` makes of its messages.
pub fn stream<T, U, S, F>(
    request: Request<Body>,
    serve: impl FnOnce(tonic::Request<Messages<T>>) -> F + Send + 'static,
) -> Answering
where
    T: Message + Default + 'static,
    U: Message + Default + 'static,
    S: Stream<Item = Result<U, Status>> + Send + Unpin + 'static,
    F: Future<Output = Result<tonic::Response<S>, Status>> + Send,
{
    Box::pin(async move {
        let (parts, body) = request.into_parts();
        if parts.headers.get(ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Status::unimplemented("compressed messages are not read here").into_http();
        }
        let messages = Messages::new(body);
        let answer = serve(tonic::Request::from_http(Request::from_parts(parts, messages))).await;
        match answer {
            Ok(answer) => {
                let (metadata, said, _) = answer.into_parts();
                let mut response = Response::new(Body::new(Said { said: Some(said) }));
                *response.headers_mut() = metadata.into_headers();
                response.headers_mut().insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
                response
            }
            Err(status) => status.into_http(),
        }
    })
}

/// What is said, as the body of a response. The status comes in its trailers.
struct Said<S> {
    /// Gone with its end.
    said: Option<S>,
}

impl<S, U> http_body::Body for Said<S>
where
    S: Stream<Item = Result<U, Status>> + Unpin,
    U: Message,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(said) = &mut this.said else { return Poll::Ready(None) };
        let ended = match ready!(Pin::new(said).poll_next(cx)) {
            Some(Ok(message)) => match framed(&message) {
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(status) => status,
            },
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        this.said = None;
        Poll::Ready(Some(trailers(&ended).map(Frame::trailers)))
    }
}

fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefixed = u32::try_from(length).map_err(|_| Status::out_of_range(format!("a message of {length} bytes")))?;
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(prefixed);
    let encoded = message.encode(&mut bytes);
    encoded.map_err(|error| Status::internal(format!("cannot encode a message: {error}")))?;
    Ok(bytes.freeze())
}

fn trailers(status: &Status) -> Result<HeaderMap<HeaderValue>, Status> {
    let mut trailers = HeaderMap::with_capacity(2);
    status.add_header(&mut trailers)?;
    Ok(trailers)
}
