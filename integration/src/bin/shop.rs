//! `weft-shop`: one service of the sample shop, or its load driver. Everything it does is in `weft_integration::shop`.

use clap::Parser;
use std::process::ExitCode;
use weft_integration::shop::{self, Command};

fn main() -> ExitCode {
    match shop::run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-shop: {error}");
            ExitCode::FAILURE
        }
    }
}
