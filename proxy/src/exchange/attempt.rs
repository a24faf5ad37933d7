//! One attempt of a call: an endpoint, a connection, the request up and the response down; and the verdict whether another attempt follows.
//!
//! Until the response's head is accepted an attempt can be abandoned and made again elsewhere; from then on the caller sees it, and what
//! breaks breaks the call. Leaving by any path releases the endpoint's places and cancels what was sent.

use super::body::{Cursor, Replay};
use super::cross::{self, Crossing};
use super::decide::Way;
use super::hedge::Raced;
use super::observe::Observation;
use super::reply::grpc_status;
use super::stream::{Broken, Clock, Expired, download, upload};
use super::upgraded::Upgraded;
use super::{Exchange, LOCAL_RETRIES, Limits, headers, now, web};
use crate::codec::{Known, Reply, RequestHead, ResponseHead, UpRecv, Upstream, Version};
use crate::endpoint::Pick;
use crate::endpoint::connect::Protocol;
use crate::error::{Kind, ProxyError, Sent, Side};
use crate::random;
use crate::telemetry::Direction;
use futures_util::future::Either;
use http::{Method, StatusCode};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weft_policy::breaker::Outcome;
use weft_policy::deadline::Deadline;
use weft_policy::retry::{self, Budget, Failure, Stop, Verdict};

/// How long an upstream that no longer takes the body may still take to answer.
const REFUSAL: Duration = Duration::from_secs(1);
/// A response that is given up for a retry is read to its end when it is this short, so that its connection can be used again.
const DRAIN_BYTES: u64 = 16 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// What an attempt needs to know.
pub(super) struct Attempt<'a, 'p> {
    pub exchange: &'a Exchange,
    pub way: &'a Way<'p>,
    pub limits: Limits,
    pub budget: Option<&'a Budget>,
    pub tried: &'a [Arc<str>],
    /// Attempts made before this one.
    pub retries: u32,
    /// When it begins.
    pub now: Instant,
    pub direction: Direction,
}

/// What follows an attempt.
pub(super) enum Step {
    /// The call is answered.
    Done,
    /// The connection now carries something else.
    Upgraded(Box<Upgraded>),
    /// Another attempt.
    Again {
        /// After this wait.
        after: Duration,
        /// On another endpoint than this one.
        uid: Option<Arc<str>>,
    },
}

/// What the future says at once, if anything.
async fn now_or_never<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

impl Attempt<'_, '_> {
    /// Makes the attempt. `Err` is the call's answer.
    pub async fn make(
        &self,
        head: &mut RequestHead,
        replay: &mut Replay<'_, '_>,
        reply: &mut Reply<'_>,
        seen: &mut Observation<'_>,
    ) -> Result<Step, ProxyError> {
        let mut pick = self.pick()?;
        if let Some(origin) = self.way.origin {
            pick.disguise(origin);
        }
        let parent = seen.picked(&pick);
        let until = self.limits.head.tighten(self.now, self.limits.per_try);
        let mut ready = self.now;
        let protocol = Exchange::wire_protocol(self.way.protocol, pick.endpoint(), head);
        let native = protocol == Protocol::Http2;
        let spoken = pick.endpoint().protocol.unwrap_or(self.way.protocol);
        let mut crossing = Crossing::of(head, seen.grpc(), spoken, native)?;
        let connected = match self.exchange.connector.ready(pick.target(), protocol) {
            Some(upstream) => Ok(upstream),
            None => {
                pick.connecting()?;
                // Boxed, like all that is rare: a call must not be as large as the largest of its detours.
                let connecting = Box::pin(self.exchange.connector.http(pick.target(), protocol));
                let connected = reply.while_open(self.within(until, connecting)).await?;
                pick.connected();
                ready = now();
                connected
            }
        };
        let mut upstream = match connected {
            Ok(upstream) => upstream,
            Err(error) => return self.broken(error, &head.method, &mut pick, seen),
        };
        pick.sending(ready);
        let outgoing = crossing.as_deref_mut().map_or(&mut *head, |crossing| &mut crossing.head);
        headers::address(outgoing, pick.is_mtls(), native, &self.exchange.source, self.limits.whole, ready);
        if let Some(parent) = parent {
            parent.write(&mut outgoing.headers);
        }
        // What follows a switch of protocols is no body: not a byte of it is read before the upstream has agreed.
        let switches = head.upgrade || head.method == Method::CONNECT;
        let end = if switches { !native } else { replay.is_empty() };
        let sent = {
            let outgoing = crossing.as_deref().map_or(&*head, |crossing| &crossing.head);
            let mut sending = pin!(upstream.send_head(outgoing, end));
            match now_or_never(sending.as_mut()).await {
                Some(sent) => sent.map_err(ProxyError::from),
                None => Box::pin(reply.while_open(self.within(until, sending))).await?,
            }
        };
        if let Err(error) = sent {
            return self.broken(error, &head.method, &mut pick, seen);
        }
        let mut early = None;
        if let Some(delay) = self.way.hedge.as_ref().filter(|_| end && self.retries == 0 && !self.has_session()) {
            let sides = (&mut upstream, &mut pick);
            early = Box::pin(self.race(delay, sides, until, head, reply, seen)).await?;
        }
        let mut clock = Clock::new(&self.exchange.timers, seen.flow(), until.at(), self.limits.idle);
        let sides = (&mut upstream, crossing.as_deref().map(|crossing| &crossing.kind));
        let silent = end || switches;
        let driven = self.drive(sides, silent, early, head, replay, reply, seen, &mut pick, &mut clock).await;
        match driven {
            Ok(Driven::Done) => Ok(Step::Done),
            Ok(Driven::Again { after }) => Ok(Step::Again { after, uid: Some(Arc::clone(&pick.endpoint().uid)) }),
            Ok(Driven::Upgraded(response)) => Ok(Step::Upgraded(Box::new(Upgraded { head: response, upstream, pick }))),
            Err(error) => Err(error),
        }
    }

    /// Whether the call belongs to a session, or begins one: such a call is its endpoint's alone.
    fn has_session(&self) -> bool {
        self.way.more.as_ref().is_some_and(|more| more.session.is_some())
    }

    /// The endpoint of the call's session as long as it takes calls, else whoever balancing says.
    fn pick(&self) -> Result<Pick, ProxyError> {
        let session = self.way.more.as_ref().and_then(|more| more.session.as_ref()?.uid());
        session
            .filter(|_| self.tried.is_empty())
            .and_then(|uid| self.way.cluster.pick_one(self.now, random::draw(), uid))
            .map_or_else(|| self.way.cluster.pick_keyed(self.now, &mut random::draw, self.tried, self.way.key), Ok)
    }

    /// Bounds what happens before there is anything to read by the attempt's deadline.
    async fn within<T>(
        &self,
        until: Deadline,
        future: impl Future<Output = Result<T, impl Into<ProxyError>>>,
    ) -> Result<T, ProxyError> {
        match until.at() {
            None => future.await.map_err(Into::into),
            Some(at) => match tokio::time::timeout_at(at.into(), future).await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => Err(self.expired(Expired::Deadline).sent(Sent::NotSent)),
            },
        }
    }

    fn expired(&self, expired: Expired) -> ProxyError {
        let kind = match expired {
            Expired::Silence => Kind::IdleTimeout,
            Expired::Deadline if self.limits.head.is_over(now()) => Kind::RequestTimeout,
            Expired::Deadline => Kind::TryTimeout,
        };
        ProxyError::new(kind).sent(Sent::Sent)
    }

    /// Both directions, to the response's end.
    #[expect(
        clippy::too_many_arguments,
        reason = "one scope in which the halves of both connections are borrowed together"
    )]
    async fn drive(
        &self,
        (upstream, crossing): (&mut Upstream, Option<&cross::Kind>),
        ended: bool,
        mut early: Raced,
        head: &RequestHead,
        replay: &mut Replay<'_, '_>,
        reply: &mut Reply<'_>,
        seen: &mut Observation<'_>,
        pick: &mut Pick,
        clock: &mut Clock<'_>,
    ) -> Result<Driven, ProxyError> {
        let version = upstream.version();
        let flow = seen.flow();
        let (mut send, mut recv) = upstream.split();
        let mut cursor = Cursor::default();
        let decodes = crossing.is_some_and(cross::Kind::decodes);
        let mut up = pin!(match decodes {
            true => Either::Right(Box::pin(web::upload(replay, &mut cursor, &mut send))),
            false => Either::Left(upload(replay, &mut cursor, &mut send)),
        });
        let mut uploading = !ended;
        let mut response = loop {
            let waited = match early.take() {
                Some(raced) => Ok(raced),
                None => head_of(up.as_mut(), &mut uploading, &mut recv, reply, clock).await,
            };
            match waited {
                Ok(Ok(response))
                    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    // 100 was ours to send, and was sent if it was asked for.
                    if response.status != StatusCode::CONTINUE {
                        reply.informational(response).await?;
                    }
                }
                Ok(Ok(response)) => break response,
                Ok(Err(Waited::Expired(expired))) => {
                    let step = self.broken(self.expired(expired), &head.method, pick, seen)?;
                    return Ok(step.into());
                }
                Ok(Err(Waited::Upstream(error))) => {
                    let step = self.broken(error, &head.method, pick, seen)?;
                    return Ok(step.into());
                }
                Err(error) => return Err(error),
            }
        };

        let switched = match crossing {
            Some(cross::Kind::Websocket(handshake)) => match handshake.finish(&mut response) {
                Ok(switched) => switched,
                Err(error) => return Ok(self.broken(error, &head.method, pick, seen)?.into()),
            },
            _ if head.method == Method::CONNECT => response.status.is_success(),
            _ => response.status == StatusCode::SWITCHING_PROTOCOLS,
        };
        if let Some(after) = self.answered(&response, &recv, head, pick, seen) {
            if version != Version::Http2 && !uploading {
                Box::pin(drain(&mut recv)).await;
            }
            return Ok(Driven::Again { after });
        }
        flow.commit();
        headers::answer(&mut response, self.direction == Direction::Outbound && pick.is_mtls());
        let end = recv.is_end();
        let mut web = match crossing {
            Some(cross::Kind::Web { wanted, .. }) => web::Answer::begin(*wanted, &mut response).map(Box::new),
            _ => None,
        };
        let last = web.as_mut().filter(|_| end).map(|web| web.trailers_only(&mut response));
        if let Some(backend) = self.way.backend {
            headers::edit(&mut response.headers, &backend.filters.response);
        }
        if let Some(rule) = self.way.rule {
            headers::edit(&mut response.headers, &rule.filters.response);
        }
        if let Some(more) = &self.way.more {
            more.mark(&mut response.headers, &pick.endpoint().uid);
        }
        seen.answered(&response);
        if switched {
            pick.report(Outcome::Success, now(), random::draw());
            return Ok(Driven::Upgraded(response));
        }
        reply.send_head(response, end && last.is_none()).await?;
        if let Some(frame) = last {
            flow.sent(frame.len());
            reply.last(frame).await?;
        }
        if end {
            pick.report(Outcome::Success, now(), random::draw());
            return Ok(Driven::Done);
        }
        clock.set(self.limits.whole.tighten(pick.began(), self.limits.per_try).at());
        let probe = pick.is_probe();
        let ended = {
            let mut down = pin!(match &mut web {
                Some(web) => Either::Right(Box::pin(web::download(&mut recv, reply, flow, web))),
                None => Either::Left(download(&mut recv, reply, flow)),
            });
            std::future::poll_fn(|cx| {
                if uploading && let Poll::Ready(result) = up.as_mut().poll(cx) {
                    uploading = false;
                    if let Err(Broken::Caller(error)) = result {
                        return Poll::Ready(Err(error));
                    }
                }
                if let Poll::Ready(result) = down.as_mut().poll(cx) {
                    return Poll::Ready(result);
                }
                if probe && flow.has_sent() {
                    // A probe is judged by its own first bytes: it may be a stream without end.
                    pick.report(Outcome::Success, now(), random::draw());
                }
                clock.poll(cx).map(|expired| Err(self.expired(expired)))
            })
            .await
        };
        match ended {
            Ok(status) => {
                if status.is_some() {
                    seen.outcome.grpc_status = status;
                }
                let outcome = status.map_or(Outcome::Success, |code| Outcome::of_grpc(code.into()));
                seen.outcome.failed_attempts += u32::from(outcome == Outcome::Failure);
                let at = now();
                seen.ended(at);
                pick.report(outcome, at, random::draw());
                Ok(Driven::Done)
            }
            Err(error) => {
                if error.blames_endpoint() {
                    seen.outcome.failed_attempts += 1;
                    pick.report(Outcome::Failure, now(), random::draw());
                }
                seen.unfinished = web.filter(|web| web.is_between());
                Err(error)
            }
        }
    }

    /// Looks at a response before its caller does. `Some`: it is given up, and the next attempt follows after that long.
    fn answered(
        &self,
        response: &ResponseHead,
        recv: &UpRecv<'_>,
        head: &RequestHead,
        pick: &mut Pick,
        seen: &mut Observation<'_>,
    ) -> Option<Duration> {
        let at = now();
        let status = response.status.as_u16();
        seen.attempted(status, "");
        // A status without a message comes as a head with END_STREAM: Trailers-Only.
        let grpc = if seen.grpc().is_some() && recv.is_end() { grpc_status(&response.headers) } else { None };
        seen.outcome.grpc_status = grpc;
        let (outcome, failure) = match grpc {
            Some(code) => (Outcome::of_grpc(code.into()), Failure::Grpc(code.into())),
            None => (Outcome::of_status(status), Failure::Status(status)),
        };
        let unsent = pick.is_mtls() && response.headers.known(Known::WeftUnsent).is_some();
        let (sent, failure) = if unsent { (retry::Sent::No, Failure::Transport) } else { (retry::Sent::Yes, failure) };
        if outcome == Outcome::Failure {
            seen.outcome.failed_attempts += 1;
            pick.failed(at);
            pick.report(Outcome::Failure, at, random::draw());
        } else {
            pick.answered(at);
            if let Some(delay) = self.way.hedge.as_ref().filter(|_| self.retries == 0 && !seen.is_hedged()) {
                delay.observe(pick.latency(at), at);
            }
        }
        let rule = self.way.rule?;
        if !unsent && !rule.retry.retryable(&head.method, sent, failure) {
            return None;
        }
        let wanted = response.headers.known(Known::RetryAfter).and_then(|value| {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            retry::retry_after(value.as_bytes(), unix)
        });
        let reason = grpc.map_or_else(|| status.to_string(), |code| format!("grpc_{code}"));
        let again = self.judge(rule, &head.method, sent, failure, wanted, seen, &reason)?;
        if outcome != Outcome::Failure {
            seen.outcome.failed_attempts += 1;
        }
        seen.attempt_ended(status, grpc, "");
        seen.outcome.grpc_status = None;
        Some(again)
    }

    /// An attempt without an answer: what it says of the endpoint, and whether another follows.
    fn broken(
        &self,
        error: ProxyError,
        method: &Method,
        pick: &mut Pick,
        seen: &mut Observation<'_>,
    ) -> Result<Step, ProxyError> {
        if error.side == Side::Downstream {
            return Err(error);
        }
        let at = now();
        seen.outcome.failed_attempts += 1;
        seen.attempted(0, error.label());
        pick.unanswered(at);
        if error.blames_endpoint() {
            pick.report(Outcome::Failure, at, random::draw());
        }
        if !error.retryable() {
            return Err(error);
        }
        seen.attempt_ended(0, None, error.label());
        let uid = Some(Arc::clone(&pick.endpoint().uid));
        let Some(rule) = self.way.rule else {
            let again = error.kind == Kind::Refused
                && error.sent == Sent::NotSent
                && self.retries < LOCAL_RETRIES
                && seen.flow().is_replayable();
            return if again { Ok(Step::Again { after: Duration::ZERO, uid }) } else { Err(error) };
        };
        let sent = match error.sent {
            Sent::NotSent => retry::Sent::No,
            Sent::Sent => retry::Sent::Yes,
            Sent::Unknown => retry::Sent::Unknown,
        };
        let failure = if error.kind == Kind::TryTimeout { Failure::Timeout } else { Failure::Transport };
        match self.judge(rule, method, sent, failure, None, seen, error.label()) {
            Some(after) => {
                tracing::debug!(endpoint = %pick.endpoint().uid, ?after, "trying again: {error}");
                Ok(Step::Again { after, uid })
            }
            None => Err(error),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one failed attempt")]
    fn judge(
        &self,
        rule: &weft_policy::route::Rule,
        method: &Method,
        sent: retry::Sent,
        failure: Failure,
        retry_after: Option<Duration>,
        seen: &Observation<'_>,
        reason: &str,
    ) -> Option<Duration> {
        let attempt = retry::Attempt {
            method,
            sent,
            failure,
            retries: self.retries,
            replayable: seen.flow().is_replayable(),
            retry_after,
        };
        let random = crate::endpoint::cluster::unit(random::draw());
        match rule.retry.judge(&attempt, self.budget?, self.limits.head.at(), now(), random) {
            Verdict::Retry { after } => {
                seen.retried(reason, false);
                Some(after)
            }
            Verdict::Stop(Stop::Budget) => {
                seen.retried("budget", true);
                None
            }
            Verdict::Stop(Stop::NotReplayable) => {
                seen.retried("body", true);
                None
            }
            Verdict::Stop(Stop::Deadline) => {
                seen.retried("deadline", true);
                None
            }
            Verdict::Stop(Stop::NotRetryable | Stop::Exhausted) => None,
        }
    }
}

/// What became of an attempt that had its connection.
enum Driven {
    Done,
    Again { after: Duration },
    Upgraded(ResponseHead),
}

impl From<Step> for Driven {
    fn from(step: Step) -> Self {
        match step {
            Step::Again { after, .. } => Self::Again { after },
            Step::Done | Step::Upgraded(_) => Self::Done,
        }
    }
}

/// Why there is no response head.
pub(super) enum Waited {
    Expired(Expired),
    Upstream(ProxyError),
}

/// The next head of the response, while the request's body flows. The outer error is the caller's.
async fn head_of<U>(
    mut up: Pin<&mut U>,
    uploading: &mut bool,
    recv: &mut UpRecv<'_>,
    reply: &mut Reply<'_>,
    clock: &mut Clock<'_>,
) -> Result<Result<ResponseHead, Waited>, ProxyError>
where
    U: Future<Output = Result<(), Broken>>,
{
    let mut refused: Option<ProxyError> = None;
    std::future::poll_fn(|cx| {
        if *uploading && let Poll::Ready(result) = up.as_mut().poll(cx) {
            *uploading = false;
            match result {
                Ok(()) => {}
                Err(Broken::Caller(error)) => return Poll::Ready(Err(error)),
                Err(Broken::Upstream(error)) => {
                    // It may have answered before it stopped reading.
                    refused = Some(error);
                    clock.set(now().checked_add(REFUSAL));
                }
            }
        }
        match recv.poll_head(cx) {
            Poll::Ready(Ok(head)) => return Poll::Ready(Ok(Ok(head))),
            Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err(Waited::Upstream(error.into())))),
            Poll::Pending => {}
        }
        if let Poll::Ready(error) = reply.poll_gone(cx) {
            return Poll::Ready(Err(error.into()));
        }
        clock.poll(cx).map(|expired| {
            Ok(Err(match refused.take() {
                Some(error) => Waited::Upstream(error),
                None => Waited::Expired(expired),
            }))
        })
    })
    .await
}

/// Reads a short response to its end, so that an HTTP/1 connection is not closed for the sake of a retry.
async fn drain(recv: &mut UpRecv<'_>) {
    if recv.known_length().is_some_and(|length| length <= DRAIN_BYTES) {
        let _ = tokio::time::timeout(DRAIN_TIME, async { while let Some(Ok(_)) = recv.frame().await {} }).await;
    }
}
