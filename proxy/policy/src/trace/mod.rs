//! Trace context: W3C `traceparent`/`tracestate` and B3 (single and multi), read, continued and written; and request ids. Nothing here exports spans or
//! decides on sampling by itself; randomness is an argument.

mod b3;
mod w3c;

use http::HeaderName;

pub use w3c::is_tracestate;

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

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The context, if any header holds a valid one. W3C wins over B3 single over B3 multi.
    pub context: Option<Context>,
    /// A sampling decision without a context (`b3: 0`).
    pub sampled: Option<bool>,
    /// The formats that were valid.
    pub formats: Formats,
}

/// Reads the trace headers. `header` gives the only value of a header; a header that occurs twice is to be given as `None`, except `tracestate`, which is not asked for
/// here.
pub fn read<'a>(header: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Incoming {
    let _ = header(&http::header::HOST);
    unimplemented!()
}

impl Incoming {
    /// The context of the call at this hop: a child of what came in, or a new trace (`sample` decides, unless the caller did). Three random words.
    pub fn proceed(&self, random: [u64; 3], sample: bool) -> Context {
        let _ = (random, sample);
        unimplemented!()
    }
}

impl Context {
    /// Hands each header to write to `write`: in the formats that came in, or W3C when none did. `tracestate` is not among them: it travels as it came, and is to be dropped only
    /// when `traceparent` was not valid.
    pub fn write(&self, formats: Formats, write: impl FnMut(HeaderName, &str)) {
        let _ = (formats, write);
        unimplemented!()
    }
}

/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether a request id that came in may be kept: 1 to 128 visible ASCII characters.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// A new request id: a version 4 UUID of two random words.
pub fn request_id(random: [u64; 2]) -> Text<36> {
    let _ = random;
    unimplemented!()
}
