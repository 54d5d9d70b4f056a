//! Kind `fetch`: brings the bytes of an upload from an address, as a client of resumable uploads brings those of a file.
//!
//! What came is durable and recorded by the same code as of other uploads ([`FetchedUploads`]); a try that is cut is followed by one that
//! asks for the rest (RFC 9110, 14.2), on the condition that the source is of the same version (RFC 9110, 13.1.5).
//!
//! Limits: those of [`outbound::OutboundConfig`] and of uploads; a try lasts at most [`crate::TasksConfig::try_time_ms_max`].

mod answer;
mod error;
mod source;

use std::{
    fmt::{self, Debug},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use http::header::{self, HeaderValue};
use outbound::{OutboundRequest, OutboundUrl, RedirectScope};
use schemas::{
    ids::{JobId, UploadId},
    job::JobRecord,
    upload::UploadStatus,
};
use tokio::time::MissedTickBehavior;

use crate::{TasksContext, progress::TaskProgress};
use answer::judge_answer;
pub use error::FetchError;
use source::SourceBody;

/// Where an upload stands whose bytes are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchStanding {
    /// Where it stands.
    pub status: UploadStatus,
    /// Bytes that are durable.
    pub offset_bytes: u64,
    /// Bytes of the whole, once known.
    pub length_bytes: Option<u64>,
    /// What the source calls the version that the bytes are of.
    pub validator: Option<String>,
    /// Most bytes that it may have.
    pub size_bytes_max: u64,
}

/// Bytes of a source, in order.
pub struct SourceBytes {
    /// The job that brings them.
    pub job_id: JobId,
    /// Where the first of them belongs.
    pub offset_bytes: u64,
    /// Bytes of the whole, where the source says so; else the end of `bytes` is the end of the whole.
    pub length_bytes: Option<u64>,
    /// What the source calls the version that they are of.
    pub validator: Option<String>,
    /// They. An error keeps those before it.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for SourceBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBytes").field("offset_bytes", &self.offset_bytes).finish_non_exhaustive()
    }
}

/// The uploads that take what is fetched, as the HTTP surface has them. Stages do not import that surface: who starts this one hands
/// it in.
pub trait FetchedUploads: Debug + Send + Sync {
    /// Where an upload stands; one of which every byte is there is completed first.
    fn read(&self, upload_id: UploadId) -> BoxFuture<'_, Result<FetchStanding, FetchError>>;

    /// Takes bytes to their end. Those that came before an error, or before this is dropped, are kept.
    fn receive(&self, upload_id: UploadId, bytes: SourceBytes) -> BoxFuture<'_, Result<(), FetchError>>;

    /// Ends the upload if it is open, for the reason `code`, and frees what it holds. Repeating it is harmless.
    fn end<'a>(&'a self, upload_id: UploadId, code: &'a str) -> BoxFuture<'a, Result<(), FetchError>>;
}

/// Brings what is missing of the upload of a job.
///
/// # Errors
/// [`FetchError`]: of what is a fault the next try goes on where the disk is.
pub(crate) async fn fetch_medium(
    context: &TasksContext,
    job: &JobRecord,
    progress: &TaskProgress<'_>,
) -> Result<(), FetchError> {
    let source = job.fetch.as_ref().ok_or(FetchError::NoSource)?;
    let uploads = &*context.services.uploads;
    let standing = uploads.read(source.upload_id).await?;
    match standing.status {
        UploadStatus::Received => return Ok(()),
        UploadStatus::Open => {}
        UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated => {
            return Err(FetchError::UploadEnded);
        }
    }
    let client = &context.services.client;
    let url = OutboundUrl::parse(source.url.as_deref().ok_or(FetchError::NoSource)?, client.networks())?;
    let response = client.send(build_request(url, &standing)?).await?;
    let answer = judge_answer(&response, &standing)?;
    let body = SourceBody::begin(response.body, answer.skipped_bytes).await?;
    let bytes = SourceBytes {
        job_id: job.job_id,
        offset_bytes: standing.offset_bytes,
        length_bytes: answer.length_bytes,
        validator: answer.validator,
        bytes: body.stream(),
    };
    let receiving = uploads.receive(source.upload_id, bytes);
    let total_bytes = answer.length_bytes.unwrap_or_default();
    let taken = {
        let mut receiving = std::pin::pin!(receiving);
        let mut ticker =
            tokio::time::interval(Duration::from_millis(context.config.progress_interval_ms.max(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                taken = &mut receiving => break taken,
                _ = ticker.tick() => {
                    progress.publish_bytes(standing.offset_bytes + body.passed_bytes(), total_bytes).await;
                }
            }
        }
    };
    match taken {
        Ok(()) => {
            progress.publish_bytes(total_bytes, total_bytes).await;
            Ok(())
        }
        Err(FetchError::Cut) => Err(body.take_failure().map_or(FetchError::Cut, FetchError::Outbound)),
        // More than it said it had; or more than an upload may have.
        Err(FetchError::TooLarge { .. })
            if uploads.read(source.upload_id).await?.status == UploadStatus::Received =>
        {
            Ok(())
        }
        Err(FetchError::TooLarge { .. }) => Err(FetchError::TooLarge { bytes_max: standing.size_bytes_max }),
        Err(error) => Err(error),
    }
}

/// Asks for all, or for the rest of the version that the first bytes are of.
fn build_request(url: OutboundUrl, standing: &FetchStanding) -> Result<OutboundRequest, FetchError> {
    // Nothing that is sent is for the first host alone.
    let request = OutboundRequest::get(url, RedirectScope::AnyHost);
    if standing.offset_bytes == 0 {
        return Ok(request);
    }
    let unknown = FetchError::SourceChanged(
        "it broke off, and says by neither a strong ETag nor Last-Modified whether the rest is of the same file",
    );
    let validator = standing.validator.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    let range = HeaderValue::from_str(&format!("bytes={}-", standing.offset_bytes));
    match (range, validator) {
        (Ok(range), Some(validator)) => {
            Ok(request.with_header(header::RANGE, range).with_header(header::IF_RANGE, validator))
        }
        _ => Err(unknown),
    }
}

/// What the stage needs of others.
#[derive(Debug, Clone)]
pub struct TaskServices {
    /// Does something with other jobs.
    pub actor: Arc<dyn crate::JobActor>,
    /// Take what is fetched.
    pub uploads: Arc<dyn FetchedUploads>,
    /// Asks addresses of users.
    pub client: outbound::OutboundClient,
    /// Takes pictures.
    pub pictures: Arc<dyn crate::PictureTaker>,
    /// Put media together as files.
    pub files: Arc<dyn crate::ExportedFiles>,
}
