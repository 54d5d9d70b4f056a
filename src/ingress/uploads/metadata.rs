//! `Upload-Metadata`: kept byte for byte for the client, and what we show of it cleaned.
//!
//! Limits: [`KEYS_MAX`] keys; [`FILENAME_BYTES_MAX`], [`TYPE_BYTES_MAX`] and [`TITLE_LENGTH_MAX`] of what is shown.

use auth::Principal;
use base64::{Engine, engine::general_purpose::STANDARD};
use schemas::{
    access::ApiKeyScope,
    encode::EncodeSettings,
    media_details::MediaDetails,
    subjects::JobPriority,
    upload::UploadRecord,
    value::{TransactionHash, is_displayable},
};

use super::refusal::UploadRefusal;
use crate::{jobs::require_priority, transcode::ProfileCatalog};

/// Most keys in one header.
pub(super) const KEYS_MAX: usize = 64;
/// Longest display name in bytes.
pub(super) const FILENAME_BYTES_MAX: usize = 255;
/// Longest title in characters.
pub(crate) const TITLE_LENGTH_MAX: usize = 255;
/// Longest description in characters: in any script it fits into `Upload-Metadata`, beside a title and a name.
pub(crate) const DESCRIPTION_LENGTH_MAX: usize = 1_000;
/// What a title has somewhere: a character that is shown and no space.
pub(crate) const TITLE_PATTERN: &str =
    r"[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]";
/// Longest media type in bytes.
pub(super) const TYPE_BYTES_MAX: usize = 127;

/// What a client says about the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UploadMetadata {
    /// The header as received.
    pub(super) raw: String,
    /// Display name.
    pub(super) filename: Option<String>,
    /// Claimed media type.
    pub(super) content_type: Option<String>,
    /// The transaction that minted the token of the medium.
    pub(super) mint_tx: Option<TransactionHash>,
    /// Title of the medium.
    pub(super) title: Option<String>,
    /// What the medium is about.
    pub(super) description: Option<String>,
    /// What else is said about it.
    pub(super) details: MediaDetails,
    /// True when everybody may play it.
    pub(super) is_public: bool,
    /// True when lists for visitors leave it out all the same.
    pub(super) is_unlisted: bool,
    /// How its first encode is to be made.
    pub(super) settings: EncodeSettings,
}

/// Why a transaction is refused.
const NO_TRANSACTION: &str = "has a mint_tx that is no transaction hash";

impl UploadMetadata {
    /// Takes what somebody said under `key`; what nobody knows is left out.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "mint_tx" => self.mint_tx = Some(value.parse().map_err(|_| NO_TRANSACTION)?),
            "filename" | "name" if self.filename.is_none() => self.filename = clean_filename(value),
            "title" => self.title = Some(clean_title(value).ok_or("has a title that is empty or too long")?),
            "description" => {
                let text = clean_description(value).ok_or("has a description that is too long")?;
                self.description = (!text.is_empty()).then_some(text);
            }
            "visibility" => match value {
                "public" | "unlisted" => (self.is_public, self.is_unlisted) = (true, value == "unlisted"),
                "private" => (self.is_public, self.is_unlisted) = (false, false),
                _ => return Err("has a visibility that is none of public, unlisted and private"),
            },
            "profile" if !value.is_empty() => self.settings.profile = Some(value.to_owned()),
            "priority" if !value.is_empty() => {
                let known = JobPriority::ALL.into_iter().find(|known| known.subject_token() == value);
                self.settings.priority = known.ok_or("has a priority that is none of p0, p1 and p2")?;
            }
            "encode_paused" => {
                let paused =
                    value.parse().map_err(|_| "has an encode_paused that is neither true nor false")?;
                self.settings.paused = paused;
            }
            "filetype" | "type" if self.content_type.is_none() => {
                self.content_type = clean_media_type(value);
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes it into the record of a new upload. What the record says of the file already came from elsewhere in the request.
    ///
    /// Refused when the credential may not say who plays a medium, and `visibility` does; when there is no such profile, and when the
    /// priority is that of admins.
    pub(super) fn describe(
        self,
        who: &Principal,
        profiles: &ProfileCatalog,
        record: &mut UploadRecord,
    ) -> Result<(), UploadRefusal> {
        if self.settings.profile.as_ref().is_some_and(|name| !profiles.profiles.contains_key(name)) {
            return Err(UploadRefusal::ProfileUnknown(profiles.profiles.keys().cloned().collect()));
        }
        if require_priority(who, self.settings.priority).is_err() {
            return Err(UploadRefusal::PriorityReserved);
        }
        let is_limited = who.scopes.as_ref().is_some_and(|scopes| !scopes.contains(&ApiKeyScope::Gate));
        if self.is_public && is_limited {
            return Err(UploadRefusal::GateScope);
        }
        record.metadata_raw = self.raw;
        record.filename = record.filename.take().or(self.filename);
        record.content_type = record.content_type.take().or(self.content_type);
        record.mint_tx = self.mint_tx;
        record.title = self.title;
        record.description = self.description;
        record.details = self.details;
        record.is_public = self.is_public;
        record.is_unlisted = self.is_unlisted;
        record.settings = self.settings;
        Ok(())
    }
}

/// Parses the header; an empty one is no metadata (a widely used client sends it always).
pub(super) fn parse_metadata(raw: &str) -> Result<UploadMetadata, UploadRefusal> {
    let bad = |why| UploadRefusal::Header { name: "Upload-Metadata", why };
    let mut metadata = UploadMetadata { raw: raw.to_owned(), ..UploadMetadata::default() };
    if raw.trim().is_empty() {
        return Ok(metadata);
    }
    let mut keys = Vec::new();
    for pair in raw.split(',') {
        let (key, encoded) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("has a key that is not printable ASCII"));
        }
        if keys.contains(&key) {
            return Err(bad("names a key twice"));
        }
        if keys.len() >= KEYS_MAX {
            return Err(bad("has too many keys"));
        }
        keys.push(key);
        let value = STANDARD.decode(encoded.trim()).map_err(|_| bad("has a value that is not base64"))?;
        match String::from_utf8(value) {
            Ok(value) => metadata.set(key, &value).map_err(bad)?,
            // Unlike a name it can't be left out: it is right, or it is another transaction.
            Err(_) if key == "mint_tx" => return Err(bad(NO_TRANSACTION)),
            Err(_) if key == "profile" => return Err(bad("has a profile that is no text")),
            Err(_) if key == "encode_paused" => return Err(bad("has an encode_paused that is no text")),
            Err(_) if key == "priority" => return Err(bad("has a priority that is no text")),
            Err(_) => {}
        }
    }
    Ok(metadata)
}

/// A name fit to be shown: the last path component without control and direction characters.
pub(super) fn clean_filename(text: &str) -> Option<String> {
    let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
    // What is not shown may hide a space at either end.
    let shown: String = last.chars().filter(|&c| is_displayable(c)).collect();
    let mut name = String::new();
    for c in shown.trim().chars() {
        if name.len() + c.len_utf8() > FILENAME_BYTES_MAX {
            break;
        }
        name.push(c);
    }
    let name = name.trim_end();
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
}

/// A title fit to be shown: one line without control and direction characters; `None` when nothing of it is left, or it is too
/// long.
pub(crate) fn clean_title(text: &str) -> Option<String> {
    clean_line(text, TITLE_LENGTH_MAX)
}

/// One line fit to be shown, without control and direction characters; `None` when nothing of it is left, or it has more than
/// `length_max` characters.
pub(crate) fn clean_line(text: &str, length_max: usize) -> Option<String> {
    let shown: String = text.chars().filter(|&c| is_displayable(c)).collect();
    let line = shown.trim();
    (!line.is_empty() && text.chars().count() <= length_max).then(|| line.to_owned())
}

/// A description fit to be shown: lines without control and direction characters; `None` when it is too long, empty when nothing of
/// it is left.
pub(crate) fn clean_description(text: &str) -> Option<String> {
    let text = text.replace("\r\n", "\n");
    let shown: String = text.chars().filter(|&c| c == '\n' || is_displayable(c)).collect();
    (text.chars().count() <= DESCRIPTION_LENGTH_MAX).then(|| shown.trim().to_owned())
}

/// A media type in the form `type/subtype`, without parameters and in lower case.
pub(crate) fn clean_media_type(text: &str) -> Option<String> {
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let token =
        |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let (kind, subtype) = essence.split_once('/')?;
    (essence.len() <= TYPE_BYTES_MAX && token(kind) && token(subtype)).then_some(essence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_the_protocol_allows() {
        for (raw, filename, content_type) in [
            ("", None, None),
            ("  ", None, None),
            ("is_confidential", None, None),
            ("is_confidential ", None, None),
            ("filename d29ybGQubXA0", Some("world.mp4"), None),
            ("filename d29ybGQubXA0,filetype dmlkZW8vTVA0", Some("world.mp4"), Some("video/mp4")),
            ("filename Li4vLi4vZXRjL3Bhc3N3ZA==", Some("passwd"), None),
            ("filename Li4=", None, None),
            ("filename /w==", None, None),
            ("filetype bm9uc2Vuc2U=", None, None),
        ] {
            let found = parse_metadata(raw).unwrap();
            assert_eq!(found.raw, raw, "the header is kept byte for byte");
            assert_eq!(
                (found.filename.as_deref(), found.content_type.as_deref()),
                (filename, content_type),
                "{raw}"
            );
        }
    }

    #[test]
    fn refuses_what_is_malformed() {
        let many = (0..=KEYS_MAX).map(|i| format!("k{i}")).collect::<Vec<_>>().join(",");
        for raw in ["a ???", "a aGk=,a aGk=", ",", "a,", "k\u{e9}y aGk=", "a aGk", many.as_str()] {
            assert!(matches!(parse_metadata(raw), Err(UploadRefusal::Header { .. })), "{raw}");
        }
    }

    #[test]
    fn strips_what_deceives() {
        assert_eq!(clean_filename("a\u{202E}gpm.mp4\u{0}\n"), Some("agpm.mp4".to_owned()));
        assert_eq!(clean_filename("\u{feff} \u{feff}"), None, "a name that nobody sees");
        assert_eq!(clean_filename("C:\\dir\\clip.mov"), Some("clip.mov".to_owned()));
        assert_eq!(clean_filename(&"ä".repeat(300)).map(|n| n.len()), Some(254));
    }

    #[test]
    fn a_title_keeps_its_slashes_and_nothing_that_deceives() {
        for (text, title) in [
            (" AC/DC: live ", Some("AC/DC: live")),
            ("a\u{202E}gpm.mp4\u{0}\n", Some("agpm.mp4")),
            ("", None),
            (" \n\u{FEFF} ", None),
        ] {
            assert_eq!(clean_title(text).as_deref(), title, "{text:?}");
        }
        assert!(clean_title(&"ä".repeat(TITLE_LENGTH_MAX)).is_some());
        assert!(clean_title(&"ä".repeat(TITLE_LENGTH_MAX + 1)).is_none());
    }

    #[test]
    fn a_description_keeps_its_lines_and_nothing_that_deceives() {
        for (text, shown) in [
            ("a day\r\nat the sea\n", "a day\nat the sea"),
            ("a\u{202e}b\u{1b}[31m\tc", "ab[31mc"),
            (" \n\u{feff} ", ""),
        ] {
            assert_eq!(clean_description(text).as_deref(), Some(shown), "{text:?}");
        }
        assert!(clean_description(&"ä".repeat(DESCRIPTION_LENGTH_MAX)).is_some());
        assert!(clean_description(&"ä".repeat(DESCRIPTION_LENGTH_MAX + 1)).is_none());
    }

    #[test]
    fn what_a_title_needs_is_described() {
        let described = jsonschema::validator_for(&serde_json::json!({ "pattern": TITLE_PATTERN })).unwrap();
        for character in '\0'..='\u{ffff}' {
            let title = character.to_string();
            let is_described = described.is_valid(&title.as_str().into());
            assert_eq!(clean_title(&title).is_some(), is_described, "{character:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_the_header(raw in "\\PC{0,200}") {
            if let Ok(found) = parse_metadata(&raw) {
                prop_assert_eq!(found.raw, raw);
            }
        }

        #[test]
        fn a_shown_name_is_short_and_flat(text in "([a. /\\\\]|[\u{202e}\u{feff}\n\0]|\\PC){0,300}") {
            if let Some(name) = clean_filename(&text) {
                prop_assert!(name.len() <= FILENAME_BYTES_MAX && !name.is_empty());
                prop_assert!(!name.contains(['/', '\\']) && name.chars().all(is_displayable));
                prop_assert!(name != "." && name != "..");
                prop_assert_eq!(clean_filename(&name), Some(name), "cleaning it again changes nothing");
            }
        }

        #[test]
        fn a_title_is_what_is_shown_of_the_text(text in "([a /]|[\u{202e}\u{feff}\n\0]|\\PC){0,300}") {
            let title = clean_title(&text);
            let seen = |text: &str| text.chars().filter(|&c| is_displayable(c) && !c.is_whitespace()).collect::<String>();
            let fits = text.chars().count() <= TITLE_LENGTH_MAX;
            prop_assert_eq!(title.is_some(), fits && !seen(&text).is_empty());
            if let Some(title) = title {
                prop_assert!(title.chars().all(is_displayable) && title.trim() == title);
                prop_assert_eq!(seen(&title), seen(&text), "nothing that is seen is lost");
                prop_assert_eq!(clean_title(&title), Some(title), "cleaning it again changes nothing");
            }
        }

        #[test]
        fn a_media_type_is_its_essence(
            kind in "[A-Za-z0-9!#$&^_.+-]{1,60}",
            subtype in "[A-Za-z0-9!#$&^_.+-]{1,80}",
            rest in "( ?;\\PC{0,20})?",
        ) {
            let essence = format!("{kind}/{subtype}").to_ascii_lowercase();
            let fits = essence.len() <= TYPE_BYTES_MAX;
            prop_assert_eq!(clean_media_type(&format!(" {kind}/{subtype}{rest}")), fits.then_some(essence));
        }

        #[test]
        fn no_text_is_taken_for_another_media_type(text in "([aA/; ]|\\PC){0,12}") {
            if let Some(found) = clean_media_type(&text) {
                prop_assert!(text.to_ascii_lowercase().contains(&found), "{}", found);
                prop_assert_eq!(found.matches('/').count(), 1);
                prop_assert_eq!(clean_media_type(&found), Some(found));
            }
        }

        #[test]
        fn a_transaction_is_taken_whole_or_refused(text in "(0x)?[0-9a-fA-F]{62,66}|\\PC{0,70}", other in "[a-z]{1,6}") {
            let found = parse_metadata(&format!("{other} aGk=,mint_tx {}", STANDARD.encode(&text)));
            match text.parse::<TransactionHash>() {
                Ok(hash) => prop_assert_eq!(found.unwrap().mint_tx, Some(hash)),
                Err(_) => prop_assert!(found.is_err()),
            }
        }
    }
}
