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

/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether a request id that came in may be kept: 1 to 128 visible ASCII characters.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
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

/// The last `N` (even) hexadecimal digits of a number, in lower case.
fn digits<const N: usize>(number: u128) -> [u8; N] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [b'0'; N];
    let mut bytes = number.to_le_bytes().into_iter();
    for pair in digits.rchunks_exact_mut(2) {
        if let ([high, low], Some(byte)) = (pair, bytes.next()) {
            (*high, *low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]);
        }
    }
    digits
}

/// Exactly as many lower-case hexadecimal digits as the text has, 32 at most: HEXDIGLC of W3C Trace Context §3.2.1. B3
/// is read with the same strictness.
fn hex(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    text.iter().try_fold(0_u128, |sum, digit| match digit {
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
