//! Questions to the index, over the bus.
//!
//! Limits: it has [`INDEX_WAIT`] to answer.

use std::time::Duration;

use axum::http::StatusCode;
use nats::Bus;
use schemas::{
    index_query::{self, IndexReply},
    subjects,
};
use serde::{Serialize, de::DeserializeOwned};

use web::{cursor, error::Problem, problem_code::ProblemCode};

/// How long the index may take; it waits a short while itself for the revision that a question names.
pub const INDEX_WAIT: Duration = Duration::from_secs(5);

/// Asks the index for a page.
pub(crate) async fn query_index<Q: Serialize, P: DeserializeOwned>(
    bus: &Bus,
    verb: &str,
    question: &Q,
) -> Result<P, Problem> {
    match bus.request::<Q, IndexReply<P>>(subjects::index_request_subject(verb), question, INDEX_WAIT).await?
    {
        IndexReply::Page(page) => Ok(page),
        IndexReply::Refused { code, detail } => Err(index_problem(&code, detail)),
    }
}

pub(crate) fn index_problem(code: &str, detail: String) -> Problem {
    let kind = match code {
        // It was sealed by us, and yet the index can't use it: it is of another time.
        index_query::CURSOR_MALFORMED => return cursor::cursor_malformed(),
        index_query::QUESTION_MALFORMED => ProblemCode::QueryMalformed,
        index_query::REVISION_UNKNOWN => ProblemCode::RevisionUnknown,
        index_query::INDEX_BEHIND => ProblemCode::IndexBehind,
        _ => ProblemCode::IndexUnavailable,
    };
    let problem = Problem::new(kind).with_detail(detail);
    if kind.status() == StatusCode::SERVICE_UNAVAILABLE { problem.with_retry_after_s(1) } else { problem }
}
