//! `GET /v1/monitor/health`: the processes of the installation and what they stand on, as a monitor saw them.
//!
//! Limits: the monitor has `MONITOR_WAIT` to answer.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    monitor_query::{self, ProcessList, ProcessQuery, SeenProcess},
    process_report::{HealthCause, SILENT_S},
};
use serde::Serialize;
use serde_json::json;

use super::ask_monitor;
use crate::AppState;
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Roles without which something does not work.
const NEEDED_ROLES: [(&str, &str); 7] = [
    ("ingress", "nobody is answered"),
    ("upload", "what is uploaded is not verified"),
    ("transcode", "nothing is encoded"),
    ("tasks", "nothing is fetched or verified"),
    ("index", "lists and searches are not answered"),
    ("audit", "nothing is written into the audit log"),
    ("keeper", "no job begins, and nothing is purged"),
];

/// How an installation stands.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthState")]
enum HealthState {
    /// Everything works.
    Ok,
    /// Something does not; `degraded` says what.
    Degraded,
}

/// How a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ProcessState")]
enum ProcessState {
    /// It can do its work.
    Ready,
    /// Something stands in its way; `causes` say what.
    NotReady,
    /// It has said nothing for nine seconds: it is gone, frozen, or cut off.
    Silent,
}

/// A process.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessDocument")]
struct ProcessDocument {
    /// Names it until it ends; its metrics have it as `instance`.
    instance: String,
    /// What it runs.
    roles: Vec<String>,
    /// Its version.
    version: String,
    /// How it stands.
    state: ProcessState,
    /// Unix time in milliseconds at which it was started, by its own clock.
    started_at_ms: u64,
    /// How long ago it spoke last, in milliseconds.
    silent_ms: u64,
    /// What stands in its way.
    causes: Vec<HealthCause>,
    /// Lines of its log that the monitor did not get, since there were too many.
    dropped_lines: u64,
}

/// What the processes stand on.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DependencyDocument")]
struct DependencyDocument {
    /// `broker` or `store`.
    name: &'static str,
    /// True when no process that lives says that it is away.
    is_well: bool,
    /// What they say of it, each once.
    details: Vec<String>,
}

/// How everything stands.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HealthDocument", example = json!({
    "state": "degraded", "degraded": ["no process of the role tasks has been seen: nothing is fetched or verified"],
    "dependencies": [{ "name": "broker", "is_well": true, "details": [] }, { "name": "store", "is_well": true, "details": [] }],
    "processes": [{
        "instance": "51b0c7e40a9d3f26", "roles": ["ingress"], "version": "0.1.0", "state": "ready", "started_at_ms": 1_763_900_814_467_u64,
        "silent_ms": 1_200, "causes": [], "dropped_lines": 0,
    }],
    "listening_ms": 3_600_000, "omitted_count": 0,
}))]
pub(super) struct HealthDocument {
    /// Whether everything works.
    state: HealthState,
    /// What does not, and what follows from it, for people.
    degraded: Vec<String>,
    /// What the processes stand on.
    dependencies: Vec<DependencyDocument>,
    /// Those that spoke within an hour, by role.
    processes: Vec<ProcessDocument>,
    /// How long the monitor that answers has listened, in milliseconds: what was silent before is not known to it.
    listening_ms: u64,
    /// Processes for which there was no place.
    omitted_count: u64,
}

pub(super) static READ_HEALTH: Operation = Operation::read(
    "/v1/monitor/health",
    OperationAccess::Principal(ApiKeyScope::Monitor),
    Some(RateLimitGroup::Monitor),
);

/// Read how everything stands
///
/// Each process of the installation, when it was seen last and what stands in its way, what they stand on, and what does not work. For
/// operators and admins.
#[utoipa::path(
    get,
    path = READ_HEALTH.path,
    tag = "monitor",
    operation_id = "read_health",
    responses((status = 200, description = "How it stands", body = ref("#/components/schemas/HealthDocument"))),
)]
pub(super) async fn read_health(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<HealthDocument>, Problem> {
    who.require_operator("it is about everybody's installation")?;
    let list: ProcessList = ask_monitor(&app.bus, monitor_query::PROCESSES, &ProcessQuery {}).await?;
    Ok(Json(describe(list)))
}

fn describe(list: ProcessList) -> HealthDocument {
    let ProcessList { processes, omitted_count, listening_ms } = list;
    let processes: Vec<ProcessDocument> = processes.into_iter().map(to_document).collect();
    let dependencies = [("broker", "broker_unavailable"), ("store", "store_unavailable")]
        .map(|(name, code)| describe_dependency(name, code, &processes));
    let degraded = find_degraded(&processes, &dependencies, listening_ms);
    HealthDocument {
        state: if degraded.is_empty() { HealthState::Ok } else { HealthState::Degraded },
        degraded,
        dependencies: dependencies.into(),
        processes,
        listening_ms,
        omitted_count,
    }
}

fn to_document(seen: SeenProcess) -> ProcessDocument {
    let SeenProcess { instance, roles, version, started_at_ms, silent_ms, causes, dropped_lines } = seen;
    let state = match () {
        () if silent_ms >= SILENT_S * 1_000 => ProcessState::Silent,
        () if causes.is_empty() => ProcessState::Ready,
        () => ProcessState::NotReady,
    };
    ProcessDocument { instance, roles, version, state, started_at_ms, silent_ms, causes, dropped_lines }
}

fn describe_dependency(name: &'static str, code: &str, processes: &[ProcessDocument]) -> DependencyDocument {
    let live = processes.iter().filter(|process| process.state != ProcessState::Silent);
    let causes = live.flat_map(|process| &process.causes).filter(|cause| cause.code == code);
    let mut details: Vec<String> = causes.map(|cause| cause.detail.clone()).collect();
    details.sort();
    details.dedup();
    DependencyDocument { name, is_well: details.is_empty(), details }
}

/// What does not work.
fn find_degraded(
    processes: &[ProcessDocument],
    dependencies: &[DependencyDocument],
    listening_ms: u64,
) -> Vec<String> {
    let mut degraded: Vec<String> = Vec::new();
    for dependency in dependencies.iter().filter(|dependency| !dependency.is_well) {
        degraded.push(format!("{}: {}", dependency.name, dependency.details.join("; ")));
    }
    let mut by_role: BTreeMap<&str, Vec<&ProcessDocument>> = BTreeMap::new();
    for process in processes {
        for role in &process.roles {
            by_role.entry(role).or_default().push(process);
        }
    }
    for (role, without) in NEEDED_ROLES {
        let of_role = by_role.get(role).map_or(&[][..], Vec::as_slice);
        let is_live = |process: &&&ProcessDocument| process.state != ProcessState::Silent;
        if of_role.iter().filter(is_live).count() > 0 {
            continue;
        }
        match of_role.iter().map(|process| process.silent_ms).min() {
            Some(silent_ms) => degraded.push(format!(
                "no process of the role {role} has spoken for {} s: {without}",
                silent_ms / 1_000
            )),
            // One that has just been started has not had the time to be seen.
            None if listening_ms >= SILENT_S * 1_000 => {
                degraded.push(format!("no process of the role {role} has been seen: {without}"));
            }
            None => {}
        }
    }
    for process in processes.iter().filter(|process| process.state == ProcessState::NotReady) {
        let causes: Vec<&str> = process.causes.iter().map(|cause| cause.detail.as_str()).collect();
        let name = format!("{} {}", process.roles.join(", "), process.instance);
        degraded.push(format!("{name} is not ready: {}", causes.join("; ")));
    }
    degraded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(role: &str, silent_ms: u64, causes: &[(&str, &str)]) -> SeenProcess {
        let cause = |(code, detail): &(&str, &str)| HealthCause {
            code: (*code).to_owned(),
            detail: (*detail).to_owned(),
        };
        SeenProcess {
            instance: format!("{:0>16}", role.len()),
            roles: vec![role.to_owned()],
            version: "0.1.0".into(),
            started_at_ms: 1,
            silent_ms,
            causes: causes.iter().map(cause).collect(),
            dropped_lines: 0,
        }
    }

    fn all() -> Vec<SeenProcess> {
        NEEDED_ROLES.map(|(role, _)| seen(role, 100, &[])).into()
    }

    fn degraded(processes: Vec<SeenProcess>, listening_ms: u64) -> Vec<String> {
        describe(ProcessList { processes, omitted_count: 0, listening_ms }).degraded
    }

    #[test]
    fn what_does_not_work_is_said_with_what_follows_from_it() {
        assert_eq!(degraded(all(), 60_000), [""; 0]);
        assert_eq!(degraded(Vec::new(), 1_000), [""; 0], "it has only begun to listen");
        assert_eq!(degraded(Vec::new(), 9_000).len(), NEEDED_ROLES.len());
        let mut one_gone = all();
        one_gone[3].silent_ms = 12_000;
        assert_eq!(
            degraded(one_gone.clone(), 60_000),
            ["no process of the role tasks has spoken for 12 s: nothing is fetched or verified"]
        );
        // Another one of the role does its work.
        one_gone.push(seen("tasks", 0, &[]));
        assert_eq!(degraded(one_gone, 60_000), [""; 0]);
        let mut store_away = all();
        store_away[0] = seen("ingress", 0, &[("store_unavailable", "store: it does not answer")]);
        assert_eq!(
            degraded(store_away, 60_000),
            [
                "store: store: it does not answer",
                "ingress 0000000000000007 is not ready: store: it does not answer"
            ]
        );
    }
}
