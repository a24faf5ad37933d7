//! Limits over a clock that the test turns: what is admitted, what is refused, and what the caller is told.

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::route::{Head, PathMatch};

fn limit(name: &str, requests: u32, seconds: u64) -> Limit {
    Limit {
        name: format!("shop/policy/{name}").into(),
        matches: Vec::new(),
        keys: Vec::new(),
        requests,
        per: Duration::from_secs(seconds),
        burst: requests,
        scope: Scope::Local,
    }
}

fn limits(limits: &[Limit]) -> RateLimits {
    RateLimits::new(limits.iter().cloned().map(Arc::new).collect(), Arc::default())
}

/// A call and who makes it.
#[derive(Clone, Default)]
struct Call {
    method: &'static str,
    target: &'static str,
    headers: HeaderMap,
    identity: Option<&'static str>,
}

fn get(target: &'static str) -> Call {
    Call { method: "GET", target, ..Call::default() }
}

impl Call {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn under(&self, limits: &RateLimits, now: Instant) -> Decision {
        limits.check(&Head::new(self.method, self.target, &self.headers), self.identity, now)
    }

    fn is_admitted(&self, limits: &RateLimits, now: Instant) -> bool {
        matches!(self.under(limits, now), Decision::Admit { .. })
    }
}

fn fields(standings: &Standings) -> [String; 2] {
    standings.fields().unwrap().map(|(_, value)| value.to_str().unwrap().to_owned())
}

#[test]
fn a_call_is_told_where_it_stands_and_how_long_to_wait() {
    let start = Instant::now();
    let limits = limits(&[limit("minute", 3, 60), limit("hour", 100, 3600)]);
    let Decision::Admit { standings } = get("/").under(&limits, start) else { panic!("the first is admitted") };
    let policy = r#""shop/policy/minute";q=3;w=60, "shop/policy/hour";q=100;w=3600"#;
    let rest = r#""shop/policy/minute";r=2;t=20, "shop/policy/hour";r=99;t=36"#;
    assert_eq!(fields(&standings), [policy, rest]);
    (0..2).for_each(|_| assert!(get("/").is_admitted(&limits, start)));
    let Decision::Limited { limit, retry_after: wait, standings } = get("/").under(&limits, start) else {
        panic!("the fourth is not")
    };
    assert_eq!((&*limit, retry_after(wait).to_str().unwrap()), ("shop/policy/minute", "20"));
    assert_eq!(fields(&standings)[1], r#""shop/policy/minute";r=0;t=20, "shop/policy/hour";r=97;t=108"#);
    assert!(get("/").is_admitted(&limits, start + Duration::from_secs(20)));
    assert_eq!(retry_after(Duration::from_millis(1)).to_str().unwrap(), "1");
    assert_eq!(retry_after(Duration::from_millis(1001)).to_str().unwrap(), "2", "rounded up");
}

#[test]
fn only_calls_that_match_count() {
    let now = Instant::now();
    let carts = Match { path: PathMatch::Prefix("/cart".into()), ..Match::default() };
    let limits = limits(&[Limit { matches: vec![carts], ..limit("cart", 1, 60) }]);
    for _ in 0..3 {
        let Decision::Admit { standings } = get("/orders").under(&limits, now) else { panic!("it does not match") };
        assert!(standings.fields().is_none(), "no limit, no fields");
    }
    assert!(get("/cart/7?x=1").is_admitted(&limits, now) && !get("/cart").is_admitted(&limits, now));
}

#[test]
fn each_combination_of_keys_has_its_own_bucket() {
    let now = Instant::now();
    let user = Key::Header("x-user".parse().unwrap());
    let limits = limits(&[Limit { keys: vec![Key::Identity, user, Key::Method], ..limit("each", 1, 60) }]);
    let cart = Call { identity: Some("spiffe://weft.local/ns/shop/sa/cart"), ..get("/") };
    let calls = [
        get("/"),
        cart.clone(),
        cart.clone().header("x-user", "7"),
        Call { method: "POST", ..cart.clone() },
        get("/").header("x-user", "7"),
        // The values run into each other, the keys do not.
        Call { identity: Some("a"), ..get("/").header("x-user", "bc") },
        Call { identity: Some("ab"), ..get("/").header("x-user", "c") },
    ];
    assert!(calls.iter().all(|call| call.is_admitted(&limits, now)));
    assert!(calls.iter().all(|call| !call.is_admitted(&limits, now)));
    let same = cart.header("x-user", "7").header("x-user", "8");
    assert!(!same.is_admitted(&limits, now), "the first value counts");
    assert_eq!(limits.store().len(), calls.len());
}

#[test]
fn a_header_that_is_missing_has_its_place_among_the_keys() {
    let now = Instant::now();
    let keys = ["x-tenant", "x-user"].map(|name| Key::Header(name.parse().unwrap())).to_vec();
    let limits = limits(&[Limit { keys, ..limit("each", 1, 60) }]);
    for (tenant, user) in [(None, None), (Some("7"), None), (None, Some("7")), (Some("7"), Some("7"))] {
        let mut call = get("/");
        for (name, value) in [("x-tenant", tenant), ("x-user", user)] {
            call = value.into_iter().fold(call, |call, value| call.header(name, value));
        }
        assert!(call.is_admitted(&limits, now), "{tenant:?} {user:?} has a bucket of its own");
        assert!(!call.is_admitted(&limits, now));
    }
}

#[test]
fn of_limits_that_refuse_the_one_to_wait_for_longest_is_named() {
    let now = Instant::now();
    let (minute, hour) = (limit("minute", 1, 60), limit("hour", 1, 3600));
    for order in [[&minute, &hour], [&hour, &minute]] {
        let limits = limits(&order.map(Limit::clone));
        assert!(!limits.is_empty() && get("/").is_admitted(&limits, now));
        let Decision::Limited { limit, retry_after: wait, .. } = get("/").under(&limits, now) else {
            panic!("both are used up")
        };
        assert_eq!((&*limit, wait), ("shop/policy/hour", Duration::from_secs(3600)));
    }
    assert!(limits(&[]).is_empty());
}

#[test]
fn where_one_limit_refuses_nothing_is_taken_from_the_others() {
    let now = Instant::now();
    let limits = limits(&[limit("wide", 10, 60), limit("narrow", 1, 60), limit("also-wide", 10, 60)]);
    assert!(get("/").is_admitted(&limits, now));
    for _ in 0..20 {
        let Decision::Limited { limit, standings, .. } = get("/").under(&limits, now) else { panic!("no room") };
        assert_eq!(&*limit, "shop/policy/narrow");
        let remaining: Vec<u32> = standings.iter().map(|standing| standing.remaining).collect();
        assert_eq!(remaining, [9, 0, 9]);
    }
}

#[test]
fn other_limits_keep_what_was_counted_under_the_same_names() {
    let now = Instant::now();
    let first = limits(&[limit("a", 2, 60), limit("b", 2, 60)]);
    (0..2).for_each(|_| assert!(get("/").is_admitted(&first, now)));
    let second = first.succeeded_by(vec![Arc::new(Limit { burst: 5, ..limit("a", 5, 60) })]);
    assert!(!get("/").is_admitted(&second, now), "a larger bucket is no new one");
    assert!(get("/").is_admitted(&second, now + Duration::from_secs(12)), "at the new rate");
}

#[test]
fn full_buckets_make_room_and_without_any_keys_share_one() {
    let start = Instant::now();
    let store = Store::bounded(160);
    assert!(store.is_empty());
    let limit = limit("keyed", 2, 2);
    let key = |i: u32| store.key(&limit.name, |see| see(&i.to_be_bytes()));
    let mut shared = 0;
    for i in 0..1000 {
        shared += u32::from(store.take(key(i), &limit, start).is_err());
    }
    assert!(!store.is_empty() && store.len() <= 160 && store.evicted() == 0, "{} buckets", store.len());
    // One shared bucket of two in each shard; what found room is counted for itself.
    assert_eq!(store.overflowed(), u64::from(1000 - store.len() as u32));
    assert!(shared >= 1000 - 160 - 32, "{shared} were refused");
    let later = start + Duration::from_secs(1);
    assert!((1000..1040).all(|i| store.take(key(i), &limit, later).is_ok()), "those that are full again make room");
    assert_eq!((store.evicted() > 0, store.len() <= 160), (true, true));
}

/// Calls in a simulated time, under limits of known rates.
type Step = (u64, usize, usize);

proptest! {
    #[test]
    fn no_schedule_admits_more_than_burst_and_rate_and_a_refused_call_costs_nothing(
        steps in prop::collection::vec((0..800_u64, 0..3_usize, 1..6_usize), 1..120),
        sizes in prop::collection::vec((1..8_u32, 1..8_u32, 1..5_u64), 3),
    ) {
        let steps: Vec<Step> = steps;
        // The first counts everything, the others one path each.
        let made: Vec<Limit> = sizes.iter().zip(["", "/a", "/b"]).map(|((requests, burst, seconds), path)| {
            let matches = if path.is_empty() { Vec::new() } else {
                vec![Match { path: PathMatch::Prefix(path.into()), ..Match::default() }]
            };
            Limit { burst: *burst, matches, ..limit(path.trim_matches('/'), *requests, *seconds) }
        }).collect();
        let limits = limits(&made);
        let start = Instant::now();
        let mut now = start;
        let mut model: Vec<f64> = made.iter().map(|limit| f64::from(limit.burst)).collect();
        for (millis, which, count) in steps {
            now += Duration::from_millis(millis);
            for (tokens, limit) in model.iter_mut().zip(&made) {
                *tokens = (*tokens + limit.per_second() * millis as f64 / 1e3).min(f64::from(limit.burst));
            }
            for _ in 0..count {
                let counted: Vec<usize> = if which == 0 { vec![0] } else { vec![0, which] };
                let least = counted.iter().map(|i| model[*i]).fold(f64::MAX, f64::min);
                let admitted = get(["/", "/a", "/b/c"][which]).is_admitted(&limits, now);
                // Within rounding of the model either answer is right.
                prop_assert!((least - 1.0).abs() < 1e-6 || admitted == (least >= 1.0), "{least} tokens, {admitted}");
                if admitted {
                    counted.iter().for_each(|i| model[*i] -= 1.0);
                }
            }
        }
    }
}
