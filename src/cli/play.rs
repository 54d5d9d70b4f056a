//! Playback as a player sees it: a session's addresses, and whether they play.

use anyhow::{Context, bail};
use reqwest::{Method, Url};

use super::client::{self, ApiClient, ClientError};

/// Addresses of a playback session; each carries its own right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaybackUrls {
    /// The multivariant playlist; a still picture has none.
    pub hls_url: Option<Url>,
    /// The page that plays it.
    pub watch_url: Url,
}

impl PlaybackUrls {
    /// The multivariant playlist as it is printed.
    pub fn hls_text(&self) -> Option<&str> {
        self.hls_url.as_ref().map(Url::as_str)
    }
}

/// Opens a playback session.
///
/// # Errors
/// When the server refuses, for example because the medium is not playable yet.
pub async fn open_playback(client: &ApiClient, media_id: &str) -> anyhow::Result<PlaybackUrls> {
    let url = client.build_url(&format!("v1/media/{media_id}/playback"), &[]);
    let answer = client.send_json(client.build_request(Method::POST, url)).await?;
    let at = |name: &str| {
        let found = answer[name].as_str().and_then(|text| client.base_url().join(text).ok());
        found.ok_or_else(|| ClientError::strange(format!("the playback session has no usable {name}")))
    };
    let hls_url = if answer["hls_url"].is_null() { None } else { Some(at("hls_url")?) };
    Ok(PlaybackUrls { hls_url, watch_url: at("watch_url")? })
}

/// Fetches what a player fetches first: the multivariant playlist, a media playlist, a segment. Answers the segment's address.
///
/// # Errors
/// When one of them can't be fetched, or is none.
pub async fn check_playback(client: &ApiClient, playback: &PlaybackUrls) -> anyhow::Result<Url> {
    let multivariant_url = playback.hls_url.as_ref().context("a still picture plays nowhere")?;
    let media_url = fetch_first_url(client, multivariant_url, "multivariant playlist").await?;
    let segment_url = fetch_first_url(client, &media_url, "media playlist").await?;
    let segment = fetch_url(client, &segment_url).await.context("the first segment")?;
    if segment.is_empty() {
        bail!("the first segment is empty");
    }
    Ok(segment_url)
}

async fn fetch_first_url(client: &ApiClient, url: &Url, what: &str) -> anyhow::Result<Url> {
    let body = fetch_url(client, url).await.with_context(|| format!("the {what}"))?;
    let text = std::str::from_utf8(&body).with_context(|| format!("the {what}"))?;
    let first = first_playlist_url(text).with_context(|| format!("the {what} names nothing to play"))?;
    Ok(url.join(first)?)
}

/// The first address of a playlist (RFC 8216, section 4.1).
fn first_playlist_url(playlist: &str) -> Option<&str> {
    let lines = playlist.strip_prefix("#EXTM3U")?.lines().map(str::trim);
    lines.into_iter().find(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Fetches an address of a session, which carries its own right.
///
/// # Errors
/// Any [`ClientError`]; [`ClientError::Refused`] once the session is over.
pub async fn fetch_url(client: &ApiClient, url: &Url) -> Result<Vec<u8>, ClientError> {
    let request = client.build_open_request(Method::GET, url.clone());
    client::with_time_limit(async { client::read_body(client.send(request).await?).await }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_a_playlist() {
        let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv720/index.m3u8\n#EXT\nv360/index.m3u8\n";
        for (text, wanted) in [
            (master, Some("v720/index.m3u8")),
            ("#EXTM3U\r\n#EXTINF:6,\r\n1.m4s\r\n", Some("1.m4s")),
            ("#EXTM3U\n#EXT-X-ENDLIST\n", None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(first_playlist_url(text), wanted, "{text:?}");
        }
    }
}
