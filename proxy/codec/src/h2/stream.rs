//! What both ends of a stream have in common: reading the frames of a body, and sending data as fast as there is room for it.

use super::fault::Fault;
use super::handle::{Handle, Piece};
use crate::Error;
use crate::Frame;
use bytes::Bytes;
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
    pub(super) handle: Handle,
    from: From,
    ended: bool,
    length: Option<u64>,
}

impl Reader {
    /// `declared` is the Content-Length.
    pub(super) fn new(handle: Handle, from: From, declared: Option<u64>) -> Self {
        let ended = handle.is_end();
        Self { handle, from, ended, length: if ended { Some(0) } else { declared } }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.handle.poll_piece(cx));
        self.ended = !matches!(piece, Ok(Piece::Data(_, false)));
        Poll::Ready(match piece {
            Ok(Piece::Data(data, _)) => {
                self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                Some(Ok(Frame::Data(data.freeze())))
            }
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::Trailers(trailers))),
            Ok(Piece::End) => None,
            Err(fault) => Some(Err(match self.from {
                From::Caller => fault.of_caller(),
                From::Upstream => fault.of_upstream(true),
            })),
        })
    }

    pub(crate) const fn is_end(&self) -> bool {
        self.ended
    }

    pub(crate) const fn known_length(&self) -> Option<u64> {
        if self.ended { Some(0) } else { self.length }
    }
}

/// Sends all of `data`, as flow control allows; `last` ends the stream with it.
pub(super) async fn send_all(handle: &Handle, mut data: Bytes, last: bool) -> Result<(), Fault> {
    poll_fn(|cx| handle.poll_send(cx, &mut data, last)).await
}
