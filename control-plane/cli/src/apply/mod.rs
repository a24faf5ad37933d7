//! `weft apply`: makes the server hold what the files say, by server-side apply: fields that others own are a conflict, those that
//! the files no longer say go. Everything is tried first without effect; one error, and nothing changes. `--wait` returns when the
//! data plane runs it.

pub mod conditions;
mod documents;

use crate::Global;
use crate::client::kinds::{Kind, Kinds};
use crate::client::{Client, Error, encode};
use crate::failure::Failure;
use crate::output::{self, Format};
use conditions::Fate;
pub use documents::{Document, parse, read, texts};
use http::Method;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// By which name fields are owned that are applied here.
pub const FIELD_MANAGER: &str = "weft";

/// How documents are applied.
#[derive(Clone, Copy, Debug)]
pub struct Options<'o> {
    /// Namespace of objects that name none.
    pub namespace: Option<&'o str>,
    /// Judge only.
    pub dry_run: bool,
    /// Take what others own.
    pub force: bool,
    /// By which name fields are owned.
    pub manager: &'o str,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { namespace: None, dry_run: false, force: false, manager: FIELD_MANAGER }
    }
}

/// Flags of `weft apply`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files or directories with objects (YAML or JSON); - is stdin
    #[arg(short, long = "filename", required = true, value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only say what would be done: the server validates and nothing changes
    #[arg(long, num_args = 0..=1, default_missing_value = "server", value_parser = ["server", "none"], require_equals = true)]
    dry_run: Option<String>,
    /// Take over fields that others own and the files say otherwise
    #[arg(long)]
    force_conflicts: bool,
    /// By which name fields are owned; who applies the same objects uses the same
    #[arg(long, default_value = FIELD_MANAGER, value_name = "NAME")]
    field_manager: String,
    /// Return when every sidecar concerned runs what was applied
    #[arg(long)]
    wait: bool,
    /// How long --wait may take
    #[arg(long, default_value = "30s", value_parser = output::duration)]
    timeout: Duration,
    /// How to print what was done
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// What is done to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was, and differed.
    Configured,
    /// It was, and is as wanted.
    Unchanged,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// One object on its way.
struct Item {
    document: Document,
    kind: Kind,
    namespace: String,
}

impl Item {
    fn path(&self) -> String {
        self.kind.object(&self.namespace, &self.document.name)
    }

    /// `httproute.gateway.networking.k8s.io/catalog`
    fn name(&self) -> String {
        format!("{}/{}", self.kind.display(), self.document.name)
    }
}

/// Applies and prints.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let documents = read(&args.filename, args.recursive)?;
    let client = Client::new(global)?;
    let dry_run = args.dry_run.as_deref() == Some("server");
    let namespace = args.namespace.as_deref();
    let options = Options { namespace, dry_run, force: args.force_conflicts, manager: &args.field_manager };
    let applied = apply(&client, documents, options).await?;
    let suffix = if dry_run { " (dry run)" } else { "" };
    match args.output {
        Format::Table | Format::Wide => {
            let lines = applied.iter().map(|done| format!("{} {}{suffix}\n", done.name, done.outcome.text()));
            output::print(&lines.collect::<String>())?;
        }
        Format::Name => {
            output::print(&applied.iter().map(|done| format!("{}\n", done.name)).collect::<String>())?;
        }
        Format::Json => output::print(&output::json(&list(&applied))?)?,
        Format::Yaml => output::print(&output::yaml(&list(&applied))?)?,
    }
    if args.wait && !dry_run {
        wait(&client, &applied, args.timeout).await?;
    }
    Ok(0)
}

fn list(applied: &[Applied]) -> Value {
    match applied {
        [one] => one.object.clone(),
        several => {
            let items: Vec<&Value> = several.iter().map(|done| &done.object).collect();
            json!({"apiVersion": "v1", "kind": "List", "items": items})
        }
    }
}

/// One object that was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// `httproute.gateway.networking.k8s.io/catalog`
    pub name: String,
    /// Path of the object on the server.
    pub path: String,
    /// Whether its status will say when it is in force.
    pub has_fate: bool,
    /// What was done.
    pub outcome: Outcome,
    /// As the server holds it now.
    pub object: Value,
}

/// Applies documents: all or, when one is refused, none.
pub async fn apply(client: &Client, documents: Vec<Document>, options: Options<'_>) -> Result<Vec<Applied>, Failure> {
    let dry_run = options.dry_run;
    let items = resolve(client, documents, options.namespace).await?;
    check(client, &items, options).await?;
    let mut applied = Vec::new();
    for item in &items {
        // A dry run of an object whose namespace is made by the same files cannot be answered by the server.
        match step(client, item, options).await {
            Ok(done) => applied.push(done),
            Err(error) if dry_run && in_new_namespace(&error, item, &items) => applied.push(Applied {
                name: item.name(),
                path: item.path(),
                has_fate: false,
                outcome: Outcome::Created,
                object: item.document.value.clone(),
            }),
            Err(error) => {
                let failure = error.into_failure(&format!("{}: {}", item.document.origin, item.name()));
                let done = applied.iter().map(|done: &Applied| done.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(if done.is_empty() || dry_run {
                    failure
                } else {
                    failure
                        .hint(format!("applied before that: {done}; run the same command again once the cause is gone"))
                });
            }
        }
    }
    Ok(applied)
}

async fn resolve(client: &Client, documents: Vec<Document>, flag: Option<&str>) -> Result<Vec<Item>, Failure> {
    let kinds = Kinds::discover(client).await?;
    let mut items = Vec::new();
    let mut seen = HashSet::new();
    for document in documents {
        let Some(kind) = kinds.exact(&document.api_version, &document.kind) else {
            let failure = Failure::not_well(format!(
                "{}: apiVersion, kind: the server knows no {} of {}",
                document.origin, document.kind, document.api_version
            ));
            return Err(match kinds.version_of(&document.kind) {
                Some(version) => failure.hint(format!("it serves {} as {version}", document.kind)),
                None => failure.hint("nothing was changed"),
            });
        };
        if let (Some(own), Some(flag), true) = (&document.namespace, flag, kind.namespaced)
            && own != flag
        {
            return Err(Failure::usage(format!(
                "{}: metadata.namespace is {own}, and --namespace says {flag}",
                document.origin
            )));
        }
        let namespace = document.namespace.clone().unwrap_or_else(|| client.namespace(flag));
        let mut document = document;
        if kind.namespaced
            && let Some(metadata) = document.value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("namespace".into(), Value::String(namespace.clone()));
        }
        let item = Item { document, kind: kind.clone(), namespace };
        if !seen.insert(item.path()) {
            let text = format!("{}: {} is given twice", item.document.origin, item.name());
            return Err(Failure::usage(text).hint("nothing was changed"));
        }
        items.push(item);
    }
    // Namespaces first, whatever the order of the files; otherwise the order is kept.
    items.sort_by_key(|item| !(item.kind.group.is_empty() && item.kind.kind == "Namespace"));
    Ok(items)
}

/// Tries everything without effect and reports every refusal at once.
async fn check(client: &Client, items: &[Item], options: Options<'_>) -> Result<(), Failure> {
    let mut refusals = Vec::new();
    let mut conflicts = false;
    for item in items {
        match step(client, item, Options { dry_run: true, ..options }).await {
            Ok(_) => {}
            Err(error) if in_new_namespace(&error, item, items) => {}
            Err(Error::Refused(refusal)) => {
                let name = if item.kind.namespaced {
                    format!("{} {}/{}", item.document.kind, item.namespace, item.document.name)
                } else {
                    format!("{} {}", item.document.kind, item.document.name)
                };
                conflicts |= refusal.is_apply_conflict();
                refusals.push(format!("{}: {name}: {}", item.document.origin, refusal.describe()));
            }
            Err(Error::Failed(failure)) => return Err(failure),
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    let hint = if conflicts {
        "nothing was changed; others own these fields: leave them out of the file, write what is there, or take them over with --force-conflicts"
    } else {
        "nothing was changed"
    };
    Err(Failure::not_well(refusals.join("\n")).hint(hint))
}

fn in_new_namespace(error: &Error, item: &Item, items: &[Item]) -> bool {
    item.kind.namespaced
        && error.is_not_found()
        && items.iter().any(|other| {
            other.kind.group.is_empty() && other.kind.kind == "Namespace" && other.document.name == item.namespace
        })
}

async fn step(client: &Client, item: &Item, options: Options<'_>) -> Result<Applied, Error> {
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let before = match client.read::<Value>(&item.path()).await {
        Ok(live) => Some(version(&live)),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let mut query = format!("?fieldManager={}&fieldValidation=Strict", encode(options.manager));
    for (wanted, parameter) in [(options.dry_run, "&dryRun=All"), (options.force, "&force=true")] {
        if wanted {
            query.push_str(parameter);
        }
    }
    let path = format!("{}{query}", item.path());
    let body = ("application/apply-patch+yaml", &sayable(&item.document.value));
    let object: Value = client.request(Method::PATCH, &path, Some(body)).await?;
    let outcome = match before {
        None => Outcome::Created,
        // A dry run keeps the version, whatever it would change.
        Some(_) if options.dry_run && !same(client, item, &object).await? => Outcome::Configured,
        Some(before) if before == version(&object) => Outcome::Unchanged,
        Some(_) => Outcome::Configured,
    };
    Ok(Applied {
        name: item.name(),
        path: item.path(),
        has_fate: conditions::has_fate(&item.kind.group, &item.kind.kind),
        outcome,
        object,
    })
}

/// What of a document can be said: a status and who owns what are the server's, and come along where an object was shown and stored.
fn sayable(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    document
}

/// Whether the object is already as a dry run says it would be, but for who owns what.
async fn same(client: &Client, item: &Item, would: &Value) -> Result<bool, Error> {
    let live: Value = client.read(&item.path()).await?;
    Ok(sayable(&live) == sayable(would))
}

/// Waits until everything is in force.
///
/// # Errors
/// When something is refused, or the time is over; the message names what and why.
pub async fn wait(client: &Client, applied: &[Applied], timeout: Duration) -> Result<(), Failure> {
    let mut deadline = Instant::now() + timeout;
    for done in applied.iter().filter(|done| done.has_fate) {
        let mut pause = Duration::from_millis(25);
        let mut said = false;
        let mut stage = String::new();
        loop {
            let object: Value = client
                .read(&done.path)
                .await
                .map_err(|error| error.into_failure(&format!("wait for {}", done.name)))?;
            let pending = match conditions::fate(&object) {
                Fate::InForce(message) => {
                    if said {
                        output::progress(&format!("{}: {message}", done.name));
                    }
                    break;
                }
                Fate::Refused(reason) => return Err(Failure::not_well(format!("{}: {reason}", done.name))),
                Fate::Pending(message) => message,
                // That takes the time that its settings say, and ends by itself.
                Fate::RollingOut(message) => {
                    deadline = Instant::now() + timeout;
                    if stage != message {
                        output::progress(&format!("{}: {message}", done.name));
                        stage.clone_from(&message);
                        said = true;
                    }
                    message
                }
            };
            if Instant::now() + pause > deadline {
                return Err(Failure::not_well(format!(
                    "{} is stored, and after {} s not in force everywhere: {pending}",
                    done.name,
                    timeout.as_secs()
                ))
                .hint("see which sidecars lag with: weft check"));
            }
            if !said && pause > Duration::from_millis(400) {
                output::progress(&format!("{}: waiting: {pending}", done.name));
                said = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
    Ok(())
}
