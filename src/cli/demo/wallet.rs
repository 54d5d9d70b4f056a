//! A wallet of the demo: a key made on the spot that signs in over HTTP, as a browser's wallet does.

use alloy_primitives::{Address, hex};
use anyhow::Context;
use reqwest::{
    Method,
    header::{COOKIE, SET_COOKIE},
};
use secp256k1::{Message, PublicKey, SecretKey, ecdsa::RecoverableSignature};
use serde_json::{Value, json};

use crate::cli::client::{self, ApiClient};
use auth::signature::hash_personal_message;

/// An account and its key.
pub(super) struct DemoWallet {
    pub(super) address: Address,
    key: SecretKey,
}

impl DemoWallet {
    /// A new account.
    pub(super) fn random() -> anyhow::Result<Self> {
        let key = SecretKey::from_secret_bytes(rand::random()).context("a random key")?;
        Ok(Self::from_key(key))
    }

    fn from_key(key: SecretKey) -> Self {
        let point = PublicKey::from_secret_key(&key).serialize_uncompressed();
        // The first byte only says that the point is not compressed.
        Self { address: Address::from_raw_public_key(point.get(1..).unwrap_or_default()), key }
    }

    /// The key in the form that wallets import: anyone who has it is this account.
    pub(super) fn secret_hex(&self) -> String {
        hex::encode_prefixed(self.key.to_secret_bytes())
    }

    /// `personal_sign` (EIP-191 version 0x45), hexadecimal.
    fn sign_message(&self, text: &str) -> String {
        let digest = Message::from_digest(hash_personal_message(text.as_bytes()).0);
        let (parity, compact) =
            RecoverableSignature::sign_ecdsa_recoverable(digest, &self.key).serialize_compact();
        hex::encode_prefixed([&compact[..], &[27 + parity.to_u8()]].concat())
    }

    /// Signs in at the server of `client`; answers the client of the new session.
    pub(super) async fn sign_in(&self, client: &ApiClient, chain_id: u64) -> anyhow::Result<ApiClient> {
        let post = |path: &str| client.build_open_request(Method::POST, client.build_url(path, &[]));
        let wish = json!({ "address": self.address.to_string(), "chain_id": chain_id });
        let given = client::with_time_limit(client.send(post("v1/auth/challenge").json(&wish))).await?;
        // The cookie is for browsers; what it binds the challenge to is sent back as it came.
        let cookie = given.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok()?.split(';').next());
        let cookie = cookie.context("the challenge came without its cookie")?.to_owned();
        let challenge: Value =
            serde_json::from_slice(&client::with_time_limit(client::read_body(given)).await?)?;
        let message = challenge["message"].as_str().context("the challenge has no message to sign")?;
        let signed = json!({ "message": message, "signature": self.sign_message(message) });
        let session = client.send_json(post("v1/auth/login").header(COOKIE, cookie).json(&signed)).await?;
        let token = session["access_token"].as_str().context("the session has no access token")?;
        Ok(client.with_key(token.to_owned(), "a wallet's sign-in".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auth::signature::EcdsaSignature;

    #[test]
    fn a_key_has_the_address_that_is_published_for_it() {
        // The first account of every development node, such as anvil.
        let key = hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        let wallet = DemoWallet::from_key(SecretKey::from_secret_bytes(key).unwrap());
        assert_eq!(wallet.address.to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        assert_eq!(wallet.secret_hex(), hex::encode_prefixed(key));
    }

    #[test]
    fn what_it_signs_is_its_own() {
        let (one, other) = (DemoWallet::random().unwrap(), DemoWallet::random().unwrap());
        assert_ne!(one.address, other.address);
        let signature = EcdsaSignature::from_bytes(&hex::decode(one.sign_message("hello")).unwrap()).unwrap();
        let signer = signature.recover_address(hash_personal_message(b"hello")).unwrap();
        assert_eq!(signer.get(), one.address);
    }
}
