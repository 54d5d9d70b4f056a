//! What a request says in the fields of the draft.

use axum::http::{HeaderMap, HeaderName, header};
use sfv::{BareItem, Item, Parser};

use super::super::{
    fields::{
        TUS_RESUMABLE, UPLOAD_COMPLETE, UPLOAD_DEFER_LENGTH, UPLOAD_DRAFT_INTEROP_VERSION, UPLOAD_INCOMPLETE,
        UPLOAD_LENGTH, UPLOAD_LIMIT, UPLOAD_METADATA, UPLOAD_OFFSET,
    },
    protocol,
    refusal::UploadRefusal,
};

/// Media type of appended bytes.
pub(super) const PARTIAL_TYPE: &str = "application/partial-upload";
/// Versions that are spoken.
const VERSIONS: std::ops::RangeInclusive<u8> = 3..=8;
/// The version of draft 01, which says `Upload-Incomplete`.
const VERSION_OF_DRAFT_01: u8 = 3;
/// The version of draft 03, the first whose interim responses say how far an append is, and the last that lets an append have any
/// media type.
const VERSION_OF_DRAFT_03: u8 = 5;
/// The version of drafts 04 and 05, the last by which an append that does not say whether it is the last one is that, and which
/// answers it with 201.
const VERSION_OF_DRAFT_05: u8 = 6;

/// The version of a draft that a client speaks, by the number under which implementations of the same drafts find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct InteropVersion(u8);

impl InteropVersion {
    /// The version that the request names; `None` when it names none that is spoken here.
    pub(super) fn of_request(headers: &HeaderMap) -> Option<Self> {
        let number = u8::try_from(parse_integer(headers, &UPLOAD_DRAFT_INTEROP_VERSION)?).ok()?;
        VERSIONS.contains(&number).then_some(Self(number))
    }

    pub(super) const fn number(self) -> u8 {
        self.0
    }

    /// True where interim responses say how far an append is.
    pub(super) const fn has_progress(self) -> bool {
        self.0 >= VERSION_OF_DRAFT_03
    }

    /// True where appended bytes have a media type of their own.
    const fn has_media_type(self) -> bool {
        self.0 > VERSION_OF_DRAFT_03
    }

    /// True where an append that does not say whether it is the last one is that.
    const fn completes_by_default(self) -> bool {
        self.0 <= VERSION_OF_DRAFT_05
    }

    /// True where an append is answered with 201.
    pub(super) const fn creates_by_append(self) -> bool {
        self.0 <= VERSION_OF_DRAFT_05
    }

    /// Name of the limit of an upload's time in `Upload-Limit`.
    pub(super) const fn age_limit_name(self) -> &'static str {
        if self.0 == VERSION_OF_DRAFT_05 { "expires" } else { "max-age" }
    }

    /// True where the state is said by `Upload-Incomplete`.
    pub(super) const fn says_incomplete(self) -> bool {
        self.0 == VERSION_OF_DRAFT_01
    }
}

/// True for a request that speaks of an upload in this protocol: not of tus, and with a field or type of the draft.
pub(in super::super) fn is_spoken(headers: &HeaderMap) -> bool {
    let has_field = [&UPLOAD_COMPLETE, &UPLOAD_INCOMPLETE, &UPLOAD_DRAFT_INTEROP_VERSION]
        .iter()
        .any(|name| headers.contains_key(*name));
    !headers.contains_key(TUS_RESUMABLE) && (has_field || has_partial_type(headers))
}

/// True for a request that opens an upload if its target takes any. One whose state is no boolean is an ordinary request.
pub(in super::super) fn is_creation(headers: &HeaderMap) -> bool {
    !headers.contains_key(TUS_RESUMABLE) && parse_is_complete(headers).is_some()
}

/// Refuses a question about an upload that says something about it, as it was meant for PATCH.
pub(super) fn check_question(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    for (name, shown) in [
        (&UPLOAD_OFFSET, "Upload-Offset"),
        (&UPLOAD_COMPLETE, "Upload-Complete"),
        (&UPLOAD_INCOMPLETE, "Upload-Incomplete"),
    ] {
        if headers.contains_key(name) {
            return Err(UploadRefusal::Header { name: shown, why: "has no meaning in a question" });
        }
    }
    Ok(())
}

/// Fields of this protocol, and of tus those that its clients send along.
const KNOWN_FIELDS: [HeaderName; 8] = [
    UPLOAD_COMPLETE,
    UPLOAD_DEFER_LENGTH,
    UPLOAD_DRAFT_INTEROP_VERSION,
    UPLOAD_INCOMPLETE,
    UPLOAD_LENGTH,
    UPLOAD_LIMIT,
    UPLOAD_METADATA,
    UPLOAD_OFFSET,
];

/// Refuses what would change the meaning of the bytes and is not known here, such as a field of tus that says so.
pub(super) fn check_fields(headers: &HeaderMap) -> Result<(), UploadRefusal> {
    let is_unknown =
        |name: &&HeaderName| name.as_str().starts_with("upload-") && !KNOWN_FIELDS.contains(*name);
    match headers.keys().find(is_unknown) {
        Some(name) => Err(UploadRefusal::UnknownField(name.clone())),
        None => protocol::check_known_fields(headers),
    }
}

const NO_STATE: UploadRefusal = UploadRefusal::Header { name: "Upload-Complete", why: "has to be ?0 or ?1" };

/// What a request with bytes says about them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContentFields {
    pub(super) version: Option<InteropVersion>,
    /// True when the request has the last byte.
    pub(super) is_complete: bool,
    /// Where the bytes belong.
    pub(super) offset_bytes: u64,
    /// How many there are, when the request says so.
    pub(super) content_bytes: Option<u64>,
    /// How many the whole has, when the request says so.
    pub(super) length_bytes: Option<u64>,
}

impl ContentFields {
    /// Of a request that opens an upload; `is_empty` says that no content follows its head.
    pub(super) fn of_creation(headers: &HeaderMap, is_empty: bool) -> Result<Self, UploadRefusal> {
        Self::read(headers, is_empty, parse_is_complete(headers).ok_or(NO_STATE)?, 0)
    }

    /// Of a request that appends.
    pub(super) fn of_append(headers: &HeaderMap, is_empty: bool) -> Result<Self, UploadRefusal> {
        let completes_by_default =
            InteropVersion::of_request(headers).is_some_and(InteropVersion::completes_by_default);
        let is_complete =
            parse_is_complete(headers).or(completes_by_default.then_some(true)).ok_or(NO_STATE)?;
        let offset_bytes = parse_count(headers, &UPLOAD_OFFSET)
            .ok_or(UploadRefusal::Header { name: "Upload-Offset", why: "has to be a number of bytes" })?;
        let fields = Self::read(headers, is_empty, is_complete, offset_bytes)?;
        let may_lack_type = fields.version.is_some_and(|version| !version.has_media_type());
        if !may_lack_type && !has_partial_type(headers) {
            return Err(UploadRefusal::MediaType(PARTIAL_TYPE));
        }
        Ok(fields)
    }

    fn read(
        headers: &HeaderMap,
        is_empty: bool,
        is_complete: bool,
        offset_bytes: u64,
    ) -> Result<Self, UploadRefusal> {
        // Without content a request need not say how much it has.
        let content_bytes = protocol::parse_content_length(headers)?.or(is_empty.then_some(0));
        let named = parse_count(headers, &UPLOAD_LENGTH);
        // Draft, "Length": a request with the last bytes says by its own length how long the whole is.
        let implied = content_bytes.filter(|_| is_complete).map(|count| offset_bytes.saturating_add(count));
        if let (Some(named), Some(implied)) = (named, implied)
            && named != implied
        {
            return Err(UploadRefusal::LengthInconsistent);
        }
        let version = InteropVersion::of_request(headers);
        Ok(Self { version, is_complete, offset_bytes, content_bytes, length_bytes: named.or(implied) })
    }
}

/// `Upload-Complete`, or the opposite of `Upload-Incomplete`.
fn parse_is_complete(headers: &HeaderMap) -> Option<bool> {
    parse_boolean(headers, &UPLOAD_COMPLETE)
        .or_else(|| parse_boolean(headers, &UPLOAD_INCOMPLETE).map(|is_incomplete| !is_incomplete))
}

fn parse_item(headers: &HeaderMap, name: &HeaderName) -> Option<BareItem> {
    let mut lines = headers.get_all(name).iter();
    // Several lines make a list, which is no item: the field is ignored (RFC 9651, 4.2).
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    Parser::new(line.as_bytes()).parse::<Item>().ok().map(|item| item.bare_item)
}

fn parse_boolean(headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
    match parse_item(headers, name)? {
        BareItem::Boolean(value) => Some(value),
        _ => None,
    }
}

fn parse_integer(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    match parse_item(headers, name)? {
        BareItem::Integer(value) => Some(value.into()),
        _ => None,
    }
}

/// A number that is not negative; any other value is as if the field were not there (draft, "Upload State").
fn parse_count(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    u64::try_from(parse_integer(headers, name)?).ok()
}

fn has_partial_type(headers: &HeaderMap) -> bool {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    found.is_some_and(|found| {
        found.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(PARTIAL_TYPE)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(*name, HeaderValue::from_str(value).unwrap());
            all
        })
    }

    #[test]
    fn protocols_are_distinguished() {
        for (pairs, spoken, creates) in [
            (&[("upload-complete", "?1")][..], true, true),
            (&[("upload-incomplete", "?1")], true, true),
            (&[("upload-draft-interop-version", "8")], true, false),
            (&[("content-type", "application/partial-upload")], true, false),
            (&[("upload-offset", "0")], false, false),
            (&[("upload-length", "5")], false, false),
            (&[("upload-complete", "?1"), ("tus-resumable", "1.0.0")], false, false),
            (&[], false, false),
        ] {
            let found = (is_spoken(&headers(pairs)), is_creation(&headers(pairs)));
            assert_eq!(found, (spoken, creates), "{pairs:?}");
        }
    }

    #[test]
    fn a_state_is_a_boolean_or_nothing() {
        for (pairs, wanted) in [
            (&[("upload-complete", "?1")][..], Some(true)),
            (&[("upload-complete", "?0")], Some(false)),
            (&[("upload-complete", "?1;a=b")], Some(true)),
            (&[("upload-incomplete", "?1")], Some(false)),
            (&[("upload-incomplete", "?0")], Some(true)),
            (&[("upload-complete", "1")], None),
            (&[("upload-complete", "true")], None),
            (&[("upload-complete", "?2")], None),
            (&[("upload-complete", "")], None),
            (&[("upload-complete", "?1"), ("upload-complete", "?1")], None),
        ] {
            let found =
                ContentFields::of_creation(&headers(pairs), false).ok().map(|fields| fields.is_complete);
            assert_eq!(found, wanted, "{pairs:?}");
            assert_eq!(is_creation(&headers(pairs)), wanted.is_some(), "{pairs:?}");
        }
    }

    #[test]
    fn a_length_is_said_in_two_ways_that_agree() {
        for (pairs, wanted) in [
            (&[("upload-complete", "?0")][..], Some(None)),
            (&[("upload-complete", "?0"), ("content-length", "5")], Some(None)),
            (&[("upload-complete", "?0"), ("upload-length", "5")], Some(Some(5))),
            (&[("upload-complete", "?1"), ("content-length", "5")], Some(Some(5))),
            (&[("upload-complete", "?1"), ("content-length", "5"), ("upload-length", "5")], Some(Some(5))),
            (&[("upload-complete", "?1"), ("content-length", "5"), ("upload-length", "6")], None),
            (&[("upload-complete", "?0"), ("content-length", "5"), ("upload-length", "6")], Some(Some(6))),
            (&[("upload-complete", "?0"), ("upload-length", "-1")], Some(None)),
            (&[("upload-complete", "?0"), ("upload-length", "1.0")], Some(None)),
        ] {
            let found = ContentFields::of_creation(&headers(pairs), false);
            match wanted {
                Some(length) => assert_eq!(found.unwrap().length_bytes, length, "{pairs:?}"),
                None => {
                    assert!(matches!(found, Err(UploadRefusal::LengthInconsistent)), "{pairs:?}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn an_append_says_where_and_what() {
        const TYPE: (&str, &str) = ("content-type", PARTIAL_TYPE);
        const PLACE: [(&str, &str); 2] = [("upload-offset", "3"), ("upload-complete", "?1")];
        let [offset, complete] = PLACE;
        let old = ("upload-draft-interop-version", "5");
        for (pairs, status) in [
            (&[offset, complete, TYPE][..], 200),
            (&[offset, complete, TYPE, ("upload-draft-interop-version", "6")], 200),
            (&[offset, complete, old], 200),
            (&[offset, complete, old, ("content-type", "video/mp4")], 200),
            (&[offset, complete], 415),
            (&[offset, complete, ("upload-draft-interop-version", "6")], 415),
            (&[offset, complete, ("upload-draft-interop-version", "9")], 415),
            (&[offset, complete, ("content-type", "application/offset+octet-stream")], 415),
            (&[offset, TYPE], 400),
            (&[offset, TYPE, ("upload-draft-interop-version", "7")], 400),
            (&[offset, TYPE, ("upload-draft-interop-version", "6")], 200),
            (&[complete, TYPE], 400),
            (&[("upload-offset", "-3"), complete, TYPE], 400),
            (&[("upload-offset", "three"), complete, TYPE], 400),
        ] {
            let found = match ContentFields::of_append(&headers(pairs), false) {
                Ok(fields) => {
                    assert_eq!(fields.offset_bytes, 3);
                    200
                }
                Err(UploadRefusal::Header { .. }) => 400,
                Err(UploadRefusal::MediaType(_)) => 415,
                Err(other) => panic!("{pairs:?}: {other:?}"),
            };
            assert_eq!(found, status, "{pairs:?}");
        }
    }
}
