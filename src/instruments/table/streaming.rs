//! Playback.

use super::metric_table;
use crate::{
    Counter, CounterFamily, FloatCounterFamily, HistogramFamily, KeyedFamily, LabelDeclaration,
    labels::{HeightClass, PlaybackFile, PlayerReport, SegmentDelivery, SessionCheck, ViewEnding},
};

/// Bounds of the time until a view begins, in seconds.
const START_SECONDS_BOUNDS: &[f64] = &[0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0];

const CODE: LabelDeclaration = LabelDeclaration::bounded("code", 64, "codes of problems of playback");

metric_table! { Streaming;
    PLAYBACK_STARTS: CounterFamily<()> = declare(Operation, "streamgate_playback_starts", "Playback sessions that were opened");
    PLAYBACK_REFUSALS: KeyedFamily<Counter> = declare(Operation, "streamgate_playback_refusals", "Playback sessions that were not opened, by code",
        &[CODE]);
    PLAYBACK_FILES: CounterFamily<PlaybackFile> = declare(Request, "streamgate_playback_files", "Files that were asked for below a path token, by kind");
    PLAYBACK_SEGMENTS: CounterFamily<SegmentDelivery> = declare(Operation, "streamgate_playback_segments", "Segments that were answered");
    PLAYBACK_CHECKS: CounterFamily<SessionCheck> = declare(Operation, "streamgate_playback_checks", "Looks at whether a playback session may go on");
    PLAYBACK_DOWNLOADS: CounterFamily<()> = declare(Operation, "streamgate_playback_downloads", "Media that were asked for as one file");
    VIEWER_REPORTS: CounterFamily<PlayerReport> = declare(Request, "streamgate_viewer_reports", "Reports of players (CMCD), by what became of them");
    VIEWER_VIEWS: CounterFamily<ViewEnding> = declare(Operation, "streamgate_viewer_views", "Views that players reported, by how they ended");
    VIEWER_START_SECONDS: HistogramFamily<HeightClass> = declare(Performance, "streamgate_viewer_start_seconds", "Time from the wish to play to the first picture, as players reported it")
        with_buckets(START_SECONDS_BOUNDS) used_by(&["StreamGateViewerStartBurn"]);
    VIEWER_STALLS: CounterFamily<HeightClass> = declare(Performance, "streamgate_viewer_stalls", "Times at which playing stood still for want of data, as players reported it");
    VIEWER_STALLED_SECONDS: FloatCounterFamily<HeightClass> = declare(Performance, "streamgate_viewer_stalled_seconds", "Time for which playing stood still for want of data");
    VIEWER_WATCHED_SECONDS: FloatCounterFamily<HeightClass> = declare(Operation, "streamgate_viewer_watched_seconds", "Time for which views that said what they do played or stood still")
        used_by(&["StreamGateViewerStallBurn"]);
    VIEWER_PLAYED_SECONDS: FloatCounterFamily<HeightClass> = declare(Operation, "streamgate_viewer_played_seconds", "Time that was played, as players reported it")
        used_by(&["StreamGateViewerStallBurn"]);
    VIEWER_PLAYED_BYTES: CounterFamily<HeightClass> = declare(Operation, "streamgate_viewer_played_bytes", "Media that were played in that time, by the bitrate that players reported");
}
