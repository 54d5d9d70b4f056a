//! Which object store belongs to this installation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::StoreId;

/// The installation's object store, in the bucket `store`: made once, before the marker of the store is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StoreIdentity")]
pub struct StoreIdentity {
    /// What the marker in the store's root has to say.
    pub store_id: StoreId,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds at which the marker was first seen in the store. From then on a root without it is taken for
    /// one that is away, and never made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked_at_ms: Option<u64>,
}

impl StoreIdentity {
    /// Key of the one record.
    pub const KEY: &'static str = "identity";
}

impl crate::KvRecord for StoreIdentity {
    const BUCKET: &'static str = "store";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}
