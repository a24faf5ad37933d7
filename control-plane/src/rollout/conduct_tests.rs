//! Rollouts from end to end with simulated time: twenty sidecars that tell of their calls, and what becomes of a change.

use super::*;
use crate::world::reconcile::{Compiled, Staged};

/// Those who decide, over a mesh that is played here: who holds what, and what sidecars tell.
struct Conducting {
    plane: Plane,
    means: conduct::Means,
    conductor: conduct::Conductor,
    streams: Vec<crate::xds::convergence::Guard>,
    began: std::time::Instant,
    seconds: u64,
    /// Who makes no calls any more.
    gone: Option<String>,
}

impl Conducting {
    /// Twenty sidecars that call cart.
    fn new(folder: &std::path::Path) -> Self {
        let (fleet, convergence) = (Arc::<crate::fleet::Fleet>::default(), Arc::<crate::xds::Convergence>::default());
        let streams = (0..20).map(|i| {
            let client = Client { identity: "spiffe://weft.local/ns/shop/sa/web".into(), namespace: "shop".into() };
            let guard = convergence.join(client);
            guard.sent(type_url::INBOUND, std::iter::once(format!("shop/web-{i}").into()));
            guard.sent(type_url::SERVICE, std::iter::once("shop/cart".into()));
            guard
        });
        let means = conduct::Means {
            rollouts: Arc::default(),
            store: Arc::new(store::Embedded::open(&folder.join("db"), Default::default()).unwrap()),
            fleet,
            convergence: convergence.clone(),
            compiled: tokio::sync::watch::channel(Compiled::default()).1,
        };
        let (conductor, began) = (conduct::Conductor::default(), std::time::Instant::now());
        let streams = streams.collect();
        Self { plane: Plane::new(), means, conductor, streams, began, seconds: 0, gone: None }
    }

    /// A second goes by: every sidecar makes ten calls, of which so many fail where it has the change, and elsewhere.
    fn second(&mut self, failures: (u64, u64)) {
        let output = Arc::new(self.plane.compile());
        for i in 0..20 {
            let uid = format!("shop/web-{i}");
            if self.gone.as_ref() == Some(&uid) {
                continue;
            }
            let stable = Arc::ptr_eq(self.plane.offer.of(Some(&uid)), &self.plane.offer.stable);
            let failures = if stable { failures.1 } else { failures.0 };
            let calls = v1::CallStats { destination: "shop/cart".into(), calls: 10, failures, ..Default::default() };
            self.means.fleet.tell(&uid, &[v1::CallStats { direction: v1::Direction::Outbound.into(), ..calls }]);
        }
        let staged = self.plane.offer.canary.clone().map(|canary| {
            let verdicts = self.plane.rollouts.verdicts(&output.verdicts);
            Arc::new(Staged { verdicts, trial: Some((output.clone(), canary)) })
        });
        let world = Arc::new(self.plane.world.clone());
        let snapshot = self.plane.offer.stable.clone();
        let latest = Compiled { world, output, snapshot, staged, generation: self.seconds };
        let now = self.began + Duration::from_secs(self.seconds);
        self.seconds += 1;
        let writes = self.conductor.decide(&self.means, &self.plane.rollouts, &latest, now, 1000 + self.seconds);
        for write in writes {
            let id = record::id(&write.key).unwrap();
            self.plane.revision += 1;
            let revision = self.plane.revision;
            let read = write
                .value
                .map(|value| record::read(&store::Record { key: write.key.clone(), revision, value }).unwrap().1);
            self.plane.rollouts.note(id, revision, read);
        }
        self.plane.compile();
    }

    fn stage(&mut self) -> Option<Stage> {
        self.plane.note().map(|note| note.0)
    }

    /// Seconds until it is no longer so.
    fn during(&mut self, stage: Stage, failures: (u64, u64)) -> u64 {
        let from = self.seconds;
        while self.stage() == Some(stage) {
            self.second(failures);
            assert!(self.seconds < from + 2000, "{stage:?} has no end");
        }
        self.seconds - from
    }
}

#[test]
fn a_change_is_measured_tried_by_one_of_twenty_and_taken_back_or_given_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Conducting::new(folder.path());
    mesh.second((0, 0));
    mesh.plane.apply(policy(2, "2s"));
    let waited = mesh.during(Stage::Waiting, (0, 0));
    assert!((10..=13).contains(&waited), "calls are counted before: {waited} s");
    assert_eq!(mesh.plane.offer.canary.as_ref().map(|canary| canary.sample.len()), Some(1));
    let tried = mesh.during(Stage::Trying, (10, 0));
    assert!(tried <= 2, "{tried} s");
    let (stage, message) = mesh.plane.note().unwrap();
    assert_eq!(stage, Stage::RolledBack);
    let why = "error rate of 1 of 20 sidecars went from 0.0 % to 100.0 % of 10 calls, of the others it was 0.0 %";
    assert!(message.ends_with(why), "{message}");
    // Nothing follows from it any more, however long it stands.
    let revision = mesh.plane.revision;
    (0..100).for_each(|_| mesh.second((10, 0)));
    assert_eq!((mesh.stage(), mesh.plane.revision), (Some(Stage::RolledBack), revision));
    assert_eq!(mesh.plane.timeouts(), (1, 1));

    mesh.plane.apply(policy(3, "3s"));
    mesh.during(Stage::Waiting, (1, 1));
    let tried = mesh.during(Stage::Trying, (1, 1));
    assert!((59..=62).contains(&tried), "{tried} s");
    assert_eq!((mesh.stage(), mesh.plane.timeouts()), (None, (3, 3)), "what always fails is no fault of the change");
}

#[test]
fn what_nobody_needs_is_in_force_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Conducting::new(folder.path());
    mesh.streams.clear();
    mesh.plane.apply(policy(2, "2s"));
    let waited = mesh.during(Stage::Waiting, (0, 0));
    assert!((30..=33).contains(&waited), "sidecars may be on their way back after a start: {waited} s");
    assert_eq!((mesh.stage(), mesh.plane.timeouts()), (None, (2, 2)));
    mesh.plane.apply(policy(3, "3s"));
    assert!(mesh.during(Stage::Waiting, (0, 0)) <= 2);
    assert_eq!(mesh.plane.timeouts(), (3, 3));
    mesh.plane.world.traffic.remove("shop/cart");
    mesh.second((0, 0));
    assert!(mesh.plane.rollouts.useless().is_empty(), "the record went with the object");
}

#[test]
fn a_sample_that_has_gone_is_replaced_and_a_start_watches_for_the_whole_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Conducting::new(folder.path());
    mesh.plane.apply(policy(2, "2s"));
    mesh.during(Stage::Waiting, (0, 0));
    let sample = |mesh: &Conducting| mesh.plane.offer.canary.as_ref().unwrap().sample.first().unwrap().clone();
    (0..20).for_each(|_| mesh.second((0, 0)));
    mesh.conductor = conduct::Conductor::default();
    mesh.means.fleet.count(None);
    let tried = mesh.during(Stage::Trying, (0, 0));
    assert!((59..=62).contains(&tried), "{tried} s after the start");
    assert_eq!(mesh.stage(), None);

    mesh.plane.apply(policy(3, "3s"));
    mesh.during(Stage::Waiting, (0, 0));
    let first = sample(&mesh);
    let number: usize = first.rsplit('-').next().unwrap().parse().unwrap();
    drop(mesh.streams.remove(number));
    mesh.gone = Some(first.clone());
    let tried = mesh.during(Stage::Trying, (0, 0));
    assert!((29..=32).contains(&tried), "{tried} s");
    assert_eq!(mesh.stage(), Some(Stage::Waiting));
    mesh.during(Stage::Waiting, (0, 0));
    assert_ne!(sample(&mesh), first);
}
