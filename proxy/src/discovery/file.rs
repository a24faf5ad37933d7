//! Resources from a file, watched: the mesh without a control plane, for tests, benchmarks and bootstraps.
//!
//! A file is taken as a whole or not at all: what is wrong with it is logged with the field, and the last good one stays in force.
//! Watching is asking for the file's size, time and inode twice a second, which sees writes, atomic renames, and the symbolic links
//! by which Kubernetes swaps a ConfigMap, on every file system.

use super::publish::Publisher;
use super::state::{Delta, State};
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use weft_policy::config;
use weft_proto::discovery::Resource;
use weft_proto::{type_url, v1, version_of};

/// How often the file is looked at.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// A file larger than this is refused.
const MOST: u64 = 64 << 20;

/// Why a resources file is not accepted.
#[derive(Debug, thiserror::Error)]
pub struct FileError {
    path: PathBuf,
    field: String,
    reason: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if !self.field.is_empty() && self.field != "." {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    /// The stamp of a file, links followed; `None` while it is not there.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), size: meta.size(), seconds: meta.mtime(), nanos: meta.mtime_nsec() })
    }
}

/// A watched file of `weft.v1.Resources`.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    stamp: Option<Stamp>,
    state: State,
    publisher: Publisher,
    dumps: mpsc::Receiver<super::DumpRequest>,
}

impl FileSource {
    /// Reads the file once; its resources are in force when this returns.
    ///
    /// # Errors
    /// The file cannot be read or is not accepted.
    pub fn open(
        path: &Path,
        publisher: Publisher,
        dumps: mpsc::Receiver<super::DumpRequest>,
    ) -> Result<Self, FileError> {
        let mut source = Self { path: path.to_owned(), stamp: None, state: State::complete(), publisher, dumps };
        source.load()?;
        Ok(source)
    }

    fn load(&mut self) -> Result<(), FileError> {
        // The stamp first: what is written between the two looks is read again.
        self.stamp = Stamp::of(&self.path);
        let resources = read(&self.path)?;
        let now = Instant::now();
        for delta in self.deltas(&resources) {
            for refusal in self.state.apply(now, &delta) {
                // `read` has checked them all.
                tracing::error!(name = refusal.name, field = refusal.field, "refused: {}", refusal.reason);
            }
        }
        self.state.settle(now);
        self.publisher.publish(&self.state);
        Ok(())
    }

    fn deltas(&self, resources: &v1::Resources) -> Vec<Delta> {
        fn delta<R: weft_proto::Resource>(
            held: impl Iterator<Item = String>,
            listed: &[R],
            name: impl Fn(&R) -> String,
        ) -> Delta {
            let resources: Vec<Resource> = (listed.iter())
                .map(|wire| {
                    let any = wire.to_any();
                    Resource {
                        name: name(wire),
                        version: version_of(&any.value),
                        resource: Some(any),
                        ..Default::default()
                    }
                })
                .collect();
            let names: BTreeSet<&str> = resources.iter().map(|r| r.name.as_str()).collect();
            let removed = held.filter(|name| !names.contains(name.as_str())).collect();
            Delta { type_url: R::TYPE_URL.to_owned(), resources, removed }
        }
        let state = &self.state;
        let inbound_held = state.inbound.held.as_ref().map(|h| h.resource.name.clone());
        let mut deltas = vec![
            delta(state.bundles.keys().cloned(), &resources.trust_bundles, |r| r.trust_domain.clone()),
            delta(inbound_held.into_iter(), resources.inbound.as_slice(), |r| r.workload.clone()),
            delta(state.services.keys().cloned(), &resources.services, |r| r.name.clone()),
            delta(state.slices.keys().cloned(), &resources.endpoints, |r| r.name.clone()),
        ];
        if let Some(settings) = &resources.settings {
            deltas.push(delta(std::iter::empty(), std::slice::from_ref(settings), |_| "mesh".to_owned()));
        }
        deltas.retain(|d| d.type_url != type_url::TRUST_BUNDLE || !d.resources.is_empty());
        deltas
    }

    /// Follows the file until the future is dropped.
    pub async fn follow(mut self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(request) = self.dumps.recv() => {
                    let _ = request.send(super::dump(&self.state, None));
                    continue;
                }
            }
            let stamp = Stamp::of(&self.path);
            if stamp == self.stamp {
                continue;
            }
            if stamp.is_none() {
                self.stamp = None;
                tracing::warn!(path = %self.path.display(), "the resources file is gone; the last good one stays in force");
                continue;
            }
            match self.load() {
                Ok(()) => tracing::info!(path = %self.path.display(), "the resources file changed and is in force"),
                Err(error) => tracing::error!("{error}; the last good resources stay in force"),
            }
        }
    }
}

/// Reads and checks a resources file.
///
/// # Errors
/// Unreadable, malformed, or a resource that is not acceptable, with the path of the field.
pub fn read(path: &Path) -> Result<v1::Resources, FileError> {
    let refuse = |field: String, reason: String| FileError { path: path.to_owned(), field, reason };
    let text = std::fs::metadata(path)
        .and_then(|meta| {
            if meta.len() > MOST {
                return Err(std::io::Error::other(format!("is larger than {} MiB", MOST >> 20)));
            }
            std::fs::read_to_string(path)
        })
        .map_err(|e| refuse(String::new(), e.to_string()))?;
    parse(&text).map_err(|refusal| refuse(refusal.field, refusal.reason))
}

/// Reads and checks the text of a resources file, YAML or JSON.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> Result<v1::Resources, config::Refusal> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|e| config::Refusal::new("", first_line(&e.to_string())))?;
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = weft_proto::json::deserialize("weft.v1.Resources", tracked);
    let wire: v1::Resources = read.map_err(|e| config::Refusal::new(track.path().to_string(), e.to_string()))?;
    config::Resources::from_wire(&wire)?;
    Ok(wire)
}

/// Parsers draw the place below their message; one line has line and column already.
pub(crate) fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Alias, Publisher, Resolution};
    use super::*;

    const GOOD: &str = "
services:
- name: shop/catalog
  hostnames: [catalog]
  ports: [{ port: 80, frontend: {}, backend: { slices: ['shop/catalog:80/0'] } }]
endpoints:
- name: shop/catalog:80/0
  endpoints: [{ uid: shop/catalog-1, address: 192.0.2.1, port: 8080, health: HEALTH_READY }]
";

    #[tokio::test(start_paused = true)]
    async fn a_change_is_in_force_and_a_bad_file_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let (directory, publisher, _asks) = Publisher::new();
        let source = FileSource::open(&path, publisher, mpsc::channel(1).1).unwrap();
        let known = |host: &str| directory.snapshot().host(host).unwrap();
        assert!(matches!(known("catalog"), Resolution::Found(_)));
        assert!(matches!(known("orders"), Resolution::Absent), "a file lists everything");
        let cluster = directory.snapshot().cluster("shop/catalog", 80).unwrap().clone();

        let mut changes = directory.changes();
        changes.borrow_and_update();
        let following = tokio::spawn(source.follow());
        std::fs::write(&path, GOOD.replace("[catalog]", "[catalog: 1]")).unwrap();
        tokio::time::sleep(INTERVAL * 3).await;
        assert!(!changes.has_changed().unwrap());
        assert!(matches!(known("catalog"), Resolution::Found(_)));

        // By an atomic rename, as editors and Kubernetes do it.
        let beside = dir.path().join("new.yaml");
        std::fs::write(&beside, GOOD.replace("[catalog]", "[catalog, books]")).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        changes.changed().await.unwrap();
        assert!(matches!(known("books"), Resolution::Found(_)));
        let same = directory.snapshot().cluster("shop/catalog", 80).unwrap().clone();
        assert!(std::sync::Arc::ptr_eq(&cluster, &same), "load and breakers survive a change of configuration");

        std::fs::write(&path, "services: []").unwrap();
        changes.changed().await.unwrap();
        assert!(matches!(known("books"), Resolution::Absent));
        assert!(directory.snapshot().cluster("shop/catalog", 80).is_none());
        following.abort();
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        assert!(matches!(directory.resolve(Alias::Host("x".into()), deadline).await, Resolution::Absent));
    }

    #[test]
    fn an_error_names_the_field() {
        for (from, to, field) in [
            ("port: 80,", "port: 80000,", "services[0].ports[0].port"),
            ("hostnames", "hostname", "services[0]"),
            ("address: 192.0.2.1", "address: here", "endpoints[0].endpoints[0].address"),
        ] {
            let refusal = parse(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal}");
        }
        assert!(parse("a: [").unwrap_err().reason.contains("line 1"));
    }
}
