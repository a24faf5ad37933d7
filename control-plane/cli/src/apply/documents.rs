//! Reads what `-f` names into objects: files, directories, stdin; several YAML documents in a file, JSON, Lists.
//!
//! Only what can be known without a server is checked here: syntax, and that a document says what it is.

use crate::failure::Failure;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One object as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `routes.yaml#2`: the file, and which document of it when there are several.
    pub origin: String,
    /// `v1`, `gateway.networking.k8s.io/v1`…
    pub api_version: String,
    /// `HTTPRoute`
    pub kind: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// The whole object.
    pub value: Value,
}

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Reads all documents of all sources (`-` is stdin; of a directory `.yaml`, `.yml` and `.json`, sorted by name).
pub fn read(sources: &[PathBuf], recursive: bool) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for (origin, text) in texts(sources, recursive)? {
        documents.extend(parse(&origin, &text)?);
    }
    if documents.is_empty() {
        return Err(Failure::usage("there is nothing in what -f names").hint("give a file with at least one object"));
    }
    Ok(documents)
}

/// The same sources as text, with the name that errors call each by.
pub fn texts(sources: &[PathBuf], recursive: bool) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(MAX_FILE)
                .read_to_string(&mut text)
                .map_err(|error| Failure::usage(format!("cannot read stdin: {error}")))?;
            texts.push(("stdin".to_owned(), text));
            continue;
        }
        for file in files(source, recursive)? {
            let bad =
                |error: &dyn std::fmt::Display| Failure::usage(format!("cannot read {}: {error}", file.display()));
            if std::fs::metadata(&file).map_err(|error| bad(&error))?.len() > MAX_FILE {
                return Err(bad(&"larger than 16 MiB"));
            }
            let text = std::fs::read_to_string(&file).map_err(|error| bad(&error))?;
            texts.push((file.display().to_string(), text));
        }
    }
    Ok(texts)
}

fn files(source: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    let bad = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", source.display()));
    if !std::fs::metadata(source).map_err(bad)?.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut entries = std::fs::read_dir(source)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .map_err(bad)?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let known = entry.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        if entry.is_dir() && recursive {
            found.extend(files(&entry, true)?);
        } else if known && entry.is_file() {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Parses the documents of one text. `origin` is how errors call it.
pub fn parse(origin: &str, text: &str) -> Result<Vec<Document>, Failure> {
    // JSON is YAML, but a JSON parser gives better errors for it.
    let values: Vec<Value> = if text.trim_start().starts_with('{') {
        serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::usage(format!("{origin}: {error}")))?
    } else {
        serde_saphyr::from_multiple(text).map_err(|error| Failure::usage(format!("{origin}: {error}")))?
    };
    let several = values.len() > 1;
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let origin = if several { format!("{origin}#{}", index + 1) } else { origin.to_owned() };
        if value.is_null() {
            continue;
        }
        // `kubectl get -o yaml` prints a List; what was printed can be applied.
        let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match value.get("items") {
            Some(Value::Array(items)) if is_list => {
                for (item, value) in items.iter().enumerate() {
                    documents.push(document(format!("{origin} items[{item}]"), value.clone())?);
                }
            }
            _ => documents.push(document(origin, value)?),
        }
    }
    Ok(documents)
}

fn document(origin: String, value: Value) -> Result<Document, Failure> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let need = |path: &str, field: &str| {
        text(path).map(str::to_owned).ok_or_else(|| {
            let what = if value.is_object() { "is missing" } else { "is missing: the document is no object" };
            Failure::usage(format!("{origin}: {field}: {what}"))
        })
    };
    Ok(Document {
        api_version: need("/apiVersion", "apiVersion")?,
        kind: need("/kind", "kind")?,
        name: need("/metadata/name", "metadata.name")?,
        namespace: text("/metadata/namespace").map(str::to_owned),
        origin,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_are_read_in_order_and_empty_ones_skipped() {
        let text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n";
        let documents = parse("all.yaml", text).unwrap();
        let names: Vec<_> = documents.iter().map(|d| (d.kind.as_str(), d.name.as_str())).collect();
        assert_eq!(names, [("Namespace", "shop"), ("Service", "cart")]);
        assert_eq!(documents[1].namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn a_list_is_its_items() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}]}"#;
        assert_eq!(parse("l.json", text).unwrap()[0].name, "a");
    }

    #[test]
    fn a_document_that_does_not_say_what_it_is_is_refused_with_the_field() {
        let failure = parse("x.yaml", "apiVersion: v1\nmetadata: {name: a}\n").unwrap_err();
        assert_eq!(failure.message, "x.yaml: kind: is missing");
        assert_eq!(failure.exit.code(), 2);
        assert!(parse("x.yaml", "- just\n- a list\n").unwrap_err().message.contains("no object"));
    }

    #[test]
    fn a_syntax_error_names_the_file() {
        assert!(parse("x.yaml", "a: [1,").unwrap_err().message.starts_with("x.yaml: "));
    }
}
