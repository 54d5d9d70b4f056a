//! Which audio tracks a finished encode has, read back from its multivariant playlist: the record of an encode names renditions, not
//! their languages.

/// An audio track as the multivariant playlist lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedAudio {
    /// Folder name, such as `a0`.
    pub name: String,
    /// Language tag, `und` when unknown.
    pub language: String,
    /// Name for people.
    pub label: String,
}

/// The audio tracks in the order of the playlist, the default one first. A single track without a picture is in no group, so that
/// nothing is said of it.
pub fn list_audio(multivariant: &str) -> Vec<ListedAudio> {
    let lines = multivariant.lines().filter(|line| line.starts_with("#EXT-X-MEDIA:TYPE=AUDIO,"));
    let listed = lines.filter_map(|line| {
        let (name, _) = read_quoted(line, "URI")?.split_once('/')?;
        Some(ListedAudio {
            name: name.to_owned(),
            language: read_quoted(line, "LANGUAGE")?.to_owned(),
            label: read_quoted(line, "NAME")?.to_owned(),
        })
    });
    listed.collect()
}

/// The value of an attribute. Values have no quotes in them (RFC 8216, 4.2), so none can end in what looks like another attribute.
fn read_quoted<'a>(line: &'a str, attribute: &str) -> Option<&'a str> {
    let (_, behind) = line.split_once(&format!(",{attribute}=\""))?;
    behind.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{playlist::render_multivariant, presentation::Presentation, testing::build_example};

    #[test]
    fn what_a_playlist_says_is_read_back() {
        let (plan, parts) = build_example();
        let text = render_multivariant(&Presentation::assemble(&plan, &parts).unwrap());
        let wanted = ListedAudio { name: "a0".into(), language: "en".into(), label: "English".into() };
        assert_eq!(list_audio(&text), [wanted]);
    }

    #[test]
    fn a_label_is_never_taken_for_an_attribute() {
        let line = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",LANGUAGE=\"de\",NAME=\"a,URI=b\",URI=\"a1/index.m3u8\"\n";
        let listed =
            list_audio(&format!("#EXTM3U\n{line}#EXT-X-MEDIA:TYPE=SUBTITLES,URI=\"s0/index.m3u8\"\n"));
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].label.as_str()), ("a1", "a,URI=b"));
        assert!(list_audio("#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,NAME=\"x\"\n").is_empty());
    }
}
