//! `weft check`: whether the mesh is well, fact by fact, and what to do where it is not. Exit code 1 when something is an error.
//!
//! A fact is phrased as it is where all is well. What the control plane knows it judges itself; [`reach`] judges the way there,
//! [`policies`] what objects say of themselves, [`preflight`] this machine, [`cluster`] the cluster to be, and [`render`] shows all of it. The book's page of checks
//! (`docs/src/reference/checks.md`) has every fact.

mod cluster;
mod policies;
pub mod preflight;
mod reach;
mod render;

use crate::Global;
use crate::client::{Client, Error};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Flags of `weft check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Look before there is a mesh: whether it can run on this machine, and be installed in the cluster of the kubeconfig
    #[arg(long)]
    pre: bool,
    /// Only facts of these categories: control-plane, store, identity, sidecars, services, policies; with --pre: pre-flight, cluster
    #[arg(value_name = "CATEGORY")]
    categories: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// Also the anchor in the page of checks.
    pub category: String,
    /// As it is where all is well.
    pub name: String,
    /// What was found.
    pub result: Outcome,
    /// False where the result is an error.
    pub ok: bool,
    /// What was found, in words.
    pub detail: String,
    /// What to do; `None` where it is well.
    pub hint: Option<String>,
    /// Where the book explains it.
    pub docs: String,
}

impl Fact {
    fn new(category: &str, name: &str, result: Outcome, detail: impl Into<String>, hint: Option<&str>) -> Self {
        Self {
            category: category.to_owned(),
            name: name.to_owned(),
            result,
            ok: result != Outcome::Error,
            detail: detail.into(),
            hint: hint.map(str::to_owned),
            docs: format!("docs/src/reference/checks.md#{category}"),
        }
    }
}

/// Facts of one category, in the order in which they are looked at.
struct Category {
    name: &'static str,
    facts: Vec<Fact>,
}

impl Category {
    const fn new(name: &'static str) -> Self {
        Self { name, facts: Vec::new() }
    }

    fn good(&mut self, name: &str, detail: impl Into<String>) {
        self.facts.push(Fact::new(self.name, name, Outcome::Ok, detail, None));
    }

    fn warning(&mut self, name: &str, detail: impl Into<String>, hint: &str) {
        self.facts.push(Fact::new(self.name, name, Outcome::Warning, detail, Some(hint)));
    }

    fn error(&mut self, name: &str, detail: impl Into<String>, hint: &str) {
        self.facts.push(Fact::new(self.name, name, Outcome::Error, detail, Some(hint)));
    }

    fn skipped(&mut self, name: &str, why: impl Into<String>) {
        self.facts.push(Fact::new(self.name, name, Outcome::Skipped, why, None));
    }
}

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether nothing is an error.
    pub ok: bool,
    /// How many facts of each result.
    pub counts: Value,
    /// Every fact.
    pub checks: Vec<Fact>,
}

impl Health {
    fn of(checks: Vec<Fact>) -> Self {
        let count = |result| checks.iter().filter(|fact| fact.result == result).count();
        Self {
            ok: checks.iter().all(|fact| fact.ok),
            counts: json!({
                "ok": count(Outcome::Ok), "warning": count(Outcome::Warning), "error": count(Outcome::Error),
                "skipped": count(Outcome::Skipped),
            }),
            checks,
        }
    }

    /// Whether the control plane answered.
    pub fn reached(&self) -> bool {
        !self.checks.iter().any(|fact| fact.name == reach::ANSWERS && !fact.ok)
    }
}

/// Asks, prints, and exits accordingly.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let mut health =
        if args.pre { before(global, &args.categories).await } else { look(&Client::new(global)?).await? };
    let reached = health.reached();
    if !args.categories.is_empty() {
        health = Health::of(chosen(health.checks, &args.categories)?);
    }
    output::print(&match args.output {
        Format::Json => output::json(&health)?,
        Format::Yaml => output::yaml(&health)?,
        Format::Name => health.checks.iter().filter(|fact| !fact.ok).map(|fact| format!("{}\n", fact.name)).collect(),
        Format::Table | Format::Wide => render::text(&health, args.pre),
    })?;
    Ok(match (reached, health.ok) {
        (false, _) => Exit::Unreachable.code(),
        (true, false) => Exit::NotWell.code(),
        (true, true) => 0,
    })
}

/// What can be looked at before there is a mesh.
async fn before(global: &Global, categories: &[String]) -> Health {
    let asked = categories.iter().any(|name| name == cluster::CATEGORY);
    let mut facts = preflight::facts();
    facts.extend(cluster::facts(global, asked).await);
    Health::of(facts)
}

fn chosen(mut facts: Vec<Fact>, categories: &[String]) -> Result<Vec<Fact>, Failure> {
    if let Some(unknown) = categories.iter().find(|name| !facts.iter().any(|fact| fact.category == **name)) {
        let mut known: Vec<&str> = facts.iter().map(|fact| fact.category.as_str()).collect();
        known.dedup();
        return Err(Failure::usage(format!("'{unknown}' is no category of checks"))
            .hint(format!("one of: {}", known.join(", "))));
    }
    facts.retain(|fact| categories.contains(&fact.category));
    Ok(facts)
}

/// Everything about the mesh. That it is not well is an answer, no failure.
///
/// # Errors
/// When what answers is no control plane.
pub async fn look(client: &Client) -> Result<Health, Failure> {
    let mut way = Category::new("control-plane");
    let mut fate = Category::new("policies");
    if !reach::look(client, &mut way).await? {
        for category in ["store", "identity", "sidecars", "services", "policies"] {
            let mut rest = Category::new(category);
            rest.skipped(&format!("all of {category}"), "the control plane does not answer");
            way.facts.append(&mut rest.facts);
        }
        return Ok(Health::of(way.facts));
    }
    let known = match client.read::<Value>("/weft/v1/check").await {
        Ok(answer) => {
            reach::compare(&answer, std::time::SystemTime::now(), &mut way);
            serde_json::from_value(answer.get("checks").cloned().unwrap_or_default()).map_err(|error| {
                Failure::not_well(format!("the control plane's checks cannot be read: {error}"))
                    .hint("is it of another version? see: weft version")
            })?
        }
        Err(Error::Refused(refusal)) => {
            way.skipped("what the control plane knows of the mesh", refusal.describe());
            Vec::new()
        }
        Err(error) => return Err(error.into_failure("ask how the mesh is")),
    };
    policies::look(client, &mut fate).await?;
    let mut facts = way.facts;
    facts.extend::<Vec<Fact>>(known);
    facts.append(&mut fate.facts);
    let order = ["control-plane", "store", "identity", "sidecars", "services", "policies"];
    // Stable: within a category as they were looked at; what a newer control plane adds comes last.
    facts.sort_by_key(|fact| order.iter().position(|name| *name == fact.category).unwrap_or(order.len()));
    Ok(Health::of(facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_counts_and_only_an_error_is_not_ok() {
        let mut category = Category::new("store");
        category.good("a", "1");
        category.warning("b", "2", "do");
        category.skipped("c", "3");
        assert!(Health::of(category.facts.clone()).ok);
        category.error("d", "4", "do");
        let health = serde_json::to_value(Health::of(category.facts)).unwrap();
        assert_eq!(health["counts"], json!({ "ok": 1, "warning": 1, "error": 1, "skipped": 1 }));
        assert_eq!(
            (&health["ok"], &health["checks"][3]),
            (
                &json!(false),
                &json!({ "category": "store", "name": "d", "result": "error", "ok": false, "detail": "4", "hint": "do",
                    "docs": "docs/src/reference/checks.md#store" })
            )
        );
    }

    #[test]
    fn a_category_that_is_not_there_is_a_mistake() {
        let mut category = Category::new("store");
        category.good("a", "1");
        assert_eq!(chosen(category.facts.clone(), &["store".into()]).unwrap().len(), 1);
        assert_eq!(chosen(category.facts, &["shop".into()]).unwrap_err().exit, Exit::Usage);
    }
}
