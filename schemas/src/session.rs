//! Sign-in: challenges, sessions, the ring of signing keys, and what is published about them. Nothing secret is in any of it but
//! the ring: nonces are used up by the attempt that was judged, refresh tokens are stored as hashes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    BusEvent, EventContext,
    access::{ApiKeyScope, PrincipalRole},
    gate::PlaybackCredential,
    ids::{ChallengeId, KeyId, RequestId, SessionId},
};

/// One challenge in the bucket `nonces`; its id is the nonce. It is used up by the first attempt that could be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Challenge")]
pub struct SignInChallenge {
    /// The nonce.
    pub challenge_id: ChallengeId,
    /// SHA-256 of the cookie it was given to.
    #[schemars(with = "Vec<u8>")]
    pub binding_sha256: ByteBuf,
    /// The site it is for.
    pub domain: String,
    /// The account it is for, `0x` and lower case; absent when the client did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The chain it is for; absent when the client did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds from which on it is worth nothing.
    pub expires_at_ms: u64,
    /// Unix time in milliseconds of the attempt that used it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at_ms: Option<u64>,
    /// Why that attempt was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl crate::KvRecord for SignInChallenge {
    const BUCKET: &'static str = "nonces";
    fn key(&self) -> String {
        self.challenge_id.to_string()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// How many challenges one client prefix got in the running window; in the bucket `nonces`, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Prefix")]
pub struct ChallengeCounter {
    /// SHA-256 of the client's address prefix in hex.
    pub prefix_sha256: String,
    /// Challenges given in the window.
    pub count: u32,
    /// Unix time in milliseconds at which the window ends.
    pub expires_at_ms: u64,
}

impl crate::KvRecord for ChallengeCounter {
    const BUCKET: &'static str = "nonces";
    fn key(&self) -> String {
        challenge_counter_key(&self.prefix_sha256)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// Key of a [`ChallengeCounter`].
pub fn challenge_counter_key(prefix_sha256: &str) -> String {
    format!("prefix.{prefix_sha256}")
}

/// A link that signs in the first who opens it; in the bucket `nonces`, too. Its code is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SignInLink")]
pub struct SignInLink {
    /// SHA-256 of its code in hex.
    pub code_sha256: String,
    /// Whose things its key works on.
    pub owner: String,
    /// What its key may do.
    pub role: PrincipalRole,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds from which on it is worth nothing.
    pub expires_at_ms: u64,
    /// Unix time in milliseconds at which it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at_ms: Option<u64>,
    /// The key that it gives, from when it is opened first until it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SignInLinkKey>,
}

/// The key of a link that is being opened: however often that is tried, it is the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SignInLinkKey")]
pub struct SignInLinkKey {
    /// Its public half.
    pub key_id: KeyId,
    /// Random bytes; its secret is made of them and of the link's code, and of neither alone.
    #[schemars(with = "Vec<u8>")]
    pub salt: ByteBuf,
}

impl crate::KvRecord for SignInLink {
    const BUCKET: &'static str = "nonces";
    fn key(&self) -> String {
        sign_in_link_key(&self.code_sha256)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// Key of a [`SignInLink`].
pub fn sign_in_link_key(code_sha256: &str) -> String {
    format!("link.{code_sha256}")
}

/// A right to upload one file by a form, without a credential; in the bucket `nonces`, too. Its text is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UploadToken")]
pub struct UploadToken {
    /// SHA-256 of its text in hex.
    pub token_sha256: String,
    /// The credential that it was asked for with: it is worth nothing once that is over.
    pub credential: PlaybackCredential,
    /// Where a browser goes once its file is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_url: Option<String>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds from which on it is worth nothing.
    pub expires_at_ms: u64,
    /// Unix time in milliseconds at which it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at_ms: Option<u64>,
}

impl crate::KvRecord for UploadToken {
    const BUCKET: &'static str = "nonces";
    fn key(&self) -> String {
        upload_token_key(&self.token_sha256)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// Key of an [`UploadToken`].
pub fn upload_token_key(token_sha256: &str) -> String {
    format!("upload.{token_sha256}")
}

/// How an account proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Method")]
pub enum SignInMethod {
    /// A signature of the account's own key.
    Key,
    /// The account's contract said so (ERC-1271).
    Contract,
    /// The contract that will be the account said so (ERC-6492).
    Counterfactual,
}

/// Why a session ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "End")]
pub enum SessionEndReason {
    /// Its holder signed out.
    SignedOut,
    /// A refresh token was used twice: one of the two was stolen.
    Reused,
    /// An administrator ended it.
    Revoked,
    /// The account's contract no longer says yes.
    ProofFailed,
    /// The wallet opened more sessions than it may have.
    Replaced,
}

/// What a contract was asked, to ask it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Proof")]
pub struct ContractProof {
    /// The digest that was signed.
    #[schemars(with = "Vec<u8>")]
    pub digest: ByteBuf,
    /// The signature as it came.
    #[schemars(with = "Vec<u8>")]
    pub signature: ByteBuf,
}

/// One session in the bucket `sessions`: a family of refresh tokens, of which one is good at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct AuthSession {
    /// Which session.
    pub session_id: SessionId,
    /// The account, `0x` and lower case.
    pub address: String,
    /// The chain it signed in on.
    pub chain_id: u64,
    /// How it proved itself.
    pub method: SignInMethod,
    /// The chain that the account belongs to, since its contract there spoke for it; absent when its key did, which speaks for it on
    /// every chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_chain_id: Option<u64>,
    /// Counts the refresh tokens given out.
    pub generation: u32,
    /// SHA-256 of the secret in the good one.
    #[schemars(with = "Vec<u8>")]
    pub refresh_sha256: ByteBuf,
    /// Unix time in milliseconds at which the good one was given for the one before it; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed_at_ms: Option<u64>,
    /// Keyed hash of the client it was given to: that client may ask for it again for a few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<u8>>")]
    pub refreshed_by: Option<ByteBuf>,
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Unix time in milliseconds from which on it is over, however often it was refreshed.
    pub expires_at_ms: u64,
    /// Unix time in milliseconds at which it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// Why it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<SessionEndReason>,
    /// What a contract account is asked again while the session is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ContractProof>,
}

impl AuthSession {
    /// True until it is ended or its time is over. One that a contract proved without a chain that it belongs to, as there were
    /// once, is never open: its name would be worth more than its proof.
    pub fn is_open(&self, now_ms: u64) -> bool {
        let is_bound = self.method == SignInMethod::Key || self.account_chain_id.is_some();
        is_bound && self.ended_at_ms.is_none() && self.expires_at_ms > now_ms
    }
}

impl crate::KvRecord for AuthSession {
    const BUCKET: &'static str = "sessions";
    fn key(&self) -> String {
        self.session_id.to_string()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// A session of a wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Held")]
pub struct WalletSessionEntry {
    /// Which session.
    pub session_id: SessionId,
    /// Unix time in milliseconds from which on it is over.
    pub expires_at_ms: u64,
}

/// The sessions of one wallet, oldest first; in the bucket `sessions`, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Wallet")]
pub struct WalletSessions {
    /// The account, `0x` and lower case.
    pub address: String,
    /// The chain that the account belongs to; absent when its key speaks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// Its sessions; some of them may be over.
    pub sessions: Vec<WalletSessionEntry>,
    /// Unix time in milliseconds from which on all of them are over.
    pub expires_at_ms: u64,
}

impl crate::KvRecord for WalletSessions {
    const BUCKET: &'static str = "sessions";
    fn key(&self) -> String {
        wallet_sessions_key(&self.address, self.chain_id)
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// Key of a [`WalletSessions`]; the address is `0x` and 40 lower-case hexadecimal digits. The sessions of a contract are listed
/// apart from those of the same address elsewhere.
pub fn wallet_sessions_key(address: &str, chain_id: Option<u64>) -> String {
    match chain_id {
        None => format!("wallet.{address}"),
        Some(chain_id) => format!("wallet.{chain_id}-{address}"),
    }
}

/// One key of a [`KeyRing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RingKey", description = "One key of a [`Ring`].")]
pub struct KeyRingEntry {
    /// Its name in tokens.
    pub key_id: KeyId,
    /// 32 random bytes.
    #[schemars(with = "Vec<u8>")]
    pub bytes: ByteBuf,
    /// Unix time in milliseconds from which on it signs; every replica knows it by then.
    pub signs_from_ms: u64,
}

/// The keys that sign one kind of token, oldest first; in the bucket `secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Ring")]
pub struct KeyRing {
    /// What it signs, our own word.
    pub name: String,
    /// Its keys.
    pub keys: Vec<KeyRingEntry>,
}

impl crate::KvRecord for KeyRing {
    const BUCKET: &'static str = "secrets";
    fn key(&self) -> String {
        ring_record_key(&self.name)
    }
}

/// Key of a [`KeyRing`].
pub fn ring_record_key(name: &str) -> String {
    format!("ring.{name}")
}

/// The API keys of one owner; in the bucket `apikeys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OwnerKeys")]
pub struct OwnerApiKeys {
    /// SHA-256 of the owner's text in hex.
    pub owner_sha256: String,
    /// Its keys, oldest first; one that was never finished may be among them.
    pub key_ids: Vec<KeyId>,
}

impl crate::KvRecord for OwnerApiKeys {
    const BUCKET: &'static str = "apikeys";
    fn key(&self) -> String {
        api_key_list_key(&self.owner_sha256)
    }
}

/// Key of [`OwnerApiKeys`].
pub fn api_key_list_key(owner_sha256: &str) -> String {
    format!("owner.{owner_sha256}")
}

macro_rules! event {
    ($(#[$doc:meta])* $name:ident, $verb:literal, $owner:expr, { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// The request that caused it.
            pub request_id: RequestId,
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = "auth";
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.request_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                let owner: fn(&Self) -> Option<String> = $owner;
                EventContext { owner: owner(self), ..EventContext::default() }
            }
        }
    };
}

event!(
    /// `evt.auth.challenged`: somebody asked to sign in.
    #[schemars(rename = "Challenged")]
    AuthChallenged, "challenged", |_| None, {
        /// The nonce given.
        challenge_id: ChallengeId,
        /// The site it is for.
        domain: String,
        /// The account named, which nobody has proved; absent when none was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    }
);
event!(
    /// `evt.auth.refused`: an attempt used up a challenge of ours and failed. Attempts without one are counted in `evt.access.summed`.
    #[schemars(rename = "Refused")]
    AuthRefused, "refused", |_| None, {
        /// The nonce used up.
        challenge_id: ChallengeId,
        /// The stable code the client got.
        code: String,
        /// The account claimed, which nobody has proved.
        address: String,
    }
);
event!(
    /// `evt.auth.signed_in`: a wallet has a session.
    #[schemars(rename = "SignedIn")]
    AuthSignedIn, "signed_in", |event| Some(event.owner.clone()), {
        /// The session.
        session_id: SessionId,
        /// Whose things it works on.
        owner: String,
        /// The chain it signed in on.
        chain_id: u64,
        /// How it proved itself.
        method: SignInMethod,
        /// True when the message had the address in upper and lower case by EIP-55.
        is_checksummed: bool,
    }
);
event!(
    /// `evt.auth.refreshed`: a session got its next refresh token.
    #[schemars(rename = "Refreshed")]
    AuthRefreshed, "refreshed", |event| Some(event.owner.clone()), {
        /// The session.
        session_id: SessionId,
        /// Whose session it is.
        owner: String,
        /// Number of the new token.
        generation: u32,
    }
);
event!(
    /// `evt.auth.reused`: a refresh token came a second time; the session is ended.
    #[schemars(rename = "Reused")]
    AuthReused, "reused", |event| Some(event.owner.clone()), {
        /// The session.
        session_id: SessionId,
        /// Whose session it was.
        owner: String,
        /// Number of the token that came again.
        generation: u32,
    }
);
event!(
    /// `evt.auth.signed_out`: a session was ended before its time.
    #[schemars(rename = "SignedOut")]
    AuthSignedOut, "signed_out", |event| Some(event.owner.clone()), {
        /// The session.
        session_id: SessionId,
        /// Whose session it was.
        owner: String,
        /// Why.
        end: SessionEndReason,
    }
);
event!(
    /// `evt.auth.key_created`: an API key was made over HTTP; its secret is nowhere in the event.
    #[schemars(rename = "KeyCreated")]
    AuthKeyCreated, "key_created", |event| Some(event.owner.clone()), {
        /// Public half.
        key_id: KeyId,
        /// Whose things it works on.
        owner: String,
        /// What it may do.
        role: PrincipalRole,
        /// Where it may do it; absent for everywhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<Vec<ApiKeyScope>>,
        /// Who made it.
        by: String,
    }
);
event!(
    /// `evt.auth.link_created`: a link was made that signs in once; its code is nowhere in the event.
    #[schemars(rename = "LinkCreated")]
    AuthLinkCreated, "link_created", |event| Some(event.owner.clone()), {
        /// Whose things its key works on.
        owner: String,
        /// Who made it.
        by: String,
    }
);
event!(
    /// `evt.auth.upload_token_created`: somebody may upload one file by a form; the token is nowhere in the event.
    #[schemars(rename = "UploadTokenCreated")]
    AuthUploadTokenCreated, "upload_token_created", |event| Some(event.owner.clone()), {
        /// Whose file it will be.
        owner: String,
    }
);
event!(
    /// `evt.auth.key_revoked`: an API key opens nothing any more.
    #[schemars(rename = "KeyRevoked")]
    AuthKeyRevoked, "key_revoked", |event| Some(event.owner.clone()), {
        /// Public half.
        key_id: KeyId,
        /// Whose things it worked on.
        owner: String,
        /// Who revoked it.
        by: String,
    }
);
