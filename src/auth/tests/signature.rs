use alloy_primitives::{B256, U256};
use proptest::prelude::*;
use secp256k1::{Message, SecretKey, ecdsa::RecoverableSignature};

use super::{super::signature::*, vectors};
use crate::testing::{address_of_public_key, address_of_secret_key, decode_hex};

const ORDER: U256 = U256::from_be_bytes(alloy_primitives::hex!(
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
));

fn s_of(signature: &[u8]) -> U256 {
    U256::from_be_slice(&signature[32..64])
}

/// The mirrored form: n - s and the other parity.
fn mirrored(signature: &[u8]) -> Vec<u8> {
    let mut other = signature.to_vec();
    other[32..64].copy_from_slice(&(ORDER - s_of(signature)).to_be_bytes::<32>());
    other[64] = if other[64] == 27 { 28 } else { 27 };
    other
}

#[test]
fn what_viem_signed_is_recovered_in_both_forms() {
    let vectors = vectors();
    for vector in vectors.personal.iter().chain(&vectors.texts) {
        assert_eq!(hash_personal_message(vector.message.as_bytes()), vector.digest);
        for text in [&vector.signature, &vector.compact] {
            let signature = EcdsaSignature::from_bytes(&decode_hex(text)).unwrap();
            assert_eq!(signature.recover_address(vector.digest), Ok(vector.address));
        }
    }
    for vector in vectors.typed {
        assert_eq!(vector.values.digest(), vector.digest);
        assert_eq!(vector.values.account, vector.address);
        for text in [&vector.signature, &vector.compact] {
            let signature = EcdsaSignature::from_bytes(&decode_hex(text)).unwrap();
            assert_eq!(signature.recover_address(vector.digest), Ok(vector.address));
        }
    }
}

#[test]
fn the_examples_of_erc_2098_are_read() {
    // The two test cases in the text of ERC-2098, with its key.
    let key = SecretKey::from_secret_bytes(alloy_primitives::hex!(
        "1234567890123456789012345678901234567890123456789012345678901234"
    ))
    .unwrap();
    let signer = address_of_secret_key(&key);
    for (message, compact) in [
        (
            "Hello World",
            "0x68a020a209d3d56c46f38cc50a33f704f4a9a10a59377f8dd762ac66910e9b907e865ad05c4035ab5792787d4a0297a43617ae897930a6fe4d822b8faea52064",
        ),
        (
            "It's a small(er) world",
            "0x9328da16089fcba9bececa81663203989f2df5fe1faa6291a45381c81bd17f76939c6d6b623b42da56557e5e734a43dc83345ddfadec52cbe24d0cc64f550793",
        ),
    ] {
        let signature = EcdsaSignature::from_bytes(&decode_hex(compact)).unwrap();
        assert_eq!(
            signature.recover_address(hash_personal_message(message.as_bytes())),
            Ok(signer),
            "{message}"
        );
    }
}

#[test]
fn the_library_alone_would_take_the_mirrored_form() {
    let vector = &vectors().personal[0];
    let signature = decode_hex(&vector.signature);
    let mirrored = mirrored(&signature);
    assert_eq!(EcdsaSignature::from_bytes(&mirrored), Err(EcdsaSignatureError::HighS));
    // Why the check is ours: the library recovers the same key from it.
    let parity = i32::from(mirrored[64] - 27).try_into().unwrap();
    let raw = RecoverableSignature::from_compact(&mirrored[..64], parity).unwrap();
    let key = raw.recover(Message::from_digest(vector.digest.0)).unwrap();
    assert_eq!(address_of_public_key(&key), vector.address);
}

#[test]
fn every_v_but_four_is_refused() {
    let vector = &vectors().personal[0];
    let mut signature = decode_hex(&vector.signature);
    let wanted = signature[64] - 27;
    for v in 0..=255_u8 {
        signature[64] = v;
        let read = EcdsaSignature::from_bytes(&signature);
        if matches!(v, 0 | 1 | 27 | 28) {
            let is_same = read.unwrap().recover_address(vector.digest) == Ok(vector.address);
            assert_eq!(is_same, v % 27 == wanted, "{v}");
        } else {
            // 29 and 30 would be recovery ids 2 and 3; 54 and 81 are 0 modulo 27.
            assert_eq!(read, Err(EcdsaSignatureError::V), "{v}");
        }
    }
}

#[test]
fn r_and_s_out_of_range_are_refused() {
    let good = decode_hex(&vectors().personal[0].signature);
    let with = |at: usize, value: U256| {
        let mut bytes = good.clone();
        bytes[at..at + 32].copy_from_slice(&value.to_be_bytes::<32>());
        EcdsaSignature::from_bytes(&bytes)
    };
    for value in [U256::ZERO, ORDER, ORDER + U256::from(1), U256::MAX] {
        assert_eq!(with(0, value), Err(EcdsaSignatureError::Range));
        assert_eq!(with(32, value), Err(EcdsaSignatureError::Range));
    }
    let half = ORDER / U256::from(2);
    assert!(with(32, half).is_ok());
    assert_eq!(with(32, half + U256::from(1)), Err(EcdsaSignatureError::HighS));
    assert_eq!(with(32, ORDER - U256::from(1)), Err(EcdsaSignatureError::HighS));
    for length in (0..=200).filter(|length| !matches!(length, 64 | 65)) {
        assert_eq!(
            EcdsaSignature::from_bytes(&vec![1; length]),
            Err(EcdsaSignatureError::Length),
            "{length}"
        );
    }
    // r of 5 is the x of no point of the curve.
    assert_eq!(with(0, U256::from(5)).unwrap().recover_address(B256::ZERO), Err(EcdsaSignatureError::NoKey));
}

proptest! {
    #[test]
    fn a_signature_has_one_form_of_each_kind(secret in 1_u64.., digest: [u8; 32]) {
        let mut key = [7_u8; 32];
        key[24..].copy_from_slice(&secret.to_be_bytes());
        let key = SecretKey::from_secret_bytes(key).unwrap();
        let (parity, compact) = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest), &key).serialize_compact();
        let mut long = compact.to_vec();
        long.push(27 + parity.to_u8());
        let mut short = compact.to_vec();
        short[32] |= parity.to_u8() << 7;
        let digest = B256::from(digest);
        let read = EcdsaSignature::from_bytes(&long).unwrap();
        prop_assert_eq!(read, EcdsaSignature::from_bytes(&short).unwrap());
        prop_assert_eq!(read.recover_address(digest), Ok(address_of_secret_key(&key)));
        prop_assert_eq!(EcdsaSignature::from_bytes(&mirrored(&long)), Err(EcdsaSignatureError::HighS));
        let other = B256::from(alloy_primitives::keccak256(digest));
        prop_assert_ne!(read.recover_address(other), Ok(address_of_secret_key(&key)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70), digest: [u8; 32]) {
        if let Ok(signature) = EcdsaSignature::from_bytes(&bytes) {
            signature.recover_address(digest.into()).ok();
        }
    }
}
