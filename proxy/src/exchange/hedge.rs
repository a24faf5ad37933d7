//! A second attempt while the first is out (Dean and Barroso, “The tail at scale”): for calls without a body that may be repeated, to another
//! endpoint, out of the retry budget. Whichever answers first, and not with a failure, is the call's answer; the other is cancelled.

use super::attempt::{Attempt, Waited};
use super::observe::Observation;
use super::stream::Expired;
use super::traced::Parent;
use super::{Exchange, headers, now};
use crate::codec::{Reply, RequestHead, ResponseHead, UpRecv, Upstream};
use crate::endpoint::Pick;
use crate::endpoint::connect::Protocol;
use crate::error::ProxyError;
use crate::random;
use http::StatusCode;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use weft_policy::breaker::Outcome;
use weft_policy::deadline::Deadline;
use weft_policy::hedge::{self, Delay};

/// How a race ended: the head that the winner answered with, or why there is none. `None`: it was not begun.
pub(super) type Raced = Option<Result<ResponseHead, Waited>>;

/// The second attempt, answered.
struct Second {
    head: ResponseHead,
    upstream: Upstream,
    pick: Pick,
}

enum Won {
    First(Result<ResponseHead, ProxyError>),
    Second(Box<Second>),
}

/// The first head that is an answer. What is informational is left out: it may be of the attempt that loses.
async fn answer(recv: &mut UpRecv<'_>) -> Result<ResponseHead, ProxyError> {
    loop {
        let head = recv.head().await?;
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(head);
        }
    }
}

fn is_failure(head: &ResponseHead) -> bool {
    Outcome::of_status(head.status.as_u16()) == Outcome::Failure
}

impl Attempt<'_, '_> {
    /// Waits for the attempt that is out, and after a while sends another. Afterwards `upstream` and `pick` are the winner's.
    pub(super) async fn race(
        &self,
        delay: &Delay,
        (upstream, pick): (&mut Upstream, &mut Pick),
        until: Deadline,
        head: &RequestHead,
        reply: &mut Reply<'_>,
        seen: &mut Observation<'_>,
    ) -> Result<Raced, ProxyError> {
        let began = now();
        let Some(after) = delay.after(began) else { return Ok(None) };
        let over = || Ok(Some(Err(Waited::Expired(Expired::Deadline))));
        let patience = until.remaining(began).map_or(after, |left| left.min(after));
        let first = {
            let (_, mut recv) = upstream.split();
            reply.while_open(tokio::time::timeout(patience, answer(&mut recv))).await?
        };
        match first {
            Ok(answer) => return Ok(Some(answer.map_err(Waited::Upstream))),
            Err(_) if until.is_over(now()) => return over(),
            Err(_) => {}
        }
        // Only where somebody else could answer: asked of the budget last, which is charged.
        let Some(other) = self.other_than(pick) else { return Ok(None) };
        let allowed = self.budget.is_some_and(|budget| hedge::may_begin(budget, until.at(), now()));
        seen.retried(if allowed { "hedge" } else { "budget" }, !allowed);
        if !allowed {
            return Ok(None);
        }
        seen.outcome.attempts += 1;
        let parent = seen.attempt(&other);
        let won = {
            let (_, mut recv) = upstream.split();
            let racing = both(answer(&mut recv), self.second(other, head, parent));
            let racing = async {
                match until.at() {
                    Some(at) => tokio::time::timeout_at(at.into(), racing).await.ok(),
                    None => Some(racing.await),
                }
            };
            reply.while_open(racing).await?
        };
        match won {
            None => over(),
            Some(Won::First(answer)) => {
                seen.superseded(false);
                Ok(Some(answer.map_err(Waited::Upstream)))
            }
            Some(Won::Second(second)) => {
                // How long the first would have taken is not known: at least this long.
                let at = now();
                delay.observe(pick.latency(at), at);
                // Nor would the balancer learn that the endpoint is slow, if only what it answered were told.
                pick.answered(at);
                let Second { head, upstream: faster, pick: its } = *second;
                (*upstream, *pick) = (faster, its);
                seen.superseded(true);
                seen.hedged(pick);
                Ok(Some(Ok(head)))
            }
        }
    }

    /// An endpoint besides the one that has been asked.
    fn other_than(&self, first: &Pick) -> Option<Pick> {
        let asked = [std::sync::Arc::clone(&first.endpoint().uid)];
        let other = self.way.cluster.pick(now(), &mut random::draw, &asked).ok()?;
        (other.endpoint().uid != first.endpoint().uid).then_some(other)
    }

    async fn second(
        &self,
        mut pick: Pick,
        head: &RequestHead,
        parent: Option<Box<Parent>>,
    ) -> Result<Box<Second>, ProxyError> {
        let connector = &self.exchange.connector;
        let protocol = Exchange::wire_protocol(self.way.protocol, pick.endpoint(), head);
        let connected = match connector.ready(pick.target(), protocol) {
            Some(upstream) => Ok(upstream),
            None => {
                pick.connecting()?;
                let made = connector.http(pick.target(), protocol).await;
                pick.connected();
                made
            }
        };
        let sending = async {
            let mut upstream = connected?;
            pick.sending(now());
            let mut head = head.clone();
            let native = protocol == Protocol::Http2;
            headers::address(&mut head, pick.is_mtls(), native, &self.exchange.source, self.limits.whole, now());
            if let Some(parent) = parent {
                parent.write(&mut head.headers);
            }
            upstream.send_head(&head, true).await?;
            let (_, mut recv) = upstream.split();
            let head = answer(&mut recv).await?;
            Ok((head, upstream))
        };
        let sent: Result<_, ProxyError> = sending.await;
        match sent {
            Ok((head, upstream)) => {
                if is_failure(&head) {
                    pick.failed(now());
                    pick.report(Outcome::Failure, now(), random::draw());
                }
                Ok(Box::new(Second { head, upstream, pick }))
            }
            Err(error) => {
                pick.unanswered(now());
                if error.blames_endpoint() {
                    pick.report(Outcome::Failure, now(), random::draw());
                }
                Err(error)
            }
        }
    }
}

/// Both attempts at once. A failure is taken only when the other has failed as well; then the first one's is told.
async fn both(
    first: impl Future<Output = Result<ResponseHead, ProxyError>>,
    second: impl Future<Output = Result<Box<Second>, ProxyError>>,
) -> Won {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut failed: Option<Result<ResponseHead, ProxyError>> = None;
    // `Some(None)`: it has no answer at all.
    let mut beaten: Option<Option<Box<Second>>> = None;
    poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(answer) = first.as_mut().poll(cx)
        {
            if answer.as_ref().is_ok_and(|head| !is_failure(head)) || beaten.is_some() {
                return Poll::Ready(Won::First(answer));
            }
            failed = Some(answer);
        }
        if beaten.is_none()
            && let Poll::Ready(answer) = second.as_mut().poll(cx)
        {
            match answer {
                Ok(second) if !is_failure(&second.head) => return Poll::Ready(Won::Second(second)),
                answer => beaten = Some(answer.ok()),
            }
            if let Some(answer) = failed.take() {
                return Poll::Ready(Won::First(answer));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn head(status: u16) -> Result<ResponseHead, ProxyError> {
        Ok(ResponseHead::new(StatusCode::from_u16(status).unwrap()))
    }

    async fn lost() -> Result<Box<Second>, ProxyError> {
        Err(ProxyError::new(Kind::ConnectFailed))
    }

    #[tokio::test]
    async fn a_failure_of_the_first_is_told_only_when_the_second_has_failed_too() {
        let Won::First(Ok(told)) = both(async { head(503) }, lost()).await else { panic!() };
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_answer_of_the_first_does_not_wait_for_the_second() {
        let never = std::future::pending();
        let Won::First(Ok(told)) = both(async { head(404) }, never).await else { panic!() };
        assert_eq!(told.status, StatusCode::NOT_FOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_that_fails_leaves_the_first_its_time() {
        let late = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            head(200)
        };
        let Won::First(Ok(told)) = both(late, lost()).await else { panic!() };
        assert_eq!(told.status, StatusCode::OK);
    }
}
