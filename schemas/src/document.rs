//! The owner's document of a medium: what people say about it. Written over HTTP only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    BusEvent, EventContext,
    captions::CaptionTrack,
    chapters::Chapter,
    gate::{GateRule, MediaGate},
    ids::{MediaId, UploadId},
    media::MediaRecord,
    media_details::{MediaDetails, MediaLink},
    poster::ChosenPoster,
    value::{TransactionHash, is_zero},
};

/// How media segments are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Encryption")]
pub enum SegmentEncryption {
    /// As they are stored.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Whole segments with AES-128-CBC and PKCS #7 padding (RFC 8216, section 4.3.2.4, `AES-128`).
    #[serde(rename = "aes_128")]
    Aes128,
}

impl SegmentEncryption {
    /// True when segments are served as they are stored.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Who may have a medium as a file. Its owner always may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Downloads")]
#[serde(rename_all = "snake_case")]
pub enum DownloadPolicy {
    /// Its owner alone.
    #[default]
    None,
    /// All who may play it.
    Viewers,
}

impl DownloadPolicy {
    /// True when nobody but the owner may have it.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// One medium in the bucket `media`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct MediaDocumentRecord {
    /// The medium.
    pub media_id: MediaId,
    /// The upload that brings its bytes; absent where the document was made without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_id: Option<UploadId>,
    /// Who may change it.
    pub owner: String,
    /// Title for people; the file name until the owner says otherwise.
    pub title: String,
    /// What it is about, in its owner's words; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What else its owner says about it.
    #[serde(default, skip_serializing_if = "MediaDetails::is_empty")]
    pub details: MediaDetails,
    /// The transaction that minted its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_tx: Option<TransactionHash>,
    /// Who may play it; the owner alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<MediaGate>,
    /// True for one that everybody may play who knows its address: no list of public media shows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unlisted: bool,
    /// How its segments are served; as they are stored when absent.
    #[serde(default, skip_serializing_if = "SegmentEncryption::is_none")]
    pub encryption: SegmentEncryption,
    /// Who may have it as a file; its owner alone when absent.
    #[serde(default, skip_serializing_if = "DownloadPolicy::is_none")]
    pub downloads: DownloadPolicy,
    /// Texts that its owner brought, ordered by language and kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<CaptionTrack>,
    /// Chapters that its owner set, in order of time; those of the file when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chapters: Option<Vec<Chapter>>,
    /// The poster that its owner chose; that of the encode when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poster: Option<ChosenPoster>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds.
    pub changed_at_ms: u64,
    /// Unix time in milliseconds at which the medium was removed: all that is left of it goes after a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at_ms: Option<u64>,
    /// How often it was removed; what ends the work on it names the removal, so that it leaves alone what was restored since.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removal_count: u32,
    /// True while it is removed and can be restored. False once that is over: it is being purged, or was removed for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restorable: bool,
}

/// Who may play a medium, and whether it is shown to strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Visibility", inline)]
pub enum MediaVisibility {
    /// Everybody plays it, and it stands in lists for visitors.
    Public,
    /// Everybody plays it who knows its address.
    Unlisted,
    /// Those whom a rule of its owner lets.
    Gated,
    /// Its owner alone.
    Private,
}

impl MediaVisibility {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Public, Self::Unlisted, Self::Gated, Self::Private];

    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Unlisted => "unlisted",
            Self::Gated => "gated",
            Self::Private => "private",
        }
    }
}

/// The chapters of a medium: as its owner set them, else as its file names them; absent where there are none.
pub fn choose_chapters<'a>(
    document: Option<&'a MediaDocumentRecord>,
    medium: Option<&'a MediaRecord>,
) -> Option<&'a [Chapter]> {
    let set = document.and_then(|document| document.chapters.as_deref());
    let named = medium.and_then(|medium| medium.technical.as_ref()).map(|technical| &technical.chapters[..]);
    set.or(named.filter(|chapters| !chapters.is_empty()))
}

impl MediaDocumentRecord {
    /// Who may play the medium, by its gate.
    pub fn visibility(&self) -> MediaVisibility {
        match self.gate.as_ref().and_then(|gate| gate.rule.as_ref()) {
            Some(GateRule::Public {}) if self.is_unlisted => MediaVisibility::Unlisted,
            Some(GateRule::Public {}) => MediaVisibility::Public,
            Some(_) => MediaVisibility::Gated,
            None => MediaVisibility::Private,
        }
    }

    /// True when the medium stands in lists for visitors.
    pub fn is_listed(&self) -> bool {
        self.is_public() && !self.is_unlisted
    }

    /// True when everybody may play the medium, and it may be shown to strangers: its rule is `public`, and nothing else.
    pub fn is_public(&self) -> bool {
        let rule = self.gate.as_ref().and_then(|gate| gate.rule.as_ref());
        self.removed_at_ms.is_none() && matches!(rule, Some(GateRule::Public {}))
    }

    /// The document of a medium that nobody has said anything about; Unix time in milliseconds.
    pub fn new(media_id: MediaId, owner: String, created_at_ms: u64) -> Self {
        Self {
            media_id,
            upload_id: None,
            owner,
            title: String::new(),
            description: None,
            details: MediaDetails::default(),
            mint_tx: None,
            gate: None,
            is_unlisted: false,
            encryption: SegmentEncryption::None,
            downloads: DownloadPolicy::None,
            captions: Vec::new(),
            chapters: None,
            poster: None,
            created_at_ms,
            changed_at_ms: created_at_ms,
            removed_at_ms: None,
            removal_count: 0,
            is_restorable: false,
        }
    }

    /// What is left of a medium that was removed for good: whose it was, and when it ended, as Unix time in milliseconds. The time of
    /// one that could be restored until now stays.
    #[must_use]
    pub fn into_removed(self, now_ms: u64) -> Self {
        Self {
            title: String::new(),
            description: None,
            details: MediaDetails::default(),
            mint_tx: None,
            gate: None,
            captions: Vec::new(),
            chapters: None,
            poster: None,
            is_restorable: false,
            ..self.into_restorable(now_ms)
        }
    }

    /// A removed medium that can be restored: with all that was said about it, for nobody to see. Unix time in milliseconds.
    #[must_use]
    pub fn into_restorable(self, now_ms: u64) -> Self {
        Self {
            changed_at_ms: now_ms,
            removal_count: self.removal_count.saturating_add(u32::from(self.removed_at_ms.is_none())),
            removed_at_ms: self.removed_at_ms.or(Some(now_ms)),
            is_restorable: true,
            ..self
        }
    }

    /// The medium as it was before it was removed, at `now_ms`; `None` when it is not removed, or can't be restored any more.
    pub fn to_restored(&self, now_ms: u64) -> Option<Self> {
        self.removed_at_ms.filter(|_| self.is_restorable)?;
        Some(Self { removed_at_ms: None, is_restorable: false, changed_at_ms: now_ms, ..self.clone() })
    }
}

impl crate::KvRecord for MediaDocumentRecord {
    const BUCKET: &'static str = "media";
    fn key(&self) -> String {
        self.media_id.to_string()
    }
    fn is_removed(&self) -> bool {
        self.removed_at_ms.is_some()
    }
}

/// The key of a medium's encrypted segments in the bucket `keys`. Made once and never changed, since players keep what it opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentKey {
    /// The medium.
    pub media_id: MediaId,
    /// 16 random bytes.
    #[schemars(with = "Vec<u8>")]
    pub bytes: ByteBuf,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
}

/// Without the key, so that no log ever holds one.
impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentKey").field("media_id", &self.media_id).finish_non_exhaustive()
    }
}

impl crate::KvRecord for SegmentKey {
    const BUCKET: &'static str = "keys";
    fn key(&self) -> String {
        self.media_id.to_string()
    }
}

/// `evt.media.changed`: somebody changed what the document says. Tells what it says from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Changed")]
pub struct MediaChanged {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Who changed it.
    pub changed_by: String,
    /// Title for people.
    pub title: String,
    /// What it is about; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Words under which it is found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The language that it is about or spoken in: a tag of RFC 5646.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Addresses that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<MediaLink>,
    /// The transaction that minted its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_tx: Option<TransactionHash>,
    /// How its segments are served.
    pub encryption: SegmentEncryption,
    /// Who may have it as a file.
    #[serde(default, skip_serializing_if = "DownloadPolicy::is_none")]
    pub downloads: DownloadPolicy,
    /// Names of the members of the document that this changed, also of those that no event has: `contact_email` and `attributes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

impl MediaChanged {
    /// What becomes of a document, with the names of the members that `changed_by` changed.
    pub fn new(document: &MediaDocumentRecord, changed_by: &str, fields: &[&str]) -> Self {
        let MediaDetails { tags, language, links, contact_email: _, attributes: _ } =
            document.details.clone();
        Self {
            media_id: document.media_id,
            owner: document.owner.clone(),
            changed_by: changed_by.to_owned(),
            title: document.title.clone(),
            description: document.description.clone(),
            tags,
            language,
            links,
            mint_tx: document.mint_tx,
            encryption: document.encryption,
            downloads: document.downloads,
            fields: fields.iter().map(|&name| name.to_owned()).collect(),
        }
    }
}

impl BusEvent for MediaChanged {
    const ENTITY: &'static str = "media";
    const VERB: &'static str = "changed";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.media_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext { owner: Some(self.owner.clone()), media_id: Some(self.media_id), job_id: None }
    }
}
