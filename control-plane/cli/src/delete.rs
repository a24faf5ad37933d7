//! `weft delete`: removes objects by kind and name, by label, or those that files name.

use crate::Global;
use crate::client::kinds::{Kind, Kinds};
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::{apply, get, output};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;

/// Flags of `weft delete`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kind, or kind/name
    #[arg(value_name = "KIND", required_unless_present = "filename", conflicts_with = "filename")]
    kind: Option<String>,
    /// Names of objects
    #[arg(conflicts_with = "filename")]
    names: Vec<String>,
    /// Files or directories whose objects are deleted; - is stdin
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace (default: the kubeconfig's, else default)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// All objects of the kind with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "filename")]
    selector: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long, conflicts_with_all = ["filename", "selector"])]
    all: bool,
    /// It is no error when an object is not there
    #[arg(long)]
    ignore_not_found: bool,
}

/// Deletes, and says what was deleted.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let kinds = Kinds::discover(&client).await?;
    let namespace = client.namespace(args.namespace.as_deref());
    let mut doomed: Vec<(Kind, String, String)> = Vec::new();
    if let Some(kind) = &args.kind {
        for target in get::targets(&kinds, kind, &args.names)? {
            match target.name {
                Some(name) => doomed.push((target.kind, namespace.clone(), name)),
                None => doomed.extend(select(&client, target.kind, &namespace, &args).await?),
            }
        }
    }
    if !args.filename.is_empty() {
        for document in apply::read(&args.filename, args.recursive)? {
            let kind = kinds.exact(&document.api_version, &document.kind).ok_or_else(|| {
                Failure::not_well(format!("{}: the server knows no {}", document.origin, document.kind))
            })?;
            let place = document.namespace.clone().unwrap_or_else(|| namespace.clone());
            doomed.push((kind.clone(), place, document.name));
        }
        // What was made first goes last: a namespace after what lives in it.
        doomed.reverse();
        doomed.sort_by_key(|(kind, _, _)| kind.group.is_empty() && kind.kind == "Namespace");
    }
    let mut missing = Vec::new();
    for (kind, namespace, name) in doomed {
        let shown = format!("{}/{name}", kind.display());
        match client.request::<Value>(Method::DELETE, &kind.object(&namespace, &name), None).await {
            Ok(_) => output::print(&format!("{shown} deleted\n"))?,
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if error.is_not_found() => missing.push(shown),
            Err(error) => return Err(error.into_failure(&format!("delete {shown}"))),
        }
    }
    if missing.is_empty() {
        return Ok(0);
    }
    Err(Failure::not_well(format!("not found: {}", missing.join(", ")))
        .hint(format!("looked in namespace {namespace}; another one: -n NAME")))
}

async fn select(
    client: &Client,
    kind: Kind,
    namespace: &str,
    args: &Args,
) -> Result<Vec<(Kind, String, String)>, Failure> {
    let query = match (&args.selector, args.all) {
        (Some(labels), _) => format!("?labelSelector={}", encode(labels)),
        (None, true) => String::new(),
        (None, false) => {
            return Err(Failure::usage(format!("which {} shall be deleted?", kind.singular))
                .hint("give names, -l LABELS or --all"));
        }
    };
    let path = format!("{}{query}", kind.collection(Some(namespace)));
    let list: Value = client.read(&path).await.map_err(|error| error.into_failure(&format!("list {}", kind.plural)))?;
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |item: &Value| item.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    Ok(items.iter().filter_map(|item| Some((kind.clone(), namespace.to_owned(), name(item)?))).collect())
}
