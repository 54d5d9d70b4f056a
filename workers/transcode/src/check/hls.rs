//! Reads playlists back. Not a general reader: what our writer never writes is an error, so nothing slips through.
//!
//! Durations are kept in whole microseconds, since a float would hide the errors the check looks for.

use std::collections::BTreeMap;

/// A multivariant playlist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MultivariantPlaylist {
    /// `EXT-X-VERSION`.
    pub version: u64,
    /// `EXT-X-INDEPENDENT-SEGMENTS` is there.
    pub is_independent: bool,
    /// Attributes of each `EXT-X-STREAM-INF` and its URI.
    pub variants: Vec<(HlsAttributes, String)>,
    /// Attributes of each `EXT-X-MEDIA`.
    pub media: Vec<HlsAttributes>,
    /// Attributes of each `EXT-X-I-FRAME-STREAM-INF`.
    pub iframes: Vec<HlsAttributes>,
}

/// A media playlist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "tags that are there or not, in any combination")]
pub struct MediaPlaylist {
    /// `EXT-X-VERSION`.
    pub version: u64,
    /// `EXT-X-TARGETDURATION` in seconds.
    pub target_seconds: u64,
    /// `EXT-X-PLAYLIST-TYPE`.
    pub kind: String,
    /// `EXT-X-INDEPENDENT-SEGMENTS` is there.
    pub is_independent: bool,
    /// URI of each `EXT-X-MAP`.
    pub maps: Vec<String>,
    /// `EXT-X-DISCONTINUITY` is there.
    pub has_discontinuity: bool,
    /// `EXT-X-ENDLIST` is there.
    pub has_end: bool,
    /// Duration in microseconds and URI of each segment.
    pub segments: Vec<(u64, String)>,
    /// `EXT-X-I-FRAMES-ONLY` is there.
    pub is_iframes_only: bool,
    /// Bytes of each `EXT-X-BYTERANGE`, all of which begin at 0.
    pub ranges: Vec<u64>,
}

/// An attribute list; quotes are removed.
pub type HlsAttributes = BTreeMap<String, String>;

/// Reads a multivariant playlist; says what is wrong with it.
pub fn parse_multivariant(text: &str) -> Result<MultivariantPlaylist, String> {
    let mut found = MultivariantPlaylist::default();
    let mut waiting: Option<HlsAttributes> = None;
    for line in playlist_lines(text)? {
        if let Some(value) = line.strip_prefix("#EXT-X-VERSION:") {
            found.version = parse_number(value)?;
        } else if line == "#EXT-X-INDEPENDENT-SEGMENTS" {
            found.is_independent = true;
        } else if let Some(value) = line.strip_prefix("#EXT-X-MEDIA:") {
            found.media.push(parse_attributes(value)?);
        } else if let Some(value) = line.strip_prefix("#EXT-X-I-FRAME-STREAM-INF:") {
            found.iframes.push(parse_attributes(value)?);
        } else if let Some(value) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            waiting = Some(parse_attributes(value)?);
        } else if line.starts_with('#') {
            return Err(format!("unknown tag {line:.60}"));
        } else {
            let variant =
                waiting.take().ok_or_else(|| format!("a URI without EXT-X-STREAM-INF: {line:.60}"))?;
            found.variants.push((variant, line.to_owned()));
        }
    }
    if waiting.is_some() { Err("EXT-X-STREAM-INF without a URI".into()) } else { Ok(found) }
}

/// Reads a media playlist; says what is wrong with it.
pub fn parse_media(text: &str) -> Result<MediaPlaylist, String> {
    let mut found = MediaPlaylist::default();
    let mut waiting: Option<u64> = None;
    for line in playlist_lines(text)? {
        if let Some(value) = line.strip_prefix("#EXTINF:") {
            waiting = Some(parse_microseconds(value.strip_suffix(',').unwrap_or(value))?);
        } else if let Some(value) = line.strip_prefix("#EXT-X-VERSION:") {
            found.version = parse_number(value)?;
        } else if let Some(value) = line.strip_prefix("#EXT-X-TARGETDURATION:") {
            found.target_seconds = parse_number(value)?;
        } else if let Some(value) = line.strip_prefix("#EXT-X-PLAYLIST-TYPE:") {
            value.clone_into(&mut found.kind);
        } else if let Some(value) = line.strip_prefix("#EXT-X-MAP:") {
            let uri = parse_attributes(value)?.remove("URI");
            found.maps.push(uri.ok_or("EXT-X-MAP without URI")?);
        } else if let Some(value) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
            parse_number(value)?;
        } else if line == "#EXT-X-INDEPENDENT-SEGMENTS" {
            found.is_independent = true;
        } else if line == "#EXT-X-I-FRAMES-ONLY" {
            found.is_iframes_only = true;
        } else if let Some(value) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            let bytes = value.strip_suffix("@0").ok_or("EXT-X-BYTERANGE that does not begin at 0")?;
            found.ranges.push(parse_number(bytes)?);
        } else if line == "#EXT-X-ENDLIST" {
            found.has_end = true;
        } else if line.starts_with("#EXT-X-DISCONTINUITY") {
            found.has_discontinuity = true;
        } else if line.starts_with('#') {
            return Err(format!("unknown tag {line:.60}"));
        } else {
            let duration = waiting.take().ok_or_else(|| format!("a URI without EXTINF: {line:.60}"))?;
            found.segments.push((duration, line.to_owned()));
        }
    }
    if waiting.is_some() { Err("EXTINF without a URI".into()) } else { Ok(found) }
}

fn playlist_lines(text: &str) -> Result<impl Iterator<Item = &str>, String> {
    let mut lines = text.lines();
    if lines.next() == Some("#EXTM3U") {
        Ok(lines.filter(|line| !line.is_empty()))
    } else {
        Err("no #EXTM3U".into())
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a whole number: {text:.40}"))
}

fn parse_microseconds(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 || whole.is_empty() {
        return Err(format!("not a duration in microseconds: {text:.40}"));
    }
    parse_number(&format!("{whole}{fraction:0<6}"))
}

/// Splits `NAME=value,NAME="quoted, value"`.
pub fn parse_attributes(text: &str) -> Result<HlsAttributes, String> {
    let mut found = HlsAttributes::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) =
            rest.split_once('=').ok_or_else(|| format!("attribute without value: {rest:.40}"))?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"').ok_or("open quote")?;
                (value, after.strip_prefix(',').unwrap_or(after))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if found.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("attribute {name:.40} is there twice"));
        }
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_playlist_is_refused() {
        for text in [
            "",
            "#EXTINF:1,\na",
            "#EXTM3U\na.m4s",
            "#EXTM3U\n#EXTINF:1,",
            "#EXTM3U\n#EXTINF:1.0000001,\na",
            "#EXTM3U\n#EXT-X-KEY:METHOD=NONE",
            "#EXTM3U\n#EXTINF:-1,\na",
        ] {
            assert!(parse_media(text).is_err(), "{text}");
        }
        for text in [
            "",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1",
            "#EXTM3U\nv/index.m3u8",
            "#EXTM3U\n#EXT-X-MEDIA:NAME=\"open",
            "#EXTM3U\n#EXT-X-MEDIA:A=1,A=2",
        ] {
            assert!(parse_multivariant(text).is_err(), "{text}");
        }
    }

    #[test]
    fn commas_in_quotes_do_not_split() {
        let found = parse_attributes("A=1,CODECS=\"avc1.64001f,mp4a.40.2\",B=x").unwrap();
        assert_eq!(found["CODECS"], "avc1.64001f,mp4a.40.2");
        assert_eq!((found["A"].as_str(), found["B"].as_str()), ("1", "x"));
    }
}
