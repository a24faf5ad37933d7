//! What the soak does over plain TCP.

use super::Run;
use crate::failure::Failure;
use crate::socket::{Target, discard};
use crate::tcp::{exchange, header};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Exchanges,
    Bulk,
    Churn,
    /// Closed, or reset, within the sixteen bytes that begin an exchange.
    HalfHeader,
    /// In the middle of a download.
    HalfAnswer,
    ResetHalfAnswer,
    /// In the middle of an upload.
    HalfUpload,
    ResetHalfUpload,
}

impl Action {
    pub(super) const ALL: [Self; 8] = [
        Self::Exchanges,
        Self::Bulk,
        Self::Churn,
        Self::HalfHeader,
        Self::HalfAnswer,
        Self::ResetHalfAnswer,
        Self::HalfUpload,
        Self::ResetHalfUpload,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exchanges => "tcpExchanges",
            Self::Bulk => "tcpBulk",
            Self::Churn => "tcpChurn",
            Self::HalfHeader => "tcpHalfHeader",
            Self::HalfAnswer => "tcpHalfAnswer",
            Self::ResetHalfAnswer => "tcpResetHalfAnswer",
            Self::HalfUpload => "tcpHalfUpload",
            Self::ResetHalfUpload => "tcpResetHalfUpload",
        }
    }
}

pub(super) async fn act(
    action: Action,
    run: &Run,
    target: &Target,
    random: &mut StdRng,
    kept: &mut Option<TcpStream>,
) -> Result<(), Failure> {
    match action {
        Action::Exchanges => {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => open(run, target).await?,
            };
            for _ in 0..random.random_range(1..=20) {
                let (down, up) = (random.random_range(0..2000), random.random_range(0..2000));
                exchange(&mut stream, down, up).await?;
                run.took(down);
            }
            if random.random_bool(0.9) {
                *kept = Some(stream);
            }
        }
        Action::Bulk => {
            exchange(&mut open(run, target).await?, 2_000_000, 1_000_000).await?;
            run.took(2_000_000);
        }
        Action::Churn => exchange(&mut open(run, target).await?, 0, 0).await?,
        Action::HalfHeader => {
            let cut = random.random_range(0..16);
            open(run, target).await?.write_all(&header(1, 1)[..cut]).await?;
        }
        Action::HalfAnswer => half_answer(run, target, random, false).await?,
        Action::ResetHalfAnswer => half_answer(run, target, random, true).await?,
        Action::HalfUpload => half_upload(run, target, random, false).await?,
        Action::ResetHalfUpload => half_upload(run, target, random, true).await?,
    }
    Ok(())
}

async fn open(run: &Run, target: &Target) -> Result<TcpStream, Failure> {
    let stream = target.connect().await?;
    run.opened();
    Ok(stream)
}

async fn half_answer(run: &Run, target: &Target, random: &mut StdRng, reset: bool) -> Result<(), Failure> {
    let mut stream = open(run, target).await?;
    if reset {
        stream.set_zero_linger()?;
    }
    stream.write_all(&header(super::LARGE, 0)).await?;
    let some = random.random_range(1..super::LARGE / 2);
    discard(&stream, some).await?;
    run.took(some);
    Ok(())
}

async fn half_upload(run: &Run, target: &Target, random: &mut StdRng, reset: bool) -> Result<(), Failure> {
    let mut stream = open(run, target).await?;
    if reset {
        stream.set_zero_linger()?;
    }
    stream.write_all(&header(0, super::LARGE)).await?;
    crate::socket::send_shared(&stream, random.random_range(1..super::LARGE / 2)).await
}
