//! Where a principal may go: operators change nothing, a limited API key stays in its groups of endpoints.

use axum::http::Method;
use schemas::access::{ApiKeyScope, PrincipalRole};

use super::Principal;
use web::{error::Problem, problem_code::ProblemCode};

/// Why a principal may not send something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScopeDenial {
    /// The API key is limited to other groups.
    Scope,
    /// An operator changes nothing.
    ReadOnly,
}

impl From<ScopeDenial> for Problem {
    fn from(barred: ScopeDenial) -> Self {
        match barred {
            ScopeDenial::Scope => Self::new(ProblemCode::ScopeMissing),
            ScopeDenial::ReadOnly => Self::new(ProblemCode::ReadOnly),
        }
    }
}

/// Whether the principal may send this.
pub(super) fn check_access(principal: &Principal, method: &Method, path: &str) -> Result<(), ScopeDenial> {
    let scope = endpoint_scope(method, path);
    if let Some(scopes) = &principal.scopes
        && !scope.is_some_and(|scope| scopes.contains(&scope))
    {
        return Err(ScopeDenial::Scope);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD) || scope == Some(ApiKeyScope::Streaming);
    if principal.role == PrincipalRole::Operator && !reads {
        return Err(ScopeDenial::ReadOnly);
    }
    Ok(())
}

/// The group an endpoint belongs to; none for those that no limited key may use.
fn endpoint_scope(method: &Method, path: &str) -> Option<ApiKeyScope> {
    if path == "/metrics" {
        return Some(ApiKeyScope::Monitor);
    }
    let mut segments = path.strip_prefix("/v1/")?.split('/');
    match (segments.next()?, segments.next(), segments.next()) {
        ("uploads", ..) => Some(ApiKeyScope::Upload),
        ("media", None, None) if method == Method::POST => Some(ApiKeyScope::Upload),
        ("media", Some(_), Some("gate")) => Some(ApiKeyScope::Gate),
        ("media", Some(_), Some("playback")) => Some(ApiKeyScope::Streaming),
        ("media", Some(_), Some("transcode")) | ("jobs" | "schedules" | "profiles" | "transcode", ..) => {
            Some(ApiKeyScope::Worker)
        }
        ("media", ..) => Some(ApiKeyScope::Metadata),
        ("events", ..) => Some(ApiKeyScope::Events),
        ("cache", ..) => Some(ApiKeyScope::Cache),
        ("audit", ..) => Some(ApiKeyScope::Audit),
        ("monitor", ..) => Some(ApiKeyScope::Monitor),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_key_stays_in_its_groups() {
        let barred = |scopes: Option<&[ApiKeyScope]>, role: PrincipalRole, method: Method, path: &str| {
            let principal =
                Principal { scopes: scopes.map(<[ApiKeyScope]>::to_vec), ..Principal::new("ann", role) };
            check_access(&principal, &method, path).err()
        };
        let upload: Option<&[ApiKeyScope]> = Some(&[ApiKeyScope::Upload]);
        assert_eq!(barred(upload, PrincipalRole::Owner, Method::POST, "/v1/uploads"), None);
        assert_eq!(barred(upload, PrincipalRole::Owner, Method::PATCH, "/v1/uploads/1"), None);
        assert_eq!(barred(upload, PrincipalRole::Owner, Method::POST, "/v1/media"), None);
        assert_eq!(
            barred(Some(&[ApiKeyScope::Monitor]), PrincipalRole::Operator, Method::GET, "/metrics"),
            None
        );
        for (method, path) in [
            (Method::GET, "/v1/media"),
            (Method::DELETE, "/v1/media/1"),
            (Method::PUT, "/v1/media/1/gate"),
            (Method::POST, "/v1/media/1/playback"),
            (Method::POST, "/v1/media/1/transcode"),
            (Method::GET, "/v1/jobs"),
            (Method::GET, "/v1/audit"),
            (Method::GET, "/v1/unheard-of"),
            (Method::GET, "/metrics"),
        ] {
            assert_eq!(
                barred(upload, PrincipalRole::Admin, method.clone(), path),
                Some(ScopeDenial::Scope),
                "{path}"
            );
            assert_eq!(
                barred(Some(&[]), PrincipalRole::Admin, method.clone(), path),
                Some(ScopeDenial::Scope),
                "{path}"
            );
            assert_eq!(barred(None, PrincipalRole::Admin, method, path), None, "{path}");
        }
    }

    #[test]
    fn an_operator_reads_and_plays_and_changes_nothing() {
        let operator = Principal::new("ops", PrincipalRole::Operator);
        for (method, path, is_allowed) in [
            (Method::GET, "/v1/media/1", true),
            (Method::HEAD, "/v1/uploads/1", true),
            (Method::POST, "/v1/media/1/playback", true),
            (Method::POST, "/v1/uploads", false),
            (Method::PATCH, "/v1/media/1", false),
            (Method::DELETE, "/v1/jobs/1", false),
            (Method::POST, "/v1/jobs/1/cancel", false),
        ] {
            assert_eq!(check_access(&operator, &method, path).is_ok(), is_allowed, "{method} {path}");
        }
    }
}
