//! Uploads: how bytes arrive. The record is written by the ingress (and by the keeper when it expires).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    BusEvent, EventContext,
    encode_settings::EncodeSettings,
    ids::{JobId, MediaId, UploadGrantId, UploadId},
    media_details::MediaDetails,
    value::TransactionHash,
};

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UploadStatus")]
#[serde(rename_all = "snake_case")]
pub enum UploadStatus {
    /// Bytes may be appended.
    Open,
    /// All bytes are durable under the final key.
    Received,
    /// The owner ended it.
    Terminated,
    /// Its time ran out.
    Expired,
    /// Its bytes were lost or damaged; it can't go on.
    Deactivated,
}

/// A digest the client declared for the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Digest")]
pub struct UploadDigest {
    /// `sha-256` or `sha-512`, as RFC 9530 names them.
    pub algorithm: String,
    /// The digest's bytes.
    #[schemars(with = "Vec<u8>")]
    pub value: ByteBuf,
}

/// The object that holds the durable bytes behind the last whole part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Tail")]
pub struct UploadTail {
    /// Generation that wrote it, part of its key: a displaced writer can't overwrite a newer one.
    pub generation: u64,
    /// Index of the part it will become the beginning of, part of its key.
    pub part: u64,
    /// Bytes of it that count.
    pub size_bytes: u64,
}

/// The parts of an upload to a remote store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Multipart")]
pub struct MultipartState {
    /// The store's name for the multipart upload, once there is one.
    pub multipart_id: Option<String>,
    /// Bytes in every part but the last.
    pub part_bytes: u64,
    /// The store's names for the parts stored so far, in order; at most 9 000.
    pub parts: Vec<String>,
    /// The durable bytes behind the parts.
    pub tail: Option<UploadTail>,
}

/// What an upload is to others (tus 1.0, extension concatenation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadConcat {
    /// Some bytes of a whole; it never becomes a medium.
    Partial {
        /// The upload that it is a part of, once that is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        final_upload_id: Option<UploadId>,
    },
    /// A whole whose bytes are those of other uploads.
    Final {
        /// They, in order; at most 128, one may stand more than once.
        part_ids: Vec<UploadId>,
        /// `Upload-Concat` as received.
        header: String,
    },
}

/// The protocol that an upload was opened by, in which it goes on: it says when the upload is complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadProtocol {
    /// tus 1.0, or a whole file in one request: complete with the last byte of its length.
    #[default]
    Tus,
    /// Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload): complete once the client says so, too.
    Resumable {
        /// True once the client has said so, and every byte is durable.
        is_complete: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
const fn is_tus(protocol: &UploadProtocol) -> bool {
    matches!(protocol, UploadProtocol::Tus)
}

/// What brings the bytes of an upload that no client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UploadFetch {
    /// The job. It alone may append.
    pub job_id: JobId,
    /// What the source calls the version that the bytes are of (RFC 9110, 8.8): a strong `ETag`, or a `Last-Modified` that is as good;
    /// absent before the first byte, and where it has neither, so that nothing can follow what came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<String>,
}

/// One upload in the bucket `uploads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Record")]
pub struct UploadRecord {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it becomes.
    pub media_id: MediaId,
    /// Who may continue or end it.
    pub owner: String,
    /// Where it stands.
    pub status: UploadStatus,
    /// Total length in bytes, once known.
    pub length_bytes: Option<u64>,
    /// Bytes that are durable.
    pub offset_bytes: u64,
    /// Fencing token: raised by each request that takes the upload over.
    pub generation: u64,
    /// Replica that is writing now, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// `Upload-Metadata` as received.
    pub metadata_raw: String,
    /// Display name, cleaned; never part of a path.
    pub filename: Option<String>,
    /// Media type the client claimed.
    pub content_type: Option<String>,
    /// Title of the medium; the file name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the medium is about, as the client said it when it made the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What else the client said about it when it made the upload; nothing once the upload has ended.
    #[serde(default, skip_serializing_if = "MediaDetails::is_empty")]
    pub details: MediaDetails,
    /// True when everybody may play the medium from its first moment on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_public: bool,
    /// True where lists for visitors leave it out all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unlisted: bool,
    /// The transaction that minted the token of the medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_tx: Option<TransactionHash>,
    /// How its first encode is to be made.
    #[serde(default, skip_serializing_if = "EncodeSettings::is_default")]
    pub settings: EncodeSettings,
    /// Whole-file digest the client declared.
    pub digest: Option<UploadDigest>,
    /// Parts, where the store is remote.
    pub multipart: Option<MultipartState>,
    /// What it is to others, if it is a part or has parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concat: Option<UploadConcat>,
    /// The protocol that it was opened by.
    #[serde(default, skip_serializing_if = "is_tus")]
    pub protocol: UploadProtocol,
    /// The job that brings its bytes; absent where a client does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<UploadFetch>,
    /// The grant that it began with; absent where its owner's credential brings it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<UploadGrantId>,
    /// True once an upload that ended unfinished left nothing in the store.
    #[serde(default)]
    pub freed: bool,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds after which an open upload is removed.
    pub expires_at_ms: u64,
    /// Why it can't go on, a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Unix time in milliseconds until which an upload that ended is kept; absent while it is open. Its history is in the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until_ms: Option<u64>,
}

impl UploadRecord {
    /// An open upload without a byte, a length or a time.
    pub fn new(upload_id: UploadId, media_id: MediaId, owner: String) -> Self {
        Self {
            upload_id,
            media_id,
            owner,
            status: UploadStatus::Open,
            length_bytes: None,
            offset_bytes: 0,
            generation: 0,
            holder: None,
            metadata_raw: String::new(),
            filename: None,
            content_type: None,
            title: None,
            description: None,
            details: MediaDetails::default(),
            is_public: false,
            is_unlisted: false,
            mint_tx: None,
            settings: EncodeSettings::default(),
            digest: None,
            multipart: None,
            concat: None,
            protocol: UploadProtocol::Tus,
            fetch: None,
            grant_id: None,
            freed: false,
            created_at_ms: 0,
            expires_at_ms: 0,
            code: None,
            kept_until_ms: None,
        }
    }

    /// True when every byte is durable, and the client has said that there are no more where its protocol wants that said.
    pub fn is_full(&self) -> bool {
        let is_said = !matches!(self.protocol, UploadProtocol::Resumable { is_complete: false });
        is_said && self.length_bytes == Some(self.offset_bytes)
    }

    /// True for some bytes of a whole, which never become a medium.
    pub const fn is_partial(&self) -> bool {
        matches!(self.concat, Some(UploadConcat::Partial { .. }))
    }

    /// True for a whole whose bytes are those of other uploads.
    pub const fn is_final(&self) -> bool {
        matches!(self.concat, Some(UploadConcat::Final { .. }))
    }

    /// The upload that it is a part of.
    pub const fn final_upload_id(&self) -> Option<UploadId> {
        match self.concat {
            Some(UploadConcat::Partial { final_upload_id }) => final_upload_id,
            _ => None,
        }
    }

    /// The uploads that it consists of.
    pub fn part_ids(&self) -> &[UploadId] {
        match &self.concat {
            Some(UploadConcat::Final { part_ids, .. }) => part_ids,
            _ => &[],
        }
    }

    /// True while it takes room that its owner may have only so often: bytes may follow, or it waits for the other parts.
    pub const fn is_unfinished(&self) -> bool {
        match self.status {
            UploadStatus::Open => true,
            UploadStatus::Received => self.is_partial(),
            UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated => false,
        }
    }

    /// Ends the upload; from now on it is kept for `kept_ms`, in milliseconds, or until its bytes are freed.
    pub fn mark_ended(&mut self, status: UploadStatus, now_ms: u64, kept_ms: u64) {
        self.status = status;
        self.kept_until_ms = Some(now_ms.saturating_add(kept_ms));
        // The document has them, or there is no medium: here a contact would outlive what its owner takes back there.
        self.details = MediaDetails::default();
    }
}

impl crate::KvRecord for UploadRecord {
    const BUCKET: &'static str = "uploads";
    const KEEPS_TRACE: bool = true;
    fn key(&self) -> String {
        self.upload_id.to_string()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        match self.status {
            UploadStatus::Open => None,
            UploadStatus::Received => self.kept_until_ms,
            // What still has bytes in the store must stay on record until they are freed.
            UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated => {
                self.kept_until_ms.filter(|_| self.freed)
            }
        }
    }
}

/// The open uploads of one owner, in the bucket `limits`. It counts, and decides nothing about an upload that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenUploads {
    /// Key of the record, from [`OpenUploads::key_for_owner`].
    #[schemars(description = "Key of the record, from [`OpenUploads::key_of`].")]
    pub key: String,
    /// The uploads.
    pub upload_ids: Vec<UploadId>,
    /// The length that each of them declared, in bytes, in the same order; 0 for one that did not. Shorter where uploads of before are
    /// among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub length_bytes: Vec<u64>,
}

impl OpenUploads {
    /// Key for an owner, by a digest of the owner's name: names may be client text.
    pub fn key_for_owner(owner_digest: &[u8]) -> String {
        let half = owner_digest.get(..16).unwrap_or(owner_digest);
        format!("uploads.{}", data_encoding::HEXLOWER.encode(half))
    }
}

impl crate::KvRecord for OpenUploads {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        self.key.clone()
    }
}

macro_rules! upload_event {
    ($name:ident, $verb:literal) => {
        impl BusEvent for $name {
            const ENTITY: &'static str = "upload";
            const VERB: &'static str = $verb;
            const ONCE: bool = true;
            fn entity_id(&self) -> String {
                self.upload_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), media_id: Some(self.media_id), job_id: None }
            }
        }
    };
}

/// `evt.upload.created`: an upload was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Created")]
pub struct UploadCreated {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it becomes.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Total length in bytes, once known.
    pub length_bytes: Option<u64>,
    /// Display name.
    pub filename: Option<String>,
    /// Unix time in milliseconds.
    pub expires_at_ms: u64,
    /// True for some bytes of a whole, which never become a medium.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
}
upload_event!(UploadCreated, "created");

/// `evt.upload.received`: every byte is durable under `key`; the upload stage verifies it next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Received")]
pub struct UploadReceived {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it becomes.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Object key of the bytes.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Display name.
    pub filename: Option<String>,
    /// Media type the client claimed.
    pub content_type: Option<String>,
    /// Whole-file digest the client declared.
    pub digest: Option<UploadDigest>,
    /// How its first encode is to be made.
    #[serde(default, skip_serializing_if = "EncodeSettings::is_default")]
    pub settings: EncodeSettings,
}
upload_event!(UploadReceived, "received");

/// `evt.upload.expired`: an open upload was removed because its time ran out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Expired")]
pub struct UploadExpired {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it would have become.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Bytes that were removed.
    pub offset_bytes: u64,
}
upload_event!(UploadExpired, "expired");

/// `evt.upload.terminated`: the upload ended before all bytes were there, by its owner or because it can't go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Terminated")]
pub struct UploadTerminated {
    /// The upload.
    pub upload_id: UploadId,
    /// The medium it would have become.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Bytes that were removed.
    pub offset_bytes: u64,
    /// Why, when it was not the owner's wish: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}
upload_event!(UploadTerminated, "terminated");
