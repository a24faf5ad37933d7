//! What pods trust before they have a certificate: the mesh's roots, in the ConfigMap `weft-roots` of every namespace. Whoever changes or
//! deletes one finds it restored.

use super::{Error, MANAGER, within};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The name of the ConfigMaps.
pub const CONFIG_MAP: &str = "weft-roots";
/// What the certificates are under.
pub const ENTRY: &str = "roots.pem";
/// How often what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What there is.
#[derive(Default)]
struct Seen {
    namespaces: BTreeSet<String>,
    /// What the ConfigMaps say, by namespace.
    written: BTreeMap<String, String>,
}

/// Keeps the ConfigMaps as the roots are, until `shutdown`. `roots` is told as PEM.
pub async fn run(client: kube::Client, mut roots: watch::Receiver<String>, shutdown: CancellationToken) {
    let named = Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut namespaces = pin!(events(watcher(Api::<Namespace>::all(client.clone()), Config::default())));
    let mut maps = pin!(events(watcher(Api::<ConfigMap>::all(client.clone()), named)));
    let (mut spaces, mut texts) = (Listing::default(), Listing::default());
    let mut seen = Seen::default();
    loop {
        let told = roots.borrow_and_update().clone();
        let failed = restore(&client, &told, &mut seen, spaces.listed && texts.listed).await;
        tokio::select! {
            Some(event) = namespaces.next() => {
                let phase = |space: &Namespace| space.status.as_ref().and_then(|status| status.phase.clone());
                // Nothing is injected into those of Kubernetes itself.
                let live = |space: &Namespace| {
                    phase(space).as_deref() != Some("Terminating") && !space.name_any().starts_with("kube-")
                };
                spaces.follow(event, |space| live(&space).then(String::new), |space: &Namespace| space.name_any());
                seen.namespaces = spaces.now.keys().cloned().collect();
            }
            Some(event) = maps.next() => {
                let text = |map: ConfigMap| map.data.and_then(|mut data| data.remove(ENTRY)).unwrap_or_default();
                texts.follow(event, |map| Some(text(map)), |map: &ConfigMap| map.namespace().unwrap_or_default());
                seen.written = texts.now.clone();
            }
            changed = roots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if failed => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn events<K: Send>(
    watched: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
) -> impl Stream<Item = Event<K>> + Send {
    watched.default_backoff().filter_map(|event| async move {
        event.inspect_err(|error| tracing::warn!(%error, "a watch failed and will be tried again")).ok()
    })
}

/// Objects of one kind, each as a text.
#[derive(Default)]
struct Listing {
    now: BTreeMap<String, String>,
    coming: BTreeMap<String, String>,
    listed: bool,
}

impl Listing {
    fn follow<K: Resource>(&mut self, event: Event<K>, made: impl Fn(K) -> Option<String>, key: impl Fn(&K) -> String) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => {
                let key = key(&object);
                self.coming.extend(made(object).map(|text| (key, text)));
            }
            Event::InitDone => {
                self.now = std::mem::take(&mut self.coming);
                self.listed = true;
            }
            Event::Apply(object) => {
                let key = key(&object);
                match made(object) {
                    Some(text) => drop(self.now.insert(key, text)),
                    None => drop(self.now.remove(&key)),
                }
            }
            Event::Delete(object) => drop(self.now.remove(&key(&object))),
        }
    }
}

/// Writes what differs; true when something could not be written.
async fn restore(client: &kube::Client, roots: &str, seen: &mut Seen, known: bool) -> bool {
    if !known || roots.is_empty() {
        return false;
    }
    let mut failed = false;
    let differ: Vec<String> = seen
        .namespaces
        .iter()
        .filter(|space| seen.written.get(*space).is_none_or(|text| text != roots))
        .cloned()
        .collect();
    for namespace in differ {
        match write(client, &namespace, roots).await {
            Ok(()) => drop(seen.written.insert(namespace, roots.to_owned())),
            // It goes: nobody needs anything in it.
            Err(Error::Api(kube::Error::Api(status)))
                if status.code == 404 || status.code == 403 && is_going(&status.message) =>
            {
                seen.namespaces.remove(&namespace);
            }
            Err(error) => {
                tracing::warn!(%namespace, %error, "the mesh's roots cannot be written into the ConfigMap {CONFIG_MAP}");
                failed = true;
            }
        }
    }
    failed
}

fn is_going(message: &str) -> bool {
    message.contains("being terminated")
}

async fn write(client: &kube::Client, namespace: &str, roots: &str) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CONFIG_MAP }, "data": { ENTRY: roots },
    });
    within(api.patch(CONFIG_MAP, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map))).await.map(drop)
}
