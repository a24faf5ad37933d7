//! Trace context: W3C `traceparent`/`tracestate` and B3 (single and multi), read, continued and written; and request
//! ids. Nothing here exports spans or decides on sampling by itself; randomness is an argument.

mod b3;
#[cfg(test)]
mod tests;
mod w3c;

use http::HeaderName;

pub use w3c::{TRACEPARENT, is_tracestate};

use crate::text::Text;

/// Where a call stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Never zero.
    pub trace_id: u128,
    /// The span that the next hop's spans are children of. Never zero.
    pub span_id: u64,
    /// The parent of that span, where it is known (B3 carries it).
    pub parent_id: Option<u64>,
    /// Whether it is recorded. `None`: not decided (B3 may say nothing).
    pub sampled: Option<bool>,
    /// B3's debug flag: recorded in any case.
    pub debug: bool,
}

/// Which headers a context came in, and so goes out in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// `traceparent`.
    pub w3c: bool,
    /// `b3`.
    pub b3_single: bool,
    /// `x-b3-*`.
    pub b3_multi: bool,
}

/// What a request says of its trace, read by [`read`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The context, if any header holds a valid one. W3C wins over B3 single over B3 multi.
    pub context: Option<Context>,
    /// B3's sampling decision, which may come without a context (`b3: 0`).
    pub sampled: Option<bool>,
    /// The formats that were valid.
    pub formats: Formats,
}

/// Reads the trace headers. `header` gives the value of a header that occurs exactly once. `tracestate` is not asked
/// for: it has no bearing on the context.
pub fn read<'a>(header: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Incoming {
    let mut incoming = Incoming::default();
    if let Some(context) = header(&w3c::TRACEPARENT).and_then(w3c::read) {
        (incoming.formats.w3c, incoming.context) = (true, Some(context));
    }
    if let Some(b3) = header(&b3::SINGLE).and_then(b3::read_single) {
        incoming.formats.b3_single = true;
        incoming.take(b3);
    }
    if let Some(b3) = b3::read_multi(&header) {
        incoming.formats.b3_multi = true;
        incoming.take(b3);
    }
    incoming
}

/// [`read`] where B3 is known to be absent: only the value of a `traceparent` that occurs exactly once matters.
pub fn read_w3c(traceparent: Option<&[u8]>) -> Incoming {
    let context = traceparent.and_then(w3c::read);
    let formats = Formats { w3c: context.is_some(), ..Formats::default() };
    Incoming { context, sampled: None, formats }
}

/// Which traces that begin here are recorded: those whose random part lies below a threshold, so that everybody who samples the same share
/// picks the same traces (OpenTelemetry, TraceIdRatioBased).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u64);

impl Ratio {
    /// All traces are as many thresholds as there are values of 63 bits.
    const ALL: u64 = 1 << 63;

    /// A share of all traces, 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share within 0 and 1 of 2^63 is a whole number of 64 bits"
    )]
    pub fn new(share: f64) -> Self {
        if share >= 1.0 { Self(Self::ALL) } else { Self((share.max(0.0) * Self::ALL as f64) as u64) }
    }

    /// The threshold, at most 2⁶³.
    pub const fn threshold(self) -> u64 {
        self.0
    }

    /// The ratio of a threshold that [`Self::threshold`] gave.
    pub const fn of_threshold(threshold: u64) -> Self {
        Self(threshold)
    }

    /// Whether this trace is one of them.
    pub const fn holds(self, trace_id: u128) -> bool {
        ((trace_id as u64) >> 1) < self.0
    }
}

impl Incoming {
    fn take(&mut self, b3: b3::Read) {
        self.context = self.context.or(b3.context);
        self.sampled = self.sampled.or(b3.sampled);
    }

    /// The context of the call at this hop: a child of what came in, or a new trace. `sample` decides on a new trace,
    /// or one whose caller left it open.
    pub fn proceed(&self, random: [u64; 3], sample: bool) -> Context {
        let [high, low, span] = random;
        // Zero is invalid in every format; 2⁻⁶⁴ of the time it is drawn all the same.
        let span_id = span.max(1);
        match self.context {
            Some(parent) => Context {
                trace_id: parent.trace_id,
                span_id,
                parent_id: Some(parent.span_id),
                sampled: Some(parent.sampled.unwrap_or(sample)),
                debug: parent.debug,
            },
            None => Context {
                trace_id: (u128::from(high) << 64 | u128::from(low)).max(1),
                span_id,
                parent_id: None,
                sampled: Some(self.sampled.unwrap_or(sample)),
                debug: false,
            },
        }
    }
}

impl Context {
    /// Whether spans of the call are recorded.
    pub fn is_sampled(&self) -> bool {
        self.debug || self.sampled == Some(true)
    }

    /// Hands each header to write to `write`: in the formats that came in, or W3C when none did. `tracestate` is not
    /// among them: it travels as it came, and is to be dropped only when no valid `traceparent` came with it.
    pub fn write(&self, formats: Formats, mut write: impl FnMut(HeaderName, &str)) {
        if formats.w3c || formats == Formats::default() {
            write(w3c::TRACEPARENT, &w3c::write(self));
        }
        if formats.b3_single {
            write(b3::SINGLE, &b3::write_single(self));
        }
        if formats.b3_multi {
            b3::write_multi(self, write);
        }
    }
}

/// A new trace's `traceparent`.
pub fn traceparent(context: &Context) -> Text<55> {
    w3c::write(context)
}

/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether a request id that came in may be kept: 1 to 128 visible ASCII characters.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().fold(true, |fine, byte| fine & byte.is_ascii_graphic())
}

/// A new request id: a version 4 UUID (RFC 9562 §5.4) of two random words.
pub fn request_id(random: [u64; 2]) -> Text<36> {
    let [high, low] = random;
    let high = high & !0xF000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let digits: [u8; 32] = digits(u128::from(high) << 64 | u128::from(low));
    let mut text = [b'-'; 36];
    for (from, to, at) in [(0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24)] {
        text[at..at + to - from].copy_from_slice(&digits[from..to]);
    }
    Text::ascii(text)
}

/// The trace id as 32 hexadecimal digits, as logs show it.
pub fn trace_id_text(id: u128) -> Text<32> {
    Text::ascii(digits(id))
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Eight numbers below 16, one in each byte, as hexadecimal digits in lower case.
const fn digits_of(nibbles: u64) -> u64 {
    // The letters begin 39 places behind where an eleventh digit would stand.
    let letters = (nibbles + 6 * ONES) >> 4 & ONES;
    nibbles + b'0' as u64 * ONES + letters * 39
}

/// The last `N` (a multiple of eight, 32 at most) hexadecimal digits of a number, in lower case.
fn digits<const N: usize>(number: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    let mut rest = number;
    for eight in digits.rchunks_exact_mut(8) {
        // The lowest 32 bits, a nibble to a byte; the highest nibble becomes the highest byte.
        let mut word = (rest & 0xffff_ffff) as u64;
        word = (word | word << 16) & 0x0000_ffff_0000_ffff;
        word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
        word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        eight.copy_from_slice(&digits_of(word).to_be_bytes());
        rest >>= 32;
    }
    digits
}

/// The number that eight lower-case hexadecimal digits stand for.
fn eight(digits: &[u8; 8]) -> Option<u32> {
    let text = u64::from_be_bytes(*digits);
    let nibbles = (text & (15 * ONES)).wrapping_add((text >> 6 & ONES) * 9);
    // Whatever is no such digit is written otherwise.
    if nibbles & !(15 * ONES) != 0 || digits_of(nibbles) != text {
        return None;
    }
    let mut word = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    word = (word | word >> 8) & 0x0000_ffff_0000_ffff;
    u32::try_from((word | word >> 16) & 0xffff_ffff).ok()
}

/// Exactly as many lower-case hexadecimal digits as the text has, 32 at most: HEXDIGLC of W3C Trace Context §3.2.1. B3
/// is read with the same strictness.
fn hex(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    let (words, rest) = text.as_chunks::<8>();
    let sum = words.iter().try_fold(0_u128, |sum, digits| Some(sum << 32 | u128::from(eight(digits)?)))?;
    rest.iter().try_fold(sum, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(sum << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// A span id: 16 digits, not all zero.
fn span_id(text: &[u8]) -> Option<u64> {
    let id = hex(text).filter(|id| text.len() == 16 && *id != 0)?;
    u64::try_from(id).ok()
}
