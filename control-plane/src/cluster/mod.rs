//! What a control plane does in a Kubernetes cluster beside reading its objects ([`crate::world`]) and remembering its own ([`crate::store`]):
//! its keys are in a Secret, and what pods trust is in a ConfigMap of every namespace.

pub mod known;
pub mod papers;
pub mod rights;
pub mod roots;

use crate::kinds::GATEWAY_GROUP;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How the control plane signs what it writes into the cluster.
pub const MANAGER: &str = "weft-control";
/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked what of the Gateway API there is.
const LOOK: Duration = Duration::from_secs(10);

/// Why something of the cluster could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or cannot be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer in {DEADLINE:?}")]
    Late,
    /// The data directory.
    #[error("{0}")]
    File(String),
}

pub(crate) async fn within<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    tokio::time::timeout(DEADLINE, asked).await.map_err(|_| Error::Late)?.map_err(Error::from)
}

/// Says what of the Gateway API a cluster has, now and as often as that changes, until `shutdown`.
pub async fn follow_gateway_api(client: kube::Client, shutdown: CancellationToken) {
    let mut said = String::new();
    loop {
        match gateway_api(&client).await {
            Ok(now) if now != said => {
                tracing::info!("Gateway API: {now}");
                said = now;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot tell what of the Gateway API there is"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// What of the Gateway API there is, in words: its channel and version as its definitions say them, and which routes.
async fn gateway_api(client: &kube::Client) -> Result<String, Error> {
    let definitions: Api<DynamicObject> =
        Api::all_with(client.clone(), &ApiResource::erase::<CustomResourceDefinition>(&()));
    let (mut kinds, mut channel) = (Vec::new(), String::new());
    for plural in ["httproutes", "grpcroutes", "tlsroutes", "tcproutes"] {
        let found = within(definitions.get_metadata_opt(&format!("{plural}.{GATEWAY_GROUP}"))).await?;
        let Some(definition) = found else { continue };
        let annotations = definition.metadata.annotations.unwrap_or_default();
        let said = |name: &str| annotations.get(&format!("{GATEWAY_GROUP}/{name}")).cloned();
        let of = format!(
            "{} channel {}",
            said("channel").unwrap_or_else(|| "unnamed".to_owned()),
            said("bundle-version").unwrap_or_default()
        );
        // What is experimental somewhere is so as a whole.
        if channel.is_empty() || of.starts_with("experimental") {
            channel = of;
        }
        kinds.push(plural);
    }
    if kinds.is_empty() {
        return Ok("none: routes are read as soon as it is installed".to_owned());
    }
    Ok(format!("{}: {}", channel.trim_end(), kinds.join(", ")))
}
