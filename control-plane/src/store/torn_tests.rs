//! The embedded store on a disk that loses power: of what was written since the last sync, any sectors in any number are there, and others
//! are not. What was acknowledged is there; what was not, whole or not at all.

use super::*;
use crate::store::Batch;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// A disk whose writes can be torn.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    /// What a sync has made certain.
    durable: Vec<u8>,
    /// What reads see.
    now: Vec<u8>,
    /// What no sync has covered yet, in order.
    pending: Vec<Change>,
    syncs: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Bytes(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    /// The disk as it is after a loss of power now.
    fn after_power_loss(&self, random: &mut StdRng) -> Self {
        let platters = self.0.lock();
        let mut durable = platters.durable.clone();
        let kept = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        for change in &platters.pending {
            match change {
                Change::Bytes(at, data) => {
                    for (i, sector) in data.chunks(SECTOR).enumerate() {
                        if random.random_bool(kept) {
                            apply(&mut durable, &Change::Bytes(at + i * SECTOR, sector.to_vec()));
                        }
                    }
                }
                length if random.random_bool(kept) => apply(&mut durable, length),
                Change::Length(_) => {}
            }
        }
        Self(Arc::new(Mutex::new(Platters { now: durable.clone(), durable, ..Platters::default() })))
    }

    fn change(&self, change: Change) {
        let mut platters = self.0.lock();
        apply(&mut platters.now, &change);
        platters.pending.push(change);
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platters = self.0.lock();
        let from = usize::try_from(offset).unwrap();
        let bytes = platters.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.0.lock();
        let pending = std::mem::take(&mut platters.pending);
        pending.iter().for_each(|change| apply(&mut platters.durable, change));
        platters.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Bytes(usize::try_from(offset).unwrap(), data.to_vec()));
        Ok(())
    }
}

fn open(disk: impl redb::StorageBackend) -> Embedded {
    let database = Database::builder().set_cache_size(1 << 20).create_with_backend(disk).unwrap();
    let database = prepared(database).unwrap();
    let mirror = Arc::new(Mirror::new(load(&database).unwrap()));
    let (path, options) = (PathBuf::new(), Options { history_events: 50, ..Options::default() });
    Embedded(Arc::new(Inner { path, options, database: Mutex::new(Some(database)), mirror }))
}

fn scope() -> Scope {
    Scope { resource: "/services".into(), namespace: None }
}

/// The objects by name, and the events that are kept.
fn content(store: &Embedded) -> (Vec<(String, u64)>, Vec<u64>, u64) {
    let state = store.0.mirror.read();
    let objects = state.objects.values().map(|r| (r.key.name.to_string(), r.revision)).collect();
    (objects, state.history.iter().map(|e| e.revision).collect(), state.revision)
}

#[tokio::test]
async fn whatever_a_loss_of_power_leaves_of_a_write_the_store_is_as_before_it_or_after_it() {
    let mut random = StdRng::seed_from_u64(7);
    let (mut losses, mut made_after_all) = (0, 0);
    for _ in 0..6 {
        let disk = Disk::default();
        let store = open(disk.clone());
        let mut acknowledged = content(&store);
        for turn in 0..30 {
            let count = random.random_range(1..4);
            let mut writes = Vec::new();
            for i in 0..count {
                let key = Key::new("/services", "shop", format!("s{}", (turn + i) % 7));
                let found = store.get(&key).await.unwrap();
                let value = random.random_bool(0.8).then(|| vec![b'x'; random.random_range(10..9000)].into());
                match (found, value) {
                    (Some(found), value) => {
                        writes.push(Write { key, expect: Expect::Revision(found.revision), value });
                    }
                    (None, Some(value)) => writes.push(Write { key, expect: Expect::Absent, value: Some(value) }),
                    (None, None) => {}
                }
            }
            // Power is lost right before and right after the write.
            let before = disk.after_power_loss(&mut random);
            store.transact(writes).await.unwrap();
            let after = disk.after_power_loss(&mut random);
            let newest = content(&store);
            assert_eq!(content(&open(before)), acknowledged, "turn {turn}: something was lost before the write");
            assert_eq!(content(&open(after)), newest, "turn {turn}: an acknowledged write was lost");
            acknowledged = newest;
            losses += 2;
        }
        // And in the middle of it: some sync of it is the last that the disk took, or does not take.
        for _ in 0..20 {
            let torn = disk.after_power_loss(&mut random);
            let store = open(torn.clone());
            assert_eq!(content(&store), acknowledged);
            drop(store);
            let key = Key::new("/services", "shop", "torn");
            let halted = Halted { disk: torn.clone(), at: Arc::new(AtomicUsize::new(usize::MAX)) };
            let store = open(halted.clone());
            halted.at.store(torn.0.lock().syncs + random.random_range(0..2), Ordering::Relaxed);
            let write = Write { key: key.clone(), expect: Expect::Absent, value: Some(vec![b'y'; 5000].into()) };
            let said = store.transact(vec![write]).await;
            let left = torn.after_power_loss(&mut random);
            drop(store);
            let again = open(left);
            let there = again.get(&key).await.unwrap().is_some();
            assert!(there || said.is_err(), "an acknowledged write was lost");
            made_after_all += usize::from(there && said.is_err());
            if !there {
                assert_eq!(content(&again), acknowledged, "half a write is there");
            }
            losses += 1;
        }
    }
    println!("{losses} losses of power; {made_after_all} writes that were not acknowledged are there");
}

/// A disk that fails every sync from one on.
#[derive(Clone, Debug)]
struct Halted {
    disk: Disk,
    at: Arc<AtomicUsize>,
}

impl redb::StorageBackend for Halted {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.0.lock().syncs >= self.at.load(Ordering::Relaxed) {
            return Err(io::Error::other("the power is gone"));
        }
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)
    }
}

#[tokio::test]
async fn the_check_would_notice_a_disk_that_forgets_what_it_synced() {
    let disk = Disk::default();
    let store = open(disk.clone());
    let key = Key::new("/services", "shop", "a");
    let before = disk.after_power_loss(&mut StdRng::seed_from_u64(1));
    let write = Write { key, expect: Expect::Absent, value: Some(Bytes::from_static(b"1")) };
    store.transact(vec![write]).await.unwrap();
    assert_ne!(content(&open(before)), content(&store));
    let mut watch = store.watch(&scope(), 0).await.unwrap();
    let Batch { events, .. } = watch.next().await.unwrap();
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn a_store_that_is_opened_again_keeps_once_what_objects_are_and_were() {
    let disk = Disk::default();
    let store = open(disk.clone());
    for (name, found) in [("cart", None), ("web", None), ("cart", Some(1)), ("cart", Some(3))] {
        let expect = found.map_or(Expect::Absent, Expect::Revision);
        let key = Key::new("/services", "shop", name);
        store.transact(vec![Write { key, expect, value: Some(vec![b'x'; 9].into()) }]).await.unwrap();
    }
    let before = content(&store);
    drop(store);
    let store = open(disk);
    assert_eq!(content(&store), before);
    let state = store.0.mirror.read();
    let cart = state.objects.get(&Key::new("/services", "shop", "cart")).unwrap();
    let web = state.objects.get(&Key::new("/services", "shop", "web")).unwrap();
    let events: Vec<_> = state.history.iter().map(|event| (event.before.clone(), event.after.clone())).collect();
    let same = |a: &Option<Arc<Record>>, b: &Arc<Record>| a.as_ref().is_some_and(|a| Arc::ptr_eq(a, b));
    assert!(same(&events[3].1, cart) && same(&events[1].1, web));
    assert!(same(&events[3].0, events[2].1.as_ref().unwrap()) && same(&events[2].0, events[0].1.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&cart.key.namespace, &web.key.namespace));
    assert_eq!(cart.revision, 4);
}
