//! The MPEG-DASH manifest (ISO/IEC 23009-1): static, over the same CMAF files as the playlists.

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};
use schemas::{captions::CaptionKind, job::StoredSegment, keys};

use crate::presentation::{Presentation, PresentationRendition, RenditionKind};

/// Version of the profile identifiers: live profile for numbered segments, CMAF for the files.
const PROFILES: &str = "urn:mpeg:dash:profile:isoff-live:2011,urn:mpeg:dash:profile:cmaf:2019";

/// A manifest that could not be written; can't happen while writing to memory.
#[derive(Debug, thiserror::Error)]
#[error("write the manifest")]
pub struct ManifestWriteError(#[from] std::io::Error);

type XmlWriter = Writer<Vec<u8>>;
type XmlAttributes<'a> = &'a [(&'a str, String)];

/// Renders the manifest of a finished encode.
pub fn render_manifest(presentation: &Presentation) -> Result<String, ManifestWriteError> {
    let target = presentation.target_seconds();
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    // The longest track ends the presentation: sound may have a part of a frame more than the picture.
    let longest_us = |ticks: fn(&PresentationRendition) -> u64| {
        presentation.renditions().map(|r| to_microseconds(ticks(r), r.timescale)).max().unwrap_or(0)
    };
    let segment = format_duration(longest_us(PresentationRendition::longest_segment_ticks));
    open_element(
        &mut xml,
        "MPD",
        &[
            ("xmlns", "urn:mpeg:dash:schema:mpd:2011".into()),
            ("profiles", PROFILES.into()),
            ("type", "static".into()),
            ("mediaPresentationDuration", format_duration(longest_us(PresentationRendition::duration_ticks))),
            ("maxSegmentDuration", segment.clone()),
            ("minBufferTime", segment),
        ],
    )?;
    open_element(&mut xml, "Period", &[("id", "0".into()), ("start", "PT0S".into())])?;
    if let Some(first) = presentation.video.first() {
        let set = [("id", "0".into()), ("contentType", "video".into()), ("mimeType", "video/mp4".into())];
        write_adaptation_set(&mut xml, &set, first, &presentation.video, target)?;
    }
    for (index, audio) in presentation.audio.iter().enumerate() {
        let RenditionKind::Audio { language, .. } = &audio.kind else { continue };
        let set = [
            ("id", (index + 1).to_string()),
            ("contentType", "audio".into()),
            ("mimeType", "audio/mp4".into()),
            ("lang", language.clone()),
        ];
        write_adaptation_set(&mut xml, &set, audio, std::slice::from_ref(audio), target)?;
    }
    let first_id = presentation.audio.len() + 1;
    for (subtitles, id) in presentation.subtitles.iter().zip(first_id..) {
        write_subtitle_set(&mut xml, subtitles, id)?;
    }
    close_element(&mut xml, "Period")?;
    close_element(&mut xml, "MPD")?;
    let mut text = String::from_utf8_lossy(&xml.into_inner()).into_owned();
    text.push('\n');
    Ok(text)
}

fn write_subtitle_set(
    xml: &mut XmlWriter,
    subtitles: &PresentationRendition,
    id: usize,
) -> Result<(), ManifestWriteError> {
    let RenditionKind::Subtitles { language, label, is_forced, is_hearing_impaired } = &subtitles.kind else {
        return Ok(());
    };
    let set = TextSet {
        id,
        name: &subtitles.name,
        language,
        label,
        kind: CaptionKind::of_flags(*is_forced, *is_hearing_impaired),
        bandwidth_bps: subtitles.whole_bps().max(1),
    };
    write_text_set(xml, &set)
}

/// A track of text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextSet<'a> {
    /// Number of its set.
    pub(crate) id: usize,
    /// Name of its folder.
    pub(crate) name: &'a str,
    /// A tag of RFC 5646.
    pub(crate) language: &'a str,
    /// Name for people.
    pub(crate) label: &'a str,
    /// What it is for.
    pub(crate) kind: CaptionKind,
    /// Bits per second of the file with all of it.
    pub(crate) bandwidth_bps: u64,
}

impl TextSet<'_> {
    /// The role of a kind (ISO/IEC 23009-1, 5.8.5.5).
    pub(crate) const fn role_of(kind: CaptionKind) -> &'static str {
        match kind {
            CaptionKind::Forced => "forced-subtitle",
            CaptionKind::Captions => "caption",
            CaptionKind::Subtitles => "subtitle",
        }
    }
}

/// The element of a track of text by itself.
pub(crate) fn render_text_set(set: &TextSet<'_>) -> Result<String, ManifestWriteError> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    write_text_set(&mut xml, set)?;
    Ok(String::from_utf8_lossy(&xml.into_inner()).into_owned())
}

/// Text comes as one file beside the segments, which is how players take WebVTT in DASH.
fn write_text_set(xml: &mut XmlWriter, set: &TextSet<'_>) -> Result<(), ManifestWriteError> {
    let attributes = [
        ("id", set.id.to_string()),
        ("contentType", "text".into()),
        ("mimeType", "text/vtt".into()),
        ("lang", set.language.to_owned()),
    ];
    open_element(xml, "AdaptationSet", &attributes)?;
    write_text_element(xml, "Label", set.label)?;
    write_role(xml, TextSet::role_of(set.kind))?;
    let bandwidth = set.bandwidth_bps.to_string();
    open_element(xml, "Representation", &[("id", set.name.to_owned()), ("bandwidth", bandwidth)])?;
    write_text_element(xml, "BaseURL", &keys::whole_subtitles_path(set.name))?;
    close_element(xml, "Representation")?;
    close_element(xml, "AdaptationSet")
}

fn write_text_element(xml: &mut XmlWriter, name: &str, text: &str) -> Result<(), ManifestWriteError> {
    open_element(xml, name, &[])?;
    xml.write_event(Event::Text(BytesText::new(text)))?;
    close_element(xml, name)
}

fn write_role(xml: &mut XmlWriter, role: &str) -> Result<(), ManifestWriteError> {
    let scheme = ("schemeIdUri", "urn:mpeg:dash:role:2011".into());
    write_empty_element(xml, "Role", &[scheme, ("value", role.into())])
}

fn write_adaptation_set(
    xml: &mut XmlWriter,
    set: XmlAttributes<'_>,
    first: &PresentationRendition,
    renditions: &[PresentationRendition],
    target: u64,
) -> Result<(), ManifestWriteError> {
    let mut attributes = set.to_vec();
    attributes.push(("segmentAlignment", "true".into()));
    attributes.push(("startWithSAP", "1".into()));
    open_element(xml, "AdaptationSet", &attributes)?;
    if let RenditionKind::Audio { label, .. } = &first.kind {
        write_text_element(xml, "Label", label)?;
        let is_main = set.first().is_some_and(|(_, id)| id == "1");
        write_role(xml, if is_main { "main" } else { "alternate" })?;
    }
    // Every rendition of a set has the same timeline; the check compares them tick by tick.
    open_element(
        xml,
        "SegmentTemplate",
        &[
            ("timescale", first.timescale.to_string()),
            ("initialization", "$RepresentationID$/init.mp4".into()),
            ("media", "$RepresentationID$/$Number$.m4s".into()),
            ("startNumber", "1".into()),
        ],
    )?;
    write_segment_timeline(xml, &first.segments)?;
    close_element(xml, "SegmentTemplate")?;
    for rendition in renditions {
        write_representation(xml, rendition, target)?;
    }
    close_element(xml, "AdaptationSet")
}

/// Equal durations in a row become one `S` with a repeat count.
fn write_segment_timeline(xml: &mut XmlWriter, segments: &[StoredSegment]) -> Result<(), ManifestWriteError> {
    open_element(xml, "SegmentTimeline", &[])?;
    let mut rest = segments;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|s| s.duration_ticks == first.duration_ticks).count();
        let mut attributes =
            vec![("t", first.start_ticks.to_string()), ("d", first.duration_ticks.to_string())];
        if run > 1 {
            attributes.push(("r", (run - 1).to_string()));
        }
        write_empty_element(xml, "S", &attributes)?;
        rest = rest.get(run..).unwrap_or_default();
    }
    close_element(xml, "SegmentTimeline")
}

fn write_representation(
    xml: &mut XmlWriter,
    rendition: &PresentationRendition,
    target: u64,
) -> Result<(), ManifestWriteError> {
    let mut attributes = vec![
        ("id", rendition.name.clone()),
        ("codecs", rendition.codecs.clone()),
        ("bandwidth", rendition.peak_bps(target).to_string()),
    ];
    match &rendition.kind {
        RenditionKind::Video { width, height, frame_rate } => {
            attributes.push(("width", width.to_string()));
            attributes.push(("height", height.to_string()));
            attributes.push(("frameRate", format!("{}/{}", frame_rate.num, frame_rate.den)));
            attributes.push(("sar", "1:1".into()));
            write_empty_element(xml, "Representation", &attributes)
        }
        RenditionKind::Audio { channels, sample_rate_hz, .. } => {
            attributes.push(("audioSamplingRate", sample_rate_hz.to_string()));
            open_element(xml, "Representation", &attributes)?;
            write_empty_element(
                xml,
                "AudioChannelConfiguration",
                &[
                    ("schemeIdUri", "urn:mpeg:dash:23003:3:audio_channel_configuration:2011".into()),
                    ("value", channels.to_string()),
                ],
            )?;
            close_element(xml, "Representation")
        }
        // It has a set of its own kind.
        RenditionKind::Subtitles { .. } => Ok(()),
    }
}

/// Ticks in microseconds, rounded up.
fn to_microseconds(ticks: u64, timescale: u32) -> u128 {
    (u128::from(ticks) * 1_000_000).div_ceil(u128::from(timescale.max(1)))
}

/// An xs:duration.
fn format_duration(microseconds: u128) -> String {
    format!("PT{}.{:06}S", microseconds / 1_000_000, microseconds % 1_000_000)
}

fn build_element<'a>(name: &'a str, attributes: XmlAttributes<'a>) -> BytesStart<'a> {
    let mut element = BytesStart::new(name);
    for (key, value) in attributes {
        element.push_attribute((*key, value.as_str()));
    }
    element
}

fn open_element(
    xml: &mut XmlWriter,
    name: &str,
    attributes: XmlAttributes<'_>,
) -> Result<(), ManifestWriteError> {
    Ok(xml.write_event(Event::Start(build_element(name, attributes)))?)
}

fn write_empty_element(
    xml: &mut XmlWriter,
    name: &str,
    attributes: XmlAttributes<'_>,
) -> Result<(), ManifestWriteError> {
    Ok(xml.write_event(Event::Empty(build_element(name, attributes)))?)
}

fn close_element(xml: &mut XmlWriter, name: &str) -> Result<(), ManifestWriteError> {
    Ok(xml.write_event(Event::End(BytesEnd::new(name)))?)
}
