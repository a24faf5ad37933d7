//! The xDS client against a real server over mTLS: asking, refusing, resuming, remembering.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod life_plane;

use life_plane::{ENDPOINTS, Plane, Running, SERVICE, eventually, service, slice};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use weft_certs::tls::{ALPN_GRPC, ClientConfigs};
use weft_certs::{Identity, LiveIdentity, SpiffeId};
use weft_proto::{type_url, v1};
use weft_proxy::discovery::{Alias, Directory, Keep, Publisher, Resolution, link, xds};
use weft_proxy::takeover::Turn;

const UID: &str = "shop/cart-1";

struct Sidecar {
    directory: Directory,
    status: watch::Receiver<xds::Status>,
    running: JoinHandle<()>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Sidecar {
    fn start(plane: &Plane, route: impl Into<link::Route>, state: Option<&Path>) -> Self {
        let id = SpiffeId::workload(&plane.domain, "shop", "cart").unwrap();
        let svid = plane.ca.issue(&id, None, SystemTime::now()).unwrap();
        let live = LiveIdentity::new(Identity::new(svid, plane.ca.bundle()));
        let tls = ClientConfigs::new(live).to_control_plane(&[ALPN_GRPC]).unwrap();
        let (directory, publisher, asks) = Publisher::new();
        let options = xds::Options {
            uid: UID.into(),
            trust_domain: plane.domain.to_string(),
            idle: Duration::from_secs(600),
            keep: state.map(|dir| Keep::new(dir, id.to_string())),
            turn: Turn::now(),
        };
        let prepare: xds::Prepare = Box::new(|| Box::pin(async { Ok(()) }));
        let dumps = mpsc::channel(1).1;
        let channel = link::channel(route, tls);
        let (client, status) = xds::Client::new(options, channel, prepare, publisher, asks, dumps);
        Self { directory, status, running: tokio::spawn(client.run(Duration::ZERO)) }
    }

    async fn resolve(&self, host: &str, patience: Duration) -> Resolution {
        self.directory.resolve(Alias::Host(host.into()), Instant::now() + patience).await
    }

    async fn connected(&self) {
        eventually("the stream opens", || self.status.borrow().connected.then_some(())).await;
    }
}

fn address(n: u16) -> std::net::SocketAddr {
    format!("192.0.2.1:{n}").parse().unwrap()
}

async fn started() -> (Plane, Running) {
    let plane = Plane::new();
    plane.put_basics(UID, &format!("spiffe://{}/ns/shop/sa/cart", plane.domain));
    let running = plane.start(None).await;
    (plane, running)
}

fn routes_of(service: &weft_policy::config::Service) -> usize {
    service.port(80).map_or(0, |_| 1)
}

#[tokio::test]
async fn a_sidecar_asks_only_for_what_is_called_and_never_for_everything() {
    let (plane, running) = started().await;
    plane.put([service("shop/catalog", &["shop/catalog-v2"]), service("shop/catalog-v2", &[])]);
    plane.put([slice("shop/catalog", address(1)), slice("shop/catalog-v2", address(2))]);
    let sidecar = Sidecar::start(&plane, running.address, None);
    let inbound = || sidecar.directory.snapshot().inbound.clone();
    eventually("its own configuration arrives", inbound).await;
    assert!(plane.subscribed(1, SERVICE).is_empty() && plane.subscribed(1, ENDPOINTS).is_empty());

    // Calls that come together share one subscription.
    let calls = (0..50).map(|_| sidecar.resolve("catalog", Duration::from_secs(10)));
    for resolution in futures_util::future::join_all(calls).await {
        let Resolution::Found(found) = resolution else { panic!("{resolution:?}") };
        assert_eq!((&*found.name, routes_of(&found)), ("shop/catalog", 1));
    }
    let mut subscribed = plane.subscribed(1, SERVICE);
    subscribed.sort();
    assert_eq!(subscribed, ["host:catalog", "shop/catalog-v2"]);
    let snapshot = sidecar.directory.snapshot();
    assert!(snapshot.cluster("shop/catalog-v2", 80).is_some(), "active once its backends are known");

    assert!(matches!(sidecar.resolve("nobody", Duration::from_secs(10)).await, Resolution::Absent));
    let first_of_type: Vec<_> = (plane.requests().into_iter())
        .fold(std::collections::BTreeMap::new(), |mut first, (_, r)| {
            first.entry(r.type_url.clone()).or_insert(r);
            first
        })
        .into_values()
        .collect();
    assert_eq!(first_of_type.len(), 5);
    for request in first_of_type {
        assert!(!request.resource_names_subscribe.is_empty(), "{request:?}");
        assert!(request.error_detail.is_none());
    }
    // Every response is acknowledged by its nonce.
    eventually("acknowledgements", || {
        let acknowledged: Vec<String> = plane.requests().into_iter().map(|(_, r)| r.response_nonce).collect();
        plane.responses().iter().all(|(_, r)| acknowledged.contains(&r.nonce)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_field_while_the_others_of_its_response_apply() {
    let (plane, running) = started().await;
    plane.put([service("shop/catalog", &[]), slice("shop/catalog", address(1)), slice("shop/orders", address(2))]);
    let sidecar = Sidecar::start(&plane, running.address, None);
    assert!(matches!(sidecar.resolve("catalog", Duration::from_secs(10)).await, Resolution::Found(_)));
    assert!(matches!(sidecar.resolve("orders", Duration::from_secs(10)).await, Resolution::Absent));

    let mut bad: v1::Service =
        weft_proto::Resource::from_any(service("shop/catalog", &[]).resource.as_ref().unwrap()).unwrap();
    bad.hostnames.push("books".into());
    bad.ports[0].port = 0;
    let bad = life_plane::resource("shop/catalog", &bad, &["host:catalog"]);
    plane.put([bad.clone(), service("shop/orders", &[])]);
    eventually("the good one applies", || {
        matches!(sidecar.directory.snapshot().host("orders"), Some(Resolution::Found(_))).then_some(())
    })
    .await;
    let refusals = eventually("the refusal arrives", || Some(plane.refusals()).filter(|r| !r.is_empty())).await;
    assert_eq!((refusals[0].name.as_str(), &refusals[0].version), ("shop/catalog", &bad.version));
    assert_eq!(refusals[0].field, "ports[0].port");
    assert!(!refusals[0].reason.is_empty());
    let Some(Resolution::Found(found)) = sidecar.directory.snapshot().host("catalog") else { panic!() };
    assert_eq!(found.ports[0].port, 80, "the last good version stays");
    assert_eq!(sidecar.status.borrow().refused.len(), 1);

    // A resume offers the last good version, not the refused one.
    let address = running.address;
    drop(running);
    let _again = plane.start(Some(address)).await;
    eventually("it resumes", || (plane.streams() >= 2).then_some(())).await;
    let offered = eventually("its versions", || {
        plane
            .requests()
            .into_iter()
            .find(|(s, r)| *s == 2 && r.type_url == SERVICE)
            .map(|(_, r)| r.initial_resource_versions)
    })
    .await;
    assert_eq!(offered["shop/catalog"], service("shop/catalog", &[]).version);
}

#[tokio::test]
async fn after_an_outage_nothing_is_sent_again_but_what_changed_and_what_went() {
    let (plane, running) = started().await;
    for name in ["catalog", "orders", "users"] {
        plane.put([service(&format!("shop/{name}"), &[]), slice(&format!("shop/{name}"), address(1))]);
    }
    let sidecar = Sidecar::start(&plane, running.address, None);
    for name in ["catalog", "orders", "users"] {
        assert!(matches!(sidecar.resolve(name, Duration::from_secs(10)).await, Resolution::Found(_)));
    }
    let address = running.address;
    drop(running);
    eventually("the outage is noticed", || (!sidecar.status.borrow().connected).then_some(())).await;
    // What is known serves on, and what is not known is not answered.
    assert!(matches!(sidecar.resolve("catalog", Duration::from_millis(1)).await, Resolution::Found(_)));
    assert!(matches!(sidecar.resolve("payments", Duration::from_millis(50)).await, Resolution::Unanswered));

    plane.put([slice("shop/orders", self::address(7))]);
    plane.remove(SERVICE, "shop/users");
    let _again = plane.start(Some(address)).await;
    eventually("the removal arrives", || {
        matches!(sidecar.directory.snapshot().host("users"), Some(Resolution::Absent)).then_some(())
    })
    .await;
    eventually("the change arrives", || {
        let sent = plane.responses().into_iter().filter(|(s, _)| *s == 2).flat_map(|(_, r)| r.resources);
        let names: Vec<String> = sent.map(|r| r.name).collect();
        (names == ["shop/orders:80/0"]).then_some(())
    })
    .await;
    assert!(matches!(sidecar.resolve("payments", Duration::from_secs(10)).await, Resolution::Absent));
}

#[tokio::test]
async fn a_sidecar_that_knows_several_replicas_goes_on_with_another_when_its_own_is_gone() {
    let (plane, one) = started().await;
    let other = plane.start(None).await;
    let (first, second) = (one.address, other.address);
    let addresses = weft_proxy::config::Addresses::new(vec![first.into(), second.into()]).unwrap();
    let sidecar = Sidecar::start(&plane, link::Route::new(&addresses), None);
    let mut running = [Some(one), Some(other)];
    // Each of them is the only one once, whichever it began with.
    for (place, address, short) in [(0, first, "catalog"), (1, second, "orders"), (0, first, "users")] {
        running[place] = None;
        let name = format!("shop/{short}");
        plane.put([service(&name, &[]), slice(&name, self::address(1))]);
        let found = sidecar.resolve(short, Duration::from_secs(10)).await;
        assert!(matches!(found, Resolution::Found(_)), "{short} without {address}");
        running[place] = Some(plane.start(Some(address)).await);
    }
}

#[tokio::test]
async fn a_control_plane_is_found_by_its_name() {
    let (plane, running) = started().await;
    plane.put([service("shop/catalog", &[]), slice("shop/catalog", address(1))]);
    let named = format!("localhost:{}", running.address.port()).parse().unwrap();
    let sidecar = Sidecar::start(&plane, link::Route::new(&named), None);
    assert!(matches!(sidecar.resolve("catalog", Duration::from_secs(10)).await, Resolution::Found(_)));
}

#[tokio::test]
async fn a_shift_of_weights_waits_for_the_endpoints_of_its_new_backend() {
    let (plane, running) = started().await;
    plane.put([service("shop/catalog", &[]), slice("shop/catalog", address(1))]);
    let sidecar = Sidecar::start(&plane, running.address, None);
    let Resolution::Found(before) = sidecar.resolve("catalog", Duration::from_secs(10)).await else { panic!() };

    plane.silence("shop/catalog-v2:80/0", true);
    plane.put([service("shop/catalog-v2", &[]), service("shop/catalog", &["shop/catalog", "shop/catalog-v2"])]);
    eventually("the endpoints are asked for", || {
        plane.subscribed(1, ENDPOINTS).contains(&"shop/catalog-v2:80/0".to_owned()).then_some(())
    })
    .await;
    let Some(Resolution::Found(now)) = sidecar.directory.snapshot().host("catalog") else { panic!() };
    assert!(Arc::ptr_eq(&before, &now), "the old version serves while the new one warms");

    plane.put([slice("shop/catalog-v2", address(2))]);
    plane.silence("shop/catalog-v2:80/0", false);
    eventually("the new version is in force", || {
        let Some(Resolution::Found(now)) = sidecar.directory.snapshot().host("catalog") else { return None };
        (!Arc::ptr_eq(&before, &now)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restart_without_a_control_plane_serves_what_was_last_known_good() {
    let dir = tempfile::tempdir().unwrap();
    let (plane, running) = started().await;
    plane.put([service("shop/catalog", &["shop/catalog-v2"]), service("shop/catalog-v2", &[])]);
    plane.put([slice("shop/catalog", address(1)), slice("shop/catalog-v2", address(2))]);
    let sidecar = Sidecar::start(&plane, running.address, Some(dir.path()));
    assert!(matches!(sidecar.resolve("catalog", Duration::from_secs(10)).await, Resolution::Found(_)));
    let kept = dir.path().join("last-known-good");
    let complete = || {
        let (deltas, aliases) =
            Keep::new(dir.path(), format!("spiffe://{}/ns/shop/sa/cart", plane.domain)).load().ok()??;
        let count: usize = deltas.iter().map(|d| d.resources.len()).sum();
        (aliases.len() == 1 && count == 7).then_some(())
    };
    eventually("it is kept", complete).await;
    drop(sidecar);
    let address = running.address;
    drop(running);

    // Killed and started again while nobody answers: at once, without waiting for anything.
    let sidecar = Sidecar::start(&plane, address, Some(dir.path()));
    let snapshot = sidecar.directory.snapshot();
    assert!(matches!(snapshot.host("catalog"), Some(Resolution::Found(_))));
    assert!(snapshot.cluster("shop/catalog-v2", 80).is_some() && snapshot.inbound.is_some());
    assert_eq!(&*snapshot.settings.domain, "cluster.local");

    // And when it is back, nothing has to be sent.
    let before = plane.responses().len();
    let _again = plane.start(Some(address)).await;
    sidecar.connected().await;
    let stream = plane.streams();
    eventually("all types resume", || {
        let types: std::collections::BTreeSet<String> =
            plane.requests().into_iter().filter(|(s, _)| *s == stream).map(|(_, r)| r.type_url).collect();
        (types.len() == 5).then_some(())
    })
    .await;
    assert!(matches!(sidecar.resolve("nobody", Duration::from_secs(10)).await, Resolution::Absent));
    let sent: usize = plane.responses()[before..].iter().map(|(_, r)| r.resources.len()).sum();
    assert_eq!(sent, 0);
    assert!(kept.exists());
}

#[tokio::test]
async fn a_workload_that_poses_as_the_control_plane_is_refused() {
    let plane = Plane::new();
    plane.put_basics(UID, "spiffe://weft.test/ns/shop/sa/cart");
    let impostor = SpiffeId::workload(&plane.domain, "shop", "payments").unwrap();
    let running = plane.start_as(&impostor, None).await;
    let sidecar = Sidecar::start(&plane, running.address, None);
    let error = eventually("it is noticed", || sidecar.status.borrow().last_error.clone()).await;
    assert!(error.contains("shop/sa/payments") && error.contains("weft-control"), "{error}");
    assert_eq!(plane.streams(), 0);
    assert!(sidecar.directory.snapshot().inbound.is_none());
}

#[tokio::test]
async fn roots_are_followed() {
    let (plane, running) = started().await;
    let sidecar = Sidecar::start(&plane, running.address, None);
    let mut changes = sidecar.directory.inbound_changes();
    eventually("its own configuration arrives", || sidecar.directory.snapshot().inbound.clone()).await;
    changes.borrow_and_update();
    plane.put([plane.bundle(12)]);
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
    assert_eq!(plane.subscribed(1, type_url::TRUST_BUNDLE), ["weft.test"]);
}
