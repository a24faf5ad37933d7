//! Whether a call that is authorized may begin now: rate limits, then adaptive concurrency. What each of them decides is `weft_policy`'s.

use super::ports::{Leases, Port};
use crate::codec::RequestHead;
use crate::error::{Kind, ProxyError};
use crate::exchange::{Answer, Peer, View};
use std::time::Instant;
use weft_policy::limit::adaptive::{self, PRIORITY, Priority};
use weft_policy::limit::rate::{Decision, Standings};

/// A call that may begin.
#[derive(Default)]
pub(super) struct Admitted {
    /// Where the caller stands under the limits that apply: told in its answer.
    pub standings: Standings,
    /// Its place among the calls in flight.
    pub place: Option<adaptive::Permit>,
}

/// Why a call may not.
pub(super) enum Refused {
    /// A rate is reached; how the caller is told.
    Limited(Box<Answer>),
    /// Too many are in flight for its priority.
    Shed(ProxyError),
}

/// Looks at a call and takes what it costs.
pub(super) fn admit(
    port: &Port,
    leases: &Leases,
    peer: &Peer,
    head: &RequestHead,
    now: Instant,
) -> Result<Admitted, Refused> {
    let mut admitted = Admitted::default();
    if let Some(rates) = &port.rates {
        let decision = rates.check(&View::new(head), peer.identity.as_deref(), now);
        if port.leased && leases.client.wants() {
            leases.wanted.notify_one();
        }
        match decision {
            Decision::Admit { standings } => admitted.standings = standings,
            Decision::Limited { limit, retry_after, standings } => {
                return Err(Refused::Limited(Box::new(Answer::limited(&limit, retry_after, &standings))));
            }
        }
    }
    if let Some(limiter) = &port.adaptive {
        // Only a peer of the mesh is believed: anybody could call itself critical.
        let said = head.headers.get(&PRIORITY).filter(|_| peer.identity.is_some());
        let priority = said.and_then(|value| Priority::parse(value.as_bytes())).unwrap_or_default();
        match limiter.enter(priority, now) {
            Ok(place) => admitted.place = Some(place),
            Err(shed) => return Err(Refused::Shed(ProxyError::because(Kind::Overflow, shed.to_string()))),
        }
    }
    Ok(admitted)
}
