//! Where a principal may go: operators change nothing, a limited API key stays in its groups of endpoints.

use axum::http::Method;
use schemas::access::{Role, Scope};

use super::Principal;
use crate::ingress::error::Problem;

/// 403 when the principal may not send this.
pub(super) fn check(principal: &Principal, method: &Method, path: &str) -> Result<(), Problem> {
    let scope = scope_of(method, path);
    if let Some(scopes) = &principal.scopes
        && !scope.is_some_and(|scope| scopes.contains(&scope))
    {
        return Err(Problem::forbidden("scope_missing", "This API key may not be used here"));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD) || scope == Some(Scope::Streaming);
    if principal.role == Role::Operator && !reads {
        return Err(Problem::forbidden("read_only", "An operator reads and changes nothing"));
    }
    Ok(())
}

/// The group an endpoint belongs to; none for those that no limited key may use.
fn scope_of(method: &Method, path: &str) -> Option<Scope> {
    let mut segments = path.strip_prefix("/v1/")?.split('/');
    match (segments.next()?, segments.next(), segments.next()) {
        ("uploads", ..) => Some(Scope::Upload),
        ("media", None, None) if method == Method::POST => Some(Scope::Upload),
        ("media", Some(_), Some("gate")) => Some(Scope::Gate),
        ("media", Some(_), Some("playback")) => Some(Scope::Streaming),
        ("media", Some(_), Some("transcode")) | ("jobs" | "schedules" | "profiles" | "transcode", ..) => {
            Some(Scope::Worker)
        }
        ("media", ..) => Some(Scope::Metadata),
        ("events", ..) => Some(Scope::Events),
        ("cache", ..) => Some(Scope::Cache),
        ("audit", ..) => Some(Scope::Audit),
        ("monitor", ..) => Some(Scope::Monitor),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_key_stays_in_its_groups() {
        let code = |scopes: Option<&[Scope]>, role: Role, method: Method, path: &str| {
            let principal =
                Principal { scopes: scopes.map(<[Scope]>::to_vec), ..Principal::new("ann", role) };
            check(&principal, &method, path).err().map(|problem| problem.code())
        };
        let upload: Option<&[Scope]> = Some(&[Scope::Upload]);
        assert_eq!(code(upload, Role::Owner, Method::POST, "/v1/uploads"), None);
        assert_eq!(code(upload, Role::Owner, Method::PATCH, "/v1/uploads/1"), None);
        assert_eq!(code(upload, Role::Owner, Method::POST, "/v1/media"), None);
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
            assert_eq!(code(upload, Role::Admin, method.clone(), path), Some("scope_missing"), "{path}");
            assert_eq!(code(Some(&[]), Role::Admin, method.clone(), path), Some("scope_missing"), "{path}");
            assert_eq!(code(None, Role::Admin, method, path), None, "{path}");
        }
    }

    #[test]
    fn an_operator_reads_and_plays_and_changes_nothing() {
        let operator = Principal::new("ops", Role::Operator);
        for (method, path, is_allowed) in [
            (Method::GET, "/v1/media/1", true),
            (Method::HEAD, "/v1/uploads/1", true),
            (Method::POST, "/v1/media/1/playback", true),
            (Method::POST, "/v1/uploads", false),
            (Method::PATCH, "/v1/media/1", false),
            (Method::DELETE, "/v1/jobs/1", false),
            (Method::POST, "/v1/jobs/1/cancel", false),
        ] {
            assert_eq!(check(&operator, &method, path).is_ok(), is_allowed, "{method} {path}");
        }
    }
}
