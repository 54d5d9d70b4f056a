//! Events as people read them: one line each.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::{
    follow::FollowedEvent,
    output::{self, sanitize_text},
    render,
};

/// Without a terminal, progress is printed each time it has grown by this much.
const STEP_PERCENT: u64 = 20;

/// The event as one line; with its medium when it is not clear which one is meant.
pub fn format_event(event: &FollowedEvent, with_media: bool) -> String {
    let time = event.data["time"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let time = time.unwrap_or_else(Timestamp::now).to_zoned_datetime(TimeZone::system());
    let media = event.data["media_id"].as_str().filter(|_| with_media).unwrap_or_default();
    let words = [
        time.strftime("%H:%M:%S").to_string(),
        format!("{:<14}", sanitize_text(&event.kind)),
        sanitize_text(media),
        sanitize_text(&format_detail(event)),
    ];
    let said: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    said.join("  ").trim_end().to_owned()
}

/// What is worth knowing about this kind of event.
pub fn format_detail(event: &FollowedEvent) -> String {
    let data = &event.data["data"];
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    let number = |name: &str| data[name].as_u64().unwrap_or_default();
    let reason = || match (text("detail"), text("code")) {
        ("", code) => code.to_owned(),
        (detail, code) => format!("{detail} ({code})"),
    };
    match event.kind.as_str() {
        "job.progress" => format!("{} %", event.progress_percent().unwrap_or_default()),
        "upload.received" => render::format_size(number("size_bytes")),
        "media.stored" => format_technical(&data["technical"]),
        "media.playable" => "the first segments play".into(),
        "media.ready" => format_renditions(&data["encode"]),
        "job.waiting" => text("sentence").to_owned(),
        "job.queued" => {
            format!(
                "{} parts, {} of output",
                number("part_count"),
                render::format_duration(number("total_ms"))
            )
        }
        "job.started" => "a worker took the first part".into(),
        "job.retried" => format!("part {}, try {} ({})", text("part"), number("attempt"), text("code")),
        "job.succeeded" => format!(
            "after {}, {} of CPU",
            render::format_duration(number("wall_ms")),
            render::format_duration(number("cpu_ms"))
        ),
        "alert.fired" => format!("{}: {}", text("name"), text("summary")),
        "alert.resolved" => text("name").to_owned(),
        "alert.silenced" | "alert.acknowledged" => text("alert").to_owned(),
        "admin.log_level_changed" => {
            let whom = [text("role"), text("instance"), "all"].into_iter().find(|name| !name.is_empty());
            let filter = data["filter"].as_str().unwrap_or("as configured");
            format!("{}: {filter}", whom.unwrap_or_default())
        }
        "access.summed" => {
            let sums = data["sums"].as_array().into_iter().flatten();
            format!("{} requests", sums.filter_map(|sum| sum["count"].as_u64()).sum::<u64>())
        }
        "job.dead" => format!("part {} ({})", text("part"), text("code")),
        _ => reason(),
    }
}

fn format_technical(technical: &Value) -> String {
    let mut words = vec![
        technical["container"].as_str().unwrap_or_default().to_owned(),
        render::format_duration(technical["duration_ms"].as_u64().unwrap_or_default()),
    ];
    if let Some(video) = technical["video"].get(0) {
        let codec = video["codec"].as_str().unwrap_or_default();
        words.push(format!("{}x{} {codec}", video["width"], video["height"]));
    }
    let audio = technical["audio"].as_array().into_iter().flatten();
    words.extend(audio.filter_map(|track| track["codec"].as_str()).map(str::to_owned));
    words.join(", ")
}

fn format_renditions(encode: &Value) -> String {
    let all = encode["renditions"].as_array().into_iter().flatten();
    let names: Vec<&str> = all.filter_map(|rendition| rendition["name"].as_str()).collect();
    if names.is_empty() {
        "made and checked".into()
    } else {
        format!("made and checked: {}", names.join(", "))
    }
}

/// Prints events on stderr; on a terminal, progress is a bar, which is there from the first progress on.
#[derive(Debug, Default)]
pub struct EventPrinter {
    bar: Option<ProgressBar>,
    printed_percent: u64,
}

fn encoding_bar(percent: u64) -> ProgressBar {
    let bar = ProgressBar::new(100).with_position(percent);
    if let Ok(style) = ProgressStyle::with_template("          encoding       {bar:40} {pos} %") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

impl EventPrinter {
    /// Prints one event.
    pub fn print_event(&mut self, event: &FollowedEvent) {
        match event.progress_percent() {
            Some(percent) if output::is_stderr_terminal() => {
                let percent = percent.min(100);
                self.bar.get_or_insert_with(|| encoding_bar(percent)).set_position(percent);
            }
            Some(percent) if percent < self.printed_percent + STEP_PERCENT => {}
            percent => {
                self.printed_percent = percent.unwrap_or(self.printed_percent);
                let line = format_event(event, false);
                match &self.bar {
                    Some(bar) => bar.suspend(|| output::print_message(line)),
                    None => output::print_message(line),
                }
            }
        }
    }
}

impl Drop for EventPrinter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn followed_event(kind: &str, data: &Value) -> FollowedEvent {
        let time = "2026-01-02T03:04:05Z";
        FollowedEvent {
            id: None,
            kind: kind.into(),
            data: json!({ "time": time, "media_id": "m1", "data": data }),
        }
    }

    #[test]
    fn details_are_short() {
        let technical = json!({
            "container": "mp4", "duration_ms": 5_280,
            "video": [{"codec": "h264", "width": 1280, "height": 720}], "audio": [{"codec": "aac"}],
        });
        for (kind, data, wanted) in [
            ("media.stored", json!({ "technical": technical }), "mp4, 5.2 s, 1280x720 h264, aac"),
            (
                "media.rejected",
                json!({"code": "media_empty", "detail": "no bytes"}),
                "no bytes (media_empty)",
            ),
            (
                "media.ready",
                json!({"encode": {"renditions": [{"name": "v720"}, {"name": "a0"}]}}),
                "made and checked: v720, a0",
            ),
            ("job.queued", json!({"part_count": 3, "total_ms": 10_000}), "3 parts, 10.0 s of output"),
            (
                "job.retried",
                json!({"part": "r2", "attempt": 2, "code": "crashed"}),
                "part r2, try 2 (crashed)",
            ),
            ("admin.unknown", json!({}), ""),
            ("media.stored", json!(null), ", 0.0 s"),
        ] {
            assert_eq!(format_detail(&followed_event(kind, &data)), wanted, "{kind}");
        }
    }

    #[test]
    fn a_line_names_the_medium_where_it_has_to() {
        let event = followed_event("media.rejected", &json!({"code": "x", "detail": "a\u{1b}b"}));
        assert!(
            format_event(&event, true).ends_with("media.rejected  m1  a?b (x)"),
            "{}",
            format_event(&event, true)
        );
        assert!(
            format_event(&event, false).ends_with("media.rejected  a?b (x)"),
            "{}",
            format_event(&event, false)
        );
    }
}
