//! Reads a file once from front to back: size, digests, type by content, structure to the last byte. No IO of its own.
//!
//! Limits: [`FIRST_BYTES`] are kept until the type is known.

use schemas::{media::MediaWarning, rejection::RejectionCode, upload::UploadDigest};
use sha2::{Digest as _, Sha256, Sha512};

use crate::{
    UploadRejection,
    second_file::name_second_file,
    structure::{StructureReport, StructureScanner},
    structure_format::{DetectedStructure, FIRST_BYTES, is_animated_webp},
    warnings,
};

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
    is_strict: bool,
    /// The beginning, until the type is known.
    first: Vec<u8>,
    walk: Option<StructureScanner>,
    warnings: Vec<MediaWarning>,
    tail: Vec<u8>,
}

/// A file that can be played, as far as its outside says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedFile {
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// What of the file is missing, or not read.
    pub warnings: Vec<MediaWarning>,
}

impl FileVerifier {
    /// Verifies a file of `size_bytes` with the digest its sender declared. A strict one refuses what gives a warning otherwise.
    pub fn new(size_bytes: u64, declared: Option<UploadDigest>, is_strict: bool) -> Self {
        let sha512 = declared.as_ref().filter(|d| d.algorithm == "sha-512").map(|_| Sha512::new());
        Self {
            size_bytes,
            seen_bytes: 0,
            sha256: Sha256::new(),
            sha512,
            declared,
            is_strict,
            first: Vec::new(),
            walk: None,
            warnings: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// Takes the next bytes, however many.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), UploadRejection> {
        self.seen_bytes = self.seen_bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.keep_tail(bytes);
        if let Some(walk) = &mut self.walk {
            return walk.update(bytes);
        }
        self.first.extend_from_slice(bytes);
        let is_enough = self.first.len() >= FIRST_BYTES || self.seen_bytes >= self.size_bytes;
        if is_enough { self.begin_walk() } else { Ok(()) }
    }

    /// Recognises the type, and walks what was kept for that.
    fn begin_walk(&mut self) -> Result<(), UploadRejection> {
        let first = std::mem::take(&mut self.first);
        let detected = DetectedStructure::detect(&first)
            .filter(|found| !(self.is_strict && found.has_stray_start()))
            .ok_or_else(|| unsupported_error(&first))?;
        // What a format lets come first is no place for a second file either.
        let leading = first.get(..detected.leading_bytes).unwrap_or_default();
        if let Some(kind) = name_second_file(leading) {
            let detail = format!("the file begins as another one ({kind}); upload the medium without it");
            return Err(UploadRejection::new(RejectionCode::UnsupportedType, detail));
        }
        if detected.has_stray_start() {
            self.warnings.push(warnings::of_leading_bytes(detected.leading_bytes));
        }
        let mut walk = StructureScanner::new(detected, self.size_bytes);
        walk.update(&first)?;
        self.walk = Some(walk);
        Ok(())
    }

    /// The verdict after the last byte.
    pub fn finish(mut self) -> Result<VerifiedFile, UploadRejection> {
        if self.size_bytes == 0 {
            return Err(UploadRejection::new(RejectionCode::Empty, "the file has no bytes"));
        }
        // Before the digest: a short read would be reported as a wrong digest.
        if self.seen_bytes != self.size_bytes {
            let detail = format!("{} of {} bytes could be read", self.seen_bytes, self.size_bytes);
            return Err(UploadRejection::size_mismatch(detail));
        }
        let sha256 = self.sha256.finalize_reset();
        if let Some(declared) = &self.declared {
            let found = match &self.sha512 {
                Some(sha512) => sha512.clone().finalize().to_vec(),
                None => sha256.to_vec(),
            };
            if declared.value.as_slice() != found {
                let detail = format!("the {} digest is not the declared one", declared.algorithm);
                return Err(UploadRejection::new(RejectionCode::DigestMismatch, detail));
            }
        }
        if let Some(walk) = self.walk.take() {
            self.judge_report(&walk.finish()?)?;
        }
        if ends_with_archive(&self.tail) {
            let detail = "the file ends as an archive (ZIP) as well; upload the medium without it";
            return Err(UploadRejection::new(RejectionCode::EmbeddedArchive, detail));
        }
        Ok(VerifiedFile { sha256: hex::encode(sha256), warnings: self.warnings })
    }

    /// Refuses a second file behind the medium; other departures are warnings, or refused by a strict verifier.
    fn judge_report(&mut self, report: &StructureReport) -> Result<(), UploadRejection> {
        if let Some(at) = report.trailing_at {
            let second = name_second_file(&report.trailing_head);
            if self.is_strict || second.is_some() {
                return Err(trailing_error(at, second));
            }
            self.warnings.push(warnings::of_trailing_bytes(at, self.size_bytes));
        }
        if let Some(cut) = report.cut {
            let warning = warnings::of_cut(cut.start, self.size_bytes);
            if self.is_strict && !cut.is_usual {
                return Err(UploadRejection::new(RejectionCode::Truncated, warning.detail));
            }
            self.warnings.push(warning);
        }
        Ok(())
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

fn trailing_error(at: u64, second: Option<String>) -> UploadRejection {
    let at = warnings::with_thousands(at);
    let detail = match second {
        Some(kind) => format!(
            "a second file ({kind}) begins at byte {at}, behind the media file; upload the media file without it"
        ),
        None => format!(
            "what begins at byte {at} is no part of the media file; upload it without that, or allow it by `upload.strict = false`"
        ),
    };
    UploadRejection::new(RejectionCode::TrailingData, detail)
}

fn unsupported_error(bytes: &[u8]) -> UploadRejection {
    if is_animated_webp(bytes) {
        let detail = "animated WebP is not taken here; convert it to a GIF, an APNG or a video";
        return UploadRejection::new(RejectionCode::UnsupportedType, detail);
    }
    UploadRejection::unsupported(&infer::get(bytes).map_or_else(
        || "the content is of no known type".to_owned(),
        |kind| format!("the content is {}, no media file that is taken here", kind.mime_type()),
    ))
}

/// True when the bytes end with a complete end record of a ZIP archive.
fn ends_with_archive(tail: &[u8]) -> bool {
    tail.windows(22).enumerate().any(|(at, record)| {
        let [b'P', b'K', 5, 6, .., low, high] = record else { return false };
        // Its comment has to reach the end exactly: media may hold the four bytes of the signature by chance.
        at + 22 + usize::from(u16::from_le_bytes([*low, *high])) == tail.len()
    })
}
