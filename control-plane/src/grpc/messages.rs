//! The messages of a caller's stream. tonic's reader keeps a buffer for each stream, as large as its largest message was; here a message
//! that came whole leaves nothing, since between two of them a stream is silent for seconds.

use bytes::{Buf as _, BytesMut};
use futures_util::Stream;
use http_body::Body as _;
use prost::Message;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;

/// Whether a message is compressed, and its length.
const PREFIX: usize = 5;
/// Largest message, as gRPC libraries have it.
const LARGEST: usize = 4 << 20;

/// What a caller says, message by message. After an error there is nothing more.
#[derive(Debug)]
pub struct Messages<T> {
    /// Gone with its end.
    body: Option<Body>,
    /// The beginning of the next message; without memory where there is none.
    held: BytesMut,
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Messages<T> {
    /// Those of a request's body, not compressed.
    pub(super) fn new(body: Body) -> Self {
        Self { body: Some(body), held: BytesMut::new(), of: PhantomData }
    }

    /// The next one; `None`: the caller has ended its side. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// A message that is none, is compressed, too large (4 MiB) or cut off; that the caller is gone.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, Status>> {
        loop {
            match self.held_message() {
                Ok(None) => {}
                Ok(message) => return Poll::Ready(Ok(message)),
                Err(status) => {
                    self.end();
                    return Poll::Ready(Err(status));
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) => {
                    self.end();
                    return Poll::Ready(Err(status));
                }
                None => {
                    let cut = !self.held.is_empty();
                    self.end();
                    let error = Status::internal("the stream ends in the middle of a message");
                    return Poll::Ready(if cut { Err(error) } else { Ok(None) });
                }
            }
        }
    }

    fn end(&mut self) {
        self.body = None;
        self.held = BytesMut::new();
    }

    /// The message that has come whole, if one has.
    fn held_message(&mut self) -> Result<Option<T>, Status> {
        let Some(&[compressed, a, b, c, d]) = self.held.first_chunk::<PREFIX>() else { return Ok(None) };
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not read here"));
        }
        let length = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST);
        let length = length.ok_or_else(|| Status::out_of_range(format!("a message is larger than {LARGEST} bytes")))?;
        if self.held.len() < PREFIX + length {
            return Ok(None);
        }
        let mut whole = self.held.split_to(PREFIX + length);
        whole.advance(PREFIX);
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        T::decode(whole).map(Some).map_err(|error| Status::internal(format!("a message cannot be read: {error}")))
    }
}

impl<T: Message + Default> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_message(cx).map(Result::transpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut as _, Bytes};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use weft_proto::v1::RegisterRequest;

    fn framed(uid: &str) -> Vec<u8> {
        let message = RegisterRequest { name: uid.to_owned(), ..RegisterRequest::default() }.encode_to_vec();
        let mut bytes = vec![0];
        bytes.put_u32(u32::try_from(message.len()).unwrap());
        bytes.extend(message);
        bytes
    }

    fn messages(parts: Vec<Vec<u8>>) -> Messages<RegisterRequest> {
        let frames = parts.into_iter().map(|part| Ok::<_, Status>(Frame::data(Bytes::from(part))));
        Messages::new(Body::new(StreamBody::new(tokio_stream::iter(frames))))
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut_and_leave_no_memory() {
        let all: Vec<u8> = ["cart", "", "orders"].iter().flat_map(|uid| framed(uid)).collect();
        for size in 1..=all.len() {
            let mut messages = messages(all.chunks(size).map(<[u8]>::to_vec).collect());
            for uid in ["cart", "", "orders"] {
                assert_eq!(messages.message().await.unwrap().unwrap().name, uid, "in parts of {size}");
            }
            assert_eq!(messages.held.capacity(), 0);
            assert_eq!(messages.message().await.unwrap(), None);
            assert_eq!(messages.message().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream_with_its_reason() {
        for (bytes, code) in [
            (vec![1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            (vec![0, 255, 255, 255, 255], tonic::Code::OutOfRange),
            (vec![0, 0, 0, 0, 1, 255], tonic::Code::Internal),
            (vec![0, 0, 0, 0, 9, 1], tonic::Code::Internal),
            (vec![0, 0], tonic::Code::Internal),
        ] {
            let mut messages =
                messages(vec![framed("cart"), bytes.clone(), framed("orders")].into_iter().take(2).collect());
            assert_eq!(messages.message().await.unwrap().unwrap().name, "cart");
            assert_eq!(messages.message().await.unwrap_err().code(), code, "{bytes:?}");
            assert_eq!(messages.message().await.unwrap(), None);
        }
    }
}
