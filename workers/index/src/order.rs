//! Keys of the order tree: one entry per list an item is in, so that every combination of the usual filters is one range.
//!
//! A key is the list's name (16 bytes of SHA-256), the time of creation and the id; a range read backwards is the list,
//! newest first, and time with id is the cursor.

use data_encoding::BASE32HEX_NOPAD;
use schemas::{
    ids::{JobId, MediaId},
    job, media,
};
use sha2::{Digest, Sha256};

use crate::IndexError;

/// Bytes of a list's name.
const NAME_BYTES: usize = 16;
/// Bytes of a position: time and id.
const POSITION_BYTES: usize = 24;

/// The name of a list: what is listed and by which filters.
pub(crate) type ListId = [u8; NAME_BYTES];

/// Where an item stands in every list it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListPosition([u8; POSITION_BYTES]);

impl ListPosition {
    /// The position of an item created at `created_at_ms`.
    pub(crate) fn new(created_at_ms: u64, id: &[u8; 16]) -> Self {
        let mut bytes = [0; POSITION_BYTES];
        let (time, rest) = bytes.split_at_mut(8);
        // Big-endian: the tree compares bytes, which then is the order of time.
        time.copy_from_slice(&created_at_ms.to_be_bytes());
        rest.copy_from_slice(id);
        Self(bytes)
    }

    /// The position a cursor names.
    pub(crate) fn from_cursor(cursor: &str) -> Result<Self, IndexError> {
        let bytes =
            BASE32HEX_NOPAD.decode(cursor.to_ascii_uppercase().as_bytes()).map_err(|_| IndexError::Cursor)?;
        bytes.try_into().map(Self).map_err(|_| IndexError::Cursor)
    }

    /// The position as a cursor.
    pub(crate) fn to_cursor(self) -> String {
        BASE32HEX_NOPAD.encode(&self.0).to_ascii_lowercase()
    }

    /// The position at the end of an order key; `None` when the key is none.
    pub(crate) fn from_order_key(key: &[u8]) -> Option<Self> {
        key.get(NAME_BYTES..)?.try_into().ok().map(Self)
    }

    /// The time in it, as Unix time in milliseconds.
    pub(crate) fn at_ms(&self) -> u64 {
        let mut time = [0; 8];
        time.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(time)
    }

    /// The id in it.
    pub(crate) fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[8..]);
        id
    }
}

/// The key of an item in a list.
pub(crate) fn order_key(name: &ListId, position: &ListPosition) -> [u8; NAME_BYTES + POSITION_BYTES] {
    let mut key = [0; NAME_BYTES + POSITION_BYTES];
    let (front, back) = key.split_at_mut(NAME_BYTES);
    front.copy_from_slice(name);
    back.copy_from_slice(&position.0);
    key
}

/// Hashes each part with its length, so that no two lists share a name.
fn list_id_hash(what: &[u8], parts: [Option<&[u8]>; 3]) -> ListId {
    let mut hash = Sha256::new();
    hash.update(what);
    for part in parts {
        match part {
            None => hash.update([0]),
            Some(part) => {
                hash.update([1]);
                // With its length, or two lists could share a name whose parts are split elsewhere.
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
    }
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    name
}

/// The list of media with this owner and status, where given.
pub(crate) fn media_list_id(owner: Option<&str>, status: Option<media::MediaStatus>) -> ListId {
    let status = status.map(|status| [media_status_code(status)]);
    list_id_hash(b"media", [owner.map(str::as_bytes), status.as_ref().map(<[u8; 1]>::as_slice), None])
}

/// The list of jobs with this owner, medium and status, where given.
pub(crate) fn job_list_id(
    owner: Option<&str>,
    media_id: Option<&MediaId>,
    status: Option<job::JobStatus>,
) -> ListId {
    let status = status.map(|status| [job_status_code(status)]);
    list_id_hash(
        b"jobs",
        [
            owner.map(str::as_bytes),
            status.as_ref().map(<[u8; 1]>::as_slice),
            media_id.map(|id| id.as_bytes().as_slice()),
        ],
    )
}

/// The list of paused jobs with this owner and medium, where given.
pub(crate) fn paused_job_list_id(owner: Option<&str>, media_id: Option<&MediaId>) -> ListId {
    let medium = media_id.map(|id| id.as_bytes().as_slice());
    list_id_hash(b"paused jobs", [owner.map(str::as_bytes), medium, None])
}

/// The list of removed media of this owner, where given, that can be restored, by when they were removed.
pub(crate) fn removed_media_list_id(owner: Option<&str>) -> ListId {
    list_id_hash(b"removed media", [owner.map(str::as_bytes), None, None])
}

/// The list of media that everybody may watch and that play.
pub(crate) fn public_media_list_id() -> ListId {
    list_id_hash(b"public media", [None, None, None])
}

/// The list of encodes of this owner, where given, that ended, by when they did.
pub(crate) fn ended_encodes_list_id(owner: Option<&str>) -> ListId {
    list_id_hash(b"ended encodes", [owner.map(str::as_bytes), None, None])
}

/// Every list a medium is in.
pub(crate) fn media_list_ids(owner: &str, status: media::MediaStatus, is_public: bool) -> Vec<ListId> {
    let mut lists = Vec::with_capacity(5);
    if is_public && matches!(status, media::MediaStatus::Playable | media::MediaStatus::Ready) {
        lists.push(public_media_list_id());
    }
    for owner in [None, Some(owner)] {
        for status in [None, Some(status)] {
            lists.push(media_list_id(owner, status));
        }
    }
    lists
}

/// Every list a job is in, by when it was asked for.
pub(crate) fn job_list_ids(
    owner: &str,
    media_id: &MediaId,
    (status, is_paused): (job::JobStatus, bool),
) -> Vec<ListId> {
    let mut lists = Vec::with_capacity(12);
    for owner in [None, Some(owner)] {
        for media_id in [None, Some(media_id)] {
            for status in [None, Some(status)] {
                lists.push(job_list_id(owner, media_id, status));
            }
            if is_paused {
                lists.push(paused_job_list_id(owner, media_id));
            }
        }
    }
    lists
}

/// Numbers on disk: a new status gets a new number.
const fn media_status_code(status: media::MediaStatus) -> u8 {
    match status {
        media::MediaStatus::Uploading => 1,
        media::MediaStatus::Stored => 2,
        media::MediaStatus::Rejected => 3,
        media::MediaStatus::Playable => 4,
        media::MediaStatus::Ready => 5,
        media::MediaStatus::Failed => 6,
    }
}

/// Numbers on disk: a new status gets a new number.
const fn job_status_code(status: job::JobStatus) -> u8 {
    match status {
        job::JobStatus::Active => 1,
        job::JobStatus::Succeeded => 2,
        job::JobStatus::Failed => 3,
        job::JobStatus::Cancelled => 4,
    }
}

/// The position of a medium.
pub(crate) fn media_position(created_at_ms: u64, media_id: &MediaId) -> ListPosition {
    ListPosition::new(created_at_ms, media_id.as_bytes())
}

/// The position of a job.
pub(crate) fn job_position(created_at_ms: u64, job_id: &JobId) -> ListPosition {
    ListPosition::new(created_at_ms, job_id.as_bytes())
}
