//! The loop from change to offer: wait, compile, publish, and tell whoever writes statuses.
//!
//! Changes are gathered until 25 ms pass without one, 250 ms at most, so that a hundred objects applied together compile once.

use super::watch::Reflectors;
use super::{Mesh, World};
use crate::compile::{Compiler, Guarded, Output, Verdict};
use crate::identity::Trust;
use crate::metrics::Metrics;
use crate::rollout::{Plan, Rollouts};
use crate::xds::{Canary, Hub, Offer, Snapshot};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

const QUIET: Duration = Duration::from_millis(25);
const AT_MOST: Duration = Duration::from_millis(250);

/// One compilation: the world it was made of, what came out, and what is offered since.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What was compiled.
    pub world: Arc<World>,
    /// What came out.
    pub output: Arc<Output>,
    /// What is offered.
    pub snapshot: Arc<Snapshot>,
    /// What is not in force for all as it is written, while there is any.
    pub staged: Option<Arc<Staged>>,
    /// Grows with every compilation; zero: there was none yet.
    pub generation: u64,
}

/// What changes that are rolled out in stages make of a compilation.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The verdicts of the compilation; of objects that are held back, those of their new editions.
    pub verdicts: Vec<Arc<Verdict>>,
    /// What the sample gets, and who is in it.
    pub trial: Option<(Arc<Output>, Canary)>,
}

impl Compiled {
    /// What every policy object learns of its fate.
    #[must_use]
    pub fn verdicts(&self) -> &[Arc<Verdict>] {
        self.staged.as_ref().map_or(&self.output.verdicts, |staged| &staged.verdicts)
    }

    fn trial(&self) -> Option<&(Arc<Output>, Canary)> {
        self.staged.as_ref()?.trial.as_ref()
    }

    /// What is offered, and to whom.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer { stable: self.snapshot.clone(), canary: self.trial().map(|(_, canary)| canary.clone()) }
    }

    /// What each workload enforces.
    pub fn inbound(&self) -> impl Iterator<Item = (&str, &Guarded)> {
        let trial = self.trial();
        self.output.inbound.iter().map(move |(uid, stable)| {
            let tried = trial.filter(|(_, canary)| canary.sample.contains(&**uid));
            (&**uid, &**tried.and_then(|(output, _)| output.inbound.get(uid)).unwrap_or(stable))
        })
    }
}

/// Waits until changes pause; false when they have ended for good.
pub async fn settle<T>(changes: &mut watch::Receiver<T>, quiet: Duration, at_most: Duration) -> bool {
    let end = Instant::now() + at_most;
    loop {
        changes.borrow_and_update();
        let until = end.min(Instant::now() + quiet);
        match timeout_at(until, changes.changed()).await {
            Ok(Ok(())) if Instant::now() < end => {}
            Ok(Ok(())) | Err(_) => return true,
            Ok(Err(_)) => return false,
        }
    }
}

/// Runs until `shutdown` or until the reflectors die, with the roots that `trust` says at each time; every compilation goes to `hub` and to `compiled`, and how long it took to `metrics`.
pub async fn run(
    reflectors: &Reflectors,
    mut mesh: Mesh,
    mut trust: watch::Receiver<Trust>,
    rollouts: &Rollouts,
    (hub, metrics): (&Hub, &Metrics),
    compiled: &watch::Sender<Compiled>,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let mut changes = reflectors.changes();
    let mut moved = rollouts.changes();
    let mut compiler = Compiler::default();
    let mut generation = 0;
    tokio::select! {
        ready = reflectors.ready() => ready.map_err(|e| format!("a watch ended: {e}"))?,
        () = shutdown.cancelled() => return Ok(()),
    }
    loop {
        let alive = tokio::select! {
            alive = settle(&mut changes, QUIET, AT_MOST) => alive,
            () = shutdown.cancelled() => return Ok(()),
        };
        if !alive {
            return Err("every watch has ended".to_owned());
        }
        let started = Instant::now();
        Trust { roots: mesh.roots, reissue_after: mesh.reissue_after, revocations: mesh.revocations } =
            trust.borrow_and_update().clone();
        let world = Arc::new(reflectors.world(&mesh));
        let plan = rollouts.stage(&world);
        let output = Arc::new(compiler.compile(plan.stable.as_ref().unwrap_or(&world)));
        let (recompiled, staged) = (compiler.recompiled(), stage(rollouts, &compiler, &plan, &output));
        let trial = staged.as_ref().and_then(|(_, trial)| trial.clone()).filter(|_| !plan.sample.is_empty());
        let offer = hub.publish(&output, trial.as_ref().map(|trial| (&**trial, plan.sample.clone())));
        let snapshot = offer.stable;
        let staged = staged.map(|(verdicts, _)| Arc::new(Staged { verdicts, trial: trial.zip(offer.canary) }));
        generation += 1;
        metrics.compiled(started.elapsed());
        tracing::debug!(
            generation,
            resources = snapshot.len(),
            recompiled,
            renewed = snapshot.renewed(),
            took = ?started.elapsed(),
            "compiled the mesh"
        );
        compiled.send_replace(Compiled { world, output, snapshot, staged, generation });
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| "every watch has ended".to_owned())?,
            Ok(()) = trust.changed() => {}
            Ok(()) = moved.changed() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// The verdicts on everything, and what the sample gets.
type Trial = (Vec<Arc<Verdict>>, Option<Arc<Output>>);

/// The verdicts with those of what is held back, and what the sample gets. A trial is compiled as a change of what all others have, which
/// it leaves alone: the two share whatever is equal.
fn stage(rollouts: &Rollouts, compiler: &Compiler, plan: &Plan, output: &Output) -> Option<Trial> {
    plan.stable.as_ref()?;
    let compile = |world: &World| compiler.clone().compile(world);
    let trial = plan.trial.as_ref().map(compile);
    let unknown = plan.unknown.as_ref().map(compile);
    let made = [&trial, &unknown].into_iter().flatten();
    rollouts.learn(made.flat_map(|output| &output.verdicts));
    Some((rollouts.verdicts(&output.verdicts), trial.map(Arc::new)))
}
