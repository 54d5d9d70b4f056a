//! HLS with `METHOD=AES-128` (RFC 8216, sections 4.3.2.4 and 5.2): segments are encrypted on their way out, the store keeps them
//! clear.
//!
//! The init segment stays clear, because `EXT-X-KEY` stands behind `EXT-X-MAP`. The IV is the media sequence number, so neither
//! playlists nor encodes change with the key. There is no DASH of such a medium.
//!
//! A session that loaded its playlists before a change has to load them again.
//!
//! Limits: [`super::PlaybackConfig::encrypted_segment_bytes_max`]; one piece of the store's stream is in memory for each request.

use std::{io, ops::Range};

use aes::Aes128;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use cbc::cipher::{
    Array, BlockModeEncrypt, KeyIvInit,
    block_padding::{Padding, Pkcs7},
};
use futures::{Stream, StreamExt, stream};
use nats::{Bus, Outbox};
use schemas::{document::SegmentKey, ids::MediaId};
use serde_bytes::ByteBuf;
use store::BoundedObject;

use super::{
    PlaybackPath, RepresentationMetadata, content_tag, no_such_resource, playable_media::PlayableMedium,
    playlist_response, store_problem,
};
use crate::AppState;
use web::error::Problem;

/// Bytes of a key and of a block.
const BLOCK_BYTES: usize = 16;
/// The tag that says how to open what follows; the address is relative to `<rendition>/<playlist>`.
const KEY_TAG: &str = "#EXT-X-KEY:METHOD=AES-128,URI=\"../key\"";

/// Behind the address of an encrypted segment; queries change nothing.
const ENCRYPTED_MARK: &str = "?aes-128\n";

type SegmentKeyBytes = [u8; BLOCK_BYTES];

/// Makes the key of a medium, unless it has one.
pub(crate) async fn make_key(bus: &Bus, media_id: MediaId) -> Result<(), nats::BusError> {
    let fresh = ByteBuf::from(rand::random::<SegmentKeyBytes>());
    let make = |found: Option<&SegmentKey>| {
        let key = SegmentKey { media_id, bytes: fresh.clone(), created_at_ms: nats::now_ms() };
        // Never replaced: players and caches may hold segments that were encrypted with the first one.
        found.is_none().then(|| (key, Outbox::new()))
    };
    bus.change_record(&media_id.to_string(), make).await?;
    Ok(())
}

async fn load_key(bus: &Bus, media_id: MediaId) -> Result<SegmentKeyBytes, Problem> {
    let held = bus.load_record::<SegmentKey>(&media_id.to_string()).await?;
    let key = held.and_then(|held| held.record.bytes.as_slice().try_into().ok());
    key.ok_or_else(|| {
        Problem::internal(&nats::BusError::Invalid { what: format!("the segment key of {media_id}") })
    })
}

/// What is served otherwise than clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EncryptedResource<'a> {
    /// The key.
    Key,
    /// There is none.
    Absent,
    /// A playlist that gets a tag more.
    Playlist(PlaybackPath<'a>, &'a str),
    /// A segment, and its media sequence number.
    Segment(PlaybackPath<'a>, u32),
}

impl<'a> EncryptedResource<'a> {
    /// `None` for what stays clear.
    pub(super) const fn from_path(wanted: PlaybackPath<'a>) -> Option<Self> {
        match wanted {
            PlaybackPath::SegmentKey => Some(Self::Key),
            // What only DASH names would be clear, and so would the pictures of a storyboard, and a range of an encrypted segment can't be opened by itself.
            PlaybackPath::Manifest
            | PlaybackPath::WholeSubtitles(_)
            | PlaybackPath::IFrames(_)
            | PlaybackPath::Storyboard
            | PlaybackPath::StoryboardSheet(_) => Some(Self::Absent),
            PlaybackPath::Playlist(rendition) | PlaybackPath::Growing(rendition) => {
                Some(Self::Playlist(wanted, rendition))
            }
            PlaybackPath::Segment(_, number) | PlaybackPath::SubtitleSegment(_, number) => {
                Some(Self::Segment(wanted, number))
            }
            PlaybackPath::Multivariant
            | PlaybackPath::Poster
            | PlaybackPath::Chapters
            | PlaybackPath::ChapterList
            | PlaybackPath::Init(_) => None,
        }
    }
}

/// Answers for an encrypted medium.
pub(super) async fn serve_encrypted(
    app: &AppState,
    headers: &HeaderMap,
    way: EncryptedResource<'_>,
    media_id: MediaId,
    medium: &PlayableMedium,
) -> Result<Response, Problem> {
    let encode = &medium.encode;
    match way {
        EncryptedResource::Absent => Err(no_such_resource()),
        EncryptedResource::Key => {
            let fields = [
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::CONTENT_TYPE, HeaderValue::from_static(PlaybackPath::SegmentKey.content_type())),
            ];
            Ok((StatusCode::OK, fields, load_key(&app.bus, media_id).await?.to_vec()).into_response())
        }
        EncryptedResource::Playlist(wanted, rendition) => {
            let text = load_playlist(app, wanted, rendition, medium).await?;
            let text = insert_key_tag(&text).ok_or_else(|| {
                Problem::internal(&nats::BusError::Invalid { what: format!("a playlist of {media_id}") })
            })?;
            Ok(playlist_response(headers, wanted, text))
        }
        EncryptedResource::Segment(wanted, number) => {
            let name = format!("{}/{}", encode.prefix, wanted.object_key());
            let found = app.segments.load(&app.store, &name).await.map_err(|error| store_problem(&error))?;
            let clear_bytes = found.size_bytes();
            if clear_bytes > app.config.playback.encrypted_segment_bytes_max {
                let what = format!("{name}: {clear_bytes} bytes are too many to be encrypted");
                return Err(Problem::internal(&nats::BusError::Invalid { what }));
            }
            let facts = encrypted_facts(clear_bytes, name.as_bytes(), wanted);
            let cipher = SegmentEncryptor::new(&load_key(&app.bus, media_id).await?, number);
            let clear = match found {
                BoundedObject::Whole(bytes) => stream::iter([Ok(bytes)]).left_stream(),
                BoundedObject::Larger { .. } => app.store.get_stream(&name, 0..clear_bytes).right_stream(),
            };
            Ok(super::bytes::range_response(headers, &facts, |range| {
                Body::from_stream(encrypt_range(clear, cipher, range))
            }))
        }
    }
}

/// Answers with a segment that no object holds.
pub(super) async fn serve_encrypted_bytes(
    app: &AppState,
    headers: &HeaderMap,
    media_id: MediaId,
    (wanted, number): (PlaybackPath<'_>, u32),
    clear: Bytes,
) -> Result<Response, Problem> {
    let facts = encrypted_facts(u64::try_from(clear.len()).unwrap_or(u64::MAX), &clear, wanted);
    let cipher = SegmentEncryptor::new(&load_key(&app.bus, media_id).await?, number);
    let clear = futures::stream::iter([io::Result::Ok(clear)]);
    Ok(super::bytes::range_response(headers, &facts, |range| {
        Body::from_stream(encrypt_range(clear, cipher, range))
    }))
}

/// What is said of an encrypted segment; `name` is of these bytes alone.
fn encrypted_facts(clear_bytes: u64, name: &[u8], wanted: PlaybackPath<'_>) -> RepresentationMetadata {
    RepresentationMetadata {
        size_bytes: encrypted_size_bytes(clear_bytes),
        // Another tag than that of the clear bytes: ranges of both must never be put together.
        etag: content_tag(&[b"aes-128 ", name].concat()),
        content_type: wanted.content_type(),
        cache_control: "private, max-age=3600",
    }
}

async fn load_playlist(
    app: &AppState,
    wanted: PlaybackPath<'_>,
    rendition: &str,
    medium: &PlayableMedium,
) -> Result<String, Problem> {
    match wanted {
        PlaybackPath::Growing(_) => super::load_event_playlist(app, medium, rendition).await,
        _ => {
            super::load_playlist_text(app, format!("{}/{}", medium.encode.prefix, wanted.object_key())).await
        }
    }
}

/// The playlist with the key before its first segment; `None` when it has none, since all that it grew by would be taken for clear.
/// Segments have other addresses than clear ones, which caches keep for longer than a medium may stay clear.
pub(super) fn insert_key_tag(playlist: &str) -> Option<String> {
    // RFC 8216, 4.3.2.4: a key also applies to a map that follows it, so it stands behind the map, which stays clear.
    let first = playlist.find("#EXTINF:")?;
    let (header, segments) = playlist.split_at(first);
    let mut text = format!("{header}{KEY_TAG}\n");
    for line in segments.lines() {
        text.push_str(line);
        text.push_str(if line.starts_with('#') { "\n" } else { ENCRYPTED_MARK });
    }
    Some(text)
}

/// The multivariant playlist without what an encrypted medium lacks: playlists of ranges.
pub(super) fn remove_iframes(multivariant: &str) -> String {
    let lines = multivariant.lines().filter(|line| !line.starts_with("#EXT-X-I-FRAME-STREAM-INF:"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Size in bytes with the padding, of which there is always at least one byte.
const fn encrypted_size_bytes(clear_bytes: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    // PKCS #7 always adds bytes: a full block where the length is a multiple of one.
    (clear_bytes / block + 1) * block
}

/// One segment on its way out.
struct SegmentEncryptor {
    cipher: cbc::Encryptor<Aes128>,
    /// Clear bytes that fill no block yet.
    rest: Vec<u8>,
}

impl SegmentEncryptor {
    fn new(key: &SegmentKeyBytes, number: u32) -> Self {
        // The media sequence number as a big-endian integer, with zeros before it.
        let iv = u128::from(number).to_be_bytes();
        Self { cipher: cbc::Encryptor::new(&(*key).into(), &iv.into()), rest: Vec::new() }
    }

    /// The whole blocks so far.
    fn push(&mut self, clear: &[u8]) -> Bytes {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(clear);
        self.rest = bytes.split_off(bytes.len() - bytes.len() % BLOCK_BYTES);
        let (blocks, _none) = Array::slice_as_chunks_mut(&mut bytes);
        self.cipher.encrypt_blocks(blocks);
        bytes.into()
    }

    /// The last block.
    fn finish(mut self) -> Bytes {
        let mut block = Array::from([0; BLOCK_BYTES]);
        let length = self.rest.len();
        block.iter_mut().zip(&self.rest).for_each(|(to, from)| *to = *from);
        Pkcs7::pad(&mut block, length);
        self.cipher.encrypt_block(&mut block);
        Bytes::copy_from_slice(&block)
    }
}

/// A range in bytes of the encrypted segment; every block needs the one before, so all of it is made up to the range's end.
fn encrypt_range<E: std::error::Error + Send + Sync + 'static>(
    clear: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    segment: SegmentEncryptor,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let start = (clear.boxed(), Some(segment), 0_u64);
    futures::stream::try_unfold(start, move |(mut clear, segment, at)| {
        let range = range.clone();
        async move {
            // From the first byte also for a range: in CBC each block needs the one before it.
            let Some(mut segment) = segment.filter(|_| at < range.end) else { return Ok(None) };
            let piece = clear.next().await.transpose().map_err(io::Error::other)?;
            // A piece has some MiB: too long for a thread that serves others.
            let encrypt = move || match piece {
                Some(piece) => (segment.push(&piece), Some(segment)),
                None => (segment.finish(), None),
            };
            let (bytes, segment) = tokio::task::spawn_blocking(encrypt).await.map_err(io::Error::other)?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let inside = |n: u64| usize::try_from(n.saturating_sub(at).min(length)).unwrap_or(usize::MAX);
            let bytes = bytes.slice(inside(range.start)..inside(range.end));
            Ok(Some((bytes, (clear, segment, at.saturating_add(length)))))
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    /// NIST SP 800-38A, F.2.1: key, and the clear blocks.
    const NIST_KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";
    const NIST_CLEAR: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn nist_key() -> SegmentKeyBytes {
        hex(NIST_KEY).try_into().unwrap()
    }

    async fn encrypted(pieces: Vec<Vec<u8>>, number: u32, range: Range<u64>) -> Vec<u8> {
        let clear = futures::stream::iter(pieces.into_iter().map(|piece| Ok::<_, io::Error>(piece.into())));
        let sent = encrypt_range(clear, SegmentEncryptor::new(&nist_key(), number), range);
        sent.try_collect::<Vec<Bytes>>().await.unwrap().concat()
    }

    #[test]
    fn the_cipher_is_that_of_the_standard() {
        let iv: SegmentKeyBytes = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let cipher = cbc::Encryptor::new(&nist_key().into(), &iv.into());
        let mut segment = SegmentEncryptor { cipher, rest: Vec::new() };
        let wanted = "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2";
        assert_eq!(segment.push(&hex(NIST_CLEAR)), hex(wanted));
    }

    #[tokio::test]
    async fn a_segment_is_what_openssl_makes_of_it() {
        // openssl enc -aes-128-cbc -K 2b7e... -iv 00000000000000000000000000000102
        let clear = b"a segment that fills no block";
        let wanted = hex("d9821a4381f673728b03de0eb0de23da617d7b2cc76a48674c058b36deb043ea");
        for cut in [0, 1, 15, 16, 17, clear.len()] {
            let (one, two) = clear.split_at(cut);
            let got = encrypted(vec![one.to_vec(), two.to_vec()], 0x102, 0..u64::MAX).await;
            assert_eq!(got, wanted, "{cut}");
            assert_eq!(u64::try_from(got.len()).unwrap(), encrypted_size_bytes(29));
        }
    }

    #[tokio::test]
    async fn every_range_is_a_part_of_the_whole() {
        for length in [0_u8, 1, 15, 16, 17, 47, 48] {
            let clear: Vec<u8> = (0..length).collect();
            let pieces: Vec<Vec<u8>> = clear.chunks(10).map(<[u8]>::to_vec).collect();
            let size = encrypted_size_bytes(u64::from(length));
            let whole = encrypted(pieces.clone(), 1, 0..size).await;
            assert_eq!(u64::try_from(whole.len()).unwrap(), size, "{length}");
            for start in 0..size {
                for end in start..=size {
                    let part = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                    assert_eq!(encrypted(pieces.clone(), 1, start..end).await, whole[part], "{start}..{end}");
                }
            }
        }
    }

    #[test]
    fn the_key_stands_behind_the_map() {
        let clear = "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:4.0,\n1.m4s\n";
        let wanted = "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXT-X-KEY:METHOD=AES-128,URI=\"../key\"\n#EXTINF:4.0,\n1.m4s?aes-128\n";
        assert_eq!(insert_key_tag(clear).as_deref(), Some(wanted));
        let text = insert_key_tag("#EXTM3U\n#EXTINF:4.0,\n1.vtt\n#EXTINF:4.0,\n2.vtt\n").unwrap();
        assert!(text.starts_with("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128"), "{text}");
        assert_eq!(text.matches("#EXT-X-KEY").count(), 1, "one key for all: {text}");
        assert_eq!(insert_key_tag("#EXTM3U\n"), None, "never clear by mistake");
    }

    #[test]
    fn an_encrypted_medium_names_no_ranges() {
        let clear = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv/index.m3u8\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"v/iframes.m3u8\"\n";
        assert_eq!(remove_iframes(clear), "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv/index.m3u8\n");
    }

    #[test]
    fn only_what_gives_nothing_away_stays_clear() {
        for (path, is_clear) in [
            ("master.m3u8", true),
            ("poster.jpg", true),
            ("v720/init.mp4", true),
            ("manifest.mpd", false),
            ("key", false),
            ("v720/index.m3u8", false),
            ("v720/event.m3u8", false),
            ("v720/1.m4s", false),
            ("v720/iframes.m3u8", false),
            ("storyboard.vtt", false),
            ("storyboard/1.jpg", false),
            ("s0/1.vtt", false),
            ("s0/subtitles.vtt", false),
        ] {
            assert_eq!(
                EncryptedResource::from_path(PlaybackPath::parse(path).unwrap()).is_none(),
                is_clear,
                "{path}"
            );
        }
    }
}
