//! Why a task fails, as the child reports it.

use media::MediaErrorCode;

/// A failure of a task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediaChildError {
    /// The media file is at fault.
    #[error("{code}: {detail}")]
    Refused {
        /// Which rule it broke.
        code: MediaErrorCode,
        /// Where and how.
        detail: String,
    },
    /// Something else is: memory, the library, the parent.
    #[error("{0}")]
    Failed(String),
}

/// The result of every step in the child.
pub(crate) type MediaChildResult<T> = std::result::Result<T, MediaChildError>;

/// Puts the blame for a library error where it belongs.
pub(crate) trait LibraryErrorExt<T> {
    /// The file is to blame, unless memory ran out.
    fn or_refused(self, code: MediaErrorCode, what: &str) -> MediaChildResult<T>;

    /// The library or the machine is to blame.
    fn or_failed(self, what: &str) -> MediaChildResult<T>;
}

impl<T> LibraryErrorExt<T> for std::result::Result<T, ffmpeg_next::Error> {
    fn or_refused(self, code: MediaErrorCode, what: &str) -> MediaChildResult<T> {
        self.map_err(|error| {
            if is_out_of_memory(error) {
                return MediaChildError::Failed(format!("{what}: out of memory"));
            }
            source_refused_error(code, format!("{what}: {error}"))
        })
    }

    fn or_failed(self, what: &str) -> MediaChildResult<T> {
        self.map_err(|error| MediaChildError::Failed(format!("{what}: {error}")))
    }
}

/// A refusal of the file.
pub(crate) fn source_refused_error(code: MediaErrorCode, detail: impl Into<String>) -> MediaChildError {
    MediaChildError::Refused { code, detail: detail.into() }
}

/// Whether the library had no memory.
pub(crate) fn is_out_of_memory(error: ffmpeg_next::Error) -> bool {
    matches!(error, ffmpeg_next::Error::Other { errno } if errno == ffmpeg_next::error::ENOMEM)
}
