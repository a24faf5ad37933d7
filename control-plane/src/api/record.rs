//! What was asked of the API, for ever readable: a [`Journal`], `audit/api.jsonl` of the data directory. Each write, each command to a sidecar, each
//! refusal and each failed authentication is a line; the last two are bounded. Bodies, tokens and other secrets are never in it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use weft_policy::limit::TokenBucket;

use crate::journal::{Journal, Refusals};
use crate::kinds::GROUP;
use crate::rbac::{Attributes, Target, User};

/// Characters of a client's name for itself that are kept.
const AGENT: usize = 256;
/// Names and groups are certificates' and tokens' to say; this bounds what of one text is kept.
const TEXT: usize = 512;

/// The name of an object that a write made, on its response.
#[derive(Clone, Debug)]
pub(crate) struct Made(pub String);

/// What is known of a request when it is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    /// Who asked; `None`: nobody, or the control plane itself.
    pub user: Option<Arc<User>>,
    /// Who took that name, where it is another's.
    pub behind: Option<Arc<User>>,
    /// What it would have done; `None`: it was refused before that was known.
    pub asked: Option<Attributes>,
    /// Whether it only asks for an answer, whatever its verb says.
    pub harmless: bool,
    /// Whether it is judged only.
    pub dry_run: bool,
    /// Where it came from.
    pub address: Option<SocketAddr>,
    /// The client's name for itself.
    pub agent: String,
    /// Method and path, for who is not even let in.
    pub called: (String, String),
    /// Why nobody is known to have asked.
    pub unknown: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'r> {
    user: &'r str,
    groups: Vec<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_by: Option<&'r str>,
    verb: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'r str>,
    code: u16,
    /// Why it is not known who asked.
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'r str,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
    address: Option<SocketAddr>,
    user_agent: &'r str,
    /// Refusals before it that were not written, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    kept_back: u64,
    /// What was asked in particular, and came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'r Value>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The first part of a text, whole characters.
fn short(text: &str, most: usize) -> &str {
    match text.char_indices().nth(most) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A client's name for itself, shortened.
pub(super) fn agent(headers: &HeaderMap) -> String {
    let text = headers.get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    short(&text.unwrap_or_default(), AGENT).to_owned()
}

/// The record.
#[derive(Debug)]
pub struct Record {
    journal: Journal,
    refusals: Refusals,
    strangers: Strangers,
}

impl Record {
    /// In a directory, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(directory: &Path) -> Result<Self, weft_certs::Error> {
        Ok(Self {
            journal: Journal::open(directory, "api")?,
            refusals: Refusals::default(),
            strangers: Strangers::default(),
        })
    }

    /// The last lines, oldest first. Reads files of some MiB.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn last(&self, count: usize) -> io::Result<Vec<Value>> {
        self.journal.last(count)
    }

    /// Writes down a request that was answered, if it is one of those that are.
    pub(super) fn answered(&self, request: &Request, code: StatusCode, made: Option<&Made>) {
        if code == StatusCode::UNAUTHORIZED {
            return self.unknown(request);
        }
        let (Some(user), Some(asked)) = (&request.user, &request.asked) else { return };
        let refused = code == StatusCode::FORBIDDEN;
        if !refused && (request.harmless || !is_act(asked)) {
            return;
        }
        let kept_back = match refused.then(|| self.refusals.take()) {
            Some(None) => return,
            Some(Some(kept_back)) => kept_back,
            None => 0,
        };
        self.write(request, user, asked, (code, kept_back), made.map(|made| &*made.0), None);
    }

    /// Writes down what was asked of an answer that lasts, and what came of it.
    pub(super) fn note(&self, request: &Request, detail: &Value) {
        if let (Some(user), Some(asked)) = (&request.user, &request.asked) {
            self.write(request, user, asked, (StatusCode::OK, 0), None, Some(detail));
        }
    }

    fn write(
        &self,
        request: &Request,
        user: &User,
        asked: &Attributes,
        (code, kept_back): (StatusCode, u64),
        made: Option<&str>,
        detail: Option<&Value>,
    ) {
        let mut line = Line {
            user: short(&user.name, TEXT),
            groups: user.groups.iter().take(32).map(|group| short(group, TEXT)).collect(),
            impersonated_by: request.behind.as_ref().map(|user| short(&user.name, TEXT)),
            verb: short(&asked.verb, TEXT),
            resource: None,
            group: None,
            namespace: None,
            name: None,
            path: None,
            code: code.as_u16(),
            why: "",
            dry_run: request.dry_run,
            address: request.address,
            user_agent: &request.agent,
            kept_back,
            detail,
        };
        match &asked.target {
            Target::Path(path) => line.path = Some(short(path, TEXT)),
            Target::Resource(resource) => {
                let some = |text: &'_ str| (!text.is_empty()).then_some(());
                line.resource = Some(resource.combined());
                line.group = some(&resource.group).map(|()| resource.group.as_str());
                line.namespace = some(&resource.namespace).map(|()| short(&resource.namespace, TEXT));
                line.name = some(&resource.name).map(|()| short(&resource.name, TEXT));
                line.name = line.name.or(made.map(|made| short(made, TEXT)));
            }
        }
        self.journal.write(&line);
    }

    /// Writes down a request of which nobody knows who asked, unless its address, or all together, made too many.
    fn unknown(&self, request: &Request) {
        let address = request.address.map(|address| address.ip());
        let Some(kept_back) = self.strangers.take(address, Instant::now()) else { return };
        self.journal.write(&Line {
            user: "system:anonymous",
            groups: vec!["system:unauthenticated"],
            impersonated_by: None,
            verb: &request.called.0,
            resource: None,
            group: None,
            namespace: None,
            name: None,
            path: Some(short(&request.called.1, TEXT)),
            code: StatusCode::UNAUTHORIZED.as_u16(),
            why: request.unknown,
            dry_run: false,
            address: request.address,
            user_agent: &request.agent,
            kept_back,
            detail: None,
        });
    }

    /// Requests since the start of which it was not known who asked, those that were not written down included.
    #[must_use]
    pub fn unknown_callers(&self) -> u64 {
        self.strangers.all.load(Ordering::Relaxed)
    }
}

/// Failed authentications of one address that are written in a second, and at once.
const FAILURES: (f64, f64) = (0.2, 5.0);
/// Addresses that are told apart; those beyond share one account.
const ADDRESSES: usize = 1024;

/// Bounds what strangers may write: each address for itself, so that one that guesses does not hide another, and all together.
#[derive(Debug, Default)]
struct Strangers {
    by_address: Mutex<HashMap<Option<IpAddr>, (TokenBucket, u64)>>,
    together: Refusals,
    all: AtomicU64,
}

impl Strangers {
    /// `None`: too many, do not write it. Else how many before it were not written.
    fn take(&self, address: Option<IpAddr>, now: Instant) -> Option<u64> {
        self.all.fetch_add(1, Ordering::Relaxed);
        let mut by_address = self.by_address.lock();
        let mut key = address.map(network);
        if by_address.len() >= ADDRESSES && !by_address.contains_key(&key) {
            // Who has been silent long enough to begin anew is forgotten first.
            by_address.retain(|_, (bucket, kept_back)| *kept_back > 0 || bucket.tokens(now) < FAILURES.1);
            if by_address.len() >= ADDRESSES {
                key = None;
            }
        }
        let fresh = || (TokenBucket::new(FAILURES.0, FAILURES.1, now), 0);
        let (bucket, kept_back) = by_address.entry(key).or_insert_with(fresh);
        if bucket.take(1, now).is_err() {
            *kept_back += 1;
            return None;
        }
        let before = std::mem::take(kept_back);
        drop(by_address);
        Some(before + self.together.take()?)
    }
}

/// The address, of IPv6 its network of 64 bits: whoever has one address there has all.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

/// Whether a request writes, or commands a sidecar; a dump of what it holds or counts is a command too.
fn is_act(asked: &Attributes) -> bool {
    let command = matches!(&asked.target,
        Target::Resource(r) if r.group == GROUP && r.resource == "workloads"
            && ["config", "stats"].contains(&r.subresource.as_str()));
    command || !matches!(asked.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::Resource;

    fn request(verb: &str, resource: &str, subresource: &str) -> Request {
        let group = if resource == "workloads" { GROUP.to_owned() } else { String::new() };
        let (resource, subresource, namespace) = (resource.to_owned(), subresource.to_owned(), "shop".to_owned());
        Request {
            user: Some(Arc::new(User::new("ana", ["team".to_owned()]))),
            asked: Some(Attributes::on(
                verb,
                Resource { group, resource, subresource, namespace, ..Resource::default() },
            )),
            address: Some("192.0.2.7:1234".parse().unwrap()),
            agent: "kubectl/v1.34.0".to_owned(),
            ..Request::default()
        }
    }

    #[test]
    fn writes_commands_and_refusals_are_lines_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(dir.path()).unwrap();
        record.answered(&request("list", "services", ""), StatusCode::OK, None);
        record.answered(
            &Request { harmless: true, ..request("create", "tokenreviews", "") },
            StatusCode::CREATED,
            None,
        );
        record.answered(&Request { user: None, ..request("create", "services", "") }, StatusCode::CREATED, None);
        record.answered(&request("create", "services", ""), StatusCode::CREATED, Some(&Made("cart".into())));
        record.answered(&request("get", "workloads", "config"), StatusCode::OK, None);
        record.answered(&request("list", "services", ""), StatusCode::FORBIDDEN, None);
        let lines = record.last(10).unwrap();
        let seen: Vec<_> = lines.iter().map(|l| format!("{} {} {}", l["verb"], l["resource"], l["code"])).collect();
        assert_eq!(seen, [r#""create" "services" 201"#, r#""get" "workloads/config" 200"#, r#""list" "services" 403"#]);
        let first = &lines[0];
        assert_eq!(
            (&first["user"], &first["namespace"], &first["name"]),
            (&"ana".into(), &"shop".into(), &"cart".into())
        );
        assert_eq!((&first["address"], &first["userAgent"]), (&"192.0.2.7:1234".into(), &"kubectl/v1.34.0".into()));
        assert_eq!(first["groups"], serde_json::json!(["team", "system:authenticated"]));
    }

    #[test]
    fn refusals_are_bounded_and_writes_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(dir.path()).unwrap();
        for _ in 0..3000 {
            record.answered(&request("list", "services", ""), StatusCode::FORBIDDEN, None);
        }
        for _ in 0..200 {
            record.answered(&request("delete", "services", ""), StatusCode::OK, None);
        }
        let lines = record.last(crate::journal::MOST).unwrap();
        let refused = lines.iter().filter(|line| line["code"] == 403).count();
        assert!((100..1000).contains(&refused), "{refused}");
        assert_eq!(lines.len() - refused, 200);
    }

    #[test]
    fn failed_authentications_are_bounded_by_address_and_all_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(dir.path()).unwrap();
        let stranger = |address: &str| Request {
            address: Some(address.parse().unwrap()),
            called: ("get".to_owned(), "/api/v1/secrets".to_owned()),
            unknown: "the token is not good here",
            ..Request::default()
        };
        for _ in 0..500 {
            record.answered(&stranger("192.0.2.7:1"), StatusCode::UNAUTHORIZED, None);
        }
        record.answered(&stranger("192.0.2.8:1"), StatusCode::UNAUTHORIZED, None);
        for host in 0..50 {
            record.answered(&stranger(&format!("[2001:db8::{host}]:1")), StatusCode::UNAUTHORIZED, None);
        }
        let lines = record.last(1000).unwrap();
        let of = |start: &str| lines.iter().filter(|l| l["address"].as_str().unwrap().starts_with(start)).count();
        assert!((5..8).contains(&of("192.0.2.7")), "{}", of("192.0.2.7"));
        assert_eq!(of("192.0.2.8"), 1, "another address is not hidden by it");
        assert!((5..8).contains(&of("[2001:db8:")), "one network of IPv6 counts as one");
        assert_eq!(record.unknown_callers(), 551);
        let first = &lines[0];
        assert_eq!(
            (&first["user"], &first["code"], &first["verb"]),
            (&"system:anonymous".into(), &401.into(), &"get".into())
        );
        assert_eq!((&first["path"], &first["why"]), (&"/api/v1/secrets".into(), &"the token is not good here".into()));
    }

    #[test]
    fn addresses_that_are_told_apart_are_bounded() {
        let strangers = Strangers::default();
        let now = Instant::now();
        for host in 0..3 * ADDRESSES as u32 {
            strangers.take(Some(IpAddr::V4((0x0a00_0000 + host).into())), now);
        }
        assert!(strangers.by_address.lock().len() <= ADDRESSES + 1);
        // In time those who are silent make room.
        strangers.take(Some("192.0.2.7".parse().unwrap()), now + std::time::Duration::from_secs(600));
        assert!(strangers.by_address.lock().contains_key(&Some("192.0.2.7".parse().unwrap())));
    }

    #[test]
    fn what_a_client_calls_itself_is_shortened_at_a_character() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, http::HeaderValue::from_str(&"é".repeat(300)).unwrap());
        assert_eq!(agent(&headers).chars().count(), AGENT);
        assert_eq!(agent(&HeaderMap::new()), "");
    }
}
