//! The webhook's certificate, and what the API server believes of it.
//!
//! The authority that signs it signs nothing else: whoever leads makes an authority, has it sign one certificate for the control plane's
//! Service, and forgets its key. So what stands in the webhook's configuration (`caBundle`) vouches for that one certificate, and neither the
//! mesh's CA nor the resource API's is believed by the API server, nor this one by anybody else. Certificate and key are in a Secret, from
//! which every replica serves; the configuration believes the present authority and the one before, so that a replacement breaks no call.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{Stream, StreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_certs::{ApiCa, ca::Credential, tls::plain_server_config};

use super::Settings;
use crate::cluster::{Error, within};

/// The Service whose name the certificate is for.
pub const SERVICE: &str = "weft-control";
/// The Secret that holds the certificate and its key.
pub const SECRET: &str = "weft-webhook";
/// The MutatingWebhookConfiguration that is kept.
pub const CONFIGURATION: &str = "weft-injector";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";
const END: &str = "-----END CERTIFICATE-----\n";
/// How often it is looked whether the certificate is old, and how often what failed is tried again.
const LOOK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(2);

/// A certificate whose authority's key is gone.
pub(super) struct Fresh {
    authority: String,
    credential: Credential,
}

impl Fresh {
    pub fn make(settings: &Settings, now: SystemTime) -> Result<Self, weft_certs::Error> {
        let ca = ApiCa::ephemeral(now)?;
        let name = format!("{SERVICE}.{}.svc", settings.namespace);
        let credential = ca.issue_server(&[&name], Some(settings.lifetime), now)?;
        Ok(Self { authority: ca.certificate_pem(), credential })
    }

    pub fn served(&self) -> Result<Arc<ServerConfig>, weft_certs::Error> {
        plain_server_config(&self.credential, &[])
    }
}

/// What the Secret holds.
struct Held {
    /// The present authority, then the one before.
    authorities: Vec<String>,
    credential: Credential,
}

impl Held {
    fn read(secret: &Secret) -> Result<Self, String> {
        let text = |entry: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(entry)).ok_or(format!("{entry} is missing"))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| format!("{entry} is no text"))
        };
        let authorities: Vec<String> = text(AUTHORITIES)?.split_inclusive(END).map(str::to_owned).collect();
        let good = |one: &String| CertificateDer::from_pem_slice(one.as_bytes()).is_ok();
        if authorities.is_empty() || !authorities.iter().all(good) {
            return Err(format!("{AUTHORITIES} holds something else than certificates"));
        }
        let credential = Credential::from_pem(SECRET, &text(CHAIN)?, &text(KEY)?).map_err(|error| error.to_string())?;
        Ok(Self { authorities, credential })
    }

    fn bundle(&self) -> String {
        self.authorities.concat()
    }

    fn is_old(&self, settings: &Settings, now: SystemTime) -> bool {
        self.credential.not_after().checked_sub(settings.lifetime / 2).is_none_or(|renewal| now >= renewal)
    }
}

/// Serves with what the Secret holds, whatever it comes to hold, until `shutdown`.
pub(super) async fn follow(
    client: kube::Client,
    settings: Settings,
    serve: watch::Sender<Arc<ServerConfig>>,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &settings.namespace);
    let mut seen = pin!(named(secrets, SECRET));
    loop {
        let secret = tokio::select! {
            secret = seen.next() => secret,
            () = shutdown.cancelled() => return,
        };
        let Some(secret) = secret else { return };
        let config =
            Held::read(&secret).and_then(|held| plain_server_config(&held.credential, &[]).map_err(|e| e.to_string()));
        match config {
            Ok(config) => {
                serve.send_replace(config);
                ready.send_replace(true);
            }
            Err(error) => tracing::warn!(secret = SECRET, %error, "the webhook's certificate cannot be used"),
        }
    }
}

/// While this control plane leads: keeps the Secret fresh and the configuration right, until `shutdown`.
pub(super) async fn keep(
    client: kube::Client,
    settings: Settings,
    mut leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &settings.namespace),
        configurations: Api::all(client),
        settings,
    };
    loop {
        tokio::select! {
            led = leads.wait_for(|leads| *leads) => if led.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = keeper.tend() => {}
            deposed = leads.wait_for(|leads| !*leads) => if deposed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    settings: Settings,
}

impl Keeper {
    /// Looks at both whenever somebody changes one, and now and then.
    async fn tend(&self) {
        let mut secrets = pin!(named(self.secrets.clone(), SECRET));
        let mut configurations = pin!(named(self.configurations.clone(), CONFIGURATION));
        loop {
            let wait = match self.once(SystemTime::now()).await {
                Ok(()) => LOOK.min(self.settings.lifetime / 20),
                Err(error) => {
                    tracing::warn!(%error, "the webhook's certificate or configuration cannot be kept");
                    AGAIN
                }
            };
            let next = tokio::time::sleep(wait);
            tokio::select! {
                Some(_) = secrets.next() => {}
                Some(_) = configurations.next() => {}
                () = next => {}
            }
        }
    }

    async fn once(&self, now: SystemTime) -> Result<(), Error> {
        let secret = within(self.secrets.get_opt(SECRET)).await?;
        let held = secret.as_ref().and_then(|secret| Held::read(secret).ok());
        match held {
            Some(held) if !held.is_old(&self.settings, now) => self.tell(&held.bundle()).await,
            old => self.replace(secret, old, now).await,
        }
    }

    async fn replace(&self, secret: Option<Secret>, old: Option<Held>, now: SystemTime) -> Result<(), Error> {
        let fresh = Fresh::make(&self.settings, now).map_err(|error| Error::File(error.to_string()))?;
        let authorities: Vec<String> = std::iter::once(fresh.authority.clone())
            .chain(old.and_then(|old| old.authorities.into_iter().next()))
            .collect();
        let bundle = authorities.concat();
        // Believed first, served then: between the two everybody serves with the old one.
        self.tell(&bundle).await?;
        let entries = [
            (AUTHORITIES, bundle),
            (CHAIN, fresh.credential.chain_pem()),
            (KEY, fresh.credential.key().to_pem().to_string()),
        ];
        let data: BTreeMap<String, ByteString> =
            entries.into_iter().map(|(entry, text)| (entry.to_owned(), ByteString(text.into_bytes()))).collect();
        let there = secret.as_ref().map(|secret| &secret.metadata);
        let written = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                resource_version: there.and_then(|meta| meta.resource_version.clone()),
                labels: there.and_then(|meta| meta.labels.clone()),
                annotations: there.and_then(|meta| meta.annotations.clone()),
                ..ObjectMeta::default()
            },
            type_: Some(
                secret.as_ref().and_then(|secret| secret.type_.clone()).unwrap_or("kubernetes.io/tls".to_owned()),
            ),
            data: Some(data),
            ..Secret::default()
        };
        let params = PostParams::default();
        match there {
            None => within(self.secrets.create(&params, &written)).await?,
            Some(_) => within(self.secrets.replace(SECRET, &params, &written)).await?,
        };
        tracing::info!(secret = SECRET, lasts = ?self.settings.lifetime, "the webhook has a new certificate");
        Ok(())
    }

    /// Has the configuration believe these authorities. Where there is none, nothing is to be told.
    async fn tell(&self, bundle: &str) -> Result<(), Error> {
        let Some(there) = within(self.configurations.get_opt(CONFIGURATION)).await? else { return Ok(()) };
        let mut steps = Vec::new();
        for (i, webhook) in there.webhooks.iter().flatten().enumerate() {
            let believed = webhook.client_config.ca_bundle.as_ref().map(|bytes| bytes.0.as_slice()).unwrap_or_default();
            if believed != bundle.as_bytes() {
                let at = format!("/webhooks/{i}");
                steps.push(json!({ "op": "test", "path": format!("{at}/name"), "value": webhook.name }));
                let path = format!("{at}/clientConfig/caBundle");
                steps.push(json!({ "op": "add", "path": path, "value": STANDARD.encode(bundle) }));
            }
        }
        if steps.is_empty() {
            return Ok(());
        }
        let patch: json_patch::Patch =
            serde_json::from_value(steps.into()).map_err(|error| Error::File(error.to_string()))?;
        let patch = Patch::<()>::Json(patch);
        within(self.configurations.patch(CONFIGURATION, &PatchParams::default(), &patch)).await?;
        tracing::info!(configuration = CONFIGURATION, "the API server is told whom to believe");
        Ok(())
    }
}

/// An object of that name whenever it is there or changes.
fn named<K>(api: Api<K>, name: &str) -> impl Stream<Item = K> + use<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, config).default_backoff().filter_map(|event: Result<Event<K>, watcher::Error>| async move {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => Some(object),
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                tracing::debug!(%error, "a watch of the webhook's objects broke off");
                None
            }
        }
    })
}
