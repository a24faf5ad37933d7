//! The page of `weft check`: facts about the mesh, each phrased as it is where all is well, and what was found of it.
//!
//! What is looked at is read once ([`Seen`]); each module judges a category of it and asks nobody. What the facts mean and what to do is in
//! `docs/src/reference/checks.md`, to which every fact leads.

pub(super) mod control;
pub(super) mod identity;
pub(super) mod policies;
mod services;
pub(super) mod sidecars;

use super::super::Sidecar;
use super::{Sources, instances};
use crate::identity::rotation::{Certificate, Status};
use crate::identity::token::unix;
use crate::store::Lead;
use crate::world::reconcile::Compiled;
use crate::xds::convergence::Progress;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long the store may take to answer.
const STORE: Duration = Duration::from_secs(5);
/// Names that a detail lists.
const NAMED: usize = 5;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    /// It is so.
    Ok,
    /// It is not, and nothing fails for it yet.
    Warning,
    /// It is not.
    Error,
    /// Nobody could look, or there is nothing to look at.
    Skipped,
}

/// A fact, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fact {
    /// Also the anchor in the book's page of checks.
    category: &'static str,
    /// As it is where all is well.
    pub name: &'static str,
    pub result: Outcome,
    /// False where the result is an error.
    ok: bool,
    pub detail: String,
    /// What to do; null where it is well.
    pub hint: Option<&'static str>,
    /// Where the book explains it.
    docs: String,
}

impl Fact {
    fn new(name: &'static str, result: Outcome, detail: impl Into<String>, hint: Option<&'static str>) -> Self {
        let (detail, docs) = (detail.into(), String::new());
        Self { category: "", name, result, ok: result != Outcome::Error, detail, hint, docs }
    }

    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, detail, None)
    }

    fn warning(name: &'static str, detail: impl Into<String>, hint: &'static str) -> Self {
        Self::new(name, Outcome::Warning, detail, Some(hint))
    }

    fn error(name: &'static str, detail: impl Into<String>, hint: &'static str) -> Self {
        Self::new(name, Outcome::Error, detail, Some(hint))
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, why, None)
    }

    /// Well where `bad` is empty; else what `judge` makes of the names in it.
    fn of<S: AsRef<str>>(
        name: &'static str,
        bad: &[S],
        well: impl Into<String>,
        judge: impl FnOnce(String) -> Self,
    ) -> Self {
        if bad.is_empty() { Self::good(name, well) } else { judge(named(bad)) }
    }
}

/// The first names, and how many more.
fn named<S: AsRef<str>>(all: &[S]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let first = all.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// Room in a file system, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free: u64,
    all: u64,
}

impl Room {
    /// For who is not root, in the file system of a path.
    fn of(path: &Path) -> Result<Self, String> {
        let found = rustix::fs::statvfs(path).map_err(|error| error.to_string())?;
        Ok(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            all: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// All that is looked at.
pub(super) struct Seen {
    compiled: Compiled,
    /// Ready and all members of each service that has any.
    instances: HashMap<String, (usize, usize)>,
    sidecars: Vec<Sidecar>,
    certificates: BTreeMap<String, Option<Certificate>>,
    /// What the sidecars hold of each object's resources.
    progress: Vec<Progress>,
    authority: Result<Status, String>,
    lead: Lead,
    /// Its revision.
    store: Result<u64, String>,
    room: Result<Room, String>,
    /// Seconds since the Unix epoch.
    now: i64,
}

impl Seen {
    pub async fn of(sources: &Sources) -> Self {
        let compiled = sources.compiled.borrow().clone();
        let store = match tokio::time::timeout(STORE, sources.store.revision()).await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {STORE:?}")),
        };
        let sets = compiled.verdicts().iter().flat_map(|v| v.parents.iter().map(|p| &p.shapes));
        Self {
            instances: instances(&compiled.world),
            sidecars: sources.fleet.sidecars(),
            certificates: sources.fleet.certificates(),
            progress: sources.hub.convergence().held(&compiled.offer(), sets),
            authority: sources.rotator.status().map_err(|error| error.to_string()),
            lead: sources.store.lead().borrow().clone(),
            room: Room::of(&sources.data_dir),
            now: i64::try_from(unix(SystemTime::now())).unwrap_or(i64::MAX),
            store,
            compiled,
        }
    }

    fn judge(&self) -> Vec<Fact> {
        let categories = [
            ("control-plane", control::facts(self)),
            ("store", control::store(self)),
            ("identity", identity::facts(self)),
            ("sidecars", sidecars::facts(self)),
            ("services", services::facts(self)),
            ("policies", policies::facts(self)),
        ];
        let placed =
            |category| move |fact| Fact { category, docs: format!("docs/src/reference/checks.md#{category}"), ..fact };
        categories.into_iter().flat_map(|(category, facts)| facts.into_iter().map(placed(category))).collect()
    }
}

/// `GET /weft/v1/check`
pub(super) async fn check(State(sources): State<Sources>) -> Json<Value> {
    let facts = Seen::of(&sources).await.judge();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Json(json!({
        "ok": facts.iter().all(|fact| fact.ok),
        "version": env!("CARGO_PKG_VERSION"),
        // By which clocks can be compared.
        "unixMs": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        "checks": facts,
    }))
}

#[cfg(test)]
mod tests;
