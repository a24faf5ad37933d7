//! `weft diagnose`: one file with what somebody who helps wants to see of a mesh, and without its secrets.
//!
//! [`gather`] asks, [`redact`] takes secrets out of every answer before it is kept, [`bundle`] keeps and writes. What could not be had is
//! a file that says why; what was left out is listed in the manifest. All of it is bounded in size and in time.

mod bundle;
mod gather;
mod redact;
mod tar;

use crate::Global;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output;
use bundle::Bundle;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Flags of `weft diagnose`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// File to write, 0600 (default: weft-diagnose-TIME.tar.gz)
    #[arg(short, long, value_name = "FILE.tar.gz")]
    output: Option<PathBuf>,
    /// How many sidecars are asked for what they hold and count, those with problems first
    #[arg(long, default_value = "10", value_name = "N", value_parser = clap::value_parser!(u16).range(0..=500))]
    sidecars: u16,
    /// How long it may take in all
    #[arg(long, default_value = "2m", value_parser = output::duration, value_name = "DURATION")]
    timeout: Duration,
}

/// Gathers and writes.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let now = output::rfc3339(output::now());
    let name = format!("weft-diagnose-{}", now.replace(['-', ':'], ""));
    let file = args.output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let mut bundle = Bundle::new(&name, &now);
    let reached = gather::all(&client, &mut bundle, usize::from(args.sidecars), Instant::now() + args.timeout).await?;
    let (written, left_out) = (bundle.len(), bundle.left_out());
    let bytes = bundle.write(&file)?;
    let left_out =
        if left_out == 0 { String::new() } else { format!(", {left_out} left out (manifest.json says what)") };
    output::print(&format!("{}: {written} files, {} KiB{left_out}\n", file.display(), bytes.div_ceil(1024)))?;
    output::progress("secrets that Weft knows of are not in it; look through it before you hand it on");
    if !reached {
        eprintln!("error: the control plane does not answer: there is little in it");
        return Ok(Exit::Unreachable.code());
    }
    Ok(0)
}
