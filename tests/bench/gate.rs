//! What stands before a request: signatures, path tokens and limits, each alone.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use auth::{
    message::SiweMessage,
    signature::{EcdsaSignature, hash_personal_message},
};
use axum::http::{HeaderMap, StatusCode};
use gate::grant::token::PlaybackToken;
use schemas::ids::PlaybackId;
use secp256k1::{Message as Digest, SecretKey, ecdsa::RecoverableSignature};
use web::limit::{RateLimitConfig, RateLimitGroup, RateLimiter, gcra::BucketRate};

use crate::{Aim, Row, median};

const ROUNDS: usize = 21;

/// Calls a second.
fn rate(calls: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(|_| call());
    f64::from(calls) / started.elapsed().as_secs_f64()
}

/// Medians of both, measured by turns; who begins alternates.
pub(crate) fn by_turns(
    rounds: usize,
    mut ours: impl FnMut() -> f64,
    mut other: impl FnMut() -> f64,
) -> (f64, f64) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            first.push(ours());
            second.push(other());
        } else {
            second.push(other());
            first.push(ours());
        }
    }
    (median(first), median(second))
}

/// From the received bytes of message and signature to the account, against the recovery of the key alone.
pub(crate) fn sign_in() -> Row {
    const CALLS: u32 = 1_000;
    let key = SecretKey::from_secret_bytes([7; 32]).unwrap();
    let point = secp256k1::PublicKey::from_secret_key(&key).serialize_uncompressed();
    let account = alloy_primitives::Address::from_raw_public_key(&point[1..]);
    let text = format!(
        "media.example.org wants you to sign in with your Ethereum account:\n{account}\n\nSign in to watch.\n\n\
         URI: https://media.example.org/\nVersion: 1\nChain ID: 1\nNonce: 0123456789abcdefghijklmnop\n\
         Issued At: 2026-01-02T03:04:05Z\nExpiration Time: 2026-01-02T03:09:05Z"
    );
    let digest = hash_personal_message(text.as_bytes());
    let made = RecoverableSignature::sign_ecdsa_recoverable(Digest::from_digest(digest.0), &key);
    let (parity, compact) = made.serialize_compact();
    let bytes = [&compact[..], &[27 + parity.to_u8()]].concat();
    let ours = || {
        rate(CALLS, || {
            let message = SiweMessage::parse(black_box(&text)).unwrap();
            let signature = EcdsaSignature::from_bytes(black_box(&bytes)).unwrap();
            let signer = signature.recover_address(hash_personal_message(text.as_bytes())).unwrap();
            assert_eq!(signer, message.address);
        })
    };
    let raw = || {
        rate(CALLS, || {
            let signature = RecoverableSignature::from_compact(black_box(&compact), parity).unwrap();
            black_box(signature.recover(Digest::from_digest(black_box(digest.0))).unwrap());
        })
    };
    let (ours, raw) = by_turns(ROUNDS, ours, raw);
    Row {
        name: "sign-in verification",
        ours,
        baseline: raw,
        unit: "/s",
        against: "secp256k1 recover",
        aim: Aim::RatioLeast(0.9),
    }
}

/// From the text of a path token to its session.
pub(crate) fn path_token() -> Row {
    const CALLS: u32 = 20_000;
    let key = [9; 32];
    let playback_id = PlaybackId::from_bytes([3; 16]);
    let named = PlaybackToken { playback_id, encode: Some(1) };
    let text = named.seal(&key);
    let rates = (0..ROUNDS).map(|_| {
        rate(CALLS, || assert_eq!(PlaybackToken::open(black_box(&key), black_box(&text)), Some(named)))
    });
    Row {
        name: "check of a segment's token",
        ours: 1e6 / median(rates.collect()),
        baseline: 2.0,
        unit: "us",
        against: "-",
        aim: Aim::Most(2.0),
    }
}

/// One bucket that is slow to fill again and far from empty, so that every client stays in the table.
fn limits() -> RateLimiter {
    let rate = BucketRate { capacity: 1_000_000, refill_per_s: 1 };
    let mut config =
        RateLimitConfig { replicas_assumed_count: 1, keys_max: 4_000_000, ..RateLimitConfig::default() };
    (config.rates.metadata, config.rates.transcoder) = (rate, rate);
    RateLimiter::new(config)
}

/// A request under three policies, with the fields of its answer.
fn limited(limits: &RateLimiter, client: IpAddr, owner: &str) {
    let ticket = limits.new_permit(client, Some(RateLimitGroup::Metadata));
    ticket.charge_group(RateLimitGroup::Transcoder).unwrap();
    ticket.admit_principal(owner).unwrap();
    ticket.charge_group(RateLimitGroup::Transcoder).unwrap();
    let mut headers = HeaderMap::new();
    ticket.set_headers(StatusCode::OK, &mut headers);
    black_box(headers);
}

/// The slowest of a hundred requests under three policies, clients and principals being many.
pub(crate) fn limiter() -> Row {
    const CALLS: u32 = 200_000;
    let limits = limits();
    let owners: Vec<String> = (0..1_000).map(|i| format!("eip155:0x{i:040x}")).collect();
    let mut times: Vec<Duration> = (0..CALLS)
        .zip(owners.iter().cycle())
        .map(|(i, owner)| {
            let client = Ipv4Addr::from_bits(0x0a00_0000 + i % 10_000).into();
            let started = Instant::now();
            limited(&limits, client, owner);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    Row {
        name: "three limits and their fields, p99",
        ours: times[times.len() * 99 / 100].as_secs_f64() * 1e6,
        baseline: 5.0,
        unit: "us",
        against: "-",
        aim: Aim::Most(5.0),
    }
}

/// Memory of one key among a million.
pub(crate) fn memory_per_key() -> Row {
    const KEYS: u32 = 1_000_000;
    let limits = limits();
    let before = crate::process::resident_kb(std::process::id());
    for i in 0..KEYS {
        limits
            .new_permit(Ipv4Addr::from_bits(i).into(), None)
            .charge_group(RateLimitGroup::Metadata)
            .unwrap();
    }
    let after = crate::process::resident_kb(std::process::id());
    let text = nats::metrics::render_collector(limits.clone());
    assert!(text.contains(&format!("streamgate_limit_keys {KEYS}\n")), "{text}");
    Row {
        name: "memory of one limited key",
        ours: (after - before) * 1024.0 / f64::from(KEYS),
        baseline: 100.0,
        unit: "B",
        against: "-",
        aim: Aim::Most(100.0),
    }
}
