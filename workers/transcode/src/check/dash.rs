//! Reads the manifest back.

use std::collections::BTreeMap;

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

/// Most segments of one timeline that are read.
const SEGMENTS_MAX: usize = 100_000;

/// A manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DashManifest {
    /// Attributes of `MPD`.
    pub attributes: DashAttributes,
    /// Its adaptation sets.
    pub sets: Vec<AdaptationSet>,
}

/// An adaptation set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdaptationSet {
    /// Its attributes.
    pub attributes: DashAttributes,
    /// Attributes of its segment template.
    pub template: DashAttributes,
    /// Start and duration of each segment, in ticks.
    pub timeline: Vec<(u64, u64)>,
    /// Attributes of each representation.
    pub representations: Vec<DashAttributes>,
}

/// Attributes of an element.
pub type DashAttributes = BTreeMap<String, String>;

/// Reads a manifest; says what is wrong with it.
pub fn parse_manifest(text: &str) -> Result<DashManifest, String> {
    let mut reader = Reader::from_str(text);
    let mut found = DashManifest::default();
    let mut open: Vec<String> = Vec::new();
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(element) => {
                open.push(element.name().as_ref().to_owned());
                found.add_element(&element)?;
            }
            Event::Empty(element) => found.add_element(&element)?,
            Event::End(element) if open.pop().as_deref() != Some(element.name().as_ref()) => {
                return Err("elements are not nested".into());
            }
            Event::Eof if open.is_empty() => return Ok(found),
            Event::Eof => return Err("the manifest is cut off".into()),
            _ => {}
        }
    }
}

impl DashManifest {
    fn add_element(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        let attributes = parse_attributes(element)?;
        let name = element.name();
        if name.as_ref() == "MPD" {
            self.attributes = attributes;
            return Ok(());
        }
        if name.as_ref() == "AdaptationSet" {
            self.sets.push(AdaptationSet { attributes, ..AdaptationSet::default() });
            return Ok(());
        }
        let Some(set) = self.sets.last_mut() else { return Ok(()) };
        match name.as_ref() {
            "SegmentTemplate" => set.template = attributes,
            "S" => set.add_timeline_entry(&attributes)?,
            "Representation" => set.representations.push(attributes),
            _ => {}
        }
        Ok(())
    }
}

impl AdaptationSet {
    fn add_timeline_entry(&mut self, attributes: &DashAttributes) -> Result<(), String> {
        let number = |key: &str| {
            attributes.get(key).map(|v| v.parse::<u64>().map_err(|_| format!("S@{key}"))).transpose()
        };
        let duration = number("d")?.ok_or("S without @d")?;
        let end = self.timeline.last().map_or(0, |(start, duration)| start.saturating_add(*duration));
        let mut start = number("t")?.unwrap_or(end);
        for _ in 0..=number("r")?.unwrap_or(0) {
            if self.timeline.len() >= SEGMENTS_MAX {
                return Err("too many segments in a timeline".into());
            }
            self.timeline.push((start, duration));
            start = start.saturating_add(duration);
        }
        Ok(())
    }
}

fn parse_attributes(element: &BytesStart<'_>) -> Result<DashAttributes, String> {
    let mut found = DashAttributes::new();
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let key = attribute.key.as_ref().to_owned();
        let value =
            attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|e| e.to_string())?.into_owned();
        found.insert(key, value);
    }
    Ok(found)
}
