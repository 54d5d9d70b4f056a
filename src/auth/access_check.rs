//! Where a principal may go: operators change nothing, a limited API key stays in its groups of endpoints.

use axum::http::Method;
use schemas::access::{ApiKeyScope, PrincipalRole};

use super::Principal;
use web::{error::Problem, operation::OperationAccess, problem_code::ProblemCode};

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

/// Whether the principal may send `method` to an operation with this access; `None` is an operation that is not known.
pub(super) fn check_access(
    principal: &Principal,
    method: &Method,
    access: Option<OperationAccess>,
) -> Result<(), ScopeDenial> {
    if principal.upload_grant.is_some() && access != Some(OperationAccess::Principal(ApiKeyScope::Upload)) {
        return Err(ScopeDenial::Scope);
    }
    if access == Some(OperationAccess::Own) {
        return Ok(());
    }
    let scope = access.and_then(OperationAccess::scope);
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn needs(scope: ApiKeyScope) -> OperationAccess {
        OperationAccess::Principal(scope)
    }

    #[test]
    fn a_limited_key_stays_in_its_groups() {
        let denial = |scopes: Option<&[ApiKeyScope]>, role: PrincipalRole, access| {
            let principal =
                Principal { scopes: scopes.map(<[ApiKeyScope]>::to_vec), ..Principal::new("ann", role) };
            check_access(&principal, &Method::GET, access).err()
        };
        let upload: Option<&[ApiKeyScope]> = Some(&[ApiKeyScope::Upload]);
        assert_eq!(denial(upload, PrincipalRole::Owner, Some(needs(ApiKeyScope::Upload))), None);
        assert_eq!(denial(upload, PrincipalRole::Owner, Some(OperationAccess::Own)), None);
        assert_eq!(
            denial(Some(&[ApiKeyScope::Monitor]), PrincipalRole::Operator, Some(needs(ApiKeyScope::Monitor))),
            None
        );
        for access in [
            Some(needs(ApiKeyScope::Metadata)),
            Some(needs(ApiKeyScope::Gate)),
            Some(needs(ApiKeyScope::Worker)),
            Some(needs(ApiKeyScope::Audit)),
            Some(needs(ApiKeyScope::Monitor)),
            Some(OperationAccess::Optional(ApiKeyScope::Streaming)),
            Some(OperationAccess::UnlimitedPrincipal),
            None,
        ] {
            for scopes in [upload, Some(&[])] {
                assert_eq!(
                    denial(scopes, PrincipalRole::Admin, access),
                    Some(ScopeDenial::Scope),
                    "{access:?}"
                );
            }
            assert_eq!(denial(None, PrincipalRole::Admin, access), None, "{access:?}");
        }
    }

    #[test]
    fn a_grant_is_for_uploads_and_says_nothing_of_its_owner() {
        let grant = Principal {
            scopes: Some(vec![ApiKeyScope::Upload]),
            upload_grant: Some(schemas::ids::UploadGrantId::from_bytes([7; 16])),
            ..Principal::new("ann", PrincipalRole::Owner)
        };
        for (access, is_allowed) in [
            (Some(needs(ApiKeyScope::Upload)), true),
            (Some(OperationAccess::Own), false),
            (Some(needs(ApiKeyScope::Metadata)), false),
            (Some(OperationAccess::Optional(ApiKeyScope::Upload)), false),
            (Some(OperationAccess::UnlimitedPrincipal), false),
            (None, false),
        ] {
            assert_eq!(check_access(&grant, &Method::GET, access).is_ok(), is_allowed, "{access:?}");
        }
    }

    #[test]
    fn an_operator_reads_and_plays_and_changes_nothing() {
        let operator = Principal::new("ops", PrincipalRole::Operator);
        for (method, access, is_allowed) in [
            (Method::GET, Some(needs(ApiKeyScope::Metadata)), true),
            (Method::HEAD, Some(needs(ApiKeyScope::Upload)), true),
            (Method::POST, Some(OperationAccess::Optional(ApiKeyScope::Streaming)), true),
            (Method::POST, Some(OperationAccess::Own), true),
            (Method::POST, Some(needs(ApiKeyScope::Upload)), false),
            (Method::PATCH, Some(needs(ApiKeyScope::Metadata)), false),
            (Method::DELETE, Some(needs(ApiKeyScope::Worker)), false),
            (Method::POST, None, false),
        ] {
            assert_eq!(check_access(&operator, &method, access).is_ok(), is_allowed, "{method} {access:?}");
        }
    }
}
