//! The forms in which objects are sent: as they are, as rows of a table (what `kubectl get` asks for), or as metadata alone.

use http::{HeaderMap, header};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::failure::{Failure, Result};
use crate::kinds::{Kind, column::Cell};

/// A form of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    /// Rows, each with so much of its object.
    Table(Include, &'static str),
    Metadata(&'static str),
}

/// How much of its object a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

const META: &str = "meta.k8s.io";

/// Parameters of one media type of an `Accept` field.
pub(super) struct Accepted<'a> {
    pub media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Accepted<'a> {
    pub fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }

    pub fn is_json(&self) -> bool {
        ["application/json", "application/*", "*/*"].iter().any(|m| self.media.eq_ignore_ascii_case(m))
    }
}

/// What a client accepts, in its order; anything when it does not say.
pub(super) fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    let fields = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut accepted: Vec<Accepted<'_>> = fields
        .flat_map(|v| v.split(','))
        .map(|one| {
            let mut parts = one.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            Accepted { media, parameters: parts.filter_map(|p| p.split_once('=')).collect() }
        })
        .filter(|a| !a.media.is_empty())
        .collect();
    if accepted.is_empty() {
        accepted.push(Accepted { media: "*/*", parameters: Vec::new() });
    }
    accepted
}

/// The form that a client asks for; `include` is its `includeObject`.
pub(super) fn negotiate(headers: &HeaderMap, include: &str) -> Result<Form> {
    for accepted in accepted(headers).iter().filter(|a| a.is_json()) {
        let version = match accepted.parameter("v") {
            "v1" => "meta.k8s.io/v1",
            "v1beta1" => "meta.k8s.io/v1beta1",
            _ => "",
        };
        let known = accepted.parameter("g") == META && !version.is_empty();
        match accepted.parameter("as") {
            "" => return Ok(Form::Object),
            "Table" if known => {
                let include = match include {
                    "" | "Metadata" => Include::Metadata,
                    "None" => Include::Nothing,
                    "Object" => Include::Object,
                    other => return Err(Failure::bad_request(format!("{other:?} is no value of includeObject"))),
                };
                return Ok(Form::Table(include, version));
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => return Ok(Form::Metadata(version)),
            _ => {}
        }
    }
    Err(Failure::not_acceptable())
}

impl Form {
    /// One object as a whole answer.
    pub fn one(self, kind: &Kind, object: Value, now: OffsetDateTime) -> Value {
        match self {
            Self::Object => object,
            Self::Metadata(version) => partial(&object, version),
            Self::Table(include, version) => {
                let version_of = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                table(kind, &[object], version_of, include, version, now)
            }
        }
    }

    /// A list as a whole answer.
    pub fn list(self, kind: &Kind, objects: Vec<Value>, metadata: Value, now: OffsetDateTime) -> Value {
        match self {
            Self::Object => json!({
                "kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": metadata, "items": objects }),
            Self::Metadata(version) => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": metadata,
                "items": objects.iter().map(|o| partial(o, version)).collect::<Vec<_>>() }),
            Self::Table(include, version) => table(kind, &objects, metadata, include, version, now),
        }
    }

    /// The object of a watch event; the columns come with the first only.
    pub fn event(self, kind: &Kind, object: Value, first: bool, now: OffsetDateTime) -> Value {
        let mut event = self.one(kind, object, now);
        if matches!(self, Self::Table(..)) && !first {
            event["columnDefinitions"] = Value::Null;
        }
        event
    }

    /// The object of a bookmark.
    pub fn bookmark(self, kind: &Kind, metadata: Value) -> Value {
        match self {
            Self::Object => json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata }),
            Self::Metadata(version) => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata })
            }
            Self::Table(_, version) => {
                json!({ "kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": [], "rows": [] })
            }
        }
    }
}

fn partial(object: &Value, version: &str) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"] })
}

fn table(
    kind: &Kind,
    objects: &[Value],
    metadata: Value,
    include: Include,
    version: &str,
    now: OffsetDateTime,
) -> Value {
    // Nobody looks for an event by its name.
    let priority = u8::from(kind.group.is_empty() && kind.plural == "events");
    let name = json!({ "name": "Name", "type": "string", "format": "name", "description": "Unique in its namespace.", "priority": priority });
    let others = kind
        .columns
        .iter()
        .map(|c| json!({ "name": c.name, "type": "string", "format": "", "description": "", "priority": c.priority }));
    let columns: Vec<Value> = std::iter::once(name).chain(others).collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells = kind.columns.iter().map(|c| match c.cell {
                Cell::Age => age(&object["metadata"]["creationTimestamp"], now),
                Cell::Since(fields) => {
                    let from = fields.iter().find_map(|f| object.pointer(f).filter(|v| !v.is_null()));
                    age(from.unwrap_or(&Value::Null), now)
                }
                Cell::Text(cell) => Some(cell(object)).filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".to_owned()),
            });
            let cells: Vec<Value> =
                std::iter::once(object["metadata"]["name"].clone()).chain(cells.map(Value::from)).collect();
            match include {
                Include::Nothing => json!({ "cells": cells }),
                Include::Metadata => json!({ "cells": cells, "object": partial(object, version) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": columns, "rows": rows })
}

/// `90s`, `5m30s`, `12m`, `3h20m`, `2d4h`, `45d`, `2y10d`: as kubectl words durations.
fn age(created: &Value, now: OffsetDateTime) -> String {
    let Some(created) = created.as_str().and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = (now - created).whole_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |a: i64, x: &str, b: i64, y: &str| if b == 0 { format!("{a}{x}") } else { format!("{a}{x}{b}{y}") };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Result<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers, "")
    }

    #[test]
    fn the_first_form_that_is_known_is_sent() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl).unwrap(), Form::Table(Include::Metadata, "meta.k8s.io/v1"));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(metadata).unwrap(), Form::Metadata("meta.k8s.io/v1"));
        assert_eq!(form("application/vnd.kubernetes.protobuf, */*").unwrap(), Form::Object);
        assert_eq!(negotiate(&HeaderMap::new(), "").unwrap(), Form::Object);
        assert!(form("application/vnd.kubernetes.protobuf").is_err());
        assert!(form("application/json;as=Something").is_err());
    }

    #[test]
    fn ages_are_worded_as_kubectl_does() {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap();
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (330, "5m30s"),
            (600, "10m"),
            (12_000, "3h20m"),
            (187_200, "2d4h"),
            (4_000_000, "46d"),
        ] {
            let created = super::super::object::timestamp(now - time::Duration::seconds(seconds));
            assert_eq!(age(&Value::from(created), now), text);
        }
    }
}
