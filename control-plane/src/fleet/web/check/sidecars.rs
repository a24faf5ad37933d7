//! The sidecars: whether they are there, what they hold, what they refused, and of which version they are.

use super::{Fact, Seen};
use crate::kinds::Phase;
use crate::world::Workload;
use crate::xds::convergence::Refused;
use std::collections::BTreeMap;

/// An idle sidecar reports every ten seconds.
const SILENT: u64 = 45;

pub(super) fn facts(seen: &Seen) -> Vec<Fact> {
    vec![connected(seen), reporting(seen), versions(seen), newest(seen), refusals(seen)]
}

/// Workloads that should have a control stream, and have none; and how many should.
pub(in super::super) fn lost(seen: &Seen) -> (Vec<&str>, usize) {
    // One that is leaving has said so; that its stream ends is no fault.
    let stays = |w: &Workload| w.spec.tunnel.is_some() && w.phase != Some(Phase::Draining);
    let meshed: Vec<_> =
        seen.compiled.world.workloads.iter().filter(|(_, w)| stays(w)).map(|(uid, _)| &**uid).collect();
    let here = |uid: &str| seen.sidecars.binary_search_by(|s| s.workload.as_str().cmp(uid)).is_ok();
    (meshed.iter().filter(|uid| !here(uid)).copied().collect(), meshed.len())
}

/// Connected sidecars that have not reported for too long.
pub(in super::super) fn silent(seen: &Seen) -> Vec<&str> {
    let is_silent =
        |s: &super::Sidecar| s.connected_seconds > SILENT && s.last_report_seconds.is_none_or(|n| n > SILENT);
    seen.sidecars.iter().filter(|s| is_silent(s)).map(|s| s.workload.as_str()).collect()
}

/// What sidecars refuse of what they are offered now.
pub(in super::super) fn refused(seen: &Seen) -> Vec<&Refused> {
    let mut refused: Vec<_> = seen.progress.iter().flat_map(|p| &p.refused).collect();
    refused.sort_unstable_by(|a, b| (&a.sidecar, &a.resource, &a.field).cmp(&(&b.sidecar, &b.resource, &b.field)));
    refused.dedup();
    refused
}

fn connected(seen: &Seen) -> Fact {
    let name = "every sidecar is connected";
    let (lost, meshed) = lost(seen);
    Fact::of(name, &lost, format!("{meshed} of {meshed} sidecars"), |names| {
        let hint =
            "is its process there? its sidecar.log says why it cannot connect; delete a workload that is gone for good";
        Fact::error(name, format!("{} without a control stream: {names}", lost.len()), hint)
    })
}

fn reporting(seen: &Seen) -> Fact {
    let name = "every sidecar reports";
    Fact::of(name, &silent(seen), format!("{} of {0} within {SILENT} s", seen.sidecars.len()), |silent| {
        Fact::warning(
            name,
            format!("silent: {silent}"),
            "their figures are missing in weft stat; see their sidecar.log",
        )
    })
}

fn versions(seen: &Seen) -> Fact {
    let (name, own) = ("every sidecar is of the control plane's version", env!("CARGO_PKG_VERSION"));
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for sidecar in seen.sidecars.iter().filter(|s| s.version != own) {
        *others.entry(&sidecar.version).or_default() += 1;
    }
    let others: Vec<_> = others.into_iter().map(|(version, count)| format!("{count} of {version}")).collect();
    Fact::of(name, &others, own, |others| {
        Fact::warning(
            name,
            format!("{others}, the control plane is {own}"),
            "restart workloads with a sidecar of its version",
        )
    })
}

fn newest(seen: &Seen) -> Fact {
    let name = "every sidecar holds the newest configuration";
    let behind = seen.progress.iter().filter(|p| p.hold + p.refused.len() < p.need).count();
    match behind {
        0 => Fact::good(name, format!("{} connected", seen.sidecars.len())),
        // For a moment that is as it should be.
        _ => Fact::warning(
            name,
            format!("{behind} of {} routes and policies are on their way", seen.progress.len()),
            "wait a moment; a sidecar that stays behind shows in: weft get KIND NAME -o yaml (Programmed)",
        ),
    }
}

fn refusals(seen: &Seen) -> Fact {
    let name = "no sidecar has refused anything";
    let refused = refused(seen).into_iter();
    let refused: Vec<_> =
        refused.map(|r| format!("{} refuses {}: {}: {}", r.sidecar, r.resource, r.field, r.reason)).collect();
    Fact::of(name, &refused, "", |refused| {
        Fact::error(name, refused, "they keep their last good version; is a sidecar older than the control plane?")
    })
}
