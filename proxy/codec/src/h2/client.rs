//! The connecting end of HTTP/2: a connection driven by a task of its own, and the calls that share it.
//!
//! The connection ends when nobody holds a [`Connection`] or a call on it any more. Which connection a call takes is decided in
//! `endpoint::pool`.

use super::engine::Role;
use super::fault::Fault;
use super::handle::{Handle, Shared};
use super::link::Link;
use super::stream::{self, From, Reader};
use super::tunnel::Tunnel;
use crate::{Error, Kind, Sent};
use crate::{Frame, Headers, Hold, Io, Limits, RequestHead, ResponseHead};
use bytes::Bytes;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where connections are driven: tasks that end with the token.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Those tasks.
    pub tracker: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
    /// Told when a connection is on its way out.
    pub leaving: Arc<Notify>,
}

/// A shared handle to an open connection.
#[derive(Clone)]
pub struct Connection(Arc<State>);

struct State {
    shared: Arc<Shared>,
    active: AtomicUsize,
    /// No new calls: the peer said GOAWAY, or the connection is gone.
    closing: AtomicBool,
    /// The last handle is gone.
    unwanted: Arc<Notify>,
    /// When the last call ended, for idling out.
    idle_since: parking_lot::Mutex<tokio::time::Instant>,
    /// Told when the peer says GOAWAY, so that what idles on the connection can be dropped.
    leaving: Arc<Notify>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.unwanted.notify_one();
    }
}

/// Counts a call on its connection.
struct Active(Arc<State>);

impl Active {
    fn new(state: &Arc<State>) -> Self {
        state.active.fetch_add(1, Ordering::Relaxed);
        Self(state.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock() = tokio::time::Instant::now();
        }
    }
}

/// How long a connection may live.
pub trait Term: Send {
    /// Ready once it is to take no more calls.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Asked after [`Term::poll_leave`]: ready, once, when what is still open is to be cut.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Opens a connection on `io` and waits for the peer's SETTINGS, which prove that it has accepted our certificate. Whoever calls
/// bounds the time. `pings` is off towards applications: many gRPC servers take frequent PINGs for abuse. At the end of its `term` the
/// connection takes no more calls.
pub async fn connect(
    io: Io,
    limits: &Limits,
    pings: bool,
    term: Option<Box<dyn Term>>,
    tasks: &Tasks,
) -> Result<Connection, Error> {
    let mut link = Link::new(io, Role::Client, limits, pings);
    poll_fn(|cx| {
        link.begin();
        let read = link.poll_read(cx);
        let rest = link.poll_rest(cx);
        let engine = link.shared.lock();
        match (read, rest) {
            (_, Poll::Ready(Err(fault))) | (Poll::Ready(Err(fault)), _) => Poll::Ready(Err(match fault {
                Fault::Closed => Error::because(Kind::ConnectFailed, "closed before the HTTP/2 SETTINGS"),
                fault => match link.broke.take() {
                    // With TLS 1.3 the peer's refusal of our certificate comes after the handshake.
                    Some(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                        Error::caused(Kind::TlsFailed, error)
                    }
                    _ => Error::caused(Kind::ConnectFailed, fault).detail("HTTP/2 preface"),
                },
            })),
            _ if engine.remote.known => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await?;
    let state = Arc::new(State {
        shared: link.shared.clone(),
        active: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
        unwanted: Arc::new(Notify::new()),
        idle_since: parking_lot::Mutex::new(tokio::time::Instant::now()),
        leaving: tasks.leaving.clone(),
    });
    let driver = Driver { link, term, told: false, state: Arc::downgrade(&state), unwanted: state.unwanted.clone() };
    let stop = tasks.stop.clone();
    tasks.tracker.spawn(async move { stop.run_until_cancelled(driver.run()).await });
    Ok(Connection(state))
}

struct Driver {
    link: Link,
    term: Option<Box<dyn Term>>,
    /// The handles know that no new call may be made.
    told: bool,
    state: std::sync::Weak<State>,
    unwanted: Arc<Notify>,
}

impl Driver {
    async fn run(mut self) {
        let unwanted = self.unwanted.clone();
        {
            let mut term = self.term.take();
            let mut unwanted = pin!(unwanted.notified());
            let mut left = false;
            poll_fn(|cx| {
                if self.poll_once(cx).is_ready() {
                    return Poll::Ready(());
                }
                if let Some(term) = &mut term {
                    if !left && term.poll_leave(cx).is_ready() {
                        left = true;
                        self.closing();
                    }
                    if left && term.poll_over(cx).is_ready() {
                        // What is still under way learns of it from its stream.
                        self.link.shared.lock().end(Fault::Io(std::io::ErrorKind::TimedOut));
                        return Poll::Ready(());
                    }
                }
                unwanted.as_mut().poll(cx)
            })
            .await;
            self.closing();
        }
        // Nobody holds a call any more: what was reset last is written, and the goodbye.
        self.link.shared.lock().leave();
        self.link.close().await;
    }

    fn closing(&mut self) {
        if let Some(state) = self.state.upgrade().filter(|_| !std::mem::replace(&mut self.told, true)) {
            state.closing.store(true, Ordering::Release);
            state.leaving.notify_one();
        }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.begin();
        if let Poll::Ready(Ok(())) = self.link.poll_read(cx) {
            // There may be more; calls and other connections have their turn first.
            cx.waker().wake_by_ref();
        }
        let ended = self.link.poll_rest(cx);
        if self.link.shared.lock().is_closing() {
            self.closing();
        }
        ended.map(|ended| {
            if let Err(fault) = ended
                && fault != Fault::Closed
            {
                tracing::debug!(%fault, "an HTTP/2 connection to an upstream ended");
            }
        })
    }
}

impl Connection {
    /// May it take another call?
    pub fn is_usable(&self) -> bool {
        !self.is_closing() && self.active() < self.0.shared.lock().remote.max_streams as usize
    }

    /// Is it on its way out? Nothing new may go through it, virtual connections included.
    pub fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Acquire)
    }

    /// Marks it so that it takes no more calls.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
    }

    /// Calls on it now.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Since when it carries no call; `None` while it does.
    pub fn idle_since(&self) -> Option<tokio::time::Instant> {
        (self.active() == 0).then(|| *self.0.idle_since.lock())
    }

    /// A call on it.
    pub fn call(&self) -> Call {
        Call {
            connection: self.clone(),
            _active: Active::new(&self.0),
            out: Out { send: None, ended: false },
            back: Back { head: None, reader: None },
        }
    }
}

/// One call. Dropped before its end it is reset.
pub struct Call {
    connection: Connection,
    _active: Active,
    out: Out,
    back: Back,
}

struct Out {
    send: Option<Handle>,
    ended: bool,
}

struct Back {
    /// While the final head is still to come.
    head: Option<Handle>,
    reader: Option<Reader>,
}

impl Call {
    pub(crate) async fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), Error> {
        let shared = &self.connection.0.shared;
        let slots = shared.lock().slots.clone();
        loop {
            let notified = slots.notified();
            {
                let mut engine = shared.lock();
                match engine.may_open() {
                    Ok(true) => {
                        let key = engine.request(head, end)?;
                        drop(engine);
                        let (recv, send) = Handle::pair(shared, key);
                        self.back.head = Some(recv);
                        self.out = Out { send: Some(send), ended: end };
                        return Ok(());
                    }
                    Ok(false) => {}
                    Err(fault) => {
                        // Nothing is written before the stream exists, so a connection that went away meanwhile leaves it unsent.
                        drop(engine);
                        self.connection.close();
                        return Err(Error::caused(Kind::Refused, fault).sent(Sent::NotSent));
                    }
                }
            }
            notified.await;
        }
    }

    pub(crate) fn split(&mut self) -> (CallSend<'_>, CallRecv<'_>) {
        (CallSend(&mut self.out), CallRecv(&mut self.back))
    }

    pub(crate) fn into_io(mut self) -> Result<Io, Error> {
        match (self.out.send.take(), self.back.reader.take()) {
            (Some(send), Some(reader)) if !self.out.ended => {
                self.out.ended = true;
                Ok(Io::from(Tunnel::new(send, reader.handle)).holding(self))
            }
            _ => Err(Error::because(Kind::Internal, "the stream was not accepted, or has ended")),
        }
    }
}

impl Hold for Call {
    fn is_closing(&self) -> bool {
        self.connection.is_closing()
    }
}

/// The request's direction.
pub(crate) struct CallSend<'u>(&'u mut Out);

impl CallSend<'_> {
    fn outcome(&mut self, result: Result<(), Fault>) -> Result<(), Error> {
        match result {
            Ok(()) => Ok(()),
            Err(fault) if fault.wants_no_more() => {
                self.0.ended = true;
                Ok(())
            }
            Err(fault) => Err(fault.of_upstream(false)),
        }
    }

    fn open(&self) -> Result<&Handle, Error> {
        self.0.send.as_ref().ok_or_else(|| Error::because(Kind::Internal, "a body before its head"))
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        if self.0.ended {
            return Ok(());
        }
        let result = stream::send_all(self.open()?, data, false).await;
        self.outcome(result)
    }

    pub(crate) async fn last(&mut self, data: Bytes) -> Result<(), Error> {
        if self.0.ended {
            return Ok(());
        }
        let result = stream::send_all(self.open()?, data, true).await;
        self.0.ended = true;
        self.outcome(result)
    }

    pub(crate) fn trailers(&mut self, trailers: &Headers) -> Result<(), Error> {
        if self.0.ended {
            return Ok(());
        }
        let result = self.open()?.trailers(trailers);
        self.0.ended = true;
        self.outcome(result)
    }

    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if self.0.ended {
            return Ok(());
        }
        let result = self.open()?.finish();
        self.0.ended = true;
        self.outcome(result)
    }
}

/// The response's direction.
pub(crate) struct CallRecv<'u>(&'u mut Back);

impl CallRecv<'_> {
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let Some(handle) = &self.0.head else {
            return Poll::Ready(Err(Error::because(Kind::Internal, "a response that was read already")));
        };
        let head = match ready!(handle.poll_head(cx)) {
            Ok(head) => head,
            Err(fault) => return Poll::Ready(Err(fault.of_upstream(false))),
        };
        if !head.status.is_informational()
            && let Some(handle) = self.0.head.take()
        {
            let length = handle.promised();
            self.0.reader = Some(Reader::new(handle, From::Upstream, length));
        }
        Poll::Ready(Ok(head))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        match &mut self.0.reader {
            Some(reader) => reader.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.0.reader.as_ref().is_some_and(Reader::is_end)
    }

    pub(crate) fn known_length(&self) -> Option<u64> {
        self.0.reader.as_ref().and_then(Reader::known_length)
    }
}
