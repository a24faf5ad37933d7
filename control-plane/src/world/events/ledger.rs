//! Which of the things that happened are written as events: the same again is counted, and no object and nobody fills the API.
//!
//! Pure: the time is an argument.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};

/// Events about one object at once, and how long until there may be one more: as Kubernetes' own clients have it.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Events about all objects at once, and each second.
const ALL_BURST: f64 = 200.0;
const ALL_RATE: f64 = 1.0;
/// Objects and events that are remembered.
const REMEMBERED: usize = 4096;
/// Characters of a message and of an object's name in the name of its event.
const MAX_MESSAGE: usize = 1024;
const MAX_NAME: usize = 200;

/// The object that something happened to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// `v1`, `weft.mesh/v1alpha1`
    pub api_version: &'static str,
    /// `Service`
    pub kind: &'static str,
    /// Its namespace, and that of the event.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Occurrence {
    /// To which.
    pub about: About,
    /// Whether somebody should do something.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the event: the same for the same occurrence, whoever writes it.
    pub name: String,
    /// Whether it was written before.
    pub again: bool,
    /// What it says.
    pub what: Occurrence,
}

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn take(&mut self, now: Duration, burst: f64, each_second: f64) -> bool {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * each_second).min(burst);
        self.at = now;
        let left = self.tokens >= 1.0;
        if left {
            self.tokens -= 1.0;
        }
        left
    }
}

/// What was written lately.
#[derive(Debug)]
pub struct Ledger {
    objects: HashMap<About, Bucket>,
    /// By name of the event: when it was written last.
    written: HashMap<String, Duration>,
    all: Bucket,
    left_out: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        let all = Bucket { tokens: ALL_BURST, at: Duration::ZERO };
        Self { objects: HashMap::new(), written: HashMap::new(), all, left_out: 0 }
    }
}

impl Ledger {
    /// What is to be written of an occurrence; `None` when there was too much of late. `now` is the time since any fixed moment.
    pub fn note(&mut self, mut what: Occurrence, now: Duration) -> Option<Entry> {
        what.message = what.message.chars().take(MAX_MESSAGE).collect();
        let name = name(&what);
        if self.objects.len() >= REMEMBERED {
            self.objects.retain(|_, bucket| now.saturating_sub(bucket.at) < REFILL);
        }
        if self.written.len() >= REMEMBERED {
            self.written.retain(|_, at| now.saturating_sub(*at) < REFILL);
        }
        // Whoever is still too many is not remembered: then only the rate of all bounds it.
        let fits = self.objects.len() < REMEMBERED || self.objects.contains_key(&what.about);
        let fresh = Bucket { tokens: BURST, at: now };
        let own = !fits
            || self.objects.entry(what.about.clone()).or_insert(fresh).take(now, BURST, 1.0 / REFILL.as_secs_f64());
        if !own || !self.all.take(now, ALL_BURST, ALL_RATE) {
            self.left_out += 1;
            return None;
        }
        let again = self.written.contains_key(&name);
        if again || self.written.len() < REMEMBERED {
            self.written.insert(name.clone(), now);
        }
        Some(Entry { name, again, what })
    }

    /// How many were left out since it was last asked.
    pub fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

fn name(what: &Occurrence) -> String {
    let about = &what.about;
    let text = [about.kind, &about.uid, if what.warning { "Warning" } else { "Normal" }, &what.reason, &what.message];
    let hash = digest(&SHA256, text.join("\0").as_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name: String = about.name.chars().take(MAX_NAME).collect();
    format!("{}.{hash}", name.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, message: &str) -> Occurrence {
        let about =
            About { api_version: "v1", kind: "Service", namespace: "shop".into(), name: name.into(), uid: name.into() };
        Occurrence { about, warning: true, reason: "Invalid".into(), message: message.into() }
    }

    #[test]
    fn the_same_again_has_the_same_name() {
        let mut ledger = Ledger::default();
        let first = ledger.note(of("cart", "x"), Duration::ZERO).unwrap();
        let again = ledger.note(of("cart", "x"), Duration::from_secs(1)).unwrap();
        let other = ledger.note(of("cart", "y"), Duration::from_secs(1)).unwrap();
        assert_eq!((first.again, again.again, &first.name), (false, true, &again.name));
        assert!(!other.again && other.name != first.name && first.name.starts_with("cart."));
        assert_eq!(Ledger::default().note(of("cart", "x"), Duration::ZERO).unwrap().name, first.name);
    }

    #[test]
    fn an_object_gets_a_burst_and_then_one_in_a_while() {
        let mut ledger = Ledger::default();
        let mut at =
            |seconds: u64, i: usize| ledger.note(of("cart", &i.to_string()), Duration::from_secs(seconds)).is_some();
        assert_eq!((0..40).filter(|i| at(0, *i)).count(), 25);
        assert!(!at(299, 50));
        assert!(at(301, 51) && !at(301, 52));
        assert!(ledger.left_out() > 0 && ledger.left_out() == 0);
    }

    #[test]
    fn all_objects_together_have_a_bound_in_rate_and_memory() {
        let mut ledger = Ledger::default();
        let noted = (0..10_000).filter(|i| ledger.note(of(&format!("s{i}"), "x"), Duration::ZERO).is_some()).count();
        assert_eq!(noted, 200);
        assert!(ledger.objects.len() <= REMEMBERED && ledger.written.len() <= REMEMBERED);
        assert!(ledger.note(of("late", "x"), Duration::from_secs(1)).is_some());
    }
}
