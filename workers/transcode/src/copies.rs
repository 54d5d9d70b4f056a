//! Runs the media child for a part whose samples are copied: each rung from its own file, then the small pictures of the range, which are
//! taken from the smallest one.

use std::sync::Arc;

use media::{
    EncodeSpec, EncoderPreset, FrameCopySpec, MediaTaskError, MediaTaskOutput, MediaTaskReport, SoundCopySpec,
};
use packaging::storyboard;
use schemas::{
    job::{AudioPlan, FrameRange, VideoPlan},
    renditions::{CopyPlan, FrameCopy, RenditionFile},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    TranscodeContext, error::TranscodeError, own_ladder::RenditionFault, source::StoredMediaSource, spec,
};

/// Outputs between a child and the part.
const OUTPUTS_QUEUED_MAX: usize = 2;

/// The bytes of one of the files.
fn open_file(
    context: &TranscodeContext,
    copy: &CopyPlan,
    place: u32,
) -> Result<Arc<StoredMediaSource>, TranscodeError> {
    let file = usize::try_from(place).ok().and_then(|place| copy.files.get(place));
    let RenditionFile { key, size_bytes, .. } =
        file.ok_or_else(|| TranscodeError::Unknown(format!("file {place}")))?;
    Ok(Arc::new(StoredMediaSource::new(context.store.clone(), key.clone(), *size_bytes)))
}

/// Refuses to begin while a file is not there.
pub(crate) async fn check_files(context: &TranscodeContext, copy: &CopyPlan) -> Result<(), TranscodeError> {
    for file in &copy.files {
        check_file(context, file).await?;
    }
    Ok(())
}

/// Refuses a file that is not there: its upload has expired.
pub(crate) async fn check_file(
    context: &TranscodeContext,
    file: &RenditionFile,
) -> Result<(), TranscodeError> {
    match context.store.head(&file.key).await {
        Ok(_) => Ok(()),
        Err(store::StoreError::NotFound { .. }) => {
            let detail = format!("{}: its bytes are not stored any more, upload it again", file.name);
            Err(RenditionFault { code: "rendition_gone", detail }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies a range of every rung; rendition `n` is rung `n` of the plan.
pub(crate) async fn copy_range(
    context: &TranscodeContext,
    copy: &CopyPlan,
    (video, range): (&VideoPlan, FrameRange),
    out: mpsc::Sender<MediaTaskOutput>,
    cancel: &CancellationToken,
) -> Result<MediaTaskReport, TranscodeError> {
    let mut all = MediaTaskReport::default();
    let steps = u64::try_from(copy.frames.len() + 1).unwrap_or(u64::MAX);
    for (from, rendition) in copy.frames.iter().zip(0_u16..) {
        let source = open_file(context, copy, from.file)?;
        let spec = build_frame_spec((video, range), from, rendition)?;
        let (sender, outputs) = mpsc::channel(OUTPUTS_QUEUED_MAX);
        let copying = context.driver.copy_frames(source, spec, sender, cancel);
        let progress = (u64::from(rendition) * range.frame_count, steps);
        all = add_reports(&all, &pass_outputs(copying, outputs, &out, progress).await?);
    }
    let sheet = video.storyboard.and_then(|board| Some((board, storyboard::find_sheet(&board, range)?)));
    let (Some((board, sheet)), Some(smallest)) = (sheet, copy.frames.last()) else { return Ok(all) };
    let spec = EncodeSpec {
        stream: smallest.stream_index,
        origin_us: smallest.first_us,
        frame_rate: spec::to_media_ratio(video.frame_rate),
        start_frame: range.start_frame,
        frame_count: to_frame_count(range)?,
        first_segment: range.first_segment,
        segment_frames: video.segment_frames,
        gop_frames: video.gop_frames,
        deinterlace: false,
        decode_threads: 1,
        // Nothing is encoded by it.
        preset: EncoderPreset::Veryfast,
        rungs: Vec::new(),
        storyboard: Some(spec::build_storyboard_spec(&board, sheet)),
        // Files whose clock jumps are refused before.
        clock: media::ClockMap::default(),
    };
    let source = open_file(context, copy, smallest.file)?;
    let (sender, outputs) = mpsc::channel(OUTPUTS_QUEUED_MAX);
    let taking = context.driver.encode_video(source, spec, sender, cancel);
    let progress = ((steps - 1) * range.frame_count, steps);
    let taken = pass_outputs(taking, outputs, &out, progress).await?;
    // Its frames were counted before.
    Ok(add_reports(&all, &MediaTaskReport { frames_written: 0, ..taken }))
}

/// Copies the sound; it is rendition 0.
pub(crate) async fn copy_sound(
    context: &TranscodeContext,
    copy: &CopyPlan,
    audio: &AudioPlan,
    out: mpsc::Sender<MediaTaskOutput>,
    cancel: &CancellationToken,
) -> Result<MediaTaskReport, TranscodeError> {
    let from = copy.sound.ok_or_else(|| TranscodeError::Unknown("sound to copy".to_owned()))?;
    let spec = SoundCopySpec {
        stream: from.stream_index,
        rendition: 0,
        skipped_packets: from.skipped_packets,
        duration_samples: audio.duration_samples,
        sample_rate_hz: audio.sample_rate_hz,
        segment_seconds: spec::to_media_ratio(audio.segment_seconds),
    };
    let source = open_file(context, copy, from.file)?;
    Ok(context.driver.copy_sound(source, spec, out, cancel).await?)
}

fn build_frame_spec(
    (video, range): (&VideoPlan, FrameRange),
    from: &FrameCopy,
    rendition: u16,
) -> Result<FrameCopySpec, TranscodeError> {
    Ok(FrameCopySpec {
        stream: from.stream_index,
        rendition,
        first_ticks: from.first_ticks,
        frame_rate: spec::to_media_ratio(video.frame_rate),
        delay_frames: from.delay_frames,
        start_frame: range.start_frame,
        frame_count: to_frame_count(range)?,
        first_segment: range.first_segment,
        segment_frames: video.segment_frames,
    })
}

fn to_frame_count(range: FrameRange) -> Result<u32, TranscodeError> {
    u32::try_from(range.frame_count)
        .map_err(|_| TranscodeError::Unknown(format!("frame count {}", range.frame_count)))
}

/// Hands on what a child makes; its progress is that of one of so many steps, behind so many frames of those before.
async fn pass_outputs(
    running: impl Future<Output = Result<MediaTaskReport, MediaTaskError>>,
    mut outputs: mpsc::Receiver<MediaTaskOutput>,
    out: &mpsc::Sender<MediaTaskOutput>,
    (frames_before, steps): (u64, u64),
) -> Result<MediaTaskReport, TranscodeError> {
    let passing = async {
        while let Some(output) = outputs.recv().await {
            let output = match output {
                MediaTaskOutput::Progress { frames_done } => {
                    MediaTaskOutput::Progress { frames_done: (frames_before + frames_done) / steps.max(1) }
                }
                other => other,
            };
            if out.send(output).await.is_err() {
                // Who takes them knows why; the child finds its side closed.
                return;
            }
        }
    };
    let (ended, ()) = tokio::join!(running, passing);
    Ok(ended?)
}

fn add_reports(all: &MediaTaskReport, one: &MediaTaskReport) -> MediaTaskReport {
    MediaTaskReport {
        frames_decoded: all.frames_decoded + one.frames_decoded,
        frames_written: all.frames_written.max(one.frames_written),
        frames_repeated: all.frames_repeated + one.frames_repeated,
        frames_dropped: all.frames_dropped + one.frames_dropped,
        silence_samples: all.silence_samples + one.silence_samples,
        loudness_missing_lu: all.loudness_missing_lu.max(one.loudness_missing_lu),
        decode_errors: all.decode_errors + one.decode_errors,
        cpu_seconds: all.cpu_seconds + one.cpu_seconds,
        rss_bytes_max: all.rss_bytes_max.max(one.rss_bytes_max),
        wall_seconds: all.wall_seconds + one.wall_seconds,
    }
}
