//! How the control plane's own API is known: the certificate of its authority, in the ConfigMap `weft-api` of the control plane's namespace.

use super::{Error, MANAGER, within};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// The name of the ConfigMap.
pub const CONFIG_MAP: &str = "weft-api";

/// Says it.
///
/// # Errors
/// When the ConfigMap cannot be written.
pub async fn tell(client: &kube::Client, namespace: &str, certificate: &str) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CONFIG_MAP }, "data": { "ca.pem": certificate },
    });
    within(api.patch(CONFIG_MAP, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map))).await.map(drop)
}
