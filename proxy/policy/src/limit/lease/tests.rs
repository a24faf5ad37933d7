//! Sidecars and an allocator over a clock and a network that the test decides on.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use weft_proto::v1;

use super::*;
use crate::limit::rate::{Limit, Scope};

const NAME: &str = "shop/policy/all";

fn limit(requests: u32, per: u64, burst: u32) -> Limit {
    Limit {
        name: NAME.into(),
        matches: Vec::new(),
        keys: Vec::new(),
        requests,
        per: Duration::from_secs(per),
        burst,
        scope: Scope::Global,
    }
}

fn allocator(limit: &Limit, instances: u32) -> Allocator {
    let mut allocator = Allocator::default();
    let terms = Terms { per_second: limit.per_second(), burst: limit.burst, instances };
    allocator.configure([(Arc::clone(&limit.name), terms)]);
    allocator
}

fn ask(wanted: u32, returned: u32) -> v1::LeaseAsk {
    v1::LeaseAsk { limit: NAME.into(), demand: wanted, wanted, returned, ..Default::default() }
}

/// Lets a client and the allocator talk once.
fn talk(client: &Client, id: ClientId, allocator: &mut Allocator, now: Instant) {
    if let Some(request) = client.asks(now) {
        client.granted(&allocator.request(id, &request, now), now);
    }
}

/// Calls of `client` that are admitted, of `count`.
fn admitted(client: &Client, limit: &Limit, count: u32, now: Instant) -> u32 {
    (0..count).filter(|_| client.take(limit, b"", now).is_ok()).count() as u32
}

#[test]
fn a_bucket_is_divided_by_demand() {
    let now = Instant::now();
    let mut allocator = allocator(&limit(100, 1, 100), 2);
    let mut tokens = |client, wanted| allocator.ask(client, &ask(wanted, 0), now).unwrap().tokens;
    assert_eq!(tokens(1, 40), 40, "who is alone gets what it wants");
    assert_eq!(tokens(2, 120), 45, "three quarters of what is left");
    assert_eq!(tokens(1, 40), 3, "a quarter of the rest");
    let lease = allocator.ask(3, &ask(0, 0), now).unwrap();
    assert_eq!((lease.tokens, lease.retry_ms, lease.instances), (0, 0, 2));
}

#[test]
fn what_comes_back_is_leased_again_and_no_more_than_went_out() {
    let now = Instant::now();
    let mut allocator = allocator(&limit(1, 3600, 50), 1);
    assert_eq!(allocator.ask(1, &ask(50, 0), now).unwrap().tokens, 50);
    let empty = allocator.ask(2, &ask(1, 0), now).unwrap();
    assert_eq!((empty.tokens, empty.retry_ms), (0, 30_000), "an hour is not waited for in one go");
    assert_eq!(allocator.ask(2, &ask(9, 9), now).unwrap().tokens, 0, "it had none to return");
    assert_eq!(allocator.ask(1, &ask(0, 30), now).unwrap().tokens, 0);
    assert_eq!(allocator.ask(1, &ask(50, 1000), now).unwrap().tokens, 42, "50 of 59 wanted, of what came back");
    allocator.lost(1);
    let again = allocator.ask(1, &ask(10, 40), now).unwrap().tokens;
    assert_eq!(again, 4, "ten of nineteen parts of the eight that are left: whoever comes back is another");
}

#[test]
fn a_token_comes_back_once() {
    let now = Instant::now();
    let mut allocator = allocator(&limit(1, 3600, 50), 1);
    assert_eq!(allocator.ask(1, &ask(20, 0), now).unwrap().tokens, 20);
    for _ in 0..2 {
        assert_eq!(allocator.ask(1, &ask(0, 15), now).unwrap().tokens, 0);
    }
    assert_eq!(allocator.outstanding(NAME, b"", 1), 0);
}

#[test]
fn the_last_token_goes_to_whoever_comes_first() {
    let now = Instant::now();
    let mut allocator = allocator(&limit(1, 3600, 1), 2);
    assert_eq!(allocator.ask(1, &ask(5, 0), now).unwrap().tokens, 1);
    let next = allocator.ask(2, &ask(5, 0), now).unwrap();
    assert_eq!((next.tokens, next.retry_ms), (0, 30_000));
}

#[test]
fn who_has_been_silent_for_three_seconds_has_no_part_but_may_still_return_what_it_had() {
    let start = Instant::now();
    let limit = limit(1, 3600, 100);
    for (millis, tokens) in [(2999, 20), (3000, 40)] {
        let mut allocator = allocator(&limit, 2);
        assert_eq!(allocator.ask(1, &ask(60, 0), start).unwrap().tokens, 60);
        let later = start + Duration::from_millis(millis);
        // Half of the forty that are left, or all of it.
        assert_eq!(allocator.ask(2, &ask(60, 0), later).unwrap().tokens, tokens, "after {millis} ms");
    }
    let mut allocator = allocator(&limit, 2);
    assert_eq!(allocator.ask(1, &ask(60, 0), start).unwrap().tokens, 60);
    let later = start + Duration::from_secs(10);
    assert_eq!(allocator.ask(1, &ask(0, 60), later).unwrap().tokens, 0);
    assert_eq!(allocator.ask(1, &ask(200, 0), later).unwrap().tokens, 100, "all of it is there again");
}

#[test]
fn a_bucket_is_forgotten_when_it_is_full_and_nobody_has_asked_for_three_seconds() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    for (seconds, wanted, kept) in
        [(1, 0, &[0, 2999][..]), (3600, 0, &[0, 2999]), (3600, 5, &[0, 2999, 3000, 17_999_000])]
    {
        let mut allocator = allocator(&limit(1, seconds, 5), 1);
        allocator.ask(1, &ask(wanted, 0), start);
        for millis in kept {
            allocator.sweep(at(*millis));
            assert!(!allocator.is_empty() && allocator.len() == 1, "{wanted} of {seconds} s, after {millis} ms");
        }
        allocator.sweep(at(18_001_000));
        assert!(allocator.is_empty());
    }
    let mut full = allocator(&limit(1, 1, 5), 1);
    full.ask(1, &ask(0, 0), start);
    full.sweep(at(3000));
    assert!(full.is_empty());
}

#[test]
fn a_key_has_at_most_eight_values() {
    let now = Instant::now();
    let mut allocator = allocator(&limit(10, 1, 10), 1);
    let longest = encode(|see| (0..8).for_each(|_| see(&[b'x'; LONGEST_VALUE])));
    let longer = [&longest[..], &[0]].concat();
    assert!(allocator.ask(1, &v1::LeaseAsk { key: longest, ..ask(1, 0) }, now).is_some());
    assert!(allocator.ask(1, &v1::LeaseAsk { key: longer, ..ask(1, 0) }, now).is_none());
}

#[test]
fn what_is_not_a_limit_is_not_answered_and_full_buckets_are_forgotten() {
    let start = Instant::now();
    let mut allocator = allocator(&limit(10, 1, 10), 1);
    assert!(allocator.ask(1, &v1::LeaseAsk { limit: "shop/policy/none".into(), ..ask(1, 0) }, start).is_none());
    assert!(allocator.ask(1, &v1::LeaseAsk { key: vec![1; 5000], ..ask(1, 0) }, start).is_none());
    assert!(allocator.ask(1, &ask(5, 0), start).is_some());
    allocator.sweep(start);
    assert_eq!(allocator.len(), 1);
    allocator.sweep(start + Duration::from_secs(5));
    assert!(allocator.is_empty());
    allocator.ask(1, &ask(5, 0), start);
    allocator.configure([]);
    assert!(allocator.is_empty() && allocator.ask(1, &ask(5, 0), start).is_none());
}

#[test]
fn over_the_bound_keys_share_a_bucket() {
    let now = Instant::now();
    let mut allocator = Allocator::bounded(3);
    let terms = Terms { per_second: 1.0, burst: 5, instances: 1 };
    allocator.configure([(NAME.into(), terms)]);
    let key = |i: u8| v1::LeaseAsk { key: vec![1, i], ..ask(5, 0) };
    let tokens: Vec<u32> = (0..5).map(|i| allocator.ask(1, &key(i), now).unwrap().tokens).collect();
    assert_eq!((tokens, allocator.len(), allocator.overflowed()), (vec![5, 5, 5, 5, 0], 3, 2));

    let (client, limit) = (Client::bounded(3), limit(5, 5, 5));
    let admitted: Vec<usize> =
        (0..5_u8).map(|i| (0..9).filter(|_| client.take(&limit, &[1, i], now).is_ok()).count()).collect();
    assert_eq!((admitted, client.len(), client.overflowed()), (vec![5, 5, 5, 5, 0], 3, 18));
}

#[test]
fn sidecars_together_admit_the_limit_and_not_more() {
    let start = Instant::now();
    let limit = limit(100, 1, 100);
    let mut allocator = allocator(&limit, 3);
    let clients: [Client; 3] = Default::default();
    clients.iter().for_each(|client| client.connected(true, start));
    let mut counts = [0_u32; 3];
    // Ten seconds, each wanting twice what there is for everybody, in calls 5 ms apart; the network answers at once.
    for step in 0..2000 {
        let now = start + Duration::from_millis(5 * step);
        for (id, (client, count)) in clients.iter().zip(&mut counts).enumerate() {
            *count += admitted(client, &limit, 1, now);
            talk(client, id as u64, &mut allocator, now);
        }
    }
    let total: u32 = counts.iter().sum();
    // The bucket, ten seconds of its rate, and at most one reserve of each: a third of the limit.
    assert!((1000..=100 + 1000 + 3 * 34).contains(&total), "{total}");
    assert!(counts.iter().all(|count| (250..500).contains(count)), "{counts:?}");
}

#[test]
fn a_quiet_sidecar_leaves_its_part_to_a_busy_one() {
    let start = Instant::now();
    let limit = limit(100, 1, 100);
    let mut allocator = allocator(&limit, 2);
    let (busy, quiet) = (Client::default(), Client::default());
    [&busy, &quiet].iter().for_each(|client| client.connected(true, start));
    let (mut served, mut refused) = (0, 0);
    for step in 0..2000 {
        let now = start + Duration::from_millis(5 * step);
        served += admitted(&busy, &limit, 1, now);
        if step % 100 == 0 {
            refused += 1 - admitted(&quiet, &limit, 1, now);
        }
        talk(&busy, 1, &mut allocator, now);
        talk(&quiet, 2, &mut allocator, now);
        if step % 200 == 0 {
            [&busy, &quiet].iter().for_each(|client| client.sweep(now));
        }
    }
    assert!((950..1100 + 100).contains(&served), "{served} of 1000");
    assert!(refused < 10, "{refused} of 20 of the quiet one were refused");
}

#[test]
fn while_the_control_plane_is_away_each_keeps_to_its_share() {
    let start = Instant::now();
    let limit = limit(100, 1, 100);
    // Never heard of anybody else: all of it.
    let lone = Client::default();
    assert_eq!(admitted(&lone, &limit, 300, start), 100);
    assert_eq!(admitted(&lone, &limit, 300, start + Duration::from_secs(1)), 100);

    let mut allocator = allocator(&limit, 4);
    let clients: [Client; 2] = Default::default();
    clients.iter().for_each(|client| client.connected(true, start));
    let mut now = start;
    for _ in 0..400 {
        now += Duration::from_millis(5);
        for (id, (client, calls)) in clients.iter().zip([3, 1]).enumerate() {
            admitted(client, &limit, calls, now);
            talk(client, id as u64, &mut allocator, now);
        }
    }
    clients.iter().for_each(|client| client.connected(false, now));
    let mut counts = [0; 2];
    for _ in 0..2000 {
        now += Duration::from_millis(5);
        for (client, count) in clients.iter().zip(&mut counts) {
            assert!(client.asks(now).is_none(), "there is nobody to ask");
            *count += admitted(client, &limit, 3, now);
        }
    }
    assert!((700..=800).contains(&counts[0]) && (230..=300).contains(&counts[1]), "{counts:?} of 750 and 250");
    // A key that was never leased: a fourth, as there are four sidecars.
    let fresh = (0..100).filter(|_| clients[0].take(&limit, b"\x01x", now).is_ok()).count();
    assert_eq!(fresh, 25);
}

#[test]
fn who_was_told_of_others_keeps_to_its_part_from_the_first_call() {
    let now = Instant::now();
    let limit = limit(100, 1, 100);
    let allocator = allocator(&limit, 5);
    let client = Client::default();
    client.connected(true, now);
    client.granted(&allocator.announce([NAME, "shop/policy/none"]), now);
    assert_eq!(admitted(&client, &limit, 300, now), 20);
    client.granted(&allocator.announce([NAME]), now);
    assert!(client.wants(), "an announcement is no answer");
    assert_eq!(admitted(&client, &limit, 300, now + Duration::from_secs(1)), 20, "the reserve goes on");
}

#[test]
fn an_ask_without_an_answer_is_not_waited_for() {
    let start = Instant::now();
    let limit = limit(10, 1, 10);
    let mut allocator = allocator(&limit, 1);
    let client = Client::default();
    client.connected(true, start);
    admitted(&client, &limit, 10, start);
    talk(&client, 1, &mut allocator, start);
    assert_eq!(admitted(&client, &limit, 10, start), 0, "what was overdrawn is owed");
    let later = start + Duration::from_secs(1);
    assert_eq!(admitted(&client, &limit, 1, later), 0);
    assert!(client.asks(later).is_some());
    let unanswered = later + PATIENCE;
    assert_eq!(admitted(&client, &limit, 1, unanswered), 0, "the reserve begins empty");
    assert!((9..=10).contains(&admitted(&client, &limit, 30, unanswered + Duration::from_secs(1))));
}

#[test]
fn what_is_not_spent_in_time_goes_back() {
    let start = Instant::now();
    let limit = limit(1, 3600, 100);
    let mut allocator = allocator(&limit, 2);
    let client = Client::default();
    client.connected(true, start);
    admitted(&client, &limit, 20, start);
    talk(&client, 1, &mut allocator, start);
    let late = start + 2 * VALID + Duration::from_millis(1);
    client.sweep(late);
    talk(&client, 1, &mut allocator, late);
    let rest = allocator.ask(2, &ask(100, 0), late + Duration::from_secs(4)).unwrap().tokens;
    assert_eq!(rest, 80, "only what was admitted is gone");
}

#[test]
fn keys_are_encoded_so_that_values_do_not_run_into_each_other() {
    let key = |values: &[&str]| encode(|see| values.iter().for_each(|value| see(value.as_bytes())));
    assert_eq!(key(&[]), b"");
    assert_eq!(key(&["ab", ""]), b"\x02ab\x00");
    assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
    let long = "x".repeat(1000);
    assert_eq!(key(&[&long]).len(), 17);
    assert_ne!(key(&[&long]), key(&[&"x".repeat(1001)]));
    assert!(key(&[&long]) != OVERFLOW && key(&[&"x".repeat(128)]).len() == 129);
    // A byte that is no length of a value that is written out, and sixteen of hash.
    for value in ["x".repeat(129), "x".repeat(255), "x".repeat(256)] {
        let hashed = key(&[&value]);
        assert_eq!((hashed.len(), hashed[0]), (17, 129), "{} bytes", value.len());
    }
}

proptest! {
    /// Asks of any size from clients that come, go, lie about returns and confess at will.
    #[test]
    fn an_allocator_never_issues_more_than_the_bucket_had(
        steps in prop::collection::vec((0..700_u64, 0..6_u64, 0..60_u32, 0..60_u32, 0..20_u32, 0..12_u8), 1..200),
        requests in 1..40_u32, burst in 1..40_u32,
    ) {
        let limit = limit(requests, 1, burst);
        let mut allocator = allocator(&limit, 6);
        let start = Instant::now();
        let (mut now, mut out, mut owed) = (start, 0.0, 0.0);
        for (millis, client, wanted, returned, overdrawn, event) in steps {
            now += Duration::from_millis(millis);
            match event {
                0 => allocator.lost(client),
                1 => allocator.sweep(now),
                _ => {
                    let before: u64 = outstanding(&allocator, client);
                    let overdrawn = if event < 4 { overdrawn } else { 0 };
                    let lease = allocator.ask(client, &v1::LeaseAsk { overdrawn, ..ask(wanted, returned) }, now).unwrap();
                    // Only what was out can come back; no more than the bucket can lack is owed.
                    out -= f64::from(returned).min(before as f64);
                    owed += f64::from(overdrawn);
                    prop_assert!(lease.tokens <= wanted);
                    out += f64::from(lease.tokens);
                }
            }
            let most = f64::from(burst) + f64::from(requests) * (now - start).as_secs_f64();
            prop_assert!(out <= most + 1e-6, "{out} are out, {most} is the most; {owed} were owed");
        }
    }

    /// Whole sidecars, whose messages take their time and some of which are lost for good.
    #[test]
    fn sidecars_and_their_allocator_admit_no_more_than_the_limit_and_their_reserves(
        steps in prop::collection::vec((1..300_u64, 0..4_usize, 0..30_u32, 0..10_u8), 20..200),
        requests in 4..60_u32, burst in 4..60_u32,
    ) {
        let limit = limit(requests, 1, burst);
        let mut allocator = allocator(&limit, 4);
        let start = Instant::now();
        let mut clients: Vec<(u64, Client)> = (0..4).map(|id| (id, Client::default())).collect();
        clients.iter().for_each(|(_, client)| client.connected(true, start));
        // Grants on their way, and when they arrive.
        let mut under_way: Vec<(u64, Instant, v1::LeaseGrant)> = Vec::new();
        let (mut now, mut total, mut made) = (start, 0, 4_u64);
        for (millis, which, calls, event) in steps {
            now += Duration::from_millis(millis);
            under_way.retain(|(id, at, grant)| {
                let due = *at <= now;
                if let Some((_, client)) = clients.iter().find(|(known, _)| known == id && due) {
                    client.granted(grant, now);
                }
                !due
            });
            if event == 0 {
                // Killed and started again, with everything that it held.
                allocator.lost(clients[which].0);
                clients[which] = (made, Client::default());
                clients[which].1.connected(true, now);
                made += 1;
            }
            let (id, client) = &clients[which];
            total += admitted(client, &limit, calls, now);
            if event > 2 {
                client.sweep(now);
            }
            if let Some(request) = client.asks(now) {
                let delay = Duration::from_millis(u64::from(event) * 40);
                under_way.push((*id, now + delay, allocator.request(*id, &request, now)));
            }
        }
        // What a sidecar has not heard of others for is all its own: once the burst for each, and the rate until the first
        // answer is there, 400 ms at most.
        let reserves = made as f64 * f64::from(burst) + f64::from(requests) * made as f64 * 0.4;
        let most = f64::from(burst) + f64::from(requests) * (now - start).as_secs_f64() + reserves;
        prop_assert!(f64::from(total) <= most + 1e-6, "{total} > {most}");
    }
}

/// Tokens that a client may return.
fn outstanding(allocator: &Allocator, client: ClientId) -> u64 {
    allocator.outstanding(NAME, b"", client)
}
