//! `docs/src/howto/breakers.md`

use crate::page::Page;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{apply, services};
use weft_integration::rig::{Caller, DEADLINE, Mesh, Sidecar, Upstream, wait_for};

/// What an application does with calls.
const WELL: u8 = 0;
const FAILS: u8 = 1;
const EVERY_OTHER_FAILS: u8 = 2;
const SAYS_500: u8 = 3;
const HOLDS: u8 = 4;

/// An application whose ways the test changes.
#[derive(Default)]
struct Ways {
    mode: AtomicU8,
    unwell: AtomicBool,
    calls: AtomicU64,
    under_way: AtomicU64,
}

impl Ways {
    fn start(ways: &Arc<Self>) -> Upstream {
        let ways = Arc::clone(ways);
        Upstream::start(move |request| {
            if request.path == "/healthz" {
                return (if ways.unwell.load(SeqCst) { 500 } else { 200 }, String::new());
            }
            let number = ways.calls.fetch_add(1, SeqCst);
            let status = match ways.mode.load(SeqCst) {
                FAILS => 503,
                EVERY_OTHER_FAILS if number.is_multiple_of(2) => 503,
                SAYS_500 => 500,
                HOLDS => {
                    ways.under_way.fetch_add(1, SeqCst);
                    let end = Instant::now() + DEADLINE;
                    while ways.mode.load(SeqCst) == HOLDS && Instant::now() < end {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    200
                }
                _ => 200,
            };
            (status, String::new())
        })
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, SeqCst);
    }

    fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }
}

/// Calls take turns, so that who gets none is kept from it, and not only slower.
const TURNS: &str = "
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: inventory-turns, namespace: shop}
spec: {targetRefs: [{kind: Service, name: inventory}], loadBalancer: {policy: RoundRobin}}
";

/// Breakers of the service that are not closed, by endpoint.
fn open(sidecar: &Sidecar) -> Vec<String> {
    let metrics = sidecar.metrics();
    let lines = metrics.lines().filter(|l| l.starts_with("weft_breaker_state{") && !l.ends_with(" 0"));
    lines.filter_map(|l| Some(l.split("endpoint=\"").nth(1)?.split('"').next()?.to_owned())).collect()
}

fn is(what: bool, told: impl FnOnce() -> String) -> Result<(), String> {
    if what { Ok(()) } else { Err(told()) }
}

#[test]
fn an_instance_that_fails_gets_no_calls_and_returns_and_slow_or_unwell_ones_cost_no_more_than_said() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["inventory"], 80, "http");
    let ways = [(); 2].map(|()| Arc::<Ways>::default());
    let applications = ways.each_ref().map(Ways::start);
    let _sidecars = [
        applications[0].instance(&mesh, "inventory", "inventory-1"),
        applications[1].instance(&mesh, "inventory", "inventory-2"),
    ];
    let [one, two] = &ways;
    let caller = Caller::start(&mesh, "shop", "caller");
    let call = |method: &str| caller.call(method, "http://inventory/stock", &[]);
    let well = || assert_eq!(call("GET").status, 200);
    let both_get_calls = || {
        let before = [one.calls(), two.calls()];
        wait_for("both get calls", || {
            well();
            is(one.calls() > before[0] && two.calls() > before[1], || format!("{:?}", open(&caller.sidecar)))
        });
    };
    caller.until("inventory answers", "http://inventory/stock", |answer| answer.status == 200);
    apply(&mesh, TURNS);
    let mut page = Page::open("breakers", &mesh);
    page.file();
    page.run();
    both_get_calls();

    // Three failures in a row: out, unnoticed by callers whose calls may be repeated; and in again.
    two.set(FAILS);
    let before = two.calls();
    wait_for("its breaker opens", || {
        well();
        let open = open(&caller.sidecar);
        is(open == ["shop/inventory-2"], || format!("{open:?}"))
    });
    assert!(two.calls() - before <= 4, "{} failures", two.calls() - before);
    two.set(WELL);
    wait_for("it is back", || {
        well();
        is(open(&caller.sidecar).is_empty(), || "open".to_owned())
    });
    both_get_calls();

    // A 500 is an answer.
    two.set(SAYS_500);
    let before = two.calls();
    wait_for("500s of one instance", || {
        call("GET");
        is(two.calls() > before + 8, || format!("{}", two.calls() - before))
    });
    assert!(open(&caller.sidecar).is_empty(), "{:?}", open(&caller.sidecar));
    two.set(WELL);

    // Never three in a row, but half of them.
    two.set(EVERY_OTHER_FAILS);
    wait_for("its breaker opens by the share that succeeds", || {
        call("GET");
        let open = open(&caller.sidecar);
        is(open == ["shop/inventory-2"], || format!("{open:?}"))
    });

    // When all fail no more than half is out, and callers are told what the application says.
    one.set(FAILS);
    two.set(FAILS);
    for _ in 0..30 {
        let answer = call("POST");
        assert_eq!((answer.status, answer.header("weft-error")), (503, None), "{answer:?}");
        assert_eq!(open(&caller.sidecar).len(), 1);
    }
    one.set(WELL);
    two.set(WELL);
    wait_for("both are back", || {
        call("GET");
        is(open(&caller.sidecar).is_empty(), || "open".to_owned())
    });

    page.file();
    page.file();
    let said = page.run();
    for name in ["inventory-breaker", "inventory-bulkhead", "inventory-health"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    // Checks: who fails them gets no calls, until all fail them.
    two.unwell.store(true, SeqCst);
    wait_for("the unwell one gets no calls", || {
        let before = two.calls();
        (0..20).for_each(|_| well());
        is(two.calls() == before, || format!("{} calls", two.calls() - before))
    });
    one.unwell.store(true, SeqCst);
    both_get_calls();
    one.unwell.store(false, SeqCst);
    two.unwell.store(false, SeqCst);

    // Sixteen at a time.
    one.set(HOLDS);
    two.set(HOLDS);
    let under_way = || ways.iter().map(|ways| ways.under_way.load(SeqCst)).sum::<u64>();
    std::thread::scope(|threads| {
        let calls: Vec<_> = (0..16).map(|_| threads.spawn(|| call("POST"))).collect();
        wait_for("sixteen calls are under way", || is(under_way() == 16, || format!("{}", under_way())));
        let refused = call("POST");
        // Before anything is asserted, so that a failure does not wait for the calls' deadline.
        one.set(WELL);
        two.set(WELL);
        assert_eq!((refused.status, refused.header("weft-error")), (503, Some("overflow")), "{refused:?}");
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    assert!(open(&caller.sidecar).is_empty(), "{:?}", open(&caller.sidecar));
    page.run();
}
