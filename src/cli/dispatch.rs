//! From a command line to the code that does it, and to the exit status.

use std::process::ExitCode;

use super::{Cli, Command, EXIT_CONFIG, EXIT_FAILURE, ServerArgs, serve};
use crate::{
    config::{self, Config},
    roles::Kind,
    telemetry,
};

/// Does what was asked.
pub async fn dispatch(cli: Cli) -> ExitCode {
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            let is_config = error.downcast_ref::<config::Error>().is_some();
            ExitCode::from(if is_config { EXIT_CONFIG } else { EXIT_FAILURE })
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    telemetry::init(global.log_format, global.log.as_deref().unwrap_or("info"))?;
    let load = |args: &ServerArgs| Config::load(global.config.as_deref(), args);
    match cli.command {
        Command::Up(args) => serve::everything(load(&args)?, global.json).await?,
        Command::Ingress(args) => serve::role(load(&args)?, Kind::Ingress, global.json).await?,
        Command::Keeper(args) => serve::role(load(&args)?, Kind::Keeper, global.json).await?,
        Command::Worker(args) => serve::role(load(&args.server)?, args.stage.into(), global.json).await?,
        _ => anyhow::bail!("this command is not part of this build"),
    }
    Ok(ExitCode::SUCCESS)
}
