//! What lists and search show of a medium, of document and asset: the one rule by which they are joined.

use schemas::{
    document::{MediaDocumentRecord, MediaVisibility},
    ids::MediaId,
    index_query::MediaIndexItem,
    media::{MediaRecord, MediaStatus, MediaSummary},
};
use serde::{Deserialize, Serialize};

/// What the owner says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DocumentFacts {
    pub(crate) revision: u64,
    pub(crate) owner: String,
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) language: Option<String>,
    pub(crate) visibility: MediaVisibility,
    /// Its owner chose a poster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_poster: bool,
    pub(crate) created_at_ms: u64,
    pub(crate) changed_at_ms: u64,
    /// While it is removed and can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) removed_at_ms: Option<u64>,
}

impl DocumentFacts {
    pub(crate) fn new(revision: u64, record: MediaDocumentRecord) -> Self {
        Self {
            revision,
            visibility: record.visibility(),
            has_poster: record.poster.is_some(),
            owner: record.owner,
            title: record.title,
            description: record.description,
            tags: record.details.tags,
            language: record.details.language,
            created_at_ms: record.created_at_ms,
            changed_at_ms: record.changed_at_ms,
            removed_at_ms: record.removed_at_ms,
        }
    }
}

/// What the stages know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssetFacts {
    pub(crate) revision: u64,
    pub(crate) owner: String,
    pub(crate) status: MediaStatus,
    pub(crate) summary: Option<MediaSummary>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) encode: Option<u32>,
    pub(crate) has_poster: bool,
    pub(crate) code: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) created_at_ms: u64,
    pub(crate) changed_at_ms: u64,
    /// True for a tombstone: the medium is removed.
    #[serde(default)]
    pub(crate) is_removed: bool,
}

impl AssetFacts {
    pub(crate) fn new(revision: u64, record: MediaRecord) -> Self {
        Self {
            revision,
            is_removed: record.removed_at_ms.is_some(),
            owner: record.owner,
            status: record.status,
            summary: record.summary,
            size_bytes: record.source.map(|source| source.size_bytes),
            encode: record.encode.as_ref().map(|encode| encode.number),
            has_poster: record.encode.is_some_and(|encode| encode.has_poster),
            code: record.code,
            detail: record.detail,
            created_at_ms: record.created_at_ms,
            changed_at_ms: record.changed_at_ms,
        }
    }
}

/// Both of a medium.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MediaFacts {
    pub(crate) document: Option<DocumentFacts>,
    pub(crate) asset: Option<AssetFacts>,
    /// True once its document is a tombstone: whatever the stages still know, it is shown no more.
    #[serde(default)]
    pub(crate) is_removed: bool,
}

impl MediaFacts {
    /// True when nothing is left of it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.document.is_none() && self.asset.is_none() && !self.is_removed
    }

    /// True when people may find it.
    pub(crate) const fn is_shown(&self) -> bool {
        !self.is_removed && (self.document.is_some() || self.asset.is_some())
    }

    /// Its owner and when it was created, by the document where there is one; `None` without either.
    pub(crate) fn origin(&self) -> Option<(&str, u64)> {
        let document = self.document.as_ref().map(|document| (&*document.owner, document.created_at_ms));
        let asset = self.asset.as_ref().filter(|asset| !asset.is_removed);
        document.or_else(|| asset.map(|asset| (&*asset.owner, asset.created_at_ms)))
    }

    /// Where it stands.
    pub(crate) fn status(&self) -> MediaStatus {
        self.asset.as_ref().map_or(MediaStatus::Uploading, |asset| asset.status)
    }

    /// The medium as lists show it; `None` when there is neither document nor asset.
    pub(crate) fn into_item(self, media_id: MediaId) -> Option<MediaIndexItem> {
        let (owner, created_at_ms) = self.origin().map(|(owner, created)| (owner.to_owned(), created))?;
        let status = self.status();
        let Self { document, asset, .. } = self;
        let of_document = document.as_ref().map_or(0, |document| document.changed_at_ms);
        let has_chosen_poster = document.as_ref().is_some_and(|document| document.has_poster);
        let of_asset = asset.as_ref().map_or(0, |asset| asset.changed_at_ms);
        Some(MediaIndexItem {
            media_id,
            owner,
            status,
            created_at_ms,
            changed_at_ms: of_document.max(of_asset),
            document_revision: document.as_ref().map_or(0, |document| document.revision),
            asset_revision: asset.as_ref().map_or(0, |asset| asset.revision),
            removed_at_ms: document.as_ref().and_then(|document| document.removed_at_ms),
            title: document.map(|document| document.title).unwrap_or_default(),
            size_bytes: asset.as_ref().and_then(|asset| asset.size_bytes),
            encode: asset.as_ref().and_then(|asset| asset.encode),
            has_poster: has_chosen_poster || asset.as_ref().is_some_and(|asset| asset.has_poster),
            code: asset.as_ref().and_then(|asset| asset.code.clone()),
            detail: asset.as_ref().and_then(|asset| asset.detail.clone()),
            summary: asset.and_then(|asset| asset.summary),
        })
    }
}
