//! S1: every sheet of the storyboard is stored, and is a picture as large as the list of its tiles says.

use futures::{StreamExt, TryStreamExt};
use packaging::storyboard::{self, StoryboardSheet};
use schemas::{
    job::{StoryboardPlan, VideoPlan},
    keys,
};
use store::Store;

use super::{ConformanceFinding, ConformanceRule, FindingSeverity, MeasureError};
use crate::spec;

/// Largest sheet, in bytes: a hundred tiles of 5 KiB.
const SHEET_BYTES_MAX: u64 = 8 << 20;

/// Looks at every sheet of a storyboard below `prefix`, `reads_max` at once.
pub async fn check_storyboard(
    store: &Store,
    prefix: &str,
    video: &VideoPlan,
    reads_max: usize,
) -> Result<Vec<ConformanceFinding>, MeasureError> {
    let Some(plan) = video.storyboard else { return Ok(Vec::new()) };
    let sheets = futures::stream::iter(storyboard::list_sheets(video));
    let checked = sheets.map(|(number, sheet)| check_sheet(store, prefix, plan, (number, sheet)));
    checked.buffered(reads_max.max(1)).try_filter_map(async |finding| Ok(finding)).try_collect().await
}

async fn check_sheet(
    store: &Store,
    prefix: &str,
    plan: StoryboardPlan,
    (number, sheet): (u32, StoryboardSheet),
) -> Result<Option<ConformanceFinding>, MeasureError> {
    let key = format!("{prefix}/{}", keys::storyboard_sheet_path(number));
    let bytes = match store.get(&key, SHEET_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(source) => return Err(MeasureError::Store { key, source }),
    };
    let wanted = spec::build_storyboard_spec(&plan, sheet).sheet_size();
    let found = read_jpeg_size(&bytes);
    Ok((found != Some(wanted)).then(|| ConformanceFinding {
        rule: ConformanceRule::S1,
        severity: FindingSeverity::Error,
        detail: format!("sheet {number} is {found:?} pixels large instead of {wanted:?}"),
    }))
}

/// Width and height of a baseline JPEG file (ITU-T T.81, B.2.2).
fn read_jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    loop {
        let [0xFF, marker, high, low, ..] = *rest else { return None };
        if marker == 0xC0 {
            let [height_high, height_low, width_high, width_low] = *rest.get(5..9)?.first_chunk::<4>()?;
            let number = |high, low| u32::from(u16::from_be_bytes([high, low]));
            return Some((number(width_high, width_low), number(height_high, height_low)));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(2 + length.max(2)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_jpeg_is_read() {
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2];
        assert_eq!(read_jpeg_size(&file), None);
        file.extend([0xFF, 0xC0, 0, 17, 8, 1, 14, 3, 32]);
        assert_eq!(read_jpeg_size(&file), Some((800, 270)));
        assert_eq!(read_jpeg_size(&file[..10]), None);
        assert_eq!(read_jpeg_size(b"GIF89a"), None);
        assert_eq!(read_jpeg_size(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 0]), None);
    }
}
