//! The program `streamgate`.

use std::process::ExitCode;

use streamgate::cli;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::parse_command_line(std::env::args_os()) {
        Ok(cli) => Box::pin(cli::dispatch_command(cli)).await,
        Err(status) => ExitCode::from(status),
    }
}
