//! Sign-in by EIP-712: one fixed structure. Typed data that a client brings along is never hashed: only its values are taken.
//!
//! The domain separator has name, version and chain id; there is no verifying contract, because no contract reads the signature.

use std::fmt::Write as _;

use alloy_primitives::{B256, U256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{address::WalletAddress, message::STATEMENT_LENGTH_MAX};

/// Name in the domain separator.
pub const DOMAIN_NAME: &str = "StreamGate";
/// Latest time in Unix seconds: as milliseconds it fits into 63 bits.
const TIME_S_MAX: u64 = i64::MAX.unsigned_abs() / 1_000;
/// Version in the domain separator.
pub const DOMAIN_VERSION: &str = "1";

sol! {
    /// What the wallet shows and signs; times are Unix seconds.
    #[derive(Debug)]
    struct SignIn {
        string domain;
        address account;
        string statement;
        string uri;
        string nonce;
        uint256 issuedAt;
        uint256 expirationTime;
    }
}

/// The values of a typed sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TypedSignIn")]
pub struct TypedSignIn {
    /// Authority of the asking site.
    #[schemars(length(max = STATEMENT_LENGTH_MAX))]
    pub domain: String,
    /// Whose account.
    pub account: WalletAddress,
    /// What the person agrees to; may be empty.
    #[schemars(length(max = STATEMENT_LENGTH_MAX))]
    pub statement: String,
    /// What the sign-in is for.
    #[schemars(length(max = STATEMENT_LENGTH_MAX), extend("format" = "uri"))]
    pub uri: String,
    /// The chain the account is looked up on.
    pub chain_id: u64,
    /// The server's word that makes it good for one time.
    #[schemars(length(max = STATEMENT_LENGTH_MAX))]
    pub nonce: String,
    /// When it was written, in Unix seconds.
    #[schemars(range(max = TIME_S_MAX))]
    pub issued_at_s: u64,
    /// From when on it is no longer good, in Unix seconds.
    #[schemars(range(max = TIME_S_MAX))]
    pub expires_at_s: u64,
}

impl TypedSignIn {
    /// What the wallet signs (EIP-712: `\x19\x01`, domain separator, structure).
    pub fn digest(&self) -> B256 {
        let domain = Eip712Domain::new(
            Some(DOMAIN_NAME.into()),
            Some(DOMAIN_VERSION.into()),
            Some(U256::from(self.chain_id)),
            None,
            None,
        );
        let values = SignIn {
            domain: self.domain.clone(),
            account: self.account.get(),
            statement: self.statement.clone(),
            uri: self.uri.clone(),
            nonce: self.nonce.clone(),
            issuedAt: U256::from(self.issued_at_s),
            expirationTime: U256::from(self.expires_at_s),
        };
        values.eip712_signing_hash(&domain)
    }

    /// The same values as the text of ERC-4361, for `personal_sign`.
    pub fn to_message(&self) -> String {
        let time = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
        };
        let mut text =
            format!("{} wants you to sign in with your Ethereum account:\n{}\n\n", self.domain, self.account);
        let statement = &self.statement;
        // Writing to a string does not fail.
        writeln!(text, "{statement}").ok();
        write!(
            text,
            "\nURI: {}\nVersion: 1\nChain ID: {}\nNonce: {}\nIssued At: {}\nExpiration Time: {}",
            self.uri,
            self.chain_id,
            self.nonce,
            time(self.issued_at_s),
            time(self.expires_at_s)
        )
        .ok();
        text
    }

    /// The same as JSON for `eth_signTypedData_v4`.
    pub fn to_json(&self) -> Value {
        let field = |name: &str, kind: &str| json!({ "name": name, "type": kind });
        json!({
            "types": {
                "EIP712Domain": [field("name", "string"), field("version", "string"), field("chainId", "uint256")],
                "SignIn": [
                    field("domain", "string"),
                    field("account", "address"),
                    field("statement", "string"),
                    field("uri", "string"),
                    field("nonce", "string"),
                    field("issuedAt", "uint256"),
                    field("expirationTime", "uint256"),
                ],
            },
            "primaryType": "SignIn",
            "domain": { "name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": self.chain_id },
            "message": {
                "domain": self.domain,
                "account": self.account,
                "statement": self.statement,
                "uri": self.uri,
                "nonce": self.nonce,
                "issuedAt": self.issued_at_s.to_string(),
                "expirationTime": self.expires_at_s.to_string(),
            },
        })
    }
}
