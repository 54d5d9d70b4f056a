//! Lines of a body that arrives in pieces.
//!
//! Limits: a line of more than [`LINE_BYTES_MAX`] ends the reading.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};

use super::client::{self, ClientError};

/// Longest line in bytes; the bus takes no larger message.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Cuts pieces into lines.
#[derive(Debug, Default)]
struct LineSplitter {
    whole: VecDeque<Vec<u8>>,
    rest: Vec<u8>,
}

impl LineSplitter {
    /// Takes a piece; false when a line is longer than its limit.
    fn push(&mut self, piece: &[u8]) -> bool {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.rest.len() + part.len() > LINE_BYTES_MAX {
                return false;
            }
            self.rest.extend_from_slice(part);
            if self.rest.pop_if(|byte| *byte == b'\n').is_some() {
                self.rest.pop_if(|byte| *byte == b'\r');
                self.whole.push_back(std::mem::take(&mut self.rest));
            }
        }
        true
    }
}

/// The lines of an answer's body, without their ends.
pub struct BodyLines {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    splitter: LineSplitter,
}

impl std::fmt::Debug for BodyLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl BodyLines {
    /// Reads `body`.
    pub fn new(body: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static) -> Self {
        Self { body: body.boxed(), splitter: LineSplitter::default() }
    }

    /// The next line; `None` at the end of the body. May be dropped and called again.
    ///
    /// # Errors
    /// [`ClientError::Cut`] when the body ends inside a line or is broken off; [`ClientError::Strange`] for a line above its limit.
    pub async fn next_line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(line) = self.splitter.whole.pop_front() {
                return Ok(Some(line));
            }
            match self.body.next().await {
                Some(Ok(piece)) if self.splitter.push(&piece) => {}
                Some(Ok(_)) => {
                    return Err(ClientError::Strange {
                        reason: format!("a line has more than {LINE_BYTES_MAX} bytes"),
                    });
                }
                Some(Err(error)) => return Err(ClientError::Cut { reason: client::innermost_cause(&error) }),
                None if self.splitter.rest.is_empty() => return Ok(None),
                None => return Err(ClientError::Cut { reason: "it ended inside a line".into() }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_the_pieces() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut splitter = LineSplitter::default();
            assert!(text.chunks(size).all(|piece| splitter.push(piece)), "{size}");
            let lines: Vec<&[u8]> = splitter.whole.iter().map(Vec::as_slice).collect();
            assert_eq!(lines, [b"one".as_slice(), b"", b"two"], "{size}");
            assert_eq!(splitter.rest, b"three");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut splitter = LineSplitter::default();
        assert!(splitter.push(&vec![b'x'; LINE_BYTES_MAX]));
        assert!(!splitter.push(b"x"));
    }
}
