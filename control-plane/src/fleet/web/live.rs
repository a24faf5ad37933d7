//! `GET /weft/v1/live`: the document of `stat` as it changes, with problems and the state of the fleet, as server-sent events.
//!
//! What everybody sees is computed once for all readers of a window every two seconds, in a [`Feed`] that lives as long as somebody reads
//! it. A row that did not change is the same row in the next moment, so what is news to a reader is found by comparing pointers with what it
//! was sent last: one that reads slowly skips moments, and nothing waits in a queue for it.

mod moment;

use super::document::{Asked, Document};
use super::{Failure, Params, Sources, check, problems};
use crate::api::Holding;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::{Extension, http};
use bytes::Bytes;
use moment::{Moment, Reader};
use parking_lot::Mutex;
use problems::Problem;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

/// How often there is news.
const TICK: Duration = Duration::from_secs(2);
/// A reader hears at least this often that the stream goes on.
const COMMENT: Duration = Duration::from_secs(15);
/// Readers at once, and windows among them.
const READERS: usize = 64;
const WINDOWS: usize = 8;
/// A reader that takes longer for what it was sent is cut.
const SLOW: Duration = Duration::from_secs(30);
/// A stream lasts no longer; its reader comes back.
const LONGEST: Duration = Duration::from_secs(3600);
/// How old what is found besides calls may be: it takes a look at everything that every sidecar holds.
const OBJECTS: Duration = Duration::from_secs(5);

/// How far the fleet is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FleetState {
    /// xDS streams now.
    pub connected: usize,
    /// Since the start.
    pub streams: u64,
    /// Of the compilation.
    pub generation: u64,
    /// Sidecars that do not hold the newest of what they need.
    pub waiting: usize,
}

/// What all readers share.
pub(super) struct Feeds {
    by_window: Mutex<HashMap<Duration, Weak<Feed>>>,
    readers: Arc<Semaphore>,
    /// What was found besides calls, and when.
    objects: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Problem>>)>>,
    /// Sidecars that wait, as of a change of what is held and a compilation.
    waiting: Mutex<((u64, u64), usize)>,
}

impl Default for Feeds {
    fn default() -> Self {
        Self {
            by_window: Mutex::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            objects: tokio::sync::Mutex::default(),
            waiting: Mutex::new(((u64::MAX, 0), 0)),
        }
    }
}

/// The moments of one window. Dropped, nobody computes them.
struct Feed {
    moments: watch::Receiver<Option<Arc<Moment>>>,
    _task: AbortOnDropHandle<()>,
}

impl Feeds {
    fn feed(self: &Arc<Self>, sources: &Sources, window: Duration) -> Result<Arc<Feed>, Failure> {
        let mut by_window = self.by_window.lock();
        if let Some(feed) = by_window.get(&window).and_then(Weak::upgrade) {
            return Ok(feed);
        }
        by_window.retain(|_, feed| feed.strong_count() > 0);
        if by_window.len() >= WINDOWS {
            return Err(too_many("streams of too many different windows are open"));
        }
        let (sender, moments) = watch::channel(None);
        let task = AbortOnDropHandle::new(tokio::spawn(follow(self.clone(), sources.clone(), window, sender)));
        let feed = Arc::new(Feed { moments, _task: task });
        by_window.insert(window, Arc::downgrade(&feed));
        Ok(feed)
    }

    /// What is not well, the worst first: what was found of calls, and all else.
    pub async fn problems(&self, sources: &Sources, mut found: Vec<Problem>) -> Vec<Problem> {
        found.extend(self.objects(sources).await.iter().cloned());
        problems::sort(&mut found);
        found
    }

    async fn objects(&self, sources: &Sources) -> Arc<Vec<Problem>> {
        // Held while it is found: two that ask at once look once.
        let mut known = self.objects.lock().await;
        match &*known {
            Some((at, found)) if at.elapsed() < OBJECTS => found.clone(),
            _ => {
                let found = Arc::new(problems::objects::problems(&check::Seen::of(sources).await));
                *known = Some((Instant::now(), found.clone()));
                found
            }
        }
    }

    fn fleet(&self, sources: &Sources) -> FleetState {
        let convergence = sources.hub.convergence();
        let compiled = sources.compiled.borrow().clone();
        let state = (*convergence.changes_of_shaped().borrow(), compiled.generation);
        let mut known = self.waiting.lock();
        if known.0 != state {
            *known = (state, convergence.behind(&compiled.offer()));
        }
        FleetState {
            connected: convergence.connected(),
            streams: sources.hub.streams(),
            generation: compiled.generation,
            waiting: known.1,
        }
    }
}

async fn follow(feeds: Arc<Feeds>, sources: Sources, window: Duration, sender: watch::Sender<Option<Arc<Moment>>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (read, last) = (sources.clone(), sender.borrow().clone());
        // Some ten milliseconds in a mesh of thousands: not on a thread that serves.
        let made = tokio::task::spawn_blocking(move || {
            let other = (window != problems::WINDOW).then(|| Document::of(&read, problems::WINDOW));
            let document = Document::of(&read, window);
            let found = problems::of_calls(&read, other.as_ref().unwrap_or(&document));
            (Moment::of(document, last.as_deref()), found)
        });
        let Ok((mut moment, found)) = made.await else { return };
        moment.problems = feeds.problems(&sources, found).await;
        moment.fleet = feeds.fleet(&sources);
        if sender.send(Some(Arc::new(moment))).is_err() {
            return;
        }
    }
}

fn too_many(text: &str) -> Failure {
    Failure(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", text.to_owned())
}

/// `GET /weft/v1/live?namespace=&service=&window=`
pub(super) async fn stream(
    State(sources): State<Sources>,
    Extension(feeds): Extension<Arc<Feeds>>,
    holding: Option<Extension<Holding>>,
    Params(asked): Params<Asked>,
) -> Result<http::Response<Body>, Failure> {
    let window = asked.window()?;
    let permit = feeds.readers.clone().try_acquire_owned().map_err(|_| too_many("too many streams are open"))?;
    let feed = feeds.feed(&sources, window)?;
    let now = Instant::now();
    let stream = Stream {
        moments: feed.moments.clone(),
        reader: Reader::new(asked.part()),
        holding: holding.map(|Extension(holding)| holding),
        sent: now,
        end_at: now + LONGEST,
        over: false,
        _feed: feed,
        _permit: permit,
    };
    let events = futures_util::stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|event| (Ok::<_, std::convert::Infallible>(event), stream))
    });
    Ok(events_of(Body::from_stream(events)))
}

/// A stream of server-sent events (HTML, §9.2) that nobody keeps.
pub(super) fn events_of(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, private"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// One reader's stream.
struct Stream {
    moments: watch::Receiver<Option<Arc<Moment>>>,
    reader: Reader,
    /// `None`: nothing ends it.
    holding: Option<Holding>,
    /// When it was sent something last.
    sent: Instant,
    end_at: Instant,
    over: bool,
    _feed: Arc<Feed>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if self.sent.elapsed() > SLOW {
            return Some(self.end("slow"));
        }
        let holding = &mut self.holding;
        let ended = async {
            match holding {
                Some(holding) => holding.ended().await,
                None => std::future::pending().await,
            }
        };
        let text = tokio::select! {
            // First: what happens after a right has gone is not seen.
            biased;
            why = ended => return Some(self.end(why)),
            () = tokio::time::sleep_until(self.end_at) => return Some(self.end("renew")),
            changed = self.moments.changed() => {
                let moment = self.moments.borrow_and_update().clone();
                match (changed, moment) {
                    (Ok(()), Some(moment)) => self.reader.take(&moment),
                    _ => return Some(self.end("stopping")),
                }
            }
            () = tokio::time::sleep_until(self.sent + COMMENT) => ": still here\n\n".to_owned(),
        };
        self.sent = Instant::now();
        Some(text.into())
    }

    fn end(&mut self, reason: &str) -> Bytes {
        self.over = true;
        format!("event: end\ndata: {{\"reason\":\"{reason}\"}}\n\n").into()
    }
}
