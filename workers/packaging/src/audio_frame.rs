//! The unit that sound is coded in.

/// Samples in one AAC-LC frame (ISO/IEC 14496-3).
pub const AUDIO_FRAME_SAMPLES: u64 = 1_024;
