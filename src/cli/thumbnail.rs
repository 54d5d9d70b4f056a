//! `media thumbnail`: has a picture of a medium at a time made, unless it was, and fetches it.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use reqwest::{Method, Url};
use serde_json::json;

use super::{
    ThumbnailArgs,
    client::{self, ApiClient, ClientError},
    job_end::wait_for_end,
    output,
};

/// Fetches a picture, and says where it is.
///
/// # Errors
/// When the server refuses, there can't be such a picture, or the file can't be written.
pub(super) async fn fetch_thumbnail(args: &ThumbnailArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let (at, width) = (args.at.to_string(), args.width.map(|width| width.to_string()));
    let query = [("t", Some(at.as_str())), ("width", width.as_deref())];
    let url = client.build_url(&format!("v1/media/{}/thumbnail", args.media_id), &query);
    let bytes = match read_picture(&client, &url).await {
        Err(ClientError::Refused(refusal)) if refusal.code == "thumbnail_missing" => {
            make_picture(&client, args).await?;
            read_picture(&client, &url).await?
        }
        found => found?,
    };
    let name = || PathBuf::from(format!("{}-{at}.jpg", args.media_id));
    let path = args.output.clone().unwrap_or_else(name);
    fs::write(&path, &bytes).with_context(|| format!("{} can't be written", path.display()))?;
    if as_json {
        output::print_json(&json!({ "media_id": args.media_id, "path": path, "size_bytes": bytes.len() }))?;
    } else {
        output::print_line(path.display())?;
    }
    Ok(())
}

async fn read_picture(client: &ApiClient, url: &Url) -> Result<Vec<u8>, ClientError> {
    let request = client.build_request(Method::GET, url.clone());
    client::with_time_limit(async { client::read_body(client.send(request).await?).await }).await
}

async fn make_picture(client: &ApiClient, args: &ThumbnailArgs) -> anyhow::Result<()> {
    let Some(at_ms) = to_millis(args.at) else {
        bail!("--at takes seconds from the beginning, such as 12.5")
    };
    let mut job = json!({ "kind": "thumbnails", "media_id": args.media_id, "times_ms": [at_ms] });
    if let Some(width) = args.width {
        job["width"] = json!(width);
    }
    let url = client.build_url("v1/jobs", &[]);
    let begun =
        client.send_json(client.build_request(Method::POST, url).json(&json!({ "job": job }))).await?;
    let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
    let job = wait_for_end(client, &args.media_id, &job_id).await?;
    if job["status"] != "succeeded" {
        let text = |name: &str| output::sanitize_text(job[name].as_str().unwrap_or_default());
        bail!("the picture was not made: {} ({})", text("detail"), text("code"));
    }
    Ok(())
}

/// Seconds to the nearest millisecond, as the server takes them.
fn to_millis(seconds: f64) -> Option<u64> {
    let millis = format!("{:.0}", seconds * 1_000.0);
    millis.parse().ok().filter(|_| seconds >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_taken_to_the_millisecond() {
        for (seconds, millis) in [(0.0, Some(0)), (12.5, Some(12_500)), (2.0004, Some(2_000)), (-1.0, None)] {
            assert_eq!(to_millis(seconds), millis, "{seconds}");
        }
        assert_eq!(to_millis(f64::NAN), None);
    }
}
