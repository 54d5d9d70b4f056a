//! An encode as one file for those who send it elsewhere: the bytes are those of a download.

use axum::body::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use schemas::{keys, media::MediaEncode};
use store::{Store, StoreError};

use web::error::Problem;

use super::{DownloadPlans, DownloadQuery, choice::DownloadChoice, plan::PlanError};

/// Largest playlist that is read, in bytes.
const PLAYLIST_BYTES_MAX: u64 = 4 << 20;

/// A file, as it is read.
pub struct EncodeFile {
    /// Bytes of it.
    pub size_bytes: u64,
    /// What it is.
    pub content_type: &'static str,
    /// Its bytes, in order.
    pub bytes: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl std::fmt::Debug for EncodeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodeFile").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum EncodeFileError {
    /// There is none of that choice; why.
    #[error("{0}")]
    Refused(String),
    /// Others have to be made first.
    #[error("other files are being put together")]
    Busy,
    /// The store failed, or lacks an object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what it should be.
    #[error("{0}")]
    Malformed(String),
}

impl DownloadPlans {
    /// The file of an encode whose pictures have a short side of at most `height` pixels, with the sound of a track.
    ///
    /// # Errors
    /// [`EncodeFileError`].
    pub async fn open_file(
        &self,
        store: &Store,
        encode: &MediaEncode,
        (height, audio): (Option<u32>, Option<String>),
    ) -> Result<EncodeFile, EncodeFileError> {
        if encode.renditions.is_empty() {
            return Err(EncodeFileError::Refused("a still picture has no file but its poster".to_owned()));
        }
        let key = format!("{}/{}", encode.prefix, keys::MULTIVARIANT);
        let multivariant = store.get(&key, PLAYLIST_BYTES_MAX).await?;
        let wanted = DownloadQuery { height, audio };
        let multivariant = String::from_utf8_lossy(&multivariant);
        let choice = DownloadChoice::new(&encode.renditions, &multivariant, &wanted)
            .map_err(|problem| EncodeFileError::Refused(describe_problem(&problem)))?;
        let plan = self.load_plan(store, &encode.prefix, &choice).await.map_err(explain_failure)?;
        let size_bytes = plan.size_bytes();
        let (head, rest) = plan.slice(&encode.prefix, &choice, 0..size_bytes);
        let head = futures::stream::iter((!head.is_empty()).then_some(Ok(head)));
        let bytes = head.chain(store.get_joined_stream(rest)).boxed();
        Ok(EncodeFile { size_bytes, content_type: choice.content_type(), bytes })
    }
}

/// What a problem says to people.
fn describe_problem(problem: &Problem) -> String {
    problem.to_document()["detail"].as_str().unwrap_or_default().to_owned()
}

fn explain_failure(error: PlanError) -> EncodeFileError {
    match error {
        PlanError::Store(error) => EncodeFileError::Store(error),
        PlanError::Slow | PlanError::Busy => EncodeFileError::Busy,
        PlanError::TooLarge { samples_max } => {
            EncodeFileError::Refused(format!("it has more than {samples_max} pictures and frames of sound"))
        }
        error @ PlanError::Malformed { .. } => EncodeFileError::Malformed(error.to_string()),
    }
}
