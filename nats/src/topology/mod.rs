//! Streams, durables, buckets and mirrors: compared with `topology.toml`, brought to it, asked for at start.
//!
//! Only [`apply_topology`] creates or changes anything, with the admin role, except memory streams, which the keeper makes anew. A
//! role calls [`verify_topology`] before it does anything else.
//!
//! Limits: at most [`REQUESTS_MAX`] questions or changes are under way at once.

mod compare;
mod file;
mod load;
mod memory;
mod mirrors;
mod quantity;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{self, pull},
    context::{CreateStreamError, CreateStreamErrorKind},
    response::Response,
    stream::{self, ConsumerCreateStrictErrorKind, ConsumerUpdateErrorKind},
};
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::{BusError, Role, server};
use file::{DesiredDurable, DesiredStream, TopologyFile};
pub use load::ExpectedLoad;
pub use memory::{RestoredStreams, restore_memory_streams};

/// The topology in human units.
pub const FILE: &str = include_str!("../../topology.toml");

/// Most requests to the server at once.
pub const REQUESTS_MAX: usize = 8;

/// What differs between installations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologySettings {
    /// Copies of every stream and bucket: 1 for one server, 3 for a cluster.
    pub replicas: usize,
    /// Replaces every durable's ack wait; for tests of redelivery.
    pub ack_wait: Option<Duration>,
    /// All byte limits of streams in percent of the file's, from 1.
    pub max_bytes_percent: u32,
    /// What limits and ages are made for; without it they are those of the file.
    pub load: Option<ExpectedLoad>,
}

impl Default for TopologySettings {
    fn default() -> Self {
        Self { replicas: 1, ack_wait: None, max_bytes_percent: 100, load: None }
    }
}

impl TopologySettings {
    /// The limit of a stream that has `bytes` in the file and is filled by `fills`.
    fn limit_bytes(&self, bytes: i64, fills: &[load::StorageDemand]) -> i64 {
        let bytes = match &self.load {
            Some(load) if !fills.is_empty() => load::demand_limit_bytes(fills, load),
            _ => bytes,
        };
        (bytes / 100).saturating_mul(self.max_bytes_percent.max(1).into()).max(1)
    }

    /// The age of a stream that has `age` in the file and is filled by `fills`.
    fn age_max(&self, age: Duration, fills: &[load::StorageDemand]) -> Duration {
        match &self.load {
            Some(load) if !age.is_zero() && load::is_kept_as_history(fills) => load.retention_period(),
            _ => age,
        }
    }
}

/// Bytes of files that the limits of all streams and buckets add up to, on each server.
///
/// # Errors
/// [`BusError::Invalid`] when the file can't be read.
pub fn reserved_bytes(settings: &TopologySettings) -> Result<u64, BusError> {
    let streams = TopologyFile::parse(FILE)?.desired_streams(settings);
    // Mirrors, too: their account shares the server's files.
    let files = streams.iter().filter(|stream| stream.config.storage == stream::StorageType::File);
    Ok(files.map(|stream| stream.config.max_bytes.unsigned_abs()).fold(0, u64::saturating_add))
}

/// How bad a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DifferenceClass {
    /// It, or a subject or ability of it, is missing; [`apply_topology`] adds it.
    Absent,
    /// [`apply_topology`] changes it.
    Changeable,
    /// The server can't change it in place.
    Irreversible,
}

/// One difference between the file and a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyDifference {
    /// What differs: `stream EVENTS`, `durable index of EVENTS`.
    pub asset: String,
    /// The field; empty when all of it is missing.
    pub field: String,
    /// What the file says.
    pub want: String,
    /// What the server has.
    pub have: String,
    /// How bad it is.
    pub class: DifferenceClass,
}

impl fmt::Display for TopologyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asset, field, want, have, class } = self;
        if field.is_empty() {
            return write!(f, "{asset} is missing");
        }
        write!(f, "{asset}: {field} is {have}, should be {want}")?;
        if *class == DifferenceClass::Irreversible {
            write!(f, " (can't be changed in place)")?;
        }
        Ok(())
    }
}

/// Compares the server with the file, everything in it.
///
/// # Errors
/// [`BusError::Topology`] when the server is too old; [`BusError::Unavailable`] when it does not answer.
pub async fn diff_topology(
    context: &jetstream::Context,
    settings: &TopologySettings,
) -> Result<Vec<TopologyDifference>, BusError> {
    let survey = survey_topology(context, settings, |_| true).await?;
    survey.mirror_error.map_or(Ok(survey.differences), Err)
}

/// Brings the server to the file and answers what it changed; needs the admin role. Applying twice changes nothing.
///
/// # Errors
/// [`BusError::Topology`] when something can't be changed in place, and then nothing was changed; [`BusError::Refused`] when the
/// server refuses a change; [`BusError::Unavailable`] when it does not answer. One of a mirror is answered when all else is done.
pub async fn apply_topology(
    context: &jetstream::Context,
    settings: &TopologySettings,
) -> Result<Vec<TopologyDifference>, BusError> {
    let mut survey = survey_topology(context, settings, |_| true).await?;
    reject_differences(&survey.differences, DifferenceClass::Irreversible, |list| {
        format!(
            "{list}. Nothing was changed. Stop all roles, back up what must be kept (`nats stream backup`), delete it \
             (`nats stream rm`, `nats consumer rm`) and apply again"
        )
    })?;
    // The streams first: a durable needs its stream. Mirrors last: nothing here needs one, and one that fails stops nothing.
    let (mirrors, streams): (Vec<_>, Vec<_>) =
        survey.streams.iter().partition(|stream| stream.want.is_mirror());
    run_concurrently(streams.into_iter(), |stream| apply_stream(context, stream)).await?;
    run_concurrently(survey.durables.iter(), |(want, have)| put_durable(context, want, have.as_ref()))
        .await?;
    if let Some(error) = survey.mirror_error.take() {
        return Err(error);
    }
    run_concurrently(mirrors.into_iter(), |mirror| async move {
        apply_stream(context, mirror).await?;
        remove_consumers(context, mirror).await
    })
    .await?;
    Ok(survey.differences)
}

/// Ends what programs have made in the mirrors that the server sends messages to by itself; such consumers may never end otherwise. Needs
/// the admin role; [`apply_topology`] does it, too. Answers how many there were.
///
/// # Errors
/// [`BusError::Topology`] on a server without the account of the mirrors; [`BusError::Unavailable`] when it does not answer.
pub async fn remove_push_consumers(context: &jetstream::Context) -> Result<usize, BusError> {
    let streams = TopologyFile::parse(FILE)?.desired_streams(&TopologySettings::default());
    let mut removed = 0;
    for mirror in streams.into_iter().filter(DesiredStream::is_mirror) {
        let mirror = survey_stream(context, mirror).await?;
        remove_consumers(context, &mirror).await?;
        removed += mirror.push_consumers.len();
    }
    Ok(removed)
}

async fn remove_consumers(context: &jetstream::Context, mirror: &SurveyedStream) -> Result<(), BusError> {
    for consumer in &mirror.push_consumers {
        mirrors::remove_consumer(context, &mirror.want, &consumer.name).await?;
    }
    Ok(())
}

async fn apply_stream(context: &jetstream::Context, stream: &SurveyedStream) -> Result<(), BusError> {
    let context = mirrors::account_context(context, &stream.want);
    if stream.is_remade {
        remove_stream(&context, &stream.want).await?;
    }
    put_stream(&context, &stream.want, stream.have.as_ref().filter(|_| !stream.is_remade)).await
}

/// Checks that all `role` needs is there and usable; works with that role's own rights. What is more does not matter, nor
/// does what [`apply_topology`] would merely change.
///
/// # Errors
/// [`BusError::Topology`] naming what is missing or irreversibly different; [`BusError::Unavailable`] when the server does not
/// answer, or does not let the role ask.
pub async fn verify_topology(context: &jetstream::Context, role: Role) -> Result<(), BusError> {
    let survey =
        survey_topology(context, &TopologySettings::default(), |needed_by| needed_by.contains(&role)).await?;
    let advice = |list| {
        format!(
            "{list}. Run `streamgate nats apply` with the admin role, or `streamgate nats diff` to see all"
        )
    };
    reject_differences(&survey.differences, DifferenceClass::Absent, advice)?;
    reject_differences(&survey.differences, DifferenceClass::Irreversible, advice)
}

fn reject_differences(
    found: &[TopologyDifference],
    class: DifferenceClass,
    advice: impl Fn(String) -> String,
) -> Result<(), BusError> {
    let list: Vec<String> = found.iter().filter(|d| d.class == class).map(ToString::to_string).collect();
    if list.is_empty() { Ok(()) } else { Err(BusError::Topology { reason: advice(list.join("; ")) }) }
}

/// What the file wants beside what the server has.
struct TopologySurvey {
    streams: Vec<SurveyedStream>,
    durables: Vec<(DesiredDurable, Option<consumer::Config>)>,
    differences: Vec<TopologyDifference>,
    /// Why mirrors could not be looked at; then none is among the streams.
    mirror_error: Option<BusError>,
}

/// A stream, bucket or mirror.
struct SurveyedStream {
    want: DesiredStream,
    have: Option<stream::Config>,
    last_sequence: u64,
    /// True for a mirror that has to be removed and made again.
    is_remade: bool,
    /// Consumers of a mirror that have to end.
    push_consumers: Vec<mirrors::PushConsumer>,
}

impl SurveyedStream {
    /// What differs; `stream_sequence` is the last of the stream that a mirror copies.
    fn find_differences(&mut self, stream_sequence: u64) -> Vec<TopologyDifference> {
        let want = &self.want.config;
        let Some(have) = &self.have else { return vec![compare::missing_asset(compare::asset_name(want))] };
        let mut found = compare::compare_streams(want, have);
        if self.want.is_mirror() {
            found.extend(mirrors::find_stale_mirror(want, self.last_sequence, stream_sequence));
            for difference in &mut found {
                self.is_remade |= difference.class == DifferenceClass::Irreversible;
                difference.class = DifferenceClass::Changeable;
            }
            found.extend(self.push_consumers.iter().map(|consumer| consumer.difference(want)));
        }
        found
    }
}

async fn survey_stream(
    context: &jetstream::Context,
    want: DesiredStream,
) -> Result<SurveyedStream, BusError> {
    let subject = format!("STREAM.INFO.{}", want.config.name);
    let absent = ErrorCode::STREAM_NOT_FOUND;
    let info: Option<stream::Info> =
        mirrors::request_account(context, &want, subject, &serde_json::json!({}), absent).await?;
    let last_sequence = info.as_ref().map_or(0, |info| info.state.last_sequence);
    let push_consumers = if want.is_mirror() && info.is_some() {
        mirrors::list_push_consumers(context, &want).await?
    } else {
        Vec::new()
    };
    let want = info.as_ref().map_or(want.clone(), |info| want.with_room_for(info));
    let have = info.map(|info| info.config);
    Ok(SurveyedStream { want, have, last_sequence, is_remade: false, push_consumers })
}

async fn survey_topology(
    context: &jetstream::Context,
    settings: &TopologySettings,
    needed: impl Fn(&[Role]) -> bool,
) -> Result<TopologySurvey, BusError> {
    check_version(&context.client().server_info().version)?;
    let topology = TopologyFile::parse(FILE)?;
    let streams = topology.desired_streams(settings).into_iter().filter(|stream| needed(&stream.needed_by));
    let durables =
        topology.desired_durables(settings).into_iter().filter(|durable| needed(&durable.needed_by));
    let (mirrors, streams): (Vec<_>, Vec<_>) = streams.partition(DesiredStream::is_mirror);
    // Before their streams: one that is asked after its stream has more.
    let mirrors = run_concurrently(mirrors.into_iter(), |want| survey_stream(context, want)).await;
    let (mirrors, mirror_error) = match mirrors {
        Ok(mirrors) => (mirrors, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut streams = run_concurrently(streams.into_iter(), |want| survey_stream(context, want)).await?;
    let there =
        |stream: &str| streams.iter().any(|other| other.want.config.name == stream && other.have.is_some());
    let durables = run_concurrently(durables, |want| async {
        if !there(&want.stream) && streams.iter().any(|other| other.want.config.name == want.stream) {
            return Ok((want, None));
        }
        let subject = format!("CONSUMER.INFO.{}.{}", want.stream, want.name);
        let info = request_info::<consumer::Info>(context, subject, ErrorCode::CONSUMER_NOT_FOUND).await?;
        Ok((want, info.map(|info| info.config)))
    })
    .await?;
    let mut differences = Vec::new();
    let sequences: BTreeMap<String, u64> =
        streams.iter().map(|stream| (stream.want.config.name.clone(), stream.last_sequence)).collect();
    streams.extend(mirrors);
    for stream in &mut streams {
        let last_sequence = sequences.get(&stream.want.config.name).copied().unwrap_or(0);
        differences.extend(stream.find_differences(last_sequence));
    }
    for (want, have) in &durables {
        let asset = format!("durable {} of {}", want.name, want.stream);
        match have {
            Some(have) => differences.extend(compare::compare_durables(asset, &want.config, have)),
            None => differences.push(compare::missing_asset(asset)),
        }
    }
    Ok(TopologySurvey { streams, durables, differences, mirror_error })
}

/// Runs `work` for each item, some at once, and keeps the order.
async fn run_concurrently<T, R, F>(
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<Vec<R>, BusError>
where
    F: Future<Output = Result<R, BusError>>,
{
    futures::stream::iter(items).map(work).buffered(REQUESTS_MAX).try_collect().await
}

/// Asks the JetStream API; `None` when the server says that it is not there.
async fn request_info<T: DeserializeOwned>(
    context: &jetstream::Context,
    subject: String,
    absent: ErrorCode,
) -> Result<Option<T>, BusError> {
    let answer =
        context.request(subject.clone(), &serde_json::json!({})).await.map_err(BusError::unavailable)?;
    unless_absent(&subject, answer, absent)
}

fn unless_absent<T: DeserializeOwned>(
    subject: &str,
    answer: Response<T>,
    absent: ErrorCode,
) -> Result<Option<T>, BusError> {
    match answer {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } if error.error_code() == absent => Ok(None),
        Response::Err { error } => Err(BusError::from_server_error(subject, &error)),
    }
}

async fn remove_stream(context: &jetstream::Context, want: &DesiredStream) -> Result<(), BusError> {
    let subject = format!("STREAM.DELETE.{}", want.config.name);
    request_info::<serde_json::Value>(context, subject, ErrorCode::STREAM_NOT_FOUND).await.map(|_| ())
}

async fn put_stream(
    context: &jetstream::Context,
    want: &DesiredStream,
    have: Option<&stream::Config>,
) -> Result<(), BusError> {
    let what = || compare::asset_name(&want.config);
    match have {
        None => {
            let made = context.create_stream(&want.config).await;
            made.map(|_| ()).map_err(|error| stream_error(&what(), error))
        }
        Some(have) if compare::compare_streams(&want.config, have).is_empty() => Ok(()),
        Some(have) => {
            let changed =
                context.update_stream(compare::merge_stream_config(&want.config, have.clone())).await;
            changed.map(|_| ()).map_err(|error| stream_error(&what(), error))
        }
    }
}

async fn put_durable(
    context: &jetstream::Context,
    want: &DesiredDurable,
    have: Option<&consumer::Config>,
) -> Result<(), BusError> {
    let what = || format!("durable {} of {}", want.name, want.stream);
    let config = pull_config(&want.config);
    match have {
        None => {
            let made = context.create_consumer_strict_on_stream(config, &want.stream).await;
            made.map(|_| ()).map_err(|error| match error.kind() {
                ConsumerCreateStrictErrorKind::JetStream(answer) => {
                    BusError::from_server_error(&what(), &answer)
                }
                _ => BusError::unavailable(error),
            })
        }
        Some(have) if compare::compare_durables(what(), &want.config, have).is_empty() => Ok(()),
        Some(_) => {
            let changed = context.update_consumer_on_stream(config, &want.stream).await;
            changed.map(|_| ()).map_err(|error| match error.kind() {
                ConsumerUpdateErrorKind::JetStream(answer) => BusError::from_server_error(&what(), &answer),
                _ => BusError::unavailable(error),
            })
        }
    }
}

fn pull_config(want: &consumer::Config) -> pull::Config {
    pull::Config {
        durable_name: want.durable_name.clone(),
        name: want.name.clone(),
        deliver_policy: want.deliver_policy,
        ack_policy: want.ack_policy,
        replay_policy: want.replay_policy,
        ack_wait: want.ack_wait,
        max_ack_pending: want.max_ack_pending,
        max_deliver: want.max_deliver,
        filter_subject: want.filter_subject.clone(),
        filter_subjects: want.filter_subjects.clone(),
        ..pull::Config::default()
    }
}

fn stream_error(what: &str, error: CreateStreamError) -> BusError {
    match error.kind() {
        CreateStreamErrorKind::JetStream(answer) => BusError::from_server_error(what, &answer),
        _ => BusError::unavailable(error),
    }
}

fn check_version(version: &str) -> Result<(), BusError> {
    let (major, minor) = server::VERSION_MIN;
    if server::version(version).is_some_and(|found| found >= (major, minor)) {
        return Ok(());
    }
    Err(BusError::Topology {
        reason: format!("the server is nats-server {version}; {major}.{minor} or newer is needed"),
    })
}
