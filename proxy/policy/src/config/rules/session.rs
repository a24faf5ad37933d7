//! `weft.v1.SessionPersistence`.

use weft_proto::v1;

use super::matching::header_name;
use super::{Refusal, check};
use crate::route::{Carrier, Session};

/// `rule` tells rules apart: it is part of a generated cookie name and of every token.
pub(super) fn session(wire: &v1::SessionPersistence, rule: u32) -> Result<Session, Refusal> {
    // "If not specified, a unique cookie name SHOULD be generated": rules with one name would overwrite each other's cookie.
    let name = if wire.name.is_empty() { format!("weft-session-{rule:08x}") } else { wire.name.clone() };
    let carrier = match v1::SessionKind::try_from(wire.kind) {
        Ok(v1::SessionKind::Cookie) => Carrier::Cookie(cookie_name(name)?),
        Ok(v1::SessionKind::Header) if wire.name.is_empty() => {
            return Err(Refusal::new("name", "is required for a header: clients have to know it"));
        }
        Ok(v1::SessionKind::Header) if wire.permanent => {
            return Err(Refusal::new("permanent", "is about cookies: a header has no lifetime"));
        }
        Ok(v1::SessionKind::Header) => Carrier::Header(header_name(&name)?),
        Err(_) => return Err(Refusal::new("kind", format!("{} is no kind of session", wire.kind))),
    };
    let timeout = check::span("absoluteTimeout", wire.absolute_timeout.as_ref())?.given();
    if wire.permanent && timeout.is_none() {
        // GEP-1619: "AbsoluteTimeout must be specified when cookie lifetimeType is Permanent".
        return Err(Refusal::new("absoluteTimeout", "is required for a permanent cookie"));
    }
    if !wire.path.is_empty() && matches!(carrier, Carrier::Header(_)) {
        return Err(Refusal::new("path", "is about cookies"));
    }
    Ok(Session { carrier, timeout, permanent: wire.permanent, path: cookie_path(&wire.path)?, rule })
}

/// RFC 6265 §4.1.1: a token.
fn cookie_name(name: String) -> Result<Box<str>, Refusal> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.len() <= 256 && name.bytes().all(token) {
        return Ok(name.into());
    }
    Err(Refusal::new("name", format!("{name:?} is no name of a cookie")))
}

/// RFC 6265 §4.1.1: "any CHAR except CTLs or ';'". GEP-1619: "MUST default the cookie `Path` to `/`".
fn cookie_path(path: &str) -> Result<Box<str>, Refusal> {
    match path {
        "" => Ok("/".into()),
        path if path.len() <= 1024
            && path.starts_with('/')
            && path.bytes().all(|b| b.is_ascii_graphic() && b != b';') =>
        {
            Ok(path.into())
        }
        other => Err(Refusal::new("path", format!("{other:?} is no path of a cookie"))),
    }
}
