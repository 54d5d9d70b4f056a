//! Views: openings of public media by viewers who did not sign in. They are volume, not history, and lie in the stream VIEWS for
//! some days; the events report them once a medium and hour.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext,
    ids::{MediaId, PlaybackId},
    subjects,
};

/// Parts of the stream VIEWS, by medium: what is counted at once stays small.
pub const PARTITIONS: u8 = 16;

/// The part in which a medium is.
pub const fn partition_of_media(media_id: &MediaId) -> u8 {
    // The last byte of an id is random.
    media_id.as_bytes()[15] % PARTITIONS
}

/// `view.<partition>.opened.<media_id>`: somebody who did not sign in opened a playback session of a public medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ViewOpened")]
pub struct ViewOpened {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The session.
    pub playback_id: PlaybackId,
}

impl BusEvent for ViewOpened {
    const ENTITY: &'static str = "view";
    const VERB: &'static str = "opened";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.media_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext { owner: Some(self.owner.clone()), media_id: Some(self.media_id), job_id: None }
    }
    fn subject(&self) -> String {
        subjects::view_subject(partition_of_media(&self.media_id), Self::VERB, &self.entity_id())
    }
}

/// `evt.view.summed`: how often viewers who did not sign in opened a public medium in one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ViewSummed")]
pub struct ViewSummed {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Unix time in milliseconds at which the hour began, by the broker's clock.
    pub hour_ms: u64,
    /// Sessions that were opened.
    pub opened_count: u64,
}

impl BusEvent for ViewSummed {
    const ENTITY: &'static str = "view";
    const VERB: &'static str = "summed";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.media_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext { owner: Some(self.owner.clone()), media_id: Some(self.media_id), job_id: None }
    }
}

/// How far one part of VIEWS is summed, in the bucket `limits`. The write that changes it carries the sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ViewPosition")]
pub struct ViewPosition {
    /// The part.
    pub partition: u8,
    /// Unix time in microseconds at which the stream was made: another one is summed from its beginning.
    pub stream_created_us: u64,
    /// Sequence of the last view that is summed.
    pub sequence: u64,
    /// The medium up to which the hour behind `sequence` is summed, while it has more media than one write carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
}

impl ViewPosition {
    /// Key of a part's position.
    pub fn key_for_partition(partition: u8) -> String {
        format!("views.{partition}")
    }
}

impl crate::KvRecord for ViewPosition {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::key_for_partition(self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_lies_in_the_part_of_its_medium() {
        let media_id = MediaId::from_bytes([35; 16]);
        let opened =
            ViewOpened { media_id, owner: "olga".into(), playback_id: PlaybackId::from_bytes([1; 16]) };
        assert_eq!(opened.subject(), format!("view.3.opened.{media_id}"));
        assert_eq!(subjects::stream_of_subject(&opened.subject()), subjects::VIEWS);
        let summed = ViewSummed { media_id, owner: "olga".into(), hour_ms: 0, opened_count: 1 };
        assert_eq!(subjects::stream_of_subject(&summed.subject()), subjects::EVENTS);
    }
}
