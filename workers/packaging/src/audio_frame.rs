//! The unit that sound is coded in.

/// Samples in one AAC-LC frame (ISO/IEC 14496-3).
pub const AUDIO_FRAME_SAMPLES: u64 = 1_024;

/// Samples of so many with the last frame filled up.
pub const fn fill_last_frame(samples: u64) -> u64 {
    samples.next_multiple_of(AUDIO_FRAME_SAMPLES)
}
