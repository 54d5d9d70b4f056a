//! How far a file is that is sent or fetched, as a bar on stderr.
//!
//! It begins where that goes on, and speed and time left are those of the bytes that this run has moved: nothing is said of them
//! before [`PACE_AFTER`].

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{output, render};

/// How long bytes are sent before a speed is said: what the first ones fill is buffers.
pub const PACE_AFTER: Duration = Duration::from_secs(1);

/// A bar of bytes; nothing is drawn without a terminal.
#[derive(Debug)]
pub struct FileProgress {
    bar: ProgressBar,
}

impl FileProgress {
    /// Of `length_bytes`, unless nobody knows how many come, `from_bytes` are there already.
    pub fn start(name: &str, length_bytes: Option<u64>, from_bytes: u64) -> Self {
        let bar =
            length_bytes.map_or_else(ProgressBar::no_length, ProgressBar::new).with_position(from_bytes);
        let template = match length_bytes {
            Some(_) => "{msg} {bar:40} {bytes} of {total_bytes}{pace}",
            None => "{msg} {spinner} {bytes}{pace}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let began = Instant::now();
            let pace = move |state: &ProgressState, out: &mut dyn Write| {
                let sent_bytes = state.pos().saturating_sub(from_bytes);
                let left_bytes = state.len().map(|length| length.saturating_sub(state.pos()));
                // A text that can't be drawn is nothing to stop for.
                out.write_str(&describe_pace(sent_bytes, began.elapsed(), left_bytes)).ok();
            };
            bar.set_style(style.with_key("pace", pace));
        }
        bar.set_message(output::sanitize_text(name));
        bar.tick();
        Self { bar }
    }

    /// So many bytes of the whole are sent.
    pub fn set_position(&self, at_bytes: u64) {
        self.bar.set_position(at_bytes);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Speed and time left, as far as they are known after `sent_bytes` in `elapsed`; `left_bytes` is absent where nobody knows the end.
fn describe_pace(sent_bytes: u64, elapsed: Duration, left_bytes: Option<u64>) -> String {
    if left_bytes == Some(0) {
        return ", waiting for the server to keep it".into();
    }
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let per_second = sent_bytes.saturating_mul(1_000) / elapsed_ms.max(1);
    if elapsed < PACE_AFTER || per_second == 0 {
        return String::new();
    }
    let speed = format!(", {}/s", render::format_size(per_second));
    match left_bytes {
        Some(left_bytes) => {
            let left_ms = (left_bytes / per_second).max(1).saturating_mul(1_000);
            format!("{speed}, {} left", render::format_duration(left_ms))
        }
        None => speed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_that_of_the_bytes_of_this_run() {
        const MIB: u64 = 1 << 20;
        let second = Duration::from_secs(1);
        for (sent, elapsed, left, wanted) in [
            (0, Duration::ZERO, Some(10 * MIB), ""),
            (256 << 10, second / 100, Some(10 * MIB), ""),
            (0, second * 30, Some(10 * MIB), ""),
            (2 * MIB, second * 2, Some(10 * MIB), ", 1.00 MiB/s, 10.0 s left"),
            (2 * MIB, second * 2, None, ", 1.00 MiB/s"),
            (2 * MIB, second * 2, Some(1), ", 1.00 MiB/s, 1.0 s left"),
            (2 * MIB, second / 10, Some(0), ", waiting for the server to keep it"),
        ] {
            assert_eq!(describe_pace(sent, elapsed, left), wanted, "{sent} {elapsed:?} {left:?}");
        }
    }
}
