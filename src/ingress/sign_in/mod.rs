//! The endpoints of sign-in, under `/v1/auth`.
//!
//! | endpoint | does |
//! | --- | --- |
//! | `POST challenge` | gives a nonce with the text and the structure to sign; sets the cookie it is bound to |
//! | `POST login` | takes the signed message and the cookie, opens a session |
//! | `POST refresh` | takes a refresh token for the next one and an access token |
//! | `POST logout` | ends the own session, all of the own, or, for administrators, all of a wallet |
//! | `POST verify` | says whether a credential is good now, and whose it is |
//! | `POST links` | exchanges the code of a link that `up` has printed for an API key |
//! | `POST me/links` | makes such a link for oneself |
//! | `GET me` | who is asking |
//! | `POST, GET keys`, `DELETE keys/{key_id}` | API keys of the own, or, for administrators, of any owner |
//!
//! A body is JSON and says so, which a page of another site can't send without asking; a named `Origin` must be one of our sites, except where a link is opened.
//!
//! Limits: bodies as [`web::body::BodyLimits`] has it; a label has at most [`LABEL_LENGTH_MAX`] characters, a key lives for at most
//! [`EXPIRES_IN_S_MAX`] seconds.

mod keys;
mod links;
mod login;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use crate::openapi;
use auth::{SignInService, enforce_access, uri};
use web::{
    error::Problem,
    operation::{Operation, OperationRouter, matched_operation},
    problem_code::ProblemCode,
    query,
};

pub use keys::{EXPIRES_IN_S_MAX, LABEL_LENGTH_MAX};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    login::create_challenge,
    login::log_in,
    links::open_link,
    links::create_link,
    tokens::refresh_session,
    tokens::log_out,
    tokens::verify_token,
    tokens::read_principal,
    keys::create_key,
    keys::list_keys,
    keys::revoke_key,
))]
pub(crate) struct SignInApiDoc;

impl openapi::OperationGroup for SignInApiDoc {
    fn operations() -> Vec<&'static Operation> {
        own_operations().merge(open_operations()).operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<login::ChallengeRequest>();
        schemas.add_response::<login::ChallengeDocument>();
        schemas.add_request::<login::LoginRequest>();
        schemas.add_request::<links::OpenLinkRequest>();
        schemas.add_response::<links::CreatedLinkDocument>();
        schemas.add_response::<tokens::TokenResponse>();
        schemas.add_request::<tokens::RefreshRequest>();
        schemas.add_request::<tokens::LogoutRequest>();
        schemas.add_request::<tokens::VerifyTokenRequest>();
        schemas.add_response::<tokens::VerifyTokenResponse>();
        schemas.add_response::<tokens::PrincipalDocument>();
        schemas.add_request::<keys::CreateKeyRequest>();
        schemas.add_response::<keys::CreatedKeyDocument>();
        schemas.add_response::<keys::KeyListDocument>();
    }
}

/// The routes of sign-in. `behind` lays what stands behind a credential around those that ask for one.
pub fn router<S: Clone + Send + Sync + 'static>(
    sign_in: SignInService,
    taken: query::AcceptedParameters,
    behind: impl FnOnce(OperationRouter<SignInService>) -> OperationRouter<SignInService>,
) -> OperationRouter<S> {
    let own =
        behind(own_operations()).route_layer(middleware::from_fn_with_state(sign_in.clone(), enforce_access));
    let open = open_operations().route_layer(query::refuse_unknown_parameters(taken));
    own.merge(open)
        .layer(middleware::from_fn_with_state(sign_in.clone(), require_own_origin))
        .with_state(sign_in)
}

/// What a principal does about itself.
fn own_operations() -> OperationRouter<SignInService> {
    OperationRouter::default()
        .with(&tokens::READ_PRINCIPAL, tokens::read_principal)
        .with(&tokens::LOG_OUT, tokens::log_out)
        .with(&links::CREATE_LINK, links::create_link)
        .with(&keys::LIST_KEYS, keys::list_keys)
        .with(&keys::CREATE_KEY, keys::create_key)
        .with(&keys::REVOKE_KEY, keys::revoke_key)
}

/// What leads to a credential, or asks about one.
fn open_operations() -> OperationRouter<SignInService> {
    OperationRouter::default()
        .with(&login::CREATE_CHALLENGE, login::create_challenge)
        .with(&login::LOG_IN, login::log_in)
        .with(&links::OPEN_LINK, links::open_link)
        .with(&tokens::REFRESH_SESSION, tokens::refresh_session)
        .with(&tokens::VERIFY_TOKEN, tokens::verify_token)
}

/// Refuses what a browser sends for another site, and lets nobody keep an answer.
async fn require_own_origin(State(sign_in): State<SignInService>, request: Request, next: Next) -> Response {
    let is_ours = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(uri::split_origin).map(|(_, authority)| authority);
        authority.is_some_and(|authority| sign_in.config().domains.iter().any(|domain| domain == authority))
    };
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // A link is opened at whatever address people reach this by, and no other site can know its code.
    let is_link = matched_operation(&request).is_some_and(|found| found.path == links::OPEN_LINK.path);
    if is_write && !is_link && !request.headers().get_all(header::ORIGIN).iter().all(is_ours) {
        return Problem::new(ProblemCode::OriginRefused).into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
