//! The contract of `Store`, one function a promise, for whatever [`Stores`] opens.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use weft_control::store::{Batch, Expect, Key, Options, Page, Result, Scope, Store, StoreError, Watch, Write};

/// Opens stores over the same objects, again and again.
pub trait Stores {
    /// The store as it is now kept; one at a time.
    async fn open(&self, options: Options) -> Arc<dyn Store>;
}

/// A test of each promise, for one kind of store.
macro_rules! promises {
    ($stores:expr) => {
        promises!($stores;
            a_write_that_expects_something_else_changes_nothing,
            a_transaction_writes_all_or_none_and_each_write_has_its_own_revision,
            no_key_is_written_twice_at_once,
            reopening_keeps_objects_revisions_and_history,
            a_list_continues_at_the_revision_it_began_with,
            a_list_of_one_namespace_shows_no_other,
            history_that_was_dropped_is_gone_also_after_reopening,
            a_watch_that_is_resumed_anywhere_misses_and_repeats_nothing,
            writers_that_race_are_serialised,
            a_write_is_in_every_list_and_watch_that_begins_after_it,
            a_store_of_one_process_is_led_by_it,
        );
    };
    ($stores:expr; $($promise:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            $crate::suite::$promise(&$stores).await;
        }
    )*};
}
pub(crate) use promises;

pub fn key(name: &str) -> Key {
    Key::new("/services", "shop", name)
}

pub fn scope() -> Scope {
    Scope { resource: "/services".into(), namespace: None }
}

pub fn put(name: &str, expect: Expect, value: &'static str) -> Write {
    Write { key: key(name), expect, value: Some(Bytes::from_static(value.as_bytes())) }
}

fn delete(name: &str, revision: u64) -> Write {
    Write { key: key(name), expect: Expect::Revision(revision), value: None }
}

/// Writes one object; its revision.
pub async fn write(store: &Arc<dyn Store>, write: Write) -> u64 {
    store.transact(vec![write]).await.unwrap()[0].revision
}

pub fn texts(page: &Page) -> Vec<String> {
    page.items.iter().map(|r| format!("{}={}", r.key.name, String::from_utf8_lossy(&r.value))).collect()
}

/// The next batch that says anything.
pub async fn batch(watch: &mut Box<dyn Watch>) -> Result<Batch> {
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let batch = watch.next().await?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
        }
    })
    .await
    .expect("a watch moves on")
}

/// So many events, in however many batches.
async fn events(watch: &mut Box<dyn Watch>, count: usize) -> Vec<(u64, String, bool)> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = batch(watch).await.unwrap();
        all.extend(batch.events.iter().map(|e| (e.revision, e.key.name.to_string(), e.after.is_some())));
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

pub async fn a_write_that_expects_something_else_changes_nothing(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let made = write(&store, put("a", Expect::Absent, "1")).await;
    let refused = store.transact(vec![put("b", Expect::Absent, "1"), put("a", Expect::Absent, "2")]).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { found: Some(found), key }) if found.revision == made && *key.name == *"a")
    );
    assert!(store.get(&key("b")).await.unwrap().is_none(), "all writes of a transaction or none");
    for wrong in [0, made + 9000, u64::MAX] {
        let refused = store.transact(vec![put("a", Expect::Revision(wrong), "2")]).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{wrong}: {refused:?}");
        let refused = store.transact(vec![put("none", Expect::Revision(wrong), "2")]).await;
        assert!(matches!(refused, Err(StoreError::Conflict { found: None, .. })), "{wrong}: {refused:?}");
    }
    let next = write(&store, put("a", Expect::Revision(made), "2")).await;
    assert!(next > made);
    let found = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((found.revision, found.value.as_ref()), (next, b"2".as_slice()));
    write(&store, delete("a", next)).await;
    assert!(store.get(&key("a")).await.unwrap().is_none());
}

pub async fn a_transaction_writes_all_or_none_and_each_write_has_its_own_revision(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    assert!(store.transact(Vec::new()).await.unwrap().is_empty());
    let made = write(&store, put("b", Expect::Absent, "1")).await;
    let mut watch = store.watch(&scope(), made).await.unwrap();
    let writes = vec![put("c", Expect::Absent, "1"), delete("b", made), put("a", Expect::Absent, "1")];
    let done = store.transact(writes).await.unwrap();
    let numbers: Vec<u64> = done.iter().map(|e| e.revision).collect();
    assert!(made < numbers[0] && numbers[0] < numbers[1] && numbers[1] < numbers[2], "{made}: {numbers:?}");
    assert_eq!(done[1].before.as_ref().map(|r| r.value.as_ref()), Some(b"1".as_slice()));
    assert!(done[1].after.is_none() && done[0].before.is_none());
    let seen = events(&mut watch, 3).await;
    let expected = [("c", true), ("b", false), ("a", true)].map(|(name, there)| (name.to_owned(), there));
    assert_eq!(seen, numbers.into_iter().zip(expected).map(|(r, (n, t))| (r, n, t)).collect::<Vec<_>>());
    let listed = store.list(&scope(), None, 0, None).await.unwrap();
    let listed: Vec<(String, u64)> = listed.items.iter().map(|r| (r.key.name.to_string(), r.revision)).collect();
    assert_eq!(listed, [("a".to_owned(), seen[2].0), ("c".to_owned(), seen[0].0)]);
}

pub async fn no_key_is_written_twice_at_once(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let refused = store.transact(vec![put("a", Expect::Absent, "1"), put("a", Expect::Absent, "2")]).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert!(store.get(&key("a")).await.unwrap().is_none());
}

pub async fn reopening_keeps_objects_revisions_and_history(stores: &impl Stores) {
    let (first, last);
    {
        let store = stores.open(Options::default()).await;
        first = write(&store, put("a", Expect::Absent, "1")).await;
        write(&store, put("b", Expect::Absent, "1")).await;
        last = write(&store, delete("a", first)).await;
        assert!(store.revision().await.unwrap() >= last);
    }
    let store = stores.open(Options::default()).await;
    assert!(store.revision().await.unwrap() >= last);
    assert_eq!(texts(&store.list(&scope(), None, 0, None).await.unwrap()), ["b=1"]);
    let mut watch = store.watch(&scope(), first).await.unwrap();
    let events = batch(&mut watch).await.unwrap().events;
    assert_eq!(events.iter().map(|e| e.after.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(events[1].revision, last);
    assert_eq!(events[1].before.as_ref().map(|r| (r.revision, r.value.as_ref())), Some((first, b"1".as_slice())));
    let again = write(&store, put("a", Expect::Absent, "2")).await;
    let seen = batch(&mut watch).await.unwrap();
    assert_eq!(seen.events[0].revision, again);
    assert!(seen.revision >= again && again > last);
}

pub async fn a_list_continues_at_the_revision_it_began_with(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d"] {
        made.push(write(&store, put(name, Expect::Absent, "1")).await);
    }
    let first = store.list(&scope(), None, 2, None).await.unwrap();
    assert_eq!((texts(&first), first.remaining), (vec!["a=1".into(), "b=1".into()], 2));
    assert!(first.revision >= made[3]);
    write(&store, delete("c", made[2])).await;
    store.transact(vec![put("d", Expect::Revision(made[3]), "2"), put("e", Expect::Absent, "1")]).await.unwrap();
    let rest = store.list(&scope(), Some(&key("b")), 2, Some(first.revision)).await.unwrap();
    let all = (texts(&rest), rest.remaining, rest.revision);
    assert_eq!(all, (vec!["c=1".into(), "d=1".into()], 0, first.revision));
    assert_eq!(texts(&store.list(&scope(), Some(&key("b")), 0, None).await.unwrap()), ["d=2", "e=1"]);
}

pub async fn a_list_of_one_namespace_shows_no_other(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    for (namespace, resource) in
        [("shop", "/services"), ("shop-2", "/services"), ("a", "/services"), ("shop", "/serviceaccounts")]
    {
        let key = Key::new(resource, namespace, "x");
        write(&store, Write { key, expect: Expect::Absent, value: Some(Bytes::from_static(b"1")) }).await;
    }
    let one = Scope { resource: "/services".into(), namespace: Some("shop".into()) };
    assert_eq!(store.list(&one, None, 0, None).await.unwrap().items.len(), 1);
    assert_eq!(store.list(&scope(), None, 0, None).await.unwrap().items.len(), 3);
    let nowhere = Scope { resource: "/services".into(), namespace: Some("".into()) };
    assert!(store.list(&nowhere, None, 0, None).await.unwrap().items.is_empty());
}

pub async fn history_that_was_dropped_is_gone_also_after_reopening(stores: &impl Stores) {
    let options = Options { history_events: 3, ..Options::default() };
    let mut made = Vec::new();
    {
        let store = stores.open(options).await;
        let mut behind = store.watch(&scope(), store.revision().await.unwrap()).await.unwrap();
        for name in ["a", "b", "c", "d", "e"] {
            made.push(write(&store, put(name, Expect::Absent, "1")).await);
        }
        assert!(matches!(batch(&mut behind).await, Err(StoreError::Gone { .. })));
    }
    let store = stores.open(options).await;
    assert!(matches!(store.watch(&scope(), made[0]).await, Err(StoreError::Gone { .. })));
    assert!(matches!(store.list(&scope(), None, 0, Some(made[0])).await, Err(StoreError::Gone { .. })));
    let newest = store.revision().await.unwrap();
    let far = store.watch(&scope(), newest + 1).await.map(drop);
    assert!(matches!(far, Err(StoreError::Future { current, .. }) if current == newest), "{far:?}");
    let mut watch = store.watch(&scope(), made[2]).await.unwrap();
    assert_eq!(batch(&mut watch).await.unwrap().events.len(), 2);
}

pub async fn a_watch_that_is_resumed_anywhere_misses_and_repeats_nothing(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let begin = store.revision().await.unwrap();
    let mut expected = Vec::new();
    for turn in 0..5 {
        let name = format!("n{turn}");
        let writes = ["x", "y", "z"].map(|part| put(&format!("{name}{part}"), Expect::Absent, "1"));
        let made = store.transact(writes.into()).await.unwrap();
        expected.extend(made.iter().map(|e| (e.revision, e.key.name.to_string(), true)));
        let gone = made.iter().map(|e| delete(&e.key.name, e.revision)).collect();
        let gone = store.transact(gone).await.unwrap();
        expected.extend(gone.iter().map(|e| (e.revision, e.key.name.to_string(), false)));
    }
    let mut all = store.watch(&scope(), begin).await.unwrap();
    assert_eq!(events(&mut all, expected.len()).await, expected);
    // As a client continues that saw any one of them last, in the middle of a transaction too.
    for seen in 0..expected.len() - 1 {
        let mut rest = store.watch(&scope(), expected[seen].0).await.unwrap();
        assert_eq!(events(&mut rest, expected.len() - seen - 1).await, expected[seen + 1..]);
    }
}

pub async fn writers_that_race_are_serialised(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let mut watch = store.watch(&scope(), store.revision().await.unwrap()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..5 {
                loop {
                    let now = store.get(&key("n")).await.unwrap();
                    let (expect, next) = match &now {
                        None => (Expect::Absent, 1),
                        Some(r) => (
                            Expect::Revision(r.revision),
                            std::str::from_utf8(&r.value).unwrap().parse::<u32>().unwrap() + 1,
                        ),
                    };
                    let write = Write { key: key("n"), expect, value: Some(next.to_string().into()) };
                    match store.transact(vec![write]).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.get(&key("n")).await.unwrap().unwrap().value, "40");
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let batch = batch(&mut watch).await.unwrap();
        seen.extend(batch.events.iter().map(|e| e.after.as_ref().unwrap().value.clone()));
    }
    assert_eq!(seen, (1..=40).map(|n| Bytes::from(n.to_string())).collect::<Vec<_>>());
}

pub async fn a_write_is_in_every_list_and_watch_that_begins_after_it(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    for turn in 0..20 {
        let name = format!("n{turn}");
        let made = write(&store, put(&name, Expect::Absent, "1")).await;
        let page = store.list(&scope(), None, 0, None).await.unwrap();
        assert!(page.items.iter().any(|r| r.revision == made) && page.revision >= made);
        let next = write(&store, put(&name, Expect::Revision(made), "2")).await;
        let mut watch = store.watch(&scope(), page.revision).await.unwrap();
        assert_eq!(events(&mut watch, 1).await, [(next, name, true)]);
    }
}

pub async fn a_store_of_one_process_is_led_by_it(stores: &impl Stores) {
    let store = stores.open(Options::default()).await;
    let mut lead = store.lead();
    let mine = tokio::time::timeout(Duration::from_secs(20), lead.wait_for(|lead| lead.mine)).await;
    assert!(mine.expect("somebody leads").is_ok());
}
