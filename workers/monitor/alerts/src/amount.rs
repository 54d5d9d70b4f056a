//! Numbers and durations as rules have them: `"5m"` is a time, which a drill shortens, and 5 a number, which stays.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, de::Error};

/// A number, or a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// As it is.
    Number(f64),
    /// In milliseconds; compared as seconds, and shortened by a drill.
    DurationMs(u64),
}

impl Amount {
    /// In the unit of the metric: seconds for a time.
    pub fn to_number(self) -> f64 {
        match self {
            Self::Number(number) => number,
            Self::DurationMs(ms) => ms as f64 / 1_000.0,
        }
    }
}

/// Seconds, minutes, hours and days of a duration such as `1h`; whole ones with one unit, as Prometheus takes them.
pub(crate) fn parse_duration_ms(text: &str) -> Option<u64> {
    let (number, unit_ms) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1_000),
        b'm' => (text.strip_suffix('m')?, 60_000),
        b'h' => (text.strip_suffix('h')?, 3_600_000),
        b'd' => (text.strip_suffix('d')?, 86_400_000),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// A duration as Prometheus takes it, in the largest units.
pub(crate) fn format_duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut rest = ms;
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= unit_ms {
            // Writing to a text does not fail.
            _ = write!(text, "{}{unit}", rest / unit_ms);
            rest %= unit_ms;
        }
    }
    text
}

/// A number as Prometheus reads it.
pub(crate) fn format_number(value: f64) -> String {
    format!("{value}")
}

pub(crate) fn read_duration_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration_ms(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 5m")))
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Number(f64),
            Duration(String),
        }
        Ok(match Written::deserialize(from)? {
            Written::Whole(number) => Self::Number(number as f64),
            Written::Number(number) => Self::Number(number),
            Written::Duration(text) => Self::DurationMs(
                parse_duration_ms(&text)
                    .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 5m")))?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_prometheus_has_them() {
        for (text, ms) in
            [("0s", 0), ("90s", 90_000), ("5m", 300_000), ("1h", 3_600_000), ("3d", 259_200_000)]
        {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
        }
        for nonsense in ["", "5", "m", "-5m", "1.5h", "5 m", "5ms", "99999999999999999999d", "300000000000d"]
        {
            assert_eq!(parse_duration_ms(nonsense), None, "{nonsense}");
        }
        for (ms, text) in [(0, "0s"), (90_000, "1m30s"), (2_500, "2s500ms"), (259_200_000, "3d")] {
            assert_eq!(format_duration(ms), text);
        }
    }
}
