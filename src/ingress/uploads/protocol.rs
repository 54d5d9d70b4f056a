//! tus 1.0 without IO: what headers mean, and whether bytes may be appended to an upload as it stands.

use axum::http::{HeaderMap, HeaderName, header};
use schemas::upload::{Record, Status};

use super::{
    digest::Declared,
    ledger::MEDIA_REMOVED,
    metadata::{self, Metadata},
    refusal::Refusal,
};
use web::kind::Kind;

/// The version spoken.
pub(super) use web::heads::{TUS_RESUMABLE, TUS_VERSION as VERSION};
/// The extensions offered.
pub(super) const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,termination,expiration,checksum";
/// Media type of appended bytes.
pub(super) const OFFSET_TYPE: &str = "application/offset+octet-stream";
/// Longest length a client may name: 2^63-1.
const LENGTH_BYTES_MAX: u64 = (1 << 63) - 1;

pub(super) const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub(super) const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub(super) const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub(super) const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
pub(super) const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(super) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub(super) const MEDIA_ID: HeaderName = HeaderName::from_static("streamgate-media-id");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Checks `Tus-Resumable`.
pub(super) fn version(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(TUS_RESUMABLE) {
        Some(value) if value.as_bytes() == VERSION.as_bytes() => Ok(()),
        _ => Err(Refusal::Version),
    }
}

/// What a creation asks for.
#[derive(Debug)]
pub(super) struct Creation {
    /// Total length in bytes; `None` while it is deferred.
    pub(super) length_bytes: Option<u64>,
    /// About the file.
    pub(super) metadata: Metadata,
    /// Digest of the whole file.
    pub(super) repr_digest: Option<Declared>,
    /// The first bytes, when the request has any.
    pub(super) upload: Option<Append>,
}

/// What an append says about its bytes.
#[derive(Debug, Default)]
pub(super) struct Append {
    /// Where they belong.
    pub(super) offset_bytes: u64,
    /// How many there are, when the request says so.
    pub(super) content_bytes: Option<u64>,
    /// The upload's length, when the request fixes it.
    pub(super) length_bytes: Option<u64>,
    /// Digest of the bytes; none of them counts unless it holds.
    pub(super) checksum: Option<Declared>,
}

/// Reads the headers of a creation.
pub(super) fn creation(headers: &HeaderMap, metadata_bytes_max: usize) -> Result<Creation, Refusal> {
    let length_bytes = match (number(headers, &UPLOAD_LENGTH, "Upload-Length")?, defers(headers)?) {
        (Some(length), false) => Some(length),
        (None, true) => None,
        _ => {
            return Err(Refusal::Header {
                name: "Upload-Length",
                why: "or Upload-Defer-Length is needed, not both",
            });
        }
    };
    let metadata = metadata(headers, metadata_bytes_max)?;
    let upload = if is_offset_type(headers) { Some(append_body(headers)?) } else { None };
    Ok(Creation { length_bytes, metadata, repr_digest: repr_digests(headers)?.into_iter().next(), upload })
}

/// What `Upload-Metadata` says about the file.
pub(super) fn metadata(headers: &HeaderMap, bytes_max: usize) -> Result<Metadata, Refusal> {
    let raw = single(headers, &UPLOAD_METADATA, "Upload-Metadata")?.unwrap_or_default();
    if raw.len() > bytes_max {
        return Err(Refusal::MetadataTooLong);
    }
    metadata::parse(raw)
}

/// Reads the headers of an append.
pub(super) fn append(headers: &HeaderMap) -> Result<Append, Refusal> {
    if !is_offset_type(headers) {
        return Err(Refusal::MediaType(OFFSET_TYPE));
    }
    let offset_bytes = number(headers, &UPLOAD_OFFSET, "Upload-Offset")?
        .ok_or(Refusal::Header { name: "Upload-Offset", why: "is missing" })?;
    let length_bytes = number(headers, &UPLOAD_LENGTH, "Upload-Length")?;
    Ok(Append { offset_bytes, length_bytes, ..append_body(headers)? })
}

fn append_body(headers: &HeaderMap) -> Result<Append, Refusal> {
    if headers
        .get_all(header::TRAILER)
        .iter()
        .any(|t| contains_ignoring_case(t.as_bytes(), UPLOAD_CHECKSUM.as_str()))
    {
        return Err(Refusal::Header { name: "Upload-Checksum", why: "is not taken as a trailer" });
    }
    let checksum =
        single(headers, &UPLOAD_CHECKSUM, "Upload-Checksum")?.map(Declared::from_checksum).transpose()?;
    Ok(Append { checksum, content_bytes: content_length(headers)?, ..Append::default() })
}

/// `Content-Length`, when there is one.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    number(headers, &header::CONTENT_LENGTH, "Content-Length")
}

/// Every digest of `Content-Digest` and `Repr-Digest` that we check; the two agree for a body that is the whole file.
pub(super) fn body_digests(headers: &HeaderMap) -> Result<Vec<Declared>, Refusal> {
    let mut all = match single(headers, &CONTENT_DIGEST, "Content-Digest")? {
        Some(text) => Declared::from_dictionary("Content-Digest", text)?,
        None => Vec::new(),
    };
    all.extend(repr_digests(headers)?);
    Ok(all)
}

fn repr_digests(headers: &HeaderMap) -> Result<Vec<Declared>, Refusal> {
    match single(headers, &REPR_DIGEST, "Repr-Digest")? {
        Some(text) => Declared::from_dictionary("Repr-Digest", text),
        None => Ok(Vec::new()),
    }
}

fn is_offset_type(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(OFFSET_TYPE.as_bytes()))
}

fn defers(headers: &HeaderMap) -> Result<bool, Refusal> {
    match single(headers, &UPLOAD_DEFER_LENGTH, "Upload-Defer-Length")? {
        None => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(Refusal::Header { name: "Upload-Defer-Length", why: "may only be 1" }),
    }
}

/// A header that may stand once, as text.
fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<&'h str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Refusal::Header { name: shown, why: "stands more than once" });
    }
    first.to_str().map(Some).map_err(|_| Refusal::Header { name: shown, why: "is not ASCII" })
}

/// Digits only: no sign, no space, no more than 2^63-1.
fn number(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(text) = single(headers, name, shown)? else { return Ok(None) };
    let number: Option<u64> = if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok().filter(|n| *n <= LENGTH_BYTES_MAX)
    } else {
        None
    };
    number.map(Some).ok_or(Refusal::Header { name: shown, why: "is no number of bytes" })
}

fn contains_ignoring_case(text: &[u8], wanted: &str) -> bool {
    text.to_ascii_lowercase().windows(wanted.len()).any(|w| w == wanted.as_bytes())
}

/// What an append may do to an upload as it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing: it is complete, and the client only missed the answer.
    Complete,
    /// Take up to this many bytes.
    Take {
        /// Most bytes that may follow.
        room_bytes: u64,
        /// The upload's length from now on.
        length_bytes: Option<u64>,
    },
}

/// Whether an upload can be spoken about at all.
pub(super) fn alive(record: &Record) -> Result<(), Refusal> {
    match record.status {
        Status::Open | Status::Received => Ok(()),
        Status::Terminated if record.code.as_deref() == Some(MEDIA_REMOVED) => {
            Err(Refusal::Gone(Kind::MediaRemoved))
        }
        Status::Terminated => Err(Refusal::Gone(Kind::UploadTerminated)),
        Status::Expired => Err(Refusal::Gone(Kind::UploadExpired)),
        Status::Deactivated => Err(Refusal::Gone(Kind::UploadBytesLost)),
    }
}

/// Decides whether the bytes of `append` may follow.
pub(super) fn admit(record: &Record, append: &Append, size_bytes_max: u64) -> Result<Admission, Refusal> {
    alive(record)?;
    if append.offset_bytes != record.offset_bytes {
        return Err(Refusal::Offset { offset_bytes: record.offset_bytes });
    }
    let length_bytes = agreed_length(record, append.length_bytes, size_bytes_max)?;
    let end = length_bytes.unwrap_or(size_bytes_max);
    let room_bytes = end.saturating_sub(record.offset_bytes);
    if append.content_bytes.is_some_and(|n| n > room_bytes) {
        return Err(Refusal::TooLarge);
    }
    if record.status == Status::Received {
        return Ok(Admission::Complete);
    }
    Ok(Admission::Take { room_bytes, length_bytes })
}

/// Refuses what no holder that lets go can make right: an offset that is passed or that it can't have reached, bytes beyond the
/// length, another length. `unrecorded_max` is how far a holder may be beyond the record.
pub(super) fn may_become_right(
    record: &Record,
    append: &Append,
    unrecorded_max: u64,
    size_bytes_max: u64,
) -> Result<(), Refusal> {
    let recorded = record.offset_bytes;
    let length_bytes = agreed_length(record, append.length_bytes, size_bytes_max)?;
    let end = length_bytes.unwrap_or(size_bytes_max);
    let ahead_max = if record.holder.is_some() { unrecorded_max } else { 0 };
    let reachable = recorded.saturating_add(ahead_max).min(end);
    if append.offset_bytes < recorded || append.offset_bytes > reachable {
        return Err(Refusal::Offset { offset_bytes: recorded });
    }
    if append.content_bytes.is_some_and(|n| n > end - append.offset_bytes) {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

fn agreed_length(record: &Record, named: Option<u64>, size_bytes_max: u64) -> Result<Option<u64>, Refusal> {
    let bad = |why| Refusal::Header { name: "Upload-Length", why };
    match (record.length_bytes, named) {
        (known, None) => Ok(known),
        (Some(known), Some(named)) if known == named => Ok(Some(known)),
        (Some(_), Some(_)) => Err(bad("can't be changed")),
        (None, Some(named)) if named < record.offset_bytes => Err(bad("is below the offset")),
        (None, Some(named)) if named > size_bytes_max => Err(bad("is above Tus-Max-Size")),
        (None, Some(named)) => Ok(Some(named)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use schemas::ids::{MediaId, UploadId};

    use super::*;

    const MAX: u64 = 1000;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn record(offset_bytes: u64, length_bytes: Option<u64>, status: Status) -> Record {
        Record {
            status,
            length_bytes,
            offset_bytes,
            generation: 1,
            ..Record::new(UploadId::from_bytes([1; 16]), MediaId::from_bytes([2; 16]), "o".into())
        }
    }

    #[test]
    fn speaks_one_version() {
        assert!(version(&headers(&[("tus-resumable", "1.0.0")])).is_ok());
        for pairs in
            [&[][..], &[("tus-resumable", "0.2.2")], &[("tus-resumable", "1.0")], &[("tus-resumable", "")]]
        {
            assert!(matches!(version(&headers(pairs)), Err(Refusal::Version)), "{pairs:?}");
        }
    }

    #[test]
    fn creation_needs_exactly_one_length() {
        for (pairs, wanted) in [
            (&[("upload-length", "5")][..], Some(Some(5))),
            (&[("upload-length", "0")], Some(Some(0))),
            (&[("upload-length", "9223372036854775807")], Some(Some((1 << 63) - 1))),
            (&[("upload-defer-length", "1")], Some(None)),
            (&[], None),
            (&[("upload-length", "5"), ("upload-defer-length", "1")], None),
            (&[("upload-defer-length", "0")], None),
            (&[("upload-defer-length", "true")], None),
            (&[("upload-length", "-1")], None),
            (&[("upload-length", "+1")], None),
            (&[("upload-length", "")], None),
            (&[("upload-length", "1.0")], None),
            (&[("upload-length", "0x10")], None),
            (&[("upload-length", "9223372036854775808")], None),
            (&[("upload-length", "99999999999999999999")], None),
            (&[("upload-length", "5"), ("upload-length", "5")], None),
        ] {
            let found = creation(&headers(pairs), 100).map(|c| c.length_bytes);
            match wanted {
                Some(length) => assert_eq!(found.unwrap(), length, "{pairs:?}"),
                None => assert!(matches!(found, Err(Refusal::Header { .. })), "{pairs:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn creation_takes_a_body_only_with_its_type() {
        let plain =
            creation(&headers(&[("upload-length", "5"), ("content-type", "video/mp4")]), 100).unwrap();
        assert!(plain.upload.is_none());
        let with = headers(&[("upload-length", "5"), ("content-type", OFFSET_TYPE), ("content-length", "3")]);
        assert_eq!(creation(&with, 100).unwrap().upload.unwrap().content_bytes, Some(3));
        let long = headers(&[("upload-length", "5"), ("upload-metadata", &"a".repeat(101))]);
        assert!(matches!(creation(&long, 100), Err(Refusal::MetadataTooLong)));
    }

    #[test]
    fn append_needs_type_and_offset() {
        let good = [("content-type", OFFSET_TYPE), ("upload-offset", "7")];
        assert_eq!(append(&headers(&good)).unwrap().offset_bytes, 7);
        assert!(
            append(&headers(&[("content-type", "Application/Offset+Octet-Stream"), ("upload-offset", "7")]))
                .is_ok()
        );
        for kind in [None, Some("application/octet-stream"), Some("application/offset+octet-stream; x=y")] {
            let mut all = headers(&[("upload-offset", "7")]);
            if let Some(kind) = kind {
                all.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            assert!(matches!(append(&all), Err(Refusal::MediaType(_))), "{kind:?}");
        }
        for offset in [None, Some("-1"), Some("x"), Some(""), Some("18446744073709551616"), Some(" 7x")] {
            let mut all = headers(&[("content-type", OFFSET_TYPE)]);
            if let Some(offset) = offset {
                all.insert(UPLOAD_OFFSET, offset.parse().unwrap());
            }
            assert!(matches!(append(&all), Err(Refusal::Header { name: "Upload-Offset", .. })), "{offset:?}");
        }
        let trailer = headers(&[good[0], good[1], ("trailer", "X, Upload-Checksum")]);
        assert!(matches!(append(&trailer), Err(Refusal::Header { name: "Upload-Checksum", .. })));
    }

    #[test]
    fn admits_only_what_follows() {
        let at = |offset_bytes, content_bytes| Append { offset_bytes, content_bytes, ..Append::default() };
        let open = record(10, Some(20), Status::Open);
        let take = |room_bytes, length_bytes| Ok(Admission::Take { room_bytes, length_bytes });
        for (record, append, wanted) in [
            (&open, at(10, Some(10)), take(10, Some(20))),
            (&open, at(10, Some(0)), take(10, Some(20))),
            (&open, at(10, None), take(10, Some(20))),
            (&open, at(10, Some(11)), Err("upload_too_large")),
            (&open, at(9, Some(1)), Err("upload_offset")),
            (&open, at(11, Some(1)), Err("upload_offset")),
            (&record(20, Some(20), Status::Received), at(20, Some(0)), Ok(Admission::Complete)),
            (&record(20, Some(20), Status::Received), at(20, Some(1)), Err("upload_too_large")),
            (&record(20, Some(20), Status::Received), at(0, Some(20)), Err("upload_offset")),
            (&record(10, None, Status::Open), at(10, Some(990)), take(990, None)),
            (&record(10, None, Status::Open), at(10, Some(991)), Err("upload_too_large")),
            (&record(10, Some(20), Status::Terminated), at(10, None), Err("upload_terminated")),
            (&record(10, Some(20), Status::Expired), at(10, None), Err("upload_expired")),
            (&record(10, Some(20), Status::Deactivated), at(10, None), Err("upload_bytes_lost")),
        ] {
            let found = admit(record, &append, MAX).map_err(|r| r.problem().code());
            assert_eq!(found, wanted, "{record:?} {append:?}");
        }
    }

    #[test]
    fn a_deferred_length_is_set_once() {
        for (known, named, wanted) in [
            (None, Some(10), Ok(Some(10))),
            (None, Some(1000), Ok(Some(1000))),
            (None, Some(9), Err("header_invalid")),
            (None, Some(1001), Err("header_invalid")),
            (Some(20), Some(20), Ok(Some(20))),
            (Some(20), Some(21), Err("header_invalid")),
            (Some(20), None, Ok(Some(20))),
        ] {
            let append = Append { offset_bytes: 10, length_bytes: named, ..Append::default() };
            let found = admit(&record(10, known, Status::Open), &append, MAX);
            let found = found.map_err(|r| r.problem().code()).map(|a| match a {
                Admission::Take { length_bytes, .. } => length_bytes,
                Admission::Complete => None,
            });
            assert_eq!(found, wanted, "{known:?} {named:?}");
        }
    }

    proptest! {
        #[test]
        fn never_admits_beyond_the_length(offset: u64, at: u64, length: Option<u64>, content: Option<u64>, named: Option<u64>) {
            let record = record(offset, length, Status::Open);
            let append = Append { offset_bytes: at, content_bytes: content, length_bytes: named, checksum: None };
            if let Ok(Admission::Take { room_bytes, length_bytes }) = admit(&record, &append, MAX) {
                prop_assert_eq!(at, offset);
                prop_assert!(content.is_none_or(|n| n <= room_bytes));
                if let Some(end) = length_bytes {
                    prop_assert!(room_bytes <= end);
                }
                prop_assert!(length.is_none() || length == length_bytes);
            }
        }

        #[test]
        fn header_parsers_never_panic(value in "[ -~]{0,60}", name in 0_usize..8) {
            let names = ["upload-length", "upload-offset", "upload-metadata", "upload-checksum", "upload-defer-length",
                "repr-digest", "content-digest", "trailer"];
            let mut all = headers(&[("content-type", OFFSET_TYPE)]);
            if let Ok(value) = HeaderValue::from_str(&value) {
                all.insert(names[name], value);
            }
            prop_assert!(creation(&all, 30).is_ok_and(|c| c.metadata.raw.len() <= 30) || creation(&all, 30).is_err());
            prop_assert!(append(&all).is_err() || all.contains_key(UPLOAD_OFFSET));
            }
    }
}
