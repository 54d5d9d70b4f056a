//! Where the bytes of a media file come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

/// A file that can be read at any place.
pub trait MediaByteSource: Send + Sync {
    /// Length of the file in bytes.
    fn size_bytes(&self) -> u64;

    /// Reads `len` bytes at `offset`; fewer only at the end of the file. The driver asks for at most
    /// [`crate::protocol::READ_BYTES_MAX`] at a time, within the file.
    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>>;
}

/// A local file.
#[derive(Debug)]
pub struct FileSource {
    file: Arc<File>,
    size_bytes: u64,
}

impl FileSource {
    /// Opens a local file; its size is taken now.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), size_bytes })
    }
}

impl MediaByteSource for FileSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut buffer = vec![0; len];
            let mut filled = 0;
            while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
                match file.read_at(rest, at) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        };
        Box::pin(async move { tokio::task::spawn_blocking(read).await.map_err(io::Error::other)? })
    }
}
