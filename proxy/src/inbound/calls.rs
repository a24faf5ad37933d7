//! The calls of one inbound connection: what the port is now, who may call and with which token, what is limited; then the exchange.

use super::authorize::{Counted, refused, ruling, verdict};
use super::token::Token;
use super::{Inbound, Key, admit, plan, ports, tunnel};
use crate::codec::{self, Handler, Reply, RequestBody, RequestHead};
use crate::error::ProxyError;
use crate::exchange::{Peer, Ruling, Said, View, WEFT_AUTHORIZATION};
use crate::telemetry::Direction;
use http::Method;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::SystemTime;
use weft_certs::jwt::Reason;
use weft_policy::authorize::{self, Decision};
use weft_policy::config::InboundPort;
use weft_policy::limit::adaptive::Outcome;
use weft_policy::route::HeaderEdit;

/// The calls of one inbound connection.
pub(super) struct Calls<'i> {
    pub(super) inbound: &'i Inbound,
    key: &'i Key,
    peer: &'i Peer,
    counted: Counted,
    /// What the key found last.
    found: Mutex<Option<Found>>,
}

/// A port, what calls to it go through, and the configuration that they stand in.
struct Found {
    configuration: Arc<weft_policy::config::Inbound>,
    port: Arc<InboundPort>,
    made: Arc<ports::Port>,
}

impl<'i> Calls<'i> {
    pub(super) fn new(inbound: &'i Inbound, key: &'i Key, peer: &'i Peer) -> Self {
        Self { inbound, key, peer, counted: Counted::default(), found: Mutex::new(None) }
    }

    /// What the key finds now: looked up again only when configuration is another.
    fn find(&self) -> Result<(Arc<InboundPort>, Arc<ports::Port>), ProxyError> {
        let exchange = &self.inbound.exchange;
        let now = exchange.directory.snapshot();
        let mut found = self.found.lock();
        if let (Some(found), Some(now)) = (&*found, &now.inbound)
            && Arc::ptr_eq(&found.configuration, now)
        {
            return Ok((Arc::clone(&found.port), Arc::clone(&found.made)));
        }
        let port = self.inbound.port(self.key)?;
        let made = self.inbound.ports.port(exchange, &port);
        // Configuration may have changed once more in between: then what was found is looked up again.
        *found = now
            .inbound
            .as_ref()
            .filter(|now| now.ports.iter().any(|known| Arc::ptr_eq(known, &port)))
            .map(|now| Found { configuration: Arc::clone(now), port: Arc::clone(&port), made: Arc::clone(&made) });
        Ok((port, made))
    }
}

impl Calls<'_> {
    /// Whether a call may go on to the port, and until when its token is good. What a token says, and what the application is not to see of
    /// it, is put into `head`.
    fn admit<'p>(
        &self,
        port: &'p Arc<InboundPort>,
        made: &'p ports::Port,
        peer: &Peer,
        head: &mut RequestHead,
    ) -> (Ruling<'p>, Result<Option<SystemTime>, ProxyError>) {
        let (token, decision) = match judge(port, made, peer, head) {
            Ok(judged) => judged,
            Err((policy, reason)) => {
                self.inbound.count_token(port, peer, policy, reason);
                let shown = port.authorization_header;
                let ruling =
                    Ruling { verdict: Said::Deny, policy, rule: reason.name(), service: Some(&port.service), shown };
                return (ruling, Err(refused(policy, reason)));
            }
        };
        self.inbound.count(port, peer, &decision, &self.counted);
        if let Some(tokens) = &made.tokens {
            tokens.apply(head, token.as_ref());
        }
        (ruling(port, &decision), verdict(&decision, peer).map(|()| token.map(|token| token.until())))
    }

    /// Whether a call that was admitted, and began with `head`, would still be. A token that has expired since is none: a call that would
    /// have been admitted without it goes on. Counted only where it would not.
    pub(super) fn still(&self, peer: &Peer, head: &RequestHead) -> Result<(), ProxyError> {
        let (port, made) = self.find()?;
        match judge(&port, &made, peer, head) {
            Ok((_, decision)) => {
                if !decision.is_allowed() {
                    self.inbound.count(&port, peer, &decision, &self.counted);
                }
                verdict(&decision, peer)
            }
            Err((_, Reason::Expired)) if needs_none(&port, peer, head) => Ok(()),
            Err((policy, reason)) => {
                self.inbound.count_token(&port, peer, policy, reason);
                Err(refused(policy, reason))
            }
        }
    }
}

/// Whether a request is admitted whatever token it brings.
fn needs_none(port: &InboundPort, peer: &Peer, head: &RequestHead) -> bool {
    let required = port.authentication.as_ref().is_some_and(|authentication| authentication.required_by.is_some());
    !required && port.authorization.request(&peer.connection(), &View::new(head), None).is_allowed()
}

/// What policy says of a request, and the token that it brought; or which policy refuses that token, and why.
fn judge<'p>(
    port: &'p InboundPort,
    made: &'p ports::Port,
    peer: &Peer,
    head: &RequestHead,
) -> Result<(Option<Token>, Decision<'p>), (&'p str, Reason)> {
    let token = match &made.tokens {
        Some(tokens) => tokens.find(head)?,
        None => None,
    };
    let said = token.as_ref().map(|token| -> &dyn authorize::Token { token });
    let decision = port.authorization.request(&peer.connection(), &View::new(head), said);
    Ok((token, decision))
}

/// What the answer carries besides what the application says: the limits that it counted for, and the rule that admitted it.
fn marks(ruling: &Ruling<'_>, admitted: &admit::Admitted) -> Option<HeaderEdit> {
    let mut set: Vec<_> = admitted.standings.fields().map(Vec::from).unwrap_or_default();
    set.extend(ruling.mark().map(|mark| (WEFT_AUTHORIZATION, mark)));
    (!set.is_empty()).then(|| HeaderEdit { set, ..HeaderEdit::default() })
}

impl Handler for Calls<'_> {
    async fn call<'c>(&'c self, mut head: RequestHead, body: RequestBody<'c>, mut reply: Reply<'c>) {
        let (inbound, exchange) = (self.inbound, &self.inbound.exchange);
        // Before configuration is looked at: a change that comes meanwhile is one of an open call.
        let changes = exchange.directory.inbound_changes();
        let native;
        let peer = match tunnel::source(&head, self.peer) {
            Some(named) => {
                native = named;
                &native
            }
            None => self.peer,
        };
        let (port, made) = match self.find() {
            Ok(found) => found,
            Err(error) => {
                let away = exchange.turn_away(Direction::Inbound, Some(peer), &error, &head, &mut reply);
                return Box::pin(away).await;
            }
        };
        // As it came: rules may ask about what the application is not to see. The copy lies in what earlier messages left.
        let began = head.clone();
        let (ruling, admitted) = self.admit(&port, &made, peer, &mut head);
        let lapses = match admitted {
            Ok(until) => until,
            Err(error) => {
                let away = exchange.turn_away_by(ruling, Direction::Inbound, Some(peer), &error, &head, &mut reply);
                return Box::pin(away).await;
            }
        };
        let revoked = pin!(self.revoked(peer, began, changes, lapses));
        if made.rates.is_none() && made.adaptive.is_none() {
            if !ruling.shown {
                let plan = plan(&made.cluster, &port, peer, ruling, None);
                exchange.call(plan, head, body, reply, revoked).await;
                return;
            }
            let marks = marks(&ruling, &admit::Admitted::default());
            let plan = plan(&made.cluster, &port, peer, ruling, marks.as_ref());
            Box::pin(exchange.call(plan, head, body, reply, revoked)).await;
            return;
        }
        Box::pin(inbound.limited(&made, &port, (peer, ruling), (head, body, reply), revoked)).await;
    }

    fn rejected(&self, error: &codec::Error) {
        self.inbound.exchange.telemetry.refuse(Direction::Inbound, &error.clone().into(), &self.peer.source);
    }
}

impl Inbound {
    /// A call to a port that limits rates, or calls in flight by latency.
    async fn limited(
        &self,
        made: &ports::Port,
        port: &InboundPort,
        (peer, ruling): (&Peer, Ruling<'_>),
        (head, body, mut reply): (RequestHead, RequestBody<'_>, Reply<'_>),
        revoked: Pin<&mut impl Future<Output = ProxyError>>,
    ) {
        let now = || tokio::time::Instant::now().into_std();
        let exchange = &self.exchange;
        let admitted = match admit::admit(made, self.ports.leases(), peer, &head, now()) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let plan = plan(&made.cluster, port, peer, ruling, None);
                return match refused {
                    admit::Refused::Limited(answer) => exchange.answer(&plan, *answer, &head, &mut reply).await,
                    admit::Refused::Shed(error) => exchange.fail(&plan, &error, &head, &mut reply).await,
                };
            }
        };
        let marks = marks(&ruling, &admitted);
        // A stream says nothing of how fast calls are answered.
        let timed = !head.upgrade && head.method != Method::CONNECT;
        let plan = plan(&made.cluster, port, peer, ruling, marks.as_ref());
        let ended = exchange.call(plan, head, body, reply, revoked).await;
        if let Some(place) = admitted.place.filter(|_| timed) {
            place.finish(if ended.overloaded() { Outcome::Dropped } else { Outcome::Answered }, now());
        }
    }
}
