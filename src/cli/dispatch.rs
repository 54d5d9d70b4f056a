//! From a parsed command line to an exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::CommandFactory;

use super::{
    AuditCommand, Cli, Command, DeadCommand, EXIT_CONFIG, EXIT_FAILURE, Global, NatsCommand, OwnerCommand,
    ServerArgs, StoreCommand, audit_log, broker, contract, dead, demo, doctor, list, out, owner, serve,
    settings, store, topology, upload, watch,
};
use crate::{
    config::{self, Config, describe},
    roles::Kind,
    stores, telemetry,
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
        Ok(()) => Box::pin(execute(&cli.global, cli.command)).await,
        Err(error) => Err(config::Error::invalid("log", format!("{error:#}")).into()),
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

/// The settings; what of the file is in the old form is logged.
pub(super) fn load(global: &Global, args: &ServerArgs) -> Result<Config, config::Error> {
    let (config, old) = Config::load(global.config.as_deref(), args)?;
    for setting in old {
        tracing::warn!("{setting}");
    }
    Ok(config)
}

/// The same for commands about the settings themselves: the old form is said whatever is logged.
fn load_and_say(global: &Global, args: &ServerArgs) -> Result<Config, config::Error> {
    let (config, old) = Config::load(global.config.as_deref(), args)?;
    for setting in old {
        out::say(setting);
    }
    Ok(config)
}

async fn execute(global: &Global, command: Command) -> anyhow::Result<Ended> {
    let as_json = global.json;
    match command {
        Command::Up(args) => Box::pin(serve::everything(load(global, &args)?, as_json)).await?,
        Command::Demo(args) => return Box::pin(demo::run(global, args)).await,
        Command::Ingress(args) => serve::role(load(global, &args)?, Kind::Ingress, as_json).await?,
        Command::Worker(worker) => {
            serve::role(load(global, &worker.server)?, worker.stage, as_json).await?;
        }
        Command::Keeper(args) => serve::role(load(global, &args)?, Kind::Keeper, as_json).await?,
        Command::Upload(args) => return upload::run(args, as_json).await,
        Command::Watch(args) => return watch::run(args, as_json).await,
        Command::Media(command) => list::media(command, as_json).await?,
        Command::Jobs(command) => list::jobs(command, as_json).await?,
        Command::Audit(AuditCommand::Replay(args)) => audit_log::replay(args).await?,
        Command::Audit(AuditCommand::Verify(args)) => return audit_log::verify(args, as_json).await,
        Command::Dead(command) => return Box::pin(execute_dead(global, command)).await,
        Command::Nats(command) => return execute_nats(global, command).await,
        Command::Store(StoreCommand::Adopt(args)) => {
            Box::pin(store::adopt(load(global, &args)?, as_json)).await?;
        }
        Command::Owner(command) => Box::pin(execute_owner(global, command)).await?,
        Command::Schemas(command) => return contract::run(command, as_json),
        Command::Config(args) if args.markdown => out::line(describe::markdown().trim_end())?,
        Command::Config(args) => settings::run(&load_and_say(global, &args.server)?, as_json)?,
        Command::Doctor(args) => return doctor::run(&load_and_say(global, &args)?, as_json).await,
        Command::Completions { shell } => completions(shell)?,
    }
    Ok(Ended::Well)
}

async fn execute_owner(global: &Global, command: OwnerCommand) -> anyhow::Result<()> {
    match command {
        OwnerCommand::Ls(server) => {
            let bus = broker::admin(load(global, &server)?).await?;
            owner::list(&bus, global.json).await
        }
        OwnerCommand::Transfer { from, to, server } => {
            let bus = broker::admin(load(global, &server)?).await?;
            owner::transfer(&bus, (&from, &to), global.json).await
        }
    }
}

async fn execute_dead(global: &Global, command: DeadCommand) -> anyhow::Result<Ended> {
    let as_json = global.json;
    match command {
        DeadCommand::Ls { limit, server } => {
            let bus = broker::admin(load(global, &server)?).await?;
            dead::list(&bus, limit, as_json).await?;
        }
        DeadCommand::Show { sequence, server } => {
            let bus = broker::admin(load(global, &server)?).await?;
            dead::show(&bus, sequence, as_json).await?;
        }
        DeadCommand::Redrive { sequences, all: _, stage, server } => {
            let config = load(global, &server)?;
            let settings = config.store()?;
            let bus = broker::admin(config).await?;
            let store = stores::open(settings, &bus).await?;
            return dead::redrive(&bus, &store, sequences, stage.as_deref(), as_json).await;
        }
    }
    Ok(Ended::Well)
}

async fn execute_nats(global: &Global, command: NatsCommand) -> anyhow::Result<Ended> {
    let connect = async |args: &ServerArgs| {
        let config = load(global, args)?;
        let settings = config.topology();
        anyhow::Ok((broker::admin(config).await?, settings))
    };
    match command {
        NatsCommand::Diff(args) => {
            let (bus, settings) = connect(&args).await?;
            topology::diff(&bus, &settings, global.json).await
        }
        NatsCommand::Apply(args) => {
            let (bus, settings) = connect(&args).await?;
            topology::apply(&bus, &settings, global.json).await?;
            Ok(Ended::Well)
        }
        NatsCommand::Keys { folder } => {
            nats::keys::create_keys(&folder).with_context(|| format!("keys in {}", folder.display()))?;
            out::say(format!("The keys are in {}", folder.display()));
            Ok(Ended::Well)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Into memory first: the generator panics when nobody reads its output any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "streamgate", &mut script);
    Ok(out::line(String::from_utf8(script)?.trim_end())?)
}
