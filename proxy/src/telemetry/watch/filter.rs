//! Which calls a tap is about. Pure; what it was told is bounded when it is read.

use super::Facts;
use crate::telemetry::Direction;
use weft_proto::v1;

/// Bytes of one text of a filter.
const TEXT: usize = 512;

/// What is asked of a call; what is empty asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    direction: Option<Direction>,
    source: Box<str>,
    destination: Box<str>,
    either: Box<str>,
    method: Box<str>,
    path: Box<str>,
    status: Status,
    reason: Box<str>,
    /// Parts in a million; 0: all.
    sample: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Any,
    Exact(u16),
    /// The first digit.
    Class(u16),
    Error,
}

impl Status {
    fn read(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            [] => Ok(Self::Any),
            b"error" => Ok(Self::Error),
            [digit @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => Ok(Self::Class(u16::from(digit - b'0'))),
            _ => match text.parse() {
                Ok(code @ 0..=999) => Ok(Self::Exact(code)),
                _ => Err(format!("{text:?} is neither a status, a class such as 5xx, nor 'error'")),
            },
        }
    }
}

impl Filter {
    /// Reads what a control plane says.
    ///
    /// # Errors
    /// When a text is too long, or the status is none.
    pub fn read(wire: v1::TapFilter) -> Result<Self, String> {
        let direction = match wire.direction() {
            v1::Direction::Inbound => Some(Direction::Inbound),
            v1::Direction::Outbound => Some(Direction::Outbound),
            v1::Direction::Unspecified => None,
        };
        let v1::TapFilter { source, destination, either, method, path, status, reason, sample_millionths, .. } = wire;
        let texts = [&source, &destination, &either, &method, &path, &status, &reason];
        if texts.iter().any(|text| text.len() > TEXT) {
            return Err(format!("a text of the filter is longer than {TEXT} bytes"));
        }
        Ok(Self {
            direction,
            status: Status::read(&status)?,
            source: source.into(),
            destination: destination.into(),
            either: either.into(),
            method: method.into(),
            path: path.into(),
            reason: reason.into(),
            sample: sample_millionths,
        })
    }

    /// Whether a call may turn out to be one, by what is known of it when it begins.
    pub fn may_match(&self, direction: Direction, method: &str, path: &str) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction)
            && (self.method.is_empty() || self.method.eq_ignore_ascii_case(method))
            && is_path(&self.path, path)
    }

    /// Whether it is one, now that it has ended.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        let outcome = &facts.outcome;
        let status = match self.status {
            Status::Any => true,
            Status::Exact(code) => outcome.status == code,
            Status::Class(digit) => outcome.status / 100 == digit,
            Status::Error => outcome.failed() || outcome.refused(),
        };
        status
            && self.may_match(facts.direction, facts.method, facts.path)
            && is_named(&self.source, facts.source)
            && is_named(&self.destination, facts.destination)
            && (is_named(&self.either, facts.source) || is_named(&self.either, facts.destination))
            && (self.reason.is_empty() || *self.reason == *outcome.reason)
    }

    /// Whether it is drawn, by a random number.
    pub const fn draws(&self, random: u64) -> bool {
        self.sample == 0 || random % 1_000_000 < self.sample as u64
    }
}

/// Whether `namespace/name` is what is wanted: the same, or of that name in any namespace.
fn is_named(wanted: &str, name: &str) -> bool {
    if wanted.is_empty() || wanted == name {
        return true;
    }
    !wanted.contains('/') && name.rsplit_once('/').is_some_and(|(_, own)| own == wanted)
}

/// A pattern with `*` is of the whole path, one without of its beginning. The query is no part of it.
fn is_path(pattern: &str, path: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if !pattern.contains('*') {
        return path.starts_with(pattern);
    }
    is_glob(pattern.as_bytes(), path.as_bytes())
}

/// `*` is any text. Goes back to the last `*` only: linear in practice, and never more than the product of both lengths.
fn is_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Outcome;

    fn facts<'f>() -> Facts<'f> {
        Facts {
            direction: Direction::Inbound,
            source: "shop/orders",
            destination: "shop/payments",
            method: "POST",
            path: "/charges/7?dry=1",
            outcome: Outcome { status: 503, reason: "overload", ..Outcome::default() },
        }
    }

    #[test]
    fn each_part_of_a_filter_is_asked() {
        let wire = v1::TapFilter::default;
        for (yes, no) in [
            (
                v1::TapFilter { direction: v1::Direction::Inbound.into(), ..wire() },
                v1::TapFilter { direction: v1::Direction::Outbound.into(), ..wire() },
            ),
            (
                v1::TapFilter { source: "orders".into(), ..wire() },
                v1::TapFilter { source: "bank/orders".into(), ..wire() },
            ),
            (
                v1::TapFilter { destination: "shop/payments".into(), ..wire() },
                v1::TapFilter { destination: "ments".into(), ..wire() },
            ),
            (v1::TapFilter { either: "orders".into(), ..wire() }, v1::TapFilter { either: "cart".into(), ..wire() }),
            (v1::TapFilter { method: "post".into(), ..wire() }, v1::TapFilter { method: "GET".into(), ..wire() }),
            (
                v1::TapFilter { path: "/char".into(), ..wire() },
                v1::TapFilter { path: "/charges/*?dry*".into(), ..wire() },
            ),
            (v1::TapFilter { path: "/*/7".into(), ..wire() }, v1::TapFilter { path: "*/8".into(), ..wire() }),
            (v1::TapFilter { status: "5xx".into(), ..wire() }, v1::TapFilter { status: "4xx".into(), ..wire() }),
            (v1::TapFilter { status: "503".into(), ..wire() }, v1::TapFilter { status: "500".into(), ..wire() }),
            (
                v1::TapFilter { reason: "overload".into(), ..wire() },
                v1::TapFilter { reason: "denied".into(), ..wire() },
            ),
        ] {
            assert!(Filter::read(yes.clone()).unwrap().matches(&facts()), "{yes:?}");
            assert!(!Filter::read(no.clone()).unwrap().matches(&facts()), "{no:?}");
        }
        assert!(Filter::read(wire()).unwrap().matches(&facts()));
        let errors = Filter::read(v1::TapFilter { status: "error".into(), ..wire() }).unwrap();
        assert!(errors.matches(&facts()));
        let refused = Outcome { status: 403, reason: "denied", ..Outcome::default() };
        assert!(errors.matches(&Facts { outcome: refused, ..facts() }));
        assert!(!errors.matches(&Facts { outcome: Outcome { status: 403, ..Outcome::default() }, ..facts() }));
    }

    #[test]
    fn what_cannot_be_a_filter_is_refused() {
        assert!(Filter::read(v1::TapFilter { status: "many".into(), ..v1::TapFilter::default() }).is_err());
        assert!(Filter::read(v1::TapFilter { path: "/".repeat(TEXT + 1), ..v1::TapFilter::default() }).is_err());
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, is) in [
            ("*", "/a", true),
            ("/a*c", "/abbc", true),
            ("/a*c", "/abcb", false),
            ("*/x/*", "/a/x/b", true),
            ("/a**", "/a", true),
            ("*b", "/", false),
        ] {
            assert_eq!(is_glob(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
        }
    }

    #[test]
    fn a_ratio_draws_its_part() {
        let tenth = Filter { sample: 100_000, ..Filter::default() };
        let drawn = (0..1000).filter(|n| tenth.draws(n * 1000)).count();
        assert_eq!(drawn, 100);
    }
}
