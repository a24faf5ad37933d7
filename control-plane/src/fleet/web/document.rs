//! What the mesh does, as one document: rows of services, edges, endpoints and routes with what was measured of them, and the part of it that
//! somebody asks about. The pages `stat`, `live` and `problems` are made of it.

use super::super::Breaker;
use super::super::golden::{Addressed, Row, Stat};
use super::{Failure, Params, Sources, instances, is_of, live, problems};
use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A service, and how many instances it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceRow {
    #[serde(flatten)]
    pub row: Row,
    /// Instances that get calls.
    pub ready_endpoints: usize,
    /// All of them.
    pub endpoints: usize,
}

/// The document of `stat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub window_seconds: f64,
    pub detail_seconds: f64,
    pub services: Vec<ServiceRow>,
    #[serde(skip)]
    pub addressed: Vec<Addressed>,
    pub edges: Vec<Row>,
    pub endpoints: Vec<Row>,
    pub routes: Vec<Row>,
    pub breakers: Vec<Breaker>,
    pub dropped: u64,
}

impl Document {
    /// Of the whole mesh.
    pub fn of(sources: &Sources, window: Duration) -> Self {
        let stat = sources.fleet.stat(window);
        let world = sources.compiled.borrow().world.clone();
        Self::made(stat, world.services.keys(), &instances(&world))
    }

    /// Services that nobody called are rows too: their numbers are null, not missing.
    fn made<'s>(
        stat: Stat,
        known: impl Iterator<Item = &'s Arc<str>>,
        instances: &HashMap<String, (usize, usize)>,
    ) -> Self {
        let called: HashSet<&str> = stat.services.iter().map(|row| row.service.as_str()).collect();
        let idle: Vec<Row> = known
            .filter(|name| !called.contains(&***name))
            .map(|name| Row { service: name.to_string(), ..Row::default() })
            .collect();
        let with_instances = |row: Row| {
            let (ready_endpoints, endpoints) = instances.get(&row.service).copied().unwrap_or_default();
            ServiceRow { row, ready_endpoints, endpoints }
        };
        let mut services: Vec<ServiceRow> = stat.services.into_iter().chain(idle).map(with_instances).collect();
        services.sort_by(|a, b| a.row.service.cmp(&b.row.service));
        Self {
            window_seconds: stat.window_seconds,
            detail_seconds: stat.detail_seconds,
            services,
            addressed: stat.addressed,
            edges: stat.edges,
            endpoints: stat.endpoints,
            routes: stat.routes,
            breakers: stat.breakers,
            dropped: stat.dropped,
        }
    }

    /// What concerns a part of the mesh.
    fn seen_by(mut self, part: &Part) -> Self {
        self.services.retain(|row| part.has(&row.row.service));
        self.edges.retain(|row| part.touches(row.source.as_deref().unwrap_or_default(), &row.service));
        self.endpoints.retain(|row| part.has(&row.service));
        self.routes.retain(|row| part.has(&row.service));
        self.breakers.retain(|breaker| part.has(backend(breaker)));
        self
    }
}

/// The service that a breaker guards.
pub(super) fn backend(breaker: &Breaker) -> &str {
    breaker.backend.rsplit_once(':').map_or(&breaker.backend, |(service, _)| service)
}

/// A part of the mesh: a namespace, a service in it. Empty: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    pub namespace: String,
    /// Its name, with or without its namespace.
    #[serde(default)]
    pub service: String,
}

impl Part {
    /// Whether a service is of it.
    pub fn has(&self, service: &str) -> bool {
        let name = service.split_once('/').map_or(service, |(_, name)| name);
        let meant = self.service.is_empty() || self.service == name || self.service == service;
        meant && is_of(service, &self.namespace)
    }

    /// Whether an edge has an end in it: whom its services call, and who calls them, is theirs to know.
    pub fn touches(&self, source: &str, destination: &str) -> bool {
        self.has(source) || self.has(destination)
    }
}

/// The query of a page about what was measured.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Asked {
    pub window: Option<String>,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    service: String,
}

impl Asked {
    pub fn part(&self) -> Part {
        Part { namespace: self.namespace.clone(), service: self.service.clone() }
    }

    /// How far back; 10 s.
    pub fn window(&self) -> Result<Duration, Failure> {
        super::window(self.window.as_deref())
    }
}

/// `GET /weft/v1/stat?window=&namespace=&service=`
pub(super) async fn stat(
    State(sources): State<Sources>,
    Params(asked): Params<Asked>,
) -> Result<Json<Document>, Failure> {
    Ok(Json(Document::of(&sources, asked.window()?).seen_by(&asked.part())))
}

/// `GET /weft/v1/problems?namespace=`
pub(super) async fn show_problems(
    State(sources): State<Sources>,
    Extension(feeds): Extension<Arc<live::Feeds>>,
    Params(part): Params<Part>,
) -> Json<serde_json::Value> {
    let found = problems::of_calls(&sources, &Document::of(&sources, problems::WINDOW));
    Json(problems::page(&feeds.problems(&sources, found).await, &part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(service: &str, source: Option<&str>) -> Row {
        Row { service: service.into(), source: source.map(str::to_owned), ..Row::default() }
    }

    #[test]
    fn a_namespace_sees_its_services_their_callers_and_whom_they_call_and_no_more() {
        let stat = Stat {
            services: vec![row("shop/cart", None), row("office/mail", None)],
            edges: vec![
                row("shop/cart", Some("office/portal")),
                row("bank/ledger", Some("shop/cart")),
                row("office/mail", Some("office/portal")),
            ],
            endpoints: vec![row("shop/cart", None), row("office/mail", None)],
            routes: vec![row("shop/cart", None), row("office/mail", None)],
            breakers: ["shop/cart:80", "office/mail:25"]
                .map(|backend| Breaker {
                    sidecar: "shop/web-1".into(),
                    backend: backend.into(),
                    endpoint: String::new(),
                    state: "open",
                    opened: 1,
                })
                .into(),
            ..Stat::default()
        };
        let known: [Arc<str>; 2] = ["shop/idle".into(), "shop/cart".into()];
        let instances = [("shop/cart".to_owned(), (1, 2))].into();
        let all = Document::made(stat, known.iter(), &instances);
        assert_eq!(
            all.services.iter().map(|row| row.row.service.as_str()).collect::<Vec<_>>(),
            ["office/mail", "shop/cart", "shop/idle"]
        );
        let shop = all.clone().seen_by(&Part { namespace: "shop".into(), service: String::new() });
        let json = serde_json::to_value(&shop).unwrap();
        assert!(!json.to_string().contains("office/mail"), "{json}");
        assert_eq!((shop.services.len(), shop.edges.len(), shop.breakers.len()), (2, 2, 1));
        assert_eq!((&json["services"][0]["readyEndpoints"], &json["services"][0]["endpoints"]), (&1.into(), &2.into()));
        for service in ["cart", "shop/cart"] {
            let one = all.clone().seen_by(&Part { namespace: "shop".into(), service: service.into() });
            assert_eq!((one.services.len(), one.edges.len(), one.routes.len()), (1, 2, 1), "{service}");
        }
        assert_eq!(all.clone().seen_by(&Part::default()), all);
    }
}
