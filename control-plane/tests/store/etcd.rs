//! The store of several replicas, on real etcd servers that each test starts for itself.

use crate::server::{Etcd as Server, Place};
use crate::suite::{self, Stores, batch, key, promises, put, scope, texts};
use bytes::Bytes;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use weft_control::store::{Etcd, EtcdFiles, EtcdSettings, Expect, Key, Options, Store, StoreError, Write};

/// Two ports that were free a moment ago.
fn ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

pub struct Cluster {
    pub server: Server,
    _folder: TempDir,
}

impl Cluster {
    fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: Server::single(folder.path(), ports(), flags), _folder: folder }
    }

    fn new() -> Self {
        Self::with(&[])
    }

    pub fn three() -> Self {
        Self::three_in(tempfile::tempdir().unwrap())
    }

    /// Where their directories may be there already.
    pub fn three_in(folder: TempDir) -> Self {
        let places = [(); 3].map(|()| Place::loopback(ports()));
        Self { server: Server::start(folder.path(), &places, &[]), _folder: folder }
    }

    pub fn at(places: &[Place]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: Server::start(folder.path(), places, &[]), _folder: folder }
    }

    fn settings(&self) -> EtcdSettings {
        let address = format!("etcd://{}/test", self.server.addresses());
        EtcdSettings::read(&address, &EtcdFiles::default()).unwrap()
    }

    pub async fn replica(&self, name: &str) -> Arc<dyn Store> {
        open(EtcdSettings { replica: name.to_owned(), ..self.settings() }).await
    }
}

async fn open(settings: EtcdSettings) -> Arc<dyn Store> {
    Arc::new(Etcd::open(settings).await.unwrap())
}

impl Stores for Cluster {
    async fn open(&self, options: Options) -> Arc<dyn Store> {
        open(EtcdSettings { options, ..self.settings() }).await
    }
}

promises!(Cluster::new());

/// Writes until it works, as a client does whom an outage met; never twice.
async fn write_in_the_end(store: &Arc<dyn Store>, name: &str) -> u64 {
    let value = Some(Bytes::from_static(b"1"));
    for _ in 0..100 {
        let write = Write { key: key(name), expect: Expect::Absent, value: value.clone() };
        match store.transact(vec![write]).await {
            Ok(made) => return made[0].revision,
            // A write that was not answered, and made.
            Err(StoreError::Conflict { found: Some(found), .. }) => return found.revision,
            Err(StoreError::Failed(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("etcd does not come back");
}

/// Why etcd refuses: asked again while it is too busy to answer, as it is with passwords to hash on a loaded machine.
async fn refusal(settings: &EtcdSettings) -> String {
    for _ in 0..10 {
        let error = Etcd::open(settings.clone()).await.map(drop).unwrap_err().to_string();
        if !error.contains("did not answer in time") {
            return error;
        }
    }
    panic!("etcd never answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_wrote_every_other_shows_at_once() {
    let cluster = Cluster::new();
    let (one, other) = (cluster.replica("one").await, cluster.replica("other").await);
    let mut watch = other.watch(&scope(), 0).await.unwrap();
    for turn in 0..50 {
        let name = format!("n{turn:02}");
        let made = suite::write(&one, put(&name, Expect::Absent, "1")).await;
        // Asked for a revision that only the other one has shown.
        let resumed = other.watch(&scope(), made).await;
        assert!(resumed.is_ok(), "{:?}", resumed.map(drop));
        let page = other.list(&scope(), None, 0, None).await.unwrap();
        assert_eq!(page.items.last().unwrap().revision, made);
        assert_eq!(other.get(&key(&name)).await.unwrap().unwrap().revision, made);
        let next = suite::write(&other, put(&name, Expect::Revision(made), "2")).await;
        assert_eq!(one.list(&scope(), None, 0, None).await.unwrap().items.last().unwrap().revision, next);
    }
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.extend(batch(&mut watch).await.unwrap().events.iter().map(|e| e.revision));
    }
    assert!(seen.is_sorted_by(|a, b| a < b) && seen.len() == 100);
    let mut late = one.watch(&scope(), seen[49]).await.unwrap();
    assert_eq!(batch(&mut late).await.unwrap().events[0].revision, seen[50]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_leads_and_another_when_it_is_gone() {
    let cluster = Cluster::new();
    let one = cluster.replica("one").await;
    let within = Duration::from_secs(30);
    let mut led = one.lead();
    tokio::time::timeout(within, led.wait_for(|lead| lead.mine)).await.unwrap().unwrap();
    let other = cluster.replica("other").await;
    let mut lead = other.lead();
    let seen = tokio::time::timeout(within, lead.wait_for(|lead| !lead.owner.is_empty())).await.unwrap().unwrap();
    assert_eq!((seen.mine, seen.owner.as_str()), (false, "one"));
    drop(seen);
    drop(one);
    let seen = tokio::time::timeout(within, lead.wait_for(|lead| lead.mine)).await.unwrap().unwrap();
    assert_eq!((seen.mine, seen.owner.as_str()), (true, "other"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_deposed_without_noticing_writes_nothing() {
    let cluster = Cluster::new();
    let serving = async |name: &str, port: u16| {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let serves = Some(weft_control::store::Place { grpc: at, api: at });
        open(EtcdSettings { replica: name.to_owned(), serves, ..cluster.settings() }).await
    };
    let within = Duration::from_secs(30);
    let one = serving("one", 1).await;
    let mut led = one.lead();
    tokio::time::timeout(within, led.wait_for(|lead| lead.mine)).await.unwrap().unwrap();
    let made = suite::write(&one, put("a", Expect::Absent, "1")).await;
    // It has just renewed its lease: it will not look for a while.
    led.borrow_and_update();
    tokio::time::timeout(within, led.changed()).await.unwrap().unwrap();
    cluster.server.ctl(&["del", "/test/leader"]);
    cluster.server.ctl(&["put", "/test/leader", r#"{"name":"other","at":null}"#]);
    let error = one.transact(vec![put("a", Expect::Revision(made), "2")]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(why) if why.contains("another control plane leads")), "{error}");
    let seen = tokio::time::timeout(within, led.wait_for(|lead| lead.owner == "other")).await.unwrap().unwrap();
    assert!(!seen.mine && !seen.is_certain());
    drop(seen);

    // One that knows does not even ask.
    let two = serving("two", 2).await;
    let error = two.transact(vec![put("a", Expect::Revision(made), "2")]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(why) if why.contains("does not lead")), "{error}");
    assert_eq!(two.get(&key("a")).await.unwrap().unwrap().revision, made);
    let all = ["one", "two"];
    let known = |lead: &weft_control::store::Lead| lead.replicas.iter().map(|r| r.name.as_str()).eq(all);
    tokio::time::timeout(within, led.wait_for(known)).await.unwrap().unwrap();
    // Who leaves is gone at once, not when it is missed.
    two.resign().await;
    assert!(!cluster.server.ctl(&["get", "--prefix", "/test/replicas/"]).contains("two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_was_answered_late_is_made_through_the_log() {
    let cluster = Cluster::new();
    let store = cluster.replica("one").await;
    let made = suite::write(&store, put("a", Expect::Absent, "1")).await;
    let fence = || cluster.server.ctl(&["get", "/test/fence", "--write-out=fields"]);
    cluster.server.ctl(&["del", "/test/fence"]);
    let pid = cluster.server.pid(0).unwrap().to_string();
    let signal =
        |name: &str| assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    // Etcd may have lost its leader meanwhile and refuse: then the read is tried again, and answered in time.
    let mut passed = false;
    for _ in 0..10 {
        signal("-STOP");
        let (asked, at) = (store.clone(), key("a"));
        let read = tokio::spawn(async move { asked.get(&at).await });
        tokio::time::sleep(Duration::from_millis(800)).await;
        signal("-CONT");
        assert_eq!(read.await.unwrap().unwrap().unwrap().revision, made);
        passed = passed || fence().contains("/test/fence");
        if passed {
            break;
        }
    }
    assert!(passed, "a late answer is not believed");
    // It is no write of the store.
    assert_eq!(store.revision().await.unwrap() >> 10, made >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_on_where_it_was_when_etcd_comes_back() {
    let mut cluster = Cluster::new();
    let store = cluster.replica("one").await;
    let mut watch = store.watch(&scope(), 0).await.unwrap();
    let mut made = Vec::new();
    for turn in 0..3 {
        made.push(write_in_the_end(&store, &format!("a{turn}")).await);
        cluster.server.kill(0);
        let error = store.transact(vec![put("never", Expect::Revision(u64::MAX), "1")]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Failed(why) if why.contains("cannot be reached")), "{error}");
        // What is in memory can still be watched.
        assert!(store.watch(&scope(), made[0]).await.is_ok());
        cluster.server.restart(0);
        made.push(write_in_the_end(&store, &format!("b{turn}")).await);
    }
    let mut seen = Vec::new();
    while seen.len() < made.len() {
        seen.extend(batch(&mut watch).await.unwrap().events.iter().map(|e| e.revision));
    }
    assert_eq!(seen, made);
    assert_eq!(store.list(&scope(), None, 0, None).await.unwrap().items.len(), made.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_gone_is_replaced_by_the_next() {
    let mut cluster = Cluster::three();
    let store = cluster.replica("one").await;
    let mut watch = store.watch(&scope(), 0).await.unwrap();
    let mut made = Vec::new();
    for member in 0..3 {
        cluster.server.kill(member);
        for turn in 0..5 {
            made.push(write_in_the_end(&store, &format!("n{member}{turn}")).await);
        }
        cluster.server.restart(member);
    }
    let mut seen = Vec::new();
    while seen.len() < made.len() {
        seen.extend(batch(&mut watch).await.unwrap().events.iter().map(|e| e.revision));
    }
    assert_eq!(seen, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_what_was_compacted_says_so_and_shows_what_is_there() {
    let mut cluster = Cluster::new();
    let at = cluster.settings().members[0].parse::<SocketAddr>().unwrap();
    let away = cluster.replica("away").await;
    let made = suite::write(&away, put("a", Expect::Absent, "1")).await;
    let mut watch = away.watch(&scope(), made).await.unwrap();
    // Etcd where only the other replica finds it.
    cluster.server.restart_at(0, SocketAddr::from(([127, 0, 0, 1], ports()[0])));
    let there = cluster.replica("there").await;
    let mut last = suite::write(&there, put("b", Expect::Absent, "0")).await;
    for _ in 0..5 {
        last = suite::write(&there, put("b", Expect::Revision(last), "1")).await;
    }
    cluster.server.ctl(&["compact", &(last >> 10).to_string()]);
    cluster.server.restart_at(0, at);
    let gone = batch(&mut watch).await;
    assert!(matches!(gone, Err(StoreError::Gone { .. })), "{gone:?}");
    let page = away.list(&scope(), None, 0, None).await.unwrap();
    assert_eq!(texts(&page), ["a=1", "b=1"]);
    let mut watch = away.watch(&scope(), page.revision).await.unwrap();
    let next = suite::write(&away, put("c", Expect::Absent, "1")).await;
    assert_eq!(batch(&mut watch).await.unwrap().events[0].revision, next);
    // And one that starts now.
    let late = cluster.replica("late").await;
    assert_eq!(texts(&late.list(&scope(), None, 0, None).await.unwrap()), ["a=1", "b=1", "c=1"]);
    assert!(matches!(late.watch(&scope(), made).await, Err(StoreError::Gone { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replica_that_leads_has_etcd_forget_history() {
    let cluster = Cluster::new();
    let options = Options { history_events: 1, ..Options::default() };
    let settings = EtcdSettings { options, compaction: Duration::from_millis(100), ..cluster.settings() };
    let store = open(settings).await;
    let first = suite::write(&store, put("a", Expect::Absent, "1")).await;
    let mut last = first;
    let end = tokio::time::Instant::now() + Duration::from_secs(40);
    // The oldest revision is gone in the end, the newest are never.
    loop {
        last = suite::write(&store, put("a", Expect::Revision(last), "2")).await;
        let watched = cluster.server.ctl(&["get", "/test/clock", "--rev", &(last >> 10).to_string()]);
        assert!(watched.contains("/test/clock"));
        let oldest = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.server.ctl(&["get", "/test/clock", "--rev", &(first >> 10).to_string()])
        }));
        if oldest.is_err() {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "nothing is compacted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_does_not_take_at_once_is_refused_with_what_to_do() {
    let cluster = Cluster::new();
    let store = cluster.replica("one").await;
    let many = |count: usize| {
        let write =
            |i| Write { key: key(&format!("n{i}")), expect: Expect::Absent, value: Some(Bytes::from_static(b"1")) };
        (0..count).map(write).collect::<Vec<_>>()
    };
    for (writes, why) in [
        (many(200), "--max-txn-ops"),
        (many(1024), "more than 1023"),
        (
            vec![Write { key: key("a"), expect: Expect::Absent, value: Some(vec![b'x'; 1_600_000].into()) }],
            "--max-request-bytes",
        ),
        (
            vec![Write { key: key("a"), expect: Expect::Absent, value: Some(vec![b'x'; 8_000_000].into()) }],
            "--max-request-bytes",
        ),
    ] {
        let error = store.transact(writes).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(why)), "{why}: {error}");
    }
    assert_eq!(store.transact(many(100)).await.unwrap().len(), 100);
    let large = Write { key: key("large"), expect: Expect::Absent, value: Some(vec![b'x'; 1_500_000].into()) };
    store.transact(vec![large]).await.unwrap();
    assert_eq!(store.list(&scope(), None, 0, None).await.unwrap().items.len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_user_that_may_write_under_the_prefix_are_enough() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now();
    let ca = weft_certs::ApiCa::open(&folder.path().join("ca"), now).unwrap();
    let server = ca.issue_server(&["127.0.0.1", "localhost"], None, now).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let trusted = file("ca.pem", &ca.certificate_pem());
    let flag = |flag: &str, path: &std::path::Path| format!("--{flag}={}", path.display());
    let flags = [
        flag("cert-file", &file("etcd.pem", &server.chain_pem())),
        flag("key-file", &file("etcd.key", &server.key().to_pem())),
    ];
    let mut cluster = Cluster::with(&flags.each_ref().map(String::as_str));
    let ctl = |arguments: &[&str]| {
        let all = [&["--cacert", trusted.to_str().unwrap()], arguments].concat();
        cluster
            .server
            .ctl(&[&["--endpoints", &format!("https://{}", cluster.server.addresses())], all.as_slice()].concat())
    };
    ctl(&["user", "add", "root:root"]);
    ctl(&["user", "grant-role", "root", "root"]);
    ctl(&["user", "add", "weft:s3cret"]);
    ctl(&["role", "add", "mesh"]);
    ctl(&["role", "grant-permission", "mesh", "--prefix=true", "readwrite", "/test/"]);
    ctl(&["user", "grant-role", "weft", "mesh"]);
    ctl(&["auth", "enable"]);

    let files = |ca: &std::path::Path, password: &str| EtcdFiles {
        ca: Some(ca.to_owned()),
        password: Some(file("password", password)),
        ..EtcdFiles::default()
    };
    let address = format!("etcds://weft@{}/test", cluster.server.addresses());
    let stranger = weft_certs::ApiCa::open(&folder.path().join("stranger"), now).unwrap();
    let stranger = file("stranger.pem", &stranger.certificate_pem());
    for (files, why) in
        [(files(&stranger, "s3cret"), "invalid peer certificate"), (files(&trusted, "wrong"), "authentication failed")]
    {
        let error = refusal(&EtcdSettings::read(&address, &files).unwrap()).await;
        assert!(error.contains(why), "{error}");
    }
    let elsewhere = EtcdSettings::read(&address.replace("/test", "/other"), &files(&trusted, "s3cret")).unwrap();
    let error = refusal(&elsewhere).await;
    assert!(error.contains("permission denied"), "{error}");

    let store = open(EtcdSettings::read(&address, &files(&trusted, "s3cret")).unwrap()).await;
    write_in_the_end(&store, "a").await;
    // Its tokens are forgotten.
    cluster.server.restart(0);
    write_in_the_end(&store, "b").await;
    assert_eq!(texts(&store.list(&scope(), None, 0, None).await.unwrap()), ["a=1", "b=1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_is_not_there_is_said_in_time() {
    let [port, other] = ports();
    let address = format!("etcd://127.0.0.1:{port},127.0.0.1:{other}");
    let opened = Etcd::open(EtcdSettings::read(&address, &EtcdFiles::default()).unwrap());
    let error = tokio::time::timeout(Duration::from_secs(20), opened).await.unwrap().map(drop).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_one_kind_of_store_is_restored_into_the_other() {
    use weft_control::store::{Embedded, backup};
    let cluster = Cluster::new();
    let (shared, folder) = (cluster.replica("one").await, tempfile::tempdir().unwrap());
    let file = |name: &str| Embedded::open(&folder.path().join(name), Options::default()).unwrap();
    let source = file("source");
    // More than etcd takes at once, in number and in size.
    let value = |i: usize| Bytes::from(format!(r#"{{"n":{i},"text":"{}"}}"#, "x".repeat(i * 40)));
    let write = |i| Write { key: key(&format!("n{i:03}")), expect: Expect::Absent, value: Some(value(i)) };
    source.transact((0..350).map(write).collect()).await.unwrap();
    let text = backup::take(&source, "weft.local", 1).await.unwrap();
    let read = backup::read(&text).unwrap();
    assert_eq!(backup::restore(&*shared, &read, false).await.unwrap().written, 350);
    assert!(matches!(backup::restore(&*shared, &read, false).await, Err(backup::Error::NotEmpty(350))));
    assert_eq!(backup::restore(&*shared, &read, true).await.unwrap().kept, 350);
    let back = file("back");
    let text = backup::take(&*shared, "weft.local", 2).await.unwrap();
    backup::restore(&back, &backup::read(&text).unwrap(), false).await.unwrap();
    let objects = async |store: &dyn Store| -> Vec<(Key, Bytes)> {
        let all = store.everything().await.unwrap();
        all.items.iter().map(|r| (r.key.clone(), r.value.clone())).collect()
    };
    assert_eq!(objects(&back).await, objects(&source).await);
}
