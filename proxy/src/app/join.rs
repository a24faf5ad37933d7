//! The first steps of a workload that nobody knows yet: a certificate, and a place in the registry.

use super::{AppError, start};
use crate::discovery::link;
use crate::identity::{Agent, Followed, IdentityError, Issuer, Registrar, Wanted};
use crate::telemetry::metrics::Registry;
use std::path::Path;
use std::time::Duration;

/// A first certificate, however long the control plane is away.
pub(super) async fn join(issuer: &Issuer) -> Result<weft_certs::Identity, AppError> {
    let mut backoff = link::Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = String::new();
    loop {
        match issuer.join().await {
            Ok(identity) => {
                issuer.save(&identity).map_err(start)?;
                tracing::info!(id = %identity.svid.id(), "certificate issued");
                return Ok(identity);
            }
            Err(IdentityError::Refused(reason)) => return Err(start(format!("no certificate: {reason}"))),
            Err(IdentityError::Limited(reason, wait)) => {
                tracing::warn!(?wait, "no certificate yet: {reason}");
                // A fleet that was told to wait together must not come back together.
                tokio::time::sleep(wait.mul_f64(1.0 + rand::random::<f64>())).await;
            }
            Err(IdentityError::Unavailable(reason)) => {
                if told != reason {
                    tracing::warn!("no certificate yet: {reason}; trying on");
                    told = reason;
                }
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// The first identity that an agent gives, however long it takes.
pub(super) async fn follow_agent(socket: &Path, wanted: Wanted, registry: &Registry) -> Result<Followed, AppError> {
    Agent::new(socket, wanted).first(registry).await.map_err(|refused| start(format!("no identity: {refused}")))
}

/// Whether it is registered; if not yet, the control plane is away and the stream tries again.
pub(super) async fn register_first(registrar: &Registrar) -> Result<bool, AppError> {
    match registrar.register().await {
        Ok(()) => Ok(true),
        Err(IdentityError::Refused(reason)) => Err(start(format!("the workload is refused: {reason}"))),
        Err(IdentityError::Unavailable(reason) | IdentityError::Limited(reason, _)) => {
            tracing::warn!("the workload is not registered yet: {reason}");
            Ok(false)
        }
    }
}
