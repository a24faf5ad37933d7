//! `weft.v1.Control`: one stream for each sidecar, polled by its connection ([`crate::grpc`]). Reports and readiness come up, commands and acknowledgements go down.
//!
//! As with xDS, a stream is a value that is polled; dropping it takes the sidecar out of the fleet.

use super::life::Life;
use super::{Fleet, Leases, Membership, pace};
use crate::grpc::Messages;
use crate::identity::Peer;
use futures_util::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};
use weft_proto::v1;
use weft_proto::v1::control_up::Message as Up;

/// How long a new stream may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// Commands on their way to one sidecar.
const COMMANDS: usize = 64;

/// What serves the control streams.
#[derive(Clone)]
pub struct ControlService {
    fleet: Arc<Fleet>,
    life: Arc<Life>,
    leases: Arc<Leases>,
    shutdown: CancellationToken,
}

impl ControlService {
    /// Serves streams into `fleet` until `shutdown`.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, life: Arc<Life>, leases: Arc<Leases>, shutdown: CancellationToken) -> Self {
        Self { fleet, life, leases, shutdown }
    }
}

struct Live {
    uid: String,
    messages: Messages<v1::ControlUp>,
    commands: mpsc::Receiver<Box<v1::Command>>,
    /// Held for its drop.
    membership: Membership,
    life: Arc<Life>,
    leases: Arc<Leases>,
    /// What goes down next.
    answer: Option<v1::LeaseGrant>,
    /// How often it reports.
    pace: Duration,
    /// The withdrawal under way: ends with the stream.
    withdrawal: Option<AbortOnDropHandle<()>>,
    shutdown: CancellationToken,
}

impl Live {
    async fn next(&mut self) -> Option<Result<v1::ControlDown, Status>> {
        loop {
            if let Some(grant) = self.answer.take() {
                let grant = v1::control_down::Message::LeaseGrant(grant);
                return Some(Ok(v1::ControlDown { message: Some(grant) }));
            }
            let pace = self.membership.fleet.pace.period();
            if std::mem::replace(&mut self.pace, pace) != pace {
                let report_ms = u32::try_from(pace.as_millis()).unwrap_or(u32::MAX);
                let pace = v1::control_down::Message::Pace(v1::Pace { report_ms });
                return Some(Ok(v1::ControlDown { message: Some(pace) }));
            }
            let withdrawn = async {
                match &mut self.withdrawal {
                    Some(task) => drop(task.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.messages.message() => match message {
                    Ok(Some(message)) => self.message(message.message).await,
                    Ok(None) => return None,
                    Err(status) => {
                        tracing::debug!(workload = %self.uid, %status, "control stream broke");
                        return None;
                    }
                },
                Some(command) = self.commands.recv() => {
                    let command = v1::control_down::Message::Command(*command);
                    return Some(Ok(v1::ControlDown { message: Some(command) }));
                }
                () = withdrawn => {
                    self.withdrawal = None;
                    let ack = v1::control_down::Message::WithdrawalAck(v1::WithdrawalAck {});
                    return Some(Ok(v1::ControlDown { message: Some(ack) }));
                }
                () = self.shutdown.cancelled() => {
                    return Some(Err(Status::unavailable("the control plane is shutting down")));
                }
            }
        }
    }

    async fn message(&mut self, message: Option<Up>) {
        // What takes longer is boxed: a stream does not keep the room for it.
        match message {
            Some(Up::Report(report)) => self.membership.report(report),
            Some(Up::Certificate(status)) => self.membership.certificate(status),
            Some(Up::Result(result)) => self.membership.result(result),
            Some(Up::Clock(clock)) => self.membership.clock(clock),
            Some(Up::Tapped(told)) => self.membership.tapped(told),
            Some(Up::Traffic(report)) => self.membership.traffic(report),
            Some(Up::LeaseRequest(request)) => {
                self.answer = Some(self.leases.request(self.membership.stream, &self.uid, request));
            }
            Some(Up::Readiness(readiness)) if readiness.withdraw => {
                self.membership.readiness(readiness);
                if self.withdrawal.is_none() {
                    let (life, uid) = (self.life.clone(), self.uid.clone());
                    let task = tokio::spawn(async move { life.withdraw(&uid).await });
                    self.withdrawal = Some(AbortOnDropHandle::new(task));
                }
            }
            Some(Up::Readiness(readiness)) => {
                // Who asked to be withdrawn does not come back on the same stream.
                if self.membership.readiness(readiness) == Some(false) {
                    Box::pin(self.life.ready(&self.uid, readiness.ready)).await;
                }
            }
            // A second Hello says nothing new; an empty message neither.
            Some(Up::Hello(_)) | None => {}
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.leases.lost(self.membership.stream);
        tracing::debug!(workload = %self.uid, "control stream closed");
    }
}

type Out = Pin<Box<dyn Stream<Item = Result<v1::ControlDown, Status>> + Send>>;

impl ControlService {
    /// `Stream`: the control stream of one sidecar.
    ///
    /// # Errors
    /// Whoever is not of the mesh.
    pub(crate) async fn stream(&self, request: Request<Messages<v1::ControlUp>>) -> Result<Response<Out>, Status> {
        let peer = Peer::of(&request)?;
        let mut messages = request.into_inner();
        let (fleet, life, shutdown) = (self.fleet.clone(), self.life.clone(), self.shutdown.clone());
        let leases = self.leases.clone();
        // The answer's head goes out at once: a client may wait for it before it says hello.
        let begin = async move {
            let hello = hello(&mut messages).await?;
            life.admits(&peer, &hello.workload).await?;
            let (sender, commands) = mpsc::channel(COMMANDS);
            let version = hello.version.chars().take(128).collect();
            let membership = fleet.join(&hello.workload, version, sender);
            tracing::debug!(workload = %hello.workload, version = %hello.version, "control stream opened");
            let answer = leases.announce(&hello.workload);
            Ok(Live {
                uid: hello.workload,
                messages,
                commands,
                membership,
                life,
                leases,
                answer,
                pace: pace::OFTEN,
                withdrawal: None,
                shutdown,
            })
        };
        let stream = futures_util::stream::unfold(State::Begin(Box::pin(begin)), |state| async {
            let mut live = match state {
                State::Begin(begin) => match begin.await {
                    Ok(live) => Box::new(live),
                    Err(status) => return Some((Err(status), State::End)),
                },
                State::Live(live) => live,
                State::End => return None,
            };
            let item = live.next().await?;
            let next = if item.is_ok() { State::Live(live) } else { State::End };
            Some((item, next))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

enum State<F> {
    Begin(Pin<Box<F>>),
    Live(Box<Live>),
    End,
}

async fn hello(messages: &mut Messages<v1::ControlUp>) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(HELLO, messages.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no Hello came"))?? {
        Some(v1::ControlUp { message: Some(Up::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message of a control stream is Hello")),
    }
}
