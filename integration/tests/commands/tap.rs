//! `weft tap`: calls of real programs as they end, filtered, without credentials, within bounds.

use crate::json;
use serde_json::Value;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Caller, apply, services};
use weft_integration::rig::{Mesh, Process, Sidecar, Upstream, wait_for};

const DENY: &str = "apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: payments}]
  action: Deny
  rules: [{name: admin, to: [{paths: ['/admin*']}]}]
";

/// Payments of two instances, and orders, which calls them.
struct Shop {
    mesh: Mesh,
    orders: Caller,
    _payments: [Sidecar; 2],
    _apps: Upstream,
}

impl Shop {
    #[track_caller]
    fn open() -> Self {
        let mesh = Mesh::start();
        services(&mesh, "shop", &["payments"], 80, "http");
        let nth = AtomicU64::new(0);
        let apps = Upstream::start(move |request| {
            let nth = nth.fetch_add(1, Ordering::SeqCst);
            match request.path.as_str() {
                "/flaky" if nth.is_multiple_of(2) => (503, "later".to_owned()),
                "/broken" => (500, "no".to_owned()),
                _ => (200, "well".to_owned()),
            }
        });
        let payments = ["payments-1", "payments-2"].map(|name| apps.instance(&mesh, "payments", name));
        let orders = Caller::start(&mesh, "shop", "orders");
        assert_eq!(orders.get("http://payments/items").status, 200);
        apply(&mesh, DENY);
        Self { mesh, orders, _payments: payments, _apps: apps }
    }

    /// What a tap shows while `call` is made again and again, until it has shown `limit` calls.
    #[track_caller]
    fn tap(&self, arguments: &[&str], limit: u64, mut call: impl FnMut(&Caller)) -> Vec<Value> {
        let (limit, out) =
            (limit.to_string(), self.mesh.folder().join(format!("tap-{}.out", arguments.join("-").replace('/', "_"))));
        let mut all = vec!["tap", "-n", "shop", "-o", "json", "--limit", &limit];
        all.extend(arguments);
        let mut command = self.mesh.command(&all);
        command.stdout(std::fs::File::create(&out).unwrap()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let status = wait_for("the tap shows what is called", || {
            call(&self.orders);
            child.try_wait().unwrap().ok_or_else(|| std::fs::read_to_string(&out).unwrap_or_default())
        });
        assert!(status.success(), "{arguments:?}: {status}");
        std::fs::read_to_string(&out).unwrap().lines().map(|line| json(line.to_owned())).collect()
    }

    /// Lines of the audit record that are about taps.
    fn audited(&self) -> Vec<Value> {
        let record = json(self.mesh.weft(&["admin", "audit", "-o", "json"]).ok());
        let about = |line: &&Value| line["resource"] == "workloads/tap";
        record["items"].as_array().unwrap().iter().filter(about).cloned().collect()
    }
}

#[test]
fn calls_are_shown_as_they_end_by_filter_and_without_credentials() {
    let shop = Shop::open();

    // A call of the caller's side and of the other, and no secret of a header or of the query in either.
    let secrets = ["Authorization: Bearer s3cret-a", "Cookie: id=s3cret-b", "X-Auth-Token: s3cret-c", "X-Tenant: acme"];
    let shown = shop.tap(&["payments", "--path", "/items"], 20, |orders| {
        orders.call("GET", "http://payments/items?access_token=s3cret-d&page=2", &secrets);
    });
    let text = format!("{shown:?}");
    assert!(!text.contains("s3cret") && text.contains("acme"), "{text}");
    let side = |direction: &'static str| shown.iter().filter(move |call| call["direction"] == direction);
    let both =
        side("outbound").find_map(|out| Some((side("inbound").find(|call| call["traceId"] == out["traceId"])?, out)));
    let (inbound, outbound) = both.expect("both sides of one call");
    assert_eq!((&outbound["workload"], &outbound["source"]), (&"shop/orders".into(), &"shop/orders".into()));
    assert_eq!((&outbound["destination"], &outbound["status"]), (&"shop/payments".into(), &200.into()));
    assert_eq!(outbound["path"], "/items?access_token=***&page=2");
    assert_eq!((&outbound["mtls"], &outbound["method"]), (&true.into(), &"GET".into()));
    assert!(outbound["durationMs"].as_f64() > Some(0.0), "{outbound}");
    assert!(inbound["workload"].as_str().unwrap().starts_with("shop/payments-"), "{inbound}");
    assert_eq!(inbound["sourceIdentity"], "spiffe://weft.local/ns/shop/sa/orders");

    // A retry shows its attempts, each with its endpoint.
    let shown = shop.tap(&["--to", "payments", "--direction", "outbound", "--path", "/flaky"], 6, |orders| {
        orders.get("http://payments/flaky");
    });
    let retried = shown.iter().find(|call| call["retries"].as_u64() > Some(0)).unwrap();
    let attempts = retried["attempts"].as_array().unwrap();
    assert_eq!(attempts[0]["status"], 503, "{retried}");
    assert!(attempts.iter().all(|a| a["endpoint"].as_str().unwrap().starts_with("shop/payments-")), "{retried}");
    assert!(attempts.iter().all(|a| a["durationMs"].as_f64() > Some(0.0)), "{retried}");

    // A denied call is shown with the policy that denied it, where it was denied.
    let shown = shop.tap(&["payments", "--reason", "denied"], 1, |orders| {
        orders.get("http://payments/admin/keys");
        orders.get("http://payments/items");
    });
    let denied = &shown[0];
    assert_eq!((&denied["status"], &denied["direction"]), (&403.into(), &"inbound".into()));
    assert_eq!(denied["destination"], "shop/payments");
    let decision = &denied["decision"];
    assert_eq!((&decision["allowed"], &decision["policy"]), (&false.into(), &"shop/no-admin".into()));
    assert_eq!(decision["rule"], "admin");

    // Status, method, workload.
    let mixed = |orders: &Caller| {
        orders.get("http://payments/broken");
        orders.call("POST", "http://payments/items", &[]);
        orders.get("http://payments/items");
    };
    let errors = shop.tap(&["--status", "5xx"], 3, mixed);
    assert!(errors.iter().all(|call| call["status"] == 500), "{errors:?}");
    let posts = shop.tap(&["workload/orders", "--method", "post"], 2, mixed);
    assert!(posts.iter().all(|c| c["method"] == "POST" && c["workload"] == "shop/orders"), "{posts:?}");

    // Every one of them is in the record, with what it asked for and how much it was shown.
    let lines = shop.audited();
    let ended: Vec<_> = lines.iter().filter(|line| line["detail"]["ended"] == "limit").collect();
    assert_eq!(ended.len(), 5, "{lines:?}");
    let denied = ended.iter().find(|line| line["detail"]["tap"]["reason"] == "denied").unwrap();
    assert_eq!((&denied["detail"]["calls"], &denied["namespace"]), (&1.into(), &"shop".into()));

    // For people: a line a call, with units.
    let mut command = shop.mesh.command(&["tap", "payments", "-n", "shop", "--status", "2xx"]);
    let mut tap = Process::start(shop.mesh.folder(), "tap-table", &mut command);
    wait_for("a line is printed", || {
        shop.orders.get("http://payments/items");
        let log = tap.log();
        if log.contains("GET /items") { Ok(()) } else { Err(log) }
    });
    let log = tap.log();
    assert!(log.starts_with("TIME ") && log.contains("shop/payments"), "{log}");
    assert!(log.contains("ms ") || log.contains("µs "), "{log}");
    // Ctrl-C ends it with a summary.
    tap.signal(rustix::process::Signal::INT);
    assert_eq!(tap.wait(), 0);
    assert!(tap.log().contains(" shown, none left out"), "{}", tap.log());
}

#[test]
fn a_reader_that_does_not_keep_up_is_told_how_much_it_missed_and_stalls_nobody() {
    let shop = Shop::open();
    let mut command =
        shop.mesh.command(&["tap", "-n", "shop", "--direction", "outbound", "--max-rps", "1000", "--duration", "15s"]);
    let mut tap = Process::start(shop.mesh.folder(), "tap-slow", &mut command);
    tap.wait_for_log("TIME ");
    tap.signal(rustix::process::Signal::STOP);
    // Records of some ten KiB each: more than lies between the two in buffers.
    let large: Vec<String> = (0..40).map(|nth| format!("X-Fill-{nth}: {}", "x".repeat(240))).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..1500 {
        let began = Instant::now();
        assert_eq!(shop.orders.call("GET", "http://payments/items", &large).status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("the slowest call took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    tap.signal(rustix::process::Signal::CONT);
    assert_eq!(tap.wait(), 0, "{}", tap.log());
    let log = tap.log();
    assert!(log.contains("did not keep up"), "{}", log.lines().last().unwrap_or_default());
    assert!(log.matches("GET /items").count() > 100, "what fitted is shown");
}

#[test]
fn taps_are_for_those_who_may_and_are_bounded() {
    let shop = Shop::open();
    shop.mesh.weft(&["user", "add", "ana", "-o", "ana.kubeconfig"]).ok();
    let refused = shop.mesh.weft(&["--kubeconfig", "ana.kubeconfig", "tap", "-n", "shop"]);
    assert!(refused.code == 1 && refused.err.contains("workloads/tap"), "{refused:?}");
    let lines = shop.audited();
    assert!(lines.iter().any(|line| line["code"] == 403 && line["user"] == "ana"), "{lines:?}");

    // With the role admin of another namespace she sees nothing of this one; with that of this one she does, until it is taken away.
    let bind = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: ana, namespace: {namespace}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: ana}}]\n"
        )
    };
    apply(&shop.mesh, &bind("bank"));
    assert_eq!(shop.mesh.weft(&["--kubeconfig", "ana.kubeconfig", "tap", "-n", "shop"]).code, 1);
    apply(&shop.mesh, &bind("shop"));
    let mut command = shop.mesh.command(&["--kubeconfig", "ana.kubeconfig", "tap", "-n", "shop", "--max-rps", "1"]);
    let mut tap = Process::start(shop.mesh.folder(), "tap-ana", &mut command);
    wait_for("she sees a call", || {
        shop.orders.get("http://payments/items");
        if tap.log().contains("GET /items") { Ok(()) } else { Err(tap.log()) }
    });
    // More than one a second is left out, and said: with the next that is shown at the latest.
    wait_for("she sees another call", || {
        shop.orders.get("http://payments/items");
        if tap.log().matches("GET /items").count() > 2 { Ok(()) } else { Err(tap.log()) }
    });
    shop.mesh.weft(&["delete", "rolebinding", "ana", "-n", "shop"]).ok();
    assert_eq!(tap.wait(), 1, "{}", tap.log());
    assert!(tap.log().contains("the right to tap was taken away"), "{}", tap.log());
    assert!(tap.log().contains("left out: "), "{}", tap.log());

    // A user has four at most.
    let open = |n: usize| {
        let mut command = shop.mesh.command(&["tap", "-n", "shop"]);
        let mut tap = Process::start(shop.mesh.folder(), &format!("tap-{n}"), &mut command);
        tap.wait_for_log("TIME ");
        tap
    };
    let mut taps: Vec<_> = (0..4).map(open).collect();
    let fifth = shop.mesh.weft(&["tap", "-n", "shop"]);
    assert!(fifth.code == 1 && fifth.err.contains("4 taps open"), "{fifth:?}");
    // All of them are shown a call, and one that goes makes room.
    let seen = |tap: &Process| tap.log().matches("GET /items").count();
    wait_for("every tap shows calls", || {
        shop.orders.get("http://payments/items");
        if taps.iter().all(|tap| seen(tap) > 1) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    taps.pop();
    wait_for("there is room again", || {
        let one = shop.mesh.weft(&["tap", "-n", "shop", "--duration", "1s"]);
        if one.code == 0 { Ok(()) } else { Err(one.err) }
    });
    drop(taps);
    let last = shop.audited();
    assert!(last.iter().any(|line| line["detail"]["ended"] == "gone"), "{last:?}");
}
