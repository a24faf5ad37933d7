//! `weft identity`: whom the mesh trusts, which certificates its sidecars have, the rotation of its root, and what is revoked.
//!
//! The control plane takes the steps by itself; the command begins, watches and breaks off. Leaving it ends nothing.

mod revocation;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};
use clap::Subcommand;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Flags of `weft identity`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the roots of the mesh, the rotation under way and the certificate of each sidecar
    Show(Show),
    /// Print the roots of this mesh in PEM, or as the object that makes another mesh believe its identities
    Bundle(Bundle),
    /// Replace the root while the mesh runs: publish both, reissue every certificate, retire the old one
    Rotate(Rotate),
    /// Make certificates worthless from now on: every connection made with them is cut, and they cannot be renewed
    Revoke(revocation::Revoke),
    /// List the certificates that are revoked and have not expired
    Revoked(Show),
    /// Show what the authority did last: certificates, refusals, join tokens, rotations, revocations
    Audit(revocation::Audit),
}

#[derive(clap::Args, Debug)]
struct Show {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Bundle {
    /// How to print: the roots in PEM (table), or a FederatedTrustDomain
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(clap::Args, Debug)]
struct Rotate {
    /// Break the rotation under way off: the old root stays
    #[arg(long, conflicts_with = "proceed")]
    abort: bool,
    /// Take the next step without the sidecars that are waited for; their certificates are not trusted after the last one
    #[arg(long)]
    proceed: bool,
    /// Return at once; `weft identity show` says how far it is
    #[arg(long)]
    detach: bool,
    /// How long to watch; the rotation goes on after that
    #[arg(long, default_value = "10m", value_parser = output::duration)]
    timeout: Duration,
}

const IDENTITY: &str = "/weft/v1/identity";
const BUNDLE: &str = "/weft/v1/identity/bundle";
const ROTATION: &str = "/weft/v1/identity/rotation";
/// How often the control plane is asked.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    trust_domain: String,
    roots: Vec<Root>,
    signing: String,
    rotation: Option<Progress>,
    sidecars: BTreeMap<String, Option<Certificate>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    spki_sha256: String,
    not_after: String,
    key: String,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Progress {
    stage: String,
    old: String,
    new: String,
    done: usize,
    sidecars: usize,
    waiting_for: Vec<Waiting>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Waiting {
    sidecar: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    root: String,
    not_after: i64,
    #[serde(default)]
    serial: String,
}

/// Does what was asked.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match args.command {
        Command::Show(args) => {
            output::print(&match args.output {
                // All that the control plane says, more than is shown.
                Format::Json => output::json(&read::<Value>(&client).await?)?,
                Format::Yaml => output::yaml(&read::<Value>(&client).await?)?,
                Format::Name => {
                    read::<Status>(&client).await?.sidecars.keys().map(|uid| format!("sidecar/{uid}\n")).collect()
                }
                Format::Table => render(&read(&client).await?, output::now(), false),
                Format::Wide => render(&read(&client).await?, output::now(), true),
            })?;
            Ok(0)
        }
        Command::Bundle(args) => {
            let bundle: Value =
                client.read(BUNDLE).await.map_err(|error| error.into_failure("ask for the mesh's roots"))?;
            output::print(&print_bundle(&bundle, args.output)?)?;
            Ok(0)
        }
        Command::Rotate(args) => rotate(&client, args).await,
        Command::Revoke(args) => revocation::revoke(&client, args).await,
        Command::Revoked(args) => revocation::revoked(&client, args.output).await,
        Command::Audit(args) => revocation::audit(&client, &args).await,
    }
}

fn print_bundle(bundle: &Value, format: Format) -> Result<String, Failure> {
    let (domain, roots) = (&bundle["trustDomain"], &bundle["roots"]);
    let object = json!({
        "apiVersion": "weft.mesh/v1alpha1", "kind": "FederatedTrustDomain",
        "metadata": {"name": domain}, "spec": {"trustDomain": domain, "roots": roots},
    });
    match format {
        Format::Json => output::json(&object),
        Format::Yaml => output::yaml(&object),
        Format::Name => Ok(format!("{}\n", domain.as_str().unwrap_or_default())),
        Format::Table | Format::Wide => Ok(roots.as_str().unwrap_or_default().to_owned()),
    }
}

async fn read<T: DeserializeOwned>(client: &Client) -> Result<T, Failure> {
    client.read(IDENTITY).await.map_err(|error| error.into_failure("ask for the mesh's roots"))
}

async fn rotate(client: &Client, args: Rotate) -> Result<u8, Failure> {
    let action = match (args.abort, args.proceed) {
        (true, _) => "abort",
        (_, true) => "proceed",
        _ => "start",
    };
    let begun: Status = client
        .create(ROTATION, &json!({ "action": action }))
        .await
        .map_err(|error| error.into_failure(&format!("{action} the rotation of the root")))?;
    if args.detach {
        let stage = begun.rotation.map_or_else(|| "over".to_owned(), |rotation| rotation.stage);
        output::print(&format!("root rotation: {stage}; `weft identity show` says how far it is\n"))?;
        return Ok(0);
    }
    watch(client, begun, args.timeout).await
}

/// Says each change until the rotation is over.
async fn watch(client: &Client, mut status: Status, patience: Duration) -> Result<u8, Failure> {
    let until = Instant::now() + patience;
    let mut said = None;
    loop {
        let Some(rotation) = &status.rotation else {
            let root = status.roots.first().map(|root| root.spki_sha256.as_str()).unwrap_or_default();
            output::print(&format!(
                "done: one root is trusted, {}, by {} sidecars\n",
                short(root),
                status.sidecars.len()
            ))?;
            return Ok(0);
        };
        let line = line(rotation);
        if said.as_ref() != Some(&line) {
            output::print(&line)?;
            said = Some(line);
        }
        if Instant::now() > until {
            return Err(Failure::not_well(format!("the rotation is not over after {patience:?}; it goes on")).hint(
                "`weft identity show` says who is waited for; `weft identity rotate --proceed` goes on without them, `--abort` returns to the old root",
            ));
        }
        tokio::time::sleep(LOOK).await;
        status = read(client).await?;
    }
}

fn line(rotation: &Progress) -> String {
    let what = match rotation.stage.as_str() {
        "publishing" => format!("1/2 publishing root {}: trusted by", short(&rotation.new)),
        "reissuing" => format!("2/2 reissuing under root {}: certificates of", short(&rotation.new)),
        _ => format!("returning to root {}: certificates of", short(&rotation.old)),
    };
    let mut line = format!("{what} {} of {} sidecars", rotation.done, rotation.sidecars);
    for waiting in rotation.waiting_for.iter().take(3) {
        line.push_str(&format!("\n    waiting for {}: {}", waiting.sidecar, waiting.why));
    }
    if rotation.waiting_for.len() > 3 {
        line.push_str(&format!("\n    and {} more", rotation.waiting_for.len() - 3));
    }
    line + "\n"
}

/// Enough of a fingerprint to tell roots apart.
fn short(fingerprint: &str) -> String {
    format!("sha256:{}…", fingerprint.get(..12).unwrap_or(fingerprint))
}

fn render(status: &Status, now: i64, wide: bool) -> String {
    let mut text = format!("trust domain {}\n\n", status.trust_domain);
    let left = |until: Option<i64>| match until.map(|until| u64::try_from(until - now)) {
        Some(Ok(seconds)) => format!("in {}", output::age(seconds)),
        Some(Err(_)) => "expired".to_owned(),
        None => "-".to_owned(),
    };
    let signs = |root: &Root| if root.spki_sha256 == status.signing { "yes" } else { "no" }.to_owned();
    let roots: Vec<_> = status
        .roots
        .iter()
        .map(|root| vec![short(&root.spki_sha256), root.key.clone(), signs(root), left(output::epoch(&root.not_after))])
        .collect();
    text.push_str(&output::table(&["ROOT", "KEY", "SIGNS", "EXPIRES"], &roots, &[]));
    if let Some(rotation) = &status.rotation {
        text.push_str(&format!("\nroot rotation: {}", line(rotation)));
    }
    let rows: Vec<_> = status
        .sidecars
        .iter()
        .map(|(uid, certificate)| {
            let (root, expires, serial) = match certificate {
                Some(c) if c.root.is_empty() => ("none that it trusts".into(), left(Some(c.not_after)), &*c.serial),
                Some(c) => (short(&c.root), left(Some(c.not_after)), &*c.serial),
                None => ("-".into(), "-".into(), "-"),
            };
            let mut row = vec![uid.clone(), root, expires];
            row.extend(wide.then(|| serial.replace(':', "")));
            row
        })
        .collect();
    text.push('\n');
    let headers = ["SIDECAR", "ROOT", "EXPIRES", "SERIAL"];
    text + &output::table(&headers[..if wide { 4 } else { 3 }], &rows, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_step_and_who_is_waited_for() {
        let waiting = |sidecar: &str| Waiting { sidecar: sidecar.into(), why: "it is not connected".into() };
        let rotation = |waiting_for| Progress {
            stage: "publishing".into(),
            old: "ab".repeat(32),
            new: "cd".repeat(32),
            done: 1,
            sidecars: 5,
            waiting_for,
        };
        assert_eq!(
            line(&rotation(Vec::new())),
            "1/2 publishing root sha256:cdcdcdcdcdcd…: trusted by 1 of 5 sidecars\n"
        );
        let text = line(&rotation(["a", "b", "c", "d"].map(waiting).into()));
        assert!(text.contains("waiting for b: it is not connected\n") && text.ends_with("and 1 more\n"), "{text}");
        assert!(!text.contains("for d"));
    }
}
