//! What a sidecar asks for, returns, confesses and remembers; [`super::super::tests`] has it talk to an allocator.

use super::super::VALID;
use super::*;
use crate::limit::rate::Scope;

const NAME: &str = "shop/policy/all";

fn limit(name: &str, requests: u32, seconds: u64, burst: u32) -> Limit {
    Limit {
        name: name.into(),
        matches: Vec::new(),
        keys: Vec::new(),
        requests,
        per: Duration::from_secs(seconds),
        burst,
        scope: Scope::Global,
    }
}

/// An answer to the bucket without a key.
fn lease(tokens: u32) -> v1::Lease {
    v1::Lease { limit: NAME.into(), tokens, valid_ms: 1000, share_millionths: 500_000, ..Default::default() }
}

fn grant(client: &Client, lease: v1::Lease, now: Instant) {
    client.granted(&v1::LeaseGrant { leases: vec![lease] }, now);
}

fn announce(client: &Client, name: &str, instances: u32, now: Instant) {
    grant(client, v1::Lease { limit: name.into(), instances, ..Default::default() }, now);
}

fn admitted(client: &Client, limit: &Limit, count: u32, now: Instant) -> u32 {
    (0..count).filter(|_| client.take(limit, b"", now).is_ok()).count() as u32
}

/// The only ask there is.
fn ask(client: &Client, now: Instant) -> v1::LeaseAsk {
    client.asks(now).and_then(|request| request.asks.into_iter().next()).expect("something to ask")
}

/// A connected client that has leased so many tokens, for as many calls as it had; the moment is that of the lease.
fn leasing(limit: &Limit, tokens: u32, now: Instant) -> Client {
    let client = Client::default();
    assert!(!client.wants() && client.is_empty());
    client.connected(true, now);
    admitted(&client, limit, tokens, now);
    assert!(client.wants() && !client.is_empty());
    assert_eq!(ask(&client, now).wanted, tokens);
    grant(&client, lease(tokens), now);
    client
}

#[test]
fn what_is_put_back_can_be_taken_again() {
    let now = Instant::now();
    let limit = limit(NAME, 10, 10, 10);
    let client = Client::default();
    client.connected(true, now);
    assert_eq!(admitted(&client, &limit, 11, now), 10);
    client.give(&limit, b"", now);
    assert_eq!(ask(&client, now).overdrawn, 9, "it is not confessed");
    assert_eq!(admitted(&client, &limit, 2, now), 1, "of the reserve");
    grant(&client, lease(5), now);
    assert_eq!(admitted(&client, &limit, 6, now), 5);
    client.give(&limit, b"", now);
    assert_eq!(admitted(&client, &limit, 2, now), 1, "of the lease");
}

#[test]
fn more_is_asked_for_when_less_than_half_of_what_a_second_needs_is_left() {
    let now = Instant::now();
    let limit = limit(NAME, 100, 1, 100);
    let client = leasing(&limit, 40, now);
    assert_eq!(admitted(&client, &limit, 10, now), 10);
    assert!(!client.wants(), "30 of 50");
    assert_eq!(admitted(&client, &limit, 5, now), 5);
    assert!(client.wants(), "25 of 55");
    let ask = ask(&client, now);
    assert_eq!((ask.demand, ask.wanted, ask.returned), (55, 30, 0));
}

#[test]
fn a_lease_ends_a_second_after_it_was_asked_for() {
    let start = Instant::now();
    let limit = limit(NAME, 100, 1, 100);
    for late in [Duration::ZERO, VALID] {
        let client = leasing(&limit, 40, start);
        let now = start + VALID - Duration::from_nanos(1);
        assert_eq!(admitted(&client, &limit, 1, now), 1);
        client.sweep(now);
        assert!(!client.wants(), "it is still valid");
        // An answer without tokens lengthens nothing.
        grant(&client, lease(0), now);
        let end = start + VALID + late;
        assert_eq!(admitted(&client, &limit, 1, end), 0);
        assert!(client.wants(), "nothing is left");
        assert_eq!(ask(&client, end).returned, 39);
    }
}

#[test]
fn a_lease_says_when_the_bucket_is_full_up_to_the_second_that_it_lasts() {
    let now = Instant::now();
    for (burst, full_in) in [(10, Duration::from_millis(100)), (100, SECOND), (1000, SECOND)] {
        let limit = limit(NAME, 100, 1, burst);
        let client = leasing(&limit, 5, now);
        assert_eq!(client.take(&limit, b"", now), Ok(Left { tokens: 4, full_in }));
    }
}

#[test]
fn what_was_admitted_without_a_lease_is_confessed_as_far_as_the_reserve_lacks_it() {
    let start = Instant::now();
    let limit = limit(NAME, 100, 100, 100);
    let client = Client::default();
    assert_eq!(admitted(&client, &limit, 10, start), 10);
    let later = start + Duration::from_secs(4);
    client.connected(true, later);
    assert!(!client.wants());
    client.sweep(later);
    assert!(client.wants());
    let confession = ask(&client, later);
    assert_eq!((confession.demand, confession.wanted, confession.overdrawn), (0, 0, 6));
    client.sweep(later);
    assert!(!client.wants(), "once");
}

#[test]
fn while_nothing_is_owed_or_left_over_there_is_nothing_to_ask() {
    let start = Instant::now();
    let limit = limit(NAME, 100, 1, 100);
    let client = leasing(&limit, 5, start);
    assert_eq!(admitted(&client, &limit, 5, start), 5);
    assert_eq!(ask(&client, start).wanted, 10);
    grant(&client, lease(0), start);
    let later = start + VALID;
    client.sweep(later);
    assert!(!client.wants() && !client.is_empty());
    client.sweep(start + 2 * SECOND);
    assert!(client.is_empty(), "idle for as long as a bucket takes to fill, and two seconds");
}

#[test]
fn the_share_fills_from_when_the_stream_went_down() {
    let start = Instant::now();
    let limit = limit(NAME, 100, 1, 100);
    let client = leasing(&limit, 40, start);
    assert_eq!(admitted(&client, &limit, 40, start), 40);
    client.connected(false, start);
    assert_eq!(admitted(&client, &limit, 100, start), 0, "what there was has been spent");
    assert_eq!(admitted(&client, &limit, 100, start + SECOND), 50, "half of the limit, as the lease told");
    let client = leasing(&limit, 40, start);
    assert_eq!(admitted(&client, &limit, 40, start), 40);
    client.connected(false, start);
    assert_eq!(admitted(&client, &limit, 100, start + SECOND), 50, "whoever calls, and when");
}

#[test]
fn what_was_not_spent_goes_back_after_an_outage_however_long() {
    let start = Instant::now();
    let client = leasing(&limit(NAME, 100, 1, 100), 40, start);
    client.connected(false, start);
    let later = start + 60 * SECOND;
    client.sweep(later);
    assert!(!client.is_empty() && !client.wants(), "there is nobody to return it to");
    client.connected(true, later);
    client.sweep(later);
    assert_eq!(ask(&client, later).returned, 40);
}

#[test]
fn an_answer_that_does_not_say_how_many_enforce_a_limit_leaves_it_as_before() {
    let now = Instant::now();
    let limit = limit(NAME, 100, 1, 100);
    let client = Client::default();
    announce(&client, NAME, 5, now);
    grant(&client, lease(0), now);
    client.sweep(now);
    assert_eq!(admitted(&client, &limit, 300, now), 20);
}

#[test]
fn limits_are_remembered_up_to_a_bound_and_those_in_use_beyond_it() {
    let now = Instant::now();
    let name = |i: usize| format!("shop/policy/{i}");
    let client = Client::default();
    for i in 0..=MOST_LIMITS {
        announce(&client, &name(i), 5, now);
    }
    client.sweep(now);
    let fifth_of = |i: usize| admitted(&client, &limit(&name(i), 100, 1, 100), 300, now);
    assert_eq!((fifth_of(0), fifth_of(1)), (20, 20), "none is forgotten at the bound");
    assert_eq!(fifth_of(MOST_LIMITS), 100, "and none is learnt beyond it");
    client.sweep(now);
    assert_eq!((fifth_of(0), fifth_of(MOST_LIMITS)), (0, 0), "what is used up stays so");
    assert_eq!(fifth_of(2), 100, "beyond the bound those that are not in use are forgotten");
}

#[test]
fn a_demand_is_that_of_the_busier_of_this_second_and_the_one_before() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    // Calls at their moments, and what is then found when.
    for (calls, seen) in [
        (&[(0, 40)][..], &[(0, 40), (999, 40), (1000, 40), (1999, 40), (2000, 0)][..]),
        (&[(0, 40), (1000, 10)], &[(1000, 40), (1999, 40), (2000, 10), (2999, 10), (3000, 0)]),
        (&[(0, 40), (1500, 10)], &[(1500, 40), (2499, 40), (2500, 10)]),
        (&[(0, 40), (2000, 10)], &[(2000, 10)]),
        (&[(0, 40), (3000, 10)], &[(3000, 10)]),
        (&[(0, 10), (1000, 40)], &[(1000, 40)]),
    ] {
        let mut demand = Demand { began: start, current: 0, previous: 0 };
        for (millis, count) in calls {
            (0..*count).for_each(|_| demand.count(at(*millis)));
        }
        for (millis, wanted) in seen {
            assert_eq!(demand.at(at(*millis)), *wanted, "{calls:?}: at {millis} ms");
        }
    }
}
