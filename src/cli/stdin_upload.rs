//! Uploading what comes from standard input.
//!
//! Its length is not known before its end, so the upload is opened without one (tus 1.0, creation-defer-length), and the last request
//! says it; what fits into one piece is opened with its length. A piece is kept in memory until the server has it: when a connection
//! is cut or the server is restarted, the rest of the piece is sent from there. Nothing is written to a disk of this machine. A pipe
//! can't be read again, so a command that ends before its upload does begins anew.
//!
//! Limits: [`PIECE_BYTES_MAX`] of the pipe are in memory.

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    client::{ApiClient, ClientError},
    progress::FileProgress,
    tus::{self, FileDescription, TusUpload, UploadByteSource},
};

/// Bytes of the pipe that are kept until the server has them.
pub const PIECE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What happened to an upload from a pipe.
#[derive(Debug)]
pub struct PipedUpload {
    /// The upload, complete.
    pub upload: TusUpload,
    /// How many bytes came.
    pub size_bytes: u64,
}

/// Uploads all that can be read from `pipe`.
///
/// # Errors
/// When nothing comes, the pipe can't be read, or the server refuses. What was begun is ended then, where the server answers.
pub async fn upload_pipe(
    client: &ApiClient,
    pipe: impl AsyncRead + Unpin,
    file: FileDescription<'_>,
) -> anyhow::Result<PipedUpload> {
    let mut pieces = PipePieces { pipe, next: Vec::new(), at_bytes: 0 };
    let first = pieces.read_piece().await?;
    if first.bytes.is_empty() {
        bail!(
            "nothing came from standard input: pipe a file into this command, such as `... | streamgate upload -`"
        );
    }
    let upload = tus::create_upload(client, first.whole_bytes, file).await?;
    let progress = FileProgress::start(file.name, first.whole_bytes, 0);
    let sent = send_pieces(client, upload.clone(), &mut pieces, first, &progress).await;
    progress.finish();
    match sent {
        Ok(size_bytes) => Ok(PipedUpload { upload, size_bytes }),
        Err(error) => {
            // A server that is away lets it expire by itself.
            if !error.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient) {
                tus::end_upload(client, &upload.path).await.ok();
            }
            Err(error
                .context("the upload was cut, and a pipe can't be read again: run the whole command anew"))
        }
    }
}

/// Sends the pieces one after the other; the number of bytes of all.
async fn send_pieces(
    client: &ApiClient,
    mut upload: TusUpload,
    pieces: &mut PipePieces<impl AsyncRead + Unpin>,
    first: PipePiece,
    progress: &FileProgress,
) -> anyhow::Result<u64> {
    let mut piece = first;
    loop {
        let end_bytes = piece.end_bytes();
        // An upload that was opened with its length is not given it again.
        let length_bytes = piece.whole_bytes.filter(|_| piece.start_bytes > 0);
        let source =
            UploadByteSource::Buffered { start_bytes: piece.start_bytes, bytes: piece.bytes, length_bytes };
        tus::send_upload(client, &upload, &source, end_bytes, |at_bytes| progress.set_position(at_bytes))
            .await?;
        if piece.whole_bytes.is_some() {
            return Ok(end_bytes);
        }
        upload.offset_bytes = end_bytes;
        // Before the next one is read: two would be in memory.
        drop(source);
        piece = pieces.read_piece().await?;
    }
}

/// A part of what comes.
struct PipePiece {
    start_bytes: u64,
    bytes: Bytes,
    /// Length of all that came, with the last piece.
    whole_bytes: Option<u64>,
}

impl PipePiece {
    fn end_bytes(&self) -> u64 {
        self.start_bytes.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }
}

/// Cuts what comes into pieces.
struct PipePieces<R> {
    pipe: R,
    /// What came behind the last piece: only then it is known that it was not the last one.
    next: Vec<u8>,
    at_bytes: u64,
}

impl<R: AsyncRead + Unpin> PipePieces<R> {
    async fn read_piece(&mut self) -> anyhow::Result<PipePiece> {
        let mut bytes = std::mem::take(&mut self.next);
        let left = PIECE_BYTES_MAX.saturating_sub(bytes.len());
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        bytes.reserve_exact(PIECE_BYTES_MAX);
        let unreadable = "standard input can't be read";
        (&mut self.pipe).take(left).read_to_end(&mut bytes).await.context(unreadable)?;
        if bytes.len() >= PIECE_BYTES_MAX {
            (&mut self.pipe).take(1).read_to_end(&mut self.next).await.context(unreadable)?;
        }
        let mut piece = PipePiece { start_bytes: self.at_bytes, bytes: bytes.into(), whole_bytes: None };
        self.at_bytes = piece.end_bytes();
        if self.next.is_empty() {
            piece.whole_bytes = Some(self.at_bytes);
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_piece_says_how_long_the_whole_is() {
        for size in [0, 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 2 * PIECE_BYTES_MAX, 2 * PIECE_BYTES_MAX + 7]
        {
            let all: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
            let mut pieces = PipePieces { pipe: &all[..], next: Vec::new(), at_bytes: 0 };
            let mut came = Vec::new();
            let whole_bytes = loop {
                let piece = pieces.read_piece().await.unwrap();
                assert!(piece.bytes.len() <= PIECE_BYTES_MAX);
                assert_eq!(piece.start_bytes, came.len() as u64);
                came.extend_from_slice(&piece.bytes);
                if let Some(whole_bytes) = piece.whole_bytes {
                    break whole_bytes;
                }
            };
            assert_eq!((came.len(), whole_bytes), (size, size as u64));
            assert!(came == all, "{size}");
        }
    }
}
