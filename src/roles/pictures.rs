//! Pictures for the tasks stage, which decodes nothing itself: they are taken by the media child.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use media::{MediaDriver, MediaRetryDecision, MediaTaskError, MediaTaskOutput, StillsSpec};
use nats::FailureClass;
use tasks::{PictureError, PictureRequest, PictureTaker};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// JPEG quantiser, 2 (best) to 31.
const QUANTIZER: u8 = 4;

/// The media child, where there is one on this machine.
#[derive(Debug)]
pub(super) struct ChildPictures(pub(super) Option<Arc<MediaDriver>>);

/// A file in memory.
#[derive(Debug)]
struct FileInMemory(Bytes);

impl media::MediaByteSource for FileInMemory {
    fn size_bytes(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let end = start.saturating_add(len).min(self.0.len());
        let bytes = self.0.slice(start..end);
        async move { Ok(bytes) }.boxed()
    }
}

impl PictureTaker for ChildPictures {
    fn take(&self, wanted: PictureRequest) -> BoxFuture<'_, Result<Bytes, PictureError>> {
        async move {
            let Some(driver) = &self.0 else {
                let detail = "this worker has no media child: its log says why".to_owned();
                // Another worker may have one.
                return Err(PictureError { class: FailureClass::Outage, detail });
            };
            let spec = StillsSpec {
                stream: 0,
                origin_us: 0,
                at_us: vec![wanted.at_us],
                is_exact: true,
                side_pixels_max: wanted.side_pixels_max,
                quantizer: QUANTIZER,
                deinterlace: false,
                clock: media::ClockMap::default(),
            };
            // The child ends with this future.
            let stop = CancellationToken::new();
            let _stopped = stop.clone().drop_guard();
            let (sender, mut outputs) = mpsc::channel(2);
            let taken = driver.extract_stills(Arc::new(FileInMemory(wanted.file)), spec, sender, &stop);
            let collected = async {
                let mut picture = None;
                while let Some(output) = outputs.recv().await {
                    if let MediaTaskOutput::Image { bytes, .. } = output {
                        picture = picture.or(Some(bytes));
                    }
                }
                picture
            };
            match tokio::join!(taken, collected) {
                (Ok(_), Some(bytes)) => Ok(bytes),
                (Ok(_), None) => {
                    Err(PictureError { class: FailureClass::Fault, detail: "no picture came".to_owned() })
                }
                (Err(error), _) => Err(to_picture_error(&error)),
            }
        }
        .boxed()
    }
}

fn to_picture_error(error: &MediaTaskError) -> PictureError {
    let class = match error.retry_decision() {
        MediaRetryDecision::Reject => FailureClass::Reject,
        MediaRetryDecision::Retry => FailureClass::Fault,
    };
    PictureError { class, detail: schemas::fault::error_chain(error) }
}
