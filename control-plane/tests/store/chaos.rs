//! The store of several replicas while members of etcd are killed and stopped; and that the check would notice a store that is broken.

use crate::etcd::Cluster;
use crate::load::{self, Record};
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weft_control::store::{
    Batch, Embedded, Event, Expect, Key, Options, Page, Record as Stored, Result, Scope, Store, StoreError, Watch,
    Write,
};

/// Few enough that writers meet.
pub const KEYS: u32 = 12;
/// Of each store.
pub const CLIENTS: u64 = 3;
const WATCHERS: usize = 2;

/// Clients and watchers of some stores over the same objects.
pub struct Crowd {
    tasks: JoinSet<()>,
    watching: JoinSet<()>,
    record: Arc<dyn Record>,
    lines: mpsc::Receiver<String>,
    stop: [Arc<AtomicBool>; 2],
    watchers: usize,
    stores: Vec<Arc<dyn Store>>,
    keys: u32,
}

impl Crowd {
    /// All of them begin at once.
    pub fn new(stores: &[Arc<dyn Store>], keys: u32) -> Self {
        let (send, lines) = mpsc::channel();
        let send = Mutex::new(send);
        let record: Arc<dyn Record> = Arc::new(move |line: String| drop(send.lock().unwrap().send(line)));
        let stop = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (mut tasks, mut watching) = (JoinSet::new(), JoinSet::new());
        for (i, store) in (0..).zip(stores) {
            for seed in 0..CLIENTS {
                let seed = i * CLIENTS + seed;
                tasks.spawn(load::client(store.clone(), record.clone(), seed, keys, stop[0].clone()));
            }
        }
        let watchers = stores.len() * WATCHERS;
        for watcher in 0..watchers {
            let store = stores[watcher % stores.len()].clone();
            watching.spawn(load::watcher(store, record.clone(), watcher, 0, stop[1].clone()));
        }
        Self { tasks, watching, record, lines, stop, watchers, stores: stores.to_vec(), keys }
    }

    /// Ends clients, then watchers when they have seen everything.
    pub async fn finish(mut self) -> crate::history::History {
        self.stop[0].store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        for store in &self.stores {
            load::read_all(store, &self.record, self.keys).await;
        }
        self.stop[1].store(true, Ordering::Relaxed);
        while let Some(done) = tokio::time::timeout(Duration::from_secs(60), self.watching.join_next()).await.unwrap() {
            done.unwrap();
        }
        drop(self.record);
        let lines: Vec<String> = self.lines.try_iter().collect();
        load::history(&lines, self.watchers)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_every_key_is_linearizable_while_members_are_killed_and_stopped() {
    let mut cluster = Cluster::three();
    let stores = [cluster.replica("one").await, cluster.replica("other").await];
    let crowd = Crowd::new(&stores, KEYS);
    let end = Instant::now() + load::seconds(15);
    let mut struck = [0; 2];
    while Instant::now() < end {
        // One at a time: two of three must be able to agree.
        let member = rand::random_range(0..cluster.server.len());
        let (lasting, rest) = {
            let mut random = rand::rng();
            (random.random_range(100..2500), random.random_range(200..1500))
        };
        if rand::random_bool(0.5) {
            struck[0] += 1;
            cluster.server.kill(member);
            tokio::time::sleep(Duration::from_millis(lasting)).await;
            cluster.server.restart(member);
        } else {
            // As from behind a partition: it comes back with what it knew, and what was sent to it arrives late.
            struck[1] += 1;
            let pid = cluster.server.pid(member).unwrap().to_string();
            let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
            signal("-STOP");
            tokio::time::sleep(Duration::from_millis(lasting)).await;
            signal("-CONT");
        }
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    println!("killed {} members, stopped {}", struck[0], struck[1]);
    let history = crowd.finish().await;
    load::judge(&history);
    let made = history.made.len();
    assert!(made > 50, "{made} writes were acknowledged");
    // What was not answered and happened nevertheless is seen by watches alone.
    assert!(history.watches.iter().all(|watch| watch.len() >= made));
}

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Says that it wrote, and did not.
    LosesWrites,
    /// Answers with what was there before.
    ReadsStale,
    /// Takes no notice of what a write expects.
    IgnoresExpectations,
    /// Leaves an event out.
    SkipsEvents,
    /// Shows one twice.
    RepeatsEvents,
}

/// A store that is broken now and then.
struct Broken {
    store: Embedded,
    fault: Fault,
    turn: Arc<AtomicU64>,
}

impl Broken {
    fn strikes(&self, fault: Fault) -> bool {
        self.fault == fault && self.turn.fetch_add(1, Ordering::Relaxed) % 20 == 19
    }
}

struct BrokenWatch {
    watch: Box<dyn Watch>,
    fault: Fault,
    turn: Arc<AtomicU64>,
}

impl Watch for BrokenWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch>> {
        Box::pin(async move {
            let mut batch = self.watch.next().await?;
            if !batch.events.is_empty() && self.turn.fetch_add(1, Ordering::Relaxed) % 20 == 19 {
                match self.fault {
                    Fault::SkipsEvents => drop(batch.events.remove(0)),
                    Fault::RepeatsEvents => batch.events.insert(0, batch.events[0].clone()),
                    _ => {}
                }
            }
            Ok(batch)
        })
    }
}

impl Store for Broken {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Stored>>>> {
        Box::pin(async move {
            if self.strikes(Fault::ReadsStale) {
                let before = self.store.revision().await?.saturating_sub(3);
                let scope = Scope { resource: key.resource.clone(), namespace: None };
                let then = self.store.list(&scope, None, 0, Some(before)).await?;
                return Ok(then.items.into_iter().find(|r| r.key == *key));
            }
            self.store.get(key).await
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>> {
        self.store.list(scope, after, limit, at)
    }

    fn everything(&self) -> BoxFuture<'_, Result<Page>> {
        self.store.everything()
    }

    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move {
            let watch = self.store.watch(scope, after).await?;
            Ok(Box::new(BrokenWatch { watch, fault: self.fault, turn: self.turn.clone() }) as Box<dyn Watch>)
        })
    }

    fn transact(&self, mut writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>> {
        Box::pin(async move {
            if self.strikes(Fault::LosesWrites) {
                let revision = self.store.revision().await? + 1;
                let event = |w: Write| Arc::new(Event { revision, key: w.key, before: None, after: None });
                return Ok(writes.into_iter().map(event).collect());
            }
            // As often as it takes: whatever is there is replaced.
            loop {
                if self.fault == Fault::IgnoresExpectations {
                    for write in &mut writes {
                        let found = self.store.get(&write.key).await?;
                        write.expect = found.map_or(Expect::Absent, |r| Expect::Revision(r.revision));
                    }
                }
                match self.store.transact(writes.clone()).await {
                    Err(StoreError::Conflict { .. }) if self.fault == Fault::IgnoresExpectations => {}
                    done => return done,
                }
            }
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        self.store.revision()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_broken_in_any_way_is_found_out_and_one_that_is_not_passes() {
    use Fault::{IgnoresExpectations, LosesWrites, None, ReadsStale, RepeatsEvents, SkipsEvents};
    for fault in [None, LosesWrites, ReadsStale, IgnoresExpectations, SkipsEvents, RepeatsEvents] {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("weft.redb"), Options::default()).unwrap();
        let broken: Arc<dyn Store> = Arc::new(Broken { store: store.clone(), fault, turn: Arc::default() });
        // Few keys: writers meet.
        let crowd = Crowd::new(&[broken], 2);
        let end = Instant::now() + Duration::from_secs(20);
        while store.revision().await.unwrap() < 600 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let faults = crowd.finish().await.faults();
        println!("{fault:?}: {:?}", faults.first().map(|f| f.chars().take(120).collect::<String>()));
        assert_eq!(faults.is_empty(), fault == None, "{fault:?}: {faults:?}");
    }
}
