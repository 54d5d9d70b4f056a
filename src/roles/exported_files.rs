//! Files for what the tasks stage exports: they are put together as those that the HTTP surface has downloaded.

use futures::{FutureExt as _, future::BoxFuture};
use ingress::play::{DownloadPlans, EncodeFileError};
use schemas::{export::ExportOrder, media::MediaEncode};
use store::Store;
use tasks::{ExportError, ExportedFile, ExportedFiles};

/// The files of the HTTP surface.
#[derive(Debug)]
pub(super) struct DownloadedFiles {
    pub(super) store: Store,
    pub(super) plans: DownloadPlans,
}

impl ExportedFiles for DownloadedFiles {
    fn open<'a>(
        &'a self,
        encode: &'a MediaEncode,
        order: &'a ExportOrder,
    ) -> BoxFuture<'a, Result<ExportedFile, ExportError>> {
        async move {
            let choice = (order.height, order.audio.clone());
            let file = self.plans.open_file(&self.store, encode, choice).await.map_err(to_export_error)?;
            Ok(ExportedFile {
                size_bytes: file.size_bytes,
                content_type: file.content_type,
                bytes: file.bytes,
            })
        }
        .boxed()
    }
}

fn to_export_error(error: EncodeFileError) -> ExportError {
    match error {
        EncodeFileError::Refused(why) => ExportError::NoFile(why),
        EncodeFileError::Busy => ExportError::Busy,
        EncodeFileError::Store(error) => ExportError::Store(error),
        EncodeFileError::Malformed(why) => ExportError::Malformed(why),
    }
}
