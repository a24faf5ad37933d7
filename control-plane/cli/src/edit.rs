//! `weft edit`: an object as YAML in an editor, and back. What the server refuses is shown above the text, and the editor opens again.

use crate::Global;
use crate::client::kinds::Kinds;
use crate::client::{Client, Error};
use crate::failure::Failure;
use crate::{get, output};
use http::Method;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Flags of `weft edit`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kind, or kind/name
    #[arg(value_name = "KIND")]
    kind: String,
    /// Name of the object
    name: Option<String>,
    /// Namespace (default: the kubeconfig's, else default)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// Largest text that is read back, in bytes.
const MAX_TEXT: u64 = 4 << 20;
const HEAD: &str = "# Save and leave to store the object; leave without a change to keep it as it is. Lines that begin so are left out.\n";

/// A file that goes with its owner, unless it is kept.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Draft {
    /// A new file, its owner's alone: the object may be a secret.
    fn new(name: &str) -> Result<Self, Failure> {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
        let path = std::env::temp_dir().join(format!("weft-edit-{plain}-{:08x}.yaml", rand::random::<u32>()));
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|error| Failure::not_well(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path, kept: false })
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let written = std::fs::OpenOptions::new().write(true).truncate(true).open(&self.path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::not_well(format!("cannot write {}: {error}", self.path.display())))
    }

    fn read(&self) -> Result<String, Failure> {
        let bad = |error: &dyn std::fmt::Display| {
            Failure::not_well(format!("cannot read {} back: {error}", self.path.display()))
        };
        if std::fs::metadata(&self.path).map_err(|error| bad(&error))?.len() > MAX_TEXT {
            return Err(bad(&"larger than 4 MiB"));
        }
        std::fs::read_to_string(&self.path).map_err(|error| bad(&error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Edits one object.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let kinds = Kinds::discover(&client).await?;
    let names: Vec<String> = args.name.into_iter().collect();
    let targets = get::targets(&kinds, &args.kind, &names)?;
    let [get::Target { kind, name: Some(name) }] = targets.as_slice() else {
        return Err(Failure::usage("edit takes one object").hint("weft edit KIND/NAME"));
    };
    let namespace = client.namespace(args.namespace.as_deref());
    let path = kind.object(&namespace, name);
    let shown = format!("{}/{name}", kind.display());
    let mut object: Value = client.read(&path).await.map_err(|error| error.into_failure(&format!("edit {shown}")))?;
    get::hide_owners(&mut object);
    let original = output::yaml(&object)?;
    let mut draft = Draft::new(name)?;
    let (mut complaint, mut before) = (String::new(), original.clone());
    loop {
        draft.write(&format!("{HEAD}{complaint}{before}"))?;
        open(&draft.path)?;
        let text = plain(&draft.read()?);
        if text == original || text.trim().is_empty() {
            eprintln!("nothing was changed");
            return Ok(0);
        }
        if text == before {
            // Left as it was although it was refused: whoever edits gives up, and the text is not lost.
            draft.kept = true;
            return Err(Failure::not_well(format!("{shown} was not changed:{}", complaint.replace("# ", "")))
                .hint(format!("what you wrote is in {}", draft.path.display())));
        }
        let refused = match store(&client, &path, &text).await {
            Ok(()) => break,
            Err(Error::Refused(refusal)) => refusal.describe(),
            Err(Error::Failed(failure)) if failure.exit == crate::failure::Exit::Usage => failure.message,
            Err(Error::Failed(failure)) => {
                draft.kept = true;
                return Err(failure.hint(format!("what you wrote is in {}", draft.path.display())));
            }
        };
        complaint = refused.trim().lines().map(|line| format!("# {line}\n")).collect();
        before = text;
    }
    output::print(&format!("{shown} edited\n"))?;
    Ok(0)
}

async fn store(client: &Client, path: &str, text: &str) -> Result<(), Error> {
    let object: Value = serde_saphyr::from_str(text)
        .map_err(|error| Error::Failed(Failure::usage(format!("this is no YAML: {error}"))))?;
    let path = format!("{path}?fieldManager=weft-edit&fieldValidation=Strict");
    client.request::<Value>(Method::PUT, &path, Some(("application/json", &object))).await.map(drop)
}

/// Without the lines that were put above it.
fn plain(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Runs the editor that the environment names, as a shell reads it, to its end.
fn open(file: &Path) -> Result<(), Failure> {
    let named = ["WEFT_EDITOR", "KUBE_EDITOR", "VISUAL", "EDITOR"];
    let editor = named.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let run = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("weft-edit")
        .arg(file)
        .status();
    match run {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Failure::not_well(format!("the editor ended with {status}: {editor}")).hint("nothing was changed"))
        }
        Err(error) => {
            Err(Failure::not_well(format!("cannot start the editor {editor}: {error}")).hint("name one in $EDITOR"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_draft_is_its_owners_alone_and_goes_unless_it_is_kept() {
        let draft = Draft::new("../a b").unwrap();
        let path = draft.path.clone();
        draft.write("text\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((draft.read().unwrap().as_str(), path.parent()), ("text\n", Some(std::env::temp_dir().as_path())));
        drop(draft);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_put_above_the_text_is_no_part_of_it() {
        assert_eq!(plain(&format!("{HEAD}# spec.a: wrong\nspec:\n  a: '#1'\n")), "spec:\n  a: '#1'\n");
    }
}
