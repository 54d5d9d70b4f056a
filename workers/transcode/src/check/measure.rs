//! Reads the stored objects: every init segment, and of every media segment its head and its size.
//!
//! Limits: `HEAD_BYTES` of each segment, `reads_max` reads at once.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use packaging::{
    mp4::{self, FirstPicture, InitSegment, MalformedMp4, Mp4Fragment, Mp4TrackKind},
    presentation::{Presentation, PresentationRendition},
    webvtt,
};
use schemas::keys;
use sha2::{Digest, Sha256};
use store::Store;

use super::webvtt::{MeasuredSubtitles, ReadCue, parse_segment};

/// Bytes read of a segment: its `moof` and the beginning of its first sample.
const HEAD_BYTES: u64 = 48 * 1024;

/// Most bytes read of a segment whose `moof` is larger than usual.
const HEAD_BYTES_MAX: u64 = 8 << 20;

/// What the store holds of one rendition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredRendition {
    /// The init segment.
    pub init: InitSegment,
    /// SHA-256 of the init segment, in hex.
    pub init_sha256: String,
    /// The segments in order.
    pub segments: Vec<MeasuredSegment>,
}

/// What the store holds of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredSegment {
    /// What its boxes say.
    pub fragment: Mp4Fragment,
    /// Size of the object in bytes.
    pub size_bytes: u64,
    /// How its first picture is coded; `None` for sound.
    pub first_picture: Option<FirstPicture>,
}

/// Objects that can't be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The store failed or lacks an object.
    #[error("read {key}")]
    Store {
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: store::StoreError,
    },
    /// A file of subtitles is not what it should be.
    #[error("{key}: {why}")]
    Subtitles {
        /// The object.
        key: String,
        /// Why.
        why: String,
    },
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

/// Measures every rendition of a presentation below `prefix`.
pub async fn measure_presentation(
    store: &Store,
    prefix: &str,
    presentation: &Presentation,
    reads_max: usize,
) -> Result<BTreeMap<String, MeasuredRendition>, MeasureError> {
    let sizes = list_object_sizes(store, prefix).await?;
    let mut all = BTreeMap::new();
    for rendition in presentation.renditions() {
        all.insert(
            rendition.name.clone(),
            measure_rendition(store, prefix, rendition, &sizes, reads_max).await?,
        );
    }
    Ok(all)
}

/// Reads every subtitle segment of a presentation below `prefix`, as a player would.
pub async fn measure_subtitles(
    store: &Store,
    prefix: &str,
    presentation: &Presentation,
    reads_max: usize,
) -> Result<BTreeMap<String, MeasuredSubtitles>, MeasureError> {
    let mut all = BTreeMap::new();
    for rendition in &presentation.subtitles {
        let name = &rendition.name;
        let count = u32::try_from(rendition.segments.len()).unwrap_or(u32::MAX);
        let files = futures::stream::iter(1..=count)
            .map(|number| {
                read_subtitle_segment(
                    store,
                    format!("{prefix}/{}", keys::subtitle_segment_path(name, number)),
                )
            })
            .buffered(reads_max.max(1))
            .try_collect()
            .await?;
        all.insert(name.clone(), files);
    }
    Ok(all)
}

async fn read_subtitle_segment(store: &Store, key: String) -> Result<Vec<ReadCue>, MeasureError> {
    let limit = u64::try_from(webvtt::SUBTITLES_BYTES_MAX).unwrap_or(u64::MAX);
    let bytes = match store.get(&key, limit).await {
        Ok(bytes) => bytes,
        Err(source) => return Err(MeasureError::Store { key, source }),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
    text.and_then(parse_segment).map_err(|why| MeasureError::Subtitles { key, why })
}

async fn list_object_sizes(store: &Store, prefix: &str) -> Result<BTreeMap<String, u64>, MeasureError> {
    let failed = |source| MeasureError::Store { key: prefix.to_owned(), source };
    store.list(prefix).map_ok(|meta| (meta.key, meta.size_bytes)).try_collect().await.map_err(failed)
}

async fn measure_rendition(
    store: &Store,
    prefix: &str,
    rendition: &PresentationRendition,
    sizes: &BTreeMap<String, u64>,
    reads_max: usize,
) -> Result<MeasuredRendition, MeasureError> {
    let key = format!("{prefix}/{}", keys::init_segment_path(&rendition.name));
    let limit = u64::try_from(mp4::INIT_BYTES_MAX).unwrap_or(u64::MAX);
    let bytes =
        store.get(&key, limit).await.map_err(|source| MeasureError::Store { key: key.clone(), source })?;
    let init = mp4::read_init_segment(&bytes).map_err(|source| MeasureError::Malformed { key, source })?;
    let count = u32::try_from(rendition.segments.len()).unwrap_or(u32::MAX);
    let segments = futures::stream::iter(1..=count)
        .map(|number| {
            let key = format!("{prefix}/{}", keys::segment_path(&rendition.name, number));
            let size_bytes = sizes.get(&key).copied();
            measure_segment(store, key, size_bytes, &init)
        })
        .buffered(reads_max.max(1))
        .try_collect()
        .await?;
    Ok(MeasuredRendition {
        init_sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)),
        init,
        segments,
    })
}

async fn measure_segment(
    store: &Store,
    key: String,
    size_bytes: Option<u64>,
    init: &InitSegment,
) -> Result<MeasuredSegment, MeasureError> {
    let Some(size_bytes) = size_bytes else {
        return Err(MeasureError::Store { source: store::StoreError::NotFound { key: key.clone() }, key });
    };
    let mut wanted = HEAD_BYTES;
    loop {
        let read = store.get_range(&key, 0..wanted.min(size_bytes)).await;
        let head = read.map_err(|source| MeasureError::Store { key: key.clone(), source })?;
        match examine_segment(init, &head, size_bytes) {
            Ok(measured) => return Ok(measured),
            Err(_) if wanted < size_bytes && wanted < HEAD_BYTES_MAX => wanted *= 8,
            Err(source) => return Err(MeasureError::Malformed { key, source }),
        }
    }
}

fn examine_segment(
    init: &InitSegment,
    head: &[u8],
    size_bytes: u64,
) -> Result<MeasuredSegment, MalformedMp4> {
    let fragment = mp4::read_fragment(init, head)?;
    let first_picture = match init.kind {
        Mp4TrackKind::Audio { .. } => None,
        Mp4TrackKind::Video { length_bytes, .. } => {
            let sample = head.get(fragment.first_sample_offset..).unwrap_or_default();
            let limit = usize::try_from(fragment.first_sample_bytes).unwrap_or(usize::MAX).min(sample.len());
            Some(mp4::read_first_picture(sample.get(..limit).unwrap_or_default(), length_bytes)?)
        }
    };
    Ok(MeasuredSegment { fragment, size_bytes, first_picture })
}
