//! Digests a client may declare: `Upload-Checksum` of tus, `Content-Digest` and `Repr-Digest` of RFC 9530.

use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use schemas::upload;
use serde_bytes::ByteBuf;
use sha2::Digest as _;

use super::{fields::UPLOAD_CHECKSUM, refusal::UploadRefusal};

/// A digest over the bytes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DigestAlgorithm {
    Sha1,
    Md5,
    Crc32,
    Sha256,
    Sha512,
    Blake3,
}

impl DigestAlgorithm {
    const ALL: [Self; 6] = [Self::Sha1, Self::Md5, Self::Crc32, Self::Sha256, Self::Sha512, Self::Blake3];

    fn from_tus_name(name: &str) -> Option<Self> {
        Some(match name {
            "sha1" => Self::Sha1,
            "md5" => Self::Md5,
            "crc32" => Self::Crc32,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            "blake3" => Self::Blake3,
            _ => return None,
        })
    }

    /// The two active algorithms of RFC 9530.
    fn from_http_name(name: &str) -> Option<Self> {
        match name {
            "sha-256" => Some(Self::Sha256),
            "sha-512" => Some(Self::Sha512),
            _ => None,
        }
    }

    const fn http_name(self) -> &'static str {
        match self {
            Self::Sha512 => "sha-512",
            _ => "sha-256",
        }
    }

    const fn length_bytes(self) -> usize {
        match self {
            Self::Crc32 => 4,
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    fn new_hasher(self) -> DigestHasher {
        match self {
            Self::Sha1 => DigestHasher::Sha1(sha1::Sha1::new()),
            Self::Md5 => DigestHasher::Md5(md5::Md5::new()),
            Self::Crc32 => DigestHasher::Crc32(crc32fast::Hasher::new()),
            Self::Sha256 => DigestHasher::Sha256(sha2::Sha256::new()),
            Self::Sha512 => DigestHasher::Sha512(Box::new(sha2::Sha512::new())),
            Self::Blake3 => DigestHasher::Blake3(Box::new(blake3::Hasher::new())),
        }
    }
}

#[derive(Debug)]
enum DigestHasher {
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Crc32(crc32fast::Hasher),
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Blake3(Box<blake3::Hasher>),
}

/// A declared digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeclaredDigest {
    algorithm: DigestAlgorithm,
    value: Vec<u8>,
}

impl DeclaredDigest {
    /// Parses `Upload-Checksum: <algorithm> <base64>`.
    pub(super) fn from_checksum_field(text: &str) -> Result<Self, UploadRefusal> {
        let bad = |why| UploadRefusal::Header { name: "Upload-Checksum", why };
        let (name, encoded) =
            text.trim().split_once(' ').ok_or_else(|| bad("needs an algorithm and a value"))?;
        let algorithm = DigestAlgorithm::from_tus_name(name).ok_or(UploadRefusal::ChecksumAlgorithm)?;
        let value = STANDARD.decode(encoded.trim()).map_err(|_| bad("is not base64"))?;
        if value.len() != algorithm.length_bytes() {
            return Err(bad("has the wrong length for its algorithm"));
        }
        Ok(Self { algorithm, value })
    }

    /// Parses `Content-Digest` or `Repr-Digest`; algorithms that we do not check are skipped, as RFC 9530 allows.
    pub(super) fn from_digest_field(name: &'static str, text: &str) -> Result<Vec<Self>, UploadRefusal> {
        let bad = |why| UploadRefusal::Header { name, why };
        let mut found = Vec::new();
        for member in text.split(',').map(str::trim).filter(|m| !m.is_empty()) {
            let (key, value) = member.split_once('=').ok_or_else(|| bad("is no dictionary of digests"))?;
            // A key as RFC 9651 has it.
            let (key, letter) = (key.trim(), |byte: u8| byte.is_ascii_lowercase() || byte == b'*');
            let is_key = key.bytes().next().is_some_and(letter)
                && key.bytes().all(|byte| letter(byte) || byte.is_ascii_digit() || b"_-.".contains(&byte));
            if !is_key {
                return Err(bad("is no dictionary of digests"));
            }
            let encoded = value
                .trim()
                .strip_prefix(':')
                .and_then(|v| v.strip_suffix(':'))
                .ok_or_else(|| bad("is no byte sequence"))?;
            let value = STANDARD.decode(encoded).map_err(|_| bad("is not base64"))?;
            let Some(algorithm) = DigestAlgorithm::from_http_name(key) else { continue };
            if value.len() != algorithm.length_bytes() {
                return Err(bad("has the wrong length for its algorithm"));
            }
            found.push(Self { algorithm, value });
        }
        Ok(found)
    }

    /// As the record keeps it for the upload stage.
    pub(super) fn to_record(&self) -> upload::UploadDigest {
        upload::UploadDigest {
            algorithm: self.algorithm.http_name().to_owned(),
            value: ByteBuf::from(self.value.clone()),
        }
    }
}

/// Computes exactly the digests that were declared.
#[derive(Debug, Default)]
pub(super) struct DigestChecks {
    running: Vec<(DeclaredDigest, DigestHasher)>,
    /// Every algorithm, since the trailer behind the bytes says which; empty when there will be none.
    announced: Vec<(DigestAlgorithm, DigestHasher)>,
}

impl DigestChecks {
    pub(super) fn new(declared: impl IntoIterator<Item = DeclaredDigest>) -> Self {
        let running = declared.into_iter().map(|d| (d.clone(), d.algorithm.new_hasher())).collect();
        Self { running, announced: Vec::new() }
    }

    /// For bytes whose `Upload-Checksum` follows as a trailer (tus 1.0, checksum-trailer).
    pub(super) fn for_trailer() -> Self {
        let announced =
            DigestAlgorithm::ALL.iter().map(|algorithm| (*algorithm, algorithm.new_hasher())).collect();
        Self { running: Vec::new(), announced }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.announced.is_empty()
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.running.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
        self.announced.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
    }

    /// Takes the checksum that was announced as a trailer.
    pub(super) fn declare(&mut self, trailers: &HeaderMap) -> Result<(), UploadRefusal> {
        let bad = |why| UploadRefusal::Header { name: "Upload-Checksum", why };
        let Some(found) = trailers.get(UPLOAD_CHECKSUM) else { return Ok(()) };
        let text = found.to_str().map_err(|_| bad("is not ASCII"))?;
        let declared = DeclaredDigest::from_checksum_field(text)?;
        let announced = std::mem::take(&mut self.announced);
        let hasher = announced.into_iter().find(|(algorithm, _)| *algorithm == declared.algorithm);
        let (_, hasher) = hasher.ok_or_else(|| bad("is a trailer that Trailer does not name"))?;
        self.running.push((declared, hasher));
        Ok(())
    }

    /// True when every declared digest is that of the bytes, and none is missing that was announced.
    pub(super) fn all_match(self) -> bool {
        self.announced.is_empty()
            && self.running.into_iter().all(|(declared, hasher)| hasher.finish() == declared.value)
    }
}

impl DigestHasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(h) => h.update(bytes),
            Self::Md5(h) => h.update(bytes),
            Self::Crc32(h) => h.update(bytes),
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
            Self::Blake3(h) => {
                h.update(bytes);
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(h) => h.finalize().to_vec(),
            Self::Md5(h) => h.finalize().to_vec(),
            Self::Crc32(h) => h.finalize().to_be_bytes().to_vec(),
            Self::Sha256(h) => h.finalize().to_vec(),
            Self::Sha512(h) => h.finalize().to_vec(),
            Self::Blake3(h) => h.finalize().as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::uploads::fields::ALGORITHMS;

    /// Digests of `hello world`, from the published tools of each algorithm.
    const HELLO: [&str; 6] = [
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "md5 XrY7u+Ae7tCTyyK7j1rNww==",
        "crc32 DUoRhQ==",
        "sha256 uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=",
        "sha512 MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw==",
        "blake3 10mB76cKDIgLjYwZhdB128v2ebmaX5kU5ar5a4ManiQ=",
    ];

    #[test]
    fn knows_all_algorithms() {
        for text in HELLO {
            let declared = DeclaredDigest::from_checksum_field(text).unwrap();
            let mut checks = DigestChecks::new([declared.clone()]);
            checks.update(b"hello ");
            checks.update(b"world");
            assert!(checks.all_match(), "{text}");
            let mut checks = DigestChecks::new([declared]);
            checks.update(b"hello worlD");
            assert!(!checks.all_match(), "{text}");
        }
    }

    #[test]
    fn refuses_malformed_checksums() {
        for text in [
            "",
            "sha1",
            "sha1 ",
            "sha1 %%%",
            "sha1 aGVsbG8=",
            "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0",
            "crc32 AAAAAAA=",
        ] {
            let found = DeclaredDigest::from_checksum_field(text);
            assert!(matches!(found, Err(UploadRefusal::Header { .. })), "{text}: {found:?}");
        }
        for text in ["sha3 AAAA", "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "none x"] {
            let found = DeclaredDigest::from_checksum_field(text);
            assert!(matches!(found, Err(UploadRefusal::ChecksumAlgorithm)), "{text}: {found:?}");
        }
    }

    #[test]
    fn reads_digest_dictionaries() {
        let sha256 = "sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:";
        for (text, count) in [
            (sha256.to_owned(), 1),
            (format!("md5=:AAAA:, {sha256}"), 1),
            (format!("{sha256}, {sha256}"), 2),
            ("unixsum=:AAAA:".to_owned(), 0),
            (String::new(), 0),
        ] {
            let found = DeclaredDigest::from_digest_field("Repr-Digest", &text).unwrap();
            assert_eq!(found.len(), count, "{text}");
        }
        for text in [
            "sha-256",
            "sha-256=abc",
            "sha-256=:%:",
            "sha-256=:AAAA:",
            "md5=AAAA",
            "md5=:%:",
            "C+Wq=",
            "MD5=:AAAA:",
            "=:AAAA:",
            "9=:AAAA:",
        ] {
            assert!(DeclaredDigest::from_digest_field("Repr-Digest", text).is_err(), "{text}");
        }
    }

    proptest! {
        /// A digest of the right length reads back as it was; one byte more or less is refused.
        #[test]
        fn a_declared_digest_is_whole(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let text = STANDARD.encode(&bytes);
            for name in ALGORITHMS.split(',') {
                let algorithm = DigestAlgorithm::from_tus_name(name).unwrap();
                let wanted = (bytes.len() == algorithm.length_bytes())
                    .then(|| DeclaredDigest { algorithm, value: bytes.clone() });
                let found = DeclaredDigest::from_checksum_field(&format!("{name} {text}"));
                prop_assert_eq!(found.ok(), wanted.clone());
                let http = algorithm.http_name();
                if DigestAlgorithm::from_http_name(http) == Some(algorithm) {
                    let found = DeclaredDigest::from_digest_field("Repr-Digest", &format!("{http}=:{text}:"));
                    prop_assert_eq!(found.ok(), wanted.map(|declared| vec![declared]));
                }
            }
        }

        /// Whatever is sent, what is taken has the length of its algorithm and one spelling in the record.
        #[test]
        fn no_text_is_taken_for_a_digest_of_another_length(text in "(sha-(256|512)|md5|[a-z]{0,3})=?:?[A-Za-z0-9+/]{0,90}={0,2}:?") {
            for declared in DeclaredDigest::from_digest_field("Repr-Digest", &text).unwrap_or_default() {
                prop_assert_eq!(declared.value.len(), declared.algorithm.length_bytes());
                let record = declared.to_record();
                let again = format!("{}=:{}:", record.algorithm, STANDARD.encode(&record.value));
                prop_assert_eq!(DeclaredDigest::from_digest_field("Repr-Digest", &again).unwrap(), vec![declared]);
            }
        }
    }
}
