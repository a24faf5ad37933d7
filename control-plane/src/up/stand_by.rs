//! A control plane that does not lead: it is there for whoever connects, and has the one that leads answer.

use super::listen::Listeners;
use super::papers::{api_authority, vault};
use super::{Endpoints, Error, Settings, failed, relay, write_public};
use crate::cluster::papers::Papers;
use crate::store::{Lead, Store};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_certs::TrustDomain;

/// How long the one that leads may take to accept a connection, and how long until it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Whether the one that leads answers.
async fn is_there(lead: &Lead) -> bool {
    let Some(at) = lead.leader.as_ref().and_then(|leader| leader.at.as_ref()) else { return false };
    tokio::time::timeout(AGAIN, TcpStream::connect(at.api)).await.is_ok_and(|connected| connected.is_ok())
}

/// Waits until this control plane leads, which one that is alone does at once; false when it is to end before. `started` is called once others
/// can be served through it.
pub(super) async fn until_leading(
    settings: &Settings,
    store: &dyn Store,
    listeners: &mut Listeners,
    shutdown: &CancellationToken,
    started: &mut Option<impl FnOnce(&Endpoints)>,
) -> Result<bool, Error> {
    let mut lead = store.lead();
    if lead.borrow().mine {
        return Ok(true);
    }
    let stop = shutdown.child_token();
    let mut relays = JoinSet::new();
    let doors: [(_, _, relay::Door); 2] = [
        (listeners.grpc()?, listeners.place.grpc, |place| place.grpc),
        (listeners.api()?, listeners.place.api, |place| place.api),
    ];
    for (listener, own, door) in doors {
        relays.spawn(relay::run(listener, own, door, lead.clone(), stop.clone()));
    }
    let mut told = String::new();
    let leads = loop {
        let now = lead.borrow_and_update().clone();
        if now.mine {
            break true;
        }
        // One that died leads for as long as its lease lasts.
        let unknown = !now.owner.is_empty() && now.owner != told;
        if unknown && is_there(&now).await {
            tracing::info!(leader = %now.owner, "another control plane leads: standing by, and carrying to it whoever connects here");
            if told.is_empty() {
                let trust_domain: TrustDomain = settings
                    .trust_domain
                    .parse()
                    .map_err(failed(format!("trust domain {:?}", settings.trust_domain)))?;
                let endpoints = listeners.endpoints(&trust_domain);
                if let Some(kubernetes) = &settings.kubernetes {
                    let client = kubernetes.cluster.client().await?;
                    let papers = Papers::new(&client, &kubernetes.namespace, &settings.data_dir);
                    papers.load().await.map_err(failed("keys of the mesh's authorities"))?;
                }
                api_authority(&settings.data_dir, &vault(settings)?, &endpoints.api)?;
                write_public(&settings.data_dir.join("endpoints.json"), &endpoints)?;
                if let Some(started) = started.take() {
                    started(&endpoints);
                }
            }
            told = now.owner;
        }
        tokio::select! {
            changed = lead.changed() => changed.map_err(failed("the store is closed"))?,
            () = tokio::time::sleep(AGAIN), if unknown => {}
            () = shutdown.cancelled() => break false,
        }
    };
    stop.cancel();
    relays.shutdown().await;
    Ok(leads)
}
