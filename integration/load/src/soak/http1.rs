//! What the soak does over HTTP/1.1.

use super::{Calls, Run};
use crate::failure::Failure;
use crate::http1::Connection;
use crate::plan::Plan;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Calls,
    Churn,
    Download,
    Post,
    /// Closed, or reset, in the middle of a request's head.
    HalfHead,
    ResetHalfHead,
    /// In the middle of its body.
    HalfRequest,
    ResetHalfRequest,
    /// In the middle of the answer.
    HalfAnswer,
    ResetHalfAnswer,
    /// Connected, and nothing said.
    Silent,
}

impl Action {
    pub(super) const ALL: [Self; 11] = [
        Self::Calls,
        Self::Churn,
        Self::Download,
        Self::Post,
        Self::HalfHead,
        Self::ResetHalfHead,
        Self::HalfRequest,
        Self::ResetHalfRequest,
        Self::HalfAnswer,
        Self::ResetHalfAnswer,
        Self::Silent,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calls => "http1Calls",
            Self::Churn => "http1Churn",
            Self::Download => "http1Download",
            Self::Post => "http1Post",
            Self::HalfHead => "http1HalfHead",
            Self::ResetHalfHead => "http1ResetHalfHead",
            Self::HalfRequest => "http1HalfRequest",
            Self::ResetHalfRequest => "http1ResetHalfRequest",
            Self::HalfAnswer => "http1HalfAnswer",
            Self::ResetHalfAnswer => "http1ResetHalfAnswer",
            Self::Silent => "http1Silent",
        }
    }
}

pub(super) async fn act(
    action: Action,
    run: &Run,
    calls: &Calls,
    random: &mut StdRng,
    kept: &mut Option<Connection>,
) -> Result<(), Failure> {
    match action {
        Action::Calls => {
            for _ in 0..random.random_range(1..=20) {
                call(run, &calls.get, kept).await?;
            }
            // Now and then a new one.
            if random.random_bool(0.1) {
                *kept = None;
            }
            Ok(())
        }
        Action::Churn => call(run, &calls.get, &mut None).await,
        Action::Download => call(run, &calls.download, kept).await,
        Action::Post => call(run, calls.post(random), kept).await,
        Action::HalfHead => partly(run, &calls.get, random, false, false).await,
        Action::ResetHalfHead => partly(run, &calls.get, random, false, true).await,
        Action::HalfRequest => partly(run, calls.post(random), random, false, false).await,
        Action::ResetHalfRequest => partly(run, calls.post(random), random, false, true).await,
        Action::HalfAnswer => partly(run, &calls.large, random, true, false).await,
        Action::ResetHalfAnswer => partly(run, &calls.large, random, true, true).await,
        Action::Silent => open(run, &calls.get).await.map(drop),
    }
}

async fn open(run: &Run, plan: &Plan) -> Result<Connection, Failure> {
    let connection = Connection::open(&plan.target).await?;
    run.opened();
    Ok(connection)
}

async fn call(run: &Run, plan: &Plan, kept: &mut Option<Connection>) -> Result<(), Failure> {
    let mut connection = match kept.take() {
        // The peer may have closed it while nobody looked.
        Some(connection) if !connection.is_over() && !connection.is_gone() => connection,
        _ => open(run, plan).await?,
    };
    run.took(connection.call(&plan.bytes, plan.expect).await?);
    *kept = Some(connection);
    Ok(())
}

/// Sends all of a request and takes some of its answer, or sends some of it; then closes or resets.
async fn partly(run: &Run, plan: &Plan, random: &mut StdRng, answer: bool, reset: bool) -> Result<(), Failure> {
    let mut connection = open(run, plan).await?;
    let stream = connection.stream();
    if reset {
        stream.set_zero_linger()?;
    }
    if answer {
        stream.write_all(&plan.bytes).await?;
        let mut piece = vec![0; random.random_range(1..64 * 1024)];
        let count = stream.read_exact(&mut piece).await?;
        run.took(count as u64);
    } else {
        let cut = random.random_range(1..plan.bytes.len());
        stream.write_all(&plan.bytes[..cut]).await?;
    }
    Ok(())
}
