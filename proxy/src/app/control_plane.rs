//! A sidecar under a control plane: its identity, by the mesh's authority or by an agent; its place in the registry; discovery and the control
//! stream.

use super::join::{join, register_first};
use super::{AppError, Process, start};
use crate::config::{ControlPlane, Workload};
use crate::discovery::control::Control;
use crate::discovery::{Directory, Keep, Publisher, link, metrics, xds};
use crate::identity::{Enrolment, Followed, IdentityError, Issuer, Registrar, Renewal, Standing};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use weft_certs::LiveIdentity;
use weft_certs::tls::{ALPN_GRPC, ClientConfigs};

/// What calls have to themselves at a start with remembered configuration, before the control plane's handshake competes with theirs.
const HEAD_START: Duration = Duration::from_millis(25);
/// Services that are not called for this long leave the stream.
const IDLE: Duration = Duration::from_secs(600);

/// What a control plane is told at the start.
pub(super) struct Plan {
    pub control: ControlPlane,
    pub workload: Box<Workload>,
    pub tunnel: std::net::SocketAddr,
    pub enrolment: Option<Enrolment>,
    pub followed: Option<Followed>,
}

/// Whose last-known-good configuration it is.
fn kept_as(uid: &str, live: &LiveIdentity) -> String {
    format!("{uid} {}", live.id())
}

/// Who keeps the identity valid.
enum Keeper {
    /// The mesh's authority.
    Issuer(Issuer),
    /// An agent of the SPIFFE Workload API.
    Agent(Box<Followed>),
}

impl Process {
    /// Gets an identity and a place in the registry, then starts what follows the control plane.
    ///
    /// # Errors
    /// When the workload is refused.
    pub(super) async fn start_xds(
        &mut self,
        plan: Plan,
        publisher: Publisher,
        asks: mpsc::Receiver<crate::discovery::Alias>,
        directory: &Directory,
    ) -> Result<(), AppError> {
        let Plan { control, workload, tunnel, enrolment, followed } = plan;
        let state_dir = self.settings.state_dir.clone().unwrap_or_default();
        let route = link::Route::new(&control.address);
        let (live, remembered, keeper) = match followed {
            Some(followed) => {
                let live = followed.live();
                // What was received under this identity was so after it had been registered.
                let kept = Keep::new(&state_dir, kept_as(&workload.uid(), &live)).load();
                (live, kept.is_ok_and(|kept| kept.is_some()), Keeper::Agent(Box::new(followed)))
            }
            None => {
                let issuer = Issuer::new(route.clone(), &workload, enrolment.clone(), state_dir.clone());
                let (identity, remembered) = match issuer.remembered().map_err(start)? {
                    Some(identity) => (identity, true),
                    None => (join(&issuer).await?, false),
                };
                (LiveIdentity::new(identity), remembered, Keeper::Issuer(issuer))
            }
        };
        let _ = self.identity.set(live.clone());
        let tls = ClientConfigs::new(live.clone()).to_control_plane(&[ALPN_GRPC]).map_err(start)?;
        let channel = link::channel(route, tls);
        let registrar = Registrar::new(channel.clone(), &workload, tunnel, enrolment.as_ref());
        // A workload that nobody knows must be told why it is not let in, rather than wait for ever.
        let registered = AtomicBool::new(!remembered && register_first(&registrar).await?);
        let uid = workload.uid();
        let options = xds::Options {
            uid: uid.clone(),
            trust_domain: live.id().trust_domain().to_string(),
            idle: IDLE,
            keep: Some(Keep::new(&state_dir, kept_as(&uid, &live))),
            turn: self.turn.clone(),
        };
        let bundles = publisher.bundles();
        let (drain, turn) = (self.drain.clone(), self.turn.clone());
        let (told, registrations) = watch::channel(0);
        if !self.turn.is_now() {
            self.register_in_turn(registrar.clone(), told.clone());
        }
        let prepare: xds::Prepare = Box::new(move || {
            let (registrar, told) = (registrar.clone(), told.clone());
            // For the first stream it was just done; once the drain has begun it would take back the withdrawal; and before or after its
            // turn this process does not speak for the workload.
            let done = registered.swap(false, Ordering::Relaxed) || drain.begun() || !turn.is_now();
            Box::pin(async move {
                if !done {
                    registrar.register().await.map_err(|e| e.to_string())?;
                    told.send_modify(|n| *n += 1);
                }
                Ok(())
            })
        });
        let dumps = self.dump_requests.take().ok_or_else(|| start("started twice"))?;
        let (client, status) = xds::Client::new(options, channel.clone(), prepare, publisher, asks, dumps);
        let head_start = if client.resumes() { HEAD_START } else { Duration::ZERO };
        self.tasks.spawn(async move {
            client.run(head_start).await;
            "discovery"
        });
        let telemetry = self.telemetry.clone();
        self.tasks.spawn(async move {
            metrics::record(&telemetry.registry, status).await;
            "discovery metrics"
        });
        let standing = Arc::new(Standing::default());
        match keeper {
            Keeper::Issuer(issuer) => {
                let (live, watched) = (live.clone(), standing.clone());
                let renewal = Renewal::new(
                    issuer,
                    live,
                    channel.clone(),
                    bundles,
                    watched,
                    &self.telemetry.registry,
                    self.turn.clone(),
                );
                self.tasks.spawn(async move {
                    renewal.run().await;
                    "certificate renewal"
                });
            }
            Keeper::Agent(followed) => {
                let followed = followed.with_discovered(bundles);
                self.tasks.spawn(async move {
                    followed.run().await;
                    "Workload API"
                });
            }
        }
        let control = Control {
            channel,
            uid,
            telemetry: self.telemetry.clone(),
            directory: directory.clone(),
            drain: self.drain.clone(),
            ready: self.ready.subscribe(),
            leases: self.ports.leases().clone(),
            registrations,
            dumps: self.dumps.clone(),
            live,
            standing,
            set_log: self.set_log.clone(),
            turn: self.turn.clone(),
        };
        self.tasks.spawn(async move {
            if !head_start.is_zero() {
                tokio::time::sleep(head_start).await;
            }
            control.run().await;
            "control stream"
        });
        Ok(())
    }

    /// Registers once this process has taken over: until then the control plane goes by what its predecessor said.
    fn register_in_turn(&mut self, registrar: Registrar, told: watch::Sender<u64>) {
        let turn = self.turn.clone();
        self.tasks.spawn(async move {
            turn.begun().await;
            let mut backoff = link::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            loop {
                match registrar.register().await {
                    Ok(()) => {
                        told.send_modify(|n| *n += 1);
                        return "";
                    }
                    Err(IdentityError::Refused(reason)) => {
                        tracing::error!("the workload is not registered anew: {reason}");
                        return "";
                    }
                    Err(IdentityError::Unavailable(_) | IdentityError::Limited(..)) => {
                        tokio::time::sleep(backoff.wait()).await;
                    }
                }
            }
        });
    }
}
