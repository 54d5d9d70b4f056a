//! Flags shared by several commands. A server's flag is `None` unless it was given, so that file, environment and flag can be
//! merged.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::telemetry::LogFormat;

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Settings file (TOML); environment and flags win over it
    #[arg(long, global = true, value_name = "FILE", env = "STREAMGATE_CONFIG", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Print JSON for machines, one object a line where there are several
    ///
    /// A failure is a problem document (RFC 9457), the last line of stderr.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Form of the log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        env = "STREAMGATE_LOG_FORMAT",
        help_heading = "Everywhere"
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,transcode=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "STREAMGATE_LOG", help_heading = "Everywhere")]
    pub log: Option<String>,
}

/// Settings of a server that have a flag; all others are in the settings file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Settings")]
pub struct ServerArgs {
    /// Address of the public port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", env = "STREAMGATE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address of probes and metrics of this process [default: none]
    #[arg(long, value_name = "ADDRESS", env = "STREAMGATE_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,
    /// Folder of this machine's data [default: data]
    #[arg(long, value_name = "FOLDER", env = "STREAMGATE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of a broker, may be repeated; without one, `up` starts its own
    #[arg(long = "nats-url", value_name = "URL", env = "STREAMGATE_NATS_URL", value_delimiter = ',')]
    pub nats_urls: Vec<String>,
    /// File with the nkey seed, or lines `role seed` for several roles
    #[arg(long, value_name = "FILE", env = "STREAMGATE_NATS_SEED_FILE")]
    pub nats_seed_file: Option<PathBuf>,
    /// Object store: file:///folder, s3://bucket/prefix, gs://..., az://... [default: a folder in the data folder]
    #[arg(long, value_name = "URL", env = "STREAMGATE_STORE_URL")]
    pub store_url: Option<String>,
    /// The program streamgate-media [default: beside this program]
    #[arg(long, value_name = "FILE", env = "STREAMGATE_MEDIA_CHILD")]
    pub media_child: Option<PathBuf>,
    /// Run media code even where no sandbox works; only on machines isolated by other means
    #[arg(
        long,
        value_name = "BOOL",
        env = "STREAMGATE_UNSANDBOXED",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub unsandboxed: Option<bool>,
    /// Copies of every stream and bucket: 1, or 3 or 5 on a cluster [default: 1]
    #[arg(long, value_name = "COUNT", env = "STREAMGATE_REPLICAS")]
    pub replicas: Option<usize>,
    /// Address people reach the public port by, such as `https://media.example.org`
    #[arg(long, value_name = "URL", env = "STREAMGATE_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Origin whose pages may call this, such as `https://app.example.org`, may be repeated; `*` alone is every origin
    #[arg(
        long = "allow-origin",
        value_name = "ORIGIN",
        env = "STREAMGATE_ALLOW_ORIGIN",
        value_delimiter = ','
    )]
    pub origins: Vec<String>,
    /// Address that takes traces by OTLP over HTTP, such as `http://127.0.0.1:4318` [default: none]
    #[arg(long, value_name = "URL", env = "STREAMGATE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Name of the transcode profile
    #[arg(long, value_name = "NAME", env = "STREAMGATE_PROFILE")]
    pub profile: Option<String>,
}

/// Which settings are printed, and how.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Settings given here.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print what can be set, whatever is: the text of SETTINGS.md
    #[arg(long, hide = true)]
    pub markdown: bool,
    /// Print what is counted: the text of METRICS.md
    #[arg(long, hide = true, conflicts_with = "markdown")]
    pub metrics: bool,
    /// Print the rules of alerts as a file for Prometheus (`rule_files`), with links to runbooks below the public URL
    #[arg(long, conflicts_with_all = ["markdown", "metrics"])]
    pub rules: bool,
    /// Write dashboards for Grafana into this folder, with links to runbooks below the public URL
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["markdown", "metrics", "rules"])]
    pub dashboards: Option<PathBuf>,
    /// Divide all durations of the rules by this, for drills
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "rules", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub time_scale: u64,
}

/// How a client reaches a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ClientArgs {
    /// Address of the server
    #[arg(long, value_name = "URL", env = "STREAMGATE_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// API key [default: from the file `api-key` in the data folder]
    #[arg(long, value_name = "KEY", env = "STREAMGATE_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Folder of a server on this machine, for its API key
    #[arg(long, value_name = "FOLDER", env = "STREAMGATE_DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,
}

/// One page of a list.
#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// Most items
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Where the page before ended: its `next_cursor`
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Only those with this status
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
}
