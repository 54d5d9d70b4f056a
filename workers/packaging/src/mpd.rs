//! The MPEG-DASH manifest (ISO/IEC 23009-1): static, over the same CMAF files as the playlists.

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};
use schemas::job::StoredSegment;

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
    let longest = presentation.video.first().or_else(|| presentation.audio.first());
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let duration =
        longest.map_or_else(|| "PT0S".to_owned(), |r| format_duration(r.duration_ticks(), r.timescale));
    open_element(
        &mut xml,
        "MPD",
        &[
            ("xmlns", "urn:mpeg:dash:schema:mpd:2011".into()),
            ("profiles", PROFILES.into()),
            ("type", "static".into()),
            ("mediaPresentationDuration", duration),
            ("maxSegmentDuration", format!("PT{target}S")),
            ("minBufferTime", format!("PT{target}S")),
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
    close_element(&mut xml, "Period")?;
    close_element(&mut xml, "MPD")?;
    let mut text = String::from_utf8_lossy(&xml.into_inner()).into_owned();
    text.push('\n');
    Ok(text)
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
        open_element(xml, "Label", &[])?;
        xml.write_event(Event::Text(BytesText::new(label)))?;
        close_element(xml, "Label")?;
        let role = if set.first().is_some_and(|(_, id)| id == "1") { "main" } else { "alternate" };
        write_empty_element(
            xml,
            "Role",
            &[("schemeIdUri", "urn:mpeg:dash:role:2011".into()), ("value", role.into())],
        )?;
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
    }
}

/// An xs:duration with microseconds, rounded up.
fn format_duration(ticks: u64, timescale: u32) -> String {
    let microseconds = (u128::from(ticks) * 1_000_000).div_ceil(u128::from(timescale.max(1)));
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
