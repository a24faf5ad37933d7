//! `weft-load`: the load generator and upstream of the benchmarks. This file reads the command line, runs one mode on one
//! single-threaded runtime, and chooses the exit code; each mode prints its result as JSON on stdout and a line for people on stderr.

mod caller;
mod chunked;
mod clock;
mod closed;
mod failure;
mod fairness;
mod first;
mod flags;
mod handshake;
mod http1;
mod http2;
mod idle;
mod measure;
mod open;
mod plan;
mod serve;
mod soak;
mod socket;
mod tcp;
mod tls;
mod wire;

use clap::Parser;
use flags::{Flags, Mode};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::ExitCode;
use tokio::runtime::{Builder, LocalOptions};

fn main() -> ExitCode {
    let flags = Flags::parse();
    socket::raise_descriptor_limit();
    match run(flags.mode) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(line) => {
            eprintln!("weft-load: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> Result<bool, String> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(async {
        match mode {
            Mode::Serve(flags) => serve::run(flags).await,
            Mode::Closed(flags) => closed::run(flags).await,
            Mode::Open(flags) => open::run(flags).await,
            Mode::Tcp(flags) => tcp::run(flags).await,
            Mode::Idle(flags) => idle::run(flags).await,
            Mode::Fairness(flags) => fairness::run(flags).await,
            Mode::Soak(flags) => soak::run(flags).await,
            Mode::Handshake(flags) => handshake::run(flags).await,
            Mode::First(flags) => first::run(flags).await,
        }
    })
}

/// One line of JSON on stdout.
fn emit(value: &Value) {
    // Whoever closed stdout does not want it.
    let _closed = writeln!(std::io::stdout().lock(), "{value}");
}

/// Returns when stdin ends. Reading it blocks, so a thread does it, which ends with the process.
async fn stdin_closes() {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut [0; 256]), Ok(1..)) {}
        // Nobody waits any more when the process is ending.
        let _unheard: Result<(), ()> = tell.send(());
    });
    // The sender is dropped only after it has sent.
    let _told = told.await;
}
