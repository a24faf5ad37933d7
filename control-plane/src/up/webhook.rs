//! The admission webhook of a control plane in a cluster: every replica answers, whether it leads or not.

use super::{DRAIN, Error, Settings, failed};
use crate::inject::webhook;
use crate::store::Store;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long until one that has ended is begun again.
const AGAIN: Duration = Duration::from_secs(5);

/// One that runs.
pub(super) struct Webhook {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Webhook {
    /// Starts it, where there is to be one.
    pub async fn start(settings: &Settings, store: &dyn Store) -> Result<Option<Self>, Error> {
        let Some(kubernetes) = &settings.kubernetes else { return Ok(None) };
        let Some(address) = kubernetes.webhook else { return Ok(None) };
        let client = kubernetes.cluster.client().await?;
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(failed(format!("cannot listen on {address} (--webhook)")))?;
        let told = webhook::Settings {
            namespace: kubernetes.namespace.clone(),
            injection: kubernetes.injection.clone(),
            ..webhook::Settings::default()
        };
        if let Some(path) = &told.injection {
            let read = webhook::check(path);
            read.map_err(failed(format!("--injection-settings {}", path.display())))?;
        }
        let (say, leads) = watch::channel(false);
        let (mut lead, stop) = (store.lead(), CancellationToken::new());
        let stopping = stop.clone();
        let listener = listener.into_std().map_err(failed("webhook"))?;
        let task: JoinHandle<()> = tokio::spawn(async move {
            let following = async {
                loop {
                    let mine = lead.borrow_and_update().mine;
                    say.send_if_modified(|now| std::mem::replace(now, mine) != mine);
                    if lead.changed().await.is_err() {
                        return;
                    }
                }
            };
            let serving = async {
                while !stopping.is_cancelled() {
                    let listener = match listener.try_clone().and_then(TcpListener::from_std) {
                        Ok(listener) => listener,
                        Err(error) => return tracing::error!(%error, "the admission webhook has lost its listener"),
                    };
                    let ran =
                        webhook::run(listener, client.clone(), told.clone(), leads.clone(), stopping.clone()).await;
                    if let Err(error) = ran {
                        tracing::error!(%error, "the admission webhook has ended and begins again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            tokio::join!(following, async {
                serving.await;
            });
        });
        Ok(Some(Self { task: AbortOnDropHandle::new(task), stop }))
    }

    /// Has it end.
    pub async fn end(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(DRAIN, self.task).await;
    }
}
