//! Kind `thumbnails`: makes pictures of what plays of a medium at times of its owner's choice, and stores them beside the encode.
//!
//! A picture is taken from the segment that is shown at its time, so that it is the one that viewers see then, whatever became of the
//! source, and costs one segment. One that is stored is not made again.
//!
//! Limits: [`schemas::thumbnails::TIMES_MAX`] pictures a job, `PICTURES_MAX` of one encode, [`SEGMENT_BYTES_MAX`] in memory for each.

use bytes::Bytes;
use futures::{TryStreamExt as _, future::BoxFuture};
use nats::FailureClass;
use packaging::{find_segment, mp4::INIT_BYTES_MAX};
use schemas::{
    KvRecord as _,
    job::JobRecord,
    keys,
    media::{EncodedRendition, MediaEncode, MediaRecord, MediaStatus},
};
use store::{Store, StoreError};

use crate::{TasksContext, error::TaskError, progress::TaskProgress};

/// Largest segment that is read, in bytes.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// Most pictures of one encode.
const PICTURES_MAX: usize = 1_000;

/// Largest playlist that is read, in bytes.
const PLAYLIST_BYTES_MAX: u64 = 4 << 20;

/// A picture that is wanted of a file.
#[derive(Debug, Clone)]
pub struct PictureRequest {
    /// The file: an init segment and a media segment of pictures.
    pub file: Bytes,
    /// When it is shown, in microseconds.
    pub at_us: u64,
    /// Its longest side in pixels; smaller ones are not enlarged.
    pub side_pixels_max: u32,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct PictureError {
    /// Whether to try again.
    pub class: FailureClass,
    /// Why.
    pub detail: String,
}

/// Takes pictures out of files: the stage decodes nothing itself.
pub trait PictureTaker: std::fmt::Debug + Send + Sync {
    /// The picture as JPEG. Dropping the future gives it up.
    fn take(&self, wanted: PictureRequest) -> BoxFuture<'_, Result<Bytes, PictureError>>;
}

/// Makes the pictures of a job.
///
/// # Errors
/// [`TaskError::MediaGone`] and [`TaskError::NothingStored`] when there is nothing to make them of; [`TaskError::Picture`] when the file
/// can't be decoded.
pub(crate) async fn make_thumbnails(
    context: &TasksContext,
    job: &JobRecord,
    progress: &TaskProgress<'_>,
) -> Result<(), TaskError> {
    let order = job.thumbnails.as_ref().ok_or(TaskError::NoAction)?;
    let found = context.bus.load_record::<MediaRecord>(&job.media_id.to_string()).await?;
    let medium = found.map(|held| held.record).filter(|medium| !medium.is_removed());
    let medium = medium.ok_or(TaskError::MediaGone)?;
    let encode = medium.encode.filter(|_| medium.status == MediaStatus::Ready);
    let encode = encode.ok_or(TaskError::NothingStored)?;
    if encode.duration_ms != job.plan.duration_ms {
        return Err(reject("another encode took the place of the one that the pictures were asked of"));
    }
    let rendition = choose_rendition(&encode, order.width).ok_or(TaskError::NothingStored)?;
    let mut room = PICTURES_MAX.saturating_sub(count_pictures(&context.store, &encode.prefix).await?);
    progress.begin(u64::try_from(order.times_ms.len()).unwrap_or(u64::MAX));
    for at_ms in &order.times_ms {
        let key = format!("{}/{}", encode.prefix, keys::thumbnail_path(*at_ms, order.width));
        match context.store.head(&key).await {
            Ok(_) => {}
            Err(StoreError::NotFound { .. }) => {
                room = room.checked_sub(1).ok_or_else(|| {
                    reject(&format!(
                        "{PICTURES_MAX} pictures of it are stored: a new encode begins with none"
                    ))
                })?;
                let side_pixels_max = longest_side(rendition, order.width);
                let at_us = at_ms.saturating_mul(1_000);
                let file = read_segment(&context.store, &encode.prefix, rendition, at_us).await?;
                let wanted = PictureRequest { file, at_us, side_pixels_max };
                context.store.put(&key, context.services.pictures.take(wanted).await?).await?;
            }
            Err(error) => return Err(error.into()),
        }
        progress.add(1).await;
    }
    Ok(())
}

fn reject(detail: &str) -> TaskError {
    TaskError::Picture(PictureError { class: FailureClass::Reject, detail: detail.to_owned() })
}

/// How many pictures of an encode are stored.
async fn count_pictures(store: &Store, prefix: &str) -> Result<usize, TaskError> {
    let mut stored = store.list(&format!("{prefix}/{}", keys::THUMBNAILS));
    let mut count = 0;
    while stored.try_next().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The smallest rendition that needs not be enlarged, or else the largest.
fn choose_rendition(encode: &MediaEncode, width: u32) -> Option<&EncodedRendition> {
    let pictures = || encode.renditions.iter().filter(|rendition| rendition.width > 0);
    let fitting = pictures().filter(|rendition| rendition.width >= width).min_by_key(|found| found.width);
    fitting.or_else(|| pictures().max_by_key(|found| found.width))
}

/// The longest side of a picture of a width, in pixels.
fn longest_side(rendition: &EncodedRendition, width: u32) -> u32 {
    let (own_width, own_height) = (u64::from(rendition.width.max(1)), u64::from(rendition.height));
    let height = (u64::from(width) * own_height).div_ceil(own_width);
    u32::try_from(height).unwrap_or(u32::MAX).max(width)
}

/// The file of one segment: that of a time.
async fn read_segment(
    store: &Store,
    prefix: &str,
    rendition: &EncodedRendition,
    at_us: u64,
) -> Result<Bytes, TaskError> {
    let at = |path: String| format!("{prefix}/{path}");
    let playlist = store.get(&at(keys::media_playlist_path(&rendition.name)), PLAYLIST_BYTES_MAX).await?;
    let segment = find_segment(&String::from_utf8_lossy(&playlist), at_us).ok_or(TaskError::NothingStored)?;
    let init_bytes_max = u64::try_from(INIT_BYTES_MAX).unwrap_or(u64::MAX);
    let init = store.get(&at(keys::init_segment_path(&rendition.name)), init_bytes_max).await?;
    let media =
        store.get(&at(keys::segment_path(&rendition.name, segment.number)), SEGMENT_BYTES_MAX).await?;
    Ok([init, media].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_as_wide_as_it_is_wanted() {
        let rendition = |width: u32, height: u32| EncodedRendition {
            name: format!("v{}", height.min(width)),
            codecs: String::new(),
            width,
            height,
            peak_bps: 1,
            average_bps: 1,
            segment_count: 1,
            size_bytes: 1,
        };
        let encode = |renditions| MediaEncode {
            number: 1,
            job_id: schemas::ids::JobId::from_bytes([1; 16]),
            prefix: String::new(),
            duration_ms: 1,
            renditions,
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums: false,
            warnings: Vec::new(),
        };
        let film = encode(vec![rendition(1280, 720), rendition(640, 360), rendition(0, 0)]);
        for (width, chosen) in [(320, 640), (640, 640), (641, 1280), (1920, 1280)] {
            assert_eq!(choose_rendition(&film, width).unwrap().width, chosen, "{width}");
        }
        assert!(choose_rendition(&encode(vec![rendition(0, 0)]), 320).is_none());
        assert_eq!(longest_side(&rendition(1280, 720), 320), 320);
        assert_eq!(longest_side(&rendition(720, 1280), 320), 569);
    }
}
