//! Descriptions of an encode with the captions that people brought for its medium: they come and go while the encode stays as it was
//! stored, so they are written into what is served.
//!
//! A track takes the place of one of the file that has its language and kind.

use std::fmt::Write as _;

use schemas::{captions::CaptionKind, keys};

use crate::{
    mpd::{ManifestWriteError, TextSet, render_text_set},
    playlist::{SUBTITLE_GROUP, format_subtitle_media},
};

/// The tags that the tracks of a multivariant playlist and its variants begin with.
const MEDIA_TAG: &str = "#EXT-X-MEDIA:";
const VARIANT_TAG: &str = "#EXT-X-STREAM-INF:";
/// Sets of text, and what ends one and all, as manifests here have them.
const SET_BEGIN: &str = "    <AdaptationSet ";
const SET_END: &str = "    </AdaptationSet>";
const PERIOD_END: &str = "  </Period>";

/// A track as players find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedCaptions<'a> {
    /// Name of its folder.
    pub name: &'a str,
    /// A tag of RFC 5646.
    pub language: &'a str,
    /// What it is for.
    pub kind: CaptionKind,
    /// Name for people.
    pub label: String,
    /// Bytes of the file with all of it.
    pub size_bytes: u64,
}

/// A multivariant playlist with these tracks; `uri` is the address of the media playlist of a track.
pub fn add_to_multivariant(
    multivariant: &str,
    captions: &[ServedCaptions<'_>],
    uri: fn(&str) -> String,
) -> String {
    let is_replaced = |line: &&str| {
        let Some(attributes) = subtitle_attributes(line) else { return false };
        let (language, kind) = (find_attribute(&attributes, "LANGUAGE"), kind_of(&attributes));
        captions.iter().any(|own| Some(own.language) == language && own.kind == kind)
    };
    let kept: Vec<&str> = multivariant.lines().filter(|line| !is_replaced(line)).collect();
    let mut added = Some(list_tracks(&kept, captions, uri));
    let mut text = String::with_capacity(multivariant.len() + 256 * captions.len());
    for line in kept {
        let is_variant = line.starts_with(VARIANT_TAG);
        if is_variant && let Some(tracks) = added.take() {
            text.push_str(&tracks);
        }
        text.push_str(line);
        if is_variant && find_attribute(&split_attributes(line), "SUBTITLES").is_none() {
            let _infallible = write!(text, ",SUBTITLES=\"{SUBTITLE_GROUP}\"");
        }
        text.push('\n');
    }
    text
}

/// The lines of these tracks, behind those that are there already. In a group each name is of one track (RFC 8216, 4.3.4.1.1), and one
/// track of a language is chosen without a person.
fn list_tracks(kept: &[&str], captions: &[ServedCaptions<'_>], uri: fn(&str) -> String) -> String {
    let attributes: Vec<_> = kept.iter().filter_map(|line| subtitle_attributes(line)).collect();
    let of_file = |attributes: &Vec<(&str, &str)>| {
        // One that no player chooses by itself leaves that to another of its language.
        find_attribute(attributes, "AUTOSELECT").filter(|value| *value == "YES")?;
        Some((find_attribute(attributes, "LANGUAGE")?.to_owned(), kind_of(attributes) == CaptionKind::Forced))
    };
    let mut languages: Vec<(String, bool)> = attributes.iter().filter_map(of_file).collect();
    let names = attributes.iter().filter_map(|attributes| find_attribute(attributes, "NAME"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    let mut text = String::new();
    for track in captions {
        let name = unused_name(&track.label.replace('"', "'"), &names);
        let language = (track.language.to_owned(), track.kind == CaptionKind::Forced);
        let is_first = !languages.contains(&language);
        text.push_str(&format_subtitle_media(
            (track.language, track.kind),
            &name,
            is_first,
            &uri(track.name),
        ));
        names.push(name);
        languages.push(language);
    }
    text
}

fn unused_name(label: &str, names: &[String]) -> String {
    let is_free = |name: &String| !names.contains(name);
    let numbered = (2_usize..).map(|number| format!("{label} {number}"));
    std::iter::once(label.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

/// The attributes of a line that is a track of text.
pub(super) fn subtitle_attributes(line: &str) -> Option<Vec<(&str, &str)>> {
    let attributes = line.starts_with(MEDIA_TAG).then(|| split_attributes(line))?;
    (find_attribute(&attributes, "TYPE") == Some("SUBTITLES")).then_some(attributes)
}

pub(super) fn kind_of(attributes: &[(&str, &str)]) -> CaptionKind {
    let is_forced = find_attribute(attributes, "FORCED") == Some("YES");
    CaptionKind::of_flags(is_forced, find_attribute(attributes, "CHARACTERISTICS").is_some())
}

pub(super) fn find_attribute<'a>(attributes: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
}

/// The attributes of a tag (RFC 8216, 4.2), their values without quotes.
fn split_attributes(line: &str) -> Vec<(&str, &str)> {
    let list = line.split_once(':').map_or("", |(_, list)| list);
    let mut is_quoted = false;
    let parts = list.split(|c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    });
    parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect()
}

/// A manifest with these tracks, of a medium that lasts `duration_ms`.
///
/// # Errors
/// None while it is written to memory.
pub fn add_to_manifest(
    manifest: &str,
    captions: &[ServedCaptions<'_>],
    duration_ms: u64,
) -> Result<String, ManifestWriteError> {
    let mut text = String::with_capacity(manifest.len() + 512 * captions.len());
    let (mut set, mut next_id) = (None::<String>, 0_usize);
    for line in manifest.lines() {
        if line.starts_with(SET_BEGIN) {
            let id = find_xml_attribute(line, "id").and_then(|id| id.parse::<usize>().ok());
            next_id = next_id.max(id.unwrap_or(0) + 1);
            set = Some(String::new());
        }
        if line == PERIOD_END {
            for (track, id) in captions.iter().zip(next_id..) {
                let set = describe_set(track, id, duration_ms);
                for line in render_text_set(&set)?.lines() {
                    let _infallible = writeln!(text, "    {line}");
                }
            }
        }
        let into = set.as_mut().unwrap_or(&mut text);
        into.push_str(line);
        into.push('\n');
        if line == SET_END
            && let Some(set) = set.take()
            && !is_replaced_set(&set, captions)
        {
            text.push_str(&set);
        }
    }
    Ok(text)
}

fn describe_set<'a>(track: &'a ServedCaptions<'_>, id: usize, duration_ms: u64) -> TextSet<'a> {
    let bits = u128::from(track.size_bytes) * 8_000;
    let bandwidth_bps =
        u64::try_from(bits.div_ceil(u128::from(duration_ms.max(1)))).unwrap_or(u64::MAX).max(1);
    let (language, label, kind) = (track.language, track.label.as_str(), track.kind);
    TextSet { id, name: track.name, language, label, kind, bandwidth_bps }
}

fn is_replaced_set(set: &str, captions: &[ServedCaptions<'_>]) -> bool {
    let head = set.lines().next().unwrap_or_default();
    if find_xml_attribute(head, "contentType") != Some("text") {
        return false;
    }
    let role = set.lines().find(|line| line.trim_start().starts_with("<Role "));
    let role = role.and_then(|line| find_xml_attribute(line, "value"));
    let language = find_xml_attribute(head, "lang");
    captions.iter().any(|own| Some(own.language) == language && Some(TextSet::role_of(own.kind)) == role)
}

/// An attribute of an element as it is written here: texts of people are no attributes.
pub(super) fn find_xml_attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// The media playlist of a track of text, from that of another rendition of the encode: it has segments of the same times.
pub fn render_text_playlist(other: &str) -> String {
    let mut text = String::with_capacity(other.len());
    for line in other.lines().filter(|line| !line.starts_with("#EXT-X-MAP:")) {
        match line.strip_suffix(".m4s").and_then(|number| number.parse::<u32>().ok()) {
            Some(number) => text.push_str(&keys::text_segment_name(number)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
