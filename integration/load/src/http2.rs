//! HTTP/2 and gRPC of the client: connections shared by many calls, unary calls, and long-lived streams of messages.

use crate::clock::Pace;
use crate::failure::Failure;
use crate::measure::{Tally, add};
use crate::plan::{Expect, Plan};
use crate::socket::Target;
use crate::wire::{drive, wire};
use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// Windows as meshes open them between proxies.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bodies up to this are sent without waiting for window and before the answer is looked for.
const AT_ONCE: usize = 32 * 1024;
/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Small frames that may wait: gRPC streams are made of them.
const SMALL_FRAMES: usize = 64 << 20;
/// Streams reset here whose late frames are forgiven.
const RESETS: usize = 10_000;

/// Makes calls on a connection.
pub type Sender = SendRequest<Bytes>;

/// A connection with the task that drives it, which ends with it.
pub struct Link {
    send: Sender,
    over: Rc<Cell<bool>>,
    driver: Driver,
}

/// Ends the task with its owner.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Windows of a connection.
#[derive(Clone, Copy)]
pub struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self { stream: STREAM_WINDOW, connection: CONNECTION_WINDOW }
    }
}

impl Link {
    /// Connects.
    pub async fn open(target: &Target) -> Result<Self, Failure> {
        Self::over(target.connect().await?, Windows::default()).await
    }

    /// A connection over any stream.
    pub async fn over<S>(stream: S, windows: Windows) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (wire, flusher) = wire(stream);
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_concurrent_reset_streams(RESETS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES);
        let (send, connection) = builder.handshake::<_, Bytes>(wire).await?;
        let over = Rc::new(Cell::new(false));
        let tell = over.clone();
        let driver = tokio::task::spawn_local(async move {
            // Calls learn of its failure themselves.
            drive(async move { drop(connection.await) }, flusher).await;
            tell.set(true);
        });
        Ok(Self { send, over, driver: Driver(driver) })
    }

    /// A handle for calls.
    pub fn sender(&self) -> Sender {
        self.send.clone()
    }

    /// The connection has ended.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Says goodbye, once all other senders and calls are gone.
    pub async fn close(self) {
        let Self { send, mut driver, .. } = self;
        drop(send);
        // Who does not come to an end in time is ended by the drop.
        let _ended = tokio::time::timeout(GOODBYE, &mut driver.0).await;
    }
}

/// Room to send some of `wanted` bytes.
pub async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, Failure> {
    stream.reserve_capacity(wanted);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(result) => result?,
            None => return Err(Failure::Closed),
        };
    }
    Ok(stream.capacity().min(wanted))
}

/// Sends the whole body.
async fn send_body(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<(), Failure> {
    while !body.is_empty() {
        let room = room(stream, body.len()).await?;
        let piece = body.split_to(room);
        stream.send_data(piece, body.is_empty())?;
    }
    Ok(())
}

/// Begins the plan's call, with its body on the way if it is small.
pub async fn begin(send: &mut Sender, plan: &Plan, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
    poll_fn(|cx| send.poll_ready(cx)).await?;
    Ok(send.send_request(plan.head.clone(), end)?)
}

/// One call; the length of its answer's body.
pub async fn call(send: &mut Sender, plan: &Plan, grpc: bool) -> Result<u64, Failure> {
    let (response, mut stream) = begin(send, plan, plan.body.is_empty()).await?;
    let answer = answer(response, plan.expect, grpc);
    if plan.body.len() <= AT_ONCE {
        if !plan.body.is_empty() {
            stream.send_data(plan.body.clone(), true)?;
        }
        answer.await
    } else {
        let body = send_body(&mut stream, plan.body.clone());
        Ok(tokio::try_join!(body, answer)?.1)
    }
}

async fn answer(response: ResponseFuture, expect: Expect, grpc: bool) -> Result<u64, Failure> {
    let (head, mut body) = response.await?.into_parts();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len() as u64;
        body.flow_control().release_capacity(data.len())?;
    }
    if grpc && head.status == 200 {
        let trailers = body.trailers().await?;
        let status = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status");
        if status.is_none_or(|status| status != "0") {
            return Err(Failure::GrpcStatus);
        }
    }
    expect.check(head.status.as_u16(), length)
}

/// The status of the answer, once that came whole.
pub async fn status(send: &mut Sender, plan: &Plan) -> Result<u16, Failure> {
    let (response, _stream) = begin(send, plan, true).await?;
    let (head, mut body) = response.await?.into_parts();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(head.status.as_u16())
}

/// A call whose answer is taken at the pace given; each piece is told to `seen`.
pub async fn download(
    send: &mut Sender,
    plan: &Plan,
    pace: &mut Pace,
    mut seen: impl FnMut(u64),
) -> Result<(), Failure> {
    let (response, _stream) = begin(send, plan, true).await?;
    let (head, mut body) = response.await?.into_parts();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let count = data?.len();
        length += count as u64;
        seen(count as u64);
        pace.took(count as u64).await;
        body.flow_control().release_capacity(count)?;
    }
    plan.expect.check(head.status.as_u16(), length).map(drop)
}

/// A gRPC stream with one message in flight.
pub struct Conversation {
    stream: SendStream<Bytes>,
    /// Until the answer's head has come.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Conversation {
    /// Opens the stream; the answer's head is waited for with the first message.
    pub async fn open(send: &mut Sender, plan: &Plan) -> Result<Self, Failure> {
        let (response, stream) = begin(send, plan, false).await?;
        Ok(Self { stream, response: Some(response), body: None })
    }

    /// Sends the message and reads it back.
    pub async fn exchange(&mut self, plan: &Plan) -> Result<u64, Failure> {
        self.stream.send_data(plan.body.clone(), false)?;
        if let Some(response) = self.response.take() {
            let response = response.await?;
            if response.status().as_u16() != plan.expect.status {
                return Err(Failure::Status);
            }
            self.body = Some(response.into_body());
        }
        let body = self.body.as_mut().ok_or(Failure::Closed)?;
        let (wanted, mut length) = (plan.body.len() as u64, 0);
        while length < wanted {
            match body.data().await {
                Some(Ok(data)) => {
                    length += data.len() as u64;
                    body.flow_control().release_capacity(data.len())?;
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::GrpcStatus),
            }
        }
        if length == wanted { Ok(length) } else { Err(Failure::Length) }
    }

    /// Ends it properly: no more messages, and status 0 from the server.
    pub async fn finish(mut self) -> Result<(), Failure> {
        self.stream.send_data(Bytes::new(), true)?;
        let Some(mut body) = self.body.take() else { return Ok(()) };
        if let Some(data) = body.data().await {
            data?;
            return Err(Failure::Length);
        }
        let trailers = body.trailers().await?.ok_or(Failure::GrpcStatus)?;
        if trailers.get("grpc-status").is_some_and(|status| status == "0") { Ok(()) } else { Err(Failure::GrpcStatus) }
    }
}

/// One connection for many workers, opened again when it ended.
pub struct Shared {
    plan: Rc<Plan>,
    link: RefCell<Option<Link>>,
    opening: tokio::sync::Mutex<()>,
    /// Where connections opened are counted.
    tally: Rc<Tally>,
}

impl Shared {
    /// Not yet connected.
    pub fn new(plan: Rc<Plan>, tally: Rc<Tally>) -> Rc<Self> {
        Rc::new(Self { plan, link: RefCell::new(None), opening: tokio::sync::Mutex::new(()), tally })
    }

    /// Whether there is a connection and it has not ended.
    pub fn is_alive(&self) -> bool {
        self.link.borrow().as_ref().is_some_and(|link| !link.is_over())
    }

    /// A sender on the connection, connecting if need be.
    pub async fn sender(&self) -> Result<Sender, Failure> {
        let _one_at_a_time = self.opening.lock().await;
        if self.is_alive()
            && let Some(link) = &*self.link.borrow()
        {
            return Ok(link.sender());
        }
        let link = Link::open(&self.plan.target).await?;
        add(&self.tally.opened, 1);
        let sender = link.sender();
        *self.link.borrow_mut() = Some(link);
        Ok(sender)
    }
}
