//! The retry budget: retries are at most a percentage of original calls plus a floor, over a sliding window.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limit::TokenBucket;

/// A budget's settings. Default 20 %, 10/s, 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetSettings {
    /// Percent of original calls.
    pub percent: u32,
    /// And so many each second.
    pub min_per_second: u32,
    /// Counted over this window.
    pub window: Duration,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        BudgetSettings { percent: 20, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// A budget of retries and hedges, shared by all workers.
///
/// A retry is charged to the percentage if there is room, else to the floor. The floor is a token bucket of one
/// second's worth: it would otherwise pay out a whole window at once, which is a storm on its own. It starts full, since
/// the first call of a quiet caller may be the one that has to be sent again.
///
/// On any schedule it holds that
/// * in the window that ends with a retry, that one included, there are at most `percent` of the originals of that
///   window and `min_per_second` × `window` retries;
/// * over any stretch of time there are at most `percent` of the originals of that stretch and the window before it,
///   and `min_per_second` for each of its seconds and one second more: what the bucket held when it began.
#[derive(Debug)]
pub struct Budget {
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    settings: BudgetSettings,
    origin: Instant,
    floor: TokenBucket,
    current: u64,
    /// One more than the window has: see [`Ledger::sums`].
    slots: [Slot; SLOTS as usize + 1],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    originals: u64,
    by_percent: u64,
    by_floor: u64,
}

const SLOTS: u64 = 20;

impl Budget {
    /// With nothing counted.
    pub fn new(settings: BudgetSettings, now: Instant) -> Self {
        Budget { ledger: Mutex::new(Ledger::new(settings, now)) }
    }

    /// Counts an original call.
    pub fn deposit(&self, now: Instant) {
        self.ledger.lock().slot(now).originals += 1;
    }

    /// Charges a retry, if there is room for one.
    pub fn withdraw(&self, now: Instant) -> bool {
        self.ledger.lock().withdraw(now)
    }

    /// New settings. What was spent stays spent: a change of settings is no new budget.
    pub fn update(&self, settings: BudgetSettings, now: Instant) {
        let mut ledger = self.ledger.lock();
        if ledger.settings != settings {
            ledger.update(settings, now);
        }
    }
}

impl Ledger {
    fn new(settings: BudgetSettings, now: Instant) -> Self {
        let per_second = f64::from(settings.min_per_second);
        Ledger {
            settings,
            origin: now,
            floor: TokenBucket::new(per_second, per_second, now),
            current: 0,
            slots: [Slot::default(); SLOTS as usize + 1],
        }
    }

    fn update(&mut self, settings: BudgetSettings, now: Instant) {
        let per_second = f64::from(settings.min_per_second);
        self.slot(now);
        self.floor.retune(per_second, per_second, now);
        if settings.window != self.settings.window {
            // The slots have another width now. Retries are counted as of this moment, originals as long past: whatever
            // that cuts off, it is never in favour of a retry.
            let (_, by_percent, by_floor) = self.sums();
            (self.origin, self.current) = (self.origin.max(now), 0);
            self.slots = Default::default();
            self.slots[0] = Slot { originals: 0, by_percent, by_floor };
        }
        self.settings = settings;
    }

    fn withdraw(&mut self, now: Instant) -> bool {
        let settings = self.settings;
        self.slot(now);
        let (originals, by_percent, by_floor) = self.sums();
        if u128::from(by_percent + 1) * 100 <= u128::from(originals) * u128::from(settings.percent) {
            self.slot(now).by_percent += 1;
            return true;
        }
        // Both together: what the percentage paid out may have outlived the calls that it was paid out for.
        let floor = settings.window.as_secs_f64() * f64::from(settings.min_per_second);
        let most = originals as f64 * f64::from(settings.percent) / 100.0 + floor;
        if (by_percent + by_floor + 1) as f64 <= most && self.floor.take(1, now).is_ok() {
            self.slot(now).by_floor += 1;
            return true;
        }
        false
    }

    /// The slot of `now`, with those that have left the window empty. Time does not run backwards: what comes late is
    /// counted as now.
    fn slot(&mut self, now: Instant) -> &mut Slot {
        let width = (self.settings.window.as_nanos() / u128::from(SLOTS)).max(1);
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let number = u64::try_from(elapsed / width).unwrap_or(u64::MAX);
        let count = SLOTS + 1;
        for passed in (self.current + 1..=number).take(self.slots.len()) {
            self.slots[(passed % count) as usize] = Slot::default();
        }
        self.current = self.current.max(number);
        &mut self.slots[(self.current % count) as usize]
    }

    /// Originals of no more than a window, retries of no less: whatever the slots cut off, it is never in favour of a
    /// retry.
    fn sums(&self) -> (u64, u64, u64) {
        let oldest = (self.current + 1) % (SLOTS + 1);
        let mut sums = (0, 0, 0);
        for (number, slot) in (0..).zip(&self.slots) {
            sums.0 += if number == oldest { 0 } else { slot.originals };
            sums.1 += slot.by_percent;
            sums.2 += slot.by_floor;
        }
        sums
    }
}
