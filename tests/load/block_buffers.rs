//! What a broker keeps in memory of the blocks that its streams write: the newest block of each in a buffer of one of four sizes
//! (nats-server 2.14, `server/filestore.go`, `getMsgBlockBuf`). It grows with what a stream holds until that fills its first block, so it is
//! the same for a million uploads as for some thousand, and is no growth by upload; a run of an hour sees most of it.
//!
//! Limits: each stream counts by its longest block, also while it rests and has given its buffer back. So a run of an hour does not see
//! other growth of up to twice the buffers, 16 MiB a stream; a longer one does, since these end there.

use std::path::Path;

/// Sizes of the buffers, in bytes; a block is never longer than the last one.
const BUFFER_BYTES: [u64; 4] = [256 << 10, 1 << 20, 4 << 20, 8 << 20];

/// Go collects what is of no more use once memory is twice what is used (GOGC=100).
const COLLECTED_AT: u64 = 2;

/// Bytes of memory that the streams below `folder` take by their newest blocks.
pub(crate) fn memory_of_blocks(folder: &Path) -> u64 {
    COLLECTED_AT * buffers_below(folder)
}

fn buffers_below(folder: &Path) -> u64 {
    let mut longest: Option<u64> = None;
    let mut below = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            below += buffers_below(&entry.path());
        } else if entry.path().extension().is_some_and(|extension| extension == "blk") {
            longest = longest.max(Some(found.len()));
        }
    }
    below + longest.map_or(0, buffer_of)
}

fn buffer_of(block_bytes: u64) -> u64 {
    let fitting = BUFFER_BYTES.into_iter().find(|buffer_bytes| block_bytes <= *buffer_bytes);
    fitting.unwrap_or(BUFFER_BYTES[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_counts_by_its_longest_block() {
        let folder = tempfile::tempdir().unwrap();
        for (stream, number, size_bytes) in
            [("EVENTS", 9, 3 << 20), ("EVENTS", 10, 300 << 10), ("AUDIT", 1, 9 << 20), ("JOBS", 1, 0)]
        {
            let messages = folder.path().join(stream).join("msgs");
            std::fs::create_dir_all(&messages).unwrap();
            let block = std::fs::File::create(messages.join(format!("{number}.blk"))).unwrap();
            block.set_len(size_bytes).unwrap();
            std::fs::write(messages.join("index.db"), "no block").unwrap();
        }
        assert_eq!(memory_of_blocks(folder.path()), 2 * ((4 << 20) + (8 << 20) + (256 << 10)));
        assert_eq!(memory_of_blocks(&folder.path().join("none")), 0);
    }
}
