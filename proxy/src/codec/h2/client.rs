//! The connecting end of HTTP/2: a connection driven by a task of its own, and the calls that share it.
//!
//! The connection ends when nobody holds a [`Connection`] or a call on it any more. Which connection a call takes is decided in
//! `endpoint::pool`.

use super::alive::KeepAlive;
use super::coalesce::{Coalesce, Flusher, coalesce};
use super::convert;
use super::stream::{self, From, Reader};
use super::tunnel::Tunnel;
use crate::codec::{Frame, Headers, Hold, Io, Limits, RequestHead, ResponseHead};
use crate::error::{Kind, ProxyError, Sent};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FRAME: u32 = 16 * 1024;
const SEND_BUFFER: usize = 512 * 1024;
/// How long a connection that nobody wants any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Where connections are driven: tasks that end with the token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Told when a connection is on its way out.
    pub(crate) leaving: Arc<Notify>,
}

/// A shared handle to an open connection.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    state: Arc<State>,
}

struct State {
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

/// Opens a connection on `io` and waits for the peer's SETTINGS, which prove that it has accepted our certificate. Whoever calls
/// bounds the time. `pings` is off towards applications: many gRPC servers take frequent PINGs for abuse.
pub(crate) async fn connect(io: Io, limits: &Limits, pings: bool, tasks: &Tasks) -> Result<Connection, ProxyError> {
    let failed = |error: h2::Error| ProxyError::caused(Kind::ConnectFailed, error).detail("HTTP/2 preface");
    let (io, flusher) = coalesce(io);
    let (send, mut connection) = h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(FRAME)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        // None until the peer's SETTINGS say how many: that is how their arrival is told.
        .initial_max_send_streams(0)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(failed)?;
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            result.map_err(failed)?;
            return Poll::Ready(Err(ProxyError::because(Kind::ConnectFailed, "closed before the HTTP/2 SETTINGS")));
        }
        if let Poll::Ready(Err(error)) = flusher.poll_flush(cx) {
            return Poll::Ready(Err(ProxyError::caused(Kind::ConnectFailed, error).detail("HTTP/2 preface")));
        }
        if send.current_max_send_streams() > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await?;
    let alive = connection
        .ping_pong()
        .filter(|_| pings)
        .map(|ping| KeepAlive::new(ping, limits.ping_interval, limits.ping_timeout));
    let state = Arc::new(State {
        active: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
        unwanted: Arc::new(Notify::new()),
        idle_since: parking_lot::Mutex::new(tokio::time::Instant::now()),
        leaving: tasks.leaving.clone(),
    });
    let driver = Driver {
        connection,
        flusher,
        alive,
        probe: Some(send.clone()),
        state: Arc::downgrade(&state),
        unwanted: state.unwanted.clone(),
    };
    let stop = tasks.stop.clone();
    tasks.tracker.spawn(async move { stop.run_until_cancelled(driver.run()).await });
    Ok(Connection { send, state })
}

struct Driver {
    connection: h2::client::Connection<Coalesce, Bytes>,
    flusher: Flusher,
    alive: Option<KeepAlive>,
    /// Tells of a GOAWAY. Given up when the connection is unwanted, since it keeps the connection open.
    probe: Option<SendRequest<Bytes>>,
    state: std::sync::Weak<State>,
    unwanted: Arc<Notify>,
}

impl Driver {
    async fn run(mut self) {
        let unwanted = self.unwanted.clone();
        {
            let mut unwanted = pin!(unwanted.notified());
            let ended = poll_fn(|cx| {
                if self.poll_once(cx).is_ready() {
                    return Poll::Ready(true);
                }
                unwanted.as_mut().poll(cx).map(|()| false)
            })
            .await;
            self.closing();
            if ended {
                return;
            }
        }
        self.probe = None;
        let _ = tokio::time::timeout(GOODBYE, poll_fn(|cx| self.poll_once(cx))).await;
    }

    fn closing(&self) {
        if let Some(state) = self.state.upgrade() {
            state.closing.store(true, Ordering::Release);
            state.leaving.notify_one();
        }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        let flushed = self.flusher.poll_flush(cx);
        match polled {
            Poll::Ready(Err(error)) if !error.is_io() => {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                return Poll::Ready(());
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        if let Poll::Ready(Err(error)) = flushed {
            tracing::debug!(%error, "an HTTP/2 connection to an upstream broke");
            return Poll::Ready(());
        }
        if let Some(probe) = &mut self.probe
            && matches!(probe.poll_ready(cx), Poll::Ready(Err(_)))
        {
            self.probe = None;
            self.closing();
        }
        match &mut self.alive {
            Some(alive) => alive.poll_dead(cx, self.flusher.reads()).map(|()| {
                tracing::debug!("an HTTP/2 connection to an upstream answers no PINGs and is given up");
            }),
            None => Poll::Pending,
        }
    }
}

impl Connection {
    /// May it take another call?
    pub(crate) fn is_usable(&self) -> bool {
        !self.state.closing.load(Ordering::Acquire) && self.active() < self.send.current_max_send_streams()
    }

    /// Is it on its way out? Nothing new may go through it, virtual connections included.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.closing.load(Ordering::Acquire)
    }

    /// Marks it so that it takes no more calls.
    pub(crate) fn close(&self) {
        self.state.closing.store(true, Ordering::Release);
    }

    /// Calls on it now.
    pub(crate) fn active(&self) -> usize {
        self.state.active.load(Ordering::Relaxed)
    }

    /// Since when it carries no call; `None` while it does.
    pub(crate) fn idle_since(&self) -> Option<tokio::time::Instant> {
        (self.active() == 0).then(|| *self.state.idle_since.lock())
    }

    /// A call on it.
    pub(crate) fn call(&self) -> Call {
        Call {
            connection: self.clone(),
            _active: Active::new(&self.state),
            out: Out { send: None, ended: false },
            back: Back { response: None, reader: None },
        }
    }
}

/// One call. Dropped before its end it is reset.
pub(crate) struct Call {
    connection: Connection,
    _active: Active,
    out: Out,
    back: Back,
}

struct Out {
    send: Option<SendStream<Bytes>>,
    ended: bool,
}

struct Back {
    response: Option<ResponseFuture>,
    reader: Option<Reader>,
}

impl Call {
    pub(in crate::codec) async fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), ProxyError> {
        let request = convert::request_out(head, end)?;
        if request.extensions().get::<h2::ext::Protocol>().is_some()
            && !self.connection.send.is_extended_connect_protocol_enabled()
        {
            return Err(ProxyError::because(Kind::Unsupported, "the upstream does not accept extended CONNECT"));
        }
        // Nothing is written before the stream exists, so a connection that went away meanwhile leaves the request unsent.
        let unsent = |error: h2::Error| ProxyError::caused(Kind::Refused, error).sent(Sent::NotSent);
        let connection = &mut self.connection;
        let sent = match poll_fn(|cx| connection.send.poll_ready(cx)).await {
            Ok(()) => connection.send.send_request(request, end),
            Err(error) => Err(error),
        };
        let (response, send) = sent.map_err(|error| {
            connection.close();
            unsent(error)
        })?;
        self.back.response = Some(response);
        self.out = Out { send: Some(send), ended: end };
        Ok(())
    }

    pub(in crate::codec) fn split(&mut self) -> (CallSend<'_>, CallRecv<'_>) {
        (CallSend(&mut self.out), CallRecv(&mut self.back))
    }

    pub(in crate::codec) fn into_io(mut self) -> Result<Io, ProxyError> {
        match (self.out.send.take(), self.back.reader.take()) {
            (Some(send), Some(reader)) if !self.out.ended => {
                self.out.ended = true;
                Ok(Io::from(Tunnel::new(send, reader.recv)).holding(self))
            }
            _ => Err(ProxyError::because(Kind::Internal, "the stream was not accepted, or has ended")),
        }
    }
}

impl Hold for Call {
    fn is_closing(&self) -> bool {
        self.connection.is_closing()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let answered = self.back.reader.as_ref().is_some_and(Reader::is_end);
        if let Some(send) = &mut self.out.send
            && !(self.out.ended && answered)
        {
            send.send_reset(Reason::CANCEL);
        }
    }
}

/// The request's direction.
pub(crate) struct CallSend<'u>(&'u mut Out);

impl CallSend<'_> {
    fn outcome(&mut self, result: Result<(), h2::Error>) -> Result<(), ProxyError> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if stream::wants_no_more(&error) => {
                self.0.ended = true;
                Ok(())
            }
            Err(error) => Err(convert::upstream_error(error, false)),
        }
    }

    fn open(&mut self) -> Result<&mut SendStream<Bytes>, ProxyError> {
        self.0.send.as_mut().ok_or_else(|| ProxyError::because(Kind::Internal, "a body before its head"))
    }

    pub(in crate::codec) async fn data(&mut self, data: Bytes) -> Result<(), ProxyError> {
        if self.0.ended {
            return Ok(());
        }
        let result = stream::send_all(self.open()?, data, false).await;
        self.outcome(result)
    }

    pub(in crate::codec) async fn last(&mut self, data: Bytes) -> Result<(), ProxyError> {
        if self.0.ended {
            return Ok(());
        }
        let result = stream::send_all(self.open()?, data, true).await;
        self.0.ended = true;
        self.outcome(result)
    }

    pub(in crate::codec) fn trailers(&mut self, trailers: &Headers) -> Result<(), ProxyError> {
        if self.0.ended {
            return Ok(());
        }
        let result = self.open()?.send_trailers(convert::trailers_out(trailers));
        self.0.ended = true;
        self.outcome(result)
    }

    pub(in crate::codec) fn finish(&mut self) -> Result<(), ProxyError> {
        if self.0.ended {
            return Ok(());
        }
        let result = self.open()?.send_data(Bytes::new(), true);
        self.0.ended = true;
        self.outcome(result)
    }
}

/// The response's direction.
pub(crate) struct CallRecv<'u>(&'u mut Back);

impl CallRecv<'_> {
    pub(in crate::codec) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, ProxyError>> {
        let Some(response) = &mut self.0.response else {
            return Poll::Ready(Err(ProxyError::because(Kind::Internal, "a response that was read already")));
        };
        if let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
            return Poll::Ready(Ok(convert::response_in(informational).0));
        }
        let result = ready!(Pin::new(response).poll(cx));
        self.0.response = None;
        Poll::Ready(match result {
            Ok(response) => {
                let (head, recv) = convert::response_in(response);
                let length = head.headers.text(&http::header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
                self.0.reader = Some(Reader::new(recv, From::Upstream, length));
                Ok(head)
            }
            Err(error) => Err(convert::upstream_error(error, false)),
        })
    }

    pub(in crate::codec) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, ProxyError>>> {
        match &mut self.0.reader {
            Some(reader) => reader.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    pub(in crate::codec) fn is_end(&self) -> bool {
        self.0.reader.as_ref().is_some_and(Reader::is_end)
    }

    pub(in crate::codec) fn known_length(&self) -> Option<u64> {
        self.0.reader.as_ref().and_then(Reader::known_length)
    }
}
