//! `media verify`: has media compared with what was written down when they were stored, and says what came of it.

use anyhow::{anyhow, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::{VerifyArgs, client::ApiClient, each::act_on_each, job_end::wait_for_end, output, render};

/// Has each medium verified, also behind one that is damaged.
///
/// # Errors
/// The last refusal of the server, or that a medium is damaged.
pub(super) async fn verify_media(args: &VerifyArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let verify = async |media_id: &str| {
        let mut job = json!({ "kind": "verify", "media_id": media_id });
        if let Some(priority) = &args.priority {
            job["priority"] = json!(priority);
        }
        let url = client.build_url("v1/jobs", &[]);
        let begun: Value = client
            .send(client.build_request(Method::POST, url).json(&json!({ "job": job })))
            .await?
            .json()
            .await?;
        let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
        if !as_json {
            output::print_message(format!("Verifying {}: job {job_id}", output::sanitize_text(media_id)));
        } else if args.detach {
            output::print_json(&json!({ "media_id": media_id, "job_id": job_id }))?;
        }
        if args.detach {
            return Ok(());
        }
        let job = wait_for_end(&client, media_id, &job_id).await?;
        if as_json {
            output::print_json(&job)?;
        }
        report_end(media_id, &job, as_json)
    };
    act_on_each("medium", &args.media_ids, verify).await
}

/// Says what came of it.
fn report_end(media_id: &str, job: &Value, as_json: bool) -> anyhow::Result<()> {
    let text = |value: &Value| output::sanitize_text(value.as_str().unwrap_or_default());
    let report = &job["verified"];
    if job["status"] == "cancelled" {
        bail!("its job was cancelled");
    }
    let Some(faults) = report["faults"].as_u64() else {
        bail!("it was not verified: {} ({})", text(&job["detail"]), text(&job["code"]));
    };
    if !as_json {
        let faults = report["first_faults"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        for fault in faults {
            let (object, code) = (text(&fault["object"]), text(&fault["code"]));
            output::print_line(format!("{object}  {code}  {}", text(&fault["detail"])))?;
        }
    }
    if faults > 0 {
        return Err(anyhow!(
            "{}",
            match faults {
                1 => "1 fault: something of it is lost or damaged".to_owned(),
                faults => format!("{faults} faults: something of it is lost or damaged"),
            }
        ));
    }
    if !as_json {
        output::print_line(format!("{}: {}", output::sanitize_text(media_id), describe_intact(report)))?;
    }
    Ok(())
}

fn describe_intact(report: &Value) -> String {
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    let read = render::format_size(number("read_bytes"));
    let sized = match number("sized_bytes") {
        0 => String::new(),
        bytes => format!(", and {} without a checksum are as large as they were", render::format_size(bytes)),
    };
    let encode = match report["encode"].as_u64() {
        Some(number) => format!("source and encode {number}"),
        None => "source alone, since no encode is whole".to_owned(),
    };
    format!("intact, {encode}, {} objects: {read} read{sized}", number("objects"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_checksum_is_said() {
        let report = json!({ "objects": 12, "read_bytes": 2_048, "sized_bytes": 0, "faults": 0 });
        assert_eq!(
            describe_intact(&report),
            "intact, source alone, since no encode is whole, 12 objects: 2.00 KiB read"
        );
        let report =
            json!({ "objects": 12, "read_bytes": 2_048, "sized_bytes": 1_024, "faults": 0, "encode": 3 });
        assert_eq!(
            describe_intact(&report),
            "intact, source and encode 3, 12 objects: 2.00 KiB read, and 1.00 KiB without a checksum are as large as they were"
        );
    }

    #[test]
    fn a_job_without_a_report_is_an_error() {
        let job =
            json!({ "status": "failed", "code": "media_gone", "detail": "the medium is not there any more" });
        let error = report_end("m", &job, false).unwrap_err().to_string();
        assert_eq!(error, "it was not verified: the medium is not there any more (media_gone)");
    }
}
