//! What was asked of the API, for ever readable: a [`Journal`], `audit/api.jsonl` of the data directory. Each write, each command to a sidecar and
//! each refusal is a line; refusals are bounded. Bodies, tokens and other secrets are never in it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

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
#[derive(Debug, Default)]
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
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
    address: Option<SocketAddr>,
    user_agent: &'r str,
    /// Refusals before it that were not written, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    kept_back: u64,
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
}

impl Record {
    /// In a directory, which is made (0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(directory: &Path) -> Result<Self, weft_certs::Error> {
        Ok(Self { journal: Journal::open(directory, "api")?, refusals: Refusals::default() })
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
            dry_run: request.dry_run,
            address: request.address,
            user_agent: &request.agent,
            kept_back,
        };
        match &asked.target {
            Target::Path(path) => line.path = Some(short(path, TEXT)),
            Target::Resource(resource) => {
                let some = |text: &'_ str| (!text.is_empty()).then_some(());
                line.resource = Some(resource.combined());
                line.group = some(&resource.group).map(|()| resource.group.as_str());
                line.namespace = some(&resource.namespace).map(|()| short(&resource.namespace, TEXT));
                line.name = some(&resource.name).map(|()| short(&resource.name, TEXT));
                line.name = line.name.or(made.map(|made| short(&made.0, TEXT)));
            }
        }
        self.journal.write(&line);
    }
}

/// Whether a request writes, or commands a sidecar; a dump of its configuration is a command too.
fn is_act(asked: &Attributes) -> bool {
    let command = matches!(&asked.target,
        Target::Resource(r) if r.group == GROUP && r.resource == "workloads" && r.subresource == "config");
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
    fn what_a_client_calls_itself_is_shortened_at_a_character() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, http::HeaderValue::from_str(&"é".repeat(300)).unwrap());
        assert_eq!(agent(&headers).chars().count(), AGENT);
        assert_eq!(agent(&HeaderMap::new()), "");
    }
}
