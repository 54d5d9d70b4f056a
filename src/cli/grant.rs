//! `media grant`: gives somebody the right to bring one file, lists what was given, or takes it back.

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ClientArgs, client::ApiClient, output, render};
use crate::config::units::SettingUnit;

/// Flags of `media grant`.
#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    /// Largest file, such as 500MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub size: String,
    /// A media type that the file may have, such as video/mp4 or video/*; once for each
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// How long an upload may begin with it, such as 30m or 2d
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub expires: String,
    /// Title of the medium
    #[arg(long)]
    pub title: Option<String>,
    /// List those that were given
    #[arg(long, conflicts_with_all = ["types", "title", "revoke"])]
    pub list: bool,
    /// Take one back, by its id
    #[arg(long, value_name = "GRANT_ID", conflicts_with_all = ["types", "title"])]
    pub revoke: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Gives, lists or takes back.
///
/// # Errors
/// When the server refuses.
pub(super) async fn run_grant(args: &GrantArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    if let Some(grant_id) = &args.revoke {
        let url = client.build_url(&format!("v1/uploads/grants/{grant_id}"), &[]);
        client.send(client.build_request(Method::DELETE, url)).await?;
        return Ok(());
    }
    if args.list {
        return print_grants(&client.get_json("v1/uploads/grants", &[]).await?, as_json);
    }
    let size_bytes_max = SettingUnit::Bytes
        .parse_number(&args.size)
        .with_context(|| format!("--size: {:?} is no size such as 500MiB", args.size))?;
    let expires = humantime::parse_duration(&args.expires)
        .with_context(|| format!("--expires: {:?} is no duration such as 30m, 2d", args.expires))?;
    let wanted = json!({
        "size_bytes_max": size_bytes_max, "types": args.types, "expires_in_s": expires.as_secs(), "title": args.title,
    });
    let url = client.build_url("v1/uploads/grants", &[]);
    let made = client.send_json(client.build_request(Method::POST, url).json(&wanted)).await?;
    if as_json {
        output::print_json(&made)?;
    } else {
        output::print_line(output::sanitize_text(made["grant"].as_str().unwrap_or_default()))?;
    }
    Ok(())
}

fn print_grants(listed: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(output::print_json(listed)?);
    }
    for grant in listed["items"].as_array().into_iter().flatten() {
        let field = |name: &str| render::format_scalar(name, &grant[name]);
        let used = if grant["upload_id"].is_null() { "waits".to_owned() } else { field("upload_id") };
        let (id, size, expires) = (field("grant_id"), field("size_bytes_max"), field("expires_at_ms"));
        output::print_line(format!("{id} {size:>10} {expires} {used}"))?;
    }
    Ok(())
}
