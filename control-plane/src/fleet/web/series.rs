//! `GET /weft/v1/series`: what was measured over time, of the hour that is kept here or, where it is longer, of a Prometheus.

use super::super::golden::history::{History, Subject};
use super::super::prometheus::{self, Wanted};
use super::{Failure, Params, Sources};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// What is kept here.
const KEPT: Duration = Duration::from_secs(3600);
const USUAL: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    about: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    route: String,
    window: Option<String>,
}

impl Asked {
    fn subject(&self) -> Result<Subject, Failure> {
        match self.about.as_str() {
            "" | "service" => Ok(Subject::Service),
            "edge" => Ok(Subject::Edge),
            "endpoint" => Ok(Subject::Endpoint),
            "route" => Ok(Subject::Route),
            other => Err(bad(format!("about: {other:?} is none of service, edge, endpoint, route"))),
        }
    }
}

fn bad(text: String) -> Failure {
    Failure(StatusCode::BAD_REQUEST, "BadRequest", text)
}

pub(super) async fn show(State(sources): State<Sources>, Params(asked): Params<Asked>) -> Result<Json<Value>, Failure> {
    let subject = asked.subject()?;
    let window = match &asked.window {
        None => USUAL,
        text => super::window(text.as_deref())?,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wanted =
        Wanted { namespace: asked.namespace, service: asked.service, source: asked.source, route: asked.route };
    if window <= KEPT {
        let endpoint = asked.endpoint;
        let is_asked = |destination: &str, other: &str| {
            let named = subject != Subject::Endpoint || endpoint.is_empty() || endpoint == other;
            named && wanted.has(subject, destination, other)
        };
        let history = sources.fleet.history(window, subject, is_asked);
        return Ok(Json(page(history, "memory", now)));
    }
    let Some(prometheus) = &sources.prometheus else {
        return Err(bad(
            "window: an hour is kept; longer ones are asked of a Prometheus: weft up --prometheus URL".to_owned()
        ));
    };
    if window > prometheus::LONGEST {
        return Err(bad("window: 30 days at most".to_owned()));
    }
    let history = prometheus.history(subject, &wanted, window, now.as_secs()).await;
    let history = history.map_err(|why| Failure(StatusCode::BAD_GATEWAY, "ServiceUnavailable", why))?;
    Ok(Json(page(history, "prometheus", Duration::from_secs(now.as_secs()))))
}

fn page(history: History, from: &str, now: Duration) -> Value {
    let begins = now.saturating_sub(Duration::from_secs_f64(history.ago.max(0.0))) + Duration::from_millis(500);
    json!({
        "stepSeconds": history.step_seconds,
        "begins": begins.as_secs(),
        "from": from,
        "items": history.items,
        "omitted": history.omitted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_when_its_first_step_began() {
        let history = History { step_seconds: 5, ago: 60.4, ..History::default() };
        let page = page(history, "memory", Duration::from_secs(1000));
        assert_eq!(
            (page["begins"].as_u64(), &page["stepSeconds"], &page["from"]),
            (Some(940), &json!(5), &json!("memory"))
        );
    }
}
