//! Reads a file once from front to back: size, digests, type by content, structure to the last byte. No IO of its own.

use schemas::upload::UploadDigest;
use sha2::{Digest as _, Sha256, Sha512};

use crate::{UploadRejection, structure::StructureScanner, structure_format::StructureFormat};

/// A ZIP archive ends with a record of 22 bytes and a comment of at most 65,535 bytes.
const ARCHIVE_END_BYTES: usize = 22 + 65_535;

/// Takes the bytes of a file in order and comes to a verdict about everything but its contents.
#[derive(Debug)]
pub struct FileVerifier {
    size_bytes: u64,
    seen_bytes: u64,
    sha256: Sha256,
    sha512: Option<Sha512>,
    declared: Option<UploadDigest>,
    walk: Option<StructureScanner>,
    tail: Vec<u8>,
}

impl FileVerifier {
    /// Verifies a file of `size_bytes` with the digest its sender declared.
    pub fn new(size_bytes: u64, declared: Option<UploadDigest>) -> Self {
        let sha512 = declared.as_ref().filter(|d| d.algorithm == "sha-512").map(|_| Sha512::new());
        Self {
            size_bytes,
            seen_bytes: 0,
            sha256: Sha256::new(),
            sha512,
            declared,
            walk: None,
            tail: Vec::new(),
        }
    }

    /// Takes the next bytes. The first call needs at least 4 KiB, or all bytes of a smaller file.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), UploadRejection> {
        if self.walk.is_none() {
            let format = StructureFormat::detect(bytes).ok_or_else(|| unsupported_error(bytes))?;
            self.walk = Some(StructureScanner::new(format, self.size_bytes));
        }
        self.seen_bytes = self.seen_bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.keep_tail(bytes);
        match &mut self.walk {
            Some(walk) => walk.update(bytes),
            None => Ok(()),
        }
    }

    /// The verdict after the last byte: the SHA-256 in lower-case hex.
    pub fn finish(self) -> Result<String, UploadRejection> {
        if self.size_bytes == 0 {
            return Err(UploadRejection::new("empty", "the file has no bytes"));
        }
        // Before the digest: a short read would be reported as a wrong digest.
        if self.seen_bytes != self.size_bytes {
            let detail = format!("{} of {} bytes could be read", self.seen_bytes, self.size_bytes);
            return Err(UploadRejection::size_mismatch(detail));
        }
        let sha256 = self.sha256.finalize();
        if let Some(declared) = &self.declared {
            let found = match &self.sha512 {
                Some(sha512) => sha512.clone().finalize().to_vec(),
                None => sha256.to_vec(),
            };
            if declared.value.as_slice() != found {
                let detail = format!("the {} digest is not the declared one", declared.algorithm);
                return Err(UploadRejection::new("digest_mismatch", detail));
            }
        }
        if let Some(walk) = self.walk {
            walk.finish()?;
        }
        if ends_with_archive(&self.tail) {
            return Err(UploadRejection::new("embedded_archive", "the file is an archive as well"));
        }
        Ok(hex::encode(sha256))
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        // The record may begin in one piece and end in the next.
        let keep_old = ARCHIVE_END_BYTES.saturating_sub(bytes.len());
        let drop = self.tail.len().saturating_sub(keep_old);
        self.tail.drain(..drop);
        let from = bytes.len().saturating_sub(ARCHIVE_END_BYTES);
        self.tail.extend(bytes.iter().skip(from));
    }
}

fn unsupported_error(bytes: &[u8]) -> UploadRejection {
    let found = infer::get(bytes).map_or("nothing known", |kind| kind.mime_type());
    UploadRejection::new(
        "unsupported_type",
        format!("the content is {found}, not a media file that is taken here"),
    )
}

/// True when the bytes end with a complete end record of a ZIP archive.
fn ends_with_archive(tail: &[u8]) -> bool {
    tail.windows(22).enumerate().any(|(at, record)| {
        let [b'P', b'K', 5, 6, .., low, high] = record else { return false };
        // Its comment has to reach the end exactly: media may hold the four bytes of the signature by chance.
        at + 22 + usize::from(u16::from_le_bytes([*low, *high])) == tail.len()
    })
}
