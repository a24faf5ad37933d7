//! What the soak does over HTTP/2 and gRPC.

use super::{Calls, Run};
use crate::failure::Failure;
use crate::http2::{self, Conversation, Link, Sender};
use crate::plan::Plan;
use h2::Reason;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Calls,
    Concurrent,
    Churn,
    Download,
    Post,
    /// RST_STREAM in the middle of a request's body.
    ResetRequest,
    /// In the middle of the answer.
    ResetAnswer,
    /// Right after the request.
    ResetAtOnce,
    /// The connection dropped with streams open, without a goodbye.
    Drop,
}

impl Action {
    pub(super) const ALL: [Self; 9] = [
        Self::Calls,
        Self::Concurrent,
        Self::Churn,
        Self::Download,
        Self::Post,
        Self::ResetRequest,
        Self::ResetAnswer,
        Self::ResetAtOnce,
        Self::Drop,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calls => "http2Calls",
            Self::Concurrent => "http2Concurrent",
            Self::Churn => "http2Churn",
            Self::Download => "http2Download",
            Self::Post => "http2Post",
            Self::ResetRequest => "http2ResetRequest",
            Self::ResetAnswer => "http2ResetAnswer",
            Self::ResetAtOnce => "http2ResetAtOnce",
            Self::Drop => "http2Drop",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcAction {
    Calls,
    Stream,
    /// A stream left in the middle.
    Abandon,
}

impl GrpcAction {
    pub(super) const ALL: [Self; 3] = [Self::Calls, Self::Stream, Self::Abandon];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calls => "grpcCalls",
            Self::Stream => "grpcStream",
            Self::Abandon => "grpcAbandon",
        }
    }
}

pub(super) async fn act(
    action: Action,
    run: &Run,
    calls: &Calls,
    random: &mut StdRng,
    kept: &mut Option<Link>,
) -> Result<(), Failure> {
    match action {
        Action::Churn => return churn(run, &calls.get).await,
        Action::Drop => return drop_open(run, calls).await,
        _ => {}
    }
    let mut sender = sender(run, &calls.get, random, kept).await?;
    match action {
        Action::Calls => {
            for _ in 0..random.random_range(1..=20) {
                run.took(http2::call(&mut sender, &calls.get, false).await?);
            }
        }
        Action::Concurrent => {
            let mut all = JoinSet::new();
            for _ in 0..8 {
                let (mut sender, plan) = (sender.clone(), calls.post(random).clone());
                all.spawn_local(async move { http2::call(&mut sender, &plan, false).await });
            }
            while let Some(one) = all.join_next().await {
                run.took(one.map_err(|_| Failure::Closed)??);
            }
        }
        Action::Download => run.took(http2::call(&mut sender, &calls.download, false).await?),
        Action::Post => run.took(http2::call(&mut sender, calls.post(random), false).await?),
        Action::ResetRequest => {
            let plan = calls.post(random);
            let (_response, mut stream) = http2::begin(&mut sender, plan, false).await?;
            let wanted = random.random_range(1..plan.body.len());
            let room = http2::room(&mut stream, wanted).await?;
            stream.send_data(plan.body.slice(..room), false)?;
            stream.send_reset(Reason::CANCEL);
        }
        Action::ResetAnswer => {
            let (response, _stream) = http2::begin(&mut sender, &calls.large, true).await?;
            let mut body = response.await?.into_body();
            for _ in 0..random.random_range(1..16) {
                let data = body.data().await.ok_or(Failure::Closed)??;
                run.took(data.len() as u64);
                body.flow_control().release_capacity(data.len())?;
            }
            // Dropped with data on the way: the stream is reset.
        }
        Action::ResetAtOnce => {
            let (_response, mut stream) = http2::begin(&mut sender, &calls.get, true).await?;
            stream.send_reset(Reason::CANCEL);
        }
        Action::Churn | Action::Drop => {}
    }
    Ok(())
}

pub(super) async fn grpc(
    action: GrpcAction,
    run: &Run,
    calls: &Calls,
    random: &mut StdRng,
    kept: &mut Option<Link>,
) -> Result<(), Failure> {
    let mut sender = sender(run, &calls.get, random, kept).await?;
    if action == GrpcAction::Calls {
        for _ in 0..random.random_range(1..=20) {
            run.took(http2::call(&mut sender, &calls.get, true).await?);
        }
        return Ok(());
    }
    let mut conversation = Conversation::open(&mut sender, &calls.get).await?;
    for _ in 0..random.random_range(1..=50) {
        run.took(conversation.exchange(&calls.get).await?);
    }
    if action == GrpcAction::Stream { conversation.finish().await } else { Ok(()) }
}

/// A sender on the kept connection, which now and then is a new one.
async fn sender(run: &Run, plan: &Plan, random: &mut StdRng, kept: &mut Option<Link>) -> Result<Sender, Failure> {
    if let Some(link) = kept
        && !link.is_over()
        && !random.random_bool(0.05)
    {
        return Ok(link.sender());
    }
    if let Some(old) = kept.take() {
        old.close().await;
    }
    let link = open(run, plan).await?;
    Ok(kept.insert(link).sender())
}

async fn open(run: &Run, plan: &Plan) -> Result<Link, Failure> {
    let link = Link::open(&plan.target).await?;
    run.opened();
    Ok(link)
}

async fn churn(run: &Run, plan: &Plan) -> Result<(), Failure> {
    let link = open(run, plan).await?;
    run.took(http2::call(&mut link.sender(), plan, false).await?);
    link.close().await;
    Ok(())
}

async fn drop_open(run: &Run, calls: &Calls) -> Result<(), Failure> {
    let link = open(run, &calls.get).await?;
    let mut sender = link.sender();
    let first = http2::begin(&mut sender, &calls.large, true).await?;
    let second = http2::begin(&mut sender, &calls.posts[0], false).await?;
    let mut body = first.0.await?.into_body();
    let data = body.data().await.ok_or(Failure::Closed)??;
    run.took(data.len() as u64);
    // The link first: its socket closes before the streams can be reset.
    drop(link);
    drop((body, second));
    Ok(())
}
