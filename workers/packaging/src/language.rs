//! Languages as players take them: BCP 47 tags (RFC 5646) and names that people read.
//!
//! Containers have ISO 639-2 codes of three letters, in MP4 of either kind ("fre" and "fra"), and a few have tags. BCP 47 wants the
//! shortest code there is: "fr".

use isolang::Language;
use oxilangtag::LanguageTag;

/// The tag of a language that nobody named (RFC 5646, 4.1).
pub const UNDETERMINED: &str = "und";

/// ISO 639-2 codes that were taken from English names ("bibliographic"), and the terminological ones that tags are made from.
const BIBLIOGRAPHIC_CODES: [(&str, &str); 20] = [
    ("alb", "sqi"),
    ("arm", "hye"),
    ("baq", "eus"),
    ("bur", "mya"),
    ("chi", "zho"),
    ("cze", "ces"),
    ("dut", "nld"),
    ("fre", "fra"),
    ("geo", "kat"),
    ("ger", "deu"),
    ("gre", "ell"),
    ("ice", "isl"),
    ("mac", "mkd"),
    ("mao", "mri"),
    ("may", "msa"),
    ("per", "fas"),
    ("rum", "ron"),
    ("slo", "slk"),
    ("tib", "bod"),
    ("wel", "cym"),
];

/// Longest tag that is taken, in bytes: RFC 5646, 4.4.1.
const TAG_BYTES_MAX: usize = 35;

/// The BCP 47 tag of what a container says; `und` for what is no language.
pub fn to_language_tag(said: &str) -> String {
    let said = said.trim().replace('_', "-");
    let (primary, rest) =
        said.split_once('-').map_or((said.as_str(), None), |(primary, rest)| (primary, Some(rest)));
    let Some(language) = find_language(primary) else { return UNDETERMINED.to_owned() };
    let shortest = language.to_639_1().unwrap_or_else(|| language.to_639_3());
    let wanted = rest.map_or_else(|| shortest.to_owned(), |rest| format!("{shortest}-{rest}"));
    match LanguageTag::parse_and_normalize(&wanted) {
        Ok(tag) if tag.as_str().len() <= TAG_BYTES_MAX => tag.into_inner(),
        _ => shortest.to_owned(),
    }
}

/// The English name of a tag, with the region if it has one; none for what has no name.
pub fn language_name(tag: &str) -> Option<String> {
    let parsed = LanguageTag::parse(tag).ok()?;
    let language = find_language(parsed.primary_language())?;
    // "Modern Greek (1453-)" and "Swahili (macrolanguage)" are for librarians.
    let name = language.to_name().split(" (").next().unwrap_or_default();
    Some(match parsed.region() {
        Some(region) => format!("{name} ({region})"),
        None => name.to_owned(),
    })
}

/// The language of a tag as three letters of ISO 639-2/T in five bits each (ISO/IEC 14496-12, 8.4.2.3); `und` for what has none.
pub fn to_packed_code(tag: &str) -> u16 {
    let primary = tag.split('-').next().unwrap_or_default();
    let letters = find_language(primary).map_or(UNDETERMINED, |language| language.to_639_3());
    letters.bytes().take(3).fold(0, |code, letter| code << 5 | u16::from(letter & 0x1f))
}

fn find_language(code: &str) -> Option<Language> {
    let code = code.to_ascii_lowercase();
    let terminological =
        BIBLIOGRAPHIC_CODES.iter().find(|(old, _)| *old == code).map_or(code.as_str(), |(_, new)| new);
    // Codes for "undetermined", "several", "none" and "uncoded" say nothing to a player.
    if ["und", "mul", "zxx", "mis"].contains(&terminological) {
        return None;
    }
    Language::from_639_1(terminological).or_else(|| Language::from_639_3(terminological))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_containers_become_the_shortest_tag() {
        for (said, tag, name) in [
            ("eng", "en", "English"),
            ("fre", "fr", "French"),
            ("fra", "fr", "French"),
            ("ger", "de", "German"),
            ("GRE", "el", "Modern Greek"),
            ("chi", "zh", "Chinese"),
            ("en", "en", "English"),
            ("pt-br", "pt-BR", "Portuguese (BR)"),
            ("zh_hant_tw", "zh-Hant-TW", "Chinese (TW)"),
            ("spa-419", "es-419", "Spanish (419)"),
            ("gsw", "gsw", "Swiss German"),
        ] {
            assert_eq!(to_language_tag(said), tag, "{said}");
            assert_eq!(language_name(tag).as_deref(), Some(name), "{said}");
        }
        for said in
            ["", "und", "mul", "zxx", "xx1", "\",URI=\"x", "english", "qq", "en-\"", "\u{0}\u{0}\u{0}"]
        {
            let tag = to_language_tag(said);
            assert!(tag == UNDETERMINED || tag == "en", "{said:?}: {tag}");
        }
        assert_eq!(language_name(UNDETERMINED), None);
    }

    #[test]
    fn a_packed_code_has_three_letters() {
        // 0x55c4 is `und`, as most files have it.
        for (tag, code) in [("und", 0x55c4), ("", 0x55c4), ("en", 0x15c7), ("pt-BR", 0x41f2), ("gsw", 0x1e77)]
        {
            assert_eq!(to_packed_code(tag), code, "{tag}: {:x}", to_packed_code(tag));
        }
    }
}
