//! Playback.

use super::metric_table;
use crate::{
    Counter, CounterFamily, KeyedFamily, LabelDeclaration,
    labels::{PlaybackFile, SegmentDelivery, SessionCheck},
};

const CODE: LabelDeclaration = LabelDeclaration::bounded("code", 64, "codes of problems of playback");

metric_table! { Streaming;
    PLAYBACK_STARTS: CounterFamily<()> = declare(Operation, "streamgate_playback_starts", "Playback sessions that were opened");
    PLAYBACK_REFUSALS: KeyedFamily<Counter> = declare(Operation, "streamgate_playback_refusals", "Playback sessions that were not opened, by code",
        &[CODE]);
    PLAYBACK_FILES: CounterFamily<PlaybackFile> = declare(Request, "streamgate_playback_files", "Files that were asked for below a path token, by kind");
    PLAYBACK_SEGMENTS: CounterFamily<SegmentDelivery> = declare(Operation, "streamgate_playback_segments", "Segments that were answered");
    PLAYBACK_CHECKS: CounterFamily<SessionCheck> = declare(Operation, "streamgate_playback_checks", "Looks at whether a playback session may go on");
    PLAYBACK_DOWNLOADS: CounterFamily<()> = declare(Operation, "streamgate_playback_downloads", "Media that were asked for as one file");
}
