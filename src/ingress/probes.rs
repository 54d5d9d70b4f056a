//! Probes and version: `/livez` says the process runs, `/readyz` that it can do its work, `/version` what it is.
//!
//! Limits: requests count as `monitor`, apart from what else a client asks, so that these do not keep probes from being answered. Caches
//! may keep an answer for a second; other roles are asked once in `ingress.probe_kept_ms`, however many probes come.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use schemars::JsonSchema;
use schemas::access_sum::AccessClass;
use serde::Serialize;
use serde_json::json;

use super::{AppState, jobs, openapi};
use web::readiness;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    request::KEPT_A_SECOND,
};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_liveness, read_readiness, read_version))]
pub(super) struct ProbesApiDoc;

impl openapi::OperationGroup for ProbesApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<ProbeDocument>();
        schemas.add_response::<VersionDocument>();
    }
}

/// What a probe found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "status": "ready" }))]
#[schemars(rename = "Probe")]
struct ProbeDocument {
    /// `live` or `ready`.
    status: &'static str,
    /// Streams, buckets and disks for want of whose room nothing new is taken; what goes on does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    full: Vec<String>,
    /// Roles that nobody plays, so that what is taken waits: `keeper`, which lets encodes begin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<&'static str>,
}

/// What runs here.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "name": "streamgate", "version": "0.1.0" }))]
#[schemars(rename = "Version")]
struct VersionDocument {
    /// Name of the program.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// What others may do with the answer of a probe.
type KeptShortly<T> = ([(HeaderName, &'static str); 1], Json<T>);

const fn kept_shortly<T>(document: T) -> KeptShortly<T> {
    ([(header::CACHE_CONTROL, KEPT_A_SECOND)], Json(document))
}

/// Roles that nobody plays, as the last probe found it. Probes that come while they are asked for wait for that.
#[derive(Debug, Default)]
pub(crate) struct MissingRoles {
    known: tokio::sync::Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl MissingRoles {
    async fn find(&self, app: &AppState) -> Vec<&'static str> {
        let kept = Duration::from_millis(app.config.probe_kept_ms);
        let mut known = self.known.lock().await;
        if let Some((found_at, missing)) = known.as_ref()
            && found_at.elapsed() < kept
        {
            return missing.clone();
        }
        let missing = if jobs::has_dispatcher(app).await { Vec::new() } else { vec!["keeper"] };
        *known = Some((Instant::now(), missing.clone()));
        missing
    }
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&READ_LIVENESS, read_liveness)
        .with(&READ_READINESS, read_readiness)
        .with(&READ_VERSION, read_version)
}

static READ_LIVENESS: Operation =
    Operation::read("/livez", OperationAccess::Open, Some(RateLimitGroup::Monitor))
        .with_any_query()
        .with_access_class(AccessClass::Probe);

/// Does the process run?
#[utoipa::path(
    get,
    path = READ_LIVENESS.path,
    tag = "api",
    operation_id = "live",
    responses((status = 200, description = "It does", body = ref("#/components/schemas/Probe"))),
)]
async fn read_liveness() -> KeptShortly<ProbeDocument> {
    kept_shortly(ProbeDocument { status: "live", full: Vec::new(), missing: Vec::new() })
}

static READ_READINESS: Operation =
    Operation::read("/readyz", OperationAccess::Open, Some(RateLimitGroup::Monitor))
        .with_any_query()
        .with_access_class(AccessClass::Probe);

/// Can it serve?
///
/// It can while others are away: `missing` names roles without which what is taken waits. Their answer is waited for at most 0.3
/// seconds, and kept for a second.
#[utoipa::path(
    get,
    path = READ_READINESS.path,
    tag = "api",
    operation_id = "ready",
    responses((status = 200, description = "It can", body = ref("#/components/schemas/Probe"))),
)]
async fn read_readiness(State(app): State<AppState>) -> Result<KeptShortly<ProbeDocument>, Problem> {
    readiness::check_readiness(app.bus.health())?;
    let missing = app.missing_roles.find(&app).await;
    Ok(kept_shortly(ProbeDocument { status: "ready", full: app.capacity.full_limits(), missing }))
}

static READ_VERSION: Operation =
    Operation::read("/version", OperationAccess::Open, Some(RateLimitGroup::Api))
        .with_any_query()
        .with_access_class(AccessClass::Probe);

/// What is it?
#[utoipa::path(
    get,
    path = READ_VERSION.path,
    tag = "api",
    operation_id = "version",
    responses((status = 200, description = "Name and version", body = ref("#/components/schemas/Version"))),
)]
async fn read_version() -> Json<VersionDocument> {
    Json(VersionDocument { name: "streamgate", version: env!("CARGO_PKG_VERSION") })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use nats::{Role, testing::wait_until_taken};
    use schemas::{
        dispatch_query::{self, DispatchPosition},
        job::JobQueue,
        subjects,
    };

    use crate::tests::Site;

    #[tokio::test]
    async fn many_probes_ask_other_roles_once() {
        // An hour: none of them comes later.
        let site = Site::start(|config| config.probe_kept_ms = 3_600_000).await;
        let keeper = site.broker.bus(Role::Keeper).await;
        let subject = |queue| subjects::dispatch_request_subject(dispatch_query::position_verb(queue));
        let [encodes, _] = JobQueue::ALL.map(subject);
        let mut questions = keeper.subscribe_core(encodes).await.unwrap();
        wait_until_taken(&keeper).await;
        for _ in 0..5 {
            let answer = site.ask("GET", "/readyz", "", "").await;
            assert_eq!(answer.body, "{\"status\":\"ready\",\"missing\":[\"keeper\"]}");
            assert_eq!(answer.header("cache-control"), Some("public, max-age=1"), "{answer:?}");
        }
        wait_until_taken(&keeper).await;
        questions.unsubscribe().await.unwrap();
        let mut asked = 0;
        while questions.next().await.is_some() {
            asked += 1;
        }
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn readiness_says_that_no_keeper_answers() {
        let site = Site::start(|config| config.probe_kept_ms = 0).await;
        let probe = async || {
            let answer = site.ask("GET", "/readyz", "", "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.body
        };
        let missing = "{\"status\":\"ready\",\"missing\":[\"keeper\"]}";
        assert_eq!(probe().await, missing);
        let keeper = site.broker.bus(Role::Keeper).await;
        let subject = |queue| subjects::dispatch_request_subject(dispatch_query::position_verb(queue));
        let [encodes, tasks] = JobQueue::ALL.map(subject);
        let mut questions = keeper.subscribe_core(encodes.clone()).await.unwrap();
        let mut others = keeper.subscribe_core(tasks.clone()).await.unwrap();
        wait_until_taken(&keeper).await;
        // One that is there and says nothing is none.
        assert_eq!(probe().await, missing);
        let answer = async |reply: String| {
            let answer = nats::encode_message(&encodes, &DispatchPosition::default()).unwrap();
            keeper.publish_core(reply, answer).await.unwrap();
        };
        let mut answer_all = async |has_both: bool| {
            loop {
                let reply = tokio::select! {
                    Some(question) = questions.next() => question.reply,
                    Some(question) = others.next(), if has_both => question.reply,
                };
                answer(reply.unwrap().to_string()).await;
            }
        };
        tokio::select! {
            () = answer_all(false) => panic!("the subscription ended"),
            found = probe() => assert_eq!(found, missing, "one of the queues is not served"),
        }
        tokio::select! {
            () = answer_all(true) => panic!("the subscription ended"),
            found = probe() => assert_eq!(found, "{\"status\":\"ready\"}"),
        }
    }
}
