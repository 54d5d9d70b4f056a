//! The answer of a probe: whether this process can do its work, read from memory alone.

use nats::ProcessHealth;
use serde_json::json;

use super::error::Problem;

/// Says yes, or 503 with what stands in the way.
///
/// # Errors
/// 503 naming each cause.
pub fn check_readiness(health: &ProcessHealth) -> Result<(), Problem> {
    let causes = health.problems();
    let Some(first) = causes.first() else { return Ok(()) };
    let mut problem = Problem::not_ready(first.detail.clone());
    for cause in causes {
        problem = problem.with_error(json!({ "code": cause.code, "detail": cause.detail }));
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use axum::{http::header, response::IntoResponse};

    use super::*;

    #[test]
    fn a_probe_names_what_stands_in_the_way() {
        let health = ProcessHealth::new();
        check_readiness(&health).unwrap();
        let problem = Problem::not_ready("the task x is not running".into());
        let response = problem.into_response();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
