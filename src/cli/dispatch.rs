//! From a parsed command line to an exit status.

use std::{io, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;

use super::{
    AuditCommand, Cli, CliCommand, CommandOutcome, ConfigArgs, DeadCommand, EXIT_CONFIG, EXIT_FAILURE,
    EventsCommand, GlobalArgs, NatsCommand, OwnerCommand, ServerArgs, StoreCommand, alerts, audit_log,
    broker, cache, client::ApiClient, credentials, dead_letters, demo, doctor, environment, events_tail,
    failure, hooks, link, list, monitor, output, owner, published_schemas, queue, schedules, serve, settings,
    store, topology, transcode, upload, usage, watch, workers,
};
use crate::{
    config::{self, describe},
    roles::ProcessRole,
    stores, telemetry,
};

/// Does what the command line says; stderr says why when it can't.
pub async fn dispatch_command(cli: Cli) -> ExitCode {
    let as_json = cli.global.json;
    let filter = cli.global.log.clone().unwrap_or_else(|| log_level(&cli.command).to_owned());
    let done = match telemetry::init_logging(cli.global.log_format, &filter) {
        Ok(()) => {
            warn_of_variables(&cli.command);
            Box::pin(execute_command(&cli.global, cli.command)).await
        }
        Err(error) => Err(config::SettingsError::invalid("log", format!("{error:#}")).into()),
    };
    let status = match done {
        Ok(CommandOutcome::Well) => 0,
        Ok(CommandOutcome::Badly) => EXIT_FAILURE,
        // The reader of our output has closed it and wants no more.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            failure::print_failure(&error, as_json);
            if error.is::<config::SettingsError>() { EXIT_CONFIG } else { EXIT_FAILURE }
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

/// A server logs what it does; everything else only what a person has to know.
const fn log_level(command: &CliCommand) -> &'static str {
    match command {
        CliCommand::Up(_) | CliCommand::Ingress(_) | CliCommand::Worker(_) | CliCommand::Keeper(_) => "info",
        // The client of the broker logs what the command then says itself.
        _ => "warn,async_nats=off",
    }
}

fn warn_of_variables(command: &CliCommand) {
    match command {
        CliCommand::Config(_) | CliCommand::Doctor(_) => environment::print_unknown_variables(),
        _ => environment::log_unknown_variables(),
    }
}

async fn execute_command(global: &GlobalArgs, command: CliCommand) -> anyhow::Result<CommandOutcome> {
    let as_json = global.json;
    match command {
        CliCommand::Up(args) => {
            Box::pin(serve::serve_all(settings::load_settings(global, &args)?, as_json)).await?;
        }
        CliCommand::Demo(args) => return Box::pin(demo::run_demo(global, args)).await,
        CliCommand::Ingress(args) => {
            serve::serve_role(settings::load_settings(global, &args)?, ProcessRole::Ingress, as_json).await?;
        }
        CliCommand::Worker(worker) => {
            serve::serve_role(settings::load_settings(global, &worker.server)?, worker.stage, as_json)
                .await?;
        }
        CliCommand::Keeper(args) => {
            serve::serve_role(settings::load_settings(global, &args)?, ProcessRole::Keeper, as_json).await?;
        }
        CliCommand::Upload(args) => return upload::run_upload(args, as_json).await,
        CliCommand::Watch(args) => return watch::run_watch(args, as_json).await,
        CliCommand::Events(EventsCommand::Tail(args)) => events_tail::tail_events(args, as_json).await?,
        CliCommand::Link(client) => link::print_sign_in_link(&ApiClient::new(&client)?, as_json).await?,
        CliCommand::Media(command) => return list::run_media(command, as_json).await,
        CliCommand::Jobs(command) => return list::run_jobs(command, as_json).await,
        CliCommand::Schedules(command) => schedules::run_schedules(command, as_json).await?,
        CliCommand::Hooks(command) => hooks::run_hooks(command, as_json).await?,
        CliCommand::Profiles(client) => {
            transcode::list_profiles(&ApiClient::new(&client)?, as_json).await?;
        }
        CliCommand::Usage(client) => usage::print_usage(&ApiClient::new(&client)?, as_json).await?,
        CliCommand::Cache(command) => cache::run_cache(command, as_json).await?,
        CliCommand::Alerts(args) => alerts::run_alerts(args, as_json).await?,
        CliCommand::Health(args) => {
            let is_degraded = monitor::show_health(&args, as_json).await?;
            return Ok(if is_degraded { CommandOutcome::Badly } else { CommandOutcome::Well });
        }
        CliCommand::Logs(args) => monitor::run_logs(&args, as_json).await?,
        CliCommand::Queue(command) => queue::run_queue(command, as_json).await?,
        CliCommand::Workers(command) => workers::run_workers(command, as_json).await?,
        CliCommand::Audit(AuditCommand::Replay(args)) => audit_log::replay_log(args).await?,
        CliCommand::Audit(AuditCommand::Verify(args)) => return audit_log::verify_log(args, as_json).await,
        CliCommand::Dead(command) => return Box::pin(execute_dead(global, command)).await,
        CliCommand::Nats(command) => return Box::pin(execute_nats(global, command)).await,
        CliCommand::Store(StoreCommand::Adopt(args)) => {
            Box::pin(store::adopt_and_print(settings::load_settings(global, &args)?, as_json)).await?;
        }
        CliCommand::Owner(command) => Box::pin(execute_owner(global, command)).await?,
        CliCommand::Schemas(command) => return published_schemas::run_schemas(command, as_json),
        CliCommand::Config(args) => print_config(global, args, as_json)?,
        CliCommand::Doctor(args) => {
            return doctor::run_doctor(&settings::load_and_print(global, &args)?, as_json).await;
        }
        CliCommand::Completions { shell } => print_completions(shell)?,
    }
    Ok(CommandOutcome::Well)
}

/// What `config` prints or writes.
fn print_config(global: &GlobalArgs, args: ConfigArgs, as_json: bool) -> anyhow::Result<()> {
    if args.metrics {
        output::print_line(nats::metrics::render_markdown().trim_end())?;
    } else if args.rules {
        let config = settings::load_settings(global, &args.server)?;
        alerts::print_rules(config.monitor.alerts.base_url.as_deref(), args.time_scale)?;
    } else if let Some(folder) = args.dashboards {
        let config = settings::load_settings(global, &args.server)?;
        alerts::write_dashboards(&folder, config.monitor.alerts.base_url.as_deref())?;
    } else if args.markdown {
        output::print_line(describe::render_markdown().trim_end())?;
    } else {
        settings::print_settings(&settings::load_and_print(global, &args.server)?, as_json)?;
    }
    Ok(())
}

async fn execute_owner(global: &GlobalArgs, command: OwnerCommand) -> anyhow::Result<()> {
    match command {
        OwnerCommand::Ls(server) => {
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            owner::list_chainless(&bus, global.json).await
        }
        OwnerCommand::Transfer { from, to, server } => {
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            owner::transfer_owner(&bus, (&from, &to), global.json).await
        }
        OwnerCommand::Rm { owner, yes, server } => {
            owner::check_removal(&owner, yes)?;
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            owner::remove_owner(&bus, &owner, global.json).await
        }
    }
}

async fn execute_dead(global: &GlobalArgs, command: DeadCommand) -> anyhow::Result<CommandOutcome> {
    let as_json = global.json;
    match command {
        DeadCommand::Ls { limit, server } => {
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            dead_letters::list_letters(&bus, limit, as_json).await?;
        }
        DeadCommand::Show { sequence, server } => {
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            dead_letters::show_letter(&bus, sequence, as_json).await?;
        }
        DeadCommand::Discard { sequences, server } => {
            let bus = broker::connect_admin(settings::load_settings(global, &server)?).await?;
            return dead_letters::discard_letters(&bus, sequences, as_json).await;
        }
        DeadCommand::Redrive { sequences, all: _, stage, server } => {
            let config = settings::load_settings(global, &server)?;
            let settings = config.store_config()?;
            let bus = broker::connect_admin(config).await?;
            let store = stores::open_store(settings, &bus).await?;
            return dead_letters::redrive_letters(&bus, &store, sequences, stage.as_deref(), as_json).await;
        }
    }
    Ok(CommandOutcome::Well)
}

async fn execute_nats(global: &GlobalArgs, command: NatsCommand) -> anyhow::Result<CommandOutcome> {
    let connect = async |args: &ServerArgs| {
        let config = settings::load_settings(global, args)?;
        let settings = config.topology_settings();
        anyhow::Ok((broker::connect_admin(config).await?, settings))
    };
    match command {
        NatsCommand::Diff(args) => {
            let (bus, settings) = Box::pin(connect(&args)).await?;
            topology::print_diff(&bus, &settings, global.json).await
        }
        NatsCommand::Apply(args) => {
            let (bus, settings) = Box::pin(connect(&args)).await?;
            topology::apply_and_print(&bus, &settings, global.json).await?;
            Ok(CommandOutcome::Well)
        }
        NatsCommand::Credentials { role, renew, server } => {
            let config = settings::load_settings(global, &server)?;
            credentials::print_credentials(&config, role.bus_role(), renew, global.json).await?;
            Ok(CommandOutcome::Well)
        }
        NatsCommand::Keys { folder, renew } => {
            let written = match renew {
                Some(role) => nats::keys::renew_key(&folder, role.bus_role()),
                None => nats::keys::create_keys(&folder),
            };
            written.with_context(|| {
                format!("the keys can't be written into {}; name a folder that can", folder.display())
            })?;
            output::print_message(format!("The keys are in {}", folder.display()));
            Ok(CommandOutcome::Well)
        }
    }
}

fn print_completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Into memory first: the generator panics when nobody reads its output any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "streamgate", &mut script);
    Ok(output::print_line(String::from_utf8(script)?.trim_end())?)
}
