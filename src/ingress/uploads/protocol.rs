//! tus 1.0 without IO: what headers mean, and whether bytes may be appended to an upload as it stands.

use axum::http::{HeaderMap, HeaderName, header};
use schemas::{
    ids::JobId,
    upload::{UploadProtocol, UploadRecord, UploadStatus},
};

use super::{
    concat_field::ConcatRequest,
    digest::DeclaredDigest,
    fenced_record::MEDIA_REMOVED,
    fields::{
        CONTENT_DIGEST, REPR_DIGEST, TUS_RESUMABLE, UPLOAD_CHECKSUM, UPLOAD_CONCAT, UPLOAD_DEFER_LENGTH,
        UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_OFFSET, VERSION,
    },
    metadata::{self, UploadMetadata},
    refusal::UploadRefusal,
};
use web::problem_code::ProblemCode;

/// The extensions offered.
pub(super) const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,termination,expiration,checksum,checksum-trailer,concatenation,concatenation-unfinished";
/// Media type of appended bytes.
pub(super) const OFFSET_TYPE: &str = "application/offset+octet-stream";
/// Longest length a client may name: 2^63-1.
const LENGTH_BYTES_MAX: u64 = (1 << 63) - 1;

/// Checks `Tus-Resumable`.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    match headers.get(TUS_RESUMABLE) {
        Some(value) if value.as_bytes() == VERSION.as_bytes() => Ok(()),
        _ => Err(UploadRefusal::Version),
    }
}

/// Checks `Tus-Resumable` where it is there.
pub(super) fn check_named_version(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    if headers.contains_key(TUS_RESUMABLE) { check_version(headers) } else { Ok(()) }
}

/// Refuses a request in another protocol than the one that the upload was opened by.
pub(super) fn check_protocol(headers: &HeaderMap, record: &UploadRecord) -> Result<(), UploadRefusal> {
    match record.protocol {
        UploadProtocol::Tus => check_version(headers),
        UploadProtocol::Resumable { .. } if headers.contains_key(TUS_RESUMABLE) => {
            Err(UploadRefusal::Protocol)
        }
        UploadProtocol::Resumable { .. } => Ok(()),
    }
}

/// Refuses what would change the meaning of the bytes and is not known here, before a byte is read.
pub(super) fn check_known_fields(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    let refusal = |name, why| Err(UploadRefusal::Header { name, why });
    if headers.contains_key(header::CONTENT_RANGE) {
        return refusal("Content-Range", "is not known here: use Upload-Offset");
    }
    let codings =
        headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let is_coding = |name: &[u8]| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity");
    if codings.map(<[u8]>::trim_ascii).any(is_coding) {
        return Err(UploadRefusal::ContentEncoding);
    }
    let announces = |name: &HeaderName| {
        headers.get_all(header::TRAILER).iter().any(|v| contains_ignoring_case(v.as_bytes(), name.as_str()))
    };
    if announces(&CONTENT_DIGEST) || announces(&REPR_DIGEST) {
        return refusal("Trailer", "names a digest that is read before the bytes only");
    }
    Ok(())
}

/// Refuses fields that say where the bytes belong, or what to check of them, where the body is the whole file.
pub(super) fn check_whole_file_fields(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    for (name, shown) in [
        (&TUS_RESUMABLE, "Tus-Resumable"),
        (&UPLOAD_CHECKSUM, "Upload-Checksum"),
        (&UPLOAD_CONCAT, "Upload-Concat"),
        (&UPLOAD_DEFER_LENGTH, "Upload-Defer-Length"),
        (&UPLOAD_LENGTH, "Upload-Length"),
        (&UPLOAD_OFFSET, "Upload-Offset"),
    ] {
        if headers.contains_key(name) {
            return Err(UploadRefusal::Header {
                name: shown,
                why: "is for /v1/uploads: here the body is the file",
            });
        }
    }
    check_known_fields(headers)
}

/// What a creation asks for.
#[derive(Debug)]
pub(super) struct UploadCreation {
    /// Total length in bytes; `None` while it is deferred.
    pub(super) length_bytes: Option<u64>,
    /// About the file.
    pub(super) metadata: UploadMetadata,
    /// Digest of the whole file.
    pub(super) repr_digest: Option<DeclaredDigest>,
    /// What the upload is to others.
    pub(super) concat: Option<ConcatRequest>,
    /// The first bytes, when the request has any.
    pub(super) upload: Option<UploadAppend>,
}

/// What an append says about its bytes.
#[derive(Debug, Default)]
pub(super) struct UploadAppend {
    /// Where they belong.
    pub(super) offset_bytes: u64,
    /// How many there are, when the request says so.
    pub(super) content_bytes: Option<u64>,
    /// The upload's length, when the request fixes it.
    pub(super) length_bytes: Option<u64>,
    /// Digest of the bytes; none of them counts unless it holds.
    pub(super) checksum: Option<DeclaredDigest>,
    /// True when the digest follows the bytes as a trailer.
    pub(super) has_trailer: bool,
    /// What brings them, where that is no client.
    pub(super) fetched: Option<FetchedVersion>,
}

/// Of what the bytes are that a job fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FetchedVersion {
    /// The job.
    pub(super) job_id: JobId,
    /// What the source calls the version.
    pub(super) validator: Option<String>,
}

/// Reads the headers of a creation.
pub(super) fn parse_creation(
    headers: &HeaderMap,
    metadata_bytes_max: usize,
) -> Result<UploadCreation, UploadRefusal> {
    let concat =
        single_value(headers, &UPLOAD_CONCAT, "Upload-Concat")?.map(ConcatRequest::parse).transpose()?;
    let has_parts = matches!(concat, Some(ConcatRequest::Final { .. }));
    let length_bytes =
        match (parse_number(headers, &UPLOAD_LENGTH, "Upload-Length")?, defers_length(headers)?) {
            (Some(length), false) => Some(length),
            (None, true) => None,
            (None, false) if has_parts => None,
            _ => {
                return Err(UploadRefusal::Header {
                    name: "Upload-Length",
                    why: "or Upload-Defer-Length is needed, not both",
                });
            }
        };
    let metadata = parse_upload_metadata(headers, metadata_bytes_max)?;
    // tus 1.0, concatenation: the length of a whole is the sum of its parts, and its bytes are theirs.
    if has_parts && (length_bytes.is_some() || headers.contains_key(UPLOAD_DEFER_LENGTH)) {
        return Err(UploadRefusal::Header { name: "Upload-Length", why: "is that of the parts here" });
    }
    let upload = if is_offset_type(headers) && !has_parts { Some(parse_append_body(headers)?) } else { None };
    Ok(UploadCreation {
        length_bytes,
        metadata,
        concat,
        repr_digest: parse_repr_digests(headers)?.into_iter().next(),
        upload,
    })
}

/// What `Upload-Metadata` says about the file.
pub(super) fn parse_upload_metadata(
    headers: &HeaderMap,
    bytes_max: usize,
) -> Result<UploadMetadata, UploadRefusal> {
    // Several lines of a list are one list (RFC 9110, 5.3).
    let mut raw = String::new();
    for line in headers.get_all(UPLOAD_METADATA) {
        let why = "is not ASCII";
        let line = line.to_str().map_err(|_| UploadRefusal::Header { name: "Upload-Metadata", why })?;
        if !raw.is_empty() && !line.is_empty() {
            raw.push(',');
        }
        raw.push_str(line);
    }
    if raw.len() > bytes_max {
        return Err(UploadRefusal::MetadataTooLong);
    }
    metadata::parse_metadata(&raw)
}

/// Reads the headers of an append.
pub(super) fn parse_append(headers: &HeaderMap) -> Result<UploadAppend, UploadRefusal> {
    if !is_offset_type(headers) {
        return Err(UploadRefusal::MediaType(OFFSET_TYPE));
    }
    let offset_bytes = parse_number(headers, &UPLOAD_OFFSET, "Upload-Offset")?
        .ok_or(UploadRefusal::Header { name: "Upload-Offset", why: "is missing" })?;
    let length_bytes = parse_number(headers, &UPLOAD_LENGTH, "Upload-Length")?;
    Ok(UploadAppend { offset_bytes, length_bytes, ..parse_append_body(headers)? })
}

fn parse_append_body(headers: &HeaderMap) -> Result<UploadAppend, UploadRefusal> {
    let has_trailer = headers
        .get_all(header::TRAILER)
        .iter()
        .any(|t| contains_ignoring_case(t.as_bytes(), UPLOAD_CHECKSUM.as_str()));
    let checksum = single_value(headers, &UPLOAD_CHECKSUM, "Upload-Checksum")?
        .map(DeclaredDigest::from_checksum_field)
        .transpose()?;
    if has_trailer && checksum.is_some() {
        return Err(UploadRefusal::Header { name: "Upload-Checksum", why: "is a header and a trailer" });
    }
    Ok(UploadAppend {
        checksum,
        has_trailer,
        content_bytes: parse_content_length(headers)?,
        ..UploadAppend::default()
    })
}

/// `Content-Length`, when there is one.
pub(super) fn parse_content_length(headers: &HeaderMap) -> Result<Option<u64>, UploadRefusal> {
    parse_number(headers, &header::CONTENT_LENGTH, "Content-Length")
}

/// Every digest of `Content-Digest` and `Repr-Digest` that we check; the two agree for a body that is the whole file.
pub(super) fn parse_body_digests(headers: &HeaderMap) -> Result<Vec<DeclaredDigest>, UploadRefusal> {
    let mut all = parse_content_digests(headers)?;
    all.extend(parse_repr_digests(headers)?);
    Ok(all)
}

/// Every digest of `Content-Digest` that we check.
pub(super) fn parse_content_digests(headers: &HeaderMap) -> Result<Vec<DeclaredDigest>, UploadRefusal> {
    match single_value(headers, &CONTENT_DIGEST, "Content-Digest")? {
        Some(text) => DeclaredDigest::from_digest_field("Content-Digest", text),
        None => Ok(Vec::new()),
    }
}

/// Every digest of `Repr-Digest` that we check.
pub(super) fn parse_repr_digests(headers: &HeaderMap) -> Result<Vec<DeclaredDigest>, UploadRefusal> {
    match single_value(headers, &REPR_DIGEST, "Repr-Digest")? {
        Some(text) => DeclaredDigest::from_digest_field("Repr-Digest", text),
        None => Ok(Vec::new()),
    }
}

fn is_offset_type(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(OFFSET_TYPE.as_bytes()))
}

fn defers_length(headers: &HeaderMap) -> Result<bool, UploadRefusal> {
    match single_value(headers, &UPLOAD_DEFER_LENGTH, "Upload-Defer-Length")? {
        None => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(UploadRefusal::Header { name: "Upload-Defer-Length", why: "may only be 1" }),
    }
}

/// A header that may stand once, as text.
fn single_value<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<&'h str>, UploadRefusal> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(UploadRefusal::Header { name: shown, why: "stands more than once" });
    }
    first.to_str().map(Some).map_err(|_| UploadRefusal::Header { name: shown, why: "is not ASCII" })
}

/// Digits only: no sign, no space, no more than 2^63-1.
fn parse_number(
    headers: &HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<u64>, UploadRefusal> {
    let Some(text) = single_value(headers, name, shown)? else { return Ok(None) };
    let number: Option<u64> = if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok().filter(|n| *n <= LENGTH_BYTES_MAX)
    } else {
        None
    };
    number.map(Some).ok_or(UploadRefusal::Header { name: shown, why: "is no number of bytes" })
}

fn contains_ignoring_case(text: &[u8], wanted: &str) -> bool {
    text.to_ascii_lowercase().windows(wanted.len()).any(|w| w == wanted.as_bytes())
}

/// What an append may do to an upload as it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AppendAdmission {
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
pub(super) fn check_not_ended(record: &UploadRecord) -> Result<(), UploadRefusal> {
    match record.status {
        UploadStatus::Open | UploadStatus::Received => Ok(()),
        UploadStatus::Terminated if record.code.as_deref() == Some(MEDIA_REMOVED) => {
            Err(UploadRefusal::Gone(ProblemCode::MediaRemoved))
        }
        UploadStatus::Terminated => Err(UploadRefusal::Gone(ProblemCode::UploadTerminated)),
        UploadStatus::Expired => Err(UploadRefusal::Gone(ProblemCode::UploadExpired)),
        UploadStatus::Deactivated => Err(UploadRefusal::Gone(ProblemCode::UploadBytesLost)),
    }
}

/// Decides whether the bytes of `append` may follow.
pub(super) fn admit_append(
    record: &UploadRecord,
    append: &UploadAppend,
    size_bytes_max: u64,
) -> Result<AppendAdmission, UploadRefusal> {
    check_not_ended(record)?;
    check_sender(record, append)?;
    if append.offset_bytes != record.offset_bytes {
        return Err(UploadRefusal::Offset {
            offset_bytes: record.offset_bytes,
            provided_bytes: append.offset_bytes,
        });
    }
    let length_bytes = resolve_length(record, append.length_bytes, size_bytes_max)?;
    let end = length_bytes.unwrap_or(size_bytes_max);
    let room_bytes = end.saturating_sub(record.offset_bytes);
    if append.content_bytes.is_some_and(|n| n > room_bytes) {
        return Err(UploadRefusal::TooLarge);
    }
    if record.status == UploadStatus::Received {
        return Ok(AppendAdmission::Complete);
    }
    Ok(AppendAdmission::Take { room_bytes, length_bytes })
}

/// Refuses what no holder that lets go can make right: an offset that is passed or that it can't have reached, bytes beyond the
/// length, another length. `unrecorded_max` is how far a holder may be beyond the record.
pub(super) fn check_append_possible(
    record: &UploadRecord,
    append: &UploadAppend,
    unrecorded_max: u64,
    size_bytes_max: u64,
) -> Result<(), UploadRefusal> {
    check_sender(record, append)?;
    let recorded = record.offset_bytes;
    let length_bytes = resolve_length(record, append.length_bytes, size_bytes_max)?;
    let end = length_bytes.unwrap_or(size_bytes_max);
    let ahead_max = if record.holder.is_some() { unrecorded_max } else { 0 };
    let reachable = recorded.saturating_add(ahead_max).min(end);
    if append.offset_bytes < recorded || append.offset_bytes > reachable {
        return Err(UploadRefusal::Offset { offset_bytes: recorded, provided_bytes: append.offset_bytes });
    }
    if append.content_bytes.is_some_and(|n| n > end - append.offset_bytes) {
        return Err(UploadRefusal::TooLarge);
    }
    Ok(())
}

/// Bytes that a job fetches come from that job alone, and all are of one version of the source.
fn check_sender(record: &UploadRecord, append: &UploadAppend) -> Result<(), UploadRefusal> {
    match (&record.fetch, &append.fetched) {
        (None, None) => Ok(()),
        (Some(fetch), Some(bytes)) if fetch.job_id == bytes.job_id => {
            let is_same = fetch.validator.is_some() && fetch.validator == bytes.validator;
            if record.offset_bytes == 0 || is_same { Ok(()) } else { Err(UploadRefusal::SourceChanged) }
        }
        (Some(_), _) | (None, Some(_)) => Err(UploadRefusal::Fetched),
    }
}

fn resolve_length(
    record: &UploadRecord,
    named: Option<u64>,
    size_bytes_max: u64,
) -> Result<Option<u64>, UploadRefusal> {
    let bad = |why| UploadRefusal::Header { name: "Upload-Length", why };
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

    fn record(offset_bytes: u64, length_bytes: Option<u64>, status: UploadStatus) -> UploadRecord {
        UploadRecord {
            status,
            length_bytes,
            offset_bytes,
            generation: 1,
            ..UploadRecord::new(UploadId::from_bytes([1; 16]), MediaId::from_bytes([2; 16]), "o".into())
        }
    }

    #[test]
    fn speaks_one_version() {
        assert!(check_version(&headers(&[("tus-resumable", "1.0.0")])).is_ok());
        for pairs in
            [&[][..], &[("tus-resumable", "0.2.2")], &[("tus-resumable", "1.0")], &[("tus-resumable", "")]]
        {
            assert!(matches!(check_version(&headers(pairs)), Err(UploadRefusal::Version)), "{pairs:?}");
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
            let found = parse_creation(&headers(pairs), 100).map(|c| c.length_bytes);
            match wanted {
                Some(length) => assert_eq!(found.unwrap(), length, "{pairs:?}"),
                None => assert!(matches!(found, Err(UploadRefusal::Header { .. })), "{pairs:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn creation_takes_a_body_only_with_its_type() {
        let plain =
            parse_creation(&headers(&[("upload-length", "5"), ("content-type", "video/mp4")]), 100).unwrap();
        assert!(plain.upload.is_none());
        let with = headers(&[("upload-length", "5"), ("content-type", OFFSET_TYPE), ("content-length", "3")]);
        assert_eq!(parse_creation(&with, 100).unwrap().upload.unwrap().content_bytes, Some(3));
        let long = headers(&[("upload-length", "5"), ("upload-metadata", &"a".repeat(101))]);
        assert!(matches!(parse_creation(&long, 100), Err(UploadRefusal::MetadataTooLong)));
    }

    #[test]
    fn append_needs_type_and_offset() {
        let good = [("content-type", OFFSET_TYPE), ("upload-offset", "7")];
        assert_eq!(parse_append(&headers(&good)).unwrap().offset_bytes, 7);
        assert!(
            parse_append(&headers(&[
                ("content-type", "Application/Offset+Octet-Stream"),
                ("upload-offset", "7")
            ]))
            .is_ok()
        );
        for kind in [None, Some("application/octet-stream"), Some("application/offset+octet-stream; x=y")] {
            let mut all = headers(&[("upload-offset", "7")]);
            if let Some(kind) = kind {
                all.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            assert!(matches!(parse_append(&all), Err(UploadRefusal::MediaType(_))), "{kind:?}");
        }
        for offset in [None, Some("-1"), Some("x"), Some(""), Some("18446744073709551616"), Some(" 7x")] {
            let mut all = headers(&[("content-type", OFFSET_TYPE)]);
            if let Some(offset) = offset {
                all.insert(UPLOAD_OFFSET, offset.parse().unwrap());
            }
            assert!(
                matches!(parse_append(&all), Err(UploadRefusal::Header { name: "Upload-Offset", .. })),
                "{offset:?}"
            );
        }
        let trailer = headers(&[good[0], good[1], ("trailer", "X, Upload-Checksum")]);
        assert!(parse_append(&trailer).unwrap().has_trailer);
        let checksum = ("upload-checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=");
        let both = headers(&[good[0], good[1], ("trailer", "Upload-Checksum"), checksum]);
        assert!(matches!(parse_append(&both), Err(UploadRefusal::Header { name: "Upload-Checksum", .. })));
    }

    #[test]
    fn admits_only_what_follows() {
        let at = |offset_bytes, content_bytes| UploadAppend {
            offset_bytes,
            content_bytes,
            ..UploadAppend::default()
        };
        let open = record(10, Some(20), UploadStatus::Open);
        let take = |room_bytes, length_bytes| Ok(AppendAdmission::Take { room_bytes, length_bytes });
        for (record, append, wanted) in [
            (&open, at(10, Some(10)), take(10, Some(20))),
            (&open, at(10, Some(0)), take(10, Some(20))),
            (&open, at(10, None), take(10, Some(20))),
            (&open, at(10, Some(11)), Err("upload_too_large")),
            (&open, at(9, Some(1)), Err("upload_offset")),
            (&open, at(11, Some(1)), Err("upload_offset")),
            (&record(20, Some(20), UploadStatus::Received), at(20, Some(0)), Ok(AppendAdmission::Complete)),
            (&record(20, Some(20), UploadStatus::Received), at(20, Some(1)), Err("upload_too_large")),
            (&record(20, Some(20), UploadStatus::Received), at(0, Some(20)), Err("upload_offset")),
            (&record(10, None, UploadStatus::Open), at(10, Some(990)), take(990, None)),
            (&record(10, None, UploadStatus::Open), at(10, Some(991)), Err("upload_too_large")),
            (&record(10, Some(20), UploadStatus::Terminated), at(10, None), Err("upload_terminated")),
            (&record(10, Some(20), UploadStatus::Expired), at(10, None), Err("upload_expired")),
            (&record(10, Some(20), UploadStatus::Deactivated), at(10, None), Err("upload_bytes_lost")),
        ] {
            let found = admit_append(record, &append, MAX).map_err(|r| r.into_problem().code());
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
            let append = UploadAppend { offset_bytes: 10, length_bytes: named, ..UploadAppend::default() };
            let found = admit_append(&record(10, known, UploadStatus::Open), &append, MAX);
            let found = found.map_err(|r| r.into_problem().code()).map(|a| match a {
                AppendAdmission::Take { length_bytes, .. } => length_bytes,
                AppendAdmission::Complete => None,
            });
            assert_eq!(found, wanted, "{known:?} {named:?}");
        }
    }

    proptest! {
        #[test]
        fn never_admits_beyond_the_length(offset: u64, at: u64, length: Option<u64>, content: Option<u64>, named: Option<u64>) {
            let record = record(offset, length, UploadStatus::Open);
            let append = UploadAppend { offset_bytes: at, content_bytes: content, length_bytes: named, checksum: None, has_trailer: false, fetched: None };
            if let Ok(AppendAdmission::Take { room_bytes, length_bytes }) = admit_append(&record, &append, MAX) {
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
            prop_assert!(parse_creation(&all, 30).is_ok_and(|c| c.metadata.raw.len() <= 30) || parse_creation(&all, 30).is_err());
            prop_assert!(parse_append(&all).is_err() || all.contains_key(UPLOAD_OFFSET));
            }
    }
}
