//! Which subjects of a stream hold a message.
//!
//! Limits: the broker answers at most 100,000 subjects at a time; [`PAGES_MAX`] such answers are asked for.

use std::collections::{BTreeSet, HashMap};

use async_nats::jetstream::response::Response;
use serde::Deserialize;

use crate::{Bus, BusError};

/// Most answers of the broker to one question.
const PAGES_MAX: usize = 100;

#[derive(Debug, Deserialize)]
struct SubjectsPage {
    #[serde(default)]
    total: usize,
    state: SubjectsState,
}

#[derive(Debug, Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: Option<HashMap<String, u64>>,
}

impl Bus {
    /// The subjects of `stream` below `filter` that hold a message, as its leader knows them.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer or has no such stream.
    pub async fn stream_subjects(&self, stream: &str, filter: &str) -> Result<BTreeSet<String>, BusError> {
        let mut found = BTreeSet::new();
        let mut offset = 0;
        for _ in 0..PAGES_MAX {
            let question = serde_json::json!({ "subjects_filter": filter, "offset": offset });
            let asking = self.context().request(format!("STREAM.INFO.{stream}"), &question);
            let answer = self.while_connected(asking).await.map_err(BusError::unavailable)?;
            let page: SubjectsPage = match answer.map_err(BusError::unavailable)? {
                Response::Ok(page) => page,
                Response::Err { error } => return Err(BusError::unavailable(error)),
            };
            let subjects = page.state.subjects.unwrap_or_default();
            offset += subjects.len();
            let is_last = subjects.is_empty() || offset >= page.total;
            found.extend(subjects.into_keys());
            if is_last {
                break;
            }
        }
        Ok(found)
    }
}
