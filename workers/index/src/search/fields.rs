//! The one table of what is indexed of a medium, and the schema of the index that follows from it.

use std::borrow::Cow;

use schemas::{ids::MediaId, media::MediaStatus, search_query::MediaSearchFacet};
use tantivy::{
    TantivyDocument, Term,
    schema::{
        BytesOptions, Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
        Value as _,
    },
};

use super::{tokenizer::TOKENIZER, words::fold_title};
use crate::{IndexError, facts::MediaFacts};

/// Most bytes of a title that it is sorted by: a cursor holds them.
pub(super) const TITLE_ORDER_BYTES_MAX: usize = 64;

/// A field with words.
#[derive(Debug)]
pub(super) struct TextField {
    /// Name of the member of the medium.
    pub(super) name: &'static str,
    /// What a word in it counts, against the same word in others. The best is less than what the ways of finding a word differ by.
    pub(super) weight: f32,
    /// Its texts.
    pub(super) texts: fn(&MediaFacts) -> Vec<&str>,
}

/// Fields with words, the best first.
pub(super) const TEXT_FIELDS: &[TextField] = &[
    TextField {
        name: "title",
        weight: 3.0,
        texts: |facts| facts.document.iter().map(|document| &*document.title).collect(),
    },
    TextField {
        name: "tags",
        weight: 2.0,
        texts: |facts| {
            facts.document.iter().flat_map(|document| &document.tags).map(String::as_str).collect()
        },
    },
    TextField {
        name: "description",
        weight: 1.0,
        texts: |facts| facts.document.iter().filter_map(|document| document.description.as_deref()).collect(),
    },
];

/// A field with values that are compared as they are.
struct KeyField {
    name: &'static str,
    values: fn(&MediaFacts) -> Vec<Cow<'_, str>>,
}

/// Fields with values that are compared as they are.
const KEY_FIELDS: &[KeyField] = &[
    KeyField { name: "status", values: |facts| vec![status_key(facts.status()).into()] },
    KeyField { name: "tag", values: tag_values },
    KeyField { name: "language", values: language_values },
    KeyField {
        name: "visibility",
        values: |facts| facts.document.iter().map(|document| document.visibility.as_str().into()).collect(),
    },
    KeyField {
        name: "owner",
        values: |facts| facts.origin().iter().map(|(owner, _)| (*owner).into()).collect(),
    },
    KeyField { name: "codec", values: codec_values },
];

/// A field with a number.
struct NumberField {
    name: &'static str,
    value: fn(&MediaFacts) -> Option<u64>,
}

/// Fields with a number.
const NUMBER_FIELDS: &[NumberField] = &[
    NumberField {
        name: CREATED_AT_MS,
        value: |facts| facts.origin().map(|(_, created_at_ms)| created_at_ms),
    },
    NumberField { name: DURATION_MS, value: |facts| summary(facts).map(|summary| summary.duration_ms) },
    NumberField { name: "width", value: |facts| summary(facts).map(|summary| summary.width.into()) },
    NumberField { name: "height", value: |facts| summary(facts).map(|summary| summary.height.into()) },
];

pub(super) const CREATED_AT_MS: &str = "created_at_ms";
pub(super) const DURATION_MS: &str = "duration_ms";
/// The id of the medium as two numbers, which sort like it.
pub(super) const ID_HIGH: &str = "id_high";
pub(super) const ID_LOW: &str = "id_low";
/// The title as it is sorted.
pub(super) const TITLE_ORDER: &str = "title_order";
const MEDIA_ID: &str = "media_id";
const FACTS: &str = "facts";
/// Value of the field that only media have that people may find: of a removed one nothing else is kept than that it is.
const SHOWN: &str = "yes";

fn summary(facts: &MediaFacts) -> Option<&schemas::media::MediaSummary> {
    facts.asset.as_ref()?.summary.as_ref()
}

fn tag_values(facts: &MediaFacts) -> Vec<Cow<'_, str>> {
    facts.document.iter().flat_map(|document| &document.tags).map(|tag| tag_key(tag).into()).collect()
}

fn language_values(facts: &MediaFacts) -> Vec<Cow<'_, str>> {
    facts.document.iter().filter_map(|document| document.language.as_deref()).map(Cow::from).collect()
}

fn codec_values(facts: &MediaFacts) -> Vec<Cow<'_, str>> {
    let codecs = summary(facts).into_iter();
    codecs
        .flat_map(|summary| summary.video_codec.iter().chain(&summary.audio_codecs))
        .map(Cow::from)
        .collect()
}

/// A tag as it is compared: one medium has it once, whatever its case.
pub(super) fn tag_key(tag: &str) -> String {
    tag.to_lowercase()
}

/// A status as it is written in JSON.
pub(super) fn status_key(status: MediaStatus) -> String {
    match status {
        MediaStatus::Uploading => "uploading",
        MediaStatus::Stored => "stored",
        MediaStatus::Rejected => "rejected",
        MediaStatus::Playable => "playable",
        MediaStatus::Ready => "ready",
        MediaStatus::Failed => "failed",
    }
    .to_owned()
}

/// The id as two numbers.
pub(super) fn id_halves(media_id: MediaId) -> (u64, u64) {
    let id = u128::from_be_bytes(*media_id.as_bytes());
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    (u64::try_from(id >> 64).unwrap_or(u64::MAX), low)
}

/// The schema, and its fields by what they are for.
#[derive(Debug, Clone)]
pub(super) struct SearchSchema {
    pub(super) schema: Schema,
    texts: Vec<Field>,
    keys: Vec<Field>,
    numbers: Vec<Field>,
    id_halves: (Field, Field),
    title_order: Field,
    media_id: Field,
    facts: Field,
    shown: Field,
}

impl SearchSchema {
    pub(super) fn new() -> Self {
        let mut builder = Schema::builder();
        let indexing = TextFieldIndexing::default().set_fieldnorms(false);
        let words = indexing.clone().set_tokenizer(TOKENIZER);
        let words = words.set_index_option(IndexRecordOption::WithFreqsAndPositions);
        let key = indexing.set_tokenizer("raw").set_index_option(IndexRecordOption::Basic);
        let number = NumericOptions::default().set_fast();
        let shown = TextOptions::default().set_indexing_options(key.clone());
        let words = TextOptions::default().set_indexing_options(words);
        let key = TextOptions::default().set_indexing_options(key).set_fast("raw");
        let texts =
            TEXT_FIELDS.iter().map(|field| builder.add_text_field(field.name, words.clone())).collect();
        let keys = KEY_FIELDS.iter().map(|field| builder.add_text_field(field.name, key.clone())).collect();
        let numbers: Vec<Field> =
            NUMBER_FIELDS.iter().map(|field| builder.add_u64_field(field.name, number.clone())).collect();
        let id_halves =
            (builder.add_u64_field(ID_HIGH, number.clone()), builder.add_u64_field(ID_LOW, number.clone()));
        let title_order = builder.add_text_field(TITLE_ORDER, TextOptions::default().set_fast("raw"));
        let media_id = builder.add_bytes_field(MEDIA_ID, BytesOptions::default().set_indexed());
        let facts = builder.add_bytes_field(FACTS, BytesOptions::default().set_stored());
        let shown = builder.add_text_field("shown", shown);
        Self { schema: builder.build(), shown, texts, keys, numbers, id_halves, title_order, media_id, facts }
    }

    /// Fields with words, and what they count.
    pub(super) fn text_fields(&self) -> impl Iterator<Item = (Field, f32)> {
        self.texts.iter().zip(TEXT_FIELDS).map(|(field, of)| (*field, of.weight))
    }

    /// The field that a facet counts.
    pub(super) fn key(&self, facet: MediaSearchFacet) -> Field {
        let at = KEY_FIELDS.iter().position(|field| field.name == facet.as_str());
        self.keys[at.unwrap_or_default()]
    }

    /// A field with a number.
    pub(super) fn number(&self, name: &str) -> Field {
        let at = NUMBER_FIELDS.iter().position(|field| field.name == name);
        self.numbers[at.unwrap_or_default()]
    }

    /// What every medium has that people may find.
    pub(super) fn shown_term(&self) -> Term {
        Term::from_field_text(self.shown, SHOWN)
    }

    /// The field of ids.
    pub(super) const fn id_field(&self) -> Field {
        self.media_id
    }

    /// What a medium is found by when it changes.
    pub(super) fn id_term(&self, media_id: MediaId) -> Term {
        Term::from_field_bytes(self.media_id, media_id.as_bytes())
    }

    /// The document of a medium.
    pub(super) fn write_document(
        &self,
        media_id: MediaId,
        facts: &MediaFacts,
    ) -> Result<TantivyDocument, IndexError> {
        let mut document = TantivyDocument::default();
        let stored = rmp_serde::to_vec_named(facts)
            .map_err(|_| IndexError::SearchDamaged { what: "facts that can't be encoded".into() })?;
        document.add_bytes(self.facts, &stored);
        document.add_bytes(self.media_id, media_id.as_bytes());
        if !facts.is_shown() {
            return Ok(document);
        }
        document.add_text(self.shown, SHOWN);
        let (high, low) = id_halves(media_id);
        document.add_u64(self.id_halves.0, high);
        document.add_u64(self.id_halves.1, low);
        for (field, of) in self.texts.iter().zip(TEXT_FIELDS) {
            for text in (of.texts)(facts) {
                document.add_text(*field, text);
            }
        }
        for (field, of) in self.keys.iter().zip(KEY_FIELDS) {
            for value in (of.values)(facts) {
                document.add_text(*field, value);
            }
        }
        for (field, of) in self.numbers.iter().zip(NUMBER_FIELDS) {
            if let Some(value) = (of.value)(facts) {
                document.add_u64(*field, value);
            }
        }
        document.add_text(self.title_order, title_order(facts));
        Ok(document)
    }

    /// What a document was made of.
    pub(super) fn read_facts(&self, document: &TantivyDocument) -> Result<MediaFacts, IndexError> {
        let stored = document.get_first(self.facts).and_then(|value| value.as_bytes());
        stored
            .and_then(|bytes| rmp_serde::from_slice(bytes).ok())
            .ok_or_else(|| IndexError::SearchDamaged { what: "a document without facts".into() })
    }
}

/// The title as it is sorted; one that is empty is behind all others.
fn title_order(facts: &MediaFacts) -> String {
    let title = facts.document.as_ref().map_or("", |document| &*document.title);
    let folded = fold_title(title, TITLE_ORDER_BYTES_MAX - 1);
    let rank = if folded.is_empty() { '1' } else { '0' };
    format!("{rank}{folded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_facet_has_its_field_and_every_status_its_name() {
        for facet in MediaSearchFacet::ALL {
            assert!(KEY_FIELDS.iter().any(|field| field.name == facet.as_str()), "{facet:?}");
        }
        for name in [CREATED_AT_MS, DURATION_MS] {
            assert!(NUMBER_FIELDS.iter().any(|field| field.name == name), "{name}");
        }
        for status in [MediaStatus::Uploading, MediaStatus::Ready] {
            assert_eq!(
                rmp_serde::from_slice::<MediaStatus>(&rmp_serde::to_vec(&status_key(status)).unwrap())
                    .unwrap(),
                status
            );
        }
        let best = TEXT_FIELDS.iter().map(|field| field.weight).fold(0.0, f32::max);
        assert!(best < 4.0, "a worse way in a better field must not win");
    }
}
