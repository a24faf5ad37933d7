//! `weft admin`: what was asked of the API ([`audit`]), backups of what the control plane keeps, and the care of its file. A backup is taken from a control plane that runs; a
//! restore goes straight to the store, where none does.

mod audit;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use crate::run::sidecar::private_file;
use crate::store;
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_control::store::{Embedded, backup};

/// Who leads is known within this time.
const LEAD: Duration = Duration::from_secs(15);

/// Flags of `weft admin`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the last writes, commands to sidecars and refusals (of certificates and joins: weft identity audit)
    Audit(audit::Args),
    /// Write every object of a running control plane into a file (0600), as they are at one moment
    Backup(Backup),
    /// Make the store what a backup says; the control plane must not run
    Restore(Restore),
    /// Make the file of the store as small as it can be; the control plane must not run
    Compact(Compact),
}

#[derive(clap::Args, Debug)]
struct Backup {
    /// File to write
    file: PathBuf,
}

#[derive(clap::Args, Debug)]
struct Restore {
    /// File that `weft admin backup` wrote
    file: PathBuf,
    /// The control plane's data directory
    #[arg(long, env = "WEFT_DATA_DIR", default_value = "./.weft", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    store: store::StoreArgs,
    /// Replace what is there: objects that the backup does not have are removed
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args, Debug)]
struct Compact {
    /// The control plane's data directory
    #[arg(long, env = "WEFT_DATA_DIR", default_value = "./.weft", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Does it and says what was done.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    match args.command {
        Command::Audit(args) => audit::run(global, args).await,
        Command::Backup(args) => take(global, &args.file).await,
        Command::Restore(args) => restore(args).await,
        Command::Compact(args) => compact(&args.data_dir),
    }
}

async fn take(global: &Global, file: &Path) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    output::progress("weft: taking every object");
    let text = client.text("/weft/v1/backup").await.map_err(|error| error.into_failure("take a backup"))?;
    // Whole as it arrived, or not written: the file of before stays.
    output::progress(&format!("weft: {} KiB arrived; checking and writing", text.len().div_ceil(1024)));
    let taken = backup::read(&text).map_err(|error| Failure::not_well(error.to_string()).hint("take it again"))?;
    private_file(file, text.as_bytes())?;
    let header = taken.header;
    output::print(&format!(
        "{}: {} objects of {} at revision {}\n",
        file.display(),
        header.objects,
        header.trust_domain,
        header.revision
    ))?;
    Ok(0)
}

async fn restore(args: Restore) -> Result<u8, Failure> {
    let file = args.file.display();
    let bad = |error: backup::Error| Failure::not_well(format!("{file}: {error}"));
    let text = std::fs::read_to_string(&args.file).map_err(|e| Failure::usage(format!("cannot read {file}: {e}")))?;
    output::progress(&format!("weft: checking {} KiB", text.len().div_ceil(1024)));
    let backup = backup::read(&text).map_err(bad)?;
    let me = format!("{} restore {}", store::host(), std::process::id());
    let named = args.store.settings(&me)?;
    let shared = named.is_some();
    let opened = weft_control::up::open_store(&args.data_dir, named.as_ref()).await;
    let store = opened.map_err(|error| Failure::not_well(error.to_string()).hint("end the control plane first"))?;
    if shared {
        output::progress("weft: waiting for the lead of the store");
        let mut lead = store.lead();
        let known = tokio::time::timeout(LEAD, lead.wait_for(|lead| !lead.owner.is_empty())).await;
        let leads = known.ok().and_then(Result::ok).map(|lead| lead.owner.clone()).unwrap_or_default();
        if leads != me {
            return Err(Failure::not_well(format!("a control plane runs on this store: {leads}"))
                .hint("end every one of them, wait ten seconds, and restore again"));
        }
    }
    output::progress(&format!("weft: writing {} objects", backup.header.objects));
    let done = backup::restore(&*store, &backup, args.force).await.map_err(|error| match error {
        backup::Error::NotEmpty(_) => Failure::not_well(error.to_string())
            .hint("restore into an empty store, or replace what is there with --force"),
        error => bad(error).hint("part of it may be restored: restore again with --force"),
    })?;
    output::print(&format!(
        "{} objects of {} written, {} as they were, {} removed\n",
        done.written, backup.header.trust_domain, done.kept, done.removed
    ))?;
    Ok(0)
}

fn compact(data_dir: &Path) -> Result<u8, Failure> {
    let path = data_dir.join("weft.redb");
    if !path.exists() {
        return Err(Failure::usage(format!("there is no {}", path.display())));
    }
    output::progress("weft: compacting; a large store takes its time");
    let (before, after) = Embedded::compact(&path)
        .map_err(|error| Failure::not_well(error.to_string()).hint("end the control plane first"))?;
    output::print(&format!("{}: {before} bytes before, {after} after\n", path.display()))?;
    Ok(0)
}
