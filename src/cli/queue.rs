//! `queue`: what is kept out of the queue of jobs, and keeping an owner's jobs or those of a kind out of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    ClientArgs,
    client::{ApiClient, ClientError},
    output, render,
};

/// What to do with the queue of jobs.
#[derive(Debug, clap::Subcommand)]
pub enum QueueCommand {
    /// List the owners and the kinds whose jobs are kept out of the queue
    Ls {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Keep the jobs of an owner, or of a kind, out of the queue until they are resumed
    #[command(after_help = "Examples:
  streamgate queue pause --kind transcode --reason 'the encoders are upgraded'
  streamgate queue pause --owner eip155:0x70997970c51812dc3a010c7d01b50e0d17dc79c8

What lies in the queue already, two parts for each slot at most, is made to its end. `streamgate jobs why` says who paused a job, and
the reason. Single jobs are paused by `streamgate jobs pause`, those of a filter by `streamgate jobs act pause`.")]
    Pause {
        /// Whose jobs, or which.
        #[command(flatten)]
        scope: QueueScopeArgs,
        /// For people who ask why their jobs do not run
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let the jobs of an owner, or of a kind, have their turns again
    Resume {
        /// Whose jobs, or which.
        #[command(flatten)]
        scope: QueueScopeArgs,
    },
}

/// Whose jobs, or which.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct QueueScopeArgs {
    /// All jobs of this owner
    #[arg(long, required_unless_present = "kind", conflicts_with = "kind")]
    pub owner: Option<String>,
    /// All jobs of this kind, such as transcode
    #[arg(long)]
    pub kind: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

const HEADS: &[&str] = &["PAUSED", "NAME", "SINCE", "BY", "REASON"];

/// Lists what is paused, pauses or resumes.
///
/// # Errors
/// When the server refuses.
pub async fn run_queue(command: QueueCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        QueueCommand::Ls { client } => list_pauses(&ApiClient::new(&client)?, as_json).await,
        QueueCommand::Pause { scope, reason } => {
            let (client, url) = scope.pause_url()?;
            let body = json!({ "reason": reason });
            let request = client.build_request(Method::PUT, url).json(&body);
            let pause: Value = client.send(request).await?.json().await?;
            if as_json {
                return Ok(output::print_json(&pause)?);
            }
            output::print_message(format!("Paused: jobs of the {}", scope.describe()));
            Ok(())
        }
        QueueCommand::Resume { scope } => {
            let (client, url) = scope.pause_url()?;
            client.send(client.build_request(Method::DELETE, url)).await?;
            if as_json {
                let (kind, name) = scope.scope_and_name();
                return Ok(output::print_json(&json!({ "scope": kind, "name": name, "paused": false }))?);
            }
            output::print_message(format!("Resumed: jobs of the {}", scope.describe()));
            Ok(())
        }
    }
}

impl QueueScopeArgs {
    fn scope_and_name(&self) -> (&'static str, &str) {
        match (&self.owner, &self.kind) {
            (Some(owner), _) => ("owner", owner),
            (None, kind) => ("kind", kind.as_deref().unwrap_or_default()),
        }
    }

    fn describe(&self) -> String {
        let (scope, name) = self.scope_and_name();
        format!("{scope} {}", output::sanitize_text(name))
    }

    fn pause_url(&self) -> anyhow::Result<(ApiClient, reqwest::Url)> {
        let client = ApiClient::new(&self.client)?;
        let (scope, name) = self.scope_and_name();
        let mut url = client.build_url(&format!("v1/jobs/pauses/{scope}"), &[]);
        // A name may hold what has a meaning in paths.
        url.path_segments_mut().map_err(|()| ClientError::strange("the address has no path"))?.push(name);
        Ok((client, url))
    }
}

async fn list_pauses(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/jobs/pauses", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        return Ok(items.iter().try_for_each(output::print_json)?);
    }
    let rows: Vec<Vec<String>> = items.iter().map(pause_row).collect();
    output::print_line(render::format_table(HEADS, &rows))?;
    if items.is_empty() {
        output::print_message("Nothing is paused");
    }
    Ok(())
}

fn pause_row(pause: &Value) -> Vec<String> {
    let field = |name: &str| render::format_scalar(name, &pause[name]);
    vec![field("scope"), field("name"), field("paused_at_ms"), field("paused_by"), field("reason")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_its_heads() {
        let pause = json!({ "scope": "kind", "name": "transcode", "paused_at_ms": 1, "paused_by": "admin", "reason": null });
        let row = pause_row(&pause);
        assert_eq!(row.len(), HEADS.len());
        assert_eq!((row[0].as_str(), row[1].as_str(), row[3].as_str()), ("kind", "transcode", "admin"));
    }
}
