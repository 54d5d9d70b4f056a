//! Every subject, built here and spelled nowhere else. The last token of an event is the entity's id.

use crate::{
    BusEvent,
    ids::{HookId, JobId, MediaId, UploadId},
};

/// Name of the stream that holds all events.
pub const EVENTS: &str = "EVENTS";
/// Name of the work queue.
pub const JOBS: &str = "JOBS";
/// Name of the append-only audit stream.
pub const AUDIT: &str = "AUDIT";
/// Name of the dead-letter stream.
pub const DEAD: &str = "DEAD";
/// Name of the stream of views: volume, not history.
pub const VIEWS: &str = "VIEWS";
/// Name of the in-memory progress stream.
pub const PROGRESS: &str = "PROGRESS";

/// Name of the stream of what webhooks sent and were answered.
pub const HOOKLOG: &str = "HOOKLOG";

/// All events.
pub const EVENTS_ALL: &str = "evt.>";

/// Subject of one event.
pub fn event_subject<E: BusEvent>(event: &E) -> String {
    format!("evt.{}.{}.{}", E::ENTITY, E::VERB, event.entity_id())
}

/// Subject of one view; `partition` is the part of VIEWS in which its medium is.
pub fn view_subject(partition: u8, verb: &str, media_id: &str) -> String {
    format!("view.{partition}.{verb}.{media_id}")
}

/// Subject of what a webhook sent and was answered.
pub fn hook_log_subject(hook_id: HookId) -> String {
    format!("hooklog.{hook_id}")
}

/// Filter for what all webhooks sent and were answered.
pub const HOOK_LOG_ALL: &str = "hooklog.>";

/// Filter for every view in one part of VIEWS.
pub fn view_filter(partition: u8) -> String {
    format!("view.{partition}.>")
}

/// Stream that keeps what is published with a change of state.
pub fn stream_of_subject(subject: &str) -> &'static str {
    if subject.starts_with("view.") { VIEWS } else { EVENTS }
}

/// Entity, verb and id of an event's subject; `None` when it is no event.
pub fn parse_event_subject(subject: &str) -> Option<(&str, &str, &str)> {
    let mut tokens = subject.strip_prefix("evt.")?.split('.');
    let parts = (tokens.next()?, tokens.next()?, tokens.next()?);
    tokens.next().is_none().then_some(parts)
}

/// A subject without its ids, as names of spans have it: one for each kind of message.
pub fn subject_template(subject: &str) -> String {
    if let Some((entity, verb, _)) = parse_event_subject(subject) {
        return format!("evt.{entity}.{verb}.{{id}}");
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        ["job", queue, priority, _, _] => format!("job.{queue}.{priority}.{{job_id}}.{{part}}"),
        ["ask", who, verb] => format!("ask.{who}.{verb}"),
        // Who asks for a worker names it.
        ["ctl", "worker", _] => "ctl.worker.{worker}".into(),
        // What is known of others is what they are about.
        [first, ..] => format!("{first}.>"),
        [] => String::new(),
    }
}

/// Filter for every event of one kind.
pub fn event_filter<E: BusEvent>() -> String {
    format!("evt.{}.{}.*", E::ENTITY, E::VERB)
}

/// Filter for every event of one entity and verb, for followers that need no more than the id.
pub fn event_verb_filter(entity: &str, verb: &str) -> String {
    format!("evt.{entity}.{verb}.*")
}

/// Filter for every event of one entity kind, such as `media`.
pub fn entity_event_filter(entity: &str) -> String {
    format!("evt.{entity}.*.*")
}

/// Subject of one part of a job in a queue.
pub fn job_part_subject(queue: &str, priority: JobPriority, job_id: JobId, part: &str) -> String {
    format!("job.{queue}.{}.{job_id}.{part}", priority.subject_token())
}

/// The job of a part's subject in the work queue; `None` when it is none.
pub fn parse_job_part_subject(subject: &str) -> Option<JobId> {
    let mut tokens = subject.strip_prefix("job.")?.split('.').skip(2);
    tokens.next()?.parse().ok()
}

/// Every part of every job of one queue: the wake-up filter of its workers.
pub fn job_filter(queue: &str) -> String {
    format!("job.{queue}.>")
}

/// Progress of one part.
pub fn progress_subject(job_id: JobId, part: &str) -> String {
    format!("progress.{job_id}.{part}")
}

/// How often a process reports its metrics, in seconds.
pub const REPORT_PERIOD_S: u64 = 10;
/// Largest report in bytes, below the broker's `max_payload` of 1 MiB: a replica that has answered each operation in two classes of
/// status has some 700 kB.
pub const REPORT_BYTES_MAX: usize = 960 * 1024;

/// Subject of the metrics of one process, under the role that it runs first. `instance` has 16 hexadecimal digits.
pub fn stat_subject(role: &str, instance: &str) -> String {
    format!("stat.{role}.{instance}")
}

/// The role and the instance of a subject of [`stat_subject`].
pub fn parse_stat_subject(subject: &str) -> Option<(&str, &str)> {
    let (role, instance) = subject.strip_prefix("stat.")?.split_once('.')?;
    let is_instance =
        instance.len() == 16 && instance.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_instance.then_some((role, instance))
}

/// Filter for the progress of every part.
pub const PROGRESS_ALL: &str = "progress.>";

/// Whether `text` can stand for one word of a subject: not empty, without dots, wildcards, white space and control characters.
pub fn is_subject_token(text: &str) -> bool {
    let is_odd = |c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace() || c.is_control();
    !text.is_empty() && !text.contains(is_odd)
}

/// Dead letter of one message: `id` names the stream and sequence it came from.
pub fn dead_letter_subject(stage: &str, stream: &str, sequence: u64) -> String {
    format!("dead.{stage}.{stream}-{sequence}")
}

/// Filter for the dead letters of one stage.
pub fn dead_letter_filter(stage: &str) -> String {
    format!("dead.{stage}.>")
}

/// Audit record of one event class and action.
pub fn audit_subject(class: &str, action: &str) -> String {
    format!("audit.{class}.{action}")
}

/// Filter for every audit record.
pub const AUDIT_ALL: &str = "audit.>";

/// Filter for every dead letter.
pub const DEAD_ALL: &str = "dead.>";

/// Core subject that notifies workers that a job was cancelled.
pub fn job_cancel_subject(job_id: JobId) -> String {
    format!("ctl.job.{job_id}")
}

/// Core subject that asks the dispatcher to look at a job anew.
pub fn dispatch_look_subject(job_id: JobId) -> String {
    format!("ctl.dispatch.{job_id}")
}

/// Every request to look at a job anew.
pub const CONTROL_DISPATCH: &str = "ctl.dispatch.*";

/// The job that a request to look at it anew names.
pub fn parse_dispatch_look(subject: &str) -> Option<JobId> {
    subject.strip_prefix("ctl.dispatch.")?.parse().ok()
}

/// Question to the dispatcher.
pub fn dispatch_request_subject(verb: &str) -> String {
    format!("ask.dispatch.{verb}")
}

/// Every message of the work queue.
pub const JOBS_ALL: &str = "job.>";

/// Core subject that asks one worker to do something and to answer.
pub fn worker_command_subject(worker: &str) -> String {
    format!("ctl.worker.{worker}")
}

/// Core subject that asks the holder of an upload to let go.
pub fn upload_release_subject(upload_id: UploadId) -> String {
    format!("ctl.upload.{upload_id}")
}

/// Every request to let go of an upload.
pub const CONTROL_UPLOADS: &str = "ctl.upload.*";

/// The upload that a request to let go names.
pub fn parse_upload_release(subject: &str) -> Option<UploadId> {
    subject.strip_prefix("ctl.upload.")?.parse().ok()
}

/// Core subject that notifies every replica that a session or an API key is over; the payload is its id.
pub const CONTROL_REVOKED: &str = "ctl.revoked";

/// Request to the index.
pub fn index_request_subject(verb: &str) -> String {
    format!("ask.index.{verb}")
}

/// Question to the monitor.
pub fn monitor_request_subject(verb: &str) -> String {
    format!("ask.monitor.{verb}")
}

/// Every question to the monitor.
pub const MONITOR_REQUESTS: &str = "ask.monitor.*";

/// Subject of what the processes of a role say of themselves.
pub fn log_subject(role: &str) -> String {
    format!("log.{role}")
}

/// What all processes say of themselves.
pub const LOG_ALL: &str = "log.*";

/// Subject of a KV entry; its stream is `KV_<bucket>`.
pub fn kv_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Stream behind a KV bucket.
pub fn kv_stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Key of one part's claim record in the bucket `jobs`.
pub fn part_key(job_id: JobId, part: &str) -> String {
    format!("{job_id}.{part}")
}

/// Key of a live worker's record in the bucket `workers`.
pub fn worker_key(queue: &str, worker: &str) -> String {
    format!("{queue}.{worker}")
}

/// Filter for the records of all live workers of one queue; heartbeats of the role that has the queue's name fit it, too.
pub fn worker_filter(queue: &str) -> String {
    kv_subject(crate::worker::BUCKET, &worker_key(queue, "*"))
}

/// Filter for the events of one medium is by header; this is its subject filter where the entity is the medium itself.
pub fn media_event_filter(media_id: MediaId) -> String {
    format!("evt.media.*.{media_id}")
}

/// Filter for every event of one upload.
pub fn upload_event_filter(upload_id: UploadId) -> String {
    format!("evt.upload.*.{upload_id}")
}

/// Filter for the changes of one medium's gate.
pub fn gate_change_filter(media_id: MediaId) -> String {
    format!("evt.gate.changed.{media_id}")
}

/// Filter for every event of one job.
pub fn job_event_filter(job_id: JobId) -> String {
    format!("evt.job.*.{job_id}")
}

/// Queue priority; a lower number is served first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Priority")]
pub enum JobPriority {
    /// Served first.
    P0,
    /// The default.
    #[default]
    P1,
    /// Served when nothing else waits, and now and then in between.
    P2,
}

impl JobPriority {
    /// All priorities, the first served first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P1, Self::P2];

    /// The subject token.
    pub const fn subject_token(self) -> &'static str {
        match self {
            Self::P0 => "p0",
            Self::P1 => "p1",
            Self::P2 => "p2",
        }
    }
}

/// What a message on the bus is, by its subject; for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageClass {
    /// An event.
    Event,
    /// A part of a job.
    Task,
    /// A KV entry.
    Record,
    /// An audit record.
    Audit,
    /// A dead letter.
    Dead,
    /// A view.
    View,
    /// Progress of a part.
    Progress,
    /// A control message.
    Control,
    /// A question to the index.
    Ask,
    /// A delivery of a webhook.
    HookLog,
    /// A log line.
    Log,
    /// The metrics of a process.
    Stat,
    /// An acknowledgement.
    Ack,
    /// A request to the JetStream API.
    Api,
    /// A JetStream advisory.
    Advisory,
    /// An answer.
    Inbox,
    /// Anything else.
    Other,
}

impl MessageClass {
    /// Every class.
    pub const ALL: [Self; 17] = [
        Self::Event,
        Self::Task,
        Self::Record,
        Self::Audit,
        Self::Dead,
        Self::View,
        Self::Progress,
        Self::Control,
        Self::Ask,
        Self::HookLog,
        Self::Log,
        Self::Stat,
        Self::Ack,
        Self::Api,
        Self::Advisory,
        Self::Inbox,
        Self::Other,
    ];

    /// Its name as a metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Task => "task",
            Self::Record => "record",
            Self::Audit => "audit",
            Self::Dead => "dead",
            Self::View => "view",
            Self::Progress => "progress",
            Self::Control => "control",
            Self::Ask => "ask",
            Self::HookLog => "hook_log",
            Self::Log => "log",
            Self::Stat => "stat",
            Self::Ack => "ack",
            Self::Api => "api",
            Self::Advisory => "advisory",
            Self::Inbox => "inbox",
            Self::Other => "other",
        }
    }

    /// The class of a subject.
    pub fn from_subject(subject: &str) -> Self {
        match subject.split_once('.') {
            Some(("evt", _)) => Self::Event,
            Some(("job", _)) => Self::Task,
            Some(("$KV", _)) => Self::Record,
            Some(("audit", _)) => Self::Audit,
            Some(("dead", _)) => Self::Dead,
            Some(("view", _)) => Self::View,
            Some(("progress", _)) => Self::Progress,
            Some(("ctl", _)) => Self::Control,
            Some(("ask", _)) => Self::Ask,
            Some(("hooklog", _)) => Self::HookLog,
            Some(("log", _)) => Self::Log,
            Some(("stat", _)) => Self::Stat,
            Some(("answer", _)) => Self::Inbox,
            Some(("$JS", rest)) if rest.starts_with("ACK.") => Self::Ack,
            Some(("$JS", rest)) if rest.starts_with("API.") => Self::Api,
            Some(("$JS", rest)) if rest.starts_with("EVENT.ADVISORY.") => Self::Advisory,
            Some((first, _)) if first.starts_with("_INBOX") => Self::Inbox,
            _ => Self::Other,
        }
    }
}

/// Everything on the bus that a connection may receive.
pub const ALL: &str = ">";

/// Reply subjects of JetStream deliveries begin with this: the message was seen when it was published.
pub const DELIVERY_REPLY_PREFIX: &str = "$JS.ACK";

/// Subject of a JetStream advisory before its kind.
pub const ADVISORY_PREFIX: &str = "$JS.EVENT.ADVISORY.";
