//! Uploads for what the tasks stage fetches: they are those of the HTTP surface.

use futures::{FutureExt as _, future::BoxFuture};
use ingress::uploads::{FetchedBytes, FetchedRefusal, UploadState};
use schemas::ids::UploadId;
use tasks::{FetchError, FetchStanding, FetchedUploads, SourceBytes};

/// The uploads of the HTTP surface.
#[derive(Debug)]
pub(super) struct IngressUploads(pub(super) UploadState);

impl FetchedUploads for IngressUploads {
    fn read(&self, upload_id: UploadId) -> BoxFuture<'_, Result<FetchStanding, FetchError>> {
        async move {
            let found = self.0.read_fetched(upload_id).await.map_err(to_fetch_error)?;
            Ok(FetchStanding {
                status: found.status,
                offset_bytes: found.offset_bytes,
                length_bytes: found.length_bytes,
                validator: found.validator,
                size_bytes_max: found.size_bytes_max,
            })
        }
        .boxed()
    }

    fn receive(&self, upload_id: UploadId, bytes: SourceBytes) -> BoxFuture<'_, Result<(), FetchError>> {
        let SourceBytes { job_id, offset_bytes, length_bytes, validator, bytes } = bytes;
        let fetched = FetchedBytes { job_id, offset_bytes, length_bytes, validator, bytes };
        async move { self.0.receive_fetched(upload_id, fetched).await.map_err(to_fetch_error) }.boxed()
    }

    fn end<'a>(&'a self, upload_id: UploadId, code: &'a str) -> BoxFuture<'a, Result<(), FetchError>> {
        async move { self.0.end_fetched(upload_id, code).await.map_err(to_fetch_error) }.boxed()
    }
}

fn to_fetch_error(refusal: FetchedRefusal) -> FetchError {
    match refusal {
        FetchedRefusal::Bus(error) => error.into(),
        FetchedRefusal::Store(error) => error.into(),
        FetchedRefusal::SourceChanged => FetchError::SourceChanged("it is another one than when it began"),
        FetchedRefusal::TooLarge => FetchError::TooLarge { bytes_max: 0 },
        FetchedRefusal::Cut => FetchError::Cut,
        FetchedRefusal::TooSlow => FetchError::TooSlow,
        FetchedRefusal::Displaced => FetchError::Displaced,
        FetchedRefusal::Full => FetchError::StoreFull,
        FetchedRefusal::Stopping => FetchError::Stopping,
        // Also what only another version of the surface says.
        _ => FetchError::UploadEnded,
    }
}
