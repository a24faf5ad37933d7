//! One worker's way of making calls, whatever the protocol: on a kept connection, a shared one, a stream, or a new connection for each.

use crate::clock::Watch;
use crate::failure::Failure;
use crate::flags::{Close, Protocol};
use crate::http2::{self, Conversation, Link, Sender, Shared};
use crate::measure::{Tally, add};
use crate::plan::Plan;
use crate::{clock, http1};
use std::rc::Rc;
use std::time::Duration;

/// Pause after a failure, so that a target that is gone is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(2);
/// Connections opened at a time before a run begins.
const OPENING: usize = 128;

/// Makes calls one after another.
pub struct Caller {
    plan: Rc<Plan>,
    tally: Rc<Tally>,
    way: Way,
    watch: Watch,
}

enum Way {
    Http1(Option<http1::Connection>),
    Http2 {
        shared: Rc<Shared>,
        sender: Option<Sender>,
        conversation: Option<Conversation>,
    },
    /// A new connection for each call.
    Churn(Close),
}

/// `connections × streams` callers, connected unless they churn. Failures to connect are counted, and tried again by the first call.
pub async fn open(plan: &Rc<Plan>, tally: &Rc<Tally>, connections: u32, streams: u32) -> Vec<Caller> {
    let mut callers = Vec::new();
    for _ in 0..connections {
        let shared = Shared::new(plan.clone(), tally.clone());
        let streams = if plan.protocol == Protocol::Http1 { 1 } else { streams };
        for _ in 0..streams {
            let way = match (plan.churn, plan.protocol) {
                (Some(close), _) => Way::Churn(close),
                (None, Protocol::Http1) => Way::Http1(None),
                (None, _) => Way::Http2 { shared: shared.clone(), sender: None, conversation: None },
            };
            callers.push(Caller { plan: plan.clone(), tally: tally.clone(), way, watch: Watch::new(plan.timeout) });
        }
    }
    let (mut waiting, mut ready) = (callers.into_iter(), Vec::new());
    let mut opening = tokio::task::JoinSet::new();
    loop {
        while opening.len() < OPENING
            && let Some(mut caller) = waiting.next()
        {
            opening.spawn_local(async move {
                if let Err(failure) = caller.connect().await {
                    caller.tally.wrong(failure);
                }
                caller
            });
        }
        match opening.join_next().await {
            Some(Ok(caller)) => ready.push(caller),
            Some(Err(_panic)) => {}
            None => return ready,
        }
    }
}

/// Ends what is still open properly; what does not end so is counted.
pub async fn finish(callers: Vec<Caller>, tally: &Tally) {
    for mut caller in callers {
        if let Err(failure) = caller.finish().await {
            tally.wrong(failure);
        }
    }
}

impl Caller {
    /// Connects if there is a connection to keep.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        let Self { plan, tally, way, watch } = self;
        watch.within(clock::now(), way.connect(plan, tally)).await
    }

    /// One call begun at `started`; the length of its answer's body.
    pub async fn call(&mut self, started: u64) -> Result<u64, Failure> {
        let Self { plan, tally, way, watch } = self;
        let result = watch.within(started, way.call(plan, tally)).await;
        if result.is_err() {
            self.way.forget();
        }
        result
    }

    /// A sender on the connection that it shares, if there is one.
    pub async fn sender(&mut self) -> Option<Sender> {
        self.connect().await.ok()?;
        match &self.way {
            Way::Http2 { sender, .. } => sender.clone(),
            _ => None,
        }
    }

    /// To be waited for after a failure.
    pub async fn pause(&self) {
        tokio::time::sleep(AFTER_FAILURE).await;
    }

    /// Whether its connection is still there.
    pub fn is_alive(&self) -> bool {
        match &self.way {
            Way::Http1(connection) => connection.as_ref().is_some_and(|c| !c.is_gone()),
            Way::Http2 { shared, .. } => shared.is_alive(),
            Way::Churn(_) => true,
        }
    }

    /// Ends a stream of messages properly; other ways have nothing to say.
    async fn finish(&mut self) -> Result<(), Failure> {
        let Self { way, watch, .. } = self;
        if let Way::Http2 { conversation, .. } = way
            && let Some(conversation) = conversation.take()
        {
            watch.within(clock::now(), conversation.finish()).await?;
        }
        Ok(())
    }
}

impl Way {
    async fn connect(&mut self, plan: &Plan, tally: &Tally) -> Result<(), Failure> {
        match self {
            Self::Http1(connection) if connection.as_ref().is_none_or(http1::Connection::is_over) => {
                *connection = None;
                *connection = Some(http1::Connection::open(&plan.target).await?);
                add(&tally.opened, 1);
            }
            Self::Http2 { shared, sender, .. } if sender.is_none() => *sender = Some(shared.sender().await?),
            _ => {}
        }
        Ok(())
    }

    async fn call(&mut self, plan: &Plan, tally: &Tally) -> Result<u64, Failure> {
        self.connect(plan, tally).await?;
        match self {
            Self::Http1(Some(connection)) => connection.call(&plan.bytes, plan.expect).await,
            Self::Http2 { sender: Some(sender), conversation, .. } if plan.protocol == Protocol::GrpcStream => {
                if conversation.is_none() {
                    *conversation = Some(Conversation::open(sender, plan).await?);
                }
                match conversation {
                    Some(conversation) => conversation.exchange(plan).await,
                    None => Err(Failure::Closed),
                }
            }
            Self::Http2 { sender: Some(sender), .. } => {
                http2::call(sender, plan, plan.protocol == Protocol::Grpc).await
            }
            Self::Churn(close) => churn(plan, tally, *close).await,
            _ => Err(Failure::Connect),
        }
    }

    /// After a failure: what may be broken is not used again.
    fn forget(&mut self) {
        match self {
            Self::Http1(connection) => *connection = None,
            Self::Http2 { shared, sender, conversation } => {
                *conversation = None;
                if !shared.is_alive() {
                    *sender = None;
                }
            }
            Self::Churn(_) => {}
        }
    }
}

/// Connects, calls, closes.
async fn churn(plan: &Plan, tally: &Tally, close: Close) -> Result<u64, Failure> {
    if plan.protocol == Protocol::Http1 {
        let mut connection = http1::Connection::open(&plan.target).await?;
        add(&tally.opened, 1);
        let length = connection.call(&plan.bytes, plan.expect).await?;
        match close {
            Close::Client => {}
            Close::Server => connection.closed().await?,
            Close::Reset => connection.stream().set_zero_linger()?,
        }
        return Ok(length);
    }
    let stream = plan.target.connect().await?;
    add(&tally.opened, 1);
    if close == Close::Reset {
        stream.set_zero_linger()?;
    }
    let link = Link::over(stream, http2::Windows::default()).await?;
    let mut sender = link.sender();
    let length = if plan.protocol == Protocol::GrpcStream {
        let mut conversation = Conversation::open(&mut sender, plan).await?;
        let length = conversation.exchange(plan).await?;
        conversation.finish().await?;
        length
    } else {
        http2::call(&mut sender, plan, plan.protocol == Protocol::Grpc).await?
    };
    drop(sender);
    if close != Close::Reset {
        link.close().await;
    }
    Ok(length)
}
