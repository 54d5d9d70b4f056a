//! Limits and choices of the stage, units in the names.

use std::collections::BTreeMap;

use packaging::EncodeProfile;
use queue_worker::LostWorkerPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the profile that is used when a job names none.
pub const DEFAULT_PROFILE: &str = "default";

/// Settings of the transcode stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TranscodeConfig {
    /// The consume loop of parts: slots, attempts, delays. One slot runs one media child.
    pub parts: nats::consume::ConsumeConfig,
    /// The consume loop of the planner.
    pub planner: nats::consume::ConsumeConfig,
    /// Profile of new jobs.
    pub profile: String,
    /// Profiles by name, beside the built-in ones: `default`, and `tiny`, which is for tests.
    #[serde(deserialize_with = "deserialize_profiles")]
    pub profiles: BTreeMap<String, EncodeProfile>,
    /// How often a running part stores what it has and reads whether its job still lives, in milliseconds.
    pub renew_interval_ms: u64,
    /// How long ago the holder of a part may have been seen for the part not to be taken over, in milliseconds. Holders show themselves
    /// every two seconds at least, and while the broker was away nobody is missed.
    pub claim_fresh_ms: u64,
    /// Workers that may vanish while they hold a part before it is slowed and runs alone in its worker.
    pub lost_workers_max: u32,
    /// First pause of a part that keeps losing workers, in milliseconds; doubles with each further one.
    pub lost_delay_ms: u64,
    /// Longest pause of a part that keeps losing workers, in milliseconds.
    pub lost_delay_ms_max: u64,
    /// How long a part may keep losing workers before it is put aside until somebody resumes it, in milliseconds.
    pub lost_park_ms: u64,
    /// How long a job that was planned by another version of the workers waits for workers of that version, in milliseconds, from when
    /// it was queued or this worker started, whichever is later: a rolling upgrade ends within it. Then it fails, and `streamgate dead redrive` encodes it anew.
    /// A plan by a profile that this worker does not have is left to others for as long.
    pub other_version_wait_ms: u64,
    /// Shortest time between two progress messages of a part, in milliseconds.
    pub progress_interval_ms: u64,
    /// Segments of one part that are on their way to the store at the same time.
    pub puts_in_flight_max: usize,
    /// Objects that the conformance check reads at the same time.
    pub check_reads_max: usize,
    /// How long a job that ended is kept, in milliseconds; set by `retention.ended_ms`.
    #[serde(skip)]
    pub ended_kept_ms: u64,
    /// Crashes of the media child after which a part runs with safe options: one decoder thread.
    pub crashes_before_safe: u32,
}

impl Default for TranscodeConfig {
    fn default() -> Self {
        let lost = LostWorkerPolicy::default();
        Self {
            parts: nats::consume::ConsumeConfig {
                slots: default_slots(),
                attempts_max: 5,
                ..nats::consume::ConsumeConfig::default()
            },
            planner: nats::consume::ConsumeConfig { slots: 2, ..nats::consume::ConsumeConfig::default() },
            profile: DEFAULT_PROFILE.to_owned(),
            profiles: built_in_profiles(),
            renew_interval_ms: 2_000,
            claim_fresh_ms: 6_000,
            lost_workers_max: lost.workers_max,
            lost_delay_ms: lost.delay_ms,
            lost_delay_ms_max: lost.delay_ms_max,
            lost_park_ms: lost.park_ms,
            other_version_wait_ms: 600_000,
            progress_interval_ms: 1_000,
            puts_in_flight_max: 8,
            check_reads_max: 16,
            ended_kept_ms: schemas::ENDED_KEPT_MS,
            crashes_before_safe: 2,
        }
    }
}

impl TranscodeConfig {
    /// What becomes of parts that lose workers.
    pub const fn lost_worker_policy(&self) -> LostWorkerPolicy {
        LostWorkerPolicy {
            workers_max: self.lost_workers_max,
            delay_ms: self.lost_delay_ms,
            delay_ms_max: self.lost_delay_ms_max,
            park_ms: self.lost_park_ms,
        }
    }

    /// The named profile, if there is one.
    pub fn find_profile(&self, name: &str) -> Option<&EncodeProfile> {
        self.profiles.get(name)
    }
}

fn built_in_profiles() -> BTreeMap<String, EncodeProfile> {
    BTreeMap::from([
        (DEFAULT_PROFILE.to_owned(), EncodeProfile::default()),
        ("tiny".to_owned(), EncodeProfile::tiny_for_tests()),
    ])
}

/// Those of a file stand beside the built-in ones, or in the place of one of the same name.
fn deserialize_profiles<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, EncodeProfile>, D::Error> {
    let mut profiles = built_in_profiles();
    profiles.extend(BTreeMap::<String, EncodeProfile>::deserialize(from)?);
    Ok(profiles)
}

/// Two slots on two cores; on larger machines half the cores, since a child keeps about two of them busy.
fn default_slots() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => 1,
        cores => (cores / 2).clamp(2, 16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_of_a_file_stand_beside_the_built_in_ones() {
        let text = r#"{ "profiles": { "small": { "short_side_pixels_max": 360 }, "tiny": { "crf": 30 } } }"#;
        let config: TranscodeConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.profiles.keys().collect::<Vec<_>>(), ["default", "small", "tiny"]);
        assert_eq!(config.profiles["default"], EncodeProfile::default());
        assert_eq!(config.profiles["small"].short_side_pixels_max, 360);
        assert_eq!(config.profiles["tiny"], EncodeProfile { crf: 30, ..EncodeProfile::default() });
    }
}
