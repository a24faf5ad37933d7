//! A cluster under updates, failures and limits.

use super::*;
use std::time::Duration;
use weft_policy::breaker::Outcome;
use weft_policy::config::{Health, Service};

fn endpoint(uid: &str, port: u16) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        address: ([127, 0, 0, 1], port).into(),
        tunnel: None,
        health: Health::Ready,
        weight: 1,
        region: "".into(),
        zone: "".into(),
        protocol: None,
    }
}

fn backend(edit: impl FnOnce(&mut v1::Backend)) -> Arc<Backend> {
    let mut backend = v1::Backend::default();
    edit(&mut backend);
    let port = v1::ServicePort { port: 80, backend: Some(backend), ..Default::default() };
    let wire = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
    Arc::clone(&Service::from_wire(&wire).unwrap().ports[0].backend)
}

fn cluster(endpoints: &[Endpoint]) -> Arc<Cluster> {
    let cluster = Cluster::new("shop/orders".into(), 80, backend(|_| {}));
    cluster.update(backend(|_| {}), endpoints.iter().cloned());
    cluster
}

fn pick(cluster: &Cluster, tried: &[Arc<str>]) -> Result<Pick, ProxyError> {
    cluster.pick(Instant::now(), &mut rand::random, tried)
}

#[test]
fn without_endpoints_there_is_nothing_to_pick() {
    assert_eq!(pick(&cluster(&[]), &[]).unwrap_err().kind, Kind::NoEndpoint);
}

#[test]
fn a_retry_goes_to_another_endpoint_where_there_is_one() {
    let both = cluster(&[endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)]);
    for _ in 0..100 {
        let first = pick(&both, &[]).unwrap();
        let second = pick(&both, std::slice::from_ref(&first.endpoint().uid)).unwrap();
        assert_ne!(first.endpoint().uid, second.endpoint().uid);
    }
    let lone = cluster(&[endpoint("shop/orders-1", 1)]);
    assert!(pick(&lone, &["shop/orders-1".into()]).is_ok());
}

#[test]
fn what_a_connection_cost_is_not_held_against_an_endpoint() {
    let one = cluster(&[endpoint("shop/orders-1", 1)]);
    let mut pick = pick(&one, &[]).unwrap();
    let start = Instant::now();
    pick.sending(start + Duration::from_secs(2));
    pick.answered(start + Duration::from_millis(2001));
    let latency = pick.member.load.latency(start + Duration::from_millis(2001));
    assert_eq!(latency.as_millis(), 1, "{latency:?}");
}

#[test]
fn an_endpoint_that_fails_is_ejected_and_the_breaker_survives_an_update() {
    let both = [endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)];
    let cluster = cluster(&both);
    let mut failures = 0;
    while failures < 5 {
        let mut pick = pick(&cluster, &[]).unwrap();
        let bad = &*pick.endpoint().uid == "shop/orders-1";
        failures += usize::from(bad);
        pick.report(if bad { Outcome::Failure } else { Outcome::Success }, Instant::now(), 0);
    }
    let mut moved = both.clone();
    moved[0].weight = 7;
    cluster.update(backend(|_| {}), moved);
    for _ in 0..50 {
        assert_eq!(&*pick(&cluster, &[]).unwrap().endpoint().uid, "shop/orders-2");
    }
    let open: Vec<_> =
        cluster.breakers(Instant::now()).into_iter().filter(|b| b.state() == v1::BreakerState::Open).collect();
    assert_eq!((open.len(), &*open[0].endpoint, open[0].opened), (1, "shop/orders-1", 1));
}

#[test]
fn an_idle_caller_finds_out_that_an_endpoint_fails_and_that_it_is_back() {
    let cluster = cluster(&[endpoint("shop/orders-1", 1), endpoint("shop/orders-2", 2)]);
    let start = Instant::now();
    let states = |now| cluster.breakers(now).iter().map(v1::BreakerStatus::state).collect::<Vec<_>>();
    let mut now = start;
    // One call at a time, ten a second, answered in a millisecond; orders-1 fails until its breaker has opened, and is well then.
    let (mut bad, mut served) = (true, 0);
    for _ in 0..300 {
        now += Duration::from_millis(100);
        let Ok(mut pick) = cluster.pick(now, &mut rand::random::<u64>, &[]) else { panic!("orders-2 is there") };
        let one = &*pick.endpoint().uid == "shop/orders-1";
        if one && bad {
            pick.failed(now);
            pick.report(Outcome::Failure, now, 0);
        } else {
            pick.sending(now);
            pick.answered(now + Duration::from_millis(1));
            pick.report(Outcome::Success, now, 0);
            served += usize::from(one);
        }
        bad &= states(now)[0] == v1::BreakerState::Closed;
    }
    assert!(!bad, "its breaker opened");
    assert_eq!(states(now)[0], v1::BreakerState::Closed, "and closed again");
    assert!(served > 10, "{served} calls");
}

#[test]
fn over_the_limit_of_calls_there_is_an_overflow_until_one_ends() {
    let cluster = Cluster::new("shop/orders".into(), 80, backend(|_| {}));
    let narrow = backend(|b| b.limits = Some(v1::Limits { requests: Some(2), ..Default::default() }));
    cluster.update(narrow, [endpoint("shop/orders-1", 1)]);
    let first = pick(&cluster, &[]).unwrap();
    let _second = pick(&cluster, &[]).unwrap();
    assert_eq!(pick(&cluster, &[]).unwrap_err().kind, Kind::Overflow);
    drop(first);
    assert!(pick(&cluster, &[]).is_ok());
}
