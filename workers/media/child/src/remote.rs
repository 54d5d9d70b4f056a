//! The source as a seekable stream, read through the parent in blocks.
//!
//! Limits: 16 blocks of 256 KiB are kept; one block is asked for ahead.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use crate::parent_pipe::ParentPipe;

/// Bytes asked for at a time.
const BLOCK_BYTES: u64 = 256 << 10;

/// Blocks kept; interleaved tracks that lie apart need a few at the same time.
const BLOCKS_MAX: usize = 16;

/// A reader over the source.
#[derive(Debug)]
pub(crate) struct RemoteSource {
    wire: Arc<ParentPipe>,
    size_bytes: u64,
    /// Where the medium begins; the reader knows nothing of what is before it.
    start: u64,
    /// From the beginning of the source.
    position: u64,
    /// The most recently used last.
    blocks: VecDeque<(u64, Bytes)>,
    /// A block that was asked for and not yet taken.
    ahead: Option<u64>,
    last: Option<u64>,
}

impl RemoteSource {
    pub(crate) fn new(wire: Arc<ParentPipe>, size_bytes: u64) -> Self {
        Self { wire, size_bytes, start: 0, position: 0, blocks: VecDeque::new(), ahead: None, last: None }
    }

    /// Leaves out the first bytes of the source.
    pub(crate) fn begin_at(&mut self, start: u64) {
        (self.start, self.position) = (start, start);
    }

    fn read_block(&mut self, number: u64) -> io::Result<Bytes> {
        if let Some(place) = self.blocks.iter().position(|(kept, _)| *kept == number)
            && let Some(found) = self.blocks.remove(place)
        {
            let bytes = found.1.clone();
            self.blocks.push_back(found);
            return Ok(bytes);
        }
        let is_ahead = self.ahead == Some(number);
        if !is_ahead {
            self.take_prefetched_block()?;
            self.request_block(number)?;
        }
        self.ahead = None;
        let bytes = self.wire.receive_data()?;
        let is_sequential = self.last.is_some_and(|last| last + 1 == number);
        self.last = Some(number);
        self.cache_block(number, bytes.clone());
        // Only for a reader that goes forward: a seek would throw the block away after the store has read it.
        if is_sequential && (number + 1) * BLOCK_BYTES < self.size_bytes {
            self.request_block(number + 1)?;
            self.ahead = Some(number + 1);
        }
        Ok(bytes)
    }

    fn request_block(&self, number: u64) -> io::Result<()> {
        let offset = number * BLOCK_BYTES;
        let len = BLOCK_BYTES.min(self.size_bytes - offset);
        self.wire.request_read(offset, u32::try_from(len).map_err(io::Error::other)?)
    }

    fn cache_block(&mut self, number: u64, bytes: Bytes) {
        if self.blocks.len() >= BLOCKS_MAX {
            self.blocks.pop_front();
        }
        self.blocks.push_back((number, bytes));
    }

    /// Takes an answer that is on its way, so that the next answer belongs to the next question.
    fn take_prefetched_block(&mut self) -> io::Result<()> {
        if let Some(number) = self.ahead.take() {
            let bytes = self.wire.receive_data()?;
            self.cache_block(number, bytes);
        }
        Ok(())
    }
}

impl Read for RemoteSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size_bytes {
            return Ok(0);
        }
        let bytes = self.read_block(self.position / BLOCK_BYTES)?;
        let start = usize::try_from(self.position % BLOCK_BYTES).map_err(io::Error::other)?;
        // A short block means that the source ends earlier than it said.
        let rest = bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(from), Some(to)) = (rest.get(..count), buffer.get_mut(..count)) {
            to.copy_from_slice(from);
        }
        self.position += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

impl Seek for RemoteSource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => self.start.checked_add(offset),
            SeekFrom::End(offset) => self.size_bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let position = position.filter(|position| *position >= self.start);
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position - self.start)
    }
}

impl Drop for RemoteSource {
    fn drop(&mut self) {
        // A later reader of the same source must not get this one's answer. If the parent is gone, so is the process.
        let _gone = self.take_prefetched_block();
    }
}
