//! What one owner used on one day: what quotas of a day are measured by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600_000;

/// What an owner used on one day of UTC, in the bucket `limits`. It only grows: who removes a medium does not get back what it took.
///
/// It is written behind what it counts, and once for each: a crash in between counts too little, never too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerUsage {
    /// Key of the record, from [`OwnerUsage::key_for_owner`].
    pub key: String,
    /// The day, counted from 1 January 1970.
    pub day: u64,
    /// Bytes of uploads that were completed.
    #[serde(default)]
    pub uploaded_bytes: u64,
    /// Milliseconds of media whose encodes were begun; one that goes on from a failed one counts once.
    #[serde(default)]
    pub encoded_ms: u64,
}

impl OwnerUsage {
    /// Key for an owner on a day, by a digest of the owner's name: names may be client text.
    pub fn key_for_owner(owner_digest: &[u8], day: u64) -> String {
        let half = owner_digest.get(..16).unwrap_or(owner_digest);
        format!("usage.{}.{day}", data_encoding::HEXLOWER.encode(half))
    }

    /// The day in which this Unix time in milliseconds lies.
    pub const fn day_of_ms(at_ms: u64) -> u64 {
        at_ms / DAY_MS
    }

    /// Unix time in milliseconds at which a day is over.
    pub const fn day_end_ms(day: u64) -> u64 {
        day.saturating_add(1).saturating_mul(DAY_MS)
    }

    /// What was used once this is added to what was `found`, if there is a record.
    #[must_use]
    pub fn with_added(
        found: Option<&Self>,
        (owner_digest, day): (&[u8], u64),
        (uploaded_bytes, encoded_ms): (u64, u64),
    ) -> Self {
        let before = found.map_or((0, 0), |found| (found.uploaded_bytes, found.encoded_ms));
        Self {
            key: Self::key_for_owner(owner_digest, day),
            day,
            uploaded_bytes: before.0.saturating_add(uploaded_bytes),
            encoded_ms: before.1.saturating_add(encoded_ms),
        }
    }

    /// What was used once an encode of `encoded_ms` that counted is given back.
    #[must_use]
    pub fn without_encode(&self, encoded_ms: u64) -> Self {
        Self { encoded_ms: self.encoded_ms.saturating_sub(encoded_ms), ..self.clone() }
    }
}

impl crate::KvRecord for OwnerUsage {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        self.key.clone()
    }
    /// A day behind its own: clocks differ.
    fn expires_at_ms(&self) -> Option<u64> {
        Some(Self::day_end_ms(self.day.saturating_add(1)))
    }
}
