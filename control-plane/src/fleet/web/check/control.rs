//! The control plane itself, and where it keeps what it knows.

use super::{Fact, Room, Seen};
use serde_json::{Value, json};

/// Below this share or this many bytes of free room somebody should look; below the second of each it is about to fail.
const LOW: (f64, u64) = (0.10, 256 << 20);
const NONE: (f64, u64) = (0.01, 32 << 20);

pub(in super::super) fn facts(seen: &Seen) -> Vec<Fact> {
    let compiled = "the configuration is compiled";
    let detail = || format!("{} resources, compilation {}", seen.compiled.snapshot.len(), seen.compiled.generation);
    let compiled = if seen.compiled.generation > 0 {
        Fact::good(compiled, detail())
    } else {
        Fact::error(compiled, "not once yet", "its log says what it waits for")
    };
    let leads = "one control plane leads";
    let owner = match seen.lead.replicas.len() {
        0 | 1 => seen.lead.owner.clone(),
        n => format!("{}, of {n} that serve", seen.lead.owner),
    };
    let leads = match (seen.lead.owner.as_str(), seen.lead.is_certain()) {
        ("", _) => Fact::skipped(leads, "it keeps its objects for itself"),
        (_, true) => Fact::good(leads, owner),
        (_, false) => Fact::error(leads, owner, "another is about to lead; ask again"),
    };
    vec![compiled, leads]
}

pub(in super::super) fn store(seen: &Seen) -> Vec<Fact> {
    let answers = "the store answers";
    let answers = match &seen.store {
        Ok(revision) => Fact::good(answers, format!("revision {revision}")),
        Err(error) => {
            Fact::error(answers, error.clone(), "see the control plane's log, and the disk or etcd that it is on")
        }
    };
    vec![answers, room(&seen.room)]
}

/// The store, as figures; null: it could not be found out.
pub(in super::super) fn described(seen: &Seen) -> Value {
    let (owner, room) = (seen.lead.owner.as_str(), seen.room.as_ref().ok());
    json!({
        "shared": !owner.is_empty(),
        "leader": (!owner.is_empty()).then_some(owner),
        "answers": seen.store.is_ok(),
        "error": seen.store.as_ref().err(),
        "revision": seen.store.as_ref().ok(),
        "freeBytes": room.map(|room| room.free),
        "totalBytes": room.map(|room| room.all),
    })
}

fn room(found: &Result<Room, String>) -> Fact {
    let name = "the data directory has room";
    let room = match found {
        Ok(room) => room,
        Err(error) => return Fact::skipped(name, error.clone()),
    };
    let detail = format!("{} of {} free", size(room.free), size(room.all));
    #[expect(clippy::cast_precision_loss, reason = "a share of a disk")]
    let share = room.free as f64 / room.all.max(1) as f64;
    let below = |(least, bytes): (f64, u64)| share < least && room.free < bytes.saturating_mul(8) || room.free < bytes;
    if below(NONE) {
        Fact::error(name, detail, "free some: without room no object can be changed and no workload can join")
    } else if below(LOW) {
        Fact::warning(name, detail, "free some: the store, the audit records and backups need it")
    } else {
        Fact::good(name, detail)
    }
}

/// `512 MiB`
fn size(bytes: u64) -> String {
    match bytes {
        0..0x0040_0000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn room_is_judged_by_its_share_and_by_its_size() {
        let judge = |free_mib: u64, all_mib: u64| room(&Ok(Room { free: free_mib << 20, all: all_mib << 20 })).result;
        assert_eq!(judge(50_000, 1_000_000), Outcome::Ok, "five hundredths of much are enough");
        assert_eq!(judge(1_000, 100_000), Outcome::Warning);
        assert_eq!(judge(200, 300), Outcome::Warning);
        assert_eq!(judge(20, 100_000), Outcome::Error);
        assert_eq!(room(&Err("gone".into())).result, Outcome::Skipped);
        assert_eq!((size(512 << 20), size(300 << 30)), ("512 MiB".into(), "300 GiB".into()));
    }
}
