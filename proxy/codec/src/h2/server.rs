//! The accepting end of an HTTP/2 connection: one task drives the connection and every call on it, so that all that the calls
//! write in one turn leaves in one write, and dropping the connection drops its calls.

use super::engine::{Key, Role};
use super::fault::{By, Fault};
use super::frame::Code;
use super::handle::{Handle, Shared};
use super::link::{Incoming, Link};
use super::stream::{self, From, Reader};
use super::tunnel::Tunnel;
use crate::{Error, Kind};
use crate::{Handler, Headers, Io, Limits, Reply, ReplyKind, RequestBody, RequestHead, ResetCode, ResponseHead};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Method, StatusCode};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Polls of calls in one turn of a connection before other connections have theirs.
const TURN: usize = 512;

/// Serves calls on `io` until either side closes. When `drain` is cancelled the peer is told (GOAWAY 2³¹−1, then the final one), and
/// the connection closes with its last call.
///
/// # Errors
/// What ended the connection, when that was no orderly close.
pub async fn serve<H: Handler>(io: Io, limits: &Limits, drain: &CancellationToken, handler: &H) -> Result<(), Error> {
    let mut link = Link::new(io, Role::Server, limits, true);
    // Boxed, so that a connection does not keep the room for it.
    Box::pin(shake(&mut link, limits)).await?;
    let mut drained = pin!(drain.cancelled());
    let mut driver =
        Driver { link, idle: Box::pin(tokio::time::sleep(limits.idle_timeout)), idle_since: Some(Instant::now()) };
    let turns = Turns::default();
    let mut calls = FuturesUnordered::new();
    // Not under tokio's own budget, which is one for all calls of the connection together: with many of them it runs out in the middle of a
    // turn and breaks the turn's one write into several. `TURN` bounds a turn, flow-control windows bound what a call moves in it.
    let ended = unconstrained(poll_fn(|cx| {
        driver.link.begin();
        let begun = turns.count();
        loop {
            let before = turns.count();
            while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
            let read = driver.link.poll_read(cx);
            let mut more = turns.count() != before;
            while let Some(incoming) = driver.link.next() {
                match incoming {
                    Incoming::Call(key, head, length) => {
                        // Boxed: the set has room for one call even when it is empty, and would move each into its place.
                        let mut call = Box::pin(call(driver.link.shared.clone(), key, head, length, handler));
                        let turns = &turns;
                        calls.push(poll_fn(move |cx| {
                            turns.count_one();
                            call.as_mut().poll(cx)
                        }));
                        more = true;
                    }
                    Incoming::Rejected(error) => handler.rejected(&error),
                }
            }
            match read {
                Poll::Ready(Err(_)) => break,
                // A peer that always has more to say lets other connections have their turn.
                _ if turns.count() - begun >= TURN || (read.is_ready() && !more) => {
                    cx.waker().wake_by_ref();
                    break;
                }
                // The set hands control back while calls are still ready to run, and frames that were just read wake more of them.
                _ if more => {}
                _ => break,
            }
        }
        if !driver.link.is_leaving() && drained.as_mut().poll(cx).is_ready() {
            driver.link.shared.lock().leave();
        }
        driver.poll_rest(cx, calls.is_empty(), limits)
    }))
    .await;
    // The calls that are left learn from their streams that the caller has gone; those that still do not end are dropped.
    poll_fn(|cx| {
        while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
        Poll::Ready(())
    })
    .await;
    drop(calls);
    Box::pin(driver.link.close()).await;
    ended
}

/// How often calls were polled: whether any of them was ready to run.
#[derive(Default)]
struct Turns(AtomicUsize);

impl Turns {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn count_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for the preface and the first SETTINGS.
async fn shake(link: &mut Link, limits: &Limits) -> Result<(), Error> {
    let shaken = poll_fn(|cx| {
        let read = link.poll_read(cx);
        let rest = link.poll_rest(cx);
        let known = link.shared.lock().remote.known;
        match (read, rest) {
            (_, Poll::Ready(Err(fault))) | (Poll::Ready(Err(fault)), _) => Poll::Ready(Err(fault)),
            _ if known => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    });
    let error = match timeout(limits.header_timeout, shaken).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(fault)) => Error::caused(Kind::BadRequest, fault).detail("HTTP/2 preface"),
        Err(_) => Error::because(Kind::HeaderTimeout, "the HTTP/2 preface did not arrive in time"),
    };
    link.close().await;
    Err(error)
}

struct Driver {
    link: Link,
    idle: Pin<Box<Sleep>>,
    idle_since: Option<Instant>,
}

impl Driver {
    /// After the calls had their turn: write what they left, then look at the timers.
    fn poll_rest(&mut self, cx: &mut Context<'_>, idle: bool, limits: &Limits) -> Poll<Result<(), Error>> {
        if let Poll::Ready(ended) = self.link.poll_rest(cx) {
            return Poll::Ready(ended.or_else(|fault| outcome(fault, self.link.shared.lock().why)));
        }
        if !idle {
            self.idle_since = None;
            return Poll::Pending;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        while !self.link.is_leaving() && self.idle.as_mut().poll(cx).is_ready() {
            let deadline = since + limits.idle_timeout;
            if Instant::now() >= deadline {
                self.link.shared.lock().leave();
            } else {
                self.idle.as_mut().reset(deadline);
            }
        }
        Poll::Pending
    }
}

/// How a connection has ended.
fn outcome(fault: Fault, why: &'static str) -> Result<(), Error> {
    match fault {
        Fault::Closed => Ok(()),
        Fault::GoAway(_, By::Us) => Err(Error::caused(Kind::BadRequest, fault).detail(why)),
        _ => Err(Error::caused(Kind::ClientGone, fault).detail("HTTP/2 connection")),
    }
}

async fn call<H: Handler>(shared: Arc<Shared>, key: Key, head: Box<RequestHead>, length: Option<u64>, handler: &H) {
    let (recv, send) = Handle::pair(&shared, key);
    // Not kept by the call: the handles hold it.
    drop(shared);
    let body = RequestBody(crate::Incoming::H2(Reader::new(recv, From::Caller, length)));
    let reply = ReplyWriter { send: Some(send), method: head.method.clone(), started: false, ended: false };
    handler.call(*head, body, Reply(ReplyKind::H2(Box::new(reply)))).await;
}

/// The way back to an HTTP/2 caller.
pub(crate) struct ReplyWriter {
    /// Gone once the stream carries bytes.
    send: Option<Handle>,
    method: Method,
    started: bool,
    ended: bool,
}

impl ReplyWriter {
    fn handle(&self) -> Result<&Handle, Error> {
        self.send.as_ref().ok_or_else(|| Error::because(Kind::Internal, "the stream carries bytes"))
    }

    pub(crate) fn informational(&mut self, head: ResponseHead) -> Result<(), Error> {
        let sendable = head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
        if self.started || self.ended || !sendable {
            return Ok(());
        }
        self.handle()?.respond(&head, false, &self.method).map_err(Fault::of_caller)
    }

    pub(crate) fn send_head(&mut self, head: ResponseHead, end: bool) -> Result<(), Error> {
        if self.started {
            return Err(Error::because(Kind::Internal, "a second final head"));
        }
        self.handle()?.respond(&head, end, &self.method).map_err(Fault::of_caller)?;
        self.ended = end;
        self.started = true;
        Ok(())
    }

    fn open(&self) -> Result<&Handle, Error> {
        match &self.send {
            Some(send) if self.started && !self.ended => Ok(send),
            _ => Err(Error::because(Kind::Internal, "a body where none may follow")),
        }
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        // The answer to HEAD ends with its head; what an upstream sends in spite of that is swallowed, as in HTTP/1.
        if self.method == Method::HEAD {
            return Ok(());
        }
        stream::send_all(self.open()?, data, false).await.map_err(Fault::of_caller)
    }

    pub(crate) async fn last(&mut self, data: Bytes) -> Result<(), Error> {
        if self.method == Method::HEAD {
            return self.finish();
        }
        stream::send_all(self.open()?, data, true).await.map_err(Fault::of_caller)?;
        self.ended = true;
        Ok(())
    }

    pub(crate) fn trailers(&mut self, trailers: &Headers) -> Result<(), Error> {
        self.open()?.trailers(trailers).map_err(Fault::of_caller)?;
        self.ended = true;
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if !self.ended {
            self.open()?.finish().map_err(Fault::of_caller)?;
            self.ended = true;
        }
        Ok(())
    }

    pub(crate) const fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn reset(&mut self, code: ResetCode) {
        self.ended = true;
        if let Some(send) = &self.send {
            send.reset(Code::from(code));
        }
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(send) = self.send.as_ref().filter(|_| !self.ended) else { return Poll::Pending };
        send.poll_fault(cx).map(|fault| {
            self.ended = true;
            match fault {
                Fault::Reset(code, By::Peer) => {
                    Error::because(Kind::ClientGone, format!("the caller reset the stream: {code}"))
                }
                fault => fault.of_caller(),
            }
        })
    }

    pub(crate) fn into_io(mut self, reader: Reader) -> Result<Io, Error> {
        match self.send.take() {
            Some(send) if self.started && !self.ended => {
                self.ended = true;
                Ok(Io::from(Tunnel::new(send, reader.handle)))
            }
            _ => Err(Error::because(Kind::Internal, "the stream was not accepted, or has ended")),
        }
    }
}

impl Drop for ReplyWriter {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(ResetCode::Internal);
        }
    }
}
