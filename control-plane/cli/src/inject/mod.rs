//! `weft inject` and `weft uninject`: sidecars into manifests and out of them, on a stream of YAML or JSON, without a cluster.
//!
//! What is printed on stdout is the stream with nothing else changed, comments included; what became of each workload is said on stderr.
//! One mistake and nothing is printed: half a stream must not be applied. What a sidecar is made of is decided in `weft_control::inject`.

mod edit;

use crate::apply::texts;
use crate::failure::Failure;
use serde_json::Value;
use std::path::PathBuf;
use weft_control::inject::{self, Outcome, Refusal, Settings, Template, Wish};

/// Where manifests come from.
#[derive(clap::Args, Debug)]
pub struct Sources {
    /// Files and directories of manifests; - is stdin, and the default
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same, as kubectl has it
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Directories within directories too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Flags of `weft inject`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    sources: Sources,
    /// Image with weft-proxy and nft
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Where sidecars find the control plane [default: weft-control.weft-system:15010]
    #[arg(long, value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// Trust domain of the mesh [default: weft.local]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Further settings of sidecars, a YAML file with camelCase fields: cpuRequest, excludeOutboundPorts, …
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Only pods that say weft.mesh/inject: enabled [default: all that do not say disabled]
    #[arg(long)]
    only_enabled: bool,
}

impl Args {
    fn settings(&self) -> Result<Settings, Failure> {
        let mut settings = match &self.settings {
            Some(file) => {
                let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
                let text = std::fs::read_to_string(file).map_err(|error| bad(&error))?;
                serde_saphyr::from_str(&text).map_err(|error| bad(&error))?
            }
            None => Settings::default(),
        };
        for (place, flag) in [
            (&mut settings.image, &self.image),
            (&mut settings.control_plane, &self.control_plane),
            (&mut settings.trust_domain, &self.trust_domain),
        ] {
            if let Some(flag) = flag {
                place.clone_from(flag);
            }
        }
        Ok(settings)
    }
}

/// Adds sidecars.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let settings = args.settings()?;
    let wish = if args.only_enabled { Wish::NobodyAsked } else { Wish::Everything };
    each(&args.sources, |pod| {
        Ok(match inject::inject(pod, &settings, wish)? {
            Outcome::Injected(pod) => (Some(pod), "injected".to_owned()),
            Outcome::Unchanged => (None, "has this sidecar already".to_owned()),
            Outcome::Skipped(why) => (None, format!("skipped: {why}")),
        })
    })
}

/// Takes them out.
pub fn undo(sources: &Sources) -> Result<u8, Failure> {
    each(sources, |pod| {
        Ok(match inject::uninject(pod)? {
            Some(pod) => (Some(pod), "the sidecar is taken out".to_owned()),
            None => (None, "has no sidecar of Weft's".to_owned()),
        })
    })
}

fn each(sources: &Sources, change: impl Fn(&Value) -> Result<(Option<Value>, String), Refusal>) -> Result<u8, Failure> {
    let mut all = [sources.files.as_slice(), &sources.filename].concat();
    if all.is_empty() {
        all.push("-".into());
    }
    let (mut printed, mut said) = (String::new(), String::new());
    for (origin, text) in texts(&all, sources.recursive)? {
        // Files one after another are one stream.
        if !printed.is_empty() && !text.starts_with("---") {
            printed.push_str("---\n");
        }
        let json = text.trim_start().starts_with('{');
        let documents = if json { vec![text.as_str()] } else { split(&text) };
        let several = documents.iter().filter(|document| !is_bare(document)).count() > 1;
        let mut number = 0;
        for document in documents {
            if is_bare(document) {
                printed.push_str(document);
                continue;
            }
            number += 1;
            let origin = if several { format!("{origin}#{number}") } else { origin.clone() };
            let (marker, body) = match document.split_once('\n') {
                Some((first, body)) if first.trim_end() == "---" => (&document[..=first.len()], body),
                _ => ("", document),
            };
            let old: Value = if json {
                serde_json::from_str(body).map_err(|error| Failure::usage(format!("{origin}: {error}")))?
            } else {
                serde_saphyr::from_str(body).map_err(|error| Failure::usage(format!("{origin}: {error}")))?
            };
            let new = changed(&origin, &old, &change, &mut said)?;
            printed.push_str(marker);
            if new == old {
                printed.push_str(body);
            } else if json {
                let text = serde_json::to_string_pretty(&new).map_err(|e| Failure::not_well(e.to_string()))?;
                printed.push_str(&text);
                printed.push('\n');
            } else {
                let (text, lost) = edit::edit(body, &old, &new).map_err(Failure::not_well)?;
                if lost {
                    said.push_str(&format!("{origin}: some lines are written anew; comments in them are lost\n"));
                }
                printed.push_str(&text);
            }
            if !printed.ends_with('\n') {
                printed.push('\n');
            }
        }
    }
    eprint!("{said}");
    print!("{printed}");
    Ok(0)
}

/// The object with each of its pods changed.
fn changed(
    origin: &str,
    old: &Value,
    change: &impl Fn(&Value) -> Result<(Option<Value>, String), Refusal>,
    said: &mut String,
) -> Result<Value, Failure> {
    let mut new = old.clone();
    for Template { pointer, of, .. } in inject::templates(old) {
        let Some(pod) = new.pointer_mut(&pointer) else {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            return Err(Failure::not_well(format!("{origin}: {of}: {field}: is missing")));
        };
        let before = if pointer.is_empty() {
            String::new()
        } else {
            format!("{}.", pointer.trim_start_matches('/').replace('/', "."))
        };
        let (after, what) = change(pod).map_err(|refusal| {
            Failure::not_well(format!("{origin}: {of}: {before}{refusal}")).hint(
                "nothing was printed; mend it, or leave the pod out with the annotation weft.mesh/inject: disabled",
            )
        })?;
        if let Some(after) = after {
            *pod = after;
        }
        said.push_str(&format!("{of}: {what}\n"));
    }
    Ok(new)
}

/// The documents of a stream, each with the marker before it.
fn split(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if at > 0 && (line.trim_end() == "---" || line.starts_with("--- ")) {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| &text[start..end]).collect()
}

/// Nothing but a marker, comments and blank lines.
fn is_bare(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_splits_at_its_markers_and_loses_nothing() {
        let text = "# first\na: 1\n---\nb: |\n  --- no marker\n---\n# nothing\n---\nc: 3";
        let parts = split(text);
        assert_eq!(parts.concat(), text);
        assert_eq!(parts.len(), 4);
        assert!(is_bare(parts[2]) && !is_bare(parts[0]));
    }
}
