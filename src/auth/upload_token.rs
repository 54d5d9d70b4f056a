//! Rights to upload one file by a form of a page that has no credential: a text of 160 random bits for one field.
//!
//! Only the SHA-256 of a token is stored. It is used up by compare-and-set before a byte of the file is stored, so of two that send one
//! token, to any two replicas, one uploads. What it opens is what the credential opens that it was asked for with, while that is good,
//! and only for uploads.
//!
//! Limits: a token is good for [`UPLOAD_TOKEN_TTL_S`].

use super::{
    Principal, SignInService,
    denial::SignInError,
    link::{CODE_LENGTH_MAX, create_code, hash_code},
    proof::ProofAge,
};
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    access::{ApiKey, ApiKeyScope, PrincipalRole},
    gate::PlaybackCredential,
    ids::RequestId,
    session::{AuthUploadTokenCreated, UploadToken, upload_token_key},
};

/// How long a token is good, in seconds.
pub const UPLOAD_TOKEN_TTL_S: u64 = 60 * 60;

/// What an upload by a form may do: bring a file, and say whether everybody may watch it.
const FORM_SCOPES: [ApiKeyScope; 2] = [ApiKeyScope::Upload, ApiKeyScope::Gate];

/// A token that was just made.
#[derive(Debug)]
pub struct NewUploadToken {
    /// Its text, which is kept nowhere.
    pub text: String,
    /// Unix time in milliseconds from which on it is worth nothing.
    pub expires_at_ms: u64,
}

/// What a token opened.
#[derive(Debug)]
pub struct UploadTokenGrant {
    /// Who uploads, with no more than the scopes that uploads need.
    pub who: Principal,
    /// Where a browser goes once its file is stored.
    pub redirect_url: Option<String>,
}

/// Makes a token for `credential` of `owner`.
///
/// # Errors
/// As [`Bus::commit_record`].
pub async fn create_upload_token(
    bus: &Bus,
    (owner, credential): (&str, PlaybackCredential),
    redirect_url: Option<String>,
    request_id: RequestId,
) -> Result<NewUploadToken, nats::BusError> {
    let text = create_code();
    let created_at_ms = nats::now_ms();
    let expires_at_ms = created_at_ms.saturating_add(UPLOAD_TOKEN_TTL_S * 1_000);
    let token = UploadToken {
        token_sha256: hash_code(&text),
        credential,
        redirect_url,
        created_at_ms,
        expires_at_ms,
        used_at_ms: None,
    };
    let event = AuthUploadTokenCreated { request_id, owner: owner.to_owned() };
    bus.commit_record(&mut VersionedRecord::new(token), Outbox::new().with_event(&event)).await?;
    Ok(NewUploadToken { text, expires_at_ms })
}

impl SignInService {
    /// What a token opens, without using it; `None` when it was never given, was used, its time is over, or its credential is good no
    /// more.
    ///
    /// # Errors
    /// When that can't be known.
    pub async fn find_upload_token(&self, text: &str) -> Result<Option<UploadTokenGrant>, SignInError> {
        if text.is_empty() || text.len() > CODE_LENGTH_MAX {
            return Ok(None);
        }
        let now_ms = nats::now_ms();
        let held = self.bus().load_record::<UploadToken>(&upload_token_key(&hash_code(text))).await?;
        let Some(token) = held.map(|held| held.record).filter(|token| is_usable(token, now_ms)) else {
            return Ok(None);
        };
        let Some(holder) = self.holder_of(token.credential, now_ms).await? else { return Ok(None) };
        let scopes = FORM_SCOPES
            .into_iter()
            .filter(|scope| holder.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope)));
        let who = Principal { scopes: Some(scopes.collect()), role: PrincipalRole::Owner, ..holder };
        Ok(Some(UploadTokenGrant { who, redirect_url: token.redirect_url }))
    }

    /// Uses up a token; false when somebody else did, or its time is over.
    ///
    /// # Errors
    /// As [`Bus::change_record`]; the token may be used up then.
    pub async fn use_upload_token(&self, text: &str) -> Result<bool, nats::BusError> {
        let now_ms = nats::now_ms();
        let used = self
            .bus()
            .change_record::<UploadToken>(&upload_token_key(&hash_code(text)), |found| {
                let token = found.filter(|token| is_usable(token, now_ms))?;
                Some((UploadToken { used_at_ms: Some(now_ms), ..token.clone() }, Outbox::new()))
            })
            .await?;
        Ok(used.is_some())
    }

    /// Gives a token back that was used up for what came to nothing. For the one that used it up.
    ///
    /// # Errors
    /// As [`Bus::change_record`]; the token may be used up still.
    pub async fn return_upload_token(&self, text: &str) -> Result<(), nats::BusError> {
        self.bus()
            .change_record::<UploadToken>(&upload_token_key(&hash_code(text)), |found| {
                Some((UploadToken { used_at_ms: None, ..found?.clone() }, Outbox::new()))
            })
            .await?;
        Ok(())
    }

    /// Who holds a credential that was seen before; `None` once it is over.
    pub(super) async fn holder_of(
        &self,
        credential: PlaybackCredential,
        now_ms: u64,
    ) -> Result<Option<Principal>, SignInError> {
        match credential {
            PlaybackCredential::Key(key_id) => {
                let held = self.bus().load_record::<ApiKey>(&key_id.to_string()).await?;
                let key = held.map(|held| held.record).filter(|key| key.is_active(now_ms));
                Ok(key.as_ref().map(Principal::from_key))
            }
            PlaybackCredential::SignIn(session_id) => {
                let Some(live) = self.sessions().find_open(session_id).await? else { return Ok(None) };
                let who = Principal {
                    wallet: Some(live.account),
                    session_id: Some(live.session_id),
                    ..Principal::new(live.account.owner_id(), PrincipalRole::Owner)
                };
                Ok(self.is_proof_valid(&who, ProofAge::Used).await?.then_some(who))
            }
        }
    }
}

fn is_usable(token: &UploadToken, now_ms: u64) -> bool {
    token.used_at_ms.is_none() && token.expires_at_ms > now_ms
}
