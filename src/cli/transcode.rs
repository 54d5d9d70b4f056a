//! `media transcode` and `profiles`: media encoded again, and by what.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    TranscodeArgs,
    client::{ApiClient, ClientError},
    each::act_on_each,
    output, render,
};

const HEADS: &[&str] = &["PROFILE", "SIZES", "FPS", "CRF", "PRESET", "SEGMENT", "AUDIO", "DEFAULT"];

/// Has each medium encoded again, also behind one at which it fails.
///
/// # Errors
/// The last refusal of the server.
pub(super) async fn transcode_media(args: &TranscodeArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let mut wanted = serde_json::Map::new();
    wanted.extend(args.profile.iter().map(|name| ("profile".to_owned(), json!(name))));
    wanted.extend(args.priority.iter().map(|priority| ("priority".to_owned(), json!(priority))));
    for (name, seconds) in [("start_s", args.start), ("end_s", args.end)] {
        wanted.extend(seconds.map(|seconds| (name.to_owned(), json!(seconds))));
    }
    let begin = async |media_id: &str| {
        let url = client.build_url(&format!("v1/media/{media_id}/transcode"), &[]);
        let request = client.build_request(Method::POST, url).json(&wanted);
        let begun: Value = client.send(request).await?.json().await?;
        if as_json {
            return Ok(output::print_json(&begun)?);
        }
        let text = |name: &str| output::sanitize_text(begun[name].as_str().unwrap_or_default());
        output::print_message(format!(
            "Encoding {} again by the profile {}: job {}",
            text("media_id"),
            text("profile"),
            text("job_id")
        ));
        Ok(())
    };
    act_on_each("medium", &args.media_ids, begin).await
}

/// Lists the profiles.
///
/// # Errors
/// When the server refuses.
pub(super) async fn list_profiles(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/profiles", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        return Ok(items.iter().try_for_each(output::print_json)?);
    }
    let rows: Vec<Vec<String>> = items.iter().map(profile_row).collect();
    Ok(output::print_line(render::format_table(HEADS, &rows))?)
}

fn profile_row(item: &Value) -> Vec<String> {
    let profile = &item["profile"];
    let number = |name: &str| profile[name].as_u64().unwrap_or_default();
    let steps = profile["steps"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let below = steps.iter().filter_map(|step| step["short_side_pixels"].as_u64());
    // The top rung is as large as the source, within the first number.
    let sizes = std::iter::once(format!("<={}", number("short_side_pixels_max")))
        .chain(below.filter(|size| *size < number("short_side_pixels_max")).map(|size| size.to_string()));
    let segment_ms = number("gop_ms") * number("segment_gops");
    vec![
        output::sanitize_text(item["name"].as_str().unwrap_or_default()),
        sizes.collect::<Vec<_>>().join(" "),
        format!("<={}", number("frame_rate_max")),
        number("crf").to_string(),
        output::sanitize_text(profile["preset"].as_str().unwrap_or_default()),
        format!("{}.{} s", segment_ms / 1_000, segment_ms % 1_000 / 100),
        format!("{} kbit/s", number("audio_rate_bps") / 1_000),
        if item["is_default"] == true { "yes".to_owned() } else { String::new() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_its_heads_and_leaves_out_rungs_that_are_never_made() {
        let steps = json!([{ "short_side_pixels": 1_080 }, { "short_side_pixels": 360 }]);
        let profile = json!({
            "steps": steps, "short_side_pixels_max": 720, "frame_rate_max": 30, "crf": 23, "preset": "veryfast",
            "gop_ms": 2_000, "segment_gops": 2, "audio_rate_bps": 128_000,
        });
        let row = profile_row(&json!({ "name": "small", "is_default": true, "profile": profile }));
        assert_eq!(row.len(), HEADS.len());
        assert_eq!(row, ["small", "<=720 360", "<=30", "23", "veryfast", "4.0 s", "128 kbit/s", "yes"]);
    }
}
