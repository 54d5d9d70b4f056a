//! How a file is put together: its head, and which bytes of which segments follow it. Made from the beginning of each segment, and kept
//! in memory while it is asked for.
//!
//! Limits: [`READS_MAX`] segments are read at once for each file that is made, [`HEAD_BYTES`] of each; [`BUILD_WAIT`] for a turn, and
//! [`BUILD_TIME_MAX`] for reading. What would be too large is known after [`PROBED_SEGMENTS`] of a track.

use std::{ops::Range, sync::Arc, time::Duration};

use axum::body::Bytes;
use futures::{StreamExt, TryStreamExt};
use packaging::mp4::{INIT_BYTES_MAX, MalformedMp4, MediaPiece, ProgressiveMp4, ProgressiveTrack};
use schemas::keys;
use store::{Store, StoreError};
use tokio::sync::Semaphore;

use super::choice::{ChosenTrack, DownloadChoice};
use crate::{cache::ResponseCache, play::PlaybackConfig};

/// Segments that are read at once.
const READS_MAX: usize = 16;
/// Bytes that are read of a segment at first: what stands before its samples usually takes less.
const HEAD_BYTES: u64 = 16 * 1024;
/// Most bytes that are read of a segment whose head is longer.
const HEAD_BYTES_MAX: u64 = 8 << 20;
/// Longest wait for a turn.
const BUILD_WAIT: Duration = Duration::from_secs(20);
/// Longest time that all segments of a file are read for.
const BUILD_TIME_MAX: Duration = Duration::from_secs(120);
/// Segments after which it is estimated how many samples all of them have.
const PROBED_SEGMENTS: usize = 8;
/// Bytes of a piece as it is kept.
const PIECE_BYTES: usize = 21;

/// Files that are put together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DownloadPlans {
    plans: Arc<ResponseCache>,
    builds: Arc<Semaphore>,
    samples_max: usize,
}

/// A file that can't be put together.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// It has too many samples.
    #[error("more than {samples_max} samples")]
    TooLarge {
        /// Most that it may have.
        samples_max: usize,
    },
    /// No turn came in time.
    #[error("too many files are being put together")]
    Busy,
    /// Its segments could not be read in time.
    #[error("its segments could not be read in {} s", BUILD_TIME_MAX.as_secs())]
    Slow,
    /// The store failed, or lacks an object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what it should be.
    #[error("{key}: {source}")]
    Malformed {
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: MalformedMp4,
    },
}

impl DownloadPlans {
    /// None yet.
    ///
    /// # Errors
    /// When a limit of the cache is 0.
    pub fn new(config: &PlaybackConfig) -> anyhow::Result<Self> {
        Ok(Self {
            plans: Arc::new(ResponseCache::new(config.downloads)?),
            builds: Arc::new(Semaphore::new(config.download_builds_max)),
            samples_max: config.download_samples_max,
        })
    }

    /// The cache behind them.
    pub(crate) const fn plans(&self) -> &Arc<ResponseCache> {
        &self.plans
    }

    /// The file of a choice of the encode below `prefix`.
    pub(super) async fn load_plan(
        &self,
        store: &Store,
        prefix: &str,
        choice: &DownloadChoice,
    ) -> Result<DownloadPlan, PlanError> {
        let name = format!("{prefix}/{}", choice.name());
        let known = || self.plans.get(&name).and_then(|bytes| DownloadPlan::from_bytes(&bytes));
        if let Some(plan) = known() {
            return Ok(plan);
        }
        // Each takes memory and reads of the store: as many at once as there are turns.
        let turn = tokio::time::timeout(BUILD_WAIT, Arc::clone(&self.builds).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(PlanError::Busy)?;
        if let Some(plan) = known() {
            return Ok(plan);
        }
        let reading = tokio::time::timeout(BUILD_TIME_MAX, self.read_tracks(store, prefix, choice)).await;
        let tracks = reading.map_err(|_| PlanError::Slow)??;
        // Millions of samples: too long for a thread that serves others. It keeps its turn, also where nobody waits for it any more.
        let making = move || (ProgressiveMp4::new(&tracks), turn);
        let (made, _turn) = tokio::task::spawn_blocking(making).await.map_err(|_| PlanError::Busy)?;
        let plan = DownloadPlan::from_file(made);
        self.plans.put(name, plan.to_bytes());
        Ok(plan)
    }

    async fn read_tracks(
        &self,
        store: &Store,
        prefix: &str,
        choice: &DownloadChoice,
    ) -> Result<Vec<ProgressiveTrack>, PlanError> {
        let mut tracks = Vec::new();
        let mut samples = 0;
        for track in &choice.tracks {
            let made = read_track(store, prefix, track, self.samples_max.saturating_sub(samples)).await;
            let made = made.map_err(|error| match error {
                PlanError::TooLarge { .. } => PlanError::TooLarge { samples_max: self.samples_max },
                error => error,
            })?;
            samples += made.sample_count();
            tracks.push(made);
        }
        Ok(tracks)
    }
}

async fn read_track(
    store: &Store,
    prefix: &str,
    track: &ChosenTrack,
    samples_max: usize,
) -> Result<ProgressiveTrack, PlanError> {
    let name = &track.rendition;
    let key = format!("{prefix}/{}", keys::init_segment_path(name));
    let init = store.get(&key, u64::try_from(INIT_BYTES_MAX).unwrap_or(u64::MAX)).await?;
    let mut made = ProgressiveTrack::new(&init, &track.language)
        .map_err(|source| PlanError::Malformed { key, source })?;
    let mut heads = futures::stream::iter(1..=track.segment_count)
        .map(|number| {
            let key = format!("{prefix}/{}", keys::segment_path(name, number));
            async move { store.get_range(&key, 0..HEAD_BYTES).await.map(|head| (key, head)) }
        })
        .buffered(READS_MAX);
    let segment_count = usize::try_from(track.segment_count).unwrap_or(usize::MAX);
    let mut read_count = 0;
    while let Some((key, head)) = heads.try_next().await? {
        push_segment(store, &mut made, key, head).await?;
        read_count += 1;
        // Segments are of about one length: thousands need not be read to know.
        let is_certain = read_count == PROBED_SEGMENTS
            && made.sample_count() / PROBED_SEGMENTS * segment_count > samples_max + samples_max / 4;
        if made.sample_count() > samples_max || is_certain {
            return Err(PlanError::TooLarge { samples_max });
        }
    }
    Ok(made)
}

/// Adds a segment, of which more is read when its head is longer than usual.
async fn push_segment(
    store: &Store,
    track: &mut ProgressiveTrack,
    key: String,
    mut head: Bytes,
) -> Result<(), PlanError> {
    let mut wanted = HEAD_BYTES;
    loop {
        let Err(source) = track.push_segment(&head) else { return Ok(()) };
        let is_cut = u64::try_from(head.len()).unwrap_or(u64::MAX) >= wanted;
        if !is_cut || wanted >= HEAD_BYTES_MAX {
            return Err(PlanError::Malformed { key, source });
        }
        wanted *= 8;
        head = store.get_range(&key, 0..wanted).await?;
    }
}

/// A file: what is in memory of it, and where the rest lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DownloadPlan {
    head: Bytes,
    pieces: Vec<MediaPiece>,
}

impl DownloadPlan {
    fn from_file(file: ProgressiveMp4) -> Self {
        Self { head: file.head.into(), pieces: file.pieces }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        length_to_u64(self.head.len()) + self.pieces.iter().map(|piece| piece.size_bytes).sum::<u64>()
    }

    /// A range of the file: what of the head lies in it, and then ranges of objects below `prefix`.
    pub(super) fn slice(
        self,
        prefix: &str,
        choice: &DownloadChoice,
        range_bytes: Range<u64>,
    ) -> (Bytes, impl Iterator<Item = (String, Range<u64>)> + Send + use<>) {
        let head_bytes = length_to_u64(self.head.len());
        let inside = |at: u64| usize::try_from(at.min(head_bytes)).unwrap_or(usize::MAX);
        let head = self.head.slice(inside(range_bytes.start)..inside(range_bytes.end));
        let renditions: Vec<String> = choice.tracks.iter().map(|track| track.rendition.clone()).collect();
        let prefix = prefix.to_owned();
        let mut at = head_bytes;
        let rest = self.pieces.into_iter().filter_map(move |piece| {
            let start = at;
            at += piece.size_bytes;
            let from = range_bytes.start.max(start);
            let to = range_bytes.end.min(at);
            let rendition = renditions.get(piece.track).filter(|_| from < to)?;
            let in_segment = |place: u64| piece.offset_bytes + (place - start);
            let key = format!("{prefix}/{}", keys::segment_path(rendition, piece.segment));
            Some((key, in_segment(from)..in_segment(to)))
        });
        (head, rest)
    }

    /// As it is kept: the number of pieces, each piece, and the head.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(4 + PIECE_BYTES * self.pieces.len() + self.head.len());
        bytes.extend(u32::try_from(self.pieces.len()).unwrap_or(u32::MAX).to_be_bytes());
        for piece in &self.pieces {
            bytes.push(u8::try_from(piece.track).unwrap_or(u8::MAX));
            bytes.extend(piece.segment.to_be_bytes());
            bytes.extend(piece.offset_bytes.to_be_bytes());
            bytes.extend(piece.size_bytes.to_be_bytes());
        }
        bytes.extend_from_slice(&self.head);
        bytes.into()
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let table_bytes = usize::try_from(u32::from_be_bytes(*count)).ok()?.checked_mul(PIECE_BYTES)?;
        let (table, _) = rest.split_at_checked(table_bytes)?;
        let (pieces, _) = table.as_chunks::<PIECE_BYTES>();
        let pieces = pieces.iter().map(|piece| {
            let (track, piece) = piece.split_first()?;
            let (segment, piece) = piece.split_first_chunk::<4>()?;
            let (offset, piece) = piece.split_first_chunk::<8>()?;
            Some(MediaPiece {
                track: usize::from(*track),
                segment: u32::from_be_bytes(*segment),
                offset_bytes: u64::from_be_bytes(*offset),
                size_bytes: u64::from_be_bytes(piece.try_into().ok()?),
            })
        });
        Some(Self { pieces: pieces.collect::<Option<_>>()?, head: bytes.slice(4 + table_bytes..) })
    }
}

fn length_to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(track: usize, segment: u32, offset_bytes: u64, size_bytes: u64) -> MediaPiece {
        MediaPiece { track, segment, offset_bytes, size_bytes }
    }

    fn plan() -> DownloadPlan {
        let pieces = vec![piece(0, 1, 100, 5), piece(1, 1, 50, 3), piece(0, 2, 90, 4)];
        DownloadPlan { head: Bytes::from_static(b"head"), pieces }
    }

    fn choice() -> DownloadChoice {
        let track = |rendition: &str, is_video| ChosenTrack {
            rendition: rendition.into(),
            is_video,
            language: "und".into(),
            segment_count: 2,
        };
        DownloadChoice { tracks: vec![track("v180", true), track("a0", false)] }
    }

    #[test]
    fn every_range_is_a_part_of_the_whole() {
        let place = |range: Range<u64>| {
            let (head, rest) = plan().slice("p", &choice(), range);
            let head = head.iter().map(|byte| format!("head {byte}"));
            let rest = rest.flat_map(|(key, range)| range.map(move |at| format!("{key} {at}")));
            head.chain(rest).collect::<Vec<_>>()
        };
        let whole = place(0..16);
        assert_eq!(plan().size_bytes(), 16);
        assert_eq!(whole.len(), 16);
        assert_eq!(
            whole[4..10],
            [
                "p/v180/1.m4s 100",
                "p/v180/1.m4s 101",
                "p/v180/1.m4s 102",
                "p/v180/1.m4s 103",
                "p/v180/1.m4s 104",
                "p/a0/1.m4s 50"
            ]
        );
        for start in 0..16_u64 {
            for end in start..=16 {
                let part = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                assert_eq!(place(start..end), whole[part], "{start}..{end}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let kept = plan().to_bytes();
        assert_eq!(DownloadPlan::from_bytes(&kept), Some(plan()));
        assert_eq!(DownloadPlan::from_bytes(&kept.slice(..20)), None);
    }
}
