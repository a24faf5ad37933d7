//! `weft dashboard`: the dashboard on loopback, with the kubeconfig's own credentials. [`relay`] is what serves; this file starts it, says
//! where, and opens a browser.

pub mod relay;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use relay::Relay;
use serde_json::Value;
use std::process::Stdio;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `weft dashboard`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// Open no browser
    #[arg(long)]
    no_open: bool,
}

/// Serves until it is told to end.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::not_well(format!("cannot listen for signals: {error}")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let client = Client::new(global)?;
    // Better to say it here than on a page.
    client.read::<Value>("/version").await.map_err(|error| error.into_failure("ask the control plane"))?;
    let relay = Relay::start(client, args.port).await?;
    output::print(&format!("{}\n", relay.url()))?;
    eprintln!("who has this address may do what your kubeconfig may; Ctrl-C ends it");
    if !args.no_open {
        open(&relay.opener());
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(0)
}

/// Opens an address where there is a screen to show it on; that none can be opened is no failure, since the address is printed.
fn open(address: &str) {
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = match std::env::var_os("BROWSER").filter(|name| !name.is_empty()) {
        Some(browser) => browser,
        None if cfg!(target_os = "macos") => "open".into(),
        None if has_screen => "xdg-open".into(),
        None => return,
    };
    let mut command = tokio::process::Command::new(program);
    command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It lives on by itself.
    drop(command.spawn());
}
