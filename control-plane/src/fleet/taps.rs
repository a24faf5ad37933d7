//! Taps: live calls, as the sidecars of a namespace tell them, fanned out to whoever looks. In memory only, and bounded everywhere: a reader
//! that does not keep up loses calls and is told how many; no sidecar ever waits for one.
//!
//! Which calls are told is the sidecars' to filter; here only those of the namespace's own sidecars pass. A sidecar that connects joins every
//! tap that concerns it; dropping a [`Tapping`] stops all.

use super::Fleet;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use weft_policy::limit::TokenBucket;
use weft_proto::v1;

/// Taps of one user, and of all.
const TAPS: (usize, usize) = (4, 16);
/// Calls that wait for a reader.
const WAITING: usize = 512;
/// Bytes of one call that a sidecar may tell: of a well-behaved one they are a quarter of it at most.
const CALL: usize = 64 << 10;
/// Calls of one message.
const CALLS: usize = 256;
/// Calls a second that a tap shows at most.
pub const PER_SECOND: u32 = 1000;
/// How long one lasts at most.
pub const LONGEST: Duration = Duration::from_secs(600);

/// What somebody wants to see.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Who.
    pub user: String,
    /// Whose sidecars tell; empty: all.
    pub namespace: String,
    /// One workload of it; empty: all.
    pub workload: String,
    /// Which calls.
    pub filter: v1::TapFilter,
    /// Calls a second, at most [`PER_SECOND`].
    pub per_second: u32,
    /// At most [`LONGEST`].
    pub lasting: Duration,
}

impl Wanted {
    fn concerns(&self, uid: &str) -> bool {
        super::web::is_of(uid, &self.namespace)
            && (self.workload.is_empty() || uid.split_once('/').is_some_and(|(_, name)| name == self.workload))
    }
}

/// Why there is no tap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The user has enough of them.
    #[error("{0:?} has {max} taps open, and no user may have more", max = TAPS.0)]
    User(String),
    /// There are enough of them.
    #[error("{max} taps are open, and the mesh takes no more", max = TAPS.1)]
    All,
}

/// Calls that matched and are not shown, since somebody last took the counts.
#[derive(Debug, Default)]
pub struct Drops {
    sidecar: AtomicU64,
    control_plane: AtomicU64,
    reader: AtomicU64,
}

impl Drops {
    /// By whom, and how many; those that are not zero.
    pub fn take(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let by = [("sidecar", &self.sidecar), ("controlPlane", &self.control_plane), ("reader", &self.reader)];
        by.map(|(by, calls)| (by, calls.swap(0, Relaxed))).into_iter().filter(|(_, calls)| *calls > 0)
    }
}

#[derive(Debug)]
struct Open {
    wanted: Wanted,
    bucket: TokenBucket,
    calls: mpsc::Sender<Arc<v1::TappedCall>>,
    drops: Arc<Drops>,
    until: Instant,
}

impl Open {
    /// The command that opens it, for what is left of its time.
    fn command(&self, tap: u64, now: Instant) -> v1::command::Command {
        let seconds = self.until.saturating_duration_since(now).as_secs().clamp(1, LONGEST.as_secs());
        v1::command::Command::Tap(v1::Tap {
            tap,
            filter: Some(self.wanted.filter.clone()),
            per_second: self.wanted.per_second,
            seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        })
    }

    fn show(&mut self, call: &Arc<v1::TappedCall>, now: Instant) {
        if self.bucket.take(1, now).is_err() {
            self.drops.control_plane.fetch_add(1, Relaxed);
        } else if self.calls.try_send(Arc::clone(call)).is_err() {
            self.drops.reader.fetch_add(1, Relaxed);
        }
    }
}

/// Open taps, by number.
#[derive(Debug, Default)]
pub(super) struct Taps(Mutex<BTreeMap<u64, Open>>);

impl Taps {
    /// What a sidecar that connects is told first.
    pub(super) fn joined(&self, uid: &str) -> Vec<v1::command::Command> {
        let (open, now) = (self.0.lock(), Instant::now());
        open.iter().filter(|(_, one)| one.wanted.concerns(uid)).map(|(tap, one)| one.command(*tap, now)).collect()
    }

    /// What a sidecar tells. Returns taps that it tells of and should not: they are over.
    pub(super) fn told(&self, uid: &str, told: v1::TappedCalls) -> Vec<u64> {
        let (mut open, now) = (self.0.lock(), Instant::now());
        let mut over = Vec::new();
        for call in told.calls.into_iter().take(CALLS) {
            let fits = call.encoded_len() <= CALL;
            let taps = call.taps.clone();
            let call = Arc::new(v1::TappedCall { workload: uid.to_owned(), ..call });
            for tap in taps.into_iter().take(TAPS.1) {
                match open.get_mut(&tap).filter(|one| one.wanted.concerns(uid)) {
                    Some(one) if fits => one.show(&call, now),
                    Some(one) => drop(one.drops.control_plane.fetch_add(1, Relaxed)),
                    None if over.contains(&tap) || over.len() >= TAPS.1 => {}
                    None => over.push(tap),
                }
            }
        }
        for drops in told.drops.iter().take(TAPS.1) {
            if let Some(one) = open.get(&drops.tap).filter(|one| one.wanted.concerns(uid)) {
                one.drops.sidecar.fetch_add(drops.calls, Relaxed);
            }
        }
        over
    }
}

/// An open tap. Dropped, it is closed everywhere.
#[derive(Debug)]
pub struct Tapping {
    fleet: Arc<Fleet>,
    tap: u64,
    calls: mpsc::Receiver<Arc<v1::TappedCall>>,
    drops: Arc<Drops>,
    /// Sidecars that were told when it was opened.
    pub sidecars: usize,
}

impl Tapping {
    /// The next call.
    pub async fn next(&mut self) -> Arc<v1::TappedCall> {
        match self.calls.recv().await {
            Some(call) => call,
            // The sender lives in the fleet for as long as this value does.
            None => std::future::pending().await,
        }
    }

    /// What was not shown.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        self.fleet.untap(self.tap);
    }
}

impl Fleet {
    /// Opens a tap at every sidecar that it concerns, also those that come later.
    ///
    /// # Errors
    /// When there are too many.
    pub fn tap(self: &Arc<Self>, wanted: Wanted) -> Result<Tapping, Refused> {
        let now = Instant::now();
        let tap = self.next.fetch_add(1, Relaxed);
        let (sender, calls) = mpsc::channel(WAITING);
        let drops = Arc::<Drops>::default();
        let wanted = Wanted {
            per_second: wanted.per_second.clamp(1, PER_SECOND),
            lasting: wanted.lasting.min(LONGEST),
            ..wanted
        };
        let rate = f64::from(wanted.per_second);
        let until = now + wanted.lasting;
        let open = Open {
            bucket: TokenBucket::new(rate, rate, now),
            calls: sender,
            drops: Arc::clone(&drops),
            until,
            wanted: wanted.clone(),
        };
        let command = open.command(tap, now);
        {
            let mut all = self.taps.0.lock();
            if all.values().filter(|one| one.wanted.user == wanted.user).count() >= TAPS.0 {
                return Err(Refused::User(wanted.user));
            }
            if all.len() >= TAPS.1 {
                return Err(Refused::All);
            }
            all.insert(tap, open);
        }
        let told = self.tell_all(&command, |uid| wanted.concerns(uid));
        Ok(Tapping { fleet: Arc::clone(self), tap, calls, drops, sidecars: told })
    }

    fn untap(&self, tap: u64) {
        let Some(open) = self.taps.0.lock().remove(&tap) else { return };
        let stop = v1::command::Command::TapStop(v1::TapStop { tap });
        self.tell_all(&stop, |uid| open.wanted.concerns(uid));
    }

    /// Tells sidecars something whose answer nobody waits for. One that is busy does not hear it: a tap ends there by its own time.
    pub(super) fn tell_all(&self, command: &v1::command::Command, whom: impl Fn(&str) -> bool) -> usize {
        let sidecars = self.sidecars.lock();
        let told = sidecars.iter().filter(|(uid, connected)| whom(uid) && connected.told(command.clone()));
        told.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(user: &str) -> Wanted {
        Wanted {
            user: user.to_owned(),
            namespace: "shop".to_owned(),
            per_second: 5,
            lasting: Duration::from_secs(60),
            ..Wanted::default()
        }
    }

    /// A sidecar, and what it is told.
    fn sidecar(fleet: &Arc<Fleet>, uid: &str) -> (super::super::Membership, mpsc::Receiver<v1::ControlDown>) {
        let (sender, receiver) = mpsc::channel(64);
        (fleet.join(uid, "0.1.0".to_owned(), sender), receiver)
    }

    fn commands(down: &mut mpsc::Receiver<v1::ControlDown>) -> Vec<v1::command::Command> {
        let mut all = Vec::new();
        while let Ok(v1::ControlDown { message: Some(v1::control_down::Message::Command(command)) }) = down.try_recv() {
            all.extend(command.command);
        }
        all
    }

    fn taps(down: &mut mpsc::Receiver<v1::ControlDown>) -> Vec<(bool, u64)> {
        let one = |command: v1::command::Command| match command {
            v1::command::Command::Tap(tap) => Some((true, tap.tap)),
            v1::command::Command::TapStop(stop) => Some((false, stop.tap)),
            _ => None,
        };
        commands(down).into_iter().filter_map(one).collect()
    }

    fn call(tap: u64) -> v1::TappedCalls {
        let call = v1::TappedCall { taps: vec![tap], path: "/items".to_owned(), ..v1::TappedCall::default() };
        v1::TappedCalls { calls: vec![call], drops: Vec::new() }
    }

    #[tokio::test]
    async fn sidecars_of_the_namespace_join_a_tap_whenever_they_come_and_leave_it_with_its_reader() {
        let fleet = Arc::new(Fleet::default());
        let (_here, mut here) = sidecar(&fleet, "shop/cart-1");
        let (_there, mut there) = sidecar(&fleet, "bank/ledger-1");
        let mut tapping = fleet.tap(wanted("ana")).unwrap();
        let (late, mut later) = sidecar(&fleet, "shop/cart-2");
        let tap = tapping.tap;
        assert_eq!(tapping.sidecars, 1);
        assert_eq!((taps(&mut here), taps(&mut later)), (vec![(true, tap)], vec![(true, tap)]));
        assert!(taps(&mut there).is_empty());
        late.tapped(call(tap));
        assert_eq!(tapping.next().await.path, "/items");
        drop(tapping);
        assert_eq!((taps(&mut here), taps(&mut later)), (vec![(false, tap)], vec![(false, tap)]));
        // One that did not hear of the end is told when it speaks.
        late.tapped(call(tap));
        assert_eq!(taps(&mut later), [(false, tap)]);
    }

    #[tokio::test]
    async fn what_another_namespace_tells_is_not_shown() {
        let fleet = Arc::new(Fleet::default());
        let (there, _down) = sidecar(&fleet, "bank/ledger-1");
        let mut tapping = fleet.tap(wanted("ana")).unwrap();
        there.tapped(call(tapping.tap));
        assert!(tapping.calls.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_is_not_shown_is_counted_by_who_dropped_it() {
        let fleet = Arc::new(Fleet::default());
        let (here, _down) = sidecar(&fleet, "shop/cart-1");
        let tapping = fleet.tap(Wanted { per_second: PER_SECOND, ..wanted("ana") }).unwrap();
        let drops = vec![v1::TapDrops { tap: tapping.tap, calls: 7 }];
        here.tapped(v1::TappedCalls { drops, calls: Vec::new() });
        for _ in 0..PER_SECOND + 10 {
            here.tapped(call(tapping.tap));
        }
        let large = v1::TappedCall { taps: vec![tapping.tap], path: "x".repeat(CALL), ..v1::TappedCall::default() };
        here.tapped(v1::TappedCalls { calls: vec![large], drops: Vec::new() });
        let dropped: BTreeMap<_, _> = tapping.drops().take().collect();
        assert_eq!(dropped["sidecar"], 7);
        assert!(dropped["reader"] >= u64::from(PER_SECOND) - WAITING as u64, "{dropped:?}");
        assert!(dropped["controlPlane"] >= 1, "{dropped:?}");
        assert_eq!(tapping.drops().take().count(), 0);
    }

    #[test]
    fn taps_are_bounded_by_user_and_in_all() {
        let fleet = Arc::new(Fleet::default());
        let mut open: Vec<_> = (0..4).map(|_| fleet.tap(wanted("ana")).unwrap()).collect();
        assert_eq!(fleet.tap(wanted("ana")).unwrap_err(), Refused::User("ana".to_owned()));
        open.extend((0..12).map(|n| fleet.tap(wanted(&format!("user-{n}"))).unwrap()));
        assert_eq!(fleet.tap(wanted("ben")).unwrap_err(), Refused::All);
        open.pop();
        assert!(fleet.tap(wanted("ben")).is_ok());
    }
}
