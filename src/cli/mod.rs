//! The command line: what can be said, and who does it.
//!
//! Data goes to stdout, talk to stderr, and why a command failed (`failure`). The process ends with 0 when it did what was asked, 1 when it could not, 2 when the
//! command line is wrong, 64 when the settings are.

pub mod alerts;
pub mod args;
pub mod audit_log;
pub mod broker;
pub mod cache;
mod captions;
pub mod client;
pub mod credentials;
pub mod dead_letters;
pub mod demo;
mod dispatch;
pub mod doctor;
mod download;
mod each;
mod edit;
pub mod environment;
pub mod event;
mod events_tail;
mod export;
mod failure;
mod fetch;
pub mod follow;
mod grant;
mod history;
pub mod hooks;
mod job_end;
mod job_rows;
mod jobs_act;
mod jobs_watch;
pub mod lines;
pub mod link;
pub mod list;
mod monitor;
mod outcome;
pub mod output;
pub mod owner;
mod picture;
pub mod play;
mod poster;
pub mod progress;
pub mod publish;
pub mod published_schemas;
pub mod queue;
pub mod refusal;
pub mod render;
mod renditions;
pub mod resume;
pub mod schedules;
mod search;
pub mod serve;
pub mod settings;
pub mod sse;
pub mod stdin_upload;
pub mod store;
mod subcommands;
mod thumbnail;
pub mod topology;
mod transcode;
pub mod tus;
pub mod upload;
mod usage;
mod verify;
pub mod watch;
pub mod workers;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use alerts::{AlertsArgs, AlertsCommand};
pub use args::{ClientArgs, ConfigArgs, GlobalArgs, PageArgs, ServerArgs};
pub use cache::CacheCommand;
pub use captions::CaptionsArgs;
pub use dispatch::dispatch_command;
pub use failure::parse_command_line;
pub use grant::GrantArgs;
pub use hooks::{HookCreateArgs, HookEditArgs, HookIdArgs, HookIdsArgs, HooksCommand};
pub use jobs_act::{JobFilterArgs, JobsActArgs};
pub use monitor::{HealthArgs, LogLevelArgs, LogsArgs, LogsCommand};
pub use outcome::CommandOutcome;
pub use poster::PosterArgs;
pub use queue::{QueueCommand, QueueScopeArgs};
pub use schedules::{ScheduleIdsArgs, SchedulesCommand};
pub use search::MediaSearchArgs;
pub use subcommands::{
    AuditCommand, DeadCommand, DownloadArgs, EditArgs, ExportArgs, FetchArgs, JobIdsArgs, JobsCommand,
    JobsListArgs, JobsWatchArgs, MediaCommand, NatsCommand, OwnerCommand, RenditionsArgs, ReplayArgs,
    SchemasCommand, StoreCommand, ThumbnailArgs, TranscodeArgs, VerifyArgs, WorkerNameArgs, WorkersCommand,
};

use crate::roles::ProcessRole;

/// Exit status: it could not be done; stderr says why.
pub const EXIT_FAILURE: u8 = 1;
/// Exit status: the command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// Exit status: the settings can't be used; nothing was started (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

const AFTER: &str = "\
First steps:
  streamgate doctor                     what this machine lacks, and how to get it
  streamgate demo                       everything at once, with a sample clip that plays
  streamgate demo --gated               the same behind a gate: one wallet plays, another is refused
  streamgate up                         a server; the first start prints an API key
  streamgate upload film.mp4 --wait     upload, follow, print the address that plays

Settings come from defaults, then the file (--config), then the environment (STREAMGATE_...), then flags;
`streamgate config` prints the result.

Exit status: 0 done, 1 failed, 2 wrong command line, 64 wrong settings. Why stands on stderr: as a sentence, or with --json as a
problem document (RFC 9457: type, title, detail, code; status where a server answered), one line of JSON, the last one.";

/// Self-hosted media gateway: uploads in, gated adaptive streams out, every step an event.
#[derive(Debug, Parser)]
#[command(name = "streamgate", version, about, after_help = AFTER, max_term_width = 110)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Run everything on this machine, with its own broker unless --nats-url is given
    #[command(after_help = "Examples:
  streamgate up
  streamgate up --data-dir /var/lib/streamgate --listen 0.0.0.0:8080
  streamgate up --json --listen 127.0.0.1:0       the first line on stdout says address and API key

The first start makes an API key and keeps it in the data folder, in the file api-key. Ctrl-C stops in order, a second one at once.")]
    Up(ServerArgs),
    /// Start everything, upload a sample clip, follow it, print an address that plays
    #[command(after_help = "Examples:
  streamgate demo                 stays up until Ctrl-C; data in data/demo, on a free port unless --listen is given
  streamgate demo --gated         with a chain of its own: the owner of a token plays, another wallet is refused
  streamgate demo --exit          ends once the clip plays; the last line on stdout is JSON

The clip plays for everybody who has its address. With --gated it plays for the wallet that owns a token, before and after the
token changes hands; the chain is anvil, found by ANVIL, in .tools/bin above this program, or in PATH.")]
    Demo(DemoArgs),
    /// Run the HTTP role
    #[command(after_help = "Example:
  streamgate ingress --nats-url nats://broker:4222 --store-url s3://media --listen 0.0.0.0:8080")]
    Ingress(ServerArgs),
    /// Run one stage; start as many as needed, on any machine
    #[command(after_help = "Example:
  streamgate worker transcode --nats-url nats://broker:4222 --store-url s3://media")]
    Worker(WorkerArgs),
    /// Run the singletons: order of the queue, unsent events, expired uploads; two give failover
    #[command(after_help = "Example:
  streamgate keeper --nats-url nats://broker:4222 --store-url s3://media")]
    Keeper(ServerArgs),
    /// Upload files or what comes from a pipe; an upload that was cut goes on where it stopped
    #[command(after_help = "Examples:
  streamgate upload film.mp4
  ffmpeg ... -f matroska - | streamgate upload - --name film.mkv --type video/x-matroska
  streamgate upload --public *.mp4            one after the other; everybody plays them who has their addresses
  streamgate upload film.mp4 --wait           until it is ready; then the address that plays
  streamgate upload film.mp4 --json           one line: {\"media_id\", \"upload_url\", \"watch_url\", ...}

The end of a pipe is the end of its file: if what feeds it may fail, look at its status, too (`set -o pipefail`).")]
    Upload(UploadArgs),
    /// Follow events live; ends with 0 at ready or succeeded, 1 at failed, rejected or cancelled
    #[command(after_help = "Examples:
  streamgate watch                            everything you may see, until Ctrl-C
  streamgate watch --media 068p...            one medium, until its end
  streamgate watch --json --since 0-0         NDJSON, from the oldest event on")]
    Watch(WatchArgs),
    /// What happens, as it happens
    #[command(subcommand)]
    Events(EventsCommand),
    /// Print a link that signs in to the library once, for another browser or device
    #[command(after_help = "Example:
  streamgate link                             good once, for ten minutes; the browser stays signed in for a day")]
    Link(ClientArgs),
    /// List media, or show one
    #[command(subcommand)]
    Media(MediaCommand),
    /// List jobs, or show one
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Jobs that begin at set times: once, by cron expressions, or every so often
    #[command(subcommand)]
    Schedules(SchedulesCommand),
    /// Addresses to which events are sent: webhooks
    #[command(subcommand)]
    Hooks(HooksCommand),
    /// The workers that encode, for operators
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// Keep the jobs of an owner, or of a kind, out of the queue for a while, for admins
    #[command(subcommand)]
    Queue(QueueCommand),
    /// What goes wrong: list alerts, silence or acknowledge one, for operators
    Alerts(AlertsArgs),
    /// How every process and what they stand on is, for operators; ends with 1 when something does not work
    Health(HealthArgs),
    /// What all processes logged in the last quarter of an hour, for operators
    #[command(after_help = "Examples:
  streamgate logs --follow --severity warn
  streamgate logs --job JOB_ID                 everything about one job, from whichever process
  streamgate logs level debug --role upload --for 15m    more of it, for a while")]
    Logs(LogsArgs),
    /// Values that are kept for a while, the same on every replica
    #[command(subcommand)]
    Cache(CacheCommand),
    /// List the profiles by which media can be encoded
    #[command(after_help = "Examples:
  streamgate profiles
  streamgate profiles --json                  one line a profile, with all of its settings

SIZES are the short sides of the pictures that are made: the first one as large as the source, up to that many pixels. More profiles
stand in the settings as [transcode.profiles.<name>]: `streamgate config --markdown` explains each.")]
    Profiles(ClientArgs),
    /// What one used today, and how much one may use
    Usage(ClientArgs),
    /// Replay the audit log, or verify its chain
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Messages that were given up: list, show, send again (speaks to the broker)
    #[command(subcommand)]
    Dead(DeadCommand),
    /// The broker's streams, buckets and durables against the topology (speaks to the broker)
    #[command(subcommand)]
    Nats(NatsCommand),
    /// The object store of this installation (speaks to the broker and to the store)
    #[command(subcommand)]
    Store(StoreCommand),
    /// What contract accounts own under a name without a chain, and giving things to another owner (speaks to the broker)
    #[command(subcommand)]
    Owner(OwnerCommand),
    /// The published schemas of every message against the types
    #[command(subcommand)]
    Schemas(SchemasCommand),
    /// Print the effective settings as TOML with their meaning, default and range, secrets hidden
    #[command(after_help = "Examples:
  streamgate config
  streamgate config --config streamgate.toml --store-url s3://media > effective.toml")]
    Config(ConfigArgs),
    /// Say what this machine lacks to run a server, and how to get it
    #[command(after_help = "Ends with 1 when something needed is missing. Example:
  streamgate doctor --json")]
    Doctor(ServerArgs),
    /// Print the completion script of a shell
    #[command(after_help = "Examples:
  streamgate completions bash > /etc/bash_completion.d/streamgate
  streamgate completions zsh > \"${fpath[1]}/_streamgate\"")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Let in by a token on a chain of its own: a wallet plays and another is refused; needs anvil
    #[arg(long)]
    pub gated: bool,
    /// End once the clip plays and is ready; data goes to a folder that is removed
    #[arg(long)]
    pub exit: bool,
    /// Settings of the server; the data folder is data/demo and the port a free one unless given.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `worker`.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// Which stage
    pub stage: ProcessRole,
    /// Settings of the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Flags of `upload`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is on or off, in any combination")]
pub struct UploadArgs {
    /// The files, one after the other; `-` is what comes from standard input
    ///
    /// A pipe can't be read again: as long as the command runs, a cut connection costs nothing, but a command that was ended begins
    /// anew. It needs 8 MiB of memory, whatever comes.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Name of the file, in place of its own; for one file, or for `-`, which is called `stdin` without it
    #[arg(long)]
    pub name: Option<String>,
    /// Media type that is declared, such as `video/mp4`; for one file. What counts is the content
    #[arg(long = "type", value_name = "MEDIA_TYPE")]
    pub content_type: Option<String>,
    /// Title of the medium, in place of the file's name; for one file
    #[arg(long)]
    pub title: Option<String>,
    /// What the medium is about, in up to 1,000 characters; for one file
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Let everybody play it who has its address
    #[arg(long)]
    pub public: bool,
    /// By which profile it is encoded, from `streamgate profiles`
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Priority of its encode: p2 when nothing else waits, p0 before the jobs of everybody, for keys of admins
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Have its encode wait, paused, until `streamgate jobs resume`, or until `media renditions` or `media transcode` take its place
    #[arg(long, conflicts_with = "wait")]
    pub encode_paused: bool,
    /// Wait until it is ready or rejected, showing what happens
    #[arg(long)]
    pub wait: bool,
    /// Begin anew even if an earlier upload of the file could go on
    #[arg(long)]
    pub restart: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with events.
#[derive(Debug, clap::Subcommand)]
pub enum EventsCommand {
    /// Print events as they come, until Ctrl-C
    #[command(after_help = "Examples:
  streamgate events tail --prefix media.
  streamgate events tail --type media.ready --type media.rejected
  streamgate events tail --json --since 0-0    NDJSON, from the oldest event on; `id` is where to go on
  streamgate events tail --media 068p...       from now on; `streamgate media history` has what was before")]
    Tail(EventsTailArgs),
}

/// Flags of `events tail`.
#[derive(Debug, clap::Args)]
pub struct EventsTailArgs {
    /// Only about this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Only about this job
    #[arg(long, value_name = "JOB_ID")]
    pub job: Option<String>,
    /// Only of this type, such as media.ready; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Only of types that begin like this, such as media.
    #[arg(long, value_name = "BEGINNING")]
    pub prefix: Option<String>,
    /// Go on after this event id; 0-0 is the oldest event there is
    #[arg(long, value_name = "EVENT_ID")]
    pub since: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// Only this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Only this job
    #[arg(long, value_name = "JOB_ID")]
    pub job: Option<String>,
    /// Go on after this event id, as an earlier `watch` printed it
    #[arg(long, value_name = "EVENT_ID")]
    pub since: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_that_is_absent_is_none() {
        // The merge of file, environment and flag relies on it: a default here would win over the file.
        let parsed = Cli::try_parse_from(["streamgate", "up"]).unwrap();
        let CliCommand::Up(args) = parsed.command else { panic!("up is up") };
        assert_eq!(args, ServerArgs::default());
    }

    #[test]
    fn flags_are_read() {
        let line = [
            "streamgate",
            "worker",
            "transcode",
            "--nats-url",
            "nats://a:1,nats://b:2",
            "--nats-url",
            "nats://c:3",
            "--unsandboxed",
            "--replicas",
            "3",
            "--json",
        ];
        let parsed = Cli::try_parse_from(line).unwrap();
        assert!(parsed.global.json);
        let CliCommand::Worker(worker) = parsed.command else { panic!("worker is worker") };
        assert_eq!(worker.stage, ProcessRole::Transcode);
        assert_eq!(worker.server.nats_urls, ["nats://a:1", "nats://b:2", "nats://c:3"]);
        assert_eq!((worker.server.unsandboxed, worker.server.replicas), (Some(true), Some(3)));
    }
}
