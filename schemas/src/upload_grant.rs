//! Rights to bring one file, which an owner gives to somebody without a credential, such as the browser of a visitor.
//!
//! Limits: [`GRANTS_MAX`] of an owner at a time, each for [`EXPIRES_S_MAX`], with [`TYPES_MAX`] media types, and with
//! [`TEXT_BYTES_MAX`] of title and types. One that was taken back counts for [`REVOKED_KEPT_MS`] more, one whose upload is complete for
//! [`FINISHED_KEPT_MS`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    BusEvent, EventContext,
    gate::PlaybackCredential,
    ids::{UploadGrantId, UploadId},
};

/// Most grants of an owner of which there are records: those that wait, and those whose uploads go on or ended just now.
pub const GRANTS_MAX: usize = 200;
/// Longest life of a grant, in seconds: a week.
pub const EXPIRES_S_MAX: u64 = 7 * 24 * 3_600;
/// Shortest life of a grant, in seconds.
pub const EXPIRES_S_MIN: u64 = 60;
/// Life of a grant where nobody says another, in seconds.
pub const EXPIRES_S: u64 = 3_600;
/// Most media types of a grant.
pub const TYPES_MAX: usize = 10;
/// Longest media type, in bytes.
pub const TYPE_BYTES_MAX: usize = 127;
/// Most bytes of the title and the media types of a grant together.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// How long a grant is kept that was taken back, in milliseconds.
pub const REVOKED_KEPT_MS: u64 = 2 * 60 * 1_000;
/// How long a grant is good for looking at its upload that is complete, in milliseconds.
pub const FINISHED_KEPT_MS: u64 = 10 * 60 * 1_000;
/// How long the list of an owner is kept at least, in milliseconds: as long as a grant may wait and the upload of it may pause.
pub const LIST_KEPT_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// A right to bring one file; in the bucket `apikeys`, apart from what sign-in writes. Its text is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UploadGrant")]
pub struct UploadGrant {
    /// Its public half.
    pub grant_id: UploadGrantId,
    /// SHA-256 of its secret half.
    #[schemars(with = "Vec<u8>")]
    pub secret_sha256: ByteBuf,
    /// Who gave it, and whose the medium is.
    pub owner: String,
    /// The credential that it was given with: it is worth nothing once that is over.
    pub credential: PlaybackCredential,
    /// Largest file, in bytes.
    pub size_bytes_max: u64,
    /// Media types that the file may have, as `video/mp4` or `video/*`; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = TYPES_MAX))]
    pub types: Vec<String>,
    /// Title of the medium; what who brings it says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds from which on no upload begins with it.
    pub expires_at_ms: u64,
    /// The upload that began with it: the one that it is good for from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UploadGrantUse>,
    /// Unix time in milliseconds at which its owner took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
}

/// The use of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UploadGrantUse")]
pub struct UploadGrantUse {
    /// The upload.
    pub upload_id: UploadId,
    /// Unix time in milliseconds from which on it does not go on; later while the upload gets bytes.
    pub until_ms: u64,
}

impl UploadGrant {
    /// True for one that an upload may begin with, or the upload of which may go on.
    pub fn is_open(&self, now_ms: u64) -> bool {
        let ends_at_ms = self.used.map_or(self.expires_at_ms, |used| used.until_ms);
        self.revoked_at_ms.is_none() && ends_at_ms > now_ms
    }

    /// What becomes of it once its upload is complete: it is kept for those who ask how that ended.
    #[must_use]
    pub fn into_finished(self, now_ms: u64) -> Self {
        let ends_at_ms = now_ms.saturating_add(FINISHED_KEPT_MS);
        Self {
            expires_at_ms: self.expires_at_ms.min(ends_at_ms),
            used: self.used.map(|used| UploadGrantUse { until_ms: ends_at_ms, ..used }),
            ..self
        }
    }

    /// True when a file may have this media type.
    pub fn takes_type(&self, media_type: Option<&str>) -> bool {
        let is_taken = |taken: &String| match (media_type, taken.strip_suffix("/*")) {
            (Some(found), Some(kind)) => found.split('/').next() == Some(kind),
            (Some(found), None) => found == taken,
            (None, _) => false,
        };
        self.types.is_empty() || self.types.iter().any(is_taken)
    }
}

impl crate::KvRecord for UploadGrant {
    const BUCKET: &'static str = "apikeys";
    fn key(&self) -> String {
        upload_grant_key(self.grant_id)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        let ends_at_ms = self.used.map_or(self.expires_at_ms, |used| used.until_ms.max(self.expires_at_ms));
        let revoked_until_ms = self.revoked_at_ms.map(|at_ms| at_ms.saturating_add(REVOKED_KEPT_MS));
        Some(revoked_until_ms.map_or(ends_at_ms, |until_ms| until_ms.min(ends_at_ms)))
    }
}

/// Key of an [`UploadGrant`].
pub fn upload_grant_key(grant_id: UploadGrantId) -> String {
    format!("grant.{grant_id}")
}

/// The grants of an owner of which there are records; in the bucket `apikeys`, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OwnerUploadGrants")]
pub struct OwnerUploadGrants {
    /// SHA-256 of the owner's name in hex.
    pub owner_sha256: String,
    /// Their ids, oldest first; of some the record may be gone.
    #[schemars(length(max = GRANTS_MAX))]
    pub grant_ids: Vec<UploadGrantId>,
    /// Unix time in milliseconds at which the last of them has ended surely.
    pub expires_at_ms: u64,
}

impl crate::KvRecord for OwnerUploadGrants {
    const BUCKET: &'static str = "apikeys";
    fn key(&self) -> String {
        upload_grant_list_key(&self.owner_sha256)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// Key of an [`OwnerUploadGrants`].
pub fn upload_grant_list_key(owner_sha256: &str) -> String {
    format!("grants.{owner_sha256}")
}

macro_rules! grant_event {
    ($name:ident, $verb:literal, $once:literal) => {
        impl BusEvent for $name {
            const ENTITY: &'static str = "upload";
            const VERB: &'static str = $verb;
            const ONCE: bool = $once;
            fn entity_id(&self) -> String {
                self.grant_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), media_id: None, job_id: None }
            }
        }
    };
}

/// `evt.upload.grant_created`: an owner gave somebody the right to bring one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GrantCreated")]
pub struct UploadGrantCreated {
    /// The grant.
    pub grant_id: UploadGrantId,
    /// Who gave it.
    pub owner: String,
    /// Largest file, in bytes.
    pub size_bytes_max: u64,
    /// Media types that the file may have; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Unix time in milliseconds from which on no upload begins with it.
    pub expires_at_ms: u64,
}
grant_event!(UploadGrantCreated, "grant_created", true);

/// `evt.upload.grant_used`: an upload began with a grant. Again when that one came to nothing before a byte was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GrantUsed")]
pub struct UploadGrantUsed {
    /// The grant.
    pub grant_id: UploadGrantId,
    /// Who gave it.
    pub owner: String,
    /// The upload.
    pub upload_id: UploadId,
}
grant_event!(UploadGrantUsed, "grant_used", false);

/// `evt.upload.grant_revoked`: its owner took a grant back. An upload that began with it does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GrantRevoked")]
pub struct UploadGrantRevoked {
    /// The grant.
    pub grant_id: UploadGrantId,
    /// Who gave it.
    pub owner: String,
    /// Who took it back.
    pub by: String,
}
grant_event!(UploadGrantRevoked, "grant_revoked", true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_taken_back_or_is_finished_goes_soon() {
        use crate::KvRecord as _;
        let used = UploadGrantUse { upload_id: UploadId::from_bytes([7; 16]), until_ms: 90_000_000 };
        let grant = UploadGrant {
            expires_at_ms: 100_000_000,
            used: Some(used),
            revoked_at_ms: None,
            ..crate::examples::upload_grant()
        };
        assert_eq!(grant.expires_at_ms(), Some(100_000_000));
        let revoked = UploadGrant { revoked_at_ms: Some(1_000), ..grant.clone() };
        assert_eq!(revoked.expires_at_ms(), Some(1_000 + REVOKED_KEPT_MS));
        let finished = grant.into_finished(1_000);
        assert_eq!(finished.expires_at_ms(), Some(1_000 + FINISHED_KEPT_MS));
        assert!(finished.is_open(1_000) && !finished.is_open(1_000 + FINISHED_KEPT_MS));
    }

    #[test]
    fn a_type_is_taken_by_itself_or_with_its_kind() {
        let grant = |types: &[&str]| UploadGrant {
            types: types.iter().map(|&name| name.to_owned()).collect(),
            ..crate::examples::upload_grant()
        };
        for (types, found, is_taken) in [
            (&[][..], None, true),
            (&[], Some("video/mp4"), true),
            (&["video/*"], Some("video/mp4"), true),
            (&["video/*"], Some("videos/mp4"), false),
            (&["video/*"], None, false),
            (&["video/mp4"], Some("video/mp4"), true),
            (&["video/mp4"], Some("video/webm"), false),
            (&["audio/*", "video/mp4"], Some("audio/flac"), true),
        ] {
            assert_eq!(grant(types).takes_type(found), is_taken, "{types:?} {found:?}");
        }
    }
}
