//! Mirrors in the account MIRRORS: what programs of the operator read, apart from the streams that everything here stands on.
//!
//! A mirror is a copy that the server fills by itself, with the sequences of its stream. It is never what has to be kept: one that can't
//! be brought to the file in place, or is ahead of its stream because that was made anew, is removed and made again.
//!
//! Limits: `max_bytes` and `consumers_max` of each in the file.

use async_nats::jetstream::{
    self, ErrorCode,
    context::RequestErrorKind,
    response::Response,
    stream::{
        self, ConsumerLimits, DiscardPolicy, External, PersistenceMode, RetentionPolicy, Source, StorageType,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    DifferenceClass, TopologyDifference, TopologySettings,
    compare::asset_name,
    file::DesiredStream,
    quantity::{ByteSize, DurationSetting},
    unless_absent,
};
use crate::BusError;

/// Where the account MEDIA reaches the JetStream API of MIRRORS, for streams alone: see `permissions.conf`.
const MIRRORS_API: &str = "mirrors.API";
/// Where MIRRORS reaches the API of MEDIA.
const MEDIA_API: &str = "media.API";
/// Where messages of a mirrored stream are sent to.
const DELIVERY_PREFIX: &str = "mirrored";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorSpec {
    about: String,
    max_bytes: ByteSize,
    consumers_max: i32,
    consumer_idle_max: DurationSetting,
}

impl MirrorSpec {
    /// The mirror of a stream that should be as `origin`.
    pub(super) fn desired_stream(
        &self,
        origin: &stream::Config,
        settings: &TopologySettings,
    ) -> DesiredStream {
        let external = External {
            api_prefix: MEDIA_API.to_owned(),
            delivery_prefix: Some(format!("{DELIVERY_PREFIX}.{}", origin.name)),
        };
        // What a power cut takes of a copy comes again from the stream. The server has this for single copies of files only.
        let is_asynchronous = settings.replicas == 1 && origin.storage == StorageType::File;
        let config = stream::Config {
            name: origin.name.clone(),
            description: Some(self.about.clone()),
            mirror: Some(Source { name: origin.name.clone(), external: Some(external), ..Source::default() }),
            retention: RetentionPolicy::Limits,
            storage: origin.storage,
            discard: DiscardPolicy::Old,
            max_age: origin.max_age,
            max_bytes: settings.limit_bytes(self.max_bytes.0, &[]).min(origin.max_bytes),
            max_message_size: origin.max_message_size,
            max_messages: -1,
            max_messages_per_subject: origin.max_messages_per_subject,
            max_consumers: self.consumers_max,
            consumer_limits: Some(ConsumerLimits {
                inactive_threshold: self.consumer_idle_max.0,
                ..ConsumerLimits::default()
            }),
            deny_delete: true,
            deny_purge: true,
            num_replicas: settings.replicas,
            persist_mode: is_asynchronous.then_some(PersistenceMode::Async),
            ..stream::Config::default()
        };
        DesiredStream { config, needed_by: Vec::new() }
    }
}

/// The API of the account in which a stream is, for somebody of MEDIA.
pub(super) fn account_context(context: &jetstream::Context, want: &DesiredStream) -> jetstream::Context {
    if want.is_mirror() {
        jetstream::with_prefix(context.client().clone(), MIRRORS_API)
    } else {
        context.clone()
    }
}

/// Asks for a stream of `want`'s account.
pub(super) async fn request_account<T: DeserializeOwned>(
    context: &jetstream::Context,
    want: &DesiredStream,
    subject: String,
    body: &Value,
    absent: ErrorCode,
) -> Result<Option<T>, BusError> {
    let answer: Response<T> = account_context(context, want)
        .request(subject.clone(), body)
        .await
        .map_err(|error| explain_request_error(want, error))?;
    unless_absent(&subject, answer, absent)
}

/// What an unanswered question to the API of MIRRORS means; others are outages.
fn explain_request_error(want: &DesiredStream, error: jetstream::context::RequestError) -> BusError {
    if want.is_mirror() && error.kind() == RequestErrorKind::NoResponders {
        let reason = "the broker has no account MIRRORS for programs that follow events: its configuration is older than this \
                      program. Take nats/node.conf and nats/permissions.conf of this version, run `streamgate nats keys`, and \
                      restart its servers one after the other";
        return BusError::Topology { reason: reason.to_owned() };
    }
    BusError::unavailable(error)
}

/// A mirror that is ahead of its stream copies nothing any more.
pub(super) fn find_stale_mirror(
    want: &stream::Config,
    mirror_sequence: u64,
    stream_sequence: u64,
) -> Option<TopologyDifference> {
    (mirror_sequence > stream_sequence).then(|| TopologyDifference {
        asset: asset_name(want),
        field: "last sequence".into(),
        want: format!("at most {stream_sequence}"),
        have: mirror_sequence.to_string(),
        class: DifferenceClass::Irreversible,
    })
}

/// A consumer of a mirror to which the server sends messages by itself. Programs pull; one of these may never end, and keeps a place of
/// [`MirrorSpec::consumers_max`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PushConsumer {
    pub(super) name: String,
    deliver_subject: String,
}

#[derive(Deserialize)]
struct ConsumerPage {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<ListedConsumer>>,
}

#[derive(Deserialize)]
struct ListedConsumer {
    name: String,
    config: ListedConsumerConfig,
}

#[derive(Deserialize)]
struct ListedConsumerConfig {
    deliver_subject: Option<String>,
}

impl PushConsumer {
    pub(super) fn difference(&self, mirror: &stream::Config) -> TopologyDifference {
        TopologyDifference {
            asset: format!("consumer {} of {}", self.name, asset_name(mirror)),
            field: "deliver_subject".into(),
            want: "none".into(),
            have: self.deliver_subject.clone(),
            class: DifferenceClass::Changeable,
        }
    }
}

/// The consumers of a mirror that are not pulled from.
pub(super) async fn list_push_consumers(
    context: &jetstream::Context,
    mirror: &DesiredStream,
) -> Result<Vec<PushConsumer>, BusError> {
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let subject = format!("CONSUMER.LIST.{}", mirror.config.name);
        let body = json!({ "offset": offset });
        let page = request_account(context, mirror, subject, &body, ErrorCode::STREAM_NOT_FOUND).await?;
        let Some(ConsumerPage { total, consumers: Some(consumers) }) = page else { return Ok(found) };
        if consumers.is_empty() {
            return Ok(found);
        }
        offset += consumers.len();
        found.extend(consumers.into_iter().filter_map(|ListedConsumer { name, config }| {
            let deliver_subject = config.deliver_subject.filter(|subject| !subject.is_empty())?;
            Some(PushConsumer { name, deliver_subject })
        }));
        if offset >= total {
            return Ok(found);
        }
    }
}

/// Removes a consumer of a mirror; one that is gone is no error.
pub(super) async fn remove_consumer(
    context: &jetstream::Context,
    mirror: &DesiredStream,
    name: &str,
) -> Result<(), BusError> {
    let subject = format!("CONSUMER.DELETE.{}.{name}", mirror.config.name);
    request_account::<Value>(context, mirror, subject, &json!({}), ErrorCode::CONSUMER_NOT_FOUND)
        .await
        .map(|_| ())
}
