//! `hooks`: addresses to which events are sent.
//!
//! Limits: `hooks test` waits for at most 30 seconds.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use reqwest::{Method, header::IF_MATCH};
use serde_json::{Map, Value, json};

use super::{
    ClientArgs,
    client::{ApiClient, ClientError},
    each::act_on_each,
    output, render,
};

const HEADS: &[&str] = &["HOOK", "STATE", "WAITING", "TYPES", "URL", "NAME"];

const DELIVERY_HEADS: &[&str] =
    &["DELIVERY", "SENT", "EVENT", "TRY", "OUTCOME", "STATUS", "TOOK", "NEXT TRY"];

/// How long the answer to a test is waited for.
const TEST_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
const TEST_LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Deliveries that are looked through for that of a test.
const TEST_LOOK_COUNT: &str = "50";

/// What to do with hooks.
#[derive(Debug, Subcommand)]
pub enum HooksCommand {
    /// Have events sent to an address
    #[command(after_help = "Examples:
  streamgate hooks create https://films.example/hooks
  streamgate hooks create https://films.example/hooks --type media --type job.failed --name catalogue

Prints the hook and its secret, which is shown this once: receivers check by it what is sent (Standard Webhooks). Events come at least
once, those of one medium one after the other; a receiver answers 2xx.")]
    Create(HookCreateArgs),
    /// List your hooks, with how much waits at each
    #[command(visible_alias = "ls")]
    List {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one hook and how far it is
    Show(HookIdArgs),
    /// Change what a hook sends, or where
    Edit(HookEditArgs),
    /// Remove hooks, and what was logged of their deliveries
    #[command(visible_alias = "rm")]
    Remove(HookIdsArgs),
    /// Have hooks send nothing until they are resumed; what happens meanwhile waits
    Pause(HookIdsArgs),
    /// Have paused hooks send again, what waited first
    Resume(HookIdsArgs),
    /// Send a made-up event, and say what the receiver answered
    Test(HookIdArgs),
    /// Give a hook a new secret, and print it
    #[command(
        after_help = "The old secret signs beside the new one for a while, so that a receiver can be changed without missing anything."
    )]
    Rotate {
        /// Which hook.
        #[command(flatten)]
        hook: HookIdArgs,
        /// For how long the old secret signs, too, such as 1h, 3d; a day unless said otherwise
        #[arg(long, value_name = "DURATION")]
        old_signs: Option<String>,
    },
    /// List what a hook sent, the newest first
    Deliveries {
        /// Which hook.
        #[command(flatten)]
        hook: HookIdArgs,
        /// Most deliveries
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=50))]
        limit: u32,
        /// Those behind this delivery
        #[arg(long, value_name = "DELIVERY_ID")]
        after: Option<String>,
    },
    /// Send the event of a delivery again
    Redeliver {
        /// Which hook.
        #[command(flatten)]
        hook: HookIdArgs,
        /// Its id, from `hooks deliveries`
        #[arg(value_name = "DELIVERY_ID")]
        delivery_id: String,
    },
    /// Send everything behind an event, or since a time, again
    #[command(after_help = "Examples:
  streamgate hooks replay 06db... --behind 1a2b3c-7        an id as `GET /v1/events` has it
  streamgate hooks replay 06db... --behind 0-0             everything that is kept
  streamgate hooks replay 06db... --since 2h               or a time of RFC 3339")]
    Replay {
        /// Which hook.
        #[command(flatten)]
        hook: HookIdArgs,
        /// Id of an event
        #[arg(long, value_name = "EVENT_ID", conflicts_with = "since", required_unless_present = "since")]
        behind: Option<String>,
        /// RFC 3339, or how long ago, such as 90m, 2h, 7d
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
}

/// Which hook.
#[derive(Debug, clap::Args)]
pub struct HookIdArgs {
    /// Its id
    #[arg(value_name = "HOOK_ID")]
    hook_id: String,
    /// The server.
    #[command(flatten)]
    client: ClientArgs,
}

/// Which hooks.
#[derive(Debug, clap::Args)]
pub struct HookIdsArgs {
    /// Their ids
    #[arg(required = true, value_name = "HOOK_ID")]
    hook_ids: Vec<String>,
    /// The server.
    #[command(flatten)]
    client: ClientArgs,
}

/// Flags of `hooks create`.
#[derive(Debug, clap::Args)]
pub struct HookCreateArgs {
    /// Where events are sent: http or https, at a public host
    #[arg(value_name = "ADDRESS")]
    target: String,
    /// Kinds of events: an entity such as media, or one kind such as media.ready; all unless said otherwise
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events about this medium
    #[arg(long, value_name = "MEDIA_ID")]
    media: Option<String>,
    /// Only events about this job
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
    /// The events of all owners, for admins
    #[arg(long)]
    all_owners: bool,
    /// What people call it
    #[arg(long, default_value = "")]
    name: String,
    /// The server.
    #[command(flatten)]
    client: ClientArgs,
}

/// Flags of `hooks edit`.
#[derive(Debug, clap::Args)]
pub struct HookEditArgs {
    /// Which hook.
    #[command(flatten)]
    hook: HookIdArgs,
    /// Where events are sent, with its query
    #[arg(long, value_name = "ADDRESS")]
    target: Option<String>,
    /// Kinds of events; empty for all
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events about this medium; empty for all
    #[arg(long, value_name = "MEDIA_ID")]
    media: Option<String>,
    /// Only events about this job; empty for all
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
    /// Whether it sends the events of all owners, for admins
    #[arg(long, value_name = "BOOL")]
    all_owners: Option<bool>,
    /// What people call it; empty for none
    #[arg(long)]
    name: Option<String>,
}

impl HookEditArgs {
    /// The body of the request.
    fn to_change(&self) -> Map<String, Value> {
        let mut change = Map::new();
        let or_none = |text: &String| if text.is_empty() { Value::Null } else { json!(text) };
        change.extend(self.target.iter().map(|target| ("url".to_owned(), json!(target))));
        if !self.types.is_empty() {
            let types: Vec<&String> = self.types.iter().filter(|kind| !kind.is_empty()).collect();
            change.insert("types".to_owned(), json!(types));
        }
        change.extend(self.media.iter().map(|id| ("media_id".to_owned(), or_none(id))));
        change.extend(self.job.iter().map(|id| ("job_id".to_owned(), or_none(id))));
        change.extend(self.all_owners.iter().map(|all| ("all_owners".to_owned(), json!(all))));
        change.extend(self.name.iter().map(|name| ("name".to_owned(), json!(name))));
        change
    }
}

/// Does it.
///
/// # Errors
/// When the server refuses, or a time makes no sense.
pub async fn run_hooks(command: HooksCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        HooksCommand::Create(args) => create_hook(&args, as_json).await,
        HooksCommand::List { client } => list_hooks(&ApiClient::new(&client)?, as_json).await,
        HooksCommand::Show(args) => {
            let hook =
                ApiClient::new(&args.client)?.get_json(&format!("v1/hooks/{}", args.hook_id), &[]).await?;
            print_document(&hook, as_json)
        }
        HooksCommand::Edit(args) => edit_hook(&args, as_json).await,
        HooksCommand::Remove(args) => remove_hooks(&args, as_json).await,
        HooksCommand::Pause(args) => change_hooks(&args, "pause", "Paused", as_json).await,
        HooksCommand::Resume(args) => change_hooks(&args, "resume", "Resumed", as_json).await,
        HooksCommand::Test(args) => test_hook(&args, as_json).await,
        HooksCommand::Rotate { hook, old_signs } => rotate_secret(&hook, old_signs.as_deref(), as_json).await,
        HooksCommand::Deliveries { hook, limit, after } => {
            list_deliveries(&hook, limit, after.as_deref(), as_json).await
        }
        HooksCommand::Redeliver { hook, delivery_id } => {
            let asked = send(&hook, &format!("deliveries/{delivery_id}/redeliver"), None).await?;
            print_result(&asked, as_json, || {
                format!("Sent again as the delivery {}", text(&asked["delivery_id"]))
            })
        }
        HooksCommand::Replay { hook, behind, since } => {
            replay_hook(&hook, behind.as_deref(), since.as_deref(), as_json).await
        }
    }
}

fn text(value: &Value) -> String {
    output::sanitize_text(value.as_str().unwrap_or_default())
}

fn print_document(document: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(output::print_json(document)?);
    }
    Ok(output::print_line(render::format_document(document))?)
}

fn print_result(result: &Value, as_json: bool, message: impl FnOnce() -> String) -> anyhow::Result<()> {
    if as_json {
        return Ok(output::print_json(result)?);
    }
    output::print_message(message());
    Ok(())
}

/// Sends an action to a hook.
async fn send(hook: &HookIdArgs, action: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let client = ApiClient::new(&hook.client)?;
    let url = client.build_url(&format!("v1/hooks/{}/{action}", hook.hook_id), &[]);
    let request = client.build_request(Method::POST, url);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    Ok(client.send_json(request).await?)
}

async fn create_hook(args: &HookCreateArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let mut wanted =
        json!({ "url": args.target, "name": args.name, "types": args.types, "all_owners": args.all_owners });
    for (name, id) in [("media_id", &args.media), ("job_id", &args.job)] {
        if let Some(id) = id {
            wanted[name] = json!(id);
        }
    }
    let url = client.build_url("v1/hooks", &[]);
    let made = client.send_json(client.build_request(Method::POST, url).json(&wanted)).await?;
    if as_json {
        return Ok(output::print_json(&made)?);
    }
    output::print_message(format!(
        "Made: hook {}; its secret is shown this once:",
        text(&made["hook"]["hook_id"])
    ));
    Ok(output::print_line(text(&made["secret"]))?)
}

async fn edit_hook(args: &HookEditArgs, as_json: bool) -> anyhow::Result<()> {
    let change = args.to_change();
    if change.is_empty() {
        bail!("nothing to change: `streamgate hooks edit --help` lists what can be set");
    }
    let client = ApiClient::new(&args.hook.client)?;
    let url = client.build_url(&format!("v1/hooks/{}", args.hook.hook_id), &[]);
    // Whatever it says now: only what is named is written, and nobody looked at it before.
    let request = client.build_request(Method::PATCH, url).header(IF_MATCH, "*").json(&change);
    print_document(&client.send_json(request).await?, as_json)
}

async fn remove_hooks(args: &HookIdsArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let remove = async |hook_id: &str| {
        let url = client.build_url(&format!("v1/hooks/{hook_id}"), &[]);
        client.send(client.build_request(Method::DELETE, url).header(IF_MATCH, "*")).await?;
        let removed = json!({ "hook_id": hook_id, "removed": true });
        print_result(&removed, as_json, || format!("Removed: {}", output::sanitize_text(hook_id)))
    };
    act_on_each("hook", &args.hook_ids, remove).await
}

async fn change_hooks(args: &HookIdsArgs, action: &str, done: &str, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let act = async |hook_id: &str| {
        let url = client.build_url(&format!("v1/hooks/{hook_id}/{action}"), &[]);
        let changed = client.send_json(client.build_request(Method::POST, url)).await?;
        print_result(&changed, as_json, || format!("{done}: {}", text(&changed["hook_id"])))
    };
    act_on_each("hook", &args.hook_ids, act).await
}

async fn list_hooks(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/hooks", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        items.iter().try_for_each(output::print_json)?;
    } else {
        let rows: Vec<Vec<String>> = items.iter().map(hook_row).collect();
        output::print_line(render::format_table(HEADS, &rows))?;
    }
    if list["has_more"] == true {
        output::print_message(format!("There are more hooks than these {}", items.len()));
    }
    Ok(())
}

fn hook_row(hook: &Value) -> Vec<String> {
    let types: Vec<String> = hook["types"].as_array().into_iter().flatten().map(text).collect();
    let state = match hook["paused"]["reason"].as_str() {
        Some(reason) => format!("paused ({})", output::sanitize_text(reason)),
        None => text(&hook["state"]),
    };
    vec![
        text(&hook["hook_id"]),
        state,
        hook["progress"]["waiting_events"].as_u64().unwrap_or_default().to_string(),
        if types.is_empty() { "all".to_owned() } else { types.join(",") },
        text(&hook["url"]),
        text(&hook["name"]),
    ]
}

async fn test_hook(args: &HookIdArgs, as_json: bool) -> anyhow::Result<()> {
    let asked = send(args, "test", None).await?;
    let client = ApiClient::new(&args.client)?;
    let path = format!("v1/hooks/{}/deliveries", args.hook_id);
    let looking = async {
        loop {
            let page = client.get_json(&path, &[("limit", Some(TEST_LOOK_COUNT))]).await?;
            let mut items = page["items"].as_array().into_iter().flatten();
            if let Some(found) = items.find(|item| item["delivery_id"] == asked["delivery_id"]) {
                return Ok::<_, ClientError>(found.clone());
            }
            tokio::time::sleep(TEST_LOOK_PAUSE).await;
        }
    };
    let Ok(found) = tokio::time::timeout(TEST_WAIT_MAX, looking).await else {
        bail!(
            "nothing was sent within {} s: see that a keeper runs, and look at `streamgate hooks deliveries`",
            TEST_WAIT_MAX.as_secs()
        );
    };
    let found = found?;
    if as_json {
        output::print_json(&found)?;
    }
    if found["outcome"] != "delivered" {
        bail!("{} ({})", text(&found["detail"]), text(&found["code"]));
    }
    if !as_json {
        output::print_message(format!(
            "Delivered: the receiver answered with the status {}",
            found["status"]
        ));
    }
    Ok(())
}

async fn rotate_secret(hook: &HookIdArgs, old_signs: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let seconds = old_signs.map(parse_duration).transpose().context("--old-signs")?;
    let body = seconds.map_or_else(|| json!({}), |time| json!({ "old_signs_s": time.as_secs() }));
    let made = send(hook, "rotate", Some(&body)).await?;
    if as_json {
        return Ok(output::print_json(&made)?);
    }
    let until = made["old_signs_until_ms"].as_u64().map(render::format_time).unwrap_or_default();
    output::print_message(format!(
        "The old secret signs, too, until {until}; the new one is shown this once:"
    ));
    Ok(output::print_line(text(&made["secret"]))?)
}

async fn list_deliveries(
    hook: &HookIdArgs,
    limit: u32,
    after: Option<&str>,
    as_json: bool,
) -> anyhow::Result<()> {
    let client = ApiClient::new(&hook.client)?;
    let (path, limit) = (format!("v1/hooks/{}/deliveries", hook.hook_id), limit.to_string());
    let list = client.get_json(&path, &[("limit", Some(&limit)), ("after", after)]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        items.iter().try_for_each(output::print_json)?;
    } else {
        let rows: Vec<Vec<String>> = items.iter().map(delivery_row).collect();
        output::print_line(render::format_table(DELIVERY_HEADS, &rows))?;
    }
    if let Some(next) = list["next_after"].as_str() {
        output::print_message(format!("There are older ones: --after {}", output::sanitize_text(next)));
    }
    Ok(())
}

fn delivery_row(delivery: &Value) -> Vec<String> {
    let time = |name: &str| delivery[name].as_u64().map(render::format_time).unwrap_or_default();
    let outcome = match delivery["code"].as_str() {
        Some(code) => format!("{} ({})", text(&delivery["outcome"]), output::sanitize_text(code)),
        None => text(&delivery["outcome"]),
    };
    vec![
        text(&delivery["delivery_id"]),
        time("sent_at_ms"),
        text(&delivery["event_type"]),
        delivery["attempt"].to_string(),
        outcome,
        delivery["status"].as_u64().map(|status| status.to_string()).unwrap_or_default(),
        format!("{} ms", delivery["took_ms"].as_u64().unwrap_or_default()),
        time("next_try_at_ms"),
    ]
}

async fn replay_hook(
    hook: &HookIdArgs,
    behind: Option<&str>,
    since: Option<&str>,
    as_json: bool,
) -> anyhow::Result<()> {
    let body = match since {
        Some(since) => json!({ "since_ms": parse_since(since, SystemTime::now())? }),
        None => json!({ "behind": behind }),
    };
    let begun = send(hook, "replay", Some(&body)).await?;
    print_result(&begun, as_json, || format!("Everything behind {} is sent again", text(&begun["behind"])))
}

fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    humantime::parse_duration(text).with_context(|| format!("{text:?} is no duration such as 90m, 2h, 7d"))
}

/// A time that passed, in Unix milliseconds.
fn parse_since(since: &str, now: SystemTime) -> anyhow::Result<u64> {
    if let Ok(time) = since.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_millisecond()).context("--since lies before 1970");
    }
    let ago = parse_duration(since).context("--since is no RFC 3339 time with an offset, nor a duration")?;
    let time = now.duration_since(SystemTime::UNIX_EPOCH)?.saturating_sub(ago);
    Ok(u64::try_from(time.as_millis())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_their_heads() {
        let mut hook = json!({
            "hook_id": "h1", "state": "failing", "paused": null, "types": [], "url": "https://films.example/", "name": "Catalogue",
            "progress": { "waiting_events": 7 },
        });
        let row = hook_row(&hook);
        assert_eq!(row.len(), HEADS.len());
        assert_eq!(row[1..4], ["failing", "7", "all"]);
        hook["paused"] = json!({ "reason": "gone" });
        hook["types"] = json!(["media", "job.failed"]);
        assert_eq!(hook_row(&hook)[1..4], ["paused (gone)", "7", "media,job.failed"]);
        let delivery = json!({
            "delivery_id": "d1", "sent_at_ms": 0, "event_type": "media.ready", "attempt": 2, "outcome": "failed",
            "code": "timed_out", "status": null, "took_ms": 15_000, "next_try_at_ms": null,
        });
        let row = delivery_row(&delivery);
        assert_eq!(row.len(), DELIVERY_HEADS.len());
        assert_eq!(row[2..], ["media.ready", "2", "failed (timed_out)", "", "15000 ms", ""]);
    }

    #[test]
    fn a_time_is_given_as_people_say_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(parse_since("2h", now).unwrap(), 2_800_000);
        assert_eq!(parse_since("1970-01-01T03:00:00+01:00", now).unwrap(), 7_200_000);
        for wrong in ["yesterday", "", "-2h"] {
            assert!(parse_since(wrong, now).is_err(), "{wrong}");
        }
    }
}
