//! Deadlines: of the whole call, of each try, of silence, and the one that the caller's hop passed on. A deadline only
//! ever tightens. Nothing here waits.

use std::fmt;
use std::time::{Duration, Instant};

use crate::text::{Decimal, Text};

/// When a call must be over. `None` inside: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    at: Option<Instant>,
}

impl Deadline {
    /// Never.
    pub const NEVER: Deadline = Deadline { at: None };

    /// `limit` after `now`; `None`, or further away than the clock can say: never.
    pub fn after(now: Instant, limit: Option<Duration>) -> Self {
        Deadline { at: limit.and_then(|limit| now.checked_add(limit)) }
    }

    /// When, if ever.
    pub fn at(self) -> Option<Instant> {
        self.at
    }

    /// The earlier of this and `limit` after `now`.
    #[must_use]
    pub fn tighten(self, now: Instant, limit: Option<Duration>) -> Self {
        self.earlier(Deadline::after(now, limit))
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Deadline) -> Self {
        match (self.at, other.at) {
            (Some(a), Some(b)) => Deadline { at: Some(a.min(b)) },
            (a, b) => Deadline { at: a.or(b) },
        }
    }

    /// What is left; zero when it is over, `None` when it never is.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }

    /// Whether it is over: such a call is not sent.
    pub fn is_over(self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

/// Time that must not pass in silence.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    limit: Option<Duration>,
    last: Instant,
}

impl Idle {
    /// Starts now; `None`: silence is fine for ever.
    pub fn new(limit: Option<Duration>, now: Instant) -> Self {
        Idle { limit, last: now }
    }

    /// Something was heard.
    pub fn touch(&mut self, now: Instant) {
        self.last = self.last.max(now);
    }

    /// When silence will have lasted too long.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.last, self.limit)
    }
}

/// The header that carries a gRPC deadline: `grpc-timeout`.
pub const GRPC_TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");
/// The header that carries any other: `weft-deadline-ms`, what is left in milliseconds.
pub const WEFT_DEADLINE_MS: http::HeaderName = http::HeaderName::from_static("weft-deadline-ms");

/// Reads `grpc-timeout`: at most eight digits and a unit, `H M S m u n` (gRPC over HTTP/2, “Timeout”). `None`:
/// malformed.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount = digits_within(digits, 8)?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Writes `grpc-timeout` in the finest unit that fits, rounded down: a hop must never be given more than is left.
pub fn format_grpc_timeout(remaining: Duration) -> Text<9> {
    const MOST: u128 = 99_999_999;
    let nanos = remaining.as_nanos();
    let units = [(1, 'n'), (1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M')];
    match units.iter().find(|(unit, _)| nanos / unit <= MOST) {
        Some((unit, letter)) => {
            let mut text = Text::of(&Decimal::of(u64::try_from(nanos / unit).unwrap_or(u64::MAX)));
            let _ = fmt::Write::write_char(&mut text, *letter);
            text
        }
        None => Text::format(format_args!("{}H", (nanos / 3_600_000_000_000).min(MOST))),
    }
}

/// Reads `weft-deadline-ms`: at most ten digits. `None`: malformed.
pub fn parse_weft_deadline(value: &[u8]) -> Option<Duration> {
    digits_within(value, 10).map(Duration::from_millis)
}

/// Writes `weft-deadline-ms`, rounded down; what ten digits cannot say is far enough away.
pub fn format_weft_deadline(remaining: Duration) -> Text<10> {
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).min(9_999_999_999);
    Text::of(&Decimal::of(millis))
}

/// A decimal number of 1 to `most` digits and nothing else.
fn digits_within(text: &[u8], most: usize) -> Option<u64> {
    let decimal = (1..=most).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    if !decimal {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_deadline_only_tightens() {
        let now = Instant::now();
        let second = Deadline::after(now, Some(Duration::from_secs(1)));
        assert_eq!(second.tighten(now, Some(Duration::from_secs(5))), second);
        assert_eq!(second.tighten(now, None), second);
        assert_eq!(Deadline::NEVER.tighten(now, Some(Duration::from_secs(1))), second);
        let half = second.tighten(now, Some(Duration::from_millis(500)));
        assert_eq!(half.remaining(now), Some(Duration::from_millis(500)));
        assert!(!half.is_over(now) && half.is_over(now + Duration::from_millis(500)));
        assert_eq!(half.remaining(now + Duration::from_secs(9)), Some(Duration::ZERO));
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_never() {
        assert_eq!(Deadline::after(Instant::now(), Some(Duration::MAX)), Deadline::NEVER);
    }

    #[test]
    fn silence_is_measured_from_the_last_frame() {
        let start = Instant::now();
        let mut idle = Idle::new(Some(Duration::from_secs(5)), start);
        idle.touch(start + Duration::from_secs(3));
        idle.touch(start + Duration::from_secs(2));
        assert_eq!(idle.deadline().at(), Some(start + Duration::from_secs(8)));
        assert_eq!(Idle::new(None, start).deadline(), Deadline::NEVER);
    }

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says_and_not_otherwise() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("100m", 100_000_000),
            ("7u", 7_000),
            ("9n", 9),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "123456789S", "1SS", "\u{661}S"] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn grpc_timeouts_are_written_in_the_finest_unit_that_fits() {
        let written = |nanos| format_grpc_timeout(Duration::from_nanos(nanos)).to_string();
        assert_eq!(written(0), "0n");
        assert_eq!(written(99_999_999), "99999999n");
        assert_eq!(written(100_000_000), "100000u");
        assert_eq!(written(15_000_000_000), "15000000u");
        assert_eq!(written(u64::MAX), "5124095H");
        assert_eq!(&*format_grpc_timeout(Duration::MAX), "99999999H");
    }

    #[test]
    fn weft_deadlines_are_milliseconds() {
        assert_eq!(parse_weft_deadline(b"1500"), Some(Duration::from_millis(1500)));
        assert!(
            [&b""[..], b"1.5", b"-1", b"12345678901", b"1 "].iter().all(|text| parse_weft_deadline(text).is_none())
        );
        assert_eq!(&*format_weft_deadline(Duration::from_micros(1_999)), "1");
        assert_eq!(&*format_weft_deadline(Duration::MAX), "9999999999");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_as_no_more_than_it_was(nanos in any::<u64>()) {
            let left = Duration::from_nanos(nanos);
            let grpc = parse_grpc_timeout(format_grpc_timeout(left).as_bytes()).unwrap();
            prop_assert!(grpc <= left && (left - grpc) * 1_000_000 <= left * 2 || left.as_nanos() < 100);
            if left < Duration::from_secs(9_999_999) {
                let weft = parse_weft_deadline(format_weft_deadline(left).as_bytes()).unwrap();
                prop_assert!(weft <= left && left - weft < Duration::from_millis(1));
            }
        }

        #[test]
        fn nothing_that_arrives_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            parse_grpc_timeout(&bytes);
            parse_weft_deadline(&bytes);
        }
    }
}
