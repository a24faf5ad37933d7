//! Clients that read and write few keys at random, and watchers that end their watch now and then and continue it: what they asked and were
//! told is one line each, which another process can read.

use crate::history::{History, Operation, Seen, What};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weft_control::store::{Expect, Key, Scope, Store, StoreError, Write};

/// What happens, as lines, in the order in which it happened.
pub trait Record: Send + Sync + 'static {
    fn line(&self, line: String);
}

impl<F: Fn(String) + Send + Sync + 'static> Record for F {
    fn line(&self, line: String) {
        self(line);
    }
}

/// Names every write and operation of a test anew.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Numbers of this process begin here, so that no two processes of a test use one twice.
pub fn number_from(first: u64) {
    NEXT.store(first, Ordering::Relaxed);
}

/// Bytes of each document at least.
static LENGTH: AtomicU64 = AtomicU64::new(0);

/// Documents get this long, so that a file grows.
pub fn length(bytes: u64) {
    LENGTH.store(bytes, Ordering::Relaxed);
}

fn key(key: u32) -> Key {
    Key::new("test.weft.mesh/registers", "shop", format!("r{key:03}"))
}

pub fn scope() -> Scope {
    Scope { resource: "test.weft.mesh/registers".into(), namespace: None }
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

fn text(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// Reads and writes until it is told to stop.
pub async fn client(store: Arc<dyn Store>, record: Arc<dyn Record>, seed: u64, keys: u32, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let name = random.random_range(0..keys);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        record.line(format!("read {id} {name}"));
        let found = match store.get(&key(name)).await {
            Ok(found) => found.map(|r| (r.revision, number(&r.value))),
            Err(StoreError::Failed(_)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        record.line(format!("found {id} {}", text(found.map(|(_, value)| value))));
        if random.random_bool(0.3) {
            continue;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let value = (found.is_none() || random.random_bool(0.85)).then_some(id);
        let expect = found.map_or(Expect::Absent, |(revision, _)| Expect::Revision(revision));
        let before = found.map(|(_, value)| value);
        record.line(format!("write {id} {name} {} {}", text(before), text(value)));
        let length = usize::try_from(LENGTH.load(Ordering::Relaxed)).unwrap();
        let write = Write { key: key(name), expect, value: value.map(|v| format!("{v:0length$}").into()) };
        match store.transact(vec![write]).await {
            Ok(made) => record.line(format!("made {id} {}", made[0].revision)),
            Err(StoreError::Conflict { found, .. }) => {
                record.line(format!("refused {id} {}", text(found.map(|r| number(&r.value)))));
            }
            // Not answered. The medium is given time to come back.
            Err(StoreError::Failed(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Watches from a revision on until it is told to stop, and has what was written by then.
pub async fn watcher(
    store: Arc<dyn Store>,
    record: Arc<dyn Record>,
    number_of: usize,
    from: u64,
    stop: Arc<AtomicBool>,
) {
    let mut random = StdRng::seed_from_u64(u64::try_from(number_of).unwrap());
    let mut at = from;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let newest = store.revision().await;
        let mut watch = match (store.watch(&scope(), at).await, &newest) {
            (Ok(watch), Ok(_)) => watch,
            (Err(error @ StoreError::Gone { .. }), _) => panic!("watch {number_of}: {error}"),
            _ => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Some batches, then another watch from the last event that was seen.
        for _ in 0..random.random_range(1..20) {
            let Ok(batch) = tokio::time::timeout(Duration::from_millis(200), watch.next()).await else { break };
            let Ok(batch) = batch else { break };
            for event in &batch.events {
                let of = |r: &Option<Arc<weft_control::store::Record>>| text(r.as_ref().map(|r| number(&r.value)));
                let name = event.key.name.trim_start_matches('r').parse::<u32>().unwrap();
                record.line(format!(
                    "saw {number_of} {} {name} {} {}",
                    event.revision,
                    of(&event.before),
                    of(&event.after)
                ));
                at = event.revision;
            }
        }
        // Nothing is written any more: what is there now has been seen once nothing new comes.
        if stopping && idle(&mut watch) {
            return;
        }
    }
}

fn idle(watch: &mut Box<dyn weft_control::store::Watch>) -> bool {
    use futures_util::FutureExt as _;
    watch.next().now_or_never().is_none()
}

/// What a write expected, and what it wrote.
type Asked = (Option<u64>, Option<u64>);

/// The history that lines tell, in the order in which they were written.
pub fn history(lines: &[String], watchers: usize) -> History {
    let mut history = History { watches: vec![Vec::new(); watchers], ..History::default() };
    let mut open: HashMap<u64, (u64, u32, Option<Asked>)> = HashMap::new();
    for (time, line) in lines.iter().enumerate() {
        let time = u64::try_from(time).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let at = |i: usize| words[i].parse::<u64>().ok();
        let id = at(1).unwrap();
        match words[0] {
            "read" => drop(open.insert(id, (time, u32::try_from(at(2).unwrap()).unwrap(), None))),
            "write" => drop(open.insert(id, (time, u32::try_from(at(2).unwrap()).unwrap(), Some((at(3), at(4)))))),
            "saw" => history.watches[usize::try_from(id).unwrap()].push(Seen {
                revision: at(2).unwrap(),
                key: u32::try_from(at(3).unwrap()).unwrap(),
                before: at(4),
                after: at(5),
            }),
            answer => {
                let (called, key, write) = open.remove(&id).unwrap_or_else(|| panic!("nobody asked: {line}"));
                let what = match (answer, write) {
                    ("found", None) => What::Read(at(2)),
                    ("made", Some((expect, value))) => {
                        history.made.push(Seen { revision: at(2).unwrap(), key, before: expect, after: value });
                        What::Written { expect, value }
                    }
                    ("refused", Some((expect, _))) => What::Refused { expect, found: at(2) },
                    _ => panic!("no answer: {line}"),
                };
                history.operations.push(Operation { key, called, done: time, what });
            }
        }
    }
    for (called, key, write) in open.into_values() {
        if let Some((expect, value)) = write {
            history.operations.push(Operation { key, called, done: u64::MAX, what: What::Unknown { expect, value } });
        }
    }
    history
}

/// Reads every key once, when everything is over.
pub async fn read_all(store: &Arc<dyn Store>, record: &Arc<dyn Record>, keys: u32) {
    for name in 0..keys {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        record.line(format!("read {id} {name}"));
        let found = store.get(&key(name)).await.unwrap();
        record.line(format!("found {id} {}", text(found.map(|r| number(&r.value)))));
    }
}

/// Fails with everything that is wrong with a history; says how large it was.
pub fn judge(history: &History) {
    let unknown = history.operations.iter().filter(|o| matches!(o.what, What::Unknown { .. })).count();
    let seen: Vec<usize> = history.watches.iter().map(Vec::len).collect();
    let (all, made) = (history.operations.len(), history.made.len());
    println!("{all} operations, {made} writes acknowledged, {unknown} not answered; watches saw {seen:?}");
    let faults = history.faults();
    assert!(faults.is_empty(), "{}\nthe whole history: {}", faults.join("\n"), keep(history).display());
}

/// Writes down what every key went through, for whoever looks into a fault.
fn keep(history: &History) -> std::path::PathBuf {
    let keys: std::collections::BTreeSet<u32> = history.operations.iter().map(|o| o.key).collect();
    let text: Vec<String> =
        keys.into_iter().flat_map(|key| std::iter::once(format!("key {key}")).chain(history.of(key))).collect();
    let name = format!("history-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text.join("\n")).unwrap();
    path
}

/// How long a check runs: `WEFT_STORE_CHECK_SECONDS`, or this.
pub fn seconds(default: u64) -> Duration {
    let told = std::env::var("WEFT_STORE_CHECK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(default))
}
