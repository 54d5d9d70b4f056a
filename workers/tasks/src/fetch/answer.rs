//! What an answer of a source means for what is there already; pure.

use std::ops::RangeInclusive;

use http::{
    StatusCode,
    header::{self, HeaderMap},
};
use outbound::OutboundResponse;

use super::{FetchError, FetchStanding};

/// Longest validator that is kept, in bytes.
const VALIDATOR_BYTES_MAX: usize = 512;

/// What of an answer is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnswerBytes {
    /// Bytes at its beginning that are there already.
    pub(super) skipped_bytes: u64,
    /// Bytes of the whole, where the source says so.
    pub(super) length_bytes: Option<u64>,
    /// What the source calls the version.
    pub(super) validator: Option<String>,
}

/// Decides what of an answer follows what is there.
pub(super) fn judge_answer(
    response: &OutboundResponse,
    standing: &FetchStanding,
) -> Result<AnswerBytes, FetchError> {
    // The rest of which nothing is there: it became shorter.
    if response.status == StatusCode::RANGE_NOT_SATISFIABLE && standing.offset_bytes > 0 {
        return Err(FetchError::SourceChanged("it has fewer bytes than before"));
    }
    response.check_success()?;
    if !response.names_end {
        return Err(FetchError::Malformed("no length and no end, so that what was cut looks whole"));
    }
    judge_head(response.status, &response.headers, response.content_length, standing)
}

fn judge_head(
    status: StatusCode,
    headers: &HeaderMap,
    content_length: Option<u64>,
    standing: &FetchStanding,
) -> Result<AnswerBytes, FetchError> {
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(FetchError::Coded);
    }
    let found = find_validator(headers);
    let offset_bytes = standing.offset_bytes;
    let answer = match status {
        StatusCode::OK if offset_bytes == 0 => {
            AnswerBytes { skipped_bytes: 0, length_bytes: content_length, validator: found }
        }
        // It knows no ranges, or the version is another one.
        StatusCode::OK if found.is_some() && found == standing.validator => {
            AnswerBytes { skipped_bytes: offset_bytes, length_bytes: content_length, validator: found }
        }
        StatusCode::OK => return Err(FetchError::SourceChanged("it is another version now")),
        StatusCode::PARTIAL_CONTENT if offset_bytes > 0 => {
            let (range, length_bytes) =
                parse_content_range(headers).ok_or(FetchError::Malformed("a part without its place"))?;
            if *range.start() != offset_bytes {
                return Err(FetchError::Malformed("another part than that which is missing"));
            }
            // The status alone says it of a source that knows `If-Range`; one that does not sends parts of any version.
            if !names_version(headers, standing.validator.as_deref()) {
                return Err(FetchError::SourceChanged("it does not say that it is the same version"));
            }
            let validator = standing.validator.clone();
            AnswerBytes { skipped_bytes: 0, length_bytes: Some(length_bytes), validator }
        }
        _ => return Err(FetchError::Malformed("a status that says of no bytes where they belong")),
    };
    if let (Some(known), Some(length)) = (standing.length_bytes, answer.length_bytes)
        && known != length
    {
        return Err(FetchError::SourceChanged("it has another length than before"));
    }
    if answer.length_bytes.is_some_and(|length_bytes| length_bytes > standing.size_bytes_max) {
        return Err(FetchError::TooLarge { bytes_max: standing.size_bytes_max });
    }
    Ok(answer)
}

/// True when a part names the version of `validator`: as it is, and by the same field (RFC 9110, 15.3.7).
fn names_version(headers: &HeaderMap, validator: Option<&str>) -> bool {
    let Some(validator) = validator else { return false };
    let name = if validator.starts_with('"') { header::ETAG } else { header::LAST_MODIFIED };
    headers.get(name).is_some_and(|found| found.as_bytes() == validator.as_bytes())
}

/// What may stand in `If-Range`: a strong entity tag, or a date that is as good, since the source has said that it is older than the
/// answer (RFC 9110, 8.8.2.2 and 13.1.5).
fn find_validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        (value.len() <= VALIDATOR_BYTES_MAX).then_some(value)
    };
    let tag = text(header::ETAG).filter(|tag| tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'));
    if let Some(tag) = tag {
        return Some(tag.to_owned());
    }
    let modified = text(header::LAST_MODIFIED)?;
    let answered = text(header::DATE)?;
    let age = httpdate::parse_http_date(answered)
        .ok()?
        .duration_since(httpdate::parse_http_date(modified).ok()?)
        .ok()?;
    (age.as_secs() >= 60).then(|| modified.to_owned())
}

/// The place of a part in a whole of a length that is known.
fn parse_content_range(headers: &HeaderMap) -> Option<(RangeInclusive<u64>, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (unit, rest) = text.split_once(' ')?;
    let (range, length) = rest.trim().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    let (start, end, length) = (number(start)?, number(end)?, number(length)?);
    (unit.eq_ignore_ascii_case("bytes") && start <= end && end < length).then_some((start..=end, length))
}

#[cfg(test)]
mod tests {
    use schemas::upload::UploadStatus;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn standing(offset_bytes: u64, length_bytes: Option<u64>, validator: Option<&str>) -> FetchStanding {
        FetchStanding {
            status: UploadStatus::Open,
            offset_bytes,
            length_bytes,
            validator: validator.map(str::to_owned),
            size_bytes_max: 1_000,
        }
    }

    /// The code of a refusal, or how much is skipped.
    fn judge(
        status: u16,
        pairs: &[(&'static str, &str)],
        standing: &FetchStanding,
    ) -> Result<u64, &'static str> {
        let headers = headers(pairs);
        let length = headers.get("content-length").map(|length| length.to_str().unwrap().parse().unwrap());
        judge_head(StatusCode::from_u16(status).unwrap(), &headers, length, standing)
            .map(|answer| answer.skipped_bytes)
            .map_err(|error| error.code())
    }

    #[test]
    fn a_first_answer_has_to_be_whole_and_fit() {
        let new = standing(0, None, None);
        assert_eq!(judge(200, &[("content-length", "1000")], &new), Ok(0));
        assert_eq!(judge(200, &[], &new), Ok(0), "a length need not be said");
        assert_eq!(judge(200, &[("content-length", "1001")], &new), Err("fetch_too_large"));
        assert_eq!(judge(200, &[("content-encoding", "gzip")], &new), Err("fetch_coded"));
        assert_eq!(judge(200, &[("content-encoding", "Identity")], &new), Ok(0));
        assert_eq!(judge(206, &[("content-range", "bytes 0-9/10")], &new), Err("fetch_malformed"));
        assert_eq!(judge(204, &[], &new), Err("fetch_malformed"));
        let again = standing(0, Some(10), Some("\"a\""));
        assert_eq!(judge(200, &[("content-length", "11")], &again), Err("fetch_source_changed"));
    }

    #[test]
    fn the_rest_has_to_be_of_the_same_version() {
        let half = standing(5, Some(10), Some("\"a\""));
        let of = |range: &'static str| [("content-range", range), ("etag", "\"a\"")];
        assert_eq!(judge(206, &of("bytes 5-9/10"), &half), Ok(0));
        // Fields that say nothing of it, or of another one.
        for tag in [None, Some("W/\"a\""), Some("\"b\""), Some("a")] {
            let mut pairs = vec![("content-range", "bytes 5-9/10")];
            pairs.extend(tag.map(|tag| ("etag", tag)));
            assert_eq!(judge(206, &pairs, &half), Err("fetch_source_changed"), "{tag:?}");
        }
        let then = "Sun, 06 Nov 1994 08:49:37 GMT";
        let dated = standing(5, Some(10), Some(then));
        for (modified, wanted) in
            [(then, Ok(0)), ("Sun, 06 Nov 1994 08:49:38 GMT", Err("fetch_source_changed"))]
        {
            let part = [("content-range", "bytes 5-9/10"), ("last-modified", modified), ("date", modified)];
            assert_eq!(judge(206, &part, &dated), wanted, "{modified}");
        }
        assert_eq!(judge(206, &of("bytes 4-9/10"), &half), Err("fetch_malformed"));
        assert_eq!(judge(206, &of("bytes 5-9/*"), &half), Err("fetch_malformed"));
        assert_eq!(judge(206, &of("bytes 5-10/11"), &half), Err("fetch_source_changed"));
        let other = [("content-range", "bytes 5-9/10"), ("etag", "\"b\"")];
        assert_eq!(judge(206, &other, &half), Err("fetch_source_changed"));
        assert_eq!(judge(200, &[("content-length", "10"), ("etag", "\"a\"")], &half), Ok(5));
        assert_eq!(
            judge(200, &[("content-length", "9"), ("etag", "\"a\"")], &half),
            Err("fetch_source_changed")
        );
        for etag in ["\"b\"", "W/\"a\"", "a"] {
            let whole = [("content-length", "10"), ("etag", etag)];
            assert_eq!(judge(200, &whole, &half), Err("fetch_source_changed"), "{etag}");
        }
        let unnamed = standing(5, Some(10), None);
        assert_eq!(judge(200, &[("content-length", "10")], &unnamed), Err("fetch_source_changed"));
    }

    #[test]
    fn only_what_is_strong_names_a_version() {
        const OLD: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (pairs, wanted) in [
            (&[("etag", "\"a\""), OLD][..], Some("\"a\"")),
            (&[("etag", "W/\"a\""), OLD, ("date", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(OLD.1)),
            (&[OLD, ("date", "Sun, 06 Nov 1994 08:50:36 GMT")], None),
            (&[OLD, ("date", "Sun, 06 Nov 1994 08:00:00 GMT")], None),
            (&[OLD], None),
            (&[("etag", "\"")], None),
            (&[], None),
        ] {
            assert_eq!(find_validator(&headers(pairs)).as_deref(), wanted, "{pairs:?}");
        }
    }
}
