//! `weft get`: shows objects, as the server's own table, as documents, or as names, once or as they change.

use crate::Global;
use crate::client::kinds::{Kind, Kinds};
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::output::{self, Format};
use serde_json::{Value, json};

/// Flags of `weft get`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kind, or several with commas (svc,httproute), or kind/name
    #[arg(value_name = "KIND")]
    kind: String,
    /// Name of one object
    names: Vec<String>,
    /// Namespace (default: the kubeconfig's, else default)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels (app=cart,tier!=db)
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Go on and show changes as they happen
    #[arg(short, long)]
    watch: bool,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    /// Show in documents who owns which fields
    #[arg(long)]
    show_managed_fields: bool,
}

/// Asks for the table that the server renders, and for plain objects where it renders none.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// One thing to show: a kind, and a name or none.
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// One object, or all.
    pub name: Option<String>,
}

/// `KIND NAME…`, `KIND/NAME` or `KIND,KIND`.
pub fn targets(kinds: &Kinds, kind: &str, names: &[String]) -> Result<Vec<Target>, Failure> {
    if let Some((kind, name)) = kind.split_once('/') {
        let mut found = vec![Target { kind: kinds.named(kind)?.clone(), name: Some(name.into()) }];
        for other in names {
            let Some((kind, name)) = other.split_once('/') else {
                return Err(Failure::usage(format!("'{other}' is no KIND/NAME")));
            };
            found.push(Target { kind: kinds.named(kind)?.clone(), name: Some(name.into()) });
        }
        return Ok(found);
    }
    let mut found = Vec::new();
    for kind in kind.split(',') {
        let kind = kinds.named(kind)?;
        if names.is_empty() {
            found.push(Target { kind: kind.clone(), name: None });
        }
        found.extend(names.iter().map(|name| Target { kind: kind.clone(), name: Some(name.clone()) }));
    }
    Ok(found)
}

/// Shows what was asked for.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let kinds = Kinds::discover(&client).await?;
    let targets = targets(&kinds, &args.kind, &args.names)?;
    let namespace = (!args.all_namespaces).then(|| client.namespace(args.namespace.as_deref()));
    if args.all_namespaces && targets.iter().any(|target| target.name.is_some()) {
        return Err(Failure::usage("a name and --all-namespaces exclude each other").hint("give -n NAMESPACE"));
    }
    if args.watch {
        let [target] = targets.as_slice() else {
            return Err(Failure::usage("--watch shows one kind at a time"));
        };
        return watch(&client, target, namespace.as_deref(), &args).await;
    }
    let mut documents = Vec::new();
    let mut text = String::new();
    for target in &targets {
        let path = path(target, namespace.as_deref(), args.selector.as_deref());
        let what = format!("get {}", target.kind.singular);
        if matches!(args.output, Format::Table | Format::Wide) {
            let answer = client.read_as(&path, TABLE).await.map_err(|error| error.into_failure(&what))?;
            let (header, rows) = table(&answer, args.output == Format::Wide, args.all_namespaces, &mut Vec::new());
            if rows.is_empty() {
                continue;
            }
            if !text.is_empty() {
                text.push('\n');
            }
            let rendered = output::table(&header, &rows, &[]);
            let skip = usize::from(args.no_headers);
            text.extend(rendered.split_inclusive('\n').skip(skip));
        } else {
            let mut answer: Value = client.read(&path).await.map_err(|error| error.into_failure(&what))?;
            match answer.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) if target.name.is_none() => {
                    // Items of a list come without their type; a document must say what it is.
                    documents.extend(items.into_iter().map(|item| (target.kind.clone(), typed(&target.kind, item))));
                }
                _ => documents.push((target.kind.clone(), answer)),
            }
            if !args.show_managed_fields {
                documents.iter_mut().for_each(|(_, object)| hide_owners(object));
            }
        }
    }
    match args.output {
        Format::Table | Format::Wide if text.is_empty() => {
            let place = namespace.map_or_else(|| "any namespace".to_owned(), |name| format!("namespace {name}"));
            let all_cluster = targets.iter().all(|target| !target.kind.namespaced);
            eprintln!("{}", if all_cluster { "nothing found".into() } else { format!("nothing found in {place}") });
        }
        Format::Table | Format::Wide => output::print(&text)?,
        Format::Name => {
            let lines = documents.iter().map(|(kind, object)| format!("{}/{}\n", kind.display(), name(object)));
            output::print(&lines.collect::<String>())?;
        }
        Format::Json | Format::Yaml => {
            let value = match documents.as_slice() {
                [(_, one)] if targets.len() == 1 && targets.iter().all(|target| target.name.is_some()) => one.clone(),
                several => {
                    let items: Vec<&Value> = several.iter().map(|(_, object)| object).collect();
                    json!({"apiVersion": "v1", "kind": "List", "items": items})
                }
            };
            let json = args.output == Format::Json;
            output::print(&if json { output::json(&value)? } else { output::yaml(&value)? })?;
        }
    }
    Ok(0)
}

fn path(target: &Target, namespace: Option<&str>, selector: Option<&str>) -> String {
    match (&target.name, namespace) {
        (Some(name), namespace) => target.kind.object(namespace.unwrap_or("default"), name),
        (None, namespace) => {
            let selector = selector.map(|labels| format!("?labelSelector={}", encode(labels))).unwrap_or_default();
            format!("{}{selector}", target.kind.collection(namespace))
        }
    }
}

/// Takes out who owns which fields: most of an object, and seldom what is looked for.
pub fn hide_owners(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn typed(kind: &Kind, mut item: Value) -> Value {
    if let Some(object) = item.as_object_mut() {
        object.entry("apiVersion").or_insert_with(|| kind.api_version().into());
        object.entry("kind").or_insert_with(|| kind.kind.clone().into());
    }
    item
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Columns and rows of an answer: the server's table, or NAME and AGE of plain objects.
///
/// A server names the columns of a watch once: `columns` keeps them for the events that follow.
pub fn table(
    answer: &Value,
    wide: bool,
    with_namespace: bool,
    columns: &mut Vec<Value>,
) -> (Vec<String>, Vec<Vec<String>>) {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let namespace =
        |object: &Value| object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut header = if with_namespace { vec!["NAMESPACE".to_owned()] } else { vec![] };
    let array = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    if answer.get("kind").and_then(Value::as_str) == Some("Table") {
        let named = array("columnDefinitions");
        if !named.is_empty() {
            *columns = named;
        }
        let shown: Vec<usize> = (0..columns.len())
            .filter(|index| wide || columns[*index].get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
            .collect();
        let title = |index: &usize| text(columns[*index].get("name").unwrap_or(&Value::Null)).to_uppercase();
        header.extend(shown.iter().map(title));
        for row in array("rows") {
            let cells = row.get("cells").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut line = Vec::new();
            if with_namespace {
                line.push(namespace(row.get("object").unwrap_or(&Value::Null)));
            }
            line.extend(shown.iter().map(|index| text(cells.get(*index).unwrap_or(&Value::Null))));
            rows.push(line);
        }
        return (header, rows);
    }
    header.extend(["NAME".to_owned(), "AGE".to_owned()]);
    let items = if answer.get("items").is_some() { array("items") } else { vec![answer.clone()] };
    for item in items {
        let created = item.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(output::epoch);
        let age = created
            .map_or_else(|| "-".to_owned(), |created| output::age(u64::try_from(output::now() - created).unwrap_or(0)));
        let mut line = if with_namespace { vec![namespace(&item)] } else { vec![] };
        line.extend([name(&item).to_owned(), age]);
        rows.push(line);
    }
    (header, rows)
}

/// Shows what is there, then every change, until interrupted.
async fn watch(client: &Client, target: &Target, namespace: Option<&str>, args: &Args) -> Result<u8, Failure> {
    let what = format!("watch {}", target.kind.singular);
    let is_table = matches!(args.output, Format::Table | Format::Wide);
    let accept = if is_table { TABLE } else { "application/json" };
    let mut selectors = Vec::new();
    if let Some(name) = &target.name {
        selectors.push(format!("fieldSelector={}", encode(&format!("metadata.name={name}"))));
    }
    if let Some(labels) = &args.selector {
        selectors.push(format!("labelSelector={}", encode(labels)));
    }
    let collection = target.kind.collection(namespace);
    let mut shown = Shown { header: args.no_headers, columns: Vec::new() };
    loop {
        let list_path = format!("{collection}?{}", selectors.join("&"));
        let list = client.read_as(&list_path, accept).await.map_err(|error| error.into_failure(&what))?;
        show(&list, target, args, &mut shown)?;
        let mut version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0").to_owned();
        // A watch ends after some minutes and goes on where it was; only a version too old starts over.
        'resume: loop {
            let mut query = selectors.clone();
            query.push("watch=1&allowWatchBookmarks=true".into());
            query.push(format!("resourceVersion={}", encode(&version)));
            let path = format!("{collection}?{}", query.join("&"));
            let mut lines = match client.lines(&path, accept).await {
                Ok(lines) => lines,
                Err(crate::client::Error::Refused(refusal)) if refusal.code == 410 => break 'resume,
                Err(error) => return Err(error.into_failure(&what)),
            };
            while let Some(event) = lines.next().await? {
                let object = event.get("object").cloned().unwrap_or(Value::Null);
                let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
                let seen = at("/metadata/resourceVersion").filter(|version| !version.is_empty());
                version = seen.or(at("/rows/0/object/metadata/resourceVersion")).unwrap_or(version);
                match event.get("type").and_then(Value::as_str) {
                    Some("ADDED" | "MODIFIED" | "DELETED") => show(&object, target, args, &mut shown)?,
                    Some("ERROR") if object.get("code").and_then(Value::as_u64) == Some(410) => break 'resume,
                    Some("ERROR") => {
                        let message = object.get("message").and_then(Value::as_str).unwrap_or("the server gave up");
                        return Err(Failure::not_well(format!("{what}: {message}")));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What a watch has shown so far.
struct Shown {
    header: bool,
    columns: Vec<Value>,
}

fn show(answer: &Value, target: &Target, args: &Args, shown: &mut Shown) -> Result<(), Failure> {
    let mut items: Vec<Value> = match answer.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().map(|item| typed(&target.kind, item.clone())).collect(),
        None => vec![answer.clone()],
    };
    if !args.show_managed_fields {
        items.iter_mut().for_each(hide_owners);
    }
    match args.output {
        Format::Table | Format::Wide => {
            let (header, rows) = table(answer, args.output == Format::Wide, args.all_namespaces, &mut shown.columns);
            if rows.is_empty() {
                return Ok(());
            }
            let rendered = output::table(&header, &rows, &[]);
            let skip = usize::from(std::mem::replace(&mut shown.header, true));
            output::print(&rendered.split_inclusive('\n').skip(skip).collect::<String>())
        }
        Format::Name => {
            let lines = items.iter().map(|item| format!("{}/{}\n", target.kind.display(), name(item)));
            output::print(&lines.collect::<String>())
        }
        Format::Json => items.iter().try_for_each(|item| output::print(&output::json(item)?)),
        Format::Yaml => items.iter().try_for_each(|item| output::print(&format!("---\n{}", output::yaml(item)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_table_is_shown_with_its_wide_columns_on_demand() {
        let answer = json!({"kind": "Table",
            "columnDefinitions": [{"name": "Name"}, {"name": "Ports"}, {"name": "Selector", "priority": 1}],
            "rows": [{"cells": ["cart", 80, null], "object": {"metadata": {"namespace": "shop"}}}]});
        let (header, rows) = table(&answer, false, true, &mut Vec::new());
        assert_eq!(header, ["NAMESPACE", "NAME", "PORTS"]);
        assert_eq!(rows, [["shop", "cart", "80"]]);
        let (header, rows) = table(&answer, true, false, &mut Vec::new());
        assert_eq!((header.len(), rows[0][2].as_str()), (3, "-"));
    }

    #[test]
    fn events_of_a_watch_are_shown_in_the_columns_of_the_first() {
        let first = json!({"kind": "Table", "columnDefinitions": [{"name": "Name"}, {"name": "Phase"}], "rows": []});
        let event = json!({"kind": "Table", "columnDefinitions": [], "rows": [{"cells": ["cart-1", "Ready"]}]});
        let mut columns = Vec::new();
        table(&first, false, false, &mut columns);
        assert_eq!(table(&event, false, false, &mut columns).1, [["cart-1", "Ready"]]);
    }

    #[test]
    fn plain_objects_are_shown_by_name_and_age() {
        let answer = json!({"kind": "ServiceList", "items": [{"metadata": {"name": "cart"}}]});
        let (header, rows) = table(&answer, false, false, &mut Vec::new());
        assert_eq!((header, rows), (vec!["NAME".into(), "AGE".into()], vec![vec!["cart".into(), "-".into()]]));
    }
}
