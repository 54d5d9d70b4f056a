//! Where a principal may go: operators change nothing, a limited API key stays in its groups of endpoints.

use axum::http::Method;
use schemas::access::{Role, Scope};

use super::Principal;
use web::{error::Problem, kind::Kind};

/// Why a principal may not send something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barred {
    /// The API key is limited to other groups.
    Scope,
    /// An operator changes nothing.
    ReadOnly,
}

impl From<Barred> for Problem {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Scope => Self::new(Kind::ScopeMissing),
            Barred::ReadOnly => Self::new(Kind::ReadOnly),
        }
    }
}

/// Whether the principal may send this.
pub(super) fn check(principal: &Principal, method: &Method, path: &str) -> Result<(), Barred> {
    let scope = scope_of(method, path);
    if let Some(scopes) = &principal.scopes
        && !scope.is_some_and(|scope| scopes.contains(&scope))
    {
        return Err(Barred::Scope);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD) || scope == Some(Scope::Streaming);
    if principal.role == Role::Operator && !reads {
        return Err(Barred::ReadOnly);
    }
    Ok(())
}

/// The group an endpoint belongs to; none for those that no limited key may use.
fn scope_of(method: &Method, path: &str) -> Option<Scope> {
    if path == "/metrics" {
        return Some(Scope::Monitor);
    }
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
        let barred = |scopes: Option<&[Scope]>, role: Role, method: Method, path: &str| {
            let principal =
                Principal { scopes: scopes.map(<[Scope]>::to_vec), ..Principal::new("ann", role) };
            check(&principal, &method, path).err()
        };
        let upload: Option<&[Scope]> = Some(&[Scope::Upload]);
        assert_eq!(barred(upload, Role::Owner, Method::POST, "/v1/uploads"), None);
        assert_eq!(barred(upload, Role::Owner, Method::PATCH, "/v1/uploads/1"), None);
        assert_eq!(barred(upload, Role::Owner, Method::POST, "/v1/media"), None);
        assert_eq!(barred(Some(&[Scope::Monitor]), Role::Operator, Method::GET, "/metrics"), None);
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
            assert_eq!(barred(upload, Role::Admin, method.clone(), path), Some(Barred::Scope), "{path}");
            assert_eq!(barred(Some(&[]), Role::Admin, method.clone(), path), Some(Barred::Scope), "{path}");
            assert_eq!(barred(None, Role::Admin, method, path), None, "{path}");
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
