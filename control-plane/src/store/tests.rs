//! What every store promises, shown on the embedded one.

use std::time::Duration;

use super::*;

fn key(name: &str) -> Key {
    Key::new("/services", "shop", name)
}

fn scope() -> Scope {
    Scope { resource: "/services".into(), namespace: None }
}

fn put(name: &str, expect: Expect, value: &'static str) -> Write {
    Write { key: key(name), expect, value: Some(Bytes::from_static(value.as_bytes())) }
}

fn open(dir: &tempfile::TempDir, options: Options) -> Embedded {
    Embedded::open(&dir.path().join("weft.redb"), options).unwrap()
}

fn texts(page: &Page) -> Vec<String> {
    page.items.iter().map(|r| format!("{}={}", r.key.name, String::from_utf8_lossy(&r.value))).collect()
}

async fn batch(watch: &mut Box<dyn Watch>) -> Result<Batch> {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("a watch moves on")
}

#[tokio::test]
async fn a_write_that_expects_something_else_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Options::default());
    let made = store.transact(vec![put("a", Expect::Absent, "1")]).await.unwrap();
    assert_eq!(made[0].revision, 1);
    let refused = store.transact(vec![put("b", Expect::Absent, "1"), put("a", Expect::Absent, "2")]).await;
    assert!(matches!(refused, Err(StoreError::Conflict { found: Some(_), .. })));
    assert!(store.get(&key("b")).await.unwrap().is_none(), "all writes of a transaction or none");
    assert!(store.transact(vec![put("a", Expect::Revision(9), "2")]).await.is_err());
    store.transact(vec![put("a", Expect::Revision(1), "2")]).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, 2);
}

#[tokio::test]
async fn reopening_keeps_objects_revisions_and_history() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(&dir, Options::default());
        store.transact(vec![put("a", Expect::Absent, "1")]).await.unwrap();
        store.transact(vec![put("b", Expect::Absent, "1")]).await.unwrap();
        store.transact(vec![Write { key: key("a"), expect: Expect::Revision(1), value: None }]).await.unwrap();
    }
    let store = open(&dir, Options::default());
    assert_eq!(store.revision().await.unwrap(), 3);
    assert_eq!(texts(&store.list(&scope(), None, 0, None).await.unwrap()), ["b=1"]);
    let mut watch = store.watch(&scope(), 1).await.unwrap();
    let events = batch(&mut watch).await.unwrap().events;
    assert_eq!(events.iter().map(|e| (e.revision, e.after.is_some())).collect::<Vec<_>>(), [(2, true), (3, false)]);
    assert_eq!(events[1].before.as_ref().unwrap().value, "1");
    store.transact(vec![put("a", Expect::Absent, "2")]).await.unwrap();
    assert_eq!(batch(&mut watch).await.unwrap().revision, 4);
}

#[tokio::test]
async fn a_list_continues_at_the_revision_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Options::default());
    for name in ["a", "b", "c", "d"] {
        store.transact(vec![put(name, Expect::Absent, "1")]).await.unwrap();
    }
    let first = store.list(&scope(), None, 2, None).await.unwrap();
    assert_eq!((texts(&first), first.remaining, first.revision), (vec!["a=1".into(), "b=1".into()], 2, 4));
    store.transact(vec![Write { key: key("c"), expect: Expect::Revision(3), value: None }]).await.unwrap();
    store.transact(vec![put("d", Expect::Revision(4), "2"), put("e", Expect::Absent, "1")]).await.unwrap();
    let rest = store.list(&scope(), Some(&key("b")), 2, Some(4)).await.unwrap();
    assert_eq!((texts(&rest), rest.remaining, rest.revision), (vec!["c=1".into(), "d=1".into()], 0, 4));
    assert_eq!(texts(&store.list(&scope(), Some(&key("b")), 0, None).await.unwrap()), ["d=2", "e=1"]);
}

#[tokio::test]
async fn a_list_of_one_namespace_shows_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Options::default());
    for (namespace, resource) in
        [("shop", "/services"), ("shop-2", "/services"), ("a", "/services"), ("shop", "/serviceaccounts")]
    {
        let key = Key::new(resource, namespace, "x");
        store
            .transact(vec![Write { key, expect: Expect::Absent, value: Some(Bytes::from_static(b"1")) }])
            .await
            .unwrap();
    }
    let scope = Scope { resource: "/services".into(), namespace: Some("shop".into()) };
    assert_eq!(store.list(&scope, None, 0, None).await.unwrap().items.len(), 1);
    assert_eq!(store.list(&super::tests::scope(), None, 0, None).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn history_that_was_dropped_is_gone_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_events: 3, ..Options::default() };
    {
        let store = open(&dir, options);
        let mut behind = store.watch(&scope(), 0).await.unwrap();
        for name in ["a", "b", "c", "d", "e"] {
            store.transact(vec![put(name, Expect::Absent, "1")]).await.unwrap();
        }
        assert!(matches!(batch(&mut behind).await, Err(StoreError::Gone { asked: 0, oldest: 2 })));
    }
    let store = open(&dir, options);
    assert!(matches!(store.watch(&scope(), 1).await, Err(StoreError::Gone { .. })));
    assert!(matches!(store.list(&scope(), None, 0, Some(1)).await, Err(StoreError::Gone { .. })));
    assert!(matches!(store.watch(&scope(), 6).await, Err(StoreError::Future { current: 5, .. })));
    let mut watch = store.watch(&scope(), 2).await.unwrap();
    assert_eq!(batch(&mut watch).await.unwrap().events.len(), 3);
}

#[tokio::test]
async fn writers_that_race_are_serialised() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Options::default());
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
                    if store.transact(vec![write]).await.is_ok() {
                        break;
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.get(&key("n")).await.unwrap().unwrap().value, "40");
    assert_eq!(store.revision().await.unwrap(), 40);
}
