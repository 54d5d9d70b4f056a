//! API keys and signing keys. A key's secret half is stored as a hash; a signing key is created once, so that replicas agree.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{BusEvent, EventContext, ids::KeyId, value::EmailAddress};

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Role")]
pub enum PrincipalRole {
    /// Works on what it owns.
    Owner,
    /// Reads everything operational, changes nothing.
    Operator,
    /// May do everything.
    Admin,
}

/// A group of endpoints an API key may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Scope")]
pub enum ApiKeyScope {
    /// Uploads, and media sent in one request.
    Upload,
    /// Documents and search.
    Metadata,
    /// Gates.
    Gate,
    /// Playback sessions.
    Streaming,
    /// Jobs, schedules, encodes.
    Worker,
    /// The event stream.
    Events,
    /// The cache API.
    Cache,
    /// The audit log.
    Audit,
    /// Health, alerts, logs, metrics.
    Monitor,
}

/// One API key in the bucket `apikeys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKey {
    /// Public half.
    pub key_id: KeyId,
    /// SHA-256 of the secret half.
    #[schemars(with = "Vec<u8>")]
    pub secret_sha256: ByteBuf,
    /// Whose media it works on.
    pub owner: String,
    /// What it may do.
    pub role: PrincipalRole,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Where it may do it; absent for everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<ApiKeyScope>>,
    /// The owner's own word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whom to write to when it has to be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_email: Option<EmailAddress>,
    /// Unix time in milliseconds from which on it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// Unix time in milliseconds at which it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_ms: Option<u64>,
}

impl ApiKey {
    /// True until it is revoked or its time is over.
    pub fn is_active(&self, now_ms: u64) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms)
    }
}

impl crate::KvRecord for ApiKey {
    const BUCKET: &'static str = "apikeys";
    fn key(&self) -> String {
        self.key_id.to_string()
    }
}

/// One signing key in the bucket `secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Secret")]
pub struct SigningSecret {
    /// What it signs, our own word.
    pub name: String,
    /// 32 random bytes.
    #[schemars(with = "Vec<u8>")]
    pub bytes: ByteBuf,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
}

impl crate::KvRecord for SigningSecret {
    const BUCKET: &'static str = "secrets";
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// `evt.admin.key_created`: an API key was made; its secret is nowhere in the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "KeyCreated")]
pub struct AdminKeyCreated {
    /// Public half.
    pub key_id: KeyId,
    /// Whose media it works on.
    pub owner: String,
    /// What it may do.
    pub role: PrincipalRole,
}

impl BusEvent for AdminKeyCreated {
    const ENTITY: &'static str = "admin";
    const VERB: &'static str = "key_created";
    const ONCE: bool = true;
    fn entity_id(&self) -> String {
        self.key_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext { owner: Some(self.owner.clone()), ..EventContext::default() }
    }
}
