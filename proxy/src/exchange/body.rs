//! The request's body, kept up to 64 KiB so that an attempt which failed before an answer can be made again from the beginning.
//!
//! Keeping shares the buffers that the frames came in; nothing is copied. Whether an attempt *may* be repeated is the retry policy's
//! decision: this only says whether it can.

use super::mirror::Copy;
use super::stream::Flow;
use crate::codec::{Frame, Headers, RequestBody};
use crate::error::ProxyError;
use bytes::Bytes;

/// Most that is kept of one call.
pub const KEPT: usize = 64 * 1024;

/// A body that can be read from its beginning, as long as it fits.
pub struct Replay<'b, 'c> {
    body: &'b mut RequestBody<'c>,
    flow: &'b Flow,
    kept: Vec<Bytes>,
    bytes: usize,
    trailers: Option<Headers>,
    /// Who else gets what is read.
    pub(super) copies: Vec<Copy>,
    /// Everything has been read from the caller.
    ended: bool,
}

/// How far one attempt has read.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cursor {
    frame: usize,
    trailers: bool,
}

impl<'b, 'c> Replay<'b, 'c> {
    /// Reads `body` through a window that is kept until the flow is committed to an attempt.
    pub fn new(body: &'b mut RequestBody<'c>, flow: &'b Flow) -> Self {
        let ended = body.is_end();
        Self { body, flow, kept: Vec::new(), bytes: 0, trailers: None, copies: Vec::new(), ended }
    }

    /// Is there nothing to send beyond the head?
    pub fn is_empty(&self) -> bool {
        self.ended && self.kept.is_empty() && self.trailers.is_none() && self.flow.is_replayable()
    }

    /// The next frame for an attempt; `None` after the end. Cancel-safe: what was read is kept before it is handed out.
    pub async fn next(&mut self, cursor: &mut Cursor) -> Option<Result<Frame, ProxyError>> {
        if let Some(data) = self.kept.get(cursor.frame) {
            cursor.frame += 1;
            return Some(Ok(Frame::Data(data.clone())));
        }
        if self.ended {
            let trailers = self.trailers.as_ref().filter(|_| !cursor.trailers)?;
            cursor.trailers = true;
            return Some(Ok(Frame::Trailers(trailers.clone())));
        }
        let frame = self.body.frame().await.map(|frame| frame.map_err(ProxyError::from));
        if !self.copies.is_empty() {
            self.copy(frame.as_ref());
        }
        match frame {
            Some(Ok(Frame::Data(data))) => {
                self.ended = self.body.is_end();
                self.flow.received(data.len());
                self.keep(&data, cursor);
                Some(Ok(Frame::Data(data)))
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                self.ended = true;
                self.trailers = Some(trailers.clone());
                cursor.trailers = true;
                Some(Ok(Frame::Trailers(trailers)))
            }
            Some(Err(error)) => {
                self.ended = true;
                self.flow.lose();
                Some(Err(error))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    /// Gives mirrors what was just read; those that cannot take it lose the rest.
    fn copy(&mut self, frame: Option<&Result<Frame, ProxyError>>) {
        match frame {
            Some(Ok(frame)) => self.copies.retain_mut(|copy| copy.frame(frame)),
            Some(Err(_)) => self.copies.clear(),
            None => {}
        }
        if !matches!(frame, Some(Err(_)))
            && (frame.is_none() || self.body.is_end() || matches!(frame, Some(Ok(Frame::Trailers(_)))))
        {
            self.copies.drain(..).for_each(Copy::end);
        }
    }

    /// Does nothing follow what the attempt has read?
    pub fn is_over(&self, cursor: &Cursor) -> bool {
        self.ended && cursor.frame >= self.kept.len() && (self.trailers.is_none() || cursor.trailers)
    }

    fn keep(&mut self, data: &Bytes, cursor: &mut Cursor) {
        if self.flow.is_open() && self.flow.is_replayable() && self.bytes + data.len() <= KEPT {
            self.bytes += data.len();
            self.kept.push(data.clone());
            cursor.frame = self.kept.len();
        } else {
            self.flow.lose();
            self.kept.clear();
            cursor.frame = 0;
        }
    }
}
