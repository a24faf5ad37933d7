//! W3C Trace Context: `traceparent` and `tracestate`.

use http::HeaderName;

use super::{Context, digits, hex, span_id};
use crate::text::Text;

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const VERSION_00_LENGTH: usize = 55;

/// Reads `traceparent` (§3.2). A later version is read as version 00 as far as that goes (§4.3), version ff never.
pub(super) fn read(value: &[u8]) -> Option<Context> {
    let value = value.trim_ascii();
    let (known, rest) = value.split_at_checked(VERSION_00_LENGTH)?;
    let version = known.get(..2).filter(|version| hex(version).is_some() && *version != b"ff")?;
    // "If a higher version is detected, the implementation SHOULD try to parse it" up to a dash where version 00 ends.
    let ends = if version == b"00" { rest.is_empty() } else { matches!(rest.first(), None | Some(b'-')) };
    let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
    if !ends || !dashes {
        return None;
    }
    let trace_id = hex(known.get(3..35)?).filter(|id| *id != 0)?;
    let flags = hex(known.get(53..55)?)?;
    Some(Context {
        trace_id,
        span_id: span_id(known.get(36..52)?)?,
        parent_id: None,
        sampled: Some(flags & 1 == 1),
        debug: false,
    })
}

pub(super) fn write(context: &Context) -> Text<VERSION_00_LENGTH> {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..35].copy_from_slice(&digits::<32>(context.trace_id));
    text[36..52].copy_from_slice(&digits::<16>(context.span_id.into()));
    text[54] = b'0' + u8::from(context.is_sampled());
    Text::ascii(text)
}

/// Whether a combined `tracestate` is well-formed (§3.3) and may travel on: at most 32 members and 512 characters, no
/// key twice.
pub fn is_tracestate(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let members = || text.split(',').map(str::trim_ascii).filter(|member| !member.is_empty());
    let keys = || members().filter_map(|member| member.split_once('=').map(|(key, _)| key));
    text.len() <= 512
        && members().count() <= 32
        && members().all(|member| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value)))
        && keys().enumerate().all(|(i, key)| keys().take(i).all(|earlier| earlier != key))
}

/// `simple-key` or `tenant@system` (§3.3.1.3.1).
fn is_key(key: &str) -> bool {
    let part = |text: &str, most: usize, digit_first: bool| {
        let first = |b: u8| b.is_ascii_lowercase() || digit_first && b.is_ascii_digit();
        let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/');
        (1..=most).contains(&text.len()) && text.bytes().next().is_some_and(first) && text.bytes().all(rest)
    };
    match key.split_once('@') {
        Some((tenant, system)) => part(tenant, 241, true) && part(system, 14, false),
        None => part(key, 256, true),
    }
}

/// Printable ASCII without comma and equals sign (§3.3.1.3.2).
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b',' && b != b'=')
}
