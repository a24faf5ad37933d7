//! Limits of scope Global: the instances of a service count together by leases from the control plane, callers are told where they stand, and
//! an instance goes on with its part of the limit while the control plane is away.

use crate::app::{App, Apps, Speaks, obeys};
use std::time::{Duration, Instant};
use weft_integration::rig::stage::{Answer, Caller, apply, text};
use weft_integration::rig::{Mesh, Run, Sidecar, program, wait_for};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A service `till` of some instances under one limit, and who calls it.
struct Till {
    caller: Caller,
    _instances: Vec<Sidecar>,
    mesh: Mesh,
    apps: Vec<App>,
    _thread: Apps,
}

impl Till {
    fn start(instances: usize, limit: &str, traffic: &str) -> Self {
        let (mesh, thread) = (Mesh::start(), Apps::start());
        let apps: Vec<App> = NAMES[..instances].iter().map(|name| thread.app(name, Speaks::Http(obeys))).collect();
        let sleep = program("sleep");
        let run = |app: &App| {
            mesh.run_ready(&Run {
                name: app.name,
                services: &["till"],
                ports: &[format!("80:{}:http", app.port)],
                command: &[text(&sleep), "infinity"],
                ..Run::default()
            })
        };
        let instances = apps.iter().map(run).collect();
        apply(
            &mesh,
            &format!(
                "apiVersion: weft.mesh/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: till, namespace: shop}}\nspec:\n  \
                 targetRefs: [{{kind: Service, name: till}}]\n  limits: [{{name: all, scope: Global, {limit}}}]\n---\n\
                 apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: till, namespace: shop}}\nspec:\n  \
                 targetRefs: [{{kind: Service, name: till}}]\n  {traffic}\n"
            ),
        );
        let caller = Caller::start(&mesh, "shop", "buyer");
        let till = Self { caller, _instances: instances, mesh, apps, _thread: thread };
        wait_for("every instance is ready", || match till.ready() {
            ready if ready == till.apps.len() => Ok(()),
            ready => Err(format!("{ready} are")),
        });
        till
    }

    fn ready(&self) -> usize {
        let is_ready = |app: &&App| self.mesh.object("workload", "shop", app.name)["status"]["phase"] == "Ready";
        self.apps.iter().filter(is_ready).count()
    }

    fn call(&self, key: &str) -> Answer {
        self.caller.call("GET", "http://till/", &[&format!("x-key: {key}")])
    }

    /// Keys whose calls go to the first instance and to the second.
    fn keys(&self) -> [String; 2] {
        ["a", "b"].map(|name| {
            let is_there = |key: &String| {
                wait_for("a call is admitted", || match self.call(key) {
                    answer if answer.status == 200 => Ok(answer.header("x-app") == Some(name)),
                    answer => Err(format!("{answer:?}")),
                })
            };
            (0..).map(|key| format!("key-{key}")).find(is_there).expect("keys without end")
        })
    }

    /// Calls one key after the other, for so long: how many calls of each are admitted in a second.
    fn admitted(&self, keys: &[&String], during: Duration) -> Vec<f64> {
        let began = Instant::now();
        let mut admitted = vec![0_u32; keys.len()];
        while began.elapsed() < during {
            for (count, key) in admitted.iter_mut().zip(keys) {
                *count += u32::from(self.call(key).status == 200);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        admitted.into_iter().map(|count| f64::from(count) / seconds).collect()
    }
}

/// The parameter of the only item of a field: `"shop/till/all";q=60;w=3600`.
fn parameter(answer: &Answer, field: &str, name: &str) -> u64 {
    let value = answer.header(field).unwrap_or_else(|| panic!("no {field}: {answer:?}"));
    let rest =
        value.strip_prefix("\"shop/till/all\";").unwrap_or_else(|| panic!("{field} is of another limit: {value}"));
    let found = rest.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {field}: {value}"))
}

#[test]
fn the_instances_of_a_service_share_a_global_limit_and_callers_are_told_where_they_stand() {
    const LIMIT: usize = 60;
    let till = Till::start(3, "requests: 60, per: 1h", "loadBalancer: {policy: RoundRobin}");
    let first = till.call("");
    assert_eq!((first.status, first.header("retry-after")), (200, None), "{first:?}");
    let policy = ["q", "w"].map(|name| parameter(&first, "ratelimit-policy", name));
    assert_eq!(policy, [LIMIT as u64, 3600], "{first:?}");
    // Before the first lease it is the instance's part of the limit that is counted.
    assert!(parameter(&first, "ratelimit", "r") < LIMIT as u64, "{first:?}");

    let admitted = || till.apps.iter().map(App::calls).sum::<usize>();
    // All is used, whoever has more to do: what one instance leased and did not need comes back.
    wait_for("the limit is used", || {
        let _ = till.call("");
        if admitted() * 10 >= LIMIT * 9 { Ok(()) } else { Err(format!("{} calls were admitted", admitted())) }
    });
    let last = (0..200).fold(first, |_, _| till.call(""));
    println!(
        "{} of a limit of {LIMIT} were admitted by three: {:?}",
        admitted(),
        till.apps.iter().map(App::calls).collect::<Vec<_>>()
    );
    assert!(till.apps.iter().all(|app| app.calls() > 0), "each instance admits some");
    // What each admitted before its first lease may come on top, once: its part of the limit. Apart they would admit three times as many.
    assert!(admitted() <= 2 * LIMIT, "{} calls were admitted", admitted());

    assert_eq!((last.status, last.header("weft-error")), (429, Some("rate-limited")), "{last:?}");
    assert!(last.body.contains("shop/till/all"), "{last:?}");
    assert_eq!(parameter(&last, "ratelimit", "r"), 0, "{last:?}");
    let wait: u64 = last.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((1..=3600).contains(&wait) && parameter(&last, "ratelimit", "t") <= wait, "{last:?}");
    let grpc = till.caller.call("POST", "http://till/", &["content-type: application/grpc", "te: trailers"]);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("8")), "RESOURCE_EXHAUSTED: {grpc:?}");
}

#[test]
fn without_its_control_plane_an_instance_keeps_to_its_part_of_a_global_limit_until_it_is_back() {
    /// Calls in a second.
    const LIMIT: f64 = 20.0;
    let second = Duration::from_secs(1);
    let mut till = Till::start(2, "requests: 20, per: 1s", "loadBalancer: {policy: Maglev, hash: [{header: x-key}]}");
    let [one, two] = till.keys();
    // With leases whoever has all to do gets all.
    let alone = |till: &Till| {
        wait_for("one instance has the whole limit", || {
            let rate = till.admitted(&[&one], 2 * second)[0];
            if rate > 0.75 * LIMIT { Ok(rate) } else { Err(format!("{rate:.1} a second")) }
        })
    };
    println!("alone with leases: {:.1} a second", alone(&till));
    let both = till.admitted(&[&one, &two], 3 * second);
    println!("both with leases: {both:.1?} a second");
    let sum: f64 = both.iter().sum();
    assert!(sum <= LIMIT + 2.0 * LIMIT / 3.0, "at most a burst and the reserves on top, in three seconds: {both:?}");

    till.mesh.kill();
    // Until what was leased has been spent or is no longer valid.
    till.admitted(&[&one, &two], 2 * second);
    let both = till.admitted(&[&one, &two], 3 * second);
    let half = till.admitted(&[&one], 3 * second)[0];
    println!("without the control plane: both {both:.1?}, alone {half:.1} a second");
    assert!(both.iter().sum::<f64>() <= 1.25 * LIMIT, "the limit holds: {both:?}");
    assert!(both.iter().all(|rate| *rate >= 0.1 * LIMIT), "each goes on: {both:?}");
    assert!(half <= 0.8 * LIMIT, "none gets the part of another: {half}");

    till.mesh.up(&[]);
    println!("with the control plane back: {:.1} a second", alone(&till));
    // The other may take a while to find it.
    let both = wait_for("they count together again", || {
        let both = till.admitted(&[&one, &two], 3 * second);
        if both.iter().sum::<f64>() <= LIMIT + 2.0 * LIMIT / 3.0 { Ok(both) } else { Err(format!("{both:.1?}")) }
    });
    println!("both: {both:.1?} a second");
}
