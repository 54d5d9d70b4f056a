//! `media renditions`: brings files with renditions that were made elsewhere, has them published as they are, and says what came of it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    RenditionsArgs,
    client::{AWAY_MAX, ApiClient, ClientError},
    job_end::wait_for_end,
    output,
    progress::FileProgress,
    tus::{self, FileDescription, UploadByteSource},
};

/// Uploads the files, and waits until they play.
///
/// # Errors
/// When a file can't be read, which is seen before any is sent, the server refuses, or the files do not go together: the code says how.
pub(super) async fn publish_renditions(args: &RenditionsArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let mut sizes_bytes = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let found = std::fs::metadata(file).with_context(|| format!("{} can't be read", file.display()))?;
        if !found.is_file() || found.len() == 0 {
            bail!("{} is no file with bytes in it", file.display());
        }
        sizes_bytes.push(found.len());
    }
    let mut upload_ids = Vec::with_capacity(args.files.len());
    for (file, size_bytes) in args.files.iter().zip(sizes_bytes) {
        upload_ids.push(send_file(&client, file, size_bytes).await?);
    }
    let mut wanted = json!({ "renditions": upload_ids });
    if let Some(priority) = &args.priority {
        wanted["priority"] = json!(priority);
    }
    let begun = begin_encode(&client, &args.media_id, &wanted).await?;
    let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
    if args.detach {
        if as_json {
            output::print_json(&begun)?;
        } else {
            output::print_line(job_id)?;
        }
        return Ok(());
    }
    if !as_json {
        let media_id = output::sanitize_text(&args.media_id);
        output::print_message(format!("Putting {media_id} together: job {job_id}"));
    }
    let job = wait_for_planned_end(&client, &args.media_id, &job_id).await?;
    if as_json {
        output::print_json(&job)?;
    }
    if job["status"] != "succeeded" {
        bail!("{}", explain_end(&job));
    }
    if !as_json {
        output::print_line(describe_end(&job))?;
    }
    Ok(())
}

/// How long an encode may take to be planned, once its source is verified.
const PLAN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Asks for the encode, once the source is verified.
async fn begin_encode(client: &ApiClient, media_id: &str, wanted: &Value) -> anyhow::Result<Value> {
    wait_until_verified(client, media_id).await?;
    let verified_at = Instant::now();
    loop {
        let url = client.build_url(&format!("v1/media/{media_id}/transcode"), &[]);
        match client.send_json(client.build_request(Method::POST, url).json(wanted)).await {
            // The first job of a medium is planned a moment after it is verified.
            Err(error)
                if error.as_refusal().is_some_and(|refusal| refusal.code == "not_encodable")
                    && verified_at.elapsed() < PLAN_WAIT_MAX => {}
            begun => return Ok(begun?),
        }
        tokio::time::sleep(super::job_end::LOOK_PERIOD).await;
    }
}

async fn wait_until_verified(client: &ApiClient, media_id: &str) -> anyhow::Result<()> {
    let mut has_said = false;
    while client.get_json(&format!("v1/media/{media_id}"), &[]).await?["status"] == "uploading" {
        if !std::mem::replace(&mut has_said, true) {
            output::print_message("Waiting until its source is verified");
        }
        tokio::time::sleep(super::job_end::LOOK_PERIOD).await;
    }
    Ok(())
}

/// Brings one file; answers the id of its upload.
async fn send_file(client: &ApiClient, file: &Path, size_bytes: u64) -> anyhow::Result<String> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let described = FileDescription { name: &name, is_partial: true, ..FileDescription::default() };
    let upload = tus::create_upload(client, Some(size_bytes), described).await?;
    let progress = FileProgress::start(&name, Some(size_bytes), 0);
    let source = UploadByteSource::File(file.to_owned());
    let sent =
        tus::send_upload(client, &upload, &source, size_bytes, |at_bytes| progress.set_position(at_bytes));
    let sent = sent.await;
    progress.finish();
    sent.with_context(|| format!("{name} was not uploaded"))?;
    let id = upload.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Ok(id.to_owned())
}

/// The job once it has ended; it can be read once a worker has looked at the files.
async fn wait_for_planned_end(client: &ApiClient, name: &str, job_id: &str) -> anyhow::Result<Value> {
    let is_missing = |error: &ClientError| error.as_refusal().is_some_and(|refusal| refusal.status == 404);
    let mut failed_since = None;
    loop {
        let found = match client.get_json(&format!("v1/jobs/{job_id}"), &[]).await {
            Ok(_) => return wait_for_end(client, name, job_id).await,
            // Of a medium that is removed meanwhile nothing is planned.
            Err(error) if is_missing(&error) => client.get_json(&format!("v1/media/{name}"), &[]).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(_) => failed_since = None,
            Err(error) if is_missing(&error) => {
                bail!("the medium is not there any more: nothing is published")
            }
            Err(error) if error.is_transient() => {
                if failed_since.get_or_insert_with(Instant::now).elapsed() >= AWAY_MAX {
                    return Err(error)
                        .with_context(|| format!("the job {job_id} goes on without this command"));
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(super::job_end::LOOK_PERIOD).await;
    }
}

fn describe_end(job: &Value) -> String {
    let rungs = job["plan"]["video"]["rungs"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let side = |rung: &Value, name: &str| rung[name].as_u64().unwrap_or_default();
    let sizes: Vec<String> =
        rungs.iter().map(|rung| format!("{}x{}", side(rung, "width"), side(rung, "height"))).collect();
    format!("published as encode {}: {}", job["encode"], sizes.join(", "))
}

/// Why a job came to nothing.
fn explain_end(job: &Value) -> String {
    let text = |name: &str| output::sanitize_text(job[name].as_str().unwrap_or_default());
    match job["status"].as_str() {
        Some("cancelled") => "its job was cancelled".to_owned(),
        _ => format!("they were not published: {} ({})", text("detail"), text("code")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_said() {
        let rungs = json!([{ "width": 1_280, "height": 720 }, { "width": 640, "height": 360 }]);
        let job = json!({ "status": "succeeded", "encode": 2, "plan": { "video": { "rungs": rungs } } });
        assert_eq!(describe_end(&job), "published as encode 2: 1280x720, 640x360");
        let job = json!({ "status": "failed", "code": "renditions_misaligned", "detail": "keyframes" });
        assert_eq!(explain_end(&job), "they were not published: keyframes (renditions_misaligned)");
    }
}
