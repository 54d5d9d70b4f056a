//! From a parsed command line to an exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::CommandFactory;

use super::{
    AuditCommand, Cli, Command, DeadCommand, EXIT_CONFIG, EXIT_FAILURE, Global, JobsCommand, MediaCommand,
    NatsCommand, SchemasCommand, ServerArgs, serve,
};
use crate::{
    config::{self, Config},
    roles::Kind,
    telemetry,
};

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As hoped.
    Well,
    /// The answer is bad news, said already: a failed job, a difference, something missing.
    Badly,
}

/// Does what the command line says; stderr says why when it can't.
pub async fn dispatch(cli: Cli) -> ExitCode {
    let filter = cli.global.log.clone().unwrap_or_else(|| log_level(&cli.command).to_owned());
    let done = match telemetry::init(cli.global.log_format, &filter) {
        Ok(()) => execute(&cli.global, cli.command).await,
        Err(error) => Err(config::Error::Invalid { key: "log", reason: format!("{error:#}") }.into()),
    };
    let status = match done {
        Ok(Ended::Well) => 0,
        Ok(Ended::Badly) => EXIT_FAILURE,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            // There is nobody left to tell when stderr is gone, too.
            writeln!(io::stderr(), "streamgate: {error:#}").ok();
            if error.is::<config::Error>() { EXIT_CONFIG } else { EXIT_FAILURE }
        }
    };
    ExitCode::from(status)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A server tells its story; everything else only what a person has to know.
const fn log_level(command: &Command) -> &'static str {
    match command {
        Command::Up(_) | Command::Ingress(_) | Command::Worker(_) | Command::Keeper(_) => "info",
        _ => "warn",
    }
}

fn load(global: &Global, args: &ServerArgs) -> Result<Config, config::Error> {
    Config::load(global.config.as_deref(), args)
}

async fn execute(global: &Global, command: Command) -> anyhow::Result<Ended> {
    let as_json = global.json;
    match command {
        Command::Up(args) => serve::everything(load(global, &args)?, as_json).await?,
        Command::Ingress(args) => serve::role(load(global, &args)?, Kind::Ingress, as_json).await?,
        Command::Worker(worker) => {
            serve::role(load(global, &worker.server)?, worker.stage.into(), as_json).await?;
        }
        Command::Keeper(args) => serve::role(load(global, &args)?, Kind::Keeper, as_json).await?,
        _ => anyhow::bail!("later"),
    }
    Ok(Ended::Well)
}
