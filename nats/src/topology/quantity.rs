//! Times and sizes as the topology file writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// A time such as `90d` or `10m`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DurationSetting(pub(super) Duration);

impl<'de> Deserialize<'de> for DurationSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|e| D::Error::custom(format!("{text:?}: {e}")))
    }
}

/// A size such as `64KiB` or `4GiB`, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteSize(pub(super) i64);

impl ByteSize {
    /// The size, which is never below 0.
    pub(super) fn as_u64(self) -> u64 {
        self.0.unsigned_abs()
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_bytes(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no size in B, KiB, MiB or GiB")))
    }
}

fn parse_bytes(text: &str) -> Option<i64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    let bytes = number.parse::<i64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("4GiB"), Some(4 << 30));
        assert_eq!(parse_bytes("7 B"), Some(7));
        for bad in ["", "KiB", "0MiB", "-1B", "4GB", "1.5MiB", "9999999999999999GiB", "99999999999GiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
