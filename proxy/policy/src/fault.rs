//! Failures made on purpose: which calls are delayed, which are answered with an error instead of being sent on. Preflights are
//! answered before anything here is asked; an abort comes before a redirect. Nothing here waits.

use std::time::Duration;

use crate::route::{Match, Request, Share, nth_draw};

/// Which draws of a call decide: far from the indices that mirrors draw by.
const DELAYS: u64 = 0xFFFF_FFFF_FFFF_FFFE;
const ABORTS: u64 = 0xFFFF_FFFF_FFFF_FFFD;

/// The faults of a port, in order.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    faults: Box<[Fault]>,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Any suffices. Empty: every call.
    pub matches: Vec<Match>,
    /// Before the call is sent on.
    pub delay: Option<(Duration, Share)>,
    /// Instead of sending it on, after the delay.
    pub abort: Option<(Abort, Share)>,
}

/// How a call is answered instead of being sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// For calls that are not gRPC: 200 to 599.
    pub status: u16,
    /// For gRPC calls: 1 to 16.
    pub grpc_status: u8,
}

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// How long it waits first.
    pub delay: Option<Duration>,
    /// How it is then answered; `None`: it is sent on.
    pub abort: Option<Abort>,
}

impl Faults {
    /// Faults in the order in which they are asked.
    pub fn new(faults: Vec<Fault>) -> Self {
        Faults { faults: faults.into() }
    }

    /// Whether there is none: then a call need not ask.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// What is done to a call: that of the first fault whose matches hold, whose delay and abort are drawn each for itself. `None`:
    /// nothing. `random` is uniform over all `u64` and may be the draw that chose the backend.
    pub fn draw<R: Request + ?Sized>(&self, request: &R, random: u64) -> Option<Injection> {
        let holds = |fault: &&Fault| fault.matches.is_empty() || fault.matches.iter().any(|m| m.holds(request));
        let fault = self.faults.iter().find(holds)?;
        let hit = |share: Share, index| share.hits(nth_draw(random, index));
        let injection = Injection {
            delay: fault.delay.filter(|(_, share)| hit(*share, DELAYS)).map(|(delay, _)| delay),
            abort: fault.abort.filter(|(_, share)| hit(*share, ABORTS)).map(|(abort, _)| abort),
        };
        (injection.delay.is_some() || injection.abort.is_some()).then_some(injection)
    }
}

impl Abort {
    /// The gRPC status that an HTTP status stands for (grpc/doc/http-grpc-status-mapping.md).
    pub fn grpc_status_of(status: u16) -> u8 {
        match status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::route::{Head, PathMatch};

    const SECOND: Duration = Duration::from_secs(1);
    const ABORT: Abort = Abort { status: 503, grpc_status: 14 };

    fn on(path: &str, delay: Option<Share>, abort: Option<Share>) -> Fault {
        Fault {
            matches: vec![Match { path: PathMatch::Exact(path.into()), ..Match::default() }],
            delay: delay.map(|share| (SECOND, share)),
            abort: abort.map(|share| (ABORT, share)),
        }
    }

    fn draw(faults: &Faults, path: &str, random: u64) -> Option<Injection> {
        faults.draw(&Head::new("GET", path, &HeaderMap::new()), random)
    }

    #[test]
    fn the_first_fault_that_matches_decides_alone() {
        let faults = Faults::new(vec![
            on("/a", Some(Share::ALL), None),
            on("/a", None, Some(Share::ALL)),
            on("/b", None, Some(Share::NONE)),
            Fault { matches: Vec::new(), delay: None, abort: Some((ABORT, Share::ALL)) },
        ]);
        assert_eq!(draw(&faults, "/a", 1), Some(Injection { delay: Some(SECOND), abort: None }));
        assert_eq!(draw(&faults, "/b", 1), None, "its share was not hit, and the next is not asked");
        assert_eq!(draw(&faults, "/c", 1), Some(Injection { delay: None, abort: Some(ABORT) }));
    }

    #[test]
    fn shares_are_hit_in_proportion_and_apart() {
        let faults = Faults::new(vec![on("/a", Some(Share::new(1, 10)), Some(Share::new(1, 1000)))]);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for random in 0..200_000 {
            if let Some(injection) = draw(&faults, "/a", random) {
                delayed += u32::from(injection.delay.is_some());
                aborted += u32::from(injection.abort.is_some());
                both += u32::from(injection.delay.is_some() && injection.abort.is_some());
            }
        }
        assert!(
            delayed.abs_diff(20_000) < 600 && aborted.abs_diff(200) < 60 && both < 60,
            "{delayed} {aborted} {both}"
        );
    }

    #[test]
    fn a_status_stands_for_the_grpc_status_that_the_mapping_says() {
        // grpc/doc/http-grpc-status-mapping.md, and what it has for all others.
        for (status, grpc_status) in
            [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (500, 2), (418, 2)]
        {
            assert_eq!(Abort::grpc_status_of(status), grpc_status, "{status}");
        }
    }

    #[test]
    fn none_is_nothing() {
        assert!(Faults::default().is_empty() && !Faults::new(vec![on("/a", None, None)]).is_empty());
        assert_eq!(draw(&Faults::default(), "/a", 7), None);
    }
}
