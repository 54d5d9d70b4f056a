//! Durations and sizes as people write them: which settings have a unit, their names without it, and their values as text.
//!
//! A field of the settings has its unit in its name (`grace_ms`), and a number as its value. In files and in what is printed the
//! unit stands with the value instead: `grace = "8s"`. [`file_setting_name`] is the one rule for the names; rates
//! (`..._bytes_per_s_...`) are no quantities of one unit and stay numbers.

use std::borrow::Cow;

use bytesize::ByteSize;

/// Names that the rule would leave without a hint of what is meant, or that it would make the same as another.
const NAMED: [(&str, &str); 5] = [
    ("answer_ms_max", "answer_wait_max"),
    ("contract_ms_max", "contract_wait_max"),
    ("cpu_seconds_max", "cpu_time_max"),
    ("wall_seconds_max", "wall_time_max"),
    ("wall_seconds_without_progress_max", "wall_time_without_progress_max"),
];

/// Words beside which `bytes` need not become `size`.
const SIZE_WORDS: [&str; 3] = ["size", "memory", "free"];

/// Largest size in bytes: up to here sizes are read exactly.
const SIZE_BYTES_MAX: u64 = 1 << 53;

/// Units of time as they are written, the largest first, in milliseconds.
const TIMES: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size as they are written, the largest first, as powers of two.
const SIZES: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// What a number in the settings counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingUnit {
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Days.
    Days,
    /// Bytes.
    Bytes,
}

impl SettingUnit {
    /// The unit in the name of a field, if it has one and is no rate.
    pub fn from_field(field: &str) -> Option<Self> {
        // A rate has two units, and its number stays one.
        if field.split('_').any(|word| word == "per") {
            return None;
        }
        field.split('_').find_map(Self::from_word)
    }

    fn from_word(word: &str) -> Option<Self> {
        match word {
            "ms" => Some(Self::Milliseconds),
            "s" | "seconds" => Some(Self::Seconds),
            "days" => Some(Self::Days),
            "bytes" => Some(Self::Bytes),
            _ => None,
        }
    }

    /// Length in milliseconds; `None` of what is no time.
    const fn to_millis(self) -> Option<u128> {
        match self {
            Self::Milliseconds => Some(1),
            Self::Seconds => Some(1_000),
            Self::Days => Some(86_400_000),
            Self::Bytes => None,
        }
    }

    /// What would be right, for error messages.
    pub const fn examples(self) -> &'static str {
        match self {
            Self::Milliseconds => r#"a whole number of milliseconds, such as "500ms", "8s" or "1m 30s""#,
            Self::Seconds => r#"a whole number of seconds, such as "30s", "5m" or "1d 12h""#,
            Self::Days => r#"a whole number of days, such as "7d""#,
            Self::Bytes => r#"a whole number with its unit, such as "512KiB", "64MiB" or "1GiB""#,
        }
    }

    /// The number that `text` stands for; `None` when it is no whole number of this unit.
    pub fn parse_number(self, text: &str) -> Option<u64> {
        let Some(unit_ms) = self.to_millis() else { return parse_size(text) };
        let duration = humantime::parse_duration(text).ok()?;
        let whole = unit_ms * 1_000_000;
        let is_whole = duration.as_nanos() % whole == 0;
        // Without a unit humantime takes nothing but a bare zero, which says as little as any other number.
        let has_unit = text.chars().any(char::is_alphabetic);
        (is_whole && has_unit).then(|| u64::try_from(duration.as_nanos() / whole).ok()).flatten()
    }

    /// The text of a number: exact, and read again as the same number.
    pub fn format_number(self, number: u64) -> String {
        let Some(unit_ms) = self.to_millis() else { return format_size(number) };
        let mut rest_ms = u128::from(number) * unit_ms;
        let mut parts = Vec::new();
        for (name, length_ms) in TIMES {
            if rest_ms >= length_ms {
                parts.push(format!("{}{name}", rest_ms / length_ms));
                rest_ms %= length_ms;
            }
        }
        if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    // A fraction would be cut off, and a number without a unit could be anything.
    if text.contains('.') || !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    text.parse::<ByteSize>().ok().map(|size| size.as_u64()).filter(|bytes| *bytes <= SIZE_BYTES_MAX)
}

fn format_size(bytes: u64) -> String {
    let fits = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    let (name, shift) = SIZES.into_iter().find(|(_, shift)| fits(*shift)).unwrap_or(("B", 0));
    format!("{}{name}", bytes >> shift)
}

/// The name of a field in files: without its unit, which stands with the value. `bytes` becomes `size` where no word says yet that
/// this is a size; times need no word.
pub fn file_setting_name(field: &str) -> Cow<'_, str> {
    if SettingUnit::from_field(field).is_none() {
        return field.into();
    }
    if let Some((_, name)) = NAMED.iter().find(|(named, _)| *named == field) {
        return (*name).into();
    }
    let says_size = field.split('_').any(|word| SIZE_WORDS.contains(&word));
    let words = field.split('_').filter_map(|word| match SettingUnit::from_word(word) {
        None => Some(word),
        Some(SettingUnit::Bytes) if !says_size => Some("size"),
        Some(_) => None,
    });
    words.collect::<Vec<_>>().join("_").into()
}

/// The same for a path such as `ingress.grace_ms`.
pub fn file_setting_path(path: &str) -> String {
    path.split('.').map(file_setting_name).collect::<Vec<_>>().join(".")
}

/// Text about settings for people who know their names in files: what stands between backquotes is named as there, and what says
/// in which unit the field of a setting counts is left out when `field` has one.
pub fn file_setting_text(text: &str, field: &str) -> String {
    let mut plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if SettingUnit::from_field(field).is_some() {
        for unit in ["milliseconds", "seconds", "days", "bytes"] {
            plain = plain.replace(&format!(", in {unit}"), "").replace(&format!(" in {unit}"), "");
        }
    }
    let parts = plain.split('`').enumerate();
    let named =
        parts.map(|(at, part)| if at % 2 == 1 { file_setting_path(part).into() } else { Cow::from(part) });
    named.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_unit_and_nothing_else() {
        for (field, name) in [
            ("grace_ms", "grace"),
            ("retry_delay_ms_max", "retry_delay_max"),
            ("media_age_seconds_max", "media_age_max"),
            ("retention_days", "retention"),
            ("size_bytes_max", "size_max"),
            ("bytes_max", "size_max"),
            ("batch_bytes", "batch_size"),
            ("child_memory_bytes_max", "child_memory_max"),
            ("answer_ms_max", "answer_wait_max"),
            ("rate_bytes_per_s_min", "rate_bytes_per_s_min"),
            ("questions_per_s_max", "questions_per_s_max"),
            ("ipv6_prefix_bits", "ipv6_prefix_bits"),
            ("sessions_max", "sessions_max"),
        ] {
            assert_eq!(file_setting_name(field), name);
        }
    }

    #[test]
    fn text_is_read_in_the_unit_of_its_field() {
        for (unit, text, number) in [
            (SettingUnit::Milliseconds, "8s", Some(8_000)),
            (SettingUnit::Milliseconds, "1m 30s", Some(90_000)),
            (SettingUnit::Milliseconds, "0s", Some(0)),
            (SettingUnit::Milliseconds, "1500us", None),
            (SettingUnit::Milliseconds, "8000", None),
            (SettingUnit::Milliseconds, "0", None),
            (SettingUnit::Milliseconds, "8MiB", None),
            (SettingUnit::Milliseconds, "-8s", None),
            (SettingUnit::Seconds, "1d 12h", Some(129_600)),
            (SettingUnit::Seconds, "500ms", None),
            (SettingUnit::Days, "90d", Some(90)),
            (SettingUnit::Days, "36h", None),
            (SettingUnit::Bytes, "256MiB", Some(256 << 20)),
            (SettingUnit::Bytes, "10MB", Some(10_000_000)),
            (SettingUnit::Bytes, "7 B", Some(7)),
            (SettingUnit::Bytes, "1.5MiB", None),
            (SettingUnit::Bytes, "100", None),
            (SettingUnit::Bytes, "8s", None),
            (SettingUnit::Bytes, "99999999999TiB", None),
            (SettingUnit::Bytes, "", None),
        ] {
            assert_eq!(unit.parse_number(text), number, "{unit:?} {text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (unit, number, text) in [
            (SettingUnit::Milliseconds, 90_000, "1m 30s"),
            (SettingUnit::Milliseconds, 0, "0s"),
            (SettingUnit::Milliseconds, 1_001, "1s 1ms"),
            (SettingUnit::Milliseconds, 2_592_000_000, "30d"),
            (SettingUnit::Seconds, 86_400, "1d"),
            (SettingUnit::Days, 400, "400d"),
            (SettingUnit::Bytes, 0, "0B"),
            (SettingUnit::Bytes, 960 * 1024, "960KiB"),
            (SettingUnit::Bytes, 390_625, "390625B"),
            (SettingUnit::Bytes, 1 << 40, "1TiB"),
        ] {
            assert_eq!(unit.format_number(number), text);
            assert_eq!(unit.parse_number(text), Some(number), "{text}");
        }
    }

    #[test]
    fn text_about_settings_names_them_as_files_do() {
        let doc = "How long, in seconds; see `retention.ended_ms`\nand `max_payload`.";
        assert_eq!(file_setting_text(doc, "grace_s"), "How long; see `retention.ended` and `max_payload`.");
        assert_eq!(
            file_setting_text("Slowest, in bytes per second.", "rate_bytes_per_s_min"),
            "Slowest, in bytes per second."
        );
    }
}
