//! Who vouches for whom: the authority, its rotation, the sidecars' certificates, and the clocks that all of them are judged by.

use super::{Fact, Seen};
use std::time::{Duration, SystemTime};

/// A root that ends sooner should be replaced now.
const ROOT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A certificate is renewed at half of its life, give or take a tenth: with less than this share left, that did not work.
const LATE: f64 = 0.25;
/// Milliseconds by which clocks may differ, and by which tokens and certificates are refused for it.
const SKEW: (u64, u64) = (5_000, 60_000);

pub(in super::super) fn facts(seen: &Seen) -> Vec<Fact> {
    let mut found = authority(seen);
    found.push(certificates(seen));
    found.push(clocks(seen));
    found
}

fn authority(seen: &Seen) -> Vec<Fact> {
    let (valid, still) = ("the roots of the mesh are valid", "no rotation of the root is under way");
    let status = match &seen.authority {
        Ok(status) => status,
        Err(error) => {
            let failed =
                Fact::error(valid, error.clone(), "see the control plane's log, and identity/ of its directory");
            return vec![failed, Fact::skipped(still, "the authority does not answer")];
        }
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seen.now).unwrap_or_default());
    let left = status.roots.iter().map(|root| root.not_after.duration_since(now).unwrap_or_default()).min();
    let left = left.unwrap_or_default();
    let detail = format!("{} trusted, the first ends in {} days", status.roots.len(), left.as_secs() / 86_400);
    let rotate = "replace the root while the mesh runs: weft identity rotate";
    let valid = match left {
        Duration::ZERO => Fact::error(valid, "one has ended, or there is none", rotate),
        left if left < ROOT => Fact::warning(valid, detail, rotate),
        _ => Fact::good(valid, detail),
    };
    let still = match &status.rotation {
        None => Fact::good(still, format!("{} signs", status.signing.get(..16).unwrap_or(&status.signing))),
        Some(progress) => {
            let waiting: Vec<_> = progress.waiting_for.iter().map(|waiting| waiting.sidecar.as_str()).collect();
            let detail = match waiting.len() {
                0 => "it goes on by itself".to_owned(),
                count => format!("it waits for {count} sidecars: {}", super::named(&waiting)),
            };
            Fact::warning(still, detail, "follow it with: weft identity show")
        }
    };
    vec![valid, still]
}

fn certificates(seen: &Seen) -> Fact {
    let name = "every sidecar's certificate is valid and renewed in time";
    let known: Vec<_> = seen.certificates.iter().filter_map(|(uid, of)| Some((uid, of.as_ref()?))).collect();
    if known.is_empty() {
        return Fact::skipped(name, "no connected sidecar has said anything of its certificate");
    }
    let ended: Vec<_> = known.iter().filter(|(_, of)| of.not_after <= seen.now).map(|(uid, _)| uid.as_str()).collect();
    #[expect(clippy::cast_precision_loss, reason = "a share of a day")]
    let is_late = |left: i64, life: i64| (left as f64) < LATE * life as f64;
    let late = known.iter().filter(|(_, of)| is_late(of.not_after - seen.now, of.not_after - of.not_before));
    let late: Vec<_> = late.map(|(uid, _)| uid.as_str()).collect();
    let hint = "the sidecar's log says why it is not renewed; see also: weft identity audit";
    if !ended.is_empty() {
        return Fact::error(name, format!("ended: {}", super::named(&ended)), hint);
    }
    Fact::of(name, &late, format!("{} of {0}", known.len()), |late| {
        Fact::warning(name, format!("less than a quarter of their life is left: {late}"), hint)
    })
}

fn clocks(seen: &Seen) -> Fact {
    let name = "the clocks of sidecars and control plane agree";
    let known: Vec<_> = seen.sidecars.iter().filter_map(|s| Some((s.workload.as_str(), s.clock_ahead_ms?))).collect();
    let Some((worst, ahead)) = known.iter().max_by_key(|(_, ahead)| ahead.unsigned_abs()) else {
        return Fact::skipped(name, "no connected sidecar has said what its clock shows");
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds with a decimal")]
    let seconds = ahead.unsigned_abs() as f64 / 1000.0;
    let side = if *ahead < 0 { "behind" } else { "ahead" };
    let detail = format!("{worst} is {seconds:.1} s {side}, the most of {}", known.len());
    let hint = "synchronise the clocks of these machines (NTP): certificates and tokens are judged by them";
    match ahead.unsigned_abs() {
        skew if skew > SKEW.1 => Fact::error(name, detail, hint),
        skew if skew > SKEW.0 => Fact::warning(name, detail, hint),
        _ => Fact::good(name, format!("within {seconds:.1} s of {}", known.len())),
    }
}
