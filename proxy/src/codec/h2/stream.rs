//! What both ends of a stream have in common: reading frames, and writing data as fast as flow control lets it.

use super::convert;
use crate::codec::{Frame, Headers};
use crate::error::ProxyError;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

/// Whose body it is: it decides how errors are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Caller,
    Upstream,
}

/// The body of a stream.
pub(crate) struct Reader {
    pub(super) recv: RecvStream,
    from: From,
    ended: bool,
    length: Option<u64>,
}

impl Reader {
    /// `declared` is the Content-Length.
    pub(super) fn new(recv: RecvStream, from: From, declared: Option<u64>) -> Self {
        let ended = recv.is_end_stream();
        Self { recv, from, ended, length: if ended { Some(0) } else { declared } }
    }

    pub(in crate::codec) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, ProxyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Handing it on is consuming it: whoever takes the next frame has disposed of this one.
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.ended = self.recv.is_end_stream();
                    self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                    match (data.is_empty(), self.ended) {
                        (false, _) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                        (true, true) => return Poll::Ready(None),
                        (true, false) => {}
                    }
                }
                Some(Err(error)) => return Poll::Ready(self.fail(error)),
                None => break,
            }
        }
        let trailers = ready!(self.recv.poll_trailers(cx));
        self.ended = true;
        match trailers {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::Trailers(Headers::from_map(trailers))))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(self.fail(error)),
        }
    }

    fn fail(&mut self, error: h2::Error) -> Option<Result<Frame, ProxyError>> {
        self.ended = true;
        Some(Err(match self.from {
            From::Caller => convert::downstream_error(error),
            From::Upstream => convert::upstream_error(error, true),
        }))
    }

    pub(in crate::codec) const fn is_end(&self) -> bool {
        self.ended
    }

    pub(in crate::codec) const fn known_length(&self) -> Option<u64> {
        if self.ended { Some(0) } else { self.length }
    }
}

/// Waits until at least one of `wanted` bytes may be sent, and says how many.
pub(super) fn poll_capacity(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Result<usize, h2::Error>> {
    send.reserve_capacity(wanted);
    loop {
        let capacity = send.capacity();
        if capacity > 0 {
            // A stream that was reset keeps its capacity; the reset is what matters.
            return match send.poll_reset(cx) {
                Poll::Ready(reset) => Poll::Ready(Err(reset.map_or_else(|error| error, h2::Error::from))),
                Poll::Pending => Poll::Ready(Ok(capacity.min(wanted))),
            };
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => {
                let reset = ready!(send.poll_reset(cx));
                return Poll::Ready(Err(reset.map_or_else(|error| error, h2::Error::from)));
            }
        }
    }
}

/// Sends all of `data`, as flow control allows; `last` ends the stream with it.
pub(super) async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        let count = poll_fn(|cx| poll_capacity(send, cx, data.len())).await?;
        let piece = data.split_to(count);
        if last && data.is_empty() {
            return send.send_data(piece, true);
        }
        send.send_data(piece, false)?;
    }
    if last { send.send_data(data, true) } else { Ok(()) }
}

/// RFC 9113 §8.1: after a complete response a server may send RST_STREAM with NO_ERROR to say that it needs no more of the request.
pub(super) fn wants_no_more(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(Reason::NO_ERROR)
}
