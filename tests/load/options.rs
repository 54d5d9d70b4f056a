//! What a run does, as its flags say.

use std::time::Duration;

use clap::Parser;

const ABOUT: &str = "Mixed load against an installation of its own: a broker, a store and each role as a process, in a temporary folder.

Clients arrive at random, at the rates that are set, whether those before them are served or not: uploads (whole files and tus, some of them bad), \
playback by wallets whose grant an allow-list gives, queries, sign-ins, and followers of events, of whom one cancels jobs. Again and again all of them are held still, and what \
the product lists is compared with what clients were answered: accepted = ready + rejected + failed + in flight.";

const EXAMPLES: &str = "Examples (make load ARGS='...', or cargo run --example load -- ...):
  --for=5m --uploads=2                      more uploads than this machine encodes: see what is saturated first
  --for=30s --product-limits                one client address and one owner, so that the product's own rate limits answer
  --kill=transcode                          a role is killed at the middle: health says so within 10 s, and an alert within its `for`
  --for=1h --flat                           memory, descriptors and disk per upload must not grow; `make soak` does this, too
  --seed=7                                  the same random choices again; each run prints its seed

Ends with 1 when the numbers do not reconcile, the installation is not well at the end, or what --kill or --flat asks for does not hold.";

/// Roles that can be killed: without the ingress or the monitor nobody would answer how the others are.
pub(crate) const KILLABLE: [&str; 6] = ["upload", "transcode", "tasks", "index", "audit", "keeper"];

/// What a run does.
#[derive(Debug, Clone, Parser)]
#[command(name = "load", about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct LoadOptions {
    /// How long clients arrive: `90s`, `1h`
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Uploads a second
    #[arg(long, value_name = "RATE", default_value_t = 0.5, value_parser = read_rate)]
    pub(crate) uploads: f64,
    /// Percent of the uploads that are no medium, or a damaged one
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) bad: u32,
    /// Percent of the jobs that are cancelled as soon as they are queued: their media fail
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) cancelled: u32,
    /// Playbacks a second: a session, its playlists and three segments
    #[arg(long, value_name = "RATE", default_value_t = 2.0, value_parser = read_rate)]
    pub(crate) plays: f64,
    /// Queries a second: lists, documents, searches, jobs
    #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = read_rate)]
    pub(crate) queries: f64,
    /// Sign-ins a second
    #[arg(long, value_name = "RATE", default_value_t = 1.0, value_parser = read_rate)]
    pub(crate) sign_ins: f64,
    /// Followers of events over the whole run
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) followers: u32,
    /// Most clients of each kind that are served at once; who arrives beyond them is counted and left out
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) at_once: u32,
    /// How often clients are held still and everything is counted; `0s` for the end alone
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) pause_every: Duration,
    /// Longest wait at the end for uploads in flight
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// Kills this role at the middle, checks health and alert, and starts it again; clients go on until the alert is over
    #[arg(long, value_name = "ROLE", value_parser = KILLABLE)]
    pub(crate) kill: Option<String>,
    /// Divides the durations of alert rules, with --kill
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4))]
    pub(crate) time_scale: u64,
    /// Fails when memory, descriptors or disk grow by upload; caches are kept small, so that they are full before it is measured
    #[arg(long)]
    pub(crate) flat: bool,
    /// Keeps the rate limits of the product, which are for one client address and one owner
    #[arg(long)]
    pub(crate) product_limits: bool,
    /// Names the random choices; a random one where nothing is said
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Prints the report as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number from 0 to 10,000 a second.
fn read_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "it is a number".to_owned())?;
    if (0.0..=10_000.0).contains(&rate) { Ok(rate) } else { Err("it is from 0 to 10000 a second".into()) }
}
