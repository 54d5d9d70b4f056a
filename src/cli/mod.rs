//! The command line: what can be said, and who does it.
//!
//! Data goes to stdout, talk to stderr. The process ends with 0 when it did what was asked, 1 when it could not, 2 when the
//! command line is wrong, 64 when the settings are.

pub mod args;
pub mod audit_log;
pub mod broker;
pub mod client;
pub mod dead_letters;
pub mod demo;
mod dispatch;
pub mod doctor;
pub mod environment;
pub mod event;
pub mod follow;
pub mod lines;
pub mod link;
pub mod list;
mod outcome;
pub mod output;
pub mod owner;
pub mod play;
pub mod publish;
pub mod published_schemas;
pub mod redrive;
pub mod render;
pub mod resume;
pub mod serve;
pub mod settings;
pub mod sse;
pub mod store;
pub mod topology;
pub mod tus;
pub mod upload;
pub mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use args::{ClientArgs, ConfigArgs, GlobalArgs, PageArgs, ServerArgs};
pub use dispatch::dispatch_command;
pub use outcome::CommandOutcome;

use crate::roles::ProcessRole;

/// Exit status: it could not be done; stderr says why.
pub const EXIT_FAILURE: u8 = 1;
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

Exit status: 0 done, 1 failed, 2 wrong command line, 64 wrong settings.";

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
    /// Run the singletons: unsent events, expired uploads, drift; two give failover
    #[command(after_help = "Example:
  streamgate keeper --nats-url nats://broker:4222 --store-url s3://media")]
    Keeper(ServerArgs),
    /// Upload files; an upload that was cut goes on where it stopped
    #[command(after_help = "Examples:
  streamgate upload film.mp4
  streamgate upload --public *.mp4            one after the other; everybody plays them who has their addresses
  streamgate upload film.mp4 --wait           until it is ready; then the address that plays
  streamgate upload film.mp4 --json           one line: {\"media_id\", \"upload_url\", \"watch_url\", ...}")]
    Upload(UploadArgs),
    /// Follow events live; ends with 0 at ready or succeeded, 1 at failed, rejected or cancelled
    #[command(after_help = "Examples:
  streamgate watch                            everything you may see, until Ctrl-C
  streamgate watch --media 068p...            one medium, until its end
  streamgate watch --json --since 0-0         NDJSON, from the oldest event on")]
    Watch(WatchArgs),
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
pub struct UploadArgs {
    /// The files, one after the other
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Title of the medium, in place of the file's name; for one file
    #[arg(long)]
    pub title: Option<String>,
    /// What the medium is about, in up to 1,000 characters; for one file
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Let everybody play it who has its address
    #[arg(long)]
    pub public: bool,
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

/// What to do with media.
#[derive(Debug, Subcommand)]
pub enum MediaCommand {
    /// List your media, newest first
    #[command(after_help = "Examples:
  streamgate media ls --status ready
  streamgate media ls --json --limit 200    a last line {\"next_cursor\": ...} says that there are more")]
    Ls {
        /// Which page.
        #[command(flatten)]
        page: PageArgs,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one medium
    Show {
        /// Its id
        media_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let everybody play media who has their address
    #[command(after_help = "Examples:
  streamgate media publish 068p... 068q...
  streamgate media publish --replace 068p...  also where a rule of your own says who plays it: that rule is lost")]
    Publish {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// Put it in the place of a rule that says otherwise
        #[arg(long)]
        replace: bool,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take back that everybody plays media: you alone do from now on
    #[command(after_help = "Example:
  streamgate media unpublish 068p...        running playback ends at its next segment; a rule of your own is left alone")]
    Unpublish {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove media: nobody plays them from now on, and nothing brings them back
    #[command(after_help = "Example:
  streamgate media rm 068p... 068q...       one after the other; a medium that changes meanwhile is left alone")]
    Rm {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List your jobs, newest first
    #[command(after_help = "Examples:
  streamgate jobs ls --status active
  streamgate jobs ls --media 068p...")]
    Ls {
        /// Only jobs on this medium
        #[arg(long, value_name = "MEDIA_ID")]
        media: Option<String>,
        /// Which page.
        #[command(flatten)]
        page: PageArgs,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one job and its parts
    Show {
        /// Its id
        job_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the log's lines as they were written
    #[command(after_help = "Examples:
  streamgate audit replay --since 1h
  streamgate audit replay --from 1000 --filter media.stored > stored.ndjson
  streamgate audit replay --filter '*.failed'
  streamgate audit replay --from 1000 --to 1999         one thousand records
  streamgate audit replay --media 068p... --limit 10    the first ten about a medium
  streamgate audit replay --follow --owner alice")]
    Replay(ReplayArgs),
    /// Fetch the whole log and check that every line continues the one before it
    #[command(
        after_help = "Prints the number and hash of the last line: note them elsewhere, a chain can't prove its own end.

Example:
  streamgate audit verify --json"
    )]
    Verify(ClientArgs),
}

/// Flags of `audit replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// First record, from 1
    #[arg(long, value_name = "NUMBER")]
    pub from: Option<u64>,
    /// Last record: ends with it, also with --follow
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
    /// From this time on: RFC 3339, or an age such as 90s, 2h, 7d
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    pub since: Option<String>,
    /// Up to this time: RFC 3339, or an age
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only these records: a class (`media`), a type (`media.stored`) or a pattern (`*.failed`)
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only records about media of this owner
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<String>,
    /// Only records about this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Most records: ends after so many, also with --follow
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Stay, and print what comes
    #[arg(long)]
    pub follow: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List them, oldest first
    Ls {
        /// Most letters
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show one with its payload
    Show {
        /// Its sequence, from `dead ls`
        sequence: u64,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Give some a second chance
    #[command(after_help = "Examples:
  streamgate dead redrive 17 18
  streamgate dead redrive --all --stage transcode

Nothing is published a second time: a medium that was rejected or failed begins a new attempt, a failed encode becomes a new
job with the next number, and a part that was put aside goes back to its queue. What was done since is left as it is. The
letter stays in the stream for the record.")]
    Redrive {
        /// Their sequences, from `dead ls`
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        sequences: Vec<u64>,
        /// All that had no second chance yet
        #[arg(long)]
        all: bool,
        /// With --all: only those of this stage
        #[arg(long, value_name = "STAGE", requires = "all")]
        stage: Option<String>,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What to do with the broker.
#[derive(Debug, Subcommand)]
pub enum NatsCommand {
    /// Print what `apply` would change; ends with 1 when there is something
    Diff(ServerArgs),
    /// Create and update streams, buckets and durables; data is never removed
    #[command(after_help = "Example:
  streamgate nats apply --nats-url nats://broker:4222 --replicas 3")]
    Apply(ServerArgs),
    /// Make the keys of the roles' users for a broker of your own; those that are there stay
    #[command(
        after_help = "Writes three files: `seeds` for --nats-seed-file, `system-seed` for the operator, and `nats.env` with the
variables that nats/server.conf and nats/node.conf name."
    )]
    Keys {
        /// Folder for the files
        folder: PathBuf,
    },
}

/// What to do with what belongs to somebody.
#[derive(Debug, Subcommand)]
pub enum OwnerCommand {
    /// List what contract accounts own under a name without a chain
    Ls(ServerArgs),
    /// Give the media and API keys of an owner to another one
    #[command(after_help = "Example:
  streamgate owner transfer eip155:0x5aae... eip155:1:0x5aae...

A contract account is its own owner on each chain, eip155:<chain>:0x..., since the same address elsewhere may be somebody else's.
What it owned before under eip155:0x... stays there until somebody says to which chain it belongs: nothing is guessed.")]
    Transfer {
        /// The owner until now, as media show it
        from: String,
        /// The owner from now on
        to: String,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What to do with the object store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Say that the configured store is this installation's, whatever is in it
    #[command(after_help = "Examples:
  streamgate store adopt --data-dir /var/lib/streamgate
  streamgate store adopt --nats-url nats://broker:4222 --store-url s3://media

A store carries a marker with its id; without it nothing is stored, served or deleted, for it may not be mounted. The first start
marks a new store, and one from before that has a known object in it. In every other case look first: what the broker knows and
the store does not have counts as lost once it is adopted. A marker that is there stays, and this installation takes its id.")]
    Adopt(ServerArgs),
}

/// What to do with the published schemas.
#[derive(Debug, Subcommand)]
pub enum SchemasCommand {
    /// Compare the files with the types; prints the difference and ends with 1 when there is one
    Check {
        /// Folder with json/, golden/ and asyncapi.json
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
    },
    /// Write the files; golden bytes that exist are history and stay
    Write {
        /// Folder with json/, golden/ and asyncapi.json
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
    },
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
