//! Session persistence (GEP-1619): calls of one session go to the endpoint that answered its first.
//!
//! A token says which endpoint of which backend, for which rule, and since when. It is opaque to clients and not secret: it names
//! nothing that a caller could not reach anyway, so it is not signed; whatever does not parse is no token.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};

use super::{BackendName, Choice, Decision, Request, Rule, Target};

/// First byte of a token.
const VERSION: u8 = 1;
/// A token that claims to be from further in the future than this was not issued by a clock of the mesh.
const SKEW: u64 = 300;
/// Longest token in characters; the longest workload uid gives 660.
const LONGEST: usize = 1024;

/// How sessions of a rule are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where the token travels.
    pub carrier: Carrier,
    /// From the first call on. `None`: as long as the endpoint lives.
    pub timeout: Option<Duration>,
    /// The cookie outlives the client's process. Invariant: only with `timeout`.
    pub permanent: bool,
    /// `Path` of the cookie.
    pub path: Box<str>,
    /// Tells rules apart: "Route rules referencing the same service MUST NOT share persistent sessions".
    pub(crate) rule: u32,
}

/// Where a token travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In the cookie of that name.
    Cookie(Box<str>),
    /// In the header of that name, both ways.
    Header(HeaderName),
}

/// A session that a call belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Workload uid of its endpoint.
    pub uid: Box<str>,
    /// Seconds since the Unix epoch, of its first call.
    pub since: u64,
    /// Which backend: the hash of its name.
    backend: u32,
}

impl Session {
    /// Key of a rule, stable across processes, versions and edits elsewhere in its route.
    pub(crate) fn rule_key(route: &str, rule: &str, index: usize) -> u32 {
        match rule {
            "" => short_hash(&[route.as_bytes(), b"#", &index.to_be_bytes()]),
            name => short_hash(&[route.as_bytes(), b"/", name.as_bytes()]),
        }
    }

    /// The session of a call, if it has one of this rule that has not timed out. `now` is in seconds since the Unix epoch.
    pub fn read<R: Request + ?Sized>(&self, request: &R, now: u64) -> Option<Held> {
        let mut held = None;
        // Several cookies of one name are the work of other rules or other paths: the first that is ours counts.
        let mut take = |text: &[u8]| {
            held = self.parse(text.trim_ascii(), now);
            held.is_some()
        };
        match &self.carrier {
            Carrier::Header(name) => request.any_header(name, &mut take),
            Carrier::Cookie(name) => super::any_cookie(request, name, &mut take),
        };
        held
    }

    /// The header that a response gets, so that calls to come find the endpoint `uid` of `backend`. `since` is the first call of the
    /// session: `now`, unless a held session goes on at another endpoint; both in seconds since the Unix epoch. `None` for a uid that
    /// no header can hold.
    pub fn issue(&self, backend: &BackendName, uid: &str, since: u64, now: u64) -> Option<(HeaderName, HeaderValue)> {
        let token = self.token(backend, uid, since);
        match &self.carrier {
            Carrier::Header(name) => HeaderValue::from_str(&token).ok().map(|value| (name.clone(), value)),
            Carrier::Cookie(name) => {
                // `Secure` would keep it from plaintext callers inside the mesh (GEP-1619, “Secure, HttpOnly, SameSite”).
                let mut cookie = format!("{name}={token}; Path={}; HttpOnly; SameSite=Strict", self.path);
                if let Some(timeout) = self.timeout.filter(|_| self.permanent) {
                    cookie.push_str("; Max-Age=");
                    let left = timeout.as_secs().saturating_sub(now.saturating_sub(since));
                    cookie.push_str(&crate::text::Decimal::of(left.max(1)));
                }
                HeaderValue::from_str(&cookie).ok().map(|value| (header::SET_COOKIE, value))
            }
        }
    }

    fn token(&self, backend: &BackendName, uid: &str, since: u64) -> String {
        let mut token = String::with_capacity(2 * (17 + uid.len()));
        let mut push = |bytes: &[u8]| {
            for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
                token.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        };
        push(&[VERSION]);
        push(&self.rule.to_be_bytes());
        push(&since.to_be_bytes());
        push(&backend_key(backend).to_be_bytes());
        push(uid.as_bytes());
        token
    }

    fn parse(&self, text: &[u8], now: u64) -> Option<Held> {
        if text.len() > LONGEST || !text.len().is_multiple_of(2) {
            return None;
        }
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let bytes: Option<Vec<u8>> =
            text.chunks_exact(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect();
        let bytes = bytes?;
        let (version, rest) = bytes.split_first()?;
        let (rule, rest) = rest.split_first_chunk::<4>()?;
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let (backend, uid) = rest.split_first_chunk::<4>()?;
        let (rule, since) = (u32::from_be_bytes(*rule), u64::from_be_bytes(*since));
        let uid = std::str::from_utf8(uid).ok().filter(|uid| crate::config::is_namespaced_name(uid))?;
        let over = self.timeout.is_some_and(|timeout| now.saturating_sub(since) >= timeout.as_secs().max(1));
        let ours = *version == VERSION && rule == self.rule && since <= now.saturating_add(SKEW) && !over;
        ours.then(|| Held { uid: uid.into(), since, backend: u32::from_be_bytes(*backend) })
    }
}

impl<'t> Decision<'t> {
    /// The same decision seen by the session that the call belongs to: "a persistent session takes precedence over traffic split
    /// weights", also where the draw hit a share that does not resolve. With the session, if the rule still has its backend; whether
    /// that still has the endpoint is for the caller to see. Where it has not, another of the same backend is taken, and the token
    /// issued again. `now` is in seconds since the Unix epoch.
    pub fn resume<R: Request + ?Sized>(self, request: &R, now: u64) -> (Self, Option<Held>) {
        let (Decision::Forward { rule, prefix, .. } | Decision::Unresolved { rule, prefix, .. }) = self else {
            return (self, None);
        };
        let held = rule.session.as_ref().and_then(|session| session.read(request, now));
        let found = held.and_then(|held| match rule.held_backend(&held)? {
            Choice::Backend(backend, name) => Some((Decision::Forward { rule, backend, name, prefix }, Some(held))),
            Choice::Unresolved(_) => None,
        });
        found.unwrap_or((self, None))
    }
}

impl Rule {
    fn held_backend(&self, held: &Held) -> Option<Choice<'_>> {
        self.backends().iter().find_map(|backend| match &backend.target {
            Target::Backend(name) if backend_key(name) == held.backend => Some(Choice::Backend(backend, name)),
            _ => None,
        })
    }
}

fn backend_key(name: &BackendName) -> u32 {
    short_hash(&[name.service.as_bytes(), &name.port.to_be_bytes()])
}

/// FNV-1a, 32 bits: the same in every process and version, because tokens outlive both.
fn short_hash(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use weft_proto::v1;

    use super::super::Head;
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn session(carrier: Carrier, timeout: Option<u64>) -> Session {
        let timeout = timeout.map(Duration::from_secs);
        Session { carrier, timeout, permanent: timeout.is_some(), path: "/".into(), rule: 7 }
    }

    fn cookie() -> Carrier {
        Carrier::Cookie("sid".into())
    }

    fn backend() -> BackendName {
        BackendName { service: "shop/a".into(), port: 80 }
    }

    fn read(session: &Session, name: HeaderName, values: &[&str], now: u64) -> Option<Held> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        session.read(&Head::new("GET", "/", &headers), now)
    }

    fn token(session: &Session, since: u64) -> String {
        session.token(&backend(), "shop/a-1", since)
    }

    #[test]
    fn what_is_issued_is_read_back() {
        let by_cookie = session(cookie(), None);
        let (name, value) = by_cookie.issue(&backend(), "shop/a-1", NOW, NOW).unwrap();
        let value = value.to_str().unwrap();
        assert_eq!(name, header::SET_COOKIE);
        let (pair, attributes) = value.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict", "a session cookie has neither Max-Age nor Expires");
        let held = read(&by_cookie, header::COOKIE, &[&format!("other=1; {pair}; x=y")], NOW + 9).unwrap();
        assert_eq!((&*held.uid, held.since, held.backend), ("shop/a-1", NOW, backend_key(&backend())));

        let header = HeaderName::from_static("x-session");
        let by_header = session(Carrier::Header(header.clone()), None);
        let (name, value) = by_header.issue(&backend(), "shop/a-1", NOW, NOW).unwrap();
        assert_eq!(name, header);
        assert_eq!(&*read(&by_header, header, &[value.to_str().unwrap()], NOW).unwrap().uid, "shop/a-1");
    }

    #[test]
    fn a_permanent_cookie_carries_its_lifetime() {
        let (_, value) = session(cookie(), Some(3600)).issue(&backend(), "shop/a-1", NOW, NOW).unwrap();
        assert!(value.to_str().unwrap().ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=3600"), "{value:?}");
        let (_, moved) = session(cookie(), Some(3600)).issue(&backend(), "shop/a-2", NOW - 600, NOW).unwrap();
        assert!(moved.to_str().unwrap().ends_with("; Max-Age=3000"), "{moved:?}");
    }

    #[test]
    fn a_session_ends_when_its_absolute_timeout_has_elapsed() {
        let session = session(cookie(), Some(60));
        let pair = format!("sid={}", token(&session, NOW));
        for (after, valid) in [(0, true), (59, true), (60, false), (61, false), (u64::MAX - NOW, false)] {
            assert_eq!(read(&session, header::COOKIE, &[&pair], NOW + after).is_some(), valid, "after {after} s");
        }
    }

    #[test]
    fn the_first_cookie_that_is_ours_counts() {
        let ours = session(cookie(), None);
        let other = Session { rule: 8, ..ours.clone() };
        let (mine, theirs) = (token(&ours, NOW), other.token(&backend(), "shop/a-2", NOW));
        let line = format!("sid=nonsense; sid={theirs}; SID={mine}");
        assert_eq!(read(&ours, header::COOKIE, &[&line], NOW), None, "cookie names are case-sensitive");
        let held = read(&ours, header::COOKIE, &[&line, &format!("sid={mine}")], NOW).unwrap();
        assert_eq!(&*held.uid, "shop/a-1");
        let quoted = format!("sid=\"{mine}\"");
        assert!(read(&ours, header::COOKIE, &[&quoted], NOW).is_some(), "RFC 6265 §4.1.1 lets values be quoted");
    }

    #[test]
    fn the_hashes_of_a_token_are_fnv_1a_so_that_it_outlives_a_version() {
        // Test vectors of draft-eastlake-fnv, 32 bits; parts are hashed as if they were one.
        assert_eq!(short_hash(&[b"a"]), 0xE40C_292C);
        assert_eq!(short_hash(&[b"foo", b"bar"]), 0xBF9C_F968);
    }

    #[test]
    fn a_session_goes_before_weights_and_before_a_share_that_does_not_resolve() {
        let backend = |service: &str, weight| v1::WeightedBackend {
            service: service.into(),
            port: 80,
            weight,
            ..Default::default()
        };
        let gone = v1::WeightedBackend { unresolved: "gone".into(), weight: 1, ..Default::default() };
        let rule = v1::RouteRule {
            backends: vec![backend("shop/a", 1), backend("shop/b", 0), gone],
            session_persistence: Some(v1::SessionPersistence { name: "sid".into(), ..Default::default() }),
            ..Default::default()
        };
        let route = v1::Route {
            name: "shop/r".into(),
            kind: v1::RouteKind::Http.into(),
            rules: vec![rule],
            ..Default::default()
        };
        let frontend = v1::Frontend { routes: vec![route], ..Default::default() };
        let port = v1::ServicePort { port: 80, frontend: Some(frontend), ..Default::default() };
        let wire = v1::Service { name: "shop/front".into(), ports: vec![port], ..Default::default() };
        let service = crate::config::Service::from_wire(&wire).unwrap();
        let table = &service.ports[0].frontend.routes;
        let session = table.rules()[0].session.as_ref().unwrap();
        let resumed = |random, held_at: &str| {
            let mut headers = HeaderMap::new();
            let backend = BackendName { service: held_at.into(), port: 80 };
            if !held_at.is_empty() {
                headers.insert(header::COOKIE, session.issue(&backend, "shop/x-1", NOW, NOW).unwrap().1);
            }
            let head = Head::new("GET", "/", &headers);
            let (decision, held) = table.decide(&head, random).resume(&head, NOW);
            let to = match decision {
                Decision::Forward { name, .. } => name.to_string(),
                other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
            };
            (to, held.map(|held| held.uid.to_string()))
        };
        let held = || Some("shop/x-1".to_owned());
        for (random, drawn) in [(0, "shop/a:80"), (u64::MAX, "Unresolved")] {
            assert_eq!(resumed(random, ""), (drawn.into(), None));
            assert_eq!(resumed(random, "shop/a"), ("shop/a:80".into(), held()));
            assert_eq!(resumed(random, "shop/b"), ("shop/b:80".into(), held()));
            assert_eq!(resumed(random, "shop/c"), (drawn.into(), None), "the rule has no such backend any more");
        }
    }

    #[test]
    fn half_a_byte_more_makes_a_token_none() {
        let session = session(cookie(), None);
        let whole = token(&session, NOW);
        assert!(session.parse(whole.as_bytes(), NOW).is_some());
        assert_eq!(session.parse(format!("{whole}0").as_bytes(), NOW), None);
    }

    #[test]
    fn rules_are_told_apart_by_name_and_else_by_index() {
        let keys = [
            Session::rule_key("shop/r", "", 0),
            Session::rule_key("shop/r", "", 1),
            Session::rule_key("shop/r", "a", 1),
            Session::rule_key("shop/s", "a", 1),
        ];
        let distinct: std::collections::HashSet<u32> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(Session::rule_key("shop/r", "a", 1), Session::rule_key("shop/r", "a", 5));
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_a_token_and_none_panics(text in "[0-9a-f]{0,80}|.{0,40}", now in any::<u64>()) {
            let session = session(cookie(), Some(60));
            let bytes = text.as_bytes();
            if let Some(held) = session.parse(bytes, now) {
                prop_assert!(crate::config::is_namespaced_name(&held.uid));
            }
        }

        #[test]
        fn a_token_with_any_byte_changed_names_the_same_session_or_none(at in 0_usize..50, byte in any::<u8>()) {
            let session = session(cookie(), None);
            let mut text = token(&session, NOW).into_bytes();
            let at = at % 10; // version and rule
            let changed = text[at] != byte && !text[at].eq_ignore_ascii_case(&byte);
            text[at] = byte;
            prop_assert_eq!(session.parse(&text, NOW).is_none(), changed);
        }
    }
}
