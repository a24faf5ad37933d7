//! The loop from change to offer: wait, compile, publish, and tell whoever writes statuses.
//!
//! Changes are gathered until 25 ms pass without one, 250 ms at most, so that a hundred objects applied together compile once.

use super::watch::Reflectors;
use super::{Mesh, World};
use crate::compile::{Compiler, Output};
use crate::identity::Trust;
use crate::xds::{Hub, Snapshot};
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
    /// Grows with every compilation; zero: there was none yet.
    pub generation: u64,
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

/// Runs until `shutdown` or until the reflectors die, with the roots that `trust` says at each time; every compilation goes to `hub` and to `compiled`.
pub async fn run(
    reflectors: &Reflectors,
    mut mesh: Mesh,
    mut trust: watch::Receiver<Trust>,
    hub: &Hub,
    compiled: &watch::Sender<Compiled>,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let mut changes = reflectors.changes();
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
        let output = Arc::new(compiler.compile(&world));
        let snapshot = hub.publish(&output);
        generation += 1;
        tracing::debug!(
            generation,
            resources = snapshot.len(),
            recompiled = compiler.recompiled(),
            renewed = snapshot.renewed(),
            took = ?started.elapsed(),
            "compiled the mesh"
        );
        compiled.send_replace(Compiled { world, output, snapshot, generation });
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| "every watch has ended".to_owned())?,
            Ok(()) = trust.changed() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
