//! Makes the subtitle renditions of an encode: the child reads the texts, here they become WebVTT.
//!
//! What the child read passes through this process as cues, not as files: a text of a hostile source can't become mark-up.
//!
//! Limits: those of [`media::SubtitlesSpec`] and [`packaging::webvtt`].

use std::sync::Arc;

use bytes::Bytes;
use media::{MediaTaskError, MediaTaskOutput, MediaTaskReport, SubtitleCue};
use packaging::{
    subtitle_timeline::SubtitleTimeline,
    webvtt::{self, BraceMeaning, WebVttCue},
};
use schemas::job::{EncodePlan, SubtitlePlan};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{TranscodeContext, error::TranscodeError, source::StoredMediaSource, spec};

/// Messages between the child and what collects its cues.
const MESSAGES_QUEUED_MAX: usize = 4;

/// Reads the subtitles and hands on, of each track that has any, the whole file as its init segment, and the segments. A source whose
/// subtitles can't be read does without them: they are no reason not to play it.
pub(crate) async fn make_subtitles(
    context: &TranscodeContext,
    source: Arc<StoredMediaSource>,
    plan: &EncodePlan,
    tracks: &[SubtitlePlan],
    out: mpsc::Sender<MediaTaskOutput>,
    cancel: &CancellationToken,
) -> Result<MediaTaskReport, TranscodeError> {
    let timeline = SubtitleTimeline::new(plan);
    let task = spec::build_subtitles_spec(plan, tracks, timeline.duration_us());
    let (sender, mut outputs) = mpsc::channel(MESSAGES_QUEUED_MAX);
    let read = context.driver.read_subtitles(source, task, sender, cancel);
    let collect = async {
        let mut cues: Vec<Vec<WebVttCue>> = vec![Vec::new(); tracks.len()];
        while let Some(output) = outputs.recv().await {
            let MediaTaskOutput::Cues { position, cues: found } = output else { continue };
            let Some(cues) = cues.get_mut(usize::from(position)) else { continue };
            let braces = tracks.get(usize::from(position)).map_or("", |track| track.codec.as_str());
            let braces = BraceMeaning::of_codec(braces);
            let to_cue =
                |cue: &SubtitleCue| WebVttCue::from_dialogue(cue.start_us, cue.end_us, &cue.text, braces);
            cues.extend(found.iter().filter_map(to_cue));
        }
        cues
    };
    let (read, cues) = tokio::join!(read, collect);
    let report = match read {
        Ok(report) => report,
        Err(MediaTaskError::Rejected { code, detail }) => {
            tracing::warn!(%code, detail, source = plan.source_key, "the subtitles could not be read");
            return Ok(MediaTaskReport::default());
        }
        Err(error) => return Err(error.into()),
    };
    let mut left_bytes = webvtt::SUBTITLES_BYTES_MAX;
    for (mut cues, rendition) in cues.into_iter().zip(0_u16..) {
        webvtt::sort_cues(&mut cues);
        match left_bytes.checked_sub(webvtt::count_bytes(&cues, &timeline)) {
            Some(_) if cues.is_empty() => {}
            Some(left) => {
                left_bytes = left;
                send_files(rendition, &cues, &timeline, &out).await?;
            }
            None => {
                let source = &plan.source_key;
                tracing::warn!(source, rendition, "a subtitle track is left out: its texts are too many");
            }
        }
    }
    Ok(report)
}

async fn send_files(
    rendition: u16,
    cues: &[WebVttCue],
    timeline: &SubtitleTimeline,
    out: &mpsc::Sender<MediaTaskOutput>,
) -> Result<(), TranscodeError> {
    let send = async |output| {
        let closed = |_| TranscodeError::Unplanned("nobody takes the subtitles".into());
        out.send(output).await.map_err(closed)
    };
    send(MediaTaskOutput::Init { rendition, bytes: Bytes::from(webvtt::render_whole(cues)) }).await?;
    let files = webvtt::render_segments(cues, timeline);
    for ((file, (start_ticks, duration_ticks)), number) in files.zip(&timeline.segments).zip(1_u32..) {
        let segment = MediaTaskOutput::Segment {
            rendition,
            number,
            start_ticks: *start_ticks,
            duration_ticks: *duration_ticks,
            timescale: timeline.timescale,
            sample_count: 0,
            bytes: Bytes::from(file),
        };
        send(segment).await?;
    }
    Ok(())
}
