//! `weft install` and `weft uninstall`: manifests for `kubectl apply -f -` and `kubectl delete -f -`. No cluster is asked.
//!
//! What the manifests are is decided in `weft_control::install`; here flags become values. `--chart` writes the Helm chart of the same
//! manifests.

use crate::failure::Failure;
use crate::output;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use weft_control::install::{self, NAMESPACE, Values};

/// Where Weft is installed.
#[derive(clap::Args, Debug)]
struct Place {
    /// Namespace of the control plane
    #[arg(short, long, default_value = NAMESPACE, value_name = "NAMESPACE")]
    namespace: String,
}

/// Flags of `weft install`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Say something of the installation; an unknown key is refused with those that there are
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The same from a file, as the chart's values.yaml; what --set says goes before it
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// An installation that outlives a node: three replicas
    #[arg(long)]
    ha: bool,
    /// The control plane's image, as --set image=
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Only the definitions of Weft's kinds
    #[arg(long, conflicts_with = "no_crds")]
    crds: bool,
    /// Everything but the definitions of Weft's kinds
    #[arg(long)]
    no_crds: bool,
    /// Write the Helm chart into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["crds", "no_crds", "set", "values", "ha", "image", "namespace"])]
    chart: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Form,
}

/// Flags of `weft uninstall`.
#[derive(clap::Args, Debug)]
pub struct Removal {
    #[command(flatten)]
    place: Place,
    /// The definitions of Weft's kinds too, and with them every policy that there is
    #[arg(long)]
    crds: bool,
}

/// Documents of YAML, or one List of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Documents of YAML
    Yaml,
    /// One List
    Json,
}

impl Place {
    /// Everything that is in these is the cluster's own, or everybody's.
    fn checked(&self) -> Result<&str, Failure> {
        let name = self.namespace.as_str();
        if name == "default" || name.starts_with("kube-") {
            return Err(Failure::usage(format!("the namespace {name} is not Weft's to have"))
                .hint(format!("give it one of its own: --namespace {NAMESPACE}")));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty()
            || name.len() > 63
            || !name.bytes().all(plain)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(Failure::usage(format!("{name:?} is no name of a namespace")));
        }
        Ok(name)
    }
}

impl Args {
    fn values(&self) -> Result<Values, Failure> {
        let bad = |problem: install::Problem| Failure::usage(problem.to_string());
        let mut values = Values::default();
        if self.ha {
            values = values.highly_available().map_err(bad)?;
        }
        for file in &self.values {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
            values.read(&text).map_err(|problem| Failure::usage(format!("{}: {problem}", file.display())))?;
        }
        for assignment in &self.set {
            values.assign(assignment).map_err(|problem| Failure::usage(format!("--set {problem}")))?;
        }
        if let Some(image) = &self.image {
            values.set("image", &image.as_str().into()).map_err(bad)?;
        }
        Ok(values)
    }
}

/// Prints what is to be applied, or writes the chart.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(directory) = &args.chart {
        return chart(directory);
    }
    let namespace = args.place.checked()?;
    let values = args.values()?;
    let mut all = install::manifests(&values, namespace);
    let definitions = if args.no_crds { Vec::new() } else { install::definitions() };
    if args.crds {
        all = definitions;
    } else {
        // After the namespace: a definition is there before anything of its kind is.
        all.splice(1..1, definitions);
    }
    print(&all, args.output)?;
    Ok(0)
}

/// Prints what is to be deleted: names are enough.
pub fn undo(args: &Removal) -> Result<u8, Failure> {
    let namespace = args.place.checked()?;
    let mut all = install::manifests(&Values::default(), namespace);
    // First what has API servers ask for answers that soon nobody gives.
    all.reverse();
    if namespace != NAMESPACE {
        all.retain(|object| object["kind"] != "Namespace");
    }
    if args.crds {
        all.splice(1..1, install::definitions());
    }
    let names: Vec<Value> = all
        .iter()
        .map(|object| {
            let mut metadata = json!({ "name": object["metadata"]["name"] });
            if object["metadata"]["namespace"].is_string() {
                metadata["namespace"] = object["metadata"]["namespace"].clone();
            }
            json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata })
        })
        .collect();
    print(&names, Form::Yaml)?;
    eprintln!(
        "pods keep their sidecars until they are made again: kubectl rollout restart deployment --namespace NAME"
    );
    eprintln!(
        "what stays: the ConfigMaps weft-roots (kubectl delete configmap --all-namespaces --field-selector metadata.name=weft-roots)"
    );
    if namespace != NAMESPACE {
        eprintln!("            the namespace {namespace} (kubectl delete namespace {namespace})");
    }
    if !args.crds {
        eprintln!("            Weft's kinds and every policy (weft uninstall --crds takes them too)");
    }
    Ok(0)
}

fn print(objects: &[Value], form: Form) -> Result<(), Failure> {
    let text = match form {
        Form::Json => output::json(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }))?,
        Form::Yaml => {
            let documents: Vec<String> = objects.iter().map(output::yaml).collect::<Result<_, _>>()?;
            documents.join("---\n")
        }
    };
    output::print(&text)
}

fn chart(directory: &Path) -> Result<u8, Failure> {
    let failed = |path: &Path, error: std::io::Error| Failure::not_well(format!("{}: {error}", path.display()));
    let files = install::chart().map_err(Failure::not_well)?;
    for (name, text) in &files {
        let path = directory.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        }
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    eprintln!(
        "{0} files in {1}: helm install weft {1} --namespace {NAMESPACE} --create-namespace",
        files.len(),
        directory.display()
    );
    Ok(0)
}
