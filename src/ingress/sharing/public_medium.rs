//! A medium as strangers may see it.

use nats::{Bus, BusError};
use schemas::{
    KvRecord as _, document,
    ids::MediaId,
    media::{self, MediaEncode, MediaStatus, MediaSummary},
};

/// Longest side that a player is proposed with, in pixels.
const SIDE_PIXELS_MAX: u32 = 1_280;
/// Of a player whose medium has no picture, in pixels.
const SOUND_PIXELS: (u32, u32) = (480, 120);
/// Of a film whose size is not known yet, in pixels.
const USUAL_PIXELS: (u32, u32) = (1_280, 720);

/// What a medium shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediumKind {
    Film,
    Sound,
    Still,
}

/// A medium that everybody may watch, and that plays.
#[derive(Debug, Clone)]
pub(crate) struct PublicMedium {
    pub(crate) media_id: MediaId,
    /// Empty when nobody gave it one.
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    pub(crate) encode: MediaEncode,
    /// The poster that its owner chose.
    pub(crate) poster: Option<schemas::poster::ChosenPoster>,
    /// True when no list for visitors shows it.
    pub(crate) is_unlisted: bool,
    status: MediaStatus,
    summary: Option<MediaSummary>,
}

impl PublicMedium {
    /// The medium; `None` when it is not there, does not play, or is not everybody's.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(crate) async fn load(bus: &Bus, media_id: MediaId) -> Result<Option<Self>, BusError> {
        let key = media_id.to_string();
        let (document, asset) = tokio::try_join!(
            bus.load_with_tombstone::<document::MediaDocumentRecord>(&key),
            bus.load_record::<media::MediaRecord>(&key)
        )?;
        let (Some(document), Some(asset)) = (document, asset) else { return Ok(None) };
        Ok(Self::from_records(document.record, asset.record))
    }

    fn from_records(document: document::MediaDocumentRecord, asset: media::MediaRecord) -> Option<Self> {
        let is_shown = !document.is_removed() && document.is_public();
        let plays = matches!(asset.status, MediaStatus::Playable | MediaStatus::Ready);
        Some(Self {
            media_id: document.media_id,
            title: document.title,
            description: document.description,
            is_unlisted: document.is_unlisted,
            poster: document.poster,
            encode: asset.encode.filter(|_| is_shown && plays)?,
            status: asset.status,
            summary: asset.summary,
        })
    }

    /// What it shows.
    pub(crate) fn kind(&self) -> MediumKind {
        let has_video = self.summary.as_ref().is_none_or(|summary| summary.width > 0);
        match (self.status, self.encode.renditions.is_empty(), has_video) {
            (MediaStatus::Ready, true, _) => MediumKind::Still,
            (_, _, true) => MediumKind::Film,
            (_, _, false) => MediumKind::Sound,
        }
    }

    /// The size of its player or picture in pixels, within `largest`, with the sides as they are to each other.
    pub(crate) fn player_pixels(&self, largest: (u32, u32)) -> (u32, u32) {
        let known = self.summary.as_ref().map(|summary| (summary.width, summary.height));
        let size = match (self.kind(), known) {
            (MediumKind::Sound, _) => SOUND_PIXELS,
            (_, Some((width, height))) if width > 0 && height > 0 => (width, height),
            _ => USUAL_PIXELS,
        };
        fit_pixels(size, (largest.0.min(SIDE_PIXELS_MAX), largest.1.min(SIDE_PIXELS_MAX)))
    }
}

/// The largest size within `largest` whose sides have the ratio of `size`; never larger than it, at least one pixel.
fn fit_pixels((width, height): (u32, u32), largest: (u32, u32)) -> (u32, u32) {
    // Each side by the other one of the whole, so that nothing is rounded twice.
    let scaled = |side: u32, by: u32, of: u32| {
        let pixels = u64::from(side).saturating_mul(u64::from(by)) / u64::from(of.max(1));
        u32::try_from(pixels).unwrap_or(u32::MAX).max(1)
    };
    let by_width = width.min(largest.0).max(1);
    let by_height = scaled(height, by_width, width);
    if by_height <= largest.1 {
        return (by_width, by_height);
    }
    let by_height = largest.1.max(1);
    (scaled(width, by_height, height).min(by_width), by_height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_fits_and_keeps_its_shape() {
        for (size, largest, wanted) in [
            ((1_920, 1_080), (1_280, 1_280), (1_280, 720)),
            ((1_080, 1_920), (1_280, 1_280), (720, 1_280)),
            ((640, 360), (1_280, 1_280), (640, 360)),
            ((1_920, 1_080), (480, 100), (177, 100)),
            ((4_000, 2), (100, 100), (100, 1)),
            ((1_920, 1_080), (0, 0), (1, 1)),
        ] {
            assert_eq!(fit_pixels(size, largest), wanted, "{size:?} in {largest:?}");
        }
    }
}
