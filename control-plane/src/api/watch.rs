//! Watches: what happens to the objects of a scope, as a stream of JSON lines, each bounded in time and all bounded in number.
//!
//! A watch never loses an event silently: what the store's history no longer holds ends it with 410.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use rand::RngExt as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    failure::{Failure, Result},
    holding::{Right, lost},
    resource,
    route::Call,
    selector::Selector,
    table::{Form, negotiate},
};
use crate::{
    kinds::Kind,
    rbac::Attributes,
    store::{self, Event, Record, StoreError},
};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The objects as they are, then what happens.
    Now {
        /// Whether a bookmark says when the objects are through.
        announced: bool,
    },
    /// What happens after a revision.
    Revision(u64),
}

pub(super) async fn open(
    api: &Inner,
    call: Call,
    asked: Attributes,
    stopping: CancellationToken,
) -> Result<Response<Body>> {
    let query = &call.query;
    let form = negotiate(&call.headers, query.text("includeObject"))?;
    let bookmarks = query.flag("allowWatchBookmarks")?;
    let from = begin(&call, bookmarks)?;
    let selector = resource::selector(&call)?;
    let permit = api.watches.clone().try_acquire_owned().map_err(|_| Failure::too_many("too many watches are open"))?;
    let longest = api.settings.max_watch;
    let lasting = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(longest),
        // Spread, so that watches that began together do not all come back together.
        _ => longest.div_f64(2.0).mul_f64(1.0 + rand::rng().random_range(0.0..1.0)),
    };
    // What proves who it is for may end before it.
    let lasting = match call.user.as_ref().and_then(|user| user.until) {
        Some(until) => lasting.min(until.duration_since(SystemTime::now()).unwrap_or_default()),
        None => lasting,
    };
    let right = call.user.clone().map(|user| Right { user, asked, changed: api.rights.subscribe() });
    let scope = resource::scope(&call);
    let mut failed = None;
    let (initial, revision) = match from {
        From::Now { .. } => {
            let page = api.store.list(&scope, None, 0, None).await?;
            (page.items, page.revision)
        }
        From::Revision(revision) => (Vec::new(), revision),
    };
    let watch = match api.store.watch(&scope, revision).await {
        Ok(watch) => Some(watch),
        // Clients expect it in the stream, as Kubernetes sends it.
        Err(error @ StoreError::Gone { .. }) => {
            failed = Some(Failure::from(error));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let now = Instant::now();
    let stream = Stream {
        kind: call.kind,
        selector,
        form,
        initial: initial.into(),
        announce: from == From::Now { announced: true },
        watch,
        lines: failed.iter().map(|f| line("ERROR", &f.status())).collect(),
        revision,
        first: true,
        bookmarks: bookmarks.then_some(api.settings.bookmarks),
        bookmark_at: now + api.settings.bookmarks,
        end_at: now + lasting,
        stopping,
        right,
        _permit: permit,
    };
    let body = Body::from_stream(futures_util::stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|line| (Ok::<_, std::convert::Infallible>(line), stream))
    }));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

fn begin(call: &Call, bookmarks: bool) -> Result<From> {
    let (query, kind) = (&call.query, call.kind);
    let rule = query.text("resourceVersionMatch");
    let version = query.text("resourceVersion");
    if query.has("sendInitialEvents") {
        if rule != "NotOlderThan" {
            let why = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Failure::bad_request(format!("ListOptions.meta.k8s.io {:?} is invalid: {why}", kind.plural)));
        }
        if query.flag("sendInitialEvents")? {
            return Ok(From::Now { announced: bookmarks });
        }
        // Without the objects: from now on, or from where the client says.
    } else if !rule.is_empty() {
        let why = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        return Err(Failure::bad_request(format!("ListOptions.meta.k8s.io {:?} is invalid: {why}", kind.plural)));
    }
    match resource::revision(version)? {
        None | Some(0) => Ok(From::Now { announced: false }),
        Some(revision) => Ok(From::Revision(revision)),
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    // Written by hand so that the object is not copied into another document.
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

struct Stream {
    kind: &'static Kind,
    selector: Selector,
    form: Form,
    initial: VecDeque<Arc<Record>>,
    announce: bool,
    /// `None`: the stream ends once its lines are out.
    watch: Option<Box<dyn store::Watch>>,
    lines: VecDeque<Bytes>,
    /// Everything up to here has been sent.
    revision: u64,
    first: bool,
    bookmarks: Option<Duration>,
    bookmark_at: Instant,
    end_at: Instant,
    stopping: CancellationToken,
    /// `None`: the control plane's own, which needs none.
    right: Option<Right>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if let Some(record) = self.initial.pop_front() {
                let object = resource::object(self.kind, &record);
                if self.selector.matches(&object) {
                    let line = self.event("ADDED", object);
                    self.lines.push_back(line);
                }
                continue;
            }
            if std::mem::take(&mut self.announce) {
                return Some(self.bookmark(json!({ "k8s.io/initial-events-end": "true" })));
            }
            let watch = self.watch.as_mut()?;
            let batch = tokio::select! {
                // First: what happens after a right has gone is not seen.
                biased;
                failure = lost(&mut self.right) => {
                    self.watch = None;
                    return Some(line("ERROR", &failure.status()));
                }
                batch = watch.next() => batch,
                () = sleep_until(self.bookmark_at), if self.bookmarks.is_some() => {
                    self.bookmark_at = Instant::now() + self.bookmarks.unwrap_or(Duration::from_secs(60));
                    return Some(self.bookmark(Value::Null));
                }
                () = sleep_until(self.end_at) => {
                    self.watch = None;
                    // The client continues from here: the last bookmark spares it a list.
                    return self.bookmarks.is_some().then(|| self.bookmark(Value::Null));
                }
                () = self.stopping.cancelled() => return None,
            };
            match batch {
                Ok(batch) => {
                    for event in &batch.events {
                        self.translate(event);
                    }
                    self.revision = batch.revision;
                }
                Err(error) => {
                    self.watch = None;
                    self.lines.push_back(line("ERROR", &Failure::from(error).status()));
                }
            }
        }
    }

    /// What an event of the store is to this watch: an object that stops matching its selector is deleted to it.
    fn translate(&mut self, event: &Event) {
        let read = |record: &Option<Arc<Record>>| {
            record.as_ref().map(|r| resource::object(self.kind, r)).filter(|o| self.selector.matches(o))
        };
        let (kind, mut object) = match (read(&event.before), read(&event.after)) {
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return,
        };
        object["metadata"]["resourceVersion"] = event.revision.to_string().into();
        let line = self.event(kind, object);
        self.lines.push_back(line);
    }

    fn event(&mut self, kind: &str, object: Value) -> Bytes {
        let first = std::mem::take(&mut self.first);
        line(kind, &self.form.event(self.kind, object, first, OffsetDateTime::now_utc()))
    }

    fn bookmark(&self, annotations: Value) -> Bytes {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string(), "creationTimestamp": null });
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        line("BOOKMARK", &self.form.bookmark(self.kind, metadata))
    }
}
