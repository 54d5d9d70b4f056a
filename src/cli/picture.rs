//! Has a picture of what plays made by a job, and waits for it.

use anyhow::bail;
use reqwest::Method;
use serde_json::json;

use super::{client::ApiClient, job_end::wait_for_end, output};

/// A picture of what plays.
pub(super) struct WantedPicture<'a> {
    /// The medium.
    pub(super) media_id: &'a str,
    /// When it is shown, in seconds.
    pub(super) at: f64,
    /// Its width in pixels, where one is wanted.
    pub(super) width: Option<u32>,
}

/// Has a picture made, and waits for it.
pub(super) async fn make_picture(client: &ApiClient, wanted: WantedPicture<'_>) -> anyhow::Result<()> {
    let WantedPicture { media_id, at, width } = wanted;
    let Some(at_ms) = to_millis(at) else { bail!("--at takes seconds from the beginning, such as 12.5") };
    let mut job = json!({ "kind": "thumbnails", "media_id": media_id, "times_ms": [at_ms] });
    if let Some(width) = width {
        job["width"] = json!(width);
    }
    let url = client.build_url("v1/jobs", &[]);
    let begun =
        client.send_json(client.build_request(Method::POST, url).json(&json!({ "job": job }))).await?;
    let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
    let job = wait_for_end(client, media_id, &job_id).await?;
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
