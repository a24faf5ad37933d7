//! (being written)
/// Flags.
#[derive(clap::Args, Debug)]
pub struct Args {}
/// Runs.
pub async fn run(_: Args) -> Result<u8, crate::failure::Failure> { Ok(0) }
