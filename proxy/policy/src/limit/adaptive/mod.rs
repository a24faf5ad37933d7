//! A limit on calls under way that follows latency, and sheds the least important first.
//!
//! Latency that grows with the number of calls is a queue. A [`Limiter`] compares the latency of each window with a
//! baseline, what a call takes when nothing queues, and moves the limit by their ratio (the gradient of Netflix's
//! concurrency-limits and Envoy's adaptive concurrency filter) and by some headroom, to find out whether more is
//! possible. The baseline is measured from time to time, with half as many calls under way as may be; it is not the
//! least of many windows, which would only say how much their medians vary. [`Priority`] says how much of the limit a
//! call may use.

mod window;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use window::Window;

/// Bounds of the limit. Default 4 to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// At least 1.
    pub min: u32,
    /// No less than `min`.
    pub max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { min: 4, max: 1024 }
    }
}

/// How important a call is: the header `weft-priority`. The least is shed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Can wait: half of the limit.
    Low,
    /// Nobody said anything: 80 % of the limit.
    #[default]
    Default,
    /// 90 % of the limit.
    High,
    /// All of the limit.
    Critical,
}

/// The header that carries a priority from hop to hop.
pub const PRIORITY: http::HeaderName = http::HeaderName::from_static("weft-priority");

impl Priority {
    /// From the header's value, in any case; `background` is `low`. `None`: it is none of them.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let names: [(&[u8], _); 5] = [
            (b"critical", Priority::Critical),
            (b"high", Priority::High),
            (b"default", Priority::Default),
            (b"low", Priority::Low),
            (b"background", Priority::Low),
        ];
        let value = value.trim_ascii();
        names.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(value)).map(|(_, priority)| priority)
    }

    /// As the header writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Default => "default",
            Priority::Low => "low",
        }
    }

    /// Calls that it lets be under way, of those that may be: at least one.
    fn part_of(self, limit: u32) -> u32 {
        let percent = match self {
            Priority::Critical => 100,
            Priority::High => 90,
            Priority::Default => 80,
            Priority::Low => 50,
        };
        u32::try_from(u64::from(limit) * percent / 100).unwrap_or(limit).max(1)
    }
}

/// There is no room for a call of this priority: 503 at once, `weft-error: overflow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} calls under way are as many as {} ones may come on top of, at a limit of {limit}", .in_flight, .priority.as_str())]
pub struct Shed {
    /// Of the call.
    pub priority: Priority,
    /// Calls under way.
    pub in_flight: u32,
    /// Calls that may be under way, of all priorities together.
    pub limit: u32,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered: its latency counts.
    Answered,
    /// It ran out of time or was refused for overload: it counts as a slow one.
    Dropped,
}

/// A limit that follows latency. Shared by all workers.
#[derive(Debug)]
pub struct Limiter {
    /// What `control` has come to, for entering without its lock.
    limit: AtomicU32,
    in_flight: AtomicU32,
    /// The most under way since the window began.
    peak: AtomicU32,
    shed: AtomicU32,
    /// Of `control`, as `limit` is.
    era: AtomicU32,
    control: Mutex<Control>,
}

/// A call under way. Dropping it without a report ends it, and says nothing of latency.
#[derive(Debug)]
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    limiter: Arc<Limiter>,
    began: Instant,
    era: u32,
}

#[derive(Debug)]
struct Control {
    settings: Settings,
    /// Not rounded, so that small steps add up.
    limit: f64,
    /// Latency in seconds when nothing queues. `None`: nothing was measured yet.
    baseline: Option<f64>,
    window: Window,
    /// Set while the baseline is measured: the limit to go back to.
    measuring: Option<f64>,
    /// Changes when measuring begins and ends: calls that entered before say nothing of now.
    era: u32,
    measure_at: Instant,
    /// Windows in a row at the least limit.
    at_least: u32,
}

/// Where to begin.
const INITIAL: f64 = 16.0;
/// Latency may exceed the baseline by this much before it counts as a queue.
const TOLERANCE: f64 = 1.05;
/// The limit changes by no more than this in one window.
const GRADIENT: (f64, f64) = (0.5, 2.0);
/// Fresh baselines.
const MEASURE_EVERY: Duration = Duration::from_secs(30);
const MEASURE_FIRST: Duration = Duration::from_secs(2);
/// Latencies that make a baseline, if so many come in time: what the median of a hundred is off by hardly matters.
const MEASURED: u64 = 120;
/// What a window in which nobody queued weighs in the baseline.
const IDLE_WEIGHT: f64 = 0.1;
/// Measuring ends after so long, with as many as there are.
const MEASURE_FOR: Duration = Duration::from_secs(5);
/// With so many windows at the least limit the baseline is no longer believed.
const STUCK: u32 = 5;
/// A dropped call counts as one that took so many times the baseline.
const DROPPED: f64 = 4.0;

impl Limiter {
    /// With nothing known.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let limit = INITIAL.clamp(f64::from(settings.min), f64::from(settings.max.max(settings.min)));
        Limiter {
            limit: AtomicU32::new(limit as u32),
            in_flight: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            shed: AtomicU32::new(0),
            era: AtomicU32::new(0),
            control: Mutex::new(Control {
                settings,
                limit,
                baseline: None,
                window: Window::new(now),
                measuring: None,
                era: 0,
                measure_at: now + MEASURE_FIRST,
                at_least: 0,
            }),
        }
    }

    /// New bounds; what was learnt stays.
    pub fn update(&self, settings: Settings) {
        let mut control = self.control.lock();
        control.settings = settings;
        let limit = control.limit;
        control.set(limit);
        self.publish(&control);
    }

    /// A place for a call, or the news that there is none for its priority.
    ///
    /// # Errors
    /// [`Shed`] when as many are under way as may be for calls of that priority.
    pub fn enter(self: &Arc<Self>, priority: Priority, now: Instant) -> Result<Permit, Shed> {
        let limit = self.limit.load(Ordering::Relaxed);
        let room = priority.part_of(limit);
        let taken = self
            .in_flight
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |under_way| (under_way < room).then(|| under_way + 1));
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + 1, Ordering::Relaxed);
                let era = self.era.load(Ordering::Relaxed);
                Ok(Permit { limiter: Arc::clone(self), began: now, era })
            }
            Err(in_flight) => {
                self.shed.fetch_add(1, Ordering::Relaxed);
                Err(Shed { priority, in_flight, limit })
            }
        }
    }

    /// Calls under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Calls that may be under way, of all priorities together.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// What a call is believed to take when nothing queues.
    pub fn baseline(&self) -> Option<Duration> {
        self.control.lock().baseline.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn observe(&self, permit: &Permit, outcome: Outcome, now: Instant) {
        let mut control = self.control.lock();
        if permit.era != control.era {
            return;
        }
        let took = now.saturating_duration_since(permit.began).as_secs_f64();
        let latency = match (outcome, control.baseline) {
            (Outcome::Answered, _) => took,
            (Outcome::Dropped, Some(baseline)) => took.max(baseline * DROPPED),
            // Nothing to compare with yet, and no answer to learn from.
            (Outcome::Dropped, None) => return,
        };
        control.window.add(latency);
        if let Some(median) = control.window.ripe(now) {
            let busy = Busy {
                peak: self.peak.swap(self.in_flight(), Ordering::Relaxed),
                shed: self.shed.swap(0, Ordering::Relaxed) > 0,
            };
            control.turn(median, busy, now);
            self.publish(&control);
        } else if control.gives_up(now) {
            self.publish(&control);
        }
    }

    fn publish(&self, control: &Control) {
        self.limit.store(control.limit as u32, Ordering::Relaxed);
        self.era.store(control.era, Ordering::Relaxed);
    }
}

/// How much was asked of a window.
#[derive(Clone, Copy, Debug)]
struct Busy {
    peak: u32,
    shed: bool,
}

impl Control {
    fn set(&mut self, limit: f64) {
        let (min, max) = (f64::from(self.settings.min.max(1)), f64::from(self.settings.max.max(self.settings.min)));
        self.limit = limit.clamp(min, max.max(min));
    }

    /// A window is over.
    fn turn(&mut self, median: f64, busy: Busy, now: Instant) {
        if let Some(limit) = self.measuring {
            if self.window.added() >= MEASURED || now >= self.measure_at {
                self.end_measuring(limit, Some(median), now);
            }
            return;
        }
        self.window = Window::new(now);
        let idle = !busy.shed && f64::from(busy.peak) * 2.0 < self.limit;
        let baseline = match self.baseline {
            None => median,
            // Far faster than any chance: the baseline was that of a slower server.
            Some(baseline) if median < baseline * 0.75 => median,
            // Nobody queues: what is seen is what a call takes.
            Some(baseline) if idle => baseline + (median - baseline) * IDLE_WEIGHT,
            Some(baseline) => baseline,
        };
        self.baseline = Some(baseline);
        let gradient = (baseline * TOLERANCE / median.max(1e-9)).clamp(GRADIENT.0, GRADIENT.1);
        // Half the root: with all of it the limit of a small server would settle half as high again as what it can do.
        let next = self.limit * gradient + self.limit.sqrt() / 2.0;
        // A limit that nobody came near was not tried: it may fall, not rise.
        self.set(if idle { next.min(self.limit) } else { next });
        self.at_least = if self.limit <= f64::from(self.settings.min) { self.at_least + 1 } else { 0 };
        if self.at_least >= STUCK || (now >= self.measure_at && !idle) {
            self.begin_measuring(now);
        }
    }

    /// Half of the calls under way make no queue where the limit is less than twice what the server can do. Where it is
    /// more, the baseline comes out too high, the limit still falls, and the next measurement does better.
    fn begin_measuring(&mut self, now: Instant) {
        self.measuring = Some(self.limit);
        let lowered = self.limit / 2.0;
        self.set(lowered);
        self.era = self.era.wrapping_add(1);
        self.measure_at = now + MEASURE_FOR;
        self.window = Window::new(now);
    }

    fn end_measuring(&mut self, limit: f64, measured: Option<f64>, now: Instant) {
        let before = self.baseline;
        self.baseline = measured.or(before);
        // A baseline that has come down was measured over a queue, and this one may have been, too.
        let falls = matches!((measured, before), (Some(new), Some(old)) if new < old * 0.9);
        self.measure_at = now + if falls { MEASURE_FIRST } else { MEASURE_EVERY };
        self.measuring = None;
        self.at_least = 0;
        self.set(limit);
        self.era = self.era.wrapping_add(1);
        self.window = Window::new(now);
    }

    /// Whether measuring has taken too long, and is over.
    fn gives_up(&mut self, now: Instant) -> bool {
        let Some(limit) = self.measuring.filter(|_| now >= self.measure_at) else { return false };
        self.end_measuring(limit, None, now);
        true
    }
}

impl Permit {
    /// Ends the call and takes its latency into account: from entering until now.
    pub fn finish(self, outcome: Outcome, now: Instant) {
        self.limiter.observe(&self, outcome, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.in_flight.fetch_sub(1, Ordering::Release);
    }
}
