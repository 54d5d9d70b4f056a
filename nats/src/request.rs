//! Questions over core request/reply.
//!
//! A question has a span and carries its trace; who answers goes on with it ([`crate::answer_span`]).
//!
//! Limits: an answer is waited for at most the time its asker names; only what the broker lost is asked twice.

use std::time::Duration;

use async_nats::HeaderMap;
use schemas::{headers, ids::RequestId, subjects};
use serde::{Serialize, de::DeserializeOwned};
use spans::{Span, SpanAttribute, SpanKind};

use crate::{Bus, BusError, Role, client::ConnectionLoss, new_id_bytes, publish};

/// Where the answer to a question comes: random, and of this question alone. It names who is asked, the second word of the subject of the
/// question: those alone may publish there, so that others who see the question can't answer in their place.
fn answer_subject(asking: Role, question: &str) -> String {
    let asked = question.split('.').nth(1).unwrap_or("none");
    format!("{}.{asked}.{}", asking.answer_prefix(), RequestId::from_bytes(new_id_bytes()))
}

impl Bus {
    /// Sends `question` to `subject` and waits for the answer, MessagePack both ways.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when nobody answers in time; [`BusError::Undecodable`] when the answer is no `A`.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: String,
        question: &Q,
        wait_max: Duration,
    ) -> Result<A, BusError> {
        let payload = bytes::Bytes::from(publish::encode_message(&subject, question)?);
        let name = || format!("request {}", subjects::subject_template(&subject)).into();
        // What is asked in the background, again and again, is kept by nobody.
        let span = match spans::current() {
            Some(asking) => Span::child(asking, SpanKind::Client, name),
            None => Span::root(SpanKind::Client, false, name),
        };
        span.set(|| SpanAttribute::Messaging("request"));
        span.set(|| SpanAttribute::DestinationTemplate(subjects::subject_template(&subject)));
        let mut all = HeaderMap::new();
        all.insert(headers::TRACE_PARENT, span.context().to_string().as_str());
        let asking = || {
            let inbox = answer_subject(self.role(), &subject);
            let request = async_nats::Request::new().payload(payload.clone()).headers(all.clone());
            let request = request.inbox(inbox).timeout(Some(wait_max));
            self.while_connected(self.client().send_request(subject.clone(), request))
        };
        let answer = match asking().await {
            Err(ConnectionLoss::Anew) => asking().await,
            answer => answer,
        };
        let answer =
            answer.map_err(BusError::unavailable).and_then(|answer| answer.map_err(BusError::unavailable));
        let answer = answer.inspect_err(|error| span.fail(error.code()))?;
        publish::decode_message(&subject, &answer.payload)
            .inspect_err(|error: &BusError| span.fail(error.code()))
    }
}

#[cfg(test)]
mod tests {
    use schemas::subjects::subject_template;

    #[test]
    fn the_name_of_a_question_holds_no_text_of_a_client() {
        for (subject, wanted) in [
            ("ask.index.search", "ask.index.search"),
            ("ask.monitor.alerts", "ask.monitor.alerts"),
            ("ctl.worker.planted", "ctl.worker.{worker}"),
            ("ctl.worker.planted.more", "ctl.>"),
        ] {
            assert_eq!(subject_template(subject), wanted);
        }
    }
}
