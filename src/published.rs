//! The published form of every message and of the HTTP API: JSON Schema, AsyncAPI, OpenAPI and golden bytes, generated from the
//! types.
//!
//! `json/<name>.v1.json` and `asyncapi.json` are compared as they are. `golden/<name>.v1.msgpack` holds the bytes of one example
//! as a version of this program wrote them: such a file is written once, never again, and has to decode for ever.
//!
//! Limits: a file of more than [`FILE_BYTES_MAX`] bytes is not read.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::Path};

use anyhow::{Context, bail};
use schemas::{
    catalog::{self, CatalogEntry},
    examples::{self, ExampleMessage, ExampleVisitor},
};
use serde_json::{Map, Value, json};

use crate::bus_description;

/// Largest published file in bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The description of the HTTP API.
const OPENAPI: &str = "openapi.json";
/// Lines of one difference that are shown.
const DIFFERENCE_LINES_MAX: usize = 12;

/// What `check` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedDifference {
    /// Which file, relative to the folder.
    pub file: String,
    /// What is different, for people; may have several lines.
    pub detail: String,
}

/// Compares the files below `folder` with the types; an empty answer means that they agree.
///
/// # Errors
/// When a file can't be read for another reason than being absent.
pub fn check_published(folder: &Path) -> anyhow::Result<Vec<PublishedDifference>> {
    let mut differences = Vec::new();
    for (file, text) in generate_texts()? {
        let found = read_file(&folder.join(&file))?;
        match found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
            None => differences.push(PublishedDifference { file, detail: "is missing".into() }),
            Some(found) if found == text => {}
            Some(found) => {
                differences.push(PublishedDifference { file, detail: describe_difference(&found, &text) });
            }
        }
    }
    differences.extend(find_superfluous(folder)?);
    let mut golden = GoldenComparison { folder, differences: Vec::new(), failure: None };
    examples::visit_all(&mut golden);
    if let Some(error) = golden.failure {
        return Err(error);
    }
    differences.extend(golden.differences);
    Ok(differences)
}

/// Writes what is missing or different below `folder`; answers the files it wrote. Golden bytes that exist are left alone.
///
/// # Errors
/// When a file can't be read or written.
pub fn write_published(folder: &Path) -> anyhow::Result<Vec<String>> {
    let texts = generate_texts()?;
    check_compatibility(folder, &texts)?;
    let mut written = Vec::new();
    for (file, text) in texts {
        if read_file(&folder.join(&file))?.as_deref() != Some(text.as_bytes()) {
            write_file(&folder.join(&file), text.as_bytes())?;
            written.push(file);
        }
    }
    let mut encoded = EncodedExamples::default();
    examples::visit_all(&mut encoded);
    for (name, bytes) in encoded.0 {
        let file = golden_file(&name);
        if read_file(&folder.join(&file))?.is_none() {
            write_file(&folder.join(&file), &bytes?)?;
            written.push(file);
        }
    }
    Ok(written)
}

/// Refuses to publish a description of the HTTP API that breaks clients of the published one, unless its first number grows.
fn check_compatibility(folder: &Path, texts: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let (Some(new), Some(old)) = (texts.get(OPENAPI), read_file(&folder.join(OPENAPI))?) else {
        return Ok(());
    };
    let new: Value = serde_json::from_str(new)?;
    let old: Value = serde_json::from_slice(&old).with_context(|| format!("{OPENAPI} is damaged"))?;
    let first = |document: &Value| {
        let version = document.pointer("/info/version").and_then(Value::as_str).unwrap_or_default();
        version.split('.').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let changes = ingress::openapi::breaking::find_breaking_changes(&old, &new);
    if !changes.is_empty() && first(&new) <= first(&old) {
        bail!("{OPENAPI} would break clients:\n  {}", changes.join("\n  "));
    }
    Ok(())
}

fn read_file(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            bail!("{} has more than {FILE_BYTES_MAX} bytes", path.display())
        }
        Ok(_) => Ok(Some(fs::read(path).with_context(|| unusable(path, "read"))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| unusable(path, "read")),
    }
}

fn unusable(path: &Path, verb: &str) -> String {
    format!("{} can't be {verb}; --dir names the folder `schemas` of a checkout", path.display())
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| unusable(folder, "made"))?;
    fs::write(path, bytes).with_context(|| unusable(path, "written"))
}

fn golden_file(name: &str) -> String {
    format!("golden/{name}.v1.{}", if is_line(name) { "json" } else { "msgpack" })
}

fn is_line(name: &str) -> bool {
    catalog::content_type(name) == schemas::LINE_CONTENT_TYPE
}

fn encode_message<M: ExampleMessage>(name: &str, message: &M) -> anyhow::Result<Vec<u8>> {
    Ok(if is_line(name) { serde_json::to_vec(message)? } else { rmp_serde::to_vec_named(message)? })
}

fn decode_message<M: ExampleMessage>(name: &str, bytes: &[u8]) -> anyhow::Result<M> {
    Ok(if is_line(name) { serde_json::from_slice(bytes)? } else { rmp_serde::from_slice(bytes)? })
}

fn schema_file(name: &str) -> String {
    format!("json/{name}.v1.json")
}

/// Every generated text by its file.
fn generate_texts() -> anyhow::Result<BTreeMap<String, String>> {
    let mut encoded = EncodedExamples::default();
    examples::visit_all(&mut encoded);
    let entries = catalog::all_entries();
    let mut texts = BTreeMap::new();
    for entry in &entries {
        let mut schema = entry.schema.clone().to_value();
        if let Some(object) = schema.as_object_mut() {
            object.insert("$id".into(), json!(format!("urn:streamgate:schema:{}:v1", entry.name)));
        }
        texts.insert(schema_file(&entry.name), format_pretty(&schema)?);
    }
    texts.insert("asyncapi.json".into(), format_pretty(&build_asyncapi(&entries, &encoded.1)?)?);
    texts.insert(OPENAPI.into(), format_pretty(&ingress::openapi::build_document())?);
    Ok(texts)
}

/// Indented, keys sorted whatever map the JSON library was built with, with a line end.
fn format_pretty(value: &Value) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&sort_keys(value))?))
}

fn sort_keys(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let members: BTreeMap<&String, &Value> = object.iter().collect();
            Value::Object(members.into_iter().map(|(key, value)| (key.clone(), sort_keys(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sort_keys).collect()),
        other => other.clone(),
    }
}

/// The first lines that differ, the published ones marked `-`, those of the types `+`.
fn describe_difference(published: &str, types: &str) -> String {
    let (published, types): (Vec<&str>, Vec<&str>) = (published.lines().collect(), types.lines().collect());
    let same = published.iter().zip(&types).take_while(|(a, b)| a == b).count();
    let shorter = published.len().min(types.len()) - same;
    let tail =
        published.iter().rev().zip(types.iter().rev()).take(shorter).take_while(|(a, b)| a == b).count();
    let mut text = format!("differs from line {} on", same + 1);
    for (mark, lines) in [('-', &published), ('+', &types)] {
        let changed = lines.get(same..lines.len() - tail).unwrap_or_default();
        for line in changed.iter().take(DIFFERENCE_LINES_MAX) {
            // Writing to a String can't fail.
            write!(text, "\n  {mark} {line}").ok();
        }
        if let Some(more) = changed.len().checked_sub(DIFFERENCE_LINES_MAX).filter(|more| *more > 0) {
            write!(text, "\n  {mark} ... {more} more lines").ok();
        }
    }
    text
}

/// Files that no message has any more. Golden bytes may outlive their message only as files of an older name.
fn find_superfluous(folder: &Path) -> anyhow::Result<Vec<PublishedDifference>> {
    let entries = catalog::all_entries();
    let mut found = Vec::new();
    for (subfolder, known) in [
        ("json", entries.iter().map(|entry| schema_file(&entry.name)).collect::<Vec<_>>()),
        ("golden", entries.iter().map(|entry| golden_file(&entry.name)).collect()),
    ] {
        let path = folder.join(subfolder);
        let Ok(listing) = fs::read_dir(&path) else { continue };
        for entry in listing {
            let entry = entry.with_context(|| unusable(&path, "read"))?;
            let file = format!("{subfolder}/{}", entry.file_name().to_string_lossy());
            if !known.contains(&file) {
                let detail = "belongs to no message: remove it, or bring the message back".into();
                found.push(PublishedDifference { file, detail });
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// The examples as MessagePack, and as JSON.
#[derive(Default)]
struct EncodedExamples(Vec<(String, anyhow::Result<Vec<u8>>)>, BTreeMap<String, Value>);

impl ExampleVisitor for EncodedExamples {
    fn visit<M: ExampleMessage>(&mut self, name: &str, example: M) {
        let bytes = encode_message(name, &example).with_context(|| format!("the example of {name}"));
        self.0.push((name.to_owned(), bytes));
        if let Ok(value) = serde_json::to_value(&example) {
            self.1.insert(name.to_owned(), value);
        }
    }
}

struct GoldenComparison<'a> {
    folder: &'a Path,
    differences: Vec<PublishedDifference>,
    failure: Option<anyhow::Error>,
}

impl GoldenComparison<'_> {
    fn compare_example<M: ExampleMessage>(&mut self, name: &str, example: &M) -> anyhow::Result<()> {
        let file = golden_file(name);
        let detail = match read_file(&self.folder.join(&file))? {
            None => "is missing".to_owned(),
            Some(bytes) => match decode_message::<M>(name, &bytes) {
                Ok(decoded) if decoded == *example => return Ok(()),
                Ok(_) => "decodes to something else than the example: bytes of a published version can't be read as they \
                          were meant; a breaking change needs a new verb"
                    .to_owned(),
                Err(error) => format!(
                    "can't be decoded any more ({error}): a breaking change needs a new verb, a new field has to be optional"
                ),
            },
        };
        self.differences.push(PublishedDifference { file, detail });
        Ok(())
    }
}

impl ExampleVisitor for GoldenComparison<'_> {
    fn visit<M: ExampleMessage>(&mut self, name: &str, example: M) {
        if let Err(error) = self.compare_example(name, &example) {
            self.failure.get_or_insert(error);
        }
    }
}

/// The AsyncAPI document; JSON is YAML, too.
fn build_asyncapi(entries: &[CatalogEntry], examples: &BTreeMap<String, Value>) -> anyhow::Result<Value> {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for entry in entries {
        channels.insert(entry.name.clone(), build_channel(entry));
        messages.insert(entry.name.clone(), build_message(entry, examples.get(&entry.name)));
        let (senders, mut receivers) =
            message_roles(&entry.name).with_context(|| format!("`roles_of` does not list {}", entry.name))?;
        if bus_description::is_mirrored(&entry.stream) {
            receivers.push(nats::Role::Reader.name());
        }
        for (action, roles) in [("send", senders), ("receive", receivers)] {
            for role in roles {
                operations
                    .insert(format!("{role}.{action}.{}", entry.name), build_operation(entry, action, role));
            }
        }
    }
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "StreamGate",
            "version": "1.0.0",
            "description": "Every message on the bus. Subjects are addresses; a channel's x-jetstream names the stream that keeps \
                            it. Operations are named <role>.<action>.<message>. Programs of the operator have the role reader: \
                            what they keep to stands at the server.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "defaultContentType": schemas::CONTENT_TYPE,
        "servers": bus_description::build_servers(),
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "messageTraits": { "event": build_event_trait() },
            "securitySchemes": bus_description::build_security_schemes(),
        },
    }))
}

fn build_channel(entry: &CatalogEntry) -> Value {
    let parameters: Map<String, Value> = entry
        .address
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| (name.to_owned(), json!({ "description": describe_parameter(name) })))
        .collect();
    // An answer goes where the question asks for it: AsyncAPI writes such an address as null.
    let is_answer = entry.address == "{inbox}";
    let mut channel = json!({
        "address": if is_answer { Value::Null } else { json!(entry.address) },
        "messages": { entry.name.clone(): { "$ref": json_pointer(&["components", "messages", &entry.name]) } },
    });
    if let Some(members) = channel.as_object_mut() {
        if !is_answer && !parameters.is_empty() {
            members.insert("parameters".into(), Value::Object(parameters));
        }
        if !entry.stream.is_empty() {
            members.insert("x-jetstream".into(), json!({ "stream": entry.stream }));
        }
    }
    channel
}

fn describe_parameter(name: &str) -> &'static str {
    match name {
        "id" => "The entity's id: 26 lower-case base32 characters.",
        "upload_id" | "media_id" | "job_id" | "key_id" | "challenge_id" | "session_id" | "schedule_id"
        | "hook_id" => "An id: 26 lower-case base32 characters.",
        "part" => "Name of a part, such as v0000, a0 or finish.",
        "priority" => "p0, p1 or p2; p0 is served first.",
        "kind" => "Queue of the job: transcode, or tasks for what makes no encode.",
        "partition" => "Part of VIEWS in which a medium is, from 0.",
        "worker" => "Random name of a worker process, lower-case hexadecimal.",
        "bucket" => "Name of a bucket.",
        "key" => "Key inside the bucket.",
        "owner_key" => "The first 32 digits of the SHA-256 of an owner's name.",
        "prefix_sha256" | "owner_sha256" => "A SHA-256 in lower-case hexadecimal.",
        "address" => "An account: 0x and 40 lower-case hexadecimal digits.",
        "name" => "A word of ours.",
        _ => "One or more tokens of ours, never client text.",
    }
}

fn build_message(entry: &CatalogEntry, example: Option<&Value>) -> Value {
    let described = entry.schema.get("description").and_then(Value::as_str).unwrap_or(&entry.name);
    let mut message = json!({
        "name": entry.name,
        "title": entry.name,
        "summary": described,
        "contentType": entry.content_type(),
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": { "$ref": format!("./{}", schema_file(&entry.name)) },
        },
    });
    if let Some(members) = message.as_object_mut() {
        if [schemas::subjects::EVENTS, schemas::subjects::VIEWS].contains(&entry.stream.as_str()) {
            members.insert(
                "traits".into(),
                json!([{ "$ref": json_pointer(&["components", "messageTraits", "event"]) }]),
            );
        }
        if let Some(example) = example {
            members.insert("examples".into(), json!([{ "payload": example }]));
        }
    }
    message
}

/// Headers of every event: CloudEvents in binary mode, and what followers filter by.
fn build_event_trait() -> Value {
    use schemas::headers as names;
    let text = |description: &str| json!({ "type": "string", "description": description });
    let properties = [
        (names::ID, "Event id; also Nats-Msg-Id."),
        (names::SOURCE, "Role that published."),
        (names::TYPE, "<entity>.<verb>."),
        (names::SPEC_VERSION, "CloudEvents version, 1.0."),
        (names::TIME, "RFC 3339 in UTC."),
        (names::SUBJECT, "The entity's id."),
        (names::DATA_SCHEMA, "Path of the JSON Schema of the payload."),
        (names::DATA_CONTENT_TYPE, "Media type of the payload."),
        (
            names::TRACE_PARENT,
            "W3C trace context of the change that the event is of: the trace of its request, or of the upload or job that it belongs to. No id of the event. Never with `tracestate` or `baggage`.",
        ),
        (names::OWNER, "Owner of the media concerned."),
        (names::MEDIA_ID, "Media concerned."),
        (names::JOB_ID, "Job concerned."),
    ];
    let properties: Map<String, Value> =
        properties.into_iter().map(|(name, description)| (name.to_owned(), text(description))).collect();
    json!({
        "headers": {
            "type": "object",
            "properties": properties,
            "required": [names::ID, names::SOURCE, names::TYPE, names::SPEC_VERSION, names::TIME, names::SUBJECT],
        },
    })
}

fn build_operation(entry: &CatalogEntry, action: &str, role: &str) -> Value {
    let mut operation = json!({
        "action": action,
        "channel": { "$ref": json_pointer(&["channels", &entry.name]) },
        "messages": [{ "$ref": json_pointer(&["channels", &entry.name, "messages", &entry.name]) }],
        "summary": format!("{role} {action}s {}", entry.name),
    });
    let is_question = entry.name.starts_with("ask.") && !entry.name.ends_with(".answer");
    if let (true, Some(members)) = (is_question, operation.as_object_mut()) {
        let answer = format!("{}.answer", entry.name);
        let reply = json!({
            "address": { "location": "$message.header#/reply", "description": "the inbox the question names" },
            "channel": { "$ref": json_pointer(&["channels", &answer]) },
        });
        members.insert("reply".into(), reply);
    }
    operation
}

fn json_pointer(path: &[&str]) -> String {
    let escaped: Vec<String> = path.iter().map(|step| step.replace('~', "~0").replace('/', "~1")).collect();
    format!("#/{}", escaped.join("/"))
}

/// Who sends a message and who receives it. Events are also read by audit, by the ingress for its followers, and by the monitor;
/// what a crash left unsent is sent by the keeper. `None` for a message that is not listed.
fn message_roles(name: &str) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    let (mut senders, mut receivers): (Vec<&str>, Vec<&str>) = match name {
        "upload.received" => (vec!["ingress", "tasks"], vec!["upload"]),
        "access.summed"
        | "limit.exceeded"
        | "upload.created"
        | "upload.expired"
        | "admin.key_created"
        | "auth.challenged"
        | "auth.key_created"
        | "auth.link_created"
        | "auth.upload_token_created"
        | "upload.grant_created"
        | "upload.grant_used"
        | "upload.grant_revoked"
        | "auth.key_revoked"
        | "auth.refreshed"
        | "auth.refused"
        | "auth.reused"
        | "auth.signed_in"
        | "auth.signed_out"
        | "queue.paused"
        | "media.restored"
        | "queue.resumed" => (vec!["ingress"], vec![]),
        "media.stored" => (vec!["upload"], vec!["index", "transcode"]),
        "media.rejected" => (vec!["upload"], vec!["index"]),
        "media.changed" => (vec!["ingress"], vec!["index"]),
        "media.playable" | "media.ready" => (vec!["transcode"], vec!["index"]),
        "media.delayed" => (vec!["transcode", "upload"], vec!["index"]),
        "media.reopened" => {
            (vec!["admin", "ingress", "keeper", "tasks"], vec!["index", "transcode", "upload"])
        }
        "media.removed" => (vec!["keeper", "tasks"], vec![]),
        "media.purged" | "view.summed" => (vec!["keeper"], vec![]),
        "gate.doubted" => (vec!["ingress", "keeper"], vec![]),
        "gate.revoked" => (vec!["ingress", "keeper"], vec!["ingress"]),
        "kv.uploads" => (vec!["ingress", "keeper", "tasks"], vec!["ingress", "keeper", "tasks", "upload"]),
        "kv.media" => (vec!["ingress", "keeper", "tasks"], vec!["index", "ingress", "keeper", "tasks"]),
        "kv.assets" => (
            vec!["admin", "index", "ingress", "keeper", "tasks", "transcode", "upload"],
            vec!["index", "ingress", "tasks", "transcode"],
        ),
        "gate.changed" | "gate.granted" | "gate.denied" | "kv.apikeys" | "kv.apikeys.owner"
        | "kv.idempotency" | "kv.keys" | "kv.limits.replicas" | "kv.limits.reported" | "kv.nonces"
        | "kv.nonces.link" | "kv.nonces.upload" | "kv.apikeys.grant" | "kv.apikeys.grants"
        | "kv.nonces.prefix" | "kv.secrets" | "kv.secrets.ring" => (vec!["ingress"], vec!["ingress"]),
        "kv.store" => {
            (vec!["admin", "ingress"], vec!["admin", "ingress", "keeper", "tasks", "transcode", "upload"])
        }
        "kv.grants" | "kv.grants.slot" | "kv.sessions" | "kv.sessions.wallet" => {
            (vec!["ingress", "keeper"], vec!["ingress", "keeper"])
        }
        "kv.grants.cursor" | "kv.limits.views" => (vec!["keeper"], vec!["keeper"]),
        "view.opened" => (vec!["ingress", "keeper"], vec!["keeper"]),
        "kv.envelope" => {
            (vec!["index", "ingress", "keeper", "monitor", "tasks", "transcode", "upload"], vec!["keeper"])
        }
        "audit.record" => (vec!["audit"], vec!["ingress"]),
        other => index_message_roles(other).or_else(|| worker_message_roles(other))?,
    };
    if is_event(name) {
        senders.push("keeper");
        receivers.extend(["audit", "ingress", "monitor"]);
    }
    for roles in [&mut senders, &mut receivers] {
        roles.sort_unstable();
        roles.dedup();
    }
    Some((senders, receivers))
}

/// Of a question to the index or the monitor, or its answer, and of what processes say of themselves.
fn index_message_roles(name: &str) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    match name {
        "ask.encode_activity"
        | "ask.history"
        | "ask.job_counts"
        | "ask.media"
        | "ask.public_media"
        | "ask.search_media" => Some((vec!["ingress"], vec!["index"])),
        "ask.encode_activity.answer"
        | "ask.history.answer"
        | "ask.job_counts.answer"
        | "ask.media.answer"
        | "ask.public_media.answer"
        | "ask.search_media.answer" => Some((vec!["index"], vec!["ingress"])),
        "ask.processes" | "ask.logs" | "ask.metrics" => Some((vec!["ingress"], vec!["monitor"])),
        "ask.processes.answer" | "ask.logs.answer" | "ask.metrics.answer" => {
            Some((vec!["monitor"], vec!["ingress"]))
        }
        "log" => Some((
            vec!["audit", "index", "ingress", "keeper", "monitor", "tasks", "transcode", "upload"],
            vec!["monitor"],
        )),
        _ => None,
    }
}

/// The same of entries of the cache, of jobs, of what workers say of themselves and are asked to do, of schedules, and of what the order
/// of the queue is asked.
fn worker_message_roles(name: &str) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    match name {
        "job.queued" => Some((vec!["admin", "ingress", "keeper", "tasks", "transcode"], vec!["index"])),
        "kv.cache" | "kv.cache.flush" | "kv.cache.tick" | "kv.limits.cache_epoch" | "kv.experience" => {
            Some((vec!["ingress"], vec!["ingress"]))
        }
        "job.cancelled" => Some((vec!["ingress", "keeper", "tasks"], vec!["index"])),
        "job.paused" => Some((vec!["ingress", "tasks", "transcode"], vec!["index"])),
        "job.resumed" | "job.reprioritized" | "ask.jobs" => Some((vec!["ingress", "tasks"], vec!["index"])),
        "ask.jobs.answer" => Some((vec!["index"], vec!["ingress", "tasks"])),
        "upload.terminated" => Some((vec!["ingress", "tasks"], vec![])),
        "kv.limits.uploads" => Some((vec!["ingress", "keeper", "tasks"], vec!["ingress", "keeper", "tasks"])),
        "kv.limits.usage" => {
            Some((vec!["ingress", "tasks", "transcode"], vec!["ingress", "tasks", "transcode"]))
        }
        "alert.fired" | "alert.resolved" => Some((vec!["monitor"], vec![])),
        "kv.limits.alerts" => Some((vec!["ingress", "monitor"], vec!["ingress", "monitor"])),
        "kv.limits.log_levels" => Some((
            vec!["ingress"],
            vec!["audit", "index", "ingress", "keeper", "monitor", "tasks", "transcode", "upload"],
        )),
        "kv.limits.pauses" => Some((vec!["ingress"], vec!["ingress", "keeper"])),
        "job.dead" | "job.failed" | "job.parked" | "job.retried" | "job.started" | "job.succeeded" => {
            Some((vec!["tasks", "transcode"], vec!["index"]))
        }
        "job.task" => Some((vec!["keeper"], vec!["tasks", "transcode"])),
        "kv.jobs" => Some((
            vec!["ingress", "keeper", "tasks", "transcode"],
            vec!["index", "ingress", "keeper", "tasks", "transcode"],
        )),
        "kv.jobs.part" => {
            Some((vec!["tasks", "transcode"], vec!["index", "ingress", "keeper", "tasks", "transcode"]))
        }
        "admin.letter_changed" | "schedule.changed" => Some((vec!["ingress", "admin"], vec![])),
        "ask.worker" => Some((vec!["ingress"], vec!["tasks", "transcode"])),
        "job.progress" | "ask.worker.answer" => Some((vec!["tasks", "transcode"], vec!["ingress"])),
        "kv.workers" => Some((vec!["tasks", "transcode"], vec!["ingress", "keeper"])),
        "schedule.fired" | "schedule.refused" | "schedule.missed" => {
            Some((vec!["ingress", "keeper"], vec![]))
        }
        "kv.hooks" | "kv.schedules" => {
            Some((vec!["admin", "ingress", "keeper"], vec!["admin", "ingress", "keeper"]))
        }
        "hook.changed" | "hook.removed" | "schedule.removed" => Some((vec!["admin", "ingress"], vec![])),
        "admin.log_level_changed"
        | "admin.worker_changed"
        | "alert.acknowledged"
        | "alert.silenced"
        | "cache.cleared"
        | "hook.created"
        | "hook.redelivered"
        | "hook.replayed"
        | "hook.resumed"
        | "hook.rotated"
        | "hook.tested"
        | "schedule.created" => Some((vec!["ingress"], vec![])),
        "hook.paused" => Some((vec!["ingress", "keeper"], vec![])),
        "hook.skipped" | "job.waiting" => Some((vec!["keeper"], vec![])),
        "kv.hooks.requests" => Some((vec!["ingress", "keeper"], vec!["ingress", "keeper"])),
        "hooklog.delivery" | "kv.hooks.progress" => Some((vec!["keeper"], vec!["ingress", "keeper"])),
        "ask.position" | "ask.tasks_position" => Some((vec!["ingress"], vec!["keeper"])),
        "ask.position.answer" | "ask.tasks_position.answer" => Some((vec!["keeper"], vec!["ingress"])),
        _ => None,
    }
}

fn is_event(name: &str) -> bool {
    catalog::event_entries().iter().any(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_passes_the_check() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!check_published(folder.path()).unwrap().is_empty());
        assert!(!write_published(folder.path()).unwrap().is_empty());
        assert_eq!(check_published(folder.path()).unwrap(), []);
        assert_eq!(write_published(folder.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn golden_bytes_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        write_published(folder.path()).unwrap();
        let file = folder.path().join("golden/job.task.v1.msgpack");
        fs::write(&file, b"\x80").unwrap();
        assert_eq!(write_published(folder.path()).unwrap(), Vec::<String>::new());
        assert_eq!(fs::read(&file).unwrap(), b"\x80");
        let found = check_published(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].detail.contains("can't be decoded"), "{found:?}");
    }

    #[test]
    fn a_description_that_breaks_clients_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        write_published(folder.path()).unwrap();
        let file = folder.path().join(OPENAPI);
        let mut wider: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        wider["paths"]["/v1/gone"] = json!({ "get": { "responses": {} } });
        fs::write(&file, wider.to_string()).unwrap();
        let error = write_published(folder.path()).unwrap_err().to_string();
        assert!(error.contains("/v1/gone is gone"), "{error}");
        wider["info"]["version"] = json!("0.9.0");
        fs::write(&file, wider.to_string()).unwrap();
        assert_eq!(write_published(folder.path()).unwrap(), [OPENAPI]);
    }

    #[test]
    fn a_changed_schema_is_shown_by_line() {
        let folder = tempfile::tempdir().unwrap();
        write_published(folder.path()).unwrap();
        let file = folder.path().join("json/job.task.v1.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"job_id\",\n", "")).unwrap();
        let found = check_published(folder.path()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].detail.contains("+     \"job_id\","), "{}", found[0].detail);
    }

    #[test]
    fn a_file_of_no_message_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_published(folder.path()).unwrap();
        fs::write(folder.path().join("json/old.v1.json"), "{}").unwrap();
        let files: Vec<String> =
            check_published(folder.path()).unwrap().into_iter().map(|found| found.file).collect();
        assert_eq!(files, ["json/old.v1.json"]);
    }

    #[test]
    fn every_message_has_a_sender_and_a_receiver() {
        for entry in catalog::all_entries() {
            let (senders, receivers) = message_roles(&entry.name).unwrap();
            assert!(!senders.is_empty() && !receivers.is_empty(), "{}", entry.name);
            let known: Vec<&str> = nats::Role::ALL.iter().map(|role| role.name()).collect();
            assert!(senders.iter().chain(&receivers).all(|role| known.contains(role)), "{}", entry.name);
        }
    }

    #[test]
    fn who_sends_a_message_may_publish_it_and_what_is_not_listed_is_refused() {
        // An envelope lies in every bucket, and an answer goes wherever the question came from.
        let named = |entry: &CatalogEntry| entry.name != "kv.envelope" && entry.address != "{inbox}";
        for entry in catalog::all_entries().into_iter().filter(named) {
            for role in message_roles(&entry.name).unwrap().0 {
                // A worker writes under the name of its own queue.
                let queue = if role == "tasks" { role } else { schemas::job::TRANSCODE };
                let subject = entry.address.replace("{kind}", queue).replace("{role}", role);
                let (_, rights) = nats::server::PERMISSIONS
                    .split_once(&format!("PERMISSIONS_{} = {{", role.to_uppercase()))
                    .unwrap();
                let (_, allowed) = rights.split_once("allow = [").unwrap();
                let (allowed, _) = allowed.split_once(']').unwrap();
                let mut patterns = allowed.split('"').skip(1).step_by(2);
                assert!(patterns.any(|pattern| covers(pattern, &subject)), "{role}: {subject}");
            }
        }
        assert_eq!(message_roles("media.unheard_of"), None);
    }

    fn covers(pattern: &str, subject: &str) -> bool {
        let (mut wanted, mut found) = (pattern.split('.'), subject.split('.'));
        loop {
            match (wanted.next(), found.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some(token), Some(other)) if token == "*" || token == other => {}
                _ => return false,
            }
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let texts = generate_texts().unwrap();
        let document: Value = serde_json::from_str(&texts["asyncapi.json"]).unwrap();
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 100, "{}", references.len());
        for reference in references {
            match reference.strip_prefix('#') {
                Some(pointer) => assert!(document.pointer(pointer).is_some(), "{reference}"),
                None => assert!(texts.contains_key(reference.trim_start_matches("./")), "{reference}"),
            }
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                references.extend(object.get("$ref").and_then(Value::as_str).map(ToOwned::to_owned));
                object.values().for_each(|value| collect(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
