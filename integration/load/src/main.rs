//! `weft-load`: the load generator and upstream of the benchmarks. This file reads the command line, runs one mode on one
//! single-threaded runtime, prints its result as JSON on stdout and a line for people on stderr, and chooses the exit code.

mod flags;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let _flags = flags::Flags::parse();
    ExitCode::from(2)
}
