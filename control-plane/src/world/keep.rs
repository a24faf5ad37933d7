//! Keeps a cache as an API is: one watch of one kind, in whichever of its versions the API serves.
//!
//! A kind that is not served has no objects. One that was served and had some is believed to be gone only after a while: an API server that
//! starts may not know yet what is defined in it.

use super::Table;
use futures_util::StreamExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Config};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is looked whether a kind is served by now.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the objects of a kind that is served no longer are kept.
const BELIEVED: Duration = Duration::from_secs(30);

/// A watch has ended before its kind was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a watch task has ended")]
pub struct Ended;

/// What is known of one kind, by "namespace/name".
pub(crate) struct Cache<V> {
    now: Mutex<Table<V>>,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { now: Mutex::default() }
    }
}

impl<V: Clone> Cache<V> {
    pub fn copy(&self) -> Table<V> {
        self.now.lock().clone()
    }

    pub fn get(&self, key: &str) -> Option<V> {
        self.now.lock().get(key).cloned()
    }
}

/// Where the values of one watch go.
pub(crate) trait Place<V>: Send {
    /// What is there under a key.
    fn get(&self, key: &str) -> Option<V>;
    /// From now on this, or nothing, is there.
    fn put(&mut self, key: String, value: Option<V>);
    /// From now on these are all that there are.
    fn replace(&mut self, all: Table<V>);
    /// Whether there are none.
    fn is_empty(&self) -> bool;
}

/// A cache of this watch alone.
impl<V: Clone + Send + Sync> Place<V> for Arc<Cache<V>> {
    fn get(&self, key: &str) -> Option<V> {
        Cache::get(self, key)
    }

    fn put(&mut self, key: String, value: Option<V>) {
        let mut now = self.now.lock();
        match value {
            Some(value) => drop(now.insert(key, value)),
            None => drop(now.remove(&key)),
        }
    }

    fn replace(&mut self, all: Table<V>) {
        *self.now.lock() = all;
    }

    fn is_empty(&self) -> bool {
        self.now.lock().is_empty()
    }
}

/// A cache that other watches write to: of what is there some is this one's. Under a key that is another's nothing is put.
pub(crate) struct Shared<V> {
    pub cache: Arc<Cache<V>>,
    pub owns: fn(&V) -> bool,
}

impl<V: Clone + Send + Sync> Place<V> for Shared<V> {
    fn get(&self, key: &str) -> Option<V> {
        self.cache.get(key).filter(self.owns)
    }

    fn put(&mut self, key: String, value: Option<V>) {
        let mut now = self.cache.now.lock();
        if now.get(&key).is_some_and(|there| !(self.owns)(there)) {
            if value.is_some() {
                tracing::warn!(%key, "there is another workload of this name, of which the mesh was told first");
            }
            return;
        }
        match value {
            Some(value) => drop(now.insert(key, value)),
            None => drop(now.remove(&key)),
        }
    }

    fn replace(&mut self, all: Table<V>) {
        let now = self.cache.copy();
        let gone = now.iter().filter(|(key, value)| (self.owns)(value) && !all.contains_key(key));
        let gone: Vec<String> = gone.map(|(key, _)| key.to_string()).collect();
        gone.into_iter().for_each(|key| self.put(key, None));
        all.iter().for_each(|(key, value)| self.put(key.to_string(), Some(value.clone())));
    }

    fn is_empty(&self) -> bool {
        !self.cache.now.lock().iter().any(|(_, value)| (self.owns)(value))
    }
}

/// One watch.
pub(crate) struct Watched<K> {
    /// What it is called.
    pub kind: String,
    /// The kind in the versions that are understood, the preferred one first.
    pub versions: Vec<Api<K>>,
    /// Told which of them is served, as often as that changes.
    pub spoken: Box<dyn Fn(Option<usize>) + Send + Sync>,
    /// Told that something changed.
    pub dirty: Arc<watch::Sender<u64>>,
    /// Told that the kind was listed, or is not served.
    pub listed: watch::Sender<bool>,
}

/// Keeps a place as the API is, for as long as it is polled. A list that tells nothing new of an object leaves it as it was, so that nothing
/// follows from it. `made` is told what the object was before, or another that is like it.
pub(crate) async fn follow<K, V>(
    watched: Watched<K>,
    mut place: impl Place<V>,
    made: impl Fn(K, Option<&V>) -> Option<V> + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: PartialEq + Clone + Send + Sync,
{
    let mut told = None;
    let mut absent = None;
    loop {
        for (version, api) in watched.versions.iter().enumerate() {
            let listed = || {
                if told.replace(Some(version)) != Some(Some(version)) {
                    (watched.spoken)(Some(version));
                }
                absent = None;
            };
            served(&watched, api, &mut place, &made, listed).await;
        }
        let since = *absent.get_or_insert_with(Instant::now);
        if place.is_empty() || since.elapsed() >= BELIEVED {
            if told.replace(None) != Some(None) {
                tracing::info!(kind = %watched.kind, "the API server does not serve this kind: nothing of it is in force");
                (watched.spoken)(None);
                place.replace(Table::default());
                watched.dirty.send_modify(|n| *n += 1);
            }
            watched.listed.send_replace(true);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// As long as the kind is served in one version.
async fn served<K, V>(
    watched: &Watched<K>,
    api: &Api<K>,
    place: &mut impl Place<V>,
    made: &impl Fn(K, Option<&V>) -> Option<V>,
    mut listed: impl FnMut(),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: PartialEq + Clone,
{
    let name = |object: &K| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let changed = || watched.dirty.send_modify(|n| *n += 1);
    let mut events = std::pin::pin!(watcher(api.clone(), Config::default()).default_backoff());
    let mut listing: Table<V> = Table::default();
    let mut last: Option<V> = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing = Table::default(),
            Ok(Event::InitApply(object)) => {
                let key = name(&object);
                let known = place.get(&key);
                let Some(is) = made(object, known.as_ref().or(last.as_ref())) else { continue };
                let is = known.filter(|was| *was == is).unwrap_or(is);
                last = Some(is.clone());
                listing.insert(key, is);
            }
            Ok(Event::InitDone) => {
                listed();
                place.replace(std::mem::take(&mut listing));
                watched.listed.send_replace(true);
                changed();
            }
            Ok(Event::Apply(object)) => {
                let key = name(&object);
                let known = place.get(&key);
                let is = made(object, known.as_ref().or(last.as_ref()));
                if is == known {
                    continue;
                }
                last = is.clone().or(last);
                place.put(key, is);
                changed();
            }
            Ok(Event::Delete(object)) => {
                place.put(name(&object), None);
                changed();
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => return,
            Err(error) => {
                tracing::warn!(kind = %watched.kind, %error, "a watch failed and will be tried again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, i32)]) -> Table<i32> {
        let mut table = Table::default();
        entries.iter().for_each(|(key, value)| drop(table.insert(*key, *value)));
        table
    }

    #[test]
    fn watches_that_share_a_cache_leave_each_others_alone() {
        let cache = Arc::new(Cache::default());
        let mut odd = Shared { cache: cache.clone(), owns: |value: &i32| value % 2 == 1 };
        let mut even = Shared { cache: cache.clone(), owns: |value| value % 2 == 0 };
        odd.replace(table(&[("a", 1), ("b", 3)]));
        even.replace(table(&[("c", 2), ("a", 4)]));
        let all = |cache: &Cache<i32>| cache.copy().iter().map(|(k, v)| (k.to_string(), *v)).collect::<Vec<_>>();
        assert_eq!(all(&cache), [("a".into(), 1), ("b".into(), 3), ("c".into(), 2)], "who came first has the name");
        even.put("b".into(), None);
        assert_eq!((even.get("b"), odd.get("b"), cache.copy().len()), (None, Some(3), 3));
        odd.replace(Table::default());
        assert!(odd.is_empty() && !even.is_empty());
        assert_eq!(all(&cache), [("c".into(), 2)]);
    }
}
