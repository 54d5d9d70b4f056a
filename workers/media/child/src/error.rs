//! Why a task fails, as the child tells it.

use media::Code;

/// A failure of a task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The media file is at fault.
    #[error("{code}: {detail}")]
    Refused {
        /// Which rule it broke.
        code: Code,
        /// Where and how.
        detail: String,
    },
    /// Something else is: memory, the library, the parent.
    #[error("{0}")]
    Failed(String),
}

/// The result of every step in the child.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Puts the blame for a library error where it belongs.
pub(crate) trait Blame<T> {
    /// The file is to blame, unless memory ran out.
    fn refuse(self, code: Code, what: &str) -> Result<T>;

    /// The library or the machine is to blame.
    fn fail(self, what: &str) -> Result<T>;
}

impl<T> Blame<T> for std::result::Result<T, ffmpeg_next::Error> {
    fn refuse(self, code: Code, what: &str) -> Result<T> {
        self.map_err(|error| {
            if is_out_of_memory(error) {
                return Error::Failed(format!("{what}: out of memory"));
            }
            refused(code, format!("{what}: {error}"))
        })
    }

    fn fail(self, what: &str) -> Result<T> {
        self.map_err(|error| Error::Failed(format!("{what}: {error}")))
    }
}

/// A refusal of the file.
pub(crate) fn refused(code: Code, detail: impl Into<String>) -> Error {
    Error::Refused { code, detail: detail.into() }
}

/// Whether the library had no memory.
pub(crate) fn is_out_of_memory(error: ffmpeg_next::Error) -> bool {
    matches!(error, ffmpeg_next::Error::Other { errno } if errno == ffmpeg_next::error::ENOMEM)
}
