//! W3C Trace Context: `traceparent` and `tracestate`.

/// Whether a combined `tracestate` is well-formed and may travel on.
pub fn is_tracestate(value: &[u8]) -> bool {
    let _ = value;
    unimplemented!()
}
