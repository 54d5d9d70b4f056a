//! The program `streamgate`.

use std::process::ExitCode;

use clap::Parser;
use streamgate::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    Box::pin(cli::dispatch_command(Cli::parse())).await
}
