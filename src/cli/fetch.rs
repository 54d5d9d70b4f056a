//! `media fetch`: has the server fetch a medium from an address, and follows it as `upload` follows one that is sent.

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use super::{CommandOutcome, FetchArgs, client::ApiClient, job_end::wait_for_end, output, upload};

/// Has the medium fetched, and waits for that, or with `--wait` until it is ready or rejected.
///
/// # Errors
/// When the server refuses, or the source does: the code says which.
pub(super) async fn fetch_medium(args: &FetchArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    let request = client.build_request(Method::POST, client.build_url("v1/media", &[]));
    let begun: Value = client.send(request.json(&describe_medium(args))).await?.json().await?;
    let id = |name: &str| output::sanitize_text(begun[name].as_str().unwrap_or_default());
    let (media_id, job_id) = (id("media_id"), id("job_id"));
    if args.detach {
        if as_json {
            output::print_json(&begun)?;
        } else {
            output::print_line(format!("{media_id}  {job_id}"))?;
        }
        return Ok(CommandOutcome::Well);
    }
    if !as_json {
        output::print_message(format!("Fetching {media_id}: job {job_id}"));
    }
    let job = wait_for_end(&client, &media_id, &job_id).await?;
    if job["status"] != "succeeded" {
        if as_json {
            output::print_json(&job)?;
        }
        bail!("{}", explain_end(&job));
    }
    let answer = json!({ "job_id": job_id, "upload_id": id("upload_id") });
    upload::report_medium(&client, &media_id, answer, (args.wait, false), as_json).await
}

/// What the command line says of the medium.
fn describe_medium(args: &FetchArgs) -> Value {
    let mut wanted = json!({ "source_url": args.source_url });
    for (name, value) in [
        ("filename", &args.filename),
        ("title", &args.title),
        ("profile", &args.profile),
        ("priority", &args.priority),
    ] {
        if let Some(value) = value {
            wanted[name] = json!(value);
        }
    }
    if args.public {
        wanted["visibility"] = json!("public");
    }
    wanted
}

/// Why a job came to nothing.
fn explain_end(job: &Value) -> String {
    let text = |name: &str| output::sanitize_text(job[name].as_str().unwrap_or_default());
    match job["status"].as_str() {
        Some("cancelled") => "its job was cancelled".to_owned(),
        _ => format!("it was not fetched: {} ({})", text("detail"), text("code")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_source_said_is_said() {
        let job = json!({ "status": "failed", "code": "fetch_refused", "detail": "a answered 404" });
        assert_eq!(explain_end(&job), "it was not fetched: a answered 404 (fetch_refused)");
        assert_eq!(explain_end(&json!({ "status": "cancelled" })), "its job was cancelled");
    }
}
